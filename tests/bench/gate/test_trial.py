"""The umpire with workers that cost nothing and a clock that moves only when they do."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from mnv3_bench.gate.trial import (
    BLOCK_SECONDS,
    DISCARDED,
    FEWEST_CALLS,
    MOST_SUSPENSIONS,
    ROLES,
    CellEpoch,
    Question,
    TooLittleTimeError,
    Trial,
    TrialPlan,
    Umpire,
    performer_key,
    pooled_noise,
)
from mnv3_bench.protocol import Turned
from mnv3_reports.record import Cell, Failure
from mnv3_reports.sequential import Design
from mnv3_reports.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SMALL = Cell("v3-small", "onnxruntime").key
LARGE = Cell("v3-large", "eager").key
CALL = 0.005


@dataclass
class FakeStage:
    """Workers on a clock of their own, with a seeded noise.

    A worker is a little faster or slower for its whole life, the machine drifts, and now and then a call takes thrice
    as long.
    """

    slowdown: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Role and cell to a share; both arms of a cell that is not in it are alike."""
    offset: float = 0.005
    drift: float = 0.01
    """Relative, a second."""
    spikes: float = 0.02
    start_seconds: float = 0.2
    seed: int = 0
    load: Mapping[str, float] = field(default_factory=dict)
    """Role to CPUs that something else keeps busy during its blocks."""
    breaks: Callable[[str, int], Failure | None] = lambda key, epoch: None
    """What happens to a worker that is started."""
    on_turn: Callable[[FakeStage, str], Failure | None] = lambda stage, key: None
    """What happens in a turn."""
    time: float = 100.0
    slept: float = 0.0
    """By how much the wall clock has run ahead."""
    alive: list[str] = field(default_factory=list)
    epoch: int = -1
    starts: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)
    turns: list[tuple[int, str]] = field(default_factory=list)
    calls: set[tuple[int, int]] = field(default_factory=set)
    bound: list[tuple[int, frozenset[int]]] = field(default_factory=list)
    stops: int = 0

    suspensions: frozenset[int] = frozenset()
    """Starts during which the machine sleeps for an hour."""

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.levels: dict[str, float] = {}

    def start(self, keys: Sequence[str], epoch: int) -> dict[str, float | Failure]:
        assert not self.alive, "workers were started beside others"
        self.time += self.start_seconds
        self.epoch = epoch
        self.slept += 3600 * (len(self.starts) in self.suspensions)
        self.starts.append((epoch, tuple(keys)))
        found: dict[str, float | Failure] = {}
        for key in keys:
            failure = self.breaks(key, epoch)
            if failure is None:
                role, _, cell = key.partition(" ")
                true = CALL * (1 + self.slowdown.get((role, cell), 0.0))
                worker = random.Random(f"{self.seed}/{epoch}/{key}")
                self.levels[key] = true * math.exp(worker.gauss(0, self.offset))
                self.alive.append(key)
            found[key] = failure or self.levels[key]
        return found

    def bind(self, cpus: set[int]) -> None:
        assert self.alive
        self.bound.append((self.epoch, frozenset(cpus)))

    def turn(self, key: str, discard: int, calls: int) -> Turned | Failure:
        assert key in self.alive
        self.turns.append((self.epoch, key))
        self.calls.add((discard, calls))
        failure = self.on_turn(self, key)
        if failure is not None:
            return failure
        level = self.levels[key] * (1 + self.drift * (self.time - 100))
        samples = [level * (3 if self.chance.random() < self.spikes else 1) for _ in range(discard + calls)]
        self.time += sum(samples)
        wall = sum(samples[discard:])
        return Turned(
            samples_ns=tuple(round(seconds * 1e9) for seconds in samples[discard:]),
            wall_seconds=wall,
            cpu_seconds=wall,
            involuntary_switches=0,
            minor_faults=0,
            major_faults=0,
            steal_seconds=0.0,
            pressure_seconds=0.0,
            throttled_seconds=0.0,
            other_cpu_seconds=wall * self.load.get(key.partition(" ")[0], 0.0),
            mhz=None,
        )

    def clear(self) -> None:
        self.alive.clear()

    def stop(self) -> None:
        self.stops += 1
        self.alive.clear()


@dataclass
class Held:
    """A trial that was held, and what was recorded and said meanwhile."""

    umpire: Umpire
    recorded: list[CellEpoch]
    said: list[str]

    @property
    def trial(self) -> Trial:
        return self.umpire.trial


def prepared(stage: FakeStage, cpus: Sequence[int] = (0, 1), **plan: Any) -> Held:
    recorded: list[CellEpoch] = []
    said: list[str] = []
    given = {"design": Design(), "time_budget": 60.0, "seed": 0, **plan}
    umpire = Umpire(
        stage,
        TrialPlan(**given),
        cpus,
        record=recorded.append,
        tell=said.append,
        clock=lambda: stage.time,
        wall=lambda: 1e9 + stage.time + stage.slept,
    )
    return Held(umpire, recorded, said)


def undecided(cell: str = SMALL, start_seconds: float = 0.2) -> FakeStage:
    """One cell is exactly as slow as tolerated."""
    return FakeStage({("head", cell): 0.03}, drift=0.0, spikes=0.0, start_seconds=start_seconds, seed=1)


def questions(*keys: str, margin: float = 0.03, threads: int = 1) -> list[Question]:
    return [Question(key=key, margin=margin, threads=threads) for key in keys]


def hold(stage: FakeStage, *keys: str, **plan: Any) -> Held:
    held = prepared(stage, **plan)
    held.umpire.run(questions(*(keys or (SMALL,))))
    assert not stage.alive
    return held


# Verdicts


@pytest.mark.parametrize("seed", range(5))
def test_identical_arms_pass_despite_drift_offsets_and_spikes(seed: int) -> None:
    trial = hold(FakeStage(seed=seed), SMALL, LARGE).trial
    assert trial.verdicts == {SMALL: Verdict.PASS, LARGE: Verdict.PASS}
    assert trial.stopped_because == "decided"
    assert set(trial.decided_at.values()) <= set(trial.design.looks)
    assert not trial.notes


@pytest.mark.parametrize("seed", range(5))
def test_a_slowdown_fails_its_own_cell_and_no_other(seed: int) -> None:
    trial = hold(FakeStage({("head", LARGE): 0.10}, seed=seed), SMALL, LARGE).trial
    assert trial.verdicts == {SMALL: Verdict.PASS, LARGE: Verdict.FAIL}
    ratios = [math.exp(found.difference) for found in trial.of(LARGE)]
    assert sum(ratios) / len(ratios) == pytest.approx(1.10, abs=0.02)
    assert trial.p_values[LARGE] <= 0.05 < trial.p_values[SMALL]


def test_a_faster_head_passes_and_a_slowdown_within_the_margin_does() -> None:
    assert hold(FakeStage({("head", SMALL): -0.2})).trial.verdicts == {SMALL: Verdict.PASS}
    quiet = FakeStage({("head", SMALL): 0.02}, offset=0.001)
    assert hold(quiet).trial.verdicts == {SMALL: Verdict.PASS}


def test_a_slowdown_of_the_margin_stays_undecided_until_the_looks_are_used_up() -> None:
    held = hold(undecided())
    assert held.trial.verdicts == {}
    assert (len(held.trial.epochs), held.trial.stopped_because) == (20, "epochs")
    assert [line.startswith("look after") for line in held.said].count(True) == 3


def test_decided_cells_are_measured_no_further() -> None:
    stage = undecided(LARGE)
    trial = hold(stage, SMALL, LARGE, time_budget=600.0).trial
    decided = trial.decided_at[SMALL]
    assert decided < len(trial.of(LARGE)) == 20
    assert len(trial.of(SMALL)) == decided
    assert {epoch for epoch, key in stage.turns if key.endswith(SMALL)} == set(range(decided))


def test_every_finished_epoch_is_recorded_at_once() -> None:
    held = hold(FakeStage(), SMALL, LARGE)
    in_order = [(found.epoch, found.cell) for found in held.recorded]
    assert len(in_order) == len(set(in_order)) == 2 * len(held.trial.epochs)
    first = held.recorded[0]
    rounds = held.umpire.rounds[first.cell]
    assert len(first.blocks) == 3 * 2 * rounds
    assert {block.cell.partition(" ")[0] for block in first.blocks} == set(ROLES)
    noise = held.trial.noise(first.cell)
    assert noise is not None
    assert noise.blocks == len(first.blocks) * len(held.trial.epochs)


# Arms that break


def dies(
    role: str, epoch: int, reason: str = "killed by SIGSEGV"
) -> Callable[[FakeStage, str], Failure | None]:
    """A worker that dies in the third turn of an epoch."""

    def on_turn(stage: FakeStage, key: str) -> Failure | None:
        mine = stage.epoch == epoch and key == performer_key(role, SMALL)  # type: ignore[arg-type]
        return Failure(key, "measure", reason) if mine and stage.turns.count((epoch, key)) == 3 else None

    return on_turn


def test_a_head_that_crashes_late_fails_with_the_reason_and_the_other_cell_goes_on() -> None:
    stage = undecided(SMALL)
    stage.on_turn = dies("head", 8)
    held = hold(stage, SMALL, LARGE, time_budget=600.0)
    assert held.trial.verdicts[SMALL] is Verdict.FAIL
    assert held.trial.reasons[SMALL] == "the head arm failed in epoch 9 (measure): killed by SIGSEGV"
    assert any("killed by SIGSEGV" in line for line in held.said)
    assert SMALL not in held.trial.decided_at
    assert len(held.trial.of(SMALL)) == 8
    assert max(epoch for epoch, key in stage.turns if key.endswith(SMALL)) == 8
    assert held.trial.verdicts.get(LARGE) is Verdict.PASS


@pytest.mark.parametrize("role", ["base", "null"])
def test_a_base_that_crashes_leaves_nothing_to_compare_with(role: str) -> None:
    trial = hold(FakeStage(on_turn=dies(role, 1))).trial
    assert trial.verdicts == {SMALL: Verdict.INVALID}
    assert trial.reasons[SMALL] == "the base arm failed in epoch 2 (measure): killed by SIGSEGV"
    assert trial.stopped_because == "decided"


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("roles", "verdict"),
    [
        (("head",), Verdict.FAIL),
        (("null",), Verdict.INVALID),
        (("base", "head"), Verdict.INVALID),
        (("null", "head"), Verdict.INVALID),
    ],
)
def test_arms_that_do_not_start(roles: tuple[str, ...], verdict: Verdict, seed: int) -> None:
    def breaks(key: str, epoch: int) -> Failure | None:
        role, _, cell = key.partition(" ")
        return (
            Failure(key, "load", "no such file") if role in roles and cell == SMALL and epoch == 0 else None
        )

    stage = FakeStage(breaks=breaks)
    trial = hold(stage, SMALL, LARGE, seed=seed).trial
    assert trial.verdicts == {SMALL: verdict, LARGE: Verdict.PASS}
    assert "in epoch 1 (load): no such file" in trial.reasons[SMALL]
    assert not any(key.endswith(SMALL) for _, key in stage.turns)


# Measurements that nobody may believe


@pytest.mark.parametrize("offset", [0.08, -0.08])
def test_a_second_base_that_differs_trips_the_null_control(offset: float) -> None:
    trial = hold(FakeStage({("null", SMALL): offset, ("head", LARGE): 0.1}), SMALL, LARGE).trial
    assert trial.verdicts == {SMALL: Verdict.INVALID, LARGE: Verdict.FAIL}
    assert re.search(r"null control tripped: .* took (1\.0[78]|0\.9[123])\d? times", trial.reasons[SMALL])


def test_a_slowdown_under_load_that_only_the_head_met_is_invalid() -> None:
    slow = {("head", SMALL): 0.10}
    trial = hold(FakeStage(slow, load={"head": 0.4})).trial
    assert trial.verdicts == {SMALL: Verdict.INVALID}
    assert "head arm was measured under more load than the base (0.40 CPUs more" in trial.reasons[SMALL]
    # The same load on everybody says nothing against the verdict, nor does a little more of it.
    assert hold(FakeStage(slow, load=dict.fromkeys(ROLES, 0.4))).trial.verdicts == {SMALL: Verdict.FAIL}
    assert hold(FakeStage(slow, load={"head": 0.05})).trial.verdicts == {SMALL: Verdict.FAIL}
    # Less load than the base's does not excuse a slowdown.
    assert hold(FakeStage(slow, load={"base": 0.4, "null": 0.4})).trial.verdicts == {SMALL: Verdict.FAIL}


def test_a_pass_under_load_that_only_the_base_met_is_invalid() -> None:
    trial = hold(FakeStage(load={"base": 0.4, "null": 0.4})).trial
    assert trial.verdicts == {SMALL: Verdict.INVALID}
    assert "base arm was measured under more load than the head" in trial.reasons[SMALL]
    assert hold(FakeStage(load={"head": 0.4})).trial.verdicts == {SMALL: Verdict.PASS}


def test_an_epoch_in_which_the_machine_slept_is_measured_again_and_noted() -> None:
    stage = FakeStage(suspensions=frozenset({2}))
    trial = hold(stage).trial
    assert trial.verdicts == {SMALL: Verdict.PASS}
    assert trial.notes == ["the machine was suspended for 3600 s in epoch 3; it was measured again"]
    numbers = [epoch for epoch, _ in stage.starts]
    assert numbers[:5] == [0, 1, 2, 2, 3]
    assert [found.epoch for found in trial.of(SMALL)] == list(range(len(trial.epochs)))


def test_a_machine_that_sleeps_again_and_again_is_not_measured_on() -> None:
    stage = FakeStage(suspensions=frozenset(range(100)))
    trial = hold(stage, SMALL, LARGE).trial
    assert trial.verdicts == {SMALL: Verdict.INVALID, LARGE: Verdict.INVALID}
    assert "suspended again and again" in trial.reasons[LARGE]
    assert len(stage.starts) == 2 * (MOST_SUSPENSIONS + 1)
    assert trial.epochs == []


# Time


def test_too_little_time_says_what_is_needed_and_that_suffices() -> None:
    slow = {"start_seconds": 2.0, "drift": 0.0}
    with pytest.raises(TooLittleTimeError, match="a verdict needs 5 at least") as caught:
        hold(FakeStage(**slow), time_budget=4.0)  # type: ignore[arg-type]
    found = re.search(
        r"type --time-budget (\d+)s or more \(about (\d+)s for all 20 epochs\)", str(caught.value)
    )
    assert found is not None
    trial = hold(FakeStage(**slow), time_budget=float(found[1])).trial  # type: ignore[arg-type]
    assert trial.verdicts == {SMALL: Verdict.PASS}
    held = hold(
        undecided(start_seconds=2.0),
        time_budget=float(found[2]) * 1.1,
    )
    assert len(held.trial.epochs) == 20


def test_too_little_time_for_a_small_alpha_counts_its_epochs() -> None:
    strict = Design(alpha=0.01)
    with pytest.raises(TooLittleTimeError, match="a verdict needs 8 at least") as caught:
        hold(FakeStage(start_seconds=2.0), time_budget=13.0, design=strict)
    found = re.search(r"type --time-budget (\d+)s", str(caught.value))
    assert found is not None
    stage = FakeStage({("head", SMALL): 0.2}, start_seconds=2.0)
    assert hold(stage, time_budget=float(found[1]), design=strict).trial.verdicts == {SMALL: Verdict.FAIL}


def test_the_planned_epochs_fit_into_the_budget() -> None:
    for call_seconds in (0.5, 1, 8):
        stage = FakeStage(
            {
                (role, SMALL): call_seconds - 1 if role != "head" else call_seconds * 1.03 - 1
                for role in ROLES
            },
            offset=0.02,
            drift=0.0,
            spikes=0.0,
        )
        trial = hold(stage, time_budget=120.0).trial
        assert len(trial.epochs) == 20
        assert 30 < trial.seconds <= 120.0


class Stalls(FakeStage):
    """A head that is 5 % slower in every epoch but one, on a machine that stalls in one epoch.

    With one epoch just below the margin 2 of 256 sign patterns are as extreme: too many for the look at 8.
    """

    def __init__(self, epoch: int, seconds: float) -> None:
        super().__init__(offset=0.0002, spikes=0.0, drift=0.0)
        self.stall = epoch, seconds

    def start(self, keys: Sequence[str], epoch: int) -> dict[str, float | Failure]:
        self.slowdown = {("head", SMALL): 0.029 if epoch == 3 else 0.05}
        if epoch == self.stall[0]:
            self.time += self.stall[1]
        return super().start(keys, epoch)


def test_a_budget_that_ends_between_looks_spends_what_is_left_of_alpha() -> None:
    trial = hold(Stalls(epoch=9, seconds=10.0), time_budget=32.0).trial
    assert trial.stopped_because == "budget"
    assert 8 < len(trial.epochs) < 14
    assert trial.verdicts == {SMALL: Verdict.FAIL}
    assert trial.decided_at == {SMALL: len(trial.epochs)}
    assert trial.p_values[SMALL] <= trial.design.left_after(len(trial.epochs))


def test_a_budget_that_ends_at_a_look_spends_the_rest_of_alpha_there() -> None:
    trial = hold(Stalls(epoch=7, seconds=30.0), time_budget=32.0).trial
    assert (trial.stopped_because, len(trial.epochs)) == ("budget", 8)
    assert trial.verdicts == {SMALL: Verdict.FAIL}
    assert trial.design.spending[8] < trial.p_values[SMALL] <= trial.design.left_after(8)


def test_a_budget_that_ends_before_five_epochs_decides_nothing() -> None:
    trial = hold(Stalls(epoch=3, seconds=100.0), time_budget=32.0).trial
    assert (trial.stopped_because, len(trial.epochs), trial.verdicts) == ("budget", 4, {})


def test_the_pilot_plans_fewer_epochs_where_the_time_is_short() -> None:
    held = hold(FakeStage(start_seconds=2.0), time_budget=26.0)
    prediction = held.trial.prediction
    assert prediction is not None
    assert 5 <= prediction.epochs < 20
    assert held.trial.design == Design(epochs=prediction.epochs)
    assert prediction.seconds <= 26.0
    assert prediction.rounds == held.umpire.rounds[SMALL]
    assert any(line.startswith("pilot: noise") for line in held.said)


def test_the_pilot_is_blind_to_the_head() -> None:
    plans = []
    for slowdown in (0.0, 0.5):
        stage = FakeStage({("head", SMALL): slowdown}, drift=0.0, spikes=0.0)
        plans.append(hold(stage, detect=0.06).trial.prediction)
    same, slow = plans
    assert same is not None
    assert slow is not None
    assert same.epochs == slow.epochs
    assert same.noise == pytest.approx(slow.noise, rel=1e-6)
    assert same.detectable == pytest.approx(slow.detectable, rel=1e-6)


def test_noise_comes_from_the_null_control() -> None:
    held = hold(FakeStage(offset=0.03, drift=0.0, spikes=0.0), time_budget=600.0)
    nulls = [found.null for found in held.recorded[:3]]
    mean = sum(nulls) / 3
    variance = sum((value - mean) ** 2 for value in nulls) / 2
    assert held.trial.prediction is not None
    assert held.trial.prediction.noise == pytest.approx(math.sqrt(0.75 * variance))
    assert pooled_noise([]) == pooled_noise([held.recorded[:1]]) == 0.0


def test_detect_takes_the_epochs_it_needs_and_raises_a_budget_that_nobody_set() -> None:
    noisy = {"offset": 0.015, "drift": 0.0}
    plain = hold(FakeStage(**noisy), time_budget=10.0).trial  # type: ignore[arg-type]
    held = hold(FakeStage(**noisy), time_budget=10.0, detect=0.05)  # type: ignore[arg-type]
    assert plain.prediction is not None
    assert held.trial.prediction is not None
    assert plain.prediction.detectable > 0.05 >= held.trial.prediction.detectable
    assert held.trial.prediction.epochs > plain.prediction.epochs
    assert held.umpire.budget > 10.0
    easy = hold(FakeStage(**noisy), time_budget=60.0, detect=0.2).trial.prediction  # type: ignore[arg-type]
    assert easy is not None
    assert easy.epochs < 20


@pytest.mark.parametrize("detect", [0.05, 0.045])
def test_detect_out_of_reach_is_an_error_that_says_what_would_do(detect: float) -> None:
    noisy = {"offset": 0.015, "drift": 0.0}
    asked = {"detect": detect, "budget_was_asked": True}
    with pytest.raises(
        TooLittleTimeError, match=f"{detect:.1%} cannot be detected in the time given"
    ) as caught:
        hold(FakeStage(**noisy), time_budget=10.0, **asked)  # type: ignore[arg-type]
    found = re.search(r"type --time-budget (\d+)s", str(caught.value))
    assert found is not None
    prediction = hold(FakeStage(**noisy), time_budget=float(found[1]), **asked).trial.prediction  # type: ignore[arg-type]
    assert prediction is not None
    assert prediction.detectable <= detect
    assert prediction.epochs > 12


def test_detect_that_no_number_of_epochs_reaches_says_so() -> None:
    with pytest.raises(TooLittleTimeError, match="not even 60 epochs would: find a quieter machine"):
        hold(FakeStage(offset=0.3), time_budget=600.0, detect=0.04)


# Order and places


def test_passes_alternate_direction_and_every_role_leads_equally_often() -> None:
    stage = undecided()
    held = hold(stage, time_budget=600.0)
    assert len(held.trial.epochs) == 20
    roles = [key.partition(" ")[0] for _, key in stage.turns]
    passes = [tuple(roles[i : i + 3]) for i in range(0, len(roles), 3)]
    assert all(sorted(one) == sorted(ROLES) for one in passes)
    assert all(there == back[::-1] for there, back in zip(passes[::2], passes[1::2], strict=True))
    leaders = Counter(one[0] for one in passes)
    expected = len(passes) / 3
    assert len(passes) > 1000
    # Five standard deviations of a binomial count.
    assert all(abs(leaders[role] - expected) < 5 * math.sqrt(len(passes) * 2 / 9) for role in ROLES)
    assert len(Counter(passes)) == 6


def test_a_drift_alone_moves_no_ratio() -> None:
    stage = FakeStage(offset=0.0, spikes=0.0, drift=0.2)
    trial = hold(stage).trial
    assert trial.verdicts == {SMALL: Verdict.PASS}
    assert all(abs(found.difference) < 0.002 and abs(found.null) < 0.003 for found in trial.of(SMALL))
    assert len({round(found.base_seconds, 5) for found in trial.of(SMALL)}) >= 5  # there was a drift


def test_all_arms_get_the_same_number_of_calls() -> None:
    for factor in (0.1, 1.0, 50.0):
        stage = FakeStage({(role, SMALL): factor - 1 for role in ROLES}, offset=0.0, drift=0.0, spikes=0.0)
        stage.slowdown = {**stage.slowdown, ("head", SMALL): 2 * factor - 1}
        hold(stage, time_budget=10_000.0)
        assert stage.calls == {(DISCARDED, max(FEWEST_CALLS, round(BLOCK_SECONDS / (CALL * factor))))}


def test_epochs_take_the_cpus_in_turn_and_cells_of_all_cpus_stay_unbound() -> None:
    stage = FakeStage()
    held = prepared(stage, cpus=(0, 2, 5))
    held.umpire.run(questions(SMALL, threads=1))
    assert stage.bound[:4] == [(0, {0}), (1, {2}), (2, {5}), (3, {0})]
    pairs = FakeStage()
    prepared(pairs, cpus=(0, 2, 5)).umpire.run(questions(SMALL, threads=2))
    assert pairs.bound[:3] == [(0, {0, 2}), (1, {5, 0}), (2, {2, 5})]
    for cpus, threads in (((0, 2), 2), ((0, 2), 3), ((), 1)):
        unbound = FakeStage()
        prepared(unbound, cpus=cpus).umpire.run(questions(SMALL, threads=threads))
        assert unbound.bound == []


def test_the_order_is_the_seed_s() -> None:
    def order(seed: int) -> list[tuple[int, tuple[str, ...]]]:
        stage = FakeStage()
        hold(stage, SMALL, LARGE, seed=seed)
        return stage.starts + [(epoch, (key,)) for epoch, key in stage.turns]

    assert order(3) == order(3)
    assert order(3) != order(4)
    firsts = {keys[0].partition(" ")[2] for epoch, keys in order(3)[:16:2]}
    assert firsts == {SMALL, LARGE}  # no cell is always the first of an epoch


# Ends


@pytest.mark.parametrize("where", ["start", "bind", "turn"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_workers_are_ended_whatever_happens(where: str, error: type[BaseException]) -> None:
    class Broken(FakeStage):
        def raise_at(self, place: str) -> None:
            if place == where and self.epoch == 2 and (place != "turn" or len(self.turns) % 7 == 0):
                raise error

        def start(self, keys: Sequence[str], epoch: int) -> dict[str, float | Failure]:
            found = super().start(keys, epoch)
            self.raise_at("start")
            return found

        def bind(self, cpus: set[int]) -> None:
            self.raise_at("bind")

        def turn(self, key: str, discard: int, calls: int) -> Turned | Failure:
            self.raise_at("turn")
            return super().turn(key, discard, calls)

    stage = Broken()
    held = prepared(stage)
    with pytest.raises(error):
        held.umpire.run(questions(SMALL))
    assert stage.epoch == 2
    assert stage.alive == []
    # What was found before is kept.
    assert len(held.trial.epochs) == len(held.recorded) == 2
    assert held.trial.seconds > 0


def test_what_epochs_share_is_ended_with_every_epoch() -> None:
    stage = FakeStage()
    trial = hold(stage).trial
    assert stage.stops >= len(trial.epochs)
