"""Where the time goes, for a terminal: bars by kind of work, or plain lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnv3_reports import units
from mnv3_reports.profiles import KINDS, UNATTRIBUTED, named, profiles
from mnv3_reports.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from mnv3_reports.profiles import CellProfile
    from mnv3_reports.record import Run

BAR = 24
"""Columns of the longest bar where there is room."""
LEAST_BAR = 6
NAMES_AND_FIGURES = 44
"""Columns that kinds, times and shares take."""


def profile_tables(run: Run, width: int) -> Iterator[Table]:
    """A table for each profiled cell: kinds of work, the dearest first, with bars.

    Args:
        run: with profiles.
        width: columns of the terminal.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    longest = max(LEAST_BAR, min(BAR, width - NAMES_AND_FIGURES))
    summary = Summary(run)
    for each in profiles(summary):
        table = Table(
            title=Text(_title(summary, each)), box=SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0)
        )
        for heading, justify in (("kind", "left"), ("ms", "right"), ("share", "right"), ("", "left")):
            table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
        most = max(share.share for share in each.kinds.values())
        for kind, share in sorted(each.kinds.items(), key=lambda item: -item[1].share):
            style = (
                "dim" if kind == UNATTRIBUTED else "red" if kind in ("reorder", "normalization") else "cyan"
            )
            table.add_row(
                kind,
                units.milliseconds(share.seconds),
                units.percent(share.share),
                Text(_bar(share.share / most, longest), style),
            )
        yield table


def plain_lines(run: Run) -> list[str]:
    """The same as lines, a cell each."""
    summary = Summary(run)
    return [
        f"{_title(summary, each)}: "
        + ", ".join(
            f"{kind} {units.milliseconds(each.kinds[kind].seconds)} ms ({units.percent(each.kinds[kind].share)})"
            for kind in (*KINDS, UNATTRIBUTED)
            if kind in each.kinds
        )
        for each in profiles(summary)
    ] or ["nothing was profiled"]


def _title(summary: Summary, each: CellProfile) -> str:
    return f"{named(summary, each.record.cell)}: {units.milliseconds(each.profiled.plain_seconds)} ms a call"


def _bar(share: float, longest: int) -> str:
    """A bar in eighths of a column."""
    eighths = round(share * longest * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
