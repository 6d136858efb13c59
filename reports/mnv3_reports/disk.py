"""Having the disk really hold what was written, so that a power cut does not take it back."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

NO_ROOM = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EFBIG: "the file may not become larger; raise the limit (ulimit -f)",
    errno.EROFS: "the file system is read-only; make it writable",
    errno.EIO: "the disk has failed; copy the folder to another one",
}
"""Errors of a disk that takes nothing any more: what is wrong and what to do, before the run goes on."""

# macOS has no fdatasync.
_sync_data = getattr(os, "fdatasync", os.fsync)


def sync_data(descriptor: int) -> None:
    """Return when what was written to a file is on its disk, and its length with it.

    Raises:
        OSError: the disk could not take it, which some file systems say only now.
    """
    _sync_data(descriptor)


def sync_directory(directory: Path) -> None:
    """Return when names that were made or changed in a directory are on the disk.

    Where a directory cannot be opened or synchronised, as on some network file systems, the name is as safe as that
    system makes it.

    Raises:
        OSError: the disk could not take it.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    except PermissionError:
        return  # a folder that may be written and not read
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
