"""Real workers for a conductor: started for an epoch, paused whenever it is not their turn."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from mnv3_bench.backends import get_backend
from mnv3_bench.coldstart import file_name, load_order
from mnv3_bench.conversations import side_by_side
from mnv3_bench.launcher import CAN_FORK, Launcher, Worker, WorkerError, expect
from mnv3_bench.protocol import (
    Done,
    First,
    Import,
    Load,
    LoadCallable,
    Message,
    Reply,
    Turn,
    Turned,
    Warm,
    WarmUp,
)
from mnv3_reports.record import Cell, Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from mnv3_bench.conversations import Task
    from mnv3_bench.plan import Limits
    from mnv3_bench.prepare import Artifacts

WARM_UP_SECONDS = 1.0


@dataclass(frozen=True)
class Performer:
    """Who is to be measured, and by what worker."""

    key: str
    file_name: str
    """Of its logs."""
    modules: tuple[str, ...]
    """What its worker imports first."""
    forkable: bool
    threads: int
    load: Load | LoadCallable
    launcher: Launcher

    @classmethod
    def of(cls, cell: Cell, artifacts: Artifacts, launcher: Launcher) -> Performer:
        """A cell of a run."""
        info = get_backend(cell.backend).info
        load = load_order(cell, artifacts)
        return cls(
            cell.key, file_name(cell), info.runtime_modules, info.forkable, cell.threads, load, launcher
        )

    @property
    def nursery(self) -> Nursery | None:
        """What its worker can be forked from; None where it needs an interpreter of its own."""
        return Nursery(self.launcher, self.modules, self.threads) if CAN_FORK and self.forkable else None


@dataclass(frozen=True)
class Nursery:
    """Modules to import and threads: what workers that are forked from one process share."""

    launcher: Launcher
    modules: tuple[str, ...]
    threads: int


class WorkerStage:
    """A `conductor.Stage` of worker processes.

    Where a runtime can be imported and then forked, an epoch's workers are forked from one process that imported it.
    That process is new every epoch: workers of one epoch share where libraries were loaded, workers of different
    epochs do not, and intervals are formed over epochs.
    """

    def __init__(
        self, performers: Mapping[str, Performer], limits: Limits, cpus: int, tick: Callable[[], None]
    ) -> None:
        self.performers = performers
        self.limits = limits
        self.cpus = cpus
        self.tick = tick
        self.workers: dict[str, Worker] = {}
        self.ready: set[Nursery] = set()
        self.broken: dict[Nursery, WorkerError] = {}

    def start(self, keys: Sequence[str], epoch: int) -> dict[str, float | Failure]:
        """Start a worker for each performer, warm and paused."""
        performers = [self.performers[key] for key in keys]
        width = max(1, self.cpus // max(performer.threads for performer in performers))
        nurseries = dict.fromkeys(p.nursery for p in performers)
        wanted = [which for which in nurseries if which is not None]
        # The longest import first.
        imports = sorted(
            (which for which in wanted if which not in self.ready), key=lambda which: -len(which.modules)
        )
        forked = {which: [p for p in performers if p.nursery == which] for which in wanted}
        others = [p for p in performers if p.nursery is None or p.nursery in self.ready]
        waiting: list[Task] = []

        def start(performer: Performer) -> Task:
            return partial(self._start, performer, epoch)

        def import_first(which: Nursery) -> Task:
            return partial(self._import, which, lambda: waiting.extend(map(start, forked[which])))

        def more() -> list[Task]:
            added, waiting[:] = list(waiting), []
            return added

        # Runtimes that are forked are imported first; meanwhile the others start on the CPUs that are left.
        tasks = [*map(import_first, imports), *map(start, others)]
        found: dict[str, float | Failure] = {}
        for _, result in side_by_side(tasks, width, more=more, tick=self.tick):
            if result is not None:
                found[result[0]] = result[1]
        return {key: found[key] for key in keys}

    def bind(self, cpus: set[int]) -> None:
        """Let every worker run on these CPUs only."""
        for worker in self.workers.values():
            worker.bind(cpus)

    def turn(self, key: str, discard: int, calls: int) -> Turned | Failure:
        """Let one worker run a block."""
        worker = self.workers[key]
        try:
            turned = expect(worker.request(Turn(discard, calls), self.limits.turn), Turned)
        except WorkerError as error:
            return self._failure(key, "measure", worker, error)
        worker.pause()
        return turned

    def clear(self) -> None:
        """End every worker; what they were forked from stays for the next ones of this epoch."""
        for key, worker in self.workers.items():
            worker.kill()
            self.performers[key].launcher.forget(worker)
        self.workers.clear()

    def stop(self) -> None:
        """End every worker and what they were forked from."""
        self.clear()
        self.broken.clear()
        self.ready.clear()
        for launcher in {id(p.launcher): p.launcher for p in self.performers.values()}.values():
            launcher.close_nurseries()

    def _import(
        self, which: Nursery, done: Callable[[], None]
    ) -> Generator[tuple[Worker, Message, float], Reply, None]:
        nursery = which.launcher.nursery(which.modules, which.threads)
        try:
            yield nursery, Import(which.modules), self.limits.load
        except WorkerError as error:
            nursery.kill()
            self.broken[which] = error
        self.ready.add(which)
        done()

    def _start(
        self, performer: Performer, epoch: int
    ) -> Generator[tuple[Worker, Message, float], Reply, tuple[str, float | Failure]]:
        limits = self.limits
        launcher = performer.launcher
        name = f"epoch-{epoch}-{performer.file_name}"
        phase = "load"
        worker: Worker | None = None
        try:
            which = performer.nursery
            if which is not None:
                if which in self.broken:
                    raise self.broken[which]
                nursery = launcher.nursery(which.modules, which.threads)
                worker = launcher.forked(name, nursery, limits.load)
            else:
                worker = launcher.fresh(name, performer.threads)
                yield worker, Import(performer.modules), limits.load
            yield worker, performer.load, limits.load
            phase = "first"
            expect((yield worker, First(), limits.first), Done)
            phase = "warm-up"
            warm = expect((yield worker, WarmUp(WARM_UP_SECONDS), limits.warm_up), Warm)
        except WorkerError as error:
            return performer.key, self._failure(performer.key, phase, worker, error)
        worker.pause()
        self.workers[performer.key] = worker
        return performer.key, warm.call_seconds

    def _failure(self, key: str, phase: str, worker: Worker | None, error: WorkerError) -> Failure:
        if worker is not None:
            worker.kill()
            self.performers[key].launcher.forget(worker)
        self.workers.pop(key, None)
        return Failure(key, phase, error.reason, error.tail, error.install)
