"""Many small files of a month become one, beside readers, writers and other compactions. No row is lost at any moment.

The new file is written first, under a name that its rows give, and is on the disk before anything is removed; removed
are only files that were read into it. So every row is in some file at every moment, perhaps in two: readers take each
run's cell once. Two compactions at once leave more than one file at worst, and never less than all rows: each file that
goes is in one that was whole before, and equal rows have equal names, which are never removed for themselves.
"""

# ruff: noqa: S608 - SQL is made of texts of this package; what others wrote comes in as parameters

from __future__ import annotations

import io
from typing import TYPE_CHECKING, NamedTuple

from mnv3_reports.history.engine import connected
from mnv3_reports.history.places import HistoryError
from mnv3_reports.history.rows import digest, schema_of, to_parquet

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pyarrow as pa

    from mnv3_reports.history.places import Place

ATTEMPTS = 20
LATEST = (
    "qualify row_number() over (partition by run_id, cell, machine_fingerprint, started_at "
    "order by ended_at desc nulls last, added_at desc nulls last, revision desc) = 1"
)
"""SQL: of each run's cell the row that was added last, since a run may go on and be added again."""


class Compacted(NamedTuple):
    """A month that is in one file now."""

    month: str
    files: int
    """That it was in."""
    rows: int


def by_month(names: Iterable[str]) -> dict[str, list[str]]:
    """A history's files by their folder, in order of time."""
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        found.setdefault(name.partition("/")[0], []).append(name)
    return found


def compact_month(place: Place, month: str) -> Compacted | None:
    """Put a month's files together; None where there is at most one.

    Raises:
        HistoryError: a file is damaged, or the history cannot be written.
    """
    for _ in range(ATTEMPTS):
        names = by_month(place.files()).get(month, [])
        if len(names) < 2:
            return None
        try:
            tables = [_read(place, name) for name in names]
        except FileNotFoundError:
            continue  # another compaction was here
        table = _merged(tables)
        target = f"{month}/all-{_digest(table)}.parquet"
        if target not in names:
            place.write(target, to_parquet(table))
        for name in names:
            if name != target:
                place.remove(name)
        return Compacted(month, len(names), len(table))
    raise HistoryError(f"{month} is compacted by several jobs at once; try again")


def has(place: Place, run_id: str, revision: str, month: str) -> bool:
    """Whether a month's compacted files hold a run in this revision."""
    for _ in range(ATTEMPTS):
        try:
            for name in by_month(place.files()).get(month, []):
                if name.startswith(f"{month}/all-"):
                    table = _read(place, name, ("run_id", "revision"))
                    if (run_id, revision) in zip(
                        *(table[c].to_pylist() for c in table.column_names), strict=True
                    ):
                        return True
        except FileNotFoundError:
            continue
        return False
    raise HistoryError(f"{month} is compacted by several jobs at once; try again")


def _read(place: Place, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A file with the columns of today: what it lacks is null, what is not known stays out.

    Raises:
        HistoryError: it is no file of a history.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = place.read(name)
    schema = schema_of()
    try:
        file = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
        if not {"run_id", "cell", "revision"}.issubset(file.schema_arrow.names):
            raise HistoryError(damaged(place.path(name), "it lacks the columns of a history"))
        if newer := set(file.schema_arrow.names).difference(schema.names):
            # Compaction would lose them.
            raise HistoryError(
                f"'{place.path(name)}' has columns that are not known here ({', '.join(sorted(newer)[:3])}); "
                "update mnv3-bench"
            )
        table = file.read(columns)
        if columns is not None:
            return table
        blank = schema.empty_table()
        return pa.concat_tables([blank, table], promote_options="permissive").cast(schema)
    except (pa.ArrowException, OSError) as error:
        raise HistoryError(damaged(place.path(name), str(error))) from error


def damaged(path: str, reason: str) -> str:
    """What is said of a file that cannot be read."""
    return f"'{path}' is damaged, or no file of a history ({' '.join(reason.split())[:120]}); move it away"


def _merged(tables: Sequence[pa.Table]) -> pa.Table:
    """All rows in the order that queries want, the latest of each run's cell only."""
    import pyarrow as pa

    with connected() as connection:
        connection.register("every", pa.concat_tables(tables))
        merged = connection.sql(
            f"select * from every {LATEST} order by cell, machine_fingerprint, started_at, run_id"
        ).to_arrow_table()
    return merged.cast(schema_of())


def _digest(table: pa.Table) -> str:
    """Of which revisions of which runs' cells are in it: `revision` stands for all of a run's figures."""
    names = ("run_id", "revision", "cell", "machine_fingerprint")
    return digest(list(zip(*(table[name].to_pylist() for name in names), strict=True)))
