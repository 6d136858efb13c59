"""Content-addressed store of prepared artifacts.

An entry's name is a hash of everything that shapes it, and two runs may share the store: an entry is built in a folder
of its own and renamed into place whole; who comes second uses what is there. Its manifest has a SHA-256 of every file,
which each run compares before it uses the entry; what differs is built anew. Entries in use are leased, and the rest
makes room, least recently used first, when the store grows beyond its limit (docs/durability.md).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import re
import secrets
import shutil
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import msgspec
import psutil

from mnv3_bench.errors import UsageError
from mnv3_bench.leases import Leases
from mnv3_bench.manifest import (
    MANIFEST,
    DamagedError,
    Manifest,
    compare,
    describe,
    digest,
    read_manifest,
    touched,
)
from mnv3_bench.quantities import size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mnv3_reports.record import Scalar

LEASES = ".leases"
BUILDING, REMOVING = "building-", "removing-"
_NAME = re.compile("[0-9a-f]{20}")

LIMIT = "MNV3_BENCH_CACHE_LIMIT"
USUAL_LIMIT = 20 * 10**9
"""Bytes of a store whose limit nobody set. docs/durability.md says why."""


__all__ = [
    "MANIFEST",
    "Building",
    "Manifest",
    "Store",
    "Stored",
    "default_root",
    "digest",
    "file_digest",
    "hold",
    "size_limit",
    "source_digest",
    "versions",
]


class Stored(NamedTuple):
    """An entry, seen from outside."""

    name: str
    size_bytes: int
    used_at: float
    """Seconds since 1970 by the system's clock. It orders what is removed, and decides nothing else."""


def default_root() -> Path:
    """`$MNV3_BENCH_CACHE`, else `mnv3-bench` in the user's cache directory."""
    own = os.environ.get("MNV3_BENCH_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mnv3-bench"


def size_limit() -> int | None:
    """Bytes that a store may take: `$MNV3_BENCH_CACHE_LIMIT`, such as 5GB; None for `none`.

    Raises:
        UsageError: it is no size.
    """
    given = os.environ.get(LIMIT) or None
    if given is None:
        return USUAL_LIMIT
    if given.strip().lower() == "none":
        return None
    try:
        return size(given, LIMIT)
    except UsageError:
        raise UsageError(f"{LIMIT}={given} is not a size; type for example {LIMIT}=20GB, or none") from None


@cache
def file_digest(path: str) -> str:
    """SHA-256 of a file's bytes.

    Raises:
        OSError: it cannot be read.
    """
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def source_digest(*modules: str) -> str:
    """Hash over the sources of packages and modules, found without importing them.

    It is part of every key, so that an edit to a builder or a backend can never be measured from a stale artifact.
    """
    import importlib.util

    total = hashlib.sha256()
    for name in modules:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise ValueError(f"module {name} has no source file")
        places = list(spec.submodule_search_locations or [])
        files = [f for place in places for f in sorted(Path(place).rglob("*.py"))] or [Path(spec.origin)]
        for file in files:
            total.update(file.name.encode())
            total.update(file.read_bytes())
    return total.hexdigest()[:16]


def versions(*distributions: str) -> dict[str, str]:
    """Installed versions; a distribution that is not installed is left out."""
    found = {}
    for name in distributions:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


class Store:
    """A folder of entries. What it found or built stays leased until `close`, or until this process ends."""

    def __init__(self, root: Path) -> None:
        """Args that need a word.

        Raises:
            UsageError: `$MNV3_BENCH_CACHE_LIMIT` is no size.
        """
        self.root = root
        self.limit = size_limit()
        self.leases = Leases(root / LEASES)
        self.damaged: dict[str, str] = {}
        """Entries that were not used because they are not what was built: name to what is wrong, in a line."""
        self._verified: dict[str, tuple[object, ...]] = {}
        self._sizes: dict[str, int] = {}

    def path(self, key: dict[str, Any]) -> Path:
        """Where the entry of this key is, or would be."""
        return self.root / digest(key)

    def find(self, key: dict[str, Any]) -> Manifest | None:
        """The manifest of an entry, which is then leased; None when it is not there, or not what was built.

        The first time that a store finds an entry it reads every byte of it, and later those that were touched.
        """
        name = digest(key)
        self.leases.take(name)
        try:
            manifest = read_manifest(self.root / name)
            if manifest is None:
                return None
            self._verify(name, manifest)
        except DamagedError as error:
            self.damaged[name] = str(error)
            return None
        self.damaged.pop(name, None)
        with contextlib.suppress(OSError):  # a store that may only be read is not trimmed from here
            os.utime(self.root / name)
        return manifest

    def begin(self, key: dict[str, Any]) -> Building:
        """Open a folder to build an entry in.

        Raises:
            OSError: the store cannot be written.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        self.sweep()
        directory = self.root / f"{BUILDING}{secrets.token_hex(8)}"
        self.leases.take(directory.name)  # before it is there, or it could be swept away
        self.leases.take(digest(key))
        directory.mkdir(mode=0o700)
        return Building(self, key, directory)

    def hold(self, name: str) -> None:
        """Lease an entry that another process found or built."""
        self.leases.take(name)

    def in_use(self, name: str) -> bool:
        """Whether a run, or this store, has leased an entry."""
        with self.leases.alone(name) as alone:
            return not alone

    def check(self, name: str) -> str | None:
        """What is wrong with an entry, in a line; None where every byte is as it was built, or it has just gone."""
        leases = Leases(self.leases.file)
        leases.take(name)
        try:
            manifest = read_manifest(self.root / name)
            if manifest is not None:
                compare(self.root / name, manifest)
            elif (self.root / name).exists():
                return f"{MANIFEST} is missing, or of a version that kept no hashes"
        except DamagedError as error:
            return str(error)
        finally:
            leases.close()
        return None

    def entries(self) -> list[Stored]:
        """What is there, least recently used first, without looking into it."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for directory in self.root.iterdir():
                if _NAME.fullmatch(directory.name) is None:
                    continue
                try:
                    used, size = directory.stat().st_mtime, self._size(directory)
                except OSError:
                    continue  # another run has just removed it
                found.append(Stored(directory.name, size, used))
        return sorted(found, key=lambda entry: (entry.used_at, entry.name))

    def remove(self, name: str) -> bool:
        """Remove an entry that no run uses; false where one does."""
        with self.leases.alone(name) as alone:
            gone = self._take_away(self.root / name) if alone else None
        if gone is not None:
            shutil.rmtree(gone, ignore_errors=True)
        return alone

    def trim(self, limit: int) -> list[Stored]:
        """Remove entries that no run uses, least recently used first, until the rest takes at most so many bytes.

        Returns:
            What was removed.
        """
        entries = self.entries()
        total = sum(entry.size_bytes for entry in entries)
        removed = []
        for entry in entries:
            if total <= limit:
                break
            if self.remove(entry.name):
                removed.append(entry)
                total -= entry.size_bytes
        return removed

    def sweep(self) -> None:
        """Remove what runs that were killed while building or removing left behind."""
        for left in self.root.glob(f"{REMOVING}*"):
            shutil.rmtree(left, ignore_errors=True)
        for left in self.root.glob(f"{BUILDING}*"):
            pid = left.name.removeprefix(BUILDING).partition("-")[0]
            if pid.isdigit() and left.name.count("-") == 2:  # made by a version without leases
                if not psutil.pid_exists(int(pid)):
                    shutil.rmtree(left, ignore_errors=True)
                continue
            with self.leases.alone(left.name) as alone:
                if alone:
                    shutil.rmtree(left, ignore_errors=True)

    def close(self) -> None:
        """Give the leases back: entries may be removed by others from now on."""
        self.leases.close()

    def adopt(self, building: Building, manifest: Manifest) -> Manifest:
        """Move a finished entry into place, unless another run was first.

        Raises:
            OSError: it cannot be moved.
        """
        name = digest(building.key)
        target = self.root / name
        try:
            building.directory.rename(target)
        except OSError:
            # One after the other, or the second would take the first one's good entry for the broken one.
            with self.leases.alone(f"replace {name}", wait=True):
                existing = self.find(building.key)
                if existing is not None:
                    return existing
                # What a run has loaded of the old one stays valid: names go, not what is open.
                gone = self._take_away(target)
                building.directory.rename(target)
            if gone is not None:
                shutil.rmtree(gone, ignore_errors=True)
        self._verified[name] = touched(target, manifest)
        if self.limit is not None:
            self.trim(self.limit)
        return manifest

    def _verify(self, name: str, manifest: Manifest) -> None:
        """Compare an entry, unless this store has done so and nothing was written since."""
        state = touched(self.root / name, manifest)
        if self._verified.get(name) != state:
            compare(self.root / name, manifest)
            self._verified[name] = state

    def _size(self, directory: Path) -> int:
        """Bytes of an entry, which never changes."""
        if directory.name not in self._sizes:
            self._sizes[directory.name] = sum(f.stat().st_size for f in directory.rglob("*") if f.is_file())
        return self._sizes[directory.name]

    def _take_away(self, directory: Path) -> Path | None:
        """Give an entry another name, under which nobody looks for it: half of one is never seen. None without one."""
        self._sizes.pop(directory.name, None)
        gone = self.root / f"{REMOVING}{secrets.token_hex(8)}"
        try:
            return directory.rename(gone)
        except FileNotFoundError:
            return None


class Building:
    """An entry under construction. As a context, it removes itself unless it was finished."""

    def __init__(self, store: Store, key: dict[str, Any], directory: Path) -> None:
        self.store = store
        self.key = key
        self.directory = directory

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)

    def finish(self, *, build_seconds: float, built_at: str, facts: dict[str, Scalar]) -> Manifest:
        """Write the manifest and move the entry into place, unless another run was first.

        Then entries that no run uses make room for it, where the store has become larger than its limit.

        Raises:
            OSError: it cannot be stored.
        """
        manifest = describe(
            self.directory, self.key, build_seconds=build_seconds, built_at=built_at, facts=facts
        )
        (self.directory / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
        self.directory.chmod(0o755)
        return self.store.adopt(self, manifest)


def hold(paths: Iterable[Path]) -> None:
    """Lease the entries that these files or folders are of, until this process ends."""
    stores: dict[Path, Store] = {}
    for path in paths:
        entry = path if path.is_dir() else path.parent
        stores.setdefault(entry.parent, Store(entry.parent)).hold(entry.name)
    _HELD.extend(stores.values())


_HELD: list[Store] = []
