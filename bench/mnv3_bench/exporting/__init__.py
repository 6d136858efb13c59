"""`mnv3-bench export`: a network as deployable files of several runtimes, and a manifest that says how to call them."""
