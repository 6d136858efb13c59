"""The system's clock may jump by a day either way: it stamps, and decides nothing."""

from __future__ import annotations

import ast
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fakes import quick_run

import mnv3_bench
from mnv3_bench import folders, run
from mnv3_bench.cli import invoke
from mnv3_bench.gate import trial
from mnv3_reports.journal import read_journal
from mnv3_reports.record import RunFinished, RunStarted

ASKED = ("--variants", "small@0.35", "--references", "none", "--resolutions", "64", "--backends", "eager")


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    quick_run.install(monkeypatch)
    monkeypatch.setattr(run, "write_report", lambda _: True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MNV3_BENCH_CACHE", str(tmp_path / "cache"))


def clock(*times: datetime) -> Any:
    """A stand-in for `datetime` that tells these times one after the other, and the last one from then on."""
    left = list(times)

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return left.pop(0) if len(left) > 1 else left[0]

    return Clock


NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("jump", [timedelta(days=-1), timedelta(days=1)])
def test_a_run_across_a_jump_is_reported_in_every_form(
    jump: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "datetime", clock(NOON, NOON + jump))
    assert invoke(["run", *ASKED, "--output", "out"]) == 0
    entries = read_journal("out/journal.jsonl")
    begin, end = entries[0], entries[-1]
    assert isinstance(begin, RunStarted)
    assert isinstance(end, RunFinished)
    assert datetime.fromisoformat(end.ended_at) - datetime.fromisoformat(begin.started_at) == jump
    assert all(0 <= seconds < 600 for seconds in end.phase_seconds.values())
    forms = "md,html,csv,json,parquet,junit,pytest-benchmark"
    assert invoke(["report", "out", "--format", forms, "--output", "figures"]) == 0
    assert invoke(["compare", "out", "out"]) == 0
    assert "PARTIAL" not in Path("figures/report.md").read_text()


@pytest.mark.usefixtures("quickly")
def test_runs_that_begin_in_one_second_have_folders_and_names_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run, "datetime", clock(NOON))
    for _ in range(3):
        assert invoke(["run", *ASKED]) == 0
    runs = sorted(os.listdir("mnv3-runs"))  # noqa: PTH208
    assert runs == ["2026-03-01T12-00-00", "2026-03-01T12-00-00-2", "2026-03-01T12-00-00-3"]
    headers = [read_journal(Path("mnv3-runs", name, "journal.jsonl"))[0] for name in runs]
    assert len({header.run_id for header in headers if isinstance(header, RunStarted)}) == 3


def test_a_folder_that_cannot_be_made_is_no_endless_search(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mnv3-runs").write_text("")
    with pytest.raises(OSError, match="File exists"):
        folders.new_folder(NOON)


def test_only_stamps_and_ages_that_are_shown_come_from_the_system_s_clock() -> None:
    """`time.time` can be set back while a run is going on, `time.monotonic` cannot."""
    root = Path(mnv3_bench.__file__).parent
    users = set()
    for file in root.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(node, ast.Attribute)
                and node.attr in ("time", "time_ns")
                and ast.unparse(node.value) == "time"
            ):
                users.add(str(file.relative_to(root)))
    # How old an entry is; and where a system has no clock since boot, whether it slept.
    assert users <= {"cache_cli.py", "gate/trial.py"}


def test_a_clock_that_is_set_is_no_sleep_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    before = trial.since_boot()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert 0 <= trial.since_boot() - before < 60
