"""`mnv3-bench doctor`: what on this machine disturbs a measurement, and what to change.

Three layers. `kernel` reads files below a root, so that tests lay out a /proc and /sys of their own. `watching` keeps
one CPU busy for a few seconds and says what passed meanwhile: a machine that is idle shows neither steal, nor
throttling, nor the clock it has under load. The checks are pure: files and what was watched in, one `Finding` out.

Nothing is changed here; what would have to be is said as a command. Sources: proc(5), cgroups(7), cpuset(7) and the
kernel's own documentation (https://docs.kernel.org), whose pages are named where a check relies on them.
"""

from __future__ import annotations

import math

from mnv3_bench.doctor import checks_cpu, checks_load, checks_system
from mnv3_bench.doctor.findings import LEVELS, Finding, Level, to_lines
from mnv3_bench.doctor.here import Here
from mnv3_bench.doctor.kernel import Kernel
from mnv3_bench.doctor.watching import Throttling, Watch, watch
from mnv3_bench.errors import UsageError

__all__ = [
    "LEVELS",
    "Finding",
    "Here",
    "Kernel",
    "Level",
    "Throttling",
    "Watch",
    "diagnose",
    "examine",
    "to_lines",
    "watch",
]


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
        checks_load.affinity(kernel, here.cpus),
        checks_load.quota(kernel),
        checks_load.throttling(kernel, watched),
        checks_load.load(kernel, watched),
        checks_load.interruptions(watched),
        checks_load.steal(here, watched),
        *checks_load.pressures(watched),
        checks_load.virtualization(kernel, here.hypervisor),
        checks_cpu.governor(kernel, here.cpus),
        checks_cpu.turbo(kernel),
        checks_cpu.frequency(kernel, watched),
        checks_cpu.overheating(watched),
        checks_cpu.hyper_threads(kernel, here),
        checks_cpu.unequal_cores(kernel, here.cpus),
        checks_cpu.numa(kernel, here.cpus),
        checks_cpu.isolation(kernel, here.cpus),
        checks_system.swap(kernel),
        checks_system.memory_left(kernel),
        checks_system.huge_pages(kernel),
        checks_system.address_layout(kernel),
        checks_system.power(here.plugged),
        checks_system.clock_source(kernel),
        checks_system.clock(watched),
        checks_system.marks(here.recordable),
    ]
