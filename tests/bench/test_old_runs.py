"""Runs that earlier versions left: reported by this one, and not gone on with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mnv3_bench.cli import invoke
from mnv3_reports.record import SCHEMA_VERSION

REPORTS = Path(__file__).parents[1] / "reports"


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
def test_an_earlier_version_s_run_is_reported_and_not_gone_on_with(
    tmp_path: Path, version: int, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "run"
    shutil.copytree(REPORTS / f"record-v{version}", directory)
    before = (directory / "journal.jsonl").read_bytes()
    assert invoke(["--resume", str(directory)]) in (2, 4), (
        "of another schema; and of another machine or versions"
    )
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mnv3-bench: --resume: ")
    assert line.endswith(("start a new run", "start a new run (mnv3-bench report still reads that one)"))
    assert invoke(["report", str(directory), "--format", "csv,json"]) == 0
    assert (directory / "journal.jsonl").read_bytes() == before
