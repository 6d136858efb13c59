"""What to ship: the evidence is named, and what answers wrongly is never advised."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec
from reports import factory

from mnv3_reports.advice import advice
from mnv3_reports.record import Cell, Run
from mnv3_reports.summary import Summary

if TYPE_CHECKING:
    from pathlib import Path


def lines(run: Run) -> dict[str, str]:
    """Bold beginning to the rest of each line."""
    return dict(re.findall(r"^- \*\*(.+?):\*\* (.+)$", advice(Summary(run)), flags=re.M))


def trusted(run: Run) -> Run:
    """With outputs as their references have them."""
    for record in run.cells.values():
        if record.inspected is not None and record.inspected.fidelity is not None:
            exact = msgspec.structs.replace(record.inspected.fidelity, top1_agreement=1.0)
            record.inspected = msgspec.structs.replace(record.inspected, fidelity=exact)
    return run


def test_three_sentences_with_their_evidence() -> None:
    run = trusted(factory.whole_run())
    found = lines(run)
    fastest, accurate, smallest = found
    assert fastest == "Lowest latency"
    assert found[fastest].startswith("v3-small on `onnxruntime-int8`, 2.5")
    assert re.search(
        r"the next, v3-small on `onnxruntime`, takes 1\.\d+ \[1\.\d+, 1\.\d+\] × as long", found[fastest]
    )
    assert re.fullmatch(r"Best accuracy within the [\d.]+ ms that v1 takes at its fastest", accurate)
    assert found[accurate].startswith("v3-large on `onnxruntime`, top-1 75.2 % (published), ")
    assert smallest == "Least memory"
    assert "MB" in found[smallest]


def test_what_answers_otherwise_is_not_advised() -> None:
    run = trusted(factory.whole_run())
    for record in run.cells.values():
        if record.cell.backend == "onnxruntime-int8" and record.inspected is not None:
            assert record.inspected.fidelity is not None
            wrong = msgspec.structs.replace(record.inspected.fidelity, top1_agreement=0.2)
            record.inspected = msgspec.structs.replace(record.inspected, fidelity=wrong)
    assert "int8" not in advice(Summary(run))


def test_cells_that_are_not_told_apart_are_named_together() -> None:
    run = trusted(factory.whole_run(epochs=4))
    fast, other = Cell("v3-small", "onnxruntime-int8").key, Cell("v3-small", "onnxruntime").key
    of_fast = {(block.epoch, block.round): block.samples_ns for block in run.blocks if block.cell == fast}
    run.blocks = [
        msgspec.structs.replace(block, samples_ns=of_fast[block.epoch, block.round])
        if block.cell == other
        else block
        for block in run.blocks
    ]
    found = lines(run)["Lowest latency"]
    assert re.search(r"not told apart from it: v3-small on `onnxruntime(-int8)?`", found)
    assert "the next, v2" in found or "the next, v3" in found


def test_measured_accuracy_is_not_mixed_with_published(tmp_path: Path) -> None:
    found = lines(factory.evaluated_run(tmp_path))
    (accurate,) = (text for name, text in found.items() if name.startswith("Best accuracy"))
    assert "(measured)" in accurate


def test_without_references_any_latency_counts_and_without_a_choice_nothing_is_said() -> None:
    run = trusted(factory.whole_run(factory.request(references=()), epochs=2))
    assert "Best accuracy at any latency" in lines(run)
    one = factory.request(variants=("v3-small",), references=(), backends=("eager",))
    assert advice(Summary(factory.whole_run(one, epochs=2))) == ""
    assert advice(Summary(Run.started(factory.header()))) == ""


def test_the_smallest_batch_is_what_is_advised_on() -> None:
    run = trusted(factory.whole_run(factory.request(batch_sizes=(8, 1)), epochs=2))
    assert advice(Summary(run)).startswith("**What to ship** (1 thread, batch 1, 224 × 224):")
