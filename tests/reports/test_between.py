"""Runs beside each other: a change is seen, noise is not called one, and other machines are labelled."""

from __future__ import annotations

import re

import msgspec
from reports import factory

from mnv3_reports.between import changes, compared
from mnv3_reports.html.page import plain_page
from mnv3_reports.parts import to_markdown
from mnv3_reports.record import Cell, Run
from mnv3_reports.summary import Summary


def slowed(run: Run, cell: Cell, factor: float) -> Run:
    run.blocks = [
        msgspec.structs.replace(block, samples_ns=tuple(round(factor * value) for value in block.samples_ns))
        if block.cell == cell.key
        else block
        for block in run.blocks
    ]
    return run


def test_a_change_is_seen_and_the_rest_is_not_called_one() -> None:
    cell = Cell("v3-small", "onnxruntime")
    base, other = factory.whole_run(epochs=6), slowed(factory.whole_run(epochs=6), cell, 1.5)
    found = {change.cell: change for change in changes(Summary(base), Summary(other))}
    assert len(found) == len(base.cells)
    assert found[cell].shown == "slower"
    assert found[cell].ratio.contains(1.5)
    assert {change.shown for other_cell, change in found.items() if other_cell != cell} == {
        "no difference shown"
    }
    text = to_markdown(None, compared([("a", base), ("b", other)]))
    assert re.search(
        r"1 slower, most of all v3-small/onnxruntime\S+ at 1\.\d+ \[1\.\d+, 1\.\d+\] × its time", text
    )
    assert "not interleaved" in text
    assert "⚠" not in text


def test_another_machine_and_other_versions_are_labelled() -> None:
    base, other = factory.whole_run(epochs=2), factory.whole_run(epochs=2)
    machine = msgspec.structs.replace(factory.MACHINE, cpu="Another CPU", fingerprint="m2")
    other.header = msgspec.structs.replace(other.header, machine=machine)
    text = to_markdown(None, compared([("a", base), ("b", other)]))
    assert (
        text.count("absolute times of another machine (CPU Another CPU against Imaginary CPU @ 2.50GHz)") == 2
    )
    software = msgspec.structs.replace(factory.SOFTWARE, packages={"torch": "3.0"}, fingerprint="s2")
    other.header = msgspec.structs.replace(base.header, software=software)
    assert "torch 2.13.0 -&gt; 3.0" in to_markdown(None, compared([("a", base), ("b", other)])).replace(
        "->", "-&gt;"
    )


def test_cells_that_one_run_lacks_are_listed_with_the_reason() -> None:
    base, other = factory.whole_run(epochs=2), factory.whole_run(epochs=2)
    failed = other.header.cells[0]
    other.add(factory.failure(other.cells[failed].cell, "load"))
    text = to_markdown(None, compared([("a", base), ("b", other)]))
    assert "1 cell timed in a only" in text
    assert "failed (load)" in text


def test_runs_without_a_common_cell_and_with_one_epoch() -> None:
    base = factory.whole_run(factory.request(variants=("v3-small",), references=()), epochs=1)
    other = factory.whole_run(factory.request(variants=("v1",), references=()), epochs=1)
    assert "no cell was timed in both" in to_markdown(None, compared([("a", base), ("b", other)]))
    one = to_markdown(None, compared([("a", base), ("b", base)]))
    assert "a run with one epoch has no interval" in one
    assert "9 without a difference shown" in one or "3 without a difference shown" in one


def test_hostile_names_do_no_harm() -> None:
    run = factory.whole_run(epochs=2)
    parts = compared([(factory.HOSTILE, run), ("b|<b>", run)])
    assert "<script>alert" not in to_markdown(None, parts)
    page = plain_page(parts)
    assert page.count("<script") == 4
    assert "<b>" not in page
