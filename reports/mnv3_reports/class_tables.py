"""The tables about single classes: how many of each are right, and what they are taken for."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any, NamedTuple

from mnv3_reports import predictions
from mnv3_reports.accuracy_words import hundredths
from mnv3_reports.escaping import inline, spreadsheet
from mnv3_reports.layout import Column, Table, Value, build, missing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnv3_reports.predictions import ClassCounts, Confusion, Predictions
    from mnv3_reports.record import CellRecord
    from mnv3_reports.statistics import Interval
    from mnv3_reports.summary import Summary

FEW = 20
"""Classes of which every one has a row, and the confusion matrix is whole; of more the worst so many are shown."""
CSV_COLUMNS = (
    "cell",
    "variant",
    "backend",
    "label",
    "class",
    "images",
    "right",
    "recall",
    "recall_low",
    "recall_high",
    "answered",
    "precision",
    "precision_low",
    "precision_high",
    "most_taken_for",
    "most_taken_for_images",
)


class Classes(NamedTuple):
    """A cell's answers and the names of its classes."""

    found: Predictions
    names: Sequence[str]

    def name(self, label: int) -> str:
        """A class in words; its number where it has no name."""
        name = self.names[label] if label < len(self.names) else ""
        return inline(name) if name.strip() else f"class {label}"


def of_cell(summary: Summary, record: CellRecord) -> Classes:
    """Read what a cell answered.

    Raises:
        PredictionsError: its file cannot be used.
    """
    assert record.accuracy is not None, "only evaluated cells answer"
    names = summary.run.evaluation.classes if summary.run.evaluation is not None else ()
    return Classes(predictions.read(summary.directory, record.accuracy.predictions), names)


def per_class(classes: Classes) -> Table:
    """A row a class in the order of the outputs; of more than `FEW` the worst of those with images."""
    rows = predictions.by_class(classes.found, len(classes.names))
    if len(rows) > FEW:
        rows = sorted(
            (row for row in rows if row.images), key=lambda row: (row.right / row.images, -row.images)
        )
        rows = rows[:FEW]

    def share(interval: Interval | None, why: str) -> Value:
        return missing(why) if interval is None else Value(hundredths(interval))

    def taken_for(row: ClassCounts) -> Value:
        if row.taken_for is None:
            return Value("none")
        return Value(f"{classes.name(row.taken_for[0])} ({row.taken_for[1]:,})")

    columns = [
        Column["ClassCounts"]("class", lambda row: Value(classes.name(row.label)), align="left"),
        Column["ClassCounts"]("images", lambda row: Value(f"{row.images:,}")),
        Column["ClassCounts"]("right", lambda row: Value(f"{row.right:,}")),
        Column["ClassCounts"]("recall", lambda row: share(row.recall, "no image of this class"), "% [95 %]"),
        Column["ClassCounts"](
            "precision", lambda row: share(row.precision, "nothing was taken for this class"), "% [95 %]"
        ),
        Column["ClassCounts"]("most often taken for", taken_for, "(images)", align="left"),
    ]
    return build(columns, rows)


def confusion(classes: Classes) -> Table | None:
    """The whole matrix of few classes, the most frequent confusions of many; None where nothing was confused."""
    found = predictions.confusions(classes.found)
    if not found:
        return None
    number = len(predictions.by_class(classes.found, len(classes.names)))
    return _matrix(classes, number) if number <= FEW else _pairs(classes, found[:FEW])


def _matrix(classes: Classes, number: int) -> Table:
    counts = predictions.matrix(classes.found, number)

    def count(label: int, answer: int) -> Value:
        images = counts[label][answer]
        return Value(f"**{images:,}**" if label == answer else f"{images:,}" if images else "·")

    columns = [Column[int]("label ↓, taken for →", lambda row: Value(classes.name(row)), align="left")]
    columns += [
        Column[int](classes.name(answer), lambda label, answer=answer: count(label, answer))  # type: ignore[misc]
        for answer in range(number)
    ]
    return build(columns, range(number))


def _pairs(classes: Classes, found: Sequence[Confusion]) -> Table:
    columns = [
        Column["Confusion"]("label", lambda row: Value(classes.name(row.label)), align="left"),
        Column["Confusion"]("taken for", lambda row: Value(classes.name(row.answer)), align="left"),
        Column["Confusion"]("images", lambda row: Value(f"{row.images:,}")),
    ]
    return build(columns, found)


def to_csv(summary: Summary) -> str | None:
    """Every class of every evaluated cell, a line each; None where no file of predictions can be read.

    Texts are made one line each, which no spreadsheet takes for a formula.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    lines = 0
    for key, record in summary.run.cells.items():
        if record.accuracy is None:
            continue
        try:
            classes = of_cell(summary, record)
        except predictions.PredictionsError:
            continue  # the report says so
        for row in predictions.by_class(classes.found, len(classes.names)):
            line = {"cell": key, "variant": record.cell.variant, "backend": record.cell.backend}
            line |= _line(classes, row)
            writer.writerow({name: spreadsheet(v) if isinstance(v, str) else v for name, v in line.items()})
            lines += 1
    return out.getvalue() if lines else None


def _line(classes: Classes, row: ClassCounts) -> dict[str, Any]:
    names = classes.names
    line: dict[str, Any] = {
        "label": row.label,
        "class": names[row.label] if row.label < len(names) else "",
        "images": row.images,
        "right": row.right,
        "answered": row.answered,
    }
    for name, interval in (("recall", row.recall), ("precision", row.precision)):
        if interval is not None:
            line |= {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}
    if row.taken_for is not None:
        line |= {"most_taken_for": row.taken_for[0], "most_taken_for_images": row.taken_for[1]}
    return line


def counted(number: int) -> str:
    """`1 class`, `10 classes`."""
    return f"{number:,} {'class' if number == 1 else 'classes'}"
