"""Against closed forms, scipy, naive loops and simulation."""

from __future__ import annotations

import math
from itertools import pairwise, permutations, product
from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.stats

from mnv3_reports import sequential as sq
from mnv3_reports.statistics import log_interval
from mnv3_reports.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

MARGIN = 0.03
LIMIT = math.log1p(MARGIN)
NOISE = 0.01
ENDLESS = 10**9
"""More resamples than there are sign patterns: scipy then tries every one."""


def hold(data: Array, design: sq.Design, margin: float = MARGIN) -> dict[str, Verdict]:
    """Every look of one gate; what is decided is judged no further."""
    live = [str(column) for column in range(data.shape[1])]
    decided: dict[str, Verdict] = {}
    for look, alpha in design.spending.items():
        seen = {key: data[:look, int(key)].tolist() for key in live}
        for key, judgement in sq.judge(seen, dict.fromkeys(live, margin), alpha).items():
            if judgement.verdict is not Verdict.INCONCLUSIVE:
                decided[key] = judgement.verdict
                live.remove(key)
    return decided


def normal(chance: np.random.Generator, shape: tuple[int, int]) -> Array:
    return NOISE * chance.normal(size=shape)


def heavy_tailed(chance: np.random.Generator, shape: tuple[int, int]) -> Array:
    return NOISE / math.sqrt(3) * chance.standard_t(3, size=shape)


def correlated(chance: np.random.Generator, shape: tuple[int, int]) -> Array:
    shared = chance.normal(size=(shape[0], 1))
    return NOISE * (math.sqrt(0.6) * shared + math.sqrt(0.4) * chance.normal(size=shape))


# Design


@pytest.mark.parametrize("epochs", range(5, 61))
def test_the_looks_spend_alpha_exactly_and_end_with_the_last_epoch(epochs: int) -> None:
    design = sq.Design(epochs=epochs, alpha=0.04)
    assert math.fsum(design.spending.values()) == pytest.approx(0.04, rel=1e-12)
    assert min(design.spending.values()) > 0
    assert list(design.looks) == sorted(set(design.looks))
    assert (design.looks[0] >= 5, design.looks[-1]) == (True, epochs)


def test_the_looks_of_twenty_epochs() -> None:
    design = sq.Design()
    assert design.spending == pytest.approx({8: 0.005, 14: 0.015, 20: 0.03})
    left = [design.left_after(epochs) for epochs in (0, 7, 8, 13, 14, 19, 20)]
    assert left == pytest.approx([0.05, 0.05, 0.045, 0.045, 0.03, 0.03, 0.0])


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 4}, {"alpha": 0.0}, {"alpha": 0.5}, {"alpha": 1e-4}, {"alpha": math.nan}, {"power": 1.0}],
)
def test_a_design_that_allows_no_verdict_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"expected at least 5|must lie between"):
        sq.Design(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("alpha", "fewest"), [(0.2, 5), (0.05, 5), (0.01, 8), (0.001, 11)])
def test_fewest_epochs_are_the_first_that_can_show_a_regression(alpha: float, fewest: int) -> None:
    design = sq.Design(alpha=alpha)
    assert design.fewest == fewest
    for epochs in range(5, fewest + 3):
        last = sq.Design(epochs=epochs, alpha=alpha).spending[epochs]
        differences = {"cell": [0.5 + 0.001 * epoch for epoch in range(epochs)]}
        found = sq.judge(differences, {"cell": MARGIN}, last)["cell"]
        assert (found.verdict is Verdict.FAIL) == (epochs >= fewest)


# Bounds and p-values


@pytest.mark.parametrize("n", [2, 5, 8, 20])
def test_upper_bounds_are_scipys(n: int) -> None:
    data = np.random.default_rng(n).normal(0.01, 0.02, (n, 3))
    for alpha in (0.005, 0.05, 0.3):
        one_sided = scipy.stats.ttest_1samp(data, 0, alternative="less").confidence_interval(1 - alpha)
        assert sq.upper_bounds(data, alpha) == pytest.approx(one_sided.high)
        errors = scipy.stats.sem(data)
        _, high = scipy.stats.t.interval(1 - 2 * alpha, n - 1, data.mean(axis=0), errors)
        assert sq.upper_bounds(data, alpha) == pytest.approx(high)


def naive_p_value(column: list[float]) -> float:
    """Share of sign patterns whose sum is as large; with flipped signs a larger sum is a larger t."""
    reached = [
        math.fsum(s * x for s, x in zip(signs, column, strict=True)) >= math.fsum(column) - 1e-12
        for signs in product((1, -1), repeat=len(column))
    ]
    return sum(reached) / len(reached)


@pytest.mark.parametrize("n", [2, 3, 6, 9])
@pytest.mark.parametrize("shift", [-0.01, 0.0, 0.01, 0.05])
def test_one_column_is_the_exhaustive_sign_flip_test(n: int, shift: float) -> None:
    column = np.random.default_rng(100 * n).normal(shift, 0.02, n)
    (found,) = sq.max_t(column[:, None])
    assert found == pytest.approx(naive_p_value(column.tolist()))
    theirs = scipy.stats.permutation_test(
        (column,), np.mean, permutation_type="samples", alternative="greater", n_resamples=ENDLESS
    )
    assert found == pytest.approx(theirs.pvalue)


def test_ties_and_zeros_are_counted_as_reached() -> None:
    column = [0.01, 0.01, 0.0, -0.01, 0.02, 0.0]
    (found,) = sq.max_t(np.array(column)[:, None])
    assert found == pytest.approx(naive_p_value(column))


def naive_step_down(data: Array) -> Array:
    """Westfall and Young's algorithm 2.8, word by word, with scipy's t."""
    n, columns = data.shape
    observed = scipy.stats.ttest_1samp(data, 0).statistic
    order = sorted(range(columns), key=lambda column: -observed[column])
    counts = np.zeros(columns)
    for signs in product((1, -1), repeat=n):
        flipped = scipy.stats.ttest_1samp(data * np.array(signs)[:, None], 0).statistic
        for place, column in enumerate(order):
            counts[column] += max(flipped[other] for other in order[place:]) >= observed[column] - 1e-9
    p_values = counts / 2**n
    for before, column in pairwise(order):
        p_values[column] = max(p_values[column], p_values[before])
    return np.asarray(p_values)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_step_down_is_the_published_algorithm(seed: int) -> None:
    chance = np.random.default_rng(seed)
    data = correlated(chance, (6, 3)) + np.array([0.015, 0.0, 0.008])
    assert sq.max_t(data) == pytest.approx(naive_step_down(data))


def test_equal_columns_cost_nothing() -> None:
    column = np.random.default_rng(5).normal(0.012, 0.02, 9)
    (single,) = sq.max_t(column[:, None])
    assert 0.01 < single < 0.3
    assert sq.max_t(np.column_stack([column, 3 * column, column])) == pytest.approx([single] * 3)


def test_independent_columns_cost_at_most_bonferroni() -> None:
    chance = np.random.default_rng(6)
    for _ in range(10):
        data = normal(chance, (10, 5)) + 0.005
        together = sq.max_t(data)
        alone = np.array([sq.max_t(data[:, [column]])[0] for column in range(5)])
        assert (together >= alone - 1e-12).all()
        top = int(together.argmin())
        # What each column alone would have to exceed: Boole's inequality, without any approximation.
        patterns = sq.sign_patterns(10, 0)
        observed = scipy.stats.ttest_1samp(data, 0).statistic.max()
        flipped = scipy.stats.ttest_1samp(patterns[:, :, None] * data[None], 0, axis=1).statistic
        assert together[top] <= (flipped >= observed - 1e-9).mean(axis=0).sum() + 1e-12
    assert together.sum() > alone.sum() > 0


def test_p_values_rise_as_statistics_fall_and_know_no_order_of_columns() -> None:
    data = normal(np.random.default_rng(7), (8, 4)) + np.array([0.02, 0.0, 0.01, -0.01])
    p_values = sq.max_t(data)
    statistics = scipy.stats.ttest_1samp(data, 0).statistic
    assert (np.diff(p_values[np.argsort(-statistics)]) >= 0).all()
    assert len(set(p_values.tolist())) > 1
    for order in permutations(range(4)):
        assert sq.max_t(data[:, order]) == pytest.approx(p_values[list(order)])


def test_sampled_patterns_come_near_all_of_them() -> None:
    column = np.random.default_rng(8).normal(0.004, 0.01, 14)
    exact = scipy.stats.permutation_test(
        (column,), np.mean, permutation_type="samples", alternative="greater", n_resamples=ENDLESS
    ).pvalue
    assert 0.02 < exact < 0.3
    error = math.sqrt(exact * (1 - exact) / (sq.SAMPLED_FLIPS + 1))
    found = {float(sq.max_t(column[:, None], seed)[0]) for seed in range(4)}
    assert len(found) > 1  # the seed matters
    assert all(abs(p_value - exact) < 4 * error for p_value in found)
    assert sq.max_t(column[:, None], 3) == sq.max_t(column[:, None], 3)


def test_a_p_value_is_never_zero() -> None:
    for n in (5, 12, 20):
        (p_value,) = sq.max_t(np.full((n, 1), 0.1) + np.arange(n)[:, None] * 1e-3)
        assert 1 / (sq.SAMPLED_FLIPS + 1) <= p_value <= 2.0**-n + 1e-3


# Judging


def verdict_of(differences: list[float], margin: float = MARGIN, alpha: float = 0.05) -> Verdict:
    return sq.judge({"cell": differences}, {"cell": margin}, alpha)["cell"].verdict


def test_verdicts_of_clear_cases() -> None:
    wiggle = [0.001 * (-1) ** epoch for epoch in range(8)]
    assert verdict_of([0.10 + w for w in wiggle]) is Verdict.FAIL
    assert verdict_of([0.00 + w for w in wiggle]) is Verdict.PASS
    assert verdict_of([-0.5 + w for w in wiggle]) is Verdict.PASS
    assert verdict_of([LIMIT + w for w in wiggle]) is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("level", [-1.0, 0.0, 1.0])
def test_fewer_than_five_epochs_decide_nothing(n: int, level: float) -> None:
    assert verdict_of([level] * n, alpha=0.4) is Verdict.INCONCLUSIVE
    assert verdict_of([level] * 5, alpha=0.4) is not Verdict.INCONCLUSIVE


def test_without_spread_the_mean_decides() -> None:
    assert verdict_of([0.031] * 5) is Verdict.FAIL
    assert verdict_of([0.029] * 5) is Verdict.PASS
    assert verdict_of([LIMIT] * 5) is Verdict.INCONCLUSIVE
    # Beside a column with spread it decides as it does alone.
    varied = [0.0, 0.06, 0.01, 0.05, 0.02]
    found = sq.judge({"flat": [0.04] * 5, "varied": varied}, {"flat": MARGIN, "varied": MARGIN}, 0.05)
    assert found["flat"].verdict is Verdict.FAIL
    assert found["varied"].verdict is Verdict.INCONCLUSIVE


def test_every_cell_has_its_own_margin() -> None:
    same = [0.05, 0.051, 0.049, 0.05, 0.0505, 0.0495]
    found = sq.judge({"strict": same, "lax": same}, {"strict": 0.03, "lax": 0.10}, 0.05)
    assert found["strict"].verdict is Verdict.FAIL
    assert found["lax"].verdict is Verdict.PASS
    assert found["lax"].upper == pytest.approx(found["strict"].upper)


@pytest.mark.parametrize(
    ("differences", "margins", "match"),
    [
        ({"a": [0.0] * 5, "b": [0.0] * 6}, {"a": 0.03, "b": 0.03}, "different numbers of epochs"),
        ({"a": [0.0, math.nan, 0.0, 0.0, 0.0]}, {"a": 0.03}, "not a finite number"),
        ({"a": [0.0, math.inf, 0.0, 0.0, 0.0]}, {"a": 0.03}, "not a finite number"),
        ({"a": [0.0] * 5}, {"a": 0.0}, "expected a positive share"),
        ({"a": [0.0] * 5}, {"a": -0.03}, "expected a positive share"),
        ({"a": [0.0] * 5}, {"a": math.nan}, "expected a positive share"),
    ],
)
def test_what_cannot_be_judged_is_refused(
    differences: dict[str, list[float]], margins: dict[str, float], match: str
) -> None:
    for function in (sq.judge, sq.tripped):
        with pytest.raises(ValueError, match=match):
            function(differences, margins, 0.05)
    assert sq.judge({}, {}, 0.05) == {}
    assert sq.tripped({}, {}, 0.05) == set()


def test_the_null_control_trips_in_both_directions_and_not_within_the_margin() -> None:
    wiggle = [0.002 * (-1) ** epoch for epoch in range(8)]
    # At the first look's alpha already: an offset that could fail or pass the head must not get past it.
    first = sq.Design().spending[8]
    nulls = {
        "slower": [0.08 + w for w in wiggle],
        "faster": [-0.08 + w for w in wiggle],
        "alike": wiggle,
        "within": [0.02 + w for w in wiggle],
    }
    assert sq.tripped(nulls, dict.fromkeys(nulls, MARGIN), first) == {"slower", "faster"}
    assert sq.tripped({"one": nulls["faster"]}, {"one": MARGIN}, first) == {"one"}
    assert sq.tripped({"one": nulls["slower"]}, {"one": 0.10}, first) == set()
    for n in (0, 1, 4):
        assert sq.tripped({"one": nulls["slower"][:n]}, {"one": MARGIN}, 0.4) == set()
    assert sq.tripped({"flat": [0.04] * 5}, {"flat": MARGIN}, first) == {"flat"}


@pytest.mark.parametrize("cells", [1, 8])
def test_the_null_control_trips_on_equal_workers_at_most_as_often_as_alpha_allows(cells: int) -> None:
    chance, gates = np.random.default_rng(13), 1000
    hits = 0
    for sign in (1, -1):
        # Workers that differ by exactly the margin.
        data = sign * LIMIT + normal(chance, (8, cells * gates))
        for gate in range(gates):
            nulls = {str(cell): data[:, gate * cells + cell].tolist() for cell in range(cells)}
            hits += bool(sq.tripped(nulls, dict.fromkeys(nulls, MARGIN), 0.1))
    # At the margin one of the two directions can trip, so half of alpha is spent.
    assert 0.02 < hits / (2 * gates) < 0.07


# Error rates, by simulation


@pytest.mark.parametrize(("cells", "gates"), [(1, 600), (8, 120)])
@pytest.mark.parametrize("noise", [normal, heavy_tailed, correlated])
def test_false_failures_and_false_passes_stay_below_alpha_over_all_looks(
    cells: int, gates: int, noise: Callable[[np.random.Generator, tuple[int, int]], Array]
) -> None:
    design, chance = sq.Design(), np.random.default_rng(cells)
    failed = passed = 0
    for _ in range(gates):
        # Every cell is exactly as slow as tolerated: both errors are most likely there.
        verdicts = hold(LIMIT + noise(chance, (20, cells)), design)
        failed += Verdict.FAIL in verdicts.values()
        passed += verdicts.get("0") is Verdict.PASS
    for errors in (failed, passed):
        assert sq.clopper_pearson(errors, gates).low <= design.alpha, f"{errors} of {gates}"
    assert failed + passed > 0


def test_without_spending_and_correction_false_failures_would_be_many() -> None:
    """The simulation above is able to fail: uncorrected t tests at every look do."""
    gates, design = 200, sq.Design()
    data = LIMIT + normal(np.random.default_rng(9), (20, 8 * gates))
    failed = np.zeros(8 * gates, dtype=bool)
    for look in design.looks:
        failed |= scipy.stats.ttest_1samp(data[:look], LIMIT, alternative="greater").pvalue <= design.alpha
    errors = int(failed.reshape(gates, 8).any(axis=1).sum())
    assert sq.clopper_pearson(errors, gates).low > 0.3


def test_cells_well_below_the_margin_are_hardly_ever_failed() -> None:
    chance, gates = np.random.default_rng(10), 150
    hits = [Verdict.FAIL in hold(normal(chance, (20, 8)), sq.Design()).values() for _ in range(gates)]
    assert sum(hits) == 0


@pytest.mark.parametrize("n", [8, 14, 20])
def test_intervals_of_ratios_cover(n: int) -> None:
    chance, trials = np.random.default_rng(n), 800
    for noise in (normal, heavy_tailed):
        data = np.exp(math.log(1.04) + noise(chance, (trials, n)))
        hits = sum(log_interval(row).contains(1.04) for row in data.tolist())
        assert 0.92 <= hits / trials <= 0.98


# Power


@pytest.mark.parametrize("cells", [1, 24])
@pytest.mark.parametrize("epochs", [8, 20, 60])
def test_detectable_and_power_are_the_t_and_noncentral_t_distributions(cells: int, epochs: int) -> None:
    design = sq.Design(epochs=epochs, power=0.9)
    last, root = 0.03 / cells, math.sqrt(epochs)
    critical = scipy.stats.t.ppf(1 - last, epochs - 1)
    found = sq.detectable(0.02, design, MARGIN, cells)
    log = LIMIT + 0.02 / root * (critical + scipy.stats.t.ppf(0.9, epochs - 1))
    assert found == pytest.approx(math.expm1(log))
    power = sq.predicted_power(0.05, 0.02, design, MARGIN, cells)
    shift = (math.log1p(0.05) - LIMIT) / 0.02 * root
    assert power == pytest.approx(scipy.stats.nct.sf(critical, epochs - 1, shift), rel=1e-6)


@pytest.mark.parametrize("noise", [0.002, 0.01, 0.05])
@pytest.mark.parametrize("cells", [1, 8])
def test_what_is_called_detectable_is_detected_with_the_asked_power(noise: float, cells: int) -> None:
    design = sq.Design()
    slowdown = sq.detectable(noise, design, MARGIN, cells)
    assert sq.predicted_power(slowdown, noise, design, MARGIN, cells) == pytest.approx(0.8, abs=0.03)


def test_power_without_noise_is_all_or_nothing() -> None:
    design = sq.Design()
    assert sq.detectable(0.0, design, MARGIN, 8) == pytest.approx(MARGIN)
    assert sq.predicted_power(0.031, 0.0, design, MARGIN, 8) == 1
    assert sq.predicted_power(0.03, 0.0, design, MARGIN, 8) == 0


def test_power_of_a_slowdown_at_the_margin_is_the_last_look_s_alpha() -> None:
    assert sq.predicted_power(MARGIN, 0.01, sq.Design(), MARGIN, 1) == pytest.approx(0.03)


def test_simulated_power_is_the_predicted() -> None:
    design, chance, gates = sq.Design(), np.random.default_rng(11), 500
    slowdown = sq.detectable(NOISE, design, MARGIN, 1)
    failed = sum(
        hold(math.log1p(slowdown) + normal(chance, (20, 1)), design).get("0") is Verdict.FAIL
        for _ in range(gates)
    )
    found = sq.clopper_pearson(failed, gates, 0.99)
    # Earlier looks, which the prediction leaves out, add a little and never take away.
    predicted = sq.predicted_power(slowdown, NOISE, design, MARGIN, 1)
    assert found.low - 0.03 <= predicted <= found.high


def test_one_slow_cell_among_many_is_found_at_least_as_often_as_predicted() -> None:
    design, chance, gates = sq.Design(), np.random.default_rng(12), 80
    slowdown = sq.detectable(NOISE, design, MARGIN, 8)
    shift = np.array([math.log1p(slowdown)] + [0.0] * 7)
    found = [hold(shift + normal(chance, (20, 8)), design) for _ in range(gates)]
    failed = sum(verdicts.get("0") is Verdict.FAIL for verdicts in found)
    assert sq.clopper_pearson(failed, gates).high >= 0.8
    assert not any(verdict is Verdict.FAIL for v in found for key, verdict in v.items() if key != "0")


# Proportions and differences of means


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_clopper_pearson_is_scipys(confidence: float) -> None:
    for n in range(1, 31):
        for hits in range(n + 1):
            found = sq.clopper_pearson(hits, n, confidence)
            theirs = scipy.stats.binomtest(hits, n).proportion_ci(confidence, method="exact")
            assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
            assert (found.estimate, found.n) == (hits / n, n)


def test_no_failure_in_299_trials_shows_less_than_one_per_cent() -> None:
    # The rule of three, exactly: 0.99 to the 299th is 0.0495.
    assert sq.clopper_pearson(0, 299, 0.90).high == pytest.approx(1 - 0.05 ** (1 / 299))
    assert sq.clopper_pearson(0, 299, 0.90).high < 0.01 < sq.clopper_pearson(0, 298, 0.90).high


@pytest.mark.parametrize(("hits", "trials"), [(0, 0), (-1, 5), (6, 5)])
def test_what_is_no_proportion_is_refused(hits: int, trials: int) -> None:
    with pytest.raises(ValueError, match="is no proportion"):
        sq.clopper_pearson(hits, trials)


@pytest.mark.parametrize(("m", "n"), [(2, 2), (3, 9), (20, 5)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_welch_is_scipys(m: int, n: int, confidence: float) -> None:
    chance = np.random.default_rng(m + n)
    head, base = chance.normal(1.0, 0.3, m), chance.normal(0.8, 0.05, n)
    theirs = scipy.stats.ttest_ind(head, base, equal_var=False).confidence_interval(confidence)
    found = sq.welch_interval(head.tolist(), base.tolist(), confidence)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    assert (found.estimate, found.n) == (pytest.approx(head.mean() - base.mean()), min(m, n))


def test_welch_of_few_or_equal_values() -> None:
    assert sq.welch_interval([1.0], [2.0, 3.0]) == sq.Interval(-1.5, -math.inf, math.inf, 1)
    assert sq.welch_interval([3.0] * 4, [2.0] * 5) == sq.Interval(1.0, 1.0, 1.0, 4)
    # One side without spread has no share in the degrees of freedom: Student's interval of the other.
    found = sq.welch_interval([2.0] * 5, [1.0, 2.0, 3.0])
    low, high = scipy.stats.t.interval(0.95, 2, 0.0, 1 / math.sqrt(3))
    assert (found.low, found.high) == pytest.approx((low, high))


@pytest.mark.parametrize(
    ("head", "base"), [([], [1.0]), ([1.0], []), ([math.nan, 1.0], [1.0]), ([1.0], [math.inf])]
)
def test_welch_of_nothing_or_no_numbers_is_refused(head: list[float], base: list[float]) -> None:
    with pytest.raises(ValueError, match="has no values"):
        sq.welch_interval(head, base)
