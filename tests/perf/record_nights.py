"""Records noise between runs: the same four workloads in fresh processes, again and again, as a nightly job has it.

`python tests/perf/record_nights.py FILE --nights 300 --beside 'what else runs'` writes a CSV with a header that says
where and when; tests/reports/nights.csv was made so. A night is one fresh process a workload, and its figure the median
of CALLS calls. Nights follow one another at once: what changes from one real night to the next (temperature, updates,
another host of a cloud) is not in it, what changes from minute to minute on a shared machine is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from mnv3_bench.launcher import worker_environment

CALLS = 50
WARM_UP = 10
LOW, HIGH = 17, 32
"""The 18th and 33rd of 50 calls enclose their median in 95 % of cases, if calls were independent."""

TIMING = f"""
import json, time
for _ in range({WARM_UP}):
    call()
taken = []
for _ in range({CALLS}):
    start = time.perf_counter_ns()
    call()
    taken.append(time.perf_counter_ns() - start)
taken.sort()
print(json.dumps([(taken[{CALLS // 2 - 1}] + taken[{CALLS // 2}]) / 2e9, taken[{LOW}] / 1e9, taken[{HIGH}] / 1e9]))
"""
WORKLOADS = {
    # A pointwise convolution as a matrix product, and what comes between two of them: about 3 ms.
    "numpy": """
import numpy as np
made = np.random.default_rng(0)
image, weights = made.random((3136, 96), np.float32), made.random((96, 128), np.float32)
def call():
    x = image
    for _ in range(2):
        x = np.clip(x @ weights, 0, 6)[:, :96]
""",
    "onnxruntime": """
import sys
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
feed = {session.get_inputs()[0].name: np.random.default_rng(0).random((1, 3, 224, 224), np.float32)}
def call():
    session.run(None, feed)
""",
    "eager": """
import torch
from mnv3_models import build
torch.set_num_threads(1)
torch.manual_seed(0)
network, image = build("v3-small").eval(), torch.rand(1, 3, 224, 224)
def call():
    with torch.inference_mode():
        network(image)
""",
}
WORKLOADS["eager-glibc"] = WORKLOADS["eager"]
"""Without the suite's allocator setting chance decides whether a process gets fresh pages every call: two levels."""


def exported(folder: Path) -> Path:
    """V3-Small as ONNX, with seeded weights."""
    program = f"{Path(sys.executable).parent}/mnv3-bench"
    command = (program, "export", "--variant", "small", "--to", "onnx", "--output", str(folder / "net"))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return next((folder / "net").rglob("*.onnx"))


def night(workload: str, network: Path) -> tuple[float, float]:
    """Median of a fresh process's calls in seconds, and its interval's half width relative to it."""
    environment = {**os.environ, **worker_environment(1, "glibc" if workload.endswith("glibc") else "keep")}
    command = (sys.executable, "-c", WORKLOADS[workload] + TIMING, str(network))
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    median, low, high = json.loads(output)
    return median, (high - low) / 2 / median


def main() -> None:
    """Record, appending a line after every night."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--nights", type=int, default=300)
    parser.add_argument("--beside", required=True, help="what else runs on the machine meanwhile")
    asked = parser.parse_args()
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((line.split(":")[1].strip() for line in cpuinfo if "model name" in line), "unknown")
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "onnxruntime", "torch"))
    with tempfile.TemporaryDirectory() as folder, asked.file.open("w") as file:
        network = exported(Path(folder))
        file.write(
            f"# Recorded by tests/perf/record_nights.py on {datetime.now(UTC):%Y-%m-%d}; "
            f"{processor}, Linux {platform.release()}, Python {platform.python_version()}, {packages}\n"
            f"# Beside it: {asked.beside}\n"
            f"# Seconds since the start; median of {CALLS} calls of a fresh process in seconds, "
            "and its relative 95 % half width\n"
        )
        file.write(",".join(["at", *(f"{name},{name}_half" for name in WORKLOADS)]) + "\n")
        start = time.monotonic()
        for _ in range(asked.nights):
            figures = [f"{time.monotonic() - start:.0f}"]
            for name in WORKLOADS:
                median, half = night(name, network)
                figures += [f"{median:.5g}", f"{half:.2g}"]
            file.write(",".join(figures) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
