"""What a question reads: files of histories and tables of run directories, as one table of a history's columns."""

# ruff: noqa: S608 - SQL is made of texts of this package; what others wrote comes in as parameters

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from mnv3_reports.history.compaction import LATEST, by_month, damaged
from mnv3_reports.history.engine import literal
from mnv3_reports.history.headers import run_headers
from mnv3_reports.history.places import HistoryError
from mnv3_reports.history.rows import COLUMNS, microseconds, month_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from duckdb import DuckDBPyConnection

    from mnv3_reports.history.headers import Headed
    from mnv3_reports.history.places import Place

_SQL = {
    "timestamp": "timestamp",
    "floats": "double[]",
    "string": "varchar",
    "int64": "bigint",
    "float64": "double",
    "bool": "boolean",
}
_READ = "union_by_name = true, hive_partitioning = false"


class Sources(NamedTuple):
    """Files as they were listed."""

    places: Sequence[Place]
    single: list[str]
    """Files that hold no row which another file holds too."""
    several: list[str]
    """Files of which some may hold the same rows."""
    tables: list[str]
    """Of run directories."""
    unfinished: int
    """Folders of runs that were cut off, which have no table."""
    names: dict[str, tuple[Place, str]]
    """Path to the place and its name there."""

    @property
    def parameters(self) -> dict[str, Any]:
        """Of `rows`."""
        return {
            "single": [literal(path) for path in self.single],
            "several": [literal(path) for path in self.several],
            "tables": [literal(path) for path in self.tables],
        }

    def rows(self, where: str) -> str:
        """SQL: every row once that fulfils a condition on cell and time."""
        parts = []
        if self.single:
            parts.append(
                f"select * from (select * from blank union all by name {_files('single')}) where {where}"
            )
        twice = [_files("several")] if self.several else []
        twice += [_TABLES] if self.tables else []
        if twice:
            every = " union all by name ".join(["select * from blank", *twice])
            parts.append(f"select * from ({every}) where {where} {LATEST}")
        return " union all by name ".join(["select * from blank", *(f"({part})" for part in parts)])

    def whole(self) -> bool:
        """Whether everything that was listed is still there."""
        return all(place.holds(name) for place, name in self.names.values())

    def damaged(self, connection: DuckDBPyConnection, error: Exception) -> HistoryError:
        """The error with the name of the file that it is about."""
        import duckdb

        for path in (*self.single, *self.several, *self.tables):
            alone = self._replace(
                single=[],
                several=[] if path in self.tables else [path],
                tables=[path] if path in self.tables else [],
            )
            text = f"select count(columns(*)) from ({alone.rows('true')})"
            kept = {name: value for name, value in alone.parameters.items() if f"${name}" in text}
            try:
                connection.execute(text, kept).fetchall()
            except (duckdb.Error, OSError) as found:
                return HistoryError(damaged(path, str(found)))
        return HistoryError(f"the history cannot be read: {' '.join(str(error).split())}")


def read_sources(
    connection: DuckDBPyConnection, places: Sequence[Place], since: datetime | None, until: datetime | None
) -> Sources:
    """List what there is in a span of time, and tell the connection of run directories.

    Raises:
        HistoryError: there is nothing, or a run.json cannot be read.
    """
    first = _month(since) if since is not None else ""
    last = _month(until) if until is not None else "month=9999-99"
    single: list[str] = []
    several: list[str] = []
    unfinished = 0
    headed: list[Headed] = []
    names: dict[str, tuple[Place, str]] = {}
    anything = False
    listings = [(place, place.files(), run_headers(place)) for place in places]
    apart = sum(bool(files or found.headed) for _, files, found in listings) <= 1
    for place, files, found in listings:
        anything = anything or bool(files or found.headed or found.unfinished)
        for month, listed in by_month(files).items():
            if first <= month <= last:
                paths = {place.path(name): (place, name) for name in listed}
                names |= paths
                alone = apart and not found.headed and len(listed) == 1
                (single if alone else several).extend(paths)
        headed += found.headed
        names |= {each.cells: (place, each.name) for each in found.headed}
        unfinished += found.unfinished
    if not anything:
        where = ", ".join(f"'{place.name}'" for place in places)
        raise HistoryError(
            f"{where} holds neither a history nor runs; type mnv3-bench history add RUN --store STORE"
        )
    _prepare(connection, headed)
    return Sources(places, single, several, [each.cells for each in headed], unfinished, names)


def _prepare(connection: DuckDBPyConnection, headed: Iterable[Headed]) -> None:
    blank = ", ".join(f"null::{_SQL[kind]} as {name}" for name, kind in COLUMNS.items())
    connection.execute(f"create or replace temp view blank as select {blank} limit 0")
    columns = ", ".join(f"{name} {_SQL[COLUMNS[name]]}" for name in _HEAD)
    connection.execute(f"create or replace temp table heads (path varchar, {columns})")
    values = ", ".join(
        f"make_timestamp(${name})" if COLUMNS[name] == "timestamp" else f"${name}" for name in _HEAD
    )
    for each in headed:
        row = {name: each.columns[name] for name in _HEAD}
        connection.execute(f"insert into heads values ($path, {values})", {"path": each.cells, **row})


_HEAD = (
    *("source", "started_at", "ended_at", "host", "kernel", "environment_fingerprint", "python", "packages"),
    *("project_version", "commit"),
)
"""Columns that run.json gives."""
_OWN = ("history_schema", "revision", "added_at", "repository_commit", "weights", "epoch_seconds")
"""Columns that a run directory's table has not."""


def _files(parameter: str) -> str:
    """SQL: rows of files of a history."""
    return f"select * from read_parquet(${parameter}, {_READ})"


def _tables() -> str:
    """SQL: rows of run directories' tables, with what `heads` has of them."""
    taken = [name for name in COLUMNS if name not in (*_HEAD, *_OWN)]
    blank = f"select {', '.join(taken)}, null::varchar as filename from blank"
    read = f"select * from read_parquet($tables, filename = true, {_READ})"
    return (
        f"select {', '.join(f'tables.{name}' for name in taken)}, heads.* exclude (path) "
        f"from ({blank} union all by name {read}) as tables join heads on heads.path = tables.filename"
    )


_TABLES = _tables()


def _month(moment: datetime) -> str:
    return month_of(microseconds(moment.isoformat()))
