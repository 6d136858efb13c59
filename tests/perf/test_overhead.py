"""What the suite adds to a call: a cell against a bare loop that knows the runtime alone, taking turns."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from perf.cells import prepared_cell

from mnv3_bench.launcher import Launcher, expect, worker_environment
from mnv3_bench.protocol import Done, First, Import, Imported, Load, Turn, Turned, Warm, WarmUp
from mnv3_reports.statistics import log_interval

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

EPOCHS = 8
ROUNDS = 25
CALLS = 40

LOOP = """
for line in sys.stdin:
    samples = []
    for i in range(4 + int(line)):  # four unrecorded calls first, as the suite makes them
        x = inputs[i % len(inputs)]
        start = time.perf_counter_ns()
        call(x)
        samples.append(time.perf_counter_ns() - start)
    print(json.dumps(samples[4:]), flush=True)
"""
BARE = {
    "onnxruntime": """
import json, sys, time
import numpy as np
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1] + "/model.onnx", options, providers=["CPUExecutionProvider"])
inputs = [{"images": image[None].copy()} for image in np.load(sys.argv[2])[:8]]
call = lambda feed: session.run(None, feed)
"""
    + LOOP,
    "eager": """
import json, sys, time
import numpy as np
import torch
from safetensors.torch import load_file
from mnv3_models import build
torch.set_num_threads(1)
model = build("v3-small").eval()
model.load_state_dict(load_file(sys.argv[1] + "/weights.safetensors"))
inputs = [torch.from_numpy(image[None].copy()) for image in np.load(sys.argv[2])[:8]]
call = model
guard = torch.inference_mode()  # for as long as this object lives
guard.__enter__()
"""
    + LOOP,
}


class Bare:
    """A process with nothing but the runtime and a loop, stopped when it is not its turn."""

    def __init__(self, program: str, directory: Path, images: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, str(directory), str(images)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **worker_environment(1)},
        )

    def turn(self, calls: int) -> list[int]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(f"{calls}\n")
        self.process.stdin.flush()
        samples: list[int] = json.loads(self.process.stdout.readline())
        self.process.send_signal(signal.SIGSTOP)
        return samples

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.mark.parametrize("backend", sorted(BARE))
def test_a_cell_against_a_bare_loop(benchmark: BenchmarkFixture, backend: str, tmp_path: Path) -> None:
    found = prepared_cell("v3-small", backend, tmp_path)
    images = found.artifacts.images["measure", 224]
    epochs: list[float] = []

    def epoch() -> None:
        launcher = Launcher(tmp_path / "logs", memory_limit=None)
        bare = Bare(BARE[backend], found.directory, images)
        try:
            worker = launcher.fresh("cell", 1)
            expect(worker.request(Import(found.modules), 60), Imported)
            expect(worker.request(Load(backend, str(found.directory), 1, "cpu", str(images), 1), 60), Done)
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
        finally:
            bare.end()
            launcher.kill_all()

    benchmark.pedantic(epoch, rounds=EPOCHS)
    ratio = log_interval(epochs)
    benchmark.extra_info |= {"ratio": ratio.estimate, "low": ratio.low, "high": ratio.high}
    print(
        f"\n{backend}: cell / bare loop = {ratio.estimate:.4f} [{ratio.low:.4f}, {ratio.high:.4f}] over {EPOCHS} epochs"
    )
    assert ratio.low <= 1.01
    assert ratio.high >= 0.99
