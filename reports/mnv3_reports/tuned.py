"""Backends with other settings than the defaults: what the search for faster ones found, and what that is worth.

The search ran on inputs of its own. Its winner was then measured beside the default, as a cell like any other: that
ratio is the result, and the ratios of the search are shown as what they are.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from mnv3_reports import units
from mnv3_reports.cell_words import switched
from mnv3_reports.escaping import code, inline
from mnv3_reports.layout import Column, Value, build, folded, missing, to_markdown
from mnv3_reports.record import Cell
from mnv3_reports.statistics import Interval

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mnv3_reports.record import Candidate, Tuned
    from mnv3_reports.summary import Summary

STOPPED = {"searched": "all tried", "budget": "its time was spent"}
"""The record's reasons in words; any other one is printed as it is."""
OPEN = 12
"""Rows that a reader gets without unfolding them."""
NOT_TRIED = "not tried"
"""How the failure of a setting begins that the search had no time for."""
INTRODUCTION = """\
Each search tried a backend's other settings on inputs of its own. Where it found faster ones they became a cell that
was then measured beside the default, on the inputs that every cell gets: **tuned / default is from that measurement;
below 1 the tuned form is faster**. The search's own ratios, on other data, are folded below."""


class _Found(NamedTuple):
    """One search and its cell."""

    summary: Summary
    tuned: Tuned
    cell: Cell

    @property
    def interval(self) -> Interval | None:
        """Tuned over default, as measured in the run."""
        if self.tuned.winner is None:
            return None
        ratio = self.summary.ratios.get((self.tuned.winner, self.tuned.cell))
        return ratio.interval if ratio is not None else None


def section(summary: Summary) -> Iterator[str]:
    """The section's paragraphs, without heading; none where nothing was to be tuned."""
    request = summary.run.header.request
    if not summary.run.tuned:
        if request.tune is not None:
            yield "No search came to an end, so every cell has its default settings."
        return
    found = [_Found(summary, tuned, Cell.from_key(tuned.cell)) for tuned in summary.run.tuned]
    won = [row for row in found if row.tuned.winner is not None]
    won.sort(key=lambda row: row.interval.estimate if row.interval else math.inf)
    yield " ".join(INTRODUCTION.split())
    if won:
        yield _outcome(won)
        yield to_markdown(build(_columns(summary), won[:OPEN]))
    if len(won) > OPEN:
        rest = to_markdown(build(_columns(summary), won[OPEN:]))
        yield folded(f"{units.counted(len(won) - OPEN, 'tuned form')} that gained less", rest)
    for stopped_early, when in ((False, ""), (True, " in the time the search had")):
        lost = [
            row
            for row in found
            if row.tuned.winner is None and (row.tuned.stopped_because == "budget") is stopped_early
        ]
        if lost:
            yield f"Nothing was found{when} to be faster than the default settings of {_cells(summary, lost)}."
    yield from _failures(summary, found)
    rows = [(row, candidate) for row in found for candidate in row.tuned.candidates]
    if rows:
        yield folded(
            f"Search, other data: every setting there was ({len(rows)})",
            "Ratios of the search: they chose what to measure, and are no result.\n\n"
            + to_markdown(build(_CANDIDATES, rows)),
        )


def _name(row: _Found) -> Value:
    return Value(row.summary.names.one(row.cell))


def _columns(summary: Summary) -> list[Column[_Found]]:
    def median(key: str) -> Value:
        found = summary.statistics.get(key)
        return Value(units.enclosed(found.latency, 1e3)) if found else missing(summary.why_not_timed(key))

    return [
        Column("network", _name, align="left"),
        Column("backend", lambda row: Value(row.cell.backend, code=True), align="left"),
        Column("switches that won", lambda row: Value(_won(row), code=True), align="left"),
        Column("default", lambda row: median(row.tuned.cell), "ms [95 %]"),
        Column("tuned", lambda row: median(row.tuned.winner or row.tuned.cell), "ms [95 %]"),
        Column("tuned / default", _ratio, "[95 %]"),
        Column("tried", _number_tried),
        Column("search ended", _stopped, align="left"),
    ]


def _tried(candidate: Candidate) -> bool:
    return not (candidate.failure or "").startswith(NOT_TRIED)


def _number_tried(row: _Found) -> Value:
    candidates = row.tuned.candidates
    return Value(f"{sum(map(_tried, candidates))} of {len(candidates)}")


def _won(row: _Found) -> str:
    winner = Cell.from_key(row.tuned.winner).backend if row.tuned.winner is not None else row.cell.backend
    return switched(winner, row.cell.backend)


def _ratio(row: _Found) -> Value:
    interval = row.interval
    if interval is None:
        return missing("not both timed in one round")
    text = units.enclosed(interval)
    return Value(f"**{text}**" if interval.bounded and interval.high < 1 else text)


def _stopped(row: _Found) -> Value:
    why = STOPPED.get(row.tuned.stopped_because, row.tuned.stopped_because)
    return Value(f"{why} ({units.duration(row.tuned.seconds)})")


def _outcome(won: Sequence[_Found]) -> str:
    """What the measured ratios say of what the search believed."""
    intervals = [row.interval for row in won if row.interval is not None and row.interval.bounded]
    faster = sum(interval.high < 1 for interval in intervals)
    slower = sum(interval.low > 1 for interval in intervals)
    counted = {
        "faster than the default beyond the interval (bold)": faster,
        "not told apart from it": len(intervals) - faster - slower,
        "slower": slower,
        "without an interval": len(won) - len(intervals),
    }
    parts = [f"{what}: {number}" for what, number in counted.items() if number]
    return f"Of {units.counted(len(won), 'tuned form')}, {'; '.join(parts)}."


def _cells(summary: Summary, rows: Sequence[_Found]) -> str:
    """Cells grouped by backend: '`litert` (v3-small, v1)'."""
    by_backend: dict[str, list[Cell]] = {}
    everything: dict[str, list[Cell]] = {}
    for record in summary.run.cells.values():
        everything.setdefault(record.cell.backend, []).append(record.cell)
    for row in rows:
        by_backend.setdefault(row.cell.backend, []).append(row.cell)
    return "; ".join(
        f"{code(backend)} ({inline(summary.names.many(cells, everything.get(backend, cells)))})"
        for backend, cells in by_backend.items()
    )


def _failures(summary: Summary, found: Sequence[_Found]) -> Iterator[str]:
    failed: dict[tuple[str, str], list[Cell]] = {}
    for row in found:
        for candidate in row.tuned.candidates:
            if candidate.failure is not None and _tried(candidate):
                failed.setdefault((candidate.backend, candidate.failure), []).append(row.cell)
    if failed:
        yield "Settings that failed in the search:\n\n" + "\n".join(
            f"- {code(backend)} ({inline(summary.names.many(cells, _searched(found, cells)))}): "
            f"{inline(reason).rstrip('.')}."
            for (backend, reason), cells in failed.items()
        )


def _searched(found: Sequence[_Found], like: Sequence[Cell]) -> list[Cell]:
    """Every cell that was tuned of the backends of these."""
    backends = {cell.backend for cell in like}
    return [row.cell for row in found if row.cell.backend in backends]


def _search_ratio(row: tuple[_Found, Candidate]) -> Value:
    candidate = row[1]
    if candidate.ratio is None:
        return missing("failed" if _tried(candidate) else "not tried, for want of time")
    low, high = candidate.lower, candidate.upper
    if low is None or high is None:
        return Value(units.significant(candidate.ratio))
    return Value(units.enclosed(Interval(candidate.ratio, low, high, candidate.epochs)))


_CANDIDATES: tuple[Column[tuple[_Found, Candidate]], ...] = (
    Column("network", lambda row: _name(row[0]), align="left"),
    Column("backend with settings", lambda row: Value(row[1].backend, code=True), align="left"),
    Column("/ default in the search", _search_ratio),
    Column("epochs", lambda row: Value(str(row[1].epochs))),
)
