"""The conductor with workers that cost nothing and a clock that moves only when they do."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from mnv3_bench.conductor import (
    FEWEST_EPOCHS,
    Conductor,
    Contender,
    Outcome,
    Policy,
    block_length,
    cohorts,
    split_budget,
)
from mnv3_bench.protocol import Turned
from mnv3_reports.compare import printed_ratios
from mnv3_reports.record import Block, Cell, Entry, Epoch, Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class FakeStage:
    """Workers whose every call takes exactly what `speed(key, epoch)` says, on a clock of their own."""

    def __init__(self, speed: Callable[[str, int], float], start_seconds: float = 1.0) -> None:
        self.speed = speed
        self.start_seconds = start_seconds
        self.time = 0.0
        self.epoch = -1
        self.alive: list[str] = []
        self.turns: list[str] = []
        self.most_alive = 0
        self.fail_at: dict[tuple[str, int], Failure] = {}

    def start(self, keys: Sequence[str], epoch: int) -> dict[str, float | Failure]:
        assert not self.alive, "an epoch began before the last one's workers were stopped"
        self.epoch = epoch
        self.time += self.start_seconds
        self.alive = list(keys)
        self.most_alive = max(self.most_alive, len(self.alive))
        found: dict[str, float | Failure] = {}
        for key in self.alive:
            found[key] = self.fail_at.get((key, -1)) or self.speed(key, epoch)
        return found

    def turn(self, key: str, discard: int, calls: int) -> Turned | Failure:
        assert key in self.alive
        self.turns.append(key)
        failure = self.fail_at.get((key, len(self.turns)))
        if failure is not None:
            return failure
        seconds = self.speed(key, self.epoch)
        self.time += (discard + calls) * seconds
        return Turned(
            samples_ns=(round(seconds * 1e9),) * calls,
            wall_seconds=calls * seconds,
            cpu_seconds=calls * seconds,
            involuntary_switches=0,
            minor_faults=0,
            major_faults=0,
            steal_seconds=0.0,
            pressure_seconds=0.0,
            throttled_seconds=0.0,
            other_cpu_seconds=0.0,
            mhz=None,
        )

    def stop(self) -> None:
        self.alive = []


def contenders(*names: str, seconds: float = 0.01, memory: int = 100) -> list[Contender]:
    cells = [Cell(*name.split("/")) for name in names]
    return [Contender(cell, seconds, memory) for cell in cells]


def perform(
    stage: FakeStage,
    names: Sequence[str],
    *,
    precision: float = 0.02,
    budget: float = 60.0,
    memory: int = 10**9,
) -> tuple[list[Entry], Outcome]:
    entries: list[Entry] = []
    conductor = Conductor(
        stage,
        Policy(precision=precision, time_budget=budget, seed=0, memory_bytes=memory),
        partial(printed_ratios, variants=("a",), references=("v1",)),
        entries.append,
        clock=lambda: stage.time,
    )
    return entries, conductor.run(contenders(*names))


def blocks_of(entries: list[Entry]) -> list[Block]:
    return [entry for entry in entries if isinstance(entry, Block)]


def test_every_cell_has_one_block_a_round_in_a_shuffled_order() -> None:
    entries, _ = perform(FakeStage(lambda key, epoch: 0.01), ["a/eager", "v1/eager", "a/x", "v1/x"])
    rounds: dict[tuple[int, int], list[Block]] = {}
    for block in blocks_of(entries):
        rounds.setdefault((block.epoch, block.round), []).append(block)
    assert all(len({block.cell for block in blocks}) == len(blocks) == 4 for blocks in rounds.values())
    assert all([block.position for block in blocks] == [0, 1, 2, 3] for blocks in rounds.values())
    orders = {tuple(block.cell for block in blocks) for blocks in rounds.values()}
    assert len(orders) > 5


def test_the_order_is_the_seed_s() -> None:
    names = ["a/eager", "v1/eager", "a/x", "v1/x"]
    first, second = FakeStage(lambda key, epoch: 0.01), FakeStage(lambda key, epoch: 0.01)
    perform(first, names)
    perform(second, names)
    assert first.turns == second.turns


def test_stops_on_precision_as_soon_as_the_fewest_epochs_allow() -> None:
    entries, outcome = perform(FakeStage(lambda key, epoch: 0.01), ["a/eager", "v1/eager"], budget=1000)
    assert outcome.stopped_because == "precision"
    assert outcome.precision_reached == pytest.approx(0, abs=1e-9)
    assert len({block.epoch for block in blocks_of(entries)}) == FEWEST_EPOCHS


def test_stops_on_the_budget_when_epochs_disagree() -> None:
    stage = FakeStage(lambda key, epoch: 0.01 * (1.1 if key.startswith("a") and epoch % 2 else 1))
    entries, outcome = perform(stage, ["a/eager", "v1/eager"], budget=60)
    assert outcome.stopped_because == "budget"
    assert outcome.precision_reached is not None
    assert outcome.precision_reached > 0.02
    assert 55 < stage.time < 70
    assert len({block.epoch for block in blocks_of(entries)}) > FEWEST_EPOCHS


def test_a_budget_too_small_for_anything_still_gives_every_cell_the_fewest_epochs() -> None:
    entries, outcome = perform(
        FakeStage(lambda key, epoch: 0.01 * (1 + epoch / 10 * key.startswith("a"))),
        ["a/eager", "v1/eager"],
        budget=0.1,
    )
    counts = [block.epoch for block in blocks_of(entries) if block.cell.startswith("a/")]
    assert counts == [0, 1, 2]
    assert outcome.stopped_because == "budget"


def test_a_cell_that_fails_is_recorded_once_and_the_others_go_on() -> None:
    stage = FakeStage(lambda key, epoch: 0.01)
    key = Cell("a", "x").key
    stage.fail_at = {(key, n): Failure(key, "measure", "died") for n in range(3, 10)}
    entries, outcome = perform(stage, ["a/eager", "v1/eager", "a/x"])
    assert [entry for entry in entries if isinstance(entry, Failure)] == [Failure(key, "measure", "died")]
    assert outcome.stopped_because == "precision"
    assert all(key not in entry.cells for entry in entries if isinstance(entry, Epoch) and entry.epoch > 1)


def test_a_cell_that_does_not_start_takes_no_turn() -> None:
    stage = FakeStage(lambda key, epoch: 0.01)
    key = Cell("a", "x").key
    stage.fail_at = {(key, -1): Failure(key, "load", "no")}
    perform(stage, ["a/eager", "v1/eager", "a/x"])
    assert key not in stage.turns


def test_nothing_left_when_every_cell_fails() -> None:
    stage = FakeStage(lambda key, epoch: 0.01)
    key = Cell("a", "eager").key
    stage.fail_at = {(key, -1): Failure(key, "load", "no")}
    entries, outcome = perform(stage, ["a/eager"])
    assert outcome == Outcome("nothing-left", None, 1.0, 0.0)
    assert not blocks_of(entries)


def test_a_slow_call_is_a_block_of_its_own() -> None:
    stage = FakeStage(lambda key, epoch: 2.0)
    entries, _ = perform(stage, ["a/eager", "v1/eager"], budget=30)
    assert {len(block.samples_ns) for block in blocks_of(entries)} == {1}


def test_a_resumed_run_counts_what_it_has() -> None:
    stage = FakeStage(lambda key, epoch: 0.01)
    entries, _ = perform(stage, ["a/eager", "v1/eager"])
    again: list[Entry] = []
    outcome = Conductor(
        stage,
        Policy(precision=0.02, time_budget=60, seed=0, memory_bytes=10**9),
        partial(printed_ratios, variants=("a",), references=("v1",)),
        again.append,
        clock=lambda: stage.time,
        earlier=blocks_of(entries),
        spent=10.0,
    ).run(contenders("a/eager", "v1/eager"))
    assert again == []
    assert outcome.stopped_because == "precision"


def test_a_resumed_run_uses_new_epoch_numbers() -> None:
    stage = FakeStage(lambda key, epoch: 0.01)
    entries, _ = perform(stage, ["a/eager", "v1/eager"])
    earlier = [block for block in blocks_of(entries) if block.epoch < 2]
    again: list[Entry] = []
    Conductor(
        stage,
        Policy(precision=0.02, time_budget=60, seed=0, memory_bytes=10**9),
        partial(printed_ratios, variants=("a",), references=("v1",)),
        again.append,
        clock=lambda: stage.time,
        earlier=earlier,
        spent=10.0,
    ).run(contenders("a/eager", "v1/eager"))
    assert {block.epoch for block in blocks_of(again)} == {2}


def test_workers_that_do_not_fit_into_memory_together_are_split_by_backend_with_eager_in_each() -> None:
    names = [f"{variant}/{backend}" for variant in ("a", "v1") for backend in ("eager", "x", "y", "z")]
    groups = cohorts(contenders(*names, memory=100), 450)
    assert [sorted({c.cell.backend for c in group}) for group in groups] == [
        ["eager", "x"],
        ["eager", "y"],
        ["eager", "z"],
    ]
    assert cohorts(contenders(*names, memory=100), 800) == [contenders(*names, memory=100)]


def test_settings_are_never_alive_together() -> None:
    cells = [Cell("a", "eager", threads=1), Cell("a", "eager", threads=2)]
    groups = cohorts([Contender(cell, 0.01, 1) for cell in cells], 10**9)
    assert [[c.cell.threads for c in group] for group in groups] == [[1], [2]]


def test_several_cohorts_share_the_budget() -> None:
    cells = [Cell(v, "eager", threads=t) for t in (1, 2) for v in ("a", "v1")]
    stage = FakeStage(lambda key, epoch: 0.01 * (1.2 if key.startswith("a") and epoch % 2 else 1))
    entries: list[Entry] = []
    Conductor(
        stage,
        Policy(precision=0.001, time_budget=60, seed=0, memory_bytes=10**9),
        partial(printed_ratios, variants=("a",), references=("v1",)),
        entries.append,
        clock=lambda: stage.time,
    ).run([Contender(cell, 0.01, 1) for cell in cells])
    counts = [sum(f"threads={t}" in block.cell for block in blocks_of(entries)) for t in (1, 2)]
    assert counts[0] == pytest.approx(counts[1], rel=0.2)
    assert 50 < stage.time < 75


@pytest.mark.parametrize(("budget", "start", "epochs"), [(60, 1, 12), (187, 9.5, 4), (10, 10, 3)])
def test_the_budget_is_split(budget: float, start: float, epochs: int) -> None:
    assert split_budget(budget, start) == epochs


@pytest.mark.parametrize("budget", [30.0, 60.0, 173.0])
@pytest.mark.parametrize("start", [0.5, 2.0, 9.0])
def test_the_budget_is_kept(budget: float, start: float) -> None:
    """No epoch is begun that would not fit, and none runs past the end."""
    stage = FakeStage(lambda key, epoch: 0.01 * (1.2 if key.startswith("a") and epoch % 2 else 1), start)
    _, outcome = perform(stage, ["a/eager", "v1/eager", "a/x", "v1/x"], precision=1e-6, budget=budget)
    assert outcome.stopped_because == "budget"
    assert 0.75 * budget < stage.time <= budget + 1
    assert outcome.start_seconds < 0.45 * budget or start > budget / 10


def test_a_cell_that_was_never_measured_keeps_a_resumed_run_going() -> None:
    """As when a compiler was installed after the other cells had been measured."""
    stage = FakeStage(lambda key, epoch: 0.01)
    entries, _ = perform(stage, ["a/eager", "v1/eager"])
    again: list[Entry] = []
    outcome = Conductor(
        stage,
        Policy(precision=0.02, time_budget=60, seed=0, memory_bytes=10**9),
        partial(printed_ratios, variants=("a",), references=("v1",)),
        again.append,
        clock=lambda: stage.time,
        earlier=blocks_of(entries),
        spent=59.0,
    ).run(contenders("a/eager", "v1/eager", "a/x"))
    late = {block.epoch for block in blocks_of(again) if block.cell == Cell("a", "x").key}
    assert len(late) == FEWEST_EPOCHS
    assert outcome.stopped_because == "precision"


def test_a_cell_in_several_cohorts_has_each_round_once() -> None:
    stage = FakeStage(lambda key, epoch: 0.01)
    names = [f"{variant}/{backend}" for variant in ("a", "v1") for backend in ("eager", "x", "y")]
    entries: list[Entry] = []
    Conductor(
        stage,
        Policy(precision=0.02, time_budget=60, seed=0, memory_bytes=450),
        partial(printed_ratios, variants=("a",), references=("v1",)),
        entries.append,
        clock=lambda: stage.time,
    ).run(contenders(*names, memory=100))
    assert stage.most_alive == 4
    for key in {block.cell for block in blocks_of(entries)}:
        places = [(block.epoch, block.round) for block in blocks_of(entries) if block.cell == key]
        assert len(places) == len(set(places))


def test_a_block_lasts_about_a_tenth_of_a_second() -> None:
    assert block_length(0.002) == pytest.approx(0.11, rel=0.05)
    assert block_length(0.5) == pytest.approx(1.0, rel=0.01)
