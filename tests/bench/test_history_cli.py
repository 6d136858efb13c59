"""`mnv3-bench history`: from runs on disk to an answer, its pages, and one line for what is wrong."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from reports import factory
from reports.test_history_imported import TIMM

from mnv3_bench.cli import invoke
from mnv3_reports.rundir import write_run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Two runs where runs are by default, one of them of long ago."""
    monkeypatch.chdir(tmp_path)
    asked = factory.request(("v3-small",), (), ("eager", "onnxruntime"))
    for name, days in (("new", 1), ("old", 300)):
        run = factory.whole_run(asked, epochs=2, rounds=2, calls=5)
        started = (datetime.now(UTC) - timedelta(days=days)).isoformat()
        run.header = msgspec.structs.replace(run.header, run_id=name, started_at=started)
        write_run(run, tmp_path / "mnv3-runs" / name)
    yield tmp_path
    MemoryFileSystem.store.clear()


def test_from_runs_to_an_answer(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["history", "--cell", "v3-small/onnxruntime*"]) == 0
    straight = capsys.readouterr().out
    assert straight.startswith("# Median latency of a call: history of v3-small/onnxruntime\\*")
    assert "2 figures in 1 series" in straight
    assert "0 files of histories and 2 tables of run directories" in straight
    assert invoke(["history", "add", "mnv3-runs", "--commit", "feedface"]) == 0
    assert capsys.readouterr().out.count("added, 2 cells") == 2
    assert invoke(["history", "add", "mnv3-runs/new"]) == 0
    assert "added" in capsys.readouterr().out, "without the commit it says something else"
    assert invoke(["history", "add", "mnv3-runs/new"]) == 0
    assert "is there already" in capsys.readouterr().out
    assert invoke(["history", "--cell", "v3-small/onnxruntime*"]) == 0
    assert "2 figures in 1 series" in capsys.readouterr().out, "both places are read, and no run counts twice"
    assert invoke(["history", "--since", "90d", "--store", "mnv3-history", "--output", "out"]) == 0
    out = capsys.readouterr().out
    assert "2 figures in 2 series" in out
    assert str(runs / "out" / "history.html").endswith(out.splitlines()[-6].split("/", 1)[1])
    assert (runs / "out" / "charts" / "history-02.svg").is_file()
    for metric in ("memory", "cold-start", "ratio-to-eager"):
        assert invoke(["history", "--metric", metric, "--cell", "*/onnxruntime*"]) == 0


def test_a_host_is_asked_about_by_its_name(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["history", "--cell", "v3-small/onnxruntime*", "--host"]
    assert invoke([*asked, "des?"]) == 2
    assert "no run has a host's name: history add --host gives one" in capsys.readouterr().err
    assert invoke(["history", "add", "mnv3-runs/new", "--host", "desk"]) == 0
    capsys.readouterr()
    assert invoke([*asked, "des?"]) == 0
    assert "1 figure in 1 series" in capsys.readouterr().out
    assert invoke([*asked, "rack-*"]) == 2
    error = capsys.readouterr().err
    assert "on hosts 'rack-*'; there are for example desk; type another" in error
    assert "type another --cell, --metric or --host" in error


def test_an_object_store(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = "memory://bucket/history"
    assert invoke(["history", "add", "mnv3-runs", "--store", store]) == 0
    assert invoke(["history", "compact", "--store", store]) == 0
    assert "every month is one file already" in capsys.readouterr().out
    assert invoke(["history", "--store", store]) == 0
    assert "4 figures in 2 series" in capsys.readouterr().out


def test_import_compact_and_prune(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "timm.csv").write_text(TIMM)
    assert invoke(["history", "import", "timm.csv", "--date", "2026-01-31", "--machine", "i7"]) == 0
    out = capsys.readouterr().out
    assert "timm.csv: added, 1 cell (month=2026-01/run-timm-" in out
    assert "1 figure left out" in out
    assert invoke(["history", "import", "timm.csv", "--date", "2026-01-30"]) == 0
    assert invoke(["history", "compact"]) == 0
    assert "month=2026-01: 2 files with 2 rows became one" in capsys.readouterr().out
    assert invoke(["history", "prune", "--keep-raw", "90d", "--dry-run"]) == 0
    assert "MB would go" in capsys.readouterr().out
    assert (runs / "mnv3-runs" / "old" / "samples.parquet").is_file()
    assert invoke(["history", "prune", "--keep-raw", "90d"]) == 0
    out = capsys.readouterr().out
    assert "mnv3-runs/new: stays; it is younger" in out
    assert not (runs / "mnv3-runs" / "old" / "samples.parquet").exists()
    assert (runs / "mnv3-runs" / "new" / "samples.parquet").is_file()
    assert invoke(["history", "--cell", "v3-small/*", "--store", "mnv3-history"]) == 0
    assert "2 figures in 2 series" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--cell", "small/*"], "no latency of cells 'small/*'; there are for example v3-small/eager?"),
        (["--cell", "v3-small/*", "--since", "1d"], "since 1d; there are for example"),
        (["--metric", "accuracy"], "no accuracy of cells '*'"),
        (["--since", "lately"], "type 2026-01-31 or 90d"),
        (["--metric", "speed"], "type one of latency, p90"),
        (["--store", "nowhere"], "holds neither a history nor runs"),
        (["--store", "nosuch://x"], "cannot be opened"),
        (["add", "nowhere"], "is no folder"),
        (["import", "nowhere.json"], "cannot be read"),
        (["import", "mnv3-runs/new/run.json"], "is not known here"),
        (["compact", "--store", "nowhere"], "holds no history; type mnv3-bench history add"),
        (["prune", "--keep-raw", "soon"], "type for example 90d"),
        (["prune"], "Missing option '--keep-raw'"),
    ],
)
def test_what_is_wrong_is_one_line(
    runs: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert invoke(["history", *arguments]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_without_runs_and_without_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke(["history"]) == 2
    assert "neither mnv3-history nor mnv3-runs here" in capsys.readouterr().err
    (tmp_path / "mnv3-runs").mkdir()
    for package, arguments in (("duckdb", ()), ("fsspec", ("--store", "memory://x"))):
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, package, None)
            assert invoke(["history", *arguments]) == 2
        assert "pip install 'mnv3-bench[history]'" in capsys.readouterr().err
