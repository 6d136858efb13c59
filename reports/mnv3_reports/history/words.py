"""A history's figures and texts in words, for tables and charts alike."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mnv3_reports import units
from mnv3_reports.escaping import plain
from mnv3_reports.history.rows import OWN
from mnv3_reports.statistics import Interval

if TYPE_CHECKING:
    from mnv3_reports.history.metrics import Metric
    from mnv3_reports.history.query import Point, Series
    from mnv3_reports.history.trends import Change, Difference

LONGEST = 100
"""Characters of a text from elsewhere."""


def short(text: str) -> str:
    """A text from elsewhere as one line of bounded length."""
    line = plain(text)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def label(series: Series) -> str:
    """What tells a series from others of its cell."""
    parts = [machine(series)]
    if series.environment_fingerprint:
        parts.append(f"variables {short(series.environment_fingerprint)[:6]}")
    if series.data:
        parts.append(f"images {short(series.data)[:6]}")
    if series.source != OWN:
        parts.append(short(series.source))
    return ", ".join(parts)


def machine(series: Series) -> str:
    """A series' machine."""
    cpu = short(series.cpu) or "unnamed machine"
    return f"{cpu} ({short(series.machine_fingerprint)[:6]})" if series.machine_fingerprint else cpu


def difference(found: Difference) -> str:
    """What runs state otherwise from one on."""
    away = found.runs_away
    where = "" if not away else f" ({units.counted(abs(away), 'run')} {'later' if away > 0 else 'earlier'})"
    return f"{short(found.name)} {short(found.before)} → {short(found.after)}{where}"


def date(change: Change) -> str:
    """The day of the first run after a change."""
    return f"{change.first.started_at:%Y-%m-%d}"


def ratio(change: Change) -> str:
    """After / before, with its interval."""
    found = change.found
    return units.enclosed(Interval(found.ratio, found.lower, found.upper, 2))


def figure(value: float, metric: Metric) -> str:
    """A value in the metric's unit, which is not said."""
    return units.significant(value * metric.scale)


def point(found: Point, metric: Metric) -> str:
    """A point with its interval, where it has one."""
    low, high = (
        (found.low, found.high) if found.low is not None and found.high is not None else (math.nan, math.nan)
    )
    return units.enclosed(Interval(found.value, low, high, 2), metric.scale)


def counted_series(count: int) -> str:
    """`1 series`, `2 series`."""
    return f"{count:,} series"
