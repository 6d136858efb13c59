"""`kill -9` at random moments of a real run, then `--resume` until it is complete: nothing that was measured is lost.

    python tests/scale/kill_run.py --kills 100 --seed 0 --folder /tmp/kills

Runs follow each other in the folder, every second one on an artifact cache that is still empty, until so many kills
have struck. A kill takes the main process, or (one in five) one of its workers; half of the moments are drawn from the
whole run, half from its measuring. What must hold is asserted at once:

- the journal begins with every line that was finished before any kill, unchanged;
- no process of the run is left, and nobody holds the journal;
- in the end: every cell measured, none twice in a round; the record's own files say what the journal says; nothing
  half-written lies in the run's folder or the cache; no entry of the cache is damaged.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from mnv3_bench.cache import Store
from mnv3_reports.journal import assemble, read_journal
from mnv3_reports.record import RunStarted
from mnv3_reports.rundir import load_run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mnv3_reports.record import Run

MARK = "MNV3_KILL_MARK"
SMALL = ("--variants", "small-minimal@0.35,small@0.35", "--references", "none", "--resolutions", "64")
REAL = (*SMALL, "--backends", "eager,onnxruntime", "--quick", "--time-budget", "20s")
PROGRAM = (sys.executable, "-m", "mnv3_bench.cli")
WORKER_SHARE = 0.2
LONGEST_WAIT = 12.0
"""Seconds from the start of a process, or the last kill, to a kill: as long as such a run about takes."""


@dataclass
class Struck:
    """What happened."""

    kills: int = 0
    workers: int = 0
    runs: int = 0
    starts: int = 0
    phases: Counter[str] = field(default_factory=Counter)
    """Last entry of the journal when a kill struck, to how often."""
    blocks_at_kills: int = 0
    """Blocks that were in a journal when its main process was killed."""
    blocks_at_end: int = 0
    torn: int = 0
    """Journals that a kill left with half a line at their end."""
    seconds: float = 0.0


def strike(
    arguments: Sequence[str],
    folder: Path,
    kills: int,
    seed: int,
    environment: Mapping[str, str],
    longest: float,
    program: Sequence[str] = PROGRAM,
) -> Struck:
    """Start runs and kill them until so many kills have struck and the last run is complete.

    Args:
        arguments: of the run.
        folder: where they run; there must be nothing of theirs yet.
        kills: how many.
        seed: of all that is random.
        environment: of the runs; an artifact cache that it names is not emptied.
        longest: seconds from a start to a kill, at most.
        program: what runs; mnv3-bench, or a stand-in.
    """
    chance = random.Random(seed)
    struck = Struck()
    begin = time.monotonic()
    cache = folder / "cache"
    while struck.kills < kills:
        directory = folder / f"run-{struck.runs:03d}"
        if struck.runs % 2:
            shutil.rmtree(cache, ignore_errors=True)
        surroundings = {"MNV3_BENCH_CACHE": str(cache), **environment, MARK: str(directory)}
        one_run(program, arguments, directory, kills, chance, surroundings, longest, struck)
        check_cache(Path(surroundings["MNV3_BENCH_CACHE"]))
        struck.runs += 1
    struck.seconds = time.monotonic() - begin
    return struck


def one_run(
    program: Sequence[str],
    arguments: Sequence[str],
    directory: Path,
    kills: int,
    chance: random.Random,
    environment: Mapping[str, str],
    longest: float,
    struck: Struck,
) -> None:
    """One run from its start to its complete record, through as many kills as it takes."""
    journal = directory / "journal.jsonl"
    seen = b""
    for _ in range(60):
        begun = read(journal).count(b"\n") > 0
        own = ["--resume", str(directory)] if begun else [*arguments, "--output", str(directory)]
        log = directory.with_suffix(".log")
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*program, *own],
                env=dict(environment),
                stdout=output,
                stderr=output,
                cwd=directory.parent,
            )
        struck.starts += 1
        killed = False
        while not killed and struck.kills < kills:
            if not waits(process, chance, journal, longest):
                break
            seen = keeps(seen, journal)
            killed = kill(process, chance, journal, struck)
        code = process.wait(300)
        assert killed or code in (0, 5), f"exit code {code}: {log.read_text()[-2000:]}"
        nobody_left(str(directory))
        struck.torn += not read(journal).endswith(b"\n") and bool(read(journal))
        seen = keeps(seen, journal)
        if killed:
            struck.blocks_at_kills += seen.count(b'"type":"block"')
            continue
        if code == 0:
            break
    else:
        raise AssertionError(f"{directory} was not complete after 60 starts")
    run = check_record(directory)
    struck.blocks_at_end += len(run.blocks)


def waits(process: subprocess.Popen[bytes], chance: random.Random, journal: Path, longest: float) -> bool:
    """Wait for the moment of the next kill; false when the process ended before.

    Every second moment lies in the measuring, which would otherwise be reached seldom: from a new block on.
    """
    measuring, share = chance.random() < 0.5, chance.random()
    if measuring:
        before = read(journal).count(b'"type":"block"')
        while process.poll() is None and read(journal).count(b'"type":"block"') == before:
            time.sleep(0.01)
    try:
        process.wait(share * (longest / 3 if measuring else longest))
    except subprocess.TimeoutExpired:
        return True
    return False


def kill(process: subprocess.Popen[bytes], chance: random.Random, journal: Path, struck: Struck) -> bool:
    """Kill a run, or one of its workers; whether it was the run."""
    struck.phases[last_entry(journal)] += 1
    struck.kills += 1
    if chance.random() < WORKER_SHARE:
        try:
            found = psutil.Process(process.pid).children(recursive=True)
            workers = [child for child in found if "mnv3_bench.worker" in child.cmdline()]
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            workers = []
        if workers:
            chance.choice(sorted(workers, key=lambda worker: worker.pid)).kill()
            struck.workers += 1
            return False
    process.kill()
    return True


def read(journal: Path) -> bytes:
    return journal.read_bytes() if journal.exists() else b""


def keeps(seen: bytes, journal: Path) -> bytes:
    """The finished lines of a journal; those seen before must still be there, in their places."""
    data = read(journal)
    assert data.startswith(seen), f"{journal} has lost or changed lines that were there"
    return data[: data.rfind(b"\n") + 1]


def last_entry(journal: Path) -> str:
    lines = read(journal).split(b"\n")[:-1]
    return str(json.loads(lines[-1])["type"]) if lines else "nothing yet"


def nobody_left(mark: str) -> None:
    """Processes of a run end with it. A report that was being written may finish."""
    deadline = time.monotonic() + 60
    while left := [process for process in psutil.process_iter() if belongs(process, mark)]:
        assert time.monotonic() < deadline, f"still there: {[process.cmdline() for process in left]}"
        time.sleep(0.05)


def belongs(process: psutil.Process, mark: str) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return False


def check_record(directory: Path) -> Run:
    """A run that is complete: every cell measured once a round, and its own files say what the journal says."""
    journal = directory / "journal.jsonl"
    with journal.open("rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    entries = read_journal(journal)
    run = assemble(entries)
    header = entries[0]
    assert isinstance(header, RunStarted)
    assert run.finished is not None
    assert run.finished.status == "complete"
    assert {block.cell for block in run.blocks} == set(header.cells) == set(run.cells)
    places = Counter((block.cell, block.epoch, block.round) for block in run.blocks)
    assert max(places.values()) == 1, "a block is there twice"
    assert all(record.failure is None for record in run.cells.values())
    copy = directory.with_suffix(".copy")
    shutil.copytree(directory, copy)
    (copy / "journal.jsonl").unlink()
    alone = load_run(copy)
    assert alone.lost == ()
    assert alone == run, "the record's own files say something else than the journal"
    shutil.rmtree(copy)
    report = (directory / "report.md").read_text()
    assert "PARTIAL" not in report
    for record in run.cells.values():
        assert record.cell.backend in report
    left = [path for path in directory.rglob("*") if path.name.endswith(".part")]
    assert left == [], f"half-written files are left: {left}"
    return run


def check_cache(root: Path) -> None:
    """Nothing half-built is left once the store is next used, nothing is leased, and every entry is what was built."""
    store = Store(root)
    if not root.exists():
        return  # no run came so far
    store.sweep()
    odd = [path.name for path in root.iterdir() if path.name.startswith(("building-", "removing-"))]
    assert odd == []
    for entry in store.entries():
        assert store.check(entry.name) is None
        assert not store.in_use(entry.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True, help="an empty folder")
    parser.add_argument(
        "--longest", type=float, default=LONGEST_WAIT, help="seconds between two kills, at most"
    )
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    folder.mkdir(parents=True)
    struck = strike(REAL, folder, asked.kills, asked.seed, os.environ, asked.longest)
    print(
        f"{struck.kills} kills ({struck.workers} of workers) of {struck.runs} runs in {struck.starts} starts, "
        f"{struck.seconds:.0f} s, seed {asked.seed}"
    )
    print("last entry when they struck: " + ", ".join(f"{k} {n}" for k, n in struck.phases.most_common()))
    print(
        f"blocks in journals when their run was killed: {struck.blocks_at_kills}, all of them kept, none changed"
    )
    print(f"blocks in the complete records: {struck.blocks_at_end}; torn last lines dropped: {struck.torn}")


if __name__ == "__main__":
    main()
