"""Other tools read what is exported."""

from __future__ import annotations

import csv
import io
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.stats import Stats
from reports import factory

from mnv3_reports import export, flat
from mnv3_reports.record import Cell, Run
from mnv3_reports.summary import Summary


def test_csv_has_a_line_a_cell() -> None:
    run = factory.whole_run(epochs=2)
    run.add(factory.failure(Cell("v1", "eager")))
    lines = list(csv.DictReader(io.StringIO(export.to_csv(run))))
    assert [line["cell"] for line in lines] == list(run.cells)
    found = Summary(run).statistics[lines[0]["cell"]]
    assert float(lines[0]["latency_median_seconds"]) == found.latency.estimate
    failed = next(line for line in lines if line["status"] == "failed")
    assert (failed["cell"], failed["latency_median_seconds"]) == (Cell("v1", "eager").key, "")


def test_json_holds_cells_and_ratios() -> None:
    run = factory.whole_run(epochs=1)
    document = json.loads(export.to_json(run))
    assert document["complete"] is True
    assert [cell["cell"] for cell in document["cells"]] == list(run.cells)
    assert set(document["cells"][0]) == {field.name for field in flat.FIELDS}
    assert len(document["ratios"]) == len(Summary(run).ratios)
    ratio = document["ratios"][0]
    assert (ratio["epochs"], ratio["low"]) == (1, None)  # one epoch has no interval


def test_an_empty_run_exports() -> None:
    run = Run.started(factory.header())
    assert len(export.to_csv(run).splitlines()) == 1 + len(run.cells)
    assert json.loads(export.to_json(run))["complete"] is False
    assert export.to_pytest_benchmark(run)["benchmarks"] == []


@pytest.mark.parametrize("calls", [1, 2, 20])
def test_pytest_benchmark_compares_the_file(tmp_path: Path, calls: int) -> None:
    run = factory.whole_run(epochs=1, rounds=1, calls=calls)
    file = tmp_path / "run.json"
    file.write_text(json.dumps(export.to_pytest_benchmark(run), allow_nan=False))
    command = [str(Path(sys.executable).with_name("pytest-benchmark")), "compare", str(file), "--csv=out.csv"]
    shown = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=120)
    assert "12 tests" in shown.stdout
    assert "Failed to load" not in shown.stderr
    lines = list(csv.DictReader((tmp_path / "out.csv").open()))
    found = {line["name"]: float(line["median"]) for line in lines}
    for block in run.blocks:
        assert found[block.cell] == pytest.approx(statistics.median(block.samples_ns) / 1e9)


def test_statistics_are_pytest_benchmarks_own() -> None:
    samples = [0.010, 0.011, 0.0095, 0.013, 0.0102, 0.030, 0.0101, 0.0104, 0.0099]
    for n in range(1, len(samples) + 1):
        theirs: Any = Stats()  # type: ignore[no-untyped-call]
        ours = export._stats(samples[:n])
        for sample in samples[:n]:
            theirs.update(sample)
        for name, value in ours.items():
            if name in {"data", "iterations", "hd15iqr"}:  # the last one changed its meaning in 5.2
                continue
            expected = getattr(theirs, name)
            assert value == (expected if isinstance(expected, str) else pytest.approx(expected)), (name, n)
