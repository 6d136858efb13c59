"""Calls with and without a profiler in turns, so that both see the same machine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

REPEATS = 30
"""Profiled calls, and as many plain ones."""
WARM_UP_SECONDS = 0.5
FEWEST = 5
"""Calls to warm up with, however long they take."""


def warm_up(run: Callable[[Any], object], staged: Sequence[Any]) -> None:
    """Call until caches, frequency and lazily built kernels are as in the long run."""
    start, calls = time.perf_counter(), 0
    while calls < FEWEST or time.perf_counter() - start < WARM_UP_SECONDS:
        run(staged[calls % len(staged)])
        calls += 1


def seconds(run: Callable[[Any], object], given: Any) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    run(given)
    return time.perf_counter() - start


def fastest(run: Callable[[Any], object], given: Any) -> float:
    """The least wall seconds of so many calls, after as many that are not timed: others only add time."""
    return min([seconds(run, given) for _ in range(2 * REPEATS)][REPEATS:])


def in_turns(
    plain: Callable[[Any], object],
    profiled: Callable[[Any], object],
    staged: Sequence[Any],
    repeats: int = REPEATS,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Wall seconds of so many plain and profiled calls, first one and then the other of each pair.

    The inputs of a pair are the same; which of the two goes first changes from pair to pair.
    """
    without: list[float] = []
    under: list[float] = []
    for repeat in range(repeats):
        given = staged[repeat % len(staged)]
        both = [(plain, without), (profiled, under)]
        for run, found in both if repeat % 2 else reversed(both):
            found.append(seconds(run, given))
    return tuple(without), tuple(under)
