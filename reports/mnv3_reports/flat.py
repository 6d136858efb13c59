"""One flat row a cell, with units in the column names: what `cells.parquet`, CSV and JSON hold.

The columns and their types are the same for every run, so rows of many runs can be put under each other.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

from mnv3_reports.accuracy import calibration_error, mean_interval, wilson_interval

if TYPE_CHECKING:
    from collections.abc import Callable

    from mnv3_reports.record import CellRecord, Scalar
    from mnv3_reports.statistics import Interval
    from mnv3_reports.summary import Summary

Kind = Literal["string", "int64", "float64", "bool"]
"""Arrow's name of a column's type."""


class Field(NamedTuple):
    """One column."""

    name: str
    kind: Kind
    value: Callable[[Summary, CellRecord], Scalar]


def rows(summary: Summary) -> list[dict[str, Scalar]]:
    """Flatten every planned cell, measured or not; what is not known is None."""
    return [
        {field.name: field.value(summary, record) for field in FIELDS}
        for record in summary.run.cells.values()
    ]


def _header(name: str, value: Callable[[Summary], Scalar]) -> Field:
    return Field(name, "string", lambda summary, _record: value(summary))


def _cell(name: str, kind: Kind) -> Field:
    return Field(name, kind, lambda _summary, record: getattr(record.cell, name))


def _part(part: str, name: str, kind: Kind, column: str | None = None) -> Field:
    """A figure of `prepared`, `inspected` or `failure`."""

    def value(_summary: Summary, record: CellRecord) -> Scalar:
        holder = getattr(record, part)
        return None if holder is None else getattr(holder, name)

    return Field(column or name, kind, value)


def _fidelity(name: str, kind: Kind, column: str) -> Field:
    def value(_summary: Summary, record: CellRecord) -> Scalar:
        fidelity = record.inspected.fidelity if record.inspected else None
        return None if fidelity is None else getattr(fidelity, name)

    return Field(column, kind, value)


def _complexity(name: str, column: str | None = None) -> Field:
    def value(summary: Summary, record: CellRecord) -> Scalar:
        facts = summary.facts(record.cell)
        return None if facts is None or facts.complexity is None else getattr(facts.complexity, name)

    return Field(column or name, "int64", value)


def _statistic(name: str, kind: Kind, column: str | None = None) -> Field:
    def value(summary: Summary, record: CellRecord) -> Scalar:
        statistics = summary.statistics.get(record.cell.key)
        return None if statistics is None else getattr(statistics, name)

    return Field(column or name, kind, value)


def _interval(
    find: Callable[[Summary, CellRecord], Interval | None], name: str, unit: str = ""
) -> tuple[Field, Field, Field]:
    """Estimate and both ends; the ends are None when the interval is unbounded."""

    def end(which: Literal["low", "high"]) -> Callable[[Summary, CellRecord], Scalar]:
        def value(summary: Summary, record: CellRecord) -> Scalar:
            interval = find(summary, record)
            ends = (interval.low, interval.high) if interval is not None else (math.nan,)
            return getattr(interval, which) if all(map(math.isfinite, ends)) else None

        return value

    def estimate(summary: Summary, record: CellRecord) -> Scalar:
        interval = find(summary, record)
        return None if interval is None else interval.estimate

    return (
        Field(f"{name}{unit}", "float64", estimate),
        Field(f"{name}_low{unit}", "float64", end("low")),
        Field(f"{name}_high{unit}", "float64", end("high")),
    )


def _latency(summary: Summary, record: CellRecord) -> Interval | None:
    statistics = summary.statistics.get(record.cell.key)
    return None if statistics is None else statistics.latency


def _quantile(name: str) -> Callable[[Summary, CellRecord], Interval | None]:
    def find(summary: Summary, record: CellRecord) -> Interval | None:
        statistics = summary.statistics.get(record.cell.key)
        return None if statistics is None else statistics.quantiles[name]

    return find


def _to_eager(summary: Summary, record: CellRecord) -> Interval | None:
    ratio = summary.to_eager(record.cell)
    return None if ratio is None else ratio.interval


def _evaluation(name: str, column: str) -> Field:
    def value(summary: Summary, record: CellRecord) -> Scalar:
        found = summary.run.evaluation
        return None if found is None or record.accuracy is None else getattr(found, name)

    return Field(column, "string", value)


def _accuracy(name: str, kind: Kind, column: str) -> Field:
    def value(_summary: Summary, record: CellRecord) -> Scalar:
        return None if record.accuracy is None else getattr(record.accuracy, name)

    return Field(column, kind, value)


def _top1(_summary: Summary, record: CellRecord) -> Interval | None:
    found = record.accuracy
    return wilson_interval(found.top1, found.images) if found is not None else None


def _top5(_summary: Summary, record: CellRecord) -> Interval | None:
    found = record.accuracy
    if found is None or found.top5 is None:
        return None
    return wilson_interval(found.top5, found.images)


def _loss(_summary: Summary, record: CellRecord) -> Interval | None:
    found = record.accuracy
    return mean_interval(found.loss, found.loss_sd, found.images) if found is not None else None


def _calibration(_summary: Summary, record: CellRecord) -> Scalar:
    return calibration_error(record.accuracy.bins) if record.accuracy is not None else None


def _drop(summary: Summary, record: CellRecord) -> Interval | None:
    drop = summary.drop(record.cell)
    return None if drop is None else drop.interval


def _mcnemar(summary: Summary, record: CellRecord) -> Scalar:
    drop = summary.drop(record.cell)
    return None if drop is None else drop.p


def _verdict(summary: Summary, record: CellRecord) -> Scalar:
    drop = summary.drop(record.cell)
    return None if drop is None else drop.verdict


def _against_limit(summary: Summary, record: CellRecord) -> Scalar:
    drop, limit = summary.drop(record.cell), summary.run.header.request.max_drop
    return None if drop is None or limit is None else drop.against(limit)


def _agreement(summary: Summary, record: CellRecord) -> Scalar:
    pairs = record.accuracy.pairs if record.accuracy is not None else None
    drop = summary.drop(record.cell)
    return None if pairs is None or drop is None else pairs.agree / drop.interval.n


def _throughput(summary: Summary, record: CellRecord) -> Scalar:
    interval = _latency(summary, record)
    return None if interval is None else record.cell.batch / interval.estimate


def _status(summary: Summary, record: CellRecord) -> Scalar:
    if record.failure is not None:
        return "failed"
    return "measured" if record.cell.key in summary.statistics else "not measured"


FIELDS: tuple[Field, ...] = (
    _header("run_id", lambda summary: summary.run.header.run_id),
    _header("started_at", lambda summary: summary.run.header.started_at),
    _header("cpu", lambda summary: summary.run.header.machine.cpu),
    _header("machine_fingerprint", lambda summary: summary.run.header.machine.fingerprint),
    _header("software_fingerprint", lambda summary: summary.run.header.software.fingerprint),
    _header("project_version", lambda summary: summary.run.header.software.project_version),
    _header("commit", lambda summary: summary.run.header.software.commit),
    Field("cell", "string", lambda _summary, record: record.cell.key),
    _cell("variant", "string"),
    _cell("backend", "string"),
    _cell("device", "string"),
    _cell("threads", "int64"),
    _cell("batch", "int64"),
    _cell("resolution", "int64"),
    Field("tuned_from", "string", lambda summary, record: summary.defaults.get(record.cell.key)),
    Field("status", "string", _status),
    *_interval(_latency, "latency_median", "_seconds"),
    *(field for name in ("p90", "p95", "p99") for field in _interval(_quantile(name), name, "_seconds")),
    _statistic("minimum", "float64", "minimum_seconds"),
    Field("throughput_images_per_second", "float64", _throughput),
    *_interval(_to_eager, "ratio_to_eager"),
    _statistic("calls", "int64"),
    _statistic("blocks", "int64"),
    _statistic("epochs", "int64"),
    _statistic("epoch_spread", "float64", "epoch_spread_ln"),
    _statistic("disturbed_blocks", "int64"),
    _statistic("minor_faults_per_call", "float64"),
    _statistic("major_faults", "int64"),
    _complexity("macs", "macs_per_image"),
    _complexity("parameters"),
    _complexity("activations", "activations_per_image"),
    _complexity("weight_bytes"),
    _part("prepared", "artifact", "string"),
    _part("prepared", "artifact_bytes", "int64"),
    _part("prepared", "build_seconds", "float64"),
    _part("prepared", "cached", "bool", "build_cached"),
    _part("inspected", "import_seconds", "float64"),
    _part("inspected", "load_seconds", "float64"),
    _part("inspected", "first_seconds", "float64", "first_call_seconds"),
    _part("inspected", "runtime_bytes", "int64", "runtime_resident_bytes"),
    _part("inspected", "peak_bytes", "int64", "peak_resident_bytes"),
    _part("inspected", "device_peak_bytes", "int64"),
    _part("inspected", "device_reserved_bytes", "int64"),
    _part("inspected", "os_threads", "int64"),
    _part("inspected", "warm_calls", "int64"),
    _part("inspected", "steady", "bool"),
    _fidelity("cosine", "float64", "fidelity_cosine"),
    _fidelity("snr_db", "float64", "fidelity_snr_db"),
    _fidelity("top1_agreement", "float64", "fidelity_top1_agreement"),
    _fidelity("samples", "int64", "fidelity_inputs"),
    _fidelity("reference", "string", "fidelity_reference"),
    _evaluation("data", "accuracy_data"),
    _evaluation("fingerprint", "accuracy_data_fingerprint"),
    _accuracy("images", "int64", "accuracy_images"),
    *_interval(_top1, "top1"),
    *_interval(_top5, "top5"),
    *_interval(_drop, "top1_drop"),
    Field("top1_drop_mcnemar_p", "float64", _mcnemar),
    Field("top1_drop_verdict", "string", _verdict),
    Field("top1_drop_against_accepted", "string", _against_limit),
    Field("class_agreement", "float64", _agreement),
    *_interval(_loss, "loss"),
    Field("expected_calibration_error", "float64", _calibration),
    _part("failure", "phase", "string", "failure_phase"),
    _part("failure", "reason", "string", "failure_reason"),
)
"""Every column, in order."""
