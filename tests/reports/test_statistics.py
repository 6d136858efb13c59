"""Against closed forms, scipy.stats and simulation."""

from __future__ import annotations

import math
import random

import pytest
import scipy.stats
from reports import factory

from mnv3_reports import statistics as st
from mnv3_reports.record import Cell

A, B = Cell("v3-small", "eager"), Cell("v1", "eager")


def test_t_interval_equals_scipys() -> None:
    values = [1.1, 0.9, 1.3, 1.0, 1.25]
    found = st.t_interval(values, 0.9)
    mean, error = sum(values) / 5, scipy.stats.sem(values)
    low, high = scipy.stats.t.interval(0.9, 4, loc=mean, scale=error)
    assert (found.low, found.estimate, found.high, found.n) == pytest.approx((low, mean, high, 5))


def test_t_interval_of_two_values_is_the_cauchy_quantile() -> None:
    # One degree of freedom is Cauchy's distribution, whose quantile is tan(pi (p - 1/2)).
    found = st.t_interval([0.0, 2.0])
    # The values' standard deviation is sqrt 2, so the mean's standard error is 1.
    assert found.high - 1 == pytest.approx(math.tan(math.pi * 0.475))


def test_one_value_has_an_unbounded_interval() -> None:
    found = st.t_interval([3.0])
    assert (found.estimate, found.n, found.bounded) == (3.0, 1, False)
    assert st.half_width(found) == math.inf
    latency = st.latency_interval([3.0])
    assert (latency.estimate, latency.low, latency.high) == pytest.approx((3.0, 0.0, math.inf))
    assert not latency.bounded


def test_equal_values_give_an_interval_of_no_width() -> None:
    found = st.latency_interval([0.25] * 4)
    assert (found.low, found.high) == pytest.approx((0.25, 0.25))
    assert found.bounded
    assert st.half_width(found) == pytest.approx(0)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf, 1.0]])
def test_no_values_and_no_numbers_are_refused(values: list[float]) -> None:
    for function in (st.t_interval, st.median):
        with pytest.raises(ValueError, match=r"^(no values|a value is not a finite number)"):
            function(values)


@pytest.mark.parametrize("values", [[0.0, 1.0], [-1.0]])
def test_durations_must_be_positive(values: list[float]) -> None:
    with pytest.raises(ValueError, match="positive"):
        st.latency_interval(values)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_confidence_is_a_share(confidence: float) -> None:
    with pytest.raises(ValueError, match=r"write 0\.95"):
        st.t_interval([1.0, 2.0], confidence)


def test_an_overflowing_end_counts_as_unbounded() -> None:
    found = st.log_interval([1e-300, 1e300])
    assert found.high == math.inf
    assert st.half_width(found) == math.inf


@pytest.mark.parametrize(("values", "expected"), [([3], 3), ([4, 1], 2.5), ([3, 1, 2], 2), ([1, 1, 9, 9], 5)])
def test_median(values: list[float], expected: float) -> None:
    assert st.median(values) == expected


@pytest.mark.parametrize(("quantile", "least"), [(0.5, 6), (0.9, 36), (0.95, 72), (0.99, 368)])
def test_order_statistics_need_so_many_samples(quantile: float, least: int) -> None:
    assert st.order_statistic_interval(range(least - 1), quantile) is None
    found = st.order_statistic_interval(range(least), quantile)
    assert found is not None
    assert found.high == least - 1  # the largest sample is only just enough


@pytest.mark.parametrize("quantile", [0.01, 0.1, 0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("n", [368, 500, 1000, 12_345])
def test_order_statistics_are_the_innermost_that_cover(quantile: float, n: int) -> None:
    found = st.order_statistic_interval(range(1, n + 1), quantile)
    assert found is not None
    low, high = int(found.low), int(found.high)  # samples are their own ranks
    binomial = scipy.stats.binom(n, quantile)
    assert binomial.cdf(low - 1) <= 0.025 < binomial.cdf(low)
    assert binomial.sf(high - 1) <= 0.025 < binomial.sf(high - 2)
    assert found.low <= found.estimate <= found.high
    assert binomial.cdf(high - 1) - binomial.cdf(low - 1) >= 0.95


def test_order_statistics_of_ties_and_of_nothing() -> None:
    assert st.order_statistic_interval([], 0.9) is None
    assert st.order_statistic_interval([2.0] * 50, 0.9) == st.Interval(2.0, 2.0, 2.0, 50)
    with pytest.raises(ValueError, match="finite"):
        st.order_statistic_interval([math.nan] * 50, 0.9)
    with pytest.raises(ValueError, match=r"write 0\.9 for p90"):
        st.order_statistic_interval([1.0], 90)


def test_order_statistic_interval_covers_as_often_as_it_says() -> None:
    rng = random.Random(20)
    truth = -math.log(0.1)  # p90 of the unit exponential
    hits = 0
    for _ in range(1000):
        found = st.order_statistic_interval([rng.expovariate(1) for _ in range(100)], 0.9)
        assert found is not None
        hits += found.contains(truth)
    assert 930 <= hits <= 990  # exact coverage is a little above 95 %


def test_latency_interval_covers_over_epochs_though_calls_are_correlated() -> None:
    rng = random.Random(21)
    hits = pooled_hits = 0
    for _ in range(600):
        epochs = []
        calls = []
        for _ in range(5):
            process = rng.gauss(0, 0.01)
            values = [math.exp(process + rng.gauss(0, 0.02)) for _ in range(31)]
            epochs.append(st.median(values))
            calls += values
        hits += st.latency_interval(epochs).contains(1.0)
        pooled_hits += st.log_interval(calls).contains(1.0)
    assert 0.93 <= hits / 600 <= 0.97
    assert pooled_hits / 600 < 0.7  # what pooling calls would have claimed to be 95 %


def test_ratio_is_the_geometric_mean_over_epochs_of_the_median_over_rounds() -> None:
    a = [factory.block(A, e, r, (ns,)) for e, r, ns in [(0, 0, 200), (0, 1, 400), (0, 2, 900), (1, 0, 800)]]
    b = [factory.block(B, e, r, (100,)) for e, r in [(0, 0), (0, 1), (0, 2), (1, 0)]]
    found = st.ratio_interval(a, b)
    assert found is not None
    assert (found.estimate, found.n) == pytest.approx((math.sqrt(4 * 8), 2))


def test_ratio_uses_only_rounds_that_both_have() -> None:
    a = [factory.block(A, 0, 0, (200,)), factory.block(A, 0, 1, (10**9,)), factory.block(A, 2, 0, (7,))]
    b = [factory.block(B, 0, 0, (100,)), factory.block(B, 0, 2, (1,)), factory.block(B, 1, 0, (7,))]
    found = st.ratio_interval(a, b)
    assert found is not None
    assert (found.estimate, found.n) == pytest.approx((2.0, 1))
    assert st.ratio_interval(a, [factory.block(B, 9, 0, (1,))]) is None
    assert st.ratio_interval([], []) is None
    assert st.half_width(None) == math.inf


def test_ratio_is_blind_to_what_a_whole_round_suffers() -> None:
    rng = random.Random(22)
    a, b = [], []
    for epoch in range(4):
        for number in range(10):
            load = rng.choice([1, 3])
            a.append(factory.block(A, epoch, number, (2000 * load,)))
            b.append(factory.block(B, epoch, number, (1000 * load,)))
    found = st.ratio_interval(a, b)
    assert found is not None
    assert (found.low, found.estimate, found.high) == pytest.approx((2.0, 2.0, 2.0))


def test_ratio_turns_round_with_its_parts() -> None:
    blocks = factory.blocks_of([A, B])
    mine, other = ([b for b in blocks if b.cell == cell.key] for cell in (A, B))
    there, back = st.ratio_interval(mine, other), st.ratio_interval(other, mine)
    assert there is not None
    assert back is not None
    assert there.estimate * back.estimate == pytest.approx(1)
    assert there.low * back.high == pytest.approx(1)


def test_ratio_of_a_call_that_took_no_time_is_refused() -> None:
    with pytest.raises(ValueError, match="took no time"):
        st.ratio_interval([factory.block(A, 0, 0, (0,))], [factory.block(B, 0, 0, (5,))])


def test_half_width_is_relative() -> None:
    assert st.half_width(st.Interval(2.0, 1.9, 2.2, 3)) == pytest.approx(0.075)
    with pytest.raises(ValueError, match="around zero"):
        st.half_width(st.Interval(0.0, -1.0, 1.0, 3))


def test_spread() -> None:
    assert st.spread([]) is None
    assert st.spread([1.0]) is None
    assert st.spread([1.0, 1.0]) == 0
    assert st.spread([1.0, math.e]) == pytest.approx(math.sqrt(0.5))
    with pytest.raises(ValueError, match="positive"):
        st.spread([0.0, 1.0])
