"""Why: every slower reduced cell is told with its ratio and its runtime's reasons, and nothing it says does harm."""

from __future__ import annotations

import re

import msgspec
import pytest
from reports import factory

from mnv3_reports import explanation
from mnv3_reports.compare import ratios_of
from mnv3_reports.markdown import report_text
from mnv3_reports.record import Cell, OperatorCost, Run
from mnv3_reports.summary import Summary

SLOW = "onnxruntime-int8-dynamic"
BACKENDS = ("eager", "onnxruntime", "onnxruntime-int8", SLOW)


def run_of(**asked: tuple[int, ...]) -> Run:
    return factory.whole_run(factory.request(backends=BACKENDS, references=(), **asked))  # type: ignore[arg-type]


def section_of(run: Run) -> str:
    text = report_text(Summary(run))
    return text[text.index("## Why, by the runtimes' own account") : text.index("## What the networks")]


def explain(run: Run, backend: str, *reasons: str, exact: str | None = "onnxruntime") -> None:
    for record in run.cells.values():
        if record.cell.backend == backend:
            run.add(factory.explained(record.cell, *reasons, exact=exact))


def test_a_slower_cell_is_told_with_ratio_reasons_and_dearest_operators() -> None:
    run = run_of()
    explain(run, SLOW, "ConvInteger is slow here.")
    text = section_of(run)
    ratio = Summary(run).to_exact(run.cells[Cell("v3-small", SLOW).key])
    assert ratio is not None
    assert ratio.printed.kind == "exact"
    interval = ratio.interval
    shown = f"v3-small {interval.estimate:.2f} [{interval.low:.2f}, {interval.high:.2f}] ×"
    line = next(line for line in text.splitlines() if "takes longer than" in line)
    assert line.startswith(f"**`{SLOW}` takes longer than `onnxruntime`:** v3-large ")
    assert shown in line
    assert text.count("- ConvInteger is slow here.\n") == 1  # of both networks, once
    table = text[text.index("| operator | precision | share (count) |") :].partition("\n\n")[0]
    assert "| `QLinearConv` | int8 | 60 % (52) |" in table
    assert "| `ReorderOutput` | not told | 10 % (12) |" in table


def test_a_faster_cell_is_not_called_slower_and_its_reasons_are_listed() -> None:
    run = run_of()
    explain(run, "onnxruntime-int8", "3 operators were left in fp32")
    text = section_of(run)
    assert "takes longer" not in text
    assert "No reduced cell is slower than its runtime's fp32 beyond its interval." in text
    assert "- `onnxruntime-int8`: 3 operators were left in fp32.\n" in text


def test_without_an_interval_nothing_is_slower() -> None:
    run = factory.whole_run(factory.request(backends=BACKENDS, references=()), epochs=1)
    explain(run, SLOW, "ConvInteger is slow here")
    text = section_of(run)
    assert "takes longer" not in text
    assert "**bold" in text
    assert not re.search(r"\| \*\*\d", text)


def test_an_interval_that_spans_1_is_not_slower() -> None:
    run = factory.whole_run(factory.request(("v3-small",), (), ("eager", "quantized-dynamic")))
    run.add(factory.explained(Cell("v3-small", "eager"), exact="quantized-dynamic"))
    ratio = Summary(run).to_exact(run.cells[Cell("v3-small", "eager").key])
    assert ratio is not None
    assert ratio.interval.low < 1 < ratio.interval.estimate
    assert "takes longer" not in section_of(run)


def test_a_cell_whose_exact_form_was_not_measured_keeps_its_reasons() -> None:
    run = run_of()
    explain(run, SLOW, "ConvInteger is slow here", exact="openvino")
    text = section_of(run)
    assert "relative to the same runtime's fp32" not in text
    assert f"- `{SLOW}`: ConvInteger is slow here.\n" in text


def test_reasons_of_cells_that_are_not_slower_are_a_line_a_backend() -> None:
    run = run_of()
    explain(run, "onnxruntime-int8", "A part fell back")
    run.add(
        factory.explained(
            Cell("v3-large", "onnxruntime-int8"),
            "A part fell back.",
            "Tanh is emulated.",
            exact="onnxruntime",
        )
    )
    line = "- `onnxruntime-int8`: A part fell back. On v3-large: Tanh is emulated.\n"
    assert f"### What the runtimes say of their cells\n\n{line}" in section_of(run)


def test_a_slower_cell_without_reasons_says_so() -> None:
    run = run_of()
    explain(run, SLOW)
    assert "\n\nIts runtime gives no reason.\n\n" in section_of(run)


def test_reasons_that_differ_in_numbers_are_one_line_and_exact_below() -> None:
    run = run_of(threads=(1, 2))
    for record in run.cells.values():
        if record.cell.backend == SLOW:
            left = {"v3-large": 24, "v3-small": 7}[record.cell.variant]
            share = 30 + record.cell.threads
            reasons = (f"{left} of 1,024 HardSwish run in fp32", f"reorders take {share}.5 % of the time")
            run.add(factory.explained(record.cell, *reasons, exact="onnxruntime"))
    above, _, profiles = section_of(run).partition("### Profiles")
    assert "- 7 to 24 of 1,024 HardSwish run in fp32.\n" in above
    assert "- reorders take 31.5 to 32.5 % of the time.\n" in above
    assert "- v3-large: 24 of 1,024 HardSwish run in fp32.\n" in profiles
    assert "- v3-large, v3-small with 1 thread: reorders take 31.5 % of the time.\n" in profiles


def test_a_reason_of_some_cells_names_them() -> None:
    run = run_of()
    explain(run, SLOW, "ConvInteger is slow here")
    run.add(
        factory.explained(
            Cell("v3-large", SLOW), "ConvInteger is slow here", "a part fell back", exact="onnxruntime"
        )
    )
    text = section_of(run)
    assert "- ConvInteger is slow here.\n- v3-large: a part fell back.\n" in text


@pytest.mark.parametrize(
    "hostile", ["a | b", "<script>alert(1)</script>", "two\nlines", "`code`", "*b* _i_ [x](y)"]
)
def test_names_and_reasons_do_no_harm(hostile: str) -> None:
    run = run_of()
    operators = (OperatorCost(hostile, 2, 1e-3, hostile), OperatorCost("Conv", 1, 1e-3))
    for backend in (SLOW, "onnxruntime-int8"):
        for record in run.cells.values():
            if record.cell.backend == backend:
                told = factory.explained(record.cell, hostile, exact="onnxruntime", operators=operators)
                run.add(msgspec.structs.replace(told, by=hostile))
    text = section_of(run)
    assert "<script" not in text
    assert "\nlines" not in text
    for line in text.splitlines():
        if line.startswith("| "):
            assert len(re.findall(r"(?<!\\)\|", line)) in (4, 5, 6), line
        elif line.startswith("- "):
            assert not re.search(r"(?<!\\)[*_]", line.partition("): ")[2] or line[2:]), line


def test_operators_beyond_the_dearest_are_one_row() -> None:
    run = run_of()
    cell = Cell("v3-small", SLOW)
    operators = tuple(OperatorCost(f"kind{n}", n, (20 - n) * 1e-4, "fp32" if n else None) for n in range(20))
    run.add(factory.explained(cell, exact="onnxruntime", operators=operators))
    text = section_of(run)
    assert "| 15 other kinds | fp32 | 57 % (180) |" in text  # 120 of 210 parts
    assert f"| {20 - explanation.PROFILED} other kinds | fp32 |" in text
    run.add(factory.explained(cell, exact="onnxruntime", operators=operators[: explanation.DEAREST + 1]))
    assert "1 other kinds" not in section_of(run)


def test_namesakes_of_different_precision_stand_apart_and_cells_stand_side_by_side() -> None:
    run = run_of()
    for variant, seconds in (("v3-large", 3e-3), ("v3-small", 1e-3)):
        operators = (OperatorCost("Conv", 10, seconds, "int8"), OperatorCost("Conv", 2, 1e-3, "fp32"))
        run.add(factory.explained(Cell(variant, SLOW), operators=operators))
    text = section_of(run)
    assert "| operator | precision | v3-large | v3-small |" in text
    assert "| `Conv` | int8 | 75 % (10) | 50 % (10) |" in text
    assert "| `Conv` | fp32 | 25 % (2) | 50 % (2) |" in text


def test_counts_alone_are_shown_where_a_runtime_tells_no_time() -> None:
    run = run_of()
    run.add(factory.explained(Cell("v3-small", SLOW), operators=(OperatorCost("Conv", 10),)))
    assert "| operator | count |\n| --- | ---: |\n| `Conv` | 10 |" in section_of(run)


def test_a_run_without_explanations_has_no_such_section() -> None:
    assert "## Why" not in report_text(Summary(run_of()))


def test_eager_as_the_exact_form_is_one_ratio_not_two() -> None:
    run = run_of()
    explain(run, SLOW, exact="eager")
    pairs = [ratio[:2] for ratio in ratios_of(run, [record.cell for record in run.cells.values()])]
    assert len(pairs) == len(set(pairs))
    assert Summary(run).to_exact(run.cells[Cell("v3-small", SLOW).key]) is not None
