"""What a record keeps to beyond its types. One that somebody else wrote, or that was damaged, may not.

Everything that shows a run relies on it, so that a reader of a stranger's run gets one line and no traceback.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from mnv3_reports.escaping import plain
from mnv3_reports.record import Block

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mnv3_reports.record import Run

LARGEST = 2**63 - 1
"""Of any figure of a record, in its own unit; tables hold no larger ones."""
SMALLEST = 1e-100
"""Of any figure but zero: what is divided by a smaller one is infinite."""
LARGEST_PLACE = 2**31 - 1
"""Of a block: its epoch, round and position."""
SIGNED = frozenset(("cosine", "snr_db", "floor_snr_db", "mean", "facts", "live_bytes", "a figure"))
"""Figures that may be below zero; of a block all may, since the system's counters have been seen to go back."""
POSITIVE = frozenset(("value", "batch", "threads"))
"""Figures of which none is zero: a roof's, and what a cell is made of."""
LONGEST_NAME = 1000
"""Characters of a cell's key."""
MOST_CLASSES = 1_000_000
"""That labels may be of; every one gets a row."""


_FIGURES = tuple(name for name in Block.__struct_fields__ if name not in ("cell", "samples_ns", "disturbed"))


def fault(run: Run) -> str | None:
    """The first thing about a run that cannot be so, in a few words; None where all is well."""
    return next(_faults(run), None)


def _faults(run: Run) -> Iterator[str]:
    yield from _names(run)
    for name in run.__struct_fields__:
        if name != "blocks":
            found = _odd_figure(getattr(run, name), name)
            if found is not None:
                yield found
    yield from _accuracies(run)
    yield from _blocks(run.blocks)


def _names(run: Run) -> Iterator[str]:
    for key, record in run.cells.items():
        cell = record.cell
        if cell.key != key:
            yield f"what is recorded as cell {_shown(key)} is cell {_shown(cell.key)}"
        if len(key) > LONGEST_NAME or not all(map(plain, (cell.variant, cell.backend, cell.device))):
            yield f"{_shown(key)} is no name of a cell"
        parts = (
            *(record.prepared, record.inspected, record.explained),
            *(record.profiled, record.accuracy, record.failure),
        )
        for part in parts:
            if part is not None and part.cell != key:
                yield f"cell {_shown(key)} holds what is recorded of cell {_shown(part.cell)}"
    mentioned = [*run.header.cells, *(cell for epoch in run.epochs for cell in epoch.cells)]
    mentioned += [tuned.cell for tuned in run.tuned]
    mentioned += [tuned.winner for tuned in run.tuned if tuned.winner is not None]
    for key in mentioned:
        if key not in run.cells:
            yield f"it speaks of cell {_shown(key)}, which it does not list"


def _accuracies(run: Run) -> Iterator[str]:
    for key, record in run.cells.items():
        accuracy = record.accuracy
        if accuracy is None:
            continue
        pairs = accuracy.pairs
        paired = (
            (pairs.both_right, pairs.only_reference, pairs.only_cell, pairs.both_wrong, pairs.agree)
            if pairs is not None
            else ()
        )
        if max(accuracy.top1, accuracy.top5 or 0, *paired) > accuracy.images:
            yield f"cell {_shown(key)} has more images of a kind than images"


def _blocks(blocks: Iterable[Block]) -> Iterator[str]:
    for block in blocks:
        if block.samples_ns and not 0 < min(block.samples_ns) <= max(block.samples_ns) <= LARGEST:
            yield f"a call of cell {_shown(block.cell)} took no time that can be"
        if not all(0 <= place <= LARGEST_PLACE for place in (block.epoch, block.round, block.position)):
            yield f"a block of cell {_shown(block.cell)} has a place that no block has"
        odd = _odd_figure(tuple(getattr(block, name) for name in _FIGURES), "a figure")
        if odd is not None:
            yield f"of a block of cell {_shown(block.cell)} {odd}"


def _odd_figure(value: Any, where: str) -> str | None:
    """A number that is not finite or beyond all bounds, wherever it stands."""
    if isinstance(value, bool | str) or value is None:
        return None
    if isinstance(value, int | float):
        size = abs(value)
        fine = size <= LARGEST and (size >= SMALLEST or not size)
        fine = fine and (value >= 0 or where in SIGNED) and (value != 0 or where not in POSITIVE)
        return None if fine else f"{where} is {_number(value)}"
    inner: Iterable[tuple[str, Any]] = ()
    if isinstance(value, msgspec.Struct):
        inner = ((name, getattr(value, name)) for name in value.__struct_fields__)
    elif isinstance(value, dict):
        inner = ((where, each) for each in value.values())
    elif isinstance(value, list | tuple):
        inner = ((where, each) for each in value)
    return next(filter(None, (_odd_figure(each, name) for name, each in inner)), None)


def _number(value: float) -> str:
    """Short, however many digits it has."""
    return f"{value:.3g}" if abs(value) < 1e300 else "a number of hundreds of digits"


def _shown(name: str) -> str:
    line = plain(name)
    return f"'{line if len(line) <= 120 else line[:119] + '…'}'"
