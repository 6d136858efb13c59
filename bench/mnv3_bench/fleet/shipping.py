"""Prepared artifacts and the user's files, from one machine's folder to another's, in pieces and verified."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import msgspec

from mnv3_bench.cache import MANIFEST, Building, Manifest, Store, default_root, digest
from mnv3_bench.errors import UsageError
from mnv3_bench.fleet.wire import File, WireError
from mnv3_bench.keys import digest_of
from mnv3_bench.model_files import companions
from mnv3_models import parse_variant

if TYPE_CHECKING:
    from collections.abc import Callable

    from mnv3_reports.record import Request

_DIGEST = re.compile(r"[0-9a-f]{20}")
PIECE = 4 << 20
"""Bytes that go in one message."""


def require_plain(name: str) -> PurePosixPath:
    """A relative path that stays where it is put.

    Raises:
        WireError: it would not.
    """
    path = PurePosixPath(name)
    if not name or path.is_absolute() or "\0" in name or "\\" in name or {"..", "."} & set(name.split("/")):
        raise WireError(f"a file that was sent is called {name!r}, which is not a path below a folder")
    return path


def read_piece(path: Path, offset: int) -> bytes:
    """So many bytes of a file from an offset.

    Raises:
        WireError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(PIECE)
    except OSError as error:
        raise WireError(f"{path.name} cannot be read: {error.strerror}") from None


class Receiver:
    """Puts entries of another machine's store into this one's. An entry is there whole or not at all."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._open: dict[str, tuple[Building, Manifest]] = {}

    def lacking(self, digests: list[str]) -> list[str]:
        """Which of these entries are not here."""
        return [name for name in digests if find_named(self.store, name) is None]

    def begin(self, name: str, manifest: bytes) -> None:
        """An entry is about to come.

        Raises:
            WireError: it is not what it is called, or holds a path that leads elsewhere.
            OSError: the store cannot be written.
        """
        told = told_by(manifest)
        if digest(told.key) != name:
            raise WireError(f"an entry was sent as {name} and is {digest(told.key)}")
        for file in told.files:
            require_plain(file)
        self._open[name] = (self.store.begin(told.key), told)

    def piece(self, name: str, file: str, offset: int, data: bytes) -> None:
        """Some bytes of one of its files.

        Raises:
            WireError: nobody began that entry.
            OSError: it cannot be written.
        """
        building, told = self._opened(name)
        if file not in told.files:
            raise WireError(f"{file!r} is no file of {name}")
        target = building.directory / require_plain(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("r+b" if target.exists() else "wb") as stream:
            stream.seek(offset)
            stream.write(data)

    def end(self, name: str, hashes: dict[str, str]) -> None:
        """All of it has come.

        Raises:
            WireError: a file differs from what was sent.
        """
        building, told = self._opened(name)
        with building:
            del self._open[name]
            for file, size in told.files.items():
                path = building.directory / require_plain(file)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
                if path.stat().st_size != size or digest_of_file(path) != hashes.get(file):
                    raise WireError(f"{file} of {name} came damaged; it will be sent again")
            building.finish(build_seconds=told.build_seconds, built_at=told.built_at, facts=told.facts)

    def _opened(self, name: str) -> tuple[Building, Manifest]:
        if name not in self._open:
            raise WireError(f"a piece of {name} came before its beginning")
        return self._open[name]


def told_by(manifest: bytes) -> Manifest:
    """A manifest as it came.

    Raises:
        WireError: it is none.
    """
    try:
        return msgspec.json.decode(manifest, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"the manifest of an entry cannot be read: {error}") from None


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file as it is now."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_named(store: Store, name: str) -> Manifest | None:
    """The manifest of an entry by its name; None when it is not there, or not whole any more."""
    if not _DIGEST.fullmatch(name):
        return None
    try:
        told = msgspec.json.decode((store.root / name / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError):
        return None
    return store.find(told.key) if digest(told.key) == name else None


def manifest_of(store: Store, name: str) -> tuple[bytes, Manifest]:
    """An entry's manifest as it stands and as it reads.

    Raises:
        WireError: there is no such entry.
    """
    found = find_named(store, name)
    if found is None:
        raise WireError(f"there is no whole entry {name} in this store any more")
    return (store.root / name / MANIFEST).read_bytes(), found


def files_of(request: Request) -> tuple[File, ...]:
    """Files of the user's that a host needs, too.

    Raises:
        UsageError: something of the request is not a file that can be sent.
    """
    named = [(path, "--weights") for path in request.weights.values()]
    for variant, model in request.models.items():
        if not parse_variant(variant).is_file:
            raise UsageError(f"--fleet: {model.path} is code, which is not sent to hosts; type --model FILE")
        named.append((model.path, "--model"))
    if any(parse_variant(variant).is_own for variant in request.variants):
        raise UsageError(
            "--fleet: a model of your own is code, which is not sent to hosts; export it, then type --model FILE"
        )
    if request.data is not None and request.data != "digits":
        raise UsageError(
            f"--fleet: --data {request.data} is not sent to hosts; type --data digits, or leave it out"
        )
    found: dict[str, File] = {}
    for text, flag in named:
        parts = [Path(text), *companions(Path(text))] if flag == "--model" else [Path(text)]
        hashes = [digest_of(str(part), flag) for part in parts]
        folder = hashlib.sha256("\n".join(hashes).encode()).hexdigest()[:20]
        for part, sha256 in zip(parts, hashes, strict=True):
            name = os.path.relpath(part, parts[0].parent)
            require_plain(name)
            found[f"{folder}/{name}"] = File(folder, name, str(part), sha256, part.stat().st_size)
    return tuple(found.values())


def place_of(file: File) -> Path:
    """Where a host keeps a file of the client's."""
    return default_root() / "fleet-files" / require_plain(file.folder) / require_plain(file.name)


def localized(request: Request, files: tuple[File, ...], place: Callable[[File], Path] = place_of) -> Request:
    """The same request with files where this host keeps them."""
    places = {file.path: str(place(file)) for file in files}
    return msgspec.structs.replace(
        request,
        weights={variant: places.get(path, path) for variant, path in request.weights.items()},
        models={
            variant: msgspec.structs.replace(model, path=places.get(model.path, model.path))
            for variant, model in request.models.items()
        },
    )
