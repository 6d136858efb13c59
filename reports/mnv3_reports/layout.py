"""Tables as data: columns say what they show, and one table renders as markdown or for a terminal.

A value that is missing is never blank: it is a dash with a note that says why, printed below the table.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, NamedTuple, TypeVar

from mnv3_reports.escaping import code, plain, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import rich.table

Row = TypeVar("Row")
MISSING = "–"
ALERT = "🔴"
Align = Literal["left", "right"]


class Value(NamedTuple):
    """The text of one table cell and, where it needs one, a note."""

    text: str
    note: str | None = None
    code: bool = False
    """It is a name to be typed as it stands."""
    alert: bool = False
    """It is above what was accepted: red on a terminal, with a red circle in markdown."""


def missing(reason: str) -> Value:
    """A value that is not there, and why."""
    return Value(MISSING, reason)


@dataclass(frozen=True)
class Column(Generic[Row]):
    """One column: its title and unit, what it shows of a row, and its alignment."""

    title: str
    value: Callable[[Row], Value]
    unit: str = ""
    align: Align = "right"

    @property
    def heading(self) -> str:
        """Title and unit."""
        return f"{self.title} {self.unit}".strip()


class Table(NamedTuple):
    """A table ready to be rendered."""

    headings: tuple[str, ...]
    alignments: tuple[Align, ...]
    rows: tuple[tuple[Value, ...], ...]


def build(columns: Sequence[Column[Row]], rows: Iterable[Row]) -> Table:
    """Evaluate every column on every row. A text without anything to be seen is said to be empty, as names may be."""
    return Table(
        tuple(column.heading for column in columns),
        tuple(column.align for column in columns),
        tuple(tuple(_visible(column.value(row)) for column in columns) for row in rows),
    )


def _visible(value: Value) -> Value:
    return value if value.text.strip() else value._replace(text="(empty)")


def to_markdown(table: Table) -> str:
    """A GitHub-flavoured table with its notes below."""
    notes = _Notes()
    lines = [
        _line(escape(heading) for heading in table.headings),
        _line("---:" if align == "right" else "---" for align in table.alignments),
    ]
    lines += [
        _line(
            (code(value.text) if value.code else escape(value.text))
            + (f" {ALERT}" if value.alert else "")
            + notes.mark(value.note, "<sup>{}</sup>")
            for value in row
        )
        for row in table.rows
    ]
    if notes.letters:
        lines += ["", "<br>\n".join(f"<sup>{letter}</sup> {escape(note)}" for note, letter in notes)]
    return "\n".join(lines)


def to_html(table: Table, *, classes: str = "", about: Sequence[Mapping[str, str]] = ()) -> str:
    """The same as an HTML table that the page's script can sort, with its notes below.

    Args:
        table: what is shown.
        classes: of the table element.
        about: for each row attributes of its element, `data-` ones for instance.
    """
    notes = _Notes()
    head = "".join(
        f'<th scope="col" class="{align}"><button type="button">{html.escape(plain(heading))}</button></th>'
        for heading, align in zip(table.headings, table.alignments, strict=True)
    )
    rows = []
    for place, row in enumerate(table.rows):
        attributes = "".join(
            f' {name}="{html.escape(value)}"' for name, value in (about[place] if about else {}).items()
        )
        cells = "".join(
            f'<td class="{align}{" alert" * value.alert}">{_in_html(value, notes)}</td>'
            for value, align in zip(row, table.alignments, strict=True)
        )
        rows.append(f"<tr{attributes}>{cells}</tr>")
    below = "".join(f"<li><sup>{letter}</sup> {html.escape(plain(note))}</li>" for note, letter in notes)
    return (
        f'<div class="wide"><table class="{classes}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>" + (f'<ul class="notes">{below}</ul>' if below else "")
    )


def _in_html(value: Value, notes: _Notes) -> str:
    text = html.escape(plain(value.text))
    return (f"<code>{text}</code>" if value.code else text) + notes.mark(value.note, "<sup>{}</sup>")


def to_rich(
    table: Table, title: str | None = None, caption: str | None = None, room: int | None = None
) -> rich.table.Table:
    """The same for a terminal; the notes are below it, before a caption.

    Args:
        table: what is shown.
        title: above it.
        caption: below it.
        room: columns of the terminal; figures with an interval are broken where the table is wider.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text

    notes = _Notes()
    rich_table = RichTable(
        title=title, box=SIMPLE_HEAD, padding=0, title_justify="left", caption_justify="left"
    )
    columns = zip(table.headings, table.alignments, _wrapping(table), _widths(table, room), strict=True)
    for heading, align, wraps, wide in columns:
        rich_table.add_column(Text(heading), justify=align, no_wrap=not wraps, width=wide)
    for row in table.rows:
        rich_table.add_row(*(Text(_on_terminal(value, notes), "bold red" * value.alert) for value in row))
    below = [f"({letter}) {plain(note)}" for note, letter in notes] + ([plain(caption)] if caption else [])
    if below:
        rich_table.caption = Text("\n".join(below))
    return rich_table


def width(table: Table, *, wrapped: bool = False) -> int:
    """Columns of a terminal that `to_rich` takes: without breaking a line, or at the least it can."""
    needs = _needs(table)
    return len(needs) + 1 + sum(least if wrapped else most for least, most in needs)


def _needs(table: Table) -> list[tuple[int, int]]:
    """The least and the most that each column takes."""
    notes = _Notes()
    found = []
    for place, (heading, wraps) in enumerate(zip(table.headings, _wrapping(table), strict=True)):
        values = [row[place] for row in table.rows]
        texts = [heading, *(_on_terminal(value, notes) for value in values)]
        most = max(len(line) for text in texts for line in text.splitlines())
        least = max(len(word) for text in texts for word in text.split())
        found.append((least if wraps else most, most))
    return found


def _widths(table: Table, room: int | None) -> list[int | None]:
    """Fixed widths where the table is wider than the room but can be broken into it: rich would cut words instead."""
    needs = _needs(table)
    if room is None or not width(table, wrapped=True) <= room < width(table):
        return [None] * len(needs)
    spare, wished = room - width(table, wrapped=True), sum(most - least for least, most in needs)
    return [least + spare * (most - least) // wished for least, most in needs]


def _on_terminal(value: Value, notes: _Notes) -> str:
    """What a terminal shows; an alert is not told by its colour alone."""
    return printable(value.text) + (" !" if value.alert else "") + notes.mark(value.note, " ({})")


def _wrapping(table: Table) -> list[bool]:
    """Which columns may be broken: figures with an interval. A name or a single figure would only be cut."""
    return [
        align == "right" and any(" " in row[place].text for row in table.rows)
        for place, align in enumerate(table.alignments)
    ]


def escape(text: str) -> str:
    """Text that stays one table cell: no line breaks, no bars, no markup."""
    return plain(text).replace("|", "\\|").replace("<", "&lt;")


def folded(summary: str, body: str) -> str:
    """A part that GitHub shows folded."""
    return f"<details><summary>{escape(summary)}</summary>\n\n{body}\n\n</details>"


def fenced(text: str) -> str:
    """Text as a code block, whatever backticks it holds."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{printable(text.strip())}\n{fence}"


class _Notes:
    """Letters for notes, in order of first use."""

    def __init__(self) -> None:
        self.letters: dict[str, str] = {}

    def mark(self, note: str | None, form: str) -> str:
        if note is None:
            return ""
        if note not in self.letters:
            self.letters[note] = _letter(len(self.letters))
        return form.format(self.letters[note])

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.letters.items())


def _letter(number: int) -> str:
    """a to z, then aa, ab and so on."""
    prefix = _letter(number // 26 - 1) if number >= 26 else ""
    return prefix + chr(ord("a") + number % 26)


def _line(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"
