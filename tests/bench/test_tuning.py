"""The search for faster settings: its logic on invented figures, its measuring on invented workers, and whole runs."""

from __future__ import annotations

import io
import math
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from fakes.mnv3_fakes import registered
from rich.console import Console

import mnv3_bench.backends
from mnv3_bench.backends.base import Backend, BackendInfo, Switch
from mnv3_bench.cache import Store
from mnv3_bench.display import Display, LiveDisplay
from mnv3_bench.keys import Keys
from mnv3_bench.launcher import Launcher
from mnv3_bench.plan import Limits
from mnv3_bench.prepare import Artifacts
from mnv3_bench.protocol import Load, Turned
from mnv3_bench.tune_stage import CellBench, Workshop, to_tune
from mnv3_bench.tuning import (
    FEWEST_CONFIRMING,
    FEWEST_SCREENING,
    MOST_CONFIRMING,
    NOT_TRIED,
    DefaultFailedError,
    Found,
    Search,
    epochs_to_tell,
    least_seconds,
    single_changes,
)
from mnv3_reports.journal import assemble, read_journal
from mnv3_reports.record import (
    Cell,
    Failure,
    Inspected,
    Machine,
    Prepared,
    Request,
    Run,
    RunStarted,
    Software,
    Tuned,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

ON_OFF = ("on", "off")


class Switched(Backend):
    """Four switches, of which one is not to be tuned and one builds anew."""

    info = BackendInfo(
        name="b",
        summary="",
        runtime_modules=(),
        switches=(
            Switch("spin", ON_OFF, ""),
            Switch("layout", ("first", "last", "blocked"), ""),
            Switch("recipe", ("static", "dynamic"), "", tuned=False),
            Switch("search", ("off", "max"), "", shapes_artifact=True),
        ),
    )

    def prepare(self, preparation: Any) -> dict[str, Any]:
        raise NotImplementedError

    def load(self, directory: Path, threads: int, device: str) -> Any:
        raise NotImplementedError


def with_switches(count: int) -> Backend:
    """A backend with so many switches, s0, s1, …, each on or off."""

    class Many(Switched):
        info = BackendInfo(
            name="b",
            summary="",
            runtime_modules=(),
            switches=tuple(Switch(f"s{number}", ON_OFF, "") for number in range(count)),
        )

    return Many()


@dataclass
class FakeBench:
    """A clock of its own, and the figures that a test says."""

    truth: Callable[[str], float]
    """Settings to their true time over the default's."""
    noise: float = 0.0
    """Standard deviation of one process's logarithm."""
    seed: int = 0
    tails: bool = False
    """Noise with heavy tails (Student's t with 3 degrees of freedom, scaled alike)."""
    worker_seconds: float = 1.0
    builds: dict[str, float] = field(default_factory=dict)
    """Settings to seconds."""
    refused: dict[str, str] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    breaks: dict[tuple[str, int], str] = field(default_factory=dict)
    """(settings, epoch) to why."""
    luck: dict[tuple[str, int], float] = field(default_factory=dict)
    """(settings, epoch) to a logarithm that is added."""
    time: float = 0.0
    built: list[str] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    epochs: list[tuple[str, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)

    def pace(self) -> float:
        return self.worker_seconds

    def build_seconds(self, backend: str) -> float:
        return self.builds.get(backend, 0.0)

    def prepare(self, backends: Sequence[str], seconds: float) -> dict[str, str]:
        self.time += sum(map(self.build_seconds, backends))
        self.built += backends
        return {each: self.refused[each] for each in backends if each in self.refused}

    def check(self, backends: Sequence[str]) -> dict[str, str]:
        self.time += self.worker_seconds * len(backends)
        self.checked += backends
        return {each: self.wrong[each] for each in backends if each in self.wrong}

    def epoch(self, backends: Sequence[str], number: int) -> dict[str, float | str]:
        assert number == len(self.epochs)
        assert len(set(backends)) == len(backends) > 0
        self.epochs.append(tuple(backends))
        self.time += self.worker_seconds * (len(backends) + 2)
        default = self._process()
        if (broken := self.breaks.get(("b", number))) is not None:
            raise DefaultFailedError(broken)
        found: dict[str, float | str] = {}
        for each in backends:
            value = math.log(self.truth(each)) + self._process() - default
            found[each] = self.breaks.get((each, number)) or value + self.luck.get((each, number), 0.0)
        return found

    def _process(self) -> float:
        if not self.tails:
            return self.chance.gauss(0, self.noise)
        chi = sum(self.chance.gauss(0, 1) ** 2 for _ in range(3))
        return self.noise * self.chance.gauss(0, 1) / math.sqrt(chi / 3) / math.sqrt(3)


def search(bench: FakeBench, backend: Backend | None = None, seconds: float = 120.0) -> Found:
    return Search(bench, backend or Switched(), seconds, clock=lambda: bench.time).run()


def by_name(found: Found) -> dict[str, Any]:
    return {candidate.backend: candidate for candidate in found.candidates}


def test_every_change_of_one_switch_that_is_tuned_and_not_set_by_the_user() -> None:
    assert [each.backend for each in single_changes(Switched())] == [
        "b:spin=off",
        "b:layout=last",
        "b:layout=blocked",
        "b:search=max",
    ]
    assert [each.backend for each in single_changes(Switched({"layout": "last", "search": "max"}))] == [
        "b:spin=off:layout=last:search=max"
    ]


@pytest.mark.parametrize("tails", [False, True])
def test_equal_settings_are_not_found_faster(tails: bool) -> None:
    """At most 2.5 % find something by design; a rate of 2.5 % would find more than 45 of 1000 once in 10,000 times."""
    quiet = 0
    for seed in range(1000):
        bench = FakeBench(lambda _: 1.0, noise=0.03, seed=seed, tails=tails)
        quiet += search(bench, with_switches(4)).winner is None
    assert quiet >= 955, f"{1000 - quiet} of 1000 searches among equals named a winner"


def test_a_faster_setting_is_found_under_noise() -> None:
    """10 % faster where one process differs from the next by 3 %: what a shared machine shows."""
    hits = 0
    for seed in range(200):
        bench = FakeBench(lambda name: 0.9 if "s2=off" in name else 1.0, noise=0.03, seed=seed)
        hits += "s2=off" in (search(bench, with_switches(3)).winner or "")
    assert hits >= 180, f"{hits} of 200"


def test_settings_that_gain_together_are_combined() -> None:
    bench = FakeBench(
        lambda name: (
            (0.8 if "spin=off" in name else 1.0)
            * (0.9 if "layout=last" in name else 0.95 if "layout=blocked" in name else 1.0)
        )
    )
    found = search(bench)
    assert found.winner == "b:spin=off:layout=last"
    won = by_name(found)[found.winner]
    assert won.ratio == pytest.approx(0.72)
    assert won.epochs == FEWEST_CONFIRMING
    assert found.stopped_because == "searched"
    assert bench.epochs[-FEWEST_CONFIRMING:] == [(found.winner,)] * FEWEST_CONFIRMING


def test_gains_that_do_not_add_up_are_not_taken_together() -> None:
    bench = FakeBench(
        lambda name: (
            1.3
            if name == "b:spin=off:layout=last"
            else 0.8
            if "spin" in name
            else 0.9
            if "last" in name
            else 1
        )
    )
    found = search(bench)
    assert found.winner == "b:spin=off"
    assert by_name(found)["b:spin=off:layout=last"].ratio == pytest.approx(1.3)


def test_many_gains_are_tried_all_together_only() -> None:
    found = search(FakeBench(lambda name: 0.9 ** name.count("off")), with_switches(4), 500)
    assert found.winner == "b:s0=off:s1=off:s2=off:s3=off"
    assert len(found.candidates) == 5
    pairs = search(FakeBench(lambda name: 0.9 ** name.count("off")), with_switches(3), 500)
    assert len(pairs.candidates) == 3 + 4


def test_luck_in_screening_does_not_make_a_winner() -> None:
    lucky = {("b:spin=off", epoch): -0.2 + 0.01 * epoch for epoch in range(FEWEST_SCREENING)}
    winners = 0
    for seed in range(100):
        bench = FakeBench(lambda _: 1.0, noise=0.01, luck=lucky, seed=seed)
        found = search(bench)
        winners += found.winner is not None
        # What is recorded of it are the epochs that decided.
        assert by_name(found)["b:spin=off"].ratio == pytest.approx(1.0, abs=0.03)
    assert winners <= 9


def test_what_is_clearly_slower_drops_out_and_the_rest_is_told_apart() -> None:
    bench = FakeBench(lambda name: 2.0 if "layout" in name else 1.0, noise=0.01)
    found = search(bench)
    assert sum("b:layout=last" in epoch for epoch in bench.epochs) == 2
    slow = by_name(found)["b:layout=last"]
    assert slow.lower > 1
    assert slow.failure is None


def test_failures_are_recorded_and_the_search_goes_on() -> None:
    bench = FakeBench(
        lambda name: {"b:layout=last": 0.5, "b:layout=blocked": 0.7}.get(name, 1.0),
        noise=0.001,
        refused={"b:search=max": "prepare: no"},
        breaks={("b:spin=off", 1): "measure: the process was killed by SIGSEGV"},
        wrong={"b:layout=last": "fidelity: the outputs are wrong"},
    )
    found = search(bench)
    assert found.winner == "b:layout=blocked"
    failures = {name: each.failure for name, each in by_name(found).items()}
    assert failures == {
        "b:spin=off": "measure: the process was killed by SIGSEGV",
        "b:layout=last": "fidelity: the outputs are wrong",
        "b:layout=blocked": None,
        "b:search=max": "prepare: no",
    }
    assert all(each.ratio is None for each in found.candidates if each.failure is not None)


def test_a_finalist_that_crashes_makes_room_for_the_next() -> None:
    class Fragile(FakeBench):
        def epoch(self, backends: Sequence[str], number: int) -> dict[str, float | str]:
            found = super().epoch(backends, number)
            return {"b:layout=last": "turn: gone"} if backends == ["b:layout=last"] else found

    bench = Fragile(lambda name: {"b:layout=last": 0.5, "b:layout=blocked": 0.7}.get(name, 1.0), noise=0.001)
    found = search(bench)
    assert by_name(found)["b:layout=last"].failure == "turn: gone"
    assert found.winner == "b:layout=blocked"


def test_wrong_numbers_take_no_part_in_combinations() -> None:
    bench = FakeBench(lambda name: 0.8 ** name.count("off"), wrong={"b:s1=off": "fidelity: wrong"})
    found = search(bench, with_switches(3), 500)
    assert found.winner == "b:s0=off:s2=off"
    assert not [name for name in by_name(found) if "s1=off:" in name or ":s0=off:s1" in name]


def test_a_default_that_fails_ends_the_search() -> None:
    with pytest.raises(DefaultFailedError, match="load: gone"):
        search(FakeBench(lambda _: 1.0, breaks={("b", 1): "load: gone"}))


@pytest.mark.parametrize("seconds", [0.0, 3.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0])
@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_the_budget_is_kept_but_for_an_epoch(seconds: float, noise: float) -> None:
    for seed in range(20):
        bench = FakeBench(lambda name: 0.9 if "off" in name else 1.0, noise=noise, seed=seed)
        found = search(bench, with_switches(3), seconds)
        longest = bench.worker_seconds * max((len(epoch) + 2 for epoch in bench.epochs), default=0)
        assert bench.time <= seconds + longest
        if seconds < least_seconds(bench.pace()):
            assert bench.time == 0
            assert {each.failure for each in found.candidates} == {NOT_TRIED}
            assert found == Found(None, found.candidates, "budget")


def test_as_many_settings_are_tried_as_the_budget_allows() -> None:
    found = search(FakeBench(lambda _: 0.8), with_switches(5), least_seconds(1.0, 2) + 0.5)
    assert [each.failure for each in found.candidates[2:5]] == [NOT_TRIED] * 3
    assert found.winner in ("b:s0=off", "b:s1=off")
    assert found.stopped_because == "budget"


def test_the_least_time_is_enough_for_one_setting_although_the_clock_goes_on() -> None:
    bench = FakeBench(lambda _: 0.8)
    late = Search(bench, with_switches(1), least_seconds(bench.pace()), clock=lambda: bench.time)
    bench.time += 0.5
    assert late.run().winner == "b:s0=off"


def test_slow_builds_wait_for_a_budget_that_has_room_for_them() -> None:
    def bench() -> FakeBench:
        return FakeBench(lambda name: 0.5 if "search=max" in name else 1.0, builds={"b:search=max": 60.0})

    tight = bench()
    found = search(tight, seconds=70)
    assert by_name(found)["b:search=max"].failure == NOT_TRIED
    assert found.stopped_because == "budget"
    assert "b:search=max" not in tight.built
    wide = bench()
    assert search(wide, seconds=200).winner == "b:search=max"


def test_a_hang_does_not_pass_for_slow_epochs() -> None:
    class Hanging(FakeBench):
        def epoch(self, backends: Sequence[str], number: int) -> dict[str, float | str]:
            self.time += 20 * (number == 0)
            return super().epoch(backends, number)

    bench = Hanging(
        lambda name: 0.8 if "last" in name else 1.0, breaks={("b:spin=off", 0): "load: no answer"}
    )
    found = search(bench, seconds=100)
    assert found.winner == "b:layout=last"


def test_how_long_confirming_takes() -> None:
    """(t(0.975) + t(0.8)) s / sqrt(n): with n = 8 it is (2.365 + 0.896) s / 2.828 = 1.153 s."""
    assert epochs_to_tell(-math.expm1(-0.0346), 0.03) == 8
    assert epochs_to_tell(-math.expm1(-0.0345), 0.03) == 9
    assert epochs_to_tell(0.5, 0.0) == FEWEST_CONFIRMING
    assert epochs_to_tell(0.001, 0.05) == MOST_CONFIRMING


def test_what_is_found_can_be_written_down() -> None:
    for seconds in (0.0, 25.0, 60.0, 120.0):
        found = search(FakeBench(lambda _: 0.9, noise=0.05), with_switches(3), seconds)
        tuned = Tuned("k", found.winner, found.candidates, seconds, found.stopped_because)
        assert msgspec.json.decode(msgspec.json.encode(tuned), type=Tuned) == tuned
        assert found.summary()


# --- Settings of one cell, on workers that cost nothing


CELL = Cell("v3-small@0.35", "fake-switched", resolution=64)


class FakeStage:
    """Workers of known speeds on a machine that slows down all the time."""

    def __init__(self, speeds: dict[str, float]) -> None:
        self.speeds = speeds
        self.time = 0.0
        self.alive: list[str] = []
        self.starts: list[list[str]] = []
        self.turns: list[str] = []
        self.calls: set[tuple[int, int]] = set()
        self.bound: list[set[int]] = []
        self.refuses: dict[str, Failure] = {}
        self.dies_at: dict[str, int] = {}

    def start(self, keys: Sequence[str], epoch: int) -> dict[str, float | Failure]:
        assert not self.alive
        self.time += 2.0
        self.starts.append([Cell.from_key(key).backend for key in keys])
        self.alive = [key for key in keys if Cell.from_key(key).backend not in self.refuses]
        return {
            key: self.refuses.get(Cell.from_key(key).backend) or self.speeds[Cell.from_key(key).backend]
            for key in keys
        }

    def bind(self, cpus: set[int]) -> None:
        self.bound.append(cpus)

    def turn(self, key: str, discard: int, calls: int) -> Turned | Failure:
        assert key in self.alive
        backend = Cell.from_key(key).backend
        if self.turns.count(backend) >= self.dies_at.get(backend, 10**9):
            return Failure(
                key, "measure", "no answer within 12 s; killed (raise --limit-time if it needs longer)"
            )
        self.turns.append(backend)
        self.calls.add((discard, calls))
        # 1 % slower every second: with the default always first, everything else would look slower.
        seconds = self.speeds[backend] * (1 + self.time / 100)
        self.time += (discard + calls) * self.speeds[backend]
        nanoseconds = (round(seconds * 1e9),) * calls
        return Turned(nanoseconds, seconds * calls, seconds * calls, 0, 0, 0, 0.0, 0.0, 0.0, 0.0, None)

    def stop(self) -> None:
        self.alive = []


@pytest.fixture
def known_backends(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(mnv3_bench.backends.BACKENDS, "fake-switched", "fakes.mnv3_fakes:Switched")
    mnv3_bench.backends._places.cache_clear()
    yield
    monkeypatch.undo()
    mnv3_bench.backends._places.cache_clear()


def inspected(cell: Cell, **changes: Any) -> Inspected:
    plain = Inspected(
        cell=cell.key,
        import_seconds=0.3,
        load_seconds=0.1,
        first_seconds=0.1,
        warm_calls=20,
        steady=True,
        call_seconds=0.01,
        runtime_bytes=10**7,
        peak_bytes=10**8,
        os_threads=1,
        side_by_side=1,
        fidelity=None,
        facts={},
    )
    return msgspec.structs.replace(plain, **changes)


def make_bench(tmp_path: Path, stage: FakeStage, cell: Cell = CELL, memory: int = 10**10) -> CellBench:
    request = Request((cell.variant,), (), (cell.backend,), (1,), (1,), (64,), "cpu", 0.02, 60.0, 0)
    shop = Workshop(
        request=request,
        keys=Keys(request),
        store=Store(tmp_path / "store"),
        artifacts=Artifacts(
            directories={cell.key: tmp_path / "artifact"},
            images={("measure", 64): tmp_path / "measure.npy", ("tuning", 64): tmp_path / "tuning.npy"},
        ),
        launcher=Launcher(tmp_path / "logs", memory_limit=None),
        limits=Limits(),
        memory_bytes=memory,
        build_width=1,
    )
    prepared = Prepared(cell.key, "a", 7.0, "", False, 1, {"f": 1}, {})
    return CellBench(
        cell, prepared, inspected(cell), shop, stage=stage, cpus=[4, 5, 6], clock=lambda: stage.time
    )


QUICK, IDLE = "fake-switched:pace=quick", "fake-switched:wait=off"
SPEEDS = {"fake-switched": 0.01, QUICK: 0.008, IDLE: 0.012}


def test_ratios_are_formed_within_shuffled_rounds(tmp_path: Path, known_backends: None) -> None:
    stage = FakeStage(SPEEDS)
    bench = make_bench(tmp_path, stage)
    assert bench.prepare([QUICK, IDLE], 10) == {}
    values = [bench.epoch([QUICK, IDLE], number) for number in range(8)]
    mean = {name: sum(float(value[name]) for value in values) / len(values) for name in (QUICK, IDLE)}
    assert mean == pytest.approx({QUICK: math.log(0.8), IDLE: math.log(1.2)}, abs=0.002)
    assert all(set(started) == {"fake-switched", QUICK, IDLE} for started in stage.starts)
    assert len({tuple(started) for started in stage.starts}) > 1
    assert stage.calls == {(1, 5)}
    orders = {tuple(stage.turns[first : first + 3]) for first in range(0, len(stage.turns), 3)}
    assert len(orders) > 4
    assert all(len(set(order)) == 3 for order in orders)
    # One thread: one CPU an epoch, another one in the next.
    assert stage.bound[:4] == [{4}, {5}, {6}, {4}]


def test_workers_get_inputs_of_their_own_and_leave_logs_of_their_own(
    tmp_path: Path, known_backends: None
) -> None:
    bench = make_bench(tmp_path, FakeStage(SPEEDS))
    bench.prepare([QUICK], 10)
    bench.epoch([QUICK], 0)
    assert len(bench.performers) == 2
    for performer in bench.performers.values():
        assert isinstance(performer.load, Load)
        assert performer.load.images == str(tmp_path / "tuning.npy")
        assert performer.load.directory == str(tmp_path / "artifact")
        assert performer.file_name.startswith("tune-")


def test_workers_with_several_threads_are_free_to_move(tmp_path: Path, known_backends: None) -> None:
    stage = FakeStage(SPEEDS)
    bench = make_bench(tmp_path, stage, msgspec.structs.replace(CELL, threads=2))
    bench.prepare([QUICK], 10)
    bench.epoch([QUICK], 0)
    assert stage.bound == []


def test_the_default_is_in_every_group_where_memory_is_short(tmp_path: Path, known_backends: None) -> None:
    stage = FakeStage(SPEEDS)
    bench = make_bench(tmp_path, stage, memory=2 * 10**8)
    bench.prepare([QUICK, IDLE], 10)
    assert set(bench.epoch([QUICK, IDLE], 0)) == {QUICK, IDLE}
    assert [set(started) for started in stage.starts] == [{"fake-switched", QUICK}, {"fake-switched", IDLE}]


def test_workers_that_fail_are_told_apart_from_the_default_s(tmp_path: Path, known_backends: None) -> None:
    stage = FakeStage(SPEEDS)
    bench = make_bench(tmp_path, stage)
    bench.prepare([QUICK, IDLE], 10)
    stage.refuses = {QUICK: Failure("k", "load", "the process was killed by SIGABRT")}
    stage.dies_at = {IDLE: 2}
    assert bench.epoch([QUICK, IDLE], 0) == {
        QUICK: "load: the process was killed by SIGABRT",
        # --limit-time is not what limited it.
        IDLE: "measure: no answer within 12 s; killed",
    }
    stage.dies_at = {"fake-switched": len(stage.turns)}
    stage.refuses = {}
    with pytest.raises(DefaultFailedError, match="measure: no answer"):
        bench.epoch([QUICK], 1)
    assert stage.alive == []
    stage.refuses = {"fake-switched": Failure("k", "warm-up", "gone")}
    with pytest.raises(DefaultFailedError, match="warm-up: gone"):
        bench.epoch([QUICK], 2)


def test_what_hangs_is_given_up_after_a_multiple_of_what_the_default_needs(
    tmp_path: Path, known_backends: None
) -> None:
    limits = make_bench(tmp_path, FakeStage(SPEEDS)).limits
    # 10 s + 5 x (0.3 + 0.1 + 0.1 + 32 x 0.01)
    assert (limits.load, limits.turn, limits.check) == pytest.approx((14.1, 14.1, 14.1))
    assert limits.prepare == Limits().prepare


def test_only_what_shapes_the_artifact_is_built_anew(tmp_path: Path, known_backends: None) -> None:
    bench = make_bench(tmp_path, FakeStage(SPEEDS))
    assert bench.build_seconds(QUICK) == 0
    assert bench.build_seconds("fake-switched:build=refused") == pytest.approx(7 + 5)
    bench.prepare([QUICK], 10)
    assert bench.prepared[QUICK].artifact == "a"
    assert Cell.from_key(bench.prepared[QUICK].cell).backend == QUICK


def test_which_cells_are_searched(known_backends: None) -> None:
    cells = [
        CELL,
        msgspec.structs.replace(CELL, threads=2),
        msgspec.structs.replace(CELL, batch=8),
        Cell("v1", "eager-that-has-no-switches"),
    ]
    request = Request(("v1",), (), ("b",), (1,), (1,), (64,), "cpu", 0.02, 60.0, 0, tune=10.0)
    machine = Machine("c", (), 1, 1, 1, None, 1, None, 0, None, None, "Linux", "6")
    header = RunStarted(
        2, "r", "", "", request, tuple(c.key for c in cells[:3]), machine, Software("3", {}, "1", None, {})
    )
    run = Run.started(header)
    run.add(Failure(cells[1].key, "load", "gone"))
    assert to_tune(run) == [cells[0], cells[2]]
    winner = msgspec.structs.replace(CELL, backend=QUICK)
    run.add(Tuned(CELL.key, winner.key, (), 1.0, "searched"))
    # Neither what was searched, nor what was found, is searched again.
    assert to_tune(run) == [cells[2]]


def test_what_is_being_tried_is_said_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("mnv3_bench.display.time.monotonic", lambda: now[0])
    display = Display()
    display.begin("tune", 2)
    for number in range(25):
        now[0] += 1
        display.trying(f"epoch {number}")
    assert capsys.readouterr().err.splitlines() == ["tune: 2 to do", "tune: epoch 9", "tune: epoch 19"]


def test_a_cell_that_was_found_gets_a_row_of_its_own() -> None:
    display = LiveDisplay([CELL])
    try:
        winner = msgspec.structs.replace(CELL, backend=QUICK)
        display.include(winner)
        display.include(CELL)
        display.trying("epoch 2 of this")
        console = Console(width=100, file=io.StringIO())
        console.print(display._table())
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        assert "epoch 2 of this" in shown
        rows = [line for line in shown.splitlines() if "fake-switched" in line and "epoch" not in line]
        assert len(rows) == 2
        assert QUICK in rows[1]
    finally:
        display.end()


# --- Whole runs


@pytest.fixture
def environment(tmp_path: Path, artifact_cache: Path) -> dict[str, str]:
    return {
        **registered(tmp_path / "fakes"),
        "MNV3_BENCH_CACHE": str(artifact_cache),
        "XDG_CACHE_HOME": str(tmp_path),
    }


def load(directory: Path) -> Run:
    return assemble(read_journal(directory / "journal.jsonl"))


def resume(directory: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mnv3_bench.cli", "--resume", "out"],
        env=environment,
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_a_run_finds_faster_settings_and_survives_an_interruption(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    command = [sys.executable, "-m", "mnv3_bench.cli"]
    asked = ["--variants", "small@0.35", "--references", "none", "--resolutions", "64"]
    asked += ["--backends", "fake-switched", "--quick", "--time-budget", "5s", "--output", "out"]
    first = subprocess.Popen(
        [*command, *asked, "--tune", "--tune-budget", "120s"],
        env=environment,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert first.stderr is not None
    lines = []
    for line in first.stderr:
        lines.append(line)
        if line.startswith("tune: 1 to do"):
            break
    time.sleep(3)
    first.send_signal(signal.SIGINT)
    _, rest = first.communicate(timeout=60)
    assert first.returncode == 130, "".join(lines) + rest
    assert "Traceback" not in rest
    assert load(tmp_path / "out").tuned == []

    done = resume(tmp_path, environment)
    # Settings that fail while they are tried are no failed cells.
    assert done.returncode == 0, done.stderr
    run = load(tmp_path / "out")
    (tuned,) = run.tuned
    own = Cell("v3-small@0.35", "fake-switched", resolution=64)
    assert tuned.cell == own.key
    assert tuned.winner is not None
    record = run.cells[tuned.winner]
    assert record.cell == msgspec.structs.replace(own, backend="fake-switched:pace=quick:wait=off")
    failures = {each.backend: each.failure for each in tuned.candidates if each.failure is not None}
    assert set(failures) == {
        f"fake-switched:{what}" for what in ("pace=wrong", "pace=crash", "build=refused")
    }
    assert "below the backend's floor" in failures["fake-switched:pace=wrong"]
    assert failures["fake-switched:pace=crash"] == "load: the process was killed by SIGABRT"
    assert failures["fake-switched:build=refused"] == "prepare: this build is refused"
    # Known, inspected and measured as any other cell, in rounds it shares with the default.
    assert record.prepared is not None
    assert record.prepared.artifact == run.cells[own.key].prepared.artifact  # type: ignore[union-attr]
    assert record.inspected is not None
    assert record.inspected.fidelity is not None
    rounds = [{(b.epoch, b.round) for b in run.blocks if b.cell == key} for key in (own.key, tuned.winner)]
    assert len({epoch for epoch, _ in rounds[0] & rounds[1]}) >= 3
    assert run.finished is not None
    assert run.finished.status == "complete"
    assert run.finished.phase_seconds["tune"] >= tuned.seconds
    assert "pace=quick:wait=off" in (tmp_path / "out" / "report.md").read_text()
    assert not [name for name in os.listdir(tmp_path / "out" / "logs") if not name.endswith(".log")]  # noqa: PTH208


@pytest.mark.thorough
def test_what_a_search_found_is_not_searched_for_again(tmp_path: Path, environment: dict[str, str]) -> None:
    asked = ["--variants", "small@0.35", "--references", "none", "--resolutions", "64", "--quick"]
    asked += [
        "--backends",
        "fake-switched",
        "--time-budget",
        "5s",
        "--tune-budget",
        "120s",
        "--output",
        "out",
    ]
    command = [sys.executable, "-m", "mnv3_bench.cli", *asked]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (tuned,) = load(tmp_path / "out").tuned
    assert tuned.winner is not None

    # As if it had been killed as soon as the search was recorded: what was found still becomes a cell.
    journal = tmp_path / "out" / "journal.jsonl"
    kept = journal.read_text().partition('"type":"tuned"')[0].count("\n") + 1
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:kept]))
    again = resume(tmp_path, environment)
    assert again.returncode == 0, again.stderr
    run = load(tmp_path / "out")
    assert run.tuned == [tuned]
    assert run.cells[tuned.winner].inspected is not None
    assert {block.cell for block in run.blocks} == {tuned.cell, tuned.winner}
    assert journal.read_text().count('"type":"inspected"') == 2

    # Going on with a run that has measured what was found.
    assert resume(tmp_path, environment).returncode == 0
    assert load(tmp_path / "out").tuned == [tuned]
