"""The journal: one JSON line an entry, appended while a run goes on, so that a cut-off run can be read.

Every entry is on the disk before `Journal.append` returns, as `mnv3_reports.lines` has it.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING, Self

import msgspec

from mnv3_reports import checking
from mnv3_reports.disk import NO_ROOM
from mnv3_reports.escaping import plain
from mnv3_reports.lines import Lines, finished
from mnv3_reports.record import SCHEMA_VERSION, Block, Entry, Run, RunStarted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

NAME = "journal.jsonl"
"""The journal's file name inside a run directory."""

_OPENING = b'{"type":"started"'

_DECODER: msgspec.json.Decoder[Entry] = msgspec.json.Decoder(Entry)


class JournalError(Exception):
    """A journal cannot be written or read. The message is one line that says what to do about it."""


class _Opening(msgspec.Struct):
    """What every version's first line has."""

    type: str
    schema: int


class Journal:
    """An open journal, for appending. A context manager."""

    def __init__(self, path: Path, lines: Lines) -> None:
        self.path = path
        self._lines = lines

    @classmethod
    def create(cls, path: str | Path) -> Self:
        """Begin a new journal. Its name, and that of its directory, are on the disk before it returns.

        What was cut off within its first line holds nothing, and is begun again.

        Raises:
            JournalError: the file exists already, or cannot be made.
        """
        path = Path(path)
        try:
            return cls(path, Lines.create(path, _OPENING))
        except FileExistsError:
            raise JournalError(
                f"'{path}' exists already; choose another --output, or go on: --resume '{path.parent}'"
            ) from None
        except OSError as error:
            raise JournalError(_why(path, error)) from error

    @classmethod
    def resume(cls, path: str | Path) -> Self:
        """Open an existing journal and cut off a last line that was never finished.

        Raises:
            JournalError: the file is no journal of this very version, or cannot be opened.
        """
        path = Path(path)
        (header, *_) = read_journal(path)
        if isinstance(header, RunStarted) and header.schema != SCHEMA_VERSION:
            # An older mnv3-bench would call it damaged, for what this one adds.
            raise JournalError(
                f"'{path}' was begun with record schema {header.schema} and this mnv3-bench writes schema "
                f"{SCHEMA_VERSION}; start a new run (mnv3-bench report still reads that one)"
            )
        try:
            return cls(path, Lines.resume(path))
        except OSError as error:
            raise JournalError(_why(path, error)) from error

    def append(self, entry: Entry) -> None:
        """Add one entry; it is on the disk when this returns.

        Raises:
            ValueError: the entry could not be read back, such as a figure that is not finite.
            JournalError: it could not be written (disk full); the journal keeps its earlier entries.
        """
        line = msgspec.json.encode(entry)
        try:
            _DECODER.decode(line)
        except msgspec.ValidationError as error:
            raise ValueError(f"a {type(entry).__name__} entry cannot be recorded: {error}") from error
        try:
            self._lines.append(line)
        except OSError as error:
            raise JournalError(_why(self.path, error)) from error

    def close(self) -> None:
        """Close the file. Appending after that is an error."""
        self._lines.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_journal(path: str | Path) -> list[Entry]:
    """Read every finished line. A last line without its newline is a cut-off write and is left out.

    Raises:
        JournalError: the file cannot be read, is no journal, is damaged before its last line, or has a newer schema
            version.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise JournalError(_why(path, error)) from error
    lines = finished(data).split(b"\n")[:-1]
    if not lines:
        raise JournalError(f"'{path}' holds no finished line: nothing was recorded, so start the run again")
    try:
        opening = msgspec.json.decode(lines[0], type=_Opening)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise JournalError(f"'{path}' is no mnv3-bench journal: its first line starts no run") from None
    if opening.type != "started":
        raise JournalError(f"'{path}' is no mnv3-bench journal: its first line starts no run")
    if not readable(opening.schema):
        raise JournalError(wrong_version(path, opening.schema))
    entries: list[Entry] = []
    for number, line in enumerate(lines, start=1):
        try:
            entries.append(_DECODER.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise JournalError(f"'{path}' is damaged in line {number}: {plain(str(error))}") from error
    return entries


def assemble(entries: Sequence[Entry]) -> Run:
    """Put a journal's entries in order. A run of an older schema becomes one of this version.

    Raises:
        JournalError: they are not the entries of one run.
    """
    header = entries[0] if entries else None
    if not isinstance(header, RunStarted):
        raise JournalError("a run's entries begin with its start; these do not")
    try:
        run = Run.started(msgspec.structs.replace(header, schema=SCHEMA_VERSION))
    except ValueError as error:
        raise JournalError(f"the journal is not of one run: {plain(str(error))}") from None
    for entry in entries[1:]:
        try:
            run.add(entry)
            if isinstance(entry, Block):
                run.cells[entry.cell]
        except KeyError as error:
            raise JournalError(
                f"the journal speaks of cell {plain(str(error))}, which its first line does not list"
            ) from None
        except ValueError as error:
            raise JournalError(f"the journal is not of one run: {plain(str(error))}") from None
    found = checking.fault(run)
    if found is not None:
        raise JournalError(f"the journal is not of one run: {found}")
    return run


def readable(schema: int) -> bool:
    """Whether records of this schema version are read here; every older one is."""
    return 1 <= schema <= SCHEMA_VERSION


def wrong_version(path: Path, found: int) -> str:
    """One line for a record of a schema version that is not read here."""
    remedy = "update mnv3-bench to read it" if found > SCHEMA_VERSION else "no version has ever written it"
    return f"'{path}' has record schema {found}, this mnv3-bench reads schema 1 to {SCHEMA_VERSION}; {remedy}"


def _why(path: Path, error: OSError) -> str:
    remedy = {
        **NO_ROOM,
        errno.EAGAIN: "is being written: that run is still going on; wait for its end",
        errno.EACCES: "permission denied; choose another directory with --output",
        errno.EROFS: "the file system is read-only; choose another directory with --output",
        errno.ENOENT: "no such file or directory",
    }.get(error.errno or 0, error.strerror or str(error))
    return f"'{path}': {remedy}"
