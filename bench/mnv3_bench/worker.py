"""The program every child process runs: carry out orders, one at a time, on one artifact.

    python -m mnv3_bench.worker FD

A worker that has only imported a runtime can fork into further workers. That is how an epoch starts dozens of fresh
processes without importing torch dozens of times; `mnv3_bench.launcher` decides when it may be done.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mnv3_bench import noise, timing
from mnv3_bench.protocol import (
    Channel,
    ChannelClosedError,
    Check,
    Checked,
    Close,
    DataImages,
    Done,
    Evaluate,
    Explain,
    Failed,
    First,
    FollowMemory,
    Fork,
    Forked,
    Images,
    Import,
    Imported,
    Load,
    LoadCallable,
    Look,
    MeasureRoofs,
    Order,
    Prepare,
    Reap,
    Reaped,
    Reference,
    Reply,
    Samples,
    Scan,
    Seen,
    TimeOperators,
    Train,
    Turn,
    Turned,
    Warm,
    WarmUp,
    Weights,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnv3_bench.backends.base import Arrays

SNR_CEILING_DB = 200.0


def main() -> None:
    """Serve the channel whose descriptor is the first argument."""
    _die_with_parent()
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    serve(channel)


def serve(channel: Channel) -> None:
    """Carry out orders until told to close or until the other side is gone."""
    worker = Worker()
    while True:
        try:
            order = channel.receive_order()
        except ChannelClosedError:
            break
        if isinstance(order, Fork):
            forked = _fork(channel)
            if forked is not None:
                channel = forked
                continue
        elif isinstance(order, Close):
            worker.close()
            channel.send(Done())
            break
        else:
            try:
                reply = worker.carry_out(order)
            except Exception as error:  # noqa: BLE001 - whatever a runtime raises becomes this cell's failure
                traceback.print_exc()
                reply = Failed(_one_line(error), getattr(error, "install", None))
            channel.send(reply)
    # Interpreter shutdown with a runtime's thread pools alive may hang or crash; nothing is left to be saved.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    named = type(error).__name__ in ("BackendError", "ValueError", "UnknownVariantError")
    return (text if named else f"{type(error).__name__}: {text}")[:500]


def _die_with_parent() -> None:
    """Ask Linux to kill this process with its parent: a stopped orphan would wait for ever and keep its memory."""
    if sys.platform != "linux":
        return
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() == 1:
        os._exit(1)


def _fork(channel: Channel) -> Channel | None:
    """Fork. Returns the child's own channel in the child, None in the parent."""
    _, descriptors, _, _ = socket.recv_fds(channel.socket, 1, 2)
    own, log = descriptors
    pid = os.fork()
    if pid:
        os.close(own)
        os.close(log)
        channel.send(Forked(pid))
        return None
    os.setsid()
    _die_with_parent()
    channel.close()
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    return Channel(socket.socket(fileno=own))


class Worker:
    """State of a worker: at most one session and its pool of inputs."""

    def __init__(self) -> None:
        self.session: Any = None
        self.staged: list[Any] = []
        self.next_input = 0
        self.batch = 1
        self.device = "cpu"

    def carry_out(self, order: Order) -> Reply:
        """Carry out one order."""
        match order:
            case Import():
                return self._import(order)
            case Load():
                return self._load(order)
            case LoadCallable():
                return self._load_callable(order)
            case First():
                return self._first()
            case WarmUp():
                return self._warm_up(order)
            case Check():
                return self._check(order)
            case Look():
                return self._look()
            case Turn():
                return self._turn(order)
            case Reap():
                pid, status = os.waitpid(order.pid, os.WNOHANG)
                return Reaped(status if pid else None)
            case (
                Images()
                | Samples()
                | Weights()
                | Reference()
                | Prepare()
                | Explain()
                | TimeOperators()
                | MeasureRoofs()
                | FollowMemory()
            ):
                from mnv3_bench import prepare_worker

                return prepare_worker.carry_out(order)
            case DataImages() | Train() | Scan() | Evaluate():
                from mnv3_bench import data_worker

                return data_worker.carry_out(order)
            case _:
                raise ValueError(f"no worker carries out {type(order).__name__}")

    def close(self) -> None:
        """Close the session, if there is one."""
        if self.session is not None:
            self.session.close()
            self.session = None

    def _import(self, order: Import) -> Imported:
        start = time.perf_counter()
        for module in order.modules:
            importlib.import_module(module)
        seconds = time.perf_counter() - start
        # What an import made stays: workers forked from here need not look at it again, nor copy its pages.
        gc.collect()
        gc.freeze()
        return Imported(seconds, noise.resident_bytes())

    def _load(self, order: Load) -> Done:
        from mnv3_bench.backends import get_backend
        from mnv3_bench.inputs import Pool

        backend = get_backend(order.backend)
        start = time.perf_counter()
        self.session = backend.load(Path(order.directory), order.threads, order.device)
        seconds = time.perf_counter() - start
        for inputs in Pool(order.images, order.batch).calls():
            self.staged.append(self.session.stage(inputs))
        self.batch = order.batch
        self.device = order.device
        self._slow_down(order.slowdown)
        return Done(seconds)

    def _load_callable(self, order: LoadCallable) -> Done:
        from mnv3_bench.callables import CallableSession

        start = time.perf_counter()
        self.session = CallableSession(order)
        # Two entries, so that the pool can be gone round as any other.
        self.staged = [None, None]
        self._slow_down(order.slowdown)
        return Done(time.perf_counter() - start)

    def _slow_down(self, share: float) -> None:
        if share:
            self.session = SlowedSession(self.session, share)

    def _first(self) -> Done:
        (nanoseconds,) = timing.timed_calls(self.session, self.staged, 1)
        gc.freeze()
        return Done(nanoseconds / 1e9)

    def _warm_up(self, order: WarmUp) -> Warm:
        warm = timing.warm_up(
            lambda calls, first: timing.timed_calls(self.session, self.staged, calls, first),
            order.max_seconds,
        )
        return Warm(warm.calls, warm.steady, warm.call_seconds)

    def _turn(self, order: Turn) -> Turned:
        if order.discard:
            timing.timed_calls(self.session, self.staged, order.discard, self.next_input)
            self.next_input += order.discard
        before = noise.Counters.now()
        samples = timing.timed_calls(self.session, self.staged, order.calls, self.next_input)
        after = noise.Counters.now()
        self.next_input = (self.next_input + order.calls) % len(self.staged)
        cpu = after.cpu - before.cpu
        return Turned(
            samples_ns=samples,
            wall_seconds=after.wall - before.wall,
            cpu_seconds=cpu,
            involuntary_switches=after.involuntary - before.involuntary,
            minor_faults=after.minor_faults - before.minor_faults,
            major_faults=after.major_faults - before.major_faults,
            steal_seconds=after.steal - before.steal,
            pressure_seconds=after.pressure - before.pressure,
            throttled_seconds=after.throttled - before.throttled,
            other_cpu_seconds=max(0.0, after.machine_busy - before.machine_busy - cpu),
            mhz=noise.frequency_mhz(),
        )

    def _check(self, order: Check) -> Checked:
        from mnv3_bench.inputs import Pool

        calls = Pool(order.images, self.batch).cover()
        mine = [self.session.fetch(self.session.run(self.session.stage(inputs))) for inputs in calls]
        return compare_outputs(mine, order.reference)

    def _look(self) -> Seen:
        peak, reserved = None, None
        if self.device.startswith("cuda") and "torch" in sys.modules:
            import torch

            peak = torch.cuda.max_memory_allocated()
            reserved = torch.cuda.max_memory_reserved()
        return Seen(
            peak_bytes=noise.peak_resident_bytes(),
            os_threads=noise.os_threads(),
            facts=self.session.facts(),
            device_peak_bytes=peak,
            device_reserved_bytes=reserved,
        )


class SlowedSession:
    """A session whose every call takes longer by a known share of itself: a regression made on purpose."""

    def __init__(self, session: Any, share: float) -> None:
        self.session = session
        self.share = share

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def run(self, staged: Any) -> Any:
        """One inference, then a busy-wait."""
        clock = time.perf_counter_ns
        start = clock()
        output = self.session.run(staged)
        now = clock()
        end = now + (now - start) * self.share
        while clock() < end:
            pass
        return output


def compare_outputs(mine: Sequence[Arrays], reference: str) -> Checked:
    """Compare outputs of consecutive calls with stored ones: an array an output, rows of all calls after each other.

    Raises:
        ValueError: their number or shapes differ.
    """
    import numpy as np

    with np.load(reference) as stored:
        exact = [stored[name] for name in sorted(stored.files, key=int)]
    if len(mine[0]) != len(exact):
        raise ValueError(f"there are {len(mine[0])} outputs, the reference has {len(exact)}")
    rows = []
    for position, wanted in enumerate(exact):
        found = np.concatenate([np.atleast_1d(np.asarray(outputs[position])) for outputs in mine])
        found = found[: len(wanted)]
        if found.shape != wanted.shape:
            raise ValueError(
                f"output {position + 1} has shape {found.shape}, the reference has {wanted.shape}"
            )
        rows.append(found)
    if len(exact) == 1 and exact[0].ndim == 2:
        return agreement(rows[0].astype(np.float64), exact[0])
    flat = [
        np.concatenate([np.ravel(each).astype(np.float64) for each in arrays])[None]
        for arrays in (rows, exact)
    ]
    agreed = agreement(flat[0], flat[1])
    return msgspec.structs.replace(agreed, top1_agreement=None, samples=len(mine))


def agreement(logits: Any, reference: Any) -> Checked:
    """Cosine similarity, signal-to-noise ratio and top-1 agreement of two n x classes arrays."""
    import numpy as np

    if not np.isfinite(logits).all():
        return Checked(0.0, -SNR_CEILING_DB, 0.0, len(logits), False)
    exact = reference.astype(np.float64)
    error = logits - exact
    signal, noise_power = float((exact**2).sum()), float((error**2).sum())
    if noise_power == 0:
        snr = SNR_CEILING_DB
    elif signal == 0:
        snr = -SNR_CEILING_DB
    else:
        snr = float(min(SNR_CEILING_DB, 10 * np.log10(signal / noise_power)))
    norms = float(np.linalg.norm(logits) * np.linalg.norm(exact))
    cosine = float((logits * exact).sum() / norms) if norms else 0.0
    return Checked(
        cosine=min(1.0, cosine),
        snr_db=snr,
        top1_agreement=float((logits.argmax(1) == exact.argmax(1)).mean()),
        samples=len(logits),
        finite=True,
    )


if __name__ == "__main__":
    main()
