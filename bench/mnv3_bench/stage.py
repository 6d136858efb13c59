"""Real workers for the conductor: started for an epoch, paused whenever it is not their turn."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from mnv3_bench.backends import get_backend
from mnv3_bench.coldstart import file_name, load_order
from mnv3_bench.launcher import CAN_FORK, Launcher, Worker, WorkerError, expect, side_by_side
from mnv3_bench.protocol import Done, First, Import, Message, Reply, Turn, Turned, Warm, WarmUp
from mnv3_reports.record import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from mnv3_bench.conductor import Contender
    from mnv3_bench.plan import Limits
    from mnv3_bench.prepare import Artifacts

WARM_UP_SECONDS = 1.0


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

    def start(self, contenders: Sequence[Contender], epoch: int) -> dict[str, float | Failure]:
        """Start a worker for each contender, warm and paused."""
        threads = max(contender.cell.threads for contender in contenders)
        width = max(1, self.cpus // threads)
        imports = {
            (get_backend(contender.cell.backend).info.runtime_modules, contender.cell.threads)
            for contender in contenders
            if CAN_FORK and get_backend(contender.cell.backend).info.forkable
        }
        for _ in side_by_side([partial(self._import, *which) for which in sorted(imports)], width):
            pass
        found: dict[str, float | Failure] = {}
        tasks = [partial(self._start, contender, epoch) for contender in contenders]
        for index, result in side_by_side(tasks, width, tick=self.tick):
            found[contenders[index].key] = result
        return {contender.key: found[contender.key] for contender in contenders}

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
        self.launcher.close_nurseries()

    def _import(
        self, modules: tuple[str, ...], threads: int
    ) -> Generator[tuple[Worker, Message, float], Reply, Any]:
        nursery, new = self.launcher.nursery(modules, threads)
        if new:
            try:
                yield nursery, Import(modules), self.limits.load
            except WorkerError:
                # Its cells will find it gone and fail with their own reason.
                nursery.kill()

    def _start(
        self, contender: Contender, epoch: int
    ) -> Generator[tuple[Worker, Message, float], Reply, float | Failure]:
        cell = contender.cell
        info = get_backend(cell.backend).info
        limits = self.limits
        name = f"epoch-{epoch}-{file_name(cell)}"
        phase = "load"
        worker: Worker | None = None
        try:
            if CAN_FORK and info.forkable:
                nursery, _ = self.launcher.nursery(info.runtime_modules, cell.threads)
                worker = self.launcher.forked(name, nursery, limits.load)
            else:
                worker = self.launcher.fresh(name, cell.threads)
                yield worker, Import(info.runtime_modules), limits.load
            yield worker, load_order(cell, self.artifacts), limits.load
            phase = "first"
            expect((yield worker, First(), limits.first), Done)
            phase = "warm-up"
            warm = expect((yield worker, WarmUp(WARM_UP_SECONDS), limits.warm_up), Warm)
        except WorkerError as error:
            return self._failure(cell.key, phase, worker, error)
        worker.pause()
        self.workers[cell.key] = worker
        return warm.call_seconds

    def _failure(self, key: str, phase: str, worker: Worker | None, error: WorkerError) -> Failure:
        if worker is not None:
            worker.kill()
            self.launcher.forget(worker)
        self.workers.pop(key, None)
        return Failure(key, phase, error.reason, error.tail, error.install)
