"""The run directory: what a finished run leaves on disk, and how any run is read back.

journal.jsonl     every entry as it happened; the truth as long as it is there
run.json          everything but the samples (docs/record-schema.json describes it)
samples.parquet   one row a call, with its block's facts repeated
cells.parquet     one flat row a cell with derived statistics (`mnv3_reports.flat`)
"""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mnv3_reports import flat, journal
from mnv3_reports.record import SCHEMA_VERSION, Block, Run
from mnv3_reports.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

RUN, SAMPLES, CELLS = "run.json", "samples.parquet", "cells.parquet"

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
    import pyarrow.parquet as pq

    directory = Path(directory)
    document = msgspec.json.format(msgspec.json.encode(msgspec.structs.replace(run, blocks=[])), indent=1)
    cells = _table(
        msgspec.json.Encoder().encode_lines(flat.rows(Summary(run))),
        {field.name: pa.type_for_alias(field.kind) for field in flat.FIELDS},
    )
    samples = _samples_table(run.blocks)
    return [
        write_file(directory / RUN, lambda path: path.write_bytes(document + b"\n")),
        write_file(directory / CELLS, lambda path: pq.write_table(cells, path, compression="zstd")),
        write_file(directory / SAMPLES, lambda path: pq.write_table(samples, path, compression="zstd")),
    ]


def load_run(directory: str | Path) -> Run:
    """Read a run: from its journal while that is there, otherwise from `run.json` and `samples.parquet`.

    Without whole samples there are no latencies; `Run.lost` says so, and everything else is there.

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
    run = _read_document(directory / RUN)
    try:
        run.blocks = _read_samples(directory / SAMPLES)
    except RunDirectoryError as error:
        run.lost = (f"no cell has a latency here, since {error}",)
        return run
    unknown = next((block.cell for block in run.blocks if block.cell not in run.cells), None)
    if unknown is not None:
        raise RunDirectoryError(
            f"'{directory}' mixes two runs: {SAMPLES} has cell '{unknown}', {RUN} does not"
        )
    return run


def write_file(path: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a temporary file beside `path`, then put it in place: readers never see half a file.

    Raises:
        RunDirectoryError: it cannot be written; what was there before stays.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(descriptor)
        temporary = Path(name)
        temporary.chmod(0o644)
        write(temporary)
        temporary.replace(path)
    except OSError as error:
        raise RunDirectoryError(
            f"cannot write '{path}': {error.strerror or error}; free the space or choose another --output"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path


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
    except msgspec.DecodeError as error:
        raise RunDirectoryError(f"'{path}' is not the record of a run: {error}") from error
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


def _read_samples(path: Path) -> list[Block]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if not path.is_file():
        raise RunDirectoryError(f"there is no '{path}'; copy the whole run directory")
    try:
        table = pq.ParquetFile(path).read().combine_chunks()
        if not len(table):
            return []
        index = table["block"].combine_chunks()
        ends = pc.run_end_encode(index).run_ends.to_pylist()
        begins = pc.not_equal(index.slice(1), index.slice(0, len(index) - 1))
        rows = table.select(list(_BLOCK_FACTS))
        facts = pa.concat_tables([rows.slice(0, 1), rows.slice(1).filter(begins)]).to_pylist()
        samples = table["sample_ns"].to_pylist()
    except (KeyError, OSError, pa.ArrowInvalid) as error:
        raise RunDirectoryError(f"'{path}' does not hold samples of a run: {error}") from error
    blocks = []
    for fact, begin, end in zip(facts, [0, *ends], ends, strict=False):
        fact["disturbed"] = tuple(filter(None, fact["disturbed"].split(",")))
        calls = tuple(sample for sample in samples[begin:end] if sample is not None)
        blocks.append(Block(samples_ns=calls, **fact))
    return blocks
