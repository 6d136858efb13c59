"""What it costs that nothing is lost: every block on the disk, and every artifact compared before it is used."""

from __future__ import annotations

import math
import os
import random
import statistics
import time
from typing import TYPE_CHECKING

from perf.cells import prepared_cell
from reports import factory

from mnv3_bench.cache import Store
from mnv3_bench.conductor import as_block
from mnv3_bench.launcher import Launcher, expect
from mnv3_bench.protocol import Done, First, Import, Imported, Load, Turn, Turned, Warm, WarmUp
from mnv3_reports import disk
from mnv3_reports.journal import Journal
from mnv3_reports.statistics import log_interval

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from pytest_benchmark.fixture import BenchmarkFixture

EPOCHS, ROUNDS = 8, 20
CALLS = 50
"""About 100 ms of V3-Small on ONNX Runtime, as a run's blocks are."""
MEGABYTES = 100


def test_every_block_on_the_disk(
    benchmark: BenchmarkFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of a real cell, recorded in turn with and without waiting for the disk.

    Printed: what recording one takes, its share of a block, and whether the block that follows is any slower.
    """
    found = prepared_cell("v3-small", "onnxruntime", tmp_path)
    load = Load(
        "onnxruntime", str(found.directory), 1, "cpu", str(found.artifacts.pool("measure", found.cell)), 1
    )
    waits = {"synced": disk._sync_data, "unsynced": lambda _: None}
    took: dict[str, list[float]] = {way: [] for way in waits}
    lengths: list[float] = []
    epochs: list[float] = []

    def epoch() -> None:
        launcher = Launcher(tmp_path / "logs", memory_limit=None)
        journals = {way: Journal.create(tmp_path / f"{way}-{len(epochs)}.jsonl") for way in waits}
        try:
            worker = launcher.fresh("cell", 1)
            expect(worker.request(Import(found.modules), 60), Imported)
            expect(worker.request(load, 60), Done)
            expect(worker.request(First(), 60), Done)
            expect(worker.request(WarmUp(1.0), 60), Warm)
            last = expect(worker.request(Turn(4, CALLS), 60), Turned)
            worker.pause()
            for journal in journals.values():
                journal.append(factory.header())
            logs = []
            for number in range(ROUNDS):
                medians = {}
                for way in random.Random(number).sample(list(waits), 2):
                    block = as_block(found.cell.key, len(epochs), number, 0, last)
                    monkeypatch.setattr(disk, "_sync_data", waits[way])
                    begin = time.perf_counter()
                    journals[way].append(block)
                    took[way].append(time.perf_counter() - begin)
                    last = expect(worker.request(Turn(4, CALLS), 60), Turned)
                    worker.pause()
                    lengths.append(last.wall_seconds)
                    medians[way] = statistics.median(last.samples_ns)
                logs.append(math.log(medians["synced"] / medians["unsynced"]))
            epochs.append(math.exp(statistics.median(logs)))
        finally:
            for journal in journals.values():
                journal.close()
            launcher.kill_all()

    benchmark.pedantic(epoch, rounds=EPOCHS)
    ratio = log_interval(epochs)
    cost = {way: statistics.median(seconds) for way, seconds in took.items()}
    worst = sorted(took["synced"])[int(0.99 * len(took["synced"]))]
    share = (cost["synced"] - cost["unsynced"]) / statistics.median(lengths)
    benchmark.extra_info |= {"ratio": ratio.estimate, "low": ratio.low, "high": ratio.high, **cost}
    print(
        f"\na block recorded: {cost['synced'] * 1e3:.2f} ms on the disk (p99 {worst * 1e3:.2f} ms), "
        f"{cost['unsynced'] * 1e3:.2f} ms without waiting for it; the difference is {share:.2%} of a block of "
        f"{statistics.median(lengths) * 1e3:.0f} ms (n = {len(took['synced'])} each)\n"
        f"a call of the block that follows, with / without: {ratio.estimate:.4f} [{ratio.low:.4f}, {ratio.high:.4f}] "
        f"over {EPOCHS} epochs"
    )
    assert ratio.low <= 1.01
    assert ratio.high >= 0.99


def test_an_artifact_compared_before_use(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Seconds for 100 MB that are in memory already, and for 100 MB that must come from the disk."""
    key = {"kind": "benchmark"}
    with Store(tmp_path).begin(key) as building:
        file = building.directory / "model.bin"
        file.write_bytes(os.urandom(MEGABYTES * 1_000_000))
        building.finish(build_seconds=0.0, built_at="", facts={})
    file = Store(tmp_path).path(key) / "model.bin"
    seconds: dict[str, list[float]] = {"from memory": [], "from the disk": []}

    def both() -> None:
        for way, taken in seconds.items():
            descriptor = os.open(file, os.O_RDONLY)
            if way == "from the disk":
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
            store = Store(tmp_path)
            begin = time.perf_counter()
            assert store.find(key) is not None
            taken.append(time.perf_counter() - begin)
            store.close()

    benchmark.pedantic(both, rounds=10)
    for way, taken in seconds.items():
        print(
            f"\n{MEGABYTES} MB {way}: {statistics.median(taken):.3f} s [{min(taken):.3f}, {max(taken):.3f}]"
        )
    store = Store(tmp_path)
    assert store.find(key) is not None
    begin = time.perf_counter()
    for _ in range(100):
        store.find(key)
    again = (time.perf_counter() - begin) / 100
    print(f"the same again in one run, when nothing was written since: {again * 1e3:.2f} ms")
    assert again < min(map(min, seconds.values()))
