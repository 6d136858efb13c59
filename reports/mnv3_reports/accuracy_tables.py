"""The columns and tables of accuracy: what each shows of a cell, in the tables of cells and in tables of its own."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from mnv3_reports import units
from mnv3_reports.accuracy import calibration_error, is_reference, mean_interval, wilson_interval
from mnv3_reports.accuracy_words import hundredths, limit_points, probability, single
from mnv3_reports.layout import Column, Table, Value, build, missing
from mnv3_reports.tables import CellRow, cell_rows, cells_table, marked

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mnv3_reports.record import Accuracy, Bin
    from mnv3_reports.summary import Summary

NO_IMAGES = "no image was evaluated"


def _evaluated(row: CellRow) -> Accuracy | Value:
    """The cell's accuracy, or why there is none."""
    record, run = row.record, row.summary.run
    if record.accuracy is not None:
        return record.accuracy
    if record.failure is not None:
        return missing(row.summary.why_not_timed(record.cell.key))
    asked = run.header.request.preprocessing
    if asked and record.cell.variant not in asked:
        return missing("its weights are random, so there is no accuracy to measure")
    if run.finished is None or run.finished.status == "partial":
        return missing("the run ended before this cell was evaluated")
    return missing("this cell was not evaluated")


def _share(row: CellRow, right: int | None) -> Value:
    found = _evaluated(row)
    if isinstance(found, Value):
        return found
    if right is None:
        return missing("with five classes or fewer every answer is among the top five")
    interval = wilson_interval(right, found.images)
    return missing(NO_IMAGES) if interval is None else Value(hundredths(interval))


def _top1(row: CellRow) -> Value:
    return _share(row, row.record.accuracy.top1 if row.record.accuracy else None)


def _top5(row: CellRow) -> Value:
    found = row.record.accuracy
    value = _share(row, found.top5 if found else None)
    return value._replace(text=value.text.partition(" [")[0])


def _unpaired(row: CellRow) -> Value:
    """Why a cell has no drop."""
    found = _evaluated(row)
    if isinstance(found, Value):
        return found
    if not found.images:
        return missing(NO_IMAGES)
    return missing("there is no fp32 reference of this network to compare with")


def _drop(row: CellRow) -> Value:
    drop = row.summary.drop(row.record.cell)
    if drop is None:
        return _unpaired(row)
    if is_reference(row.record):
        return Value("0", "the reference itself")
    return marked(row, Value(hundredths(drop.interval)))


def _noise(row: CellRow) -> Value:
    """Whether the difference could be chance, by McNemar's exact test."""
    drop = row.summary.drop(row.record.cell)
    if drop is None:
        return _unpaired(row)
    if is_reference(row.record):
        return missing("the reference itself")
    pairs = row.record.accuracy.pairs if row.record.accuracy else None
    if pairs is not None and not pairs.only_reference + pairs.only_cell:
        return Value("no difference")
    return Value(f"{'may be' if drop.verdict == 'no loss shown' else 'no'}, {probability(drop.p)}")


def _agreement(row: CellRow) -> Value:
    found = _evaluated(row)
    if isinstance(found, Value):
        return found
    if found.pairs is None or not found.images:
        return _unpaired(row)
    return Value(single(found.pairs.agree / found.images, found.images))


def _loss(row: CellRow) -> Value:
    found = _evaluated(row)
    if isinstance(found, Value):
        return found
    interval = mean_interval(found.loss, found.loss_sd, found.images)
    return missing(NO_IMAGES) if interval is None else Value(units.enclosed(interval))


def _calibration(row: CellRow) -> Value:
    found = _evaluated(row)
    if isinstance(found, Value):
        return found
    error = calibration_error(found.bins)
    return missing(NO_IMAGES) if error is None else Value(f"{error * 100:.1f}")


def _above(row: CellRow) -> Value:
    """Whether the drop is above the limit."""
    drop = row.summary.drop(row.record.cell)
    if drop is None:
        return _unpaired(row)
    if is_reference(row.record):
        return missing("the reference itself")
    words = {"above": "yes", "below": "no", "not told apart": "not told"}
    answer = drop.against(row.summary.limit)
    return Value(words[answer], NOT_TOLD if answer == "not told apart" else None)


def _compact(value: Value) -> Value:
    """Without the space in the brackets, so that a narrow terminal breaks the line before them."""
    return value._replace(text=value.text.replace(", ", ","))


NOT_TOLD = "the interval holds drops above and below what is accepted; more images would tell"
TOP1 = Column("top-1", _top1, "% [95 %]")
DROP = Column("drop", _drop, "points [95 %]")
COMPACT_TOP1 = Column[CellRow]("top-1", lambda row: _compact(_top1(row)), "% [95 %]")
COMPACT_DROP = Column[CellRow]("drop", lambda row: _compact(_drop(row)), "points [95 %]")
SAME = Column("same class", _agreement, "%")
TOP5 = Column("top-5", _top5, "%")
NOISE = Column("noise?", _noise, "(McNemar)", align="left")
LOSS = Column("loss", _loss, "nats [95 %]")
CALIBRATION = Column("ECE", _calibration, "%")
BESIDE_SPEED: tuple[Column[CellRow], ...] = (TOP1, DROP, SAME)
"""What stands beside a latency."""


def evaluated(summary: Summary, variant: str) -> list[CellRow]:
    """The network's evaluated cells, the most accurate first; of settings in which one answers alike the first."""
    rows: dict[tuple[object, ...], CellRow] = {}
    for row in cell_rows(summary, variant):
        found, cell = row.record.accuracy, row.record.cell
        if found is not None:
            counts = (found.images, found.top1, found.top5, found.pairs, round(found.loss, 4))
            rows.setdefault((cell.backend, cell.device, cell.resolution, *counts), row)
    return sorted(rows.values(), key=_accurate)


def _accurate(row: CellRow) -> float:
    found = row.record.accuracy
    return -found.top1 / found.images if found is not None and found.images else 1.0


def all_rows(summary: Summary) -> Iterator[CellRow]:
    """Every cell, evaluated or not, networks in the report's order and the most accurate first."""
    for variant in summary.variants:
        yield from sorted(cell_rows(summary, variant), key=_accurate)


def columns(summary: Summary, rows: Sequence[CellRow]) -> list[Column[CellRow]]:
    """Everything there is to say of the accuracy of these cells."""
    with_top5 = any(row.record.accuracy is not None and row.record.accuracy.top5 is not None for row in rows)
    paired = any(summary.drop(row.record.cell) is not None for row in rows)
    found = [TOP1, *([TOP5] if with_top5 else [])]
    if paired:
        above = Column[CellRow]("above", _above, f"{limit_points(summary.limit)} points?", align="left")
        found += [DROP, NOISE, above, SAME]
    return [*found, LOSS, CALIBRATION]


def table(summary: Summary, rows: Sequence[CellRow]) -> Table:
    """Accuracy of cells."""
    return cells_table(rows, columns(summary, rows))


def paired_counts(rows: Sequence[CellRow]) -> Table | None:
    """Images by which of cell and reference gets them right; None where nothing was compared."""

    def count(row: CellRow, name: str) -> Value:
        pairs = row.record.accuracy.pairs if row.record.accuracy is not None else None
        return _unpaired(row) if pairs is None else Value(f"{getattr(pairs, name):,}")

    if not any(row.record.accuracy is not None and row.record.accuracy.pairs is not None for row in rows):
        return None
    titles = {
        "both_right": "both right",
        "only_reference": "only the reference",
        "only_cell": "only this",
        "both_wrong": "both wrong",
        "agree": "same class",
    }
    return cells_table(
        rows, [Column[CellRow](title, partial(count, name=name)) for name, title in titles.items()]
    )


class _Range(NamedTuple):
    """A bin with its ends."""

    low: float
    high: float
    found: Bin


def reliability(found: Accuracy) -> Table | None:
    """Confidence beside the share of right answers, by ranges of confidence; None where no image is in any."""
    size = 1 / max(len(found.bins), 1)
    ranges = [
        _Range(place * size, (place + 1) * size, each) for place, each in enumerate(found.bins) if each.images
    ]

    def right(row: _Range) -> Value:
        interval = wilson_interval(row.found.right, row.found.images)
        return missing(NO_IMAGES) if interval is None else Value(hundredths(interval))

    shown = [
        Column[_Range]("confidence", lambda row: Value(f"{row.low:.2f} to {row.high:.2f}"), align="left"),
        Column[_Range]("images", lambda row: Value(f"{row.found.images:,}")),
        Column[_Range]("mean confidence", lambda row: Value(_mean(row)), "%"),
        Column[_Range]("right", right, "% [95 %]"),
    ]
    return build(shown, ranges) if ranges else None


def _mean(row: _Range) -> str:
    return f"{row.found.confidence / row.found.images * 100:.1f}"
