"""Seconds, bytes and counts as people read them. The record holds base units; only what is shown passes here.

MB is 10^6 bytes. Figures get three significant digits: more would claim a precision no run has.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mnv3_reports.statistics import half_width

if TYPE_CHECKING:
    from mnv3_reports.statistics import Interval


def significant(value: float, digits: int = 3) -> str:
    """Write a number with so many significant digits, without exponent where it can be read without one.

    Raises:
        ValueError: the value is not finite; a figure that is missing must be explained, not printed.
    """
    if not math.isfinite(value):
        raise ValueError(f"{value} is no figure to print; say why it is missing instead")
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    rounded = float(f"{value:.{digits - 1}e}")  # round() cannot take the smallest numbers
    # 9.996 becomes 10.0, which has a digit more in front of the point.
    exponent = math.floor(math.log10(abs(rounded)))
    if not -4 < exponent < 7:
        return f"{rounded:.{digits - 1}e}"
    return f"{rounded:,.{max(digits - 1 - exponent, 0)}f}"


def milliseconds(seconds: float) -> str:
    """Seconds as milliseconds."""
    return significant(seconds * 1e3)


def seconds(value: float) -> str:
    """Seconds: whole ones above 100, two digits below 1."""
    return f"{value:,.0f}" if value >= 100 else significant(value, 3 if value >= 1 else 2)


def duration(value: float) -> str:
    """Seconds as `3 min 20 s`, for phases of a run."""
    if value < 60:
        return f"{significant(value, 2) if value < 10 else f'{value:.0f}'} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def megabytes(size: float) -> str:
    """Bytes as MB (10^6 bytes)."""
    return significant(size / 1e6)


def gibibytes(size: float) -> str:
    """Bytes as GiB (2^30 bytes), the way memory is sold."""
    return f"{size / 2**30:.1f} GiB"


def millions(count: float) -> str:
    """A count in millions."""
    return significant(count / 1e6)


def counted(number: int, noun: str) -> str:
    """`1 block`, `2 blocks`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def percent(share: float, digits: int = 2) -> str:
    """A share such as 0.0213 as `2.1 %`."""
    return f"{significant(share * 100, digits)} %"


def enclosed(interval: Interval, scale: float = 1.0, digits: int = 3) -> str:
    """An estimate and its interval with equal decimals, `2.13 [2.10, 2.17]`; alone when unbounded."""
    estimate = significant(interval.estimate * scale, digits)
    if not interval.bounded:
        return estimate
    if "e" in estimate:
        low, high = (significant(end * scale, digits) for end in (interval.low, interval.high))
    else:
        decimals = len(estimate.partition(".")[2])
        low, high = (_fixed(end * scale, decimals) for end in (interval.low, interval.high))
    return f"{estimate} [{low}, {high}]"


def compact(interval: Interval, scale: float = 1.0) -> str:
    """An estimate and the half width of its interval, `2.13 ±1.2%`, or alone when unbounded."""
    estimate = significant(interval.estimate * scale)
    return f"{estimate} ±{significant(half_width(interval) * 100, 2)}%" if interval.bounded else estimate


def _fixed(value: float, decimals: int) -> str:
    return f"{value:,.{decimals}f}" if abs(value) < 1e7 else significant(value)
