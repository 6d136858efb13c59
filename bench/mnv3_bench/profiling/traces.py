"""Timelines of profiled calls, as files that Perfetto, chrome://tracing and TensorBoard's profiler plugin read.

The format is Chrome's trace-event JSON; what the plugin (torch-tb-profiler 0.4.3) needs beyond it, and what it cannot
read of a current PyTorch's own traces, is told in docs/traces.md.

Sources: the Trace Event Format (docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU);
torch_tb_profiler/profiler/{trace,event_parser,op_tree,module_op}.py.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import re
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from mnv3_reports.rundir import write_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from mnv3_bench.backends.base import Profile
    from mnv3_reports.record import Cell, Profiled, Scalar

TRACES = Path("profile", "traces")
"""Folder of a run's traces, below the run directory: TensorBoard's logdir."""
SUFFIX = ".pt.trace.json.gz"
"""The plugin reads files that end so, or without the last part."""
MODULE_ANNOTATION = "module "
"""What the names of `torch.profiler.record_function` ranges start with that stand for a module, before its path."""
MOST_CALLS = 10
"""Of a cell in one trace: the plugin parses all traces of a network at the same time."""

_TICKS = 1024
"""Of a microsecond. Binary fractions: sums of times are exact, so spans that touch do not overlap when read."""
_GAP = 10 * _TICKS
"""Between two calls."""
_NAME = 80
"""Most characters of a part of a file's name; file systems take 255 bytes for all of it."""
_RESERVED = (
    "ProfilerStep#",
    "Optimizer.",
    "enumerate(DataLoader)#",
    "enumerate(DataPipe)#",
    "nccl:",
    "gloo:",
)
"""The plugin takes what is named so for something else than an operator."""

Event = dict[str, Any]
"""One entry of a trace's list."""


@dataclass(frozen=True)
class Span:
    """One operator in one call."""

    name: str
    """Row of the plugin's operator table: spans of equal names are summed there."""
    seconds: float
    start_seconds: float | None = None
    """Since the call began; None: as soon as the span before it on this track ended."""
    module: str = ""
    """Path in the network, such as features.4.block.1; '' where none is known."""
    track: int = 0
    """Thread or stream of the runtime."""
    input_shapes: tuple[tuple[int, ...], ...] = ()
    arguments: Mapping[str, Scalar] = field(default_factory=dict)
    """Shown beside it, such as its kind, MACs and bytes."""


@dataclass(frozen=True)
class Call:
    """One call of a network."""

    spans: Sequence[Span]
    """In the order they ran."""
    seconds: float | None = None
    """Of the whole call, by a clock around it; None: until the last span ends."""


class TorchProfiler(Protocol):
    """What is needed of a `torch.profiler.profile` that has ended."""

    def export_chrome_trace(self, path: str) -> object:
        """Write its own trace."""


def trace_path(root: Path, cell: Cell) -> Path:
    """Where a cell's trace belongs: a TensorBoard run for each network, a worker for each backend and setting.

    Args:
        root: the run directory.
        cell: may have any names: what no file should be called is replaced, and a digest then tells names apart.
    """
    setting = f"t{cell.threads}-b{cell.batch}-r{cell.resolution}-{_file_name(cell.device)}"
    return root / TRACES / _file_name(cell.variant) / f"{_file_name(cell.backend)}.{setting}{SUFFIX}"


def calls_of(profile: Profile, profiled: Profiled) -> tuple[Call, ...]:
    """Calls of a runtime that tells operators' times and not when they ran: laid one after the other.

    Args:
        profile: of the runtime; its operators have one time a repeat.
        profiled: the same operators in the same order, with the layers that they compute.

    Returns:
        The first `MOST_CALLS` repeats that every operator has.

    Raises:
        ValueError: the two have different operators.
    """
    repeats = min((len(operator.seconds) for operator in profile.operators), default=0)
    pairs = tuple(zip(profile.operators, profiled.operators, strict=True))
    return tuple(
        Call(
            tuple(
                Span(
                    known.name,
                    timed.seconds[repeat],
                    module=known.module,
                    arguments={
                        "operation": known.operation,
                        "kind": known.kind,
                        "contains": ", ".join(known.contains),
                        "precision": known.precision or "",
                        "MACs": known.macs,
                        "bytes": known.bytes,
                        "output shape": " × ".join(map(str, known.output_shape)),
                    },
                )
                for timed, known in pairs
            )
        )
        for repeat in range(min(repeats, MOST_CALLS))
    )


def write_chrome(
    path: Path, calls: Sequence[Call], *, process_name: str, facts: Mapping[str, Scalar] | None = None
) -> Path:
    """Write calls as a trace that looks like PyTorch's own. Equal calls make equal files.

    Args:
        path: compressed where it ends in .gz.
        calls: drawn one after the other, each as a step of the profiler.
        process_name: whose calls they are, such as the cell's key.
        facts: kept in the file under 'mnv3_bench'; no viewer shows them.

    Raises:
        ValueError: there is no span, or one has a time that is none.
        mnv3_reports.rundir.RunDirectoryError: the file cannot be written.
    """
    if not any(call.spans for call in calls):
        raise ValueError(f"'{process_name}' has no operators to draw")
    ids = _module_ids(span.module for call in calls for span in call.spans)
    events: list[Event] = []
    lanes: set[tuple[int, int]] = set()
    placed = [_place(call.spans) for call in calls]
    for each in placed:
        lanes.update((span.track, span.lane) for span in each)
    threads = {lane: number for number, lane in enumerate(sorted(lanes), 1)}
    start = 0
    for number, (call, spans) in enumerate(zip(calls, placed, strict=True)):
        length = max(1, _ticks(call.seconds or 0.0), *(span.end for span in spans))
        events.append(_step(number, start, length))
        events += _call_events(spans, start, threads, ids)
        start += length + _GAP
    for number, event in enumerate(event for event in events if event["cat"] == "cpu_op"):
        event["args"]["External id"] = number + 1
    return _write(
        path,
        {
            "schemaVersion": 1,
            "deviceProperties": [],
            "displayTimeUnit": "ns",
            "baseTimeNanoseconds": 0,
            "mnv3_bench": dict(facts or {}),
            "traceEvents": [*_names(process_name, threads), *events],
        },
    )


def from_kineto(profiler: TorchProfiler, path: Path) -> Path:
    """Write what PyTorch's profiler recorded, so that the plugin reads all of it.

    Args:
        profiler: ended, and not exported yet: PyTorch writes a trace once. With `record_shapes` the operator table
            tells shapes apart, with `profile_memory` there is a memory view, with `schedule` and `step()` there are
            steps; `with_stack`, or ranges named `MODULE_ANNOTATION` and a path, make the module view and call stacks.
        path: compressed where it ends in .gz.

    Raises:
        mnv3_reports.rundir.RunDirectoryError: the file cannot be written.
    """
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder, "kineto.json")
        profiler.export_chrome_trace(str(exported))
        return from_kineto_file(exported, path)


def from_kineto_file(exported: Path, path: Path) -> Path:
    """`from_kineto` for a trace that PyTorch's profiler has already written, compressed or not.

    Raises:
        ValueError: it is no trace.
        mnv3_reports.rundir.RunDirectoryError: the file cannot be written.
    """
    data = exported.read_bytes()
    trace = json.loads(gzip.decompress(data) if exported.name.endswith(".gz") else data)
    if not isinstance(trace, dict) or not isinstance(trace.get("traceEvents"), list):
        raise ValueError(f"'{exported}' is no trace of PyTorch's profiler")
    repair(trace)
    trace["traceName"] = path.name
    return _write(path, trace)


def repair(trace: dict[str, Any]) -> None:
    """Change a trace of PyTorch's profiler in place into what the plugin reads whole (docs/traces.md says why).

    Times begin at zero and are binary fractions of a microsecond; annotated modules are modules; operators have the
    call stack that they ran in.
    """
    events: list[Event] = trace["traceEvents"]
    _rebase(trace, events)
    _annotated_modules(events)
    _call_stacks(events)


class _Placed(NamedTuple):
    """A span's place in its call: times in ticks since it began."""

    track: int
    lane: int
    """0, or more where spans of a track overlap."""
    start: int
    end: int
    outermost: bool
    """Whether it lies in no other span of its lane."""
    span: Span


def _place(spans: Sequence[Span]) -> list[_Placed]:
    """Places of a call's spans, each lane in order of start and outer spans first."""
    placed: list[_Placed] = []
    for track in sorted({span.track for span in spans}):
        # Open spans of each lane, the innermost last.
        lanes: list[list[int]] = []
        on_track = _times([span for span in spans if span.track == track])
        for start, end, span in sorted(on_track, key=lambda each: (each[0], -each[1])):
            lane = _free_lane(lanes, start, end)
            placed.append(_Placed(track, lane, start, end, not lanes[lane], span))
            lanes[lane].append(end)
    return placed


def _free_lane(lanes: list[list[int]], start: int, end: int) -> int:
    """The first lane where a span lies beside or within what is there; spans that have ended are dropped."""
    for number, open_ends in enumerate(lanes):
        while open_ends and open_ends[-1] <= start:
            open_ends.pop()
        if not open_ends or end <= open_ends[-1]:
            return number
    lanes.append([])
    return len(lanes) - 1


def _times(spans: Sequence[Span]) -> Iterator[tuple[int, int, Span]]:
    """Start and end of each span in ticks."""
    last = 0.0
    for span in spans:
        start = last if span.start_seconds is None else span.start_seconds
        if not (math.isfinite(span.seconds) and span.seconds >= 0):
            raise ValueError(f"operator '{span.name}' cannot take {span.seconds} s")
        if not (math.isfinite(start) and start >= 0):
            raise ValueError(f"operator '{span.name}' cannot start {start} s after its call")
        last = start + span.seconds
        yield _ticks(start), _ticks(last), span


def _ticks(seconds: float) -> int:
    return round(seconds * 1e6 * _TICKS)


def _micro(ticks: int) -> float:
    """Ticks as the format's microseconds, exactly."""
    return ticks / _TICKS


def _step(number: int, start: int, length: int) -> Event:
    return {
        "ph": "X",
        "cat": "user_annotation",
        "name": f"ProfilerStep#{number}",
        "pid": 1,
        "tid": 1,
        "ts": _micro(start),
        "dur": _micro(length),
        "args": {},
    }


def _call_events(
    placed: Sequence[_Placed], origin: int, threads: Mapping[tuple[int, int], int], ids: Mapping[str, int]
) -> Iterator[Event]:
    """Events of the operators of one call, and of the modules around them."""
    for (track, lane), tid in threads.items():
        mine = [each for each in placed if (each.track, each.lane) == (track, lane)]
        events = [*_modules(mine, ids), *map(_operator, mine)]
        # Stable: of equal times the module stays before the operator that is all of it.
        for event in sorted(events, key=lambda event: (event["ts"], -event["dur"])):
            yield {
                **event,
                "pid": 1,
                "tid": tid,
                "ts": _micro(event["ts"] + origin),
                "dur": _micro(event["dur"]),
            }


def _operator(placed: _Placed) -> Event:
    span = placed.span
    arguments: Event = {**span.arguments, "module": span.module}
    arguments["Input Dims"] = [list(shape) for shape in span.input_shapes]
    if span.module:
        arguments["Call stack"] = ";".join(_frame(path) for path in reversed(_prefixes(span.module)))
    return {
        "ph": "X",
        "cat": "cpu_op",
        "name": _operator_name(span.name),
        "ts": placed.start,
        "dur": placed.end - placed.start,
        "args": arguments,
    }


def _operator_name(name: str) -> str:
    return f"operator {name}" if not name or name.startswith(_RESERVED) else name


def _modules(placed: Sequence[_Placed], ids: Mapping[str, int]) -> Iterator[Event]:
    """A span for each module around the operators that follow each other in it, outer modules first."""
    spans = [each for each in placed if each.outermost]
    around: list[tuple[str, int, int]] = []
    unfinished: dict[str, int] = {}
    last = 0
    for each in [*spans, None]:
        paths = _prefixes(each.span.module) if each is not None else []
        left = [path for path in unfinished if path not in paths]
        around.extend((path, unfinished.pop(path), last) for path in left)
        if each is not None:
            for path in paths:
                unfinished.setdefault(path, each.start)
            last = each.end
    for path, start, end in sorted(around, key=lambda module: module[0].count(".")):
        yield {"ts": start, "dur": end - start, **_module_event(path, ids)}


def _module_event(path: str, ids: Mapping[str, int]) -> Event:
    """What makes a span the plugin's module: equal paths have equal ids, so that each is one row of its tree."""
    around = ["", *_prefixes(path)[:-1]] if path else []
    return {
        "ph": "X",
        "cat": "python_function",
        "name": f"nn.Module: {path or '(network)'}",
        "args": {
            "Python id": ids[path],
            "Python parent id": next((ids[outer] for outer in reversed(around) if outer in ids), None),
            "Python module id": ids[path],
        },
    }


def _module_ids(modules: Iterable[str]) -> dict[str, int]:
    """A number for every module and those around it, in order of first appearance."""
    paths = dict.fromkeys(path for module in modules for path in _prefixes(module))
    return {path: number for number, path in enumerate(paths, 1)}


def _prefixes(module: str) -> list[str]:
    """Paths of a module and of what it is in, the outermost first; none of ''."""
    parts = module.split(".") if module else []
    return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]


def _names(process_name: str, threads: Mapping[tuple[int, int], int]) -> Iterator[Event]:
    """Metadata events: what viewers write beside the tracks."""
    yield {"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "ts": 0, "args": {"name": process_name}}
    for (track, lane), tid in threads.items():
        name = f"track {track}" + (f" (overlapping {lane})" if lane else "")
        yield {"ph": "M", "name": "thread_name", "pid": 1, "tid": tid, "ts": 0, "args": {"name": name}}


def _rebase(trace: dict[str, Any], events: Sequence[Event]) -> None:
    """Let times begin at zero, on the grid of ticks: nesting and touching survive, since rounding keeps the order."""
    timed = [event for event in events if "ts" in event]
    origin = min((_nanoseconds(event["ts"]) for event in timed), default=0)
    for event in timed:
        nanoseconds = _nanoseconds(event["ts"]) - origin
        start = _floor_ticks(nanoseconds)
        if "dur" in event:
            event["dur"] = _micro(_floor_ticks(nanoseconds + _nanoseconds(event["dur"])) - start)
        event["ts"] = _micro(start)
    trace["baseTimeNanoseconds"] = trace.get("baseTimeNanoseconds", 0) + origin


def _nanoseconds(microseconds: float) -> int:
    """What PyTorch measured: it counts nanoseconds and writes microseconds with three decimals."""
    return round(microseconds * 1000)


def _floor_ticks(nanoseconds: int) -> int:
    return nanoseconds * _TICKS // 1000


def _annotated_modules(events: Sequence[Event]) -> None:
    """Turn ranges that stand for modules into events the plugin takes for modules."""
    ranges = [
        event
        for event in events
        if event.get("cat") == "user_annotation" and str(event.get("name")).startswith(MODULE_ANNOTATION)
    ]
    paths = [event["name"].removeprefix(MODULE_ANNOTATION) for event in ranges]
    # Numbers beyond those of Python's functions, which are in the same tree.
    first = max((event["args"].get("Python id", 0) for event in events if "args" in event), default=0)
    ids = {path: number for number, path in enumerate(dict.fromkeys(paths), first + 1)}
    for event, path in zip(ranges, paths, strict=True):
        event.update(_module_event(path, ids))


def _call_stacks(events: Sequence[Event]) -> None:
    """Give operators the argument that the plugin reads call stacks from: what is around them, innermost first."""
    threads: dict[Any, list[Event]] = defaultdict(list)
    for event in events:
        if event.get("ph") == "X" and event.get("cat") in ("cpu_op", "python_function"):
            threads[event["pid"], event["tid"]].append(event)
    for thread in threads.values():
        around: list[Event] = []
        for event in sorted(thread, key=lambda event: (event["ts"], -event["dur"])):
            while around and around[-1]["ts"] + around[-1]["dur"] <= event["ts"]:
                around.pop()
            if event["cat"] == "python_function":
                around.append(event)
            elif around:
                stack = ";".join(_frame(outer["name"]) for outer in reversed(around))
                event.setdefault("args", {})["Call stack"] = stack


def _frame(name: str) -> str:
    """A name within a call stack, whose frames are divided by semicolons."""
    return name.replace(";", ",")


def _file_name(text: str) -> str:
    """Text as a part of a file's name, changed only where it must be."""
    safe = re.sub(r"[^A-Za-z0-9._@+=-]", "_", text)[:_NAME]
    safe = re.sub(r"^[.-]|^$", "_", safe)
    return (
        safe
        if safe == text
        else f"{safe}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
    )


def _write(path: Path, trace: Mapping[str, Any]) -> Path:
    data = json.dumps(trace, separators=(",", ":"), allow_nan=False).encode()
    # No time of day in it: equal traces make equal files.
    return write_file(
        path,
        lambda temporary: temporary.write_bytes(
            gzip.compress(data, mtime=0) if path.name.endswith(".gz") else data
        ),
    )


__all__ = [
    "MODULE_ANNOTATION",
    "MOST_CALLS",
    "SUFFIX",
    "TRACES",
    "Call",
    "Span",
    "TorchProfiler",
    "calls_of",
    "from_kineto",
    "from_kineto_file",
    "repair",
    "trace_path",
    "write_chrome",
]
