"""Counters of what disturbs a measurement, read from the kernel around each block.

Everything here is Linux's `/proc` and `/sys`; elsewhere a counter that cannot be read stays at zero or None, and
`available` says so in the run's notes.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

STEAL_SHARE = 0.01
PRESSURE_SHARE = 0.10
OFF_CPU_SHARE = 0.05
OTHER_LOAD_SHARE = 0.25
"""Shares of a block's wall time above which it is marked. Marks inform; they never drop a block by themselves."""


@dataclass(frozen=True)
class Counters:
    """Cumulative counters at one moment; the difference of two describes what lay between."""

    wall: float
    cpu: float
    involuntary: int
    minor_faults: int
    major_faults: int
    steal: float
    pressure: float
    throttled: float
    machine_busy: float

    @classmethod
    def now(cls) -> Counters:
        """Read every counter."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        busy, steal = _cpu_times()
        return cls(
            wall=time.perf_counter(),
            cpu=time.process_time(),
            involuntary=usage.ru_nivcsw,
            minor_faults=usage.ru_minflt,
            major_faults=usage.ru_majflt,
            steal=steal,
            pressure=_pressure(),
            throttled=_throttled(),
            machine_busy=busy,
        )


def _cpu_times() -> tuple[float, float]:
    """Busy and stolen CPU seconds of the whole machine since boot (proc(5), /proc/stat; resolution 10 ms)."""
    try:
        with open("/proc/stat", "rb", buffering=0) as stat:  # noqa: PTH123 - read around every block, so kept cheap
            fields = stat.readline().split()
    except OSError:
        return 0.0, 0.0
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(value) for value in fields[1:9])
    ticks = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / ticks, steal / ticks


def _pressure() -> float:
    """Seconds some task waited for a CPU (kernel documentation, accounting/psi: the `total` of the `some` line)."""
    try:
        with open("/proc/pressure/cpu", "rb", buffering=0) as pressure:  # noqa: PTH123
            line = pressure.readline()
    except OSError:
        return 0.0
    return int(line.rsplit(b"total=", 1)[1]) / 1e6


@cache
def cgroup_directory() -> Path | None:
    """This process's cgroup v2 directory, None where there is none."""
    try:
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                return Path("/sys/fs/cgroup") / line[3:].lstrip("/")
    except OSError:
        return None
    return None


def _throttled() -> float:
    """Seconds this cgroup was kept from running by its CPU quota."""
    directory = cgroup_directory()
    if directory is None:
        return 0.0
    try:
        text = (directory / "cpu.stat").read_text()
    except OSError:
        return 0.0
    for line in text.splitlines():
        if line.startswith("throttled_usec"):
            return int(line.split()[1]) / 1e6
    return 0.0


def frequency_mhz() -> float | None:
    """Current clock of CPU 0, where the kernel shows it."""
    try:
        return int(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq").read_text()) / 1000
    except (OSError, ValueError):
        return None


def available() -> dict[str, bool]:
    """Which disturbances this machine can show."""
    directory = cgroup_directory()
    return {
        "steal": Path("/proc/stat").exists(),
        "pressure": Path("/proc/pressure/cpu").exists(),
        "throttling": directory is not None and (directory / "cpu.stat").exists(),
        "frequency": frequency_mhz() is not None,
    }


def marks(
    *,
    threads: int,
    wall: float,
    cpu: float,
    steal: float,
    pressure: float,
    throttled: float,
    other: float,
    major_faults: int,
) -> tuple[str, ...]:
    """Names of the thresholds a block crossed.

    `off-cpu` is judged for one thread only: with several, a pool's idle threads make CPU time below threads x wall
    normal.
    """
    found = []
    if steal > STEAL_SHARE * wall:
        found.append("steal")
    if throttled > 0:
        found.append("throttled")
    if pressure > PRESSURE_SHARE * wall:
        found.append("pressure")
    if threads == 1 and cpu < (1 - OFF_CPU_SHARE) * wall:
        found.append("off-cpu")
    if other > OTHER_LOAD_SHARE * wall:
        found.append("other-load")
    if major_faults > 0:
        found.append("major-faults")
    return tuple(found)


def resident_bytes() -> int:
    """Resident set of this process now."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return peak_resident_bytes()
    return pages * resource.getpagesize()


def peak_resident_bytes() -> int:
    """The kernel's high-water mark of this process's resident set: VmHWM, else getrusage.

    `ru_maxrss` alone would not do: it survives exec, so a small worker would show the size of the process that
    started it.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # no /proc on this system
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def os_threads() -> int:
    """Threads of this process as the kernel counts them."""
    try:
        return len(list(Path("/proc/self/task").iterdir()))
    except OSError:
        import threading

        return threading.active_count()
