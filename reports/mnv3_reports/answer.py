"""The first part of a report: what to ship, which backend is fastest for each network, what that costs in accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mnv3_reports import units
from mnv3_reports.accuracy import wilson_interval
from mnv3_reports.accuracy_words import alerts, doubts, hundredths, joined, mark, than_accepted, told, untold
from mnv3_reports.advice import advice
from mnv3_reports.cell_words import shape
from mnv3_reports.compare import BASELINE
from mnv3_reports.escaping import code, inline
from mnv3_reports.statistics import Interval

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mnv3_reports.record import Cell
    from mnv3_reports.summary import Summary

NAMED = 4
"""Backends that a sentence names; the tables have them all."""


class _Question(NamedTuple):
    """One line of the answer: which backend is fastest for this network with so many threads?"""

    variant: str
    threads: int
    best: Cell | None
    """None when nothing was timed."""


def answer(summary: Summary) -> str:
    """What to ship; a line for each network and number of threads, at batch 1 where that was measured; accuracy."""
    questions = list(_questions(summary))
    parts = [advice(summary), *_fastest(summary, questions), *inaccurate(summary), _ablated(summary)]
    best = [asked.best for asked in questions if asked.best is not None]
    if best:
        parts.append(_reading(summary, best))
    return "\n\n".join(filter(None, parts))


def _fastest(summary: Summary, questions: Sequence[_Question]) -> Iterator[str]:
    if not questions:
        yield "No network was asked for."
        return
    shapes = {_called_with(summary, asked.best) for asked in questions if asked.best is not None}
    if not shapes:
        names = dict.fromkeys(f"**{inline(asked.variant)}**" for asked in questions)
        yield f"{', '.join(names)}: not timed on any backend."
        return
    shared = f" ({', '.join(shapes)})" if len(shapes) == 1 else ""
    yield f"The fastest backend for each network{shared}, held against eager PyTorch:"
    yield "\n".join(f"- {_line(summary, asked, shared=bool(shared))}" for asked in questions)


def _questions(summary: Summary) -> Iterator[_Question]:
    """Networks in the report's order, each with every number of threads that was asked for."""
    cells = [record.cell for record in summary.run.cells.values()]
    for variant in summary.asked:
        mine = [cell for cell in cells if cell.variant == variant]
        for threads in dict.fromkeys(cell.threads for cell in mine):
            settings = {cell.setting: cell for cell in mine if cell.threads == threads}
            # Latency is what batch 1 shows; of several resolutions the first asked stands for the network.
            ordered = sorted(settings, key=lambda setting: settings[setting].batch)
            found = (summary.fastest(variant, setting) for setting in ordered)
            yield _Question(variant, threads, next((cell for cell in found if cell is not None), None))


def _called_with(summary: Summary, cell: Cell) -> str:
    device = "" if cell.device == "cpu" else f"{cell.device}, "
    return device + inline(shape(cell, summary.run.header.request.models.get(cell.variant)))


def _line(summary: Summary, asked: _Question, *, shared: bool) -> str:
    name = f"{inline(asked.variant)}, {units.counted(asked.threads, 'thread')}"
    best = asked.best
    if best is None:
        return f"**{name}:** not timed on any backend."
    name = f"**{name if shared else f'{name}, {_called_with(summary, best)}'}:**"
    sentences = [_speed(summary, best)]
    others = summary.close_to(best)
    if others:
        more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
        names = ", ".join(code(cell.backend) for cell in others[:NAMED])
        sentences.append(f"Not told apart from it: {names}{more}")
    beside = [
        f"{units.enclosed(ratio.interval)} × the time of {inline(reference)}"
        for reference in summary.run.header.request.references
        if (ratio := summary.to_reference(best, reference)) is not None
    ]
    if beside:
        sentences.append(f"There it takes {' and '.join(beside)}")
    sentences += _accuracy(summary, best)
    flagged = summary.flagged(summary.run.cells[best.key])
    sound = summary.fastest(best.variant, best.setting, unflagged=True) if flagged else None
    exact = summary.fastest(best.variant, best.setting, "fp32")
    if exact is not None and exact == sound:
        sentences.append(f"Without such a flag, and in fp32: {_unflagged(summary, exact)}")
    else:
        sentences += [f"Without such a flag: {_unflagged(summary, sound)}"] if sound is not None else []
        sentences += [f"In fp32: {_speed(summary, exact)}"] if exact is not None and exact != best else []
    return f"{name} {'. '.join(sentences)}."


def _accuracy(summary: Summary, cell: Cell) -> Iterator[str]:
    """What the fastest cell costs in accuracy; where that was not measured, whether it gives other classes."""
    drop, record = summary.drop(cell), summary.run.cells[cell.key]
    right = _right(summary, cell)
    share = summary.other_classes(record)
    if share is not None:
        yield f"⚠ It gives another class than its reference on {units.percent(share)} of the inputs"
    if right is None:
        return
    if drop is None or cell.backend == BASELINE:
        yield f"It gets {right}"
        return
    sentence = f"It gets {right} and {told(drop, inline(drop.reference))}"
    if summary.beyond(cell) is not None:
        sentence = f"{mark(summary)} {sentence}, {than_accepted(summary)}"
    yield sentence


def _right(summary: Summary, cell: Cell) -> str | None:
    """'97.8 [96.0, 98.8] % of the images right'; None where accuracy was not measured."""
    found = summary.run.cells[cell.key].accuracy
    top1 = wilson_interval(found.top1, found.images) if found is not None else None
    return f"{hundredths(top1)} % of the images right" if top1 is not None else None


def _unflagged(summary: Summary, cell: Cell) -> str:
    """The speed of a cell that is named for its soundness, with its accuracy where that was measured."""
    right = _right(summary, cell)
    return f"{_speed(summary, cell)}{f', {right}' if right is not None else ''}"


def inaccurate(summary: Summary) -> Iterator[str]:
    """Every backend that loses more than accepted, or may, however fast it is."""
    evaluation = summary.run.evaluation
    if evaluation is None or not summary.drops:
        return
    lines = [*alerts(summary), *doubts(summary)]
    where = f"Accuracy on {units.counted(evaluation.images, 'image')} of {inline(evaluation.data)}"
    if lines:
        yield f"{where}, each backend held against its network in fp32:"
        yield "\n".join(f"- {line}" for line in lines)
        return
    few = len(untold(summary))
    doubt = f"; of {units.counted(few, 'cell')} so few images do not tell it (see Accuracy)" if few else ""
    yield f"{where}: no backend is seen to lose {than_accepted(summary, ' points')}{doubt}."


def _ablated(summary: Summary) -> str:
    """Where forms without an ingredient are to be found."""
    forms = [variant for variant in summary.variants if variant not in summary.asked]
    return f"What each ingredient costs and brings ({inline(joined(forms))}) is in Ablation." if forms else ""


def _speed(summary: Summary, cell: Cell) -> str:
    """Backend, speed-up over eager, and latency."""
    latency = f"{units.enclosed(summary.statistics[cell.key].latency, 1e3)} ms a call"
    tuned = "" if summary.planned(cell) else " (tuned)"
    name = f"{code(cell.backend)}{tuned}"
    ratio = summary.to_eager(cell)
    if cell.backend == BASELINE:
        return f"{name} itself, {latency}"
    if ratio is None:
        return f"{name}, {latency} (eager was not timed beside it)"
    return f"{name} is {units.enclosed(inverse(ratio.interval))} × as fast as eager, {latency}"


def inverse(ratio: Interval) -> Interval:
    """How many times as fast, from how many times as long."""
    low = 1 / ratio.high
    high = 1 / ratio.low if ratio.low > 0 else float("inf")
    return Interval(1 / ratio.estimate, low, high, ratio.n)


def _reading(summary: Summary, best: list[Cell]) -> str:
    bounded = all(summary.statistics[cell.key].latency.bounded for cell in best)
    brackets = (
        "Brackets hold 95 % intervals"
        if bounded
        else "Where brackets are missing, a single epoch gave no interval"
    )
    return (
        f"{brackets}; that a backend was picked as the fastest of several flatters its figure a little. "
        "In all tables ratios are of times: below 1 is faster."
    )
