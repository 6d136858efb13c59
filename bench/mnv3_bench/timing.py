"""The timed loop. Nothing but the call stands between two readings of the clock."""

from __future__ import annotations

import gc
import statistics
import time
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mnv3_bench.backends.base import Session

WARM_WINDOW_SECONDS = 0.05
WARM_TOLERANCE = 0.02


class SynchronisedSession(Protocol):
    """What a session on a device that runs asynchronously adds: a way to wait for it."""

    def run(self, staged: Any) -> Any:
        """One inference, possibly only queued."""

    def synchronize(self) -> None:
        """Wait until the device is idle."""


def timed_calls(session: Session, staged: Sequence[Any], calls: int, first: int = 0) -> tuple[int, ...]:
    """Time `calls` consecutive calls, each with the next input of the pool.

    Args:
        session: a loaded artifact; its `clock` attribute, where it has one, names how to time it.
        staged: the pool of staged inputs.
        calls: how many.
        first: index into the pool of the first input.

    Returns:
        Nanoseconds a call. On the CPU from `perf_counter_ns`; 'cuda-events' from a pair of CUDA events a call;
        'wall-synchronised' from `perf_counter_ns` with the device waited for before the clock is read.
    """
    how = getattr(session, "clock", "wall")
    timer = {"wall": _wall, "cuda-events": _cuda_events, "wall-synchronised": _wall_synchronised}[how]
    inputs = [staged[(first + index) % len(staged)] for index in range(calls)]
    enabled = gc.isenabled()
    gc.collect(0)
    gc.disable()
    try:
        return timer(session, inputs)
    finally:
        if enabled:
            gc.enable()


def _wall(session: Any, inputs: list[Any]) -> tuple[int, ...]:
    clock = time.perf_counter_ns
    run = session.run
    samples = array("q", bytes(8 * len(inputs)))
    for index, staged in enumerate(inputs):
        start = clock()
        run(staged)
        samples[index] = clock() - start
    return tuple(samples)


def _wall_synchronised(session: SynchronisedSession, inputs: list[Any]) -> tuple[int, ...]:
    clock = time.perf_counter_ns
    samples = array("q", bytes(8 * len(inputs)))
    session.synchronize()
    for index, staged in enumerate(inputs):
        start = clock()
        session.run(staged)
        session.synchronize()
        samples[index] = clock() - start
    return tuple(samples)


def _cuda_events(session: SynchronisedSession, inputs: list[Any]) -> tuple[int, ...]:
    import torch

    samples = []
    session.synchronize()
    for staged in inputs:
        event: Any = torch.cuda.Event
        start, end = event(enable_timing=True), event(enable_timing=True)
        start.record()
        session.run(staged)
        end.record()
        session.synchronize()
        samples.append(round(start.elapsed_time(end) * 1e6))
    return tuple(samples)


@dataclass(frozen=True)
class WarmUp:
    """What it took to become steady."""

    calls: int
    steady: bool
    call_seconds: float


def warm_up(time_calls: Callable[[int, int], tuple[int, ...]], max_seconds: float) -> WarmUp:
    """Call until steady.

    Steady means: two windows of about 50 ms in a row whose medians are not more than 2 % below the lowest median
    seen before. Only getting faster counts as not yet steady, so a busy machine cannot keep a worker warming up.

    Args:
        time_calls: `time_calls(calls, first)` makes calls and returns nanoseconds a call.
        max_seconds: give up and say so after this long.
    """
    calls, spent, lowest, quiet = 0, 0.0, float("inf"), 0
    window, median = 3, 0.0
    while True:
        samples = time_calls(window, calls)
        calls += window
        spent += sum(samples) / 1e9
        median = max(statistics.median(samples) / 1e9, 1e-9)
        quiet = quiet + 1 if median >= lowest * (1 - WARM_TOLERANCE) else 0
        lowest = min(lowest, median)
        if quiet >= 2:
            return WarmUp(calls, True, median)
        if spent >= max_seconds:
            return WarmUp(calls, False, median)
        window = min(10_000, max(3, round(WARM_WINDOW_SECONDS / median)))
