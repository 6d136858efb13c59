"""The client's copy of a host's journal: whole lines, on the disk before more is asked for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class Copy:
    """A journal that grows as pieces of another come."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._open()

    def _open(self) -> None:
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        data = self.path.read_bytes()
        # A line that was cut off may have been cut off there, too, and written anew.
        self.size = data.rfind(b"\n") + 1
        os.ftruncate(self._descriptor, self.size)

    def ahead_of(self, size: int, *, certain: bool) -> bool:
        """Whether it holds more than the journal it is a copy of, which then was begun anew.

        Args:
            size: of that journal.
            certain: whether that is being written; where nobody has begun, an empty one is just not there yet.
        """
        return self.size > size and (certain or size > 0)

    def set_aside(self) -> None:
        """Keep it under another name and begin anew."""
        os.close(self._descriptor)
        number = 1
        while (aside := self.path.with_name(f"lost-{number}.jsonl")).exists():
            number += 1
        self.path.rename(aside)
        self._open()

    def extend(self, piece: bytes) -> int:
        """Add a piece's whole lines. Returns how many bytes that were.

        Raises:
            OSError: the disk is full; the copy keeps what it had.
        """
        kept = piece[: piece.rfind(b"\n") + 1]
        try:
            rest = memoryview(kept)
            offset = self.size
            while rest:
                written = os.pwrite(self._descriptor, rest, offset)
                rest, offset = rest[written:], offset + written
            os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, self.size)
            raise
        self.size += len(kept)
        return len(kept)

    def close(self) -> None:
        """No more will come."""
        os.close(self._descriptor)
