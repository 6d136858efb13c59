"""What client and hosts say to each other: plain data, as JSON, so that nothing of ours is unpickled.

(Dask itself pickles the calls that carry it: docs/fleet.md.)
"""

from __future__ import annotations

import hashlib
import platform
from typing import Any, TypeVar

import msgspec

from mnv3_bench import __version__
from mnv3_bench.backends import backend_names, get_backend, missing
from mnv3_bench.cache import source_digest
from mnv3_bench.environment import machine, software
from mnv3_bench.errors import UsageError
from mnv3_reports.record import SCHEMA_VERSION, Evaluation, Failure, Machine, Request

T = TypeVar("T", bound=msgspec.Struct)

JOURNAL, PREPARED, OUTPUT = "journal.jsonl", "prepared.json", "output.log"
SLOT = "mnv3-slot"
"""The worker resource that a measurement takes: one a host."""


class WireError(Exception):
    """A message cannot be read; one line."""


class File(msgspec.Struct, frozen=True):
    """A file of the user's that hosts need: weights or a model."""

    folder: str
    """Hash over it and the files beside it that it needs."""
    name: str
    path: str
    """On the client."""
    sha256: str
    bytes: int


class Order(msgspec.Struct, frozen=True):
    """A group of cells to be measured, or cells to be prepared."""

    fleet: str
    attempt: str
    """HOST/GROUP."""
    command: str
    request: Request
    cells: tuple[str, ...]
    requested: bool
    """Whether backends were asked for by name."""
    files: tuple[File, ...] = ()
    prepare_only: bool = False
    evaluation: Evaluation | None = None
    """What accuracy is measured on."""
    failed: tuple[Failure, ...] = ()
    """What could not be prepared on a host of this platform."""
    timeout: float | None = None
    """Seconds for each order to a worker; None for the limits of each phase."""
    memory_bytes: int | None = None


class Identity(msgspec.Struct, frozen=True):
    """What a host says of itself."""

    project: str
    schema: int
    python: str
    platform: str
    machine: Machine
    backends: tuple[str, ...]
    """That are installed."""
    labels: dict[str, str]


class State(msgspec.Struct, frozen=True):
    """How far an attempt is."""

    state: str
    """unknown, waiting (for the host's slot), running or ended."""
    code: int | None
    """Exit code once it has ended."""
    seconds: float | None
    """That its process ran."""
    size: int
    """Bytes of the file that was asked for."""


class Ready(msgspec.Struct, frozen=True):
    """What was prepared."""

    entries: dict[str, tuple[str, ...]]
    """Cell to digests of what it needs."""
    failed: tuple[Failure, ...]


def encode(message: msgspec.Struct) -> bytes:
    """A message as it is sent."""
    return msgspec.json.encode(message)


def decode(data: bytes, kind: type[T]) -> T:
    """A message as it was sent.

    Raises:
        WireError: it is none of this kind.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"a message of the fleet cannot be read as {kind.__name__}: {error}") from None


def identity(labels: dict[str, str]) -> Identity:
    """This host."""
    facts = machine()
    versions = software()
    shaping: tuple[Any, ...] = (
        facts.cpu,
        facts.isa,
        platform.machine(),
        facts.system,
        facts.gpus,
        versions.python,
        sorted(versions.packages.items()),
        source_digest("mnv3_bench", "mnv3_models", "mnv3_reports"),
    )
    return Identity(
        project=__version__,
        schema=SCHEMA_VERSION,
        python=versions.python,
        platform=hashlib.sha256(msgspec.json.encode(shaping)).hexdigest()[:16],
        machine=facts,
        backends=tuple(name for name in backend_names() if missing(get_backend(name).info) is None),
        labels=labels,
    )


def labels_of(given: list[str]) -> dict[str, str]:
    """`--label board=pi5`, typed once for each.

    Raises:
        UsageError: one is no NAME=VALUE.
    """
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (equals and name.strip() and value.strip()) or set(text) & set(",*?[]"):
            raise UsageError(f"--label {text}: expected NAME=VALUE without , * ? [ ], such as board=pi5")
        found[name.strip()] = value.strip()
    return found
