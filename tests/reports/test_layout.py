from __future__ import annotations

import pytest

from mnv3_reports.layout import Column, Value, build, fenced, missing, to_markdown

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


def test_an_empty_value_is_refused() -> None:
    with pytest.raises(ValueError, match="column 'name' has an empty value; use missing"):
        build([NAME], ["x", " "])


def test_notes_go_on_after_z() -> None:
    notes = Column[int]("n", lambda row: Value("x", f"note {row}"))
    text = to_markdown(build([notes], range(28)))
    assert "<sup>z</sup> note 25<br>\n<sup>aa</sup> note 26<br>\n<sup>ab</sup> note 27" in text


def test_a_fence_is_longer_than_any_inside() -> None:
    assert fenced("a ``` b ```` c").splitlines()[0] == "`````"
