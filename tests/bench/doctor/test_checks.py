"""Every level of every finding, on machines laid out here; the real one once, for its structure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from bench.doctor.machines import (
    ASLR,
    BIG_LITTLE,
    BINNED_CORES,
    BOOST,
    CLOCK,
    CPU,
    GIB,
    GROUP,
    HERE,
    HUGE,
    NO_BOOST,
    ORDINARY_DRIVER,
    POWERSAVE,
    SIBLINGS,
    SLOW_CORES,
    TWO_NODES,
    UNDISTURBED,
    VERSION_1,
    WALL,
    lay_out,
    memory,
    of_every_cpu,
    waited,
    without,
)

from mnv3_bench.doctor import LEVELS, Kernel, Throttling, diagnose, examine, to_lines
from mnv3_bench.errors import UsageError
from mnv3_bench.noise import OFF_CPU_SHARE, OTHER_LOAD_SHARE, PRESSURE_SHARE, STEAL_SHARE

if TYPE_CHECKING:
    from pathlib import Path

BUSY = {"others": 1.5 * OTHER_LOAD_SHARE * WALL, "busiest": (("rustc", 0.7), ("idle", 0.001))}


def case(name: str, level: str, says: str, files: Any = None, watched: Any = None, here: Any = None) -> Any:
    return pytest.param(
        name, level, says, files or {}, watched or {}, here or {}, id=f"{name}, {level}: {says}"
    )


CASES = [
    case("CPUs allowed", "ok", "0-3 of 0-3"),
    case("CPUs allowed", "ok", "1,3 of 0-3", here={"cpus": (1, 3)}),
    case("CPUs allowed", "warning", "only 2 of 0-3", here={"cpus": (2,)}),
    case("CPUs allowed", "unknown", "/sys/devices/system/cpu/online", without("cpu/online")),
    case("CPU quota", "ok", "none"),
    case("CPU quota", "ok", "2 CPUs, whole", {f"{GROUP}/cpu.max": "200000 100000"}),
    case("CPU quota", "warning", "1.5 CPUs, no whole", {f"{GROUP}/cpu.max": "150000 100000"}),
    case("CPU quota", "warning", "2.5 CPUs, no whole", {"sys/fs/cgroup/a/cpu.max": "250000 100000"}),
    case("CPU quota", "problem", "0.5 CPUs, less", {f"{GROUP}/cpu.max": "50000 100000"}),
    case("CPU quota", "ok", "none", VERSION_1),
    case("CPU quota", "problem", "0.3 CPUs", {**VERSION_1, "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "30000"}),
    case("CPU quota", "unknown", "cgroup", without("cgroup")),
    case("quota throttling", "ok", "none in 2.0 s"),
    case("quota throttling", "ok", "no quota", watched={"throttled_before": None, "throttled": None}),
    case(
        "quota throttling",
        "warning",
        "3 periods (120 ms) earlier",
        watched={"throttled_before": Throttling(3, 0.12)},
    ),
    case("quota throttling", "problem", "1 period (50 ms) in", watched={"throttled": Throttling(1, 0.05)}),
    case(
        "quota throttling",
        "unknown",
        "nr_throttled",
        {f"{GROUP}/cpu.max": "200000 100000"},
        {"throttled_before": None, "throttled": None},
    ),
    case("other load", "ok", "0 more runnable now"),
    case("other load", "ok", "0.25 of 4 CPUs", watched={"others": OTHER_LOAD_SHARE * WALL}),
    case("other load", "warning", "(rustc 0.35);", watched=BUSY),
    case("other load", "warning", "load average 4.5", {"proc/loadavg": "4.50 1 1 6/100 1\n"}),
    case("other load", "problem", "2.50 of 4 CPUs", watched={"others": 2.5 * WALL}),
    case("other load", "unknown", "/proc/loadavg", without("loadavg")),
    case("other load", "unknown", "/proc/stat", watched={"others": None}),
    case("interruptions", "ok", "100.0 % of the time; longest pause 20 µs"),
    case("interruptions", "warning", "90.0 %", watched={"own": WALL * (1 - 2 * OFF_CPU_SHARE)}),
    case("interruptions", "problem", "70.0 %", watched={"own": WALL * (1 - 6 * OFF_CPU_SHARE)}),
    case("steal", "ok", "0.0 %"),
    case("steal", "ok", "virtual machine, KVM", here={"hypervisor": "KVM"}),
    case("steal", "warning", "2.0 %", watched={"steal": 2 * STEAL_SHARE * WALL}),
    case("steal", "problem", "6.0 %", watched={"steal": 6 * STEAL_SHARE * WALL}),
    case("steal", "unknown", "/proc/stat", watched={"steal": None}),
    case("cpu pressure", "ok", "5.0 %", watched=waited("cpu", PRESSURE_SHARE / 2)),
    case("cpu pressure", "warning", "20.0 %", watched=waited("cpu", 2 * PRESSURE_SHARE)),
    case("cpu pressure", "problem", "60.0 %", watched=waited("cpu", 6 * PRESSURE_SHARE)),
    case("cpu pressure", "unknown", "/proc/pressure/cpu", watched={"pressure": {}}),
    case("memory pressure", "ok", "0.0 %"),
    case("memory pressure", "warning", "5.0 %", watched=waited("memory", PRESSURE_SHARE / 2)),
    case("memory pressure", "problem", "20.0 %", watched=waited("memory", 2 * PRESSURE_SHARE)),
    case("memory pressure", "unknown", "/proc/pressure/memory", watched={"pressure": {}}),
    case("io pressure", "ok", "5.0 %", watched=waited("io", PRESSURE_SHARE / 2)),
    case("io pressure", "warning", "20.0 %", watched=waited("io", 2 * PRESSURE_SHARE)),
    case("io pressure", "problem", "60.0 %", watched=waited("io", 6 * PRESSURE_SHARE)),
    case("io pressure", "unknown", "/proc/pressure/io", watched={"pressure": {}}),
    case("virtualization", "ok", "no hypervisor seen, no container seen"),
    case("virtualization", "ok", "container (docker)", {".dockerenv": ""}),
    case("virtualization", "ok", "container (podman)", {"run/.containerenv": ""}),
    case("virtualization", "ok", "container (kubepods)", {"proc/self/cgroup": "0::/kubepods/pod1/a\n"}),
    case("virtualization", "ok", "container (lxc)", {"run/systemd/container": "lxc\n"}),
    case("virtualization", "warning", "virtual machine (KVM)", here={"hypervisor": "KVM"}),
    case("governor", "ok", "performance (intel_pstate), energy preference performance"),
    case("governor", "ok", "userspace", of_every_cpu("cpufreq/scaling_governor", "userspace\n")),
    case("governor", "ok", "preference 0", of_every_cpu("cpufreq/energy_performance_preference", "0\n")),
    case("governor", "warning", "powersave (intel_pstate)", POWERSAVE),
    case(
        "governor",
        "warning",
        "performance, schedutil",
        {f"{CPU}/cpu1/cpufreq/scaling_governor": "schedutil\n"},
    ),
    case(
        "governor",
        "warning",
        "balance_performance",
        of_every_cpu("cpufreq/energy_performance_preference", "balance_performance\n"),
    ),
    case("governor", "problem", "powersave (acpi-cpufreq)", {**POWERSAVE, **ORDINARY_DRIVER}),
    case("governor", "unknown", "scaling_governor", without("scaling_governor")),
    case("turbo", "ok", "off"),
    case("turbo", "ok", "off", NO_BOOST),
    case("turbo", "warning", "on", {f"{CPU}/intel_pstate/no_turbo": "0\n"}),
    case("turbo", "warning", "on", BOOST),
    case("turbo", "unknown", "no_turbo", without("no_turbo")),
    case("clock under load", "ok", "3.00 GHz of 3.00 GHz on CPU 0"),
    case(
        "clock under load",
        "ok",
        "3.00 GHz of 3.00 GHz",
        {**NO_BOOST, **of_every_cpu("cpufreq/scaling_max_freq", "3000000")},
    ),
    case("clock under load", "ok", "on CPU 2", watched={"frequencies": {0: 800_000, 2: 3_000_000}}),
    case("clock under load", "warning", "2.40 GHz of 3.00 GHz", watched={"frequencies": {0: 2_400_000}}),
    case("clock under load", "warning", "of 4.00 GHz", BOOST),
    case("clock under load", "warning", "of 4.00 GHz", without("no_turbo")),
    case("clock under load", "problem", "1.20 GHz of", watched={"frequencies": {0: 1_200_000}}),
    case(
        "clock under load",
        "problem",
        "limited to 1.20 GHz",
        of_every_cpu("cpufreq/scaling_max_freq", "1200000"),
        {"frequencies": {0: 1_200_000}},
    ),
    case("clock under load", "unknown", "scaling_cur_freq", watched={"frequencies": {}}),
    case("clock under load", "unknown", "cpuinfo_max_freq", without("cpuinfo_max_freq")),
    case("overheating", "ok", "0 times in 2.0 s"),
    case("overheating", "warning", "7 times earlier", watched={"overheated_before": 7}),
    case("overheating", "problem", "1 time in 2.0 s", watched={"overheated": 1}),
    case(
        "overheating", "unknown", "thermal_throttle", watched={"overheated": None, "overheated_before": None}
    ),
    case("hyper-threads", "ok", "off"),
    case("hyper-threads", "warning", "4 usable CPUs are 2 cores, 2 used twice", SIBLINGS),
    case("hyper-threads", "warning", "others may use 2-3 ", SIBLINGS, here={"cpus": (0, 1)}),
    case("hyper-threads", "warning", "used twice", SIBLINGS, here={"hypervisor": "KVM"}),
    case("hyper-threads", "unknown", "none shown", here={"hypervisor": "KVM"}),
    case("hyper-threads", "unknown", "thread_siblings_list", without("thread_siblings_list")),
    case("kinds of cores", "ok", "4000000 kHz"),
    case("kinds of cores", "ok", "4000000 kHz", SLOW_CORES, here={"cpus": (0, 1)}),
    case(
        "kinds of cores",
        "ok",
        "1024 of capacity",
        {**of_every_cpu("cpu_capacity", "1024"), **without("cpuinfo_max")},
    ),
    case("kinds of cores", "warning", "4000000 kHz at most on CPUs 0-1, down to 3900000", BINNED_CORES),
    case(
        "kinds of cores", "problem", "down to 2500000", {**SLOW_CORES, **of_every_cpu("cpu_capacity", "1024")}
    ),
    case("kinds of cores", "problem", "1024 of capacity on CPUs 0-1, down to 400", BIG_LITTLE),
    case("kinds of cores", "unknown", "cpu_capacity", without("cpuinfo_max_freq")),
    case("NUMA nodes", "ok", "1, usable CPUs on 0"),
    case("NUMA nodes", "ok", "2, usable CPUs on 1", TWO_NODES, here={"cpus": (2, 3)}),
    case("NUMA nodes", "warning", "2, usable CPUs on 0-1", TWO_NODES),
    case("NUMA nodes", "unknown", "node/online", without("node/online")),
    case("isolated CPUs", "ok", "none"),
    case(
        "isolated CPUs",
        "ok",
        "taskset -c 2",
        {f"{CPU}/isolated": "2-3", f"{CPU}/nohz_full": "2-3"},
        here={"cpus": (0, 1)},
    ),
    case(
        "isolated CPUs",
        "ok",
        "2-3, without tick 3",
        {f"{CPU}/isolated": "2-3", f"{CPU}/nohz_full": "3"},
        here={"cpus": (2,)},
    ),
    case("isolated CPUs", "warning", "usable here are 2-3", {f"{CPU}/isolated": "2-3"}),
    case("isolated CPUs", "unknown", "isolated", without("isolated")),
    case("swap", "ok", "0 MiB of 1.0 GiB used, swappiness 60"),
    case("swap", "ok", "none", memory(8 * GIB)),
    case(
        "swap",
        "warning",
        "512 MiB of 1.0 GiB",
        {"proc/meminfo": "SwapTotal: 1048576 kB\nSwapFree: 524288 kB\n"},
    ),
    case("swap", "unknown", "SwapTotal", without("meminfo")),
    case("memory left", "ok", "8.0 GiB"),
    case("memory left", "ok", "3.0 GiB under", {f"{GROUP}/memory.max": str(3 * GIB)}),
    case("memory left", "warning", "1.5 GiB", memory(3 * GIB // 2)),
    case("memory left", "problem", "512 MiB", memory(GIB // 2)),
    case(
        "memory left",
        "warning",
        "1.5 GiB under this cgroup's limit",
        {
            f"{GROUP}/memory.max": str(2 * GIB),
            f"{GROUP}/memory.current": str(GIB),
            f"{GROUP}/memory.stat": f"anon 1\ninactive_file {GIB // 2}\n",
        },
    ),
    case(
        "memory left",
        "problem",
        "256 MiB under this cgroup's limit",
        {
            **VERSION_1,
            "sys/fs/cgroup/memory/c/memory.limit_in_bytes": str(GIB),
            "sys/fs/cgroup/memory/c/memory.usage_in_bytes": str(GIB),
            "sys/fs/cgroup/memory/c/memory.stat": f"total_inactive_file {GIB // 4}\n",
        },
    ),
    case("memory left", "unknown", "MemAvailable", without("meminfo")),
    case("huge pages", "ok", "madvise"),
    case("huge pages", "ok", "never", {HUGE: "always madvise [never]"}),
    case("huge pages", "warning", "always", {HUGE: "[always] madvise never"}),
    case("huge pages", "unknown", "transparent_hugepage", without("hugepage")),
    case("address layout", "ok", "randomize_va_space 2"),
    case("address layout", "ok", "randomize_va_space 1", {ASLR: "1"}),
    case("address layout", "warning", "the same in every process", {ASLR: "0"}),
    case("address layout", "unknown", "randomize_va_space", without(ASLR)),
    case("power", "ok", "no battery seen"),
    case("power", "ok", "mains", here={"plugged": True}),
    case("power", "problem", "battery", here={"plugged": False}),
    case("clock source", "ok", "tsc"),
    case("clock source", "warning", "xen", {f"{CLOCK}/current_clocksource": "xen"}),
    case("clock source", "problem", "hpet", {f"{CLOCK}/current_clocksource": "hpet"}),
    case("clock source", "unknown", "sundial", {f"{CLOCK}/current_clocksource": "sundial"}),
    case("clock source", "unknown", "current_clocksource", without("current_clocksource")),
    case("clock", "ok", "40 ns, smallest step 30 ns"),
    case("clock", "warning", "takes 1.5 µs", watched={"clock_cost": 1.5e-6}),
    case("clock", "warning", "step 16 ms", watched={"clock_step": 0.016}),
    case("marks in runs", "ok", "steal, pressure, throttling, frequency"),
    case(
        "marks in runs",
        "unknown",
        "cannot see steal",
        here={"recordable": {"steal": False, "pressure": True}},
    ),
]


@pytest.mark.parametrize(("name", "level", "says", "files", "watched", "here"), CASES)
def test_level_and_facts_of_each_finding(
    name: str,
    level: str,
    says: str,
    files: dict[str, str | None],
    watched: dict[str, Any],
    here: dict[str, Any],
    tmp_path: Path,
) -> None:
    kernel = lay_out(tmp_path, files)
    findings = diagnose(kernel, replace(HERE, **here), replace(UNDISTURBED, **watched))
    (found,) = [finding for finding in findings if finding.name == name]
    assert found.level == level
    assert says in found.seen
    if level in ("warning", "problem"):
        assert found.advice
        assert found.advice.endswith(".")


def test_nothing_is_wrong_with_a_quiet_machine(tmp_path: Path) -> None:
    findings = diagnose(lay_out(tmp_path, {}), HERE, UNDISTURBED)
    assert [finding for finding in findings if finding.level != "ok"] == []
    assert {finding.name for finding in findings} == {parameters.values[0] for parameters in CASES}


def test_a_machine_that_shows_nothing_is_unknown_and_not_fine(tmp_path: Path) -> None:
    blind = replace(
        UNDISTURBED,
        others=None,
        steal=None,
        pressure={},
        throttled_before=None,
        throttled=None,
        overheated_before=None,
        overheated=None,
        frequencies={},
    )
    findings = diagnose(Kernel(tmp_path), replace(HERE, recordable={"steal": False}), blind)
    fine = [finding.name for finding in findings if finding.level != "unknown"]
    # What comes from the watch itself and from libraries is known everywhere.
    assert fine == ["interruptions", "virtualization", "power", "clock"]


@pytest.mark.parametrize(
    ("name", "command", "files", "here"),
    [
        (
            "turbo",
            f"echo 1 | sudo tee /{CPU}/intel_pstate/no_turbo",
            {f"{CPU}/intel_pstate/no_turbo": "0"},
            {},
        ),
        ("turbo", f"echo 0 | sudo tee /{CPU}/cpufreq/boost", BOOST, {}),
        ("governor", "sudo cpupower frequency-set -g performance", POWERSAVE, {}),
        ("hyper-threads", "taskset -c 0-1 mnv3-bench", SIBLINGS, {}),
        ("hyper-threads", f"echo off | sudo tee /{CPU}/smt/control", SIBLINGS, {}),
        ("hyper-threads", "keep other work off 2-3", SIBLINGS, {"cpus": (0, 1)}),
        ("kinds of cores", "taskset -c 0-1 mnv3-bench", SLOW_CORES, {}),
        ("NUMA nodes", "numactl --cpunodebind=0 --membind=0", TWO_NODES, {}),
        ("isolated CPUs", "taskset -c 2 mnv3-bench", {f"{CPU}/isolated": "2-3"}, {}),
        ("CPU quota", "docker run --cpuset-cpus", {f"{GROUP}/cpu.max": "150000 100000"}, {}),
        (
            "clock source",
            f"echo tsc | sudo tee /{CLOCK}/current",
            {f"{CLOCK}/current_clocksource": "hpet"},
            {},
        ),
        (
            "clock source",
            "dmesg",
            {f"{CLOCK}/current_clocksource": "hpet", f"{CLOCK}/available_clocksource": "hpet acpi_pm"},
            {},
        ),
    ],
)
def test_advice_is_for_this_machine(
    name: str, command: str, files: dict[str, str | None], here: dict[str, Any], tmp_path: Path
) -> None:
    findings = diagnose(lay_out(tmp_path, files), replace(HERE, **here), UNDISTURBED)
    (found,) = [finding for finding in findings if finding.name == name]
    assert found.advice is not None
    assert command in found.advice


def test_this_machine_is_examined() -> None:
    findings = examine(0.05)
    names = [finding.name for finding in findings]
    assert sorted(names) == sorted({parameters.values[0] for parameters in CASES})
    assert {finding.level for finding in findings} <= set(LEVELS)
    assert sum(line.startswith(LEVELS) for line in to_lines(findings)) == len(findings)
    assert all("\n" not in line for line in to_lines(findings))


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(UsageError, match="expected a positive number of seconds"):
        examine(seconds)
