"""The processor: how fast its clock is and may be, and which cores threads run on.

Sources: the kernel's own documentation (https://docs.kernel.org), whose pages are named where a check relies on them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnv3_bench.doctor.findings import Finding, count, graded, host_decides, unread
from mnv3_bench.doctor.kernel import CPU, format_cpus, parse_cpus

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mnv3_bench.doctor.here import Here
    from mnv3_bench.doctor.kernel import Kernel
    from mnv3_bench.doctor.watching import Watch

LOW_FREQUENCY, VERY_LOW_FREQUENCY = 0.9, 0.6
"""Shares of the highest clock below which the clock under load is a warning, and a problem."""

UNEQUAL_CORES = 0.1
"""Cores that differ by more than this are of different kinds; by less, some were binned to run a little faster."""


def governor(kernel: Kernel, cpus: Sequence[int]) -> Finding:
    """Who sets the clock, and for what (kernel documentation, admin-guide/pm: cpufreq, intel_pstate, amd-pstate).

    `powersave` is two things: the lowest clock there is with ordinary drivers, and a clock that the processor chooses
    with intel_pstate and amd-pstate-epp.
    """
    name = "governor"
    governors = set(kernel.of_cpus(cpus, "cpufreq/scaling_governor").values())
    if not governors:
        return host_decides(name, "cpu*/cpufreq/scaling_governor")
    preferences = set(kernel.of_cpus(cpus, "cpufreq/energy_performance_preference").values())
    drivers = set(kernel.of_cpus(cpus, "cpufreq/scaling_driver").values())
    seen = _listed(governors) + (f" ({_listed(drivers)})" if drivers else "")
    seen += f", energy preference {_listed(preferences)}" if preferences else ""
    follows = not governors <= {"performance", "userspace"}
    lowest = "powersave" in governors and not drivers <= {"intel_pstate", "amd-pstate-epp"}
    if follows:
        seen += ": the lowest clock there is" if lowest else ": the clock follows the load"
        return graded(
            name, seen, "`sudo cpupower frequency-set -g performance`.", warning=True, problem=lowest
        )
    # The preference may be a number, of which 0 is `performance`.
    command = f"`echo performance | sudo tee /{CPU}/cpu*/cpufreq/energy_performance_preference`"
    return graded(
        name,
        seen,
        f"tell the processor not to save energy: {command}.",
        warning=not preferences <= {"performance", "0"},
    )


def turbo(kernel: Kernel) -> Finding:
    """Its clock depends on temperature and on the other cores (admin-guide/pm/cpufreq, frequency boost)."""
    on, file = _turbo_state(kernel)
    if on is None:
        return host_decides("turbo", "intel_pstate/no_turbo and cpufreq/boost")
    seen = "on: the clock depends on temperature and on what other cores do" if on else "off"
    switch = f"echo {int(file.endswith('no_turbo'))} | sudo tee /{file}"
    return graded("turbo", seen, f"switch it off while measuring: `{switch}`.", warning=on)


def _turbo_state(kernel: Kernel) -> tuple[bool | None, str]:
    """Whether turbo is on, and the file that says so."""
    no_turbo = kernel.number(f"{CPU}/intel_pstate/no_turbo")
    if no_turbo is not None:
        return no_turbo == 0, f"{CPU}/intel_pstate/no_turbo"
    boost = kernel.number(f"{CPU}/cpufreq/boost")
    return (None if boost is None else boost == 1), f"{CPU}/cpufreq/boost"


def frequency(kernel: Kernel, watched: Watch) -> Finding:
    """The fastest usable CPU right after work: it is the one that worked, and an idle one says nothing."""
    name = "clock under load"
    highest = _highest_frequencies(kernel, watched.frequencies)
    shares = {cpu: now / highest[cpu] for cpu, now in watched.frequencies.items() if highest.get(cpu)}
    if not shares:
        return host_decides(name, "cpu*/cpufreq/scaling_cur_freq and cpuinfo_max_freq")
    cpu = max(shares, key=lambda each: shares[each])
    seen = f"{_ghz(watched.frequencies[cpu])} of {_ghz(highest[cpu])} on CPU {cpu}"
    limits = kernel.numbers_of_cpus([cpu], "cpufreq/scaling_max_freq")
    if cpu in limits and limits[cpu] < highest[cpu]:
        seen += f", limited to {_ghz(limits[cpu])}"
    return graded(
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


def overheating(watched: Watch) -> Finding:
    """Whether cores, or the package, were slowed down because they were hot."""
    name = "overheating"
    before, now = watched.overheated_before, watched.overheated
    if before is None or now is None:
        return unread(
            name, f"cpu*/thermal_throttle/* below /{CPU}; Intel shows them, outside of virtual machines"
        )
    return graded(
        name,
        f"slowed down {count(now, 'time')} in {watched.wall:.1f} s, {count(before, 'time')} earlier, since the start",
        "let it cool, see to fans and room, and switch turbo off so that the clock can be held.",
        warning=before > 0,
        problem=now > 0,
    )


def hyper_threads(kernel: Kernel, here: Here) -> Finding:
    """Whether CPUs are threads that share a core.

    Kernel documentation, ABI/testing/sysfs-devices-system-cpu: topology/thread_siblings_list, smt/control.
    A hypervisor may show threads of one core as cores, so in a virtual machine seeing none says nothing.
    """
    name = "hyper-threads"
    lists = kernel.of_cpus(here.cpus, "topology/thread_siblings_list")
    if not lists:
        return unread(name, f"cpu*/topology/thread_siblings_list below /{CPU}")
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
        seen = f"on: {len(usable)} usable CPUs are {count(len(cores), 'core')}, {len(twice)} used twice"
        return Finding(name, "warning", seen, f"{off}; or `taskset -c {firsts} mnv3-bench …`.")
    others = format_cpus(cpu for core in cores for cpu in core if cpu not in usable)
    seen = f"on: this process has one CPU a core, others may use {others} on the same cores"
    return Finding(name, "warning", seen, f"{off}; or keep other work off {others}.")


def unequal_cores(kernel: Kernel, cpus: Sequence[int]) -> Finding:
    """Whether some cores are slower than others.

    Kernel documentation, ABI/testing/sysfs-devices-system-cpu: cpu_capacity, of which the fastest has 1024.
    """
    name = "kinds of cores"
    speeds, unit = kernel.numbers_of_cpus(cpus, "cpu_capacity"), "of capacity"
    frequencies = kernel.numbers_of_cpus(cpus, "cpufreq/cpuinfo_max_freq")
    if frequencies and len(set(speeds.values())) < 2:
        speeds, unit = frequencies, "kHz at most"
    if not speeds:
        return unread(name, f"cpu*/cpu_capacity and cpu*/cpufreq/cpuinfo_max_freq below /{CPU}")
    slowest, fastest = min(speeds.values()), max(speeds.values())
    if slowest == fastest:
        return Finding(name, "ok", f"one: all usable CPUs have {fastest} {unit}")
    fast = format_cpus(cpu for cpu, speed in speeds.items() if speed == fastest)
    return graded(
        name,
        f"{fastest} {unit} on CPUs {fast}, down to {slowest} on others",
        f"stay on one kind: `taskset -c {fast} mnv3-bench …`.",
        warning=True,
        problem=slowest < (1 - UNEQUAL_CORES) * fastest,
    )


def numa(kernel: Kernel, cpus: Sequence[int]) -> Finding:
    """Memory of one node is slower from another node's CPUs (kernel documentation, ABI/stable/sysfs-devices-node)."""
    name = "NUMA nodes"
    online = kernel.text("sys/devices/system/node/online")
    if online is None:
        return unread(name, "/sys/devices/system/node/online")
    nodes = parse_cpus(online)
    lists = {node: kernel.text(f"sys/devices/system/node/node{node}/cpulist") for node in nodes}
    used = [node for node, text in lists.items() if text and set(parse_cpus(text)) & set(cpus)] or [nodes[0]]
    return graded(
        name,
        f"{len(nodes)}, usable CPUs on {format_cpus(used)}",
        f"stay on one: `numactl --cpunodebind={used[0]} --membind={used[0]} mnv3-bench …`.",
        warning=len(used) > 1,
    )


def isolation(kernel: Kernel, cpus: Sequence[int]) -> Finding:
    """CPUs taken from the scheduler, between which no load is balanced.

    Kernel documentation, admin-guide/kernel-parameters: isolcpus, nohz_full.
    """
    name = "isolated CPUs"
    if not kernel.has(f"{CPU}/isolated"):
        return unread(name, f"/{CPU}/isolated")
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


def _ghz(kilohertz: int) -> str:
    return f"{kilohertz / 1e6:.2f} GHz"


def _listed(words: Iterable[str]) -> str:
    return ", ".join(sorted(words))
