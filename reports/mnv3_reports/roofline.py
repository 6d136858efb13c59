"""The roofline: what a machine attains at most, and how near to that every cell and every kind of layer comes.

Source: Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for multicore
architectures", Communications of the ACM 52(4), 2009; with a roof for each cache level, as in Ilic, Pratas and Sousa,
"Cache-aware roofline model: upgrading the loft", IEEE Computer Architecture Letters 13(1), 2014.

An operator cannot be done sooner than its arithmetic at the roof of its precision, nor sooner than its bytes at the
bandwidth of the smallest level that holds them. The later of the two is its least time. What consists of several
operators takes the sum of theirs, and its percent of attainable is that sum over the time measured.
"""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from mnv3_reports import units
from mnv3_reports.charts import LIGHT, colours, data, styled, titled
from mnv3_reports.escaping import code, inline
from mnv3_reports.layout import Column, Value, build, folded, missing, to_markdown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import altair as alt

    from mnv3_reports.charts import Theme
    from mnv3_reports.record import Cell, CellRecord, Profiled, ProfiledOperator, Roof, Roofs
    from mnv3_reports.summary import Summary

Bound = Literal["compute", "memory"]

OPEN = 12
"""Rows that a reader gets without unfolding them."""
MOST = 60
"""Rows of a table; the others are counted."""
KINDS = (
    "convolution",
    "pointwise",
    "depthwise",
    "linear",
    "squeeze-excitation",
    "normalization",
    "activation",
    "reorder",
    "other",
)
"""Of layers, in the order of the table's columns."""
WIDTH, HEIGHT = 560, 360
SHAPES = ("circle", "diamond", "square", "triangle-up", "cross")
INTRODUCTION = """\
An operation is a multiplication or an addition: a MAC is two. **Percent of attainable** is the least time over the
measured one: each operator's least time is that of its arithmetic at the roof of its precision, or that of its bytes at
the bandwidth of the smallest level that holds them, whichever is longer. Bytes are the least traffic, every tensor and
weight once. The ceiling is generous (weights count as cached from the call before, and no time goes between operators),
so 100 % is out of reach; more than that means that a roof was measured too low or bytes came from nearer."""


class Level(NamedTuple):
    """The roofs that bound one operator."""

    compute: Roof
    bandwidth: Roof


class Least(NamedTuple):
    """The least time for some work."""

    seconds: float
    bound: Bound
    """What takes it: arithmetic or moving bytes."""
    roof: str
    """Name of the roof: fp32, bf16 or int8, or L1, L2, L3 or memory."""


def attainable(roofs: Roofs, precision: str, operations: float, bytes: float) -> tuple[float, Bound]:  # noqa: A002
    """Operations a second that work of this intensity can attain, and which roof is the lower one.

    Args:
        roofs: of the machine, with at least one of each kind.
        precision: as the record has it; one without a roof of its own is held against fp32's (see `roofs_of`).
        operations: multiplications and additions; a multiply-accumulate is two.
        bytes: read and written, 0 where not known; their bandwidth is that of the smallest level that holds them.

    Raises:
        ValueError: negative amounts, neither operations nor bytes, or a kind of roof is missing.
    """
    found = least(roofs, precision, operations, bytes)
    return operations / found.seconds, found.bound


def least(roofs: Roofs, precision: str, operations: float, bytes: float) -> Least:  # noqa: A002
    """The least seconds for this work on this machine.

    Args:
        roofs: of the machine, with at least one of each kind.
        precision: as the record has it.
        operations: multiplications and additions.
        bytes: read and written.

    Raises:
        ValueError: negative amounts, neither operations nor bytes, or a kind of roof is missing.
    """
    if min(operations, bytes) < 0 or operations + bytes <= 0:
        raise ValueError(f"{operations} operations on {bytes} bytes are no work")
    level = roofs_of(roofs, precision, bytes)
    arithmetic, moving = operations / level.compute.value, bytes / level.bandwidth.value
    if arithmetic >= moving:
        return Least(arithmetic, "compute", level.compute.name)
    return Least(moving, "memory", level.bandwidth.name)


def roofs_of(roofs: Roofs, precision: str, bytes: float) -> Level:  # noqa: A002
    """The roofs for arithmetic in a precision and for so many bytes.

    Precisions are told apart by how they begin, as in 'int8 products, fp32 between operators'. One without a roof of
    its own has fp32's: where a processor has no instructions for it, it is emulated.

    Raises:
        ValueError: a kind of roof is missing.
    """
    if not roofs.compute or not roofs.bandwidth:
        raise ValueError("the machine's roofs lack arithmetic or bandwidth")
    by_name = {roof.name: roof for roof in roofs.compute}
    own = next((roof for name, roof in by_name.items() if precision.startswith(name)), None)
    holding = (roof for roof in roofs.bandwidth if roof.capacity == 0 or bytes <= roof.capacity)
    return Level(
        own or by_name.get("fp32") or roofs.compute[0],
        next(holding, roofs.bandwidth[-1]),
    )


class Work(NamedTuple):
    """Operators brought together: a cell's, or those of one kind of layer in it."""

    operations: int
    bytes: int
    """Of those operators of which they are known."""
    least_seconds: float
    seconds: float
    """Measured."""
    bound: Bound | None
    """What takes the greater part of the least time; None without known work."""
    roof: str
    """The roof that takes most of it; '' without known work."""

    @property
    def intensity(self) -> float | None:
        """Operations a byte; None where one of them is not known."""
        return self.operations / self.bytes if self.operations and self.bytes else None

    @property
    def share(self) -> float | None:
        """Of the attainable that was attained; None without known work or measured time."""
        return self.least_seconds / self.seconds if self.least_seconds and self.seconds > 0 else None


def work(
    roofs: Roofs, operators: Iterable[ProfiledOperator], precision: str, seconds: float | None = None
) -> Work:
    """Bring operators together.

    Args:
        roofs: of the machine.
        operators: of one cell; those whose MACs and bytes are both unknown count their time alone.
        precision: of those that do not tell their own.
        seconds: measured for all of them; by default the sum of theirs.
    """
    operations = moved = 0
    measured = 0.0
    taken: dict[tuple[Bound, str], float] = {}
    for operator in operators:
        measured += operator.seconds
        if operator.macs or operator.bytes:
            operations += 2 * operator.macs
            moved += operator.bytes
            found = least(roofs, operator.precision or precision, 2 * operator.macs, operator.bytes)
            place = found.bound, found.roof
            taken[place] = taken.get(place, 0.0) + found.seconds
    whole = sum(taken.values())
    compute = sum(part for (bound, _), part in taken.items() if bound == "compute")
    bound: Bound | None = None
    roof = ""
    if taken:
        bound = "compute" if compute >= whole - compute else "memory"
        roof = max((part, name) for (of, name), part in taken.items() if of == bound)[1]
    return Work(operations, moved, whole, measured if seconds is None else seconds, bound, roof)


class Placed(NamedTuple):
    """A cell under the roofs of its number of threads."""

    cell: Cell
    profiled: Profiled
    whole: Work
    kinds: dict[str, Work]


def placed(summary: Summary, roofs: Roofs) -> list[Placed]:
    """The profiled CPU cells with as many threads, networks in the report's order and the fastest backend first."""
    found = []
    for record in _profiled(summary):
        if record.cell.threads == roofs.threads and record.profiled is not None:
            precision = summary.precision(record)
            operators = record.profiled.operators
            kinds = {
                kind: work(roofs, [each for each in operators if each.kind == kind], precision)
                for kind in dict.fromkeys(each.kind for each in operators)
            }
            whole = work(roofs, operators, precision, record.profiled.plain_seconds)
            found.append(Placed(record.cell, record.profiled, whole, kinds))
    order = {variant: place for place, variant in enumerate(summary.variants)}
    return sorted(found, key=lambda row: (order[row.cell.variant], row.cell.setting, row.whole.seconds))


def _profiled(summary: Summary) -> list[CellRecord]:
    return [
        record
        for record in summary.run.cells.values()
        if record.profiled is not None and record.failure is None and record.cell.device == "cpu"
    ]


def section(summary: Summary) -> Iterator[str]:
    """The section's paragraphs, without heading; none where no roofs were measured."""
    measured = _usable(summary)
    if not summary.run.roofs:
        return
    yield " ".join(INTRODUCTION.split())
    for roofs in measured:
        yield f"### Roofs with {units.counted(roofs.threads, 'thread')}"
        yield to_markdown(build(_ROOFS, [*roofs.compute, *roofs.bandwidth]))
        yield from _notes(roofs)
        rows = placed(summary, roofs)
        if rows:
            yield from _outcome(summary, rows)
            yield from _table(_cell_columns(summary), rows, "cells")
            yield "Percent of attainable by kind of layer, of times under each runtime's profiler:"
            yield from _table(_kind_columns(summary, rows), rows, "cells by kind of layer")
    for roofs in summary.run.roofs:
        if roofs not in measured:
            yield f"With {units.counted(roofs.threads, 'thread')} no roofs could be measured."
            yield from _notes(roofs)
    without = {record.cell.threads for record in _profiled(summary)} - {roofs.threads for roofs in measured}
    if without:
        numbers = ", ".join(map(str, sorted(without)))
        yield f"No roofs were measured for cells with this number of threads: {numbers}."


def _usable(summary: Summary) -> list[Roofs]:
    """Roofs of both kinds, by number of threads."""
    found = [roofs for roofs in summary.run.roofs if roofs.compute and roofs.bandwidth]
    return sorted(found, key=lambda roofs: roofs.threads)


def _notes(roofs: Roofs) -> Iterator[str]:
    if roofs.notes:
        yield "\n".join(f"- {inline(note)}" for note in roofs.notes)


def _table(columns: Sequence[Column[Placed]], rows: Sequence[Placed], what: str) -> Iterator[str]:
    yield to_markdown(build(columns, rows[:OPEN]))
    if len(rows) > OPEN:
        rest = to_markdown(build(columns, rows[OPEN:MOST]))
        left_out = f"\n\n{len(rows) - MOST} more are left out here." if len(rows) > MOST else ""
        yield folded(f"{len(rows[OPEN:MOST])} more {what}", rest + left_out)


def _outcome(summary: Summary, rows: Sequence[Placed]) -> Iterator[str]:
    """Which cells are nearest to their roofs and farthest from them, and the kinds of layers over all cells."""
    known = sorted((row.whole.share, place) for place, row in enumerate(rows) if row.whole.share is not None)
    sentences = []
    if known:
        sentences.append(f"Nearest to its roofs: {_at(summary, rows[known[-1][1]])}")
    if len(known) > 1:
        sentences.append(f"farthest from them: {_at(summary, rows[known[0][1]])}")
    by_kind = {
        kind: [share for row in rows if (share := _share(row, kind)) is not None] for kind in _kinds(rows)
    }
    medians = {kind: statistics.median(shares) for kind, shares in by_kind.items() if shares}
    if len(rows) > 1 and medians:
        ordered = sorted(medians, key=lambda kind: -medians[kind])
        listed = ", ".join(f"{inline(kind)} {units.percent(medians[kind])}" for kind in ordered)
        sentences.append(f"median over these cells by kind of layer: {listed}")
    if sentences:
        text = "; ".join(sentences)
        yield f"{text[0].upper()}{text[1:]}."


def _at(summary: Summary, row: Placed) -> str:
    share = row.whole.share or 0.0
    return f"{inline(summary.names.one(row.cell))} on {code(row.cell.backend)} ({units.percent(share)})"


def _share(row: Placed, kind: str) -> float | None:
    return row.kinds[kind].share if kind in row.kinds else None


def _kinds(rows: Sequence[Placed]) -> list[str]:
    """The kinds of layers that there are, known ones first."""
    present = dict.fromkeys(kind for row in rows for kind in row.kinds)
    return [*(kind for kind in KINDS if kind in present), *(kind for kind in present if kind not in KINDS)]


def _rate(roof: Roof) -> Value:
    unit = "GB/s" if _is_bandwidth(roof) else "Gop/s"
    value, low, high = (units.significant(each / 1e9) for each in (roof.value, roof.lower, roof.upper))
    return Value(f"{value} {unit} [{low}, {high}]")


def _is_bandwidth(roof: Roof) -> bool:
    return roof.capacity > 0 or roof.name == "memory"


_ROOFS: tuple[Column[Roof], ...] = (
    Column(
        "roof",
        lambda roof: Value(f"{inline(roof.name)}{' bandwidth' if _is_bandwidth(roof) else ''}"),
        align="left",
    ),
    Column("attainable", _rate, "[quartiles]"),
    Column("method", lambda roof: Value(inline(roof.method) or "not told"), align="left"),
)


def _name_columns(summary: Summary) -> list[Column[Placed]]:
    return [
        Column("network", lambda row: Value(inline(summary.names.one(row.cell))), align="left"),
        Column("backend", lambda row: Value(row.cell.backend, code=True), align="left"),
    ]


def _unknown(row: Placed) -> Value:
    """Why a cell has no place under the roofs."""
    reason = row.profiled.unmatched or "its profiler's operators have neither MACs nor bytes"
    return missing(inline(reason))


def _cell_columns(summary: Summary) -> list[Column[Placed]]:
    def performance(row: Placed) -> Value:
        if not row.whole.operations or row.whole.seconds <= 0:
            return _unknown(row)
        return Value(units.significant(row.whole.operations / row.whole.seconds / 1e9))

    def intensity(row: Placed) -> Value:
        found = row.whole.intensity
        return _unknown(row) if found is None else Value(units.significant(found))

    def bound(row: Placed) -> Value:
        return Value(f"{row.whole.bound} ({inline(row.whole.roof)})") if row.whole.bound else _unknown(row)

    def least_time(row: Placed) -> Value:
        seconds = row.whole.least_seconds
        return Value(units.milliseconds(seconds)) if seconds else _unknown(row)

    def share(row: Placed) -> Value:
        return (
            _unknown(row)
            if row.whole.share is None
            else Value(units.percent(row.whole.share).removesuffix(" %"))
        )

    return [
        *_name_columns(summary),
        Column("measured", lambda row: Value(units.milliseconds(row.whole.seconds)), "ms"),
        Column("least", least_time, "ms"),
        Column("performance", performance, "Gop/s"),
        Column("intensity", intensity, "op/byte"),
        Column("bound", bound, align="left"),
        Column("of attainable", share, "%"),
    ]


def _kind_columns(summary: Summary, rows: Sequence[Placed]) -> list[Column[Placed]]:
    def column(kind: str) -> Column[Placed]:
        def value(row: Placed) -> Value:
            if kind not in row.kinds:
                return missing("no operator of this kind runs by itself")
            found = row.kinds[kind].share
            if found is None:
                return missing("MACs and bytes of these operators are not known")
            return Value(units.percent(found).removesuffix(" %"))

        return Column(inline(kind) or "(no name)", value, "%")

    return [*_name_columns(summary), *map(column, _kinds(rows))]


def roofline_chart(summary: Summary, threads: int, theme: Theme = LIGHT) -> alt.Chart | None:
    """Performance over intensity, both logarithmic, under the machine's roofs; a point is a cell.

    None where no roofs were measured with so many threads or no cell has a place under them. Ablated forms have no
    place in it, as in the other charts.
    """
    import altair as alt

    roofs = next((roofs for roofs in _usable(summary) if roofs.threads == threads), None)
    if roofs is None:
        return None
    points = _points(summary, roofs)
    if not points:
        return None
    x_domain, y_domain = _domains(roofs, points)
    lines, labels = _lines(roofs, x_domain)
    networks = [name for name in summary.variants if any(row["network"] == name for row in points)]
    precisions = sorted({row["precision"] for row in points})
    x = alt.X(
        "x:Q",
        title="intensity, operations a byte",
        scale=alt.Scale(type="log", domain=x_domain, nice=False),
        axis=alt.Axis(format="~g", tickCount=8),
    )
    y = alt.Y(
        "y:Q",
        title="performance, Gop/s",
        scale=alt.Scale(type="log", domain=y_domain, nice=False),
        axis=alt.Axis(format="~s" if y_domain[1] >= 1e5 else "~g", tickCount=8),
    )
    ceiling = alt.Chart(data(lines)).encode(x=x, y=y, detail="roof:N")
    text = alt.Chart(data(labels)).encode(x=x, y=y, text="label:N")
    cells = (
        alt.Chart(data(points))
        .mark_point(filled=True, size=70, opacity=0.9)
        .encode(
            x=x,
            y=y,
            color=alt.Color(
                "network:N",
                scale=alt.Scale(domain=networks, range=colours(len(networks), theme)),
                legend=alt.Legend(title="network"),
            ),
            shape=alt.Shape(
                "precision:N",
                scale=alt.Scale(
                    domain=precisions,
                    range=[SHAPES[place % len(SHAPES)] for place in range(len(precisions))],
                ),
                legend=alt.Legend(title="precision") if len(precisions) > 1 else None,
            ),
            tooltip=[
                *("cell:N", "backend:N", "precision:N"),
                alt.Tooltip("x:Q", title="op/byte", format=".3~g"),
                alt.Tooltip("y:Q", title="Gop/s", format=".3~g"),
                alt.Tooltip("share:N", title="of attainable"),
                "bound:N",
            ],
        )
    )
    layers = [ceiling.mark_line(color=theme.muted, strokeWidth=1.5)]
    steep = math.log(x_domain[1] / x_domain[0]) / WIDTH / (math.log(y_domain[1] / y_domain[0]) / HEIGHT)
    placing: dict[str, dict[str, Any]] = {
        # Along the slopes, from their feet; above the flat ones, at their right ends.
        "left": {"align": "left", "dx": 12, "angle": 360 - math.degrees(math.atan(steep))},
        "right": {"align": "right", "dx": -4},
    }
    for align, given in placing.items():
        chosen = text.transform_filter(f"datum.align == '{align}'")
        looks = {**given, "baseline": "bottom", "dy": -4, "fontSize": 11}
        # A rim in the background's colour keeps a label readable where a line passes behind it.
        layers.append(chosen.mark_text(**looks, stroke=theme.background, strokeWidth=4))
        layers.append(chosen.mark_text(**looks, color=theme.ink))
    notes = [
        f"{units.counted(threads, 'thread')}; a point is a cell, its time without profiler. Logarithmic scales",
        "Lines: what this machine attains, measured. A cell's own ceiling is its operators' (see the table)",
    ]
    chart = alt.layer(*layers, cells).properties(
        width=WIDTH, height=HEIGHT, title=titled("Roofline", notes, theme)
    )
    return styled(chart, theme)


def _points(summary: Summary, roofs: Roofs) -> list[dict[str, Any]]:
    rows = []
    for row in placed(summary, roofs):
        intensity = row.whole.intensity
        if intensity is None or row.whole.seconds <= 0 or row.cell.variant not in summary.asked:
            continue
        rows.append(
            {
                "network": row.cell.variant,
                "cell": summary.names.one(row.cell),
                "backend": row.cell.backend,
                "precision": summary.precision(summary.run.cells[row.cell.key]),
                "x": intensity,
                "y": row.whole.operations / row.whole.seconds / 1e9,
                "share": units.percent(row.whole.share or 0.0),
                "bound": f"{row.whole.bound} ({row.whole.roof})",
            }
        )
    return rows


def _domains(roofs: Roofs, points: Sequence[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """Intensities from below the first ridge to beyond the last one, performances about roofs and points."""
    fastest = max(roof.value for roof in roofs.compute)
    bandwidths = [roof.value for roof in roofs.bandwidth]
    x_domain = [
        min(fastest / max(bandwidths) / 4, *(row["x"] / 2 for row in points)),
        max(fastest / min(bandwidths) * 2.5, *(row["x"] * 2 for row in points)),
    ]
    highest = max(fastest / 1e9, *(row["y"] for row in points))
    foot = min(bandwidths) / 1e9 * x_domain[0]
    y_domain = [min(foot / 1.3, *(row["y"] / 2 for row in points)), 2 * highest]
    return x_domain, y_domain


def _lines(roofs: Roofs, x_domain: Sequence[float]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Ends of the roofs' lines within the drawing, and their labels: at the foot of slopes, at the right of others."""
    highest = max(roof.value for roof in roofs.compute) / 1e9
    widest = max(roof.value for roof in roofs.bandwidth) / 1e9
    lines: list[dict[str, Any]] = []
    labels: list[dict[str, Any]] = []
    for roof in roofs.bandwidth:
        slope = roof.value / 1e9
        first = x_domain[0]
        name = f"{roof.name} bandwidth"
        lines += [{"roof": name, "x": x, "y": slope * x} for x in (first, highest / slope)]
        label = f"{roof.name}, {units.significant(slope)} GB/s"
        labels.append({"label": label, "x": first, "y": slope * first, "align": "left"})
    for roof in roofs.compute:
        rate = roof.value / 1e9
        left = max(x_domain[0], rate / widest)
        lines += [{"roof": roof.name, "x": x, "y": rate} for x in (left, x_domain[1])]
        label = f"{roof.name}, {units.significant(rate)} Gop/s"
        labels.append({"label": label, "x": x_domain[1], "y": rate, "align": "right"})
    return lines, labels
