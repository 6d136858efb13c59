"""pytest-benchmark's JSON, out and in.

The format is that of its own `--benchmark-json` (https://pytest-benchmark.readthedocs.io/en/latest/usage.html):
durations are in seconds a call, `data` has one value a round. `pytest-benchmark compare FILE` reads what is written
here.
"""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any

import msgspec

from mnv3_reports.statistics import Interval
from mnv3_reports.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mnv3_reports.record import Cell, Machine, Run
    from mnv3_reports.summary import CellStatistics
    from mnv3_reports.verdict import CellVerdict, GateReport

PYTEST_BENCHMARK_VERSION = "5.1.0"
"""The pytest-benchmark whose file format this is."""
FEW_ROUNDS = "no interval: a side has fewer than two rounds (pytest --benchmark-save-data stores them all)"
_LARGEST_EXPONENT = 709.0
"""exp of more overflows."""


# Out


def document(
    benchmarks: Sequence[Mapping[str, Any]],
    machine: Machine,
    *,
    python: str,
    commit: str | None,
    started_at: str,
    project: str = "mnv3-bench",
) -> dict[str, Any]:
    """A whole file.

    Args:
        benchmarks: as `benchmark` makes them.
        machine: what they were measured on.
        python: version of the interpreter.
        commit: of the measured code, None where it is not known.
        started_at: ISO 8601.
        project: what was measured.
    """
    return {
        "machine_info": {
            "node": machine.fingerprint,
            "processor": machine.cpu,
            "machine": machine.cpu,
            "python_implementation": "CPython",
            "python_version": python,
            "release": machine.kernel,
            "system": machine.system,
            "cpu": {"brand_raw": machine.cpu, "count": machine.logical_cpus},
        },
        "commit_info": {"id": commit, "project": project, "dirty": False},
        "benchmarks": list(benchmarks),
        "datetime": started_at,
        "version": PYTEST_BENCHMARK_VERSION,
    }


def benchmark(
    fullname: str,
    samples: Sequence[float],
    *,
    group: str,
    params: Mapping[str, str] | None = None,
    param: str | None = None,
    extra: Mapping[str, Any],
    name: str | None = None,
    iterations: int = 1,
) -> dict[str, Any]:
    """One benchmark of a file.

    Args:
        fullname: by which files are compared.
        samples: seconds a call, one a round; at least one.
        group: what is listed together.
        params: what it was parametrized with.
        param: the same as one text.
        extra: `extra_info`.
        name: as it is printed; `fullname` unless given.
        iterations: calls a round.
    """
    return {
        "group": group,
        "name": name if name is not None else fullname,
        "fullname": fullname,
        "params": dict(params) if params else None,
        "param": param,
        "extra_info": dict(extra),
        "options": {
            "disable_gc": False,
            "timer": "perf_counter_ns",
            "min_rounds": 1,
            "max_time": 0.0,
            "min_time": 0.0,
            "warmup": True,
        },
        "stats": stats(samples) | {"iterations": iterations},
    }


def to_pytest_benchmark(run: Run) -> dict[str, Any]:
    """The timed cells of a run: one benchmark a cell, one round a call.

    Mean and standard deviation are part of the format; they pool the calls of all epochs, so prefer the median.
    """
    summary = Summary(run)
    samples: dict[str, list[float]] = {}
    for block in run.blocks:
        samples.setdefault(block.cell, []).extend(value / 1e9 for value in block.samples_ns)
    return document(
        [
            _of_cell(record.cell, summary.statistics[record.cell.key], samples[record.cell.key])
            for record in summary.measured
        ],
        run.header.machine,
        python=run.header.software.python,
        commit=run.header.software.commit,
        started_at=run.header.started_at,
    )


def _of_cell(cell: Cell, found: CellStatistics, samples: Sequence[float]) -> dict[str, Any]:
    return benchmark(
        cell.key,
        samples,
        group=cell.setting,
        params={"variant": cell.variant, "backend": cell.backend},
        param=cell.key,
        extra={
            "median_over_epochs_seconds": found.latency.estimate,
            "epochs": found.epochs,
            "images_per_second": cell.batch / found.latency.estimate,
        },
    )


def gate_to_pytest_benchmark(report: GateReport) -> dict[str, Any]:
    """The timed cells of a gate: two benchmarks a cell, `KEY[base]` and `KEY[head]`.

    A report holds no samples: each benchmark has a single round, the geometric mean over epochs of the median call.
    Ratio, interval and verdict are in `extra_info`; they come from paired blocks and do not follow from the two rounds.
    """
    return document(
        [entry for cell in report.cells for entry in _of_verdict(cell)],
        report.machine,
        python=report.head.python,
        commit=report.head.commit,
        started_at=report.started_at,
    )


def _of_verdict(cell: CellVerdict) -> list[dict[str, Any]]:
    sides = {
        "base": (cell.base_cell, cell.base_seconds),
        "head": (cell.cell, cell.head_seconds),
    }
    extra = {
        "verdict": cell.verdict.value,
        "reason": cell.reason,
        "margin": cell.margin,
        "epochs": cell.epochs,
        **ratio_fields(cell.ratio),
    }
    return [
        benchmark(f"{key}[{side}]", [seconds], group=cell.cell, extra={**extra, "arm": side})
        for side, (key, seconds) in sides.items()
        if seconds is not None
    ]


def ratio_fields(ratio: Interval | None) -> dict[str, float | None]:
    """Ratio and both ends of its interval; an end that is unbounded is None, since JSON has no infinity."""
    if ratio is None:
        return {"ratio": None, "low": None, "high": None}
    low, high = (ratio.low, ratio.high) if ratio.bounded else (None, None)
    return {"ratio": ratio.estimate, "low": low, "high": high}


def stats(samples: Sequence[float]) -> dict[str, Any]:
    """pytest-benchmark's statistics of seconds a call, computed as there.

    Raises:
        ValueError: there are no samples.
    """
    if not samples:
        raise ValueError("there are no samples; expected at least one")
    data = sorted(samples)
    n = len(data)
    q1, q3 = _hazen(data, 0.25), _hazen(data, 0.75)
    mean = math.fsum(data) / n
    stddev = statistics.stdev(data) if n > 1 else 0.0
    low_fence, high_fence = q1 - 1.5 * (q3 - q1), q3 + 1.5 * (q3 - q1)
    iqr_outliers = sum(not low_fence <= value <= high_fence for value in data)
    stddev_outliers = sum(not mean - stddev <= value <= mean + stddev for value in data)
    return {
        "min": data[0],
        "max": data[-1],
        "mean": mean,
        "stddev": stddev,
        "rounds": n,
        "median": statistics.median(data),
        "iqr": q3 - q1,
        "q1": q1,
        "q3": q3,
        "iqr_outliers": iqr_outliers,
        "stddev_outliers": stddev_outliers,
        "outliers": f"{stddev_outliers};{iqr_outliers}",
        "ld15iqr": next(value for value in data if value >= low_fence),
        "hd15iqr": next(value for value in reversed(data) if value <= high_fence),
        "ops": 1 / mean,
        "total": math.fsum(data),
        "data": list(samples),
        "iterations": 1,
    }


def _hazen(data: list[float], quantile: float) -> float:
    """Hyndman and Fan's type 5, which is what pytest-benchmark's case-by-case quartiles amount to."""
    position = min(max(len(data) * quantile - 0.5, 0.0), len(data) - 1.0)
    below = math.floor(position)
    above = math.ceil(position)
    return data[below] + (position - below) * (data[above] - data[below])


# In


class _Stats(msgspec.Struct, frozen=True):
    median: float | None = None
    data: list[float] | None = None


class _Benchmark(msgspec.Struct, frozen=True):
    fullname: str
    stats: _Stats


class _File(msgspec.Struct, frozen=True):
    benchmarks: list[_Benchmark]


class StoredRatio(msgspec.Struct, frozen=True):
    """One benchmark of two files. Reported, and no verdict: see `compare_pytest_benchmark`."""

    name: str
    """pytest-benchmark's `fullname`."""
    base_seconds: float | None
    head_seconds: float | None
    """Median round, seconds a call; None where that file lacks the benchmark."""
    ratio: Interval | None
    """Geometric mean of the head's rounds over that of the base's, with a 95 % interval that is too narrow."""
    above_margin: bool
    """The whole interval lies above the margin: worth a gate."""
    note: str | None = None
    """What is missing, one line."""


def read_pytest_benchmark(path: Path) -> dict[str, list[float]]:
    """Seconds a call of every round of every benchmark of a file, by `fullname`.

    pytest-benchmark has divided a round by its iterations before it stores it. A file of `--benchmark-save` without
    `--benchmark-save-data` has no rounds: its benchmarks get their median as the only value.

    Raises:
        ValueError: the file cannot be read, is not pytest-benchmark's, or has a benchmark without a usable duration.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    try:
        file = msgspec.json.decode(text, type=_File)
    except msgspec.ValidationError as error:
        raise ValueError(
            f"{path} is not a file of pytest-benchmark: {error}; expected what pytest --benchmark-json FILE writes"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is not JSON: {error}; expected what pytest --benchmark-json FILE writes"
        ) from None
    found: dict[str, list[float]] = {}
    for entry in file.benchmarks:
        if entry.fullname in found:
            raise ValueError(f"{path} holds {entry.fullname} twice; expected each benchmark once")
        rounds = entry.stats.data or ([entry.stats.median] if entry.stats.median is not None else [])
        if not rounds:
            raise ValueError(
                f"{path}: {entry.fullname} has neither data nor a median; "
                "type pytest --benchmark-json FILE, or --benchmark-save NAME --benchmark-save-data"
            )
        if any(not 0 < value < math.inf for value in rounds):
            raise ValueError(
                f"{path}: {entry.fullname} has a round that took no time, or for ever; expected durations above zero"
            )
        found[entry.fullname] = rounds
    return found


def compare_pytest_benchmark(base: Path, head: Path, margin: float) -> list[StoredRatio]:
    """Ratios of two stored files, head over base, in the base's order; benchmarks that one file lacks are listed too.

    The interval is Welch's for the difference of the mean logarithms of rounds. It is *too narrow*: the files were
    written at different times, so whatever the machine did in between counts as the code's; and the rounds of a file
    come from one process, whose calls are correlated (docs/methodology.md: two identical workers timed one after the
    other differ by several per cent). That is why this is reported and never a verdict of the gate: what looks slower
    here is to be measured again, in pairs.

    Args:
        base: the older file.
        head: the newer file.
        margin: relative slowdown that is tolerated (0.03 is 3 %).

    Raises:
        ValueError: as `read_pytest_benchmark`, or the margin is not positive.
    """
    if not margin > 0:
        raise ValueError(f"a margin of {margin} is zero or below; expected a positive share such as 0.03")
    before, after = read_pytest_benchmark(base), read_pytest_benchmark(head)
    return [
        _stored_ratio(name, before.get(name), after.get(name), margin)
        for name in dict.fromkeys([*before, *after])
    ]


def _stored_ratio(
    name: str, base: Sequence[float] | None, head: Sequence[float] | None, margin: float
) -> StoredRatio:
    from mnv3_reports.sequential import welch_interval

    if base is None or head is None:
        return StoredRatio(
            name,
            statistics.median(base) if base is not None else None,
            statistics.median(head) if head is not None else None,
            ratio=None,
            above_margin=False,
            note=f"only the {'head' if base is None else 'base'} has it",
        )
    logs = welch_interval([math.log(value) for value in head], [math.log(value) for value in base])
    ratio = Interval(_exp(logs.estimate), _exp(logs.low), _exp(logs.high), logs.n)
    return StoredRatio(
        name,
        statistics.median(base),
        statistics.median(head),
        ratio,
        above_margin=ratio.bounded and ratio.low > 1 + margin,
        note=None if ratio.bounded else FEW_ROUNDS,
    )


def _exp(value: float) -> float:
    return math.exp(value) if value < _LARGEST_EXPONENT else math.inf
