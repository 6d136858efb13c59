"""Loads an artifact in a process of its own and tells, as JSON, what it saw there.

python probe.py BACKEND DIRECTORY THREADS IMAGES.npy LOGITS.npy
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path

import numpy as np

from mnv3_bench.backends import get_backend
from mnv3_bench.backends.base import BackendError

TASKS = Path("/proc/self/task")


def cpu_seconds() -> dict[str, float]:
    """CPU seconds of each of this process's threads."""
    return {task.name: int((task / "schedstat").read_text().split()[0]) / 1e9 for task in TASKS.iterdir()}


def refusal(session: object, images: np.ndarray) -> str:
    try:
        session.stage(images)  # type: ignore[attr-defined]
    except BackendError as error:
        return str(error)
    return ""


def main() -> None:
    name, directory, threads, images_file, logits_file = sys.argv[1:]
    backend = get_backend(name)
    for module in backend.info.runtime_modules:
        importlib.import_module(module)
    after_import = len(list(TASKS.iterdir()))
    start = time.perf_counter()
    session = backend.load(Path(directory), int(threads), "cpu")
    load_seconds = time.perf_counter() - start
    batches = np.load(images_file)
    logits = [session.fetch(session.run(session.stage(images))) for images in batches]
    np.save(logits_file, np.stack(logits))

    staged = session.stage(batches[0])
    before, end = cpu_seconds(), time.perf_counter() + 0.6
    while time.perf_counter() < end:
        session.run(staged)
    spent = [seconds - before.get(task, 0.0) for task, seconds in cpu_seconds().items()]
    report = {
        "load_seconds": load_seconds,
        "os_threads_after_import": after_import,
        "busy_threads": sum(seconds > 0.1 * max(spent) for seconds in spent),
        "facts": session.facts(),
        "clock": getattr(session, "clock", "wall"),
        "modules": sorted(sys.modules),
        "wrong_size": refusal(session, np.zeros((len(batches[0]), 3, 65, 65), dtype=np.float32)),
        "wrong_rank": refusal(session, batches[0][0]),
        "wrong_type": refusal(session, batches[0].astype(np.float64)),
    }
    session.close()
    session.close()
    print("\n" + json.dumps(report))


if __name__ == "__main__":
    main()
