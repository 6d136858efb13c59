"""Other ways to find changes, in short, to be measured beside ours: the figures stand in docs/changepoints.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    from reports.nights import Series

    Array = npt.NDArray[np.float64]

FEWEST = 7
PERMUTATIONS = 199


def _divergences(distances: Array) -> Array:
    """Energy divergence of the two sides of every split (Matteson and James 2014, equation 5), from |x - y|."""
    size = len(distances)
    sums = distances.cumsum(axis=0).cumsum(axis=1)
    left = np.arange(FEWEST, size - FEWEST + 1)
    right = size - left
    within_left = sums[left - 1, left - 1]
    between = sums[left - 1, -1] - within_left
    within_right = sums[-1, -1] - 2 * between - within_left
    means = (
        2 * between / (left * right)
        - within_left / (left * (left - 1))
        - within_right / (right * (right - 1))
    )
    return left * right / size * means


def _divided(logs: Array, significant: Callable[[Array, int, float], bool]) -> list[int]:
    found, waiting = [], [(0, len(logs))]
    while waiting:
        start, stop = waiting.pop()
        if stop - start < 2 * FEWEST:
            continue
        part = logs[start:stop]
        heights = _divergences(np.abs(part[:, np.newaxis] - part))
        place = FEWEST + int(heights.argmax())
        if significant(part, place, float(heights.max())):
            found.append(start + place)
            waiting += [(start, start + place), (start + place, stop)]
    return sorted(found)


def e_divisive(series: Series) -> list[int]:
    """E-divisive with its permutation test at 0.01."""
    random = np.random.default_rng(0)

    def significant(part: Array, _: int, height: float) -> bool:
        distances = np.abs(part[:, np.newaxis] - part)
        higher = 0
        for _ in range(PERMUTATIONS):
            order = random.permutation(len(part))
            higher += _divergences(distances[np.ix_(order, order)]).max() >= height
            if (1 + higher) / (1 + PERMUTATIONS) > 0.01:
                return False
        return True

    return _divided(np.log(series.values), significant)


def with_t_test(series: Series) -> list[int]:
    """Its splits with a t test at 0.001 in place of the permutations, as Hunter has it (2023), without its windows."""
    from scipy.stats import ttest_ind

    return _divided(
        np.log(series.values),
        lambda part, place, _: bool(ttest_ind(part[:place], part[place:]).pvalue < 0.001),
    )


def pelt(series: Series) -> list[int]:
    """ruptures' PELT for means, with the penalty 3 ln n of normal noise whose variance comes from neighbours."""
    import ruptures

    logs = np.log(series.values)
    deviation = float(np.median(np.abs(np.diff(logs)))) / 0.954
    model = ruptures.Pelt(model="l2", min_size=FEWEST, jump=1).fit(logs / deviation)
    return list(model.predict(pen=3 * np.log(len(logs))))[:-1]


def kernel(series: Series) -> list[int]:
    """ruptures' KernelCPD with a Gaussian kernel and the same penalty."""
    import ruptures

    model = ruptures.KernelCPD(kernel="rbf", min_size=FEWEST).fit(np.log(series.values)[:, np.newaxis])
    return list(model.predict(pen=3 * np.log(len(series.values))))[:-1]
