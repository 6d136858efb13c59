"""Our roofs beside known tools on the same machine, in turns: OpenBLAS for fp32, STREAM-like tools for memory.

Asked: within 10 % of them. numpy's wheels bring OpenBLAS. For memory there are STREAM's triad, compiled here as its own
source does it (no Debian package has STREAM), numpy's, and the copy of `mbw` where that is installed
(`apt-get install mbw`). What each one counts is said beside it.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest

from mnv3_bench.doctor.kernel import Kernel
from mnv3_bench.environment import affinity_list, usable_cpus, usable_memory
from mnv3_bench.roofline import bandwidth, compute

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ROUNDS = 5
SECONDS = 1.0
"""Of one turn of one tool, about."""
OPENBLAS = """
import sys, time, numpy
rates = {}
for size in (512, 1024, 1536, 2048):
    a, b = (numpy.random.rand(size, size).astype(numpy.float32) for _ in range(2))
    out = numpy.empty_like(a)
    numpy.matmul(a, b, out=out)
    found, end = [], time.perf_counter() + float(sys.argv[1]) / 4
    while time.perf_counter() < end or len(found) < 3:
        start = time.perf_counter()
        numpy.matmul(a, b, out=out)
        found.append(2 * size**3 / (time.perf_counter() - start))
    rates[size] = sorted(found)[len(found) // 2]
print(max(rates.values()))
"""
NUMPY_TRIAD = """
import sys, threading, time, numpy
threads, size = int(sys.argv[1]), int(sys.argv[2])
# In blocks that stay in a cache between the two steps, so that memory sees a triad.
block = 32768
count = size // 24 // block
barrier, spans = threading.Barrier(threads), []

def work():
    a, b, c = (numpy.full((count, block), value) for value in (0.0, 1.0, 2.0))
    for _ in range(passes):
        barrier.wait()
        start = time.perf_counter()
        for i in range(count):
            numpy.multiply(c[i], 0.5, out=a[i])
            numpy.add(a[i], b[i], out=a[i])
        spans.append((start, time.perf_counter()))

passes = 5
workers = [threading.Thread(target=work) for _ in range(threads)]
[worker.start() for worker in workers]
[worker.join() for worker in workers]
rates = []
for i in range(passes):
    group = sorted(spans)[i * threads : (i + 1) * threads]
    rates.append(threads * count * block * 24 / (max(e for _, e in group) - min(s for s, _ in group)))
print(sorted(rates)[len(rates) // 2])
"""


def child(program: str, *arguments: object, threads: int = 1) -> float:
    """A figure that another interpreter prints, with so many threads of OpenBLAS."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return float(answer.stdout)


def in_turns(ours: Callable[[], float], others: dict[str, Callable[[], float]], unit: str) -> None:
    """Print the median of each and of the ratios within a round."""
    found: dict[str, list[float]] = {name: [] for name in ("ours", *others)}
    for number in range(ROUNDS):
        turns = [("ours", ours), *others.items()]
        for name, turn in turns if number % 2 else reversed(turns):
            found[name].append(turn())
    print(f"\nours: {statistics.median(found['ours']) / 1e9:.1f} {unit}")
    for name in others:
        ratios = [mine / theirs for mine, theirs in zip(found["ours"], found[name], strict=True)]
        print(
            f"{name}: {statistics.median(found[name]) / 1e9:.1f} {unit}; ours / theirs "
            f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}, {ROUNDS} rounds)"
        )


def thread_counts() -> list[int]:
    return sorted({1, usable_cpus()})


def uses_openblas() -> bool:
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        np.show_config()
    return "openblas" in text.getvalue().lower()


@pytest.mark.parametrize("threads", thread_counts())
def test_fp32_beside_openblas(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if not uses_openblas():
        pytest.skip("needs a numpy with OpenBLAS")
    # Its share of the time goes to fp32 alone.
    monkeypatch.setattr(compute, "has_bf16", lambda: False)
    monkeypatch.setattr(compute, "has_vnni", lambda: False)
    print(f"\nfp32 product of matrices, {threads} threads")
    in_turns(
        lambda: compute.measure(threads, SECONDS).roofs[0].value,
        {"OpenBLAS sgemm (numpy)": lambda: child(OPENBLAS, SECONDS, threads=threads)},
        "Gop/s",
    )


class Triad(NamedTuple):
    """Ours on memory, and the bytes of all arrays that it takes."""

    measure: Callable[[], float]
    size: int


@pytest.fixture(params=thread_counts())
def triad(request: pytest.FixtureRequest, tmp_path: Path) -> Triad:
    threads = request.param
    library, _ = bandwidth.compiled(tmp_path)
    levels = bandwidth.caches(Kernel(), affinity_list() or [0])
    memory = bandwidth.plan(levels, threads, usable_memory()).sets[-1]
    return Triad(
        lambda: statistics.median(bandwidth._by_kernel(library, memory, threads, SECONDS)),
        threads * memory.size,
    )


STREAM = r"""
#include <stdio.h>
#include <omp.h>
static double a[N], b[N], c[N];
int main(void) {
    double best = 1e30;
    #pragma omp parallel for schedule(static)
    for (long i = 0; i < N; i++) { a[i] = 1.0; b[i] = 2.0; c[i] = 0.0; }
    for (int k = 0; k < 10; k++) {
        double start = omp_get_wtime();
        #pragma omp parallel for schedule(static)
        for (long i = 0; i < N; i++) a[i] = b[i] + 3.0 * c[i];
        double took = omp_get_wtime() - start;
        if (k && took < best) best = took;
    }
    printf("%g\n", 24.0 * N / best);
    return a[N / 2] == 2.0 ? 0 : 1;
}
"""
"""STREAM's triad as its own source does it: static arrays, OpenMP, the best of ten but the first."""


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int], float]:
    folder = tmp_path_factory.mktemp("stream")

    def run(threads: int, size: int) -> float:
        program = folder / f"stream-{size}"
        if not program.exists():
            source = folder / "stream.c"
            source.write_text(STREAM)
            flags = ("-O3", "-march=native", "-mcmodel=medium", "-fopenmp", f"-DN={size // 24}")
            subprocess.run(["cc", *flags, "-o", str(program), str(source)], check=True)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        answer = subprocess.run([program], check=True, capture_output=True, text=True, env=environment)
        return float(answer.stdout)

    return run


def mbw(size: int) -> float:
    """Debian's mbw, one thread: a copy, 16 bytes an element instead of the 8 that it counts; the average of ten."""
    answer = subprocess.run(
        ["mbw", "-q", "-n", "10", "-t", "1", str(size // 2 >> 20)], check=True, capture_output=True, text=True
    )
    copied = re.search(r"AVG\s+Method: DUMB.*?Copy: ([\d.]+) MiB/s", answer.stdout)
    assert copied is not None, answer.stdout
    return 2 * float(copied[1]) * 2**20


def test_memory_beside_other_triads(
    triad: Triad, stream: Callable[[int, int], float], request: pytest.FixtureRequest
) -> None:
    threads = request.node.callspec.params["triad"]
    others: dict[str, Callable[[], float]] = {
        "STREAM's triad, OpenMP, best of 9": lambda: stream(threads, triad.size),
        "numpy's triad in blocks, threads": lambda: child(NUMPY_TRIAD, threads, triad.size // threads),
    }
    if shutil.which("mbw") and threads == 1:
        others["mbw, a copy, read and written counted"] = lambda: mbw(triad.size)
    print(f"\nmemory, {triad.size >> 20} MiB, {threads} threads")
    in_turns(triad.measure, others, "GB/s")
