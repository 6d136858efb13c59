"""The tables of cells, as data: which columns there are and what each shows of a cell."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from mnv3_reports import units
from mnv3_reports.compare import BASELINE
from mnv3_reports.layout import Column, Table, Value, build, missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

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

    def untimed(self) -> Value:
        """What stands for a figure of a cell that was not timed."""
        return missing(self.summary.why_not_timed(self.record.cell.key))


def cell_rows(summary: Summary, variant: str) -> list[CellRow]:
    """The network's cells, in planned order."""
    return [
        CellRow(summary, record) for record in summary.run.cells.values() if record.cell.variant == variant
    ]


def with_interval(
    interval: Interval | None, scale: float, otherwise: Value, write: Write = units.enclosed
) -> Value:
    """An estimate with its interval, or a note on why there is none."""
    if interval is None:
        return otherwise
    return Value(write(interval, scale), None if interval.bounded else ONE_EPOCH)


def _median(row: CellRow, write: Write = units.enclosed) -> Value:
    statistics = row.statistics
    return with_interval(statistics.latency if statistics else None, 1e3, row.untimed(), write)


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
    if cell.variant == reference:
        return Value("1", "the reference itself")
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
    return found.fidelity or missing("logits were not compared with eager fp32 for this cell")


def _snr(row: CellRow) -> Value:
    found = _fidelity(row)
    if isinstance(found, Value):
        return found
    if found.snr_db >= IDENTICAL_DB:
        return Value("≥ 200")
    return Value(f"{found.snr_db:.1f}")


IDENTICAL_DB = 200
"""The record's stand-in for a signal-to-noise ratio without measurable noise."""


def _agreement(row: CellRow) -> Value:
    found = _fidelity(row)
    return found if isinstance(found, Value) else Value(f"{found.top1_agreement * 100:.1f}")


BACKEND = Column[CellRow]("backend", lambda row: Value(row.record.cell.backend), align="left")
VARIANT = Column[CellRow]("network", lambda row: Value(row.record.cell.variant), align="left")
MEDIAN = Column("median", _median, "ms [95 %]")
TO_EAGER = Column("/ eager", _to_eager, "[95 %]")
COMPACT_MEDIAN = Column("median", partial(_median, write=units.compact), "ms")
COMPACT_TO_EAGER = Column("/ eager", partial(_to_eager, write=units.compact))
THROUGHPUT = Column("images/s", _throughput)
PEAK = Column("peak", _memory, "MB")
SNR = Column("SNR", _snr, "dB")

SPEED: tuple[Column[CellRow], ...] = (
    MEDIAN,
    Column("p90", lambda row: _quantile(row, "p90"), "ms"),
    Column("p99", lambda row: _quantile(row, "p99"), "ms"),
    Column("min", _minimum, "ms"),
    THROUGHPUT,
    TO_EAGER,
)
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


def deployment(summary: Summary) -> list[Column[CellRow]]:
    """Size, memory, start-up and agreement; the device's own memory where a cell ran on one."""
    on_device = any(
        record.inspected is not None and record.inspected.device_peak_bytes is not None
        for record in summary.run.cells.values()
    )
    extra = [Column("device peak", _device_peak, "MB")] if on_device else []
    return [*_DEPLOYMENT, *extra]


def setting_columns(summary: Summary) -> list[Column[CellRow]]:
    """A column for each part of the setting that takes more than one value in this run."""
    names = {"device": "device", "threads": "threads", "batch": "batch", "resolution": "pixels"}
    cells = [record.cell for record in summary.run.cells.values()]
    return [
        Column(title, partial(_of_setting, name=name))
        for name, title in names.items()
        if len({getattr(cell, name) for cell in cells}) > 1
    ]


def cells_table(
    summary: Summary,
    rows: Iterable[CellRow],
    columns: Sequence[Column[CellRow]],
    *,
    name_variant: bool = False,
) -> Table:
    """A table of cells: what they are, then the asked columns."""
    naming = [VARIANT, BACKEND] if name_variant else [BACKEND]
    return build([*naming, *setting_columns(summary), *columns], rows)


def overview(summary: Summary) -> Table:
    """Median latency of every network (columns) on every backend and setting (rows)."""

    def median_of(row: CellRow, variant: str) -> Value:
        cell = row.record.cell
        for record in summary.run.cells.values():
            other = record.cell
            if (other.variant, other.backend, other.setting) == (variant, cell.backend, cell.setting):
                found = CellRow(summary, record)
                return _median(found, units.compact)
        return missing("not asked for")

    first: dict[tuple[str, str], CellRow] = {}
    for record in summary.run.cells.values():
        first.setdefault((record.cell.backend, record.cell.setting), CellRow(summary, record))
    columns = [Column[CellRow](variant, partial(median_of, variant=variant)) for variant in summary.variants]
    return cells_table(summary, first.values(), columns)


def against_references(summary: Summary) -> Table | None:
    """Ratios of the requested networks to the references on the same backend; None when there are none."""
    request = summary.run.header.request
    compared = [v for v in request.variants if any(name != v for name in request.references)]
    rows = [row for variant in compared for row in cell_rows(summary, variant)]
    if not rows:
        return None
    columns = [
        Column[CellRow](f"/ {name}", partial(_to_reference, reference=name), "[95 %]")
        for name in request.references
    ]
    return cells_table(summary, rows, columns, name_variant=True)
