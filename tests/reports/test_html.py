"""The page as a file: everything is in it, nothing in it can do harm. How it behaves is tested in a browser."""

from __future__ import annotations

import base64
import gzip
import json
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from reports import factory

from mnv3_reports.html import cells, prose
from mnv3_reports.html.page import page_text
from mnv3_reports.markdown import parts_of
from mnv3_reports.record import Cell, Explained, OperatorCost, Run
from mnv3_reports.rundir import write_run
from mnv3_reports.summary import Summary
from mnv3_reports.writer import write_report

if TYPE_CHECKING:
    from pathlib import Path

NAME = "eager:" + factory.HOSTILE.replace("/", "")  # a cell's key has its own slash
VOID = {"meta", "input", "br", "hr", "img"}


class Page(HTMLParser):
    """Elements that open and close, and what scripts hold."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.tags: list[str] = []
        self.scripts: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == "p" and self.open[-1] != "p":
            return
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif "style" not in self.open:
            self.text += data

    @property
    def cells(self) -> list[dict[str, Any]]:
        """What the page's script reads of the cells, once somebody asks."""
        found: list[dict[str, Any]] = json.loads(self.scripts[-1])
        return found


def page_of(run: Run, record: Path | None = None) -> str:
    summary = Summary(run)
    return page_text(summary, parts_of(summary), [], record)


def hostile() -> Run:
    """Names and reasons that would be markup."""
    asked = factory.request(variants=("v3-small",), references=(), backends=("eager", NAME))
    run = factory.whole_run(asked, epochs=2)
    for record in run.cells.values():
        run.add(
            Explained(
                record.cell.key,
                factory.HOSTILE,
                (OperatorCost(factory.HOSTILE, 1, 0.001),),
                (factory.HOSTILE, "</script><script>alert(2)</script>\u202egnp.exe"),
            )
        )
    run.add(factory.failure(Cell("v3-small", NAME), "load", tail="</pre><img src=x onerror=alert(3)>"))
    return run


@pytest.mark.parametrize(
    "run",
    [
        factory.whole_run(epochs=2),
        factory.whole_run(
            factory.request(variants=("v3-small",), references=(), backends=("eager",)), epochs=1
        ),
        Run.started(factory.header()),
        Run.started(factory.header(factory.request(variants=(), references=(), backends=()))),
        hostile(),
    ],
    ids=["whole", "one-cell", "nothing-measured", "no-cells", "hostile"],
)
def test_any_run_makes_a_page(run: Run, tmp_path: Path) -> None:
    write_run(run, tmp_path)
    write_report(tmp_path)
    page = Page((tmp_path / "report.html").read_text("utf-8"))
    assert page.open == []
    assert page.tags.count("h1") == 1
    assert len(page.cells) == len(run.cells)
    for key in run.cells:
        assert key in page.text or " ".join(key.split()) in json.dumps(page.cells, ensure_ascii=False)


def test_nothing_a_run_says_becomes_markup() -> None:
    page = Page(page_of(hostile()))
    assert len(page.scripts) == 3, (
        "two of data and the page's own, and the library is left out without charts"
    )
    assert not [name for _, name, _ in page.attributes if name.startswith("on") and name != "onsubmit"]
    assert "img" not in page.tags
    assert "\u202e" not in page.text + page.scripts[0] + page.scripts[-1]
    assert "<script>alert(1)</script>" in page.text
    operator = page.cells[0]["operators"][0][0]
    assert operator.startswith("<script>alert(1)"), "as data it is whole, and the script makes text of it"


def test_the_page_asks_for_nothing() -> None:
    run = factory.whole_run(epochs=2)
    page = Page(page_of(run))
    for tag, name, value in page.attributes:
        if name in ("src", "href", "srcset", "action"):
            assert value.startswith(("#", "data:")), (tag, name, value)
    policy = next(value for _, name, value in page.attributes if name == "content" and "default-src" in value)
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_the_record_can_be_downloaded_and_is_left_out_where_it_is_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = tmp_path / "journal.jsonl"
    journal.write_bytes(b'{"type":"started"}\n' * 100)
    run = factory.whole_run(epochs=2)
    text = page_of(run, journal)
    assert text == page_of(run, journal), "the same run gives the same page"
    (url,) = [
        value for _, name, value in Page(text).attributes if name == "href" and value.startswith("data:")
    ]
    assert gzip.decompress(base64.b64decode(url.partition(",")[2])) == journal.read_bytes()
    monkeypatch.setattr("mnv3_reports.html.page.LARGEST_RECORD", 10)
    large = page_of(run, journal)
    assert "data:application" not in large
    assert "journal.jsonl beside this page" in large


def test_a_cells_turns_are_in_order_with_what_disturbed_them() -> None:
    run = factory.whole_run(epochs=2, rounds=3, calls=10)
    key = run.header.cells[0]
    run.blocks = [
        msgspec.structs.replace(block, disturbed=("steal", "pressure")) if block.cell == key else block
        for block in run.blocks
    ]
    found = {detail["key"]: detail for detail in cells.details(Summary(run))}
    turns = found[key]["blocks"]
    assert [turn[0] for turn in turns] == list(range(6))
    for _, _, low, middle, high, calls, disturbed in turns:
        assert low <= middle <= high
        assert (calls, disturbed) == (10, "steal, pressure")


def test_of_markup_in_the_report_only_its_own_passes() -> None:
    text = prose.to_html(
        "<details><summary>a <b>b</b></summary>\n\n| x |\n| --- |\n| `1` <sup>a</sup> <i>i</i> |\n\n</details>\n\n"
        "<script>alert(1)</script>\n\n[x](javascript:alert(1)) ![y](charts/y.svg)"
    )
    assert re.findall(r"<[a-z]+", text) == [
        *("<details", "<summary", "<div", "<table", "<thead", "<tr", "<th", "<tbody", "<tr", "<td", "<code"),
        *("<sup", "<p"),
    ]
    assert "&lt;script&gt;" in text
    assert "href" not in text
