"""Dask: who is there, and how they are spoken to. Nothing but this module and `worker` imports it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mnv3_bench.errors import UsageError
from mnv3_bench.fleet import host
from mnv3_bench.fleet.wire import SLOT

if TYPE_CHECKING:
    from distributed import Client, Future, Scheduler

CALL_SECONDS = 30.0
"""A host that takes longer to answer is taken to hang: what it is asked takes milliseconds."""
LOOK_SECONDS = 2.0
"""Waiting for an answer, between two looks at whether the host is still there."""
CONNECT_SECONDS = 10.0
LOCAL = re.compile(r"local:(\d+)")
ADDRESS = re.compile(r"(tcp|tls|ucx|ws|wss)://.+:\d+")


class HostGoneError(Exception):
    """A host has left."""


class HostSilentError(Exception):
    """A host is there and does not answer."""


class HostRefusedError(Exception):
    """A host answered that it cannot do what it was asked for."""


class SchedulerGoneError(Exception):
    """There is no scheduler to speak to hosts through."""


@dataclass(frozen=True)
class Present:
    """A worker as the scheduler knows it."""

    name: str
    address: str
    has_slot: bool


def require_dask() -> None:
    """Raises:
    UsageError: the extra is not installed.
    """
    try:
        import distributed  # noqa: F401
    except ImportError:
        raise UsageError("a fleet needs dask.distributed; type pip install 'mnv3-bench[fleet]'") from None


def local_hosts(address: str) -> int | None:
    """N of `local:N`; None for the address of a scheduler.

    Raises:
        UsageError: it is neither.
    """
    found = LOCAL.fullmatch(address)
    if found is not None and 1 <= int(found.group(1)) <= 64:
        return int(found.group(1))
    if found is None and ADDRESS.fullmatch(address):
        return None
    raise UsageError(
        f"--fleet {address}: expected a scheduler's address, such as tcp://192.168.1.5:8786, or local:2 (1 to 64)"
    )


def quieten() -> None:
    """Let dask say what went wrong and nothing else: who joined and left is said by the coordinator."""
    import distributed  # configures the logging of its parts when it is imported

    for name in (distributed.__name__, *logging.root.manager.loggerDict):
        if name.partition(".")[0] == distributed.__name__:
            logging.getLogger(name).setLevel(logging.CRITICAL)


async def _settled(client: Client, future: Future) -> None:
    """Wait until a measurement has ended, or is lost with its worker or scheduler: what came of it its host tells."""
    import concurrent.futures

    with contextlib.suppress(
        asyncio.CancelledError, concurrent.futures.CancelledError, OSError, TimeoutError
    ):
        await client.gather([future], errors="skip")


class Cluster:
    """The hosts behind one scheduler."""

    def __init__(self, address: str) -> None:
        quieten()
        self.address = address
        self._client: Client | None = None
        self._connecting = asyncio.Lock()

    async def connect(self) -> None:
        """Connect to the scheduler.

        Raises:
            SchedulerGoneError: it does not answer.
        """
        from distributed import Client

        async with self._connecting:
            if self._client is not None and self._client.status == "running":
                return
            await self._drop()
            client = Client(self.address, asynchronous=True, timeout=CONNECT_SECONDS, set_as_default=False)
            try:
                self._client = await client
            except (OSError, TimeoutError, TypeError, ValueError) as error:
                # Of these a TypeError is TLS without its certificates.
                with contextlib.suppress(OSError, TimeoutError, TypeError):
                    await client.close()
                text = str(error) or type(error).__name__
                raise SchedulerGoneError(
                    f"no scheduler answers at {self.address}: {text.splitlines()[0]}"
                ) from None

    async def present(self) -> list[Present]:
        """Who is there.

        Raises:
            SchedulerGoneError: the scheduler does not answer.
        """
        await self.connect()
        assert self._client is not None
        try:
            told = await asyncio.wait_for(self._client.scheduler.identity(n_workers=-1), CONNECT_SECONDS)
        except (OSError, TimeoutError, AttributeError) as error:
            await self._drop()
            raise SchedulerGoneError(f"the scheduler at {self.address} is gone: {error}") from None
        workers = told["workers"]
        return [
            Present(str(facts["name"]), address, bool(facts.get("resources", {}).get(SLOT)))
            for address, facts in workers.items()
        ]

    async def call(self, address: str, name: str, *arguments: Any) -> Any:
        """Call a function of `host` on a host.

        Raises:
            HostRefusedError: it failed there.
            HostGoneError: the host is not there any more.
            HostSilentError: it does not answer.
            SchedulerGoneError: the scheduler does not.
        """
        await self.connect()
        assert self._client is not None
        asking = asyncio.ensure_future(self._client.run(host.answer, name, *arguments, workers=[address]))
        try:
            await self._wait(asking, address)
            answers = asking.result()
        except (HostGoneError, HostSilentError, SchedulerGoneError):
            raise
        except (OSError, KeyError, TimeoutError, ValueError, AttributeError) as error:
            await self.present()
            raise HostGoneError(str(error) or type(error).__name__) from None
        except Exception as error:  # noqa: BLE001 - whatever a host with other versions makes of the call
            raise HostRefusedError(f"it cannot be asked: {error}") from None
        finally:
            asking.cancel()
        if address not in answers:
            raise HostGoneError("it left")
        failure, value = answers[address]
        if failure is not None:
            raise HostRefusedError(failure)
        return value

    async def _wait(self, asking: asyncio.Future[Any], address: str) -> None:
        """Wait for an answer, and find out meanwhile whether there is still somebody to give it.

        Dask goes on trying to reach a worker that has just died for half a minute.
        """
        end = asyncio.get_running_loop().time() + CALL_SECONDS
        while not (await asyncio.wait({asking}, timeout=LOOK_SECONDS))[0]:
            if all(each.address != address for each in await self.present()):
                raise HostGoneError("it left")
            if asyncio.get_running_loop().time() > end:
                raise HostSilentError(f"it did not answer within {CALL_SECONDS:.0f} s")

    async def measure(self, who: Present, order: bytes) -> asyncio.Task[None]:
        """Ask a host to carry out an order when its slot is free. What is given ends when dask knows no more of it.

        Raises:
            SchedulerGoneError: the scheduler does not answer.
        """
        await self.connect()
        assert self._client is not None
        future = self._client.submit(
            host.measure,
            order,
            workers=[who.address],
            allow_other_workers=False,
            pure=False,
            retries=0,
            resources={SLOT: 1} if who.has_slot else None,
        )
        return asyncio.create_task(_settled(self._client, future))

    async def close(self) -> None:
        """Leave; the scheduler and its workers stay."""
        await self._drop()

    async def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(OSError, TimeoutError, asyncio.CancelledError):
                await asyncio.wait_for(client.close(), CONNECT_SECONDS)


@contextlib.asynccontextmanager
async def local_scheduler(hosts: int) -> Any:
    """A scheduler in this process, and so many workers on this machine, for the length of the context. Its address."""
    from distributed import Scheduler

    from mnv3_bench.fleet.worker import start_worker

    quieten()
    scheduler: Scheduler
    async with Scheduler(host="127.0.0.1", port=0, dashboard=False) as scheduler:
        workers = [start_worker(scheduler.address, f"local-{index + 1}", {}) for index in range(hosts)]
        try:
            yield scheduler.address
        finally:
            for worker in workers:
                worker.terminate()
            for worker in workers:
                await asyncio.to_thread(worker.wait)
