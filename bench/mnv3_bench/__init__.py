"""Measuring: plan, prepare, take turns, record. See docs/methodology.md."""

__version__ = "0.7.0"
