"""Long reports fit a comment: what matters stays whole, and nothing goes without a line in its place."""

from __future__ import annotations

import re
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from reports import factory, long_runs

from mnv3_reports import evaluation, failures, markdown, shortened
from mnv3_reports.html.page import page_text
from mnv3_reports.layout import Column, Value, build, fenced, folded, missing, to_markdown
from mnv3_reports.markdown import parts_of, report_text
from mnv3_reports.parts import Parts, Section
from mnv3_reports.parts import to_markdown as whole_text
from mnv3_reports.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Callable

    from mnv3_reports.record import Run

GITHUB = 65_536
"""Characters of a comment."""


@cache
def four_networks() -> Run:
    """80 cells; some failed, with output."""
    run = long_runs.profiled_run(factory.request(backends=long_runs.TWENTY))
    for number, record in enumerate(list(run.cells.values())[::9]):
        run.add(factory.failure(record.cell, "load", f"```\n</details>\nline {number} | <script>\n"))
    return run


@cache
def many_settings() -> Run:
    """80 cells: of everything a sweep."""
    return long_runs.profiled_run(
        factory.request(
            ("v3-small",),
            ("v2",),
            ("eager", "onnxruntime", "onnxruntime-int8", "compile", "torchscript"),
            threads=(1, 2),
            batch_sizes=(1, 8),
            resolutions=(160, 224),
        )
    )


RUNS: dict[str, Callable[[], Run]] = {"four networks": four_networks, "many settings": many_settings}


@pytest.fixture(params=RUNS)
def run(request: pytest.FixtureRequest) -> Run:
    return RUNS[request.param]()


def test_a_profiled_run_of_80_cells_fits_a_comment(run: Run) -> None:
    summary = Summary(run)
    parts = parts_of(summary)
    assert len(whole_text(run, parts)) > 2 * GITHUB, "it has to be shortened"
    assert len(run.cells) == 80
    text = report_text(summary)
    assert len(text) <= shortened.LIMIT < GITHUB
    assert text.count("\n> Shortened, so that it fits a comment") == 1
    assert parts.answer in text
    for section in parts.sections:
        assert f"\n## {section.title}\n" in text
    against = next(section for section in parts.sections if section.title.startswith("Against"))
    assert all(paragraph in text for paragraph in against.paragraphs if not paragraph.startswith("<details>"))
    failed = next(iter(failures.section(summary)))
    assert failed in text
    # By kind of work, of the network that was asked for first; and the networks beside each other.
    (kinds,) = re.findall(r"^### v3-(?:large|small), 1 thread.*?(?=^\*|^###)", text, re.M | re.S)[:1]
    assert "| depthwise |" in kinds
    assert "### Networks beside each other, by stage" in text
    assert re.search(
        r"^\*Left out here: .*; `report.html` has all; `operators.csv` has every operator\.\*$", text, re.M
    )


def test_the_page_has_everything(run: Run) -> None:
    summary = Summary(run)
    page = page_text(summary, parts_of(summary), [], None)
    assert "Left out here" not in page
    for title in re.findall("<summary>(.*?)</summary>", whole_text(run, parts_of(summary))):
        assert title.replace("\\|", "|") in page


def test_a_run_of_1000_cells_fits_a_comment() -> None:
    asked = factory.request(
        tuple(f"v3-small@{number}" for number in range(8)),
        ("v1", "v2"),
        long_runs.TWENTY,
        threads=(1, 2, 4, 8, 16),
    )
    run = long_runs.profiled_run(asked, blocks=1)
    assert len(run.cells) == 1000
    summary = Summary(run)
    text = report_text(summary)
    assert len(text) <= shortened.LIMIT
    assert parts_of(summary).answer in text
    assert re.search(
        r"^\*\d+ of \d+ rows; `report.html` has all; `cells.parquet` has every cell\.\*$", text, re.M
    )


def test_a_report_that_fits_is_left_as_it_is() -> None:
    run = factory.whole_run(epochs=2)
    summary = Summary(run)
    assert report_text(summary) == whole_text(run, parts_of(summary))
    assert "Shortened" not in report_text(summary)


@pytest.mark.parametrize("limit", [200_000, 64_000, 40_000, 20_000, 15_000, 1])
def test_however_short_it_is_markdown_and_says_what_it_lacks(run: Run, limit: int) -> None:
    parts = parts_of(Summary(run))
    text = shortened.fitted(parts, partial(written, run), "report.html", limit)
    if limit > 1:
        assert len(text) <= limit
    outside = re.sub(r"^(`{3,})\n.*?^\1$", "", text, flags=re.M | re.S)
    assert outside.count("<details>") == outside.count("</details>")
    paragraphs = outside.split("\n\n")
    for table, below in zip(paragraphs, [*paragraphs[1:], ""], strict=True):
        marks = set(re.findall(r"<sup>(\w+)</sup>", table)) if table.startswith("|") else set()
        notes = re.findall(r"^<sup>(\w+)</sup> ", below, re.M) if table.startswith("|") else []
        assert marks == set(notes), "every note is explained, and none is left without its mark"
    for section in parts.sections:
        inside = text.partition(f"\n## {section.title}\n")[2].partition("\n## ")[0]
        missed = [paragraph for paragraph in section.paragraphs if paragraph not in inside]
        assert not missed or "left out here" in inside.lower() or re.search(r"^\*\d+ of \d", inside, re.M)


def written(run: Run, parts: Parts, notice: str) -> str:
    return whole_text(run, parts._replace(answer=f"{parts.answer}\n\n{notice}"))


def test_markdown_is_taken_apart_and_put_together_again(run: Run) -> None:
    for section in parts_of(Summary(run)).sections:
        text = "\n\n".join(section.paragraphs)
        blocks = list(shortened.blocks_of(text))
        assert "\n\n".join(block.text for block in blocks) == text
        assert [block.text for block in blocks if block.kind == "fold"] == [
            paragraph for paragraph in section.paragraphs if paragraph.startswith("<details>")
        ]


def test_output_that_looks_like_markup_ends_no_block() -> None:
    harm = folded("a | <b> `c`", fenced("```\n</details>\n\n<details>\n\n| a |\n````"))
    text = f"before\n\n{harm}\n\nafter"
    assert [(block.kind, block.text) for block in shortened.blocks_of(text)] == [
        ("text", "before"),
        ("fold", harm),
        ("text", "after"),
    ]
    parts = Parts.of("t", "a", [Section("s", [harm, "xxx"])], "")
    short = shortened.fitted(
        parts, lambda shorter, _: "\n\n".join(shorter.sections[0].paragraphs), "p.html", 120
    )
    assert short == "xxx\n\n*Left out here: a &#124; &#60;b> \\`c\\`; `p.html` has all.*"


def test_rows_that_stay_keep_their_notes() -> None:
    values = {0: Value("1"), 1: missing("not <timed>"), 9: missing("lost")}
    columns = [
        Column[int]("n", lambda row: Value(str(row))),
        Column[int]("ms", lambda row: values.get(row, values[0])),
    ]
    parts = Parts.of("t", "a", [Section("Results", [to_markdown(build(columns, range(30)))])], "")
    text = shortened.fitted(
        parts, lambda shorter, _: "\n\n".join(shorter.sections[0].paragraphs), "p.html", 220
    )
    assert text.count("\n| ") == 7, "six rows and the line below the heading"
    assert "| 1 | –<sup>a</sup> |" in text
    assert text.endswith(
        "<sup>a</sup> not &lt;timed>\n\n*6 of 30 rows; `p.html` has all; `cells.parquet` has every cell.*"
    )


def test_the_sections_that_are_named_exist() -> None:
    sources = "".join(Path(str(module.__file__)).read_text() for module in (markdown, evaluation))
    for title in (*shortened.DETAIL, *shortened.FIGURES, *shortened.CUT_LAST, *shortened.BESIDE):
        assert f'Section("{title}"' in sources
