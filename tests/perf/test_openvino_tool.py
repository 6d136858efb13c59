"""An OpenVINO cell against OpenVINO's own `benchmark_app` on the same IR, taking turns."""

from __future__ import annotations

import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from perf.bare import OPENVINO_CLOCK, Bare
from perf.cells import prepared_cell

from mnv3_bench.launcher import Launcher, expect, worker_environment
from mnv3_bench.protocol import Done, First, Import, Imported, Load, Turn, Turned, Warm, WarmUp
from mnv3_reports.statistics import log_interval

if TYPE_CHECKING:
    from perf.cells import PreparedCell
    from pytest_benchmark.fixture import BenchmarkFixture

    from mnv3_bench.launcher import Worker

EPOCHS = 8
SECONDS = 6.0
"""Of the tool's measuring, the turns of the cell included."""
TURN = 0.15
TOOL = shutil.which("benchmark_app", path=str(Path(sys.executable).parent))


def started_tool(cell: PreparedCell, threads: int) -> subprocess.Popen[str]:
    """`benchmark_app` at the moment it begins to measure, stopped.

    `-ip f32`: by default the tool puts a conversion from 8-bit images before the network. `CI`: with it OpenVINO
    starts no telemetry.
    """
    assert TOOL is not None
    tool = subprocess.Popen(
        [
            TOOL,
            *("-m", str(cell.directory / "model.xml"), "-d", "CPU", "-api", "sync", "-hint", "none"),
            *("-nstreams", "1", "-nthreads", str(threads), "-infer_precision", "f32", "-ip", "f32"),
            *("-t", str(round(SECONDS))),
        ],
        env={**os.environ, **worker_environment(threads), "CI": "true", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert tool.stdout is not None
    heard = []
    for line in tool.stdout:
        heard.append(line)
        if "First inference took" in line:
            tool.send_signal(signal.SIGSTOP)
            return tool
    raise AssertionError("".join(heard))


def started_cell(cell: PreparedCell, threads: int, launcher: Launcher) -> tuple[Worker, float]:
    """A worker as an epoch has it, warm and stopped, and its seconds a call."""
    images = str(cell.artifacts.pool("measure", cell.cell))
    worker = launcher.fresh("cell", threads)
    expect(worker.request(Import(cell.modules), 60), Imported)
    expect(worker.request(Load("openvino", str(cell.directory), threads, "cpu", images, 1), 60), Done)
    expect(worker.request(First(), 60), Done)
    seconds = expect(worker.request(WarmUp(1.0), 60), Warm).call_seconds
    worker.pause()
    return worker, seconds


def medians(cell: PreparedCell, threads: int, logs: Path) -> dict[str, float]:
    """Median seconds of a call: of the cell, of a bare loop by the request's own clock, and as the tool tells it.

    The tool goes by the request's own clock too, which starts and stops within it; the cell is timed as its caller
    waits for it. The tool is stopped whenever it is not its turn. The call that a stop falls into is one of hundreds.
    """
    launcher = Launcher(logs, memory_limit=None)
    tool: subprocess.Popen[str] | None = None
    bare = Bare(OPENVINO_CLOCK, cell.directory, cell.artifacts.pool("measure", cell.cell), threads)
    try:
        worker, seconds = started_cell(cell, threads, launcher)
        bare.turn(200)
        tool = started_tool(cell, threads)
        samples: list[int] = []
        within: list[int] = []
        while tool.poll() is None:
            tool.send_signal(signal.SIGCONT)
            time.sleep(TURN)
            tool.send_signal(signal.SIGSTOP)
            samples += expect(worker.request(Turn(4, round(TURN / seconds)), 60), Turned).samples_ns
            worker.pause()
            within += bare.turn(round(TURN / seconds))
        assert tool.stdout is not None
        told = tool.stdout.read()
    finally:
        if tool is not None:
            tool.kill()
            tool.wait()
        bare.end()
        launcher.kill_all()
    found = re.search(r"Median:\s+([\d.]+) ms", told)
    assert found, told
    return {
        "cell": statistics.median(samples) / 1e9,
        "bare loop by the request's clock": statistics.median(within) / 1e9,
        "benchmark_app": float(found[1]) / 1e3,
    }


@pytest.mark.skipif(TOOL is None, reason="there is no benchmark_app; pip install 'mnv3-bench[openvino]'")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("variant", ["v3-small", "v3-large"])
def test_a_cell_against_benchmark_app(
    benchmark: BenchmarkFixture, variant: str, threads: int, tmp_path: Path
) -> None:
    cell = prepared_cell(variant, "openvino", tmp_path, threads)
    found: list[dict[str, float]] = []
    benchmark.pedantic(
        lambda: found.append(medians(cell, threads, tmp_path / f"logs-{len(found)}")), rounds=EPOCHS
    )
    for who in ("cell", "bare loop by the request's clock"):
        ratio = log_interval([each[who] / each["benchmark_app"] for each in found])
        benchmark.extra_info[who] = [ratio.estimate, ratio.low, ratio.high]
        print(
            f"\n{variant}, {threads} threads: {who} / benchmark_app = {ratio.estimate:.3f} "
            f"[{ratio.low:.3f}, {ratio.high:.3f}] over {EPOCHS} epochs"
        )
