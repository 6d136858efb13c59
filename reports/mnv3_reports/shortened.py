"""A report that fits a comment on GitHub: what is left out first, and how that is said.

Only the markdown is shortened; the page has everything. Sections write from the top down, so what is cut is cut from
below: folded parts first, then rows of long tables and items of long lists, the sections that a reviewer asks for least
before the others. What failed and what the report answers go last. Nothing goes without a line in its place.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from typing import TYPE_CHECKING, Literal, NamedTuple

from mnv3_reports import units
from mnv3_reports.escaping import inline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mnv3_reports.parts import Parts

LIMIT = 65_000
"""Characters. GitHub takes 65,536 in a comment; the rest is for what somebody writes above."""
DETAIL = (
    "Where the time goes",
    "Why, by the runtimes' own account",
    "Roofline",
    "Memory",
    "Scaling",
    "Sensitivity to quantization",
    "Classes",
    "Calibration",
    "Published figures beside these",
    "What the networks are made of",
)
"""Titles of the sections that explain figures, in the order in which they are cut."""
FIGURES = ("Results", "Tuned forms", "Ablation", "Paired comparison", "Accuracy")
"""What is cut after them; sections that are named nowhere here follow, the last of the report first."""
CUT_LAST = (
    "How it was measured",
    "Noise met",
    "What was asked, and of which machine",
    "Failures and skips",
)
"""What is cut where all others are not enough: where figures come from, and what failed."""
ROWS = (24, 12, 6, 3)
"""What is left of long tables and lists, one after the other."""
NAMED = 3
"""Folded parts that a line names."""
LONGEST_NAME = 80
"""Characters of such a name."""
BLOCKS = 12
"""Headings, paragraphs and tables that are left of a section where shorter tables were not enough."""
LONGEST_LINE = 1000
"""Characters of a line, where everything else was cut already."""
BESIDE = {
    "Where the time goes": "; `operators.csv` has every operator",
    "Results": "; `cells.parquet` has every cell",
    "Classes": "; `per_class.csv` has every class",
}
"""Other files that have what is left out of a section."""

Kind = Literal["heading", "fold", "table", "list", "text"]


class Block(NamedTuple):
    """A piece of markdown that stays or goes as a whole, or by rows."""

    kind: Kind
    text: str


class _Cut(NamedTuple):
    """One step: so much of one section is left out from here on."""

    section: int
    """-1 for the answer."""
    folds: int = 0
    """That are left out, counted from the last."""
    rows: int | None = None
    """That tables and lists keep; None where they are whole."""
    blocks: int | None = None
    """That the section keeps, counted from the first."""
    line: int | None = None
    """Longest line that stays."""


def fitted(parts: Parts, write: Callable[[Parts, str], str], page: str, limit: int = LIMIT) -> str:
    """The report in at most `limit` characters, as much of it as finds room.

    Args:
        parts: what the report says.
        write: puts such parts together to markdown, with a notice (one line) below the answer.
        page: file that has everything, such as report.html.
        limit: characters. It is kept unless titles, charts and what stands for the rest are longer already.
    """
    blocks = [list(blocks_of("\n\n".join(section.paragraphs))) for section in parts.sections]
    answer = list(blocks_of(parts.answer))
    steps = list(_steps([section.title for section in parts.sections], blocks))
    notice = (
        "> Shortened, so that it fits a comment on GitHub. What is left out is named where it was; "
        f"`{page}` has everything."
    )

    def written(number: int) -> str:
        """With the first steps taken."""
        state = {cut.section: cut for cut in steps[:number]}
        sections = [
            section._replace(paragraphs=list(_rest(mine, state.get(place), _where(section.title, page))))
            for place, (section, mine) in enumerate(zip(parts.sections, blocks, strict=True))
        ]
        shorter = "\n\n".join(_rest(answer, state.get(-1), f"`{page}` has all"))
        return write(parts._replace(answer=shorter, sections=sections), notice)

    def fits(number: int) -> bool:
        return len(written(number)) <= limit

    return written(bisect_left(range(len(steps) + 1), True, lo=1, hi=len(steps), key=fits))


def blocks_of(markdown: str) -> Iterator[Block]:
    """Take markdown of a report apart: headings, folded parts, tables with their notes, lists, and other text."""
    pieces = list(_pieces(markdown))
    for place, piece in enumerate(pieces):
        after = pieces[place + 1] if place + 1 < len(pieces) else ""
        if piece.startswith("<sup>") and place and pieces[place - 1].startswith("|"):
            continue
        if piece.startswith("<details>"):
            yield Block("fold", piece)
        elif piece.startswith("#"):
            yield Block("heading", piece)
        elif piece.startswith("|"):
            yield Block("table", f"{piece}\n\n{after}" if after.startswith("<sup>") else piece)
        elif piece.startswith("- "):
            yield Block("list", piece)
        else:
            yield Block("text", piece)


def _pieces(markdown: str) -> Iterator[str]:
    """Paragraphs; blank lines within folded parts and code blocks part nothing."""
    lines: list[str] = []
    depth, fence = 0, ""
    for line in markdown.split("\n"):
        ticks = re.match("`{3,}", line)
        if fence:
            fence = "" if line == fence else fence
        elif ticks:
            fence = ticks[0]
        else:
            depth += line.startswith("<details>") - line.endswith("</details>")
        if line or depth or fence:
            lines.append(line)
        elif lines:
            yield "\n".join(lines)
            lines = []
    if lines:
        yield "\n".join(lines)


def _steps(titles: Sequence[str], blocks: Sequence[Sequence[Block]]) -> Iterator[_Cut]:
    """What is left out, one thing after the other."""
    detail, figures, late = _in_order(titles)
    folds = [sum(block.kind == "fold" for block in mine) for mine in blocks]

    def fold(places: Sequence[int]) -> Iterator[_Cut]:
        return (_Cut(place, number + 1) for place in places for number in range(folds[place]))

    def keep(places: Sequence[int], rows: int, blocks: int | None = None) -> Iterator[_Cut]:
        return (_Cut(place, folds[place], rows, blocks) for place in places)

    yield from fold([*detail, *figures])
    many, half, few, fewest = ROWS
    for rows in (many, half):
        yield from keep(detail, rows)
    yield from keep(figures, many)
    for rows in (few, fewest):
        yield from keep(detail, rows)
    yield from keep(detail, fewest, BLOCKS)
    for rows in (half, few, fewest):
        yield from keep(figures, rows)
    yield from fold(late)
    yield from keep(figures, fewest, BLOCKS)
    yield from keep([*detail, *figures], 0, BLOCKS)
    for rows in ROWS:
        yield _Cut(-1, rows=rows)
        yield from keep(late, rows)
    for place in (*detail, *figures, *late):
        yield _Cut(place, folds[place], 0 if place not in late else fewest, BLOCKS, LONGEST_LINE)
    yield _Cut(-1, rows=fewest, line=LONGEST_LINE)


def _in_order(titles: Sequence[str]) -> tuple[list[int], list[int], list[int]]:
    """Places of the sections, what is cut first in front: details, figures, and what is cut last."""
    places = {title: place for place, title in enumerate(titles)}
    detail, figures, late = (
        [places[title] for title in names if title in places] for names in (DETAIL, FIGURES, CUT_LAST)
    )
    known = {*detail, *figures, *late}
    return detail, [*figures, *(place for place in reversed(range(len(titles))) if place not in known)], late


def _where(title: str, page: str) -> str:
    return f"`{page}` has all{BESIDE.get(title, '')}"


def _rest(blocks: Sequence[Block], cut: _Cut | None, where: str) -> Iterator[str]:
    """What stays of a section, with a line in the place of what does not."""
    if cut is None:
        yield from (block.text for block in blocks)
        return
    folds = [place for place, block in enumerate(blocks) if block.kind == "fold"]
    gone = set(folds[len(folds) - cut.folds :])
    left_out: list[str] = []
    kept = _first(blocks, cut.blocks)
    for place, block in enumerate(kept):
        if block.kind == "heading" and left_out:
            yield _named(left_out, where)
            left_out = []
        if place in gone:
            left_out.append(block.text)
        elif block.kind == "table" and cut.rows is not None:
            yield _fewer_rows(block.text, cut.rows, where)
        elif block.kind == "list" and cut.rows is not None:
            yield _fewer_items(block.text, cut, where)
        elif block.kind == "text" and cut.line is not None and len(block.text) > cut.line:
            yield f"*A paragraph of {len(block.text):,} characters is left out here; {where}.*"
        else:
            yield block.text
    if left_out:
        yield _named(left_out, where)
    if len(kept) < len(blocks):
        rest = len(blocks) - len(kept)
        yield f"*The rest of this section ({rest:,} tables and paragraphs) is left out here; {where}.*"


def _first(blocks: Sequence[Block], number: int | None) -> Sequence[Block]:
    """So many of the blocks, without a heading at the end that nothing would follow."""
    kept = list(blocks[:number])
    while len(kept) < len(blocks) and kept and kept[-1].kind == "heading":
        kept.pop()
    return kept


def _named(folds: Sequence[str], where: str) -> str:
    titles = [_title(text) for text in folds[:NAMED]]
    more = f" and {len(folds) - NAMED} more" if len(folds) > NAMED else ""
    return f"*Left out here: {'; '.join(titles)}{more}; {where}.*"


def _title(fold: str) -> str:
    """A folded part's name as text of a paragraph."""
    found = re.match("<details><summary>(.*)</summary>", fold)
    # As `layout.escape` wrote it.
    name = found[1].replace("\\|", "|").replace("&lt;", "<") if found else "a part"
    return inline(name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…")


def _fewer_rows(table: str, kept: int, where: str) -> str:
    """The first rows with the notes that they have."""
    body, _, notes = table.partition("\n\n")
    lines = body.split("\n")
    rows = lines[2:]
    if len(rows) <= kept:
        return table
    if not kept:
        return f"*A table of {units.counted(len(rows), 'row')} is left out here; {where}.*"
    text = "\n".join([*lines[:2], *rows[:kept]])
    used = set(re.findall(r"<sup>(\w+)</sup>", text))
    found = re.findall(r"^<sup>(\w+)</sup> (.*?)(?:<br>)?$", notes, re.MULTILINE)
    below = "<br>\n".join(f"<sup>{letter}</sup> {note}" for letter, note in found if letter in used)
    parts = [text, *([below] if below else []), f"*{kept} of {len(rows):,} rows; {where}.*"]
    return "\n\n".join(parts)


def _fewer_items(text: str, cut: _Cut, where: str) -> str:
    items = text.split("\n")
    kept = items if cut.rows is None or len(items) <= cut.rows else items[: cut.rows]
    if cut.line is not None:
        kept = [item for item in kept if len(item) <= cut.line]
    if len(kept) == len(items):
        return text
    if not kept:
        return f"*A list of {units.counted(len(items), 'item')} is left out here; {where}.*"
    return "\n".join(kept) + f"\n\n*{len(kept)} of {len(items):,} items; {where}.*"
