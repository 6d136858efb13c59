"""Where a series of medians changed its level for good: one figure a night, and noise that remembers.

Divisive segmentation, as E-divisive (Matteson and James 2014, Journal of the American Statistical Association 109,
334-345), with another statistic and another null:

- values become normal scores of their ranks (van der Waerden 1952): a disturbed night counts as one high rank, however
  slow it was;
- a split is scored by the standardised difference of the mean scores at both sides, over the whole segment and over
  seeded shorter intervals (Kovács, Bühlmann, Li and Munk 2023, Biometrika 110, 249-256), so that a change that was
  soon taken back is not averaged away;
- the largest score is divided by how much more the means of neighbouring stretches vary than independent values would
  let them (Wu and Zhao 2007, Journal of the Royal Statistical Society B 69, 391-410), and compared with the same
  figure in series without a change that have the same memory: the series' own first-order autocorrelation, estimated
  from differences, which a step hardly disturbs. Without autocorrelation that is a permutation test.

Ranks make the null a function of length and autocorrelation alone, so that it is drawn once for all series. How often
this finds steps and raises false alarms is measured in docs/changepoints.md.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]
    Indices = npt.NDArray[np.intp]

ALPHA = 0.005
"""A change is reported at this p or below: half of what one false alarm in 100 clean series would allow."""
FEWEST = 5
"""Points that a segment has at least: what lasted for fewer nights is a disturbance, not a change."""
DRAWS = 1999
"""Of the null; the smallest p is one over one more."""
SHORTEST_INTERVAL = 4 * FEWEST
LONGEST_BLOCK = 20
BURN_IN = 60
HIGHEST_MEMORY = 0.9
"""Autocorrelation beyond which drift and change cannot be told apart; stronger is taken for this."""


class ChangePoint(msgspec.Struct, frozen=True):
    """One lasting change of level."""

    index: int
    """First point after the change."""
    before: float
    """Median of the segment that ends there, in the unit of the values."""
    after: float
    """Median of the segment that starts there; a segment goes to the next change or the series' end."""
    ratio: float
    """after / before: above 1 is slower, for times."""
    lower: float
    """Lower end of the ratio's 95 % interval, for the split as found (`_ratio_interval`)."""
    upper: float
    p: float
    """Adjusted over all splits tried in its segment, and never below that of the split that made the segment."""


class _Split(NamedTuple):
    index: int
    p: float


def change_points(
    values: Sequence[float], *, half_widths: Sequence[float] | None = None, seed: int = 0
) -> tuple[ChangePoint, ...]:
    """Lasting changes of level, in order of time.

    A clean series raises an alarm with a chance of about `ALPHA`; after k real changes there are k + 1 segments to raise
    one. Only order in time counts, not distance. A slow drift is not clean: it is answered with a few steps.

    Args:
        values: positive, in order of time, such as one median in seconds a night.
        half_widths: of each value's own 95 % interval, relative to the value (0.02 is 2 %, as
            `mnv3_reports.statistics.half_width` gives it). A value that is much less certain than the others is drawn
            towards its neighbours' median. Infinite: not known, and taken for as certain as the others.
        seed: of the draws that p is read from.

    Returns:
        None or more; always none for fewer than ten values or equal ones.

    Raises:
        ValueError: a value is not positive and finite, a half width is negative or not a number, or there are not as
            many half widths as values.
    """
    import numpy as np

    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or not np.isfinite(data).all() or (data <= 0).any():
        raise ValueError("a value is not positive and finite; expected durations above zero, in order of time")
    if half_widths is not None:
        data = _drawn_to_neighbours(data, np.asarray(half_widths, dtype=np.float64))
    if len(data) < 2 * FEWEST:
        return ()
    memory = _memory(_normal_scores(data))
    splits = _relocated(data, _divided(data, memory, seed))
    bounds = [0, *(split.index for split in splits), len(data)]
    found = []
    for split, start, stop in zip(splits, bounds, bounds[2:], strict=False):
        before, after = data[start : split.index], data[split.index : stop]
        low, ratio, high = _ratio_interval(before, after, memory)
        levels = float(np.median(before)), float(np.median(after))
        found.append(ChangePoint(split.index, *levels, ratio, low, high, split.p))
    return tuple(found)


def _drawn_to_neighbours(data: Array, half_widths: Array) -> Array:
    """Values with less of their own noise where there is more of it than usual.

    A deviation from the running median of nine is multiplied by s² / (s² + e): s² the variance between neighbours, and
    e how far the value's own variance is above the usual.

    Raises:
        ValueError: as `change_points`.
    """
    import numpy as np

    if half_widths.shape != data.shape or np.isnan(half_widths).any() or (half_widths < 0).any():
        raise ValueError(f"half widths do not fit; expected {len(data)} that are zero or above, relative to the value")
    known = np.isfinite(half_widths)
    if not known.any() or len(data) < 2 * FEWEST:
        return data
    logs = np.log(data)
    between = (np.median(np.abs(np.diff(logs))) / 0.954) ** 2  # 0.954: median of |a - b| of two standard normal values
    own = (half_widths / 1.96) ** 2
    excess = np.where(known, np.maximum(0, own - np.median(own[known])), 0)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(logs, 4, mode="reflect"), 9)
    level = np.median(windows, axis=1)
    keep = np.where(excess > 0, between / np.maximum(between + excess, 1e-300), 1)
    drawn: Array = np.where(keep < 1, np.exp(level + (logs - level) * keep), data)
    return drawn


def _divided(data: Array, memory: float, seed: int) -> list[_Split]:
    """Splits in order of time: the best one of a segment if it is significant, then those within its two parts."""
    found = []
    waiting = [(0, len(data), 0.0)]
    while waiting:
        start, stop, above = waiting.pop()
        if stop - start < 2 * FEWEST:
            continue
        split = _best_split(data[start:stop], memory, seed)
        p = max(above, split.p)
        if p <= ALPHA:
            middle = start + split.index
            found.append(_Split(middle, p))
            waiting += [(start, middle, p), (middle, stop, p)]
    return sorted(found)


def _best_split(data: Array, memory: float, seed: int) -> _Split:
    import numpy as np

    scores = _normal_scores(data)
    scale = math.sqrt((scores**2).mean())
    if scale == 0:
        return _Split(0, 1.0)
    heights = _split_heights(scores) / (scale * math.sqrt(_inflation(scores)))
    best = int(heights.argmax())
    null = _null(_rounded_length(len(data)), math.ceil(10 * memory), seed)
    # Rounding must not tell a series from its equal.
    higher = len(null) - int(np.searchsorted(null, heights[best] - 1e-9))
    return _Split(int(_candidates(len(data)).middle[best]), (1 + higher) / (1 + len(null)))


def _relocated(data: Array, splits: list[_Split]) -> list[_Split]:
    """Splits moved to the best place between their neighbours: a short interval finds them, all points place them."""
    import numpy as np

    for _ in range(2):
        bounds = [0, *(split.index for split in splits), len(data)]
        for position, split in enumerate(splits):
            start, stop = bounds[position], bounds[position + 2]
            size = stop - start
            left = np.arange(FEWEST, size - FEWEST + 1)
            sums = np.cumsum(_normal_scores(data[start:stop]))
            heights = np.abs(sums[left - 1] - left / size * sums[-1]) / np.sqrt(left * (size - left) / size)
            bounds[position + 1] = start + int(left[heights.argmax()])
            splits[position] = split._replace(index=bounds[position + 1])
    return splits


def _normal_scores(data: Array) -> Array:
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


class _Candidates(NamedTuple):
    """Every split of every interval: its bounds, and what the sums of scores at its sides are multiplied by."""

    start: Indices
    middle: Indices
    stop: Indices
    weight_before: Array
    weight_after: Array


@lru_cache(maxsize=1024)
def _candidates(size: int) -> _Candidates:
    """The whole and, from half of it down, intervals that overlap by half."""
    import numpy as np

    intervals = [(0, size)]
    length = size / 2
    while length >= SHORTEST_INTERVAL:
        count = 2 * math.ceil(size / length) - 1
        starts = np.linspace(0, size - length, count)
        intervals += [(round(start), round(start + length)) for start in starts]
        length /= 2
    parts = []
    for start, stop in intervals:
        before = np.arange(FEWEST, stop - start - FEWEST + 1)
        after = stop - start - before
        weight = np.sqrt(before * after / (stop - start))
        edges = np.full_like(before, start), np.full_like(before, stop)
        parts.append((edges[0], start + before, edges[1], weight / before, weight / after))
    return _Candidates(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _split_heights(scores: Array) -> Array:
    """Standardised difference of the means at both sides of every candidate (..., points -> ..., candidates)."""
    import numpy as np

    at = _candidates(scores.shape[-1])
    sums = _sums(scores)
    middle = sums[..., at.middle]
    after = (sums[..., at.stop] - middle) * at.weight_after
    return np.abs(after - (middle - sums[..., at.start]) * at.weight_before)


def _sums(scores: Array) -> Array:
    import numpy as np

    sums = np.zeros((*scores.shape[:-1], scores.shape[-1] + 1))
    np.cumsum(scores, axis=-1, out=sums[..., 1:])
    return sums


def _inflation(scores: Array) -> Array:
    """Variance of stretches' means over what independent values would have, at least 1 (..., points -> ...)."""
    import numpy as np

    size = scores.shape[-1]
    block = max(2, min(LONGEST_BLOCK, round(2.5 * size ** (1 / 3)), size // 4))
    sums = _sums(scores)
    stretches = sums[..., block:] - sums[..., :-block]
    differences = np.abs(stretches[..., block:] - stretches[..., :-block]).mean(axis=-1)
    # Of a normal value, the mean distance from zero is sqrt(2 / pi) deviations.
    variance = differences**2 * (math.pi / 2) / (2 * block)
    inflation: Array = np.maximum(1, variance / (scores**2).mean(axis=-1))
    return inflation


def _memory(scores: Array) -> float:
    """First-order autocorrelation that explains how alike points one to three apart are, between 0 and 0.9.

    From differences: points far apart differ by steps too, but few of them. The tenth that differs most is left out.
    """
    import numpy as np

    size = len(scores)
    far = max(3, min(20, size // 4))

    def variance(lag: int) -> float:
        differences = np.sort(np.abs(scores[lag:] - scores[:-lag]))
        return float(differences[: math.ceil(0.9 * len(differences))].mean()) ** 2

    whole = sum(variance(lag) for lag in range(far - far // 3, far + 1)) / (far // 3 + 1)
    if whole == 0:
        return 0.0
    alike = [1 - variance(lag) / whole for lag in (1, 2, 3)]
    # Two standard errors less, because a root makes much of little.
    slack = 2 / math.sqrt(size)
    roots = [max(0.0, value - slack) ** (1 / lag) for lag, value in enumerate(alike[1:], start=2)]
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
    scores = _scores(size)
    scale = math.sqrt((scores**2).mean())
    memory = memory_tenths / 10
    highest = []
    for first in range(0, DRAWS, 200):
        noise = random.standard_normal((BURN_IN * (memory > 0) + size, min(200, DRAWS - first)))
        if memory:
            for point in range(1, len(noise)):
                noise[point] += memory * noise[point - 1]
        ranks = noise[-size:].T.argsort(axis=1).argsort(axis=1)
        drawn = scores[ranks]
        highest.append(_split_heights(drawn).max(axis=1) / (scale * np.sqrt(_inflation(drawn))))
    return np.sort(np.concatenate(highest))


def _ratio_interval(before: Array, after: Array, memory: float) -> tuple[float, float, float]:
    """Lower end, estimate and upper end of the ratio of medians, at 95 %.

    Each median's variance on the logarithmic scale is read from order statistics around it (Price and Bonett 2002,
    Psychological Methods 7, 370-383), and multiplied by (1 + memory) / (1 - memory), which is what autocorrelation
    does to a mean. That the place of the split was chosen from the same values is not in it.
    """
    import numpy as np

    variance = 0.0
    for segment in (before, after):
        variance += _variance_of_median(np.sort(np.log(segment)))
    half = 1.959964 * math.sqrt(variance * (1 + memory) / (1 - memory))
    estimate = float(np.log(np.median(after)) - np.log(np.median(before)))
    return math.exp(estimate - half), math.exp(estimate), math.exp(estimate + half)


def _variance_of_median(ordered: Array) -> float:
    from scipy.special import bdtr, ndtri

    size = len(ordered)
    rank = max(1, round((size + 1) / 2 - math.sqrt(size)))
    # The two order statistics enclose the median except with this chance.
    outside = min(0.999, 2 * float(bdtr(rank - 1, size, 0.5)))
    width = float(ordered[size - rank] - ordered[rank - 1])
    return (width / (2 * float(-ndtri(outside / 2)))) ** 2
