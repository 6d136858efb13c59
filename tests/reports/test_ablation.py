"""What an ingredient costs and brings: ratios of one round, and answers image by image."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec
import pytest
from reports import factory

from mnv3_reports import ablation, predictions
from mnv3_reports.accuracy import drop_of
from mnv3_reports.accuracy_words import hundredths
from mnv3_reports.markdown import report_text
from mnv3_reports.record import Cell, Run
from mnv3_reports.summary import Summary

if TYPE_CHECKING:
    from pathlib import Path


def section_of(run: Run, directory: Path | None = None) -> str:
    return "\n\n".join(ablation.section(Summary(run, directory)))


def test_names_are_taken_apart() -> None:
    form = ablation._form("v3-small-no-se-unskipped@0.75", "v3-small@0.75")
    assert form.changes == ("no-se", "unskipped")
    assert form.words == "without squeeze-and-excitation and with an expansion where the paper has none"
    assert ablation._form("v3-small-se-hswish", "v3-small").changes == ("se-hswish",)
    assert ablation._form("v3-small-no-hswish", "v3-small").changes == ("no-hswish",)
    strange = ablation._form("v3-small-of-the-future", "v3-small")
    assert (strange.changes, strange.words) == ((), "changed")


def test_latency_is_held_against_the_whole_network_in_the_runs_own_rounds(tmp_path: Path) -> None:
    run = factory.ablated_run(tmp_path)
    summary = Summary(run, tmp_path)
    section = section_of(run, tmp_path)
    ratio = summary.ratios[Cell("v3-small-no-se", "onnxruntime").key, Cell("v3-small", "onnxruntime").key]
    assert ratio.printed.kind == "ablation"
    low, high = ratio.interval.low, ratio.interval.high
    assert f"| `onnxruntime` | {ratio.interval.estimate:.3f} [{low:.3f}, {high:.3f}] |" in section
    assert "| backend | no-se [95 %] | no-hswish [95 %] | composed-hswish [95 %] |" in section
    more, least, most = (round((1 / value - 1) * 100) for value in (ratio.interval.estimate, high, low))
    assert (
        f"- **Squeeze-and-excitation** (`v3-small-no-se`) costs +{more} % [+{least}, +{most}] latency on "
        "`onnxruntime`, 5.65 M MACs, 0.254 M parameters" in section
    )


def test_accuracy_is_compared_image_by_image(tmp_path: Path) -> None:
    run = factory.ablated_run(tmp_path)
    cells = (Cell(name, "eager") for name in ("v3-small", "v3-small-no-se"))
    whole, form = (predictions.read(tmp_path, factory.predictions_file(cell)) for cell in cells)
    expected = drop_of(predictions.pairs_of(whole, form, "v3-small"))
    assert expected is not None
    section = section_of(run, tmp_path)
    assert (
        f"and brings {hundredths(expected.interval)} points of top-1 on `eager`, which may be noise (p "
        in section
    )
    row = next(line for line in section.splitlines() if line.startswith("| `v3-small-no-se` |"))
    assert f"| {hundredths(expected.interval)} | may be, p " in row
    assert "| without squeeze-and-excitation | 50.9 (0.900) | 2.29 (0.900) |" in row
    assert "Training with another seed gives other weights" in section


def test_a_choice_is_the_form_against_the_network_and_an_ingredient_the_other_way_round(
    tmp_path: Path,
) -> None:
    section = section_of(factory.ablated_run(tmp_path), tmp_path)
    (choice,) = (line for line in section.splitlines() if line.startswith("- **Hard-swish composed of"))
    assert "costs −22 % [−" in choice
    lost = re.search(r"\| `v3-small-composed-hswish` .*\| (−?[\d.]+) \[", section)
    assert lost is not None
    brought = re.search(r"brings (−?[\d.]+) \[", choice)
    assert brought is not None
    assert float(brought[1].replace("−", "-")) == -float(lost[1].replace("−", "-"))


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        ("no directory", "the run directory with its predictions is not at hand"),
        ("no file", "is missing from the run directory"),
        ("other images", "the two were not evaluated on the same images"),
        ("not evaluated", "the two were not both evaluated"),
    ],
)
def test_what_cannot_be_compared_says_why(tmp_path: Path, harm: str, why: str) -> None:
    run = factory.ablated_run(tmp_path)
    directory: Path | None = tmp_path
    if harm == "no directory":
        directory = None
    elif harm == "no file":
        (tmp_path / factory.predictions_file(Cell("v3-small", "eager"))).unlink()
    elif harm == "other images":
        factory.answers(0, images=400).write(tmp_path / factory.predictions_file(Cell("v3-small", "eager")))
    else:
        for record in run.cells.values():
            if record.cell.variant == "v3-small":
                record.accuracy = None
    section = section_of(run, directory)
    assert "; what it brings is not known: " in section
    assert why in section
    assert "which may be noise" not in section
    assert "another seed" not in section


def test_eager_is_compared_where_it_is_and_the_first_other_backend_where_not(tmp_path: Path) -> None:
    run = factory.ablated_run(tmp_path)
    run.cells[Cell("v3-small", "eager").key].accuracy = None
    assert "points of top-1 on `onnxruntime`" in section_of(run, tmp_path)


def test_without_accuracy_only_the_cost_is_told() -> None:
    section = section_of(factory.ablated_run(evaluated=False))
    assert re.search(
        r"`v3-small-no-se`\) costs \+30 % \[[^\]]+\] latency on `onnxruntime`, 5\.65 M MACs, ", section
    )
    assert "brings" not in section.partition("### Forms")[2]
    assert "top-1" not in section


def test_what_was_neither_timed_nor_counted_has_no_cost() -> None:
    run = factory.ablated_run(evaluated=False)
    run.blocks, run.variants = [], []
    section = section_of(run)
    assert "(`v3-small-no-se`) has no cost that was measured." in section
    assert "Time relative" not in section


def test_the_answer_names_the_networks_that_were_asked_for(tmp_path: Path) -> None:
    text = report_text(Summary(factory.ablated_run(tmp_path), tmp_path))
    answer = text[: text.index("## Charts")]
    assert text.startswith("# MobileNet benchmark: v3-small\n")
    assert answer.count("- **v3-small") == 1
    assert (
        "What each ingredient costs and brings (v3-small-no-se, v3-small-no-hswish and v3-small-composed-hswish) is in "
        "Ablation." in answer
    )
    assert "| backend | v3-small |" in text  # the overview
    assert "(a form of v3-small)</summary>" in text
    assert "ablated forms v3-small-no-se, v3-small-no-hswish, v3-small-composed-hswish;" in text


def test_a_run_of_forms_alone_still_has_an_answer() -> None:
    run = factory.ablated_run(evaluated=False)
    gone = [key for key in run.cells if key.startswith("v3-small/")]
    for key in gone:
        del run.cells[key]
    run.blocks = [block for block in run.blocks if block.cell in run.cells]
    run.header = msgspec.structs.replace(run.header, cells=tuple(run.cells))
    text = report_text(Summary(run))
    assert "- **v3-small-no-se, 1 thread:**" in text
    assert "not both timed in one round" in text or "Time relative" not in text
