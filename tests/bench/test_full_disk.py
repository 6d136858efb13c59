"""A disk that is full from any write on: a clear line, the documented exit code, nothing lost, and it can go on."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.full_disk import COMPILER, FullDisk

from mnv3_reports.journal import assemble, read_journal

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="needs a C compiler"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="preloads into processes as Linux does"),
]

TESTS = Path(__file__).parents[1]

PROGRAM = """
import contextlib, io, json, os, sys
sys.path.insert(0, {tests!r})
from fakes import quick_run
from mnv3_bench import cli

quick_run.install(forms={forms!r}, charts={charts})

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
ASKED = ("--variants", "small@0.35", "--references", "none", "--resolutions", "64", "--backends", "eager")


class Disk:
    """Runs in one folder, on a disk that fills up."""

    def __init__(self, tmp_path: Path, *, plainly: bool = True) -> None:
        self.folder = tmp_path / "disk"
        self.folder.mkdir()
        self.disk = FullDisk(self.folder, tmp_path / "scratch")
        program = PROGRAM.format(
            tests=str(TESTS), asked=ASKED, forms="md" if plainly else "md,html", charts=not plainly
        )
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


def run_at_every_write(tmp_path: Path, *, plainly: bool, every: int, resumed: int) -> int:
    """Runs with room for ever more writes, until one is complete; how many writes that takes.

    Every so many-th is gone on with when there is room again.
    """
    disk = Disk(tmp_path, plainly=plainly)
    try:
        for room in range(0, 10_000, every):
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


def test_a_disk_that_is_full_from_a_write_on(tmp_path: Path) -> None:
    assert run_at_every_write(tmp_path, plainly=True, every=4, resumed=12) > 30


@pytest.mark.thorough
def test_the_same_from_any_write_on_with_charts_and_page_and_each_gone_on_with(tmp_path: Path) -> None:
    assert run_at_every_write(tmp_path, plainly=False, every=1, resumed=1) > 60


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(5))
def test_a_real_run_with_cache_and_workers_on_a_disk_that_fills_up(tmp_path: Path, seed: int) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    disk = FullDisk(folder, tmp_path / "scratch")
    environment = {**os.environ, **disk.environment, "MNV3_BENCH_CACHE": str(folder / "cache")}

    def bench(*arguments: str, room: int | None) -> subprocess.CompletedProcess[str]:
        disk.room(room)
        command = [sys.executable, "-m", "mnv3_bench.cli", *arguments]
        return subprocess.run(
            command, env=environment, cwd=folder, capture_output=True, text=True, check=False
        )

    asked = (*ASKED, "--quick", "--time-budget", "2s", "--output")
    assert bench(*asked, "whole", room=None).returncode == 0
    room = random.Random(seed).randrange(disk.asked)
    for path in (folder / "cache", folder / "whole"):
        shutil.rmtree(path)
    done = bench(*asked, "out", room=room)
    kept = finished_lines(folder / "out" / "journal.jsonl")
    assert done.returncode == (5 if kept else 2), (room, done.stderr)
    assert "Traceback" not in done.stderr, (room, done.stderr)
    assert "full" in done.stderr or "No space left" in done.stderr, (room, done.stderr)
    again = ("--resume", "out") if kept else (*asked, "out")
    done = bench(*again, room=None)
    assert done.returncode == 0, (room, done.stderr)
    assert finished_lines(folder / "out" / "journal.jsonl").startswith(kept), room
    run = assemble(read_journal(folder / "out" / "journal.jsonl"))
    assert run.finished is not None
    assert run.finished.status == "complete"
    assert bench("cache", "verify", room=None).returncode == 0
