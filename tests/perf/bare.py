"""Loops written against one runtime alone, and a process that runs one when it is its turn."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from mnv3_bench.launcher import worker_environment

if TYPE_CHECKING:
    from pathlib import Path

START = """
import json, os, sys, time
directory, pool, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
import numpy as np
images = [np.ascontiguousarray(image[None]) for image in np.load(pool, mmap_mode="r")[:8]]
own_clock = None  # what the runtime itself says that the last call took, in nanoseconds
"""
LOOP = """
for line in sys.stdin:
    if line.startswith("peak"):
        status = open("/proc/self/status").read()
        print(int(status.split("VmHWM:")[1].split()[0]) * 1024, flush=True)
        continue
    samples = []
    for i in range(4 + int(line)):  # four unrecorded calls first, as the suite makes them
        x = inputs[i % len(inputs)]
        start = time.perf_counter_ns()
        call(x)
        elapsed = time.perf_counter_ns() - start
        samples.append(own_clock() if own_clock else elapsed)
    print(json.dumps(samples[4:]), flush=True)
"""
TORCH = """
import torch
torch.set_num_threads(threads)
guard = torch.inference_mode()  # for as long as this object lives
guard.__enter__()
inputs = [torch.from_numpy(image) for image in images]
"""
BODIES = {
    "eager": TORCH
    + """
from safetensors.torch import load_file
from mnv3_models import build
call = build("v3-small").eval()
call.load_state_dict(load_file(directory + "/weights.safetensors"))
""",
    "aot-inductor": TORCH
    + """
run = torch._C._aoti.AOTIModelContainerRunnerCpu(directory + "/model.so", 1).run
call = lambda x: run([x])
""",
    "onnxruntime": """
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
session = onnxruntime.InferenceSession(directory + "/model.onnx", options, providers=["CPUExecutionProvider"])
inputs = [{"images": image} for image in images]
call = lambda feed: session.run(None, feed)
""",
    "litert": """
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter(model_path=directory + "/model.tflite", num_threads=threads)
interpreter.allocate_tensors()
source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
inputs = [np.ascontiguousarray(image.transpose(0, 2, 3, 1)) for image in images]
def call(x):
    interpreter.set_tensor(source, x)
    interpreter.invoke()
    return interpreter.get_tensor(target)
""",
    "openvino": """
sys.modules["openvino_telemetry"] = None  # it would report the import
import openvino
settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
compiled = openvino.Core().compile_model(directory + "/model.xml", "CPU", settings)
request = compiled.create_infer_request()
inputs = [openvino.Tensor(image, shared_memory=True) for image in images]
def call(x):
    request.set_input_tensor(x)
    return request.infer(share_outputs=True)
""",
    "executorch": """
import torch
from executorch.extension.pybindings import _C
torch.set_num_threads(threads)
if _C._threadpool_get_thread_count() != threads:
    _C._unsafe_reset_threadpool(threads)
program = _C._load_program(directory + "/model.pte")
call = program.load_method("forward")
inputs = [(torch.from_numpy(image),) for image in images]
""",
}
"""Backend to a program that makes `inputs` and `call` with nothing but the runtime."""
OPENVINO_CLOCK = BODIES["openvino"] + "own_clock = lambda: round(request.latency * 1e6)\n"
"""The same, timed as `benchmark_app` is: by the request, from within it."""


class Bare:
    """A process with nothing but the runtime and a loop, stopped when it is not its turn."""

    def __init__(self, body: str, directory: Path, images: Path, threads: int) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                START + body + LOOP,
                str(directory),
                str(images),
                str(threads),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **worker_environment(threads)},
        )

    def _ask(self, line: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        self.process.send_signal(signal.SIGSTOP)
        return answer

    def turn(self, calls: int) -> list[int]:
        """Nanoseconds of calls."""
        samples: list[int] = json.loads(self._ask(str(calls)))
        return samples

    def peak_bytes(self) -> int:
        """High-water mark of its resident set."""
        return int(self._ask("peak"))

    def end(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.communicate()
