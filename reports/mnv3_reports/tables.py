"""The tables of cells, as data: which columns there are and what each shows of a cell."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from mnv3_reports import units
from mnv3_reports.accuracy_words import FLAG, too_much
from mnv3_reports.cell_words import shape
from mnv3_reports.compare import BASELINE
from mnv3_reports.layout import Column, Table, Value, build, missing
from mnv3_reports.summary import MOST_OTHER_CLASSES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mnv3_reports.record import Cell, CellRecord, Fidelity, Inspected
    from mnv3_reports.statistics import Interval
    from mnv3_reports.summary import CellStatistics, Summary

    Write = Callable[[Interval, float], str]

TOO_FEW = Value("n too small", "an exact 95 % interval takes 36 calls for p90, 72 for p95 and 368 for p99")
ONE_EPOCH = "one epoch only, so no interval; measure longer with --time-budget"


class CellRow(NamedTuple):
    """One row of a table of cells."""

    summary: Summary
    record: CellRecord

    @property
    def statistics(self) -> CellStatistics | None:
        """None when the cell was not timed."""
        return self.summary.statistics.get(self.record.cell.key)

    @property
    def seconds(self) -> float:
        """The median call; infinite when the cell was not timed."""
        statistics = self.statistics
        return statistics.latency.estimate if statistics else math.inf

    def untimed(self) -> Value:
        """What stands for a figure of a cell that was not timed."""
        return missing(self.summary.why_not_timed(self.record.cell.key))


def cell_rows(summary: Summary, variant: str) -> list[CellRow]:
    """The network's cells: setting by setting, the fastest first, those that were not timed last."""
    rows = [
        CellRow(summary, record) for record in summary.run.cells.values() if record.cell.variant == variant
    ]
    places = {setting: place for place, setting in enumerate(summary.settings)}
    return sorted(rows, key=lambda row: (places[row.record.cell.setting], row.seconds))


def by_setting(rows: Sequence[CellRow]) -> dict[str, list[CellRow]]:
    """Rows under their setting, in their order."""
    found: dict[str, list[CellRow]] = {}
    for row in rows:
        found.setdefault(row.record.cell.setting, []).append(row)
    return found


def with_interval(
    interval: Interval | None, scale: float, otherwise: Value, write: Write = units.enclosed
) -> Value:
    """An estimate with its interval, or a note on why there is none."""
    if interval is None:
        return otherwise
    return Value(write(interval, scale), None if interval.bounded else ONE_EPOCH)


def _median(row: CellRow, write: Write = units.enclosed) -> Value:
    if row.statistics is None:
        return row.untimed()
    return _flagged(row, with_interval(row.statistics.latency, 1e3, row.untimed(), write))


def _quantile(row: CellRow, name: str, *, interval: bool = False) -> Value:
    if row.statistics is None:
        return row.untimed()
    found = row.statistics.quantiles[name]
    if found is None:
        return TOO_FEW
    return Value(units.enclosed(found, 1e3) if interval else units.milliseconds(found.estimate))


def _minimum(row: CellRow) -> Value:
    return Value(units.milliseconds(row.statistics.minimum)) if row.statistics else row.untimed()


def _throughput(row: CellRow) -> Value:
    if row.statistics is None:
        return row.untimed()
    return Value(units.significant(row.record.cell.batch / row.statistics.latency.estimate))


def _to_eager(row: CellRow, write: Write = units.enclosed) -> Value:
    cell, summary = row.record.cell, row.summary
    if row.statistics is None:
        return row.untimed()
    if cell.backend == BASELINE:
        return Value("1", "eager itself")
    ratio = summary.to_eager(cell)
    reason = _why_no_ratio(summary, replace(cell, backend=BASELINE))
    return with_interval(ratio.interval if ratio else None, 1.0, missing(reason), write)


def _to_reference(row: CellRow, reference: str) -> Value:
    cell, summary = row.record.cell, row.summary
    if row.statistics is None:
        return row.untimed()
    ratio = summary.to_reference(cell, reference)
    reason = _why_no_ratio(summary, replace(cell, variant=reference))
    return with_interval(ratio.interval if ratio else None, 1.0, missing(reason))


def _why_no_ratio(summary: Summary, other: Cell) -> str:
    name = f"{other.variant} on {other.backend}"
    if other.key not in summary.run.cells:
        return f"{name} was not asked for in this setting"
    if other.key not in summary.statistics:
        return f"{name}: {summary.why_not_timed(other.key)}"
    return f"never timed in the same round as {name}"


def _artifact(row: CellRow) -> Value:
    prepared = row.record.prepared
    return _unprepared(row) if prepared is None else Value(units.megabytes(prepared.artifact_bytes))


def _build(row: CellRow) -> Value:
    prepared = row.record.prepared
    if prepared is None:
        return _unprepared(row)
    return Value(units.seconds(prepared.build_seconds) + (" (cached)" if prepared.cached else ""))


def _unprepared(row: CellRow) -> Value:
    return row.untimed() if row.record.failure else missing("the run ended before this artifact was built")


def _inspected(row: CellRow) -> Inspected | Value:
    if row.record.inspected is not None:
        return row.record.inspected
    return row.untimed() if row.record.failure else missing("the run ended before this cell was loaded")


def _memory(row: CellRow, *, above_runtime: bool = False) -> Value:
    found = _inspected(row)
    if isinstance(found, Value):
        return found
    size = found.peak_bytes - found.runtime_bytes if above_runtime else found.peak_bytes
    return Value(units.megabytes(size))


def _device_peak(row: CellRow) -> Value:
    found = _inspected(row)
    if isinstance(found, Value):
        return found
    if found.device_peak_bytes is None:
        return missing("the runtime tells nothing of the device's memory")
    return Value(units.megabytes(found.device_peak_bytes))


def _inspected_seconds(row: CellRow, name: str) -> Value:
    found = _inspected(row)
    return found if isinstance(found, Value) else Value(units.seconds(getattr(found, name)))


def _fidelity(row: CellRow) -> Fidelity | Value:
    found = _inspected(row)
    if isinstance(found, Value):
        return found
    return found.fidelity or missing("outputs were not compared with a reference for this cell")


def _snr(row: CellRow) -> Value:
    found = _fidelity(row)
    if isinstance(found, Value):
        return found
    text = "≥ 200" if found.snr_db >= IDENTICAL_DB else f"{found.snr_db:.1f}"
    return Value(text, f"compared with {found.reference}" if found.reference != USUAL_REFERENCE else None)


IDENTICAL_DB = 200
"""The record's stand-in for a signal-to-noise ratio without measurable noise."""


USUAL_REFERENCE = "eager fp32"
"""What outputs are compared with unless a note says otherwise."""
OTHER_CLASSES = (
    f"another class than the reference's on more than {units.percent(MOST_OTHER_CLASSES)} of the inputs"
)


def _agreement(row: CellRow) -> Value:
    found = _fidelity(row)
    if isinstance(found, Value):
        return found
    if found.top1_agreement is None:
        return missing("the outputs are no classes")
    return _other_classes(row, Value(f"{found.top1_agreement * 100:.1f}"))


def _flagged(row: CellRow, value: Value) -> Value:
    """The value with a mark where the cell answers otherwise than its reference: fast is not all there is to it."""
    return marked(row, _other_classes(row, value))


def _other_classes(row: CellRow, value: Value) -> Value:
    if row.summary.other_classes(row.record) is None:
        return value
    return Value(f"{value.text} {FLAG}", "; ".join(filter(None, (value.note, OTHER_CLASSES))))


def marked(row: CellRow, value: Value) -> Value:
    """The value with a mark where the cell loses too much accuracy; a red one where somebody said what is too much."""
    if row.summary.beyond(row.record.cell) is None:
        return value
    note = "; ".join(filter(None, (value.note, too_much(row.summary))))
    if row.summary.run.header.request.max_drop is None:
        return value._replace(text=f"{value.text} {FLAG}", note=note)
    return value._replace(alert=True, note=note)


BACKEND = Column[CellRow]("backend", lambda row: Value(row.record.cell.backend, code=True), align="left")
VARIANT = Column[CellRow]("network", lambda row: Value(row.record.cell.variant), align="left")
MEDIAN = Column("median", _median, "ms [95 %]")
TO_EAGER = Column("/ eager", _to_eager, "[95 %]")
COMPACT_MEDIAN = Column("median", partial(_median, write=units.compact), "ms")
COMPACT_TO_EAGER = Column("/ eager", partial(_to_eager, write=units.compact))
PEAK = Column("peak", _memory, "MB")
SNR = Column("SNR", _snr, "dB")

_DEPLOYMENT: tuple[Column[CellRow], ...] = (
    Column("artifact", _artifact, "MB"),
    PEAK,
    Column("above runtime", lambda row: _memory(row, above_runtime=True), "MB"),
    Column("import", lambda row: _inspected_seconds(row, "import_seconds"), "s"),
    Column("load", lambda row: _inspected_seconds(row, "load_seconds"), "s"),
    Column("first call", lambda row: _inspected_seconds(row, "first_seconds"), "s"),
    Column("build", _build, "s"),
    SNR,
    Column("same top-1", _agreement, "%"),
)
TAILS: tuple[Column[CellRow], ...] = (
    Column("epochs", lambda row: Value(str(row.statistics.epochs)) if row.statistics else row.untimed()),
    Column("calls", lambda row: Value(f"{row.statistics.calls:,}") if row.statistics else row.untimed()),
    Column("p90", lambda row: _quantile(row, "p90", interval=True), "ms [95 %]"),
    Column("p95", lambda row: _quantile(row, "p95", interval=True), "ms [95 %]"),
    Column("p99", lambda row: _quantile(row, "p99", interval=True), "ms [95 %]"),
    Column(
        "faults/call",
        lambda row: (
            Value(units.significant(row.statistics.minor_faults_per_call, 2))
            if row.statistics
            else row.untimed()
        ),
    ),
    Column(
        "disturbed blocks",
        lambda row: (
            Value(f"{row.statistics.disturbed_blocks} of {row.statistics.blocks}")
            if row.statistics
            else row.untimed()
        ),
    ),
)


def _of_setting(row: CellRow, name: str) -> Value:
    return Value(str(getattr(row.record.cell, name)))


def _pixels(row: CellRow) -> Value:
    cell = row.record.cell
    model = row.summary.run.header.request.models.get(cell.variant)
    return Value(shape(cell, model) if model is not None or cell.resolution == 0 else str(cell.resolution))


def throughput(rows: Sequence[CellRow]) -> Column[CellRow]:
    """What is called with in a second: images, or inputs of another kind."""
    images = all(row.record.cell.resolution for row in rows)
    return Column("images/s" if images else "inputs/s", _throughput)


def speed(rows: Sequence[CellRow]) -> list[Column[CellRow]]:
    """Latency, its tail, and the ratio to eager, which not every file can be given to."""
    files = all(row.record.cell.variant in row.summary.run.header.request.models for row in rows)
    eager = any(row.record.cell.backend == BASELINE for row in rows)
    return [
        MEDIAN,
        Column("p90", lambda row: _quantile(row, "p90"), "ms"),
        Column("p99", lambda row: _quantile(row, "p99"), "ms"),
        Column("min", _minimum, "ms"),
        throughput(rows),
        *([TO_EAGER] if eager or not files else []),
    ]


def deployment(summary: Summary) -> list[Column[CellRow]]:
    """Size, memory, start-up and agreement; the device's own memory where a cell ran on one."""
    on_device = any(
        record.inspected is not None and record.inspected.device_peak_bytes is not None
        for record in summary.run.cells.values()
    )
    extra = [Column("device peak", _device_peak, "MB")] if on_device else []
    columns = list(_DEPLOYMENT)
    if summary.run.evaluation is not None:
        # Not to be taken for the agreement on labelled images.
        columns[-1] = Column("same top-1, inputs of the check", _agreement, "%")
    return [*columns, *extra]


def setting_columns(rows: Sequence[CellRow]) -> list[Column[CellRow]]:
    """A column for each part of the setting that takes more than one value in these rows."""
    columns = {
        "device": Column[CellRow]("device", partial(_of_setting, name="device")),
        "threads": Column[CellRow]("threads", partial(_of_setting, name="threads")),
        "batch": Column[CellRow]("batch", partial(_of_setting, name="batch")),
        "resolution": Column[CellRow]("pixels", _pixels),
    }
    return [
        column
        for name, column in columns.items()
        if len({getattr(row.record.cell, name) for row in rows}) > 1
    ]


def cells_table(
    rows: Sequence[CellRow], columns: Sequence[Column[CellRow]], *, name_variant: bool = False
) -> Table:
    """A table of cells: what they are, then the asked columns."""
    naming = [VARIANT, BACKEND] if name_variant else [BACKEND]
    return build([*naming, *setting_columns(rows), *columns], rows)


class Line(NamedTuple):
    """One backend in one setting, over networks."""

    backend: str
    setting: str
    cells: dict[str, CellRow]
    """Network to cell; at least one."""

    @property
    def first(self) -> CellRow:
        """Any of the cells."""
        return next(iter(self.cells.values()))


def lines(summary: Summary, settings: Sequence[str], *, planned: bool = True) -> list[Line]:
    """Backends in these settings, in planned order.

    Args:
        summary: of the run.
        settings: as `Cell.setting`.
        planned: without what tuning found.
    """
    found: dict[tuple[str, str], Line] = {}
    for row in (CellRow(summary, record) for record in summary.run.cells.values()):
        cell = row.record.cell
        if cell.setting in settings and (summary.planned(cell) or not planned):
            line = found.setdefault((cell.setting, cell.backend), Line(cell.backend, cell.setting, {}))
            line.cells[cell.variant] = row
    return sorted(found.values(), key=lambda line: settings.index(line.setting))


def overview(summary: Summary, settings: Sequence[str]) -> Table:
    """Median latency of every network (columns) on every planned backend (rows): by setting, the fastest first.

    Ablated forms have a table of their own.
    """
    rows = lines(summary, settings)
    variants = [name for name in summary.asked if any(name in line.cells for line in rows)]

    def typical(line: Line) -> float:
        """Mean logarithm over networks; infinite where one was not timed."""
        found = [line.cells[variant].seconds for variant in variants if variant in line.cells]
        return math.fsum(map(math.log, found)) / len(found) if len(found) == len(variants) else math.inf

    def median_of(line: Line, variant: str) -> Value:
        row = line.cells.get(variant)
        return missing("not asked for") if row is None else _median(row, units.compact)

    columns = [Column[Line](variant, partial(median_of, variant=variant)) for variant in variants]
    rows.sort(key=lambda line: (settings.index(line.setting), typical(line)))
    return build([*_naming(rows), *columns], rows)


def against_references(summary: Summary, settings: Sequence[str]) -> Table | None:
    """Ratios of the requested networks to the references on the same backend (rows); None when there are none."""
    request = summary.run.header.request
    found = lines(summary, settings, planned=False)
    present = {variant for line in found for variant in line.cells}
    pairs = [
        (variant, reference)
        for variant in request.variants
        for reference in request.references
        if variant != reference
        and variant not in request.ablated
        and present.issuperset((variant, reference))
    ]

    def ratio_of(line: Line, variant: str, reference: str) -> Value:
        row = line.cells.get(variant)
        return missing("not asked for") if row is None else _to_reference(row, reference)

    columns = [
        Column[Line](
            f"{variant} / {reference}", partial(ratio_of, variant=variant, reference=reference), "[95 %]"
        )
        for variant, reference in pairs
    ]
    # What tuning found for one network was seldom measured for another.
    rows = [
        line
        for line in found
        if any(summary.planned(row.record.cell) for row in line.cells.values())
        or all(line.cells.keys() >= {variant, reference} for variant, reference in pairs)
    ]
    return build([*_naming(rows), *columns], rows) if pairs else None


def _naming(rows: Sequence[Line]) -> list[Column[Line]]:
    """The backend, and what of the setting takes more than one value."""

    def of_first(line: Line, column: Column[CellRow]) -> Value:
        return column.value(line.first)

    return [
        Column[Line]("backend", lambda line: Value(line.backend, code=True), align="left"),
        *(
            Column[Line](column.title, partial(of_first, column=column))
            for column in setting_columns([line.first for line in rows])
        ),
    ]
