"""What the suite adds to a call and to a process: a cell against a bare loop that knows the runtime alone."""

from __future__ import annotations

import math
import random
import statistics
from typing import TYPE_CHECKING

import pytest
from perf.bare import BODIES, Bare
from perf.cells import prepared_cell

from mnv3_bench.launcher import Launcher, expect
from mnv3_bench.protocol import Done, First, Import, Imported, Load, Look, Seen, Turn, Turned, Warm, WarmUp
from mnv3_reports.statistics import log_interval

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

EPOCHS = 8
ROUNDS = 25
CALLS = 40


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("backend", sorted(BODIES))
def test_a_cell_against_a_bare_loop(
    benchmark: BenchmarkFixture, backend: str, threads: int, tmp_path: Path
) -> None:
    """Time and peak memory, taking turns, over epochs of fresh processes."""
    found = prepared_cell("v3-small", backend, tmp_path, threads)
    images = found.artifacts.pool("measure", found.cell)
    epochs: list[float] = []
    peaks: list[float] = []

    def epoch() -> None:
        launcher = Launcher(tmp_path / "logs", memory_limit=None)
        bare = Bare(BODIES[backend], found.directory, images, threads)
        try:
            worker = launcher.fresh("cell", threads)
            load = Load(backend, str(found.directory), threads, "cpu", str(images), 1)
            expect(worker.request(Import(found.modules), 60), Imported)
            expect(worker.request(load, 60), Done)
            expect(worker.request(First(), 60), Done)
            expect(worker.request(WarmUp(1.0), 60), Warm)
            worker.pause()
            bare.turn(200)
            logs = []
            for number in range(ROUNDS):
                medians = {}
                for who in random.Random(number).sample(["cell", "bare"], 2):
                    if who == "bare":
                        medians[who] = statistics.median(bare.turn(CALLS))
                    else:
                        turned = expect(worker.request(Turn(4, CALLS), 60), Turned)
                        worker.pause()
                        medians[who] = statistics.median(turned.samples_ns)
                logs.append(math.log(medians["cell"] / medians["bare"]))
            epochs.append(math.exp(statistics.median(logs)))
            peaks.append(expect(worker.request(Look(), 60), Seen).peak_bytes / bare.peak_bytes())
        finally:
            bare.end()
            launcher.kill_all()

    benchmark.pedantic(epoch, rounds=EPOCHS)
    ratio, memory = log_interval(epochs), statistics.median(peaks)
    benchmark.extra_info |= {"ratio": ratio.estimate, "low": ratio.low, "high": ratio.high, "memory": memory}
    print(
        f"\n{backend}, {threads} threads: cell / bare loop = {ratio.estimate:.4f} [{ratio.low:.4f}, {ratio.high:.4f}] "
        f"over {EPOCHS} epochs; peak memory {memory:.2f} x"
    )
    assert ratio.low <= 1.01
    assert ratio.high >= 0.99
    if backend in ("litert", "onnxruntime"):
        assert memory <= 1.5
