"""The table on a terminal fits it, at any width, and loses no cell."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from reports import factory
from rich.console import Console

from mnv3_reports.terminal import plain_lines, summary_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from mnv3_reports.record import Run


def shown(run: Run, width: int) -> str:
    file = io.StringIO()
    Console(width=width, file=file).print(summary_table(run))
    return file.getvalue()


@pytest.mark.parametrize("width", [200, 120, 100, 80, 70, 60, 50, 40, 20])
@pytest.mark.parametrize("make", [factory.tuned_run, factory.whole_run, factory.own_run])
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
