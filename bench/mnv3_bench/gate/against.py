"""This callable against that callable, by the gate's own paired statistic.

Two functions each do their set-up and return a callable without arguments. What the gate does with networks is done
with those: epochs of fresh interpreters (base, base again as null control, head), passes of short blocks in shuffled
order, looks that spend alpha (docs/gate.md). The pytest plugin asks here; nothing here knows pytest.
"""

from __future__ import annotations

import math
import os
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import msgspec

from mnv3_bench.callables import REPEATS, Address, address
from mnv3_bench.environment import affinity_list, usable_cpus
from mnv3_bench.errors import UsageError
from mnv3_bench.gate.rules import DEFAULT_MARGIN
from mnv3_bench.gate.rules import margin as read_margin
from mnv3_bench.gate.trial import (
    ROLES,
    CellEpoch,
    Question,
    Stage,
    TooLittleTimeError,
    Trial,
    TrialPlan,
    Umpire,
    performer_key,
    since_boot,
)
from mnv3_bench.launcher import Launcher
from mnv3_bench.plan import Limits
from mnv3_bench.quantities import seconds as read_seconds
from mnv3_bench.stage import Performer, WorkerStage
from mnv3_reports import units
from mnv3_reports.escaping import plain
from mnv3_reports.record import Cell, Failure
from mnv3_reports.sequential import FEWEST_EPOCHS, Design, detectable
from mnv3_reports.statistics import Interval, log_interval, median, spread
from mnv3_reports.verdict import Noise, Verdict
from mnv3_reports.verdict_words import allowed, change

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mnv3_bench.protocol import Turned

    Make = Callable[[], Callable[[], object]]

DEFAULT_TIME_BUDGET = "20s"
DEFAULT_TIMEOUT = "2m"
SAMPLE_SECONDS = 1e-4
"""A timed call lasts at least about this long: reading the clock (some 50 ns) is then 0.05 % of it."""
TOOLS_IN_WORKERS = ("COV_CORE_", "COVERAGE_PROCESS_")
"""Variables by which coverage measuring starts itself in child processes; a traced call takes several times as long."""


class Comparison(msgspec.Struct, frozen=True):
    """What measuring two callables against each other found. Durations are seconds a call, ratios head over base."""

    base: str
    head: str
    """Names of the functions."""
    verdict: Verdict
    reason: str
    """One line: why this verdict."""
    margin: float
    """Relative slowdown that is tolerated (0.03 is 3 %)."""
    ratio: Interval | None = None
    """Head over base with its 95 % interval over epochs."""
    null: Interval | None = None
    """The null control: a second base worker over the first."""
    noise: float | None = None
    """Standard deviation over epochs of the logarithm of the ratio."""
    detectable: float | None = None
    """Smallest slowdown that so many epochs fail with 80 % power, relative."""
    epochs: int = 0
    decided_at: int | None = None
    """Epochs after which the verdict fell; None while it did not."""
    p_value: float | None = None
    """Of 'not slower than the margin'."""
    base_seconds: float | None = None
    head_seconds: float | None = None
    """Median call, geometric mean over epochs."""
    base_blocks: tuple[float, ...] = ()
    """Median call of every block, of both base workers."""
    head_blocks: tuple[float, ...] = ()
    block_calls: int = 0
    """Calls of a block."""
    disturbance: Noise | None = None
    seconds: float = 0.0
    """How long the whole comparison took."""
    failure: Failure | None = None
    """Why an arm could not be run; the verdict is then FAIL (the head) or INVALID (the base)."""

    @property
    def passed(self) -> bool:
        """Shown to be slower by less than the margin. False also where nothing was shown."""
        return self.verdict is Verdict.PASS

    @property
    def failed(self) -> bool:
        """Shown to be slower by more than the margin, or the head does not run at all."""
        return self.verdict is Verdict.FAIL

    @property
    def line(self) -> str:
        """Everything but the verdict, on one line."""
        parts = [f"{self.head} against {self.base}"]
        if self.ratio is not None:
            parts[0] += f" {change(self.ratio, self.margin)} (allowed {allowed(self.margin)})"
        if self.base_seconds is not None and self.head_seconds is not None:
            parts.append(f"{duration(self.base_seconds)} -> {duration(self.head_seconds)}")
        if self.epochs:
            parts.append(units.counted(self.epochs, "epoch"))
        if self.noise is not None:
            parts.append(f"noise {units.percent(self.noise)}")
        if self.detectable is not None:
            parts.append(f"would detect +{units.percent(self.detectable)}")
        figures = ", ".join(parts)
        return figures if self.passed else f"{figures}: {plain(self.reason)}"

    def __str__(self) -> str:
        return f"{self.verdict.upper()}: {self.line}"

    def __repr__(self) -> str:
        return f"<{self}>"


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What is compared, and how long it may take."""

    base: Address
    head: Address
    margin: float
    time_budget: float
    """Seconds."""
    threads: int = 1
    seed: int = 0
    design: Design = field(default_factory=Design)

    @property
    def cell(self) -> str:
        """The gate's name for what is compared: a pair has one cell."""
        return Cell("callable", "python", threads=self.threads).key

    @property
    def names(self) -> tuple[str, str]:
        """Of base and head; with their modules where different functions have one name."""
        if self.base.function != self.head.function or self.base == self.head:
            return self.base.function, self.head.function
        return f"{self.base.module}.{self.base.function}", f"{self.head.module}.{self.head.function}"


def compare(
    base: Make,
    head: Make,
    *,
    margin: str | float = DEFAULT_MARGIN,
    time_budget: str | float = DEFAULT_TIME_BUDGET,
    threads: int = 1,
    timeout: str | float = DEFAULT_TIMEOUT,
    seed: int = 0,
    tell: Callable[[str], None] | None = None,
) -> Comparison:
    """Measure two callables against each other.

    Args:
        base: a function at the top level of a file that does the set-up and returns the callable to be timed. It is
            called in many fresh interpreters and never in this one.
        head: the same for the callable that must not be slower.
        margin: relative slowdown that is tolerated, such as '3%' or 0.03.
        time_budget: for the whole comparison, such as '20s'; it ends earlier once the verdict is clear.
        threads: that each callable uses; its workers are bound to so many CPUs.
        timeout: after which an import, a set-up or a block counts as hanging.
        seed: of the order of turns.
        tell: takes lines of progress.

    Raises:
        UsageError: a function cannot be found by another interpreter, or a setting means nothing.
    """
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise UsageError(f"threads is {threads!r}; expected a whole number of at least 1")
    terms = Terms(
        base=address(base, "base"),
        head=address(head, "head"),
        margin=read_margin(margin, "margin"),
        time_budget=read_seconds(time_budget, "time_budget"),
        threads=threads,
        seed=seed,
    )
    limits = Limits.all_at(read_seconds(timeout, "timeout"), None)
    with ExitStack() as ends:
        folder = Path(ends.enter_context(TemporaryDirectory(prefix="mnv3-bench-")))
        ends.enter_context(without_tools())

        def stage(repeats: int) -> Stage:
            launcher = Launcher(folder / str(repeats), memory_limit=None, variables={REPEATS: str(repeats)})
            ends.callback(launcher.kill_all)
            return WorkerStage(_performers(terms, launcher), limits, usable_cpus(), lambda: None)

        return hold(terms, stage, affinity_list(), tell=tell or (lambda _: None))


def _performers(terms: Terms, launcher: Launcher) -> dict[str, Performer]:
    """The three arms, each in interpreters of its own: a fork would share what the first import made of memory."""
    arms = {"base": terms.base, "null": terms.base, "head": terms.head}
    performers = {}
    for role in ROLES:
        key = performer_key(role, terms.cell)
        performers[key] = Performer(
            key=key,
            file_name=role,
            modules=(),
            forkable=False,
            threads=terms.threads,
            load=arms[role].order(),
            launcher=launcher,
        )
    return performers


def hold(
    terms: Terms,
    stage: Callable[[int], Stage],
    cpus: Sequence[int],
    *,
    tell: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = since_boot,
) -> Comparison:
    """Find out how many calls make a timed call, then hold the trial.

    Args:
        terms: what is compared.
        stage: makes a stage whose workers make so many calls a timed call.
        cpus: that workers may be bound to.
        tell: takes lines of progress.
        clock, wall: as `Umpire`'s.
    """
    begin = clock()
    first = NotingStage(stage(1))
    base = performer_key("base", terms.cell)
    try:
        call_seconds = first.start([base], 0)[base]
    finally:
        first.stop()
    if isinstance(call_seconds, Failure):
        reason = f"the base arm failed ({call_seconds.phase}): {call_seconds.reason}"
        return _unmeasured(terms, reason, clock() - begin, call_seconds)
    repeats = max(1, math.ceil(SAMPLE_SECONDS / call_seconds))
    noting = NotingStage(stage(repeats))
    spent = clock() - begin
    plan = TrialPlan(design=terms.design, time_budget=max(0.0, terms.time_budget - spent), seed=terms.seed)
    umpire = Umpire(noting, plan, cpus, record=lambda _: None, tell=tell, clock=clock, wall=wall)
    question = Question(key=terms.cell, margin=terms.margin, threads=terms.threads)
    too_little = None
    try:
        umpire.run([question])
    except TooLittleTimeError:
        needed = math.ceil(spent + (terms.design.fewest + 0.5) * umpire.longest_epoch)
        too_little = (
            f"an epoch takes {units.duration(umpire.longest_epoch)} and a verdict needs {terms.design.fewest}; "
            f"give it a time budget of {needed}s or more"
        )
    return conclude(terms, umpire.trial, repeats, clock() - begin, noting.failure, too_little)


def conclude(
    terms: Terms,
    trial: Trial,
    repeats: int,
    seconds: float,
    failure: Failure | None = None,
    reason: str | None = None,
) -> Comparison:
    """What a trial found, in the terms of calls.

    Args:
        terms: what was compared.
        trial: as the umpire left it.
        repeats: calls that made a timed call.
        seconds: that everything took.
        failure: of an arm.
        reason: why there is no verdict, where that is known.
    """
    key = terms.cell
    epochs = trial.of(key)
    differences = [math.exp(found.difference) for found in epochs]
    noise = spread(differences)
    verdict = trial.verdicts.get(key, Verdict.INCONCLUSIVE)
    base, head = terms.names
    blocks = _blocks(epochs, repeats)
    return Comparison(
        base=base,
        head=head,
        verdict=verdict,
        reason=reason or trial.reasons.get(key) or _reason(verdict, terms, len(epochs)),
        margin=terms.margin,
        ratio=log_interval(differences) if epochs else None,
        null=log_interval(math.exp(found.null) for found in epochs) if epochs else None,
        noise=noise,
        detectable=(
            detectable(
                noise, replace(trial.design, epochs=max(FEWEST_EPOCHS, len(epochs))), terms.margin, cells=1
            )
            if noise is not None
            else None
        ),
        epochs=len(epochs),
        decided_at=trial.decided_at.get(key),
        p_value=trial.p_values.get(key),
        base_seconds=_geometric_mean([found.base_seconds / repeats for found in epochs]),
        head_seconds=_geometric_mean([found.head_seconds / repeats for found in epochs]),
        base_blocks=(*blocks["base"], *blocks["null"]),
        head_blocks=tuple(blocks["head"]),
        block_calls=repeats * len(epochs[0].blocks[0].samples_ns) if epochs else 0,
        disturbance=trial.noise(key),
        seconds=seconds,
        failure=failure,
    )


def _unmeasured(terms: Terms, reason: str, seconds: float, failure: Failure) -> Comparison:
    base, head = terms.names
    return Comparison(base, head, Verdict.INVALID, reason, terms.margin, seconds=seconds, failure=failure)


def _reason(verdict: Verdict, terms: Terms, epochs: int) -> str:
    margin = f"the margin of {allowed(terms.margin)}"
    match verdict:
        case Verdict.PASS:
            return f"slower by less than {margin}, if at all"
        case Verdict.FAIL:
            return f"slower by more than {margin}"
        case _ if epochs < terms.design.fewest:
            return (
                f"the time was over after {units.counted(epochs, 'epoch')} and a verdict needs {terms.design.fewest}; "
                "give it a longer time budget"
            )
        case _:
            return (
                f"{units.counted(epochs, 'epoch')} did not show on which side of {margin} it lies; "
                "give it a longer time budget or a larger margin"
            )


def _blocks(epochs: Sequence[CellEpoch], repeats: int) -> dict[str, list[float]]:
    """Seconds a call, one value a block, by role."""
    found: dict[str, list[float]] = {role: [] for role in ROLES}
    for epoch in epochs:
        for block in epoch.blocks:
            found[block.cell.partition(" ")[0]].append(median(block.samples_ns) / 1e9 / repeats)
    return found


def _geometric_mean(values: Sequence[float]) -> float | None:
    return math.exp(math.fsum(map(math.log, values)) / len(values)) if values else None


class NotingStage:
    """A stage that remembers the failure its trial ended with: an umpire keeps one line of it, people need its tail."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.failure: Failure | None = None

    def start(self, keys: Sequence[str], epoch: int) -> dict[str, float | Failure]:
        """As the stage's own."""
        speeds = self.stage.start(keys, epoch)
        for found in speeds.values():
            self._note(found)
        return speeds

    def bind(self, cpus: set[int]) -> None:
        """As the stage's own."""
        self.stage.bind(cpus)

    def turn(self, key: str, discard: int, calls: int) -> Turned | Failure:
        """As the stage's own."""
        turned = self.stage.turn(key, discard, calls)
        self._note(turned)
        return turned

    def clear(self) -> None:
        """As the stage's own."""
        self.stage.clear()

    def stop(self) -> None:
        """As the stage's own."""
        self.stage.stop()

    def _note(self, found: object) -> None:
        # The first one: it is what the umpire goes by.
        if self.failure is None and isinstance(found, Failure):
            self.failure = found


@contextmanager
def without_tools() -> Iterator[None]:
    """Keep tools that trace child processes out of the workers."""
    taken = {name: value for name, value in os.environ.items() if name.startswith(TOOLS_IN_WORKERS)}
    for name in taken:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(taken)


def duration(seconds: float) -> str:
    """Seconds in the unit people read: ns, µs, ms or s."""
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= 0.9995 * scale:  # no figure reads as 1,000 of a unit
            return f"{units.significant(seconds / scale)} {unit}"
    return f"{units.significant(seconds / 1e-9)} ns"
