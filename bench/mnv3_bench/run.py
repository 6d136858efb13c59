"""The main job: prepare, inspect, tune if asked to, measure, report. One run, one directory, one journal."""

from __future__ import annotations

import secrets
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from mnv3_bench import noise
from mnv3_bench.backends import get_backend
from mnv3_bench.cache import Store, default_root, digest, size_limit
from mnv3_bench.coldstart import ColdStarts, inspected_wrong
from mnv3_bench.conductor import Conductor, Contender, Outcome, Policy
from mnv3_bench.display import Display, make_display
from mnv3_bench.environment import machine, software, usable_cpus, usable_memory
from mnv3_bench.errors import ExitCode, IncomparableError, RunStoppedError, UsageError
from mnv3_bench.evaluating.stage import EVALUATING, Evaluator
from mnv3_bench.folders import RUNS, new_folder
from mnv3_bench.keys import Keys
from mnv3_bench.launcher import CAN_FORK, Launcher
from mnv3_bench.prepare import Artifacts, Preparer
from mnv3_bench.profiling.stage import Profiler
from mnv3_bench.stage import Performer, WorkerStage
from mnv3_bench.tune_stage import CellBench, Workshop, to_tune
from mnv3_bench.tuning import DefaultFailedError, Search, least_seconds
from mnv3_reports.compare import ratios_of
from mnv3_reports.disk import NO_ROOM
from mnv3_reports.journal import Journal, JournalError, assemble, read_journal
from mnv3_reports.record import (
    SCHEMA_VERSION,
    Cell,
    Entry,
    Failure,
    Note,
    Prepared,
    Run,
    RunFinished,
    RunResumed,
    RunStarted,
    Tuned,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mnv3_bench.plan import Limits, Plan

JOURNAL = "journal.jsonl"
MEMORY_SHARE = 0.5
"""Share of the machine's memory that workers may use together, and that one of them may use alone."""


@dataclass
class Session:
    """An open run: where it lies, what it holds so far, and what it runs on."""

    directory: Path
    journal: Journal
    run: Run
    launcher: Launcher
    limits: Limits
    display: Display
    phase_seconds: dict[str, float] = field(default_factory=dict)
    precision: float | None = None
    """Reached when measuring was interrupted."""
    preparer: Preparer | None = None
    """What builds entries of the store, once it was asked to."""
    reports: bool = True
    """Whether the run ends with a report; one that is a part of another does not."""

    def record(self, entry: Entry) -> None:
        """Keep an entry: on disk first, then in memory."""
        self.journal.append(entry)
        self.run.add(entry)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time spent inside to a phase."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.phase_seconds[name] = self.phase_seconds.get(name, 0.0) + time.monotonic() - start

    def store(self) -> Store:
        """Where artifacts are kept: the user's cache, or the run's own folder where everything is built anew."""
        return Store(self.directory / "artifacts" if self.run.header.request.cold else default_root())

    def cells(self) -> list[Cell]:
        """Cells that have not failed."""
        return [record.cell for record in self.run.cells.values() if record.failure is None]


def execute(session: Session) -> ExitCode:
    """Carry out what an open run still lacks.

    Raises:
        UsageError: the run to resume cannot be resumed here.
        RunStoppedError: nothing can be recorded any more.
    """
    interrupted = False
    with terminations_interrupt(), _stopping(session.directory):
        try:
            artifacts = prepare(session)
            evaluate(session, artifacts)
            outcome = Outcome("nothing-left", None, 0.0, 0.0)
            if session.run.header.request.timed:
                inspect(session, artifacts)
                tune(session, artifacts)
                outcome = measure(session, artifacts)
                profile(session, artifacts)
        except KeyboardInterrupt:
            interrupted = True
            outcome = Outcome("interrupted", session.precision, 0.0, 0.0)
        finally:
            session.launcher.kill_all()
            session.display.end()
    return finish(session, outcome, interrupted)


def open_run(plan: Plan, command: str) -> Session:
    """Make the run directory and its journal."""
    size_limit()  # a wrong one is said before there is anything on the disk
    now = datetime.now(UTC)
    directory = plan.output or RUNS
    try:
        directory = plan.output or new_folder(now)
        directory.mkdir(parents=True, exist_ok=True)
        journal = Journal.create(directory / JOURNAL)
    except (OSError, JournalError) as error:
        text = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"--output: {directory} cannot be written: {text}") from None
    header = RunStarted(
        schema=SCHEMA_VERSION,
        # Nightly jobs of a hundred machines begin in the same second.
        run_id=f"{now:%Y%m%dT%H%M%S%f}-{secrets.token_hex(3)}",
        started_at=now.isoformat(timespec="seconds"),
        command=command,
        request=plan.request,
        cells=tuple(cell.key for cell in plan.cells),
        machine=machine(),
        software=software(),
    )
    try:
        session = _session(directory, journal, Run.started(header), plan.limits)
        journal.append(header)
    except (OSError, JournalError) as error:
        journal.close()
        text = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"--output: {directory} cannot be written: {text}") from None
    entries: list[Entry] = [
        *plan.skipped,
        *([plan.evaluation] if plan.evaluation is not None else []),
        *(Note(text) for text in (*plan.notes, *_blind_spots())),
    ]
    with _stopping(directory):
        for entry in entries:
            session.record(entry)
    for note in plan.notes:
        session.display.say(f"note: {note}")
    for skip in plan.skipped:
        how = f"; to measure it: {skip.install}" if skip.install else ""
        session.display.say(f"skipped {skip.backend}: {skip.reason}{how}")
    return session


def reopen(directory: Path, limits: Limits) -> Session:
    """Open the journal of an earlier run to go on with it."""
    path = directory / JOURNAL
    if not path.is_file():
        raise UsageError(f"--resume: {directory} holds no {JOURNAL}; type the folder of an earlier run")
    try:
        run = assemble(read_journal(path))
        _require_same(run)
        session = _session(directory, Journal.resume(path), run, limits)
        if run.finished is not None:
            session.phase_seconds.update(run.finished.phase_seconds)
        if run.tuned:
            session.phase_seconds.setdefault("tune", sum(tuned.seconds for tuned in run.tuned))
        session.phase_seconds["start"] = sum(epoch.start_seconds for epoch in run.epochs)
        session.phase_seconds["measure"] = sum(block.wall_seconds for block in run.blocks)
        session.record(
            RunResumed(
                datetime.now(UTC).isoformat(timespec="seconds"), machine=machine(), software=software()
            )
        )
    except OSError as error:
        raise UsageError(f"--resume: {error.filename or path} cannot be written: {error.strerror}") from None
    except JournalError as error:
        raise UsageError(f"--resume: {error}") from None
    return session


def _require_same(run: Run) -> None:
    """Refuse to add to a run what may not be put together with it.

    Raises:
        IncomparableError: machine, versions or artifacts differ.
    """
    here, there = machine(), run.header.machine
    if here.fingerprint != there.fingerprint:
        raise IncomparableError(
            f"--resume: that run was measured on another machine ({there.cpu}, {there.usable_cpus} CPUs); "
            f"this is {here.cpu}, {here.usable_cpus} CPUs: start a new run"
        )
    mine = software()
    if mine.fingerprint != run.header.software.fingerprint:
        was = run.header.software.packages
        changed = sorted(name for name in {*was, *mine.packages} if was.get(name) != mine.packages.get(name))
        raise IncomparableError(
            f"--resume: that run was measured with other versions ({', '.join(changed) or 'of Python'}); "
            "start a new run"
        )
    keys = Keys(run.header.request)
    for key in dict.fromkeys(block.cell for block in run.blocks):
        record = run.cells[key]
        if record.prepared is not None and record.prepared.artifact != digest(keys.artifact(record.cell)):
            raise IncomparableError(
                f"--resume: the artifact of {key} would not be the one measured before "
                "(weights file or code changed); start a new run"
            )


def prepare(session: Session) -> Artifacts:
    """Phase one: an artifact for every cell."""
    request = session.run.header.request
    known = {key: record.prepared for key, record in session.run.cells.items() if record.prepared}

    def record(entry: Entry) -> None:
        before = known.get(entry.cell) if isinstance(entry, Prepared) else None
        if before is None or not isinstance(entry, Prepared) or before.artifact != entry.artifact:
            session.record(entry)

    preparer = Preparer(
        request,
        tuple(session.cells()),
        session.store(),
        session.launcher,
        session.limits,
        record,
        session.display.step,
        explain=request.timed,
    )
    session.preparer = preparer
    with session.phase("prepare"):
        missing = preparer.missing()
        session.display.begin("prepare", len(missing), sum(missing.values()))
        return preparer.run(_build_width(), session.display.tick)


def evaluate(session: Session, artifacts: Artifacts) -> None:
    """Where there are labelled images: what every cell makes of them."""
    run, request = session.run, session.run.header.request
    keys = Keys(request)
    cells = [
        cell
        for cell in session.cells()
        if keys.labelled(cell.variant, cell.resolution) is not None and run.cells[cell.key].accuracy is None
    ]
    if request.data is None or not cells:
        return
    assert session.preparer is not None, "cells are prepared before they are evaluated"
    evaluator = Evaluator(
        session.directory,
        keys,
        artifacts,
        session.preparer,
        session.limits,
        session.record,
        session.display.step,
        evaluation=run.evaluation,
    )
    missing = evaluator.missing(cells)
    session.display.begin("evaluate", missing, missing * EVALUATING)
    with session.phase("evaluate"):
        evaluator.run(cells, usable_cpus(), session.display.tick)


def inspect(session: Session, artifacts: Artifacts) -> None:
    """Phase two: each cell once in a fresh process."""
    cells = []
    for cell in session.cells():
        earlier = session.run.cells[cell.key].inspected
        if earlier is None:
            cells.append(cell)
        elif (wrong := inspected_wrong(earlier)) is not None:
            # A resumed run tries failed cells again; wrong numbers stay wrong.
            session.record(Failure(cell.key, "fidelity", wrong))
    starts = ColdStarts(artifacts, session.launcher, session.limits, session.record, session.display.step)
    with session.phase("inspect"):
        session.display.begin("inspect", len(cells))
        # Half a gigabyte is what a large batch on PyTorch takes.
        memory_width = int(usable_memory() * MEMORY_SHARE // (512 << 20))
        for threads in session.run.header.request.threads:
            mine = [cell for cell in cells if cell.threads == threads]
            starts.run(mine, max(1, min(usable_cpus() // threads, memory_width)), session.display.tick)


def tune(session: Session, artifacts: Artifacts) -> None:
    """Before measuring, where it was asked for: search each cell's backend for faster settings.

    What is found joins the cells to be measured. A search that an earlier process finished is not repeated.
    """
    run, request = session.run, session.run.header.request
    cells = to_tune(run) if request.tune is not None else []
    if request.tune is None or not cells:
        if request.tune is not None and not run.tuned:
            session.display.say("tune: no backend of this run has a setting to try")
        return
    shop = Workshop(
        request=request,
        keys=Keys(request),
        store=session.store(),
        artifacts=artifacts,
        launcher=session.launcher,
        limits=session.limits,
        memory_bytes=int(usable_memory() * MEMORY_SHARE),
        build_width=_build_width(),
        tick=session.display.tick,
    )
    left = request.tune - sum(tuned.seconds for tuned in run.tuned)
    session.display.begin("tune", len(cells))
    with session.phase("tune"):
        for index, cell in enumerate(cells):
            began = time.monotonic()
            _tune_cell(session, cell, shop, left, len(cells) - index)
            left -= time.monotonic() - began


def _tune_cell(session: Session, cell: Cell, shop: Workshop, left: float, cells: int) -> None:
    """One search, within its share of the seconds left to so many cells."""
    record = session.run.cells[cell.key]
    assert record.prepared is not None, "a cell is prepared or has failed"
    assert record.inspected is not None, "a cell is inspected or has failed"
    bench = CellBench(cell, record.prepared, record.inspected, shop)
    # A budget that is too small for all of them is spent on the first ones, as far as it goes.
    share = max(0.0, min(left, max(left / cells, least_seconds(bench.pace()))))
    name = f"{cell.variant}/{cell.backend}"
    search = Search(
        bench,
        get_backend(cell.backend),
        share,
        clock=time.monotonic,
        tell=lambda text: session.display.trying(f"{name}: {text}"),
    )
    began = time.monotonic()
    try:
        found = search.run()
    except DefaultFailedError as error:
        session.record(Note(f"no faster settings were searched for {cell.key}: it failed itself, in {error}"))
        session.display.step(f"{cell.key}: failed itself")
        return
    winner = msgspec.structs.replace(cell, backend=found.winner) if found.winner is not None else None
    session.record(
        Tuned(
            cell=cell.key,
            winner=winner.key if winner is not None else None,
            candidates=found.candidates,
            seconds=round(time.monotonic() - began, 3),
            stopped_because=found.stopped_because,
        )
    )
    if winner is not None and session.run.cells[winner.key].inspected is None:
        bench.adopt(winner.backend, session.record)
        session.display.include(winner)
    session.display.step(f"{cell.key}: {found.summary()}")


def measure(session: Session, artifacts: Artifacts) -> Outcome:
    """Phase three: cells take turns."""
    run, request = session.run, session.run.header.request
    contenders = []
    for cell in session.cells():
        inspected = run.cells[cell.key].inspected
        assert inspected is not None, "a cell is inspected or has failed"
        shared = CAN_FORK and get_backend(cell.backend).info.forkable
        own = inspected.peak_bytes - (inspected.runtime_bytes if shared else 0)
        contenders.append(Contender(cell, inspected.call_seconds, own))
    performers = {
        contender.key: Performer.of(contender.cell, artifacts, session.launcher) for contender in contenders
    }
    session.display.begin("measure", len(contenders))
    conductor = Conductor(
        WorkerStage(performers, session.limits, usable_cpus(), session.display.tick),
        Policy(
            precision=request.precision,
            time_budget=request.time_budget,
            seed=request.seed,
            memory_bytes=int(usable_memory() * MEMORY_SHARE),
        ),
        partial(ratios_of, run),
        session.record,
        on_block=session.display.block,
        earlier=run.blocks,
        spent=sum(block.wall_seconds for block in run.blocks)
        + sum(epoch.start_seconds for epoch in run.epochs),
    )
    try:
        return conductor.run(contenders)
    except KeyboardInterrupt:
        session.precision = conductor.precision()
        raise
    finally:
        for name, spent in (("start", conductor.start_seconds), ("measure", conductor.measure_seconds)):
            session.phase_seconds[name] = session.phase_seconds.get(name, 0.0) + spent


def profile(session: Session, artifacts: Artifacts) -> None:
    """Where it was asked for, after measuring: every cell's operators, the machine's roofs, activations."""
    run = session.run
    if not run.header.request.profiled:
        return
    profiler = Profiler(
        session.directory,
        run,
        artifacts,
        session.launcher,
        session.limits,
        session.record,
        session.display.step,
    )
    steps = profiler.steps(session.cells())
    session.display.begin("profile", len(steps))
    with session.phase("profile"):
        for step in steps:
            step()


def finish(session: Session, outcome: Outcome, interrupted: bool) -> ExitCode:
    """Write the last entry and the report, and say how it went."""
    run = session.run
    measured = {block.cell for block in run.blocks}
    # What tuning found was not asked for.
    timed = run.header.request.timed
    failures = any(run.cells[key].failure or (timed and key not in measured) for key in run.header.cells)
    lacking = any(skip.requested for skip in run.skipped)
    status = "partial" if interrupted else "failures" if failures or lacking else "complete"
    with session.journal, _stopping(session.directory):
        session.record(
            RunFinished(
                ended_at=datetime.now(UTC).isoformat(timespec="seconds"),
                status=status,
                stopped_because=outcome.stopped_because,
                precision_reached=_finite(outcome.precision_reached),
                phase_seconds={name: round(value, 3) for name, value in session.phase_seconds.items()},
            )
        )
    if not interrupted:
        shutil.rmtree(session.directory / "artifacts", ignore_errors=True)
    written = write_report(session.directory) if session.reports else True
    if interrupted:
        return ExitCode.INTERRUPTED
    return ExitCode.CELLS_FAILED if failures or lacking or not written else ExitCode.DONE


@contextmanager
def _stopping(directory: Path) -> Iterator[None]:
    """A disk that takes nothing any more stops the run; what it says is how to go on.

    Raises:
        RunStoppedError: the disk took nothing any more.
    """
    then = f"then go on: mnv3-bench --resume {directory}"
    try:
        yield
    except JournalError as error:
        raise RunStoppedError(f"{error}; {then}") from error
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise RunStoppedError(f"'{error.filename or directory}': {NO_ROOM[error.errno]}, {then}") from error


def write_report(directory: Path) -> bool:
    """Write the report in a process of its own: charts need far more memory than measuring does."""
    done = subprocess.run(
        [sys.executable, "-m", "mnv3_bench.cli", "report", str(directory)],
        stdout=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode != 0:
        print(
            f"the report could not be written; the samples are safe: mnv3-bench report {directory}",
            file=sys.stderr,
        )
    return done.returncode == 0


def _session(directory: Path, journal: Journal, run: Run, limits: Limits) -> Session:
    memory = limits.memory_bytes
    if memory is None and run.header.request.device == "cpu":
        # With a GPU the driver reserves address space far beyond what it uses.
        memory = int(usable_memory() * MEMORY_SHARE)
    return Session(
        directory=directory,
        journal=journal,
        run=run,
        launcher=Launcher(directory / "logs", memory_limit=memory),
        limits=replace(limits, memory_bytes=memory),
        display=make_display([record.cell for record in run.cells.values()]),
    )


def _blind_spots() -> list[str]:
    """What this machine cannot show of its own noise."""
    hidden = [name for name, shown in noise.available().items() if not shown]
    return [f"this machine does not show: {', '.join(hidden)}"] if hidden else []


def _build_width() -> int:
    """Preparations side by side; one of torch.compile needs up to about 2 GB."""
    return max(1, min(usable_cpus(), int(usable_memory() * MEMORY_SHARE // (2 << 30))))


def _finite(value: float | None) -> float | None:
    return value if value is not None and value < float("inf") else None


@contextmanager
def terminations_interrupt() -> Iterator[None]:
    """Treat SIGTERM (a CI job being cancelled) like Ctrl-C: keep what was measured and report it."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
