"""What is wrong with data, in one line: what, what was expected and what to type instead."""

from __future__ import annotations

import importlib.util


class DataError(ValueError):
    """Images or labels that cannot be used."""


class BrokenImageError(DataError):
    """One image that cannot be decoded. Whoever reads many leaves it out and counts it (`loading.Tally`)."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"the image {self.name} cannot be read ({self.reason})"


def require(module: str, library: str, purpose: str) -> None:
    """Say what installs a library that only data needs.

    Raises:
        DataError: it is not installed.
    """
    if importlib.util.find_spec(module) is None:
        raise DataError(f"{purpose} needs {library}, which is not installed; pip install 'mnv3-bench[data]'")
