"""A run's figures for a terminal: a rich table, or plain lines where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from mnv3_reports import accuracy_tables, tables, units
from mnv3_reports.accuracy import is_reference
from mnv3_reports.accuracy_words import alerts, doubts, than_accepted, told
from mnv3_reports.advice import advice
from mnv3_reports.compare import BASELINE
from mnv3_reports.escaping import plain
from mnv3_reports.layout import MISSING, Column, Value, to_rich, width
from mnv3_reports.provenance import partial_notice
from mnv3_reports.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console, ConsoleOptions, RenderableType

    from mnv3_reports.layout import Table
    from mnv3_reports.record import Run
    from mnv3_reports.tables import CellRow


BAR = 17
"""Columns of the longest bar: as wide as its heading."""


class FittingTable:
    """A table of cells that fits the console it is printed on, with what is to be known of it below."""

    def __init__(
        self,
        summary: Summary,
        columns: Sequence[Column[CellRow]],
        left_out: Sequence[Column[CellRow]],
        otherwise: Callable[[Run], list[str]],
    ) -> None:
        """Args that need a word.

        columns: the figures, of which the first always stays.
        left_out: which of the others go first where there is no width for them.
        otherwise: what is printed where there is no width for any table.
        """
        self._summary = summary
        self._rows = [row for variant in summary.variants for row in tables.cell_rows(summary, variant)]
        self._columns = list(columns)
        self._left_out = list(left_out)
        self._otherwise = otherwise

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Names with settings get a line a setting, then figures wrap, then some are left out, then it is no table."""
        from rich.text import Text

        columns = list(self._columns)
        table = self._table(columns)
        if width(table) > options.max_width:
            table = _stacked(table)
        going = iter(self._left_out)
        while width(table, wrapped=True) > options.max_width and len(columns) > 1:
            columns.remove(next(going))
            table = _stacked(self._table(columns))
        run = self._summary.run
        if width(table, wrapped=True) > options.max_width:
            yield Text("\n".join(self._otherwise(run)))
            return
        gone = ", ".join(column.title for column in self._columns if column not in columns)
        caption = f"left out, for want of width: {gone}; the report has all" if gone else None
        notice = partial_notice(run)
        yield to_rich(table, notice and plain(notice), caption, options.max_width)
        for line in alerts(self._summary, markdown=False):
            yield Text(plain(line), "bold red" if run.header.request.max_drop is not None else "")
        for line in doubts(self._summary, markdown=False):
            yield Text(plain(line))

    def _table(self, columns: Sequence[Column[CellRow]]) -> Table:
        return tables.cells_table(self._rows, columns, name_variant=True)


def _stacked(table: Table) -> Table:
    """Every setting of a backend on a line of its own."""
    return table._replace(
        rows=tuple(
            tuple(
                value._replace(text=value.text.replace(":", "\n :")) if value.code else value for value in row
            )
            for row in table.rows
        )
    )


def summary_table(run: Run) -> FittingTable:
    """Every cell's main figures as something rich prints, networks in the report's order."""
    summary = Summary(run)
    rows = [row for variant in summary.variants for row in tables.cell_rows(summary, variant)]
    rate = tables.throughput(rows)
    both = [accuracy_tables.COMPACT_TOP1, accuracy_tables.COMPACT_DROP]
    accuracy = both if run.evaluation is not None else []
    bars = _bars(rows)
    columns = [tables.COMPACT_MEDIAN, bars, tables.COMPACT_TO_EAGER, *accuracy, rate, tables.PEAK, tables.SNR]
    # What the median says already goes first.
    left_out = [rate, bars, tables.SNR, tables.PEAK, tables.COMPACT_TO_EAGER, *accuracy]
    return FittingTable(summary, columns, left_out, plain_lines)


def bar(share: float, longest: int) -> str:
    """A bar of this share of so many columns, in eighths of one."""
    eighths = round(max(0.0, min(1.0, share)) * longest * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def _bars(rows: Sequence[CellRow]) -> Column[CellRow]:
    """A column of bars: medians, the slowest cell of each network and setting as the longest."""
    slowest: dict[tuple[str, str], float] = {}
    for row in rows:
        if row.statistics is not None:
            key = row.record.cell.variant, row.record.cell.setting
            slowest[key] = max(slowest.get(key, 0.0), row.statistics.latency.estimate)

    def value(row: CellRow) -> Value:
        if row.statistics is None:
            return Value(MISSING)
        longest = slowest[row.record.cell.variant, row.record.cell.setting]
        return Value(bar(row.statistics.latency.estimate / longest, BAR) or "▏")

    return Column("shorter is faster", value, align="left")


def advice_lines(run: Run) -> list[str]:
    """What to ship, in plain sentences; none where there is nothing to choose among."""
    from markdown_it import MarkdownIt

    written = [
        token.children or () for token in MarkdownIt().parse(advice(Summary(run))) if token.type == "inline"
    ]
    return [plain("".join(part.content for part in parts if part.content)) for parts in written]


def accuracy_table(run: Run) -> FittingTable:
    """Accuracy of every cell as something rich prints; what loses more than accepted is red."""
    summary = Summary(run)
    compact = {
        accuracy_tables.TOP1: accuracy_tables.COMPACT_TOP1,
        accuracy_tables.DROP: accuracy_tables.COMPACT_DROP,
    }
    found = accuracy_tables.columns(summary, list(accuracy_tables.all_rows(summary)))
    columns = [compact.get(column, column) for column in found]
    first = [accuracy_tables.LOSS, accuracy_tables.CALIBRATION, accuracy_tables.TOP5]
    left_out = [column for column in first if column in columns]
    left_out += [column for column in columns[:0:-1] if column not in first]
    return FittingTable(summary, columns, left_out, accuracy_lines)


def plain_lines(run: Run) -> list[str]:
    """One line a cell, each readable on its own."""
    summary = Summary(run)
    notice = partial_notice(run)
    lines = [notice] if notice is not None else []
    for variant in summary.variants:
        for row in tables.cell_rows(summary, variant):
            what = ", ".join(_figures(row)) if row.statistics is not None else _reason(row)
            lines.append(f"{row.record.cell.key}: {what}")
    return [plain(line) for line in lines]


def accuracy_lines(run: Run) -> list[str]:
    """One line a cell about its accuracy, each readable on its own; then what loses more than accepted."""
    summary = Summary(run)
    notice = partial_notice(run)
    lines = [notice] if notice is not None else []
    for row in accuracy_tables.all_rows(summary):
        if row.record.accuracy is None:
            what = accuracy_tables.TOP1.value(row).note or "not evaluated"
            if row.record.failure is not None:
                what = _reason(row)
        else:
            what = ", ".join(_accuracy(row))
        lines.append(f"{row.record.cell.key}: {what}")
    return [
        plain(each) for each in (*lines, *alerts(summary, markdown=False), *doubts(summary, markdown=False))
    ]


def _figures(row: CellRow) -> Iterator[str]:
    summary, record = row.summary, row.record
    rate = tables.throughput([row])
    if row.statistics is not None:
        yield f"{units.enclosed(row.statistics.latency, 1e3)} ms"
    yield _figure(rate.value(row), rate.title)
    if replace(record.cell, backend=BASELINE).key in summary.run.cells:  # a file of its own runtime has none
        yield _figure(tables.TO_EAGER.value(row), "x eager")
    tuned = summary.ratios.get((record.cell.key, summary.defaults.get(record.cell.key, "")))
    if tuned is not None:
        yield f"{units.enclosed(tuned.interval)} x its default settings"
    yield from _accuracy(row)
    share = summary.other_classes(record)
    if share is not None:
        yield f"flagged: another class than the reference's on {units.percent(share)} of the inputs"


def _accuracy(row: CellRow) -> Iterator[str]:
    """Top-1 and drop of an evaluated cell."""
    if row.record.accuracy is None:
        return
    top1 = accuracy_tables.TOP1.value(row)
    yield f"top-1 {top1.text} %" if top1.text != MISSING else f"{top1.note}"
    drop = row.summary.drop(row.record.cell)
    if drop is not None and not is_reference(row.record):
        above = f" ({than_accepted(row.summary)})" if row.summary.beyond(row.record.cell) is not None else ""
        yield f"{told(drop, drop.reference)}{above}"


def _figure(value: Value, unit: str) -> str:
    return f"{value.text} {unit}" + (f" ({value.note})" if value.text == MISSING else "")


def _reason(row: CellRow) -> str:
    failure = row.record.failure
    if failure is None:
        return row.summary.why_not_timed(row.record.cell.key)
    mend = f" To mend it: {failure.install}" if failure.install else ""
    return f"failed ({failure.phase}): {' '.join(failure.reason.split()).rstrip('.')}.{mend}"
