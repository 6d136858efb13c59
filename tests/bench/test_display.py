from __future__ import annotations

import io
from typing import TYPE_CHECKING

from rich.console import Console

from mnv3_bench.display import Display, LiveDisplay, clock_text
from mnv3_reports.record import Block, Cell

if TYPE_CHECKING:
    import pytest

CELLS = [Cell(variant, backend) for variant in ("v3-small", "v1") for backend in ("eager", "onnxruntime")]


def block(cell: Cell, milliseconds: float) -> Block:
    return Block(cell.key, 1, 2, 0, (round(milliseconds * 1e6),), 0.1, 0.1, 0, 0, 0)


def test_clock() -> None:
    assert [clock_text(value) for value in (-3, 0, 59.6, 3600)] == ["0:00", "0:00", "1:00", "60:00"]


def test_plain_lines_count_steps_and_say_how_long_is_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("mnv3_bench.display.time.monotonic", lambda: now[0])
    display = Display()
    display.begin("prepare", 3, 70.0)
    now[0] += 20
    display.step("first", 10.0)
    now[0] += 100
    display.step("second", 50.0)
    display.step("third", 10.0)
    assert capsys.readouterr().err.splitlines() == [
        "prepare: 3 to do",
        "prepare 1 of 3, about 2:00 left: first",
        "prepare 2 of 3, about 0:20 left: second",
        "prepare 3 of 3: third",
    ]
    display.begin("prepare", 0)
    assert capsys.readouterr().err == "prepare: nothing to do, all from the cache\n"


def test_measuring_prints_a_line_every_ten_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("mnv3_bench.display.time.monotonic", lambda: now[0])
    display = Display()
    display.begin("measure", 4)
    for _ in range(30):
        now[0] += 1
        display.block(block(CELLS[0], 3), 60)
    lines = capsys.readouterr().err.splitlines()
    assert lines[1:] == ["measure: epoch 2, round 3, at most 1:00 left"] * 3


def test_the_live_table_shows_every_cell_by_backend_and_network() -> None:
    display = LiveDisplay(CELLS)
    try:
        display.begin("prepare", 4)
        display.step("v3-small/eager: built in 2.0 s")
        display.step(f"{CELLS[3].key}: cannot be prepared because of a long story")
        display.begin("measure", 4)
        for value in (3.0, 5.0, 4.0):
            display.block(block(CELLS[1], value), 30)
        out = io.StringIO()
        Console(file=out, width=100).print(display._table())
    finally:
        display.end()
    text = out.getvalue()
    assert "at most 0:30 left" in text
    assert "v3-small, ms" in text
    assert "built in 2.0 s" in text
    assert "cannot be prepare…" in text
    assert "4.00" in text
    assert "epoch 2, round 3" in text
