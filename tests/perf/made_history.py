"""A made history: so many runs of 60 cells over two years, as it would stand after two years of `history add`."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from mnv3_reports.history.places import LocalPlace
from mnv3_reports.history.rows import HISTORY_SCHEMA, OWN, schema_of, to_parquet

if TYPE_CHECKING:
    from pathlib import Path

END = datetime(2026, 11, 20, tzinfo=UTC)
YEARS = timedelta(days=730)
VARIANTS = ("v1", "v2", "v3-large", "v3-small")
BACKENDS = (
    *("eager", "eager-bf16", "torchscript", "compile", "aot-inductor", "quantized-static", "ncnn"),
    *("onnxruntime", "onnxruntime-int8", "onnxruntime-int8-dynamic", "openvino", "openvino-int8"),
    *("litert", "litert-int8", "executorch"),
)
CELLS = 60
SETTING = "threads=1&batch=1&resolution=224&device=cpu"
STEPS = {
    "v3-small/onnxruntime": (0.4, 1.08),
    "v3-small/onnxruntime-int8": (0.7, 0.94),
    "v2/litert": (0.5, 1.1),
}
"""Cell to where in time, as a share, its level changes for good, and by what factor."""
PACKAGES = {f"package-{number}": f"1.{number}.0" for number in range(18)}


def make(root: Path, runs: int, *, singles: int = 40) -> None:
    """Write the history.

    Args:
        root: its folder.
        runs: how many, evenly over two years.
        singles: files of one run each, of the newest month; the rest of it and every other month is one file.
    """
    place = LocalPlace(root)
    starts = np.array(
        [(END - YEARS + YEARS * (n / runs)).replace(tzinfo=None) for n in range(runs)], "M8[us]"
    )
    months = starts.astype("M8[M]")
    for month in np.unique(months):
        numbers = np.flatnonzero(months == month)
        newest = month == months[-1]
        whole = numbers[: max(len(numbers) - singles, 0)] if newest else numbers
        if len(whole):
            place.write(
                f"month={month}/all-{len(whole):016x}.parquet", to_parquet(_table(whole, starts, runs))
            )
        for number in numbers[len(whole) :]:
            name = f"month={month}/run-{number}-{number:016x}.parquet"
            place.write(name, to_parquet(_table(np.array([number]), starts, runs)))


def make_singles(root: Path, runs: int) -> None:
    """The same with a file for every run."""
    place = LocalPlace(root)
    starts = _starts(runs)
    for number in range(runs):
        name = f"month={starts[number].astype('M8[M]')}/run-{number}-{number:016x}.parquet"
        place.write(name, to_parquet(_table(np.array([number]), starts, runs)))


def _starts(runs: int) -> Any:
    return np.array([(END - YEARS + YEARS * (n / runs)).replace(tzinfo=None) for n in range(runs)], "M8[us]")


def _table(numbers: Any, starts: Any, runs: int) -> pa.Table:
    """The rows of some runs, sorted as compaction sorts them."""
    columns: dict[str, list[Any]] = {}
    names = sorted(f"{variant}/{backend}" for variant in VARIANTS for backend in BACKENDS)
    assert len(names) == CELLS
    times, shares = starts[numbers], numbers / runs
    ids = pa.array([f"{starts[n]}".translate(str.maketrans("", "", "-:.")) for n in numbers])
    versions = [
        json.dumps(PACKAGES | {"onnxruntime": "1.20.0" if share < 0.4 else "1.21.0"}) for share in shares
    ]
    for place, name in enumerate(names):
        variant, _, backend = name.partition("/")
        random = np.random.default_rng([place, int(numbers[0])])
        where, factor = STEPS.get(name, (2.0, 1.0))
        noise = random.normal(0, 0.015, len(numbers)) + np.where(random.random(len(numbers)) < 0.02, 0.1, 0)
        median = (2 + place % 13) * 1e-3 * np.where(shares >= where, factor, 1) * np.exp(noise)
        epochs = median[:, None] * np.exp(random.normal(0, 0.01, (len(numbers), 5)))
        size = len(numbers)
        found: dict[str, Any] = {
            "history_schema": np.full(size, HISTORY_SCHEMA),
            "source": [OWN] * size,
            "run_id": ids,
            "revision": ids,
            "started_at": times,
            "ended_at": times + np.timedelta64(240, "s"),
            "added_at": times + np.timedelta64(300, "s"),
            "cpu": ["Made CPU @ 2.50GHz"] * size,
            "machine_fingerprint": ["0123456789abcdef"] * size,
            "environment_fingerprint": ["fedcba9876543210"] * size,
            "kernel": ["Linux 6.18.0"] * size,
            "python": ["CPython 3.11.7"] * size,
            "packages": versions,
            "project_version": ["0.1.0"] * size,
            "commit": [f"{number:012x}" for number in numbers],
            "cell": [f"{name}?{SETTING}"] * size,
            "variant": [variant] * size,
            "backend": [backend] * size,
            "device": ["cpu"] * size,
            **{each: np.full(size, 1) for each in ("threads", "batch")},
            "resolution": np.full(size, 224),
            "status": ["measured"] * size,
            "latency_median_seconds": median,
            "latency_median_low_seconds": median * 0.985,
            "latency_median_high_seconds": median * 1.015,
            "p90_seconds": median * 1.05,
            "minimum_seconds": median * 0.97,
            "calls": np.full(size, 400),
            "epochs": np.full(size, 5),
            "artifact_bytes": np.full(size, 10_000_000 + place),
            "peak_resident_bytes": 200_000_000 + random.integers(0, 1_000_000, size),
            "import_seconds": random.normal(0.3, 0.01, size),
            "load_seconds": random.normal(0.1, 0.01, size),
            "first_call_seconds": median * 3,
            "weights": ["seeded 0, calibrated"] * size,
            "epoch_seconds": list(epochs),
        }
        for key, values in found.items():
            columns.setdefault(key, []).append(values)
    schema = schema_of()
    arrays = []
    for field in schema:
        parts = columns.get(field.name)
        if parts is None:
            arrays.append(pa.nulls(CELLS * len(numbers), field.type))
        else:
            arrays.append(pa.chunked_array([pa.array(part, field.type) for part in parts]).combine_chunks())
    return pa.Table.from_arrays(arrays, schema=schema)
