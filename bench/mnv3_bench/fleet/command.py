"""`mnv3-bench run … --fleet` from its plan to its reports."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mnv3_bench.errors import ExitCode, RunStoppedError, UsageError
from mnv3_bench.fleet.cluster import Cluster, SchedulerGoneError, local_hosts, local_scheduler, require_dask
from mnv3_bench.fleet.coordinator import Asked, Coordinator
from mnv3_bench.fleet.groups import patterns
from mnv3_bench.fleet.ledger import Ledger
from mnv3_bench.fleet.shipping import files_of
from mnv3_bench.run import write_report
from mnv3_reports.fleet import FLEET_SCHEMA, HOSTS, FleetFinished, FleetResumed, FleetStarted, host_runs
from mnv3_reports.rundir import RunDirectoryError, write_run

if TYPE_CHECKING:
    from mnv3_bench.plan import Limits, Plan

WAIT = 60.0
"""Seconds that hosts are waited for."""


def start(
    plan: Plan, command: str, address: str, on: str | None, *, requested: bool, wait: float | None
) -> tuple[Path, ExitCode]:
    """Measure a plan on a fleet. Gives the folder and the exit code.

    Raises:
        UsageError: something of it cannot be measured so, or there is no such fleet.
        RunStoppedError: nothing can be recorded any more.
    """
    require_dask()
    local_hosts(address)
    kinds = patterns(on)
    if kinds and local_hosts(address) is not None:
        raise UsageError(
            "--on chooses among labelled hosts, and those of --fleet local:N have no labels; leave it out"
        )
    files_of(plan.request)
    now = datetime.now(UTC)
    directory = plan.output or Path("mnv3-runs") / now.strftime("%Y-%m-%dT%H-%M-%S")
    header = FleetStarted(
        schema=FLEET_SCHEMA,
        fleet_id=f"{now.strftime('%Y%m%dT%H%M%S%f')}-{os.urandom(3).hex()}",
        started_at=now.isoformat(timespec="seconds"),
        command=command,
        address=address,
        request=plan.request,
        cells=tuple(cell.key for cell in plan.cells),
        requested=requested,
        kinds=kinds,
        evaluation=plan.evaluation,
    )
    for note in plan.notes:
        _say(f"note: {note}")
    return _carry_out(Ledger.create(directory, header), plan.limits, address, wait)


def resume(directory: Path, limits: Limits, address: str | None, wait: float | None) -> tuple[Path, ExitCode]:
    """Go on with a fleet's run, on the same fleet unless another is named. Errors as `start`."""
    require_dask()
    if address is not None:
        local_hosts(address)
    ledger = Ledger.resume(directory)
    ledger.record(FleetResumed(datetime.now(UTC).isoformat(timespec="seconds")))
    return _carry_out(ledger, limits, address or ledger.fleet.header.address, wait)


def _carry_out(ledger: Ledger, limits: Limits, address: str, wait: float | None) -> tuple[Path, ExitCode]:
    header = ledger.fleet.header
    number = local_hosts(address)
    asked = Asked(
        command=header.command,
        files=files_of(header.request),
        evaluation=header.evaluation,
        timeout=limits.everywhere,
        memory_bytes=limits.memory_bytes,
        wait=WAIT if wait is None else wait,
        hosts=number or 1,
    )
    interrupted = False
    try:
        if ledger.fleet.open_groups() or not ledger.fleet.groups:
            asyncio.run(_interruptible(ledger, asked, address, number))
    except KeyboardInterrupt:
        interrupted = True
    try:
        return ledger.directory, _finish(ledger, interrupted=interrupted)
    finally:
        ledger.close()


async def _interruptible(ledger: Ledger, asked: Asked, address: str, number: int | None) -> None:
    """Run the coordinator until it ends or this process is told to."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    told: list[int] = []

    def interrupt(number: int) -> None:
        told.append(number)
        task.cancel()

    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, interrupt, each)
    try:
        await _coordinate(ledger, asked, address, number)
    except asyncio.CancelledError:
        if told:
            raise KeyboardInterrupt from None
        raise
    finally:
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(each)


async def _coordinate(ledger: Ledger, asked: Asked, address: str, number: int | None) -> None:
    async with contextlib.AsyncExitStack() as stack:
        if number is not None:
            address = await stack.enter_async_context(local_scheduler(number))
        cluster = Cluster(address)
        stack.push_async_callback(cluster.close)
        try:
            await cluster.connect()
        except SchedulerGoneError as error:
            raise UsageError(
                f"--fleet: {error}; start one there (dask scheduler), and hosts with mnv3-bench worker {address}"
            ) from None
        coordinator = Coordinator(ledger.directory, ledger.fleet, ledger.record, cluster, asked, _say)
        try:
            await coordinator.run()
        except BaseException:
            await asyncio.shield(coordinator.stop_all())
            raise
        if not coordinator.hosts:
            raise UsageError(
                f"--fleet: no host joined {address} within {asked.wait:.0f} s; start on each of them: "
                f"mnv3-bench worker {address}"
            )
        if not ledger.fleet.open_groups():
            await coordinator.forget_all()


def _finish(ledger: Ledger, *, interrupted: bool) -> ExitCode:
    """Put every host's groups together, and write the reports."""
    fleet = ledger.fleet
    try:
        runs = host_runs(ledger.directory, fleet)
        for each in runs:
            write_run(each.run, ledger.directory / HOSTS / each.host.host)
    except RunDirectoryError as error:
        raise RunStoppedError(f"{error}; then go on: mnv3-bench run --resume {ledger.directory}") from None
    failures = bool(fleet.failed) or any(
        record.failure is not None for each in runs for record in each.run.cells.values()
    )
    lacking = any(skip.requested for each in runs for skip in each.run.skipped)
    status = "partial" if interrupted else "failures" if failures or lacking or not runs else "complete"
    ledger.record(FleetFinished(datetime.now(UTC).isoformat(timespec="seconds"), status))
    written = write_report(ledger.directory)
    if interrupted:
        _say(f"interrupted; go on: mnv3-bench run --resume {ledger.directory}")
        return ExitCode.INTERRUPTED
    return ExitCode.DONE if status == "complete" and written else ExitCode.CELLS_FAILED


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
