"""Tuned forms: what is reported is what the run measured, and the search's figures are called what they are."""

from __future__ import annotations

import re

import msgspec
import pytest
from reports import factory

from mnv3_reports.compare import PrintedRatio, ratios_of
from mnv3_reports.markdown import report_text
from mnv3_reports.record import Candidate, Cell, Run
from mnv3_reports.summary import Summary
from mnv3_reports.terminal import plain_lines

DEFAULT = Cell("v3-small", "onnxruntime")
WINNER = factory.tuned_cell(DEFAULT, "spinning=off:graph=extended")


def section_of(run: Run) -> str:
    text = report_text(Summary(run))
    return text[text.index("## Tuned forms") : text.index("## What the networks")]


def test_the_ratio_is_the_runs_and_is_printed_with_its_interval() -> None:
    run = factory.tuned_run()
    ratio = Summary(run).ratios[WINNER.key, DEFAULT.key]
    assert ratio.printed == PrintedRatio(WINNER.key, DEFAULT.key, "tuned")
    assert ratio.interval.high < 1
    row = next(
        line for line in section_of(run).splitlines() if line.startswith("| v3-small | `onnxruntime` |")
    )
    assert "| `spinning=off, graph=extended` |" in row
    interval = ratio.interval
    assert f"**{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]**" in row
    assert "| 3 of 4 | all tried (12 s) |" in row
    assert "Of 1 tuned form, faster than the default beyond the interval (bold): 1." in section_of(run)


def test_the_search_is_folded_and_named() -> None:
    before, _, after = section_of(factory.tuned_run()).partition("<details>")
    assert after.startswith("<summary>Search, other data: every setting there was (5)</summary>")
    for figure in ("0.777 [0.750, 0.810]", "0.955 [0.950, 0.960]", "1.20 [1.10, 1.30]"):
        assert figure not in before
        assert figure in after
    assert "they chose what to measure, and are no result" in after


def test_where_nothing_was_faster_it_says_so() -> None:
    text = section_of(factory.tuned_run())
    assert (
        "Nothing was found in the time the search had to be faster than the default settings of `compile` (v3-small)."
        in text
    )
    run = factory.tuned_run()
    run.tuned[1] = msgspec.structs.replace(run.tuned[1], stopped_because="searched")
    assert "Nothing was found to be faster than the default settings of `compile`" in section_of(run)
    assert not re.search(r"^\| v3-small \| `compile` \|", text, flags=re.M)


@pytest.mark.parametrize(
    ("speedup", "words"), [(1.0, "not told apart from it: 1."), (1.2, "slower: 1."), (0.8, "(bold): 1.")]
)
def test_what_the_search_believed_is_not_what_is_said(speedup: float, words: str) -> None:
    text = section_of(factory.tuned_run(speedup=speedup))
    assert words in text
    row = next(line for line in text.splitlines() if line.startswith("| v3-small | `onnxruntime` |"))
    assert ("**" in row) is (speedup < 1)


def test_settings_that_failed_are_listed_and_harmless() -> None:
    text = section_of(factory.tuned_run())
    assert "- `onnxruntime:arena=off` (v3-small): no arena &#124; &#60;here> at all.\n" in text


def test_what_there_was_no_time_for_is_no_failure() -> None:
    text = section_of(factory.tuned_run())
    assert "- `onnxruntime:denormal=flush`" not in text
    assert re.search(r"\| `onnxruntime:denormal=flush` \| –<sup>b</sup> \|", text)
    assert "<sup>b</sup> not tried, for want of time" in text


def test_a_search_that_was_cut_off_is_told_of() -> None:
    run = factory.tuned_run()
    run.tuned = []
    assert "No search came to an end, so every cell has its default settings." in section_of(run)
    run.header = msgspec.structs.replace(
        run.header, request=msgspec.structs.replace(run.header.request, tune=None)
    )
    assert "## Tuned forms" not in report_text(Summary(run))


def test_a_winner_that_could_not_be_measured_has_no_ratio() -> None:
    run = factory.tuned_run()
    run.add(factory.failure(WINNER, "load"))
    text = section_of(run)
    assert "| –<sup>a</sup> | –<sup>b</sup> | 3 of 4 |" in text
    assert "<sup>a</sup> failed (load); see Failures" in text
    assert "<sup>b</sup> not both timed in one round" in text


def test_many_tuned_forms_fold_and_the_largest_gains_stay_open() -> None:
    asked = factory.request(
        ("v3-small", "v3-large", "v1", "v2"), (), ("eager", "onnxruntime", "compile"), threads=(1, 2)
    )
    run = Run.started(factory.header(msgspec.structs.replace(asked, tune=60.0)))
    planned = [record.cell for record in run.cells.values()]
    winners = []
    for cell in planned:
        if cell.backend != "eager":
            run.add(factory.tuned(cell, "a=b", Candidate(f"{cell.backend}:a=b", 0.9, 0.8, 0.95, 3)))
            winners.append(factory.tuned_cell(cell, "a=b"))
    for block in factory.blocks_of([*planned, *winners]):
        run.add(block)
    text = section_of(run)
    head, _, rest = text.partition("<details><summary>4 tuned forms that gained less</summary>")
    ratios = [float(found) for found in re.findall(r"\| \**(0\.\d+) \[", text.partition("Search, other")[0])]
    assert len(re.findall(r"\| `a=b` \|", head)) == 12
    assert rest.count("| `a=b` |") == 4
    assert ratios == sorted(ratios)
    assert len(ratios) == 16


def test_the_overview_leaves_tuned_forms_to_the_networks_own_tables() -> None:
    text = report_text(Summary(factory.tuned_run()))
    results = text[text.index("## Results") : text.index("## Tuned forms")]
    overview, _, network = results.partition("### v3-small")
    assert WINNER.backend not in overview
    assert "tuned forms are in the networks' own tables" in overview
    assert f"| `{WINNER.backend}` | " in network


def test_one_winner_of_two_defaults_is_compared_with_both() -> None:
    run = factory.tuned_run()
    other = factory.tuned_cell(DEFAULT, "spinning=off")
    run.cells[other.key] = msgspec.structs.replace(run.cells[DEFAULT.key], cell=other)
    run.add(msgspec.structs.replace(run.tuned[0], cell=other.key))
    tuned = [ratio for ratio in ratios_of(run, [DEFAULT, other, WINNER]) if ratio.kind == "tuned"]
    assert [ratio.denominator for ratio in tuned] == [DEFAULT.key, other.key]


def test_the_terminal_tells_the_gain() -> None:
    lines = {line.partition(": ")[0]: line for line in plain_lines(factory.tuned_run())}
    assert re.search(r"0\.9\d+ \[0\.8\d+, 0\.9\d+\] x its default settings", lines[WINNER.key])
    assert "default settings" not in lines[DEFAULT.key]
