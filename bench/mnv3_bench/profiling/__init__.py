"""Profiling: where a cell's time and memory go, and what the machine could do."""
