"""What a fleet costs and survives (docs/scale.md): speed-up of four hosts, and everything that can be killed, killed.

Hosts are processes of this machine, and what they measure sleeps a known time, so that they do not wait for each other.
"""

from __future__ import annotations

import os
import random
import signal
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fakes import mnv3_fakes
from fakes.farm import Farm

from mnv3_reports.fleet import Fleet, host_runs, read_fleet

if TYPE_CHECKING:
    import subprocess

CELLS = (
    "--variants", "small-minimal@0.35,large-minimal@0.35,v1@0.25,v2@0.35,small@0.35", "--backends", "fake-sleep",
    "--references", "none", "--resolutions", "32", "--quick",
)  # fmt: skip
SECONDS_A_CELL = float(os.environ.get("MNV3_BENCH_FLEET_SECONDS", "4"))
SETTINGS = int(os.environ.get("MNV3_BENCH_FLEET_SETTINGS", "40"))
KILLS = int(os.environ.get("MNV3_BENCH_FLEET_KILLS", "20"))


def threads(number: int) -> tuple[str, ...]:
    return ("--threads", ",".join(str(number) for number in range(1, number + 1)))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    cache = {"MNV3_BENCH_CACHE": str(tmp_path_factory.mktemp("cache"))}
    return {**mnv3_fakes.registered(tmp_path_factory.mktemp("fakes")), **cache}


def ended(client: subprocess.Popen[str], seconds: float) -> tuple[int, str]:
    output, errors = client.communicate(timeout=seconds)
    return client.returncode, output + errors


def measured(directory: Path) -> tuple[Fleet, dict[str, int]]:
    """The fleet, and how often each cell of a group was measured to the end, or has a named failure."""
    fleet = read_fleet(directory)
    times: dict[str, int] = {}
    for each in host_runs(directory, fleet):
        for key, record in each.run.cells.items():
            has_samples = any(block.cell == key for block in each.run.blocks)
            times[key] = times.get(key, 0) + (has_samples or record.failure is not None)
    return fleet, times


def test_speed_up(tmp_path: Path, environment: dict[str, str]) -> None:
    total = 5 * SETTINGS
    budget = f"{SECONDS_A_CELL * total:.0f}s"
    arguments = (*CELLS, *threads(SETTINGS), "--time-budget", budget)
    walls: dict[int, float] = {}
    inner: dict[int, float] = {}
    whole: dict[int, float] = {}
    with Farm(tmp_path, environment) as farm:
        farm.start_worker("host-1")
        warm = tmp_path / "warm"
        code, text = ended(farm.run(warm, *CELLS, *threads(1), "--time-budget", "5s"), 600)
        assert code == 0, text
        for hosts in (1, 4):
            for number in range(len(farm.workers) + 1, hosts + 1):
                farm.start_worker(f"host-{number}")
            time.sleep(8)  # all of them have joined, and nothing is starting any more
            directory = tmp_path / f"of-{hosts}"
            start = time.monotonic()
            code, text = ended(farm.run(directory, *arguments), 3600)
            whole[hosts] = time.monotonic() - start
            assert code == 0, text
            fleet, times = measured(directory)
            walls[hosts] = span(fleet)
            inner[hosts] = sum(each.seconds or 0.0 for each in fleet.ended.values())
            assert len(times) == total
            assert set(times.values()) == {1}
    print(
        f"\n{total} cells, from the first assignment to the last end: 1 host {walls[1]:.1f} s, 4 hosts "
        f"{walls[4]:.1f} s, speed-up {walls[1] / walls[4]:.2f} ({walls[1] / walls[4] / 4:.1%} of ideal)\n"
        f"one host: {(walls[1] - inner[1]) / total * 1000:.0f} ms a cell beyond what its own runs took\n"
        f"the whole command: 1 host {whole[1]:.1f} s, 4 hosts {whole[4]:.1f} s"
    )


def span(fleet: Fleet) -> float:
    """Seconds from the first assignment to the end of the last group."""
    first = min(datetime.fromisoformat(each.at) for each in fleet.attempts.values())
    return (max(datetime.fromisoformat(each.at) for each in fleet.ended.values()) - first).total_seconds()


def copies(directory: Path) -> dict[str, bytes]:
    """What the client has of every journal."""
    return {str(path.parent): path.read_bytes() for path in directory.glob("hosts/*/*/journal.jsonl")}


def keeps(directory: Path, earlier: dict[str, bytes]) -> bool:
    """Whether everything that had come is there still: in its journal, or in one that was set aside."""
    for place, data in earlier.items():
        whole = data[: data.rfind(b"\n") + 1]
        if not any(path.read_bytes().startswith(whole) for path in Path(place).glob("*.jsonl")):
            return False
    return True


def test_whatever_is_killed(tmp_path: Path, environment: dict[str, str]) -> None:
    draw = random.Random(7)
    directory = tmp_path / "run"
    settings = 16
    arguments = (*CELLS, *threads(settings), "--time-budget", f"{SECONDS_A_CELL * 5 * settings:.0f}s")
    events: list[str] = []
    seen: dict[str, bytes] = {}
    with Farm(tmp_path, environment) as farm:
        names = ["host-1", "host-2", "host-3"]
        for name in names:
            farm.start_worker(name)
        code, text = ended(farm.run(tmp_path / "warm", *CELLS, *threads(1), "--time-budget", "5s"), 600)
        assert code == 0, text
        client = farm.run(directory, *arguments)
        while not list(
            directory.glob("hosts/*/*/journal.jsonl")
        ):  # what is killed, is killed while it measures
            assert client.poll() is None
            time.sleep(0.2)
        kinds = ["worker"] * KILLS + ["scheduler", "hang", "client"]
        draw.shuffle(kinds)
        texts = []
        for kind in kinds:
            time.sleep(draw.uniform(1.0, 6.0))
            if client.poll() is not None:
                break
            if kind == "worker":
                farm.kill_worker(draw.choice(names))
            elif kind == "scheduler":
                farm.restart_scheduler()
            elif kind == "hang" and len(names) > 1:
                hung = names.pop()
                farm.stop_worker(hung)
            elif kind == "client" and directory.exists():
                client.send_signal(signal.SIGKILL)
                texts.append(ended(client, 60)[1])
                client = farm.run(directory, "--resume", str(directory))
            assert keeps(directory, seen), f"after {events}, {kind}"
            seen.update(copies(directory))
            events.append(kind)
        code, text = ended(client, 1800)
        texts.append(text)
        (tmp_path / "client.log").write_text("\n".join(texts))
        fleet, times = measured(directory)
    lost = sum(each.status == "lost" for each in fleet.ended.values())
    killed = ", ".join(f"{events.count(kind)} x {kind}" for kind in dict.fromkeys(events))
    once, more = (sum(count == 1 for count in times.values()), sum(count > 1 for count in times.values()))
    print(
        f"\n{5 * settings} cells on 3 hosts; {killed}: exit code {code}, {once} cells once, {more} twice, "
        f"{5 * settings - len(times)} missing, {lost} attempts lost, {len(fleet.failed)} groups given up"
    )
    assert set(times.values()) == {1}, texts
    assert len(times) == 5 * settings, texts
    assert keeps(directory, seen)
