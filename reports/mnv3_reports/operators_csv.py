"""Every profiled operator of a run as CSV, in the order they run."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mnv3_reports.record import Run

OPERATORS = "operators.csv"
FIELDS = (
    *(
        "network",
        "backend",
        "threads",
        "batch",
        "resolution",
        "place",
        "operator",
        "operation",
        "kind",
        "module",
    ),
    *("contains", "precision", "seconds", "lower", "upper", "share", "macs", "bytes", "output_shape"),
)
"""Times are in seconds of one call (median and quartiles over repeats), `share` is of the unprofiled call; `contains`
and `output_shape` have spaces between their parts."""


def to_csv(run: Run) -> str | None:
    """The file's text; None where nothing was profiled."""
    profiled = [record for record in run.cells.values() if record.profiled is not None]
    if not profiled:
        return None
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(FIELDS)
    for record in profiled:
        cell, profile = record.cell, record.profiled
        assert profile is not None, "chosen above"
        for place, each in enumerate(profile.operators):
            writer.writerow(
                [
                    *(cell.variant, cell.backend, cell.threads, cell.batch, cell.resolution, place),
                    *(each.name, each.operation, each.kind, each.module, " ".join(each.contains)),
                    *(each.precision or "", each.seconds, each.lower, each.upper),
                    each.seconds / profile.plain_seconds if profile.plain_seconds else "",
                    *(each.macs, each.bytes, " ".join(map(str, each.output_shape))),
                ]
            )
    return out.getvalue()
