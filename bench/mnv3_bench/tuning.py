"""Searching a backend's switches for faster settings: what to try, what counts as faster, when to stop.

1. *Screening*: the default and every change of a single switch, side by side. What is clearly slower drops out early.
2. *Combining*: where changes of several switches are better by more than the noise, all of their combinations (or
   only all of them together, where that would be many) are screened too.
3. *Confirming*: the fastest of all against the default, in epochs of their own. Settings that were chosen for having
   looked fastest look faster than they are, so what they were chosen by is not what they are judged by: the winner is
   faster if the 95 % interval over the new epochs alone lies below 1. It is one test a search, with a number of epochs
   that is fixed before the first of them, so at most 2.5 % of searches among equals name a winner.

The sampling unit is the epoch, a set of fresh processes, as everywhere (docs/methodology.md): what is measured of an
epoch is one number a setting, the logarithm of its time over the default's.

The number of threads is no switch and is not searched: it is part of the cell that was asked for, and of what it may be
compared with. `--threads 1,2` measures both. A switch that was set by the user (`backend:switch=value`) stays as it is.

This module knows neither processes nor clocks; a `Bench` measures.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Protocol

from mnv3_reports.record import Candidate
from mnv3_reports.statistics import Interval, log_interval, t_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from mnv3_bench.backends.base import Backend

NOT_TRIED = "not tried, budget"
WORTHWHILE = 0.01
"""Smallest gain, in the search, that is worth a setting: half of what a report tells apart by default."""
FEWEST_SCREENING, MOST_SCREENING = 3, 8
FEWEST_CONFIRMING, MOST_CONFIRMING = 4, 20
"""Epochs. Four give an interval three times the standard deviation of one epoch wide; each further one narrows it."""
SCREENING_SHARE = 0.4
"""Of the time left, for each screening that has made its fewest epochs; the rest is for what follows."""
FEW_COMBINATIONS = 4
"""Up to three switches with a better value each; beyond, only all of them together."""
NOISE_CONFIDENCE = 0.8
"""Of the interval that a change has to beat to be combined with others. A false one costs an epoch's place."""
POWER = 0.8
EXPECTED_SHARE = 2 / 3
"""Of a gain seen in screening, for planning how long to confirm: what was chosen for its gain has less of it."""


class DefaultFailedError(Exception):
    """The default settings cannot be measured, so nothing can be compared with them."""


class Bench(Protocol):
    """Where settings of one cell are tried. Settings are backends' names, `backend:switch=value`."""

    def pace(self) -> float:
        """About how many seconds a worker of an epoch takes, before any epoch was measured."""

    def build_seconds(self, backend: str) -> float:
        """About how long preparing will take; 0 where the artifact is there."""

    def prepare(self, backends: Sequence[str], seconds: float) -> dict[str, str]:
        """Prepare these, none of them longer than so many seconds. What could not be prepared, and why."""

    def check(self, backends: Sequence[str]) -> dict[str, str]:
        """Load each once and compare its outputs with the reference. Which one is unfit, and why."""

    def epoch(self, backends: Sequence[str], number: int) -> dict[str, float | str]:
        """Measure these and the default in fresh workers. ln(time / default's), or why it failed.

        Raises:
            DefaultFailedError: the default's worker failed.
        """


@dataclass
class Tried:
    """Settings and what is known of them."""

    backend: str
    changes: dict[str, str]
    """The switches that differ from the cell's own."""
    screened: list[float] = field(default_factory=list)
    """ln(time / default's), an epoch."""
    confirmed: list[float] = field(default_factory=list)
    """The same, of the epochs that decide."""
    failure: str | None = None
    checked: bool = False

    @property
    def gain(self) -> float:
        """How much faster it looks, as a share, by the epochs it was chosen by."""
        return -math.expm1(statistics.fmean(self.screened))

    def screening(self, confidence: float = 0.95) -> Interval | None:
        """Interval for ln(time / default's); None before the first epoch."""
        return t_interval(self.screened, confidence) if self.screened else None

    def candidate(self) -> Candidate:
        """For the record; of settings that were put to the test, the epochs that decided."""
        logs = self.confirmed or self.screened
        if self.failure is not None or not logs:
            return Candidate(self.backend, None, failure=self.failure or NOT_TRIED)
        found = log_interval(math.exp(value) for value in logs)
        return Candidate(
            self.backend,
            found.estimate,
            lower=found.low if found.bounded else None,
            upper=found.high if found.bounded else None,
            epochs=found.n,
        )


@dataclass(frozen=True)
class Found:
    """How a search ended."""

    winner: str | None
    """A backend's name with its settings."""
    candidates: tuple[Candidate, ...]
    stopped_because: str
    """searched, or budget where anything was left out or left open for want of time."""

    def summary(self) -> str:
        """In a few words, for the progress display."""
        if self.winner is not None:
            (won,) = (each for each in self.candidates if each.backend == self.winner)
            return f"{won.ratio:.2f} of the default's time with {self.winner.partition(':')[2]}"
        return "nothing faster" + ("" if self.stopped_because == "searched" else " in the time it had")


def single_changes(backend: Backend) -> list[Tried]:
    """Every other value of every switch that may be tuned and that the user has not set."""
    return [
        changed(backend, {switch.name: value})
        for switch in backend.info.switches
        if switch.tuned and backend.settings[switch.name] == switch.values[0]
        for value in switch.values[1:]
    ]


def combinations(backend: Backend, better: Iterable[Tried]) -> list[Tried]:
    """Combinations of changes of one switch each: of each switch the best value, of each two or more switches."""
    best: dict[str, tuple[float, str]] = {}
    for tried in better:
        ((switch, value),) = tried.changes.items()
        best[switch] = max(best.get(switch, (-math.inf, "")), (tried.gain, value))
    values = {switch: value for switch, (_, value) in best.items()}
    sets = [
        {switch: value for (switch, value), taken in zip(values.items(), mask, strict=True) if taken}
        for mask in product((False, True), repeat=len(values))
        if sum(mask) >= 2
    ]
    return [changed(backend, each) for each in (sets if len(sets) <= FEW_COMBINATIONS else sets[-1:])]


def changed(backend: Backend, changes: Mapping[str, str]) -> Tried:
    """A backend with some switches changed."""
    return Tried(type(backend)({**backend.settings, **changes}).name, dict(changes))


class Search:
    """Searches the switches of one cell's backend."""

    def __init__(
        self,
        bench: Bench,
        backend: Backend,
        seconds: float,
        *,
        clock: Callable[[], float],
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Args that need a word.

        seconds: the search's budget. An epoch that has begun is finished.
        tell: is told what is being tried.
        """
        self.bench = bench
        self.backend = backend
        self.clock = clock
        self.tell = tell
        self.deadline = clock() + seconds
        self.tried: list[Tried] = []
        self.epochs = 0
        self.cut = False
        """Something was left out, or left open, for want of time."""
        self._worker_seconds = bench.pace()

    def run(self) -> Found:
        """Search.

        Raises:
            DefaultFailedError: the default settings cannot be measured.
        """
        self._screen(single_changes(self.backend))
        better = [tried for tried in self.tried if self._is_better(tried)]
        if len({switch for tried in better for switch in tried.changes}) > 1:
            self._check(better)
            self._screen(combinations(self.backend, [tried for tried in better if tried.failure is None]))
        winner = self._confirm()
        return Found(
            winner=winner.backend if winner is not None else None,
            candidates=tuple(tried.candidate() for tried in self.tried),
            stopped_because="budget" if self.cut else "searched",
        )

    def _left(self) -> float:
        return self.deadline - self.clock()

    def _seconds(self, workers: int) -> float:
        """What an epoch of so many workers takes: about one worker more, for what they are forked from."""
        return self._worker_seconds * (workers + 1)

    def _reserve(self) -> float:
        """Kept for confirming: its fewest epochs, and about another one for checking the outputs."""
        return self._seconds(2) * (FEWEST_CONFIRMING + 1)

    def _screen(self, tried: Sequence[Tried]) -> None:
        self.tried += tried
        live = self._begin(tried)
        until = self.clock() + SCREENING_SHARE * self._left()
        for epoch in range(MOST_SCREENING):
            enough = epoch >= FEWEST_SCREENING
            if not live or (enough and all(_surely_faster(each) for each in live)):
                break
            cost = self._seconds(len(live) + 1)
            if enough and self.clock() + cost > until:
                break
            if cost + self._reserve() > self._left():
                self.cut = True
                break
            self.tell(f"epoch {epoch + 1} of {_named(live)}")
            self._epoch(live, lambda each: each.screened)
            live = [each for each in live if each.failure is None and not _surely_slower(each)]

    def _begin(self, tried: Sequence[Tried]) -> list[Tried]:
        """Prepare what there is time for: to build it, to screen it, and to confirm something afterwards."""
        planned = FEWEST_SCREENING * self._seconds(1) + self._reserve()
        going = []
        for each in tried:
            cost = self.bench.build_seconds(each.backend) + FEWEST_SCREENING * self._worker_seconds
            if planned + cost > self._left():
                each.failure = NOT_TRIED
                self.cut = True
            else:
                planned += cost
                going.append(each)
        if going:
            self.tell(f"preparing {_named(going)}")
            failures = self.bench.prepare([each.backend for each in going], self._left())
            for each in going:
                each.failure = failures.get(each.backend)
        return [each for each in going if each.failure is None]

    def _epoch(self, live: Sequence[Tried], where: Callable[[Tried], list[float]]) -> None:
        started = self.clock()
        found = self.bench.epoch([each.backend for each in live], self.epochs)
        self.epochs += 1
        if not any(isinstance(result, str) for result in found.values()):
            # One that hangs says nothing of how long the next epoch will take.
            self._worker_seconds = (self.clock() - started) / (len(live) + 2)
        for each in live:
            result = found[each.backend]
            if isinstance(result, str):
                each.failure = result
            else:
                where(each).append(result)

    def _is_better(self, tried: Tried) -> bool:
        """Whether a change is better by more than the noise."""
        found = tried.screening(NOISE_CONFIDENCE) if tried.failure is None else None
        return found is not None and found.bounded and found.high < 0

    def _check(self, tried: Sequence[Tried]) -> None:
        """Throw out what computes something else."""
        waiting = [each for each in tried if each.failure is None and not each.checked]
        if not waiting:
            return
        self.tell(f"comparing the outputs of {_named(waiting)}")
        failures = self.bench.check([each.backend for each in waiting])
        for each in waiting:
            each.checked = True
            each.failure = failures.get(each.backend)

    def _confirm(self) -> Tried | None:
        """Put the fastest to the test; the next one only where that one fails, not where it loses."""
        while (finalist := self._fastest()) is not None:
            self._check([finalist])
            if finalist.failure is not None:
                continue
            wanted = epochs_to_tell(EXPECTED_SHARE * finalist.gain, self._noise())
            epochs = min(wanted, int(self._left() / self._seconds(2)))
            if epochs < FEWEST_CONFIRMING:
                self.cut = True
                return None
            if self._measure_again(finalist, epochs):
                if t_interval(finalist.confirmed).high < 0:
                    return finalist
                self.cut = self.cut or len(finalist.confirmed) < wanted
                return None
        return None

    def _measure_again(self, finalist: Tried, epochs: int) -> bool:
        """The epochs that decide, or what of them the time allows. Whether it lived through them."""
        for done in range(epochs):
            if done >= FEWEST_CONFIRMING and self._seconds(2) > self._left():
                break
            self.tell(f"confirming {_named([finalist])}, epoch {done + 1} of {epochs}")
            self._epoch([finalist], lambda each: each.confirmed)
            if finalist.failure is not None:
                return False
        return True

    def _fastest(self) -> Tried | None:
        able = [each for each in self.tried if each.failure is None and len(each.screened) > 1]
        best = max(able, key=lambda each: each.gain, default=None)
        return best if best is not None and best.gain >= WORTHWHILE else None

    def _noise(self) -> float:
        """Standard deviation of an epoch's logarithm, from all that was screened: three values alone tell little."""
        spreads = [statistics.variance(each.screened) for each in self.tried if len(each.screened) > 1]
        return math.sqrt(statistics.fmean(spreads))


def epochs_to_tell(gain: float, noise: float) -> int:
    """Epochs after which a true gain of this size is told from none with a probability of `POWER`.

    Args:
        gain: as a share, above 0.
        noise: standard deviation of an epoch's logarithm of the ratio.

    Returns:
        At least `FEWEST_CONFIRMING`; `MOST_CONFIRMING` where it would take more.
    """
    from scipy.special import stdtrit

    for epochs in range(FEWEST_CONFIRMING, MOST_CONFIRMING):
        quantiles = float(stdtrit(epochs - 1, 0.975)) + float(stdtrit(epochs - 1, POWER))
        if quantiles * noise / math.sqrt(epochs) <= -math.log1p(-gain):
            return epochs
    return MOST_CONFIRMING


def least_seconds(pace: float, candidates: int = 1) -> float:
    """The shortest search that can find anything, a worker of an epoch taking `pace` seconds; and a little to spare."""
    return 1.05 * pace * (FEWEST_SCREENING * (candidates + 2) + (FEWEST_CONFIRMING + 1) * 3)


def _surely_faster(tried: Tried) -> bool:
    found = tried.screening()
    return found is not None and found.bounded and found.high < 0


def _surely_slower(tried: Tried) -> bool:
    found = tried.screening()
    return found is not None and found.bounded and found.low > 0


def _named(tried: Sequence[Tried]) -> str:
    return ", ".join(":".join(f"{name}={value}" for name, value in each.changes.items()) for each in tried)
