"""A run's figures for a terminal: a rich table, or plain lines where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnv3_reports import tables
from mnv3_reports.layout import MISSING, Column, to_rich
from mnv3_reports.provenance import partial_notice
from mnv3_reports.summary import Summary

if TYPE_CHECKING:
    import rich.table

    from mnv3_reports.layout import Value
    from mnv3_reports.record import Run
    from mnv3_reports.tables import CellRow


def summary_table(run: Run) -> rich.table.Table:
    """Every cell's main figures, networks in the report's order."""
    summary = Summary(run)
    rows = [row for variant in summary.variants for row in tables.cell_rows(summary, variant)]
    columns = (tables.COMPACT_MEDIAN, tables.COMPACT_TO_EAGER, tables.THROUGHPUT, tables.PEAK, tables.SNR)
    table = tables.cells_table(summary, rows, columns, name_variant=True)
    return to_rich(table, partial_notice(run))


def plain_lines(run: Run) -> list[str]:
    """One line a cell, each readable on its own."""
    summary = Summary(run)
    notice = partial_notice(run)
    lines = [notice] if notice is not None else []
    shown: tuple[tuple[Column[CellRow], str], ...] = (
        (tables.MEDIAN, "ms"),
        (tables.THROUGHPUT, "images/s"),
        (tables.TO_EAGER, "x eager"),
    )
    for variant in summary.variants:
        for row in tables.cell_rows(summary, variant):
            key = row.record.cell.key
            if row.statistics is None:
                lines.append(f"{key}: {_reason(row)}")
                continue
            figures = [(column.value(row), unit) for column, unit in shown]
            lines.append(f"{key}: {', '.join(_figure(value, unit) for value, unit in figures)}")
    return lines


def _figure(value: Value, unit: str) -> str:
    return f"{value.text} {unit}" + (f" ({value.note})" if value.text == MISSING else "")


def _reason(row: CellRow) -> str:
    failure = row.record.failure
    if failure is None:
        return row.summary.why_not_timed(row.record.cell.key)
    mend = f" To mend it: {failure.install}" if failure.install else ""
    return f"failed ({failure.phase}): {' '.join(failure.reason.split()).rstrip('.')}.{mend}"
