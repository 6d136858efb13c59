"""A disk that is full from any write on: a clear line, the documented exit code, nothing lost, and it can go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from fakes.full_disk import COMPILER, FullDisk

from mnv3_reports.journal import assemble, read_journal

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="needs a C compiler"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="preloads into processes as Linux does"),
]

TESTS = Path(__file__).parents[1]

PROGRAM = textwrap.dedent(
    """
    import contextlib, io, json, os, sys
    sys.path.insert(0, {tests!r})
    from pathlib import Path
    from msgspec import structs
    from reports import factory
    from mnv3_bench import cli, run
    from mnv3_bench.cache import digest
    from mnv3_bench.conductor import Outcome
    from mnv3_bench.keys import Keys
    from mnv3_bench.prepare import Artifacts
    from mnv3_reports import writer
    from mnv3_reports.record import Epoch, SCHEMA_VERSION

    # What a run writes, without the time that it takes: its phases record what they would.
    def prepare(session):
        keys = Keys(session.run.header.request)
        for cell in session.cells():
            if session.run.cells[cell.key].prepared is None:
                name = digest(keys.artifact(cell))
                session.record(structs.replace(factory.prepared(cell), artifact=name))
        return Artifacts()

    def inspect(session, artifacts):
        for cell in session.cells():
            if session.run.cells[cell.key].inspected is None:
                session.record(factory.inspected(cell, agreement=factory.fidelity(cell)))

    def measure(session, artifacts):
        first = 1 + max((epoch.epoch for epoch in session.run.epochs), default=-1)
        for epoch in range(first, first + 2):
            session.record(Epoch(epoch, session.run.header.cells, 1.0))
            for cell in session.cells():
                session.record(factory.block(cell, epoch, 0, (5_000_000, 5_100_000)))
        return Outcome("precision", 0.01, 0.1, 0.1)

    run.prepare, run.inspect, run.measure = prepare, inspect, measure
    forms = "md" if {plainly} else "md,html"
    run.write_report = lambda directory: cli.invoke(["report", str(directory), "--format", forms]) == 0
    if {plainly}:
        writer.drawings = lambda summary: []

    def child(arguments):
        told = io.StringIO()
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
            code = cli.invoke(arguments)
        return code, told.getvalue()

    child(["run", *{asked!r}, "--output", "warm"])   # imports and looks at the machine once for all
    for line in sys.stdin:
        reading, writing = os.pipe()
        if (pid := os.fork()) == 0:
            os.write(writing, json.dumps(child(json.loads(line))).encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as answer:
            print(answer.read(), flush=True)
        os.waitpid(pid, 0)
    """
)
ASKED = ("--variants", "small@0.35", "--references", "none", "--resolutions", "64", "--backends", "eager")


class Disk:
    """Runs in one folder, on a disk that fills up."""

    def __init__(self, tmp_path: Path, *, plainly: bool = True) -> None:
        self.folder = tmp_path / "disk"
        self.folder.mkdir()
        self.disk = FullDisk(self.folder, tmp_path / "scratch")
        program = PROGRAM.format(tests=str(TESTS), asked=ASKED, plainly=plainly)
        self.process = subprocess.Popen(
            [sys.executable, "-c", program],
            env={
                **os.environ,
                **self.disk.environment,
                "MNV3_BENCH_CACHE": str(tmp_path / "cache"),
            },
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def do(self, *arguments: str, room: int | None) -> tuple[int, str, int]:
        """Exit code, what was said, and how many writes were asked for."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.disk.room(room)
        self.process.stdin.write(json.dumps(arguments) + "\n")
        self.process.stdin.flush()
        code, told = json.loads(self.process.stdout.readline())
        return code, told, self.disk.asked

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def finished_lines(journal: Path) -> bytes:
    data = journal.read_bytes() if journal.exists() else b""
    return data[: data.rfind(b"\n") + 1]


def run_at_every_write(tmp_path: Path, *, plainly: bool, resumed: int) -> int:
    """Runs with room for ever more writes, until one is complete; how many writes that takes.

    Every so many-th is gone on with when there is room again.
    """
    disk = Disk(tmp_path, plainly=plainly)
    try:
        for room in range(10_000):
            directory = disk.folder / f"out-{room}"
            code, told, _ = disk.do("run", *ASKED, "--output", directory.name, room=room)
            if code == 0:
                return room
            kept = finished_lines(directory / "journal.jsonl")
            # Before its first line there is no run yet; after its last one only the report is missing.
            assert code == (5 if kept else 2), (room, told)
            said = [line for line in told.splitlines() if line.startswith("mnv3-bench: ")]
            assert len(said) == 1, (room, told)
            assert "isk is full" in said[0] or "No space left on device" in said[0], (room, told)
            assert "Traceback" not in told, (room, told)
            if room % resumed:
                continue
            again = ("--resume", directory.name) if kept else (*ASKED, "--output", directory.name)
            code, told, _ = disk.do("run", *again, room=None)
            assert code == 0, (room, told)
            assert finished_lines(directory / "journal.jsonl").startswith(kept), room
            run = assemble(read_journal(directory / "journal.jsonl"))
            assert run.finished is not None
            assert run.finished.status == "complete"
            assert (directory / "report.md").stat().st_size > 0
            assert [path for path in directory.rglob("*") if path.name.endswith(".part")] == []
    finally:
        disk.end()
    raise AssertionError("it never had room enough")


def test_a_disk_that_is_full_from_any_write_on(tmp_path: Path) -> None:
    assert run_at_every_write(tmp_path, plainly=True, resumed=6) > 30


@pytest.mark.thorough
def test_the_same_with_charts_and_page_and_every_one_gone_on_with(tmp_path: Path) -> None:
    assert run_at_every_write(tmp_path, plainly=False, resumed=1) > 60
