"""The conductor lets cells take turns.

An epoch is a set of fresh workers; within it every cell has one block a round, in an order shuffled by the run's
seed; ratios are later formed within a round and intervals over epochs (docs/methodology.md). The conductor knows
neither processes nor files: a `Stage` gives it workers, `record` takes what it finds, `clock` tells the time.
"""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mnv3_bench import noise
from mnv3_reports.record import Block, Cell, Entry, Epoch, Failure
from mnv3_reports.statistics import block_medians, half_width, ratio_of_medians

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mnv3_bench.protocol import Turned
    from mnv3_reports.compare import PrintedRatio

BLOCK_SECONDS = 0.1
DISCARD_SECONDS = 0.008
START_SHARE = 0.25
"""Share of the budget that starting workers may take: it decides between few long epochs and many short ones."""
FEWEST_EPOCHS = 3
MOST_EPOCHS = 12


@dataclass(frozen=True)
class Contender:
    """A cell that can be measured."""

    cell: Cell
    call_seconds: float
    memory_bytes: int

    @property
    def key(self) -> str:
        """The cell's key."""
        return self.cell.key


class Stage(Protocol):
    """Where contenders perform: gives each a fresh worker for the length of an epoch."""

    def start(self, keys: Sequence[str], epoch: int) -> dict[str, float | Failure]:
        """Start a worker for each and leave it warm and paused. Key to seconds a call, or why it failed."""

    def turn(self, key: str, discard: int, calls: int) -> Turned | Failure:
        """Let one worker run a block, then pause it again."""

    def stop(self) -> None:
        """End every worker."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """When to stop, and how to split the time."""

    precision: float
    time_budget: float
    seed: int
    memory_bytes: int
    """What the workers of one moment may use together."""


@dataclass(frozen=True)
class Outcome:
    """How measuring ended."""

    stopped_because: str
    precision_reached: float | None
    start_seconds: float
    measure_seconds: float


class Conductor:
    """Measures contenders until every printed ratio is as precise as asked, or the budget is spent."""

    def __init__(
        self,
        stage: Stage,
        policy: Policy,
        ratios: Callable[[Sequence[Cell]], Sequence[PrintedRatio]],
        record: Callable[[Entry], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        on_block: Callable[[Block, float], None] | None = None,
        earlier: Sequence[Block] = (),
        spent: float = 0.0,
    ) -> None:
        """Args that need a word.

        ratios: the ratios that must become precise, from the cells that were measured.
        earlier, spent: blocks and seconds of a run that is resumed.
        """
        self.stage = stage
        self.policy = policy
        self.ratios = ratios
        self.record = record
        self.clock = clock
        self.on_block = on_block
        self.blocks: list[Block] = list(earlier)
        self.spent = spent
        self.failed: set[str] = set()
        self.start_seconds = 0.0
        self.measure_seconds = 0.0
        self.begin = 0.0
        self.epochs: int | None = None
        self.epochs_here = 0
        self.last_start = self.last_round = 0.0

    def run(self, contenders: Sequence[Contender]) -> Outcome:
        """Measure these contenders."""
        self.begin = self.clock() - self.spent
        groups = cohorts(contenders, self.policy.memory_bytes)
        epoch = max((block.epoch for block in self.blocks), default=-1) + 1
        reason = "nothing-left"
        while True:
            groups = [rest for group in groups if (rest := [c for c in group if c.key not in self.failed])]
            if not groups:
                break
            live = [contender.key for group in groups for contender in group]
            if self._epochs_done(live) >= FEWEST_EPOCHS:
                reached = self.precision(live)
                if reached is not None and reached <= self.policy.precision:
                    reason = "precision"
                    break
                if self._left() <= self.last_start + self.last_round:
                    reason = "budget"
                    break
            self._epoch(epoch, groups)
            epoch += 1
        return Outcome(reason, self.precision(), self.start_seconds, self.measure_seconds)

    def _left(self) -> float:
        return self.policy.time_budget - (self.clock() - self.begin)

    def _epoch(self, epoch: int, groups: list[list[Contender]]) -> None:
        """One epoch of every cohort."""
        self.epochs_here += 1
        self.last_start, self.last_round = 0.0, 0.0
        number = 0
        for index, group in enumerate(groups):
            started = self.clock()
            speeds = self._start(group, epoch)
            seconds = self.clock() - started
            self.start_seconds += seconds
            self.last_start += seconds
            if not speeds:
                self.stage.stop()
                continue
            self.record(Epoch(epoch, tuple(speeds), seconds))
            self.last_round += sum(block_length(speed) for speed in speeds.values())
            if self.epochs is None:
                # The first cohort's start tells how the budget splits.
                self.epochs = split_budget(self.policy.time_budget - self.spent, seconds * len(groups))
            share = (self.epochs_here - 1 + (index + 1) / len(groups)) / self.epochs
            until = self.spent + (self.policy.time_budget - self.spent) * min(1.0, share)
            try:
                # Numbers go on through an epoch: a cell that is in several cohorts has each number once.
                number = self._rounds(epoch, speeds, number, until)
            finally:
                self.stage.stop()

    def _start(self, group: list[Contender], epoch: int) -> dict[str, float]:
        speeds: dict[str, float] = {}
        for key, found in self.stage.start([contender.key for contender in group], epoch).items():
            if isinstance(found, Failure):
                self._fail(found)
            else:
                speeds[key] = found
        return speeds

    def _rounds(self, epoch: int, speeds: dict[str, float], first: int, until: float) -> int:
        """Rounds from `first` on; at least one, and more while they fit. Returns the next number."""
        number = first
        while speeds:
            length = sum(block_length(speed) for speed in speeds.values())
            if number > first and self.clock() - self.begin + length > until:
                break
            order = list(speeds)
            random.Random(f"{self.policy.seed}/{epoch}/{number}").shuffle(order)
            started = self.clock()
            for position, key in enumerate(order):
                calls = max(1, round(BLOCK_SECONDS / speeds[key]))
                discard = min(20, max(1, math.ceil(DISCARD_SECONDS / speeds[key])))
                turned = self.stage.turn(key, discard, calls)
                if isinstance(turned, Failure):
                    self._fail(turned)
                    del speeds[key]
                    continue
                block = as_block(key, epoch, number, position, turned)
                self.blocks.append(block)
                self.record(block)
                if self.on_block is not None:
                    self.on_block(block, self._left())
            self.measure_seconds += self.clock() - started
            number += 1
        return number

    def _fail(self, failure: Failure) -> None:
        self.failed.add(failure.cell)
        self.record(failure)

    def _epochs_done(self, live: Sequence[str]) -> int:
        """Epochs in which every one of these cells was measured, roughly: the fewest that one of them has."""
        epochs: dict[str, set[int]] = {key: set() for key in live}
        for block in self.blocks:
            if block.cell in epochs:
                epochs[block.cell].add(block.epoch)
        return min(len(found) for found in epochs.values())

    def precision(self, live: Sequence[str] | None = None) -> float | None:
        """Widest half width among the ratios that the report will print; None while there is none."""
        by_cell: dict[str, list[Block]] = {}
        for block in self.blocks:
            if block.cell not in self.failed and (live is None or block.cell in live):
                by_cell.setdefault(block.cell, []).append(block)
        medians = {key: block_medians(blocks) for key, blocks in by_cell.items()}
        intervals = [
            ratio_of_medians(medians[ratio.numerator], medians[ratio.denominator])
            for ratio in self.ratios([Cell.from_key(key) for key in sorted(by_cell)])
        ]
        return max((half_width(interval) for interval in intervals if interval is not None), default=None)


def block_length(call_seconds: float) -> float:
    """Seconds one turn takes, unrecorded calls and the changing of places included."""
    discard = min(20, max(1, math.ceil(DISCARD_SECONDS / call_seconds)))
    return max(1, round(BLOCK_SECONDS / call_seconds)) * call_seconds + discard * call_seconds + 0.003


def split_budget(budget: float, start_seconds: float) -> int:
    """How many epochs a budget is split into.

    As many as keep the share of starting workers at `START_SHARE`: the interval narrows with the number of epochs,
    and an epoch's own value needs a few rounds to be worth having.
    """
    return min(MOST_EPOCHS, max(FEWEST_EPOCHS, int(START_SHARE * budget / max(start_seconds, 1e-3))))


def cohorts(contenders: Sequence[Contender], memory_bytes: int) -> list[list[Contender]]:
    """Split contenders into groups that are alive at the same time.

    Cells of one setting (threads, batch, resolution, device) are compared with each other and stay together, unless
    their workers would not fit into memory; then they are split by backend, each part with the `eager` cells, which
    are every ratio's possible denominator.
    """
    settings: dict[str, list[Contender]] = {}
    for contender in contenders:
        settings.setdefault(contender.cell.setting, []).append(contender)
    groups: list[list[Contender]] = []
    for group in settings.values():
        if sum(contender.memory_bytes for contender in group) <= memory_bytes:
            groups.append(group)
            continue
        anchors = [contender for contender in group if contender.cell.backend == "eager"]
        room = memory_bytes - sum(contender.memory_bytes for contender in anchors)
        part: list[Contender] = []
        used = 0
        # By name without settings: a tuned form stays with its default.
        for backend in dict.fromkeys(contender.cell.backend.partition(":")[0] for contender in group):
            if backend == "eager":
                continue
            cells = [c for c in group if c.cell.backend.partition(":")[0] == backend]
            need = sum(contender.memory_bytes for contender in cells)
            if part and used + need > room:
                groups.append([*anchors, *part])
                part, used = [], 0
            part.extend(cells)
            used += need
        groups.append([*anchors, *part])
    return groups


def as_block(key: str, epoch: int, number: int, position: int, turned: Turned) -> Block:
    """A worker's reply as a record, with its marks."""
    return Block(
        cell=key,
        epoch=epoch,
        round=number,
        position=position,
        samples_ns=turned.samples_ns,
        wall_seconds=turned.wall_seconds,
        cpu_seconds=turned.cpu_seconds,
        involuntary_switches=turned.involuntary_switches,
        minor_faults=turned.minor_faults,
        major_faults=turned.major_faults,
        steal_seconds=turned.steal_seconds,
        pressure_seconds=turned.pressure_seconds,
        throttled_seconds=turned.throttled_seconds,
        other_cpu_seconds=turned.other_cpu_seconds,
        mhz=turned.mhz,
        disturbed=noise.marks(
            threads=Cell.from_key(key).threads,
            wall=turned.wall_seconds,
            cpu=turned.cpu_seconds,
            steal=turned.steal_seconds,
            pressure=turned.pressure_seconds,
            throttled=turned.throttled_seconds,
            other=turned.other_cpu_seconds,
            major_faults=turned.major_faults,
        ),
    )
