"""What more threads, a larger batch, a higher resolution or a wider network cost.

A sweep is one network on one backend at two or more values of one axis, everything else equal. Ratios are formed within
an epoch: cells of one setting (widths) share rounds and are compared there, as every printed ratio is; cells of
different settings are never alive together, so the medians of their rounds are compared, and the t interval over
epochs holds what the machine did between them.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple
from weakref import WeakKeyDictionary

from mnv3_reports.statistics import Interval, block_medians, log_interval, median, t_interval

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mnv3_reports.record import Block, Cell
    from mnv3_reports.summary import Summary

Axis = Literal["threads", "batch", "resolution", "width"]
AXES: tuple[Axis, ...] = ("threads", "batch", "resolution", "width")
SETTINGS = ("device", "threads", "batch", "resolution")
LEAST_SHARE = 0.5
"""Of the speed that added threads could add: a step that brings less does not pay."""
LEAST_THROUGHPUT = 0.95
"""Of every other batch's: a batch with as much is large enough."""
MOST_GROWTH = 1.10
"""Of the time a MAC from one step to the next: more is a knee."""
FEWEST = 3
"""Values of the axis that a knee takes."""
NOT_TOGETHER = "no epoch timed both"
Verdict = Literal["on", "end", "unclear"]
"""A step: scaling goes on, ends before it, or its interval does not tell."""


class Step(NamedTuple):
    """From one value of the axis to another, and what is judged of it."""

    before: float
    after: float
    figure: Interval | None
    """threads: speed-up of the step. batch: images/s of `before` over those of `after`, whichever side is larger.
    Otherwise growth of the time a MAC. None where no epoch timed both."""
    ideal: float
    """threads: growth of the count. Otherwise 1."""
    verdict: Verdict


class Knee(NamedTuple):
    """Where a further step stops paying."""

    kind: Literal["knee", "none", "unclear"]
    low: float
    """The knee's value, or where it may lie first; the largest value timed where there is none."""
    high: float | None
    """Where it may lie last; None where nothing bounds it."""
    evidence: tuple[Step, ...]
    """What shows it, or what cannot be told."""


class Point(NamedTuple):
    """One timed value of the axis."""

    value: float
    cell: Cell
    latency: Interval
    """Seconds a call."""
    relative: Interval | None
    """threads: speed-up over the reference. batch: time an image over the reference's. Otherwise time over the
    reference's. Exactly 1 of the reference; None where no epoch timed both."""
    share: float | None
    """threads: parallel efficiency. batch: images/s. Otherwise time a MAC over the reference's; None without counts."""


@dataclass(frozen=True)
class Sweep:
    """One network on one backend along one axis, two values at least."""

    axis: Axis
    network: str
    """Without the width, of a sweep of widths."""
    backend: str
    points: tuple[Point, ...]
    """Ascending."""
    reference: Point
    """What the others are relative to: the smallest value; of widths 1, else the widest."""
    untimed: Mapping[float, str]
    """Planned values without a time, and why."""
    exponent: Interval | None
    """resolution: k of time ~ resolution^k; width: k of time ~ MACs^k; otherwise None."""
    knee: Knee | None
    """None with fewer than three values, or of widths without counted MACs."""
    work: str
    """What time is divided by on the axes resolution and width: MAC or pixel; '' where nothing is known."""


class _Timed(NamedTuple):
    """A timed cell before anything is derived of it."""

    value: float
    cell: Cell
    latency: Interval
    epochs: Mapping[int, float]
    """Epoch to the median of its rounds' medians, in seconds."""
    work: float | None
    """MACs (or pixels) of one image."""


_KNOWN: WeakKeyDictionary[Summary, dict[Axis, list[Sweep]]] = WeakKeyDictionary()
"""The section and every chart ask for the same sweeps."""


def sweeps(summary: Summary, axis: Axis) -> list[Sweep]:
    """The run's sweeps along an axis: requested networks first, a network's fastest backend first.

    They are derived once and kept as long as the summary is.
    """
    if summary not in _KNOWN:
        cells = {each: _grouped(summary, each) for each in AXES}
        swept = {cell.key for groups in cells.values() for group in groups for cell in group.values()}
        blocks: dict[str, list[Block]] = {key: [] for key in swept & summary.statistics.keys()}
        for block in summary.run.blocks:
            if block.cell in blocks:
                blocks[block.cell].append(block)
        epochs = {
            key: {epoch: median(rounds.values()) for epoch, rounds in block_medians(found).items()}
            for key, found in blocks.items()
        }
        _KNOWN[summary] = {each: _in_order(summary, each, cells[each], epochs) for each in AXES}
    return _KNOWN[summary][axis]


def width_of(variant: str) -> tuple[str, float]:
    """The name without its width, and the width: ('v3-small', 0.5) of 'v3-small@0.5'; 1.0 where it has none."""
    found = re.fullmatch(r"(.+)@(\d+\.?\d*|\.\d+)", variant, re.DOTALL)
    return (found[1], float(found[2])) if found else (variant, 1.0)


def _grouped(summary: Summary, axis: Axis) -> list[dict[float, Cell]]:
    """Cells that differ along the axis alone, by its value, where two or more were timed."""
    groups: dict[tuple[object, ...], dict[float, Cell]] = {}
    for record in summary.run.cells.values():
        cell = record.cell
        if axis == "width" and cell.variant in summary.run.header.request.models:
            continue  # the name of a file, which may hold an @ of its own
        network, width = width_of(cell.variant) if axis == "width" else (cell.variant, 1.0)
        value = width if axis == "width" else float(getattr(cell, axis))
        same = (network, cell.backend, *(getattr(cell, name) for name in SETTINGS if name != axis))
        groups.setdefault(same, {})[value] = cell
    return [
        group
        for group in groups.values()
        if sum(cell.key in summary.statistics for cell in group.values()) >= 2
    ]


def _in_order(
    summary: Summary,
    axis: Axis,
    groups: Sequence[Mapping[float, Cell]],
    epochs: Mapping[str, Mapping[int, float]],
) -> list[Sweep]:
    places = {variant: place for place, variant in enumerate(summary.variants)}

    def place(sweep: Sweep) -> tuple[float, ...]:
        cell = sweep.reference.cell
        settings = (cell.threads, cell.batch, cell.resolution)
        first = min(places[point.cell.variant] for point in sweep.points)
        return (first, *settings, sweep.reference.latency.estimate)

    return sorted((_sweep(summary, axis, group, epochs) for group in groups), key=place)


def _sweep(
    summary: Summary, axis: Axis, group: Mapping[float, Cell], epochs: Mapping[str, Mapping[int, float]]
) -> Sweep:
    """Everything derived of one group of cells."""
    timed = [
        _Timed(
            value,
            cell,
            summary.statistics[cell.key].latency,
            epochs[cell.key],
            _macs(summary, cell) if axis in ("resolution", "width") else None,
        )
        for value, cell in sorted(group.items())
        if cell.key in summary.statistics
    ]
    work = "MAC" if all(each.work for each in timed) else ""
    if not work and axis == "resolution":
        timed, work = [each._replace(work=each.value**2) for each in timed], "pixel"
    reference = timed[0]
    if axis == "width":
        reference = next((each for each in timed if each.value == 1.0), timed[-1])
    points = [_point(summary, axis, each, reference) for each in timed]
    return Sweep(
        axis=axis,
        network=width_of(reference.cell.variant)[0] if axis == "width" else reference.cell.variant,
        backend=reference.cell.backend,
        points=tuple(points),
        reference=points[timed.index(reference)],
        untimed={
            value: summary.why_not_timed(cell.key)
            for value, cell in sorted(group.items())
            if cell.key not in summary.statistics
        },
        exponent=_exponent(axis, timed),
        knee=_knee(summary, axis, timed),
        work=work,
    )


def _macs(summary: Summary, cell: Cell) -> float | None:
    facts = summary.facts(cell)
    complexity = facts.complexity if facts is not None else None
    return complexity.macs if complexity is not None and complexity.macs > 0 else None


def _point(summary: Summary, axis: Axis, timed: _Timed, reference: _Timed) -> Point:
    """A value beside the reference."""
    if timed is reference:
        relative: Interval | None = Interval(1.0, 1.0, 1.0, timed.latency.n)
    elif axis == "threads":
        relative = _time_ratio(summary, reference, timed)
    else:
        images = timed.value / reference.value if axis == "batch" else 1.0
        relative = scaled(_time_ratio(summary, timed, reference), 1 / images)
    share: float | None = None
    if axis == "batch":
        share = timed.value / timed.latency.estimate
    elif relative is not None and axis == "threads":
        share = relative.estimate * reference.value / timed.value
    elif relative is not None and timed.work and reference.work:
        share = relative.estimate * reference.work / timed.work
    return Point(timed.value, timed.cell, timed.latency, relative, share)


def _time_ratio(summary: Summary, over: _Timed, under: _Timed) -> Interval | None:
    """Time of a call of one over the other's; None where no epoch has both.

    Per epoch the median over shared rounds where there are any; else the ratio of the medians of each one's rounds.
    """
    together = summary.ratio(over.cell.key, under.cell.key)
    if together is not None:
        return together
    ratios = [over.epochs[epoch] / under.epochs[epoch] for epoch in over.epochs.keys() & under.epochs.keys()]
    return log_interval(ratios) if ratios else None


def scaled(interval: Interval | None, factor: float) -> Interval | None:
    """An interval in another unit; the factor is above zero."""
    if interval is None:
        return None
    return Interval(interval.estimate * factor, interval.low * factor, interval.high * factor, interval.n)


def throughput(point: Point) -> Interval:
    """Images a second, from the interval of the latency."""
    latency, images = point.latency, point.cell.batch
    high = images / latency.low if latency.low > 0 else math.inf
    return Interval(images / latency.estimate, images / latency.high, high, latency.n)


def _exponent(axis: Axis, timed: Sequence[_Timed]) -> Interval | None:
    """Slope of ln time over ln resolution (or ln MACs), least squares; one slope an epoch, t interval over epochs."""
    sizes = [each.value if axis == "resolution" else each.work for each in timed]
    known = [math.log(size) for size in sizes if size]
    if axis not in ("resolution", "width") or len(known) < len(timed) or len(set(known)) < 2:
        return None
    shared = set.intersection(*(set(each.epochs) for each in timed))
    centre = math.fsum(known) / len(known)
    weights = [x - centre for x in known]
    total = math.fsum(weight**2 for weight in weights)
    slopes = [
        math.fsum(w * math.log(each.epochs[epoch]) for w, each in zip(weights, timed, strict=True)) / total
        for epoch in shared
    ]
    return t_interval(slopes) if slopes else None


def _knee(summary: Summary, axis: Axis, timed: Sequence[_Timed]) -> Knee | None:
    if len(timed) < FEWEST:
        return None
    if axis == "batch":
        return _enough(summary, timed)
    if axis == "threads":
        steps = [_added(summary, *pair) for pair in pairwise(timed)]
    elif all(each.work for each in timed):
        steps = [_grown(summary, *pair) for pair in pairwise(timed)]
    else:
        return None
    return _first_end(steps)


def _added(summary: Summary, before: _Timed, after: _Timed) -> Step:
    """What added threads bring."""
    ideal = after.value / before.value
    gain = _time_ratio(summary, before, after)
    return Step(before.value, after.value, gain, ideal, _at_least(gain, 1 + LEAST_SHARE * (ideal - 1)))


def _grown(summary: Summary, before: _Timed, after: _Timed) -> Step:
    """How the time a MAC grows."""
    growth = (before.work or math.nan) / (after.work or math.nan)
    figure = scaled(_time_ratio(summary, after, before), growth)
    if figure is None or not figure.bounded:
        verdict: Verdict = "unclear"
    else:
        verdict = "on" if figure.high <= MOST_GROWTH else "end" if figure.low > MOST_GROWTH else "unclear"
    return Step(before.value, after.value, figure, 1.0, verdict)


def _at_least(figure: Interval | None, limit: float) -> Verdict:
    if figure is None or not figure.bounded:
        return "unclear"
    return "on" if figure.low >= limit else "end" if figure.high < limit else "unclear"


def _first_end(steps: Sequence[Step]) -> Knee:
    """The value before the first step that ends it; unclear where an earlier step cannot be told."""
    ends = [step for step in steps if step.verdict == "end"]
    unclear = next((step for step in steps if step.verdict == "unclear"), None)
    if unclear is not None and (not ends or unclear.before < ends[0].before):
        return Knee("unclear", unclear.before, ends[0].before if ends else None, (unclear, *ends[:1]))
    if ends:
        return Knee("knee", ends[0].before, ends[0].before, (ends[0],))
    return Knee("none", steps[-1].after, None, ())


def _enough(summary: Summary, timed: Sequence[_Timed]) -> Knee:
    """The smallest batch that no other one beats by more than a little; none where that is the largest."""
    steps = [_against_others(summary, each, timed) for each in timed]
    enough = next((number for number, step in enumerate(steps) if step.verdict == "on"), None)
    unclear = next((step for step in steps[:enough] if step.verdict == "unclear"), None)
    last = len(steps) - 1
    if unclear is not None:
        # The largest batch bounds nothing: what a larger one would do was not timed.
        high = None if enough in (None, last) else timed[enough].value
        return Knee("unclear", unclear.before, high, (unclear,))
    if enough is None or enough == last:
        return Knee("none", timed[-1].value, None, ())
    return Knee(
        "knee", timed[enough].value, timed[enough].value, tuple(steps[max(enough - 1, 0) : enough + 1])
    )


def _against_others(summary: Summary, batch: _Timed, timed: Sequence[_Timed]) -> Step:
    """A batch's throughput over that of the one that tells most: which beats it, may beat it, or comes closest to."""
    steps = []
    for other in timed:
        if other is not batch:
            share = scaled(_time_ratio(summary, other, batch), batch.value / other.value)
            steps.append(Step(batch.value, other.value, share, 1.0, _at_least(share, LEAST_THROUGHPUT)))
    order = ("end", "unclear", "on")
    return min(
        steps, key=lambda step: (order.index(step.verdict), step.figure.estimate if step.figure else 0.0)
    )
