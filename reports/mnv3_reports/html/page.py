"""The page: the answer, charts one can ask, a table one can sort, every cell's own figures, and all of the report.

It is one file and asks for nothing else: its policy forbids every request.
"""

from __future__ import annotations

import base64
import gzip
import os
from contextlib import suppress
from functools import cache
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mnv3_reports import pareto, provenance
from mnv3_reports.charts import DARK, LIGHT
from mnv3_reports.escaping import plain
from mnv3_reports.html import cells, prose, turns
from mnv3_reports.rundir import RunDirectoryError, write_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jinja2 import Environment

    from mnv3_reports.drawings import Drawing
    from mnv3_reports.parts import Parts
    from mnv3_reports.summary import Summary

LARGEST_RECORD = 2_500_000
"""Bytes of the compressed record that the page may hold; a larger one stays beside it."""


class _Section(NamedTuple):
    title: str
    body: str
    """HTML."""


def page_text(summary: Summary, parts: Parts, drawings: Sequence[Drawing], record: Path | None = None) -> str:
    """The report of a run as one HTML file.

    Args:
        summary: of the run.
        parts: what its report says.
        drawings: its charts; with none the page holds no chart library.
        record: the journal, which the page offers to download.
    """
    figures = [_figure(summary, drawing) for drawing in drawings]
    return _rendered(
        parts,
        notice=plain(provenance.partial_notice(summary.run) or "") or None,
        context=plain(provenance.context(summary.run)),
        figures=figures,
        table=cells.table(summary) if summary.run.cells else None,
        choices=cells.choices(summary),
        record=_record(record),
        turns=cells.encoded({"light": turns.turns_chart(LIGHT), "dark": turns.turns_chart(DARK)}),
        details=cells.encoded(cells.details(summary)),
        library=_library() if figures else "",
    )


def plain_page(parts: Parts, drawings: Sequence[Drawing] = ()) -> str:
    """A report without cells of its own, such as a comparison of runs, as one HTML file.

    Args:
        parts: what it says.
        drawings: its charts, which choose among no cells; with none the page holds no chart library.
    """
    return _rendered(
        parts,
        notice=None,
        context="",
        figures=[_figure(None, drawing) for drawing in drawings],
        table=None,
        choices={},
        record=None,
        turns=cells.encoded({}),
        details=cells.encoded([]),
        library=_library() if drawings else "",
    )


def _rendered(parts: Parts, **page: Any) -> str:
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            title=plain(parts.title),
            answer=prose.to_html(parts.answer),
            sections=[
                _Section(section.title, prose.to_html("\n\n".join(section.paragraphs)))
                for section in parts.sections
            ],
            style=_text("page.css"),
            script=_text("page.js"),
            **page,
        )
    )


class _Figure(NamedTuple):
    """A chart as the page takes it."""

    title: str
    points: bool
    """Whether a latency budget chooses among its points."""
    data: str
    """JSON: the chart in light and dark, and the points."""


def _figure(summary: Summary | None, drawing: Drawing) -> _Figure:
    points: list[dict[str, Any]] | None = None
    if summary is not None and drawing.trade_offs is not None:
        rows = pareto.rows_of(summary, drawing.trade_offs)
        kept = ("network", "backend", "ms", "median", "top1", "accuracy", "measured")
        points = [{name: row[name] for name in kept} for row in rows]
    data = {"light": drawing.light, "dark": drawing.dark, "points": points}
    return _Figure(drawing.title, bool(points), cells.encoded(data))


class _Record(NamedTuple):
    """The run's journal, compressed."""

    name: str
    url: str | None
    """None where it is too large to be held."""


def _record(journal: Path | None) -> _Record | None:
    if journal is None or not journal.is_file():
        return None
    # Without a time of its own the same run gives the same page.
    packed = gzip.compress(journal.read_bytes(), mtime=0)
    name = f"{journal.name}.gz"
    if len(packed) > LARGEST_RECORD:
        return _Record(name, None)
    return _Record(name, f"data:application/gzip;base64,{base64.b64encode(packed).decode()}")


@cache
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, of the versions that draw the SVG files."""
    import vl_convert

    # Putting it together takes two seconds, and it is the same until another version is installed.
    kept = _cache() / f"vega-{version('vl-convert-python')}.js"
    with suppress(OSError, UnicodeDecodeError):
        return kept.read_text("utf-8")
    # Without a snippet it is the whole, which hangs vegaEmbed on the window; its types forget that it may be left out.
    bundle = str(vl_convert.javascript_bundle()).replace("</script", "<\\/script")  # type: ignore[call-arg]
    with suppress(RunDirectoryError):  # then it is put together again the next time
        write_text(kept, bundle)
    return bundle


def _cache() -> Path:
    """The user's folder for what reports can make again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mnv3-bench-reports"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("mnv3_reports.html", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _text(name: str) -> str:
    return resources.files("mnv3_reports.html").joinpath(name).read_text("utf-8")
