"""Where a series of medians changed its level for good: one figure a night, and noise that remembers.

Divisive segmentation, as E-divisive (Matteson and James 2014, Journal of the American Statistical Association 109,
334-345), with another statistic and another null:

- values become normal scores of their ranks (van der Waerden 1952): a disturbed night counts as one high rank, however
  slow it was;
- a split is scored by the standardised difference of the mean scores at both sides, over the whole segment and over
  seeded shorter intervals (Kovács, Bühlmann, Li and Munk 2023, Biometrika 110, 249-256), so that a change that was
  soon taken back is not averaged away;
- the largest score is taken relative to the long-run deviation of what is left without the split, from the means of
  neighbouring stretches (Wu and Zhao 2007, Journal of the Royal Statistical Society B 69, 391-410), and compared with
  the same figure in series without a change that have the same memory: the first-order autocorrelation of what is
  left. Without autocorrelation that is a permutation test.

A change whose ratio is not told apart from 1 is not reported: ranks may differ where levels hardly do.

Ranks make the null a function of length and autocorrelation alone, so that it is drawn once for all series. How often
this finds steps and raises false alarms is measured in docs/changepoints.md.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from mnv3_reports.best_split import FEWEST, Split, best_split, normal_scores

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

ALPHA = 0.001
"""A change is reported at this p or below. If noise were as the null has it, one false alarm in 100 clean series would
allow 0.01; recorded noise remembers longer and comes in spells."""


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
    """Lower end of the ratio's 95 % interval, for the split as found (`_uncertainty`)."""
    upper: float
    p: float
    """Adjusted over all splits tried in its segment, and never below that of the split that made the segment."""


def change_points(
    values: Sequence[float], *, half_widths: Sequence[float] | None = None, seed: int = 0
) -> tuple[ChangePoint, ...]:
    """Lasting changes of level, in order of time.

    Each of the k + 1 segments between k real changes raises a false alarm with a chance of about `ALPHA`, if its noise
    is stationary with first-order memory. Only order in time counts, not distance. A slow drift is answered with steps.

    Args:
        values: positive, in order of time, such as one median in seconds a night.
        half_widths: of each value's own 95 % interval, relative to the value (0.02 is 2 %, as
            `mnv3_reports.statistics.half_width` gives it). A value that is much less certain than the others counts
            less. Infinite: not known, and taken for as certain as the others.
        seed: of the draws that p is read from.

    Returns:
        None or more; always none for fewer than 14 values or equal ones.

    Raises:
        ValueError: a value is not positive and finite, a half width is negative or not a number, or there are not as
            many half widths as values.
    """
    import numpy as np

    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or not np.isfinite(data).all() or (data <= 0).any():
        raise ValueError(
            "a value is not positive and finite; expected durations above zero, in order of time"
        )
    weights = _weights(data, half_widths)
    if len(data) < 2 * FEWEST:
        return ()
    splits = _divided(data, weights, seed)
    while True:
        splits = _relocated(data, weights, splits)
        bounds = [0, *(split.place for split in splits), len(data)]
        found = [
            _change(data, split, start, stop)
            for split, start, stop in zip(splits, bounds, bounds[2:], strict=False)
        ]
        doubtful = [change for change in found if change.lower <= 1 <= change.upper]
        if not doubtful:
            return tuple(found)
        # Its neighbours may be certain once they have its points.
        gone = max(doubtful, key=lambda change: change.p)
        splits = [split for split in splits if split.place != gone.index]


def _change(data: Array, split: Split, start: int, stop: int) -> ChangePoint:
    """A split between its neighbours as what it means."""
    import numpy as np

    before, after = data[start : split.place], data[split.place : stop]
    level, new_level = float(np.median(before)), float(np.median(after))
    ratio, factor = new_level / level, _uncertainty(before, after, split.memory)
    return ChangePoint(split.place, level, new_level, ratio, ratio / factor, ratio * factor, split.p)


def _weights(data: Array, half_widths: Sequence[float] | None) -> Array:
    """s² / (s² + e): s² the variance between neighbours, e how far the value's own variance is above the usual one.

    Raises:
        ValueError: as `change_points`.
    """
    import numpy as np

    weights = np.ones_like(data)
    if half_widths is None:
        return weights
    own = (np.asarray(half_widths, dtype=np.float64) / 1.96) ** 2
    if own.shape != data.shape or not (np.asarray(half_widths) >= 0).all():
        raise ValueError(
            f"half widths do not fit; expected {len(data)} that are zero or above, relative to the value"
        )
    known = np.isfinite(own)
    if known.sum() < 2:
        return weights
    # 0.954: median distance of two standard normal values.
    between = (float(np.median(np.abs(np.diff(np.log(data))))) / 0.954) ** 2
    excess = own[known] - np.median(own[known])
    if between > 0:
        weights[known] = between / (between + np.maximum(0, excess))
    return weights


def _divided(data: Array, weights: Array, seed: int) -> list[Split]:
    """Splits in order of time: the best one of a segment if it is significant, then those within its two parts."""
    found = []
    waiting = [(0, len(data), 0.0)]
    while waiting:
        start, stop, above = waiting.pop()
        if stop - start < 2 * FEWEST:
            continue
        split = best_split(_weighted_scores(data[start:stop], weights[start:stop]), seed)
        p = max(above, split.p)
        if p <= ALPHA:
            middle = start + split.place
            found.append(Split(middle, p, split.memory))
            waiting += [(start, middle, p), (middle, stop, p)]
    return sorted(found)


def _relocated(data: Array, weights: Array, splits: list[Split]) -> list[Split]:
    """Splits moved to the best place between their neighbours: a short interval finds them, all points place them."""
    import numpy as np

    for _ in range(2):
        bounds = [0, *(split.place for split in splits), len(data)]
        for position, split in enumerate(splits):
            start, stop = bounds[position], bounds[position + 2]
            size = stop - start
            left = np.arange(FEWEST, size - FEWEST + 1)
            sums = np.cumsum(_weighted_scores(data[start:stop], weights[start:stop]))
            heights = np.abs(sums[left - 1] - left / size * sums[-1]) / np.sqrt(left * (size - left) / size)
            bounds[position + 1] = start + int(left[heights.argmax()])
            splits[position] = split._replace(place=bounds[position + 1])
    return splits


def _weighted_scores(data: Array, weights: Array) -> Array:
    scores = normal_scores(data) * weights
    centred: Array = scores - scores.mean()
    return centred


def _uncertainty(before: Array, after: Array, memory: float) -> float:
    """The factor, 1 or above, by which the ratio of medians may be off at 95 %.

    Each median's variance on the logarithmic scale is read from order statistics around it (Bonett and Price 2002,
    Psychological Methods 7, 370-383), and multiplied by (1 + memory) / (1 - memory), which is what autocorrelation
    does to a mean. That the place of the split was chosen from the same values is not in it.
    """
    import numpy as np

    variance = sum(_variance_of_median(np.sort(np.log(segment))) for segment in (before, after))
    return math.exp(1.959964 * math.sqrt(variance * (1 + memory) / (1 - memory)))


def _variance_of_median(ordered: Array) -> float:
    from scipy.special import bdtr, ndtri

    size = len(ordered)
    rank = max(1, round((size + 1) / 2 - math.sqrt(size)))
    # The two order statistics enclose the median except with this chance.
    outside = 2 * float(bdtr(rank - 1, size, 0.5))
    width = float(ordered[size - rank] - ordered[rank - 1])
    return (width / (2 * float(-ndtri(outside / 2)))) ** 2
