"""The first paragraph of a report: which backend is fastest for each requested network, and by how much."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnv3_reports import units

if TYPE_CHECKING:
    from mnv3_reports.record import Cell
    from mnv3_reports.statistics import Interval
    from mnv3_reports.summary import Summary


def answer(summary: Summary) -> str:
    """A sentence or two for each requested network, in the first setting in which it was timed."""
    request = summary.run.header.request
    sentences = []
    bounded = True
    for variant in request.variants:
        best = next(
            (cell for setting in summary.settings if (cell := summary.fastest(variant, setting)) is not None),
            None,
        )
        if best is None:
            sentences.append(f"**{variant}** was not timed on any backend.")
            continue
        bounded = bounded and summary.statistics[best.key].latency.bounded
        sentences.append(_sentence(summary, best))
    if not sentences:
        return "No network was asked for."
    if summary.measured:
        sentences.append(
            "Brackets hold 95 % intervals; ratios are of times, so below 1 is faster."
            if bounded
            else "A single epoch gives no interval; ratios are of times, so below 1 is faster."
        )
    return " ".join(sentences)


def describe(cell: Cell) -> str:
    """A cell's setting in words: '1 thread, batch 1, 224 × 224' (and the device unless it is the CPU)."""
    threads = units.counted(cell.threads, "thread")
    device = "" if cell.device == "cpu" else f"{cell.device}, "
    return f"{device}{threads}, batch {cell.batch}, {cell.resolution} × {cell.resolution}"


def _sentence(summary: Summary, best: Cell) -> str:
    request = summary.run.header.request
    latency = units.enclosed(summary.statistics[best.key].latency, 1e3)
    parts = []
    to_eager = summary.to_eager(best)
    if to_eager is not None:
        parts.append(f"{_times(to_eager.interval)} the time of eager")
    beside = [
        f"{_times(ratio.interval)} that of {reference}"
        for reference in request.references
        if (ratio := summary.to_reference(best, reference)) is not None
    ]
    if beside:
        parts.append(f"{' and '.join(beside)} on the same backend")
    comparison = f": {'; '.join(parts)}" if parts else ""
    exact = summary.fastest(best.variant, best.setting, "fp32")
    if exact is not None and exact != best:
        exact_latency = units.enclosed(summary.statistics[exact.key].latency, 1e3)
        comparison += f". In fp32 `{exact.backend}` is fastest, {exact_latency} ms"
    others = summary.close_to(best)
    close = (
        f" (not told apart from {', '.join(f'`{cell.backend}`' for cell in others)}, whose interval spans 1)"
        if others
        else ""
    )
    return (
        f"**{best.variant}** is fastest on `{best.backend}`{close}, {latency} ms a call "
        f"({describe(best)}){comparison}."
    )


def _times(interval: Interval) -> str:
    return f"{units.enclosed(interval)} ×"
