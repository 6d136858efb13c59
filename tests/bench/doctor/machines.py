"""Machines laid out as /proc and /sys trees: four quiet cores, and what a test changes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mnv3_bench.doctor import Here, Kernel, Throttling, Watch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CPU = "sys/devices/system/cpu"
CLOCK = "sys/devices/system/clocksource/clocksource0"
HUGE = "sys/kernel/mm/transparent_hugepage/enabled"
NODES = "sys/devices/system/node"
GROUP = "sys/fs/cgroup/a/b"
ASLR = "proc/sys/kernel/randomize_va_space"

CPUS = (0, 1, 2, 3)
GIB = 1 << 30


def of_every_cpu(file: str, text: str) -> dict[str, str]:
    return {f"{CPU}/cpu{cpu}/{file}": text for cpu in CPUS}


# Four cores that nothing disturbs, with cgroups of version 2.
QUIET: dict[str, str] = {
    "proc/stat": "cpu 1 2 3 4 5 6 7 8 0 0\n",
    "proc/loadavg": "0.10 0.20 0.30 1/100 4242\n",
    "proc/meminfo": f"MemAvailable: {8 * GIB // 1024} kB\nSwapTotal: 1048576 kB\nSwapFree: 1048576 kB\n",
    "proc/self/cgroup": "0::/a/b\n",
    "sys/fs/cgroup/cgroup.controllers": "cpu memory\n",
    f"{GROUP}/cpu.max": "max 100000\n",
    f"{GROUP}/memory.max": "max\n",
    f"{GROUP}/memory.current": "0\n",
    "proc/sys/vm/swappiness": "60\n",
    ASLR: "2\n",
    HUGE: "always [madvise] never\n",
    f"{CPU}/online": "0-3\n",
    f"{CPU}/isolated": "\n",
    f"{CPU}/nohz_full": "(null)\n",
    f"{CPU}/intel_pstate/no_turbo": "1\n",
    f"{NODES}/online": "0\n",
    f"{NODES}/node0/cpulist": "0-3\n",
    f"{CLOCK}/current_clocksource": "tsc\n",
    f"{CLOCK}/available_clocksource": "tsc hpet acpi_pm\n",
    **of_every_cpu("cpufreq/scaling_governor", "performance\n"),
    **of_every_cpu("cpufreq/scaling_driver", "intel_pstate\n"),
    **of_every_cpu("cpufreq/energy_performance_preference", "performance\n"),
    **of_every_cpu("cpufreq/cpuinfo_max_freq", "4000000\n"),
    **of_every_cpu("cpufreq/scaling_max_freq", "4000000\n"),
    **of_every_cpu("cpufreq/base_frequency", "3000000\n"),
    **{f"{CPU}/cpu{cpu}/topology/thread_siblings_list": f"{cpu}\n" for cpu in CPUS},
}

WALL = 2.0

UNDISTURBED = Watch(
    wall=WALL,
    own=WALL,
    longest_pause=2e-5,
    others=0.0,
    busiest=(),
    steal=0.0,
    pressure={"cpu": (0.0, 0.0), "memory": (0.0, 0.0), "io": (0.0, 0.0)},
    throttled_before=Throttling(0, 0.0),
    throttled=Throttling(0, 0.0),
    overheated_before=0,
    overheated=0,
    frequencies=dict.fromkeys(CPUS, 3_000_000),
    clock_cost=4e-8,
    clock_step=3e-8,
)

HERE = Here(
    cpus=CPUS,
    hypervisor=None,
    plugged=None,
    recordable={"steal": True, "pressure": True, "throttling": True, "frequency": True},
)


def lay_out(root: Path, files: Mapping[str, str | None]) -> Kernel:
    """The quiet machine with some files changed; None leaves a file out."""
    for path, text in {**QUIET, **files}.items():
        if text is not None:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
    return Kernel(root)


def without(*parts: str) -> dict[str, None]:
    """The quiet machine's files whose path has one of these parts, left out."""
    return {path: None for path in QUIET if any(part in path for part in parts)}


def memory(available: int) -> dict[str, str]:
    return {"proc/meminfo": f"MemAvailable: {available // 1024} kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n"}


def waited(resource: str, share: float) -> dict[str, Any]:
    return {"pressure": {**UNDISTURBED.pressure, resource: (share * WALL, 0.0)}}


VERSION_1 = {
    **without("cgroup"),
    "proc/self/cgroup": "0::/\n4:memory:/c\n1:cpu,cpuacct:/docker/not/shown/here\n",
    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
    "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
}
SIBLINGS = {f"{CPU}/cpu{cpu}/topology/thread_siblings_list": f"{cpu % 2},{cpu % 2 + 2}\n" for cpu in CPUS}
TWO_NODES = {f"{NODES}/online": "0-1\n", f"{NODES}/node0/cpulist": "0-1\n", f"{NODES}/node1/cpulist": "2-3\n"}
SLOW_CORES = {f"{CPU}/cpu{cpu}/cpufreq/cpuinfo_max_freq": "2500000\n" for cpu in (2, 3)}
BINNED_CORES = {f"{CPU}/cpu{cpu}/cpufreq/cpuinfo_max_freq": "3900000\n" for cpu in (2, 3)}
BIG_LITTLE = {f"{CPU}/cpu{cpu}/cpu_capacity": "1024\n" if cpu < 2 else "400\n" for cpu in CPUS}
POWERSAVE = of_every_cpu("cpufreq/scaling_governor", "powersave\n")
ORDINARY_DRIVER = of_every_cpu("cpufreq/scaling_driver", "acpi-cpufreq\n")
BOOST = {f"{CPU}/intel_pstate/no_turbo": None, f"{CPU}/cpufreq/boost": "1\n"}
NO_BOOST = {**BOOST, f"{CPU}/cpufreq/boost": "0\n", **without("base_frequency")}
