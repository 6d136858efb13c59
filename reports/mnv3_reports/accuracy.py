"""What counts of right and wrong answers say: intervals, tests and verdicts, as pure functions with their sources.

The sampling unit is the image. Shares are between 0 and 1 here, and points (hundredths) only where they are printed.
Like `mnv3_reports.statistics` this module loads scipy only when a figure is asked for.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import msgspec

from mnv3_reports.compare import BASELINE
from mnv3_reports.statistics import Interval

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mnv3_reports.record import Bin, CellRecord, Pairs

Verdict = Literal["no loss shown", "loses", "gains"]
Limit = Literal["above", "below", "not told apart"]

SIGNIFICANT = 0.05
"""A difference with a smaller p-value is taken for real."""
_HALVINGS = 60
"""Steps of a bisection: 2^-60 of the interval from -1 to 1."""


def wilson_interval(right: int, images: int, confidence: float = 0.95) -> Interval | None:
    """A share with Wilson's score interval (Wilson 1927, JASA 22, 209-212); None without images.

    It keeps its coverage where nearly all or nearly no answers are right, and never leaves 0 to 1 (Brown, Cai and
    DasGupta 2001, Statistical Science 16, 101-133).

    Raises:
        ValueError: more are right than there are, or the confidence is not between 0 and 1.
    """
    z = _quantile(confidence)
    _check_counts(right, images)
    if images == 0:
        return None
    share = right / images
    weight = z * z / images
    middle = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / images + weight / (4 * images))
    # The ends are exactly 0 and 1 there, which rounding would miss.
    low = 0.0 if right == 0 else middle - half
    high = 1.0 if right == images else middle + half
    return Interval(share, low, high, images)


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Two-sided p-value of the exact McNemar test, 1 without discordant pairs.

    Given how many images only one of two classifiers gets right, each of the two is the one with probability 1/2 if
    they are equally good (McNemar 1947, Psychometrika 12, 153-157). Exact, because between a network and its
    quantized form there are few such images.

    Raises:
        ValueError: a count is negative.
    """
    from scipy.special import bdtr

    if min(only_first, only_second) < 0:
        raise ValueError("a count is negative; expected numbers of images")
    discordant = only_first + only_second
    if discordant == 0:
        return 1.0
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), discordant, 0.5)))


def paired_difference(
    only_first: int, only_second: int, images: int, confidence: float = 0.95
) -> Interval | None:
    """Share right of the first classifier minus that of the second, on the same images; None without images.

    Tango's score interval (Tango 1998, Statistics in Medicine 17, 891-908): the differences that a score test does
    not reject. Without discordant pairs it is [-z²/(n + z²), z²/(n + z²)], so that no difference seen among few images
    is not taken for none at all. Fagerland, Lydersen and Laake (2014, Statistics in Medicine 33, 2850-2875) recommend
    it for this comparison.

    Args:
        only_first: images that only the first gets right.
        only_second: images that only the second gets right.
        images: all of them, also those that both get right or wrong.
        confidence: of the interval.

    Raises:
        ValueError: the counts do not fit together, or the confidence is not between 0 and 1.
    """
    z = _quantile(confidence)
    _check_counts(only_first + only_second, images)
    if min(only_first, only_second) < 0:
        raise ValueError("a count is negative; expected numbers of images")
    if images == 0:
        return None
    estimate = (only_first - only_second) / images

    def score(difference: float) -> float:
        return _tango_score(only_first, only_second, images, difference)

    return Interval(
        estimate,
        _crossing(lambda difference: score(difference) > z, -1.0, estimate),
        _crossing(lambda difference: score(difference) >= -z, estimate, 1.0),
        images,
    )


def _tango_score(only_first: int, only_second: int, images: int, difference: float) -> float:
    """The score statistic for a true difference; falls as the difference grows."""
    # The likeliest share of images that only the second gets right, given the difference: a quadratic's root.
    a = 2 * images
    b = (2 * images - only_first + only_second) * difference - only_first - only_second
    c = -only_second * difference * (1 - difference)
    second = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = images * (2 * second + difference * (1 - difference))
    deviation = only_first - only_second - images * difference
    if variance <= 0:
        return math.copysign(math.inf, deviation) if deviation else 0.0
    return deviation / math.sqrt(variance)


def _crossing(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Where a condition that holds below and not above changes, by bisection; `high` where it never does."""
    if holds(high):
        return high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return high


def mean_interval(mean: float, deviation: float, n: int, confidence: float = 0.95) -> Interval | None:
    """A mean with Student's interval, from the standard deviation of single values; None without any.

    Raises:
        ValueError: the deviation is negative, or the confidence is not between 0 and 1.
    """
    from scipy.special import stdtrit

    _quantile(confidence)
    if deviation < 0:
        raise ValueError("a standard deviation is negative")
    if n < 1:
        return None
    if n == 1:
        return Interval(mean, -math.inf, math.inf, 1)
    half = float(stdtrit(n - 1, 0.5 + confidence / 2)) * deviation / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def calibration_error(bins: Iterable[Bin]) -> float | None:
    """Expected calibration error: how far confidence and share of right answers lie apart, on average over images.

    Naeini, Cooper and Hauskrecht 2015 (AAAI, 2901-2907); Guo et al. 2017 (ICML, 1321-1330). Among few images chance
    alone makes it larger than zero. None without images.
    """
    filled = [found for found in bins if found.images]
    images = sum(found.images for found in filled)
    if not images:
        return None
    return math.fsum(abs(found.right - found.confidence) for found in filled) / images


class Drop(msgspec.Struct, frozen=True):
    """How much accuracy a cell loses against its reference, on the same images. Below zero it gains."""

    interval: Interval
    """Share of images right with the reference minus with the cell, with `paired_difference`'s interval."""
    p: float
    """Of `mcnemar_p`: how likely a difference at least this large is if there is none."""
    reference: str
    """What it was compared with, such as 'eager fp32'."""

    @property
    def verdict(self) -> Verdict:
        """What the exact test says. It is stricter than the interval, so no loss is called that the interval denies."""
        if self.p >= SIGNIFICANT or self.interval.estimate == 0:
            return "no loss shown"
        return "loses" if self.interval.estimate > 0 else "gains"

    def against(self, limit: float) -> Limit:
        """Whether the loss is above an accepted one (a share), below it, or the interval holds both."""
        if self.interval.low > limit:
            return "above"
        return "below" if self.interval.high <= limit else "not told apart"


def is_reference(record: CellRecord) -> bool:
    """Whether a cell is eager fp32 like its reference, and answers like it: it cannot lose anything against itself."""
    pairs = record.accuracy.pairs if record.accuracy is not None else None
    if record.cell.backend != BASELINE or pairs is None:
        return False
    return pairs.agree == pairs.both_right + pairs.both_wrong and not pairs.only_reference + pairs.only_cell


def drop_of(pairs: Pairs) -> Drop | None:
    """The drop that a cell's pairs show; None without images.

    Raises:
        ValueError: a count is negative.
    """
    images = pairs.both_right + pairs.only_reference + pairs.only_cell + pairs.both_wrong
    interval = paired_difference(pairs.only_reference, pairs.only_cell, images)
    if interval is None:
        return None
    return Drop(interval, mcnemar_p(pairs.only_reference, pairs.only_cell), pairs.reference)


def _quantile(confidence: float) -> float:
    """The normal quantile that leaves half of 1 - confidence above it."""
    from scipy.special import ndtri

    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is not between 0 and 1; write 0.95 for 95 %")
    return float(ndtri(0.5 + confidence / 2))


def _check_counts(part: int, whole: int) -> None:
    if not 0 <= part <= whole:
        raise ValueError(f"{part} of {whole} images is no share; expected at most as many as there are")
