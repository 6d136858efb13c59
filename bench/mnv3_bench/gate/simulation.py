"""More gates than can be measured: drawn from the epochs of measured ones on identical arms."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from mnv3_bench.gate.loads import LoadName
from mnv3_bench.gate.rules import DEFAULT_MARGIN
from mnv3_reports.sequential import Design, judge, tripped
from mnv3_reports.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

STRETCH = 4
"""Consecutive epochs that are drawn together, so that what lasts longer than an epoch is kept."""


class CellTrace(msgspec.Struct, frozen=True):
    """One cell of one gate."""

    cell: str
    verdict: Verdict
    reason: str
    differences: tuple[float, ...]
    """ln(head / base), one an epoch."""
    nulls: tuple[float, ...]
    decided_at: int | None


class GateTrace(msgspec.Struct, frozen=True):
    """One whole gate."""

    load: LoadName
    injected: float
    seed: int
    started_at: str
    seconds: float
    """From its start to its verdict, preparing from the cache included."""
    verdict: Verdict
    exit_code: int
    looks: tuple[int, ...]
    cells: tuple[CellTrace, ...]


class Condition(NamedTuple):
    """What a gate is tested under."""

    load: LoadName
    injected: float


class Simulated(NamedTuple):
    """Verdicts of simulated gates under one condition."""

    condition: Condition
    gates: int
    verdicts: Counter[Verdict]
    source_epochs: int


def epochs_of(traces: Sequence[GateTrace], load: LoadName) -> list[Array]:
    """The epochs in which every cell was measured, of gates on identical arms under a load.

    Returns:
        One array a gate: epochs x cells x (base, null, head), logarithms of seconds relative to the base.
    """
    import numpy as np

    found = []
    for trace in traces:
        if trace.load != load or trace.injected or not trace.cells:
            continue
        length = min(len(cell.differences) for cell in trace.cells)
        if not length:
            continue
        null = np.array([cell.nulls[:length] for cell in trace.cells]).T
        difference = np.array([cell.differences[:length] for cell in trace.cells]).T
        found.append(np.stack([np.zeros_like(null), null, difference + null / 2], axis=2))
    return found


def simulate(
    sources: Sequence[Array], condition: Condition, gates: int, seed: int = 0, design: Design | None = None
) -> Simulated:
    """Hold gates on drawn epochs: stretches of consecutive ones, the three roles exchanged at random in each.

    Exchanging roles makes the arms identical in truth; the slowdown is then added to the head.

    Args:
        sources: from `epochs_of`; every one with the same cells.
        condition: of which the load is a name and the slowdown (relative) is added.
        gates: how many.
        seed: of the drawing.
        design: by default 20 epochs, as a gate.

    Raises:
        ValueError: there are no source epochs.
    """
    import numpy as np

    if not sources:
        raise ValueError(f"no epochs were recorded on identical arms under load '{condition.load}'")
    plan = design or Design()
    chance = np.random.default_rng(seed)
    cells = sources[0].shape[1]
    usable = [source for source in sources if source.shape[1] == cells]
    weights = np.array([len(source) for source in usable], dtype=np.float64)
    verdicts: Counter[Verdict] = Counter()
    for _ in range(gates):
        rows: list[Array] = []
        while len(rows) < plan.epochs:
            source = usable[int(chance.choice(len(usable), p=weights / weights.sum()))]
            first = int(chance.integers(len(source)))
            rows += list(source[first : first + STRETCH])
        drawn = np.stack(rows[: plan.epochs])
        exchanged = chance.permuted(drawn, axis=2)
        difference = exchanged[:, :, 2] - exchanged[:, :, :2].mean(axis=2) + math.log1p(condition.injected)
        null = exchanged[:, :, 1] - exchanged[:, :, 0]
        verdicts[_hold(difference, null, plan)] += 1
    return Simulated(condition, gates, verdicts, int(weights.sum()))


def _hold(difference: Array, null: Array, design: Design) -> Verdict:
    """The looks of one gate, as the umpire holds them."""
    live = dict.fromkeys(str(index) for index in range(difference.shape[1]))
    margins = dict.fromkeys(live, DEFAULT_MARGIN)
    found: set[Verdict] = set()
    for look, alpha in design.spending.items():
        if not live:
            break
        for key in tripped({key: null[:look, int(key)].tolist() for key in live}, margins, alpha):
            found.add(Verdict.INVALID)
            del live[key]
        judged = judge({key: difference[:look, int(key)].tolist() for key in live}, margins, alpha)
        for key, judgement in judged.items():
            if judgement.verdict is not Verdict.INCONCLUSIVE:
                found.add(judgement.verdict)
                del live[key]
    if Verdict.FAIL in found:
        return Verdict.FAIL
    if Verdict.INVALID in found:
        return Verdict.INVALID
    return Verdict.INCONCLUSIVE if live else Verdict.PASS
