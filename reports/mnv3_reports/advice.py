"""What to ship, in three sentences: for the lowest latency, for accuracy within a latency, and for the least memory.

Each names its evidence. A cell that loses too much accuracy, or answers otherwise than its reference, is never advised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnv3_reports import pareto, units
from mnv3_reports.escaping import code, inline

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mnv3_reports.record import Cell, CellRecord
    from mnv3_reports.summary import Summary


def advice(summary: Summary) -> str:
    """The sentences as markdown; empty where nothing sound was timed, or there is nothing to choose among."""
    setting = _setting(summary)
    sound = [
        record
        for record in summary.measured
        if record.cell.setting == setting
        and record.cell.variant in summary.asked
        and not summary.flagged(record)
    ]
    if setting is None or len(sound) < 2:
        return ""
    by_time = sorted(sound, key=lambda record: _seconds(summary, record))
    lines = [*_fastest(summary, by_time), *_accurate(summary, setting, by_time), *_smallest(summary, sound)]
    where = inline(summary.describe(setting))
    return "\n\n".join([f"**What to ship** ({where}):", "\n".join(f"- {line}" for line in lines)])


def _setting(summary: Summary) -> str | None:
    """The setting that advice is about: the smallest batch, since latency is what a single call shows."""
    cells = {record.cell.setting: record.cell for record in reversed(summary.measured)}
    return min(
        (setting for setting in summary.settings if setting in cells),
        key=lambda setting: (cells[setting].batch, summary.settings.index(setting)),
        default=None,
    )


def _seconds(summary: Summary, record: CellRecord) -> float:
    return summary.statistics[record.cell.key].latency.estimate


def _named(cell: Cell) -> str:
    return f"{inline(cell.variant)} on {code(cell.backend)}"


def _latency(summary: Summary, cell: Cell) -> str:
    return f"{units.enclosed(summary.statistics[cell.key].latency, 1e3)} ms a call"


def _fastest(summary: Summary, by_time: Sequence[CellRecord]) -> Iterator[str]:
    """The fastest, and the fastest that it is told apart from; those between are as fast as far as this run tells."""
    best = by_time[0].cell
    alike: list[Cell] = []
    behind = "nothing measured beside it is told apart from it"
    for record in by_time[1:]:
        ratio = summary.ratio(record.cell.key, best.key)
        if ratio is None:
            continue
        if ratio.bounded and ratio.low > 1:
            behind = f"the next, {_named(record.cell)}, takes {units.enclosed(ratio)} × as long"
            break
        alike.append(record.cell)
    same = f"; not told apart from it: {', '.join(map(_named, alike[:NAMED]))}" if alike else ""
    more = f" and {len(alike) - NAMED} more" if len(alike) > NAMED else ""
    yield f"**Lowest latency:** {_named(best)}, {_latency(summary, best)}; {behind}{same}{more}."


NAMED = 3
"""Cells that a sentence names."""


def _accurate(summary: Summary, setting: str, by_time: Sequence[CellRecord]) -> Iterator[str]:
    """The most accurate within the time of the first reference at its best; of all where there is no reference."""
    known = {row["key"]: row for row in pareto.rows_of(summary, setting)}
    if any(row["measured"] for row in known.values()):
        known = {key: row for key, row in known.items() if row["measured"]}
    limit, within = float("inf"), "at any latency"
    for reference in summary.run.header.request.references:
        record = next((record for record in by_time if record.cell.variant == reference), None)
        if record is not None:
            limit = _seconds(summary, record)
            within = (
                f"within the {units.milliseconds(limit)} ms that {inline(reference)} takes at its fastest"
            )
            break
    rated = [record for record in by_time if record.cell.key in known and _seconds(summary, record) <= limit]
    if not rated:
        return
    # Of equally accurate ones the fastest comes first, and stays.
    best = max(rated, key=lambda record: float(known[record.cell.key]["top1"])).cell
    yield (
        f"**Best accuracy {within}:** {_named(best)}, top-1 {known[best.key]['accuracy']}, "
        f"{_latency(summary, best)}."
    )


def _smallest(summary: Summary, sound: Sequence[CellRecord]) -> Iterator[str]:
    """The process with the lowest peak, and the next of another backend."""
    sizes = {record.cell: record.inspected.peak_bytes for record in sound if record.inspected is not None}
    if not sizes:
        return
    first, *others = sorted(sizes, key=lambda cell: sizes[cell])
    other = next((cell for cell in others if cell.backend != first.backend), None)
    beside = (
        f"; of other backends the least is {_named(other)} with {units.megabytes(sizes[other])} MB"
        if other
        else ""
    )
    yield (
        f"**Least memory:** {_named(first)}, a process of at most {units.megabytes(sizes[first])} MB, "
        f"{_latency(summary, first)}{beside}."
    )
