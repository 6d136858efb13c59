"""What comes over a network in a fleet, and the folder that a fleet's run leaves: messages, entries, journals."""

from __future__ import annotations

import shutil
from functools import cache
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from fuzz import made, reading
from mnv3_bench.cache import Manifest, Store, digest
from mnv3_bench.fleet import shipping, wire
from mnv3_reports import fleet, journal
from mnv3_reports.record import Failure

KEY: dict[str, Any] = {"kind": "artifact", "variant": "v3-small"}


@cache
def messages() -> dict[type[msgspec.Struct], bytes]:
    """One true message of each kind."""
    run = made.runs()[0]
    cell = run.header.cells[0]
    files = (wire.File("a" * 20, "net.onnx", "/tmp/net.onnx", "0" * 64, 7),)
    failed = (Failure(cell, "prepare", "no compiler"),)
    asked = run.header.request
    whole: tuple[msgspec.Struct, ...] = (
        wire.Order(
            "f1", "host/g1", "mnv3-bench", asked, (cell,), False, files, failed=failed, evaluation=None
        ),
        wire.Identity("0.1", 4, "3.11", "abc", run.header.machine, ("eager",), {"board": "pi5"}),
        wire.State("running", None, 1.5, 100),
        wire.Ready({cell: ("a" * 20,)}, failed),
        files[0],
        Manifest(KEY, "2026-01-01T00:00:00+00:00", 1.0, {"net.onnx": 4}, {"opset": 20}),
    )
    return {type(message): msgspec.json.encode(message) for message in whole}


@cache
def ledger() -> list[bytes]:
    """The client's journal of a run over two hosts."""
    run = made.runs()[0]
    cells = run.header.cells
    group = fleet.Group(**{"name": "g1", **_group(cells)})
    entries = _ledger(run, group)
    return [msgspec.json.encode(entry) for entry in entries]


def _group(cells: tuple[str, ...]) -> dict[str, Any]:
    return _filled(fleet.Group, {"name": "g1", "cells": cells})


def _ledger(run: Any, group: Any) -> list[Any]:
    joined = _filled(
        fleet.HostJoined, {"host": "pi", "machine": run.header.machine, "labels": {"board": "pi5"}}
    )
    started = _filled(
        fleet.FleetStarted,
        {
            "schema": fleet.FLEET_SCHEMA,
            "request": run.header.request,
            "command": "mnv3-bench",
            "cells": run.header.cells,
        },
    )
    assigned = _filled(fleet.Assigned, {"group": "g1", "attempt": "pi/g1"})
    ended = _filled(fleet.AttemptEnded, {"group": "g1", "attempt": "pi/g1", "status": "complete"})
    return [
        fleet.FleetStarted(**started),
        fleet.GroupPlanned(group),
        fleet.HostJoined(**joined),
        fleet.Assigned(**assigned),
        fleet.AttemptEnded(**ended),
    ]


def _filled(kind: type[msgspec.Struct], known: dict[str, Any]) -> dict[str, Any]:
    """Fields of a message, with plain values for those that are not given."""
    plain = {str: "x", int: 1, float: 1.0, bool: False}
    found = {}
    for each in msgspec.structs.fields(kind):
        if each.name in known:
            found[each.name] = known[each.name]
        elif each.required:
            found[each.name] = plain.get(each.type, ())
    return found


@st.composite
def sent(draw: st.DrawFn) -> tuple[type[msgspec.Struct], bytes]:
    """A kind of message, and bytes that came as one."""
    kind = draw(st.sampled_from(list(messages())))
    content = messages()[kind]
    if draw(st.integers(0, 3)):
        return kind, msgspec.json.encode(draw(made.changed(msgspec.json.decode(content))))
    return kind, draw(made.damaged(content))


@st.composite
def folders(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """The client's journal, and a host's."""
    lines = list(ledger())
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(lines) - 1))
        lines[place] = msgspec.json.encode(draw(made.changed(msgspec.json.decode(lines[place]), 2)))
    content = b"\n".join(lines) + b"\n"
    of_host = made.journal_of(made.runs()[0]).splitlines(keepends=True)
    if draw(st.booleans()):
        place = draw(st.integers(0, len(of_host) - 1))
        of_host[place] = (
            msgspec.json.encode(draw(made.changed(msgspec.json.decode(of_host[place]), 2))) + b"\n"
        )
    return (draw(made.damaged(content)) if draw(st.integers(0, 3)) == 0 else content), b"".join(of_host)


@given(sent() | folders())
def fuzz(given_: Any) -> None:
    """A message is read or refused in one line, and nothing is written elsewhere; a folder is shown or refused."""
    if isinstance(given_[0], type):
        _message(*given_)
    else:
        _folder(*given_)


def _message(kind: type[msgspec.Struct], content: bytes) -> None:
    root = made.scratch() / "fleet"
    shutil.rmtree(root, ignore_errors=True)
    (root / "store").mkdir(parents=True)
    try:
        if kind is not Manifest:
            message = wire.decode(content, kind)
            if isinstance(message, wire.File):
                shipping.place_of(message)
            return
        receiver = shipping.Receiver(Store(root / "store"))
        told = shipping.told_by(content)
        name = digest(told.key)
        receiver.begin(name, content)
        for file in told.files:
            receiver.piece(name, file, 0, b"onnx")
        receiver.end(name, dict.fromkeys(told.files, "0" * 64))
    except wire.WireError as error:
        made.one_line(error)
    except OSError:
        pass  # the host answers with its text
    assert [path.name for path in root.iterdir()] == ["store"], "something was written beside the store"


def _folder(content: bytes, of_host: bytes) -> None:
    root = made.scratch() / "of-fleet"
    shutil.rmtree(root, ignore_errors=True)
    place = root / fleet.HOSTS / "pi" / "g1"
    place.mkdir(parents=True)
    (root / fleet.FLEET).write_bytes(content)
    (place / journal.NAME).write_bytes(of_host)
    try:
        found = fleet.read_fleet(root)
        for each in fleet.host_runs(root, found):
            reading.show(each.run, root)
    except fleet.FleetError as error:
        made.one_line(error)
