"""The timeline of activations over one call: networks below each other on one scale, module by module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mnv3_reports import units
from mnv3_reports.charts import LIGHT, data, styled, titled
from mnv3_reports.escaping import plain
from mnv3_reports.memory import in_order, module_name, named

if TYPE_CHECKING:
    from collections.abc import Sequence

    import altair as alt

    from mnv3_reports.charts import Theme
    from mnv3_reports.record import Activations
    from mnv3_reports.summary import Summary

MOST = 6
"""Networks that a chart shows."""
WIDTH, HEIGHT = 620, 120
APART = 0.11
"""Of the width: marks on the axis that are nearer than this would be printed over each other."""


def chosen(summary: Summary) -> list[Activations]:
    """What a chart compares: each network once, at the run's highest resolution and smallest batch counted.

    Forms that lack an ingredient are left out where there are other networks.
    """
    found: dict[str, Activations] = {}
    for counted in in_order(summary):
        if counted.variant in summary.asked and len(counted.steps) > 1:
            found.setdefault(counted.variant, counted)
    # Requested networks and references stand beside each other only where they were called alike.
    shapes = [(counted.resolution, counted.batch) for counted in found.values()]
    return [
        counted
        for counted in found.values()
        if (counted.resolution, counted.batch) == max(shapes, key=shapes.count)
    ][:MOST]


def memory_chart(
    summary: Summary, activations: Sequence[Activations], theme: Theme = LIGHT
) -> alt.Chart | None:
    """Live bytes and peaks over the modules of each network, in the order they run; None without two steps of one.

    Args:
        summary: of the run, for names.
        activations: of the networks that are drawn below each other, all on one scale; see `chosen`.
        theme: colours.
    """
    import altair as alt

    drawn = [counted for counted in activations if len(counted.steps) > 1]
    if not drawn:
        return None
    limit = 1.25 * max(step.peak_bytes for counted in drawn for step in counted.steps) / 1e6
    panels = [_panel(summary, counted, limit or 1.0, theme) for counted in drawn]
    first = drawn[0]
    called = f"batch {first.batch}" + (
        f", {first.resolution} × {first.resolution}" if first.resolution else ""
    )
    notes = [
        f"PyTorch eager, {called}, counted; the input is part of it, weights are not",
        "Bars: the most while a module runs. Line: what is still needed after it",
    ]
    chart = alt.vconcat(*panels, spacing=14).properties(
        title=titled("Activation memory over one call", notes, theme)
    )
    return styled(chart, theme)


def _panel(summary: Summary, counted: Activations, limit: float, theme: Theme) -> Any:
    """One network's bars, line, and the name of the module where its peak is."""
    import altair as alt

    rows = _rows(counted)
    x = alt.Scale(domain=[0, len(rows)], nice=False)
    y = alt.Scale(domain=[0, limit], nice=False)
    marks = _marks(counted)
    axis = alt.Axis(
        values=list(marks),
        labelExpr=f"({_names(marks)})[datum.value] || ''",
        labelAngle=0,
        grid=True,
        title=None,
        labelOverlap=False,
    )
    bars = (
        alt.Chart(data(rows))
        # Hundreds of bars: read out one by one they would say less than the table, and be most of the file.
        .mark_bar(color=theme.palette[4], opacity=0.75, clip=True, aria=False)
        .encode(
            x=alt.X("start:Q", scale=x, axis=axis),
            x2="end:Q",
            y2=alt.Y2Datum(0),
            y=alt.Y("peak:Q", scale=y, axis=alt.Axis(title="MB", tickCount=4)),
            tooltip=[
                *("module:N", "kind:N"),
                alt.Tooltip("live:Q", title="live after it, MB", format=".3f"),
                alt.Tooltip("peak:Q", title="peak, MB", format=".3f"),
            ],
        )
    )
    # The last value goes on to the end of its own step.
    ends = [{"start": row["start"], "live": row["live"]} for row in rows]
    ends.append({"start": len(rows), "live": rows[-1]["live"]})
    line = (
        alt.Chart(data(ends))
        .mark_line(interpolate="step-after", color=theme.palette[0], strokeWidth=1.8)
        .encode(x=alt.X("start:Q", scale=x), y=alt.Y("live:Q", scale=y))
    )
    layers = [bars, line, *_at_peak(rows, x, y, theme)]
    weights = counted.weight_bytes / 1e6
    if weights <= limit:
        layers.append(
            alt.Chart(data([{"weights": weights}]))
            .mark_rule(color=theme.palette[5], strokeDash=[5, 3])
            .encode(y=alt.Y("weights:Q", scale=y))
        )
    where = "dashed" if weights <= limit else "beyond the scale"
    title = (
        f"{plain(named(summary, counted))}: input {units.megabytes(counted.input_bytes)} MB, "
        f"weights {units.megabytes(counted.weight_bytes)} MB ({where})"
    )
    return alt.layer(*layers).properties(
        width=WIDTH,
        height=HEIGHT,
        title=alt.TitleParams(text=title, anchor="start", fontSize=12, color=theme.ink, limit=WIDTH),
    )


def _rows(counted: Activations) -> list[dict[str, Any]]:
    """A row for each step; the step of place i lies between i and i + 1."""
    return [
        {
            "module": plain(module_name(step)),
            "kind": plain(step.kind),
            "start": place,
            "end": place + 1,
            "live": step.live_bytes / 1e6,
            "peak": step.peak_bytes / 1e6,
        }
        for place, step in enumerate(counted.steps)
    ]


def _at_peak(rows: Sequence[dict[str, Any]], x: alt.Scale, y: alt.Scale, theme: Theme) -> list[Any]:
    """A point at the highest peak and its module beside it, on the side with more room."""
    import altair as alt

    highest = max(rows, key=lambda row: row["peak"])
    place = (highest["start"] + highest["end"]) / 2
    left = place > len(rows) / 2
    label = f"{units.significant(highest['peak'])} MB in {highest['module']}"
    where = alt.Chart(data([{"place": place, "peak": highest["peak"], "label": label}])).encode(
        x=alt.X("place:Q", scale=x), y=alt.Y("peak:Q", scale=y)
    )
    return [
        where.mark_point(filled=True, size=35, color=theme.ink, opacity=1),
        where.mark_text(
            align="right" if left else "left",
            dx=-7 if left else 7,
            dy=-6,
            fontSize=11,
            color=theme.ink,
            limit=WIDTH / 2,
        ).encode(text="label:N"),
    ]


def _marks(counted: Activations) -> dict[int, str]:
    """Places on the axis and their names: where a new block of the network begins, as far as there is room."""
    marks: dict[int, str] = {}
    apart = APART * len(counted.steps)
    before: str | None = None
    for place, step in enumerate(counted.steps):
        block = ".".join(step.module.split(".")[:2])
        if block and block != before and (not marks or place - max(marks) >= apart):
            marks[place] = plain(block)
        before = block or before
    return marks


def _names(marks: dict[int, str]) -> str:
    """The marks as an object of Vega's expression language: JSON, whose strings are its own."""
    import json

    return json.dumps({str(place): name for place, name in marks.items()})
