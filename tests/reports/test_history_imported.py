"""Figures of other tools in a history: what is carried over, what cannot be, and files that are none of them."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from reports import factory
from reports.histories import START, found, local

from mnv3_reports.history import report
from mnv3_reports.history.adding import add_rows
from mnv3_reports.history.imported import import_file
from mnv3_reports.history.metrics import metric
from mnv3_reports.history.places import HistoryError
from mnv3_reports.history.query import Question, opened
from mnv3_reports.history.trends import trends
from mnv3_reports.parts import to_markdown
from mnv3_reports.pytest_benchmark import to_pytest_benchmark

if TYPE_CHECKING:
    from pathlib import Path

ASV = {
    "commit_hash": "fcf8c079fae7ebad9f27bd31a819f0e4fdd85b99",
    "env_name": "virtualenv-py3.11-numpy",
    "date": 1767225600000,
    "params": {"arch": "x86_64", "cpu": "Made CPU", "machine": "cheetah", "os": "Linux 6.1", "ram": "8G"},
    "python": "3.11",
    "requirements": {"numpy": "2.0", "Cython": ""},
    "env_vars": {},
    "result_columns": ["result", "params", "version", "started_at", "duration", "stats_ci_99_a"],
    "results": {
        "resize.time_resize": [[0.0125], [], "v1", 1767225700000, 1.0, [0.012]],
        "resize.Suite.time_sizes": [[0.1, None, 0.4], [["1", "2", "3"]], "v2"],
        "resize.peakmem_resize": [[24600000], []],
        "resize.track_quality": [[0.9], []],
        "resize.time_failed": [None, [["a", "b"]]],
        "resize.time_nan": [[float("nan")], []],
    },
    "durations": {},
    "version": 2,
}
TIMM = (
    "model,infer_img_size,infer_samples_per_sec,infer_step_time,infer_batch_size,param_count\n"
    "mobilenetv3_small_100,224,374.07,2.654,1,2.54\n"
    "broken,224,,,1,2.54\n"
)


def written(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_pytest_benchmark(tmp_path: Path) -> None:
    run = factory.whole_run(factory.request(("v3-small",), (), ("eager",)), epochs=2)
    path = written(tmp_path / "b.json", to_pytest_benchmark(run))
    imported = import_file(path, now=START)
    (row,) = imported.rows
    assert (imported.source, imported.left_out) == ("pytest-benchmark", 0)
    assert row["cell"] == "v3-small/eager?threads=1&batch=1&resolution=224&device=cpu"
    assert row["latency_median_seconds"] == pytest.approx(6.5e-3, rel=0.1)
    assert row["latency_median_low_seconds"] is None, "rounds of one process give no interval"
    assert (row["repository_commit"], row["cpu"]) == ("abc1234", "Imaginary CPU @ 2.50GHz")
    assert import_file(path, now=START).rows[0]["run_id"] == row["run_id"]


def test_asv(tmp_path: Path) -> None:
    imported = import_file(written(tmp_path / "fcf8c079-py3.11.json", ASV), now=START)
    figures = {
        row["cell"]: row["latency_median_seconds"] or row["peak_resident_bytes"] for row in imported.rows
    }
    assert figures == {
        "resize.time_resize": 0.0125,
        "resize.Suite.time_sizes(1)": 0.1,
        "resize.Suite.time_sizes(3)": 0.4,
        "resize.peakmem_resize": 24600000,
    }
    # The other parameter of time_sizes, track_, both of time_failed's, and the one that was skipped.
    assert imported.left_out == 5
    row = imported.rows[0]
    assert row["started_at"] == ASV["date"] * 1000  # type: ignore[operator]
    assert json.loads(row["packages"]) == {"numpy": "2.0"}
    assert row["repository_commit"] == ASV["commit_hash"]


def test_figures_that_nobody_can_have_measured_are_left_out(tmp_path: Path) -> None:
    place = local(tmp_path / "history")
    bytes_, number = 29659470863611406491, "9" * 40
    results = {"a.peakmem_a": [[bytes_], []], "a.time_a": [[1e300], []], "a.time_b": [[0.5], []]}
    imported = import_file(written(tmp_path / "a.json", {**ASV, "results": results}), now=START)
    assert [row["cell"] for row in imported.rows] == ["a.time_b"]
    assert imported.left_out == 2
    add_rows(imported.rows, place, "a")
    lines = [TIMM.splitlines()[0], f"wide,224,1,2.6,{number},1", f"deep,224,1,2.6,1,{number}"]
    imported = import_file(written(tmp_path / "b.csv", "\n".join(lines)), now=START, date=START)
    assert [(row["variant"], row["parameters"]) for row in imported.rows] == [("deep", None)]
    assert imported.left_out == 1
    add_rows(imported.rows, place, "b")


def test_timm(tmp_path: Path) -> None:
    path = written(tmp_path / "benchmark-infer-cpu.csv", TIMM)
    with pytest.raises(HistoryError, match="add --date, for example --date 2026-01-31"):
        import_file(path, now=START)
    date = datetime(2026, 1, 31)
    imported = import_file(path, now=START, date=date, machine="i7")
    (row,) = imported.rows
    assert imported.left_out == 1
    assert row["cell"] == "mobilenetv3_small_100/timm?batch=1&resolution=224"
    assert row["latency_median_seconds"] == pytest.approx(2.654e-3)
    assert (row["cpu"], row["parameters"]) == ("i7", 2_540_000)


def test_imports_are_series_of_their_own_that_say_so(tmp_path: Path) -> None:
    place = local(tmp_path / "history")
    run = factory.whole_run(factory.request(("v3-small",), (), ("eager",)), epochs=2)
    paths = [
        written(tmp_path / "b.json", to_pytest_benchmark(run)),
        written(tmp_path / "asv.json", ASV),
        written(tmp_path / "timm.csv", TIMM),
    ]
    for again in (False, True):
        for path in paths:
            imported = import_file(path, now=START, date=datetime(2026, 1, 31))
            assert add_rows(imported.rows, place, str(path)).new != again
    several = found(place)
    assert {trend.series.source for trend in several} == {"pytest-benchmark", "asv", "timm"}
    assert all(point.low is None for trend in several for point in trend.series.points)
    asked = Question(metric("latency"), "*")
    with opened([place], asked) as history:
        text = to_markdown(None, report.report_of(trends(history), asked, history.sources))
    assert "imported from pytest-benchmark: no interval" in text
    assert "a mean step and not a median" in text


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.json", "{", "is not known here"),
        ("a.json", "[" * 100_000, "is not known here"),
        ("a.json", [1], "is not known here"),
        ("a.json", {"results": {}, "commit_hash": "a"}, "of an old asv; type 'asv update'"),
        ("a.json", {**ASV, "date": "soon"}, "does not say when its commit was made"),
        ("a.json", {**ASV, "date": 1e300}, "does not say when its commit was made"),
        ("a.json", {**ASV, "results": {"time_x": 3, "track_y": [3, [4]]}}, "holds no time"),
        ("a.json", {**ASV, "results": [], "params": None, "requirements": "x"}, "holds no time"),
        ("a.json", {"benchmarks": [], "machine_info": {}, "datetime": "2026-01-01"}, "holds no time"),
        ("a.json", {"benchmarks": [{"x": 1}], "machine_info": 1}, "is not a file of pytest-benchmark"),
        ("a.json", {"benchmarks": [], "machine_info": []}, "does not say when it was measured"),
        ("a.csv", "model,train_step_time\nx,1\n", "has no inference times"),
        ("a.csv", "", "has no inference times"),
        ("a.csv", "model,infer_step_time,infer_batch_size\n,,\n", "holds no time"),
    ],
)
def test_what_is_none_of_them(tmp_path: Path, name: str, content: Any, says: str) -> None:
    date = datetime(2026, 1, 31)
    with pytest.raises(HistoryError, match=says) as raised:
        import_file(written(tmp_path / name, content), now=START, date=date)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="cannot be read: No such file"):
        import_file(tmp_path / "nowhere.json", now=START)
