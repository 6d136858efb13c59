"""What was measured: the record, the statistics drawn from it, and the tables, charts and pages that show it.

Nothing here imports torch or a runtime, so old results can be read anywhere, fast.
"""
