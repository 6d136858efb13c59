"""TensorBoard with PyTorch's profiler plugin, served to this machine alone while somebody looks at a run's traces."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from mnv3_bench.errors import ExitCode, UsageError
from mnv3_bench.profiling.traces import TRACES

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

HOST = "127.0.0.1"
"""Whoever reaches the port can read everything that TensorBoard shows."""
PROGRAM = "mnv3_bench.profiling.tensorboard_offline"
"""What is started: TensorBoard, its plugin's page made to need no other machine."""
PATIENCE = 60.0
"""Seconds until it must answer: it imports a lot."""
_NEEDED = {"tensorboard": "TensorBoard", "torch_tb_profiler": "TensorBoard's profiler plugin"}
_RUNS = "data/plugin/pytorch_profiler/runs"
_PR_SET_PDEATHSIG = 1


@dataclass
class Server:
    """A TensorBoard that answers, until `close`. Also a context manager that closes it."""

    url: str
    process: subprocess.Popen[bytes]
    folder: Path
    """What it writes: its log, and the plugin's copies of traces. Deleted with it."""

    def wait(self) -> None:
        """Return when it ends of itself.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed; it still serves.
        """
        self.process.wait()

    def close(self) -> None:
        """End it and everything it started, and delete what it wrote. More than once is fine."""
        _end(self.process, self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def serve(logdir: Path, port: int | None = None) -> Server:
    """Start TensorBoard with the plugin and wait until it answers.

    Call it from the thread that keeps the server: Linux ends the server with that thread.

    Args:
        logdir: has folders with traces, as `mnv3_bench.profiling.traces.trace_path` lays them out.
        port: of the loopback interface; None takes a free one.

    Raises:
        UsageError: TensorBoard or the plugin is missing, there are no traces, the port is taken, or TensorBoard did
            not start.
    """
    _require_installed()
    if not any(logdir.rglob("*.pt.trace.json")) and not any(logdir.rglob("*.pt.trace.json.gz")):
        raise UsageError(f"'{logdir}' has no traces; mnv3-bench profile writes some")
    port = _port(port)
    folder = Path(tempfile.mkdtemp(prefix="mnv3-bench-tensorboard-"))
    process = _start(logdir, port, folder)
    try:
        _await_answer(process, f"http://{HOST}:{port}/{_RUNS}", folder / "log")
    except BaseException:
        _end(process, folder)
        raise
    return Server(f"http://{HOST}:{port}/#pytorch_profiler", process, folder)


def open_profile(directory: Path, port: int | None = None) -> ExitCode:
    """Serve a run's traces until Ctrl-C or a request to terminate, and say where.

    Args:
        directory: the run directory.
        port: as of `serve`.

    Raises:
        UsageError: as `serve`, or TensorBoard ended of itself.
    """
    from mnv3_bench.run import terminations_interrupt

    with terminations_interrupt():
        try:
            with serve(directory / TRACES, port) as server:
                print(f"TensorBoard: {server.url} (Ctrl-C ends it)", flush=True)
                server.wait()
                raise UsageError(f"TensorBoard ended: {_last_line(server.folder / 'log')}")
        except KeyboardInterrupt:  # also while it starts: there is nothing that could be lost
            return ExitCode.DONE


def _require_installed() -> None:
    for module, name in _NEEDED.items():
        if importlib.util.find_spec(module) is None:
            raise UsageError(f"{name} is not installed; pip install 'mnv3-bench[profile]'")


def _port(wanted: int | None) -> int:
    """The port, if it is free; any free one where none is wanted."""
    with socket.socket() as probe:
        # As TensorBoard's own server does: connections that have ended do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, wanted or 0))
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else "ports end at 65535"
            raise UsageError(f"port {wanted} cannot be used: {reason}; choose another --port") from error
        port: int = probe.getsockname()[1]
        return port


def _start(logdir: Path, port: int, folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "TMPDIR": str(folder)}
    if sys.platform == "linux":
        # A process a trace, all at once: forked ones share what is imported, spawned ones import it again each.
        environment.setdefault("TORCH_PROFILER_START_METHOD", "fork")
    command = [sys.executable, "-m", PROGRAM, f"--logdir={logdir.resolve()}", f"--host={HOST}"]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            # Without its fast loading, which is a second server: there are no curves to load.
            [*command, f"--port={port}", "--load_fast=false"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            # Ctrl-C is for this process, which then ends the other one.
            start_new_session=True,
            preexec_fn=_dying_with(os.getpid()),
        )


def _dying_with(parent: int) -> Callable[[], None] | None:
    """What a new process does first so that Linux kills it with its parent; None where only `close` ends it."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return ask


def _await_answer(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    # Never through a proxy: it is this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None:
        try:
            with opener.open(url, timeout=PATIENCE):
                return
        except urllib.error.HTTPError as error:
            raise UsageError(
                f"TensorBoard runs without its profiler plugin ({error}); see '{url}'"
            ) from error
        except OSError:
            if time.monotonic() > deadline:
                raise UsageError(
                    f"TensorBoard gave no answer within {PATIENCE:.0f} s: {_last_line(log)}"
                ) from None
        time.sleep(0.05)
    raise UsageError(f"TensorBoard did not start: {_last_line(log)}")


def _last_line(log: Path) -> str:
    """The last thing TensorBoard said, as one printable line."""
    lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    return "".join(c for c in lines[-1] if c.isprintable()) if lines else "it printed nothing"


def _end(process: subprocess.Popen[bytes], folder: Path) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)


__all__ = ["HOST", "Server", "open_profile", "serve"]
