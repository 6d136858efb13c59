"""Where the time goes, for a terminal: bars by kind of work, or plain lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnv3_reports import units
from mnv3_reports.escaping import plain
from mnv3_reports.profiles import UNATTRIBUTED, named, profiles
from mnv3_reports.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from mnv3_reports.profiles import CellProfile
    from mnv3_reports.record import Run

BAR = 24
"""Columns of the longest bar where there is room."""
LEAST_BAR = 4
"""A longest bar that is shorter would show nothing: there are none then."""
_HEADINGS = ("kind", "ms", "share")
_STYLES = {UNATTRIBUTED: "dim", "reorder": "red", "normalization": "red"}
"""Time that is no part of the network's own work stands out."""


def profile_tables(run: Run, width: int) -> Iterator[Table]:
    """A table for each profiled cell: kinds of work, the dearest first, with bars where there is room.

    Args:
        run: with profiles.
        width: columns of the terminal.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    summary = Summary(run)
    for each in profiles(summary):
        kinds = sorted(each.kinds.items(), key=lambda item: -item[1].share)
        rows = [
            (plain(kind) or "not told", units.milliseconds(share.seconds), units.percent(share.share))
            for kind, share in kinds
        ]
        table = Table(
            title=Text(_title(summary, each)), box=SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0)
        )
        for place, heading in enumerate(_HEADINGS):
            table.add_column(heading, justify="right" if place else "left", overflow="fold")
        longest = min(BAR, width - _needed(rows))
        if longest >= LEAST_BAR:
            table.add_column("", no_wrap=True)
        most = kinds[0][1].share or 1.0
        for texts, (kind, share) in zip(rows, kinds, strict=True):
            bar = Text(_bar(share.share / most, longest), _STYLES.get(kind, "cyan"))
            table.add_row(*map(Text, texts), *([bar] if longest >= LEAST_BAR else []))
        yield table


def plain_lines(run: Run) -> list[str]:
    """The same as lines, a cell each, kinds in the order of `profiles.KINDS`."""
    summary = Summary(run)
    return [
        f"{_title(summary, each)}: "
        + ", ".join(
            f"{plain(kind)} {units.milliseconds(share.seconds)} ms ({units.percent(share.share)})"
            for kind, share in each.kinds.items()
        )
        for each in profiles(summary)
    ] or ["nothing was profiled"]


def _title(summary: Summary, each: CellProfile) -> str:
    return f"{plain(named(summary, each.record.cell))}: {units.milliseconds(each.profiled.plain_seconds)} ms a call"


def _needed(rows: list[tuple[str, str, str]]) -> int:
    """Columns that a table takes without its bars: texts, a space after each and after the bar, and its two edges."""
    widths = [max(map(len, column)) for column in zip(_HEADINGS, *rows, strict=True)]
    return sum(widths) + len(widths) + 1 + 2


def _bar(share: float, longest: int) -> str:
    """A bar in eighths of a column."""
    eighths = round(share * longest * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
