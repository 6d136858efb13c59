"""Conversations with several workers at once, in one thread."""

from __future__ import annotations

import selectors
import time
from collections import deque
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from mnv3_bench.launcher import Worker, WorkerError
from mnv3_bench.protocol import Message, Reply

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Task = Callable[[], Generator[tuple[Worker, Message, float], Reply, Any]]
"""Makes a conversation: a generator that yields (worker, order, limit in seconds) and is sent replies."""


def side_by_side(
    tasks: Sequence[Task],
    width: int,
    more: Callable[[], Sequence[Task]] | None = None,
    tick: Callable[[], None] | None = None,
) -> Iterator[tuple[int, Any]]:
    """Run tasks that talk to workers, at most `width` at a time, in one thread.

    A task is a generator: it yields (worker, order, limit in seconds) and is sent the reply, or has a `WorkerError`
    thrown in.

    Args:
        tasks: started in this order.
        width: tasks under way at once.
        more: called after each finished task; tasks it returns join the end of the queue (their index goes on
            counting). This is how one task's end makes others possible.
        tick: called about twice a second while waiting.

    Yields:
        The index of a finished task and what it returned, in the order of finishing.
    """
    queue = deque(enumerate(tasks))
    count = len(tasks)
    with selectors.DefaultSelector() as selector:
        running = 0
        while queue or running:
            while queue and running < width:
                index, task = queue.popleft()
                generator = task()
                outcome = _advance(generator, None, selector, index)
                if outcome is None:
                    running += 1
                else:
                    yield index, outcome[0]
                    added = list(more()) if more is not None else []
                    queue.extend(enumerate(added, count))
                    count += len(added)
            if not running:
                continue
            now = time.monotonic()
            deadlines = [key.data[3] for key in selector.get_map().values()]
            ready = selector.select(max(0.0, min(0.5, min(deadlines) - now)))
            if tick is not None:
                tick()
            answered = [key for key, _ in ready]
            now = time.monotonic()
            late = [key for key in selector.get_map().values() if key.data[3] <= now and key not in answered]
            for key in [*answered, *late]:
                index, generator, worker, _, limit = key.data
                selector.unregister(key.fileobj)
                reply: Reply | WorkerError
                if key in late:
                    reply = worker.hung(limit)
                else:
                    try:
                        reply = worker.receive()
                    except WorkerError as error:
                        reply = error
                outcome = _advance(generator, reply, selector, index)
                if outcome is not None:
                    running -= 1
                    yield index, outcome[0]
                    added = list(more()) if more is not None else []
                    queue.extend(enumerate(added, count))
                    count += len(added)


def _advance(
    generator: Generator[tuple[Worker, Message, float], Reply, Any],
    reply: Reply | WorkerError | None,
    selector: selectors.BaseSelector,
    index: int,
) -> tuple[Any] | None:
    """Let a task run to its next order. Returns (result,) when it has finished."""
    try:
        while True:
            if isinstance(reply, WorkerError):
                worker, order, limit = generator.throw(reply)
            else:
                worker, order, limit = generator.send(reply)  # type: ignore[arg-type]
            try:
                worker.send(order)
            except WorkerError as error:
                reply = error
                continue
            deadline = time.monotonic() + limit
            selector.register(
                worker.channel, selectors.EVENT_READ, (index, generator, worker, deadline, limit)
            )
            return None
    except StopIteration as stop:
        return (stop.value,)
