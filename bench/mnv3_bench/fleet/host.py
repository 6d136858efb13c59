"""What happens on a host when the client asks: these functions are called by dask, in a worker's process.

Each takes and gives plain data. A measurement is a process of its own (`agent`) whose journal lies in a folder here;
the client reads it from wherever it stopped reading, so that neither a new scheduler nor a new client loses anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from mnv3_bench.cache import Store, default_root
from mnv3_bench.errors import ExitCode
from mnv3_bench.fleet import shipping
from mnv3_bench.fleet.agent import ORDER
from mnv3_bench.fleet.wire import OUTPUT, File, Order, State, WireError, decode, encode, identity
from mnv3_reports.rundir import write_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LABELS = "MNV3_BENCH_LABELS"
"""The variable in which `mnv3-bench worker` leaves its labels for these functions."""
GRACE = 30.0
"""Seconds that an interrupted measurement has to write its last entry."""

_slot = threading.Lock()
"""One measurement at a time in a worker, whatever its scheduler knows of resources."""
_running: dict[str, subprocess.Popen[bytes]] = {}
_waiting: set[str] = set()
_codes: dict[str, int] = {}
_seconds: dict[str, float] = {}
_receiver: shipping.Receiver | None = None


def identify() -> bytes:
    """`Identity` of this host."""
    return encode(identity(json.loads(os.environ.get(LABELS, "{}"))))


def folder(fleet: str, attempt: str) -> Path:
    """Where an attempt lies on this host."""
    return default_root() / "fleet" / shipping.require_plain(fleet) / shipping.require_plain(attempt)


async def measure(data: bytes) -> int:
    """Carry out an `Order`, once the host has nothing else to measure. Gives the exit code of its process.

    A thread of its own waits for that process: one that dask cancels, because its scheduler is gone, goes on.

    Raises:
        WireError: the order cannot be read, or is being carried out.
    """
    order = decode(data, Order)
    name = f"{order.fleet}/{order.attempt}"
    if name in _running or name in _waiting:
        raise WireError(f"{order.attempt} is being measured already")
    place = folder(order.fleet, order.attempt)
    _waiting.add(name)
    _codes.pop(name, None)
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def carry_out() -> None:
        code = int(ExitCode.FAULT)
        try:
            with _slot:
                code = _run_agent(name, place, data)
        finally:
            _codes[name] = code
            _waiting.discard(name)
            with contextlib.suppress(RuntimeError):  # nobody waits any more, where the loop is closed
                loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=carry_out, daemon=True).start()
    await ended.wait()
    return _codes[name]


def _run_agent(name: str, place: Path, order: bytes) -> int:
    place.mkdir(parents=True, exist_ok=True)
    write_file(place / ORDER, lambda path: path.write_bytes(order))
    with (place / OUTPUT).open("ab") as output:
        agent = subprocess.Popen(
            [sys.executable, "-m", "mnv3_bench.fleet.agent", str(place)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    _running[name] = agent
    began = time.monotonic()
    try:
        return agent.wait()
    finally:
        _seconds[name] = time.monotonic() - began
        _running.pop(name, None)
        assert agent.stdin is not None
        with contextlib.suppress(OSError):
            agent.stdin.close()


def stop(fleet: str, attempt: str) -> None:
    """Interrupt an attempt; what it has measured stays in its folder."""
    agent = _running.get(f"{fleet}/{attempt}")
    if agent is None:
        return
    assert agent.stdin is not None
    with contextlib.suppress(OSError):
        agent.stdin.close()  # the agent takes it as the signal to end
    threading.Timer(GRACE, agent.kill).start()


def forget(fleet: str) -> None:
    """Remove what a fleet left on this host, once the client has all of it."""
    shutil.rmtree(default_root() / "fleet" / shipping.require_plain(fleet), ignore_errors=True)


def state(fleet: str, attempt: str, file: str) -> bytes:
    """`State` of an attempt, with the size of one of its files."""
    name = f"{fleet}/{attempt}"
    path = folder(fleet, attempt) / shipping.require_plain(file)
    if name in _running:
        how = "running"
    elif name in _waiting:
        how = "waiting"
    else:
        how = "ended" if name in _codes else "unknown"
    size = path.stat().st_size if path.is_file() else 0
    return encode(State(how, _codes.get(name), _seconds.get(name), size))


def read(fleet: str, attempt: str, file: str, offset: int) -> bytes:
    """Bytes of a file of an attempt, `shipping.PIECE` at most.

    Raises:
        WireError: there is no such file.
    """
    return shipping.read_piece(folder(fleet, attempt) / shipping.require_plain(file), offset)


def listed(fleet: str, attempt: str, below: str) -> list[str]:
    """Files of an attempt below one of its folders."""
    place = folder(fleet, attempt)
    inside = place / shipping.require_plain(below)
    return [str(path.relative_to(place)) for path in sorted(inside.rglob("*")) if path.is_file()]


def lacking(digests: list[str]) -> list[str]:
    """Which entries this host's store does not have."""
    return _receiving().lacking(digests)


def begin_entry(name: str, manifest: bytes) -> None:
    """An entry of the client's store is about to come. Errors as `shipping.Receiver.begin`."""
    _receiving().begin(name, manifest)


def take_piece(name: str, file: str, offset: int, data: bytes) -> None:
    """Some bytes of it. Errors as `shipping.Receiver.piece`."""
    _receiving().piece(name, file, offset, data)


def end_entry(name: str, hashes: dict[str, str]) -> None:
    """All of it has come. Errors as `shipping.Receiver.end`."""
    _receiving().end(name, hashes)


def manifest(name: str) -> bytes:
    """The manifest of an entry that this host has.

    Raises:
        WireError: it has not.
    """
    return shipping.manifest_of(_receiving().store, name)[0]


def entry_piece(name: str, file: str, offset: int) -> bytes:
    """Bytes of a file of an entry that this host has.

    Raises:
        WireError: it has not.
    """
    store = _receiving().store
    _, told = shipping.manifest_of(store, name)
    if file not in told.files:
        raise WireError(f"{file!r} is no file of {name}")
    return shipping.read_piece(store.root / name / file, offset)


def entry_hashes(name: str) -> dict[str, str]:
    """SHA-256 of every file of an entry that this host has.

    Raises:
        WireError: it has not.
    """
    store = _receiving().store
    _, told = shipping.manifest_of(store, name)
    return {file: shipping.digest_of_file(store.root / name / file) for file in told.files}


def lacks_file(data: bytes) -> bool:
    """Whether a `File` of the client's is not here yet, or differs."""
    file = decode(data, File)
    path = shipping.place_of(file)
    return not (path.is_file() and shipping.digest_of_file(path) == file.sha256)


def take_file(data: bytes, offset: int, piece: bytes, last: bool) -> None:
    """Some bytes of a file of the client's; it stands under its name when the last have come.

    Raises:
        WireError: what came is not what was sent.
    """
    file = decode(data, File)
    path = shipping.place_of(file)
    coming = path.with_name(f".{path.name}.coming")
    path.parent.mkdir(parents=True, exist_ok=True)
    with coming.open("r+b" if offset and coming.exists() else "wb") as stream:
        stream.seek(offset)
        stream.write(piece)
    if last:
        if shipping.digest_of_file(coming) != file.sha256:
            coming.unlink()
            raise WireError(f"{file.name} came damaged; it will be sent again")
        coming.replace(path)


ANSWERS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        identify,
        stop,
        forget,
        state,
        read,
        listed,
        lacking,
        begin_entry,
        take_piece,
        end_entry,
        manifest,
        entry_piece,
        entry_hashes,
        lacks_file,
        take_file,
    )
}


def answer(name: str, *arguments: Any) -> tuple[str | None, Any]:
    """Call one of these functions: why it failed, or what it gave. No exception crosses the network."""
    try:
        return None, ANSWERS[name](*arguments)
    except WireError as error:
        return str(error), None
    except OSError as error:
        return f"{error.filename or 'the store'}: {error.strerror or error}", None


def _receiving() -> shipping.Receiver:
    global _receiver
    if _receiver is None:
        _receiver = shipping.Receiver(Store(default_root()))
    return _receiver
