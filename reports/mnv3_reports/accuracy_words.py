"""Accuracies and drops in figures and words, the same wherever they are printed.

Accuracies are printed in per cent and drops in points (hundredths of the images), both with one decimal, and with two
from 10,000 images on, where the second means something.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnv3_reports import units
from mnv3_reports.accuracy import is_reference
from mnv3_reports.escaping import code, inline
from mnv3_reports.layout import ALERT
from mnv3_reports.statistics import Interval

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mnv3_reports.accuracy import Drop
    from mnv3_reports.record import Cell
    from mnv3_reports.summary import Summary

MANY = 10_000
"""Images from which on a hundredth of a point is printed."""
FLAG = "⚠"


def hundredths(interval: Interval) -> str:
    """A share or difference of shares with its interval, times 100: `97.8 [96.0, 98.8]`."""
    return f"{single(interval.estimate, interval.n)} {brackets(interval)}"


def brackets(interval: Interval) -> str:
    """The interval alone: `[96.0, 98.8]`."""
    return f"[{single(interval.low, interval.n)}, {single(interval.high, interval.n)}]"


def single(share: float, images: int) -> str:
    """One share times 100, with as many decimals as so many images give; a real minus sign, and none before zero."""
    text = f"{share * 100:.{2 if images >= MANY else 1}f}"
    return text.replace("-", "" if float(text) == 0 else "−")


def probability(p: float) -> str:
    """A p-value: `p < 0.001`, `p 0.021`, `p 1`."""
    if p < 0.001:
        return "p < 0.001"
    return "p 1" if p == 1 else f"p {units.significant(p, 2)}"


def limit_points(limit: float) -> str:
    """An accepted drop in points: `1.0`."""
    return units.significant(limit * 100, 2)


def told(drop: Drop, against: str) -> str:
    """What a drop is, by the test: 'loses 2.1 [1.2, 3.1] points against eager fp32', or that no loss is shown."""
    interval = drop.interval
    if drop.verdict == "loses":
        return f"loses {hundredths(interval)} points against {against}"
    if drop.verdict == "gains":
        gain = Interval(-interval.estimate, -interval.high, -interval.low, interval.n)
        return f"gains {hundredths(gain)} points against {against}"
    return f"shows no loss beyond noise against {against} ({hundredths(interval)} points)"


def mark(summary: Summary) -> str:
    """What stands beside a drop above the limit: red only where somebody said what is accepted."""
    return FLAG if summary.run.header.request.max_drop is None else ALERT


def than_accepted(summary: Summary, unit: str = "") -> str:
    """What so many points are above of: 'more than the 1.0 accepted', with ' points' where they were not named."""
    points = f"{limit_points(summary.limit)}{unit}"
    if summary.run.header.request.max_drop is None:
        return f"more than {points} (--max-drop sets what is accepted)"
    return f"more than the {points} accepted"


def too_much(summary: Summary) -> str:
    """What is said of a cell above the limit: 'loses more top-1 than the 1.0 points accepted'."""
    points = limit_points(summary.limit)
    if summary.run.header.request.max_drop is None:
        return f"loses more than {points} points of top-1; --max-drop sets what is accepted"
    return f"loses more top-1 than the {points} points accepted"


def alerts(summary: Summary, *, markdown: bool = True) -> list[str]:
    """A line for each backend with a drop above the limit, the largest drop first; none where there is none."""
    found: dict[str, list[Cell]] = {}
    for record in summary.run.cells.values():
        if summary.beyond(record.cell) is not None:
            found.setdefault(record.cell.backend, []).append(record.cell)
    worst = {
        backend: max(summary.drops[cell.key].interval.estimate for cell in cells)
        for backend, cells in found.items()
    }
    lines = []
    for backend in sorted(found, key=lambda name: -worst[name]):
        name = code(backend) if markdown else backend
        losses = joined(_losses(summary, found[backend], markdown=markdown))
        sign = f"{mark(summary)} " if markdown else ""
        lines.append(f"{sign}{name} loses {losses}, {than_accepted(summary)}.")
    return lines


def _losses(summary: Summary, cells: Iterable[Cell], *, markdown: bool) -> Iterable[str]:
    """'2.1 [1.2, 3.1] points on v3-small', each said once however many settings it was found in."""
    texts: dict[str, None] = {}
    for cell in sorted(cells, key=lambda cell: summary.variants.index(cell.variant)):
        network = inline(cell.variant) if markdown else cell.variant
        drop = summary.drops[cell.key]
        unit = "" if texts else " points"
        texts.setdefault(f"{hundredths(drop.interval)}{unit} on {network}")
    return texts


def joined(texts: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, last = texts
    return f"{', '.join(first)} and {last}" if first else last


def untold(summary: Summary) -> list[Cell]:
    """Cells whose interval holds drops below the limit and above it, with one of each backend and network."""
    found: dict[tuple[str, str], Cell] = {}
    for record in summary.run.cells.values():
        drop = None if is_reference(record) else summary.drop(record.cell)
        if drop is not None and drop.against(summary.limit) == "not told apart":
            found.setdefault((record.cell.backend, record.cell.variant), record.cell)
    return list(found.values())


def doubts(summary: Summary, *, markdown: bool = True) -> list[str]:
    """A line for each backend that lost more than accepted here, of which the images are too few to be sure."""
    found: dict[str, list[Cell]] = {}
    for cell in untold(summary):
        if summary.drops[cell.key].interval.estimate > summary.limit:
            found.setdefault(cell.backend, []).append(cell)
    lines = []
    for backend, cells in found.items():
        losses = joined(_losses(summary, cells, markdown=markdown))
        images = max(summary.drops[cell.key].interval.n for cell in cells)
        name = code(backend) if markdown else backend
        lines.append(
            f"{name} lost {losses}; {units.counted(images, 'image')} do not tell whether that is "
            f"{than_accepted(summary)}."
        )
    return lines
