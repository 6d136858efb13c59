"""A host's side of the connection: dask's own worker with one measuring slot, kept alive.

`mnv3-bench worker` supervises a process that holds the worker and starts it again when it dies. That process joins
again when the scheduler was restarted; a measurement that goes on meanwhile is not disturbed.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

from mnv3_bench.fleet.host import LABELS
from mnv3_bench.fleet.wire import SLOT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

AGAIN_SECONDS = 1.0
"""Between two attempts to join, or to start a worker that died."""
QUIET = {
    # What dask does beside the measurement in the same process: it samples stacks and the system many times a second.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.admin.tick.interval": "1s",
    "distributed.comm.timeouts.connect": "5s",
}


def default_name() -> str:
    """Of this host."""
    return socket.gethostname()


def start_worker(address: str, name: str, labels: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start the process that holds a worker. It ends when its standard input does."""
    return subprocess.Popen(
        [sys.executable, "-m", "mnv3_bench.fleet.worker", address, name],
        stdin=subprocess.PIPE,
        env={**os.environ, LABELS: json.dumps(dict(labels))},
    )


def supervise(address: str, name: str, labels: Mapping[str, str]) -> None:
    """Keep a worker alive until interrupted."""
    while True:
        worker = start_worker(address, name, labels)
        try:
            code = worker.wait()
        finally:
            worker.kill()
        print(f"mnv3-bench worker: the worker's process ended ({code}); it is started again", file=sys.stderr)
        time.sleep(AGAIN_SECONDS)


async def serve(address: str, name: str) -> None:
    """Join the scheduler, and again when it was restarted."""
    import dask
    from distributed import Worker

    dask.config.set(QUIET)
    while True:
        try:
            async with Worker(
                address,
                name=name,
                nthreads=1,
                resources={SLOT: 1},
                memory_limit=0,
                dashboard=False,
                silence_logs=50,
            ) as worker:
                print(f"mnv3-bench worker: {name} joined {address}", file=sys.stderr, flush=True)
                await worker.finished()
            print(f"mnv3-bench worker: {address} is gone; trying again", file=sys.stderr, flush=True)
        except (OSError, TimeoutError, ValueError, RuntimeError) as error:
            text = (str(error) or type(error).__name__).splitlines()[0]
            print(
                f"mnv3-bench worker: cannot join {address}: {text}; trying again", file=sys.stderr, flush=True
            )
        await asyncio.sleep(AGAIN_SECONDS)


def _end_with_parent() -> None:
    def wait() -> None:
        while os.read(0, 1024):
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def main(arguments: Sequence[str]) -> None:
    """`python -m mnv3_bench.fleet.worker ADDRESS NAME`."""
    _end_with_parent()
    address, name = arguments
    asyncio.run(serve(address, name))


if __name__ == "__main__":
    main(sys.argv[1:])
