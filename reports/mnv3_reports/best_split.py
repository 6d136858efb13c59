"""Is there a change of level in this stretch, and where: the statistic, and what it is without a change.

How and why: `mnv3_reports.changepoints`. Scores are normal scores of ranks, so the null is a function of length and
autocorrelation alone and is drawn once for all series.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]
    Indices = npt.NDArray[np.intp]

FEWEST = 7
"""Points that a segment has at least: what lasted for less than a week of nights is a disturbance, not a change."""
DRAWS = 3999
"""Of the null; the smallest p is one over one more."""
CHUNK = 200
"""Draws at a time: their sums stay in the processor's cache."""
SHORTEST_INTERVAL = 40
"""With shorter ones, a few disturbed nights in a row are more often taken for two changes."""
LONGEST_STRETCH = 20
"""Points whose means are compared to see what the noise remembers."""
BURN_IN = 60
"""Points before a drawn series: at the strongest memory the first still counts for 0.2 % of the last."""
NOTHING = 1e-9
"""Scores of equal values differ by no more."""
HIGHEST_MEMORY = 0.9
"""Autocorrelation beyond which drift and change cannot be told apart; stronger is taken for this."""


class Split(NamedTuple):
    """Where the right-hand side begins, and how often series without a change have as good a split."""

    place: int
    p: float
    memory: float = 0.0
    """First-order autocorrelation of what is left without the split."""


def best_split(scores: Array, seed: int) -> Split:
    """The best split of scores whose mean is zero, over the whole and over seeded intervals.

    Args:
        scores: at least 2 x FEWEST.
        seed: of the null's draws.
    """
    import numpy as np

    if scores.std() < NOTHING:
        return Split(0, 1.0)
    columns = scores[:, np.newaxis]
    best = _highest(columns)
    rest = _without(columns, best)
    height = float(_over_what_is_left(best, columns, rest)[0])
    # What is left after the best of many splits was taken out remembers less; so much, in simulated series.
    memory = min(HIGHEST_MEMORY, memory_of(rest[:, 0]) * (1 + 20 / len(scores)))
    null = _null(_rounded_length(len(scores)), math.ceil(10 * memory), seed)
    # Rounding must not tell a series from its equal.
    higher = len(null) - int(np.searchsorted(null, height - 1e-9))
    return Split(int(best.places[0]), (1 + higher) / (1 + len(null)), memory)


def normal_scores(data: Array) -> Array:
    """Quantiles of the normal distribution at the ranks; equal values share the mean of theirs."""
    import numpy as np

    _, places, counts = np.unique(data, return_inverse=True, return_counts=True)
    scores: Array = np.add.reduceat(_scores(len(data)), np.cumsum(counts) - counts) / counts
    return scores[places]


@lru_cache(maxsize=1024)
def _scores(size: int) -> Array:
    """Expected normal order statistics of this many values (Blom 1958), ascending."""
    import numpy as np
    from scipy.special import ndtri

    scores: Array = ndtri((np.arange(1, size + 1) - 0.375) / (size + 0.25))
    return scores


@lru_cache(maxsize=1024)
def _intervals(size: int) -> tuple[tuple[int, int], ...]:
    """Start and stop of the whole and, from half of it down, of intervals that overlap by half."""
    found = [(0, size)]
    length = size / 2
    while length >= SHORTEST_INTERVAL:
        gaps = 2 * math.ceil(size / length) - 2
        starts = [(size - length) * number / gaps for number in range(gaps + 1)]
        found += [(round(start), round(start + length)) for start in starts]
        length /= 2
    return tuple(found)


class _Highest(NamedTuple):
    """Of every column: the greatest standardised difference of means, and where the right-hand side of it begins."""

    heights: Array
    starts: Indices
    places: Indices
    stops: Indices


def _highest(scores: Array) -> _Highest:
    """The best split of every column (points x series) over all intervals.

    A side's variance is its own, or that of all the scores where that is larger: a noisy stretch is no change, and a
    few equal values are not certain.
    """
    import numpy as np

    size, columns = scores.shape
    whole = (scores**2).mean(axis=0)
    sums, squares = np.zeros((2, size + 1, columns))
    np.cumsum(scores, axis=0, out=sums[1:])
    np.cumsum(scores**2, axis=0, out=squares[1:])
    heights = np.zeros(columns)
    starts, places, stops = np.zeros((3, columns), dtype=np.intp)
    for start, stop in _intervals(size):
        before = np.arange(FEWEST, stop - start - FEWEST + 1)[:, np.newaxis]
        after = stop - start - before
        middle = slice(start + FEWEST, stop - FEWEST + 1)
        left = (sums[middle] - sums[start]) / before
        right = (sums[stop] - sums[middle]) / after
        variance = np.maximum((squares[middle] - squares[start]) / before - left**2, whole) / before
        variance += np.maximum((squares[stop] - squares[middle]) / after - right**2, whole) / after
        found = (right - left) ** 2 / variance
        top = found.argmax(axis=0)
        height = found[top, np.arange(columns)]
        better = height > heights
        starts[better], places[better], stops[better] = start, top[better] + middle.start, stop
        heights[better] = height[better]
    return _Highest(np.sqrt(heights), starts, places, stops)


def _without(scores: Array, best: _Highest) -> Array:
    """Scores less the means of what lies before, left and right of the best split, and after its interval."""
    import numpy as np

    size, columns = scores.shape
    sums = np.zeros((size + 1, columns))
    np.cumsum(scores, axis=0, out=sums[1:])
    every = np.arange(columns)
    edges = (np.zeros_like(best.starts), best.starts, best.places, best.stops, np.full_like(best.stops, size))
    rest = scores.copy()
    points = np.arange(size)[:, np.newaxis]
    for start, stop in pairwise(edges):
        means = (sums[stop, every] - sums[start, every]) / np.maximum(1, stop - start)
        rest -= ((points >= start) & (points < stop)) * means
    return rest


def _over_what_is_left(best: _Highest, scores: Array, rest: Array) -> Array:
    """Heights of the best splits as if the scores' variance had been the long-run variance of the rest."""
    import numpy as np

    relative: Array = best.heights * np.sqrt((scores**2).mean(axis=0) / _long_run_variance(rest))
    return relative


def _long_run_variance(scores: Array) -> Array:
    """Variance of stretches' means times their length, at least that of the scores (points x series -> series).

    The 15 % of neighbouring stretches that differ most are left out, as steps may lie between them.
    """
    import numpy as np

    size = len(scores)
    stretch = max(2, min(LONGEST_STRETCH, round(2.5 * size ** (1 / 3)), size // 4))
    sums = np.cumsum(scores, axis=0)
    means = (sums[stretch:] - sums[:-stretch]) / stretch
    differences = np.abs(means[stretch:] - means[:-stretch])
    kept = math.ceil(0.85 * len(differences))
    typical = np.partition(differences, kept - 1, axis=0)[:kept].mean(axis=0)
    # Of a normal value, the mean distance from zero is sqrt(2 / pi) deviations.
    variance = typical**2 * (math.pi / 2) * stretch / 2
    larger: Array = np.maximum(np.maximum(variance, (scores**2).mean(axis=0)), NOTHING**2)
    return larger


def memory_of(scores: Array) -> float:
    """First-order autocorrelation that explains how alike points one to three apart are, between 0 and 0.9.

    From differences: points far apart differ by steps too, but few of them. The fifth that differs most is left out.
    """
    import numpy as np

    size = len(scores)
    far = max(3, min(20, size // 4))

    def variance(lag: int) -> float:
        differences = np.sort(np.abs(scores[lag:] - scores[:-lag]))
        return float(differences[: math.ceil(0.8 * len(differences))].mean()) ** 2

    whole = math.fsum(variance(lag) for lag in range(far - far // 3, far + 1)) / (far // 3 + 1)
    if whole < NOTHING**2:
        return 0.0
    alike = [1 - variance(lag) / whole for lag in (1, 2, 3)]
    # Two standard errors less, because a root makes much of little.
    slack = 2 / math.sqrt(size)
    roots = [math.pow(max(0.0, value - slack), 1 / lag) for lag, value in enumerate(alike[1:], start=2)]
    return min(HIGHEST_MEMORY, max(0.0, alike[0], *roots))


def _rounded_length(size: int) -> int:
    """The next of few lengths, so that few nulls are drawn; that of a longer series is the stricter one."""
    length = 2 * FEWEST
    while length < size:
        length = max(length + 1, int(length * 1.1))
    return length


@lru_cache(maxsize=1024)
def _null(size: int, memory_tenths: int, seed: int) -> Array:
    """Highest candidates, ascending, of normal series without a change and with this autocorrelation (in tenths)."""
    import numpy as np

    random = np.random.default_rng([seed, size, memory_tenths])
    scores = _scores(size)[:, np.newaxis]
    memory = memory_tenths / 10
    found = []
    for first in range(0, DRAWS, CHUNK):
        noise = random.standard_normal((BURN_IN * (memory > 0) + size, min(CHUNK, DRAWS - first)))
        if memory:
            for point in range(1, len(noise)):
                noise[point] += memory * noise[point - 1]
        drawn = np.empty((size, noise.shape[1]))
        np.put_along_axis(drawn, noise[-size:].argsort(axis=0), scores, axis=0)
        best = _highest(drawn)
        found.append(_over_what_is_left(best, drawn, _without(drawn, best)))
    return np.sort(np.concatenate(found))
