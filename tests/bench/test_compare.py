"""`mnv3-bench compare`: two folders of runs, and what is no run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reports import factory

from mnv3_bench.cli import invoke
from mnv3_reports.rundir import write_run

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_the_command_writes_both_forms_and_wants_two_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        write_run(factory.whole_run(epochs=2), tmp_path / name)
    assert (
        invoke(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(tmp_path / "out")]) == 0
    )
    assert "# b against a" in capsys.readouterr().out
    assert (tmp_path / "out" / "compare.md").read_text().startswith("# b against a")
    assert "<h1>b against a</h1>" in (tmp_path / "out" / "compare.html").read_text()
    assert invoke(["compare", str(tmp_path / "a")]) == 2
    assert invoke(["compare", str(tmp_path / "a"), str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.count("\n") == 2
