"""A report taken apart: what the markdown file puts under each other, and the HTML page folds."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mnv3_reports import provenance, shortened
from mnv3_reports.drawings import in_markdown
from mnv3_reports.escaping import inline, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnv3_reports.drawings import Picture
    from mnv3_reports.record import Run


PAGE = "report.html"
"""What a run's page is called."""


class Section(NamedTuple):
    """A part of a report."""

    title: str
    paragraphs: list[str]
    """Markdown."""


class Parts(NamedTuple):
    """A report without its charts."""

    title: str
    """Plain text."""
    answer: str
    """Markdown."""
    sections: list[Section]
    """None of them empty."""
    no_charts: str
    """Why there are none, where there are none."""

    @classmethod
    def of(cls, title: str, answer: str, sections: Sequence[Section], no_charts: str) -> Parts:
        """Put together, without the sections that have nothing to say."""
        return cls(title, answer, [section for section in sections if section.paragraphs], no_charts)


def to_markdown(
    run: Run | None, parts: Parts, pictures: Sequence[Picture] = (), *, page: str | None = None
) -> str:
    """The report as GitHub-flavoured markdown.

    Args:
        run: what it is of; None for one of several runs, which has no charts.
        parts: what it says.
        pictures: its charts.
        page: file that has everything, such as report.html. With it, a report too long for a comment on GitHub is
            shortened to one that fits (`mnv3_reports.shortened`).
    """

    def write(parts: Parts, notice: str | None = None) -> str:
        return _written(run, parts, pictures, notice)

    whole = write(parts)
    return whole if page is None or len(whole) <= shortened.LIMIT else shortened.fitted(parts, write, page)


def _written(run: Run | None, parts: Parts, pictures: Sequence[Picture], shorter: str | None) -> str:
    notice = provenance.partial_notice(run) if run is not None else None
    charts = ["## Charts", *(map(in_markdown, pictures) if pictures else [parts.no_charts])]
    blocks = [
        f"# {inline(parts.title)}",
        *([f"> **{inline(notice)}**"] if notice is not None else []),
        parts.answer,
        *([shorter] if shorter is not None else []),
        *([inline(provenance.context(run)), *charts] if run is not None else []),
        *(text for section in parts.sections for text in (f"## {section.title}", *section.paragraphs)),
    ]
    return printable("\n\n".join(blocks)) + "\n"
