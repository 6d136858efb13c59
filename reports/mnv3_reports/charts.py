"""The report's charts, each defined once as an Altair chart: an SVG beside markdown, interactive in the HTML page.

Colours are Okabe and Ito's (2008, https://jfly.uni-koeln.de/color/), which people with any common colour
blindness can tell apart. Every chart has a background of its own, for light or for dark pages.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from mnv3_reports import units
from mnv3_reports.statistics import median

if TYPE_CHECKING:
    from collections.abc import Callable

    import altair as alt

    from mnv3_reports.record import CellRecord
    from mnv3_reports.summary import Summary


class Theme(NamedTuple):
    """The colours of a chart."""

    background: str
    ink: str
    """Of text and of intervals."""
    muted: str
    """Of what is said beside, and of lines that are no data."""
    frame: str
    grid: str
    palette: tuple[str, ...]


LIGHT = Theme(
    "#ffffff",
    *("#222222", "#666666", "#dddddd", "#eeeeee"),
    ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#8C6D31"),
)
DARK = Theme(
    "#0d1117",
    *("#e6edf3", "#9aa4af", "#30363d", "#21262d"),
    ("#56B4E9", "#E69F00", "#00B88A", "#CC79A7", "#4C8FD6", "#F0803C", "#FFFFFF", "#C9A45C"),
)
_DARKENED = dict(
    zip((*LIGHT[:-1], *LIGHT.palette), (*DARK[:-1], *DARK.palette), strict=True)  # each is there once
)
_DATA = ("values", "datasets")
_PAINT = re.compile(r'\b(fill=|stroke=)"(#[0-9A-Fa-f]{6})"')
LONGEST = 5.0
"""A bar longer than so many times the median one is cut."""


def latency_chart(summary: Summary, setting: str, theme: Theme = LIGHT) -> alt.Chart | None:
    """Median latency by backend with 95 % intervals, one panel a network; None when nothing was timed."""
    import altair as alt

    records = timed(summary, setting)
    if not records:
        return None
    rows = []
    tuned: list[dict[str, Any]] = []
    cells = {record.cell.key: record.cell for record in records}
    for record in records:
        default = cells.get(summary.defaults.get(record.cell.key, ""))
        if default is not None and not summary.planned(record.cell):
            seconds = summary.statistics[record.cell.key].latency.estimate
            tuned.append({"network": default.variant, "backend": default.backend, "tuned": seconds * 1e3})
            continue
        interval = summary.statistics[record.cell.key].latency
        row: dict[str, Any] = {
            "network": record.cell.variant,
            "backend": record.cell.backend,
            "ms": interval.estimate * 1e3,
            "end": interval.estimate * 1e3,
            "label": units.milliseconds(interval.estimate),
            "median": f"{units.enclosed(interval, 1e3)} ms",
            "epochs": interval.n,
            "calls": summary.statistics[record.cell.key].calls,
        }
        if interval.bounded:
            row |= {"low": interval.low * 1e3, "high": interval.high * 1e3, "end": interval.high * 1e3}
        rows.append(row)
    # An interval wider than the bars themselves, or a bar many times the others, would press every bar flat.
    longest = min(max(row["ms"] for row in rows), LONGEST * median(row["ms"] for row in rows))
    limit = min(max(row["end"] for row in rows), 1.5 * longest)
    diamonds = {(found["network"], found["backend"]): found["tuned"] for found in tuned}
    for row in rows:
        if (row["network"], row["backend"]) in diamonds:
            # The label stands beside the diamond, not on it.
            row["end"] = max(row["end"], diamonds[row["network"], row["backend"]]) + 0.02 * limit
        row["end"] = min(row["end"], limit)
        row["label"] += " →" if row["ms"] > limit else ""
    limit *= 1.12
    networks = [name for name in summary.variants if any(row["network"] == name for row in rows)]
    totals: dict[str, list[float]] = {}
    for row in rows:
        totals.setdefault(row["backend"], []).append(row["ms"])
    order = sorted(totals, key=lambda backend: sum(totals[backend]) / len(totals[backend]))
    base = alt.Chart().encode(
        y=alt.Y("backend:N", sort=order, title=None),
        color=alt.Color(
            "network:N", scale=alt.Scale(domain=networks, range=colours(len(networks), theme)), legend=None
        ),
    )
    scale = alt.Scale(domain=[0, limit], nice=False)
    bars = (
        base.mark_bar(height={"band": 0.7}, clip=True)
        .encode(
            x=alt.X("ms:Q", scale=scale, title="median ms a call, with 95 % interval"),
            tooltip=[
                *("network:N", "backend:N", alt.Tooltip("median:N", title="median [95 %]")),
                *("epochs:Q", "calls:Q"),
            ],
        )
        .transform_filter("isValid(datum.ms)")
    )
    intervals = (
        base.mark_rule(clip=True, strokeWidth=1.5)
        .encode(x=alt.X("low:Q", scale=scale), x2="high:Q", color=alt.value(theme.ink))
        .transform_filter("isValid(datum.low)")
    )
    labels = (
        base.mark_text(align="left", dx=4, fontSize=11)
        .encode(x=alt.X("end:Q", scale=scale), text="label:N", color=alt.value(theme.ink))
        .transform_filter("isValid(datum.end)")
    )
    layers = [bars, intervals, labels]
    notes = [f"{summary.describe(setting)}; shorter is faster"]
    if tuned:
        layers.append(
            base.mark_point(shape="diamond", filled=True, size=55, stroke=theme.ink, clip=True)
            .encode(x=alt.X("tuned:Q", scale=scale), color=alt.value(theme.background))
            .transform_filter("isValid(datum.tuned)")
        )
        notes.append("Diamonds: the same backend with the settings that tuning found")
    if any(row["label"].endswith("→") for row in rows):
        notes.append("Arrows: the bar goes on beyond the edge")
    # Every layer reads the same rows, and a tuned one has no bar.
    panels = alt.layer(*layers, data=data([*rows, *tuned])).properties(width=300, height=alt.Step(20))
    chart = panels.facet(
        facet=alt.Facet("network:N", sort=networks, title=None, header=alt.Header(labelFontWeight="bold")),
        columns=2,
    ).properties(title=titled("Latency by backend", notes, theme))
    return styled(chart, theme)


def to_spec(make: Callable[[Theme], alt.Chart | None], theme: Theme) -> dict[str, Any] | None:
    """A chart as Vega-Lite, not held against its schema: that takes longer than all else, and tests do it."""
    from altair.utils.schemapi import debug_mode

    with debug_mode(False):
        chart = make(theme)
        return chart.to_dict(validate=False) if chart is not None else None


def darkened(spec: Any) -> Any:
    """The specification of a light chart for a dark page: other colours, and the same data."""
    match spec:
        case str():
            return _DARKENED.get(spec, spec)
        case list():
            return [darkened(each) for each in spec]
        case dict():
            return {key: each if key in _DATA else darkened(each) for key, each in spec.items()}
        case _:
            return spec


def darkened_svg(svg: str) -> str:
    """The drawing of a light chart for a dark page."""
    return _PAINT.sub(lambda found: f'{found[1]}"{_DARKENED.get(found[2], found[2])}"', svg)


def to_svg(chart: alt.Chart | dict[str, Any]) -> str:
    """Render without a browser or network."""
    import vl_convert

    spec = chart if isinstance(chart, dict) else chart.to_dict()
    return str(vl_convert.vegalite_to_svg(spec, vl_version=_vega_lite_version()))


def to_png(chart: alt.Chart, scale: float = 1.5) -> bytes:
    """Render without a browser or network."""
    import vl_convert

    return bytes(vl_convert.vegalite_to_png(chart.to_dict(), vl_version=_vega_lite_version(), scale=scale))


def timed(summary: Summary, setting: str) -> list[CellRecord]:
    """The timed cells of a setting that have a place in charts: ablated forms are in a section of their own."""
    return [
        record
        for record in summary.measured
        if record.cell.setting == setting and record.cell.variant in summary.asked
    ]


def data(rows: list[dict[str, Any]]) -> Any:
    """Rows as the values that a chart holds."""
    import altair as alt

    # Altair copies lists and dictionaries at every step of a chart, and a tuple never.
    return alt.Data(values=tuple(rows))  # type: ignore[no-untyped-call]


def colours(count: int, theme: Theme) -> list[str]:
    """So many colours, from the first of the palette on."""
    return [theme.palette[i % len(theme.palette)] for i in range(count)]


def titled(text: str, notes: list[str], theme: Theme) -> Any:
    """A chart's title with notes below it."""
    import altair as alt

    return alt.TitleParams(text=text, subtitle=notes, anchor="start", subtitleColor=theme.muted, offset=12)


def styled(chart: Any, theme: Theme) -> alt.Chart:
    """A chart with the report's looks."""
    ink = {"labelColor": theme.ink, "titleColor": theme.ink}
    finished: alt.Chart = (
        chart.properties(background=theme.background, padding=12)
        .configure(font="sans-serif")
        .configure_view(stroke=theme.frame)
        .configure_axis(
            **ink,
            labelFontSize=11,
            titleFontSize=12,
            titleFontWeight="normal",
            gridColor=theme.grid,
            domainColor=theme.muted,
            tickColor=theme.muted,
            labelLimit=220,
        )
        .configure_header(**ink)
        .configure_legend(**ink, symbolBaseFillColor=theme.ink, symbolBaseStrokeColor=theme.ink)
        .configure_title(fontSize=15, subtitleFontSize=11, color=theme.ink)
    )
    return finished


def _vega_lite_version() -> str:
    """The major.minor that the installed Altair writes, as vl-convert asks for it."""
    import altair as alt

    return ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
