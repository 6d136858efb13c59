"""Loads an artifact in a process of its own and tells, as JSON, what it saw there.

python probe.py BACKEND DIRECTORY THREADS INPUTS.npz OUTPUTS.npy LOADS
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mnv3_bench.backends import get_backend
from mnv3_bench.backends.base import BackendError
from mnv3_bench.noise import resident_bytes

if TYPE_CHECKING:
    from mnv3_bench.backends.base import Backend, Session

TASKS = Path("/proc/self/task")


def cpu_seconds() -> dict[str, float]:
    """CPU seconds of each of this process's threads."""
    return {task.name: int((task / "schedstat").read_text().split()[0]) / 1e9 for task in TASKS.iterdir()}


def refusal(session: Session, *inputs: np.ndarray) -> str:
    try:
        session.stage(inputs)
    except BackendError as error:
        return str(error)
    return ""


def outputs(session: Session, batches: np.ndarray) -> np.ndarray:
    found = []
    for images in batches:
        (logits,) = session.fetch(session.run(session.stage((images,))))
        found.append(np.array(logits))
    return np.stack(found)


def in_a_fork(backend: Backend, directory: Path, threads: int, batches: np.ndarray) -> int:
    """Load and run in a forked child, before anything was loaded here: 0 when it gives finite numbers."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            session = backend.load(directory, threads, "cpu")
            status = 0 if np.isfinite(outputs(session, batches)).all() else 2
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def growth(backend: Backend, directory: Path, threads: int, images: np.ndarray, loads: int) -> list[int]:
    """Resident bytes over `loads` loads and closes: after a tenth of them, after half, and at the end."""
    marks = []
    for number in range(1, loads + 1):
        session = backend.load(directory, threads, "cpu")
        session.run(session.stage((images,)))
        session.close()
        del session
        if number in (loads // 10, loads // 2, loads):
            gc.collect()
            marks.append(resident_bytes())
    return marks


def main() -> None:
    name, where, threads_text, images_file, logits_file, loads = sys.argv[1:]
    directory, threads = Path(where), int(threads_text)
    backend = get_backend(name)
    for module in backend.info.runtime_modules:
        importlib.import_module(module)
    after_import = len(list(TASKS.iterdir()))
    batches = np.load(images_file)
    forked = in_a_fork(backend, directory, threads, batches) if backend.info.forkable else None
    start = time.perf_counter()
    session = backend.load(directory, threads, "cpu")
    load_seconds = time.perf_counter() - start
    np.save(logits_file, outputs(session, batches))

    staged = session.stage((batches[0],))
    busy, patience = 0, time.perf_counter() + 30
    while busy < threads and time.perf_counter() < patience:
        # Where something else has the other CPU, one thread may do all the work for a while.
        before, end = cpu_seconds(), time.perf_counter() + 0.6
        while time.perf_counter() < end:
            session.run(staged)
        spent = [seconds - before.get(task, 0.0) for task, seconds in cpu_seconds().items()]
        # The share of one that is woken up for each call and mostly comes too late: on a fast processor the network's
        # call is shorter than the way to a CPU that something else has. One that is not asked has none.
        busy = max(busy, sum(seconds > 0.005 * max(spent) for seconds in spent))
    report = {
        "load_seconds": load_seconds,
        "forked": forked,
        "os_threads_after_import": after_import,
        "busy_threads": busy,
        "facts": session.facts(),
        "clock": getattr(session, "clock", "wall"),
        "modules": sorted(sys.modules),
        "wrong_size": refusal(session, np.zeros((len(batches[0]), 3, 65, 65), dtype=np.float32)),
        "wrong_rank": refusal(session, batches[0][0]),
        "wrong_type": refusal(session, batches[0].astype(np.float64)),
        "wrong_number": refusal(session, batches[0], batches[0]),
    }
    session.close()
    session.close()
    del session, staged
    report["resident_bytes"] = (
        growth(backend, directory, threads, batches[0], int(loads)) if int(loads) else []
    )
    sys.stdout.write("\n" + json.dumps(report) + "\n")
    sys.stdout.flush()
    os._exit(0)  # as workers leave: interpreter shutdown with a runtime's thread pools alive may hang


if __name__ == "__main__":
    main()
