"""`mnv3-bench doctor`: what on this machine disturbs a measurement, and what to change.

Three layers. `Kernel` reads files below a root, so that tests lay out a /proc and /sys of their own. `watch` keeps one
CPU busy for a few seconds and says what passed meanwhile: a machine that is idle shows neither steal, nor throttling,
nor the clock it has under load. The checks are pure: files and what was watched in, one `Finding` out.

Nothing is changed here; what would have to be is said as a command. Sources: proc(5), cgroups(7), cpuset(7) and the
kernel's own documentation (https://docs.kernel.org), whose pages are named where a check relies on them.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise, repeat, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mnv3_bench.errors import UsageError
from mnv3_bench.noise import OFF_CPU_SHARE, OTHER_LOAD_SHARE, PRESSURE_SHARE, STEAL_SHARE, Counters, available

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

Level = Literal["ok", "warning", "problem", "unknown"]

LEVELS: tuple[Level, ...] = ("problem", "warning", "unknown", "ok")
"""In the order in which they are shown."""

GRAVE = 5
"""A share this many times the one at which a run marks a block (`mnv3_bench.noise`) is a problem, not a warning."""

CLOCK_SECONDS = 1e-6
"""A clock that takes or steps longer than this shows in a call of a millisecond."""

LOW_FREQUENCY, VERY_LOW_FREQUENCY = 0.9, 0.6
"""Shares of the highest clock below which the clock under load is a warning, and a problem."""

UNEQUAL_CORES = 0.1
"""Cores that differ by more than this are of different kinds; by less, some were binned to run a little faster."""

LITTLE_MEMORY, VERY_LITTLE_MEMORY = 2 << 30, 1 << 30
"""Bytes left for workers: one that holds PyTorch and a network takes 0.3 to 0.4 GB (docs/example-report.md)."""

CPU = "sys/devices/system/cpu"
CLOCKSOURCE = "sys/devices/system/clocksource/clocksource0"
HUGE_PAGES = "sys/kernel/mm/transparent_hugepage/enabled"

FAST_CLOCKS = (
    "tsc",
    "arch_sys_counter",
    "kvm-clock",
    "hyperv_clocksource_tsc_page",
    "riscv_clocksource",
    "timebase",
)
SLOW_CLOCKS = ("hpet", "acpi_pm", "jiffies", "refined-jiffies", "pit", "xen")


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        name: what was looked at.
        level: `ok`, `warning` (figures scatter or shift), `problem` (they cannot be relied on), or `unknown`
            (the machine does not show it).
        seen: the facts, with units; for `unknown`, what could not be read.
        advice: one sentence that says what to change. None where nothing has to be.

    Raises:
        ValueError: a warning or problem without advice, or something that is fine with it.
    """

    name: str
    level: Level
    seen: str
    advice: str | None = None

    def __post_init__(self) -> None:
        if (self.level == "ok" and self.advice) or (self.level in ("warning", "problem") and not self.advice):
            raise ValueError(
                f"{self.name}: {self.level} with advice {self.advice!r}; what is not ok has advice"
            )


@dataclass(frozen=True)
class Here:
    """What is asked from libraries instead of read below a root.

    Attributes:
        cpus: logical CPUs this process may run on, ascending.
        hypervisor: what this is a virtual machine of, None on hardware.
        plugged: whether mains power is connected; None without a battery.
        recordable: which disturbances a run can record here, from `mnv3_bench.noise.available`.
    """

    cpus: tuple[int, ...]
    hypervisor: str | None
    plugged: bool | None
    recordable: Mapping[str, bool]

    @classmethod
    def now(cls) -> Here:
        """Ask for this process on this machine."""
        from mnv3_bench.environment import machine

        return cls(
            cpus=_own_cpus(),
            hypervisor=machine().hypervisor,
            plugged=_plugged(),
            recordable=available(),
        )


def examine(seconds: float = 2.0) -> list[Finding]:
    """Look at this machine, keeping one CPU busy for `seconds` to see what it is disturbed by.

    Returns:
        One finding for each thing looked at, always the same things in the same order; on systems other than Linux
        most are `unknown`.

    Raises:
        UsageError: `seconds` is not a positive number.
    """
    if not (math.isfinite(seconds) and seconds > 0):
        raise UsageError(f"cannot watch for {seconds:g} s; expected a positive number of seconds, such as 2")
    kernel = Kernel()
    here = Here.now()
    return diagnose(kernel, here, watch(kernel, here.cpus, seconds))


def diagnose(kernel: Kernel, here: Here, watched: Watch) -> list[Finding]:
    """Every check on what was read and watched. Reads files below the kernel's root and nothing else."""
    return [
        _affinity(kernel, here.cpus),
        _quota(kernel),
        _throttling(kernel, watched),
        _load(kernel, watched),
        _interruptions(watched),
        _steal(here, watched),
        _pressure("cpu", watched, PRESSURE_SHARE, _OWN_CPUS),
        _pressure(
            "memory",
            watched,
            PRESSURE_SHARE / GRAVE,
            "end what uses memory, or raise this container's limit.",
        ),
        _pressure("io", watched, PRESSURE_SHARE, "wait until what uses the disk has ended."),
        _virtualization(kernel, here.hypervisor),
        _governor(kernel, here.cpus),
        _turbo(kernel),
        _frequency(kernel, watched),
        _overheating(watched),
        _hyper_threads(kernel, here),
        _unequal_cores(kernel, here.cpus),
        _numa(kernel, here.cpus),
        _isolation(kernel, here.cpus),
        _swap(kernel),
        _memory_left(kernel),
        _huge_pages(kernel),
        _layout(kernel),
        _battery(here.plugged),
        _clocksource(kernel),
        _clock(watched),
        _records(here.recordable),
    ]


def to_lines(findings: Iterable[Finding]) -> list[str]:
    """Plain text: what is worst first, advice on a line of its own, and a line that counts."""
    ordered = sorted(findings, key=lambda finding: LEVELS.index(finding.level))
    width = max((len(finding.name) for finding in ordered), default=0)
    lines = []
    for finding, following in zip_longest(ordered, ordered[1:]):
        lines.append(f"{finding.level:<7}  {finding.name:<{width}}  {finding.seen}")
        # One advice for several in a row is said once, below the last.
        if finding.advice and (following is None or following.advice != finding.advice):
            lines.append(f"{'':<7}  {'':<{width}}  -> {finding.advice}")
    return [*lines, _summary(Counter(finding.level for finding in ordered))]


def _summary(counts: Mapping[Level, int]) -> str:
    return (
        f"{_count(counts['problem'], 'problem')}, {_count(counts['warning'], 'warning')}; "
        f"{counts['unknown']} could not be checked, {counts['ok']} fine"
    )


# Reading


@dataclass(frozen=True)
class Kernel:
    """Files the kernel shows, below a root. A file that is missing or may not be read is None."""

    root: Path = field(default_factory=lambda: Path("/"))

    def text(self, path: str) -> str | None:
        """Contents without surrounding blanks; None where there are none."""
        try:
            return (self.root / path).read_text(errors="replace").strip() or None
        except OSError:
            return None

    def number(self, path: str) -> int | None:
        """Contents as an integer; None where they are something else."""
        return _integer(self.text(path))

    def has(self, path: str) -> bool:
        """Whether there is such a file or folder that this process may see."""
        try:
            return (self.root / path).exists()
        except OSError:
            return False

    def fields(self, path: str) -> dict[str, int]:
        """Lines of `name number` or `name: number kB`, as in cpu.stat and /proc/meminfo. Sizes in kB become bytes."""
        found = {}
        for line in (self.text(path) or "").splitlines():
            words = line.replace(":", " ").split()
            value = _integer(words[1]) if len(words) > 1 else None
            if value is not None:
                found[words[0]] = value * 1024 if words[-1] == "kB" else value
        return found

    def of_cpus(self, cpus: Iterable[int], file: str) -> dict[int, str]:
        """A file of each CPU's folder, for the CPUs that have it."""
        texts = {cpu: self.text(f"{CPU}/cpu{cpu}/{file}") for cpu in cpus}
        return {cpu: text for cpu, text in texts.items() if text is not None}

    def numbers_of_cpus(self, cpus: Iterable[int], file: str) -> dict[int, int]:
        """The same for files that hold an integer."""
        numbers = {cpu: _integer(text) for cpu, text in self.of_cpus(cpus, file).items()}
        return {cpu: number for cpu, number in numbers.items() if number is not None}

    def online(self) -> tuple[int, ...] | None:
        """Logical CPUs that are switched on."""
        text = self.text(f"{CPU}/online")
        return None if text is None else parse_cpus(text)

    def cgroups(self, controller: str) -> list[str]:
        """Folders of this process's cgroup and those above it, nearest first; empty where there are none to read.

        A limit anywhere above holds here too, so all are looked at. Version 2 has one hierarchy, version 1 one for each
        controller (cgroups(7)). In a container /proc/self/cgroup may give the host's path, of which only the upper end
        exists.
        """
        mount, own = self._cgroup_mount(controller)
        if mount is None:
            return []
        parts = [part for part in own.split("/") if part not in ("", "..")]
        paths = ["/".join([mount, *parts[:depth]]) for depth in range(len(parts), -1, -1)]
        return [path for path in paths if self.has(path)]

    def _cgroup_mount(self, controller: str) -> tuple[str | None, str]:
        unified = self.has("sys/fs/cgroup/cgroup.controllers")
        for line in (self.text("proc/self/cgroup") or "").splitlines():
            number, _, rest = line.partition(":")
            controllers, _, own = rest.partition(":")
            if unified and number == "0":
                return "sys/fs/cgroup", own
            if not unified and controller in controllers.split(","):
                return f"sys/fs/cgroup/{controller}", own
        return None, ""


def parse_cpus(text: str) -> tuple[int, ...]:
    """CPUs of the kernel's list format, such as `0-3,8` (cpuset(7)). An empty list is no CPU.

    Raises:
        ValueError: something else than numbers and ranges.
    """
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(found))


def format_cpus(cpus: Iterable[int]) -> str:
    """The kernel's list format, which taskset, numactl and docker read too."""
    ranges: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if ranges and cpu == ranges[-1][1] + 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


# Watching


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
            microseconds = _integer(line.rpartition("total=")[2])
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


def _own_cpus() -> tuple[int, ...]:
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def _plugged() -> bool | None:
    import psutil

    # psutil leaves the function out on systems that have no such thing.
    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    return None if battery is None else battery.power_plugged


# Judging

_OWN_CPUS = (
    "end other work, or keep CPUs to this: `taskset -c CPUS mnv3-bench …`, `docker run --cpuset-cpus CPUS …`, "
    "or a CI runner of your own."
)
_SIDE_BY_SIDE = (
    "rely on ratios within one run; for absolute times ask for a dedicated host or a bare-metal machine."
)


def _graded(name: str, seen: str, advice: str, *, warning: bool, problem: bool = False) -> Finding:
    """The worse of the two that hold, else `ok` and no advice."""
    if not (problem or warning):
        return Finding(name, "ok", seen)
    return Finding(name, "problem" if problem else "warning", seen, advice)


def _unread(name: str, files: str, advice: str | None = None) -> Finding:
    return Finding(name, "unknown", f"could not read {files}", advice)


def _host_decides(name: str, files: str) -> Finding:
    return _unread(name, f"{files} below /{CPU}; in a virtual machine the host decides")


def _affinity(kernel: Kernel, cpus: Sequence[int]) -> Finding:
    name = "CPUs allowed"
    online = kernel.online()
    if online is None:
        return _unread(name, f"/{CPU}/online; this process may use {_count(len(cpus), 'CPU')}")
    seen = f"{format_cpus(cpus)} of {format_cpus(online)}"
    if len(cpus) > 1:
        return Finding(name, "ok", seen)
    return Finding(
        name,
        "warning",
        f"only {seen}: whatever else runs here interrupts what is measured",
        "allow two: `taskset -c 0,1 mnv3-bench …`, `docker run --cpuset-cpus 0,1 …`, or a runner with two CPUs.",
    )


def _quota(kernel: Kernel) -> Finding:
    """A quota stops every thread of the cgroup for the rest of a period (100 ms by default) once it is used up.

    cgroup v2 cpu.max and v1 cpu.cfs_quota_us: kernel documentation, admin-guide/cgroup-v2 and scheduler/sched-bwc.
    """
    name = "CPU quota"
    groups = kernel.cgroups("cpu")
    if not groups:
        return _unread(name, "this process's cgroup (/proc/self/cgroup, /sys/fs/cgroup)")
    quota = _smallest_quota(kernel, groups)
    if quota is None:
        return Finding(name, "ok", "none on this cgroup or above")
    what = (
        "less than one thread needs"
        if quota < 1
        else "no whole number"
        if not quota.is_integer()
        else "whole"
    )
    return _graded(
        name,
        f"time of {quota:g} CPUs, {what}",
        "give CPUs instead of time: `docker run --cpuset-cpus CPUS …` in place of `--cpus`; in Kubernetes, equal whole "
        "requests and limits and the CPU manager's static policy.",
        warning=not quota.is_integer(),
        problem=quota < 1,
    )


def _smallest_quota(kernel: Kernel, groups: Iterable[str]) -> float | None:
    """In CPUs; None where no cgroup has one."""
    return min((quota for group in groups if (quota := _quota_of(kernel, group)) is not None), default=None)


def _quota_of(kernel: Kernel, group: str) -> float | None:
    words = (kernel.text(f"{group}/cpu.max") or "").split()
    if len(words) == 2:
        quota, period = _integer(words[0]), _integer(words[1])
    else:
        quota, period = (
            kernel.number(f"{group}/cpu.cfs_quota_us"),
            kernel.number(f"{group}/cpu.cfs_period_us"),
        )
    return quota / period if quota is not None and period and quota > 0 else None


def _throttling(kernel: Kernel, watched: Watch) -> Finding:
    name = "quota throttling"
    before, now = watched.throttled_before, watched.throttled
    if before is None or now is None:
        groups = kernel.cgroups("cpu")
        if groups and _smallest_quota(kernel, groups) is None:
            return Finding(name, "ok", "no quota, nothing to throttle")
        return _unread(name, "nr_throttled in this cgroup's cpu.stat")
    seen = (
        f"{_periods(now)} in {watched.wall:.1f} s with one thread busy; "
        f"{_periods(before)} earlier, since the cgroup was made"
    )
    advice = (
        "lift the quota (`docker run --cpuset-cpus CPUS …` in place of `--cpus`, "
        "`sudo systemctl set-property UNIT CPUQuota=`), or measure with fewer `--threads`."
    )
    return _graded(name, seen, advice, warning=before.periods > 0, problem=now.periods > 0)


def _periods(throttling: Throttling) -> str:
    if throttling.periods == 0:
        return "none"
    return f"{_count(throttling.periods, 'period')} ({_time(throttling.seconds)})"


def _load(kernel: Kernel, watched: Watch) -> Finding:
    name = "other load"
    words = (kernel.text("proc/loadavg") or "").split()
    if watched.others is None or len(words) < 4:
        return _unread(name, "/proc/stat and /proc/loadavg")
    cpus = len(kernel.online() or ()) or 1
    taken, minute = watched.others / watched.wall, float(words[0])
    waiting = max(0, (_integer(words[3].partition("/")[0]) or 0) - 1)  # this process is one of the runnable
    seen = (
        f"others took {taken:.2f} of {cpus} CPUs in {watched.wall:.1f} s{_named(watched)}; "
        f"{waiting} more runnable now; load average {minute:g} over 1 min"
    )
    if taken <= OTHER_LOAD_SHARE:
        return _graded(
            name, seen, "it was busy a moment ago: wait a few minutes and look again.", warning=minute > cpus
        )
    return _graded(name, seen, _OWN_CPUS, warning=True, problem=taken > cpus / 2)


def _named(watched: Watch) -> str:
    """The busiest programs in brackets; those that took under a hundredth of a CPU are not worth a name."""
    shares = [(name, seconds / watched.wall) for name, seconds in watched.busiest]
    shown = [f"{name} {share:.2f}" for name, share in shares if share >= 0.01]
    return f" ({', '.join(shown)})" if shown else ""


def _interruptions(watched: Watch) -> Finding:
    """Wall time in which a busy thread did not run, whoever caused it."""
    missing = max(0.0, 1 - watched.own / watched.wall)
    return _graded(
        "interruptions",
        f"a busy thread ran {_percent(1 - missing)} of the time; longest pause {_time(watched.longest_pause)}",
        _OWN_CPUS,
        warning=missing > OFF_CPU_SHARE,
        problem=missing > GRAVE * OFF_CPU_SHARE,
    )


def _steal(here: Here, watched: Watch) -> Finding:
    """Time in which the hypervisor ran somebody else while a CPU here had work (proc(5), /proc/stat)."""
    if watched.steal is None:
        return _unread("steal", "/proc/stat")
    share = watched.steal / watched.wall
    where = f"virtual machine, {here.hypervisor}" if here.hypervisor else "no hypervisor seen"
    return _graded(
        "steal",
        f"{_percent(share)} of one CPU in {watched.wall:.1f} s ({where})",
        _SIDE_BY_SIDE,
        warning=share > STEAL_SHARE,
        problem=share > GRAVE * STEAL_SHARE,
    )


def _pressure(resource: str, watched: Watch, share: float, advice: str) -> Finding:
    """Pressure stall information (kernel documentation, accounting/psi)."""
    name = f"{resource} pressure"
    if resource not in watched.pressure:
        advice = "boot with `psi=1`; the kernel has to be built with pressure stall information."
        return _unread(name, f"/proc/pressure/{resource}", advice)
    some, full = (seconds / watched.wall for seconds in watched.pressure[resource])
    seen = f"some task waited {_percent(some)} of the time, all of them {_percent(full)}"
    return _graded(name, seen, advice, warning=some > share, problem=some > GRAVE * share)


def _virtualization(kernel: Kernel, hypervisor: str | None) -> Finding:
    container = _container(kernel)
    machine = f"virtual machine ({hypervisor})" if hypervisor else "no hypervisor seen"
    seen = f"{machine}, " + (f"in a container ({container})" if container else "no container seen")
    return _graded("virtualization", seen, _SIDE_BY_SIDE, warning=hypervisor is not None)


def _container(kernel: Kernel) -> str | None:
    """What kind of container this is, from the marks that the usual ones leave."""
    for path, kind in ((".dockerenv", "docker"), ("run/.containerenv", "podman")):
        if kernel.has(path):
            return kind
    control = kernel.text("proc/self/cgroup") or ""
    kinds = (kind for kind in ("kubepods", "docker", "lxc", "libpod") if kind in control)
    return kernel.text("run/systemd/container") or next(kinds, None)


def _governor(kernel: Kernel, cpus: Sequence[int]) -> Finding:
    """Kernel documentation, admin-guide/pm: cpufreq, intel_pstate, amd-pstate.

    `powersave` is two things: the lowest clock there is with ordinary drivers, and a clock that the processor chooses
    with intel_pstate and amd-pstate-epp.
    """
    name = "governor"
    governors = set(kernel.of_cpus(cpus, "cpufreq/scaling_governor").values())
    if not governors:
        return _host_decides(name, "cpu*/cpufreq/scaling_governor")
    preferences = set(kernel.of_cpus(cpus, "cpufreq/energy_performance_preference").values())
    drivers = set(kernel.of_cpus(cpus, "cpufreq/scaling_driver").values())
    seen = _listed(governors) + (f" ({_listed(drivers)})" if drivers else "")
    seen += f", energy preference {_listed(preferences)}" if preferences else ""
    follows = not governors <= {"performance", "userspace"}
    lowest = "powersave" in governors and not drivers <= {"intel_pstate", "amd-pstate-epp"}
    if follows:
        seen += ": the lowest clock there is" if lowest else ": the clock follows the load"
        return _graded(
            name, seen, "`sudo cpupower frequency-set -g performance`.", warning=True, problem=lowest
        )
    # The preference may be a number, of which 0 is `performance`.
    command = f"`echo performance | sudo tee /{CPU}/cpu*/cpufreq/energy_performance_preference`"
    return _graded(
        name,
        seen,
        f"tell the processor not to save energy: {command}.",
        warning=not preferences <= {"performance", "0"},
    )


def _turbo(kernel: Kernel) -> Finding:
    """How far it goes depends on temperature and on the other cores (admin-guide/pm/cpufreq, frequency boost)."""
    on, file = _turbo_state(kernel)
    if on is None:
        return _host_decides("turbo", "intel_pstate/no_turbo and cpufreq/boost")
    seen = "on: the clock depends on temperature and on what other cores do" if on else "off"
    switch = f"echo {int(file.endswith('no_turbo'))} | sudo tee /{file}"
    return _graded("turbo", seen, f"switch it off while measuring: `{switch}`.", warning=on)


def _turbo_state(kernel: Kernel) -> tuple[bool | None, str]:
    """Whether turbo is on, and the file that says so."""
    no_turbo = kernel.number(f"{CPU}/intel_pstate/no_turbo")
    if no_turbo is not None:
        return no_turbo == 0, f"{CPU}/intel_pstate/no_turbo"
    boost = kernel.number(f"{CPU}/cpufreq/boost")
    return (None if boost is None else boost == 1), f"{CPU}/cpufreq/boost"


def _frequency(kernel: Kernel, watched: Watch) -> Finding:
    """The fastest usable CPU right after work: it is the one that worked, and an idle one says nothing."""
    name = "clock under load"
    highest = _highest_frequencies(kernel, watched.frequencies)
    shares = {cpu: now / highest[cpu] for cpu, now in watched.frequencies.items() if highest.get(cpu)}
    if not shares:
        return _host_decides(name, "cpu*/cpufreq/scaling_cur_freq and cpuinfo_max_freq")
    cpu = max(shares, key=lambda each: shares[each])
    seen = f"{_ghz(watched.frequencies[cpu])} of {_ghz(highest[cpu])} on CPU {cpu}"
    limits = kernel.numbers_of_cpus([cpu], "cpufreq/scaling_max_freq")
    if cpu in limits and limits[cpu] < highest[cpu]:
        seen += f", limited to {_ghz(limits[cpu])}"
    return _graded(
        name,
        seen,
        f"`sudo cpupower frequency-set -g performance -u {highest[cpu]}`, let it cool, and look for a power limit.",
        warning=shares[cpu] < LOW_FREQUENCY,
        problem=shares[cpu] < VERY_LOW_FREQUENCY,
    )


def _highest_frequencies(kernel: Kernel, cpus: Iterable[int]) -> dict[int, int]:
    """Highest clock in kHz that each CPU can be expected to reach.

    Some drivers count turbo in cpuinfo_max_freq while it is off; there it is the base frequency (intel_pstate), else
    the present limit.
    """
    highest = kernel.numbers_of_cpus(cpus, "cpufreq/cpuinfo_max_freq")
    if _turbo_state(kernel)[0] is not False:
        return highest
    limits = kernel.numbers_of_cpus(highest, "cpufreq/scaling_max_freq")
    bases = kernel.numbers_of_cpus(highest, "cpufreq/base_frequency")
    return {cpu: bases.get(cpu) or min(limits.get(cpu, most), most) for cpu, most in highest.items()}


def _overheating(watched: Watch) -> Finding:
    name = "overheating"
    before, now = watched.overheated_before, watched.overheated
    if before is None or now is None:
        return _unread(
            name, f"cpu*/thermal_throttle/* below /{CPU}; Intel shows them, outside of virtual machines"
        )
    return _graded(
        name,
        f"slowed down {_count(now, 'time')} in {watched.wall:.1f} s, {_count(before, 'time')} earlier, since the start",
        "let it cool, see to fans and room, and switch turbo off so that the clock can be held.",
        warning=before > 0,
        problem=now > 0,
    )


def _hyper_threads(kernel: Kernel, here: Here) -> Finding:
    """Kernel documentation, ABI/testing/sysfs-devices-system-cpu: topology/thread_siblings_list, smt/control.

    A hypervisor may show threads of one core as cores, so in a virtual machine seeing none says nothing.
    """
    name = "hyper-threads"
    lists = kernel.of_cpus(here.cpus, "topology/thread_siblings_list")
    if not lists:
        return _unread(name, f"cpu*/topology/thread_siblings_list below /{CPU}")
    cores = {parse_cpus(text) for text in lists.values()}
    if all(len(core) == 1 for core in cores):
        if here.hypervisor:
            return Finding(
                name, "unknown", "none shown, but CPUs of a virtual machine may be threads of one core"
            )
        return Finding(name, "ok", "off: every CPU is a core of its own")
    usable = set(here.cpus)
    off = "switch them off: `echo off | sudo tee /sys/devices/system/cpu/smt/control`"
    twice = [core for core in cores if len(usable & set(core)) > 1]
    if twice:
        firsts = format_cpus(min(usable & set(core)) for core in cores)
        seen = f"on: {len(usable)} usable CPUs are {_count(len(cores), 'core')}, {len(twice)} used twice"
        return Finding(name, "warning", seen, f"{off}; or `taskset -c {firsts} mnv3-bench …`.")
    others = format_cpus(cpu for core in cores for cpu in core if cpu not in usable)
    seen = f"on: this process has one CPU a core, others may use {others} on the same cores"
    return Finding(name, "warning", seen, f"{off}; or keep other work off {others}.")


def _unequal_cores(kernel: Kernel, cpus: Sequence[int]) -> Finding:
    """Kernel documentation, ABI/testing/sysfs-devices-system-cpu: cpu_capacity, of which the fastest has 1024."""
    name = "kinds of cores"
    speeds, unit = kernel.numbers_of_cpus(cpus, "cpu_capacity"), "of capacity"
    frequencies = kernel.numbers_of_cpus(cpus, "cpufreq/cpuinfo_max_freq")
    if frequencies and len(set(speeds.values())) < 2:
        speeds, unit = frequencies, "kHz at most"
    if not speeds:
        return _unread(name, f"cpu*/cpu_capacity and cpu*/cpufreq/cpuinfo_max_freq below /{CPU}")
    slowest, fastest = min(speeds.values()), max(speeds.values())
    if slowest == fastest:
        return Finding(name, "ok", f"one: all usable CPUs have {fastest} {unit}")
    fast = format_cpus(cpu for cpu, speed in speeds.items() if speed == fastest)
    return _graded(
        name,
        f"{fastest} {unit} on CPUs {fast}, down to {slowest} on others",
        f"stay on one kind: `taskset -c {fast} mnv3-bench …`.",
        warning=True,
        problem=slowest < (1 - UNEQUAL_CORES) * fastest,
    )


def _numa(kernel: Kernel, cpus: Sequence[int]) -> Finding:
    """Kernel documentation, ABI/stable/sysfs-devices-node. Memory of one node is slower from another node's CPUs."""
    name = "NUMA nodes"
    online = kernel.text("sys/devices/system/node/online")
    if online is None:
        return _unread(name, "/sys/devices/system/node/online")
    nodes = parse_cpus(online)
    lists = {node: kernel.text(f"sys/devices/system/node/node{node}/cpulist") for node in nodes}
    used = [node for node, text in lists.items() if text and set(parse_cpus(text)) & set(cpus)] or [nodes[0]]
    return _graded(
        name,
        f"{len(nodes)}, usable CPUs on {format_cpus(used)}",
        f"stay on one: `numactl --cpunodebind={used[0]} --membind={used[0]} mnv3-bench …`.",
        warning=len(used) > 1,
    )


def _isolation(kernel: Kernel, cpus: Sequence[int]) -> Finding:
    """Kernel documentation, admin-guide/kernel-parameters: isolcpus, nohz_full. No load is balanced between them."""
    name = "isolated CPUs"
    if not kernel.has(f"{CPU}/isolated"):
        return _unread(name, f"/{CPU}/isolated")
    isolated = parse_cpus(kernel.text(f"{CPU}/isolated") or "")
    tickless = kernel.text(f"{CPU}/nohz_full")
    seen = format_cpus(isolated) or "none"
    if tickless not in (None, "(null)"):
        seen += f", without tick {tickless}"
    inside = sorted(set(isolated) & set(cpus))
    if len(inside) < 2:
        hint = (
            f"; `taskset -c {isolated[0]} mnv3-bench …` would measure there"
            if isolated and not inside
            else ""
        )
        return Finding(name, "ok", seen + hint)
    return Finding(
        name,
        "warning",
        f"{seen}; usable here are {format_cpus(inside)}, among which the scheduler spreads no threads",
        f"measure single threads there, `taskset -c {inside[0]} mnv3-bench … --threads 1`, or isolate with a cpuset.",
    )


def _swap(kernel: Kernel) -> Finding:
    name = "swap"
    memory = kernel.fields("proc/meminfo")
    if "SwapTotal" not in memory or "SwapFree" not in memory:
        return _unread(name, "SwapTotal and SwapFree in /proc/meminfo")
    total, used = memory["SwapTotal"], memory["SwapTotal"] - memory["SwapFree"]
    if total == 0:
        return Finding(name, "ok", "none")
    swappiness = kernel.number("proc/sys/vm/swappiness")
    return _graded(
        name,
        f"{_size(used)} of {_size(total)} used, swappiness {'unknown' if swappiness is None else swappiness}",
        "free memory, then `sudo swapoff -a` while measuring (`sudo swapon -a` afterwards).",
        warning=used > 0,
    )


def _memory_left(kernel: Kernel) -> Finding:
    """What the machine has available, or what a cgroup's limit leaves if that is less (admin-guide/cgroup-v2)."""
    name = "memory left"
    machine = kernel.fields("proc/meminfo").get("MemAvailable")
    if machine is None:
        return _unread(name, "MemAvailable in /proc/meminfo")
    limited = [left for group in kernel.cgroups("memory") if (left := _left_in(kernel, group)) is not None]
    left = min([machine, *limited])
    return _graded(
        name,
        _size(left) + (" under this cgroup's limit" if left < machine else ""),
        "end what uses memory, or raise the limit (`docker run --memory 4g …`).",
        warning=left < LITTLE_MEMORY,
        problem=left < VERY_LITTLE_MEMORY,
    )


def _left_in(kernel: Kernel, group: str) -> int | None:
    """Bytes below a cgroup's limit; cached files, which the kernel can drop, count as left."""
    for limit_file, used_file, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit, used = kernel.number(f"{group}/{limit_file}"), kernel.number(f"{group}/{used_file}")
        if limit is not None and used is not None:
            return max(0, limit - used + kernel.fields(f"{group}/memory.stat").get(cached, 0))
    return None


def _huge_pages(kernel: Kernel) -> Finding:
    """Kernel documentation, admin-guide/mm/transhuge: khugepaged collapses pages of programs while they run."""
    text = kernel.text(HUGE_PAGES)
    if text is None or "[" not in text:
        return _unread("huge pages", f"/{HUGE_PAGES}")
    chosen = text.partition("[")[2].partition("]")[0]
    always = chosen == "always"
    seen = (
        f"{chosen}: memory is moved in the background, and resident sets grow in large steps"
        if always
        else chosen
    )
    return _graded("huge pages", seen, f"`echo madvise | sudo tee /{HUGE_PAGES}`.", warning=always)


def _layout(kernel: Kernel) -> Finding:
    """Intervals over fresh processes rest on layouts that differ (admin-guide/sysctl/kernel, randomize_va_space)."""
    value = kernel.number("proc/sys/kernel/randomize_va_space")
    if value is None:
        return _unread("address layout", "/proc/sys/kernel/randomize_va_space")
    fixed = "the same in every process, so intervals leave out how layouts differ"
    seen = f"{'differs between processes' if value else fixed} (randomize_va_space {value})"
    return _graded("address layout", seen, "`sudo sysctl kernel.randomize_va_space=2`.", warning=value == 0)


def _battery(plugged: bool | None) -> Finding:
    seen = {None: "no battery seen", True: "mains", False: "battery: the clock is held down"}[plugged]
    return _graded("power", seen, "connect mains power.", warning=False, problem=plugged is False)


def _clocksource(kernel: Kernel) -> Finding:
    """What the kernel tells time by (kernel documentation, timers/timekeeping)."""
    name = "clock source"
    current = kernel.text(f"{CLOCKSOURCE}/current_clocksource")
    if current is None:
        return _unread(name, f"/{CLOCKSOURCE}/current_clocksource")
    if current in FAST_CLOCKS:
        return Finding(name, "ok", current)
    if current not in SLOW_CLOCKS:
        return Finding(
            name, "unknown", f"{current}, which is not in this list of fast and slow ones; see 'clock'"
        )
    offered = (kernel.text(f"{CLOCKSOURCE}/available_clocksource") or "").split()
    faster = [each for each in offered if each in FAST_CLOCKS]
    return _graded(
        name,
        f"{current}: every reading is a call into the kernel",
        f"`echo {faster[0]} | sudo tee /{CLOCKSOURCE}/current_clocksource`."
        if faster
        else "`sudo dmesg | grep -i -e tsc -e clocksource` says why there is no faster one; ask the machine's owner.",
        warning=True,
        problem=current != "xen",
    )


def _clock(watched: Watch) -> Finding:
    return _graded(
        "clock",
        f"a reading takes {_time(watched.clock_cost)}, smallest step {_time(watched.clock_step)}",
        "see the clock source; in a sandbox that intercepts calls into the kernel, measure outside of it.",
        warning=max(watched.clock_cost, watched.clock_step) > CLOCK_SECONDS,
    )


def _records(recordable: Mapping[str, bool]) -> Finding:
    """Whether the marks of a run's blocks are complete."""
    missing = [name for name, shown in recordable.items() if not shown]
    if missing:
        return Finding("marks in runs", "unknown", f"a run here cannot see {', '.join(missing)}")
    return Finding("marks in runs", "ok", f"a run here sees {', '.join(recordable)}")


# Wording


def _integer(text: str | None) -> int | None:
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _ghz(kilohertz: int) -> str:
    return f"{kilohertz / 1e6:.2f} GHz"


def _listed(words: Iterable[str]) -> str:
    return ", ".join(sorted(words))
