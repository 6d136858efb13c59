"""The report's section about accuracy: what it was measured on, a table a network, and how to read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnv3_reports import accuracy_tables, units
from mnv3_reports.accuracy_tables import evaluated
from mnv3_reports.accuracy_words import limit_points, untold
from mnv3_reports.class_tables import counted
from mnv3_reports.escaping import code, inline
from mnv3_reports.layout import folded, to_markdown
from mnv3_reports.provenance import listed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mnv3_reports.record import Cell, Evaluation, Preprocessing, Trained
    from mnv3_reports.summary import Summary

NAMED = 5
"""Broken images that are named before the list folds."""
READING = """\
**Reading it:** top-1 is the share of images whose label is the most probable class, with Wilson's score interval. The
drop is how many more of the same images the network gets right in eager fp32, in points; its interval is Tango's for
pairs. "noise?" asks McNemar's exact test about the images that only one of the two gets right: with p below 0.05 the
difference is no noise. That test is stricter than the interval; still, of twenty backends that lose nothing it takes
up to one for a loss. "Same class" counts images that both put into one class, right or wrong. Loss is the mean
cross-entropy. ECE is the expected calibration error, how far confidence and share of right answers lie apart; among
few images chance alone makes it larger than zero."""


def section(summary: Summary, *, with_pairs: bool = True) -> Iterator[str]:
    """The section's paragraphs, without heading; none where no accuracy was to be measured.

    Args:
        summary: of the run.
        with_pairs: with the counts that drops are drawn from, folded.
    """
    run = summary.run
    if run.evaluation is None:
        return
    yield "\n".join(f"- {line}" for line in measured_on(summary, run.evaluation))
    shown = [(variant, evaluated(summary, variant)) for variant in summary.variants]
    shown = [(variant, rows) for variant, rows in shown if rows]
    if not shown:
        yield "No cell was evaluated before the run ended."
        return
    for variant, rows in shown:
        text = to_markdown(accuracy_tables.table(summary, rows))
        if variant in summary.open:
            yield f"### Accuracy of {inline(variant)}"
            yield text
        else:
            yield folded(f"Accuracy of {variant}", text)
    yield from _not_told(summary)
    yield " ".join(READING.split())
    texts = list(paired(summary)) if with_pairs else []
    if texts:
        yield folded(
            "Paired counts: which images each backend and its reference get right", "\n\n".join(texts)
        )


def paired(summary: Summary) -> Iterator[str]:
    """The counts that drops are drawn from, a table a network."""
    for variant in summary.variants:
        table = accuracy_tables.paired_counts(evaluated(summary, variant))
        if table is not None:
            yield f"{inline(variant)}:\n\n{to_markdown(table)}"


def measured_on(summary: Summary, evaluation: Evaluation) -> Iterator[str]:
    """What accuracy was measured on, one statement each."""
    split = {
        "held-out": "the held-out part, which training by this tool leaves out",
        "all": "all images there are but those that calibrate",
    }.get(evaluation.split, inline(evaluation.split))
    yield (
        f"**Data:** {inline(evaluation.data)}, {units.counted(evaluation.images, 'image')} of "
        f"{counted(len(evaluation.classes))}: {split}; fingerprint {inline(evaluation.fingerprint)}."
    )
    if evaluation.broken:
        yield _broken(evaluation.broken)
    yield f"**Calibration:** {inline(evaluation.calibration).rstrip('.')}."
    yield from _preprocessing(summary)
    yield from trained(summary)


def _broken(broken: dict[str, str]) -> str:
    """Images that could not be decoded: named, the first ones with their reason."""
    named = [f"{code(name)} ({inline(reason).rstrip('.')})" for name, reason in list(broken.items())[:NAMED]]
    more = f" and {len(broken) - NAMED:,} more, which the record names" if len(broken) > NAMED else ""
    are = "could not be decoded and is" if len(broken) == 1 else "could not be decoded and are"
    return f"**Left out:** {units.counted(len(broken), 'image')} {are} not counted: {', '.join(named)}{more}."


def _preprocessing(summary: Summary) -> Iterator[str]:
    """How images became inputs, networks that ask for the same together."""
    found: dict[Preprocessing, list[str]] = {}
    for variant in summary.variants:
        used = {
            row.record.accuracy.preprocessing for row in evaluated(summary, variant) if row.record.accuracy
        }
        asked = summary.run.header.request.preprocessing.get(variant)
        for each in used or ({asked} if asked is not None else set()):
            found.setdefault(each, []).append(variant)
    for each, variants in found.items():
        yield f"**Preprocessing of {inline(listed(variants))}:** {described(each)}."


def described(preprocessing: Preprocessing) -> str:
    """Every step in words, with its source."""
    mean, std = (
        " ".join(f"{value:g}" for value in values) for values in (preprocessing.mean, preprocessing.std)
    )
    pixels = preprocessing.resolution
    source = f"; {inline(preprocessing.source).rstrip('.')}" if preprocessing.source.strip() else ""
    return (
        f"shorter side {preprocessing.resize} ({inline(preprocessing.interpolation)}), centre crop "
        f"{pixels} × {pixels}, then (pixel / 255 − {mean}) / {std} a channel{source}"
    )


def trained(summary: Summary) -> Iterator[str]:
    """Networks that were trained for the run; those of one recipe in one statement."""
    data = summary.run.evaluation.data if summary.run.evaluation is not None else None
    alike: dict[tuple[str, int, int, int], list[Trained]] = {}
    for each in summary.run.trained:
        alike.setdefault((each.recipe, each.epochs, each.seed, each.images), []).append(each)
    for (recipe, epochs, seed, images), networks in alike.items():
        of = f" of {inline(data)}" if data is not None else ""
        names = listed(inline(f"{each.variant} ({_ending(each)})") for each in networks)
        yield (
            f"**Trained for this run:** {names}; recipe {inline(recipe)}, {units.counted(epochs, 'epoch')}, "
            f"seed {seed}, {units.counted(images, 'image')}{of}."
        )


def _ending(each: Trained) -> str:
    cached = ", by an earlier run" if each.cached else ""
    return f"last loss {units.significant(each.loss)}, {units.duration(each.seconds)}{cached}"


def _not_told(summary: Summary) -> Iterator[str]:
    """Cells of which the images are too few to say whether they lose more than accepted."""
    found: dict[str, list[Cell]] = {}
    for cell in untold(summary):
        found.setdefault(cell.backend, []).append(cell)
    if not found:
        return
    images = max(drop.interval.n for drop in summary.drops.values())
    names = (
        f"{code(backend)} ({inline(listed(dict.fromkeys(cell.variant for cell in cells)))})"
        for backend, cells in found.items()
    )
    yield (
        f"Whether these lose more than {limit_points(summary.limit)} points or less, "
        f"{units.counted(images, 'image')} do not tell: {listed(names)}."
    )
