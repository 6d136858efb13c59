"""Every profiled operator of a run as CSV, in the order they run."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from mnv3_reports.escaping import spreadsheet

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
"""Times are in seconds of one call (median and quartiles over repeats), `share` is of the unprofiled call and empty
where that has no time; `contains` and `output_shape` have spaces between their parts. Names are made one line each that
no spreadsheet takes for a formula."""


def to_csv(run: Run) -> str | None:
    """The file's text, a row an operator, of failed cells too; None where nothing was profiled."""
    profiled = [
        (record.cell, record.profiled) for record in run.cells.values() if record.profiled is not None
    ]
    if not profiled:
        return None
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(FIELDS)
    for cell, profile in profiled:
        for place, each in enumerate(profile.operators):
            share = each.seconds / profile.plain_seconds if profile.plain_seconds else None
            names = (each.name, each.operation, each.kind, each.module, " ".join(each.contains))
            writer.writerow(
                [
                    *(
                        spreadsheet(cell.variant),
                        spreadsheet(cell.backend),
                        cell.threads,
                        cell.batch,
                        cell.resolution,
                        place,
                    ),
                    *map(spreadsheet, names),
                    spreadsheet(each.precision or ""),
                    *map(_figure, (each.seconds, each.lower, each.upper, share)),
                    *(each.macs, each.bytes, " ".join(map(str, each.output_shape))),
                ]
            )
    return out.getvalue()


def _figure(value: float | None) -> str:
    """Nine digits: more than any clock has, without the tail that binary fractions leave."""
    return "" if value is None else f"{value:.9g}"
