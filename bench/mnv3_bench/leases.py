"""Names in use, told to other processes by locks that end with the process, however it ends.

A name is a byte of one lock file, far behind its end: any number of names takes one descriptor and no disk space, and
nothing is left to clean up. Where a file system has no locks, nothing is leased and nothing can be had alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Leases:
    """Leases of one lock file; this process has them until `close`, or until it ends."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._descriptor = -1
        self._writable = False

    def take(self, name: str) -> None:
        """Say that this process uses a name. Others may too; nobody can have it alone meanwhile."""
        if self._open():
            with contextlib.suppress(
                OSError
            ):  # no locks on this file system: nobody can have it alone either
                _lock(self._descriptor, fcntl.F_RDLCK, name, wait=True)

    @contextmanager
    def alone(self, name: str, *, wait: bool = False) -> Iterator[bool]:
        """Have a name that nobody uses, this object included; false where somebody does.

        Args:
            name: which.
            wait: for whoever has it.
        """
        # A descriptor of its own, or the lock would take the place of this object's own lease.
        other = Leases(self.file)
        try:
            yield other._open() and other._writable and other._lock_alone(name, wait=wait)
        finally:
            other.close()

    def close(self) -> None:
        """Give every name back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _lock_alone(self, name: str, *, wait: bool) -> bool:
        try:
            _lock(self._descriptor, fcntl.F_WRLCK, name, wait=wait)
        except OSError:
            return False
        return True

    def _open(self) -> bool:
        """Open the lock file; make it where that is possible."""
        for flags, writable in ((os.O_RDWR | os.O_CREAT, True), (os.O_RDONLY, False)):
            if self._descriptor < 0:
                with contextlib.suppress(OSError):  # such as a store that may only be read
                    self._descriptor = os.open(self.file, flags, 0o666)
                    self._writable = writable
        return self._descriptor >= 0


def _lock(descriptor: int, kind: int, name: str, *, wait: bool) -> None:
    """Lock a name's byte.

    Raises:
        OSError: somebody has it, or there are no such locks.
    """
    if hasattr(fcntl, "F_OFD_SETLK"):
        # Locks of an open file, not of a process: they exclude each other within a process too, and stay when the file
        # is opened and closed elsewhere in it. `struct flock` of Linux; the last field, a process, must be 0.
        offset = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
        order = fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK
        fcntl.fcntl(descriptor, order, struct.pack("@hhqqi4x", kind, os.SEEK_SET, offset, 1, 0))
    else:
        # Python knows them on Linux only. Elsewhere all names are one: what one process uses keeps all of them, also
        # from itself, so that waiting for it would never end.
        fcntl.flock(descriptor, fcntl.LOCK_SH if kind == fcntl.F_RDLCK else fcntl.LOCK_EX | fcntl.LOCK_NB)
