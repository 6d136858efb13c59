"""Real workers for the conductor: started for an epoch, paused whenever it is not their turn."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mnv3_bench.backends import get_backend
from mnv3_bench.coldstart import file_name, load_order
from mnv3_bench.launcher import CAN_FORK, Launcher, Worker, WorkerError, expect, side_by_side
from mnv3_bench.protocol import Done, First, Import, Message, Reply, Turn, Turned, Warm, WarmUp
from mnv3_reports.record import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from mnv3_bench.conductor import Contender
    from mnv3_bench.launcher import Task
    from mnv3_bench.plan import Limits
    from mnv3_bench.prepare import Artifacts

WARM_UP_SECONDS = 1.0

Nursery = tuple[tuple[str, ...], int]
"""Modules to import and threads: what workers that are forked from one process share."""


class WorkerStage:
    """A `conductor.Stage` of worker processes.

    Where a runtime can be imported and then forked, an epoch's workers are forked from one process that imported it.
    That process is new every epoch: workers of one epoch share where libraries were loaded, workers of different
    epochs do not, and intervals are formed over epochs.
    """

    def __init__(
        self, artifacts: Artifacts, launcher: Launcher, limits: Limits, cpus: int, tick: Callable[[], None]
    ) -> None:
        self.artifacts = artifacts
        self.launcher = launcher
        self.limits = limits
        self.cpus = cpus
        self.tick = tick
        self.workers: dict[str, Worker] = {}
        self.broken: dict[Nursery, WorkerError] = {}

    def start(self, contenders: Sequence[Contender], epoch: int) -> dict[str, float | Failure]:
        """Start a worker for each contender, warm and paused."""
        threads = max(contender.cell.threads for contender in contenders)
        width = max(1, self.cpus // threads)
        imports = list(dict.fromkeys(which for c in contenders if (which := self._nursery_of(c)) is not None))
        # The longest import first.
        imports.sort(key=lambda which: -len(which[0]))
        forkable = {which: [c for c in contenders if self._nursery_of(c) == which] for which in imports}
        fresh = [contender for contender in contenders if self._nursery_of(contender) is None]
        waiting: list[Task] = []

        def start(contender: Contender) -> Task:
            return partial(self._start, contender, epoch)

        def import_first(which: Nursery) -> Task:
            return partial(self._import, which, lambda: waiting.extend(map(start, forkable[which])))

        def more() -> list[Task]:
            added, waiting[:] = list(waiting), []
            return added

        # Runtimes that are forked are imported first; meanwhile the others start on the CPUs that are left.
        tasks = [*map(import_first, imports), *map(start, fresh)]
        found: dict[str, float | Failure] = {}
        for _, result in side_by_side(tasks, width, more=more, tick=self.tick):
            if result is not None:
                found[result[0]] = result[1]
        return {contender.key: found[contender.key] for contender in contenders}

    @staticmethod
    def _nursery_of(contender: Contender) -> Nursery | None:
        """What a contender's worker can be forked from; None where it needs an interpreter of its own."""
        info = get_backend(contender.cell.backend).info
        return (info.runtime_modules, contender.cell.threads) if CAN_FORK and info.forkable else None

    def turn(self, key: str, discard: int, calls: int) -> Turned | Failure:
        """Let one worker run a block."""
        worker = self.workers[key]
        try:
            turned = expect(worker.request(Turn(discard, calls), self.limits.turn), Turned)
        except WorkerError as error:
            return self._failure(key, "measure", worker, error)
        worker.pause()
        return turned

    def stop(self) -> None:
        """End every worker and what they were forked from."""
        for worker in self.workers.values():
            worker.kill()
            self.launcher.forget(worker)
        self.workers.clear()
        self.broken.clear()
        self.launcher.close_nurseries()

    def _import(
        self, which: Nursery, done: Callable[[], None]
    ) -> Generator[tuple[Worker, Message, float], Reply, None]:
        nursery = self.launcher.nursery(*which)
        try:
            yield nursery, Import(which[0]), self.limits.load
        except WorkerError as error:
            nursery.kill()
            self.broken[which] = error
        done()

    def _start(
        self, contender: Contender, epoch: int
    ) -> Generator[tuple[Worker, Message, float], Reply, tuple[str, float | Failure]]:
        cell = contender.cell
        info = get_backend(cell.backend).info
        limits = self.limits
        name = f"epoch-{epoch}-{file_name(cell)}"
        phase = "load"
        worker: Worker | None = None
        try:
            which = self._nursery_of(contender)
            if which is not None:
                if which in self.broken:
                    raise self.broken[which]
                worker = self.launcher.forked(name, self.launcher.nursery(*which), limits.load)
            else:
                worker = self.launcher.fresh(name, cell.threads)
                yield worker, Import(info.runtime_modules), limits.load
            yield worker, load_order(cell, self.artifacts), limits.load
            phase = "first"
            expect((yield worker, First(), limits.first), Done)
            phase = "warm-up"
            warm = expect((yield worker, WarmUp(WARM_UP_SECONDS), limits.warm_up), Warm)
        except WorkerError as error:
            return cell.key, self._failure(cell.key, phase, worker, error)
        worker.pause()
        self.workers[cell.key] = worker
        return cell.key, warm.call_seconds

    def _failure(self, key: str, phase: str, worker: Worker | None, error: WorkerError) -> Failure:
        if worker is not None:
            worker.kill()
            self.launcher.forget(worker)
        self.workers.pop(key, None)
        return Failure(key, phase, error.reason, error.tail, error.install)
