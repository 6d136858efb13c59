"""Background load on purpose, for testing the gate: none, steady, bursty, or only while one arm is measured."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Literal, Self, get_args

from mnv3_bench.environment import usable_cpus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnv3_bench.gate.trial import Stage
    from mnv3_bench.protocol import Turned
    from mnv3_reports.record import Failure

LoadName = Literal["idle", "steady", "bursty", "one-arm"]
LOADS: tuple[LoadName, ...] = get_args(LoadName)

# Each ends by itself when the process that started it is gone, however that went.
_STEADY = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(100_000):
        pass
"""
_BURSTY = """
import os, random, sys, time
chance = random.Random(sys.argv[1])
parent = os.getppid()
while os.getppid() == parent:
    end = time.monotonic() + chance.expovariate(1.0)
    while time.monotonic() < end:
        pass
    time.sleep(chance.expovariate(0.5))
"""


class Load:
    """A load as a context: its processes run inside and are gone after it.

    steady: one busy process; bursty: one a CPU, busy for a second and idle for two in the mean, exponentially
    distributed, seeded; one-arm: one busy process a CPU that runs only during the head's blocks.
    """

    def __init__(self, name: LoadName, seed: int = 0) -> None:
        self.name = name
        self.seed = seed
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        cpus = usable_cpus()
        programs = {
            "idle": [],
            "steady": [[_STEADY]],
            "bursty": [[_BURSTY, str(self.seed * 1000 + cpu)] for cpu in range(cpus)],
            "one-arm": [[_STEADY]] * cpus,
        }[self.name]
        for program in programs:
            self.processes.append(
                subprocess.Popen([sys.executable, "-c", *program], stdin=subprocess.DEVNULL)
            )
        if self.name == "one-arm":
            self.signal(signal.SIGSTOP)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self.processes.clear()

    def signal(self, number: int) -> None:
        """Send a signal to every process of the load."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)

    def around(self, stage: Stage) -> Stage:
        """The stage, with a one-arm load switched on for the head's turns; other loads leave it as it is."""
        return _OneArmStage(stage, self) if self.name == "one-arm" else stage


class _OneArmStage:
    """A stage that lets the load run while the head performs."""

    def __init__(self, stage: Stage, load: Load) -> None:
        self.stage = stage
        self.load = load

    def start(self, keys: Sequence[str], epoch: int) -> dict[str, float | Failure]:
        return self.stage.start(keys, epoch)

    def bind(self, cpus: set[int]) -> None:
        self.stage.bind(cpus)

    def turn(self, key: str, discard: int, calls: int) -> Turned | Failure:
        if not key.startswith("head "):
            return self.stage.turn(key, discard, calls)
        self.load.signal(signal.SIGCONT)
        try:
            return self.stage.turn(key, discard, calls)
        finally:
            self.load.signal(signal.SIGSTOP)

    def clear(self) -> None:
        self.stage.clear()

    def stop(self) -> None:
        self.stage.stop()
