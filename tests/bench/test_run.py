"""Whole runs, in real processes, with backends that misbehave."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest
from fakes.mnv3_fakes import registered

from mnv3_reports.journal import assemble, read_journal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mnv3_reports.record import Run

SMALL = ["--variants", "small@0.35", "--references", "none", "--resolutions", "64"]


@pytest.fixture
def environment(tmp_path: Path, artifact_cache: Path) -> dict[str, str]:
    return {
        **registered(tmp_path / "fakes"),
        "MNV3_BENCH_CACHE": str(artifact_cache),
        "XDG_CACHE_HOME": str(tmp_path),
    }


def bench(
    *arguments: str, env: dict[str, str], cwd: Path, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mnv3_bench.cli", *arguments],
        env=env,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def load(directory: Path) -> Run:
    return assemble(read_journal(directory / "journal.jsonl"))


def by_backend(run: Run) -> dict[str, object]:
    return {record.cell.backend: record for record in run.cells.values()}


def workers_of(pid_or_mark: str) -> list[int]:
    """Worker processes that belong to a run, found by a mark in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("MNV3_TEST_MARK") == pid_or_mark and "mnv3_bench.worker" in " ".join(
                process.cmdline()
            ):
                found.append(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}"
        time.sleep(0.05)


def test_every_fault_becomes_its_own_line_and_the_other_cells_finish(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    fakes = "crash,abort,refuse,hang,greedy,garbage,wrong,nan,well,absent"
    names = ",".join("fake-" + name for name in fakes.split(","))
    done = bench(
        *SMALL,
        *("--backends", f"eager,{names}", "--quick", "--time-budget", "8s", "--precision", "1%"),
        *("--timeout", "15s", "--worker-memory", "3GB", "--output", "out"),
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 5, done.stderr
    assert "Traceback" not in done.stderr
    run = load(tmp_path / "out")
    records = {record.cell.backend: record for record in run.cells.values()}
    failures = {
        name: (record.failure.phase, record.failure.reason)
        for name, record in records.items()
        if record.failure is not None
    }
    assert set(failures) == {
        "fake-crash",
        "fake-abort",
        "fake-refuse",
        "fake-hang",
        "fake-greedy",
        "fake-wrong",
        "fake-nan",
    }
    assert failures["fake-crash"][0] in ("warm-up", "measure")
    assert "SIGSEGV" in failures["fake-crash"][1]
    assert failures["fake-abort"][0] == "prepare"
    assert "SIGABRT" in failures["fake-abort"][1]
    assert "converter: assertion failed" in records["fake-abort"].failure.tail  # type: ignore[union-attr]
    assert failures["fake-refuse"] == ("prepare", "no frobnicator was found")
    assert records["fake-refuse"].failure.install == "apt-get install frobnicator"  # type: ignore[union-attr]
    assert failures["fake-hang"][0] == "load"
    assert "no answer within 15 s" in failures["fake-hang"][1]
    assert failures["fake-greedy"][0] == "load"
    assert "MemoryError" in failures["fake-greedy"][1]
    assert failures["fake-wrong"][0] == failures["fake-nan"][0] == "fidelity"
    assert "below the backend's floor" in failures["fake-wrong"][1]
    assert "NaN" in failures["fake-nan"][1]
    (skip,) = run.skipped
    assert (skip.backend, skip.requested) == ("fake-absent", True)
    assert skip.install == "pip install module-that-nobody-has"
    for name in ("eager", "fake-well", "fake-garbage"):
        key = records[name].cell.key
        epochs = {block.epoch for block in run.blocks if block.cell == key}
        assert len(epochs) >= 3, name
    report = (tmp_path / "out" / "report.md").read_text()
    for name, (_, reason) in failures.items():
        assert name in report
        assert reason.split(";")[0][:40] in report
    assert "apt-get install frobnicator" in report
    assert not re.search(r"\bnan\b", report.replace("fake-nan", ""))


def test_interrupt_keeps_what_was_measured_and_resume_goes_on_also_after_kill(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    environment["MNV3_TEST_MARK"] = mark = str(tmp_path)
    command = [
        *(sys.executable, "-m", "mnv3_bench.cli", *SMALL),
        *("--backends", "eager,fake-well", "--precision", "0.01%", "--time-budget", "25s", "--output", "out"),
    ]
    journal = tmp_path / "out" / "journal.jsonl"

    def blocks() -> int:
        return journal.read_bytes().count(b'"type":"block"') if journal.exists() else 0

    first = subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: blocks() >= 6, 120, "blocks")
    assert len(workers_of(mark)) >= 2
    first.send_signal(signal.SIGINT)
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 130, errors
    assert "Traceback" not in errors
    assert workers_of(mark) == []
    run = load(tmp_path / "out")
    assert run.finished is not None
    assert (run.finished.status, run.finished.stopped_because) == ("partial", "interrupted")
    assert "PARTIAL" in (tmp_path / "out" / "report.md").read_text()
    after_interrupt = blocks()
    assert after_interrupt >= 6

    again = [sys.executable, "-m", "mnv3_bench.cli", "--resume", "out"]
    second = subprocess.Popen(again, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: blocks() >= after_interrupt + 4, 60, "more blocks")
    second.kill()
    second.communicate()
    # Paused workers of a killed run must not stay behind.
    wait_for(lambda: workers_of(mark) == [], 10, "workers to go")
    # As a write that was cut off would leave it.
    with journal.open("ab") as file:
        file.write(b'{"type":"block","cell":"v3-sm')

    done = bench("--resume", "out", env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = load(tmp_path / "out")
    assert run.finished is not None
    assert run.finished.status == "complete"
    assert len(run.resumed) == 2
    assert len({block.epoch for block in run.blocks}) >= 3
    # Nothing was prepared or inspected twice, and no epoch number was used twice.
    text = journal.read_text()
    assert text.count('"type":"inspected"') == 2
    assert len({epoch.epoch for epoch in run.epochs}) == len(run.epochs)
    assert "PARTIAL" not in (tmp_path / "out" / "report.md").read_text()


def test_an_output_directory_that_holds_a_run_is_not_overwritten(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "journal.jsonl").write_text("{}\n")
    done = bench(*SMALL, "--backends", "eager", "--output", "out", env=environment, cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "--resume" in done.stderr
    assert (tmp_path / "out" / "journal.jsonl").read_text() == "{}\n"


def test_an_output_directory_that_cannot_be_made(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "file").write_text("")
    done = bench(*SMALL, "--backends", "eager", "--output", "file/out", env=environment, cwd=tmp_path)
    assert done.returncode == 2
    assert re.search(r"--output: file/out cannot be written: Not a directory", done.stderr)


def test_a_cache_that_cannot_be_written_fails_the_cells_and_says_what_to_set(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "file").write_text("")
    environment["MNV3_BENCH_CACHE"] = str(tmp_path / "file" / "cache")
    done = bench(*SMALL, "--backends", "eager", "--output", "out", env=environment, cwd=tmp_path)
    assert done.returncode == 5
    assert "MNV3_BENCH_CACHE" in done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path / "out")  # noqa: PTH208


@pytest.mark.thorough
def test_real_weights_are_used_and_a_foreign_file_fails_only_its_own_network(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    import torch

    from mnv3_models import build

    model = build("small@0.35")
    torch.save(model.state_dict(), tmp_path / "good.pth")
    (tmp_path / "foreign.pth").write_bytes(b"no checkpoint at all")
    done = bench(
        *("--variants", "small@0.35,small@0.5", "--references", "none", "--resolutions", "64"),
        *("--backends", "eager", "--quick", "--time-budget", "3s", "--output", "out"),
        *("--weights", "small@0.35=good.pth,small@0.5=foreign.pth"),
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 5, done.stderr
    run = load(tmp_path / "out")
    good, bad = run.cells.values()
    assert bad.failure is not None
    assert bad.failure.phase == "prepare"
    assert "foreign.pth" in bad.failure.reason
    assert good.failure is None
    assert good.inspected is not None
    assert good.inspected.fidelity is not None
    assert good.inspected.fidelity.snr_db > 100
    (facts,) = run.variants
    assert facts.weights.startswith("good.pth (sha256 ")
    assert "torchvision layout" in facts.weights


@pytest.mark.thorough
def test_without_a_compiler_only_the_cells_that_need_one_fail(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    environment.pop("CXX", None)
    environment["PATH"] = str(tmp_path)
    done = bench(
        *SMALL,
        *(
            "--backends",
            "eager,compile,quantized-static",
            "--quick",
            "--time-budget",
            "2s",
            "--output",
            "out",
        ),
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 5, done.stderr
    run = load(tmp_path / "out")
    records = {record.cell.backend: record for record in run.cells.values()}
    assert records["eager"].failure is None
    for name in ("compile", "quantized-static"):
        failure = records[name].failure
        assert failure is not None
        assert (failure.phase, failure.install) == ("prepare", "apt-get install g++")
    assert "apt-get install g++" in (tmp_path / "out" / "report.md").read_text()


def test_a_disk_that_fills_up_stops_the_run_with_a_line_and_keeps_what_was_measured(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    asked = [*SMALL, "--backends", "eager", "--quick", "--time-budget", "2s", "--output"]
    assert bench(*asked, "first", env=environment, cwd=tmp_path).returncode == 0
    full = (tmp_path / "first" / "journal.jsonl").stat().st_size
    program = (
        "import resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({full - 1500}, {full - 1500}))\n"
        "from mnv3_bench.cli import invoke\n"
        f"sys.exit(invoke({[*asked, 'second']!r}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 5, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("mnv3-bench: ")
    assert "--resume second" in done.stderr
    run = load(tmp_path / "second")
    assert run.blocks
    again = bench("--resume", "second", env=environment, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert len(load(tmp_path / "second").blocks) > len(run.blocks)


@pytest.mark.thorough
@pytest.mark.thorough
def test_a_resumed_run_does_not_forget_wrong_numbers(tmp_path: Path, environment: dict[str, str]) -> None:
    asked = [*SMALL, "--backends", "eager,fake-wrong", "--quick", "--time-budget", "2s", "--output", "out"]
    assert bench(*asked, env=environment, cwd=tmp_path).returncode == 5
    again = bench("--resume", "out", env=environment, cwd=tmp_path)
    assert again.returncode == 5, again.stderr
    run = load(tmp_path / "out")
    wrong = next(record for record in run.cells.values() if record.cell.backend == "fake-wrong")
    assert wrong.failure is not None
    assert wrong.failure.phase == "fidelity"
    assert not [block for block in run.blocks if block.cell == wrong.cell.key]
