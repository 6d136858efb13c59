"""The report of a run that measured accuracy alone, as GitHub-flavoured markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnv3_reports import (
    ablation,
    accuracy_section,
    accuracy_tables,
    class_tables,
    failures,
    parts,
    provenance,
    sensitivity,
    units,
)
from mnv3_reports.accuracy import calibration_error, wilson_interval
from mnv3_reports.accuracy_words import hundredths, told
from mnv3_reports.answer import inaccurate
from mnv3_reports.class_tables import FEW, counted
from mnv3_reports.compare import BASELINE
from mnv3_reports.escaping import code, inline, plain
from mnv3_reports.layout import folded, to_markdown
from mnv3_reports.parts import PAGE, Parts, Section
from mnv3_reports.predictions import PredictionsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mnv3_reports.drawings import Picture
    from mnv3_reports.record import Accuracy
    from mnv3_reports.summary import Summary
    from mnv3_reports.tables import CellRow

NAMED = 4
"""Backends that a sentence names, and cells whose classes are shown beside the reference's."""
PER_CLASS = "per_class.csv"
"""The file beside the report that holds every class of every cell."""


def evaluation_text(summary: Summary, pictures: Sequence[Picture] = ()) -> str:
    """The whole report of an evaluation, however much of it was measured."""
    return parts.to_markdown(summary.run, parts_of(summary), pictures, page=PAGE)


def parts_of(summary: Summary) -> Parts:
    """All the report says, in its order."""
    evaluation = summary.run.evaluation
    on = f" on {evaluation.data}" if evaluation is not None else ""
    lines = [f"- **{inline(variant)}:** {_answer(summary, variant)}" for variant in summary.asked]
    answer = ["\n".join(lines) or "No network was asked for.", *inaccurate(summary)]
    sections = [
        Section("Accuracy", list(accuracy_section.section(summary, with_pairs=False))),
        Section("Paired comparison", list(_paired(summary))),
        Section("Calibration", list(_calibration(summary))),
        Section("Classes", list(_classes(summary))),
        Section("Sensitivity to quantization", list(sensitivity.section(summary))),
        Section("Ablation", list(ablation.section(summary))),
        Section("Failures and skips", list(failures.section(summary))),
        Section("What was asked, and of which machine", ["\n".join(provenance.asked(summary))]),
        Section("How it was measured", list(provenance.method(summary))),
    ]
    title = plain(f"Accuracy of {provenance.listed(summary.asked)}{on}")
    return Parts.of(
        title, "\n\n".join(answer), sections, "An evaluation draws no chart without a scan of its layers."
    )


def _answer(summary: Summary, variant: str) -> str:
    """How good the network is in fp32, and which backends lose or gain beyond noise."""
    rows = accuracy_tables.evaluated(summary, variant)
    if not rows:
        return "not evaluated on any backend."
    reference = reference_of(rows)
    sentences = [f"{code(reference.record.cell.backend)} gets {_right(reference)}"]
    drop = summary.drop(reference.record.cell)
    if drop is not None and reference.record.cell.backend != BASELINE:
        sentences = [f"{sentences[0]} and {told(drop, inline(drop.reference))}"]
    others = [row for row in rows if row is not reference]
    drops = [(row, drop) for row in others if (drop := summary.drop(row.record.cell)) is not None]
    changed = [(row, drop) for row, drop in drops if drop.verdict != "no loss shown"]
    if drops:
        still = len(drops) - len(changed)
        sentences += [f"No loss beyond noise on {_of(still, len(drops))}"] if still else []
        changed.sort(key=lambda item: -item[1].interval.estimate)
        sentences += [
            f"{code(row.record.cell.backend)} {told(drop, inline(drop.reference))}"
            for row, drop in changed[:NAMED]
        ]
        more = len(changed) - NAMED
        sentences += (
            [f"On {units.counted(more, 'more backend')} the difference is no noise either"]
            if more > 0
            else []
        )
    else:
        sentences += [f"{code(row.record.cell.backend)} gets {_right(row)}" for row in others[:NAMED]]
    return f"{'. '.join(sentences)}."


def _of(some: int, every: int) -> str:
    """'the other backend', 'any of the 8 other backends', '6 of 8 other backends'."""
    if every == 1:
        return "the other backend"
    return f"any of the {every} other backends" if some == every else f"{some} of {every} other backends"


def _right(row: CellRow) -> str:
    found = row.record.accuracy
    top1 = wilson_interval(found.top1, found.images) if found is not None else None
    if found is None or top1 is None:
        return "no image to answer"
    return f"{hundredths(top1)} % of {units.counted(found.images, 'image')} right"


def reference_of(rows: Sequence[CellRow]) -> CellRow:
    """The cell that others are seen beside: eager, else the first."""
    return next((row for row in rows if row.record.cell.backend == BASELINE), rows[0])


def _paired(summary: Summary) -> Iterator[str]:
    tables = list(accuracy_section.paired(summary))
    if tables:
        yield (
            "How many images the backend and its reference get right. Only those that one of the two gets right tell "
            "anything about a difference."
        )
        yield from tables


def _calibration(summary: Summary) -> Iterator[str]:
    for variant in summary.variants:
        rows = accuracy_tables.evaluated(summary, variant)
        if not rows:
            continue
        row = reference_of(rows)
        found = row.record.accuracy
        table = accuracy_tables.reliability(found) if found is not None else None
        if found is None or table is None:
            continue
        yield f"**{inline(variant)} on {code(row.record.cell.backend)}:** {_calibrated(found)}{_of_others(rows, row)}."
        text = to_markdown(table)
        yield text if variant in summary.open else folded(f"Confidence of {variant}", text)


def _calibrated(found: Accuracy) -> str:
    """The calibration error, and to which side."""
    images = sum(each.images for each in found.bins)
    confidence = sum(each.confidence for each in found.bins) / images
    right = sum(each.right for each in found.bins) / images
    error = calibration_error(found.bins) or 0.0
    side = "more confident than right" if confidence > right else "less confident than right"
    return (
        f"expected calibration error {error * 100:.1f} %; on average it is {abs(confidence - right) * 100:.1f} points "
        f"{side}"
    )


def _of_others(rows: Sequence[CellRow], row: CellRow) -> str:
    errors = [
        error * 100
        for other in rows
        if other is not row and other.record.accuracy is not None
        if (error := calibration_error(other.record.accuracy.bins)) is not None
    ]
    if not errors:
        return ""
    low, high = f"{min(errors):.1f}", f"{max(errors):.1f}"
    return f"; on the other backends {low} %" if low == high else f"; on the other backends {low} to {high} %"


def _classes(summary: Summary) -> Iterator[str]:
    number = len(summary.run.evaluation.classes) if summary.run.evaluation is not None else 0
    parts = [part for variant in summary.variants for part in _classes_of(summary, variant)]
    if not parts:
        return
    if number > FEW:
        yield (
            f"Of {counted(number)} the {FEW} with the lowest recall are shown; `{PER_CLASS}` beside this report holds "
            "every class of every cell."
        )
    else:
        yield f"`{PER_CLASS}` beside this report holds the same of every cell."
    yield from parts


def _classes_of(summary: Summary, variant: str) -> Iterator[str]:
    """The reference's classes, and those of cells that lose beyond noise."""
    rows = accuracy_tables.evaluated(summary, variant)
    if not rows:
        return
    reference = reference_of(rows)
    losing = [
        row
        for row in rows
        if row is not reference
        and (drop := summary.drop(row.record.cell)) is not None
        and drop.verdict == "loses"
    ]
    for row in (reference, *losing[-NAMED:]):
        name = f"{inline(variant)} on {code(row.record.cell.backend)}"
        try:
            classes = class_tables.of_cell(summary, row.record)
        except PredictionsError as error:
            yield f"**{name}:** {inline(str(error)).rstrip('.')}, so nothing is known of its classes."
            continue
        confused = class_tables.confusion(classes)
        text = to_markdown(class_tables.per_class(classes))
        text += (
            f"\n\n{to_markdown(confused)}"
            if confused is not None
            else "\n\nNo image was taken for another class."
        )
        if row is reference and variant in summary.open:
            yield f"**{name}:**"
            yield text
        else:
            yield folded(f"{variant} on {row.record.cell.backend}", text)
