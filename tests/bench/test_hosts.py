"""`mnv3-bench hosts`: runs of several machines beside each other, on the terminal and as files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reports import factory

from mnv3_bench.cli import invoke
from mnv3_reports.rundir import write_run

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_hosts_are_put_beside_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("pi", "pc"):
        write_run(factory.whole_run(epochs=2, rounds=2), tmp_path / name)
    output = tmp_path / "out"
    assert invoke(["hosts", str(tmp_path / "pi"), str(tmp_path / "pc"), "--output", str(output)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("# MobileNet benchmark over 2 hosts\n")
    assert shown.splitlines()[-2:] == [str(output / "hosts.md"), str(output / "hosts.html")]
    assert (output / "hosts.md").read_text() in shown
    assert "Board to board" in (output / "hosts.html").read_text()


def test_a_folder_without_a_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["hosts", str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    (tmp_path / "fleet.jsonl").write_text("no journal\n")
    assert invoke(["hosts", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "is damaged in line 1" in error
