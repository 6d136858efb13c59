"""A cell's calls over time: what each of its turns took, so that drift and disturbed turns are seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mnv3_reports.charts import data, styled, titled

if TYPE_CHECKING:
    from mnv3_reports.charts import Theme

WIDTH, HEIGHT = 560, 220


def turns_chart(theme: Theme) -> dict[str, Any]:
    """A chart without its rows, which the page's script puts in: turn, epoch, low, median, high, calls, disturbed."""
    import altair as alt

    x = alt.X("turn:Q", title="turn, in the order of measuring", axis=alt.Axis(tickMinStep=1))
    y = alt.Y("median:Q", title="ms a call", scale=alt.Scale(zero=False))
    colour = alt.Color("epoch:N", title="epoch", scale=alt.Scale(range=list(theme.palette)))
    base = alt.Chart(data([])).encode(
        x=x,
        color=colour,
        tooltip=[
            *("turn:Q", "epoch:N", alt.Tooltip("median:Q", title="median ms")),
            *(alt.Tooltip("low:Q", title="10 %"), alt.Tooltip("high:Q", title="90 %")),
            *("calls:Q", "disturbed:N"),
        ],
    )
    ranges = base.mark_rule(strokeWidth=2, opacity=0.45).encode(
        y=alt.Y("low:Q", title="ms a call"), y2="high:Q"
    )
    points = base.mark_point(filled=True, size=45, opacity=1).encode(
        y=y, shape=alt.Shape("state:N", title="turn", scale=alt.Scale(range=["circle", "triangle-up"]))
    )
    chart = alt.layer(ranges, points).properties(
        width=WIDTH,
        height=HEIGHT,
        title=titled(
            "Calls over time",
            ["A point is the median of a turn's calls, its line the middle 80 % of them"],
            theme,
        ),
    )
    found: dict[str, Any] = styled(chart, theme).to_dict()
    return found
