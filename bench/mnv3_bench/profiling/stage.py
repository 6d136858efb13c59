"""Phase four of a run that is asked for profiles: what the machine can do, what activations take, where time goes.

One worker at a time: a profile is of no use where another one's work is in it.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mnv3_bench.backends import get_backend
from mnv3_bench.backends.base import Backend, Profile
from mnv3_bench.launcher import WorkerError, expect
from mnv3_bench.prepare_worker import ACTIVATIONS_FILE, PROFILE_FILE, ROOFS_FILE
from mnv3_bench.profiling import traces
from mnv3_bench.profiling.attribution import attribute
from mnv3_bench.protocol import Done, FollowMemory, MeasureRoofs, TimeOperators
from mnv3_models import parse_variant
from mnv3_reports.record import Activations, Note, Roofs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mnv3_bench.launcher import Launcher
    from mnv3_bench.plan import Limits
    from mnv3_bench.prepare import Artifacts
    from mnv3_bench.protocol import Message
    from mnv3_reports.record import Cell, Entry, LayerCost, Run


class Profiler:
    """Profiles what a run has prepared. What cannot be profiled is noted, and the run goes on."""

    def __init__(
        self,
        directory: Path,
        run: Run,
        artifacts: Artifacts,
        launcher: Launcher,
        limits: Limits,
        record: Callable[[Entry], None],
        tell: Callable[[str], None],
    ) -> None:
        """Args that need a word.

        directory: of the run; traces go there.
        tell: is told of every step.
        """
        self.directory = directory
        self.run = run
        self.artifacts = artifacts
        self.launcher = launcher
        self.limits = limits
        self.record = record
        self.tell = tell

    def steps(self, cells: Sequence[Cell]) -> list[Callable[[], None]]:
        """What is left to be done of these cells, in order."""
        return [*self._roofs(cells), *self._memory(cells), *self._cells(cells)]

    def _roofs(self, cells: Sequence[Cell]) -> Iterator[Callable[[], None]]:
        known = {roofs.threads for roofs in self.run.roofs}
        for threads in dict.fromkeys(cell.threads for cell in cells if cell.device == "cpu"):
            if threads not in known:
                yield partial(self._measure_roofs, threads)

    def _memory(self, cells: Sequence[Cell]) -> Iterator[Callable[[], None]]:
        known = {(each.variant, each.resolution, each.batch) for each in self.run.activations}
        firsts = {(cell.variant, cell.resolution, cell.batch): cell for cell in reversed(cells)}
        for key in dict.fromkeys((cell.variant, cell.resolution, cell.batch) for cell in cells):
            if key not in known and not parse_variant(key[0]).is_file:
                yield partial(self._follow, firsts[key])

    def _cells(self, cells: Sequence[Cell]) -> Iterator[Callable[[], None]]:
        for cell in cells:
            if self.run.cells[cell.key].profiled is None and profiles(cell):
                yield partial(self._profile, cell)

    def _measure_roofs(self, threads: int) -> None:
        name = f"what {threads} thread{'s' if threads > 1 else ''} can do at most"
        with tempfile.TemporaryDirectory() as folder:
            order = MeasureRoofs(threads=threads, directory=folder)
            if self._carried_out(order, name, threads):
                found = (Path(folder) / ROOFS_FILE).read_bytes()
                self.record(msgspec.json.decode(found, type=Roofs))

    def _follow(self, cell: Cell) -> None:
        name = f"activations of {cell.variant}"
        with tempfile.TemporaryDirectory() as folder:
            order = FollowMemory(
                variant=cell.variant,
                num_classes=self.run.header.request.num_classes,
                weights=str(self.artifacts.weights[cell.variant]),
                images=str(self.artifacts.pool("tuning", cell)),
                resolution=cell.resolution,
                batch=cell.batch,
                directory=folder,
            )
            if self._carried_out(order, name, 1):
                found = (Path(folder) / ACTIVATIONS_FILE).read_bytes()
                self.record(msgspec.json.decode(found, type=Activations))

    def _profile(self, cell: Cell) -> None:
        with tempfile.TemporaryDirectory() as folder:
            order = TimeOperators(
                backend=cell.backend,
                artifact=str(self.artifacts.directories[cell.key]),
                threads=cell.threads,
                images=str(self.artifacts.pool("tuning", cell)),
                batch=cell.batch,
                directory=folder,
            )
            if not self._carried_out(order, f"profile of {cell.key}", cell.threads):
                return
            profile = msgspec.json.decode((Path(folder) / PROFILE_FILE).read_bytes(), type=Profile)
            profiled = attribute(profile, self._layers(cell), cell.key, cell.batch)
            path = traces.trace_path(self.directory, cell)
            if profile.trace is not None:
                traces.from_kineto_file(Path(folder) / profile.trace, path)
            elif profile.operators:
                traces.write_chrome(path, traces.calls_of(profile, profiled), process_name=cell.key)
        told = (str(path.relative_to(self.directory)),) if path.is_file() else ()
        self.record(msgspec.structs.replace(profiled, traces=told))

    def _layers(self, cell: Cell) -> tuple[LayerCost, ...]:
        for facts in self.run.variants:
            if (facts.variant, facts.resolution) == (cell.variant, cell.resolution) and facts.complexity:
                return facts.complexity.layers
        return ()

    def _carried_out(self, order: Message, name: str, threads: int) -> bool:
        """Have a worker of its own carry out an order; what goes wrong is noted."""
        worker = self.launcher.fresh("profile", threads)
        try:
            expect(worker.request(order, self.limits.prepare), Done)
        except WorkerError as error:
            self.record(Note(f"no {name}: {error.reason}"))
            self.tell(f"{name}: failed ({error.reason})")
            return False
        finally:
            worker.kill()
            self.launcher.forget(worker)
        self.tell(name)
        return True


def profiles(cell: Cell) -> bool:
    """Whether a cell's runtime has means to time its operators; they are for the CPU."""
    return cell.device == "cpu" and type(get_backend(cell.backend)).profile is not Backend.profile
