"""LiteRT's own profiler, by its C interface: what each kernel of one call costs.

The Python package has no profiler, but the library it brings exports LiteRT's C interface with one
(https://github.com/google-ai-edge/LiteRT/blob/main/litert/c/litert_profiler.h). It belongs to the CompiledModel API,
which runs the same XNNPACK kernels on the same file as the interpreter that is measured.

For processes that are not measured: it loads a second copy of the runtime.
"""

from __future__ import annotations

import ctypes
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnv3_bench.backends.base import Array

SINCE, UNTIL = (2, 3), (2, 4)
"""Versions of ai-edge-litert whose C interface is the one below; LiteRT changes its functions between releases."""

CPU = 1
WRITE = 1
KERNEL, DELEGATED_KERNEL = 1 << 1, 1 << 3
"""Kinds of events: an operator on LiteRT's own kernels, and one inside XNNPACK."""


class ProfilerError(Exception):
    """The profiler cannot be used. The message says why."""


@dataclass(frozen=True)
class Cost:
    """One kind of kernel in XNNPACK, or one operator on LiteRT's own kernels."""

    tag: str
    """As the runtime calls it."""
    node: int | None
    """The operator's number in the graph, None inside XNNPACK, which numbers its own."""
    count: int
    """Of this kind in one call."""
    seconds: float
    """Of one call, all of them together; the median over the calls."""


@dataclass(frozen=True)
class Kernel:
    """One kernel of a call, in the order they run."""

    tag: str
    node: int | None
    """As of `Cost`."""
    seconds: tuple[float, ...]
    """Of each call."""


class _Layout(ctypes.Structure):
    _fields_ = (
        ("rank", ctypes.c_uint32, 7),
        ("has_strides", ctypes.c_uint32, 1),
        ("sizes", ctypes.c_int32 * 8),
        ("strides", ctypes.c_uint32 * 8),
    )


class _TensorType(ctypes.Structure):
    _fields_ = (("element", ctypes.c_int), ("layout", _Layout))


class _Event(ctypes.Structure):
    _fields_ = (
        ("tag", ctypes.c_char_p),
        ("kind", ctypes.c_int),
        ("start_us", ctypes.c_uint64),
        ("elapsed_us", ctypes.c_uint64),
        ("memory_before", ctypes.c_size_t * 3),
        ("memory_after", ctypes.c_size_t * 3),
        ("node", ctypes.c_uint64),
        ("graph", ctypes.c_uint64),
        ("source", ctypes.c_int),
    )


def profile(model: Path, threads: int, calls: Sequence[Sequence[Array]], runs: int) -> list[Cost]:
    """Run a file under the profiler, and add up what kernels of a kind cost.

    Args:
        model: a .tflite file.
        threads: of the CPU.
        calls: inputs of several calls, in the file's order, layout and types; taken in turn.
        runs: calls that are profiled, after half as many that are not.

    Returns:
        What the kernels of one call cost, the dearest first.

    Raises:
        ProfilerError: this version has another interface, or a function of it fails.
    """
    return _costs(_program(model, threads).events_of(calls, runs), runs)


def kernels(model: Path, threads: int, calls: Sequence[Sequence[Array]], runs: int) -> list[Kernel]:
    """Run a file under the profiler; what every kernel costs, one by one.

    Args and errors are those of `profile`.

    Raises:
        ProfilerError: calls did not all run the same kernels, too.
    """
    events = [
        event
        for event in _program(model, threads).events_of(calls, runs)
        if event.kind in (KERNEL, DELEGATED_KERNEL) and event.tag
    ]
    each = len(events) // runs
    if each * runs != len(events):
        raise ProfilerError(
            f"LiteRT's profile of {runs} calls has {len(events)} events, no whole number a call"
        )
    columns = [events[place::each] for place in range(each)]
    if any(len({(event.tag, event.node) for event in column}) > 1 for column in columns):
        raise ProfilerError("LiteRT's profile has other kernels in one call than in another")
    return [
        Kernel(
            column[0].tag.decode(),
            int(column[0].node) if column[0].kind == KERNEL else None,
            tuple(event.elapsed_us / 1e6 for event in column),
        )
        for column in columns
    ]


def _program(model: Path, threads: int) -> _Program:
    import ai_edge_litert

    version = ai_edge_litert.__version__
    numbers = tuple(int(part) for part in version.split(".")[:2])
    if not SINCE <= numbers < UNTIL:
        raise ProfilerError(
            f"LiteRT's profiler is called as ai-edge-litert {SINCE[0]}.{SINCE[1]} has it, not {version}"
        )
    library = Path(ai_edge_litert.__file__).with_name("libLiteRt.so")
    try:
        loaded = ctypes.CDLL(str(library))
    except OSError as error:
        raise ProfilerError(f"LiteRT's profiler is not there: {error}") from error
    return _Program(loaded, model, threads)


class _Program:
    """A file compiled for the CPU with profiling on. Its objects are freed with the process."""

    def __init__(self, library: Any, model: Path, threads: int) -> None:
        self.library = library
        self.kept: list[Any] = []
        self.environment = self._new("LiteRtCreateEnvironment", 0, None)
        file = self._new("LiteRtCreateModelFromFile", self.environment, str(model).encode())
        options = self._new("LiteRtCreateOptions")
        self._call("LiteRtSetOptionsHardwareAccelerators", options, CPU)
        self._add(options, b"runtime_options_string", b"enable_profiling = true\n")
        self._add(options, b"xnnpack", f"num_threads = {threads}\n".encode())
        self.compiled = self._new("LiteRtCreateCompiledModel", self.environment, file, options)
        self.signature = self._new("LiteRtGetModelSignature", file, ctypes.c_size_t(0))

    def events_of(self, calls: Sequence[Sequence[Array]], runs: int) -> ctypes.Array[_Event]:
        """What the profiler saw of so many calls, after half as many that it did not see."""
        inputs = [self._input(position, array) for position, array in enumerate(calls[0])]
        outputs = self._outputs()
        given, wanted = ((ctypes.c_void_p * len(each))(*each) for each in (inputs, outputs))

        def run(number: int) -> None:
            for buffer, array in zip(inputs, calls[number % len(calls)], strict=True):
                self._fill(buffer, array)
            self._call(
                "LiteRtRunCompiledModel",
                self.compiled,
                ctypes.c_size_t(0),
                ctypes.c_size_t(len(inputs)),
                given,
                ctypes.c_size_t(len(outputs)),
                wanted,
            )

        for number in range(runs // 2):
            run(number)
        profiler = self._new("LiteRtCompiledModelGetProfiler", self.compiled)
        self._call("LiteRtStartProfiler", profiler)
        for number in range(runs):
            run(number)
        self._call("LiteRtStopProfiler", profiler)
        return self._events(profiler)

    def _events(self, profiler: ctypes.c_void_p) -> ctypes.Array[_Event]:
        number = ctypes.c_int()
        self._call("LiteRtGetNumProfilerEvents", profiler, ctypes.byref(number))
        events = (_Event * number.value)()
        self._call("LiteRtGetProfilerEvents", profiler, number, events)
        return events

    def _input(self, position: int, array: Array) -> ctypes.c_void_p:
        sizes = (ctypes.c_int * array.ndim)(*array.shape)
        at = (self.compiled, ctypes.c_size_t(0), ctypes.c_size_t(position))
        kind = self._type("Input", position)
        if tuple(kind.layout.sizes[: kind.layout.rank]) != array.shape:
            self._call(
                "LiteRtCompiledModelResizeInputTensorNonStrict", *at, sizes, ctypes.c_size_t(array.ndim)
            )
            self._call("LiteRtGetCompiledModelInputTensorLayout", *at, ctypes.byref(kind.layout))
        needs = self._new("LiteRtGetCompiledModelInputBufferRequirements", *at)
        return self._buffer(kind, needs)

    def _outputs(self) -> list[ctypes.c_void_p]:
        number = ctypes.c_size_t()
        self._call("LiteRtGetNumSignatureOutputs", self.signature, ctypes.byref(number))
        layouts = (_Layout * number.value)()
        first = (self.compiled, ctypes.c_size_t(0))
        self._call("LiteRtGetCompiledModelOutputTensorLayouts", *first, number, layouts, ctypes.c_bool(True))
        buffers = []
        for position in range(number.value):
            kind = self._type("Output", position)
            kind.layout = layouts[position]
            needs = self._new(
                "LiteRtGetCompiledModelOutputBufferRequirements", *first, ctypes.c_size_t(position)
            )
            buffers.append(self._buffer(kind, needs))
        return buffers

    def _type(self, side: str, position: int) -> _TensorType:
        tensor = self._new(
            f"LiteRtGetSignature{side}TensorByIndex", self.signature, ctypes.c_size_t(position)
        )
        kind = _TensorType()
        self._call("LiteRtGetRankedTensorType", tensor, ctypes.byref(kind))
        return kind

    def _buffer(self, kind: _TensorType, needs: ctypes.c_void_p) -> ctypes.c_void_p:
        return self._new(
            "LiteRtCreateManagedTensorBufferFromRequirements", self.environment, ctypes.byref(kind), needs
        )

    def _fill(self, buffer: ctypes.c_void_p, array: Array) -> None:
        size = ctypes.c_size_t()
        self._call("LiteRtGetTensorBufferPackedSize", buffer, ctypes.byref(size))
        if size.value != array.nbytes:
            raise ProfilerError(f"LiteRT expects {size.value} bytes of an input, {array.nbytes} were given")
        address = ctypes.c_void_p()
        self._call("LiteRtLockTensorBuffer", buffer, ctypes.byref(address), WRITE)
        ctypes.memmove(address, np.ascontiguousarray(array).ctypes.data, array.nbytes)
        self._call("LiteRtUnlockTensorBuffer", buffer)

    def _add(self, options: ctypes.c_void_p, name: bytes, text: bytes) -> None:
        """Options of a part of the runtime, which takes them as TOML."""
        payload = ctypes.create_string_buffer(text)
        free = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None)  # Python owns the text
        self.kept += [payload, free]
        self._call(
            "LiteRtAddOpaqueOptions", options, self._new("LiteRtCreateOpaqueOptions", name, payload, free)
        )

    def _new(self, function: str, *arguments: Any) -> ctypes.c_void_p:
        made = ctypes.c_void_p()
        self._call(function, *arguments, ctypes.byref(made))
        return made

    def _call(self, function: str, *arguments: Any) -> None:
        try:
            status = getattr(self.library, function)(*arguments)
        except AttributeError as error:
            raise ProfilerError(f"LiteRT's profiler is not there: {error}") from error
        if status != 0:
            raise ProfilerError(f"LiteRT's profiler failed: {function} gave status {status}")


def _costs(events: ctypes.Array[_Event], runs: int) -> list[Cost]:
    totals: dict[tuple[str, int | None], list[int]] = {}
    for event in events:
        if event.kind in (KERNEL, DELEGATED_KERNEL) and event.tag:
            key = event.tag.decode(), int(event.node) if event.kind == KERNEL else None
            totals.setdefault(key, []).append(event.elapsed_us)
    costs = [
        Cost(tag, node, round(len(each) / runs), _median_call(each, runs) / 1e6)
        for (tag, node), each in totals.items()
    ]
    return sorted(costs, key=lambda cost: cost.seconds, reverse=True)


def _median_call(elapsed: list[int], runs: int) -> float:
    """Of one call, the median over the calls: a call that was interrupted by other work does not count."""
    each = len(elapsed) // runs
    return statistics.median(sum(elapsed[start : start + each]) for start in range(0, each * runs, each or 1))
