"""The main command as typed, with an empty and then a warm artifact cache: time, where it goes, and memory."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from mnv3_reports.journal import assemble, read_journal

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

SCRIPT = str(Path(sys.executable).with_name("mnv3-bench"))
COMMAND = ["--variants", "large,small", "--backends", "all"]


class Watch(threading.Thread):
    """Looks twice a second at the memory of a run: its main process, and its workers together (proportional set)."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.process = psutil.Process(pid)
        self.main_peak = 0
        self.workers_peak = 0
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.5):
            try:
                self.main_peak = max(self.main_peak, _peak(self.process.pid))
                total = sum(_proportional(child.pid) for child in self.process.children(recursive=True))
            except (psutil.NoSuchProcess, OSError):
                continue
            self.workers_peak = max(self.workers_peak, total)


def _peak(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmHWM"))


def _proportional(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0  # it has just ended
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:")), 0)


def test_main_command(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    environment = {**os.environ, "MNV3_BENCH_CACHE": str(tmp_path / "cache")}
    lines = []

    def once(name: str) -> None:
        start = time.perf_counter()
        run = subprocess.Popen(
            [SCRIPT, *COMMAND, "--output", str(tmp_path / name)],
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        watch = Watch(run.pid)
        watch.start()
        code = run.wait()
        watch.ended.set()
        seconds = time.perf_counter() - start
        record = assemble(read_journal(tmp_path / name / "journal.jsonl"))
        assert record.finished is not None
        phases = record.finished.phase_seconds
        memory = psutil.virtual_memory().total
        lines.append(
            f"{name}: exit code {code}, {seconds:.0f} s; "
            + ", ".join(f"{phase} {value:.0f} s" for phase, value in phases.items())
            + f"; measuring {phases['measure'] / seconds:.0%}; main process {watch.main_peak / 1e6:.0f} MB, "
            f"workers {watch.workers_peak / 1e9:.2f} GB of {memory / 1e9:.0f} GB; "
            f"stopped because of {record.finished.stopped_because}, "
            f"precision reached {record.finished.precision_reached:.1%}"
        )
        benchmark.extra_info[name] = lines[-1]
        assert code == 0
        assert watch.main_peak <= 250e6
        assert watch.workers_peak <= memory / 2
        if name == "warm":
            assert phases["measure"] / seconds >= 0.6

    benchmark.pedantic(lambda: once("warm"), setup=lambda: once("cold"), rounds=1)
    print("\n" + "\n".join(lines))
