"""The system around the processor: memory, where it lies, power, clocks, and what a run can record of all this.

Sources: the kernel's own documentation (https://docs.kernel.org), whose pages are named where a check relies on them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnv3_bench.doctor.findings import Finding, duration, graded, unread

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mnv3_bench.doctor.kernel import Kernel
    from mnv3_bench.doctor.watching import Watch

CLOCK_SECONDS = 1e-6
"""A clock that takes or steps longer than this shows in a call of a millisecond."""

LITTLE_MEMORY, VERY_LITTLE_MEMORY = 2 << 30, 1 << 30
"""Bytes left for workers: one that holds PyTorch and a network takes 0.3 to 0.4 GB (docs/example-report.md)."""

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


def swap(kernel: Kernel) -> Finding:
    """Whether memory was moved to disk, from where a call may have to wait for it."""
    name = "swap"
    memory = kernel.fields("proc/meminfo")
    if "SwapTotal" not in memory or "SwapFree" not in memory:
        return unread(name, "SwapTotal and SwapFree in /proc/meminfo")
    total, used = memory["SwapTotal"], memory["SwapTotal"] - memory["SwapFree"]
    if total == 0:
        return Finding(name, "ok", "none")
    swappiness = kernel.number("proc/sys/vm/swappiness")
    return graded(
        name,
        f"{_size(used)} of {_size(total)} used, swappiness {'unknown' if swappiness is None else swappiness}",
        "free memory, then `sudo swapoff -a` while measuring (`sudo swapon -a` afterwards).",
        warning=used > 0,
    )


def memory_left(kernel: Kernel) -> Finding:
    """What the machine has available, or what a cgroup's limit leaves if that is less (admin-guide/cgroup-v2)."""
    name = "memory left"
    machine = kernel.fields("proc/meminfo").get("MemAvailable")
    if machine is None:
        return unread(name, "MemAvailable in /proc/meminfo")
    limited = [left for group in kernel.cgroups("memory") if (left := _left_in(kernel, group)) is not None]
    left = min([machine, *limited])
    return graded(
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


def huge_pages(kernel: Kernel) -> Finding:
    """khugepaged collapses pages of programs while they run (kernel documentation, admin-guide/mm/transhuge)."""
    text = kernel.text(HUGE_PAGES)
    if text is None or "[" not in text:
        return unread("huge pages", f"/{HUGE_PAGES}")
    chosen = text.partition("[")[2].partition("]")[0]
    always = chosen == "always"
    seen = (
        f"{chosen}: memory is moved in the background, and resident sets grow in large steps"
        if always
        else chosen
    )
    return graded("huge pages", seen, f"`echo madvise | sudo tee /{HUGE_PAGES}`.", warning=always)


def address_layout(kernel: Kernel) -> Finding:
    """Intervals over fresh processes rest on layouts that differ (admin-guide/sysctl/kernel, randomize_va_space)."""
    value = kernel.number("proc/sys/kernel/randomize_va_space")
    if value is None:
        return unread("address layout", "/proc/sys/kernel/randomize_va_space")
    fixed = "the same in every process, so intervals leave out how layouts differ"
    seen = f"{'differs between processes' if value else fixed} (randomize_va_space {value})"
    return graded("address layout", seen, "`sudo sysctl kernel.randomize_va_space=2`.", warning=value == 0)


def power(plugged: bool | None) -> Finding:
    """Whether a battery holds the clock down."""
    seen = {None: "no battery seen", True: "mains", False: "battery: the clock is held down"}[plugged]
    return graded("power", seen, "connect mains power.", warning=False, problem=plugged is False)


def clock_source(kernel: Kernel) -> Finding:
    """What the kernel tells time by (kernel documentation, timers/timekeeping)."""
    name = "clock source"
    current = kernel.text(f"{CLOCKSOURCE}/current_clocksource")
    if current is None:
        return unread(name, f"/{CLOCKSOURCE}/current_clocksource")
    if current in FAST_CLOCKS:
        return Finding(name, "ok", current)
    if current not in SLOW_CLOCKS:
        return Finding(
            name, "unknown", f"{current}, which is not in this list of fast and slow ones; see 'clock'"
        )
    offered = (kernel.text(f"{CLOCKSOURCE}/available_clocksource") or "").split()
    faster = [each for each in offered if each in FAST_CLOCKS]
    return graded(
        name,
        f"{current}: every reading is a call into the kernel",
        f"`echo {faster[0]} | sudo tee /{CLOCKSOURCE}/current_clocksource`."
        if faster
        else "`sudo dmesg | grep -i -e tsc -e clocksource` says why there is no faster one; ask the machine's owner.",
        warning=True,
        problem=current != "xen",
    )


def clock(watched: Watch) -> Finding:
    """What reading the clock costs and how fine it is, whatever the kernel tells time by."""
    return graded(
        "clock",
        f"a reading takes {duration(watched.clock_cost)}, smallest step {duration(watched.clock_step)}",
        "see the clock source; in a sandbox that intercepts calls into the kernel, measure outside of it.",
        warning=max(watched.clock_cost, watched.clock_step) > CLOCK_SECONDS,
    )


def marks(recordable: Mapping[str, bool]) -> Finding:
    """Whether the marks of a run's blocks are complete."""
    missing = [name for name, shown in recordable.items() if not shown]
    if missing:
        return Finding("marks in runs", "unknown", f"a run here cannot see {', '.join(missing)}")
    return Finding("marks in runs", "ok", f"a run here sees {', '.join(recordable)}")


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
