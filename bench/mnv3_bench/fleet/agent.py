"""The process that measures on a host: an ordinary run of the cells it was given.

It is started with its order in a file, ends with a run's exit codes, and is interrupted when its standard input ends,
so that it never outlives the worker that started it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mnv3_bench.cache import digest
from mnv3_bench.errors import ExitCode, UsageError
from mnv3_bench.fleet.shipping import localized
from mnv3_bench.fleet.wire import JOURNAL, PREPARED, Order, Ready, WireError, decode, encode
from mnv3_bench.plan import Limits, Plan, lacking
from mnv3_bench.prepare import Preparer
from mnv3_bench.run import Session, execute, open_run, prepare, reopen
from mnv3_reports.record import Cell, Skipped
from mnv3_reports.rundir import write_file

if TYPE_CHECKING:
    from collections.abc import Sequence

ORDER = "order.json"
PREDECESSOR_SECONDS = 60.0


def main(directory: Path) -> ExitCode:
    """Carry out the order that lies in a directory.

    Raises:
        UsageError: it cannot be carried out here.
    """
    order = decode((directory / ORDER).read_bytes(), Order)
    session = _session(directory, order)
    session.reports = False
    if order.prepare_only:
        return _prepare(session)
    return execute(session)


def _session(directory: Path, order: Order) -> Session:
    if (directory / JOURNAL).is_file():
        _wait_for_predecessor(directory / JOURNAL)
        return reopen(directory, _limits(order))
    cells, skipped = _able(order)
    plan = Plan(
        request=localized(order.request, order.files),
        cells=tuple(cells),
        skipped=tuple(skipped),
        notes=(),
        limits=_limits(order),
        output=directory,
        evaluation=order.evaluation,
    )
    session = open_run(plan, order.command)
    for failure in order.failed:
        if failure.cell in session.run.cells:
            session.record(failure)
    return session


def _wait_for_predecessor(path: Path) -> None:
    """Let an agent whose worker was killed write its last entry, which takes it a moment."""
    end = time.monotonic() + PREDECESSOR_SECONDS
    with path.open("rb") as file:
        while time.monotonic() < end:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.2)
            else:
                return


def _able(order: Order) -> tuple[list[Cell], list[Skipped]]:
    """Cells whose backend can run here, and backends that cannot."""
    cells = [Cell.from_key(key) for key in order.cells]
    kind = order.request.device.partition(":")[0]
    lacks = {
        name: lacking(name, kind, requested=order.requested)
        for name in dict.fromkeys(cell.backend for cell in cells)
    }
    return [cell for cell in cells if lacks[cell.backend] is None], [lack for lack in lacks.values() if lack]


def _limits(order: Order) -> Limits:
    if order.timeout is not None:
        return Limits.all_at(order.timeout, order.memory_bytes)
    return Limits(memory_bytes=order.memory_bytes)


def _prepare(session: Session) -> ExitCode:
    """Build what the cells need, and leave a list of it."""
    try:
        prepare(session)
    finally:
        session.launcher.kill_all()
        session.display.end()
    failures = [record.failure for record in session.run.cells.values() if record.failure is not None]
    ready = Ready(
        entries={cell.key: _entries(session, cell) for cell in session.cells()},
        failed=tuple(failures),
    )
    write_file(session.directory / PREPARED, lambda path: path.write_bytes(encode(ready)))
    return ExitCode.DONE


def _entries(session: Session, cell: Cell) -> tuple[str, ...]:
    request = session.run.header.request
    preparer = Preparer(
        request,
        (cell,),
        session.store(),
        session.launcher,
        session.limits,
        lambda _: None,
        lambda *_: None,
        explain=request.timed,
    )
    names = dict.fromkeys(digest(key) for key, _ in preparer.wanted())
    return tuple(names)


def _watch_input() -> None:
    """Interrupt this process when whoever started it is gone."""

    def wait() -> None:
        while os.read(0, 1024):  # not through sys.stdin, whose lock a thread must not hold when Python ends
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def run(arguments: Sequence[str]) -> int:
    """`python -m mnv3_bench.fleet.agent DIRECTORY`: the exit code of the run."""
    _watch_input()
    try:
        return int(main(Path(arguments[0])))
    except (UsageError, WireError) as error:
        print(f"mnv3-bench: {error}", file=sys.stderr)
        return int(error.exit_code if isinstance(error, UsageError) else ExitCode.USAGE)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
