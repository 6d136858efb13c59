"""A file of lines that only grows: a line is on the disk before `Lines.append` returns, and half a line is none.

Neither killing the process nor a power cut loses what was appended. What that takes (docs/durability.md has figures) is
spent between blocks, while every worker is paused.
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import TYPE_CHECKING, Self

from mnv3_reports.disk import sync_data, sync_directory

if TYPE_CHECKING:
    from pathlib import Path


class Lines:
    """An open file of lines, for appending; it has one writer at a time.

    Raises:
        BlockingIOError: another process is writing it.
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path, flags: int = 0) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | flags, 0o644)
        try:
            # Two writers would tear each other's lines.
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise
        self._size = os.fstat(self._descriptor).st_size

    @classmethod
    def create(cls, path: Path, opening: bytes) -> Self:
        """Begin a file. Its name, and that of its directory, are on the disk before it returns.

        What was cut off within its first line holds nothing, and is begun again.

        Args:
            path: of the file.
            opening: how the first line of every such file begins.

        Raises:
            FileExistsError: it has a line already, or begins otherwise.
            BlockingIOError: another process has just begun it.
            OSError: it cannot be made.
        """
        if _begun(path, opening):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        lines = cls(path, os.O_CREAT)
        try:
            if _begun(path, opening):  # by another process, before this one had the lock
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(path))
            lines._cut(0)
            for directory in (path.absolute().parent, path.absolute().parent.parent):
                sync_directory(directory)
        except OSError:
            lines.close()
            raise
        return lines

    @classmethod
    def resume(cls, path: Path) -> Self:
        """Open an existing file and cut off a last line that was never finished.

        Raises:
            BlockingIOError: another process is writing it.
            OSError: it cannot be opened.
        """
        lines = cls(path)
        lines._cut(len(finished(path.read_bytes())))
        return lines

    def append(self, line: bytes) -> None:
        """Add a line, given without its end; it is on the disk when this returns.

        Raises:
            OSError: it could not be written (disk full); the earlier lines stay as they are.
        """
        whole = line + b"\n"
        rest = memoryview(whole)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            sync_data(self._descriptor)
        except OSError:
            # Half a line must not stay in front of later ones.
            self._cut(self._size)
            raise
        self._size += len(whole)

    def _cut(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)
        self._size = size

    def close(self) -> None:
        """Close the file. Appending after that is an error."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def finished(data: bytes) -> bytes:
    """All finished lines: what comes after the last newline is a cut-off write."""
    return data[: data.rfind(b"\n") + 1]


def _begun(path: Path, opening: bytes) -> bool:
    """Whether a file is there that is more than a cut-off first line of ours."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return False
    return bool(finished(data)) or not data.startswith(opening[: len(data)])
