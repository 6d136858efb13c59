"""The figures that a history can be asked for."""

from __future__ import annotations

from typing import NamedTuple

from mnv3_reports.history.places import HistoryError


class Metric(NamedTuple):
    """One figure of a cell."""

    name: str
    """As it is typed."""
    title: str
    value: str
    """SQL over a history's columns; so are the ends of its 95 % interval."""
    low: str = "null"
    high: str = "null"
    scale: float = 1.0
    unit: str = ""
    up: str = "more"
    """What a ratio above 1 is called."""
    down: str = "less"
    data: str = "null"
    """SQL: what it was measured on, where values on other data are not comparable."""


_FASTER = ("slower", "faster")


def _seconds(name: str, title: str, column: str) -> Metric:
    low, high = f"{column}_low_seconds", f"{column}_high_seconds"
    return Metric(name, title, f"{column}_seconds", low, high, 1e3, "ms", *_FASTER)


METRICS = {
    metric.name: metric
    for metric in (
        _seconds("latency", "Median latency of a call", "latency_median"),
        _seconds("p90", "90 % of calls take at most", "p90"),
        _seconds("p99", "99 % of calls take at most", "p99"),
        Metric("minimum", "Shortest call", "minimum_seconds", "null", "null", 1e3, "ms", *_FASTER),
        Metric(
            "ratio-to-eager",
            "Time relative to eager PyTorch in the same run",
            "ratio_to_eager",
            "ratio_to_eager_low",
            "ratio_to_eager_high",
            1.0,
            "x",
            *_FASTER,
        ),
        Metric("memory", "Peak memory of the process", "peak_resident_bytes", scale=1e-6, unit="MB"),
        Metric(
            "size",
            "Size of the artifact",
            "artifact_bytes",
            scale=1e-6,
            unit="MB",
            up="larger",
            down="smaller",
        ),
        Metric(
            "cold-start",
            "Importing, loading and the first call",
            "import_seconds + load_seconds + first_call_seconds",
            scale=1e3,
            unit="ms",
            up="slower",
            down="faster",
        ),
        Metric(
            "accuracy",
            "Images classified correctly",
            "top1",
            "top1_low",
            "top1_high",
            100.0,
            "%",
            "higher",
            "lower",
            data="accuracy_data_fingerprint",
        ),
    )
}
"""Name to metric."""


def metric(name: str) -> Metric:
    """The metric of this name.

    Raises:
        HistoryError: there is none.
    """
    if name not in METRICS:
        raise HistoryError(f"--metric {name} is not known; type one of {', '.join(METRICS)}")
    return METRICS[name]
