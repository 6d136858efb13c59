"""Trend charts: a cell's figures over time with intervals, the levels between changes, and the changes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from mnv3_reports.charts import LIGHT, colours, darkened, data, styled, titled, to_spec
from mnv3_reports.drawings import Drawing
from mnv3_reports.history import words
from mnv3_reports.history.words import label, short

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    import altair as alt

    from mnv3_reports.charts import Theme
    from mnv3_reports.history.metrics import Metric
    from mnv3_reports.history.trends import Trend

MOST = 12
"""Charts of a report; cells with changes come first."""


def drawings(trends: Sequence[Trend], metric: Metric) -> Iterator[Drawing]:
    """A chart for each cell, up to `MOST`, those whose level changed most first."""
    cells: dict[str, list[Trend]] = {}
    for trend in trends:
        if trend.series.points:
            cells.setdefault(trend.series.cell, []).append(trend)
    order = sorted(cells, key=lambda cell: -sum(len(trend.changes) for trend in cells[cell]))
    for number, cell in enumerate(order[:MOST]):
        light = to_spec(partial(trend_chart, cells[cell], metric), LIGHT)
        if light is not None:
            # Names of files are numbers: names of cells are anybody's.
            yield Drawing(
                f"history-{number + 1:02}", f"{metric.title}, {short(cell)}", light, darkened(light)
            )


def trend_chart(trends: Sequence[Trend], metric: Metric, theme: Theme = LIGHT) -> alt.Chart | None:
    """One cell's series over time; None where nothing was measured."""
    import altair as alt

    rows, levels, changes = _rows(trends, metric)
    if not rows:
        return None
    names = list(dict.fromkeys(row["series"] for row in rows))
    colour = alt.Color(
        "series:N",
        scale=alt.Scale(domain=names, range=colours(len(names), theme)),
        legend=alt.Legend(orient="bottom", title=None, columns=1, labelLimit=600) if len(names) > 1 else None,
    )
    x = alt.X("at:T", title=None, scale=alt.Scale(type="utc"))
    y = alt.Y("value:Q", title=f"{metric.title}, {metric.unit}".rstrip(", "), scale=alt.Scale(zero=False))
    tips = [alt.Tooltip("when:N"), alt.Tooltip("text:N", title=metric.unit or "value"), "runs:Q", "series:N"]
    base = alt.Chart(data(rows))
    bars = base.mark_rule(opacity=0.35).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=colour)
    points = base.mark_circle(size=14, opacity=0.8).encode(x=x, y=y, color=colour, tooltip=tips)
    lines = alt.Chart(data(levels)).mark_rule(strokeWidth=2.5).encode(x=x, x2="until:T", y=y, color=colour)
    layers = [bars.transform_filter("isValid(datum.low)"), points, lines]
    if changes:
        marks = alt.Chart(data(changes)).mark_rule(strokeDash=[4, 3], color=theme.ink)
        layers.append(
            marks.encode(x=x, tooltip=["when:N", alt.Tooltip("text:N", title="after / before"), "there:N"])
        )
    notes = [
        short(trends[0].series.cell),
        "Points with 95 % intervals; lines: levels; dashed: lasting changes",
    ]
    chart = alt.layer(*layers).properties(width=680, height=260, title=titled(metric.title, notes, theme))
    return styled(chart, theme)


def _rows(
    trends: Sequence[Trend], metric: Metric
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Points, levels and changes as the chart takes them."""
    rows: list[dict[str, Any]] = []
    levels: list[dict[str, Any]] = []
    changes: list[dict[str, Any]] = []
    for trend in trends:
        name = label(trend.series)
        rows += [
            {
                "series": name,
                "at": _milliseconds(point.started_at),
                "when": f"{point.started_at:%Y-%m-%d %H:%M}",
                "value": point.value * metric.scale,
                "low": None if point.low is None else point.low * metric.scale,
                "high": None if point.high is None else point.high * metric.scale,
                "text": words.point(point, metric),
                "runs": point.runs,
            }
            for point in trend.series.points
        ]
        levels += [
            {
                "series": name,
                "at": _milliseconds(first.started_at),
                "until": _milliseconds(last.ended_at),
                "value": value * metric.scale,
            }
            for first, last, value in (trend.levels if trend.changes else ())
        ]
        for change in trend.changes:
            there = "; ".join(map(words.difference, change.differences)) or "nothing that the record states"
            changes.append(
                {
                    "at": _milliseconds(change.first.started_at),
                    "when": words.date(change),
                    "text": words.ratio(change),
                    "there": there,
                }
            )
    return rows, levels, changes


def _milliseconds(moment: datetime) -> int:
    """Since 1970, as Vega has times."""
    from datetime import UTC

    return round(moment.replace(tzinfo=UTC).timestamp() * 1000)
