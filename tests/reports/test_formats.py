"""A run in every form, and what a CI server makes of its JUnit file."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
from reports import factory

from mnv3_reports.formats import FORMATS, write_formats
from mnv3_reports.junit import to_junit
from mnv3_reports.record import Run, Skipped
from mnv3_reports.rundir import RunDirectoryError, load_run, write_run
from mnv3_reports.summary import Summary

if TYPE_CHECKING:
    from pathlib import Path


def test_each_form_is_a_file_elsewhere_and_the_run_stays_as_it_is(tmp_path: Path) -> None:
    run = factory.whole_run(epochs=2)
    write_run(run, tmp_path / "run")
    before = sorted((tmp_path / "run").iterdir())
    written = write_formats(tmp_path / "run", FORMATS, tmp_path / "out")
    assert {path.parent.name for path in written} == {"out", "charts"}
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        *(
            "report.md",
            "report.html",
            "charts",
            "cells.csv",
            "cells.json",
            "junit.xml",
            "pytest-benchmark.json",
        ),
        *("run.json", "cells.parquet", "samples.parquet"),
    }
    assert sorted((tmp_path / "run").iterdir()) == before
    assert load_run(tmp_path / "out") == run


def test_only_what_was_asked_for_is_written(tmp_path: Path) -> None:
    write_run(factory.whole_run(epochs=2), tmp_path)
    assert [path.name for path in write_formats(tmp_path, ["csv"])] == ["cells.csv"]
    assert not (tmp_path / "report.html").exists()


def test_what_is_no_format_or_no_run_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    write_run(factory.whole_run(epochs=2), tmp_path / "run")
    with pytest.raises(ValueError, match="no format 'pdf'; expected md, html, csv"):
        write_formats(tmp_path / "run", ["csv", "pdf"])
    assert not (tmp_path / "run" / "cells.csv").exists()
    with pytest.raises(RunDirectoryError):
        write_formats(tmp_path / "nowhere", ["csv"])


def test_junit_has_a_case_a_cell_and_tells_what_failed() -> None:
    run = factory.whole_run(epochs=2)
    failed, untimed, *others = run.header.cells
    run.add(factory.failure(run.cells[failed].cell, "load", tail="*** detected\x00"))
    run.blocks = [block for block in run.blocks if block.cell != untimed]
    run.add(Skipped("ncnn", "ncnn is not installed", "pip install 'mnv3-bench[ncnn]'"))
    suite = ET.fromstring(to_junit(run))
    cases = {case.get("name"): case for case in suite}
    assert list(cases) == [*run.header.cells, "ncnn"]
    assert {name: suite.get(name) for name in ("tests", "errors", "skipped", "failures")} == {
        "tests": str(len(run.header.cells) + 1),
        "errors": "1",
        "skipped": "2",
        "failures": "0",
    }
    error = cases[failed].find("error")
    assert error is not None
    assert error.get("type") == "load"
    assert "*** detected" in (error.text or "")
    skipped = cases["ncnn"].find("skipped")
    assert skipped is not None
    assert "pip install" in (skipped.get("message") or "")
    assert cases[untimed].find("skipped") is not None
    statistics = Summary(run).statistics
    for key in others:
        assert float(cases[key].get("time") or 0) == pytest.approx(statistics[key].latency.estimate, abs=1e-9)
        assert len(cases[key]) == 0


def test_junit_of_an_evaluation_and_of_nothing(tmp_path: Path) -> None:
    evaluated = factory.evaluated_run(tmp_path)
    assert ET.fromstring(to_junit(evaluated)).get("errors") == "0"
    empty = Run.started(factory.header(factory.request(variants=(), references=(), backends=())))
    assert ET.fromstring(to_junit(empty)).get("tests") == "0"
