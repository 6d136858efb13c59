"""Which ratios a report prints. The conductor asks the same question to know when it may stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mnv3_reports.record import Cell

BASELINE = "eager"
"""The backend that every other one is compared with."""


class PrintedRatio(NamedTuple):
    """A comparison of two cells' latencies. Below 1 the numerator is faster."""

    numerator: str
    """Key of a cell."""
    denominator: str
    kind: Literal["variant", "backend"]
    """`variant`: a requested network against a reference network; `backend`: a runtime against eager."""


def printed_ratios(
    cells: Iterable[Cell], variants: Sequence[str], references: Sequence[str]
) -> list[PrintedRatio]:
    """List the ratios of a report, in its order.

    Every requested variant is compared with each reference variant on the same backend in the same setting
    (threads, batch, resolution, device); every cell is compared with `eager` of the same variant and setting.
    A pair of which one cell is missing from `cells` is left out, and so is a variant against itself.

    Args:
        cells: what is (or will be) measured, without the cells that failed.
        variants: requested variants, as `Request.variants`.
        references: reference variants, as `Request.references`.
    """
    listed = list(cells)
    present = {(cell.variant, cell.backend, cell.setting): cell.key for cell in listed}
    requested = set(variants)
    ratios = []
    for cell in listed:
        for reference in references if cell.variant in requested else ():
            other = present.get((reference, cell.backend, cell.setting))
            if other is not None and other != cell.key:
                ratios.append(PrintedRatio(cell.key, other, "variant"))
        eager = present.get((cell.variant, BASELINE, cell.setting))
        if eager is not None and eager != cell.key:
            ratios.append(PrintedRatio(cell.key, eager, "backend"))
    return ratios
