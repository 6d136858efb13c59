"""Latency against accuracy: which choices no other beats in both.

Accuracy is what the run measured. A network that was not evaluated stands at the accuracy published for it, as long as
nothing was measured as an equal; beside measured points it is hollow, since it is of other images.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from mnv3_reports import units
from mnv3_reports.accuracy import wilson_interval
from mnv3_reports.cell_words import backend_name
from mnv3_reports.charts import LIGHT, colours, data, styled, timed, titled

if TYPE_CHECKING:
    from collections.abc import Sequence

    import altair as alt

    from mnv3_reports.charts import Theme
    from mnv3_reports.record import Cell, CellRecord, PublishedFigure, VariantFacts
    from mnv3_reports.summary import Summary

WIDTH, HEIGHT = 560, 360
BUDGET = "budget"
"""Name of the chart's parameter."""
LABEL_GAP = 14
"""Pixels between a label and its point, and between two labels."""
HALF = (LABEL_GAP - 1) / 2
"""Of the height that a label or a point takes."""
SIDES: tuple[tuple[Literal["left", "right"], int], ...] = (("left", 1), ("right", -1))
"""A label that begins right of its point is aligned left."""
LETTER = 6.0
"""Pixels a letter of a label takes, about."""
SHAPES = ("circle", "diamond", "square", "triangle-up", "cross")


def pareto_chart(summary: Summary, setting: str, theme: Theme = LIGHT) -> alt.Chart | None:
    """Latency here against top-1, the best trade-offs joined; None without two to compare.

    Every timed cell is a point: at its own measured top-1 with Wilson's interval, or, of a network of which no cell was
    evaluated, at the accuracy published for it in the cell's precision. Cells without either have no place in it.
    Its parameter `budget` is a latency in ms above which points fade; without one none does.
    """
    import altair as alt

    rows = rows_of(summary, setting)
    best = [row for row in rows if row["best"]]
    if len(best) < 2:
        return None
    x_domain = [min(row["ms"] for row in rows) / 1.25, max(row["ms"] for row in rows) * 1.25]
    lowest = min(row["top1"] if not row["best"] else row["low"] for row in rows)
    highest = max(row["top1"] if not row["best"] else row["high"] for row in rows)
    margin = max((highest - lowest) * 0.12, 0.5)
    y_domain = [lowest - margin, highest + 1.5 * margin]
    place_labels(best, x_domain, y_domain, [row for row in rows if not row["best"]])
    x = alt.X(
        "ms:Q",
        title="median ms a call, measured here (log scale)",
        scale=alt.Scale(type="log", domain=x_domain, nice=False),
    )
    said = _said(summary, rows)
    y = alt.Y("top1:Q", title=said.axis, scale=alt.Scale(domain=y_domain, nice=False))
    networks = [name for name in summary.variants if any(row["network"] == name for row in rows)]
    colour = alt.Color(
        "network:N", scale=alt.Scale(domain=networks, range=colours(len(networks), theme)), legend=None
    )
    precisions = sorted({row["precision"] for row in rows})
    shape = alt.Shape(
        "precision:N",
        scale=alt.Scale(
            domain=precisions, range=[SHAPES[place % len(SHAPES)] for place in range(len(precisions))]
        ),
        legend=alt.Legend(title="precision", orient="right") if len(precisions) > 1 else None,
    )
    hollow = any(row["measured"] for row in rows)
    budget = alt.param(name=BUDGET, value=None)
    within = "budget == null || datum.ms <= budget"
    layers = [
        alt.Chart(data(front(rows)))
        .mark_line(color=theme.muted, strokeDash=[5, 4], strokeWidth=1.5)
        .encode(x=x, y=y, order="ms:Q"),
        alt.Chart(data([row for row in best if row["measured"]]))
        .mark_rule(strokeWidth=1.5, opacity=0.6)
        .encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=colour),
    ]
    for large in (False, True):
        for is_filled in (True, False):
            points = [
                row for row in rows if row["best"] is large and (row["measured"] or not hollow) is is_filled
            ]
            marked = alt.Chart(data(points)).encode(
                x=x,
                y=y,
                color=colour,
                shape=shape,
                tooltip=["label:N", "precision:N", alt.Tooltip("median:N", title="median"), "accuracy:N"],
                opacity=alt.when(within).then(alt.value(1 if large else 0.35)).otherwise(alt.value(0.08)),
            )
            layers.append(
                marked.mark_point(
                    filled=is_filled,
                    fill=alt.Undefined if is_filled else theme.background,
                    size=110 if large else 45,
                    strokeWidth=2,
                )
            )
    layers.append(
        alt.Chart(data([row for row in best if row["far"]]))
        .mark_rule(color=theme.muted, strokeWidth=0.8)
        .encode(x=x, y=y, x2="label_x:Q", y2="label_y:Q")
    )
    for align in ("left", "right"):
        text = alt.Chart(data([row for row in best if row["align"] == align])).encode(
            x=alt.X("label_x:Q"), y=alt.Y("label_y:Q"), text="label:N"
        )
        # A white rim keeps a label readable where the front or an interval passes behind it.
        layers.append(text.mark_text(align=align, fontSize=11, stroke=theme.background, strokeWidth=4))
        layers.append(text.mark_text(align=align, fontSize=11, color=theme.ink))
    notes = [f"{summary.describe(setting)}. {said.first}", *said.further]
    left_out = len(timed(summary, setting)) - len(rows)
    if left_out:
        notes.append(f"Not shown: {units.counted(left_out, 'timed cell')}; {said.missing}.")
    chart = (
        alt.layer(*layers)
        .properties(width=WIDTH, height=HEIGHT, title=titled(said.title, notes, theme))
        .add_params(budget)
    )
    return styled(chart, theme)


class _Words(NamedTuple):
    """What a chart says of its accuracy."""

    title: str
    axis: str
    first: str
    further: list[str]
    missing: str


def title_of(summary: Summary, setting: str) -> str:
    """The chart's title, as for a link to it."""
    return _said(summary, rows_of(summary, setting)).title


def _said(summary: Summary, rows: list[dict[str, Any]]) -> _Words:
    evaluation = summary.run.evaluation
    measured = any(row["measured"] for row in rows)
    published = not all(row["measured"] for row in rows)
    large = "Large: a network's fastest backend by precision, and what is on the front."
    if not measured or evaluation is None:
        return _Words(
            "Latency against published accuracy",
            "top-1 %, published (not measured)",
            "Top-1 is published for the network, not measured; the report names its source.",
            [
                "Large: a network's fastest backend by precision. Dashed: choices that no other beats in both.",
            ],
            "no top-1 is published for network and precision",
        )
    where = f"{units.counted(evaluation.images, 'image')} of {evaluation.data}"
    further = [f"{large} Bars: 95 % intervals.", "Dashed: measured choices that no other beats in both."]
    if not published:
        return _Words(
            "Latency against measured accuracy",
            f"top-1 %, measured on {evaluation.data}",
            f"Top-1 is measured on {where}.",
            further,
            "not evaluated",
        )
    return _Words(
        "Latency against accuracy, measured and published",
        f"top-1 %: filled measured on {evaluation.data}, hollow published",
        f"Filled: top-1 measured on {where}.",
        [
            "Hollow: published top-1 of networks that were not evaluated, of other images: no comparison.",
            *further,
        ],
        "neither evaluated nor published for network and precision",
    )


def published_top1(facts: VariantFacts, precision: str) -> PublishedFigure | None:
    """The first listed figure that has a top-1 at the network's resolution and this precision."""
    for figure in facts.published:
        if figure.top1 is not None and (figure.resolution, figure.precision) == (facts.resolution, precision):
            return figure
    return None


def rows_of(summary: Summary, setting: str) -> list[dict[str, Any]]:
    """A row a cell that has a place in the chart; `best` are those that get a label."""
    records = timed(summary, setting)
    evaluated = {record.cell.variant for record in records if record.accuracy is not None}
    rows: list[dict[str, Any]] = []
    for record in records:
        top1 = _measured(record) if record.cell.variant in evaluated else _published(summary, record)
        if top1 is None:
            continue
        measured = record.cell.variant in evaluated
        published = ", published" if evaluated and not measured else ""
        latency = summary.statistics[record.cell.key].latency
        where = "measured" if measured else "published"
        rows.append(
            {
                "key": record.cell.key,
                "network": record.cell.variant,
                "backend": record.cell.backend,
                "precision": summary.precision(record),
                "ms": latency.estimate * 1e3,
                "median": f"{units.enclosed(latency, 1e3)} ms",
                **top1,
                "accuracy": f"{top1['top1']:.1f} % ({where})",
                "label": f"{record.cell.variant} · {_short(summary, record.cell)}{published}",
                "best": False,
                "measured": measured,
            }
        )
    fastest: dict[tuple[str, str], dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: float(row["ms"])):
        fastest.setdefault((row["network"], row["precision"]), row)
    for row in (*fastest.values(), *front([row for row in rows if row["measured"]])):
        row["best"] = True
    return rows


def _measured(record: CellRecord) -> dict[str, float] | None:
    found = record.accuracy
    interval = wilson_interval(found.top1, found.images) if found is not None else None
    if interval is None:
        return None
    return {"top1": interval.estimate * 100, "low": interval.low * 100, "high": interval.high * 100}


def _published(summary: Summary, record: CellRecord) -> dict[str, float] | None:
    facts = summary.facts(record.cell)
    figure = published_top1(facts, summary.precision(record)) if facts is not None else None
    if figure is None or figure.top1 is None:
        return None
    return {"top1": figure.top1, "low": figure.top1, "high": figure.top1}


def _short(summary: Summary, cell: Cell) -> str:
    """A tuned backend without its settings, which the report lists."""
    return cell.backend if summary.planned(cell) else f"{backend_name(cell.backend).base} (tuned)"


def front(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Points that no other one beats in both latency and accuracy; of measured ones only, where there are any."""
    measured = [row for row in rows if row["measured"]] or rows
    found: list[dict[str, Any]] = []
    for row in sorted(measured, key=lambda row: (row["ms"], -row["top1"])):
        if not found or row["top1"] > found[-1]["top1"]:
            found.append(row)
    return found


class Box(NamedTuple):
    """What is taken on the chart, in pixels from its lower left."""

    left: float
    right: float
    bottom: float
    top: float

    def touches(self, other: Box) -> bool:
        """Whether the two share more than an edge."""
        across = self.left < other.right and other.left < self.right
        return across and self.bottom < other.top and other.bottom < self.top


class _Place(NamedTuple):
    """Where a label may stand, in pixels from its point."""

    align: Literal["left", "right"]
    across: float
    """From the point to the label's near end."""
    up: float
    """From the point to the label's middle."""

    def box(self, x: float, y: float, width: float) -> Box:
        """What a label of this width takes there, of a point at (x, y)."""
        end = x + self.across
        left = end if self.align == "left" else end - width
        middle = y + self.up
        return Box(left, left + width, middle - HALF, middle + HALF)


def place_labels(
    rows: list[dict[str, Any]],
    x_domain: list[float],
    y_domain: list[float],
    others: Sequence[dict[str, Any]] = (),
) -> None:
    """Put each row's label beside its point, so that it touches no other label or point.

    If it can it touches no interval either, and none of the other points, which have no label. Where no place beside
    its point is free it goes as far up or down as it must, and `far` says that it needs a line.
    """
    per_pixel = (y_domain[1] - y_domain[0]) / HEIGHT
    pixels = WIDTH / math.log(x_domain[1] / x_domain[0])

    def height(value: float) -> float:
        return (value - y_domain[0]) / per_pixel

    def point(row: dict[str, Any]) -> tuple[float, float]:
        return math.log(row["ms"] / x_domain[0]) * pixels, height(row["top1"])

    points = [point(row) for row in rows]
    better_not = [Box(x - 4, x + 4, y - 4, y + 4) for x, y in map(point, others)]
    better_not += [
        Box(x - 2, x + 2, height(row["low"]), height(row["high"]))
        for row, (x, _) in zip(rows, points, strict=True)
        if row.get("high", row["top1"]) > row.get("low", row["top1"])
    ]
    taken = [Box(x - 7, x + 7, y - HALF, y + HALF) for x, y in points]
    whole = Box(0, WIDTH, 0, HEIGHT)
    for row, (x, y) in sorted(zip(rows, points, strict=True), key=lambda item: item[1]):
        width = LETTER * len(row["label"])

        def free(place: _Place, *further: Box, x: float = x, y: float = y, width: float = width) -> bool:
            box = place.box(x, y, width)
            inside = box.left >= 0 and box.right <= whole.right and box.bottom >= 0 and box.top <= whole.top
            return inside and not any(box.touches(other) for other in (*taken, *further))

        near = [place for place in NEAR if free(place, *better_not)] or [
            place for place in NEAR if free(place)
        ]
        place = near[0] if near else next(filter(free, FAR), NEAR[0])
        row["align"], row["far"] = place.align, not near
        row["label_x"] = x_domain[0] * math.exp((x + place.across) / pixels)
        row["label_y"] = y_domain[0] + (y + place.up) * per_pixel
        taken.append(place.box(x, y, width))


NEAR = tuple(
    _Place(align, sign * across, up)
    for up, across in ((LABEL_GAP, 4.0), (-LABEL_GAP, 4.0), (0.0, 11.0))
    for align, sign in SIDES
)
"""Above, below and beside a point, to the right and to the left."""
FAR = tuple(
    _Place(align, sign * 12.0, up * step)
    for step in range(LABEL_GAP + 4, HEIGHT, 4)
    for up in (1, -1)
    for align, sign in SIDES
)
