"""Worker processes seen from outside: start, order about, pause, and find out how they ended."""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from mnv3_bench.protocol import (
    Channel,
    ChannelClosedError,
    Close,
    Failed,
    Fork,
    Forked,
    Message,
    Reap,
    Reaped,
    Reply,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")

TAIL_LINES = 20
CAN_FORK = sys.platform == "linux"
"""Elsewhere (macOS) forking after a runtime was imported is not safe; every worker is a fresh process there."""

ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 31),
    "MALLOC_TOP_PAD_": str(1 << 24),
}
"""glibc keeps freed blocks instead of giving them back and faulting them in again at the next call (mallopt(3)).

Under glibc's own, adaptive, thresholds the same network takes 0 or 2,000 page faults a call depending on what the
process happened to load before (docs/methodology.md); this setting takes the accident out and is the same for every
cell.
"""


class WorkerError(Exception):
    """A worker did not carry out an order. `reason` is one line, `tail` the end of what the process printed."""

    def __init__(self, reason: str, tail: str = "", install: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.tail = tail
        self.install = install


def worker_environment(threads: int, allocator: str = "keep") -> dict[str, str]:
    """Variables set for every worker of a cell with this many threads."""
    return {
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)),
        # numpy's own pool; nothing measured uses it, and it would start threads at import.
        "OPENBLAS_NUM_THREADS": "1",
        **(ALLOCATOR if allocator == "keep" else {}),
        "PYTHONHASHSEED": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }


@dataclass
class Worker:
    """One worker process and the channel to it."""

    pid: int
    channel: Channel
    log: Path
    process: subprocess.Popen[bytes] | None = None
    parent: Worker | None = None
    paused: bool = False
    gone: bool = False
    status: int | None = None
    """Wait status, once known."""

    def send(self, order: Message) -> None:
        """Send an order without waiting for its reply.

        Raises:
            WorkerError: the process is gone.
        """
        self.resume()
        try:
            self.channel.send(order)
        except ChannelClosedError as error:
            raise self.crashed() from error

    def receive(self) -> Reply:
        """Take the reply that has arrived.

        Raises:
            WorkerError: the order failed, or the process is gone.
        """
        try:
            reply = self.channel.receive_reply()
        except ChannelClosedError as error:
            raise self.crashed() from error
        except msgspec.DecodeError as error:
            self.kill()
            raise WorkerError(f"its answer cannot be read: {error}", self.tail()) from error
        if isinstance(reply, Failed):
            raise WorkerError(reply.reason, self.tail(), reply.install)
        return reply

    def request(self, order: Message, limit: float) -> Reply:
        """Send an order and wait at most `limit` seconds for its reply.

        Raises:
            WorkerError: the order failed, took longer (the process is then killed), or the process is gone.
        """
        self.send(order)
        return self.await_reply(limit)

    def await_reply(self, limit: float) -> Reply:
        """Wait at most `limit` seconds for the reply to an order already sent.

        Raises:
            WorkerError: as `request`.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self.channel, selectors.EVENT_READ)
            if not selector.select(limit):
                raise self.hung(limit)
        return self.receive()

    def hung(self, limit: float) -> WorkerError:
        """Kill a worker that gave no answer within its limit, and say so."""
        tail = self.tail()
        self.kill()
        return WorkerError(
            f"no answer within {limit:.0f} s; killed (raise --limit-time if it needs longer)", tail
        )

    def pause(self) -> None:
        """Stop every thread of the process, spinning ones included."""
        if not self.paused and not self.gone:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGSTOP)
            self.paused = True

    def resume(self) -> None:
        """Undo `pause`."""
        if self.paused and not self.gone:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGCONT)
            self.paused = False

    def bind(self, cpus: set[int]) -> None:
        """Let every thread of the process run on these CPUs only, where the system can."""
        if self.gone or not hasattr(os, "sched_setaffinity"):
            return
        with contextlib.suppress(OSError):  # a thread, or the process, has just ended
            for thread in Path(f"/proc/{self.pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), cpus)

    def close(self, limit: float = 10.0) -> None:
        """Let the process close its session and leave; kill it if it does not."""
        if self.gone:
            return
        try:
            self.request(Close(), limit)
        except WorkerError:
            self.kill()
            return
        self._collect(limit)

    def kill(self) -> None:
        """Kill the process and everything it started."""
        if self.gone:
            return
        for kill in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(self.pid, signal.SIGKILL)
        self._collect(10.0)

    def tail(self) -> str:
        """The last lines the process printed."""
        try:
            with self.log.open("rb") as log:
                log.seek(0, os.SEEK_END)
                log.seek(max(0, log.tell() - 16384))
                text = log.read().decode("utf-8", "replace")
        except OSError:
            return ""
        return "\n".join(
            "".join(c for c in line if c.isprintable() or c == "\t")
            for line in deque(text.splitlines(), TAIL_LINES)
        )

    def crashed(self) -> WorkerError:
        """Collect a process whose channel closed, and say how it ended."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # The channel can close a moment before the process is gone; or the process lives on without it.
            if self._wait(2.0) is None:
                os.killpg(self.pid, signal.SIGKILL)
        self._collect(10.0)
        return WorkerError(describe_exit(self.status), self.tail())

    def _collect(self, limit: float) -> None:
        """Wait for the process to end."""
        self._wait(limit)
        self.gone = True
        self.channel.close()

    def _wait(self, limit: float) -> int | None:
        """The wait status, None while the process still runs or when nobody can tell any more."""
        if self.status is None:
            self.status = self._ask_for_status(limit)
        return self.status

    def _ask_for_status(self, limit: float) -> int | None:
        if self.process is not None:
            try:
                code = self.process.wait(limit)
            except subprocess.TimeoutExpired:
                return None
            return -code if code < 0 else code << 8
        if self.parent is None or self.parent.gone:
            return None
        deadline = time.monotonic() + limit
        while True:
            try:
                reply = self.parent.request(Reap(self.pid), limit)
            except WorkerError:
                return None
            if isinstance(reply, Reaped) and reply.status is not None:
                return reply.status
            if time.monotonic() > deadline:
                return None
            time.sleep(0.005)


def describe_exit(status: int | None) -> str:
    """One line about how a process ended, from its wait status."""
    if status is None:
        return "the process vanished"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        name = signal.Signals(number).name
        hint = {
            signal.SIGKILL: " (by the system when memory runs out, or by hand)",
            signal.SIGILL: " (an instruction this processor lacks)",
        }.get(signal.Signals(number), "")
        return f"the process was killed by {name}{hint}"
    return f"the process left unexpectedly with exit code {os.WEXITSTATUS(status)}"


class Launcher:
    """Starts workers. With `nurseries`, forks them from processes that have imported the runtime once.

    Start it and use it from one thread: Linux delivers a parent's death to its children when the *thread* that made
    them ends.
    """

    def __init__(
        self,
        logs: Path,
        *,
        memory_limit: int | None,
        allocator: str = "keep",
        python: str = sys.executable,
        variables: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> None:
        """Args that need a word.

        python: the interpreter that runs the workers; it must have this package.
        variables: set for every worker beside `worker_environment`.
        directory: where workers are started; by default where this process is.
        """
        self.python = python
        self.variables = dict(variables or {})
        self.directory = directory
        self.logs = logs
        self.memory_limit = memory_limit
        self.allocator = allocator
        self.alive: list[Worker] = []
        self._nurseries: dict[tuple[tuple[str, ...], int], Worker] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def fresh(self, name: str, threads: int) -> Worker:
        """Start an interpreter of its own."""
        ours, theirs = socket.socketpair()
        log = self.logs / f"{name}.log"
        environment = {**os.environ, **worker_environment(threads, self.allocator), **self.variables}
        limit = self.memory_limit

        def limit_memory() -> None:
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

        with log.open("wb") as output:
            process = subprocess.Popen(
                [self.python, "-m", "mnv3_bench.worker", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                cwd=self.directory,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                preexec_fn=limit_memory,
            )
        theirs.close()
        worker = Worker(process.pid, Channel(ours), log, process=process)
        self.alive.append(worker)
        return worker

    def nursery(self, modules: tuple[str, ...], threads: int) -> Worker:
        """The process to fork workers from; the first time it is asked for it is new and has to import them."""
        key = (modules, threads)
        if key not in self._nurseries:
            self._nurseries[key] = self.fresh(f"nursery-{len(self._nurseries)}", threads)
        return self._nurseries[key]

    def forked(self, name: str, nursery: Worker, limit: float) -> Worker:
        """Fork a worker from a nursery.

        Raises:
            WorkerError: the nursery is gone.
        """
        ours, theirs = socket.socketpair()
        log = self.logs / f"{name}.log"
        with log.open("wb") as output:
            nursery.send(Fork())
            try:
                socket.send_fds(nursery.channel.socket, [b"F"], [theirs.fileno(), output.fileno()])
            except OSError as error:
                raise nursery.crashed() from error
            finally:
                theirs.close()
        reply = expect(nursery.await_reply(limit), Forked)
        worker = Worker(reply.pid, Channel(ours), log, parent=nursery)
        self.alive.append(worker)
        return worker

    def forget(self, worker: Worker) -> None:
        """Drop a worker that has been closed or killed."""
        if worker in self.alive:
            self.alive.remove(worker)

    def close_nursery(self, modules: tuple[str, ...], threads: int) -> None:
        """End one nursery, if there is one."""
        nursery = self._nurseries.pop((modules, threads), None)
        if nursery is not None:
            nursery.close()
            self.forget(nursery)

    def close_nurseries(self) -> None:
        """End every nursery, so that the next epoch's workers come from a new address-space layout."""
        for key in list(self._nurseries):
            self.close_nursery(*key)

    def kill_all(self) -> None:
        """Kill whatever is still there, without talking to anyone: a channel may be in the middle of a frame."""
        for worker in self.alive:
            if not worker.gone:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(worker.pid, signal.SIGKILL)
        for worker in self.alive:
            if worker.process is not None:
                worker.process.wait()
            worker.gone = True
        self.alive.clear()
        self._nurseries.clear()


def expect(reply: Reply, kind: type[T]) -> T:
    """The reply as the kind that the order promises."""
    if not isinstance(reply, kind):
        raise WorkerError(f"answered {type(reply).__name__} where {kind.__name__} was expected")
    return reply


__all__ = [
    "Launcher",
    "Worker",
    "WorkerError",
    "describe_exit",
    "expect",
    "worker_environment",
]
