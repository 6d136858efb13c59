"""Questions to histories, answered by DuckDB over their Parquet files.

A series holds what can be compared: one cell, on machines of one fingerprint, with one set of variables for workers,
from one source. Versions and commits may differ in it: their changes are what a history is asked about.
"""

# ruff: noqa: S608 - SQL is made of texts of this package; what others wrote comes in as parameters

from __future__ import annotations

import math
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from mnv3_reports.history.engine import connected
from mnv3_reports.history.places import HistoryError
from mnv3_reports.history.sources import Sources, read_sources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import TypeVar

    from duckdb import DuckDBPyConnection

    from mnv3_reports.history.metrics import Metric
    from mnv3_reports.history.places import Place

    Result = TypeVar("Result")

RAW_POINTS = 800
"""A longer series is shown and searched in groups of runs that follow each other."""
GROUPS = 160
SMALLEST_GROUP = 6
"""Runs: the median of fewer has no 95 % interval."""
ATTEMPTS = 20
LISTED = 5

VERSIONS = (
    *("python", "packages", "project_version", "commit", "repository_commit", "kernel", "weights"),
    *("macs_per_image", "parameters", "host"),
)
"""Columns that say what may have changed a figure."""


class Question(NamedTuple):
    """What is asked."""

    metric: Metric
    cells: str
    """Pattern of cell keys, or of `variant/backend`, with *, ? and [] as a shell has them."""
    since: datetime | None = None
    """Start of the earliest run that counts, UTC without a zone."""
    until: datetime | None = None
    """Start of the first run that does not."""
    hosts: str = "*"
    """Pattern of names of hosts; any but `*` leaves runs out whose host nobody named."""


class Point(NamedTuple):
    """One run of a series, or the median of some that follow each other."""

    started_at: datetime
    """UTC; when the first run started."""
    ended_at: datetime
    """When the last run started."""
    value: float
    """In the metric's base unit, as in the record."""
    low: float | None
    high: float | None
    """Ends of the 95 % interval; None where there is none."""
    first: int
    """Place of its first run in the series, from 0."""
    runs: int


class Series(NamedTuple):
    """Figures that can be compared, in order of time."""

    key: int
    cell: str
    machine_fingerprint: str
    environment_fingerprint: str
    source: str
    data: str
    """What it was measured on, for a metric where that matters; '' for others."""
    cpu: str
    failed: int
    """Runs in which the cell failed."""
    points: tuple[Point, ...]

    @property
    def runs(self) -> int:
        """Runs in which it was measured."""
        return sum(point.runs for point in self.points)


class Placed(NamedTuple):
    """One run in a series."""

    place: int
    """From 0."""
    run_id: str
    started_at: datetime
    value: float


class History:
    """Histories and run directories, opened together for one question."""

    def __init__(self, connection: DuckDBPyConnection, places: Sequence[Place], question: Question) -> None:
        """Read what the question needs; `opened` is how to get one."""
        self._connection = connection
        self._places = places
        self._question = question
        self._parameters: dict[str, Any] = {
            "pattern": question.cells,
            "first": _prefix(question.cells),
            "after": _prefix(question.cells) + "\U0010ffff",
            "since": question.since or datetime(1, 1, 1),
            "until": question.until or datetime(9999, 12, 31),
            "hosts": question.hosts,
        }
        self.sources: Sources = self._trying(self._read)

    def _read(self, sources: Sources) -> Sources:
        metric = self._question.metric
        series = f"""
            select {_key(metric)} as key, {_names(metric)}, any_value(coalesce(cpu, '')) as cpu
            from ({sources.rows(_MATCHES)}) group by all
        """
        found = f"""
            select {_key(metric)} as key, coalesce(run_id, '') as run_id, started_at, status = 'failed' as failed,
                   try_cast({metric.value} as double) as value, try_cast({metric.low} as double) as low,
                   try_cast({metric.high} as double) as high
            from ({sources.rows(_MATCHES)})
        """
        placed = """
            select key, run_id, started_at, value, low, high,
                   row_number() over (partition by key order by started_at, run_id) - 1 as place,
                   count(*) over (partition by key) as runs
            from found where not failed and isfinite(value) and value > 0
        """
        for name, text, parameters in (
            ("series", series, self._parameters | sources.parameters),
            ("found", found, self._parameters | sources.parameters),
            ("placed", placed, {}),
        ):
            self._connection.execute(
                f"create or replace temp table {name} as {text}", _used(text, parameters)
            )
        return sources

    def _trying(self, read: Callable[[Sources], Result]) -> Result:
        """Read, and list anew where a compaction took files away meanwhile.

        Raises:
            HistoryError: a file is damaged, or there is nothing.
        """
        import duckdb

        for _ in range(ATTEMPTS):
            sources = read_sources(self._connection, self._places, self._question.since, self._question.until)
            try:
                return read(sources)
            except duckdb.OutOfMemoryException:
                raise HistoryError(
                    "the answer needs more memory than a history takes; narrow it with --cell or --since"
                ) from None
            except (duckdb.Error, OSError) as error:
                if sources.whole():
                    raise sources.damaged(self._connection, error) from error
        raise HistoryError("the history is compacted by several jobs at once; try again")

    def series(self) -> list[Series]:
        """Every series that matches and has such a figure, or failed."""
        points: dict[int, list[Point]] = {}
        for key, *figures in self._connection.execute(self._grouped()).fetchall():
            points.setdefault(key, []).append(_point(*figures))
        failed = dict(
            self._connection.execute("select key, count(*) from found where failed group by key").fetchall()
        )
        rows = self._connection.execute(
            "select * from series order by cell, source, cpu, machine_fingerprint, environment_fingerprint, data"
        ).fetchall()
        return [
            Series(
                key,
                cell,
                machine,
                environment,
                source,
                data,
                cpu,
                failed.get(key, 0),
                tuple(points.get(key, ())),
            )
            for key, cell, machine, environment, source, data, cpu in rows
            if key in points or key in failed
        ]

    def _grouped(self) -> str:
        """SQL: the points of every series."""
        groups = f"if(runs <= {RAW_POINTS}, runs, least({GROUPS}, runs // {SMALLEST_GROUP}))"
        sizes = self._connection.execute(
            "select distinct unnest([runs // g, runs // g + 1]) "
            f"from (select {groups} as g, runs from placed) where g < runs"
        ).fetchall()
        ranks = " ".join(f"when {size} then {median_rank(size) or 'null'}" for (size,) in sizes)
        rank = f"case count(*) {ranks} end" if ranks else "null"
        return f"""
            select key, min(started_at), max(started_at), median(value), any_value(low), any_value(high),
                   min(place), count(*), if(count(*) > 1, list_sort(list(value)), null) as ordered,
                   ordered[{rank}], ordered[count(*) + 1 - {rank}]
            from placed group by key, place * ({groups}) // runs order by key, min(place)
        """

    def placed(self, series: Series, first: int, last: int) -> list[Placed]:
        """Some single runs of a series, by their places; both ends are included."""
        rows = self._connection.execute(
            "select place, run_id, started_at, value from placed where key = $key and place between $first and $last "
            "order by place",
            {"key": series.key, "first": first, "last": last},
        )
        return [Placed(*row) for row in rows.fetchall()]

    def versions(self, wanted: Iterable[tuple[Series, Placed]]) -> dict[tuple[int, str], dict[str, Any]]:
        """What the history knows of what runs ran with: key of a series and run to `VERSIONS` to value."""
        pairs = {(series.key, series.cell, run.run_id) for series, run in wanted}
        if not pairs:
            return {}
        key = _key(self._question.metric)

        def read(sources: Sources) -> dict[tuple[int, str], dict[str, Any]]:
            text = f"""
                select {key} as key, run_id, {", ".join(VERSIONS)}
                from ({sources.rows(_MATCHES + " and list_contains($cells, cell)")})
                where list_contains($keys, {key}) and list_contains($runs, run_id)
            """
            keys, cells, runs = (sorted(set(column)) for column in zip(*pairs, strict=True))
            asked = self._parameters | sources.parameters | {"keys": keys, "cells": cells, "runs": runs}
            rows = self._connection.execute(text, _used(text, asked)).fetchall()
            return {(row[0], row[1]): dict(zip(VERSIONS, row[2:], strict=True)) for row in rows}

        return self._trying(read)

    def some(self, column: Literal["cell", "host"]) -> list[str]:
        """Names of some cells or hosts that there are, for somebody whose pattern matched none."""

        def read(sources: Sources) -> list[str]:
            text = (
                f"select distinct {column} from ({sources.rows(f'{column} is not null')}) "
                f"order by {column} limit {LISTED}"
            )
            rows = self._connection.execute(text, _used(text, sources.parameters)).fetchall()
            return [str(name) for (name,) in rows]

        return self._trying(read)


@contextmanager
def opened(places: Sequence[Place], question: Question) -> Iterator[History]:
    """Open histories for a question.

    Args:
        places: where they are.
        question: what is asked of them.

    Raises:
        HistoryError: DuckDB is missing, a file is damaged, or there is nothing to read.
    """
    with connected(places) as connection:
        yield History(connection, places, question)


_MATCHES = (
    "cell >= $first and cell < $after and (cell glob $pattern or variant || '/' || backend glob $pattern) "
    "and started_at >= $since and started_at < $until and ($hosts = '*' or host glob $hosts)"
)


def median_rank(size: int) -> int | None:
    """Rank l such that the l-th smallest and the l-th largest of so many values enclose the median with 95 %.

    Exact and without a distribution (Conover 1999, Practical Nonparametric Statistics, 3rd ed., section 3.2).
    None below six values.
    """
    tail, rank = 0, 0
    while rank < size and (tail := tail + math.comb(size, rank)) * 40 <= 2**size:
        rank += 1
    return rank or None


def _names(metric: Metric) -> str:
    named = ("cell", "machine_fingerprint", "environment_fingerprint", "source")
    plain = [f"coalesce({name}, '') as {name}" for name in named]
    return ", ".join([*plain, f"coalesce({metric.data}, '')::varchar as data"])


def _key(metric: Metric) -> str:
    named = ("cell", "machine_fingerprint", "environment_fingerprint", "source", metric.data)
    texts = ", ".join(f"coalesce({name}, '')" for name in named)
    return f"hash({texts})"


def _prefix(pattern: str) -> str:
    """What every name that matches begins with."""
    for place, sign in enumerate(pattern):
        if sign in "*?[\\":
            return pattern[:place]
    return pattern


def _used(text: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters that a text has: others are refused."""
    return {name: value for name, value in parameters.items() if f"${name}" in text}


def _point(
    started_at: datetime,
    ended_at: datetime,
    value: float,
    low: float | None,
    high: float | None,
    first: int,
    runs: int,
    _ordered: list[float] | None,
    ranked_low: float | None,
    ranked_high: float | None,
) -> Point:
    ends = (low, high) if runs == 1 else (ranked_low, ranked_high)
    # What a stranger's file says may be anything.
    if ends[0] is None or ends[1] is None or not 0 < ends[0] <= value <= ends[1] < math.inf:
        ends = (None, None)
    return Point(started_at, ended_at, value, *ends, first, runs)
