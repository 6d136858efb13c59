"""Where the time goes as a chart: a bar a profiled cell, its parts the kinds of work, its length a call's time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mnv3_reports import units
from mnv3_reports.charts import LIGHT, data, styled, titled
from mnv3_reports.escaping import plain
from mnv3_reports.profiles import KINDS, UNATTRIBUTED, kinds_of, profiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    import altair as alt

    from mnv3_reports.charts import Theme
    from mnv3_reports.profiles import CellProfile
    from mnv3_reports.summary import Summary

_COLOURS = dict(zip(KINDS, (0, 4, 2, 5, 3, 1, 7), strict=False))
"""Kind to its place in a theme's palette; kinds that stand beside each other in a bar differ in lightness too."""


def profile_chart(summary: Summary, theme: Theme = LIGHT) -> alt.Chart | None:
    """Milliseconds of a call by kind of work, a panel a network and a bar a backend, the fastest first.

    Of several settings the run's first one that was profiled is drawn. None where nothing was profiled.

    Args:
        summary: of the run.
        theme: colours.
    """
    import altair as alt

    found = [each for each in profiles(summary) if each.record.cell.variant in summary.asked]
    if not found:
        return None
    setting = min((each.record.cell.setting for each in found), key=summary.settings.index)
    found = [each for each in found if each.record.cell.setting == setting]
    kinds = kinds_of(found)
    names = [plain(kind) for kind in kinds]
    bars = (
        alt.Chart(data(_rows(found, kinds)))
        .mark_bar(height={"band": 0.75}, stroke=theme.background, strokeWidth=0.5)
        .encode(
            y=alt.Y("backend:N", sort=_fastest_first(found), title=None),
            x=alt.X("sum(ms):Q", title="ms a call", axis=alt.Axis(tickCount=6)),
            color=alt.Color(
                "kind:N",
                scale=alt.Scale(domain=names, range=[_colour(kind, theme) for kind in kinds]),
                legend=alt.Legend(
                    title=None, orient="top", columns=5, symbolType="square", symbolStrokeWidth=0
                ),
            ),
            # Without it parts are stacked by the names of their kinds.
            order=alt.Order("place:Q"),
            tooltip=[
                *("network:N", "backend:N", "kind:N"),
                alt.Tooltip("time:N", title="ms"),
                alt.Tooltip("share:N", title="of the call"),
                alt.Tooltip("macs:N", title="MACs"),
            ],
        )
        .properties(width=300, height=alt.Step(20))
    )
    notes = [f"{summary.describe(setting)}; operators under each runtime's own profiler"]
    if UNATTRIBUTED in kinds:
        notes.append("Grey: what a call without the profiler takes beyond its operators")
    networks = [
        plain(name) for name in summary.asked if any(each.record.cell.variant == name for each in found)
    ]
    chart = bars.facet(
        facet=alt.Facet("network:N", sort=networks, title=None, header=alt.Header(labelFontWeight="bold")),
        columns=2,
    ).properties(title=titled("Where the time goes", notes, theme))
    return styled(chart, theme)


def _rows(found: Sequence[CellProfile], kinds: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each kind of each cell."""
    return [
        {
            "network": plain(each.record.cell.variant),
            "backend": plain(each.record.cell.backend),
            "kind": plain(kind),
            "place": kinds.index(kind),
            "ms": share.seconds * 1e3,
            "time": units.milliseconds(share.seconds),
            "share": units.percent(share.share),
            "macs": f"{units.millions(share.macs)} M" if share.macs else "none",
        }
        for each in found
        for kind, share in each.kinds.items()
    ]


def _fastest_first(found: Sequence[CellProfile]) -> list[str]:
    """Backends by the mean of their bars over the networks, as all panels have the same rows."""
    lengths: dict[str, list[float]] = {}
    for each in found:
        lengths.setdefault(plain(each.record.cell.backend), []).append(each.whole)
    return sorted(lengths, key=lambda backend: sum(lengths[backend]) / len(lengths[backend]))


def _colour(kind: str, theme: Theme) -> str:
    """A kind's own colour; greys for what is no work of the network's."""
    if kind in _COLOURS:
        return theme.palette[_COLOURS[kind]]
    return {"reorder": theme.ink, "other": theme.muted}.get(kind, theme.frame)
