"""A disk that fills up at a chosen write, for whole processes and all they start, written in C, Python or C++."""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import subprocess
from pathlib import Path

COMPILER = shutil.which("cc") or shutil.which("gcc")
_PLENTY = -1


class FullDisk:
    """Below `folder` there is room for as many writes as `room` says."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        """Args that need a word.

        folder: what is on that disk.
        scratch: another one, for what this needs itself.
        """
        assert COMPILER is not None, "a test that needs it is skipped without"
        scratch.mkdir(parents=True)
        library, state = scratch / "full_disk.so", scratch / "state"
        source = Path(__file__).with_name("full_disk.c")
        subprocess.run(
            [COMPILER, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True
        )
        state.write_bytes(struct.pack("qq", _PLENTY, 0))
        self.environment = {
            "LD_PRELOAD": str(library),
            "FULL_DISK_BELOW": str(folder.resolve()),
            "FULL_DISK_STATE": str(state),
        }
        descriptor = os.open(state, os.O_RDWR)
        self._shared = mmap.mmap(descriptor, 16)
        os.close(descriptor)

    def room(self, writes: int | None) -> None:
        """So many writes fit from now on; None: as many as there are."""
        self._shared[:] = struct.pack("qq", _PLENTY if writes is None else writes, 0)

    @property
    def asked(self) -> int:
        """Writes that were asked for since."""
        return int(struct.unpack("qq", self._shared[:])[1])
