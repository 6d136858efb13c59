"""What a question to a history costs: two years of it, 20,000 runs of 60 cells, beside a tenth of that.

Asked: a trend query of 1.2 million rows takes at most 1 s and 500 MB on two cores, and grows no worse than linearly
from 2,000 to 20,000 runs. The history stands as `history add` leaves it: a file a month, and 40 runs of the newest one
in files of their own. Also measured: every cell at once, and single files that nothing put together.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from perf.made_history import make, make_singles

from mnv3_reports.history.metrics import metric
from mnv3_reports.history.places import open_place
from mnv3_reports.history.query import Question, opened

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

ROUNDS = 7
CELL = "v3-small/onnxruntime*"
COMMAND = (sys.executable, "-m", "mnv3_bench.cli", "history", "--store")


@pytest.fixture(scope="module")
def histories(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    found = {}
    for runs in (2_000, 20_000):
        found[runs] = tmp_path_factory.mktemp("history") / str(runs)
        make(found[runs], runs)
    return found


_MEASURE = """
import resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss)
"""


def process(*arguments: str) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak MB of a whole process.

    A small process starts it: until it runs its own program a child has the peak of the one that started it.
    """
    command = [sys.executable, "-c", _MEASURE, *COMMAND, *arguments]
    told_ = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    wall, cpu, peak = map(float, told_)
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes there, KiB elsewhere
    return wall, cpu, peak * unit / 1e6


def query(root: Path, cells: str) -> tuple[float, float]:
    """Wall and CPU seconds of reading the series, without starting Python and without change points."""
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    with opened([open_place(str(root))], Question(metric("latency"), cells)) as history:
        assert history.series()
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def told(name: str, found: list[tuple[float, ...]]) -> tuple[float, ...]:
    """Print and return the medians."""
    medians = tuple(statistics.median(each) for each in zip(*found, strict=True))
    units = ("s wall", "s CPU", "MB peak")
    shown = ", ".join(f"{value:.3g} {unit}" for value, unit in zip(medians, units, strict=False))
    spread = f"wall {min(found)[0]:.3g} to {max(found)[0]:.3g} s"
    print(f"\n{name}: {shown} (medians of {len(found)}; {spread}; load {os.getloadavg()[0]:.1f})")
    return medians


def test_a_trend_of_a_runtime_over_two_years(benchmark: BenchmarkFixture, histories: dict[int, Path]) -> None:
    whole: dict[int, list[tuple[float, ...]]] = {runs: [] for runs in histories}
    alone: dict[int, list[tuple[float, ...]]] = {runs: [] for runs in histories}
    for root in histories.values():
        process(str(root), "--cell", CELL)  # files come into the page cache

    def turn() -> None:
        for runs, root in histories.items():
            whole[runs].append(process(str(root), "--cell", CELL))
            alone[runs].append(query(root, CELL))

    benchmark.pedantic(turn, rounds=ROUNDS)
    medians: dict[str, Any] = {}
    for runs in histories:
        medians[f"process, {runs}"] = told(f"mnv3-bench history --cell '{CELL}', {runs:,} runs", whole[runs])
        medians[f"query, {runs}"] = told(f"the query alone, {runs:,} runs", alone[runs])
    benchmark.extra_info |= medians
    wall, _, peak = medians["process, 20000"]
    assert wall <= 1
    assert peak <= 500
    for what in ("process", "query"):
        assert medians[f"{what}, 20000"][1] <= 10 * medians[f"{what}, 2000"][1]


def test_every_cell_at_once(benchmark: BenchmarkFixture, histories: dict[int, Path]) -> None:
    found: list[tuple[float, ...]] = []
    benchmark.pedantic(lambda: found.append(process(str(histories[20_000]))), rounds=3)
    *_, peak = told("mnv3-bench history, all 60 cells, 20,000 runs", found)
    assert peak <= 500


def test_files_that_nothing_put_together(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Why `add` puts months together: what 2,000 files of a run each cost."""
    make_singles(tmp_path / "singles", 2_000)
    found: list[tuple[float, ...]] = []
    benchmark.pedantic(lambda: found.append(process(str(tmp_path / "singles"), "--cell", CELL)), rounds=3)
    told("2,000 single files", found)
