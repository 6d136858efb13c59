"""A history's report: what changed and when, the trend of every series, and why some figures are kept apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnv3_reports import units
from mnv3_reports.best_split import FEWEST
from mnv3_reports.escaping import code, inline
from mnv3_reports.history import words
from mnv3_reports.history.query import GROUPS, RAW_POINTS
from mnv3_reports.history.rows import OWN
from mnv3_reports.history.trends import Change, Trend
from mnv3_reports.history.words import counted_series, label, short
from mnv3_reports.layout import Column, Table, Value, build, folded, missing, to_markdown
from mnv3_reports.parts import Parts, Section

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mnv3_reports.history.metrics import Metric
    from mnv3_reports.history.query import Question, Series
    from mnv3_reports.history.sources import Sources

_Pair = tuple[Trend, Change]

NAMED = 8
"""Changes that the answer names, and differences that a change names."""
LONG = 24
"""Rows of a table that a reader gets without unfolding it."""
SOURCES = {
    "pytest-benchmark": (
        "imported from pytest-benchmark: no interval, since the rounds of one process say nothing of the next; the "
        "machine as that file names it"
    ),
    "asv": (
        "imported from asv: no 95 % interval (its own is over the samples of its processes together); the machine as "
        "it names it; dates are the commits'"
    ),
    "timm": (
        "imported from timm's benchmark.py: a mean step and not a median, no interval, no machine and no date but what "
        "was typed with it"
    ),
}
"""Source to what its figures lack."""
METHOD = (
    (
        "A series holds one cell on machines of one fingerprint (CPU, instruction sets, CPUs, quota, hypervisor, "
        "governor, GPUs), with one set of variables for its workers, from one source. Versions and commits may differ "
        "within a series; they are what a change is laid beside. That they changed at the same run does not show that "
        "they are the cause: measure both with `mnv3-bench gate`."
    ),
    (
        "Change points are where the level changed for good, by the ranks of the runs' medians "
        "(`mnv3_reports.changepoints` says how, docs/changepoints.md how often it errs). Each ratio is after / before, "
        "with its 95 % interval over runs. A run is listed as the first after a change where the medians place it "
        "best; noise may move that by some runs, so versions are looked for up to three runs away."
    ),
    (
        f"A series of more than {RAW_POINTS} runs is drawn and searched as at most {GROUPS} groups of runs that follow "
        "each other: a point is a group's median, with the exact 95 % interval of the order statistics. Other points "
        "have their run's own interval, over its epochs."
    ),
)


def report_of(trends: Sequence[Trend], question: Question, sources: Sources) -> Parts:
    """The report without its charts.

    Args:
        trends: what was found, in the order it is told.
        question: what was asked.
        sources: what was read.
    """
    metric = question.metric
    changed = [(trend, change) for trend in trends for change in trend.changes]
    changed.sort(key=lambda pair: pair[1].first.started_at, reverse=True)
    sections = [
        Section("Changes", list(_changes(changed, metric))),
        Section("Trends", list(_trends(trends, metric))),
        Section("Kept apart", list(_apart([trend.series for trend in trends]))),
        Section("How it was found", [*METHOD, _read(sources)]),
    ]
    title = f"{metric.title}: history of {short(question.cells)}"
    return Parts.of(title, _answer(trends, changed, metric), sections, "")


def _answer(trends: Sequence[Trend], changed: Sequence[_Pair], metric: Metric) -> str:
    runs = sum(trend.series.runs for trend in trends)
    of = f"{units.counted(runs, 'figure')} in {counted_series(len(trends))}"
    if not changed:
        return f"- **No lasting change** is shown by {of}."
    lines = [
        f"- **{units.counted(len(changed), 'lasting change')}** in {of}; the latest first:",
        *(f"- {_told(trend, change, metric)}" for trend, change in changed[:NAMED]),
    ]
    if len(changed) > NAMED:
        lines.append(f"- and {len(changed) - NAMED} more in the table.")
    return "\n".join(lines)


def _told(trend: Trend, change: Change, metric: Metric) -> str:
    found = change.found
    word = metric.up if found.ratio > 1 else metric.down
    figures = (
        f"{words.figure(found.before, metric)} → {words.figure(found.after, metric)} {metric.unit}".strip()
    )
    listed = "; ".join(inline(words.difference(each)) for each in change.differences[:NAMED])
    there = f"there {listed}" if listed else "nothing that the record states changed there"
    where = f"{code(short(trend.series.cell))} on {inline(words.machine(trend.series))}"
    return f"{where}: {word} from {words.date(change)} on, {words.ratio(change)} × ({figures}); {there}."


def _changes(changed: Sequence[_Pair], metric: Metric) -> Iterator[str]:
    if not changed:
        return
    columns = [
        Column[_Pair]("cell", lambda pair: Value(short(pair[0].series.cell), code=True), align="left"),
        Column[_Pair]("machine", lambda pair: Value(inline(words.machine(pair[0].series))), align="left"),
        Column[_Pair]("from", lambda pair: Value(words.date(pair[1])), align="left"),
        Column[_Pair]("before", lambda pair: Value(words.figure(pair[1].found.before, metric)), metric.unit),
        Column[_Pair]("after", lambda pair: Value(words.figure(pair[1].found.after, metric)), metric.unit),
        Column[_Pair]("after / before", lambda pair: Value(words.ratio(pair[1])), "[95 %]"),
        Column[_Pair]("p", lambda pair: Value(units.significant(pair[1].found.p, 2))),
        Column[_Pair](
            "last run before", lambda pair: Value(short(pair[1].last.run_id), code=True), align="left"
        ),
        Column[_Pair](
            "first run after", lambda pair: Value(short(pair[1].first.run_id), code=True), align="left"
        ),
        Column[_Pair]("what changed there", _what, align="left"),
    ]
    yield _foldable(build(columns, changed), units.counted(len(changed), "change"))


def _what(pair: _Pair) -> Value:
    differences = pair[1].differences
    if not differences:
        return missing("no version or commit that the record states changed within three runs")
    more = len(differences) - NAMED
    texts = [inline(words.difference(each)) for each in differences[:NAMED]] + (
        [f"and {more} more"] if more > 0 else []
    )
    return Value("; ".join(texts))


def _trends(trends: Sequence[Trend], metric: Metric) -> Iterator[str]:
    def first(trend: Trend) -> Value:
        return (
            Value(words.figure(trend.levels[0][2], metric)) if trend.levels else missing("measured in no run")
        )

    def last(trend: Trend) -> Value:
        points = trend.series.points
        return Value(words.point(points[-1], metric)) if points else missing("measured in no run")

    def ratio(trend: Trend) -> Value:
        levels = trend.levels
        if len(levels) < 2:
            return missing("no lasting change")
        return Value(units.significant(levels[-1][2] / levels[0][2]))

    columns = [
        Column[Trend]("cell", lambda trend: Value(short(trend.series.cell), code=True), align="left"),
        Column[Trend]("machine", lambda trend: Value(inline(words.machine(trend.series))), align="left"),
        Column[Trend]("runs", lambda trend: Value(f"{trend.series.runs:,}")),
        Column[Trend]("failed", lambda trend: Value(f"{trend.series.failed:,}")),
        Column[Trend]("span", lambda trend: _span(trend.series), align="left"),
        Column[Trend]("first level", first, metric.unit),
        Column[Trend]("latest", last, f"{metric.unit} [95 %]".strip()),
        Column[Trend]("changes", _count),
        Column[Trend]("last level / first", ratio),
    ]
    yield _foldable(build(columns, trends), counted_series(len(trends)))


def _count(trend: Trend) -> Value:
    fewest = 2 * FEWEST
    if len(trend.series.points) < fewest:
        return missing(f"a change is looked for in {fewest} runs and more")
    return Value(str(len(trend.changes)))


def _span(series: Series) -> Value:
    if not series.points:
        return missing("measured in no run")
    return Value(f"{series.points[0].started_at:%Y-%m-%d} – {series.points[-1].ended_at:%Y-%m-%d}")


def _apart(every: Sequence[Series]) -> Iterator[str]:
    """Series of the same cell, and what sets them apart; sources that lack what others have."""
    cells: dict[str, list[Series]] = {}
    for series in every:
        cells.setdefault(series.cell, []).append(series)
    lines = []
    for cell, several in cells.items():
        if len(several) > 1:
            fields = ("machine_fingerprint", "environment_fingerprint", "source", "data")
            words = ("machine", "variables of workers", "source", "labelled images")
            differ = [
                word
                for field, word in zip(fields, words, strict=True)
                if len({getattr(series, field) for series in several}) > 1
            ]
            names = ", ".join(inline(label(series)) for series in several[:NAMED])
            more = f" and {len(several) - NAMED} more" if len(several) > NAMED else ""
            apart = f"{counted_series(len(several))}, which differ in {' and '.join(differ)}"
            lines.append(f"- {code(short(cell))}: {apart}: {names}{more}.")
    if lines:
        yield "\n".join(lines)
    for source in dict.fromkeys(series.source for series in every):
        if source != OWN:
            yield f"- {inline(short(source))}: {SOURCES.get(source, 'of a source that is not known here')}."


def _read(sources: Sources) -> str:
    files = len(sources.single) + len(sources.several)
    cut = ""
    if sources.unfinished:
        cut = f"; runs without tables, which were cut off or go on: {sources.unfinished}"
    return (
        f"Read: {units.counted(files, 'file')} of histories and {units.counted(len(sources.tables), 'table')} of run "
        f"directories{cut}."
    )


def _foldable(table: Table, summary: str) -> str:
    text = to_markdown(table)
    return folded(summary, text) if len(table.rows) > LONG else text
