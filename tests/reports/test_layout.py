from __future__ import annotations

import io

from rich.console import Console

from mnv3_reports.layout import Column, Value, build, fenced, missing, to_markdown, to_rich, width

NAME = Column[str]("name", Value, align="left")


def test_a_table_with_notes() -> None:
    size = Column[str]("size", lambda row: Value("1") if row == "a|b" else missing(f"{row} was <lost>"), "MB")
    table = build([NAME, size], ["a|b", "c\nd", "c\nd"])
    assert to_markdown(table) == "\n".join(
        [
            "| name | size MB |",
            "| --- | ---: |",
            "| a\\|b | 1 |",
            "| c d | –<sup>a</sup> |",
            "| c d | –<sup>a</sup> |",
            "",
            "<sup>a</sup> c d was &lt;lost>",
        ]
    )


def test_an_empty_name_is_said_to_be_empty() -> None:
    assert [row[0].text for row in build([NAME], ["x", " ", ""]).rows] == ["x", "(empty)", "(empty)"]


def test_notes_go_on_after_z() -> None:
    notes = Column[int]("n", lambda row: Value("x", f"note {row}"))
    text = to_markdown(build([notes], range(28)))
    assert "<sup>z</sup> note 25<br>\n<sup>aa</sup> note 26<br>\n<sup>ab</sup> note 27" in text


def test_a_fence_is_longer_than_any_inside() -> None:
    assert fenced("a ``` b ```` c").splitlines()[0] == "`````"


def test_a_name_is_code_in_markdown_and_plain_on_a_terminal() -> None:
    names = ["a:b=c", "a|b", "<i>", "`"]
    table = build([Column[str]("name", lambda row: Value(row, "a note", code=True))], names)
    shown = [line for line in to_markdown(table).splitlines()[2:] if line.startswith("| ")]
    mark = "<sup>a</sup>"
    assert shown == [f"| `a:b=c`{mark} |", f"| a&#124;b{mark} |", f"| &#60;i>{mark} |", f"| \\`{mark} |"]
    console = Console(width=60, record=True, file=io.StringIO())
    console.print(to_rich(table, caption="the end"))
    text = console.export_text()
    assert all(f"{name} (a)" in text for name in names)
    assert text.rstrip().endswith("the end")


def test_a_tables_width_is_what_a_terminal_needs() -> None:
    columns = [
        NAME,
        Column[str]("threads", lambda _: Value("1")),
        Column[str]("median", lambda row: Value("14.0 ±0.84%", row), "ms"),
    ]
    table = build(columns, ["v3-large-minimal", "v1"])
    whole, least = width(table), width(table, wrapped=True)
    assert least < whole

    def lines(columns_there: int) -> list[str]:
        console = Console(width=columns_there, record=True, file=io.StringIO())
        console.print(to_rich(table))
        return console.export_text().splitlines()

    assert any("14.0 ±0.84% (a)" in line for line in lines(whole))
    assert not any("14.0 ±0.84% (a)" in line for line in lines(whole - 1))
    assert not any("…" in line for line in lines(least))
    assert any("v3-large-minimal" in line for line in lines(least))


def test_an_alert_is_red_and_told_without_colour_too() -> None:
    table = build(
        [Column[str]("drop", lambda row: Value(row, "too much", alert=row == "2.1"))], ["2.1", "0.3"]
    )
    assert "| 2.1 🔴<sup>a</sup> |\n| 0.3<sup>a</sup> |" in to_markdown(table)
    console = Console(width=60, record=True, file=io.StringIO(), force_terminal=True)
    console.print(to_rich(table))
    styled = console.export_text(styles=True)
    assert "\x1b[1;31m2.1 ! (a)\x1b[0m" in styled
    assert "31m0.3" not in styled
    assert width(table) == len("2.1 ! (a)") + 2
