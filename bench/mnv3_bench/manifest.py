"""What lies in an entry of the artifact store, how it came to be, and whether it is still what was built."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from mnv3_reports.record import Scalar

MANIFEST = "manifest.json"


class DamagedError(Exception):
    """An entry is not what was built. The message says in a line what of it."""


class Manifest(msgspec.Struct, frozen=True):
    """What lies in an entry and how it came to be."""

    key: dict[str, Any]
    built_at: str
    build_seconds: float
    files: dict[str, int]
    facts: dict[str, Scalar]
    digests: dict[str, str] = {}
    """SHA-256 of every file; without them an entry is not used, since nobody could tell whether it is whole."""
    seal: str = ""
    """SHA-256 of what stands above."""

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())


def digest(key: dict[str, Any]) -> str:
    """The name of an entry: SHA-256 of its key in canonical JSON, shortened to 20 hexadecimal digits."""
    return hashlib.sha256(msgspec.json.encode(key, order="deterministic")).hexdigest()[:20]


def describe(
    directory: Path, key: dict[str, Any], *, build_seconds: float, built_at: str, facts: dict[str, Scalar]
) -> Manifest:
    """The manifest of what lies in a folder.

    Raises:
        OSError: a file cannot be read.
    """
    files = sorted(file for file in directory.rglob("*") if file.is_file())
    names = [str(file.relative_to(directory)) for file in files]
    manifest = Manifest(
        key=key,
        built_at=built_at,
        build_seconds=build_seconds,
        files=dict(zip(names, (file.stat().st_size for file in files), strict=True)),
        facts=facts,
        digests=dict(zip(names, (_file_sha256(file) for file in files), strict=True)),
    )
    return msgspec.structs.replace(manifest, seal=_seal_of(manifest))


def read_manifest(directory: Path) -> Manifest | None:
    """An entry's manifest; None where there is none, or one of a version that kept no hashes.

    Raises:
        DamagedError: it is not what was written.
    """
    try:
        manifest = msgspec.json.decode((directory / MANIFEST).read_bytes(), type=Manifest)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DamagedError(f"{MANIFEST} cannot be read: {error}") from None
    if not manifest.seal and not manifest.digests:
        return None
    names = manifest.digests.keys() == manifest.files.keys()
    if not (names and manifest.seal == _seal_of(manifest) and digest(manifest.key) == directory.name):
        raise DamagedError(f"{MANIFEST} is not what was written")
    return manifest


def compare(directory: Path, manifest: Manifest) -> None:
    """Read every file of an entry.

    Raises:
        DamagedError: one is not what was built.
    """
    for name, expected in manifest.digests.items():
        try:
            found = _file_sha256(directory / name)
        except OSError as error:
            raise DamagedError(f"{name} cannot be read: {error.strerror}") from None
        if found != expected:
            raise DamagedError(f"{name} is not what was built: its SHA-256 differs")


def touched(directory: Path, manifest: Manifest) -> tuple[object, ...]:
    """What changes when one of its files is written again.

    Raises:
        DamagedError: a file is not there.
    """
    try:
        states = [(directory / name).stat() for name in manifest.files]
    except OSError as error:
        raise DamagedError(f"{Path(error.filename).name} cannot be read: {error.strerror}") from None
    return tuple((s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in states)


def _seal_of(manifest: Manifest) -> str:
    """SHA-256 over the fields by name, so that a later version may add some."""
    fields = [
        manifest.key,
        manifest.built_at,
        manifest.build_seconds,
        manifest.files,
        manifest.facts,
        manifest.digests,
    ]
    return hashlib.sha256(msgspec.json.encode(fields, order="deterministic")).hexdigest()


def _file_sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
