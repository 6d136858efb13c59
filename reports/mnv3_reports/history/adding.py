"""Runs go into a history: one small file a run, and months that are over put together."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from mnv3_reports.history import compaction
from mnv3_reports.history.places import HistoryError, LocalPlace, Place
from mnv3_reports.history.rows import file_name, fleet_host, rows_of, to_parquet, to_table
from mnv3_reports.rundir import RunDirectoryError, load_run

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from mnv3_reports.history.rows import Row

MOST_SINGLE = 64
"""Files of one run each in the newest month before they are put together."""


class Added(NamedTuple):
    """What became of one run."""

    what: str
    """The folder or file it came from."""
    name: str
    """Of its file in the history."""
    cells: int
    new: bool
    """False where the history had exactly this already."""


def run_directories(paths: Iterable[Path]) -> list[Path]:
    """The runs that folders are, or hold at any depth.

    Raises:
        HistoryError: a folder is not there, or holds none.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            raise HistoryError(f"'{path}' is no folder; give folders of runs, or a folder that holds some")
        names = LocalPlace(path).runs()
        if not names:
            raise HistoryError(f"'{path}' holds no run; give folders of runs, or a folder that holds some")
        found |= dict.fromkeys(path / name for name in names)
    return list(found)


def add_runs(
    directories: Sequence[Path],
    place: Place,
    *,
    repository_commit: str | None = None,
    host: str | None = None,
    now: datetime | None = None,
) -> Iterator[Added]:
    """Put runs into a history, then put together the months that are over.

    Each is on the disk when it is yielded. What is there already stays as it is.

    Args:
        directories: of the runs.
        place: of the history.
        repository_commit: of the code that was measured.
        host: what the machine is called. A fleet's runs have their own hosts' names.
        now: when they are added.

    Raises:
        HistoryError: a folder holds no run that can be read, or the history cannot be written.
    """
    moment = now or datetime.now(UTC)
    for directory in directories:
        try:
            run = load_run(directory)
            known = fleet_host(directory.absolute().as_posix(), os.path.isfile) or host
            rows = rows_of(run, directory, added_at=moment, repository_commit=repository_commit, host=known)
        except (RunDirectoryError, ValueError) as error:
            raise HistoryError(f"'{directory}' cannot be added: {error}") from error
        yield add_rows(rows, place, str(directory))
    tidy(place)


def add_rows(rows: Sequence[Row], place: Place, what: str) -> Added:
    """Write the file of one run, unless the history has it."""
    name = file_name(rows)
    if place.holds(name) or compaction.has(
        place, rows[0]["run_id"], rows[0]["revision"], name.partition("/")[0]
    ):
        return Added(what, name, len(rows), new=False)
    place.write(name, to_parquet(to_table(rows)))
    return Added(what, name, len(rows), new=True)


def tidy(place: Place) -> list[compaction.Compacted]:
    """Put together the months before the newest one, and the newest when it has many small files."""
    months = compaction.by_month(place.files())
    newest = max(months, default="")
    return [
        done
        for month, names in months.items()
        if len(names) > (MOST_SINGLE if month == newest else 1)
        for done in [compaction.compact_month(place, month)]
        if done is not None
    ]
