"""Where a history lies: a local folder, or an fsspec URL such as s3://bucket/history. Names in it cannot leave it.

A history is Parquet files in folders by month: `month=2026-01/run-….parquet` holds one run,
`month=2026-01/all-….parquet` what was put together. Files are written once, complete or not at all, and never changed.
Other files are not read.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from mnv3_reports import journal
from mnv3_reports.disk import sync_directory
from mnv3_reports.rundir import CELLS, RUN, RunDirectoryError, write_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FILE = re.compile(r"month=\d{4}-\d{2}/(?:run|all)-[A-Za-z0-9-]{1,100}\.parquet")
"""Names of a history's files, from its root."""
MOST_LISTINGS = 50
OBJECT_STORES = frozenset(
    ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci", "r2", "memory")
)
"""Protocols under which an object appears whole or not at all."""
MARKS = (CELLS, RUN, journal.NAME)
"""A folder that holds one of these is one of a run."""
INSTALL = "pip install 'mnv3-bench[history]'"


class HistoryError(Exception):
    """A history cannot be read or written. The message is one line that says what to do about it."""


class Place(Protocol):
    """A folder with a history, with run directories, or with both. Names are relative, with `/`."""

    name: str
    """As it was given."""
    filesystem: Any
    """fsspec's, None for a local folder."""

    def files(self) -> list[str]:
        """The files of the history, sorted."""
        ...

    def runs(self) -> dict[str, frozenset[str]]:
        """The folders of runs beneath, sorted, to which of `MARKS` each holds; '' is the place itself."""
        ...

    def path(self, name: str) -> str:
        """What DuckDB opens a file by."""
        ...

    def holds(self, name: str) -> bool:
        """Whether there is such a file."""
        ...

    def read(self, name: str) -> bytes:
        """A whole file.

        Raises:
            FileNotFoundError: it is not there (any more).
        """
        ...

    def write(self, name: str, data: bytes) -> None:
        """Write a file of the history, complete or not at all, and to stay."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file; one that is gone already is no fault."""
        ...


def open_place(given: str) -> Place:
    """A folder or URL as a place. Nothing is created.

    Raises:
        HistoryError: the URL's protocol is not known, or its package is not installed.
    """
    if "::" in given:
        raise HistoryError(
            f"'{given}' chains file systems; give a folder, or one URL such as s3://bucket/history"
        )
    if given.startswith(("file://", "local://")):
        return LocalPlace(Path(given.partition("://")[2]))
    return RemotePlace(given) if "://" in given else LocalPlace(Path(given))


def settled(listing: Callable[[], list[str]]) -> list[str]:
    """List until two listings agree.

    A listing is not made at one moment: it may miss a compacted file that comes and, later on, the small ones that go
    for it. What is gone then was replaced before, so the next listing has the new file.
    """
    before = listing()
    for _ in range(MOST_LISTINGS):
        now = listing()
        if now == before:
            return now
        before = now
    raise HistoryError(
        "the history changes faster than it can be listed; try again when fewer jobs write to it"
    )


class LocalPlace:
    """A folder. Links in it are not followed."""

    filesystem = None

    def __init__(self, root: Path) -> None:
        self.name = str(root)
        self.root = root.absolute()

    def files(self) -> list[str]:
        """See `Place`."""
        return settled(self._listed)

    def _listed(self) -> list[str]:
        found: list[str] = []
        try:
            months = [entry.name for entry in os.scandir(self.root) if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise HistoryError(f"'{self.name}' cannot be listed: {error.strerror}") from error
        for month in months:
            if month.startswith("month="):
                with suppress(FileNotFoundError):  # it was emptied and removed by hand
                    entries = os.scandir(self.root / month)
                    found += [
                        f"{month}/{entry.name}" for entry in entries if entry.is_file(follow_symlinks=False)
                    ]
        return sorted(name for name in found if FILE.fullmatch(name))

    def runs(self) -> dict[str, frozenset[str]]:
        """See `Place`."""
        return dict(sorted(self._walk()))

    def _walk(self) -> Iterator[tuple[str, frozenset[str]]]:
        for folder, folders, files in os.walk(self.root):
            marks = frozenset(name for name in MARKS if name in files and not Path(folder, name).is_symlink())
            if marks:
                folders.clear()
                yield Path(folder).relative_to(self.root).as_posix().removeprefix("."), marks
            folders[:] = [name for name in folders if not name.startswith((".", "month="))]

    def path(self, name: str) -> str:
        """See `Place`."""
        return str(self.root / name)

    def holds(self, name: str) -> bool:
        """See `Place`."""
        path = self.root / name
        return path.is_file() and not path.is_symlink()

    def read(self, name: str) -> bytes:
        """See `Place`."""
        return (self.root / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        """See `Place`. It is on the disk, under its name, when this returns."""
        path = self.root / checked(name)
        if path.parent.is_symlink():
            raise HistoryError(f"'{path.parent}' is a link; a history's folders are folders of its own")
        try:
            write_file(path, lambda temporary: temporary.write_bytes(data))
            sync_directory(self.root)
        except RunDirectoryError as error:
            raise HistoryError(str(error).replace("--output", "--store")) from error
        except OSError as error:
            raise HistoryError(f"cannot write '{path}': {error.strerror}") from error

    def remove(self, name: str) -> None:
        """See `Place`."""
        try:
            (self.root / checked(name)).unlink(missing_ok=True)
        except OSError as error:
            raise HistoryError(f"cannot remove '{self.root / name}': {error.strerror}") from error


class RemotePlace:
    """A folder behind an fsspec URL."""

    def __init__(self, url: str) -> None:
        try:
            import fsspec
        except ImportError:
            raise HistoryError(f"a history behind a URL needs fsspec; type {INSTALL}") from None
        try:
            self.filesystem, self.root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise HistoryError(f"'{url}' cannot be opened: {' '.join(str(error).split())}") from error
        self.name = url
        self.root = self.root.rstrip("/")
        protocols = self.filesystem.protocol
        self._whole = not OBJECT_STORES.isdisjoint((protocols,) if isinstance(protocols, str) else protocols)

    def files(self) -> list[str]:
        """See `Place`."""
        return settled(lambda: [name for name in self._keys() if FILE.fullmatch(name)])

    def runs(self) -> dict[str, frozenset[str]]:
        """See `Place`."""
        found: dict[str, set[str]] = {}
        for key in map(PurePosixPath, self._keys()):
            if key.name in MARKS:
                found.setdefault(str(key.parent).removeprefix("."), set()).add(key.name)
        return {folder: frozenset(found[folder]) for folder in sorted(found)}

    def _keys(self) -> list[str]:
        try:
            self.filesystem.invalidate_cache()
            found = self.filesystem.find(self.root)
        except FileNotFoundError:
            return []
        except Exception as error:  # each file system raises its own
            raise _refused(f"'{self.name}' cannot be listed", error) from error
        prefix = f"{self.root}/".lstrip("/")
        return sorted(key.lstrip("/").removeprefix(prefix) for key in found)

    def path(self, name: str) -> str:
        """See `Place`."""
        return str(self.filesystem.unstrip_protocol(f"{self.root}/{name}"))

    def holds(self, name: str) -> bool:
        """See `Place`."""
        self.filesystem.invalidate_cache()  # what was listed may be gone
        return bool(self.filesystem.isfile(f"{self.root}/{name}"))

    def read(self, name: str) -> bytes:
        """See `Place`."""
        try:
            return bytes(self.filesystem.cat_file(f"{self.root}/{name}"))
        except FileNotFoundError:
            raise
        except Exception as error:
            raise _refused(f"'{self.path(name)}' cannot be read", error) from error

    def write(self, name: str, data: bytes) -> None:
        """See `Place`."""
        target = f"{self.root}/{checked(name)}"
        try:
            if self._whole:
                self.filesystem.pipe_file(target, data)
                return
            self.filesystem.makedirs(target.rpartition("/")[0], exist_ok=True)
            part = f"{target}.{os.urandom(6).hex()}.part"
            self.filesystem.pipe_file(part, data)
            self.filesystem.mv(part, target)
        except Exception as error:
            raise _refused(f"cannot write '{self.path(name)}'", error) from error

    def remove(self, name: str) -> None:
        """See `Place`."""
        try:
            self.filesystem.rm_file(f"{self.root}/{checked(name)}")
        except FileNotFoundError:
            return
        except Exception as error:
            raise _refused(f"cannot remove '{self.path(name)}'", error) from error


def checked(name: str) -> str:
    """The name of a file of a history.

    Raises:
        HistoryError: it is none.
    """
    if not FILE.fullmatch(name):
        raise HistoryError(f"'{name}' is no name of a history's file")
    return name


def _refused(what: str, error: Exception) -> HistoryError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return HistoryError(f"{what}: {reason}; see that the URL, the credentials and the network are right")
