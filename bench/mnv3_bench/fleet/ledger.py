"""The client's journal, for appending: an entry is on the disk before it counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from mnv3_bench.errors import RunStoppedError, UsageError
from mnv3_reports.fleet import FLEET, Fleet, FleetEntry, FleetError, FleetStarted, read_fleet
from mnv3_reports.lines import Lines

if TYPE_CHECKING:
    from pathlib import Path


_OPENING = b'{"type":"fleet-started"'


class Ledger:
    """An open journal of a fleet, and what it says so far."""

    def __init__(self, directory: Path, lines: Lines, fleet: Fleet) -> None:
        self.directory = directory
        self.fleet = fleet
        self._lines = lines

    @classmethod
    def create(cls, directory: Path, header: FleetStarted) -> Ledger:
        """Begin one.

        Raises:
            UsageError: there is one already, or the folder cannot be written.
        """
        path = directory / FLEET
        try:
            directory.mkdir(parents=True, exist_ok=True)
            ledger = cls(directory, Lines.create(path, _OPENING), Fleet(header))
        except FileExistsError:
            raise UsageError(
                f"--output: '{path}' exists already; choose another folder, or go on: --resume '{directory}'"
            ) from None
        except BlockingIOError:
            raise UsageError(f"--output: {_busy(directory)}") from None
        except OSError as error:
            raise UsageError(f"--output: {directory} cannot be written: {error.strerror}") from None
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
            read_fleet(directory)  # or the end of what is none of ours would be cut off
            return cls(directory, Lines.resume(path), read_fleet(directory))
        except FleetError as error:
            raise UsageError(f"--resume: {error}") from None
        except BlockingIOError:
            raise UsageError(f"--resume: {_busy(directory)}") from None
        except OSError as error:
            raise UsageError(f"--resume: {path} cannot be written: {error.strerror}") from None

    def record(self, entry: FleetEntry) -> None:
        """Keep an entry: on disk first, then in memory.

        Raises:
            RunStoppedError: it cannot be written.
        """
        self._write(entry)
        self.fleet.add(entry)

    def _write(self, entry: FleetEntry) -> None:
        try:
            self._lines.append(msgspec.json.encode(entry))
        except OSError as error:
            raise RunStoppedError(
                f"'{self.directory / FLEET}': {error.strerror}; make room, then go on: mnv3-bench run --resume "
                f"{self.directory}"
            ) from error

    def close(self) -> None:
        """No more will be written."""
        self._lines.close()


def _busy(directory: Path) -> str:
    return f"'{directory}' is being written: that run is still going on; wait for its end"
