"""The report's charts, each defined once as an Altair chart and rendered to SVG or PNG without a browser.

Colours are Okabe and Ito's (2008, https://jfly.uni-koeln.de/color/), which people with any common colour
blindness can tell apart. The background is white, so that a chart reads the same on a dark page.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from mnv3_reports import units
from mnv3_reports.cell_words import backend_name
from mnv3_reports.statistics import median

if TYPE_CHECKING:
    import altair as alt

    from mnv3_reports.record import Cell, CellRecord, PublishedFigure, VariantFacts
    from mnv3_reports.summary import Summary

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#8C6D31")
GREY = "#767676"
PARETO_WIDTH, PARETO_HEIGHT = 560, 360
LONGEST = 5.0
"""A bar longer than so many times the median one is cut."""
LABEL_GAP = 14
"""Pixels between a label and its point, and between two labels."""
ALIGNMENTS: tuple[tuple[Literal["left", "right"], int], ...] = (("left", -4), ("right", 4))
LETTER = 6.0
"""Pixels a letter of a label takes, about."""


def latency_chart(summary: Summary, setting: str) -> alt.Chart | None:
    """Median latency by backend with 95 % intervals, one panel a network; None when nothing was timed."""
    import altair as alt

    records = _timed(summary, setting)
    if not records:
        return None
    rows = []
    tuned: list[dict[str, Any]] = []
    timed = {record.cell.key: record.cell for record in records}
    for record in records:
        default = timed.get(summary.defaults.get(record.cell.key, ""))
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
            "network:N", scale=alt.Scale(domain=networks, range=_colours(len(networks))), legend=None
        ),
    )
    scale = alt.Scale(domain=[0, limit], nice=False)
    bars = (
        base.mark_bar(height={"band": 0.7}, clip=True)
        .encode(x=alt.X("ms:Q", scale=scale, title="median ms a call, with 95 % interval"))
        .transform_filter("isValid(datum.ms)")
    )
    intervals = (
        base.mark_rule(clip=True, strokeWidth=1.5, color="#000000")
        .encode(x=alt.X("low:Q", scale=scale), x2="high:Q", color=alt.value("#000000"))
        .transform_filter("isValid(datum.low)")
    )
    labels = (
        base.mark_text(align="left", dx=4, fontSize=11)
        .encode(x=alt.X("end:Q", scale=scale), text="label:N", color=alt.value("#222222"))
        .transform_filter("isValid(datum.end)")
    )
    layers = [bars, intervals, labels]
    notes = [f"{summary.describe(setting)}; shorter is faster"]
    if tuned:
        layers.append(
            base.mark_point(shape="diamond", filled=True, size=55, stroke="#000000", clip=True)
            .encode(x=alt.X("tuned:Q", scale=scale), color=alt.value("#ffffff"))
            .transform_filter("isValid(datum.tuned)")
        )
        notes.append("Diamonds: the same backend with the settings that tuning found")
    if any(row["label"].endswith("→") for row in rows):
        notes.append("Arrows: the bar goes on beyond the edge")
    # Every layer reads the same rows, and a tuned one has no bar.
    data = _data([*rows, *tuned])
    panels = alt.layer(*layers, data=data).properties(width=300, height=alt.Step(20))
    chart = panels.facet(
        facet=alt.Facet("network:N", sort=networks, title=None, header=alt.Header(labelFontWeight="bold")),
        columns=2,
    ).properties(title=_title("Latency by backend", notes))
    return _styled(chart)


def pareto_chart(summary: Summary, setting: str) -> alt.Chart | None:
    """Latency here against published top-1, the best trade-offs joined; None without two to compare.

    Every timed cell is a point at the accuracy published for its network in the cell's precision. Cells for
    whose precision nothing is published have no place in it.
    """
    import altair as alt

    rows = _pareto_rows(summary, setting)
    best = [row for row in rows if row["best"]]
    if len(best) < 2:
        return None
    x_domain = _padded([row["ms"] for row in rows], 1.25)
    y_low, y_high = min(row["top1"] for row in rows), max(row["top1"] for row in rows)
    margin = max((y_high - y_low) * 0.12, 0.5)
    y_domain = [y_low - margin, y_high + 1.5 * margin]
    _place_labels(best, x_domain, y_domain)
    x = alt.X(
        "ms:Q",
        title="median ms a call, measured here (log scale)",
        scale=alt.Scale(type="log", domain=x_domain, nice=False),
    )
    y = alt.Y(
        "top1:Q", title="top-1 %, published (not measured)", scale=alt.Scale(domain=y_domain, nice=False)
    )
    networks = [name for name in summary.variants if any(row["network"] == name for row in rows)]
    colour = alt.Color(
        "network:N", scale=alt.Scale(domain=networks, range=_colours(len(networks))), legend=None
    )
    precisions = sorted({row["precision"] for row in rows})
    shapes = ["circle", "diamond", "square", "triangle-up", "cross"]
    shape = alt.Shape(
        "precision:N",
        scale=alt.Scale(domain=precisions, range=[shapes[i % len(shapes)] for i in range(len(precisions))]),
        legend=alt.Legend(title="precision", orient="bottom-right", fillColor="#ffffff", padding=6)
        if len(precisions) > 1
        else None,
    )
    layers = [
        alt.Chart(_data(_front(rows)))
        .mark_line(color=GREY, strokeDash=[5, 4], strokeWidth=1.5)
        .encode(x=x, y=y, order="ms:Q"),
        alt.Chart(_data([row for row in rows if not row["best"]]))
        .mark_point(filled=True, size=45, opacity=0.35)
        .encode(x=x, y=y, color=colour, shape=shape),
        alt.Chart(_data(best))
        .mark_point(filled=True, size=110, opacity=1)
        .encode(x=x, y=y, color=colour, shape=shape),
    ]
    for align, dx in ALIGNMENTS:
        text = alt.Chart(_data([row for row in best if row["align"] == align])).encode(
            x=alt.X("ms:Q"), y=alt.Y("label_y:Q"), text="label:N"
        )
        # A white rim keeps a label readable where the front passes behind it.
        layers.append(text.mark_text(align=align, dx=dx, fontSize=11, stroke="#ffffff", strokeWidth=4))
        layers.append(text.mark_text(align=align, dx=dx, fontSize=11, color="#222222"))
    notes = [
        f"{summary.describe(setting)}. Top-1 is published for the network, not measured; the report names its source.",
        "Large: a network's fastest backend by precision. Dashed: choices that no other beats in both.",
    ]
    left_out = len(_timed(summary, setting)) - len(rows)
    if left_out:
        notes.append(
            f"Not shown: {units.counted(left_out, 'timed cell')}; no top-1 is published for network and precision."
        )
    chart = alt.layer(*layers).properties(
        width=PARETO_WIDTH, height=PARETO_HEIGHT, title=_title("Latency against published accuracy", notes)
    )
    return _styled(chart)


def to_svg(chart: alt.Chart) -> str:
    """Render without a browser or network."""
    import vl_convert

    return str(vl_convert.vegalite_to_svg(chart.to_dict(), vl_version=_vega_lite_version()))


def to_png(chart: alt.Chart, scale: float = 1.5) -> bytes:
    """Render without a browser or network."""
    import vl_convert

    return bytes(vl_convert.vegalite_to_png(chart.to_dict(), vl_version=_vega_lite_version(), scale=scale))


def published_top1(facts: VariantFacts, precision: str) -> PublishedFigure | None:
    """The first listed figure that has a top-1 at the network's resolution and this precision."""
    for figure in facts.published:
        if figure.top1 is not None and (figure.resolution, figure.precision) == (facts.resolution, precision):
            return figure
    return None


def _timed(summary: Summary, setting: str) -> list[CellRecord]:
    return [record for record in summary.measured if record.cell.setting == setting]


def _pareto_rows(summary: Summary, setting: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for record in _timed(summary, setting):
        facts = summary.facts(record.cell)
        precision = summary.precision(record)
        figure = published_top1(facts, precision) if facts is not None else None
        if figure is None:
            continue
        rows.append(
            {
                "network": record.cell.variant,
                "precision": precision,
                "ms": summary.statistics[record.cell.key].latency.estimate * 1e3,
                "top1": figure.top1,
                "label": f"{record.cell.variant} · {_short(summary, record.cell)}",
                "best": False,
            }
        )
    fastest: dict[tuple[str, str], dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: float(row["ms"])):
        fastest.setdefault((row["network"], row["precision"]), row)
    for row in fastest.values():
        row["best"] = True
    return rows


def _short(summary: Summary, cell: Cell) -> str:
    """A tuned backend without its settings, which the report lists."""
    return cell.backend if summary.planned(cell) else f"{backend_name(cell.backend).base} (tuned)"


def _front(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Points that no other one beats in both latency and accuracy."""
    front: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda row: (row["ms"], -row["top1"])):
        if not front or row["top1"] > front[-1]["top1"]:
            front.append(row)
    return front


def _place_labels(rows: list[dict[str, Any]], x_domain: list[float], y_domain: list[float]) -> None:
    """Put each row's label above or below its point, to either side, so that it touches no label or point.

    Where none of the four places is free, it goes as far up as it must.
    """
    per_pixel = (y_domain[1] - y_domain[0]) / PARETO_HEIGHT
    pixels = PARETO_WIDTH / math.log(x_domain[1] / x_domain[0])
    points = [(math.log(row["ms"] / x_domain[0]) * pixels, row["top1"] / per_pixel) for row in rows]
    taken: list[tuple[float, float, float]] = [(x - 7, x + 7, y) for x, y in points]
    for row, (x, y) in sorted(zip(rows, points, strict=True), key=lambda item: item[1]):
        width = LETTER * len(row["label"])
        sides = {"left": x - 4, "right": x + 4 - width}
        inside = [side for side, left in sides.items() if left > 0 and left + width < PARETO_WIDTH]
        beside = [(side, LABEL_GAP * up) for up in (1, -1) for side in inside or sides]
        further = [("left", LABEL_GAP + step) for step in range(PARETO_HEIGHT)]
        for side, offset in (*beside, *further):
            left, height = sides[side], y + offset
            if not any(
                left < end and start < left + width and abs(height - at) < LABEL_GAP - 1
                for start, end, at in taken
            ):
                break
        row["align"], row["label_y"] = side, height * per_pixel
        taken.append((left, left + width, height))


def _data(rows: list[dict[str, Any]]) -> Any:
    import altair as alt

    return alt.Data(values=rows)  # type: ignore[no-untyped-call]


def _padded(values: list[float], factor: float) -> list[float]:
    return [min(values) / factor, max(values) * factor]


def _colours(count: int) -> list[str]:
    return [PALETTE[i % len(PALETTE)] for i in range(count)]


def _title(text: str, notes: list[str]) -> Any:
    import altair as alt

    return alt.TitleParams(text=text, subtitle=notes, anchor="start", subtitleColor="#555555", offset=12)


def _styled(chart: Any) -> alt.Chart:
    styled: alt.Chart = (
        chart.properties(background="#ffffff", padding=12)
        .configure_view(stroke="#dddddd")
        .configure_axis(
            labelFontSize=11, titleFontSize=12, titleFontWeight="normal", gridColor="#eeeeee", labelLimit=220
        )
        .configure_title(fontSize=15, subtitleFontSize=11)
        .configure(font="sans-serif")
    )
    return styled


def _vega_lite_version() -> str:
    """The major.minor that the installed Altair writes, as vl-convert asks for it."""
    import altair as alt

    return ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
