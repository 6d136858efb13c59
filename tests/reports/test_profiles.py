"""Profiles: shares and what is left, sentences, blocks and stages, tables, bars, the CSV, and harmless names."""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from reports import factory
from rich.console import Console

from mnv3_reports import operators_csv, profiles_section
from mnv3_reports.charts import DARK, LIGHT, to_svg
from mnv3_reports.escaping import plain
from mnv3_reports.html.page import page_text
from mnv3_reports.markdown import parts_of, report_text
from mnv3_reports.profile_chart import profile_chart
from mnv3_reports.profile_terminal import plain_lines, profile_tables
from mnv3_reports.profiles import HEAD, UNATTRIBUTED, blocks_of, profiles
from mnv3_reports.record import Cell, LayerCost, Profiled, ProfiledOperator, Run
from mnv3_reports.summary import Summary

if TYPE_CHECKING:
    from mnv3_reports.charts import Theme
    from mnv3_reports.profiles import CellProfile

LAYERS = (
    LayerCost("features.0.0", "Conv2d", 500, 40, 900, (16, 112, 112)),
    LayerCost("features.0.1", "Hardswish", 0, 0, 0, (16, 112, 112)),
    LayerCost("features.1.block.0.0", "Conv2d", 100, 10, 90, (16, 112, 112)),
    LayerCost("features.1.block.1.fc1", "Conv2d", 30, 5, 8, (8, 1, 1)),
    LayerCost("features.1.block.2.0", "Conv2d", 270, 20, 70, (24, 7, 7)),
    LayerCost("avgpool", "AdaptiveAvgPool2d", 0, 0, 0, (24, 1, 1)),
    LayerCost("classifier.0", "Linear", 100, 30, 10, (10,)),
)


def operator(kind: str, module: str, milliseconds: float, macs: int = 0, **given: Any) -> ProfiledOperator:
    seconds = milliseconds / 1e3
    values = {"name": f"node {module}", "operation": "Conv", "contains": (), "bytes": 2000, **given}
    return ProfiledOperator(
        kind=kind, module=module, seconds=seconds, lower=seconds, upper=seconds, macs=macs, **values
    )


OPERATORS = (
    operator("reorder", "", 0.5),
    operator(
        "convolution", "features.0.0", 2.0, 500, contains=("features.0.1",), output_shape=(16, 112, 112)
    ),
    operator("depthwise", "features.1.block.0.0", 3.0, 100),
    operator("squeeze-excitation", "features.1.block.1.fc1", 1.0, 30),
    operator("pointwise", "features.1.block.2.0", 1.5, 270),
    operator("linear", "classifier.0", 1.0, 100),
)
"""9 ms and 1000 MACs together."""


def profiled(
    cell: Cell,
    plain_seconds: float = 10e-3,
    operators: tuple[ProfiledOperator, ...] = OPERATORS,
    **given: Any,
) -> Profiled:
    values = {"by": "a profiler", "repeats": 30, "profiled_seconds": 11e-3, "complete": True, **given}
    return Profiled(cell=cell.key, operators=operators, plain_seconds=plain_seconds, **values)


def run_of(
    variants: tuple[str, ...] = ("v3-small",), backends: tuple[str, ...] = ("eager",), **given: Any
) -> Run:
    """A run without times whose every cell has a profile, each backend slower than the one before."""
    run = Run.started(factory.header(factory.request(variants, (), backends, **given)))
    for variant in variants:
        facts = factory.facts(variant)
        assert facts.complexity is not None
        complexity = msgspec.structs.replace(facts.complexity, layers=LAYERS)
        run.add(msgspec.structs.replace(facts, complexity=complexity))
    for record in run.cells.values():
        run.add(profiled(record.cell, 10e-3 + 1e-3 * backends.index(record.cell.backend)))
    return run


def only(run: Run) -> CellProfile:
    (found,) = profiles(Summary(run))
    return found


def text_of(run: Run) -> str:
    return "\n\n".join(profiles_section.section(Summary(run)))


def drawn(run: Run, theme: Theme = LIGHT) -> dict[str, Any]:
    chart = profile_chart(Summary(run), theme)
    assert chart is not None
    spec: dict[str, Any] = chart.to_dict()
    return spec


def test_shares_are_of_the_call_and_what_is_left_is_unattributed() -> None:
    each = only(run_of())
    assert list(each.kinds) == [
        *("convolution", "pointwise", "depthwise", "squeeze-excitation", "linear", "reorder"),
        UNATTRIBUTED,
    ]
    assert each.kinds["depthwise"].share == pytest.approx(0.3)
    assert each.kinds[UNATTRIBUTED].seconds == pytest.approx(1e-3)
    assert sum(share.share for share in each.kinds.values()) == pytest.approx(1)
    assert each.coverage == pytest.approx(0.9)
    assert each.overhead == pytest.approx(0.1)


def test_operators_longer_than_the_call_leave_nothing_and_share_their_sum() -> None:
    run = run_of()
    run.add(profiled(run.cells[run.header.cells[0]].cell, 6e-3))
    each = only(run)
    assert each.rest < 0
    assert UNATTRIBUTED not in each.kinds
    assert each.kinds["depthwise"].share == pytest.approx(1 / 3)
    assert sum(share.share for share in each.kinds.values()) == pytest.approx(1)
    assert each.coverage == pytest.approx(1.5)
    assert f"| {UNATTRIBUTED} |" not in text_of(run)


def test_sentences_name_the_dearest_first_and_the_macs_it_is_for() -> None:
    run = run_of(backends=("eager", "onnxruntime"))
    text = text_of(run)
    assert (
        "- Squeeze-and-excitation, 3.0 % of the MACs, takes 10 % of a call of v3-small on `eager`, "
        "9.1 % on `onnxruntime`." in text
    )
    assert "- Depthwise convolutions, 10 % of the MACs, take 30 % of a call" in text
    assert "- Conversions of layouts and types take 5.0 % of a call" in text
    assert "Batch normalization" not in text


def test_a_sentence_names_few_runtimes_and_counts_the_others() -> None:
    names = tuple(f"runtime{number}" for number in range(9))
    (line,) = re.findall(r"- Depthwise.*", text_of(run_of(backends=names)))
    assert line.count("`") == 2 * profiles_section.NAMED
    assert line.endswith("17 % to 20 % on 4 others.")


def test_blocks_take_what_is_in_them_and_the_head_comes_last() -> None:
    each = only(run_of())
    blocks = blocks_of(LAYERS)
    assert list(blocks) == ["features.0", "features.1", "avgpool", "classifier"]
    assert (blocks["features.1"].macs, blocks["features.1"].shape) == (400, (24, 7, 7))
    assert [block.stage for block in blocks.values()] == ["112 × 112", "7 × 7", HEAD, HEAD]
    assert each.blocks["features.1"].seconds == pytest.approx(5.5e-3)
    assert each.blocks[""].seconds == pytest.approx(0.5e-3)
    assert sum(share.seconds for share in each.blocks.values()) == pytest.approx(each.attributed)
    assert each.stages["7 × 7"].macs == 400
    text = text_of(run_of())
    assert "| `features.1` | 24 × 7 × 7 |" in text
    assert re.search(r"\| in no block \| – \|.*0\.500 \|", text)


def test_networks_stand_beside_each_other_by_stage() -> None:
    text = text_of(run_of(("v3-small", "v2", "v1"), ("eager", "onnxruntime")))
    table = text.partition("### Networks beside each other")[2]
    heading = "| stage | v3-small ms (MACs, GMAC/s) | v2 ms (MACs, GMAC/s) | v1 ms (MACs, GMAC/s) |"
    assert table.count(heading) == 2, "one for each runtime"
    assert "<summary>onnxruntime, 1 thread" in table
    rows = table[table.index(heading) :].splitlines()[2:5]
    assert [row.split(" | ")[0] for row in rows] == ["| 112 × 112", "| 7 × 7", f"| {HEAD}"]
    assert "2.00 (50 %, 2.5e-04)" in rows[0]
    assert "Networks beside" not in text_of(run_of()), "one network has nobody beside it"


def test_networks_that_nobody_counted_have_no_blocks_or_stages() -> None:
    run = run_of(("v3-small", "v2"))
    run.variants = [msgspec.structs.replace(facts, complexity=None) for facts in run.variants]
    text = text_of(run)
    assert "Blocks of" not in text
    assert "Networks beside" not in text
    assert "| depthwise | 3.00 (30 %) |" in text
    assert "`features.0.0` | convolution | features.0.1 |" in text, "its path, as its class is not known"


def test_what_is_fused_is_named_by_its_class() -> None:
    assert "| `Conv` | `features.0.0` | convolution | Hardswish |" in text_of(run_of())


def test_many_runtimes_get_several_tables() -> None:
    names = tuple(f"runtime{number}" for number in range(profiles_section.COLUMNS + 2))
    headings = re.findall(r"^\| kind \|.*", text_of(run_of(backends=names)), re.M)
    assert [heading.count("runtime") for heading in headings] == [profiles_section.COLUMNS, 2]


def test_operators_that_could_not_be_put_to_modules_are_said_to_be() -> None:
    run = run_of()
    bare = tuple(msgspec.structs.replace(each, module="", macs=0) for each in OPERATORS)
    run.add(profiled(run.cells[run.header.cells[0]].cell, operators=bare, unmatched="names | were lost"))
    text = text_of(run)
    assert "- v3-small on eager: operators are not put to modules, since names &#124; were lost." in text
    assert "Blocks of" not in text
    assert "Squeeze-and-excitation takes 10 % of a call" in text, "without MACs"


def test_without_operators_or_after_a_failure_there_is_nothing_to_say() -> None:
    run = run_of(backends=("eager", "onnxruntime"))
    eager, other = (record.cell for record in run.cells.values())
    run.add(profiled(eager, operators=()))
    run.add(factory.failure(other, "measure"))
    assert profiles(Summary(run)) == []
    assert text_of(run) == ""
    assert profile_chart(Summary(run)) is None
    assert plain_lines(run) == ["nothing was profiled"]
    assert list(profile_tables(run, 80)) == []


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_a_call_without_time_divides_nothing(seconds: float) -> None:
    run = run_of()
    operators = (operator("depthwise", "features.1.block.0.0", seconds, 100),)
    run.add(profiled(run.cells[run.header.cells[0]].cell, 0.0, operators))
    each = only(run)
    assert (each.coverage, each.overhead) == (None, None)
    assert each.kinds["depthwise"].share == seconds
    assert "no time of a call" in report_text(Summary(run))
    assert list(profile_tables(run, 80))
    assert plain_lines(run)
    assert to_svg(profile_chart(Summary(run)))  # type: ignore[arg-type]
    assert rows_of(run)[0]["share"] == ""


def test_of_several_settings_the_first_is_open_and_drawn_in_the_runs_order() -> None:
    run = run_of(threads=(2, 10))
    assert [each.record.cell.threads for each in profiles(Summary(run))] == [2, 10]
    text = text_of(run)
    assert "### v3-small, 2 threads, batch 1, 224 × 224" in text
    assert "<details><summary>v3-small, 10 threads" in text
    assert text.count("Dearest operators") == 1
    assert "v3-small on eager, 10 threads" in text
    spec = drawn(run)
    assert spec["title"]["subtitle"][0].startswith("2 threads, batch 1")
    assert len(values(spec)) == len(only(run_of()).kinds)


def test_it_is_counted_how_many_profiles_add_up() -> None:
    run = run_of(backends=("eager", "onnxruntime", "compile"))
    first, second, third = (record.cell for record in run.cells.values())
    run.add(profiled(first, 9.5e-3))
    run.add(profiled(second, 20e-3))
    run.add(profiled(third, 20e-3, complete=False, profiled_seconds=0.0))
    text = text_of(run)
    assert "In 1 of 2 cells whose runtime tells the time of everything" in text
    assert "In the other 1 cell the runtime does work" in text
    assert "not timed by the same clock" in text
    run.add(profiled(first, profiled_seconds=9.5e-3))
    assert "| −5.0 % |" in text_of(run), "a minus, no hyphen"


def test_a_kind_of_a_later_version_is_shown_too() -> None:
    run = run_of()
    cell = run.cells[run.header.cells[0]].cell
    run.add(profiled(cell, operators=(*OPERATORS, operator("attention", "", 0.5))))
    assert list(only(run).kinds)[-2:] == ["attention", UNATTRIBUTED]
    assert "| attention | 0.500 (5.0 %) |" in text_of(run)
    assert "attention 0.500 ms" in plain_lines(run)[0]


# Names.


NAME = "eager:" + factory.HOSTILE.replace("/", "")
HARM = factory.HOSTILE + "</script>\x1b[31m\udc80\r=1"


def hostile() -> Run:
    run = run_of(backends=(NAME,))
    (record,) = run.cells.values()
    bad = operator("depthwise", HARM, 1.0, name=HARM, operation=HARM, contains=(HARM, "features.0.1"))
    empty = operator("", " ", 1.0, name="", operation="", contains=("",))
    run.add(profiled(record.cell, operators=(bad, empty), by=HARM, unmatched=HARM))
    return run


def test_names_do_no_harm_in_markdown_or_on_the_page() -> None:
    run = hostile()
    text = text_of(run)
    assert "<script" not in text
    assert "\x1b" not in text
    assert not re.search(r"(?<![\w&])@someone", re.sub(r"<summary>.*?</summary>", "", text))
    for line in text.splitlines():
        if line.startswith("| ") and "median µs" in line:
            assert line.count("|") == 10
    page = page_text(Summary(run), parts_of(Summary(run)), [], None)
    assert page.count("</script") == page.count("<script"), "nothing ends an element early"
    assert "\\u003c/script>" in page, "it is there, as data"
    assert "<script>alert(1)" not in page


def test_the_page_has_every_operator_of_a_cell_as_data() -> None:
    run = run_of()
    page = page_text(Summary(run), parts_of(Summary(run)), [], None)
    assert '["Conv","features.0.0","convolution",2000.0,0.2,"features.0.1"]' in page


# The CSV.


def rows_of(run: Run) -> list[dict[str, str]]:
    text = operators_csv.to_csv(run)
    assert text is not None
    assert text.encode()
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def test_the_csv_has_a_row_for_every_operator_in_order() -> None:
    run = run_of(backends=("eager", "onnxruntime"))
    run.add(factory.failure(run.cells[run.header.cells[1]].cell, "measure"))
    rows = rows_of(run)
    assert tuple(rows[0]) == operators_csv.FIELDS
    assert [(row["backend"], int(row["place"])) for row in rows] == [
        (backend, place) for backend in ("eager", "onnxruntime") for place in range(len(OPERATORS))
    ], "of a failed cell too"
    told = dict(list(rows[1].items())[7:])
    assert told == {
        "operation": "Conv",
        "kind": "convolution",
        "module": "features.0.0",
        "contains": "features.0.1",
        "precision": "",
        "seconds": "0.002",
        "lower": "0.002",
        "upper": "0.002",
        "share": "0.2",
        "macs": "500",
        "bytes": "2000",
        "output_shape": "16 112 112",
    }


def test_the_csv_survives_any_name_on_one_line_each() -> None:
    run = hostile()
    bad, _ = rows_of(run)
    assert bad["backend"] == plain(NAME)
    assert bad["operator"] == bad["operation"] == bad["module"] == plain(HARM)
    assert (operators_csv.to_csv(run) or "").count("\n") == 3


def test_without_profiles_there_is_no_csv() -> None:
    assert operators_csv.to_csv(factory.whole_run(epochs=1, rounds=1)) is None


# The terminal.


def shown(run: Run, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), record=True, color_system=None)
    for table in profile_tables(run, width):
        console.print(table)
    return console.export_text().splitlines()


@pytest.mark.parametrize("width", [30, 40, 60, 120])
@pytest.mark.parametrize("make", [run_of, hostile])
def test_bars_fit_the_terminal_and_nothing_is_cut(width: int, make: Any) -> None:
    lines = shown(make(), width)
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    bars = [line.count("█") for line in lines if "depthwise" in line]
    assert len(bars) == 1
    if width >= 60:
        assert bars[0] == (24 if make is run_of else 3), "whose dearest is the dearest of all"
    if width == 30 and make is run_of:
        assert bars == [0], "no room"


def test_bars_are_as_long_as_shares() -> None:
    lines = {line.split()[0]: line for line in shown(run_of(), 120) if "%" in line}
    assert next(iter(lines)) == "depthwise", "the dearest first"
    assert lines["squeeze-excitation"].count("█") == 8
    assert lines["reorder"].count("█") == 4


def test_plain_lines_have_no_bar_and_drive_no_terminal() -> None:
    (line,) = plain_lines(run_of())
    assert line.startswith("v3-small on eager: 10.0 ms a call: convolution 2.00 ms (20 %), pointwise ")
    assert line.endswith(f"{UNATTRIBUTED} 1.00 ms (10 %)")
    for text in (line, *plain_lines(hostile()), *shown(hostile(), 80)):
        assert text.isprintable() or "█" in text
        assert "\x1b" not in text
    assert not any("█" in text for text in plain_lines(run_of()))


# The chart.


def values(spec: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = spec["data"]["values"]
    return found


def test_the_chart_has_a_part_for_every_kind_and_the_fastest_on_top() -> None:
    run = run_of(("v3-small", "v2"), ("onnxruntime", "eager"))
    for theme in (LIGHT, DARK):
        spec = drawn(run, theme)
        colour = spec["spec"]["encoding"]["color"]["scale"]
        assert colour["domain"] == list(only(run_of()).kinds)
        assert len(set(colour["range"])) == len(colour["domain"])
        assert theme.background not in colour["range"]
        assert spec["spec"]["encoding"]["y"]["sort"] == ["onnxruntime", "eager"]
        assert spec["facet"]["sort"] == ["v3-small", "v2"]
    rows = [row for row in values(drawn(run)) if (row["network"], row["backend"]) == ("v2", "eager")]
    assert sum(row["ms"] for row in rows) == pytest.approx(11)
    assert {row["kind"]: row["macs"] for row in rows}["reorder"] == "none"


def test_any_name_is_drawn() -> None:
    assert "<script" not in to_svg(profile_chart(Summary(hostile())))  # type: ignore[arg-type]
