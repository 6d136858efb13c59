"""What passes while one CPU is kept busy, told from what was before; programs by name."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psutil
from bench.doctor.machines import CPU, CPUS, GROUP, VERSION_1, lay_out

from mnv3_bench.doctor.watching import Throttling, clock_facts, spin, watch

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_what_happens_while_watching_is_told_from_what_was_before(tmp_path: Path) -> None:
    stat, pressure = f"{GROUP}/cpu.stat", "proc/pressure/cpu"
    heat = "thermal_throttle"
    kernel = lay_out(
        tmp_path,
        {
            stat: "nr_throttled 5\nthrottled_usec 1000000\n",
            "sys/fs/cgroup/a/cpu.stat": "nr_throttled 1\nthrottled_usec 500000\n",
            "sys/fs/cgroup/cpu.stat": "usage_usec 1\n",
            pressure: "some avg10=0.00 avg60=0.00 avg300=0.00 total=1000000\n",
            f"{CPU}/cpu0/{heat}/core_throttle_count": "3",
            f"{CPU}/cpu0/{heat}/package_throttle_count": "2",
            f"{CPU}/cpu1/{heat}/package_throttle_count": "2",
            f"{CPU}/cpu1/cpufreq/scaling_cur_freq": "800000",
        },
    )

    def meanwhile(seconds: float) -> float:
        lay_out(
            tmp_path,
            {
                stat: "nr_throttled 7\nthrottled_usec 1250000\n",
                pressure: "some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\nfull avg10=0.00 total=250000\n",
                f"{CPU}/cpu0/{heat}/core_throttle_count": "4",
                f"{CPU}/cpu1/cpufreq/scaling_cur_freq": "2900000",
            },
        )
        return seconds

    seen = watch(kernel, CPUS, 0.125, meanwhile)
    assert (seen.throttled_before, seen.throttled) == (Throttling(6, 1.5), Throttling(2, 0.25))
    assert seen.pressure == {"cpu": (0.5, 0.25)}
    assert (seen.overheated_before, seen.overheated) == (5, 1)
    assert seen.frequencies == {1: 2_900_000}
    assert seen.longest_pause == 0.125


def test_throttling_is_summed_in_seconds_with_cgroups_of_version_1(tmp_path: Path) -> None:
    kernel = lay_out(
        tmp_path, {**VERSION_1, "sys/fs/cgroup/cpu/cpu.stat": "nr_throttled 2\nthrottled_time 40000000\n"}
    )
    assert watch(kernel, CPUS, 0.01, lambda _: 0.0).throttled_before == Throttling(2, 0.04)


def test_a_busy_neighbour_is_named_and_this_process_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Process:
        def __init__(self, pid: int, name: str | None, created: float = 0.0) -> None:
            self.pid, self.name, self.created, self.seconds = pid, name, created, 10.0

        @property
        def info(self) -> dict[str, Any]:
            times = SimpleNamespace(user=self.seconds, system=0.5)
            return {"pid": self.pid, "name": self.name, "create_time": self.created, "cpu_times": times}

    running = [
        Process(os.getpid(), "own"),
        Process(1, "cc1"),
        Process(2, "cc1"),
        Process(3, "idle"),
        Process(4, None),
    ]
    monkeypatch.setattr(psutil, "process_iter", lambda _: list(running))

    def meanwhile(_: float) -> float:
        for process, seconds in zip(running, (9.0, 1.0, 1.0, 0.0, 0.5), strict=True):
            process.seconds += seconds
        running.append(Process(3, "new", created=7.0))  # the number of one that ended, used again
        return 0.0

    assert watch(lay_out(tmp_path, {}), CPUS, 0.01, meanwhile).busiest == (
        ("new", 10.5),
        ("cc1", 2.0),
        ("unnamed", 0.5),
    )


def test_the_clock_is_measured_here() -> None:
    cost, step = clock_facts(readings=500)
    assert 0 < cost < float("inf")
    assert 0 < step < float("inf")
    assert 0 < spin(0.01) < float("inf")
