"""The run directory: what a finished run leaves on disk, and how any run is read back.

journal.jsonl     every entry as it happened; the truth as long as it is there
run.json          everything but the samples (docs/record-schema.json describes it)
samples.parquet   one row a call, with its block's facts repeated
cells.parquet     one flat row a cell with derived statistics (`mnv3_reports.flat`)

Each file is whole or not there, and the two tables say which moment of the run they are of: files of two moments,
as a writer leaves that was killed between them, are never read as one.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import io
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mnv3_reports import checking, flat, journal
from mnv3_reports.disk import sync_data, sync_directory
from mnv3_reports.escaping import plain
from mnv3_reports.record import SCHEMA_VERSION, Block, Run
from mnv3_reports.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

RUN, SAMPLES, CELLS = "run.json", "samples.parquet", "cells.parquet"
MOMENT = b"mnv3_bench_moment"
"""Key in the tables' own metadata; its value is `moment` of the run that they were written from."""

MOST_CALLS = 20_000_000
"""That `samples.parquet` may hold: hours of a quick network, and some gigabytes of memory; a few kilobytes of a
stranger's may say that they hold any number."""

_PART = ".part"
"""Ending of files that are being written."""

_BLOCK_FACTS = {
    "cell": "string",
    "epoch": "int32",
    "round": "int32",
    "position": "int32",
    "wall_seconds": "float64",
    "cpu_seconds": "float64",
    "involuntary_switches": "int64",
    "minor_faults": "int64",
    "major_faults": "int64",
    "steal_seconds": "float64",
    "pressure_seconds": "float64",
    "throttled_seconds": "float64",
    "other_cpu_seconds": "float64",
    "mhz": "float64",
    "disturbed": "string",
}
"""Columns of samples.parquet that describe a call's block, with Arrow's names of their types."""


class RunDirectoryError(Exception):
    """A run directory cannot be read or written. The message is one line that says what to do about it."""


class _Header(msgspec.Struct):
    schema: int


class _Document(msgspec.Struct):
    """What every version's run.json has."""

    header: _Header


def write_run(run: Run, directory: str | Path) -> list[Path]:
    """Write `run.json`, `cells.parquet` and `samples.parquet`, each complete or not at all.

    Raises:
        RunDirectoryError: a file cannot be written.
    """
    import pyarrow as pa

    directory = Path(directory)
    document = msgspec.json.format(msgspec.json.encode(msgspec.structs.replace(run, blocks=[])), indent=1)
    cells = _table(
        msgspec.json.Encoder().encode_lines(flat.rows(Summary(run))),
        {field.name: pa.type_for_alias(field.kind) for field in flat.FIELDS},
    )
    samples = _samples_table(run.blocks)
    cells, samples = (
        table.replace_schema_metadata({MOMENT: moment(run).encode()}) for table in (cells, samples)
    )
    return [
        write_file(directory / RUN, lambda path: path.write_bytes(document + b"\n")),
        write_file(directory / CELLS, lambda path: path.write_bytes(_parquet(cells))),
        write_file(directory / SAMPLES, lambda path: path.write_bytes(_parquet(samples))),
    ]


def moment(run: Run) -> str:
    """How far a run had come, in a line: the same for files that belong together."""
    ended = run.finished.ended_at if run.finished is not None else "unfinished"
    return f"{run.header.run_id} {len(run.resumed)} {len(run.epochs)} {ended}"


def load_run(directory: str | Path) -> Run:
    """Read a run: from its journal while that is there, otherwise from `run.json` and `samples.parquet`.

    Without whole samples of the same moment there are no latencies; `Run.lost` says so, and everything else is there.

    The journal comes first because it alone is up to date when a run was cut off, or went on later.

    Raises:
        RunDirectoryError: the directory holds no run, or one that cannot be read.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise RunDirectoryError(f"'{directory}' is no directory; give the directory of a run")
    if (directory / journal.NAME).is_file():
        try:
            return journal.assemble(journal.read_journal(directory / journal.NAME))
        except journal.JournalError as error:
            raise RunDirectoryError(str(error)) from error
    if not (directory / RUN).is_file():
        raise RunDirectoryError(
            f"'{directory}' is no run directory: it has neither {journal.NAME} nor {RUN}; "
            "give the directory that a run printed at its end"
        )
    run = _checked(_read_document(directory / RUN), directory / RUN)
    try:
        run.blocks = _read_samples(directory / SAMPLES, moment(run))
    except RunDirectoryError as error:
        run.lost = (f"no cell has a latency here, since {error}",)
        return run
    _checked(run, directory / RUN)
    unknown = next((block.cell for block in run.blocks if block.cell not in run.cells), None)
    if unknown is not None:
        raise RunDirectoryError(
            f"'{directory}' mixes two runs: {SAMPLES} has cell '{plain(unknown)}', {RUN} does not"
        )
    return run


def _checked(run: Run, path: Path) -> Run:
    """The run, which may be anybody's, once it is known to be one.

    Raises:
        RunDirectoryError: it says what cannot be.
    """
    found = checking.fault(run)
    if found is not None:
        raise RunDirectoryError(f"'{path}' is not the record of a run: {found}")
    return run


def write_file(path: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a temporary file beside `path`, then put it in place: readers never see half a file.

    It is on the disk before it is in place, so that a power cut leaves the old file or the new one.

    Raises:
        RunDirectoryError: it cannot be written; what was there before stays.
    """
    temporary, descriptor = None, -1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        temporary, descriptor = _part_of(path)
        temporary.chmod(0o644)
        write(temporary)
        sync_data(descriptor)
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise RunDirectoryError(
            f"cannot write '{path}': {error.strerror or error}; free the space or choose another --output"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if descriptor >= 0:
            os.close(descriptor)
    return path


def _part_of(path: Path) -> tuple[Path, int]:
    """A new file beside another, and its descriptor. As long as that is open the file is locked: its writer lives."""
    while True:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_PART, dir=path.parent)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return Path(name), descriptor
        os.close(descriptor)  # it was swept away before it was locked


def _sweep(path: Path) -> None:
    """Remove what writers of a file that were killed have left beside it, as far as that is possible."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{_PART}"):
        with contextlib.suppress(OSError), left.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()


def write_text(path: Path, text: str) -> Path:
    """`write_file` for text.

    Raises:
        RunDirectoryError: it cannot be written; what was there before stays.
    """
    return write_file(path, lambda temporary: temporary.write_text(text, "utf-8"))


def _read_document(path: Path) -> Run:
    data = path.read_bytes()
    try:
        version = msgspec.json.decode(data, type=_Document).header.schema
        if not journal.readable(version):
            raise RunDirectoryError(journal.wrong_version(path, version))
        run = msgspec.json.decode(data, type=Run)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RunDirectoryError(f"'{path}' is not the record of a run: {plain(str(error))}") from error
    run.header = msgspec.structs.replace(run.header, schema=SCHEMA_VERSION)
    return run


def _table(lines: bytes, columns: dict[str, pa.DataType]) -> pa.Table:
    """JSON lines as a table.

    Arrow's own reader takes them, because building arrays from Python lists would load pandas: half a second and
    60 MB in a process that promises to stay small.
    """
    import pyarrow as pa
    from pyarrow import json

    schema = pa.schema(columns)
    if not lines:
        return schema.empty_table()
    options = json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    # One chunk a table: a line must not be longer than the reader's block.
    return json.read_json(io.BytesIO(lines), json.ReadOptions(block_size=len(lines) + 1), options)


def _parquet(table: pa.Table) -> bytes:
    """A table as a file: made in memory, since Arrow would write it in hundreds of small pieces."""
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd")
    return file.getvalue()


def _samples_table(blocks: list[Block]) -> pa.Table:
    """One row a call. A block without calls keeps one row, with no sample."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lines = [
        {
            **msgspec.structs.asdict(block),
            "block": number,
            "disturbed": ",".join(block.disturbed),
            "samples_ns": block.samples_ns or (None,),
        }
        for number, block in enumerate(blocks)
    ]
    columns = {name: pa.type_for_alias(kind) for name, kind in {"block": "int32", **_BLOCK_FACTS}.items()}
    table = _table(
        msgspec.json.Encoder().encode_lines(lines), {**columns, "samples_ns": pa.list_(pa.int64())}
    )
    samples = table["samples_ns"].combine_chunks()
    rows = table.drop_columns("samples_ns").take(pc.list_parent_indices(samples))
    return rows.append_column("sample_ns", pc.list_flatten(samples))


def _read_samples(path: Path, expected: str) -> list[Block]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if not path.is_file():
        raise RunDirectoryError(f"there is no '{path}'; copy the whole run directory")
    try:
        file = pq.ParquetFile(path)
        # Earlier versions wrote none.
        found = (file.schema_arrow.metadata or {}).get(MOMENT, expected.encode())
        if found != expected.encode():
            raise RunDirectoryError(
                f"'{path}' is of another moment of the run than {RUN}: whoever wrote them was cut off between the two"
            )
        if file.metadata.num_rows > MOST_CALLS:
            raise RunDirectoryError(
                f"'{path}' has {file.metadata.num_rows:,} rows, more than any run has calls"
            )
        table = file.read().combine_chunks()
        if not len(table):
            return []
        index = table["block"].combine_chunks()
        ends = pc.run_end_encode(index).run_ends.to_pylist()
        begins = pc.not_equal(index.slice(1), index.slice(0, len(index) - 1))
        rows = table.select(list(_BLOCK_FACTS))
        facts = pa.concat_tables([rows.slice(0, 1), rows.slice(1).filter(begins)]).to_pylist()
        samples = table["sample_ns"].to_pylist()
        blocks = []
        for fact, begin, end in zip(facts, [0, *ends], ends, strict=False):
            fact["disturbed"] = tuple(filter(None, fact["disturbed"].split(",")))
            calls = tuple(sample for sample in samples[begin:end] if sample is not None)
            # Columns may be of any type.
            blocks.append(msgspec.convert({"type": "block", "samples_ns": calls, **fact}, Block))
    except (KeyError, OSError, ValueError, TypeError, AttributeError, pa.ArrowException) as error:
        raise RunDirectoryError(f"'{path}' does not hold samples of a run: {plain(str(error))}") from error
    return blocks
