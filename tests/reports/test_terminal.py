"""The table on a terminal fits it, at any width, and loses no cell."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from reports import factory
from rich.console import Console

from mnv3_reports.record import Cell
from mnv3_reports.terminal import accuracy_lines, accuracy_table, plain_lines, summary_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from mnv3_reports.record import Run


def shown(
    run: Run, width: int, table: Callable[[Run], object] = summary_table, *, colour: bool = False
) -> str:
    file = io.StringIO()
    Console(width=width, file=file, force_terminal=colour).print(table(run))
    return file.getvalue()


def lossy_run() -> Run:
    run = factory.evaluated_run()
    factory.lossy(run, Cell("v3-small", "onnxruntime-int8"), 0.05)
    return run


@pytest.mark.parametrize("width", [200, 120, 100, 80, 70, 60, 50, 40, 20])
@pytest.mark.parametrize("make", [factory.tuned_run, factory.whole_run, factory.own_run, lossy_run])
def test_it_fits_and_nothing_is_cut(width: int, make: Callable[[], Run]) -> None:
    run = make()
    text = shown(run, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    letters = "".join(text.split())
    for record in run.cells.values():
        assert record.cell.backend.partition(":")[0] in letters


def test_settings_get_a_line_each_before_figures_are_left_out() -> None:
    run = factory.tuned_run()
    assert "onnxruntime:spinning=off:graph=extended" in shown(run, 130)
    narrow = shown(run, 80)
    assert [" :spinning=off" in narrow, " :graph=extended" in narrow] == [True, True]
    assert "SNR" in narrow
    assert "left out" not in narrow
    least = shown(run, 45)
    assert "median" in least
    assert "left out, for want of width: " in " ".join(least.split())


def test_the_narrowest_gets_plain_lines() -> None:
    run = factory.tuned_run()
    text = "".join(shown(run, 20).split())
    assert all("".join(line.split()) in text for line in plain_lines(run))


def test_other_inputs_than_images_are_called_inputs() -> None:
    (line,) = plain_lines(factory.own_run())
    assert " inputs/s" in line
    assert " images/s, " in plain_lines(factory.whole_run(epochs=2))[0]


def test_what_loses_more_than_accepted_is_red_and_said_in_plain_lines() -> None:
    run = lossy_run()
    sentence = "onnxruntime-int8 loses 5.1 [3.4, 7.6] points on v3-small, more than the 1.0 accepted."
    for table in (summary_table, accuracy_table):
        text = shown(run, 160, table, colour=True)
        assert f"\x1b[1;31m{sentence}\x1b[0m" in text
        assert "\x1b[1;31m5.1 [3.4,7.6] ! " in text
        assert "\x1b[" not in shown(run, 160, table)
    lossy = Cell("v3-small", "onnxruntime-int8").key
    for lines in (plain_lines(run), accuracy_lines(run)):
        (line,) = (line for line in lines if line.startswith(f"{lossy}: "))
        assert line.endswith(
            "top-1 92.9 [90.1, 94.9] %, loses 5.1 [3.4, 7.6] points against eager fp32 (more than the 1.0 accepted)"
        )
    assert accuracy_lines(run)[-1] == sentence
    assert sum("more than the 1.0 accepted" in line for line in accuracy_lines(run)) == 2


@pytest.mark.parametrize("width", [200, 120, 100, 80, 60, 40, 20])
def test_accuracy_fits_and_top1_stays(width: int) -> None:
    run = lossy_run()
    text = shown(run, width, accuracy_table)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert "top-1" in " ".join(text.split())
    if width >= 200:
        assert "left out" not in text


def test_a_cell_that_was_not_evaluated_says_why() -> None:
    run = factory.evaluation_run()
    failed, gone = (Cell("v3-small", name) for name in ("onnxruntime", "onnxruntime-int8"))
    run.add(factory.failure(failed, "accuracy"))
    run.cells[failed.key].accuracy = run.cells[gone.key].accuracy = None
    lines = {line.partition(": ")[0]: line for line in accuracy_lines(run)}
    assert "failed (accuracy): no C++ compiler | found." in lines[failed.key]
    assert lines[gone.key].endswith(": this cell was not evaluated")
    assert "not evaluated" in shown(run, 120, accuracy_table)
    run.header = factory.asking(run, preprocessing={"v1": factory.PREPROCESSING})
    assert any("weights are random" in line for line in accuracy_lines(run))
    run.header = factory.asking(run, preprocessing={})
    run.finished = None
    assert any("the run ended before this cell was evaluated" in line for line in accuracy_lines(run))


def test_the_reference_does_not_lose_against_itself() -> None:
    (line,) = (line for line in accuracy_lines(factory.evaluation_run()) if "/eager?" in line)
    assert line.endswith("top-1 97.3 [95.4, 98.5] %")
