"""How much of the CPUs this process gets: what it is allowed, and what others, quotas and a hypervisor take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnv3_bench.doctor.findings import Finding, count, duration, graded, unread
from mnv3_bench.doctor.kernel import CPU, format_cpus, integer
from mnv3_bench.noise import OFF_CPU_SHARE, OTHER_LOAD_SHARE, PRESSURE_SHARE, STEAL_SHARE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mnv3_bench.doctor.here import Here
    from mnv3_bench.doctor.kernel import Kernel
    from mnv3_bench.doctor.watching import Throttling, Watch

GRAVE = 5
"""A share this many times the one at which a run marks a block (`mnv3_bench.noise`) is a problem, not a warning."""

OWN_CPUS = (
    "end other work, or keep CPUs to this: `taskset -c CPUS mnv3-bench …`, `docker run --cpuset-cpus CPUS …`, "
    "or a CI runner of your own."
)
SIDE_BY_SIDE = (
    "rely on ratios within one run; for absolute times ask for a dedicated host or a bare-metal machine."
)


def affinity(kernel: Kernel, cpus: Sequence[int]) -> Finding:
    """How many CPUs this process may run on: one alone shares with everything else."""
    name = "CPUs allowed"
    online = kernel.online()
    if online is None:
        return unread(name, f"/{CPU}/online; this process may use {count(len(cpus), 'CPU')}")
    seen = f"{format_cpus(cpus)} of {format_cpus(online)}"
    if len(cpus) > 1:
        return Finding(name, "ok", seen)
    return Finding(
        name,
        "warning",
        f"only {seen}: whatever else runs here interrupts what is measured",
        "allow two: `taskset -c 0,1 mnv3-bench …`, `docker run --cpuset-cpus 0,1 …`, or a runner with two CPUs.",
    )


def quota(kernel: Kernel) -> Finding:
    """The CPU time this process is limited to.

    A quota stops every thread of the cgroup for the rest of a period (100 ms by default) once it is used up
    (cgroup v2 cpu.max and v1 cpu.cfs_quota_us; kernel documentation, admin-guide/cgroup-v2 and scheduler/sched-bwc).
    """
    name = "CPU quota"
    groups = kernel.cgroups("cpu")
    if not groups:
        return unread(name, "this process's cgroup (/proc/self/cgroup, /sys/fs/cgroup)")
    cpus = _smallest_quota(kernel, groups)
    if cpus is None:
        return Finding(name, "ok", "none on this cgroup or above")
    what = (
        "less than one thread needs" if cpus < 1 else "no whole number" if not cpus.is_integer() else "whole"
    )
    return graded(
        name,
        f"time of {cpus:g} CPUs, {what}",
        "give CPUs instead of time: `docker run --cpuset-cpus CPUS …` in place of `--cpus`; in Kubernetes, equal whole "
        "requests and limits and the CPU manager's static policy.",
        warning=not cpus.is_integer(),
        problem=cpus < 1,
    )


def _smallest_quota(kernel: Kernel, groups: Iterable[str]) -> float | None:
    """In CPUs; None where no cgroup has one."""
    return min((quota for group in groups if (quota := _quota_of(kernel, group)) is not None), default=None)


def _quota_of(kernel: Kernel, group: str) -> float | None:
    words = (kernel.text(f"{group}/cpu.max") or "").split()
    if len(words) == 2:
        quota, period = integer(words[0]), integer(words[1])
    else:
        quota, period = (
            kernel.number(f"{group}/cpu.cfs_quota_us"),
            kernel.number(f"{group}/cpu.cfs_period_us"),
        )
    return quota / period if quota is not None and period and quota > 0 else None


def throttling(kernel: Kernel, watched: Watch) -> Finding:
    """Whether a quota stopped this process's cgroups (kernel documentation, scheduler/sched-bwc)."""
    name = "quota throttling"
    before, now = watched.throttled_before, watched.throttled
    if before is None or now is None:
        groups = kernel.cgroups("cpu")
        if groups and _smallest_quota(kernel, groups) is None:
            return Finding(name, "ok", "no quota, nothing to throttle")
        return unread(name, "nr_throttled in this cgroup's cpu.stat")
    seen = (
        f"{_periods(now)} in {watched.wall:.1f} s with one thread busy; "
        f"{_periods(before)} earlier, since the cgroup was made"
    )
    advice = (
        "lift the quota (`docker run --cpuset-cpus CPUS …` in place of `--cpus`, "
        "`sudo systemctl set-property UNIT CPUQuota=`), or measure with fewer `--threads`."
    )
    return graded(name, seen, advice, warning=before.periods > 0, problem=now.periods > 0)


def _periods(throttling: Throttling) -> str:
    if throttling.periods == 0:
        return "none"
    return f"{count(throttling.periods, 'period')} ({duration(throttling.seconds)})"


def load(kernel: Kernel, watched: Watch) -> Finding:
    """CPU time that other processes took, and who they are."""
    name = "other load"
    words = (kernel.text("proc/loadavg") or "").split()
    if watched.others is None or len(words) < 4:
        return unread(name, "/proc/stat and /proc/loadavg")
    cpus = len(kernel.online() or ()) or 1
    taken, minute = watched.others / watched.wall, float(words[0])
    waiting = max(0, (integer(words[3].partition("/")[0]) or 0) - 1)  # this process is one of the runnable
    seen = (
        f"others took {taken:.2f} of {cpus} CPUs in {watched.wall:.1f} s{_named(watched)}; "
        f"{waiting} more runnable now; load average {minute:g} over 1 min"
    )
    if taken <= OTHER_LOAD_SHARE:
        return graded(
            name, seen, "it was busy a moment ago: wait a few minutes and look again.", warning=minute > cpus
        )
    return graded(name, seen, OWN_CPUS, warning=True, problem=taken > cpus / 2)


def _named(watched: Watch) -> str:
    """The busiest programs in brackets; those that took under a hundredth of a CPU are not worth a name."""
    shares = [(name, seconds / watched.wall) for name, seconds in watched.busiest]
    shown = [f"{name} {share:.2f}" for name, share in shares if share >= 0.01]
    return f" ({', '.join(shown)})" if shown else ""


def interruptions(watched: Watch) -> Finding:
    """Wall time in which a busy thread did not run, whoever caused it."""
    missing = max(0.0, 1 - watched.own / watched.wall)
    return graded(
        "interruptions",
        f"a busy thread ran {_percent(1 - missing)} of the time; longest pause {duration(watched.longest_pause)}",
        OWN_CPUS,
        warning=missing > OFF_CPU_SHARE,
        problem=missing > GRAVE * OFF_CPU_SHARE,
    )


def steal(here: Here, watched: Watch) -> Finding:
    """Time in which the hypervisor ran somebody else while a CPU here had work (proc(5), /proc/stat)."""
    if watched.steal is None:
        return unread("steal", "/proc/stat")
    share = watched.steal / watched.wall
    where = f"virtual machine, {here.hypervisor}" if here.hypervisor else "no hypervisor seen"
    return graded(
        "steal",
        f"{_percent(share)} of one CPU in {watched.wall:.1f} s ({where})",
        SIDE_BY_SIDE,
        warning=share > STEAL_SHARE,
        problem=share > GRAVE * STEAL_SHARE,
    )


def pressures(watched: Watch) -> list[Finding]:
    """One finding for each resource that tasks wait for: cpu, memory, io."""
    return [
        _pressure("cpu", watched, PRESSURE_SHARE, OWN_CPUS),
        _pressure(
            "memory",
            watched,
            PRESSURE_SHARE / GRAVE,
            "end what uses memory, or raise this container's limit.",
        ),
        _pressure("io", watched, PRESSURE_SHARE, "wait until what uses the disk has ended."),
    ]


def _pressure(resource: str, watched: Watch, share: float, advice: str) -> Finding:
    """Pressure stall information (kernel documentation, accounting/psi)."""
    name = f"{resource} pressure"
    if resource not in watched.pressure:
        advice = "boot with `psi=1`; the kernel has to be built with pressure stall information."
        return unread(name, f"/proc/pressure/{resource}", advice)
    some, full = (seconds / watched.wall for seconds in watched.pressure[resource])
    seen = f"some task waited {_percent(some)} of the time, all of them {_percent(full)}"
    return graded(name, seen, advice, warning=some > share, problem=some > GRAVE * share)


def virtualization(kernel: Kernel, hypervisor: str | None) -> Finding:
    """Whether others may share the hardware: a virtual machine; a container is only named."""
    container = _container(kernel)
    machine = f"virtual machine ({hypervisor})" if hypervisor else "no hypervisor seen"
    seen = f"{machine}, " + (f"in a container ({container})" if container else "no container seen")
    return graded("virtualization", seen, SIDE_BY_SIDE, warning=hypervisor is not None)


def _container(kernel: Kernel) -> str | None:
    """What kind of container this is, from the marks that the usual ones leave."""
    for path, kind in ((".dockerenv", "docker"), ("run/.containerenv", "podman")):
        if kernel.has(path):
            return kind
    control = kernel.text("proc/self/cgroup") or ""
    kinds = (kind for kind in ("kubepods", "docker", "lxc", "libpod") if kind in control)
    return kernel.text("run/systemd/container") or next(kinds, None)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
