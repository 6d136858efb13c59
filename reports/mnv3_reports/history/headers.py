"""What a history needs of run directories that were not added to it: the head of `run.json`, and `cells.parquet`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from mnv3_reports.history.places import HistoryError
from mnv3_reports.history.rows import OWN, fleet_host, microseconds, software_columns
from mnv3_reports.record import Machine, Software
from mnv3_reports.rundir import CELLS, RUN

if TYPE_CHECKING:
    from mnv3_reports.history.places import Place
    from mnv3_reports.history.rows import Row


class _Header(msgspec.Struct):
    run_id: str
    started_at: str
    machine: Machine
    software: Software


class _Finished(msgspec.Struct):
    ended_at: str


class _Document(msgspec.Struct):
    """The head of a run.json; the rest is not decoded."""

    header: _Header
    finished: _Finished | None = None


class Headed(NamedTuple):
    """A run directory with what its table lacks."""

    cells: str
    """Path of its `cells.parquet`, as DuckDB opens it."""
    name: str
    """The same, from its place."""
    columns: Row


class Found(NamedTuple):
    """The run directories of a place."""

    headed: list[Headed]
    unfinished: int
    """Folders of runs without `cells.parquet`: they were cut off."""


def run_headers(place: Place) -> Found:
    """The runs of a place that can be read as they are.

    Raises:
        HistoryError: a run.json cannot be read.
    """
    headed = []
    unfinished = 0
    for folder, marks in place.runs().items():
        prefix = f"{folder}/" if folder else ""
        if not marks >= {CELLS, RUN}:
            unfinished += 1
            continue
        path = place.path(prefix + RUN)
        try:
            found = msgspec.json.decode(place.read(prefix + RUN), type=_Document)
            columns: Row = {
                "source": OWN,
                "started_at": microseconds(found.header.started_at),
                "ended_at": microseconds(found.finished.ended_at) if found.finished is not None else None,
                "host": fleet_host(folder, place.holds),
                "kernel": f"{found.header.machine.system} {found.header.machine.kernel}",
                **software_columns(found.header.software),
            }
        except (OSError, ValueError, msgspec.DecodeError) as error:
            raise HistoryError(
                f"'{path}' is not the record of a run: {' '.join(str(error).split())}"
            ) from error
        headed.append(Headed(place.path(prefix + CELLS), prefix + CELLS, columns))
    return Found(headed, unfinished)
