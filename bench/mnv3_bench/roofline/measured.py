"""What measuring one kind of roof comes to, and repeats brought to a roof."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, NamedTuple

from mnv3_reports.record import Roof

if TYPE_CHECKING:
    from collections.abc import Sequence

FEWEST = 3
"""Repeats that every roof gets, however little time there is."""


class Measured(NamedTuple):
    """Roofs of one kind, and what could not be measured."""

    roofs: tuple[Roof, ...]
    notes: tuple[str, ...]


def roof(name: str, rates: Sequence[float], method: str, capacity: int = 0) -> Roof:
    """The median of repeats with their quartiles.

    Args:
        name: of the roof.
        rates: operations or bytes a second, one a repeat; at least two.
        method: in words; the number of repeats is added.
        capacity: bytes that a cache holds; 0 for memory and for arithmetic.
    """
    lower, median, upper = statistics.quantiles(rates, n=4, method="inclusive")
    return Roof(name, median, lower, upper, f"{method}; {len(rates)} repeats", capacity)
