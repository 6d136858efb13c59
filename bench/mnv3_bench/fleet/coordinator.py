"""The client: which host measures what next, and what has come of it.

Every step is in the client's journal before it counts. What a host measures stands in the host's own journal first and
is read from there, whole lines only, so that a new client, scheduler or worker goes on where the last one stopped.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mnv3_bench.cache import Store, default_root
from mnv3_bench.errors import ExitCode
from mnv3_bench.fleet import host as here
from mnv3_bench.fleet import shipping
from mnv3_bench.fleet.cluster import (
    HostGoneError,
    HostRefusedError,
    HostSilentError,
    Present,
    SchedulerGoneError,
)
from mnv3_bench.fleet.copies import Copy
from mnv3_bench.fleet.groups import folder_name, groups, matches, request_of
from mnv3_bench.fleet.wire import (
    JOURNAL,
    OUTPUT,
    PREPARED,
    File,
    Identity,
    Order,
    Ready,
    State,
    decode,
    encode,
    identity,
)
from mnv3_reports.fleet import (
    HOSTS,
    Assigned,
    AttemptEnded,
    Fleet,
    FleetEntry,
    Group,
    GroupFailed,
    GroupPlanned,
    HostJoined,
    HostRefused,
    Shipped,
)
from mnv3_reports.record import Cell

if TYPE_CHECKING:
    from collections.abc import Callable

    from mnv3_bench.fleet.cluster import Cluster
    from mnv3_reports.record import Evaluation

POLL_FIRST, POLL_MOST = 0.1, 1.0
"""Seconds between two looks at a measurement: what is read is a few kilobytes, and reading is work for the host."""
LOOK_SECONDS = 1.0
"""Between two looks at who is there."""
REJOIN_SECONDS = 45.0
"""A host that left gets so long to come back before another one measures its group."""
MOST_REFUSALS, MOST_PARTINGS = 3, 20
"""So often in a row, with nothing measured in between, a group may be refused or its host may leave before it is given
up."""
PREDICTIONS = "predictions"


@dataclass(kw_only=True)
class Asked:
    """What the user asks of the fleet."""

    command: str
    files: tuple[File, ...] = ()
    evaluation: Evaluation | None = None
    timeout: float | None = None
    memory_bytes: int | None = None
    wait: float = 60.0
    """Seconds to wait for hosts that are not there."""
    hosts: int = 1
    """Hosts to wait for at the beginning, at most so long."""


@dataclass
class Host:
    """A host that can measure."""

    name: str
    identity: Identity
    kind: str
    present: Present | None
    silent: bool = False
    busy: bool = False
    told: set[str] = field(default_factory=set)
    """Files of the user's that it has."""

    @property
    def address(self) -> str:
        """Where it is.

        Raises:
            HostGoneError: nowhere now.
        """
        if self.present is None:
            raise HostGoneError("it left")
        return self.present.address


class Coordinator:
    """Measures every group once."""

    def __init__(
        self,
        directory: Path,
        fleet: Fleet,
        record: Callable[[FleetEntry], None],
        cluster: Cluster,
        asked: Asked,
        say: Callable[[str], None],
    ) -> None:
        self.directory = directory
        self.fleet = fleet
        self.record = record
        self.cluster = cluster
        self.asked = asked
        self.say = say
        self.hosts: dict[str, Host] = {}
        self.mine = identity({})
        self.ready: dict[str, asyncio.Future[Ready]] = {}
        self.store = Store(default_root())
        self.taken: set[str] = set()
        """Groups that a host has now."""
        self.fruitless: dict[str, int] = {}
        self.meetings: dict[str, asyncio.Task[None]] = {}
        self._looked = 0.0

    async def run(self) -> None:
        """Measure what is not measured yet.

        Raises:
            SchedulerGoneError: there is none for longer than hosts are waited for.
        """
        await self._wait_for_hosts()
        if not self.fleet.groups:
            self._plan()
        serving: dict[str, asyncio.Task[None]] = {}
        alone_since = time.monotonic()
        try:
            while self._open():
                await self._look()
                for found in self._idle():
                    group = self._next(found)
                    if group is not None:
                        self._begin(found, group, serving)
                if serving:
                    alone_since = time.monotonic()
                elif time.monotonic() - alone_since > self.asked.wait:
                    self._give_up()
                await self._some_end(serving)
        finally:
            left = [*serving.values(), *self.meetings.values()]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    # Who is there.

    async def _wait_for_hosts(self) -> None:
        """Until every kind that was asked for is there, or it was waited for long enough."""
        end = time.monotonic() + self.asked.wait
        while time.monotonic() < end:
            await self._look(now=True)
            there = [found for found in self.hosts.values() if found.present is not None]
            kinds = {found.kind for found in there}
            if len(there) >= self.asked.hosts and set(self.fleet.header.kinds) <= kinds:
                return
            await asyncio.sleep(0.2)

    async def _look(self, *, now: bool = False) -> None:
        """See who joined, left, or answers again."""
        if not now and time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        try:
            present = {folder_name(each.name): each for each in await self.cluster.present()}
        except SchedulerGoneError as error:
            self.say(f"fleet: {error}")
            for found in self.hosts.values():
                found.present = None
            return
        for found in self.hosts.values():
            if found.name not in present:
                found.present = None
        for name, each in present.items():
            known = self.hosts.get(name)
            if (
                known is None
                or known.present is None
                or known.present.address != each.address
                or known.silent
            ):
                meeting = self.meetings.get(name)
                if meeting is None or meeting.done():
                    # Beside everything else: a host that hangs takes long to be found out.
                    self.meetings[name] = asyncio.create_task(self._meet(name, each))

    async def _meet(self, name: str, each: Present) -> None:
        """Ask a host who it is, and whether it may be used."""
        refused = self.fleet.refused.get(name)
        try:
            told = decode(await self.cluster.call(each.address, "identify"), Identity)
            if told.project != self.mine.project or told.schema != self.mine.schema:
                raise HostRefusedError(
                    f"it has mnv3-bench {told.project}, this is {self.mine.project}: pip install "
                    f"mnv3-bench=={self.mine.project} there"
                )
            kind = self._kind(told)
        except (HostGoneError, HostSilentError, SchedulerGoneError):
            return
        except Exception as error:  # noqa: BLE001 - a host of another version may answer anything
            text = " ".join(str(error).split())[:300]
            if refused != text:
                self.record(HostRefused(name, text))
                self.say(f"fleet: {name} is not used: {text}")
            return
        known = self.hosts.get(name)
        if known is not None and known.identity.platform == told.platform:
            known.present, known.silent = each, False
            return
        self.hosts[name] = Host(name, told, kind, each)
        self.record(HostJoined(name, kind, told.labels, told.machine, told.platform))
        self.say(f"fleet: {name} joined ({told.machine.cpu}, {told.machine.usable_cpus} CPUs)")

    def _kind(self, told: Identity) -> str:
        """Which hosts one belongs to.

        Raises:
            HostRefusedError: to none that was asked for.
        """
        if self.fleet.header.kinds:
            for pattern in self.fleet.header.kinds:
                if matches(pattern, told.labels):
                    return pattern
            labels = ", ".join(f"{name}={value}" for name, value in told.labels.items()) or "none"
            raise HostRefusedError(
                f"--on asks for {', '.join(self.fleet.header.kinds)}; its labels are {labels}"
            )
        return (
            f"{told.machine.cpu}, {told.machine.usable_cpus} CPUs, {told.machine.fingerprint}-{told.platform}"
        )

    # What is left.

    def _plan(self) -> None:
        """Divide the cells among kinds of hosts: each kind measures all of them."""
        kinds = self.fleet.header.kinds or tuple(dict.fromkeys(each.kind for each in self.hosts.values()))
        cells = [Cell.from_key(key) for key in self.fleet.header.cells]
        for kind in kinds:
            for group in groups(cells, kind):
                self.record(GroupPlanned(group))
        mine = len(groups(cells, ""))
        for kind in kinds:
            alike = sum(each.kind == kind for each in self.hosts.values())
            self.say(f"fleet: {mine} groups of cells for {alike} hosts ({kind})")

    def _open(self) -> list[Group]:
        return [group for group in self.fleet.open_groups() if group.name not in self.fleet.failed]

    def _idle(self) -> list[Host]:
        return [
            each
            for each in self.hosts.values()
            if each.present is not None and not each.silent and not each.busy
        ]

    def _next(self, found: Host) -> Group | None:
        """What a host measures next: what it began, else what nobody began, else what another left."""
        free = [g for g in self._open() if g.kind == found.kind and g.name not in self.taken]
        begun = {assigned.group: assigned.host for assigned in self.fleet.attempts.values()}
        return min(
            free,
            key=lambda group: (begun.get(group.name) != found.name, group.name in begun),
            default=None,
        )

    def _begin(self, found: Host, group: Group, serving: dict[str, asyncio.Task[None]]) -> None:
        found.busy = True
        self.taken.add(group.name)
        serving[found.name] = asyncio.create_task(self._serve(found, group))

    async def _some_end(self, serving: dict[str, asyncio.Task[None]]) -> None:
        """Wait a moment for a host to come to an end of its group."""
        if not serving:
            await asyncio.sleep(POLL_MOST)
            return
        await asyncio.wait(serving.values(), timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        for name, task in list(serving.items()):
            if task.done():
                del serving[name]
                task.result()

    def _give_up(self) -> None:
        """Nobody is there who could measure what is left."""
        for group in self._open():
            why = f"no host of kind {group.kind} was there for {self.asked.wait:.0f} s"
            self.record(GroupFailed(group.name, why))
            self.say(f"fleet: {group.name} is given up: {why}")

    # One group on one host.

    async def _serve(self, found: Host, group: Group) -> None:
        attempt = f"{found.name}/{group.name}"
        try:
            ready = await self._prepared(found)
            await self._ship(found, group, ready)
            await self._measure(found, group, attempt, ready)
        except (HostGoneError, HostSilentError, HostRefusedError, SchedulerGoneError) as error:
            found.silent = found.silent or isinstance(error, HostSilentError)
            refused = isinstance(error, HostRefusedError)
            self._lost(group, attempt, str(error), MOST_REFUSALS if refused else MOST_PARTINGS)
        finally:
            found.busy = False
            self.taken.discard(group.name)

    def _lost(self, group: Group, attempt: str, why: str, most: int) -> None:
        """A host does not measure its group any more; another will, unless nobody gets on with it."""
        self.say(f"fleet: {attempt}: {why}")
        if attempt in self.fleet.attempts and attempt not in self.fleet.ended:
            self.record(AttemptEnded(attempt, group.name, "lost", _now(), why))
        self.fruitless[group.name] = self.fruitless.get(group.name, 0) + 1
        if self.fruitless[group.name] >= most:
            self.record(GroupFailed(group.name, why))

    async def _measure(self, found: Host, group: Group, attempt: str, ready: Ready) -> None:
        """Have a group measured and copy its journal as it grows."""
        order = encode(
            self._order(
                attempt,
                group.cells,
                ready,
                request=request_of(self.fleet.header.request, group, len(self.fleet.header.cells)),
            )
        )
        copy = Copy(self.directory / HOSTS / attempt / JOURNAL)
        self.record(Assigned(attempt, group.name, found.name, _now()))
        self.say(f"fleet: {found.name} measures {group.name} ({len(group.cells)} cells)")
        end = await self._follow(found, attempt, order, copy, group.name)
        copy.close()
        if end.code in (ExitCode.DONE, ExitCode.CELLS_FAILED):
            await self._collect(found, attempt)
            self.record(AttemptEnded(attempt, group.name, "complete", _now(), seconds=end.seconds))
            self.say(f"fleet: {found.name} has measured {group.name}")
            return
        tail = await self._text(found, attempt, OUTPUT)
        raise HostRefusedError(
            f"measuring there ended with exit code {end.code}: {tail or 'it said nothing'}"
        )

    async def _follow(
        self, found: Host, attempt: str, order: bytes, copy: Copy | None, group: str | None
    ) -> State:
        """Wait for an attempt's end, with patience for a host that left. Gives its state then."""
        fleet_id = self.fleet.header.fleet_id
        pause, begun, future, gone = POLL_FIRST, 0, None, None
        while True:
            try:
                who = found.present
                if who is None:
                    raise HostGoneError("it left")
                where = who.address
                told = decode(await self.cluster.call(where, "state", fleet_id, attempt, JOURNAL), State)
                if copy is not None and copy.ahead_of(told.size, certain=told.state != "unknown"):
                    copy.set_aside()
                while copy is not None and copy.size < told.size:
                    piece = await self.cluster.call(where, "read", fleet_id, attempt, JOURNAL, copy.size)
                    if not copy.extend(piece):
                        break
                    begun = 0
                    if group is not None:
                        self.fruitless.pop(group, None)
                if told.state == "ended":
                    return told
                if told.state == "unknown" and (future is None or future.done()):
                    if begun == MOST_PARTINGS:
                        tail = await self._text(found, attempt, OUTPUT)
                        raise HostRefusedError(f"it cannot begin: {tail or 'it said nothing'}")
                    begun += 1
                    future = await self.cluster.measure(who, order)
                gone = None
            except (HostGoneError, SchedulerGoneError) as error:
                gone = gone if gone is not None else time.monotonic()
                if time.monotonic() - gone > REJOIN_SECONDS:
                    raise HostGoneError(
                        f"it left, and was not back within {REJOIN_SECONDS:.0f} s ({error})"
                    ) from None
                future = None
                found.present = None
                await self._look()
            if future is not None and not future.done():
                await asyncio.wait({future}, timeout=pause)  # which its end cuts short
            else:
                await asyncio.sleep(pause)
            pause = min(POLL_MOST, pause * 1.3)

    def _order(self, attempt: str, cells: tuple[str, ...], ready: Ready | None, **changes: object) -> Order:
        order = Order(
            fleet=self.fleet.header.fleet_id,
            attempt=attempt,
            command=self.asked.command,
            request=self.fleet.header.request,
            cells=cells,
            requested=self.fleet.header.requested,
            files=self.asked.files,
            evaluation=self.asked.evaluation,
            failed=tuple(each for each in ready.failed if each.cell in cells) if ready is not None else (),
            timeout=self.asked.timeout,
            memory_bytes=self.asked.memory_bytes,
        )
        return msgspec.structs.replace(order, **changes)

    async def _collect(self, found: Host, attempt: str) -> None:
        """Bring what lies beside the journal: what cells made of labelled images."""
        if self.fleet.header.request.data is None:
            return
        address, fleet_id = found.address, self.fleet.header.fleet_id
        for name in await self.cluster.call(address, "listed", fleet_id, attempt, PREDICTIONS):
            target = self.directory / HOSTS / found.name / shipping.require_plain(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            data = bytearray()
            while piece := await self.cluster.call(address, "read", fleet_id, attempt, name, len(data)):
                data += piece
            target.write_bytes(data)

    async def _text(self, found: Host, attempt: str, name: str) -> str:
        """The last line of a file of an attempt."""
        address, fleet_id = found.address, self.fleet.header.fleet_id
        told = decode(await self.cluster.call(address, "state", fleet_id, attempt, name), State)
        if not told.size:
            return ""
        piece = await self.cluster.call(address, "read", fleet_id, attempt, name, max(0, told.size - 4096))
        lines = [line for line in piece.decode("utf-8", "replace").splitlines() if line.strip()]
        return lines[-1].strip()[:300] if lines else ""

    # Preparing once for every platform, and shipping what is prepared.

    async def _prepared(self, found: Host) -> Ready:
        """What was prepared for hosts of this platform; the first of them waits for it, and so do the others."""
        if self.fleet.header.request.cold:
            return Ready({}, ())
        platform = found.identity.platform
        waiting = self.ready.get(platform)
        if waiting is None:
            waiting = self.ready[platform] = asyncio.get_running_loop().create_future()
            try:
                ready = await (
                    self._prepare_here() if platform == self.mine.platform else self._prepare_there(found)
                )
            except BaseException:
                del self.ready[platform]
                waiting.cancel()
                raise
            waiting.set_result(ready)
            return ready
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            if waiting.cancelled() and not self._is_cancelled():
                return await self._prepared(found)
            raise

    def _is_cancelled(self) -> bool:
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0

    async def _prepare_here(self) -> Ready:
        self.say("fleet: artifacts are prepared on this machine")
        attempt = f"client/prepare-{self.mine.platform}"
        order = self._order(attempt, self.fleet.header.cells, None, prepare_only=True)
        code = await here.measure(encode(order))
        place = here.folder(order.fleet, attempt)
        if code != ExitCode.DONE:
            return self._unprepared(_last_line(place / OUTPUT), code)
        return decode((place / PREPARED).read_bytes(), Ready)

    async def _prepare_there(self, found: Host) -> Ready:
        self.say(f"fleet: artifacts for its platform are prepared on {found.name}")
        await self._send_files(found)
        attempt = f"{found.name}/prepare-{found.identity.platform}"
        order = self._order(attempt, self.fleet.header.cells, None, prepare_only=True)
        end = await self._follow(found, attempt, encode(order), None, None)
        if end.code != ExitCode.DONE:
            return self._unprepared(await self._text(found, attempt, OUTPUT), end.code)
        fleet_id = self.fleet.header.fleet_id
        data = bytearray()
        while piece := await self.cluster.call(found.address, "read", fleet_id, attempt, PREPARED, len(data)):
            data += piece
        ready = decode(bytes(data), Ready)
        if any(
            each is not found and each.identity.platform == found.identity.platform
            for each in self.hosts.values()
        ):
            await self._fetch(found, ready)
        return ready

    def _unprepared(self, why: str, code: int | None) -> Ready:
        """Hosts then prepare for themselves, and say what they cannot."""
        self.say(f"fleet: preparing ended with exit code {code} ({why}); every host prepares for itself")
        return Ready({}, ())

    async def _fetch(self, found: Host, ready: Ready) -> None:
        """Bring entries of a host's store here, for others of its platform."""
        address = found.address
        receiver = shipping.Receiver(self.store)
        names = list(dict.fromkeys(name for each in ready.entries.values() for name in each))
        for name in receiver.lacking(names):
            manifest = await self.cluster.call(address, "manifest", name)
            receiver.begin(name, manifest)
            for file, size in shipping.told_by(manifest).files.items():
                offset = 0
                while offset < size:
                    piece = await self.cluster.call(address, "entry_piece", name, file, offset)
                    receiver.piece(name, file, offset, piece)
                    offset += len(piece)
            receiver.end(name, await self.cluster.call(address, "entry_hashes", name))

    async def _ship(self, found: Host, group: Group, ready: Ready) -> None:
        """Send a host what it lacks of a group's artifacts, and the user's files."""
        await self._send_files(found)
        names = list(dict.fromkeys(name for cell in group.cells for name in ready.entries.get(cell, ())))
        address = found.address
        for name in await self.cluster.call(address, "lacking", names) if names else ():
            manifest, told = shipping.manifest_of(self.store, name)
            await self.cluster.call(address, "begin_entry", name, manifest)
            hashes = {}
            for file, size in told.files.items():
                path = self.store.root / name / file
                hashes[file] = shipping.digest_of_file(path)
                for offset in range(0, size, shipping.PIECE):
                    await self.cluster.call(
                        address, "take_piece", name, file, offset, shipping.read_piece(path, offset)
                    )
            await self.cluster.call(address, "end_entry", name, hashes)
            self.record(Shipped(found.name, name, told.total_bytes))

    async def _send_files(self, found: Host) -> None:
        address = found.address
        for file in self.asked.files:
            if file.sha256 in found.told or not await self.cluster.call(address, "lacks_file", encode(file)):
                continue
            path = Path(file.path)
            for offset in range(0, max(file.bytes, 1), shipping.PIECE):
                piece = shipping.read_piece(path, offset)
                last = offset + shipping.PIECE >= file.bytes
                await self.cluster.call(address, "take_file", encode(file), offset, piece, last)
            found.told.add(file.sha256)

    async def stop_all(self) -> None:
        """Interrupt what is being measured; hosts keep what they have."""
        for attempt, assigned in self.fleet.attempts.items():
            found = self.hosts.get(assigned.host)
            if attempt in self.fleet.ended or found is None or found.present is None:
                continue
            try:
                await self.cluster.call(found.present.address, "stop", self.fleet.header.fleet_id, attempt)
            except (HostGoneError, HostSilentError, HostRefusedError, SchedulerGoneError) as error:
                self.say(f"fleet: {found.name} could not be told to stop: {error}")

    async def forget_all(self) -> None:
        """Let hosts remove what the client has."""
        for found in self.hosts.values():
            if found.present is None or found.silent:
                continue
            try:
                await self.cluster.call(found.present.address, "forget", self.fleet.header.fleet_id)
            except (HostGoneError, HostSilentError, HostRefusedError, SchedulerGoneError) as error:
                self.say(f"fleet: {found.name} keeps its folder of this run: {error}")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _last_line(path: Path) -> str:
    lines = path.read_text("utf-8", "replace").splitlines() if path.is_file() else []
    return lines[-1].strip()[:300] if lines else "it said nothing"
