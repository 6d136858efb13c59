"""Keep one CPU busy for a few seconds and say what passed meanwhile.

A machine that is idle shows neither steal, nor throttling, nor the clock it has under load.
Sources: the kernel's own documentation (https://docs.kernel.org), whose pages are named where it is relied on.
"""

from __future__ import annotations

import math
import os
import time
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise, repeat
from typing import TYPE_CHECKING

from mnv3_bench.doctor.kernel import integer
from mnv3_bench.noise import Counters

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mnv3_bench.doctor.kernel import Kernel


@dataclass(frozen=True)
class Throttling:
    """How often, and for how many seconds, quotas kept this process's cgroups from running."""

    periods: int
    seconds: float


@dataclass(frozen=True)
class Watch:
    """What passed while one CPU was kept busy. None is what the machine does not show.

    Attributes:
        wall: seconds watched.
        own: CPU seconds this process got.
        longest_pause: seconds of the longest time the busy loop stood still.
        others: CPU seconds that everything else took, on the whole machine.
        busiest: names of programs that took part in that and their CPU seconds, most first.
        steal: CPU seconds that the hypervisor gave to others.
        pressure: seconds that some, and that all, tasks waited for `cpu`, `memory` or `io`.
        throttled_before, throttled: since the cgroup was made, and while watching.
        overheated_before, overheated: times that a core or package was slowed down, since the start and while watching.
        frequencies: clock in kHz of each usable CPU at the end, with one of them still warm from work.
        clock_cost: seconds that reading the clock takes.
        clock_step: smallest difference of two readings in seconds.
    """

    wall: float
    own: float
    longest_pause: float
    others: float | None
    busiest: tuple[tuple[str, float], ...]
    steal: float | None
    pressure: Mapping[str, tuple[float, float]]
    throttled_before: Throttling | None
    throttled: Throttling | None
    overheated_before: int | None
    overheated: int | None
    frequencies: Mapping[int, int]
    clock_cost: float
    clock_step: float


def watch(
    kernel: Kernel, cpus: Sequence[int], seconds: float, busy: Callable[[float], float] | None = None
) -> Watch:
    """Keep one CPU busy for `seconds` and compare what the kernel counted before and after.

    Args:
        kernel: where to read.
        cpus: the CPUs whose clock is of interest.
        seconds: how long.
        busy: stays busy for so many seconds and returns its longest pause in seconds; `spin` unless a test says else.
    """
    cost, step = clock_facts()
    # Walking the processes takes CPU time itself, so it lies outside of what is compared.
    programs = _programs()
    pressure, throttled, hot = _pressure_totals(kernel), _throttled(kernel), _overheated(kernel)
    started = Counters.now()
    longest_pause = (busy or spin)(seconds)
    ended = Counters.now()
    # At once, while the CPU is warm; but after the counters, since the kernel takes a while to answer for many CPUs.
    frequencies = kernel.numbers_of_cpus(cpus, "cpufreq/scaling_cur_freq")
    pressure_after, throttled_after, hot_after = (
        _pressure_totals(kernel),
        _throttled(kernel),
        _overheated(kernel),
    )
    own = ended.cpu - started.cpu
    counted = kernel.has("proc/stat")
    return Watch(
        wall=ended.wall - started.wall,
        own=own,
        longest_pause=longest_pause,
        others=max(0.0, ended.machine_busy - started.machine_busy - own) if counted else None,
        busiest=_busiest(programs, _programs()),
        steal=ended.steal - started.steal if counted else None,
        pressure={
            name: (after[0] - pressure[name][0], after[1] - pressure[name][1])
            for name, after in pressure_after.items()
            if name in pressure
        },
        throttled_before=throttled,
        throttled=None
        if throttled is None or throttled_after is None
        else Throttling(
            throttled_after.periods - throttled.periods, throttled_after.seconds - throttled.seconds
        ),
        overheated_before=hot,
        overheated=None if hot is None or hot_after is None else hot_after - hot,
        frequencies=frequencies,
        clock_cost=cost,
        clock_step=step,
    )


def spin(seconds: float) -> float:
    """Read the clock over and over for `seconds`; the longest time between two readings, in seconds."""
    clock = time.perf_counter_ns
    longest = 0
    previous = clock()
    end = previous + int(seconds * 1e9)
    while previous < end:
        now = clock()
        if now - previous > longest:
            longest = now - previous
        previous = now
    return longest / 1e9


def clock_facts(readings: int = 20_000) -> tuple[float, float]:
    """Seconds that one reading of `time.perf_counter_ns` takes, and the smallest step between two.

    The cost is the best of five, loop included. A step cannot be seen finer than a reading takes.
    """
    clock = time.perf_counter_ns
    costs, step = [], math.inf
    for _ in range(5):
        started = clock()
        values = [clock() for _ in repeat(None, readings)]
        costs.append((clock() - started) / readings)
        step = min(
            step, min((after - before for before, after in pairwise(values) if after > before), default=step)
        )
    return min(costs) / 1e9, step / 1e9


def _pressure_totals(kernel: Kernel) -> dict[str, tuple[float, float]]:
    """Seconds that some and that all tasks waited, by resource (kernel documentation, accounting/psi)."""
    totals = {}
    for resource in ("cpu", "memory", "io"):
        seconds = {}
        for line in (kernel.text(f"proc/pressure/{resource}") or "").splitlines():
            microseconds = integer(line.rpartition("total=")[2])
            if microseconds is not None:
                seconds[line.split()[0]] = microseconds / 1e6
        if "some" in seconds:
            totals[resource] = (seconds["some"], seconds.get("full", 0.0))  # cpu has no `full` before 5.13
    return totals


def _throttled(kernel: Kernel) -> Throttling | None:
    """Sums over this cgroup and those above (kernel documentation, scheduler/sched-bwc); None where none counts."""
    counters = [kernel.fields(f"{group}/cpu.stat") for group in kernel.cgroups("cpu")]
    counters = [stat for stat in counters if "nr_throttled" in stat]
    if not counters:
        return None
    return Throttling(
        sum(stat["nr_throttled"] for stat in counters),
        sum(stat.get("throttled_usec", 0) / 1e6 + stat.get("throttled_time", 0) / 1e9 for stat in counters),
    )


def _overheated(kernel: Kernel) -> int | None:
    """Times that cores, and the package, were slowed down because they were hot: Intel's counters on x86."""
    online = kernel.online() or ()
    cores = kernel.numbers_of_cpus(online, "thermal_throttle/core_throttle_count")
    packages = kernel.numbers_of_cpus(online, "thermal_throttle/package_throttle_count")
    if not cores and not packages:
        return None
    # Every CPU of a package counts the package's events.
    return sum(cores.values()) + max(packages.values(), default=0)


_Programs = dict[tuple[int, float], tuple[str, float]]


def _programs() -> _Programs:
    """Name and CPU seconds of every process but this one, by process id and start."""
    import psutil

    found: _Programs = {}
    for process in psutil.process_iter(["pid", "create_time", "name", "cpu_times"]):
        facts = process.info
        if facts["pid"] != os.getpid() and facts["cpu_times"] is not None:
            seconds = facts["cpu_times"].user + facts["cpu_times"].system
            found[facts["pid"], facts["create_time"] or 0.0] = (facts["name"] or "unnamed", seconds)
    return found


def _busiest(before: _Programs, after: _Programs, most: int = 3) -> tuple[tuple[str, float], ...]:
    """Programs by the CPU seconds they took between two lists, processes of one name together."""
    taken: defaultdict[str, float] = defaultdict(float)
    for process, (name, seconds) in after.items():
        taken[name] += seconds - before.get(process, (name, 0.0))[1]
    ordered = sorted(taken.items(), key=lambda item: -item[1])
    return tuple(item for item in ordered[:most] if item[1] > 0)
