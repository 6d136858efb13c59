"""Settings of one cell, tried with real workers: what `tuning.Search` measures with.

Workers are called with inputs made for this purpose alone, so that the winner is later measured on others. Candidates
and the default take turns in short blocks, in an order shuffled by the run's seed; ratios are formed within a round.
With one thread, all workers of an epoch are bound to one CPU, the next epoch's to another: CPUs of a shared machine
differ by percents for minutes, and a worker tends to stay where it was started (docs/gate.md). With more threads they
are free to move, since sharing a core would change what a setting is good for.
"""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import msgspec

from mnv3_bench.backends import get_backend
from mnv3_bench.cache import digest
from mnv3_bench.coldstart import ColdStarts, load_order
from mnv3_bench.conductor import DISCARD_SECONDS
from mnv3_bench.environment import affinity_list, usable_cpus
from mnv3_bench.launcher import CAN_FORK
from mnv3_bench.prepare import Preparer
from mnv3_bench.stage import Performer, WorkerStage
from mnv3_bench.tuning import DefaultFailedError, single_changes
from mnv3_reports.record import Cell, Explained, Failure, Inspected, Note, Prepared
from mnv3_reports.statistics import median

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mnv3_bench.cache import Store
    from mnv3_bench.keys import Keys
    from mnv3_bench.launcher import Launcher
    from mnv3_bench.plan import Limits
    from mnv3_bench.prepare import Artifacts
    from mnv3_bench.protocol import Turned
    from mnv3_reports.record import Entry, Request, Run

BLOCK_SECONDS = 0.05
FEWEST_CALLS = 2
FEWEST_ROUNDS, MOST_ROUNDS = 4, 20
MEASURING_SHARE = 0.5
"""Of an epoch's starting: fresh processes differ by more than rounds do, so time goes to epochs."""
PATIENCE_SECONDS, PATIENCE_FACTOR = 10.0, 5.0
"""A setting gets ten seconds and five times what the default needs for everything up to its outputs; then it hangs."""
STARTING_SECONDS = 5.0
"""Starting a process that converts, and importing what it converts with."""
LEAST_BUILD_SECONDS = 5.0
"""However little time is left when a build begins."""


class Stage(Protocol):
    """Where workers perform: `mnv3_bench.stage.WorkerStage`, or a fake one."""

    def start(self, keys: Sequence[str], epoch: int) -> dict[str, float | Failure]:
        """Start a worker for each and leave it warm and paused. Key to seconds a call, or why it failed."""

    def bind(self, cpus: set[int]) -> None:
        """Let every worker run on these CPUs only."""

    def turn(self, key: str, discard: int, calls: int) -> Turned | Failure:
        """Let one worker run a block, then pause it again."""

    def stop(self) -> None:
        """End every worker and what they were forked from."""


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """What the searches of a run have in common."""

    request: Request
    keys: Keys
    store: Store
    artifacts: Artifacts
    launcher: Launcher
    limits: Limits
    memory_bytes: int
    """What the workers of one moment may use together."""
    build_width: int
    """Builds side by side."""
    tick: Callable[[], None] = lambda: None


class CellBench:
    """Tries settings of one cell. A `tuning.Bench`."""

    def __init__(
        self,
        cell: Cell,
        prepared: Prepared,
        inspected: Inspected,
        shop: Workshop,
        *,
        stage: Stage | None = None,
        cpus: Sequence[int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args that need a word.

        prepared, inspected: of the cell with its own settings.
        stage: where workers perform; processes of this machine unless given.
        cpus: that workers may be bound to; those of this process unless given.
        """
        self.cell = cell
        self.inspected = inspected
        self.shop = shop
        self.cpus = affinity_list() if cpus is None else list(cpus)
        self.clock = clock
        needed = inspected.import_seconds + inspected.load_seconds + inspected.first_seconds
        limit = PATIENCE_SECONDS + PATIENCE_FACTOR * (needed + 32 * inspected.call_seconds)
        own = shop.limits
        names = ("load", "first", "warm_up", "check", "turn")
        self.limits = replace(own, **{name: min(getattr(own, name), limit) for name in names})
        self.width = max(1, usable_cpus() // cell.threads)
        self.alive = max(2, shop.memory_bytes // max(1, inspected.peak_bytes))
        """Workers at one moment."""
        self.performers: dict[str, Performer] = {}
        self.stage = stage or WorkerStage(self.performers, self.limits, usable_cpus(), shop.tick)
        self.prepared = {cell.backend: prepared}
        self.inspections: dict[str, Inspected] = {}
        """Of the settings whose outputs were checked."""

    def pace(self) -> float:
        """About how many seconds a worker takes, of an epoch of two and what they are forked from."""
        known = self.inspected
        forked = CAN_FORK and get_backend(self.cell.backend).info.forkable
        pairs = 2 / self.width
        start = pairs * (known.load_seconds + known.first_seconds + known.warm_calls * known.call_seconds)
        start += known.import_seconds * (1.0 if forked else pairs)
        block = (_calls(known.call_seconds) + _discarded(known.call_seconds)) * known.call_seconds
        measuring = max(MEASURING_SHARE * start, 2 * FEWEST_ROUNDS * block)
        return (start + measuring) / 3

    def build_seconds(self, backend: str) -> float:
        """About how long preparing will take: as long as the default's took; 0 where the artifact is there."""
        key = self.shop.keys.artifact(self._with(backend))
        if self._shares_artifact(backend) or self.shop.store.find(key) is not None:
            return 0.0
        return self.prepared[self.cell.backend].build_seconds + STARTING_SECONDS

    def prepare(self, backends: Sequence[str], seconds: float) -> dict[str, str]:
        """Prepare these, none of them longer than so many seconds. What could not be prepared, and why."""
        failures: dict[str, str] = {}
        building: list[Cell] = []
        for backend in backends:
            unable = get_backend(backend).unavailable() if self.cell.device == "cpu" else None
            if unable is not None:
                failures[backend] = unable
            elif self._shares_artifact(backend):
                key, own = self._with(backend).key, self.prepared[self.cell.backend]
                self.shop.artifacts.directories[key] = self.shop.artifacts.directories[self.cell.key]
                self.prepared[backend] = msgspec.structs.replace(own, cell=key)
            else:
                building.append(self._with(backend))
        if building:
            limit = min(self.shop.limits.prepare, max(LEAST_BUILD_SECONDS, seconds))
            for entry in self._build(building, replace(self.shop.limits, prepare=limit), explain=False):
                if isinstance(entry, Failure):
                    failures[Cell.from_key(entry.cell).backend] = _reason(entry)
                elif isinstance(entry, Prepared):
                    self.prepared[Cell.from_key(entry.cell).backend] = entry
        return failures

    def check(self, backends: Sequence[str]) -> dict[str, str]:
        """Inspect each as every cell is inspected. Which one is unfit, and why."""
        failures: dict[str, str] = {}

        def keep(entry: Entry) -> None:
            if isinstance(entry, Failure):
                failures[Cell.from_key(entry.cell).backend] = _reason(entry)
            elif isinstance(entry, Inspected):
                self.inspections[Cell.from_key(entry.cell).backend] = entry

        starts = ColdStarts(self.shop.artifacts, self.shop.launcher, self.limits, keep, lambda _: None)
        starts.run([self._with(each) for each in backends], min(self.width, self.alive), self.shop.tick)
        return failures

    def epoch(self, backends: Sequence[str], number: int) -> dict[str, float | str]:
        """Measure these and the default in fresh workers, as many at once as fit into memory.

        Raises:
            DefaultFailedError: the default's worker failed.
        """
        found: dict[str, float | str] = {}
        for first in range(0, len(backends), self.alive - 1):
            found.update(self._together(backends[first : first + self.alive - 1], number))
        return found

    def adopt(self, backend: str, record: Callable[[Entry], None]) -> None:
        """Record what is known of the winner as of any other cell: its artifact, its profile and its inspection."""
        cell = self._with(backend)
        for entry in self._build([cell], self.shop.limits, explain=True):
            if isinstance(entry, Prepared):
                record(self.prepared.get(backend, entry))
            elif isinstance(entry, Note) or (
                isinstance(entry, Explained | Failure) and entry.cell == cell.key
            ):
                record(entry)
        if backend in self.inspections:
            record(self.inspections[backend])

    def _with(self, backend: str) -> Cell:
        return msgspec.structs.replace(self.cell, backend=backend)

    def _shares_artifact(self, backend: str) -> bool:
        keys = self.shop.keys
        return digest(keys.artifact(self._with(backend))) == digest(keys.artifact(self.cell))

    def _build(self, cells: Sequence[Cell], limits: Limits, *, explain: bool) -> list[Entry]:
        entries: list[Entry] = []
        shop = self.shop
        preparer = Preparer(
            shop.request,
            tuple(cells),
            shop.store,
            shop.launcher,
            limits,
            entries.append,
            lambda *_: None,
            explain=explain,
        )
        shop.artifacts.directories.update(preparer.run(shop.build_width, shop.tick).directories)
        return entries

    def _performer(self, cell: Cell) -> Performer:
        """With the inputs of this purpose, and logs that measuring will not overwrite."""
        performer = Performer.of(cell, self.shop.artifacts, self.shop.launcher)
        load = load_order(cell, self.shop.artifacts, "tuning")
        return replace(performer, load=load, file_name=f"tune-{performer.file_name}")

    def _together(self, backends: Sequence[str], number: int) -> dict[str, float | str]:
        """One epoch of settings that are alive at the same time."""
        cells = {self._with(each).key: each for each in backends}
        for cell in (self.cell, *map(self._with, backends)):
            if cell.key not in self.performers:
                self.performers[cell.key] = self._performer(cell)
        found: dict[str, float | str] = {}
        chance = random.Random(f"{self.shop.request.seed}/tuning/{self.cell.key}/{number}")
        order = [self.cell.key, *cells]
        chance.shuffle(order)
        started = self.clock()
        try:
            speeds: dict[str, float] = {}
            for key, speed in self.stage.start(order, number).items():
                if not isinstance(speed, Failure):
                    speeds[key] = speed
                elif key == self.cell.key:
                    raise DefaultFailedError(_reason(speed))
                else:
                    found[cells[key]] = _reason(speed)
            if self.cell.threads == 1 and len(self.cpus) > 1:
                self.stage.bind({self.cpus[number % len(self.cpus)]})
            starting = self.clock() - started
            logs, failed = self._rounds(speeds, chance, starting)
        finally:
            self.stage.stop()
        found.update({cells[key]: median(values) for key, values in logs.items() if key not in failed})
        found.update({cells[key]: reason for key, reason in failed.items()})
        return found

    def _rounds(
        self, speeds: dict[str, float], chance: random.Random, starting: float
    ) -> tuple[dict[str, list[float]], dict[str, str]]:
        """Rounds of one block each. The rounds' ln(time / default's), and what failed."""
        # The same number of calls for all, or a block's median would mean different things.
        calls, discarded = _calls(speeds[self.cell.key]), _discarded(speeds[self.cell.key])
        length = sum((calls + discarded) * speed for speed in speeds.values())
        rounds = min(MOST_ROUNDS, max(FEWEST_ROUNDS, int(MEASURING_SHARE * starting / length)))
        logs: dict[str, list[float]] = {key: [] for key in speeds if key != self.cell.key}
        failed: dict[str, str] = {}
        for _ in range(rounds):
            order = [key for key in speeds if key not in failed]
            if order == [self.cell.key]:
                break
            chance.shuffle(order)
            times: dict[str, float] = {}
            for key in order:
                turned = self.stage.turn(key, discarded, calls)
                if not isinstance(turned, Failure):
                    times[key] = median(turned.samples_ns)
                elif key == self.cell.key:
                    raise DefaultFailedError(_reason(turned))
                else:
                    failed[key] = _reason(turned)
            for key in times.keys() - {self.cell.key}:
                logs[key].append(math.log(times[key] / times[self.cell.key]))
        return logs, failed


def to_tune(run: Run) -> list[Cell]:
    """Cells that were asked for, have switches to be tried, and have not been searched yet. The slow builders last.

    What is left of the others' time is theirs.
    """
    searched = {tuned.cell for tuned in run.tuned}
    records = [run.cells[key] for key in run.header.cells if key not in searched]
    cells = [
        record.cell
        for record in records
        if record.failure is None and single_changes(get_backend(record.cell.backend))
    ]
    return sorted(cells, key=lambda cell: get_backend(cell.backend).info.needs_compiler)


def _calls(call_seconds: float) -> int:
    return max(FEWEST_CALLS, round(BLOCK_SECONDS / call_seconds))


def _discarded(call_seconds: float) -> int:
    return min(20, max(1, math.ceil(DISCARD_SECONDS / call_seconds)))


def _reason(failure: Failure) -> str:
    """One line; the launcher's advice is left out, for `--limit-time` is not what limits a search."""
    return f"{failure.phase}: {failure.reason.partition(' (raise --limit-time')[0]}"
