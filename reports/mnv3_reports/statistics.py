"""Intervals for latencies and ratios: pure functions of numbers, with their sources.

The sampling unit is the process. Calls of one process are correlated, so intervals for medians and ratios are
formed over epochs (one fresh process each), never over pooled calls. The module is imported by the measuring
process and therefore loads scipy only when an interval is asked for.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mnv3_reports.record import Block

_LARGEST_EXPONENT = 709.0
"""exp of more overflows."""

Medians = dict[int, dict[int, float]]
"""Epoch to round to the block's median, in seconds."""


class Interval(msgspec.Struct, frozen=True):
    """An estimate with a confidence interval, in the estimate's own unit.

    One value has no spread to judge by: its interval is unbounded, which `bounded` tells.
    """

    estimate: float
    low: float
    high: float
    n: int
    """Values the interval was formed over: epochs, or samples for an order statistic."""

    @property
    def bounded(self) -> bool:
        """Whether both ends are finite (and, on a logarithmic scale, the lower one above zero)."""
        return math.isfinite(self.high) and math.isfinite(self.low) and self.n > 1

    def contains(self, value: float) -> bool:
        """Whether the value lies within the interval, ends included."""
        return self.low <= value <= self.high


def median(values: Iterable[float]) -> float:
    """The middle value, or the mean of the two middle ones.

    Raises:
        ValueError: there are no values, or one is not a number.
    """
    ordered = _ordered(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def t_interval(values: Iterable[float], confidence: float = 0.95) -> Interval:
    """Student's interval for the mean of independent values (Student 1908, Biometrika 6, 1-25).

    Raises:
        ValueError: there are no values, one is not finite, or the confidence is not between 0 and 1.
    """
    from scipy.special import stdtrit

    _check_confidence(confidence)
    data = _ordered(values)
    n = len(data)
    mean = math.fsum(data) / n
    if n == 1:
        return Interval(mean, -math.inf, math.inf, 1)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in data) / (n - 1))
    half = float(stdtrit(n - 1, 0.5 + confidence / 2)) * deviation / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def log_interval(values: Iterable[float], confidence: float = 0.95) -> Interval:
    """`t_interval` of the logarithms, taken back: the geometric mean of positive values.

    Raises:
        ValueError: as `t_interval`, or a value is not positive.
    """
    data = list(values)
    if any(value <= 0 for value in data):
        raise ValueError("a logarithm needs positive values; expected durations above zero")
    return _exponential(t_interval((math.log(value) for value in data), confidence))


def latency_interval(epoch_medians: Iterable[float], confidence: float = 0.95) -> Interval:
    """Latency from one median an epoch, in the medians' unit.

    Latencies vary by factors (a process is a few per cent slower as a whole), hence the logarithm.

    Raises:
        ValueError: as `log_interval`.
    """
    return log_interval(epoch_medians, confidence)


class _Ranks(NamedTuple):
    low: int
    high: int


def order_statistic_interval(
    samples: Iterable[float], quantile: float, confidence: float = 0.95
) -> Interval | None:
    """Exact distribution-free interval for a quantile of independent samples, None when there are too few.

    The number of samples below the quantile is binomial, so two order statistics enclose it with a known
    probability (Conover 1999, Practical Nonparametric Statistics, 3rd ed., section 3.2; Hahn and Meeker 1991,
    Statistical Intervals, section 5.2). Each tail gets at most half of 1 - confidence; at 95 % that takes 6
    samples for the median, 36 for p90, 72 for p95 and 368 for p99. The estimate is Hyndman and Fan's type 7
    (1996, The American Statistician 50, 361-365).

    Raises:
        ValueError: a sample is not finite, or quantile or confidence is not between 0 and 1.
    """
    _check_confidence(confidence)
    if not 0 < quantile < 1:
        raise ValueError(f"quantile {quantile} is not between 0 and 1; write 0.9 for p90")
    data = list(samples)
    ranks = _enclosing_ranks(len(data), quantile, (1 - confidence) / 2) if data else None
    if ranks is None:
        return None
    data = _ordered(data)
    position = (len(data) - 1) * quantile
    below = math.floor(position)
    above = min(below + 1, len(data) - 1)
    estimate = data[below] + (position - below) * (data[above] - data[below])
    return Interval(estimate, data[ranks.low - 1], data[ranks.high - 1], len(data))


def _enclosing_ranks(n: int, quantile: float, tail: float) -> _Ranks | None:
    """Innermost ranks l < u (from 1): P(B < l) <= tail and P(B >= u) <= tail, B ~ binomial(n, quantile)."""
    from scipy.special import bdtr, bdtrc

    if bdtr(0, n, quantile) > tail or bdtrc(n - 1, n, quantile) > tail:
        return None
    # A normal approximation lands within a rank or two; the exact tails decide.
    spread = 2 * math.sqrt(n * quantile * (1 - quantile))
    low = min(max(int(n * quantile - spread), 1), n)
    while low < n and bdtr(low, n, quantile) <= tail:
        low += 1
    while low > 1 and bdtr(low - 1, n, quantile) > tail:
        low -= 1
    high = min(max(int(n * quantile + spread), 1), n)
    while high > 1 and bdtrc(high - 2, n, quantile) <= tail:
        high -= 1
    while high < n and bdtrc(high - 1, n, quantile) > tail:
        high += 1
    return _Ranks(low, high)


def block_medians(blocks: Iterable[Block]) -> Medians:
    """Each block's median call in seconds, by epoch and round. A block without calls is left out."""
    medians: Medians = {}
    for block in blocks:
        if block.samples_ns:
            medians.setdefault(block.epoch, {})[block.round] = median(block.samples_ns) / 1e9
    return medians


def ratio_of_medians(
    numerator: Mapping[int, Mapping[int, float]],
    denominator: Mapping[int, Mapping[int, float]],
    confidence: float = 0.95,
) -> Interval | None:
    """`ratio_interval` from medians computed once with `block_medians`, for callers that form many ratios.

    Raises:
        ValueError: a median is not positive.
    """
    epoch_logs = []
    for epoch in sorted(numerator.keys() & denominator.keys()):
        over, under = numerator[epoch], denominator[epoch]
        logs = [_log_ratio(over[number], under[number]) for number in over.keys() & under.keys()]
        if logs:
            epoch_logs.append(median(logs))
    return _exponential(t_interval(epoch_logs, confidence)) if epoch_logs else None


def ratio_interval(
    a_blocks: Iterable[Block], b_blocks: Iterable[Block], confidence: float = 0.95
) -> Interval | None:
    """How many times as long a call of `a` takes as one of `b`; below 1 means that `a` is faster.

    Per epoch the median over rounds of ln(block median of a / block median of b), over the rounds that have
    both; then exp(mean over epochs) with a t interval over epochs. Within a round both met nearly the same
    disturbances, which is why ratios are formed there (Kalibera and Jones 2013, ISMM, on the levels of
    repetition and why intervals belong to the highest; the pairing is the paired t interval's). None when no
    round has both.

    Raises:
        ValueError: a median is not positive.
    """
    return ratio_of_medians(block_medians(a_blocks), block_medians(b_blocks), confidence)


def half_width(interval: Interval | None) -> float:
    """Half the interval's width relative to its estimate (0.02 is 2 %).

    Infinite when it is unbounded, or when there is none yet (`ratio_interval` found no shared round).

    Raises:
        ValueError: the estimate is zero.
    """
    if interval is None or not interval.bounded:
        return math.inf
    if interval.estimate == 0:
        raise ValueError("an interval around zero has no relative width")
    return (interval.high - interval.low) / 2 / abs(interval.estimate)


def spread(values: Sequence[float]) -> float | None:
    """Standard deviation of the logarithms, about the relative spread; None for fewer than two values.

    Raises:
        ValueError: a value is not positive and finite.
    """
    if len(values) < 2:
        return None
    if any(value <= 0 for value in values):
        raise ValueError("a logarithm needs positive values; expected durations above zero")
    logs = _ordered(math.log(value) for value in values)
    mean = math.fsum(logs) / len(logs)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in logs) / (len(logs) - 1))


def _log_ratio(a: float, b: float) -> float:
    if a <= 0 or b <= 0:
        raise ValueError("a ratio needs positive durations; a block's median call took no time")
    return math.log(a / b)


def _exponential(interval: Interval) -> Interval:
    low = math.exp(interval.low)
    high = math.exp(interval.high) if interval.high < _LARGEST_EXPONENT else math.inf
    return Interval(math.exp(interval.estimate), low, high, interval.n)


def _ordered(values: Iterable[float]) -> list[float]:
    data = sorted(values)
    if not data:
        raise ValueError("no values; expected at least one")
    if not all(map(math.isfinite, data)):
        raise ValueError("a value is not a finite number")
    return data


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is not between 0 and 1; write 0.95 for 95 %")
