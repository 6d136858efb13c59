"""Two identical cells under a background load that comes and goes: how far from 1 is their ratio?"""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

from perf.cells import prepared_cell

from mnv3_bench.conductor import Conductor, Contender, Policy
from mnv3_bench.launcher import Launcher, WorkerError, expect
from mnv3_bench.protocol import Done, First, Import, Load, Turn, Turned, Warm, WarmUp
from mnv3_bench.stage import Performer, WorkerStage
from mnv3_reports.compare import PrintedRatio
from mnv3_reports.record import Block, Cell
from mnv3_reports.statistics import block_medians, ratio_of_medians

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from perf.cells import PreparedCell
    from pytest_benchmark.fixture import BenchmarkFixture

    from mnv3_bench.launcher import Worker

COMPARISONS = 10
SECONDS = 16.0
"""Of measuring in one comparison, for either method."""
LOAD = """
import time
while True:
    end = time.monotonic() + 3
    while time.monotonic() < end:
        pass
    time.sleep(3)
"""


def background_load() -> list[subprocess.Popen[bytes]]:
    """One process a CPU, busy and idle in turns of 3 s, all in step."""
    cpus = len(os.sched_getaffinity(0))
    return [subprocess.Popen([sys.executable, "-c", LOAD]) for _ in range(cpus)]


def in_turns(found: PreparedCell, logs: Path, seed: int) -> float:
    """|ln ratio| of two identical cells as a run measures them."""
    cells = [Cell(f"{found.cell.variant}-{letter}", found.cell.backend) for letter in "ab"]
    artifacts = found.artifacts
    for cell in cells:
        artifacts.directories[cell.key] = found.directory
    launcher = Launcher(logs, memory_limit=None)
    blocks: list[Block] = []

    def keep(entry: object) -> None:
        if isinstance(entry, Block):
            blocks.append(entry)

    conductor = Conductor(
        WorkerStage(
            {cell.key: Performer.of(cell, artifacts, launcher) for cell in cells},
            found.limits,
            len(os.sched_getaffinity(0)),
            lambda: None,
        ),
        # A budget that leaves SECONDS of blocks after three starts of workers.
        Policy(precision=1e-9, time_budget=SECONDS * 1.25, seed=seed, memory_bytes=1 << 34),
        lambda _: [PrintedRatio(cells[0].key, cells[1].key, "backend")],
        keep,
    )
    try:
        conductor.run([Contender(cell, 0.002, 1 << 20) for cell in cells])
    finally:
        launcher.kill_all()
    medians = [block_medians(block for block in blocks if block.cell == cell.key) for cell in cells]
    ratio = ratio_of_medians(medians[0], medians[1])
    assert ratio is not None
    return abs(math.log(ratio.estimate))


def workers(found: PreparedCell, launcher: Launcher) -> Iterator[Worker]:
    for name in "ab":
        worker = launcher.fresh(name, 1)
        expect(worker.request(Import(found.modules), 60), object)
        order = Load(
            found.cell.backend, str(found.directory), 1, "cpu", str(found.artifacts.images["measure", 224]), 1
        )
        expect(worker.request(order, 60), Done)
        expect(worker.request(First(), 60), Done)
        expect(worker.request(WarmUp(1.0), 60), Warm)
        worker.pause()
        yield worker


def one_after_the_other(found: PreparedCell, logs: Path) -> float:
    """|ln ratio| of two identical cells timed for half of the time each: what common tools do."""
    launcher = Launcher(logs, memory_limit=None)
    try:
        medians = []
        for worker in list(workers(found, launcher)):
            samples: list[int] = []
            end = time.monotonic() + SECONDS / 2
            while time.monotonic() < end:
                samples += expect(worker.request(Turn(0, 20), 60), Turned).samples_ns
            medians.append(statistics.median(samples))
            worker.pause()
    except WorkerError as error:
        raise AssertionError(error.reason) from error
    finally:
        launcher.kill_all()
    return abs(math.log(medians[0] / medians[1]))


def test_identical_cells_under_alternating_load(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    found = prepared_cell("v3-small", "onnxruntime", tmp_path)
    load = background_load()
    turns: list[float] = []
    sequential: list[float] = []
    try:
        benchmark.pedantic(
            lambda: turns.append(in_turns(found, tmp_path / "logs", len(turns))),
            setup=partial(_append_sequential, sequential, found, tmp_path / "logs"),
            rounds=COMPARISONS,
        )
    finally:
        for process in load:
            process.kill()
            process.wait()
    here, there = statistics.mean(turns), statistics.mean(sequential)
    benchmark.extra_info |= {
        "turns_mean_abs_ln_ratio": here,
        "turns_worst": max(turns),
        "sequential_mean_abs_ln_ratio": there,
        "sequential_worst": max(sequential),
    }
    print(
        f"\nidentical cells, load 3 s on 3 s off, {COMPARISONS} comparisons of {SECONDS:.0f} s: in turns "
        f"{here:.2%} (worst {max(turns):.2%}), one after the other {there:.2%} (worst {max(sequential):.2%}), "
        f"{there / here:.1f} x"
    )
    assert here <= 0.01
    assert there / here >= 8


def _append_sequential(found_errors: list[float], found: PreparedCell, logs: Path) -> None:
    found_errors.append(one_after_the_other(found, logs))
