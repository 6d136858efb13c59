"""A run in forms that other tools read: CSV, JSON and pytest-benchmark's JSON."""

from __future__ import annotations

import csv
import io
import math
import statistics
from typing import TYPE_CHECKING, Any

import msgspec

from mnv3_reports import flat
from mnv3_reports.summary import Summary

if TYPE_CHECKING:
    from mnv3_reports.record import Cell, Run
    from mnv3_reports.summary import CellStatistics

PYTEST_BENCHMARK_VERSION = "5.1.0"
"""The pytest-benchmark whose file format this is."""


def to_csv(run: Run) -> str:
    """One line a cell under the columns of `mnv3_reports.flat`; what is not known is an empty field."""
    out = io.StringIO()
    writer = csv.DictWriter(out, [field.name for field in flat.FIELDS], lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat.rows(Summary(run)))
    return out.getvalue()


def to_json(run: Run) -> str:
    """The cells as objects, the printed ratios with their intervals, and what they were measured on."""
    summary = Summary(run)
    document = {
        "schema": run.header.schema,
        "run_id": run.header.run_id,
        "started_at": run.header.started_at,
        "command": run.header.command,
        "complete": run.finished is not None and run.finished.status != "partial",
        "request": run.header.request,
        "machine": run.header.machine,
        "software": run.header.software,
        "cells": flat.rows(summary),
        "ratios": [
            {
                "numerator": ratio.printed.numerator,
                "denominator": ratio.printed.denominator,
                "kind": ratio.printed.kind,
                "ratio": ratio.interval.estimate,
                "low": ratio.interval.low if ratio.interval.bounded else None,
                "high": ratio.interval.high if ratio.interval.bounded else None,
                "epochs": ratio.interval.n,
            }
            for ratio in summary.ratios.values()
        ],
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()


def to_pytest_benchmark(run: Run) -> dict[str, Any]:
    """The timed cells as `pytest-benchmark compare FILE` reads them: one benchmark a cell, one round a call.

    The format is that of pytest-benchmark's own `--benchmark-json`
    (https://pytest-benchmark.readthedocs.io/en/latest/usage.html). Mean and standard deviation are part of
    it; they pool the calls of all epochs, so prefer the median.
    """
    summary = Summary(run)
    samples: dict[str, list[float]] = {}
    for block in run.blocks:
        samples.setdefault(block.cell, []).extend(value / 1e9 for value in block.samples_ns)
    machine = run.header.machine
    return {
        "machine_info": {
            "node": machine.fingerprint,
            "processor": machine.cpu,
            "machine": machine.cpu,
            "python_implementation": "CPython",
            "python_version": run.header.software.python,
            "release": machine.kernel,
            "system": machine.system,
            "cpu": {"brand_raw": machine.cpu, "count": machine.logical_cpus},
        },
        "commit_info": {"id": run.header.software.commit, "project": "mnv3-bench", "dirty": False},
        "benchmarks": [
            _benchmark(record.cell, summary.statistics[record.cell.key], samples[record.cell.key])
            for record in summary.measured
        ],
        "datetime": run.header.started_at,
        "version": PYTEST_BENCHMARK_VERSION,
    }


def _benchmark(cell: Cell, found: CellStatistics, samples: list[float]) -> dict[str, Any]:
    return {
        "group": cell.setting,
        "name": cell.key,
        "fullname": cell.key,
        "params": {"variant": cell.variant, "backend": cell.backend},
        "param": cell.key,
        "extra_info": {
            "median_over_epochs_seconds": found.latency.estimate,
            "epochs": found.epochs,
            "images_per_second": cell.batch / found.latency.estimate,
        },
        "options": {
            "disable_gc": False,
            "timer": "perf_counter_ns",
            "min_rounds": 1,
            "max_time": 0.0,
            "min_time": 0.0,
            "warmup": True,
        },
        "stats": _stats(samples),
    }


def _stats(samples: list[float]) -> dict[str, Any]:
    """pytest-benchmark's statistics, computed as there."""
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
        "data": samples,
        "iterations": 1,
    }


def _hazen(data: list[float], quantile: float) -> float:
    """Hyndman and Fan's type 5, which is what pytest-benchmark's case-by-case quartiles amount to."""
    position = min(max(len(data) * quantile - 0.5, 0.0), len(data) - 1.0)
    below = math.floor(position)
    above = math.ceil(position)
    return data[below] + (position - below) * (data[above] - data[below])
