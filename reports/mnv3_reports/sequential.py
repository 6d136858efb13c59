"""Deciding on paired differences at a few looks: spending, margins, correction over cells, power.

A difference is one number an epoch: the logarithm of head over base. All functions are pure; arrays are epochs x
cells. What follows what:

- looks and spending: Lan and DeMets 1983, Biometrika 70, 659-663 (any split of alpha over the looks is valid by the
  union bound, also when a budget decides where the last look falls);
- correction over cells: step-down max-T (Westfall and Young 1993, Resampling-Based Multiple Testing, algorithm 2.8)
  over sign flips of whole epochs, which keeps whatever correlation the cells of an epoch have;
- passing: every cell's upper bound lies below its margin. An intersection of tests needs no correction over cells
  (Berger 1982, Technometrics 24, 295-300).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count
from typing import TYPE_CHECKING

from mnv3_reports.statistics import Interval
from mnv3_reports.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

FEWEST_EPOCHS = 5
"""2^5 sign patterns: with fewer, no p-value can fall below 0.05 and no verdict but 'inconclusive' is possible."""
FRACTIONS = (0.4, 0.7, 1.0)
"""Where the looks lie: 8, 14 and 20 of 20 epochs."""
SPENDING = (0.1, 0.3, 0.6)
"""Share of alpha that each look may spend."""
ENUMERATED_EPOCHS = 12
"""Up to here every sign pattern is tried; beyond, a seeded sample of them."""
SAMPLED_FLIPS = 8191
SMALLEST_ALPHA = 0.001
"""The last look's share of it is still several times the smallest p-value that sampled patterns can show."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """When verdicts may fall, and how sure they have to be."""

    epochs: int = 20
    alpha: float = 0.05
    """Chance of a false failure (of a false pass, cell by cell) over all looks together."""
    power: float = 0.8

    def __post_init__(self) -> None:
        if self.epochs < FEWEST_EPOCHS:
            raise ValueError(f"{self.epochs} epochs allow no verdict; expected at least {FEWEST_EPOCHS}")
        if not SMALLEST_ALPHA <= self.alpha < 0.5 or not 0 < self.power < 1:
            raise ValueError(
                f"alpha must lie between {SMALLEST_ALPHA} and 0.5 and power between 0 and 1; "
                f"they are {self.alpha} and {self.power}"
            )

    @property
    def spending(self) -> dict[int, float]:
        """Epochs at each look to the alpha that this look may spend."""
        found: dict[int, float] = {}
        for fraction, share in zip(FRACTIONS, SPENDING, strict=True):
            look = max(FEWEST_EPOCHS, round(fraction * self.epochs))
            found[look] = found.get(look, 0.0) + share * self.alpha
        return found

    @property
    def looks(self) -> tuple[int, ...]:
        """Epochs after which a verdict may fall."""
        return tuple(self.spending)

    @property
    def fewest(self) -> int:
        """Fewest epochs that can show a regression: one of 2^n sign patterns has to fit into the last look's alpha."""
        return next(n for n in count(FEWEST_EPOCHS) if 0.5**n <= replace(self, epochs=n).spending[n])

    def left_after(self, epochs: int) -> float:
        """Alpha that no look up to this many epochs has spent: what a last look at any later time may spend."""
        return sum(alpha for look, alpha in self.spending.items() if look > epochs)


@dataclass(frozen=True)
class Judgement:
    """One cell at one look. `verdict` is INCONCLUSIVE while neither bound has cleared the margin."""

    verdict: Verdict
    p_value: float
    upper: float
    """Upper bound of the logarithm of the ratio, at this look's level."""


def judge(
    differences: Mapping[str, Sequence[float]], margins: Mapping[str, float], alpha: float, seed: int = 0
) -> dict[str, Judgement]:
    """Judge cells at one look.

    Args:
        differences: cell to ln(head / base), one an epoch; every cell has the same epochs in the same order.
        margins: cell to the relative slowdown that is tolerated (0.03 is 3 %).
        alpha: what this look may spend.
        seed: of the sampled sign flips.

    Raises:
        ValueError: cells have different numbers of epochs, a difference is not finite, or a margin is not positive.
    """
    if not differences:
        return {}
    data, limits = _epochs_by_cells(differences, margins)
    if len(data) < 2:
        return {key: Judgement(Verdict.INCONCLUSIVE, 1.0, math.inf) for key in differences}
    p_values = max_t(data - limits, seed)
    uppers = upper_bounds(data, alpha)
    found = {}
    for key, p_value, upper, limit in zip(differences, p_values, uppers, limits, strict=True):
        if p_value <= alpha and len(data) >= FEWEST_EPOCHS:
            verdict = Verdict.FAIL
        elif upper < limit and len(data) >= FEWEST_EPOCHS:
            verdict = Verdict.PASS
        else:
            verdict = Verdict.INCONCLUSIVE
        found[key] = Judgement(verdict, float(p_value), float(upper))
    return found


def _epochs_by_cells(
    differences: Mapping[str, Sequence[float]], margins: Mapping[str, float]
) -> tuple[Array, Array]:
    """Differences as epochs x cells, and the cells' margins as logarithms.

    Raises:
        ValueError: as `judge`.
    """
    import numpy as np

    lengths = {len(values) for values in differences.values()}
    if len(lengths) != 1:
        raise ValueError(f"cells have different numbers of epochs ({sorted(lengths)}); expected the same")
    if any(not margins[key] > 0 for key in differences):
        raise ValueError("a margin is zero or below; expected a positive share such as 0.03")
    data = np.array([list(values) for values in differences.values()], dtype=np.float64).T
    if not np.isfinite(data).all():
        raise ValueError("a difference is not a finite number")
    return data, np.log1p([margins[key] for key in differences])


def upper_bounds(data: Array, alpha: float) -> Array:
    """One-sided upper t bounds at 1 - alpha of each column's mean (epochs x cells)."""
    import numpy as np
    from scipy.special import stdtrit

    n = len(data)
    half = float(stdtrit(n - 1, 1 - alpha)) * data.std(axis=0, ddof=1) / math.sqrt(n)
    bounds: Array = (data.mean(axis=0) + half).astype(np.float64)
    return bounds


def max_t(data: Array, seed: int = 0) -> Array:
    """P-values of 'this column's mean is not above zero', corrected over columns.

    Epochs are independent and, if the mean is zero, each column is symmetric about it: so the sign of a whole epoch
    may be flipped. A column's statistic is compared with the largest that the flipped data show in it and in all
    columns with a smaller one (step-down); the columns' correlation is kept because an epoch's signs go together.

    Args:
        data: epochs x cells, at least two epochs.
        seed: of the sampled sign patterns; up to 12 epochs all are tried and it has no effect.

    Returns:
        One p-value a column; the smallest possible is one over the number of sign patterns.
    """
    import numpy as np

    patterns = sign_patterns(len(data), seed)
    flipped = _t(patterns @ data / len(data), (data**2).sum(axis=0), len(data))
    observed = flipped[0]
    order = np.argsort(-observed, kind="stable")
    # From the smallest statistic up: the largest among this column and all with smaller statistics.
    largest = np.maximum.accumulate(flipped[:, order[::-1]], axis=1)[:, ::-1]
    # Rounding must not tell a pattern from its equal.
    tolerance = 1e-9 * (1 + np.abs(np.where(np.isfinite(observed[order]), observed[order], 0)))
    raw = (largest >= observed[order] - tolerance).mean(axis=0)
    p_values = np.empty(data.shape[1])
    p_values[order] = np.maximum.accumulate(raw)
    return p_values


@lru_cache(maxsize=8)
def sign_patterns(epochs: int, seed: int) -> Array:
    """Patterns of +1 and -1 over epochs, the first all +1: every one, or a sample beyond 12 epochs.

    Read-only: callers share it.
    """
    import numpy as np

    if epochs <= ENUMERATED_EPOCHS:
        bits = np.arange(2**epochs)[:, None] >> np.arange(epochs) & 1
        patterns: Array = (1.0 - 2.0 * bits).astype(np.float64)
    else:
        sampled = np.random.default_rng(seed).choice([-1.0, 1.0], size=(SAMPLED_FLIPS, epochs))
        patterns = np.vstack([np.ones((1, epochs)), sampled])
    patterns.flags.writeable = False
    return patterns


def _t(means: Array, squares: Array, n: int) -> Array:
    """t statistics of flipped columns from their means; flipping leaves the sum of squares as it is."""
    import numpy as np

    variance = (squares - n * means**2) / (n - 1)
    # A column of equal values has no spread: its statistic is as extreme as there is.
    flat = variance <= 1e-12 * squares / n
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = means / np.sqrt(np.where(flat, 1.0, variance) / n)
    extreme = np.where(means > 0, np.inf, np.where(means < 0, -np.inf, 0.0))
    result: Array = np.where(flat, extreme, statistic)
    return result


def tripped(nulls: Mapping[str, Sequence[float]], margins: Mapping[str, float], alpha: float) -> set[str]:
    """Cells whose null control (a second base worker over the first) differs from 1 by more than the margin.

    Both directions count, and alpha covers all cells and directions together: t bounds with Bonferroni's correction.
    Sign flips would not do: with two directions no fewer than 2 of the 256 patterns of 8 epochs are as extreme, more
    than the first look may spend, and the control could not trip where a false failure is most easily believed.

    Raises:
        ValueError: as `judge`.
    """
    if not nulls:
        return set()
    data, limits = _epochs_by_cells(nulls, margins)
    if len(data) < FEWEST_EPOCHS:
        return set()
    each = alpha / (2 * len(nulls))
    above, below = -upper_bounds(-data, each), -upper_bounds(data, each)
    return {
        key
        for key, low, negative, limit in zip(nulls, above, below, limits, strict=True)
        if low > limit or negative > limit
    }


def detectable(noise: float, design: Design, margin: float, cells: int) -> float:
    """Smallest slowdown, relative, that fails with the design's power at its last look.

    ln(1 + delta) + s_d (t(1 - a') + t(power)) / sqrt(E), with a' the last look's alpha over the cells (docs/gate.md);
    an approximation: the correction over cells is taken as Bonferroni's, and earlier looks as of no use.

    Args:
        noise: s_d, the standard deviation of an epoch's logarithm of the ratio.
        margin: relative slowdown that is tolerated.
        cells: number of cells that are judged together.
    """
    from scipy.special import stdtrit

    n = design.epochs
    last = design.spending[design.looks[-1]]
    quantiles = float(stdtrit(n - 1, 1 - last / cells)) + float(stdtrit(n - 1, design.power))
    return math.expm1(math.log1p(margin) + noise * quantiles / math.sqrt(n))


def predicted_power(slowdown: float, noise: float, design: Design, margin: float, cells: int) -> float:
    """Probability that a slowdown (relative) of one cell fails at the last look, by the noncentral t distribution.

    Noise of zero gives 0 or 1.
    """
    from scipy.special import nctdtr, stdtrit

    n = design.epochs
    effect = math.log1p(slowdown) - math.log1p(margin)
    if noise <= 0:
        return float(effect > 0)
    last = design.spending[design.looks[-1]]
    critical = float(stdtrit(n - 1, 1 - last / cells))
    return 1 - float(nctdtr(n - 1, effect * math.sqrt(n) / noise, critical))


def clopper_pearson(hits: int, trials: int, confidence: float = 0.95) -> Interval:
    """Exact interval for a proportion (Clopper and Pearson 1934, Biometrika 26, 404-413).

    Raises:
        ValueError: there are no trials, or more hits than trials.
    """
    from scipy.special import betaincinv

    if trials < 1 or not 0 <= hits <= trials:
        raise ValueError(f"{hits} of {trials} is no proportion; expected at least one trial")
    tail = (1 - confidence) / 2
    low = float(betaincinv(hits, trials - hits + 1, tail)) if hits else 0.0
    high = float(betaincinv(hits + 1, trials - hits, 1 - tail)) if hits < trials else 1.0
    return Interval(hits / trials, low, high, trials)


def welch_interval(head: Sequence[float], base: Sequence[float], confidence: float = 0.95) -> Interval:
    """Difference of the means of two independent samples (Welch 1947, Biometrika 34, 28-35), head minus base.

    `n` is the smaller sample's size; with fewer than two values on a side the interval is unbounded.

    Raises:
        ValueError: a side is empty, or a value is not finite.
    """
    import numpy as np
    from scipy.special import stdtrit

    a, b = np.asarray(head, dtype=np.float64), np.asarray(base, dtype=np.float64)
    if not len(a) or not len(b) or not np.isfinite(a).all() or not np.isfinite(b).all():
        raise ValueError("a side has no values, or one that is not a finite number")
    difference, n = float(a.mean() - b.mean()), min(len(a), len(b))
    if n < 2:
        return Interval(difference, -math.inf, math.inf, n)
    errors = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    total = float(sum(errors))
    if total == 0:
        return Interval(difference, difference, difference, n)
    freedom = total**2 / (errors[0] ** 2 / (len(a) - 1) + errors[1] ** 2 / (len(b) - 1))
    half = float(stdtrit(freedom, 0.5 + confidence / 2)) * math.sqrt(total)
    return Interval(difference, difference - half, difference + half, n)
