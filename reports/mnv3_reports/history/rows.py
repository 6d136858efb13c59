"""What a history keeps of a run: one row a cell, with what makes it comparable and what may have changed it.

Columns that `cells.parquet` has too have its names and units (`mnv3_reports.flat`). Times are UTC, without a zone.
Raw samples are not kept; every epoch's median is.
"""

from __future__ import annotations

import hashlib
import io
import re
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import msgspec

from mnv3_reports import flat
from mnv3_reports.fleet import FLEET, HOSTS
from mnv3_reports.rundir import CELLS, MOMENT, moment
from mnv3_reports.statistics import median
from mnv3_reports.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa

    from mnv3_reports.record import Run, Software

HISTORY_SCHEMA = 1
OWN = "mnv3-bench"
"""Source of what this suite measured; other sources are other tools."""

_FROM_CELLS = (
    *("cell", "variant", "backend", "device", "threads", "batch", "resolution", "tuned_from", "status"),
    *("latency_median_seconds", "latency_median_low_seconds", "latency_median_high_seconds"),
    *("p90_seconds", "p90_low_seconds", "p90_high_seconds"),
    *("p99_seconds", "p99_low_seconds", "p99_high_seconds"),
    *("minimum_seconds", "ratio_to_eager", "ratio_to_eager_low", "ratio_to_eager_high"),
    *("calls", "blocks", "epochs", "epoch_spread_ln", "disturbed_blocks"),
    *("macs_per_image", "parameters", "artifact", "artifact_bytes", "build_seconds", "build_cached"),
    *(
        "import_seconds",
        "load_seconds",
        "first_call_seconds",
        "runtime_resident_bytes",
        "peak_resident_bytes",
    ),
    *("device_peak_bytes", "fidelity_snr_db", "fidelity_top1_agreement"),
    *("accuracy_data", "accuracy_data_fingerprint", "top1", "top1_low", "top1_high"),
    *("top1_drop", "top1_drop_low", "top1_drop_high", "failure_phase", "failure_reason"),
)
_OF_RUN = {
    "history_schema": "int64",
    "source": "string",
    "run_id": "string",
    "revision": "string",
    "started_at": "timestamp",
    "ended_at": "timestamp",
    "added_at": "timestamp",
    "host": "string",
    "cpu": "string",
    "machine_fingerprint": "string",
    "environment_fingerprint": "string",
    "kernel": "string",
    "python": "string",
    "packages": "string",
    "project_version": "string",
    "commit": "string",
    "repository_commit": "string",
}
"""`packages` is a JSON object; `environment_fingerprint` is of the variables that workers run with."""
_KINDS = {field.name: str(field.kind) for field in flat.FIELDS}
COLUMNS: dict[str, str] = {
    **_OF_RUN,
    **{name: _KINDS[name] for name in _FROM_CELLS},
    "weights": "string",
    "epoch_seconds": "floats",
}
"""Every column, in order, to its kind: Arrow's name of the type, `timestamp` (microseconds) or `floats`."""
_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1)

Row = dict[str, Any]
"""Column to value; timestamps are microseconds since 1970."""


def rows_of(
    run: Run,
    directory: Path,
    *,
    added_at: datetime,
    repository_commit: str | None = None,
    host: str | None = None,
) -> list[Row]:
    """A run as rows, those of cells that were not measured too.

    Args:
        run: the run.
        directory: of it. Where samples are gone, its `cells.parquet` still has the figures.
        added_at: now.
        repository_commit: of the code that was measured, where somebody knows it.
        host: what the machine is called, where somebody knows it: a record has no name of its own.

    Raises:
        ValueError: the run has no cells, its start is no date, or `cells.parquet` is another run's.
    """
    header = run.header
    summary = Summary(run, directory)
    cells = flat.rows(summary) if not run.lost else _kept(directory, run)
    ended = run.finished.ended_at if run.finished is not None else None
    weights = {(facts.variant, facts.resolution): facts.weights for facts in run.variants}
    seconds = _epoch_seconds(run)
    common: Row = {
        "source": OWN,
        "run_id": header.run_id,
        "started_at": microseconds(header.started_at),
        "ended_at": microseconds(ended) if ended is not None else None,
        "host": host,
        "cpu": header.machine.cpu,
        "machine_fingerprint": header.machine.fingerprint,
        "kernel": f"{header.machine.system} {header.machine.kernel}",
        **software_columns(header.software),
        "repository_commit": repository_commit,
    }
    return finished(
        [
            {
                **{name: cell.get(name) for name in _FROM_CELLS},
                **common,
                "weights": weights.get((str(cell["variant"]), int(str(cell["resolution"])))),
                "epoch_seconds": seconds.get(str(cell["cell"])),
            }
            for cell in cells
        ],
        added_at,
    )


def software_columns(software: Software) -> Row:
    """The columns about versions and variables."""
    return {
        "environment_fingerprint": digest(sorted(software.environment.items())),
        "python": software.python,
        "packages": msgspec.json.encode(dict(sorted(software.packages.items()))).decode(),
        "project_version": software.project_version,
        "commit": software.commit,
    }


def fleet_host(folder: str, holds: Callable[[str], bool]) -> str | None:
    """The host that a run's folder is of, where it lies in a fleet's.

    Args:
        folder: of the run, with `/` between its parts.
        holds: whether there is such a file.
    """
    path = PurePosixPath(folder)
    in_fleet = path.parent.name == HOSTS and holds(str(path.parents[1] / FLEET))
    return path.name if in_fleet else None


def finished(rows: Sequence[Mapping[str, Any]], added_at: datetime) -> list[Row]:
    """Rows of one run with every column, and the revision that is the same as long as the rows are.

    Raises:
        ValueError: there are none.
    """
    if not rows:
        raise ValueError("the run has no cells")
    whole = [{**dict.fromkeys(COLUMNS), **row, "history_schema": HISTORY_SCHEMA} for row in rows]
    revision = digest(whole)
    now = (naive(added_at) - _EPOCH) // _MICROSECOND
    return [{**row, "revision": revision, "added_at": now} for row in whole]


def file_name(rows: Sequence[Row]) -> str:
    """The name of the file of one run's rows, whatever its run calls itself."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", rows[0]["run_id"])[:48].strip("-") or "unnamed"
    return f"{month_of(rows[0]['started_at'])}/run-{readable}-{rows[0]['revision']}.parquet"


def month_of(moment: int) -> str:
    """The folder of a run that started so many microseconds after 1970."""
    started = _EPOCH + moment * _MICROSECOND
    return f"month={started.year:04}-{started.month:02}"


def to_table(rows: Sequence[Row]) -> pa.Table:
    """Rows as a table.

    Arrow's own reader takes them as JSON lines: building arrays from Python lists would load pandas.
    """
    import pyarrow as pa
    from pyarrow import json

    schema = schema_of()
    plain = pa.schema([(f.name, pa.int64() if pa.types.is_timestamp(f.type) else f.type) for f in schema])
    lines = msgspec.json.Encoder().encode_lines(rows)
    options = json.ParseOptions(explicit_schema=plain, unexpected_field_behavior="ignore")
    return json.read_json(io.BytesIO(lines), json.ReadOptions(block_size=len(lines) + 1), options).cast(
        schema
    )


def schema_of() -> pa.Schema:
    """The columns with Arrow's types."""
    import pyarrow as pa

    own = {"timestamp": pa.timestamp("us"), "floats": pa.list_(pa.float64())}
    return pa.schema(
        [(name, own[kind] if kind in own else pa.type_for_alias(kind)) for name, kind in COLUMNS.items()]
    )


def to_parquet(table: pa.Table) -> bytes:
    """A table as a file, with checksums. Row groups are small, so that a query of some cells skips the others."""
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd", row_group_size=8192, write_page_checksum=True)
    return out.getvalue()


def microseconds(text: str) -> int:
    """A date as ISO 8601 writes it, as microseconds since 1970; without a zone it is taken as UTC.

    Raises:
        ValueError: it is no date.
    """
    return (naive(datetime.fromisoformat(text)) - _EPOCH) // _MICROSECOND


def naive(moment: datetime) -> datetime:
    """UTC without a zone, as a history has times."""
    return (moment.astimezone(UTC) if moment.tzinfo is not None else moment).replace(tzinfo=None)


def digest(value: object) -> str:
    """A short hash."""
    return hashlib.sha256(msgspec.json.encode(value)).hexdigest()[:16]


def _epoch_seconds(run: Run) -> dict[str, list[float]]:
    """Every epoch's median call, by cell."""
    samples: dict[str, dict[int, list[int]]] = {}
    for block in run.blocks:
        if block.samples_ns:
            samples.setdefault(block.cell, {}).setdefault(block.epoch, []).extend(block.samples_ns)
    return {
        cell: [median(values) / 1e9 for _, values in sorted(epochs.items())]
        for cell, epochs in samples.items()
    }


def _kept(directory: Path, run: Run) -> list[dict[str, Any]]:
    """The rows of `cells.parquet`, for a run whose samples are gone."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = directory / CELLS
    try:
        file = pq.ParquetFile(path)
        written_at = (file.schema_arrow.metadata or {}).get(MOMENT, moment(run).encode())
        found: list[dict[str, Any]] = file.read().to_pylist()
        if written_at != moment(run).encode() or {row["cell"] for row in found} != run.cells.keys():
            raise ValueError(f"'{path}' is of another run, or of another moment of it, than run.json")
    except (KeyError, OSError, pa.ArrowException) as error:
        raise ValueError(f"'{path}' does not hold cells of a run: {error}") from error
    return found
