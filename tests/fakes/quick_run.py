"""A run whose phases record at once what they would find out: for tests of what is written, lost and read back.

    python tests/fakes/quick_run.py run --variants small --output out

is `mnv3-bench` with such phases, on backends of `reports.factory`; `QUICK_RUN_PAUSE` seconds pass before every entry.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import msgspec
from reports import factory

from mnv3_bench import cli, run
from mnv3_bench.cache import digest
from mnv3_bench.conductor import Outcome
from mnv3_bench.keys import Keys
from mnv3_bench.prepare import Artifacts
from mnv3_reports import writer
from mnv3_reports.record import Epoch

if TYPE_CHECKING:
    import pytest

    from mnv3_bench.run import Session
    from mnv3_reports.record import Entry

EPOCHS, ROUNDS = 3, 2


def install(
    patch: pytest.MonkeyPatch | None = None, *, forms: str = "md", charts: bool = False, pause: float = 0.0
) -> None:
    """Put the phases in place, for the life of the process where no `patch` undoes it.

    Args:
        patch: takes them away again.
        forms: what is reported.
        charts: whether they are drawn.
        pause: seconds before every entry.
    """

    def record(session: Session, entry: Entry) -> None:
        time.sleep(pause)
        session.record(entry)

    def prepare(session: Session) -> Artifacts:
        keys = Keys(session.run.header.request)
        for cell in session.cells():
            if session.run.cells[cell.key].prepared is None:
                name = digest(keys.artifact(cell))
                record(session, msgspec.structs.replace(factory.prepared(cell), artifact=name))
        return Artifacts()

    def inspect(session: Session, _: Artifacts) -> None:
        for cell in session.cells():
            if session.run.cells[cell.key].inspected is None:
                record(session, factory.inspected(cell, agreement=factory.fidelity(cell)))

    def measure(session: Session, _: Artifacts) -> Outcome:
        first = 1 + max((epoch.epoch for epoch in session.run.epochs), default=-1)
        for epoch in range(first, max(first + 1, EPOCHS)):
            record(session, Epoch(epoch, session.run.header.cells, 1.0))
            for number in range(ROUNDS):
                for cell in session.cells():
                    record(session, factory.block(cell, epoch, number, (5_000_000, 5_100_000)))
        return Outcome("precision", 0.01, 0.1, 0.1)

    def write_report(directory: Path) -> bool:
        return cli.invoke(["report", str(directory), "--format", forms]) == 0

    changes = [(run, function.__name__, function) for function in (prepare, inspect, measure, write_report)]
    if not charts:
        changes.append((writer, "drawings", lambda _: []))  # type: ignore[arg-type]
    for module, name, function in changes:
        if patch is None:
            setattr(module, name, function)
        else:
            patch.setattr(module, name, function)


if __name__ == "__main__":
    install(pause=float(os.environ.get("QUICK_RUN_PAUSE", "0")))
    sys.exit(cli.invoke(sys.argv[1:]))
