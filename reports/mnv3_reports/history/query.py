"""Questions to histories, answered by DuckDB over their Parquet files.

A series holds what can be compared: one cell, on machines of one fingerprint, with one set of variables for workers, from
one source. Versions and commits may differ in it: their changes are what a history is asked about.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from mnv3_reports.history import compaction
from mnv3_reports.history.engine import connected
from mnv3_reports.history.headers import literal, run_headers
from mnv3_reports.history.places import HistoryError
from mnv3_reports.history.rows import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import TypeVar

    from duckdb import DuckDBPyConnection

    from mnv3_reports.history.metrics import Metric
    from mnv3_reports.history.places import Place

    Result = TypeVar("Result")

RAW_POINTS = 800
"""A longer series is shown and searched in groups of runs that follow each other."""
GROUPS = 240
SMALLEST_GROUP = 6
"""Runs: of fewer the median has no interval of 95 %."""
AROUND = 3
"""Runs before and after a change in which another version is looked for."""
SIMILAR = 5

VERSIONS = (
    *("source", "python", "packages", "project_version", "commit", "repository_commit", "kernel", "weights"),
    *("macs_per_image", "parameters"),
)
"""Columns that say what may have changed a figure."""
_KEYS = ("cell", "machine_fingerprint", "environment_fingerprint", "source", "data")
_SQL = {"timestamp": "timestamp", "floats": "double[]", "string": "varchar", "int64": "bigint", "float64": "double"}


class Point(NamedTuple):
    """One run of a series, or the median of some that follow each other."""

    started_at: datetime
    """UTC; of the first run."""
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

    number: int
    cell: str
    machine_fingerprint: str
    environment_fingerprint: str
    source: str
    data: str
    """What it was measured on, for a metric where that matters; '' for others."""
    cpu: str
    runs: int
    """In which it was measured."""
    failed: int
    """In which it failed."""
    points: tuple[Point, ...]


class Seen(NamedTuple):
    """One run near a change."""

    place: int
    """In the series, from 0."""
    run_id: str
    started_at: datetime
    value: float
    versions: dict[str, Any]
    """`VERSIONS` to what the history has."""


class Sources(NamedTuple):
    """What was read."""

    files: int
    runs: int
    """Run directories."""
    unfinished: int


class History:
    """Histories and run directories, opened together for one question."""

    def __init__(
        self,
        connection: DuckDBPyConnection,
        places: Sequence[Place],
        metric: Metric,
        cells: str,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> None:
        """Read what the question needs.

        Args:
            connection: of `engine.connected`, with these places.
            places: where to read.
            metric: the figure.
            cells: pattern of cell keys, or of `variant/backend`, with * and ? as a shell has them.
            since: start of the earliest run that counts, UTC without a zone.
            until: start of the first that does not.

        Raises:
            HistoryError: a file is damaged, nothing is there, or nothing matches.
        """
        self._connection = connection
        self._parameters = {
            "pattern": cells,
            "first": _prefix(cells),
            "after": _prefix(cells) + "\U0010ffff",
            "since": since or datetime(1, 1, 1),  # noqa: DTZ001 - a history's times have no zone
            "until": until or datetime(9999, 12, 31),  # noqa: DTZ001
        }
        columns = ", ".join(f"null::{_SQL[kind]} as {name}" for name, kind in _types().items())
        connection.execute(f"create temp view blank as select {columns} limit 0")
        self._read(places, since, until)
        connection.execute(
            f"""
            create temp table found as
            select {_number()} as number, run_id, started_at, status = 'failed' as failed,
                   ({metric.value})::double as value, ({metric.low})::double as low, ({metric.high})::double as high
            from matching join series using ({", ".join(_KEYS[:4])})
            where series.data is not distinct from coalesce({metric.data}, '')
            """
            if False
            else _FOUND.format(metric=metric)
        )
