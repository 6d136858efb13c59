"""pytest-benchmark reads what is written here, and what it writes is read here."""

from __future__ import annotations

import csv
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.stats import Stats
from reports import factory, verdicts

from mnv3_reports import pytest_benchmark
from mnv3_reports.pytest_benchmark import (
    FEW_ROUNDS,
    benchmark,
    compare_pytest_benchmark,
    gate_to_pytest_benchmark,
    read_pytest_benchmark,
    to_pytest_benchmark,
)
from mnv3_reports.record import Run
from mnv3_reports.sequential import welch_interval


@pytest.fixture(autouse=True)
def _no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest-benchmark measures nothing in a worker of pytest-xdist, where these tests may run."""
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID"):
        monkeypatch.delenv(name, raising=False)


# Out


def test_an_empty_run_has_no_benchmarks() -> None:
    assert to_pytest_benchmark(Run.started(factory.header()))["benchmarks"] == []


@pytest.mark.parametrize("calls", [1, 2, 20])
def test_pytest_benchmark_compares_the_file(tmp_path: Path, calls: int) -> None:
    run = factory.whole_run(epochs=1, rounds=1, calls=calls)
    file = tmp_path / "run.json"
    file.write_text(json.dumps(to_pytest_benchmark(run), allow_nan=False))
    command = [str(Path(sys.executable).with_name("pytest-benchmark")), "compare", str(file), "--csv=out.csv"]
    shown = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=120)
    assert "12 tests" in shown.stdout
    assert "Failed to load" not in shown.stderr
    lines = list(csv.DictReader((tmp_path / "out.csv").open()))
    found = {line["name"]: float(line["median"]) for line in lines}
    for block in run.blocks:
        assert found[block.cell] == pytest.approx(statistics.median(block.samples_ns) / 1e9)


def test_names_with_settings_are_pytest_benchmarks_names(tmp_path: Path) -> None:
    run = factory.tuned_run(epochs=1)
    file = tmp_path / "run.json"
    file.write_text(json.dumps(to_pytest_benchmark(run), allow_nan=False))
    assert set(read_pytest_benchmark(file)) == set(run.cells)
    command = [str(Path(sys.executable).with_name("pytest-benchmark")), "compare", str(file), "--csv=out.csv"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=120)
    assert {line["name"] for line in csv.DictReader((tmp_path / "out.csv").open())} == set(run.cells)


def test_statistics_are_pytest_benchmarks_own() -> None:
    samples = [0.010, 0.011, 0.0095, 0.013, 0.0102, 0.030, 0.0101, 0.0104, 0.0099]
    for n in range(1, len(samples) + 1):
        theirs: Any = Stats()  # type: ignore[no-untyped-call]
        ours = pytest_benchmark.stats(samples[:n])
        for sample in samples[:n]:
            theirs.update(sample)
        for name, value in ours.items():
            if name in {"data", "iterations", "hd15iqr"}:  # the last one changed its meaning in 5.2
                continue
            expected = getattr(theirs, name)
            assert value == (expected if isinstance(expected, str) else pytest.approx(expected)), (name, n)


def test_no_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="there are no samples"):
        benchmark("x", [], group="g", extra={})


@pytest.mark.parametrize("name", sorted(verdicts.REPORTS))
def test_a_gates_cells_are_two_benchmarks_each(tmp_path: Path, name: str) -> None:
    report = verdicts.REPORTS[name]()
    file = tmp_path / "gate.json"
    # Names may hold lone surrogates, which only escapes can carry.
    file.write_text(json.dumps(gate_to_pytest_benchmark(report), allow_nan=False, ensure_ascii=True))
    stored = json.loads(file.read_text())["benchmarks"]
    expected = {}
    for cell in report.cells:
        expected |= {f"{cell.base_cell}[base]": cell.base_seconds, f"{cell.cell}[head]": cell.head_seconds}
    found = {entry["fullname"]: entry["stats"]["median"] for entry in stored}
    assert found == {key: value for key, value in expected.items() if value is not None}
    for entry in stored:
        ratio = entry["extra_info"]["ratio"]
        assert ratio in [cell.ratio.estimate if cell.ratio is not None else None for cell in report.cells]


# In


def stored(path: Path, **benchmarks: list[float]) -> Path:
    made = [benchmark(name, rounds, group="g", extra={}) for name, rounds in benchmarks.items()]
    path.write_text(json.dumps({"benchmarks": made}))
    return path


def pytest_benchmark_session(folder: Path, *arguments: str) -> None:
    (folder / "test_it.py").write_text("def test_it(benchmark): benchmark(lambda: sum(range(1000)))")
    command = [sys.executable, "-m", "pytest", "-q", "--benchmark-max-time=0.05", *arguments]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)


def test_rounds_are_read_from_what_pytest_benchmark_writes(tmp_path: Path) -> None:
    pytest_benchmark_session(tmp_path, "--benchmark-json=whole.json")
    found = read_pytest_benchmark(tmp_path / "whole.json")
    (entry,) = json.loads((tmp_path / "whole.json").read_text())["benchmarks"]
    assert list(found) == ["test_it.py::test_it"]
    assert len(found["test_it.py::test_it"]) == entry["stats"]["rounds"]
    assert statistics.median(found["test_it.py::test_it"]) == pytest.approx(entry["stats"]["median"])


def test_a_file_saved_without_rounds_gives_medians_and_no_interval(tmp_path: Path) -> None:
    pytest_benchmark_session(tmp_path, "--benchmark-save=bare", "--benchmark-storage=kept")
    (file,) = (tmp_path / "kept").rglob("*_bare.json")
    (entry,) = json.loads(file.read_text())["benchmarks"]
    assert read_pytest_benchmark(file) == {"test_it.py::test_it": [entry["stats"]["median"]]}
    (ratio,) = compare_pytest_benchmark(file, file, 0.03)
    assert ratio.ratio is not None
    assert (ratio.ratio.estimate, ratio.ratio.bounded) == (1, False)
    assert ratio.note == FEW_ROUNDS
    assert not ratio.above_margin


def test_what_we_write_we_read(tmp_path: Path) -> None:
    run = factory.whole_run(epochs=1)
    file = tmp_path / "run.json"
    file.write_text(json.dumps(to_pytest_benchmark(run)))
    found = read_pytest_benchmark(file)
    assert sum(map(len, found.values())) == sum(len(block.samples_ns) for block in run.blocks)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not JSON"),
        ("\xff", "is not JSON"),
        ("[]", "is not a file of pytest-benchmark"),
        ('{"benchmarks": [{"fullname": "a"}]}', "is not a file of pytest-benchmark: .*stats"),
        ('{"benchmarks": [{"fullname": "a", "stats": {}}]}', "a has neither data nor a median; type pytest"),
        ('{"benchmarks": [{"fullname": "a", "stats": {"data": []}}]}', "a has neither data nor a median"),
        (
            '{"benchmarks": [{"fullname": "a", "stats": {"data": [0.1, 0]}}]}',
            "a has a round that took no time",
        ),
        ('{"benchmarks": [{"fullname": "a", "stats": {"median": -1}}]}', "a has a round that took no time"),
        (
            '{"benchmarks": [{"fullname": "a", "stats": {"median": 1}}, {"fullname": "a", "stats": {"median": 1}}]}',
            "holds a twice",
        ),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=says) as error:
        read_pytest_benchmark(file)
    assert len(str(error.value).splitlines()) == 1
    assert str(file) in str(error.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone.json cannot be read: No such file"):
        read_pytest_benchmark(tmp_path / "gone.json")


def test_ratios_of_two_files_are_welchs(tmp_path: Path) -> None:
    before, after = [0.010, 0.0101, 0.0099], [0.0150, 0.0151, 0.0149, 0.0150]
    base = stored(tmp_path / "base.json", slower=before, same=before, gone=before)
    head = stored(tmp_path / "head.json", new=after, same=before, slower=after)
    found = {entry.name: entry for entry in compare_pytest_benchmark(base, head, 0.03)}
    assert list(found) == ["slower", "same", "gone", "new"]
    expected = welch_interval([math.log(x) for x in after], [math.log(x) for x in before])
    ratio = found["slower"].ratio
    assert ratio is not None
    assert (ratio.low, ratio.high) == (math.exp(expected.low), math.exp(expected.high))
    assert ratio.contains(1.5)
    assert [entry.above_margin for entry in found.values()] == [True, False, False, False]
    assert (found["slower"].base_seconds, found["slower"].head_seconds) == (0.010, 0.0150)
    assert (found["gone"].note, found["gone"].ratio, found["gone"].head_seconds) == (
        "only the base has it",
        None,
        None,
    )
    assert (found["new"].note, found["new"].base_seconds) == ("only the head has it", None)
    # A margin as large as the slowdown is not exceeded.
    assert not compare_pytest_benchmark(base, head, 0.5)[0].above_margin


def test_a_margin_that_means_nothing_is_refused(tmp_path: Path) -> None:
    file = stored(tmp_path / "x.json", a=[1.0])
    with pytest.raises(ValueError, match="expected a positive share"):
        compare_pytest_benchmark(file, file, 0.0)
