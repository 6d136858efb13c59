"""Measuring two arms against each other: epochs, passes, looks.

An epoch gives each cell three fresh workers: `base`, `null` (the base once more) and `head`. A pass is one block of
each, in random order; the next pass runs the same order backwards, so that a drift cancels (ABBA, for three). A cell's
value of an epoch is the median over its passes of ln(head) - (ln(base) + ln(null)) / 2; both base workers serve as
base, which takes a quarter off the variance, and their difference, which is independent of that value if workers
differ alike, is the null control.

All workers of an epoch are bound to the same CPUs, other ones in the next epoch: CPUs of a shared machine differ by
percents for minutes, and an unbound worker tends to stay on the CPU where it was started.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from mnv3_bench.conductor import as_block
from mnv3_reports.record import Block, Failure
from mnv3_reports.sequential import FEWEST_EPOCHS, Design, detectable, judge, tripped
from mnv3_reports.statistics import median
from mnv3_reports.verdict import Noise, Prediction, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from mnv3_bench.protocol import Turned

Role = Literal["base", "null", "head"]
ROLES: tuple[Role, ...] = ("base", "null", "head")

BLOCK_SECONDS = 0.02
"""Short blocks: what disturbs a shared machine lasts, so the closer two blocks are, the more of it they share. With
the same total time, 20 ms blocks gave half the spread of 100 ms blocks (docs/gate.md)."""
FEWEST_CALLS = 2
DISCARDED = 1
"""Unrecorded calls at the beginning of a block."""
FEWEST_ROUNDS, MOST_ROUNDS = 4, 40
"""Rounds of an epoch, a cell; a round is two passes."""
PILOT_EPOCHS = 3
MOST_EPOCHS = 60
"""How far `detect` may raise the number of epochs."""
SUSPENDED_SECONDS = 1.0
"""The clock since boot running ahead of the monotonic clock by this much within an epoch means the machine slept."""
MOST_SUSPENSIONS = 3
INTERFERENCE = 0.10
"""Share of a CPU by which one arm may meet more load than the other before its figures mean nothing."""


def since_boot() -> float:
    """Seconds by a clock that goes on while the machine sleeps and that nobody sets, where the system has one."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.time()


class Stage(Protocol):
    """Where arms perform: `mnv3_bench.stage.WorkerStage`, or a fake one."""

    def start(self, keys: Sequence[str], epoch: int) -> dict[str, float | Failure]:
        """Start a worker for each and leave it warm and paused. Key to seconds a call, or why it failed."""

    def bind(self, cpus: set[int]) -> None:
        """Let every worker run on these CPUs only."""

    def turn(self, key: str, discard: int, calls: int) -> Turned | Failure:
        """Let one worker run a block, then pause it again."""

    def clear(self) -> None:
        """End every worker."""

    def stop(self) -> None:
        """End every worker and what they were forked from."""


class CellEpoch(msgspec.Struct, frozen=True):
    """What one epoch found about one cell; written to disk as it happens."""

    cell: str
    epoch: int
    difference: float
    """ln(head / base)."""
    null: float
    """ln(null / base)."""
    base_seconds: float
    head_seconds: float
    """Median of the blocks' median calls."""
    base_interference: float
    head_interference: float
    """CPU seconds that others took, a second of the arm's blocks."""
    start_seconds: float
    blocks: tuple[Block, ...]


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of one cell."""

    key: str
    margin: float
    threads: int


@dataclass(frozen=True, kw_only=True)
class TrialPlan:
    """When to stop."""

    design: Design
    time_budget: float
    """Seconds for everything a trial does."""
    seed: int
    detect: float | None = None
    """Slowdown (relative) to be detected with the design's power; decides the number of epochs."""
    budget_was_asked: bool = False
    """The budget is a limit somebody set, not a default: `detect` may not exceed it."""


@dataclass
class Trial:
    """What is known so far."""

    questions: tuple[Question, ...]
    epochs: list[dict[str, CellEpoch]] = field(default_factory=list)
    """Finished epochs, cell to what was found."""
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    decided_at: dict[str, int] = field(default_factory=dict)
    p_values: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    design: Design = field(default_factory=Design)
    """As it was planned after the pilot."""
    prediction: Prediction | None = None
    stopped_because: str = "epochs"
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def of(self, key: str) -> list[CellEpoch]:
        """A cell's epochs, in order."""
        return [epoch[key] for epoch in self.epochs if key in epoch]

    def noise(self, key: str) -> Noise | None:
        """What disturbed a cell's blocks."""
        mine = self.of(key)
        blocks = [block for found in mine for block in found.blocks]
        if not blocks:
            return None
        return Noise(
            blocks=len(blocks),
            disturbed_blocks=sum(bool(block.disturbed) for block in blocks),
            base_interference=statistics.fmean(found.base_interference for found in mine),
            head_interference=statistics.fmean(found.head_interference for found in mine),
        )


class TooLittleTimeError(Exception):
    """The time does not allow a verdict. The message says what would."""


class Umpire:
    """Runs a trial: workers, passes, pilot, looks."""

    def __init__(
        self,
        stage: Stage,
        plan: TrialPlan,
        cpus: Sequence[int],
        *,
        record: Callable[[CellEpoch], None],
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = since_boot,
    ) -> None:
        """Args that need a word.

        cpus: that workers may be bound to; empty leaves them unbound.
        record: keeps what an epoch found of a cell, at once.
        clock, wall: a clock that stands still while the machine sleeps, and one that goes on.
        """
        self.stage = stage
        self.plan = plan
        self.cpus = list(cpus)
        self.record = record
        self.tell = tell
        self.clock = clock
        self.wall = wall
        self.begin = 0.0
        self.budget = plan.time_budget
        self.rounds: dict[str, int] = {}
        self.longest_epoch = 0.0
        self.trial = Trial(())
        """What is known so far, also after an interruption."""

    def run(self, questions: Sequence[Question]) -> Trial:
        """Measure until every cell has a verdict, the looks are used up, or the time is.

        Raises:
            TooLittleTimeError: the time does not allow a verdict.
        """
        trial = self.trial = Trial(tuple(questions), design=self.plan.design)
        self.begin = self.clock()
        suspensions = 0
        try:
            while live := [q for q in questions if q.key not in trial.verdicts]:
                number = len(trial.epochs)
                if number >= trial.design.epochs:
                    break
                if number and self._left() < self.longest_epoch:
                    trial.stopped_because = "budget"
                    break
                started, slept = self.clock(), self.wall() - self.clock()
                found = self._epoch(trial, live, number)
                slept = self.wall() - self.clock() - slept
                if slept > SUSPENDED_SECONDS:
                    suspensions += 1
                    trial.notes.append(
                        f"the machine was suspended for {slept:.0f} s in epoch {number + 1}; it was measured again"
                    )
                    if suspensions > MOST_SUSPENSIONS:
                        for question in live:
                            trial.verdicts[question.key] = Verdict.INVALID
                            trial.reasons[question.key] = "the machine was suspended again and again"
                        break
                    continue
                self.longest_epoch = self.clock() - started
                if found:
                    trial.epochs.append(found)
                self._look(trial, number + 1)
        finally:
            self.stage.stop()
            trial.seconds = self.clock() - self.begin
        if trial.stopped_because == "budget":
            self._last_look(trial)
        elif all(q.key in trial.verdicts for q in questions):
            trial.stopped_because = "decided"
        return trial

    def _left(self) -> float:
        return self.budget - (self.clock() - self.begin)

    def _epoch(self, trial: Trial, live: Sequence[Question], number: int) -> dict[str, CellEpoch]:
        """One epoch of every live cell, in shuffled order."""
        order = list(live)
        chance = random.Random(f"{self.plan.seed}/{number}")
        chance.shuffle(order)
        found = {}
        try:
            for question in order:
                result = self._cell(question, number, chance, len(trial.questions))
                if isinstance(result, Failure):
                    self._fail(trial, question, result, number)
                    continue
                self.record(result)
                found[question.key] = result
        finally:
            self.stage.stop()
        return found

    def _cell(
        self, question: Question, number: int, chance: random.Random, cells: int
    ) -> CellEpoch | Failure:
        """One epoch of one cell; a failure's `cell` is the performer's key."""
        keys = {role: performer_key(role, question.key) for role in ROLES}
        order = list(ROLES)
        chance.shuffle(order)
        started = self.clock()
        speeds = self.stage.start([keys[role] for role in order], number)
        try:
            for role in ROLES:
                # The base's failure first: where both arms break there is nothing to compare with.
                found = speeds[keys[role]]
                if isinstance(found, Failure):
                    return found
            seconds = {role: float(speeds[keys[role]]) for role in ROLES}  # type: ignore[arg-type]
            cpus = self._cpus_of(question.threads, number)
            if cpus:
                self.stage.bind(cpus)
            start = self.clock() - started
            # The same number of calls for every arm, or a block's median would mean different things.
            calls = max(FEWEST_CALLS, round(BLOCK_SECONDS / seconds["base"]))
            rounds = self.rounds.setdefault(
                question.key, self._how_many_rounds((calls + DISCARDED) * sum(seconds.values()), start, cells)
            )
            return self._passes(question.key, number, keys, calls, rounds, chance, start)
        finally:
            self.stage.clear()

    def _how_many_rounds(self, pass_seconds: float, start_seconds: float, cells: int) -> int:
        """Rounds that let the planned epochs fit into the budget.

        Where `detect` decides the number of epochs and the budget is fixed, as many as it may ask for have to fit:
        else 20 longer epochs would fill any budget, and no budget would be enough.
        """
        fixed = self.plan.detect is not None and self.plan.budget_was_asked
        epochs = MOST_EPOCHS if fixed else self.plan.design.epochs
        share = self.budget / epochs / cells - start_seconds
        return min(MOST_ROUNDS, max(FEWEST_ROUNDS, int(share / (2 * pass_seconds * 1.1))))

    def _cpus_of(self, threads: int, number: int) -> set[int]:
        """The CPUs of an epoch; none where a cell's threads leave no choice."""
        if threads >= len(self.cpus):
            return set()
        first = number * threads % len(self.cpus)
        return {self.cpus[(first + offset) % len(self.cpus)] for offset in range(threads)}

    def _passes(
        self,
        key: str,
        number: int,
        keys: Mapping[Role, str],
        calls: int,
        rounds: int,
        chance: random.Random,
        start_seconds: float,
    ) -> CellEpoch | Failure:
        blocks: list[Block] = []
        passes: list[dict[Role, Block]] = []
        for index in range(rounds):
            order = list(ROLES)
            chance.shuffle(order)
            for half, direction in enumerate((order, order[::-1])):
                these: dict[Role, Block] = {}
                for position, role in enumerate(direction):
                    turned = self.stage.turn(keys[role], DISCARDED, calls)
                    if isinstance(turned, Failure):
                        return turned
                    block = as_block(key, number, 2 * index + half, position, turned)
                    these[role] = block
                    blocks.append(msgspec.structs.replace(block, cell=keys[role]))
                passes.append(these)
        logs = [{role: math.log(median(b.samples_ns)) for role, b in these.items()} for these in passes]
        return CellEpoch(
            cell=key,
            epoch=number,
            difference=median(x["head"] - (x["base"] + x["null"]) / 2 for x in logs),
            null=median(x["null"] - x["base"] for x in logs),
            base_seconds=math.exp(median(x[role] for x in logs for role in ("base", "null"))) / 1e9,
            head_seconds=math.exp(median(x["head"] for x in logs)) / 1e9,
            base_interference=_interference(these[r] for these in passes for r in ("base", "null")),
            head_interference=_interference(these["head"] for these in passes),
            start_seconds=start_seconds,
            blocks=tuple(blocks),
        )

    def _fail(self, trial: Trial, question: Question, failure: Failure, number: int) -> None:
        """An arm that breaks: the head's fault is a failed gate, the base's leaves nothing to compare with."""
        role = failure.cell.partition(" ")[0]
        trial.verdicts[question.key] = Verdict.FAIL if role == "head" else Verdict.INVALID
        arm = "head" if role == "head" else "base"
        trial.reasons[question.key] = (
            f"the {arm} arm failed in epoch {number + 1} ({failure.phase}): {failure.reason}"
        )
        self.tell(f"{question.key}: {trial.reasons[question.key]}")

    def _look(self, trial: Trial, epochs: int) -> None:
        """After an epoch: plan if it was the pilot's last, judge if it is time for a look."""
        live = [q.key for q in trial.questions if q.key not in trial.verdicts]
        if not live:
            return
        fewest = trial.design.fewest
        if epochs == 1 and self._left() < self.longest_epoch * (fewest - 1):
            needed = self.longest_epoch * (fewest + 0.5)
            raise TooLittleTimeError(
                f"an epoch takes {self.longest_epoch:.1f} s and a verdict needs {fewest} at least; "
                f"type --time-budget {math.ceil(needed)}s or more (about "
                f"{math.ceil(self.longest_epoch * self.plan.design.epochs)}s for all "
                f"{self.plan.design.epochs} epochs)"
            )
        if epochs == PILOT_EPOCHS:
            self._plan(trial)
        if epochs in trial.design.spending:
            self._judge(trial, trial.design.spending[epochs])

    def _plan(self, trial: Trial) -> None:
        """After the pilot: how many epochs, from the time they take and the noise of the null control."""
        live = [q for q in trial.questions if q.key not in trial.verdicts]
        noise = pooled_noise(trial.of(q.key) for q in live)
        margin = max(q.margin for q in live)
        base = self.plan.design
        fit = PILOT_EPOCHS + int(self._left() / self.longest_epoch)
        epochs = base.epochs
        if self.plan.detect is not None:
            epochs = next(
                (
                    n
                    for n in range(8, MOST_EPOCHS + 1)
                    if detectable(noise, _with(base, n), margin, len(live)) <= self.plan.detect
                ),
                MOST_EPOCHS,
            )
            if not self.plan.budget_was_asked:
                fit = MOST_EPOCHS
                self.budget = max(self.budget, (epochs + 1) * self.longest_epoch)
        design = _with(base, max(base.fewest, min(epochs, fit)))
        least = detectable(noise, design, margin, len(live))
        if self.plan.detect is not None and least > self.plan.detect:
            raise TooLittleTimeError(self._cannot_detect(noise, margin, len(live), epochs, least))
        trial.design = design
        trial.prediction = Prediction(
            noise=noise,
            pilot_epochs=PILOT_EPOCHS,
            epochs=design.epochs,
            rounds=round(statistics.fmean(self.rounds.values())),
            detectable=least,
            seconds=self.clock() - self.begin + (design.epochs - PILOT_EPOCHS) * self.longest_epoch,
        )
        self.tell(
            f"pilot: noise {noise:.1%} an epoch; a slowdown of {least:.1%} will be found with "
            f"{design.power:.0%} power; at most {design.epochs} epochs, about {trial.prediction.seconds:.0f} s"
        )

    def _cannot_detect(self, noise: float, margin: float, cells: int, epochs: int, least: float) -> str:
        asked = self.plan.detect
        assert asked is not None
        reachable = detectable(noise, _with(self.plan.design, epochs), margin, cells) <= asked
        remedy = (
            f"type --time-budget {math.ceil((epochs + 1) * self.longest_epoch)}s"
            if reachable
            else f"not even {MOST_EPOCHS} epochs would: find a quieter machine (mnv3-bench doctor) or type a larger "
            "--detect"
        )
        return (
            f"with noise of {noise:.1%} an epoch, {asked:.1%} cannot be detected in the time given "
            f"(the least is {least:.1%}); {remedy}"
        )

    def _judge(self, trial: Trial, alpha: float) -> None:
        """One look: the null control first, then every cell that has no verdict yet."""
        live = {q.key: q for q in trial.questions if q.key not in trial.verdicts}
        margins = {key: question.margin for key, question in live.items()}
        nulls = {key: [found.null for found in trial.of(key)] for key in live}
        epochs = len(trial.epochs)
        for key in tripped(nulls, margins, alpha):
            self._decide(trial, key, Verdict.INVALID, epochs)
            ratio = math.exp(statistics.fmean(nulls.pop(key)))
            trial.reasons[key] = (
                f"the null control tripped: a second base worker took {ratio:.3f} times as long as the first"
            )
        differences = {key: [found.difference for found in trial.of(key)] for key in nulls}
        for key, judgement in judge(differences, margins, alpha, self.plan.seed).items():
            trial.p_values[key] = judgement.p_value
            if judgement.verdict is Verdict.INCONCLUSIVE:
                continue
            self._decide(trial, key, judgement.verdict, epochs)
            uneven = uneven_interference(trial.of(key), judgement.verdict)
            if uneven is not None:
                trial.verdicts[key] = Verdict.INVALID
                trial.reasons[key] = uneven
        undecided = len(trial.questions) - len(trial.verdicts)
        self.tell(f"look after {epochs} epochs: {len(trial.verdicts)} decided, {undecided} not yet")

    @staticmethod
    def _decide(trial: Trial, key: str, verdict: Verdict, epochs: int) -> None:
        trial.verdicts[key] = verdict
        trial.decided_at[key] = epochs

    def _last_look(self, trial: Trial) -> None:
        """The time is spent: what no look has spent of alpha goes into one now."""
        epochs = len(trial.epochs)
        left = trial.design.left_after(epochs)
        undecided = any(q.key not in trial.verdicts for q in trial.questions)
        if epochs >= FEWEST_EPOCHS and left > 0 and undecided:
            self._judge(trial, left)


def performer_key(role: Role, cell: str) -> str:
    """The stage's name for one arm of a cell."""
    return f"{role} {cell}"


def pooled_noise(cells: Iterable[Sequence[CellEpoch]]) -> float:
    """s_d from the null control alone: blind to the head, so planning from it does not favour a verdict.

    ln(head) - mean of two bases has 3/4 of the variance of ln(null) - ln(base) where workers differ alike.
    """
    variances = [statistics.variance(found.null for found in mine) for mine in cells if len(mine) > 1]
    return math.sqrt(0.75 * statistics.fmean(variances)) if variances else 0.0


def uneven_interference(epochs: Sequence[CellEpoch], verdict: Verdict) -> str | None:
    """Why a verdict may be the load's and not the code's: one arm met clearly more of it than the other.

    A slowdown may come from load on the head, and be hidden by load on the base. A one-sided t bound at 99 % over
    epochs, of the CPU seconds others took a second of the arm's blocks.
    """
    from mnv3_reports.statistics import t_interval

    if len(epochs) < 2:
        return None
    more, less, doubt = (
        ("head", "base", "the slowdown may be the machine's")
        if verdict is Verdict.FAIL
        else ("base", "head", "a slowdown may be hidden")
    )
    sign = 1 if verdict is Verdict.FAIL else -1
    excess = t_interval((sign * (e.head_interference - e.base_interference) for e in epochs), 0.98)
    if excess.low <= INTERFERENCE:
        return None
    return (
        f"the {more} arm was measured under more load than the {less} ({excess.estimate:.2f} CPUs more were busy with "
        f"something else): {doubt}"
    )


def _interference(blocks: Iterable[Block]) -> float:
    """CPU seconds that others took, a second of these blocks."""
    mine = list(blocks)
    taken = sum(block.other_cpu_seconds + block.steal_seconds + block.throttled_seconds for block in mine)
    return taken / sum(block.wall_seconds for block in mine)


def _with(design: Design, epochs: int) -> Design:
    return Design(epochs=epochs, alpha=design.alpha, power=design.power)
