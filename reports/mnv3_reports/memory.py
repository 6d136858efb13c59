"""The report's section about memory: activations by layer, what each runtime holds beside them, what a step adds.

Activations are counted in PyTorch eager (`mnv3_reports.record.Activations`), resident memory is the kernel's of a fresh
process (`Inspected`). What is left when the first is taken from the second is shown with its sign: it is where runtimes
differ.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from mnv3_reports import units
from mnv3_reports.deterministic import PEAK_NOISE
from mnv3_reports.escaping import code, inline
from mnv3_reports.layout import Column, Row, Value, build, folded, missing, to_markdown

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

    from mnv3_reports.record import Activations, Cell, CellRecord, MemoryStep
    from mnv3_reports.summary import Summary

DEAREST = 8
"""Modules of a network that are listed, those with the highest peak."""
OPEN = 12
"""Rows that a reader gets without unfolding them."""
MOST = 60
"""Rows of a table that are printed at all."""
POOL, MOST_STAGED = 32, 8
"""Images that calls are made of, and the most calls that a worker keeps ready (`mnv3_bench.inputs`)."""
VALUE_BYTES = 4
"""Of a value in fp32."""

INTRODUCTION = """\
Activations are counted, not measured: one call in PyTorch eager, every tensor from the operator that makes it until
nothing refers to it any more. The input counts from beginning to end, because the caller holds it; weights do not
count. What a kernel takes for itself while it runs is not in it."""
LEAST = """\
**One layer, at least** is the largest input and output of one convolution or linear layer, in fp32: a runtime that runs
whole layers one after the other cannot go below, even if it folds normalization and activation into the layer before
and keeps nothing for later. Eager needs more: its BatchNorm makes a second tensor, and a block's input is held by its
caller until the block returns."""
RUNTIMES = """\
**Above runtime** is the process's resident peak less what importing the runtime took. Of it, **weights** are those
counted where the cell computes in fp32, else the artifact's bytes; **inputs held** are those that the worker keeps
ready for its calls; **activations** are eager's counted peak without the input. **The rest** is what is left: code and
libraries loaded after the import, a second copy of the weights in the kernels' own layout, operators' workspace, memory
the allocator keeps. All of it is resident pages of one process, so figures below 1 MB mean little."""
NEGATIVE = """\
A rest below zero means that the runtime holds less than eager's tensors would take: a memory plan that reuses buffers
and folds normalization into convolutions, activations in fewer bytes, or weights mapped from a file, of which only
pages that were touched are resident. Pages that the import had left free and that are used later go the same way."""
ADDED = """\
What a larger call adds to the resident peak above the runtime, as the difference of two fresh processes, without an
interval. **Inputs held** and **activations** are parts of it as above; the activations of two images are twice those of
one. **What is left** are operators' workspace and holes in the allocator's heap, in eager too."""


class _Cell(NamedTuple):
    """A cell that was inspected, with what is known of where its memory goes, in bytes."""

    summary: Summary
    record: CellRecord
    above: int
    """Resident peak less the runtime's bare import."""
    counted: Activations | None
    """Of its network and resolution; of another batch, perhaps."""

    @property
    def cell(self) -> Cell:
        return self.record.cell

    @property
    def activations(self) -> float | None:
        """Eager's peak for its batch, without the input."""
        peak = _peak(self.counted) if self.counted is not None else None
        if self.counted is None or peak is None:
            return None
        return (peak.peak_bytes - self.counted.input_bytes) * self._batches

    @property
    def own_inputs(self) -> bool:
        """Whether the network takes inputs of its own: then a call is no batch of a pool's images."""
        return self.cell.variant in self.summary.run.header.request.models

    @property
    def held(self) -> float | None:
        """Inputs that the worker keeps ready."""
        if self.counted is None or self.own_inputs:
            return None
        return staged(self.cell.batch) * self.counted.input_bytes * self._batches

    @property
    def weights(self) -> int | None:
        if self.counted is not None and self.summary.precision(self.record) == "fp32":
            return self.counted.weight_bytes
        return self.record.prepared.artifact_bytes if self.record.prepared is not None else None

    @property
    def rest(self) -> float | None:
        parts = (self.weights, self.held, self.activations)
        known = [part for part in parts if part is not None]
        return self.above - sum(known) if len(known) == len(parts) else None

    @property
    def _batches(self) -> float:
        """Its batch in counted batches."""
        return 1.0 if self.counted is None or self.own_inputs else self.cell.batch / self.counted.batch


class _Step(NamedTuple):
    """Two cells that differ in nothing but the batch or the resolution."""

    small: _Cell
    large: _Cell

    @property
    def images(self) -> int:
        """Images by which a call grows; 1 where its resolution does."""
        return max(1, self.large.cell.batch - self.small.cell.batch)

    def grown(self, part: Callable[[_Cell], float | None]) -> float | None:
        """Bytes an image by which a part grows."""
        small, large = part(self.small), part(self.large)
        return None if small is None or large is None else (large - small) / self.images


def staged(batch: int) -> int:
    """Calls whose inputs a worker keeps ready while it is inspected and timed (`mnv3_bench.inputs.batch_indices`)."""
    return max(2, min(MOST_STAGED, POOL // batch))


def section(summary: Summary) -> Iterator[str]:
    """The section's paragraphs, without heading; none where nothing was counted and nothing was made larger."""
    counted = in_order(summary)
    if counted:
        yield " ".join(INTRODUCTION.split())
        yield to_markdown(build(_networks(summary), counted))
        yield " ".join(LEAST.split())
        for each in counted:
            yield from _dearest(summary, each)
        yield from _runtimes(summary)
    yield from _added(summary)


def in_order(summary: Summary) -> list[Activations]:
    """What was counted: networks in the report's order, then from high to low resolution, then by batch."""
    places = {variant: place for place, variant in enumerate(summary.variants)}
    return sorted(
        (each for each in summary.run.activations if each.steps),
        key=lambda each: (places.get(each.variant, len(places)), -each.resolution, each.batch),
    )


def named(summary: Summary, counted: Activations) -> str:
    """The network, with resolution and batch where it was counted with several."""
    same = [each for each in summary.run.activations if each.variant == counted.variant]
    parts = []
    if len({each.batch for each in same}) > 1:
        parts.append(f"batch {counted.batch}")
    if len({each.resolution for each in same}) > 1:
        parts.append(f"{counted.resolution} × {counted.resolution}")
    return f"{counted.variant} ({', '.join(parts)})" if parts else counted.variant


def module_name(step: MemoryStep) -> str:
    """The step's module path; the network itself has none."""
    return step.module or "(the network itself)"


def _peak(counted: Activations) -> MemoryStep | None:
    """The step with the highest peak, the first of equals."""
    return max(counted.steps, key=lambda step: step.peak_bytes, default=None)


def _networks(summary: Summary) -> list[Column[Activations]]:
    def peak(counted: Activations) -> MemoryStep:
        return max(counted.steps, key=lambda step: step.peak_bytes)

    def least(counted: Activations) -> Value:
        size = _least(summary, counted)
        return missing("its layers' inputs were not recorded") if size is None else _megabytes(size)

    return [
        Column("network", lambda counted: Value(inline(named(summary, counted))), align="left"),
        Column("batch", lambda counted: Value(str(counted.batch))),
        Column("weights", lambda counted: _megabytes(counted.weight_bytes), "MB"),
        Column("input", lambda counted: _megabytes(counted.input_bytes), "MB"),
        Column("activation peak", lambda counted: _megabytes(peak(counted).peak_bytes), "MB"),
        Column("reached in", lambda counted: _module(peak(counted)), align="left"),
        Column("one layer, at least", least, "MB"),
    ]


def _least(summary: Summary, counted: Activations) -> int | None:
    """Bytes of the largest input and output of one convolution or linear layer; None where that was not recorded."""
    for facts in summary.run.variants:
        if (facts.variant, facts.resolution) == (counted.variant, counted.resolution) and facts.complexity:
            sizes = [
                math.prod(layer.input_shape) + math.prod(layer.output_shape)
                for layer in facts.complexity.layers
                if layer.macs and layer.input_shape
            ]
            return max(sizes) * VALUE_BYTES * counted.batch if sizes else None
    return None


class _Taken(NamedTuple):
    """A step and what it took."""

    step: MemoryStep
    before: int
    """Bytes live when it began."""


def _dearest(summary: Summary, counted: Activations) -> Iterator[str]:
    before = [counted.input_bytes, *(step.live_bytes for step in counted.steps)]
    taken = [_Taken(*each) for each in zip(counted.steps, before, strict=False)]
    taken.sort(key=lambda each: -each.step.peak_bytes)
    table = to_markdown(build(_DEAREST, taken[:DEAREST]))
    title = f"of {units.counted(len(taken), 'step')} of {named(summary, counted)} with the highest peak"
    title = f"The {min(DEAREST, len(taken))} {title}" if len(taken) > 1 else "The only step"
    if counted.variant in summary.open:
        yield f"{inline(title)}:\n\n{table}"
    else:
        yield folded(title, table)


_DEAREST: tuple[Column[_Taken], ...] = (
    Column("module", lambda row: _module(row.step), align="left"),
    Column("kind", lambda row: Value(inline(row.step.kind) or "not told"), align="left"),
    Column("live before", lambda row: _megabytes(row.before), "MB"),
    Column("peak", lambda row: _megabytes(row.step.peak_bytes), "MB"),
    Column("it adds at most", lambda row: _megabytes(row.step.peak_bytes - row.before), "MB"),
    Column("live after", lambda row: _megabytes(row.step.live_bytes), "MB"),
)


def _module(step: MemoryStep) -> Value:
    return Value(module_name(step), code=bool(step.module))


def _cells(summary: Summary) -> list[_Cell]:
    """Cells on the processor that were loaded and did not fail: elsewhere tensors are in a device's memory."""
    return [
        _Cell(
            summary,
            record,
            record.inspected.peak_bytes - record.inspected.runtime_bytes,
            _counted_for(summary, record.cell),
        )
        for record in summary.run.cells.values()
        if record.inspected is not None and record.failure is None and record.cell.device == "cpu"
    ]


def _counted_for(summary: Summary, cell: Cell) -> Activations | None:
    """What was counted of its network at its resolution: with its batch, else with the smallest."""
    found = [
        each
        for each in summary.run.activations
        if (each.variant, each.resolution) == (cell.variant, cell.resolution) and each.steps
    ]
    return min(found, key=lambda each: (each.batch != cell.batch, each.batch), default=None)


def _runtimes(summary: Summary) -> Iterator[str]:
    rows = [row for row in _cells(summary) if row.counted is not None]
    if not rows:
        return
    yield " ".join(RUNTIMES.split())
    for variant in summary.asked:
        mine = sorted((row for row in rows if row.cell.variant == variant), key=lambda row: row.above)
        if not mine:
            continue
        title = f"Memory of {variant} by backend, least first"
        yield from _table(title, _BY_RUNTIME, mine, is_open=variant in summary.open)
    if any(row.rest is not None and row.rest < 0 for row in rows):
        yield " ".join(NEGATIVE.split())


def _backend(row: _Cell) -> Value:
    setting = row.summary.names.setting(row.cell)
    return Value(f"{code(row.cell.backend)} ({inline(setting)})" if setting else code(row.cell.backend))


def _known(row: _Cell, size: float | None, why: str) -> Value:
    if size is not None:
        return _megabytes(size)
    return missing("its inputs are its own, and how many are held is not recorded" if row.own_inputs else why)


_BY_RUNTIME: tuple[Column[_Cell], ...] = (
    Column("backend", _backend, align="left"),
    Column("precision", lambda row: Value(inline(row.summary.precision(row.record))), align="left"),
    Column(
        "runtime's import",
        lambda row: _megabytes(row.record.inspected.runtime_bytes if row.record.inspected else 0),
        "MB",
    ),
    Column("above runtime", lambda row: _megabytes(row.above), "MB"),
    Column("weights", lambda row: _known(row, row.weights, "its artifact's size was not recorded"), "MB"),
    Column("inputs held", lambda row: _known(row, row.held, "not counted"), "MB"),
    Column("activations", lambda row: _known(row, row.activations, "not counted"), "MB"),
    Column("the rest", lambda row: _known(row, row.rest, "not all parts are known"), "MB"),
)


def _added(summary: Summary) -> Iterator[str]:
    cells = [row for row in _cells(summary) if not row.own_inputs and row.cell.resolution]
    batches = list(
        _pairs(
            cells,
            lambda cell: (cell.variant, cell.backend, cell.threads, cell.resolution),
            lambda cell: cell.batch,
        )
    )
    resolutions = list(
        _pairs(
            cells,
            lambda cell: (cell.variant, cell.backend, cell.threads, cell.batch),
            lambda cell: cell.resolution,
        )
    )
    if not batches and not resolutions:
        return
    yield " ".join(ADDED.split())
    tables: tuple[tuple[str, Sequence[_Step], str], ...] = (
        ("What one more image in the batch adds", batches, "MB an image"),
        ("What a higher resolution adds", resolutions, "MB"),
    )
    for title, steps, unit in tables:
        yield from _table(title, _of_steps(unit), steps, is_open=True)


def _pairs(
    cells: Iterable[_Cell], alike: Callable[[Cell], Hashable], size: Callable[[Cell], int]
) -> Iterator[_Step]:
    """Neighbours in size among cells that are alike otherwise."""
    groups: dict[Hashable, list[_Cell]] = {}
    for row in cells:
        groups.setdefault(alike(row.cell), []).append(row)
    for group in groups.values():
        for small, large in pairwise(sorted(group, key=lambda row: size(row.cell))):
            yield _Step(small, large)


def _of_steps(unit: str) -> list[Column[_Step]]:
    def part(get: Callable[[_Cell], float | None]) -> Callable[[_Step], Value]:
        def value(step: _Step) -> Value:
            grown = step.grown(get)
            return missing("activations were not counted at both") if grown is None else _megabytes(grown)

        return value

    return [
        Column("network", lambda step: Value(inline(step.small.cell.variant)), align="left"),
        Column("backend", lambda step: Value(step.small.cell.backend, code=True), align="left"),
        Column("step", lambda step: Value(_step(step)), align="left"),
        Column("above runtime", _grown, unit),
        Column("inputs held", part(lambda row: row.held), unit),
        Column("activations", part(lambda row: row.activations), unit),
        Column("what is left", part(_beyond), unit),
    ]


def _grown(step: _Step) -> Value:
    """Growth of the peak above the runtime, marked where a peak moves as much by itself."""
    inspected = step.large.record.inspected
    moves = PEAK_NOISE * inspected.peak_bytes if inspected is not None else 0.0
    grown = step.large.above - step.small.above
    note = f"within {units.percent(PEAK_NOISE)} of the peak, as much as it moves by itself"
    return _megabytes(grown / step.images)._replace(note=note if abs(grown) < moves else None)


def _beyond(row: _Cell) -> float | None:
    """Above the runtime, and neither inputs nor counted activations."""
    held, activations = row.held, row.activations
    return None if held is None or activations is None else row.above - held - activations


def _step(step: _Step) -> str:
    """Which step, with what else the run varies: 'batch 1 → 8, 160 × 160, 2 threads'."""
    small, large = step.small.cell, step.large.cell
    threads = f", {units.counted(small.threads, 'thread')}"
    cells = [record.cell for record in step.small.summary.run.cells.values()]
    several = len({cell.threads for cell in cells}) > 1
    if small.batch != large.batch:
        text = f"batch {small.batch} → {large.batch}"
        also = f", {small.resolution} × {small.resolution}" * (len({cell.resolution for cell in cells}) > 1)
    else:
        text = f"{small.resolution} → {large.resolution}"
        also = f", batch {small.batch}" * (len({cell.batch for cell in cells}) > 1)
    return text + also + threads * several


def _table(
    title: str, columns: Sequence[Column[Row]], rows: Sequence[Row], *, is_open: bool
) -> Iterator[str]:
    """A table below its title; a long one, or one that few look for, folded; nothing without rows."""
    if not rows:
        return
    text = to_markdown(build(columns, rows[:MOST]))
    if len(rows) > MOST:
        text += f"\n\nNot printed: {units.counted(len(rows) - MOST, 'row')}. The exports have every cell's figures."
    yield f"{inline(title)}:\n\n{text}" if is_open and len(rows) <= OPEN else folded(title, text)


def _megabytes(size: float) -> Value:
    return Value(units.megabytes(size).replace("-", "−"))
