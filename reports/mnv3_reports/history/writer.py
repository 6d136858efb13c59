"""A history's report as files: markdown with charts beside it, and one HTML page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnv3_reports import charts
from mnv3_reports.drawings import Picture, in_markdown
from mnv3_reports.history.chart import drawings
from mnv3_reports.html.page import plain_page
from mnv3_reports.parts import Section, to_markdown
from mnv3_reports.rundir import write_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mnv3_reports.history.metrics import Metric
    from mnv3_reports.history.trends import Trend
    from mnv3_reports.parts import Parts

PAGE, REPORT = "history.html", "history.md"


def write_pages(parts: Parts, trends: Sequence[Trend], metric: Metric, output: Path) -> list[Path]:
    """Write `history.html`, `charts/history-….svg` and `history.md`.

    Raises:
        RunDirectoryError: a file cannot be written.
    """
    drawn = list(drawings(trends, metric))
    written = [write_text(output / PAGE, plain_page(parts, drawn))]
    pictures = []
    for drawing in drawn:
        light, dark = f"charts/{drawing.name}.svg", f"charts/{drawing.name}-dark.svg"
        svg = charts.to_svg(drawing.light)
        written += [write_text(output / light, svg), write_text(output / dark, charts.darkened_svg(svg))]
        pictures.append(in_markdown(Picture(drawing.title, light, dark)))
    with_charts = parts._replace(
        sections=[Section("Charts", pictures), *parts.sections] if pictures else parts.sections
    )
    return [*written, write_text(output / REPORT, to_markdown(None, with_charts))]
