"""The client's journal, for appending: an entry is on the disk before it counts."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

import msgspec

from mnv3_bench.errors import RunStoppedError, UsageError
from mnv3_reports.fleet import FLEET, Fleet, FleetEntry, FleetError, FleetStarted, read_fleet

if TYPE_CHECKING:
    from pathlib import Path


class Ledger:
    """An open journal of a fleet, and what it says so far."""

    def __init__(self, directory: Path, descriptor: int, fleet: Fleet) -> None:
        self.directory = directory
        self.fleet = fleet
        self._descriptor = descriptor
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise UsageError(
                f"'{directory}' is being written: that run is still going on; wait for its end"
            ) from None
        self._size = os.fstat(descriptor).st_size

    @classmethod
    def create(cls, directory: Path, header: FleetStarted) -> Ledger:
        """Begin one.

        Raises:
            UsageError: there is one already, or the folder cannot be written.
        """
        path = directory / FLEET
        try:
            directory.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            raise UsageError(
                f"--output: '{path}' exists already; choose another folder, or go on: --resume '{directory}'"
            ) from None
        except OSError as error:
            raise UsageError(f"--output: {directory} cannot be written: {error.strerror}") from None
        ledger = cls(directory, descriptor, Fleet(header))
        ledger._write(header)
        return ledger

    @classmethod
    def resume(cls, directory: Path) -> Ledger:
        """Open an earlier one, and cut off a last line that was never finished.

        Raises:
            UsageError: there is none, or it cannot be read.
        """
        path = directory / FLEET
        try:
            fleet = read_fleet(directory)
            ledger = cls(directory, os.open(path, os.O_WRONLY | os.O_APPEND), fleet)
            ledger._size = path.read_bytes().rfind(b"\n") + 1
            os.ftruncate(ledger._descriptor, ledger._size)
        except FleetError as error:
            raise UsageError(f"--resume: {error}") from None
        except OSError as error:
            raise UsageError(f"--resume: {path} cannot be written: {error.strerror}") from None
        return ledger

    def record(self, entry: FleetEntry) -> None:
        """Keep an entry: on disk first, then in memory.

        Raises:
            RunStoppedError: it cannot be written.
        """
        self._write(entry)
        self.fleet.add(entry)

    def _write(self, entry: FleetEntry) -> None:
        line = msgspec.json.encode(entry) + b"\n"
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            os.fsync(self._descriptor)
        except OSError as error:
            os.ftruncate(self._descriptor, self._size)
            raise RunStoppedError(
                f"'{self.directory / FLEET}': {error.strerror}; make room, then go on: mnv3-bench run --resume "
                f"{self.directory}"
            ) from error
        self._size += len(line)

    def close(self) -> None:
        """No more will be written."""
        os.close(self._descriptor)
