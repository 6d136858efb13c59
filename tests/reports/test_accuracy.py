"""Against closed forms, published examples, scipy's own tests and simulation."""

from __future__ import annotations

import math
import random

import pytest
import scipy.stats
from scipy.optimize import minimize_scalar

from mnv3_reports import accuracy
from mnv3_reports.record import Bin, Pairs

Z = 1.959963984540054


def pairs(both_right: int, only_reference: int, only_cell: int, both_wrong: int) -> Pairs:
    agree = both_right + both_wrong
    return Pairs("eager fp32", both_right, only_reference, only_cell, both_wrong, agree)


@pytest.mark.parametrize(("right", "images"), [(0, 1), (1, 1), (1, 2), (0, 9), (9, 9), (81, 263), (440, 449)])
def test_wilsons_interval_equals_scipys(right: int, images: int) -> None:
    found = accuracy.wilson_interval(right, images)
    assert found is not None
    expected = scipy.stats.binomtest(right, images).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.estimate, found.n) == (right / images, images)
    assert 0 <= found.low <= found.estimate <= found.high <= 1


def test_wilsons_interval_has_exact_ends_and_none_of_nothing() -> None:
    assert accuracy.wilson_interval(0, 0) is None
    none, every = accuracy.wilson_interval(0, 10), accuracy.wilson_interval(10, 10)
    assert none is not None
    assert every is not None
    assert (none.low, every.high) == (0.0, 1.0)
    assert none.high == pytest.approx(Z**2 / (10 + Z**2))
    for right, images in ((-1, 3), (4, 3)):
        with pytest.raises(ValueError, match="is no share"):
            accuracy.wilson_interval(right, images)
    with pytest.raises(ValueError, match=r"write 0\.95 for 95 %"):
        accuracy.wilson_interval(1, 2, 95)


@pytest.mark.parametrize(("first", "second"), [(1, 0), (6, 0), (1, 7), (10, 10), (30, 12)])
def test_mcnemars_test_is_the_binomial_one(first: int, second: int) -> None:
    expected = scipy.stats.binomtest(first, first + second).pvalue
    assert accuracy.mcnemar_p(first, second) == pytest.approx(expected)
    assert accuracy.mcnemar_p(second, first) == accuracy.mcnemar_p(first, second)


def test_without_discordant_pairs_nothing_differs() -> None:
    assert accuracy.mcnemar_p(0, 0) == 1.0
    with pytest.raises(ValueError, match="negative"):
        accuracy.mcnemar_p(-1, 3)


def test_tangos_interval_is_that_of_a_published_example() -> None:
    # Cavo et al. 2012 (59, 6, 16 and 80 patients), as Fagerland, Lydersen and Laake's R package contingencytables
    # (Tango_asymptotic_score_CI_paired_2x2) gives it.
    found = accuracy.paired_difference(6, 16, 161)
    assert found is not None
    assert (found.estimate, found.low, found.high) == pytest.approx((-0.0621, -0.1240, -0.0054), abs=5e-5)


@pytest.mark.parametrize(
    ("first", "second", "images"), [(3, 1, 40), (0, 4, 25), (12, 20, 300), (5, 5, 12), (1, 0, 2)]
)
def test_tangos_interval_is_where_the_score_test_stops_rejecting(
    first: int, second: int, images: int
) -> None:
    """The restricted likelihood is maximized numerically here, not by the quadratic."""

    def restricted(share: float, end: float) -> float:
        counted = ((share + end, first), (share, second), (1 - 2 * share - end, images - first - second))
        return -sum(count * math.log(max(p, 1e-300)) for p, count in counted if count)

    found = accuracy.paired_difference(first, second, images)
    assert found is not None
    for end in (found.low, found.high):
        bounds = max(0.0, -end), (1 - end) / 2
        best = minimize_scalar(
            restricted, args=(end,), bounds=bounds, method="bounded", options={"xatol": 1e-12}
        ).x
        score = (first - second - images * end) / math.sqrt(images * (2 * best + end * (1 - end)))
        assert abs(score) == pytest.approx(Z, rel=1e-3)


@pytest.mark.parametrize("images", [1, 2, 449, 50_000])
def test_without_discordant_pairs_the_interval_shrinks_with_the_number_of_images(images: int) -> None:
    found = accuracy.paired_difference(0, 0, images)
    assert found is not None
    bound = Z**2 / (images + Z**2)
    assert (found.estimate, found.low, found.high) == pytest.approx((0.0, -bound, bound))


def test_everything_lost_or_won_stays_between_the_ends() -> None:
    for images in (1, 2, 10):
        lost, won = (
            accuracy.paired_difference(images, 0, images),
            accuracy.paired_difference(0, images, images),
        )
        assert lost is not None
        assert won is not None
        assert (lost.estimate, lost.high, won.low) == (1.0, 1.0, -1.0)
        assert lost.low == pytest.approx(-won.high)
        assert -1 < lost.low < 1
    assert accuracy.paired_difference(0, 0, 0) is None
    for counts in ((2, 2, 3), (-1, 1, 3)):
        with pytest.raises(ValueError, match=r"is no share|negative"):
            accuracy.paired_difference(*counts)


def test_the_paired_interval_covers_what_it_should() -> None:
    rng = random.Random(5)
    images, lost, gained, runs = 400, 0.03, 0.01, 1500
    covered = 0
    for _ in range(runs):
        draws = [rng.random() for _ in range(images)]
        first = sum(draw < lost for draw in draws)
        second = sum(lost <= draw < lost + gained for draw in draws)
        found = accuracy.paired_difference(first, second, images)
        assert found is not None
        covered += found.contains(lost - gained)
    assert 0.93 < covered / runs < 0.97


def test_the_exact_test_never_calls_what_the_interval_denies() -> None:
    for discordant in range(1, 120):
        for second in range(discordant // 2 + 1):
            first = discordant - second
            if accuracy.mcnemar_p(first, second) < accuracy.SIGNIFICANT:
                found = accuracy.paired_difference(first, second, 1000)
                assert found is not None
                assert found.low > 0


def test_a_mean_has_students_interval() -> None:
    found = accuracy.mean_interval(0.5, 0.2, 25)
    assert found is not None
    half = scipy.stats.t.ppf(0.975, 24) * 0.2 / 5
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half))
    single = accuracy.mean_interval(0.5, 0.0, 1)
    assert single is not None
    assert not single.bounded
    assert accuracy.mean_interval(0.5, 0.0, 0) is None
    with pytest.raises(ValueError, match="negative"):
        accuracy.mean_interval(0.5, -0.1, 3)


def test_the_calibration_error_weighs_bins_by_their_images() -> None:
    # 10 images at confidence 0.9 of which 6 are right, 30 at 0.5 of which 15 are: (10 * 0.3 + 30 * 0) / 40.
    bins = [Bin(10, 9.0, 6), Bin(0, 0.0, 0), Bin(30, 15.0, 15)]
    assert accuracy.calibration_error(bins) == pytest.approx(0.075)
    assert accuracy.calibration_error([Bin(2, 2.0, 2)]) == 0.0
    assert accuracy.calibration_error([Bin(0, 0.0, 0)]) is None
    assert accuracy.calibration_error([]) is None


@pytest.mark.parametrize(
    ("counts", "verdict", "limit"),
    [
        ((430, 0, 0, 19), "no loss shown", "below"),
        ((425, 5, 0, 19), "no loss shown", "not told apart"),  # p 0.0625, though the interval is above zero
        ((400, 30, 4, 15), "loses", "above"),
        ((400, 4, 30, 15), "gains", "below"),
        ((412, 10, 2, 25), "loses", "not told apart"),
        ((1, 0, 0, 0), "no loss shown", "not told apart"),
    ],
)
def test_a_drop_has_a_verdict(counts: tuple[int, int, int, int], verdict: str, limit: str) -> None:
    found = accuracy.drop_of(pairs(*counts))
    assert found is not None
    assert found.interval.estimate == pytest.approx((counts[1] - counts[2]) / sum(counts))
    assert (found.verdict, found.against(0.01)) == (verdict, limit)


def test_a_drop_of_no_images_is_none() -> None:
    assert accuracy.drop_of(pairs(0, 0, 0, 0)) is None
