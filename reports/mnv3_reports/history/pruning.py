"""Raw samples go, summaries stay: a run directory keeps its tables and reports, and the history its rows.

Killed at any moment nothing is lost: first the history has the run, and it is on the disk; then `run.json` and
`cells.parquet` are made sure of; then the journal goes, without which the samples are still read; then the samples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mnv3_reports import journal
from mnv3_reports.history.adding import add_rows, run_directories
from mnv3_reports.history.places import HistoryError
from mnv3_reports.history.rows import microseconds, rows_of
from mnv3_reports.rundir import CELLS, RUN, SAMPLES, RunDirectoryError, load_run, moment, write_run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from mnv3_reports.history.places import Place
    from mnv3_reports.record import Run

RAW = (journal.NAME, SAMPLES)
"""What goes, in this order."""


class Pruned(NamedTuple):
    """What became of one run directory."""

    directory: Path
    bytes: int
    """That went, or would."""
    kept: str | None
    """Why nothing went; None where it did."""


def prune(
    paths: Sequence[Path], place: Place, before: datetime, now: datetime, *, dry: bool = False
) -> Iterator[Pruned]:
    """Remove raw samples of runs that started before a moment, once the history has what they say.

    Args:
        paths: folders of runs, or folders that hold some.
        place: the history.
        before: UTC without a zone.
        now: when it is done.
        dry: only say what would go.

    Raises:
        HistoryError: a folder holds no run, a run cannot be read, or something cannot be written or removed.
    """
    limit = microseconds(before.isoformat())
    for directory in run_directories(paths):
        size = sum((directory / name).stat().st_size for name in RAW if (directory / name).is_file())
        if not size:
            yield Pruned(directory, 0, "has no raw samples any more")
            continue
        try:
            run = load_run(directory)
            started = microseconds(run.header.started_at)
        except (RunDirectoryError, ValueError) as error:
            raise HistoryError(f"'{directory}' cannot be pruned: {error}") from error
        if started >= limit:
            yield Pruned(directory, 0, "is younger")
        elif run.finished is None or run.finished.status == "partial":
            yield Pruned(directory, 0, "did not end, and could not be resumed without its journal")
        elif run.lost:
            yield Pruned(directory, 0, "cannot be read whole: " + run.lost[0])
        else:
            if not dry:
                _prune(directory, run, place, now)
            yield Pruned(directory, size, None)


def _prune(directory: Path, run: Run, place: Place, now: datetime) -> None:
    try:
        add_rows(rows_of(run, directory, added_at=now), place, str(directory))
        if not _whole(directory, run):
            write_run(run, directory)
        for name in RAW:
            (directory / name).unlink(missing_ok=True)
    except (RunDirectoryError, ValueError) as error:
        raise HistoryError(f"'{directory}' cannot be pruned: {error}") from error
    except OSError as error:
        raise HistoryError(f"'{directory}' cannot be pruned: {error.strerror}") from error


def _whole(directory: Path, run: Run) -> bool:
    """Whether `run.json` and both tables are of this run as it ended: then the journal is not needed to read it."""
    import msgspec
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mnv3_reports.rundir import MOMENT

    try:
        for name in (CELLS, SAMPLES):
            metadata = pq.read_schema(directory / name).metadata or {}
            if metadata.get(MOMENT) != moment(run).encode():
                return False
        document = msgspec.json.decode((directory / RUN).read_bytes(), type=type(run))
    except (OSError, pa.ArrowException, msgspec.DecodeError, ValueError):
        return False
    return moment(document) == moment(run)
