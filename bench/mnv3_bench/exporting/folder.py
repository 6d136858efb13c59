"""A folder that is there whole or not at all, and never takes the place of what somebody has."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mnv3_bench.errors import RunStoppedError, UsageError
from mnv3_bench.exporting.manifest import Part

if TYPE_CHECKING:
    from collections.abc import Iterator


def require_new(directory: Path) -> None:
    """Refuse a folder that holds something, an earlier export's included.

    Raises:
        UsageError: it does, or it is no folder.
    """
    if directory.is_dir():
        if any(directory.iterdir()):
            raise UsageError(f"--output: {directory} is not empty; type a folder that is not there yet")
    elif directory.exists() or directory.is_symlink():
        raise UsageError(f"--output: {directory} is no folder; type a folder that is not there yet")


@contextmanager
def whole(directory: Path) -> Iterator[Path]:
    """A folder beside the wanted one, to be filled; it takes its place when the block ends well and put something in
    it, else it is gone.

    Raises:
        UsageError: the place cannot be written, or was taken in the meantime.
        RunStoppedError: writing failed half way, such as for want of space.
    """
    directory = directory.absolute()
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    except OSError as error:
        raise UsageError(f"--output: {directory} cannot be written: {error.strerror}") from None
    try:
        yield building
        if not any(building.iterdir()):
            return
        building.chmod(0o755)  # what mkdtemp makes is its owner's alone
        require_new(directory)
        # Onto an empty folder this is still one step; onto one that was filled meanwhile the system refuses it.
        building.rename(directory)
    except OSError as error:
        raise RunStoppedError(
            f"--output: {directory} could not be written: {error.strerror or error}"
        ) from None
    finally:
        shutil.rmtree(building, ignore_errors=True)


def place(source: Path, folder: Path, name: str) -> Part:
    """Copy a file into a folder under a name of its own, and say what arrived there.

    Raises:
        ValueError: the name is none, leads out of the folder, or is taken.
        OSError: it cannot be copied.
    """
    if name in ("", ".", "..") or Path(name).name != name or "\\" in name:
        raise ValueError(f"'{name}' is no name of a file in {folder}")
    target = folder / name
    if target.exists():
        raise ValueError(f"two files of {folder} are called {name}")
    shutil.copyfile(source, target)
    with target.open("rb") as file:
        return Part(name, hashlib.file_digest(file, "sha256").hexdigest(), target.stat().st_size)
