"""Real worker processes, and what happens to them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from mnv3_bench.conversations import side_by_side
from mnv3_bench.launcher import CAN_FORK, Launcher, Worker, WorkerError, describe_exit, expect
from mnv3_bench.protocol import Check, Close, Done, Import, Imported, Message, Reply

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    launcher = Launcher(tmp_path / "logs", memory_limit=None)
    yield launcher
    launcher.kill_all()


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules that misbehave when they are imported."""
    (tmp_path / "crashes.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    (tmp_path / "leaves.py").write_text("import os\nprint('farewell')\nos._exit(3)\n")
    (tmp_path / "hangs.py").write_text("import time\nprint('hanging now', flush=True)\ntime.sleep(3600)\n")
    (tmp_path / "raises.py").write_text("raise ValueError('first line\\nsecond line')\n")
    (tmp_path / "shouts.py").write_text(
        "import os\nfor _ in range(1000): os.write(1, b'\\x00\\x00\\x00\\x04junk')\n"
    )
    (tmp_path / "spins.py").write_text(
        "import threading\ndef spin():\n    while True: pass\n"
        "threading.Thread(target=spin, daemon=True).start()\n"
    )
    (tmp_path / "hoards.py").write_text("hoard = bytearray(3 << 30)\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


def test_a_worker_answers_and_leaves(launcher: Launcher) -> None:
    worker = launcher.fresh("w", 1)
    imported = expect(worker.request(Import(("json",)), 20), Imported)
    assert imported.seconds >= 0
    assert imported.resident_bytes > 1e6
    worker.close()
    assert worker.gone
    assert not psutil.pid_exists(worker.pid)


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("crashes", "the process was killed by SIGSEGV"),
        ("leaves", "the process left unexpectedly with exit code 3"),
        ("raises", "first line"),
        ("not_there_at_all", "ModuleNotFoundError: No module named 'not_there_at_all'"),
    ],
)
def test_how_a_worker_ends_is_said_in_one_line(launcher: Launcher, module: str, reason: str) -> None:
    worker = launcher.fresh("w", 1)
    with pytest.raises(WorkerError) as caught:
        worker.request(Import((module,)), 20)
    assert caught.value.reason == reason


@pytest.mark.usefixtures("modules")
def test_the_tail_shows_what_was_printed(launcher: Launcher) -> None:
    worker = launcher.fresh("x", 1)
    with pytest.raises(WorkerError, match="no answer within 1 s") as caught:
        worker.request(Import(("hangs",)), 1)
    assert "hanging now" in caught.value.tail
    assert worker.gone
    assert not psutil.pid_exists(worker.pid)


@pytest.mark.usefixtures("modules")
def test_what_a_runtime_prints_is_never_taken_for_a_message(launcher: Launcher) -> None:
    worker = launcher.fresh("w", 1)
    expect(worker.request(Import(("shouts",)), 20), Imported)
    expect(worker.request(Import(("json",)), 20), Imported)


@pytest.mark.usefixtures("modules")
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts mappings on Linux only")
def test_a_worker_cannot_take_more_memory_than_its_limit(tmp_path: Path) -> None:
    launcher = Launcher(tmp_path / "logs", memory_limit=1 << 30)
    try:
        worker = launcher.fresh("w", 1)
        with pytest.raises(WorkerError, match="MemoryError"):
            worker.request(Import(("hoards",)), 20)
        expect(worker.request(Import(("json",)), 20), Imported)
    finally:
        launcher.kill_all()


@pytest.mark.usefixtures("modules")
def test_a_paused_worker_uses_no_cpu_even_when_it_spins(launcher: Launcher) -> None:
    worker = launcher.fresh("w", 1)
    worker.request(Import(("spins",)), 20)
    process = psutil.Process(worker.pid)

    def used() -> float:
        times = process.cpu_times()
        return float(times.user + times.system)

    before = used()
    time.sleep(0.3)
    assert used() - before > 0.05, "the module does not spin, so the test shows nothing"
    worker.pause()
    time.sleep(0.05)
    before = used()
    time.sleep(0.5)
    assert used() - before <= 0.011  # one tick
    expect(worker.request(Import(("json",)), 20), Imported)


@pytest.mark.skipif(not CAN_FORK, reason="workers are forked on Linux only")
def test_a_forked_worker_has_what_its_nursery_imported_and_is_a_process_of_its_own(
    launcher: Launcher,
) -> None:
    nursery = launcher.nursery(("fractions",), 1)
    nursery.request(Import(("fractions",)), 20)
    assert launcher.nursery(("fractions",), 1) is nursery
    workers = [launcher.forked(f"f{n}", nursery, 20) for n in range(3)]
    assert len({worker.pid for worker in workers} | {nursery.pid}) == 4
    for worker in workers:
        imported = expect(worker.request(Import(("fractions",)), 20), Imported)
        assert imported.seconds < 0.01
    os.kill(workers[0].pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match="killed by SIGKILL"):
        workers[0].request(Import(("json",)), 20)
    workers[1].close()
    assert workers[1].gone
    workers[2].pause()
    workers[2].kill()
    assert workers[2].gone
    launcher.close_nurseries()
    assert not psutil.pid_exists(nursery.pid)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux")
def test_no_worker_outlives_a_killed_run(tmp_path: Path) -> None:
    program = textwrap.dedent(
        f"""
        import sys, time
        from pathlib import Path
        from mnv3_bench.launcher import Launcher
        from mnv3_bench.protocol import Import
        launcher = Launcher(Path({str(tmp_path)!r}), memory_limit=None)
        nursery = launcher.nursery(("json",), 1)
        nursery.request(Import(("json",)), 20)
        forked = launcher.forked("f", nursery, 20)
        forked.request(Import(("json",)), 20)
        forked.pause()
        fresh = launcher.fresh("x", 1)
        fresh.request(Import(("json",)), 20)
        fresh.pause()
        print(nursery.pid, forked.pid, fresh.pid, flush=True)
        time.sleep(60)
        """
    )
    run = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    pids = [int(pid) for pid in run.stdout.readline().split()]
    assert len(pids) == 3
    run.kill()
    run.wait()
    run.stdout.close()
    deadline = time.monotonic() + 10
    while any(psutil.pid_exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE for p in pids):
        assert time.monotonic() < deadline, "a worker outlived its run"
        time.sleep(0.05)


Conversation = "Generator[tuple[Worker, Message, float], Reply, Any]"


@pytest.mark.usefixtures("modules")
def test_side_by_side_runs_tasks_at_once_isolates_failures_and_takes_more(launcher: Launcher) -> None:
    running = 0
    most = 0
    added = False

    def task(name: str, module: str, limit: float) -> Generator[tuple[Worker, Message, float], Reply, Any]:
        nonlocal running, most
        worker = launcher.fresh(name, 1)
        running += 1
        most = max(most, running)
        try:
            reply = yield worker, Import((module,)), limit
            yield worker, Close(), 5
        except WorkerError as error:
            return error.reason
        finally:
            running -= 1
            worker.kill()
        return type(reply).__name__

    def more() -> list[Any]:
        nonlocal added
        if added:
            return []
        added = True
        return [lambda: task("more", "decimal", 20)]

    tasks = [
        lambda: task("a", "json", 20),
        lambda: task("b", "crashes", 20),
        lambda: task("c", "hangs", 1),
        lambda: task("d", "csv", 20),
    ]
    results = dict(side_by_side(tasks, 2, more=more))
    assert results == {
        0: "Imported",
        1: "the process was killed by SIGSEGV",
        2: "no answer within 1 s; killed (raise --limit-time if it needs longer)",
        3: "Imported",
        4: "Imported",
    }
    assert most == 2


def test_side_by_side_takes_tasks_that_ask_nothing() -> None:
    def task() -> Generator[tuple[Worker, Message, float], Reply, Any]:
        return 7
        yield

    assert list(side_by_side([task, task], 1)) == [(0, 7), (1, 7)]


def test_an_order_a_worker_cannot_carry_out_fails_and_leaves_it_alive(launcher: Launcher) -> None:
    worker = launcher.fresh("w", 1)
    with pytest.raises(WorkerError):
        worker.request(Check("nowhere", "nowhere"), 20)
    expect(worker.request(Import(("json",)), 20), Imported)


def test_exits_are_described() -> None:
    assert describe_exit(None) == "the process vanished"
    assert "SIGKILL (by the system when memory runs out" in describe_exit(9)
    assert describe_exit(256) == "the process left unexpectedly with exit code 1"


def test_an_unexpected_reply_is_a_worker_error() -> None:
    with pytest.raises(WorkerError, match="answered Done where Imported was expected"):
        expect(Done(), Imported)
