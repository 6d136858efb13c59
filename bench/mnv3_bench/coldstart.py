"""Each cell once in a fresh process, as deployed: cold start, memory, threads and fidelity."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

from mnv3_bench.backends import get_backend
from mnv3_bench.conversations import side_by_side
from mnv3_bench.inputs import DESCRIPTION
from mnv3_bench.launcher import Launcher, Worker, WorkerError, expect
from mnv3_bench.protocol import (
    Check,
    Checked,
    Done,
    First,
    Import,
    Imported,
    Load,
    Look,
    Message,
    Reply,
    Seen,
    Warm,
    WarmUp,
)
from mnv3_bench.worker import SNR_CEILING_DB
from mnv3_reports.record import Cell, Entry, Failure, Fidelity, Inspected

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from mnv3_bench.plan import Limits
    from mnv3_bench.prepare import Artifacts
    from mnv3_bench.protocol import Purpose

WARM_UP_SECONDS = 2.0


class ColdStarts:
    """Starts a process a cell, `width` at a time, and records what it finds."""

    def __init__(
        self,
        artifacts: Artifacts,
        launcher: Launcher,
        limits: Limits,
        record: Callable[[Entry], None],
        tell: Callable[[str], None],
    ) -> None:
        self.artifacts = artifacts
        self.launcher = launcher
        self.limits = limits
        self.record = record
        self.tell = tell

    def run(self, cells: Sequence[Cell], width: int, tick: Callable[[], None] | None = None) -> None:
        """Inspect these cells; one that cannot be loaded or gives wrong numbers becomes a recorded failure."""
        tasks = [partial(self._inspect, cell, min(width, len(cells))) for cell in cells]
        for _ in side_by_side(tasks, width, tick=tick):
            pass

    def _inspect(self, cell: Cell, side_by_side: int) -> Generator[tuple[Worker, Message, float], Reply, Any]:
        info = get_backend(cell.backend).info
        limits = self.limits
        worker = self.launcher.fresh(file_name(cell), cell.threads)
        phase = "load"
        try:
            imported = expect((yield worker, Import(info.runtime_modules), limits.load), Imported)
            loaded = expect((yield worker, load_order(cell, self.artifacts), limits.load), Done)
            phase = "first"
            first = expect((yield worker, First(), limits.first), Done)
            phase = "warm-up"
            warm = expect((yield worker, WarmUp(WARM_UP_SECONDS), limits.warm_up), Warm)
            seen = expect((yield worker, Look(), limits.turn), Seen)
            phase = "fidelity"
            reference = self.artifacts.references[cell.variant, cell.resolution]
            images = self.artifacts.pool("fidelity", cell)
            checked = expect((yield worker, Check(str(images), str(reference)), limits.check), Checked)
        except WorkerError as error:
            self.tell(f"{cell.key}: {phase} failed: {error.reason}")
            self.record(Failure(cell.key, phase, error.reason, error.tail, error.install))
            return
        finally:
            worker.kill()
            self.launcher.forget(worker)
        compared = self.artifacts.compared.get(cell.variant, "eager fp32")
        wrong = wrong_numbers(checked.finite, checked.snr_db, info.floor_snr_db, compared)
        if wrong is not None:
            # Before what was inspected: a run that is killed between the two inspects the cell again.
            self.record(Failure(cell.key, "fidelity", wrong))
        self.record(
            Inspected(
                cell=cell.key,
                import_seconds=imported.seconds,
                load_seconds=loaded.seconds,
                first_seconds=first.seconds,
                warm_calls=warm.calls,
                steady=warm.steady,
                call_seconds=warm.call_seconds,
                runtime_bytes=imported.resident_bytes,
                peak_bytes=seen.peak_bytes,
                os_threads=seen.os_threads,
                side_by_side=side_by_side,
                fidelity=Fidelity(
                    cosine=checked.cosine,
                    snr_db=checked.snr_db,
                    top1_agreement=checked.top1_agreement,
                    samples=checked.samples,
                    floor_snr_db=info.floor_snr_db,
                    inputs=self.artifacts.described.get(cell.variant, DESCRIPTION),
                    reference=compared,
                ),
                facts=seen.facts,
                device_peak_bytes=seen.device_peak_bytes,
                device_reserved_bytes=seen.device_reserved_bytes,
            )
        )
        self.tell(f"{cell.key}: {wrong or f'loads in {loaded.seconds:.2f} s'}")


def inspected_wrong(inspected: Inspected) -> str | None:
    """Why what was found earlier disqualifies a cell, None when it does not."""
    found = inspected.fidelity
    if found is None:
        return None
    return wrong_numbers(found.snr_db > -SNR_CEILING_DB, found.snr_db, found.floor_snr_db, found.reference)


def wrong_numbers(finite: bool, snr_db: float, floor_snr_db: float, reference: str) -> str | None:
    """Why these outputs disqualify a cell, None when they do not."""
    if not finite:
        return "the outputs contain NaN or infinity"
    if snr_db < floor_snr_db:
        return (
            f"the outputs are wrong: signal-to-noise {snr_db:.1f} dB against {reference} is below "
            f"the backend's floor of {floor_snr_db:.0f} dB"
        )
    return None


def load_order(cell: Cell, artifacts: Artifacts, purpose: Purpose = "measure") -> Load:
    """The order that loads a cell's artifact, to be called with the inputs made for a purpose."""
    return Load(
        backend=cell.backend,
        directory=str(artifacts.directories[cell.key]),
        threads=cell.threads,
        device=cell.device,
        images=str(artifacts.pool(purpose, cell)),
        batch=cell.batch,
    )


def file_name(cell: Cell) -> str:
    """A cell's key as a file name."""
    setting = f"t{cell.threads}-b{cell.batch}-r{cell.resolution}-{cell.device.replace(':', '')}"
    return re.sub(r"[^\w.@+-]", "-", f"{cell.variant}-{cell.backend}-{setting}")
