"""A scheduler and workers on loopback, each a process that a test may kill, stop or start again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Self

import psutil

if TYPE_CHECKING:
    from pathlib import Path


class Farm:
    """Processes of one fleet. As a context it leaves none of them behind."""

    def __init__(self, place: Path, environment: dict[str, str]) -> None:
        self.place = place
        self.environment = environment
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.workers: dict[str, subprocess.Popen[bytes]] = {}

    def start_scheduler(self) -> None:
        self.scheduler = self._start(
            "scheduler",
            [
                sys.executable,
                "-m",
                "distributed.cli.dask_scheduler",
                "--host",
                "127.0.0.1",
                "--port",
                str(self.port),
                "--no-dashboard",
            ],
        )
        self._listening()

    def _listening(self) -> None:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.1)
        raise AssertionError((self.place / "scheduler.log").read_text())

    def start_worker(self, name: str, *labels: str, cache: Path | None = None) -> None:
        extra = {"MNV3_BENCH_CACHE": str(cache)} if cache is not None else {}
        given = [part for label in labels for part in ("--label", label)]
        self.workers[name] = self._start(
            name,
            [sys.executable, "-m", "mnv3_bench.cli", "worker", self.address, "--name", name, *given],
            extra,
        )

    def _start(
        self, name: str, command: list[str], extra: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        with (self.place / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                command, stdout=log, stderr=log, env={**self.environment, **(extra or {})}
            )

    def run(self, output: Path, *arguments: str, wait: str = "30s") -> subprocess.Popen[str]:
        """The client."""
        command = [sys.executable, "-m", "mnv3_bench.cli", "run", *arguments, "--fleet-wait", wait]
        if "--resume" not in arguments:
            command += ["--fleet", self.address, "--output", str(output)]
        return subprocess.Popen(
            command, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def inner(self, name: str) -> psutil.Process | None:
        """The process that holds dask's worker, which its supervisor starts again."""
        try:
            children = psutil.Process(self.workers[name].pid).children()
        except psutil.NoSuchProcess:
            return None
        return children[0] if children else None

    def kill_worker(self, name: str) -> None:
        """`kill -9` of the worker's process; its supervisor starts it again."""
        inner = self.inner(name)
        if inner is not None:
            inner.kill()

    def stop_worker(self, name: str) -> None:
        """Let a host hang: its worker and whatever it measures."""
        inner = self.inner(name)
        assert inner is not None
        for process in [inner, *inner.children(recursive=True)]:
            process.send_signal(signal.SIGSTOP)

    def restart_scheduler(self) -> None:
        assert self.scheduler is not None
        self.scheduler.kill()
        self.scheduler.wait()
        self.start_scheduler()

    def __enter__(self) -> Self:
        self.start_scheduler()
        return self

    def __exit__(self, *_: object) -> None:
        roots = [process for process in (self.scheduler, *self.workers.values()) if process is not None]
        family = []
        for root in roots:
            if psutil.pid_exists(root.pid):
                family += psutil.Process(root.pid).children(recursive=True)
            root.kill()
        for process in family:
            if process.is_running():
                os.kill(process.pid, signal.SIGCONT)
                process.kill()
        for root in roots:
            root.wait()
