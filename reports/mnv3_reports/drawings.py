"""Which charts a run has. Each is defined once; the markdown's SVG files and the HTML page are both made of it."""

from __future__ import annotations

import html
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from mnv3_reports import (
    charts,
    memory_chart,
    pareto,
    profile_chart,
    roofline,
    scaling,
    scaling_chart,
    sensitivity,
    units,
)
from mnv3_reports.escaping import inline, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import altair as alt

    from mnv3_reports.charts import Theme
    from mnv3_reports.summary import Summary


Spec = dict[str, Any]
MOST_SETTINGS = 4
"""More of them are compared by the charts of scaling, and read in tables."""


class Drawing(NamedTuple):
    """A chart of a run, for light and for dark pages."""

    name: str
    """Of its file, without suffix."""
    title: str
    light: Spec
    """Vega-Lite."""
    dark: Spec
    trade_offs: str | None = None
    """The setting whose cells it lets a latency budget choose among; None of a chart of another kind."""


class Picture(NamedTuple):
    """A chart that lies beside a report."""

    title: str
    light: str
    """Path relative to the report."""
    dark: str | None = None


def in_markdown(picture: Picture) -> str:
    """The picture as markdown; GitHub shows the one that fits the reader's theme."""
    if picture.dark is None:
        return f"![{inline(picture.title)}]({picture.light})"
    source = f'<source media="(prefers-color-scheme: dark)" srcset="{picture.dark}">'
    title = html.escape(plain(picture.title))
    return f'<picture>{source}<img alt="{title}" src="{picture.light}"></picture>'


def drawings(summary: Summary) -> Iterator[Drawing]:
    """The charts of a run: for each of the first settings latency and trade-offs, then those of the whole run."""
    for setting in summary.settings[:MOST_SETTINGS]:
        suffix = "" if len(summary.settings) == 1 else f"-{_slug(summary, setting)}"
        where = summary.describe(setting)
        yield from _drawing(
            f"latency{suffix}",
            f"Latency by backend, {where}",
            partial(charts.latency_chart, summary, setting),
        )
        yield from _drawing(
            f"pareto{suffix}",
            f"{pareto.title_of(summary, setting)}, {where}",
            partial(pareto.pareto_chart, summary, setting),
            trade_offs=setting,
        )
    scans = sensitivity.in_order(summary)
    for number, scan in enumerate(scans):
        yield from _drawing(
            "sensitivity" if len(scans) == 1 else f"sensitivity-{number + 1}",
            f"Sensitivity to int8 by layer, {scan.variant}",
            partial(sensitivity.sensitivity_chart, summary, scan),
        )
    yield from _drawing("profile", "Where the time goes", partial(profile_chart.profile_chart, summary))
    threads = sorted({roofs.threads for roofs in summary.run.roofs})
    for number in threads:
        yield from _drawing(
            "roofline" if len(threads) == 1 else f"roofline-threads{number}",
            f"Roofline, {units.counted(number, 'thread')}",
            partial(roofline.roofline_chart, summary, number),
        )
    yield from _drawing(
        "memory",
        "Activation memory over one call",
        partial(memory_chart.memory_chart, summary, memory_chart.chosen(summary)),
    )
    for axis in scaling.AXES:
        yield from _drawing(
            f"scaling-{axis}",
            scaling_chart.WORDS[axis].title,
            partial(scaling_chart.scaling_chart, summary, axis),
        )


def _drawing(
    name: str, title: str, chart: Callable[[Theme], alt.Chart | None], trade_offs: str | None = None
) -> Iterator[Drawing]:
    light = charts.to_spec(chart, charts.LIGHT)
    if light is not None:
        yield Drawing(name, title, light, charts.darkened(light), trade_offs)


def _slug(summary: Summary, setting: str) -> str:
    cell = next(record.cell for record in summary.run.cells.values() if record.cell.setting == setting)
    pixels = cell.resolution or "own-inputs"
    return f"{cell.device}-threads{cell.threads}-batch{cell.batch}-{pixels}".replace(":", "")
