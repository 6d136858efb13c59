"""An OpenVINO cell against OpenVINO's own `benchmark_app`, whole runs taking turns on the same IR."""

from __future__ import annotations

import math
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from perf.cells import prepared_cell

from mnv3_bench.launcher import Launcher, expect, worker_environment
from mnv3_bench.protocol import Done, First, Import, Imported, Load, Turn, Turned, Warm, WarmUp
from mnv3_reports.statistics import log_interval

if TYPE_CHECKING:
    from perf.cells import PreparedCell
    from pytest_benchmark.fixture import BenchmarkFixture

RUNS = 10
SECONDS = 4.0
PERCENTILE = 20
"""What is compared of each run. Whole runs meet disturbances of their own, which the median still has in it."""
TOOL = shutil.which("benchmark_app", path=str(Path(sys.executable).parent))


def tool_seconds(cell: PreparedCell, threads: int) -> float:
    """Seconds of a call as `benchmark_app` tells it: the request's own clock, the input set once.

    `-ip f32`: by default the tool puts a conversion from 8-bit images before the network. `CI`: with it OpenVINO
    starts no telemetry.
    """
    assert TOOL is not None
    done = subprocess.run(
        [
            TOOL,
            *("-m", str(cell.directory / "model.xml"), "-d", "CPU", "-api", "sync", "-hint", "none"),
            *("-nstreams", "1", "-nthreads", str(threads), "-infer_precision", "f32", "-ip", "f32"),
            *("-t", str(round(SECONDS)), "-latency_percentile", str(PERCENTILE)),
        ],
        env={**os.environ, **worker_environment(threads), "CI": "true"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(rf"{PERCENTILE} percentile:\s+([\d.]+) ms", done.stdout)
    assert found, done.stdout
    return float(found[1]) / 1e3


def own_seconds(cell: PreparedCell, threads: int, logs: Path) -> float:
    """Seconds of a call as the suite's worker measures it, in a process of its own."""
    launcher = Launcher(logs, memory_limit=None)
    images = str(cell.artifacts.pool("measure", cell.cell))
    try:
        worker = launcher.fresh("cell", threads)
        expect(worker.request(Import(cell.modules), 60), Imported)
        expect(worker.request(Load("openvino", str(cell.directory), threads, "cpu", images, 1), 60), Done)
        expect(worker.request(First(), 60), Done)
        warm = expect(worker.request(WarmUp(1.0), 60), Warm)
        calls = max(50, round(SECONDS / warm.call_seconds))
        turned = expect(worker.request(Turn(0, calls), 120), Turned)
        return sorted(turned.samples_ns)[math.ceil(len(turned.samples_ns) * PERCENTILE / 100) - 1] / 1e9
    finally:
        launcher.kill_all()


@pytest.mark.skipif(TOOL is None, reason="there is no benchmark_app; pip install 'mnv3-bench[openvino]'")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("variant", ["v3-small", "v3-large"])
def test_a_cell_against_benchmark_app(
    benchmark: BenchmarkFixture, variant: str, threads: int, tmp_path: Path
) -> None:
    cell = prepared_cell(variant, "openvino", tmp_path, threads)
    ratios: list[float] = []

    def one() -> None:
        number = len(ratios)
        found = {
            who: own_seconds(cell, threads, tmp_path / f"logs-{number}")
            if who == "cell"
            else tool_seconds(cell, threads)
            for who in random.Random(number).sample(["cell", "tool"], 2)
        }
        ratios.append(found["cell"] / found["tool"])

    benchmark.pedantic(one, rounds=RUNS)
    ratio = log_interval(ratios)
    benchmark.extra_info |= {"ratio": ratio.estimate, "low": ratio.low, "high": ratio.high}
    print(
        f"\n{variant}, {threads} threads: cell / benchmark_app = {ratio.estimate:.4f} "
        f"[{ratio.low:.4f}, {ratio.high:.4f}] over {RUNS} pairs of runs"
    )
    assert ratio.low <= 1.02
