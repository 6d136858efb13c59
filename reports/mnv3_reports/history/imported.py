"""Figures of other tools as rows of a history: pytest-benchmark's JSON, asv's results, timm's benchmark CSV.

None of them has what an interval over processes needs, and none has a fingerprint of the machine. So they are series of
their own, of their own source, and reports say what they lack. The same file gives the same rows: to import it twice
changes nothing.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from mnv3_reports.history.places import HistoryError
from mnv3_reports.history.rows import digest, finished, microseconds
from mnv3_reports.pytest_benchmark import read_pytest_benchmark

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mnv3_reports.history.rows import Row

LARGEST = 256_000_000
"""Bytes of a file that is read."""
LARGEST_FIGURE = 1e15
"""Seconds, bytes and the like that anybody can have measured; what is not below it is no figure."""
MOST_COMBINATIONS = 100_000
"""Of one benchmark's parameters: lists of some lines multiply to more than any machine holds."""


class Imported(NamedTuple):
    """A file as rows."""

    source: str
    rows: list[Row]
    left_out: int
    """Benchmarks whose figure is no time and no memory, or that failed."""


def import_file(
    path: Path, *, now: datetime, date: datetime | None = None, machine: str | None = None
) -> Imported:
    """Read a file of another tool; which one is told by what is in it.

    Args:
        path: the file.
        now: when it is imported.
        date: when it was measured, for a CSV of timm, which does not say.
        machine: what to call the machine of such a CSV.

    Raises:
        HistoryError: it cannot be read, or is none of them.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise HistoryError(
                f"'{path}' is larger than {LARGEST / 1e6:.0f} MB; expected results of a benchmark"
            )
        data = path.read_bytes()
    except OSError as error:
        raise HistoryError(f"'{path}' cannot be read: {error.strerror}") from None
    if path.suffix.lower() == ".csv":
        source, found, left_out = _timm(path, data, date, machine)
    else:
        document = _json(path, data)
        if "benchmarks" in document and "machine_info" in document:
            source, found, left_out = _pytest_benchmark(path, document)
        elif "results" in document and "commit_hash" in document:
            source, found, left_out = _asv(path, document)
        else:
            raise _unknown(path)
    if not found:
        raise HistoryError(f"'{path}' holds no time and no memory of a benchmark that ended well")
    common = {
        "source": source,
        "run_id": f"{source}-{hashlib.sha256(data).hexdigest()[:16]}",
        "status": "measured",
        "environment_fingerprint": "",
    }
    return Imported(source, finished([{**common, **row} for row in found], now), left_out)


_Found = tuple[str, "list[Row]", int]


def _json(path: Path, data: bytes) -> dict[str, Any]:
    try:
        # asv writes NaN, which is no JSON but which Python reads.
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise _unknown(path) from None
    if not isinstance(document, dict):
        raise _unknown(path)
    return document


def _unknown(path: Path) -> HistoryError:
    return HistoryError(
        f"'{path}' is not known here; expected pytest-benchmark's --benchmark-json, a results file of asv "
        "(results/MACHINE/COMMIT-….json), or a CSV of timm's benchmark.py"
    )


def _pytest_benchmark(path: Path, document: dict[str, Any]) -> _Found:
    try:
        rounds = read_pytest_benchmark(path)
    except ValueError as error:
        raise HistoryError(str(error)) from None
    machine = _table(document.get("machine_info"))
    cpu = str(
        _table(machine.get("cpu")).get("brand_raw")
        or machine.get("processor")
        or machine.get("machine")
        or ""
    )
    commit = _table(document.get("commit_info")).get("id")
    common = {
        "started_at": _date(path, document.get("datetime")),
        "cpu": cpu,
        # What pytest-benchmark itself tells machines apart by.
        "machine_fingerprint": digest(["pytest-benchmark", machine.get("node"), cpu, machine.get("system")]),
        "kernel": f"{machine.get('system', '')} {machine.get('release', '')}".strip() or None,
        "python": f"{machine.get('python_implementation', '')} {machine.get('python_version', '')}".strip()
        or None,
        "repository_commit": str(commit) if commit else None,
    }
    rows: list[Row] = [
        {
            **common,
            "cell": name,
            "latency_median_seconds": _middle(seconds),
            "minimum_seconds": min(seconds),
            "calls": len(seconds),
        }
        for name, seconds in rounds.items()
    ]
    return "pytest-benchmark", rows, 0


def _asv(path: Path, document: dict[str, Any]) -> _Found:
    """Results of asv in version 2 of its format (asv 0.5 and newer)."""
    columns, results = document.get("result_columns"), _table(document.get("results"))
    columns = columns if isinstance(columns, list) else []
    if document.get("version") != 2 or not columns or not all(isinstance(each, str) for each in columns):
        raise HistoryError(
            f"'{path}' is of an old asv; type 'asv update' in its project, then import it again"
        )
    params = _table(document.get("params"))
    facts = [params.get(name) for name in ("machine", "cpu", "os", "arch", "ram")]
    packages = {
        name: str(version) for name, version in _table(document.get("requirements")).items() if version
    }
    common = {
        "started_at": _milliseconds(path, document.get("date")),
        "cpu": str(params.get("cpu") or params.get("machine") or ""),
        "machine_fingerprint": digest(["asv", *facts]),
        "environment_fingerprint": digest(sorted(_table(document.get("env_vars")).items())),
        "kernel": str(params["os"]) if params.get("os") else None,
        "python": str(document.get("python") or "") or None,
        "packages": json.dumps(packages, sort_keys=True),
        "repository_commit": str(document.get("commit_hash") or "") or None,
    }
    rows: list[Row] = []
    left_out = 0
    for name, values in results.items():
        figures = dict(zip(columns, values, strict=False)) if isinstance(values, list) else {}
        column = _column_of(str(name))
        for suffix, value in _combinations(figures):
            if column is None or not _figure(value):
                left_out += 1
                continue
            figure = round(value) if column.endswith("_bytes") else float(value)
            rows.append(
                {
                    **common,
                    "cell": f"{name}{suffix}",
                    column: figure,
                    "artifact": _text(figures.get("version")),
                }
            )
    return "asv", rows, left_out


def _column_of(benchmark: str) -> str | None:
    """Where a benchmark's figure goes; asv's own naming says what it is (time_, timeraw_, peakmem_)."""
    name = benchmark.rpartition(".")[2].lower()
    if name.startswith(("time", "timeraw")):
        return "latency_median_seconds"
    return "peak_resident_bytes" if name.startswith("peakmem") else None


def _combinations(figures: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every combination of a benchmark's parameters, as asv orders them, with its result."""
    values = figures.get("result")
    params = figures.get("params")
    params = params if isinstance(params, list) else []
    axes = [each if isinstance(each, list) else [each] for each in params]
    names = list(itertools.islice(itertools.product(*axes), MOST_COMBINATIONS))
    # asv writes a single null where all of them failed.
    values = values if isinstance(values, list) else [values] * len(names)
    for chosen, value in zip(names, values, strict=False):
        yield (f"({', '.join(map(str, chosen))})" if chosen else ""), value


def _timm(path: Path, data: bytes, date: datetime | None, machine: str | None) -> _Found:
    """A CSV of inference by timm's benchmark.py."""
    try:
        lines = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise HistoryError(f"'{path}' is no CSV: {error}") from None
    if not lines or not {"model", "infer_step_time", "infer_batch_size"}.issubset(lines[0]):
        raise HistoryError(
            f"'{path}' has no inference times of timm's benchmark.py; expected columns model, infer_step_time, "
            "infer_batch_size, infer_img_size"
        )
    if date is None:
        raise HistoryError(
            f"'{path}' does not say when it was measured; add --date, for example --date 2026-01-31"
        )
    named = machine or path.stem
    rows: list[Row] = []
    left_out = 0
    for line in lines:
        step, batch, pixels = (
            _number(line.get(name)) for name in ("infer_step_time", "infer_batch_size", "infer_img_size")
        )
        if step is None or batch is None or not line["model"]:
            left_out += 1
            continue
        parameters = (_number(line.get("param_count")) or 0) * 1e6  # the file has millions
        rows.append(
            {
                "cell": f"{line['model']}/timm?batch={batch:.0f}&resolution={pixels or 0:.0f}",
                "started_at": microseconds(date.isoformat()),
                "cpu": named,
                "machine_fingerprint": digest(["timm", named]),
                "variant": line["model"],
                "backend": "timm",
                "batch": round(batch),
                "resolution": round(pixels or 0),
                "latency_median_seconds": step / 1e3,
                "parameters": round(parameters) if 0 < parameters < LARGEST_FIGURE else None,
            }
        )
    return "timm", rows, left_out


def _number(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if 0 < value < LARGEST_FIGURE else None


def _figure(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < LARGEST_FIGURE


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    return str(value) if value is not None else None


def _middle(values: list[float]) -> float:
    from mnv3_reports.statistics import median

    return median(values)


def _date(path: Path, value: Any) -> int:
    try:
        return microseconds(str(value))
    except ValueError:
        raise HistoryError(f"'{path}' does not say when it was measured") from None


def _milliseconds(path: Path, value: Any) -> int:
    try:
        return microseconds(datetime.fromtimestamp(float(value) / 1e3, UTC).isoformat())
    except (TypeError, ValueError, OverflowError, OSError):
        raise HistoryError(f"'{path}' does not say when its commit was made") from None
