"""Content-addressed store of prepared artifacts.

An entry's name is a hash of everything that shapes it, so a hit needs no checking and two runs may share the store:
an entry is built in a folder of its own and renamed into place whole; who comes second uses what is there.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, Self

import msgspec
import psutil

from mnv3_reports.record import Scalar

MANIFEST = "manifest.json"


class Manifest(msgspec.Struct, frozen=True):
    """What lies in an entry and how it came to be."""

    key: dict[str, Any]
    built_at: str
    build_seconds: float
    files: dict[str, int]
    facts: dict[str, Scalar]

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())


def default_root() -> Path:
    """`$MNV3_BENCH_CACHE`, else `mnv3-bench` in the user's cache directory."""
    own = os.environ.get("MNV3_BENCH_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mnv3-bench"


def digest(key: dict[str, Any]) -> str:
    """The name of an entry: SHA-256 of its key in canonical JSON, shortened to 20 hexadecimal digits."""
    return hashlib.sha256(msgspec.json.encode(key, order="deterministic")).hexdigest()[:20]


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
    """A folder of entries."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, key: dict[str, Any]) -> Path:
        """Where the entry of this key is, or would be."""
        return self.root / digest(key)

    def find(self, key: dict[str, Any]) -> Manifest | None:
        """The manifest of an entry; None when it is not there, or not whole any more."""
        directory = self.path(key)
        try:
            manifest = msgspec.json.decode((directory / MANIFEST).read_bytes(), type=Manifest)
            sizes = {name: (directory / name).stat().st_size for name in manifest.files}
        except (OSError, msgspec.DecodeError):
            return None
        return manifest if sizes == manifest.files else None

    def begin(self, key: dict[str, Any]) -> Building:
        """Open a folder to build an entry in.

        Raises:
            OSError: the store cannot be written.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        self._sweep()
        return Building(self, key, Path(tempfile.mkdtemp(prefix=f"building-{os.getpid()}-", dir=self.root)))

    def _sweep(self) -> None:
        """Remove what runs that were killed while building left behind."""
        for left in self.root.glob("building-*-*"):
            pid = left.name.split("-")[1]
            if pid.isdigit() and not psutil.pid_exists(int(pid)):
                shutil.rmtree(left, ignore_errors=True)


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
        """Write the manifest and move the entry into place, unless another run was first."""
        files = {
            str(file.relative_to(self.directory)): file.stat().st_size
            for file in sorted(self.directory.rglob("*"))
            if file.is_file()
        }
        manifest = Manifest(self.key, built_at, build_seconds, files, facts)
        (self.directory / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
        target = self.store.path(self.key)
        try:
            self.directory.chmod(0o755)
            self.directory.rename(target)
        except OSError:
            existing = self.store.find(self.key)
            if existing is not None:
                return existing
            # What is there has no readable manifest: a broken entry, which nobody can be using.
            shutil.rmtree(target, ignore_errors=True)
            self.directory.rename(target)
        return manifest
