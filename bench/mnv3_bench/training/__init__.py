"""`mnv3-bench train` and `mnv3-bench recipes`."""
