"""What fuzzers start from and what they do to it: small true records, and changes of JSON and of bytes."""

from __future__ import annotations

import atexit
import copy
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import strategies as st
from reports import factory

from mnv3_reports.record import (
    Activations,
    Candidate,
    LayerCost,
    MemoryStep,
    Note,
    Profiled,
    ProfiledOperator,
    Roof,
    Roofs,
    Run,
    RunResumed,
    Skipped,
)

STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 2**31, 2**53, 2**63, 2**64, -(2**63), 10**30),
    *(0.0, -0.0, -1.5, 1e-320, 1e-9, 1e18, 1e300, -1e300, 1.7976931348623157e308),
    *(
        "",
        " ",
        "\x00",
        "\x1b[2J\x1b]0;x\x07",
        "../../etc/passwd",
        "/etc/passwd",
        "=1+1",
        "v3-small",
        "nan",
        "1e999",
    ),
    *(
        factory.HOSTILE,
        "\u202e",
        "\ud7ff\uffff",
        "x" * 3000,
        "a\nb\r\nc",
        "</script>",
        "[/bold]",
        "[link=x]y",
        "%s{0}",
    ),
    *([], {}, [[]], [1, 2, 3], {"": ""}, [None], ["", ""], {"a": {"b": [1.5]}}),
)
"""Values that some reader of a file somewhere takes badly."""


def strange() -> st.SearchStrategy[Any]:
    """A value for any place of a document."""
    return st.one_of(
        st.sampled_from(STRANGE),
        st.integers(-(2**65), 2**65),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=20),
    )


def said(error: Exception) -> str:
    """What is wrong; a library's caller gets names as they were, which the command line makes one line of."""
    message = str(error)
    assert message.strip(), f"{type(error).__name__} says nothing"
    return message


def one_line(error: Exception) -> None:
    """What a user is told is a line, and no less."""
    assert len(said(error).splitlines()) == 1, str(error)


def alike(value: Any) -> st.SearchStrategy[Any]:
    """Another value of the same type, which typed decoding lets through."""
    match value:
        case bool():
            return st.booleans()
        case int():
            known = tuple(each for each in STRANGE if isinstance(each, int) and not isinstance(each, bool))
            return st.sampled_from(known) | st.integers(-(2**65), 2**65)
        case float():
            known = tuple(each for each in STRANGE if isinstance(each, float))
            return st.sampled_from(known) | st.floats(allow_nan=False, allow_infinity=False)
        case str():
            return st.sampled_from(tuple(each for each in STRANGE if isinstance(each, str))) | st.text(
                max_size=20
            )
        case list():
            return st.sampled_from(([], value * 2, value[:1], value[::-1]))
        case dict():
            return st.just({})
        case _:
            return strange()


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a JSON value, every place of it."""
    found = [path] if path else []
    if isinstance(value, dict):
        for key, inner in value.items():
            found += places(inner, (*path, key))
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            found += places(inner, (*path, position))
    return found


def at(value: Any, path: tuple[Any, ...]) -> Any:
    """What stands there."""
    for step in path:
        value = value[step]
    return value


@st.composite
def changed(draw: st.DrawFn, value: Any, most: int = 4) -> Any:
    """The JSON value with up to so many of its parts replaced, left out, repeated or exchanged."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, most))):
        known = places(value)
        if not known:
            break
        path = draw(st.sampled_from(known))
        holder, last = at(value, path[:-1]), path[-1]
        match draw(st.integers(0, 4)):
            case 0 | 1:
                holder[last] = draw(
                    draw(st.sampled_from((alike(holder[last]), alike(holder[last]), strange())))
                )
            case 2:
                del holder[last]
            case 3:
                holder[last] = copy.deepcopy(at(value, draw(st.sampled_from(known))))
            case _ if isinstance(holder, list):
                holder.insert(draw(st.integers(0, len(holder))), copy.deepcopy(holder[last]))
            case _:
                holder[draw(st.sampled_from(list(holder)) | st.text(max_size=5))] = holder[last]
    return value


@st.composite
def damaged(draw: st.DrawFn, data: bytes, most: int = 6) -> bytes:
    """The bytes with up to so many places overwritten, cut out, repeated or filled, or cut short."""
    for _ in range(draw(st.integers(1, most))):
        start = draw(st.integers(0, len(data)))
        length = draw(st.one_of(st.integers(1, 8), st.integers(1, 4096)))
        match draw(st.integers(0, 5)):
            case 0:
                new = draw(st.binary(min_size=1, max_size=8))
                data = data[:start] + new + data[start + len(new) :]
            case 1:
                data = data[:start] + data[start + length :]
            case 2:
                data = data[:start] + draw(st.binary(max_size=16)) + data[start:]
            case 3:
                data = data[:start] + data[start : start + length] * 2 + data[start + length :]
            case 4:
                data = data[:start]
            case _:
                bit = 1 << draw(st.integers(0, 7))
                data = (
                    data[:start] + bytes(byte ^ bit for byte in data[start : start + 1]) + data[start + 1 :]
                )
    return data


@cache
def runs() -> tuple[Run, ...]:
    """Runs that together have every kind of entry; small, so that many fit into a second."""
    asked = factory.request(("v3-small",), ("v2",), ("eager", "onnxruntime-int8"))
    timed = factory.whole_run(asked, epochs=2, rounds=2, calls=3)
    first, second, *_ = timed.cells.values()
    timed.add(factory.explained(second.cell, "two operators stay in fp32", exact="eager"))
    timed.add(Skipped("ncnn", "ncnn is not installed", "pip install ncnn", requested=True))
    timed.add(Note("this machine shows no frequency"))
    resumed = RunResumed("2026-01-01T01:00:00+00:00", timed.header.machine, timed.header.software)
    timed.resumed.append(resumed)
    operators = tuple(
        ProfiledOperator(
            f"node{place}", "Conv", kind, module, (), 1e-3, 9e-4, 2e-3, "fp32", 1000, 2000, (16, 7, 7)
        )
        for place, (kind, module) in enumerate(
            (("convolution", "features.0.0"), ("depthwise", "features.1.block.0.0"), ("reorder", ""))
        )
    )
    for record in (first, second):
        cell = record.cell
        timed.add(
            Profiled(
                cell.key, "a profiler", 30, operators, 5e-3, 6e-3, complete=False, traces=("traces/x.json",)
            )
        )
    compute = tuple(Roof(name, 1e11, 9e10, 1.1e11, "matmul") for name in ("fp32", "bf16", "int8"))
    bandwidth = (Roof("L1", 1e11, 9e10, 2e11, "copy", 32768), Roof("memory", 1e10, 9e9, 2e10, "copy"))
    timed.add(Roofs(1, compute, bandwidth, 2.0, ("no L3",)))
    steps = (MemoryStep("features.0.0", "Conv2d", 1000, 2000), MemoryStep("classifier", "Linear", 10, 20))
    timed.add(Activations("v3-small", 224, 1, 10**7, 600_000, steps))
    facts = timed.variants[0]
    assert facts.complexity is not None
    layers = (
        LayerCost("features.0.0", "Conv2d", 500, 40, 900, (16, 112, 112), (3, 224, 224), "convolution"),
        LayerCost("features.1.block.0.0", "Conv2d", 100, 10, 90, (16, 112, 112), (16, 112, 112), "depthwise"),
    )
    complexity = msgspec.structs.replace(facts.complexity, layers=layers)
    timed.add(msgspec.structs.replace(facts, complexity=complexity))
    small = factory.request(("v3-small",), (), ("eager", "onnxruntime-int8"))
    evaluated = factory.evaluate(factory.whole_run(small, epochs=2, rounds=2, calls=3), images=60)
    for record in evaluated.cells.values():
        if record.accuracy is not None:
            evaluated.add(factory.trained(record.cell.variant))
            evaluated.add(factory.sensitivity(record.cell.variant, 3))
            break
    tuned = factory.tuned_run(epochs=2)
    failed = factory.whole_run(small, epochs=2, rounds=2, calls=3)
    failed.add(factory.failure(next(iter(failed.cells.values())).cell, tail="Traceback\n  boom"))
    failed.tuned.append(
        factory.tuned(next(iter(failed.cells.values())).cell, None, Candidate("eager:x=1", 0.9))
    )
    return timed, evaluated, failed, factory.own_run(epochs=1), tuned


def journal_of(run: Run) -> bytes:
    """The journal that this run would have written."""
    entries: list[Any] = [*factory.entries_of(run), *run.roofs, *run.activations]
    entries += [record.profiled for record in run.cells.values() if record.profiled is not None]
    return b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries)


def document_of(run: Run) -> Any:
    """run.json as Python values."""
    return msgspec.json.decode(msgspec.json.encode(msgspec.structs.replace(run, blocks=[])))


MEMORY = Path("/dev/shm")
"""Where files lie in memory, where the system has such a place: they are synced to a disk otherwise, one by one."""


@cache
def scratch() -> Path:
    """A folder for this process's files: below the session's, or removed when this process ends."""
    session = os.environ.get("MNV3_FUZZ_FOLDER")
    if session is not None:
        return Path(tempfile.mkdtemp(dir=session))
    found = Path(tempfile.mkdtemp(prefix="mnv3-fuzz-", dir=MEMORY if MEMORY.is_dir() else None))
    atexit.register(shutil.rmtree, found, ignore_errors=True)
    return found
