"""Which ratios a report prints. The conductor asks the same question to know when it may stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from msgspec.structs import replace

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mnv3_reports.record import Cell, Run

BASELINE = "eager"
"""The backend that every other one is compared with."""

Kind = Literal["variant", "backend", "tuned", "exact", "ablation"]


class PrintedRatio(NamedTuple):
    """A comparison of two cells' latencies. Below 1 the numerator is faster."""

    numerator: str
    """Key of a cell."""
    denominator: str
    kind: Kind
    """`variant`: a requested network against a reference network; `backend`: a runtime against eager; `tuned`: what a
    search found against the default settings; `exact`: a reduced precision against the same runtime's fp32; `ablation`:
    a network without an ingredient against the whole one."""


def ratios_of(run: Run, cells: Iterable[Cell]) -> list[PrintedRatio]:
    """`printed_ratios` of cells of a run, with what its request, its searches and its explanations ask for.

    Args:
        run: the run, as far as it has come.
        cells: what is (or will be) measured, without the cells that failed.
    """
    tuned = [
        PrintedRatio(found.winner, found.cell, "tuned") for found in run.tuned if found.winner is not None
    ]
    exact = [
        PrintedRatio(key, replace(record.cell, backend=record.explained.exact).key, "exact")
        for key, record in run.cells.items()
        if record.explained is not None and record.explained.exact is not None
    ]
    request = run.header.request
    listed = list(cells)
    ablation = [
        PrintedRatio(cell.key, replace(cell, variant=request.ablated[cell.variant]).key, "ablation")
        for cell in listed
        if cell.variant in request.ablated
    ]
    # An ablated form stands beside its whole network, and not beside others.
    variants = [variant for variant in request.variants if variant not in request.ablated]
    return printed_ratios(listed, variants, request.references, (*tuned, *exact, *ablation))


def printed_ratios(
    cells: Iterable[Cell],
    variants: Sequence[str],
    references: Sequence[str],
    further: Iterable[PrintedRatio] = (),
) -> list[PrintedRatio]:
    """List the ratios of a report, in its order.

    Every requested variant is compared with each reference variant on the same backend in the same setting
    (threads, batch, resolution, device); every cell is compared with `eager` of the same variant and setting.
    A pair of which one cell is missing from `cells` is left out, and so are a variant against itself and a pair
    that is listed already.

    Args:
        cells: what is (or will be) measured, without the cells that failed.
        variants: requested variants, as `Request.variants`.
        references: reference variants, as `Request.references`.
        further: comparisons that follow from no name: tuned against default settings, reduced precision against fp32,
            ablated forms against whole networks.
    """
    listed = list(cells)
    present = {(cell.variant, cell.backend, cell.setting): cell.key for cell in listed}
    requested = set(variants)
    ratios: dict[tuple[str, str], PrintedRatio] = {}
    for cell in listed:
        for reference in references if cell.variant in requested else ():
            other = present.get((reference, cell.backend, cell.setting))
            if other is not None and other != cell.key:
                ratios[cell.key, other] = PrintedRatio(cell.key, other, "variant")
        eager = present.get((cell.variant, BASELINE, cell.setting))
        if eager is not None and eager != cell.key:
            ratios[cell.key, eager] = PrintedRatio(cell.key, eager, "backend")
    keys = set(present.values())
    for ratio in further:
        pair = ratio.numerator, ratio.denominator
        if keys.issuperset(pair) and pair[0] != pair[1]:
            ratios.setdefault(pair, ratio)
    return list(ratios.values())
