"""The report's section about scaling, in words and tables."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mnv3_reports import units
from mnv3_reports.accuracy_words import joined
from mnv3_reports.escaping import code, inline
from mnv3_reports.layout import Column, Value, build, folded, missing, to_markdown
from mnv3_reports.scaling import (
    AXES,
    FEWEST,
    LEAST_SHARE,
    NOT_TOGETHER,
    SETTINGS,
    Axis,
    Knee,
    Point,
    Step,
    Sweep,
    sweeps,
    throughput,
)
from mnv3_reports.tables import ONE_EPOCH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mnv3_reports.summary import Summary

OPEN = 12
"""Rows of a table, and knees, that a reader gets without unfolding them."""
MOST = 60
"""Rows and knees that are printed at all, so that a sweep over everything still makes a report."""
INTRODUCTION = """\
Each row is one network on one backend with everything else equal. Ratios are formed within an epoch, with a 95 %
interval over epochs. Widths take turns in the same rounds. Cells with other threads, batch or resolution do not: they
are measured one setting after the other within the epoch, so what the machine did in between widens their interval.
**Knees** are named by fixed rules, and only where the whole interval is on one side of the rule; each step is judged
alone."""
RULES: dict[Axis, str] = {
    "threads": """\
The row's first figure is its median in ms a call; the others are the speed-up over it, in parentheses the parallel
efficiency (speed-up over the growth of the thread count). **The knee is the last count before the first step that
brings less than half of the speed its added threads could add**: doubling them could give 2 ×, and pays from 1.5 ×
on.""",
    "batch": """\
The row's first figure is its median in ms an image; the others are ms an image relative to it (below 1 is faster), in
parentheses images/s. **The knee is the smallest batch with at least 95 % of the images/s of every other one**; where
that is the largest batch timed, there is none yet.""",
    "resolution": """\
The row's first figure is its median in ms a call; the others are the time relative to it, in parentheses the time a
MAC relative to it. The exponent is k of time ∝ resolution^k: MACs have nearly k = 2, and a fixed cost makes it smaller.
Time does not saturate here. **The knee is the last resolution before the first step whose time grows over 10 % more
than its MACs**; a cache that has become too small is one usual cause.""",
    "width": """\
The figure in ms is the median a call of width 1 (of the widest, where 1 was not timed); the others are the time
relative to it, in parentheses the time a MAC relative to it. The exponent is k of time ∝ MACs^k. Time does not saturate
here. **The knee is the last width before the first step to a wider one whose time grows over 10 % more than its
MACs.**""",
}


def section(summary: Summary) -> Iterator[str]:
    """The section's paragraphs, without heading; none where nothing was swept."""
    found = {axis: sweeps(summary, axis) for axis in AXES}
    if not any(found.values()):
        return
    yield " ".join(INTRODUCTION.split())
    for axis, rows in found.items():
        if rows:
            yield f"### {_TITLES[axis]}"
            yield " ".join((RULES[axis] + (_processors(summary) if axis == "threads" else "")).split())
            yield from _along(axis, rows)


_TITLES: dict[Axis, str] = {
    "threads": "Threads",
    "batch": "Batch",
    "resolution": "Resolution",
    "width": "Width",
}


def _processors(summary: Summary) -> str:
    machine = summary.run.header.machine
    cores = machine.physical_cores
    physical = f"; the machine has {units.counted(cores, 'physical core')}" if cores is not None else ""
    return f" The run could use {units.counted(machine.usable_cpus, 'logical CPU')}{physical}."


def _along(axis: Axis, rows: Sequence[Sweep]) -> Iterator[str]:
    """Knees, the table of ratios, and folded the medians behind it."""
    sentences = list(_sentences(axis, rows))
    if sentences:
        yield "\n".join(sentences[:OPEN])
    if len(sentences) > OPEN:
        yield folded("More about knees", "\n".join(sentences[OPEN:MOST]))
    columns = _columns(axis, rows)
    yield to_markdown(build(columns, rows[:OPEN]))
    if len(rows) > OPEN:
        more = rows[OPEN:MOST]
        yield folded(f"{units.counted(len(more), 'more row')}", to_markdown(build(columns, more)))
    yield folded(
        "Median ms a call behind it", to_markdown(build(_plain(axis, rows, _milliseconds), rows[:MOST]))
    )
    if axis == "batch":
        yield folded("images/s behind it", to_markdown(build(_plain(axis, rows, _rate), rows[:MOST])))
    if len(rows) > MOST:
        left = units.counted(len(rows) - MOST, "row")
        yield f"{left} left out here; the run's other tables and its CSV form (`mnv3-bench report`) have every cell."


def label(axis: Axis, value: float) -> str:
    """A value of an axis in words: '4 threads', 'batch 8', '224 × 224', 'width 0.75'."""
    if axis == "threads":
        return units.counted(int(value), "thread")
    if axis == "resolution":
        return f"{value:g} × {value:g}"
    return f"{axis} {value:g}"


def others(sweep: Sweep, rows: Sequence[Sweep]) -> str:
    """What of its setting tells a sweep from the other ones: 'batch 8, 160 × 160'; empty where nothing does."""
    words = []
    for name in SETTINGS:
        if name != sweep.axis and len({getattr(row.reference.cell, name) for row in rows}) > 1:
            value = getattr(sweep.reference.cell, name)
            words.append(value if name == "device" else label(name, value))  # type: ignore[arg-type]
    return ", ".join(words)


def _sentences(axis: Axis, rows: Sequence[Sweep]) -> Iterator[str]:
    """Knees first, then what has none, then what cannot be told, and why."""
    for kind in ("knee", "none", "unclear"):
        found = [(row, row.knee) for row in rows if row.knee is not None and row.knee.kind == kind]
        if kind != "none":
            yield from (f"- {_knee_words(axis, row, knee, rows)}" for row, knee in found)
            continue
        for value in dict.fromkeys(knee.low for _, knee in found):
            some = [row for row, knee in found if knee.low == value]
            yield f"- **No knee** up to {label(axis, value)}{_WITHOUT[axis]}: {_listed(some, rows)}."
    for few, why in (
        (True, f"A knee takes {FEWEST} timed values"),
        (False, "No knee is looked for without counted MACs"),
    ):
        some = [row for row in rows if row.knee is None and (len(row.points) < FEWEST) is few]
        if some:
            yield f"- {why}: {_listed(some, rows)}."


_WITHOUT: dict[Axis, str] = {
    "threads": " (every step pays)",
    "batch": " (every smaller batch has less than 95 % of another's images/s)",
    "resolution": " (no step's time grows over 10 % more than its work)",
    "width": " (no step's time grows over 10 % more than its MACs)",
}


def _listed(some: Sequence[Sweep], rows: Sequence[Sweep]) -> str:
    """Sweeps by backend: '`eager` (v3-small, v1)'."""
    by_backend: dict[str, list[str]] = {}
    for row in some:
        setting = others(row, rows)
        by_backend.setdefault(row.backend, []).append(row.network + (f" with {setting}" if setting else ""))
    return "; ".join(
        f"{code(backend)} ({inline(', '.join(networks))})" for backend, networks in by_backend.items()
    )


def _knee_words(axis: Axis, row: Sweep, knee: Knee, rows: Sequence[Sweep]) -> str:
    setting = others(row, rows)
    name = f"{inline(row.network)} on {code(row.backend)}{f', {inline(setting)}' if setting else ''}"
    if knee.kind == "knee":
        return f"**{name}: knee at {label(axis, knee.low)}** ({_evidence(axis, row, knee)})."
    where = f"from {label(axis, knee.low)} on, or nowhere"
    if knee.high is not None:
        where = f"between {label(axis, knee.low)} and {label(axis, knee.high)}"
    return f"{name}: **no telling** where the knee is, {where} ({_evidence(axis, row, knee)})."


def _evidence(axis: Axis, row: Sweep, knee: Knee) -> str:
    parts = [_step_words(axis, row, step, knee) for step in knee.evidence]
    if axis == "batch" and knee.kind == "knee":
        at = next(point for point in row.points if point.value == knee.low)
        parts = [f"{units.enclosed(throughput(at))} images/s", *parts]
    return "; ".join(parts)


def _step_words(axis: Axis, row: Sweep, step: Step, knee: Knee) -> str:
    if step.figure is None:
        return f"of {label(axis, step.before)} and {label(axis, step.after)} {NOT_TOGETHER}"
    figure = units.enclosed(step.figure) + ("" if step.figure.bounded else ", of one epoch only,")
    if axis == "batch":
        return f"{label(axis, step.before)} has {figure} of the images/s of {label(axis, step.after)}"
    skipped = [f"{value:g}" for value in row.untimed if step.before < value < step.after]
    between = f" ({joined(skipped)} not timed)" if skipped else ""
    if axis == "threads":
        pays = (
            f", and pays from {1 + LEAST_SHARE * (step.ideal - 1):.3g} on" if knee.kind == "unclear" else ""
        )
        return f"the step to {step.after:g}{between} gives {figure} of an ideal {step.ideal:.3g}{pays}"
    return f"the step to {label(axis, step.after)}{between} takes {figure} times as long a {row.work}"


def _values(rows: Sequence[Sweep]) -> list[float]:
    return sorted({value for row in rows for value in (*(point.value for point in row.points), *row.untimed)})


def _plain(axis: Axis, rows: Sequence[Sweep], shown: Callable[[float, Sweep], Value]) -> list[Column[Sweep]]:
    """What a row is, and one column a value."""
    columns = [
        Column[Sweep]("network", lambda row: Value(inline(row.network)), align="left"),
        Column[Sweep]("backend", lambda row: Value(row.backend, code=True), align="left"),
    ]
    if any(others(row, rows) for row in rows):
        columns.append(Column[Sweep]("with", lambda row: Value(inline(others(row, rows))), align="left"))
    return columns + [Column[Sweep](label(axis, value), partial(shown, value)) for value in _values(rows)]


def _columns(axis: Axis, rows: Sequence[Sweep]) -> list[Column[Sweep]]:
    columns = _plain(axis, rows, _relative)
    if axis in ("resolution", "width"):
        columns.append(Column[Sweep]("exponent k", _slope, "[95 %]"))
    return [*columns, Column[Sweep]("knee", _knee_at, align="left")]


def _at(row: Sweep, value: float) -> Point | Value:
    """The point, or what stands for one that is not there."""
    for point in row.points:
        if point.value == value:
            return point
    return missing(row.untimed.get(value, "not part of the run in this form"))


def _relative(value: float, row: Sweep) -> Value:
    point = _at(row, value)
    if isinstance(point, Value):
        return point
    share = _share(row, point)
    if point is row.reference:
        images = point.cell.batch if row.axis == "batch" else 1
        extra = f" ({share})" if row.axis == "batch" and share else ""
        return Value(f"{units.milliseconds(point.latency.estimate / images)} ms{extra}")
    if point.relative is None:
        return missing(NOT_TOGETHER)
    text = units.enclosed(point.relative) + (f" ({share})" if share else "")
    return Value(text, None if point.relative.bounded else ONE_EPOCH)


def _share(row: Sweep, point: Point) -> str:
    if point.share is None:
        return ""
    if row.axis == "threads":
        return units.percent(point.share)
    return f"{units.significant(point.share)}{'/s' if row.axis == 'batch' else f' a {row.work}'}"


def _milliseconds(value: float, row: Sweep) -> Value:
    point = _at(row, value)
    if isinstance(point, Value):
        return point
    return Value(units.enclosed(point.latency, 1e3), None if point.latency.bounded else ONE_EPOCH)


def _rate(value: float, row: Sweep) -> Value:
    point = _at(row, value)
    if isinstance(point, Value):
        return point
    return Value(units.enclosed(throughput(point)), None if point.latency.bounded else ONE_EPOCH)


def _slope(row: Sweep) -> Value:
    if row.exponent is None:
        counted = row.axis == "resolution" or row.work
        return missing("no epoch timed all values" if counted else "MACs were not counted")
    return Value(units.enclosed(row.exponent), None if row.exponent.bounded else ONE_EPOCH)


def _knee_at(row: Sweep) -> Value:
    knee = row.knee
    if knee is None:
        few = len(row.points) < FEWEST
        return missing(f"a knee takes {FEWEST} timed values" if few else "MACs were not counted")
    if knee.kind == "knee":
        return Value(label(row.axis, knee.low))
    return Value(f"none up to {knee.low:g}" if knee.kind == "none" else "no telling")
