"""Charts of scaling along one axis: a panel for each network, a line for each backend, and the knees marked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from mnv3_reports import units
from mnv3_reports.charts import LIGHT, colours, data, styled, titled
from mnv3_reports.scaling import scaled, sweeps
from mnv3_reports.scaling_section import label, others

if TYPE_CHECKING:
    from collections.abc import Sequence

    import altair as alt

    from mnv3_reports.charts import Theme
    from mnv3_reports.scaling import Axis, Point, Sweep
    from mnv3_reports.statistics import Interval
    from mnv3_reports.summary import Summary

PANELS = 6
"""So many are drawn: networks with each of their other settings."""
RING = 170
"""Area of the ring about a knee, in square pixels."""
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])
"""Of lines: the next one when the palette is used up."""


class _Words(NamedTuple):
    """What a chart says of its axis."""

    title: str
    x: str
    y: str
    guide: str | None
    """What the dashed line is; None where there is none."""


WORDS: dict[Axis, _Words] = {
    "threads": _Words(
        "Scaling with threads", "threads", "speed-up", "Dashed: ideal, the speed grows as the threads"
    ),
    "batch": _Words("Scaling with batch", "batch", "median ms an image", None),
    "resolution": _Words(
        "Scaling with resolution",
        "resolution, pixels",
        "median ms a call",
        "Dashed: time growing as MACs, from the lowest line's first point",
    ),
    "width": _Words(
        "Scaling with width",
        "width multiplier",
        "median ms a call",
        "Dashed: time growing as MACs, from the lowest line's first point",
    ),
}


def scaling_chart(summary: Summary, axis: Axis, theme: Theme = LIGHT) -> alt.Chart | None:
    """Time or speed-up along an axis with 95 % intervals, both scales logarithmic; None where nothing was swept.

    Ablated forms have no place in it, as in the other charts.
    """
    import altair as alt

    found = [row for row in sweeps(summary, axis) if row.reference.cell.variant in summary.asked]
    if not found:
        return None
    panels = _panels(found)
    drawn = [row for row in found if _panel(row, found) in panels[:PANELS]]
    rows = [row for sweep in drawn for row in _rows(sweep, _panel(sweep, found))]
    _ring(rows)
    rows += [row for panel in panels[:PANELS] for row in _guide(axis, panel, drawn, found)]
    backends = list(dict.fromkeys(sweep.backend for sweep in drawn))
    words = WORDS[axis]
    x_values = sorted({row["x"] for row in rows})
    x = alt.X(
        "x:Q",
        title=words.x,
        scale=alt.Scale(type="log", base=2, domain=[x_values[0], x_values[-1]], nice=False, padding=12),
        axis=alt.Axis(values=x_values, format="~g", labelOverlap=True),
    )
    scale = alt.Scale(type="log", base=2, nice=False, padding=10)
    y = alt.Y("y:Q", title=words.y, scale=scale, axis=alt.Axis(format="~g", tickCount=6))
    base = alt.Chart().encode(x=x, y=y, color=_colour(backends, theme))
    dashes = alt.StrokeDash(
        "backend:N",
        scale=alt.Scale(domain=backends, range=_dashes(len(backends), theme)),
        legend=alt.Legend(title="backend") if len(backends) > len(theme.palette) else None,
    )
    tooltip = [
        *("network:N", "backend:N", alt.Tooltip("at:N", title=axis)),
        *(alt.Tooltip("figure:N", title=words.y), alt.Tooltip("median:N", title="median [95 %]")),
        alt.Tooltip("epochs:Q"),
    ]
    layers = [
        base.mark_area(opacity=0.18)
        .encode(y=alt.Y("low:Q", scale=scale), y2="high:Q")
        .transform_filter("isValid(datum.low)"),
        base.mark_line(strokeWidth=1.2)
        .encode(y=alt.Y("guide:Q", scale=scale), color=alt.value(theme.muted), strokeDash=alt.value([4, 4]))
        .transform_filter("isValid(datum.guide)"),
        base.mark_line(strokeWidth=1.8).encode(strokeDash=dashes).transform_filter("isValid(datum.y)"),
        base.mark_rule(strokeWidth=1.5)
        .encode(y=alt.Y("low:Q", scale=scale), y2="high:Q")
        .transform_filter("isValid(datum.low)"),
        base.mark_point(filled=True, size=32, opacity=1)
        .encode(tooltip=tooltip)
        .transform_filter("isValid(datum.y)"),
        base.mark_point(filled=False, strokeWidth=1.8)
        .encode(size=alt.Size("ring:Q", scale=None, legend=None), tooltip=tooltip)
        .transform_filter("isValid(datum.y)"),
    ]
    if not any("guide" in row for row in rows):
        # Of a layer without rows Vega cannot tell the extent, and says so.
        del layers[1]
    chart = (
        alt.layer(*layers, data=data(rows))
        .properties(width=300, height=200)
        .facet(
            facet=alt.Facet("panel:N", sort=panels, title=None, header=alt.Header(labelFontWeight="bold")),
            columns=2,
        )
        .resolve_scale(y="shared" if axis == "threads" else "independent")
        .properties(title=titled(words.title, _notes(axis, rows, len(panels)), theme))
    )
    return styled(chart, theme)


def _panels(found: Sequence[Sweep]) -> list[str]:
    """Every network with the first setting, then every one with the next: no network hides the others."""
    settings = list(dict.fromkeys(others(row, found) for row in found))
    by_setting = sorted(found, key=lambda row: settings.index(others(row, found)))
    return list(dict.fromkeys(_panel(row, found) for row in by_setting))


def _panel(sweep: Sweep, found: Sequence[Sweep]) -> str:
    """Network and, where it varies, what it is called with."""
    setting = others(sweep, found)
    return f"{sweep.network}, {setting}" if setting else sweep.network


def _rows(sweep: Sweep, panel: str) -> list[dict[str, Any]]:
    """A line's points; one without a figure (no epoch timed both) is left out."""
    rows = []
    for point in sweep.points:
        figure = _figure(sweep, point)
        if figure is None:
            continue
        row: dict[str, Any] = {
            "panel": panel,
            "network": point.cell.variant,
            "backend": sweep.backend,
            "x": point.value,
            "y": figure.estimate,
            "at": label(sweep.axis, point.value),
            "figure": units.enclosed(figure),
            "median": f"{units.enclosed(point.latency, 1e3)} ms a call",
            "epochs": point.latency.n,
            "knee": sweep.knee is not None and sweep.knee.kind == "knee" and sweep.knee.low == point.value,
        }
        ends = (figure.low, figure.high) if figure.bounded else (figure.estimate, figure.estimate)
        rows.append(row | {"low": ends[0], "high": ends[1], "ring": 0})
    return rows


def _ring(rows: Sequence[dict[str, Any]]) -> None:
    """Give every knee the area of its ring: one about another where lines meet, as all do at the fewest threads."""
    met: dict[tuple[str, float, float], int] = {}
    for row in rows:
        if row["knee"]:
            place = (row["panel"], row["x"], row["y"])
            met[place] = met.get(place, 0) + 1
            row["ring"] = RING * met[place]


def _figure(sweep: Sweep, point: Point) -> Interval | None:
    """What the line shows: speed-up, or ms (an image, of batches)."""
    if sweep.axis == "threads":
        return point.relative
    return scaled(point.latency, 1e3 / (point.value if sweep.axis == "batch" else 1))


def _guide(axis: Axis, panel: str, drawn: Sequence[Sweep], found: Sequence[Sweep]) -> list[dict[str, Any]]:
    """The ideal line of a panel; none where work was not counted."""
    here = [sweep for sweep in drawn if _panel(sweep, found) == panel]
    lowest = min(here, key=lambda sweep: sweep.points[0].latency.estimate)
    first = lowest.points[0]
    rows = []
    for point in lowest.points:
        if axis == "threads":
            ideal: float | None = point.value / lowest.reference.value
        elif axis == "batch" or not point.share or not first.share or point.relative is None:
            ideal = None
        else:
            # Time over time a MAC is MACs, both relative to the reference.
            grown = (point.relative.estimate / point.share) / (
                first.relative.estimate / first.share if first.relative else 1
            )
            ideal = first.latency.estimate * 1e3 * grown
        if ideal is not None:
            rows.append({"panel": panel, "x": point.value, "guide": ideal})
    return rows


def _notes(axis: Axis, rows: Sequence[dict[str, Any]], panels: int) -> list[str]:
    notes = ["Logarithmic scales; bands are 95 % intervals over epochs"]
    if axis != "threads":
        notes[0] += "; lower is faster"
    guide = WORDS[axis].guide
    if guide is not None and any("guide" in row for row in rows):
        notes.append(guide)
    if any(row.get("knee") for row in rows):
        notes.append("Rings: the knee, beyond which a further step does not pay")
    if panels > PANELS:
        notes.append(f"{panels - PANELS} more of these panels are not drawn; the tables have them")
    return notes


def _colour(backends: Sequence[str], theme: Theme) -> alt.Color:
    import altair as alt

    # The order of the tables: the fastest of the first network on top.
    scale = alt.Scale(domain=list(backends), range=colours(len(backends), theme))
    # Without these the legend would be as pale as the bands.
    looks = alt.Legend(title="backend", symbolType="stroke", symbolOpacity=1, symbolStrokeWidth=2)
    return alt.Color("backend:N", scale=scale, legend=looks)


def _dashes(count: int, theme: Theme) -> list[list[int]]:
    return [DASHES[place // len(theme.palette) % len(DASHES)] for place in range(count)]
