"""A run over several hosts: what was to be measured on which kind of host, who measured it, and what came of it.

fleet.jsonl                          the client's journal, an entry a line
hosts/HOST/GROUP/journal.jsonl       a host's own journal of one group of cells, as far as it has come
hosts/HOST/run.json, *.parquet, …    a host's groups put together: an ordinary run directory

A group is cells that are compared with each other; it is measured by one host, as one run. A host that is lost leaves
its part of the journal behind, and another host measures the group anew: only the attempt that ended counts.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from mnv3_reports import journal
from mnv3_reports.escaping import plain
from mnv3_reports.lines import finished
from mnv3_reports.record import (
    Block,
    Cell,
    Evaluation,
    Failure,
    Machine,
    Request,
    Run,
    RunFinished,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

FLEET, HOSTS = "fleet.jsonl", "hosts"
FLEET_SCHEMA = 1


class FleetError(Exception):
    """A fleet's directory cannot be read or written. The message is one line that says what to do about it."""


class Group(msgspec.Struct, frozen=True):
    """Cells that are compared with each other, on one kind of host."""

    name: str
    kind: str
    """Which hosts may measure it: a pattern of labels that was asked for, or what such hosts have in common."""
    cells: tuple[str, ...]


class FleetStarted(msgspec.Struct, frozen=True, tag="fleet-started"):
    """The first entry."""

    schema: int
    fleet_id: str
    started_at: str
    command: str
    address: str
    """Of the scheduler, or local:N."""
    request: Request
    cells: tuple[str, ...]
    requested: bool
    """Whether backends were asked for by name."""
    kinds: tuple[str, ...]
    """Patterns of labels; none where hosts that are alike share the work."""
    evaluation: Evaluation | None = None
    """What accuracy is measured on."""


class GroupPlanned(msgspec.Struct, frozen=True, tag="group"):
    """A group is to be measured once."""

    group: Group


class HostJoined(msgspec.Struct, frozen=True, tag="joined"):
    """A host can be used."""

    host: str
    kind: str
    labels: dict[str, str]
    machine: Machine
    platform: str
    """Hash over what prepared artifacts depend on: processor, system, versions, code."""


class HostRefused(msgspec.Struct, frozen=True, tag="refused"):
    """A host cannot be used."""

    host: str
    reason: str


class Assigned(msgspec.Struct, frozen=True, tag="assigned"):
    """A host measures a group, or goes on with it."""

    attempt: str
    """HOST/GROUP: the folder of its journal below hosts/."""
    group: str
    host: str
    at: str


class AttemptEnded(msgspec.Struct, frozen=True, tag="ended"):
    """A host measures a group no more."""

    attempt: str
    group: str
    status: str
    """complete, or lost: then it is measured by another."""
    at: str
    reason: str = ""
    seconds: float | None = None
    """That the host's own process ran for it, the last time it was begun."""


class GroupFailed(msgspec.Struct, frozen=True, tag="group-failed"):
    """A group was given up."""

    group: str
    reason: str


class Shipped(msgspec.Struct, frozen=True, tag="shipped"):
    """A prepared artifact came to a host."""

    host: str
    digest: str
    bytes: int


class FleetResumed(msgspec.Struct, frozen=True, tag="fleet-resumed"):
    """The client went on in a new process. What was given up is tried again."""

    resumed_at: str


class FleetFinished(msgspec.Struct, frozen=True, tag="fleet-finished"):
    """The client came to its end."""

    ended_at: str
    status: str
    """complete, failures or partial (interrupted)."""


FleetEntry = (
    FleetStarted
    | GroupPlanned
    | HostJoined
    | HostRefused
    | Assigned
    | AttemptEnded
    | GroupFailed
    | Shipped
    | FleetResumed
    | FleetFinished
)

_DECODER: msgspec.json.Decoder[FleetEntry] = msgspec.json.Decoder(FleetEntry)
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]{0,79}")


def safe_name(name: str) -> bool:
    """Whether a name of a host or a group may be one of a folder; names come from other machines."""
    return _SAFE.fullmatch(name) is not None and ".." not in name


class Fleet(msgspec.Struct):
    """The client's journal, put in order."""

    header: FleetStarted
    groups: dict[str, Group] = {}
    hosts: dict[str, HostJoined] = {}
    refused: dict[str, str] = {}
    attempts: dict[str, Assigned] = {}
    ended: dict[str, AttemptEnded] = {}
    """By attempt."""
    failed: dict[str, str] = {}
    """Group to the reason."""
    shipped: list[Shipped] = []
    finished: FleetFinished | None = None

    def add(self, entry: FleetEntry) -> None:
        """Put one entry where it belongs."""
        match entry:
            case FleetStarted():
                raise FleetError("a fleet's run starts once")
            case GroupPlanned():
                self.groups[entry.group.name] = entry.group
            case HostJoined():
                self.hosts[entry.host] = entry
                self.refused.pop(entry.host, None)
            case HostRefused():
                self.refused[entry.host] = entry.reason
            case Assigned():
                self.attempts[entry.attempt] = entry
                self.ended.pop(entry.attempt, None)
                self.failed.pop(entry.group, None)
            case AttemptEnded():
                self.ended[entry.attempt] = entry
            case GroupFailed():
                self.failed[entry.group] = entry.reason
            case Shipped():
                self.shipped.append(entry)
            case FleetResumed():
                self.finished = None
                self.failed.clear()
            case FleetFinished():
                self.finished = entry

    def complete(self, group: str) -> AttemptEnded | None:
        """The attempt at a group that came to its end; there is one at most."""
        found = (
            ended for ended in self.ended.values() if ended.group == group and ended.status == "complete"
        )
        return next(found, None)

    def open_groups(self) -> list[Group]:
        """Groups that nobody has measured yet."""
        return [group for name, group in self.groups.items() if self.complete(name) is None]


class HostRuns(NamedTuple):
    """What one host has measured."""

    host: HostJoined
    run: Run


def is_fleet(directory: Path) -> bool:
    """Whether a directory is one of a run over several hosts."""
    return (directory / FLEET).is_file()


def read_fleet(directory: Path) -> Fleet:
    """Read the client's journal. A last line that was cut off is left out.

    Raises:
        FleetError: it is no such directory, damaged, or of a newer version.
    """
    path = directory / FLEET
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FleetError(
            f"'{path}' cannot be read: {error.strerror}; give the folder of a fleet's run"
        ) from None
    lines = finished(data).split(b"\n")[:-1]
    fleet: Fleet | None = None
    for number, line in enumerate(lines, start=1):
        try:
            entry = _DECODER.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise FleetError(f"'{path}' is damaged in line {number}: {plain(str(error))}") from None
        if fleet is None:
            if not isinstance(entry, FleetStarted):
                raise FleetError(f"'{path}' is no journal of a fleet: its first line starts no run")
            if entry.schema != FLEET_SCHEMA:
                raise FleetError(
                    f"'{path}' has schema {entry.schema}, this mnv3-bench reads {FLEET_SCHEMA}; update mnv3-bench"
                )
            fleet = Fleet(entry)
            continue
        if isinstance(entry, (HostJoined, Assigned)) and not all(
            safe_name(part)
            for part in (entry.attempt.split("/") if isinstance(entry, Assigned) else [entry.host])
        ):
            raise FleetError(f"'{path}' is damaged in line {number}: a name that is no folder's")
        fleet.add(entry)
    if fleet is None:
        raise FleetError(f"'{path}' holds no finished line: nothing was begun, so start the run again")
    return fleet


def host_runs(directory: Path, fleet: Fleet) -> list[HostRuns]:
    """What every host has measured, its groups put together. Of a group that nobody finished, what there is.

    Raises:
        FleetError: a host's journal is damaged.
    """
    found: dict[str, list[Run]] = {}
    for group in fleet.groups.values():
        attempt = _counts(fleet, group)
        if attempt is None:
            continue
        host = attempt.split("/")[0]
        path = directory / HOSTS / attempt / journal.NAME
        if not path.is_file():
            continue
        try:
            run = journal.assemble(journal.read_journal(path))
        except journal.JournalError as error:
            if fleet.complete(group.name) is None:
                continue  # its host was lost before it told anything
            raise FleetError(str(error)) from None
        if fleet.complete(group.name) is None:
            _give_up(run, group, fleet.failed.get(group.name, "the run was interrupted"))
        found.setdefault(host, []).append(run)
    return [
        HostRuns(fleet.hosts[host], merged(fleet, runs))
        for host, runs in found.items()
        if host in fleet.hosts
    ]


def _counts(fleet: Fleet, group: Group) -> str | None:
    """The attempt at a group that counts: the complete one, else the last."""
    complete = fleet.complete(group.name)
    if complete is not None:
        return complete.attempt
    mine = [assigned.attempt for assigned in fleet.attempts.values() if assigned.group == group.name]
    return mine[-1] if mine else None


def _give_up(run: Run, group: Group, reason: str) -> None:
    """Name the failure of cells that were not measured to the end."""
    for key in group.cells:
        if key in run.cells and run.cells[key].failure is None:
            run.cells[key].failure = Failure(key, "measure", reason)


def merged(fleet: Fleet, runs: Sequence[Run]) -> Run:
    """Runs of one host as one. Their cells differ, since every group is measured once."""
    first = runs[0].header
    cells = tuple(key for run in runs for key in run.header.cells)
    header = msgspec.structs.replace(
        first,
        run_id=f"{fleet.header.fleet_id}-{first.run_id}",
        command=fleet.header.command,
        request=_request(fleet.header.request, cells),
        cells=cells,
    )
    whole = Run.started(header)
    for run in runs:
        whole.cells.update(run.cells)
        for entry in _entries(run):
            whole.add(entry)  # type: ignore[arg-type]
        whole.notes += [note for note in run.notes if note not in whole.notes]
        # Groups are measured one after the other: what has an epoch's number in common was measured together.
        first_epoch = 1 + max((block.epoch for block in whole.blocks), default=-1)
        whole.epochs += [msgspec.structs.replace(each, epoch=each.epoch + first_epoch) for each in run.epochs]
        whole.blocks += [
            msgspec.structs.replace(each, epoch=each.epoch + first_epoch)
            for each in _after(whole, run.blocks)
        ]
        whole.resumed += run.resumed
        whole.lost += run.lost
    whole.finished = _finished(runs)
    return whole


def _entries(run: Run) -> Iterable[object]:
    yield from run.variants
    yield from run.tuned
    yield from run.trained
    yield from run.sensitivities
    yield from run.roofs
    yield from run.activations
    yield from run.skipped
    if run.evaluation is not None:
        yield run.evaluation


def _after(whole: Run, blocks: list[Block]) -> list[Block]:
    """Blocks of a further group, whose cells are none of those before."""
    known = {block.cell for block in whole.blocks}
    twice = next((block.cell for block in blocks if block.cell in known), None)
    if twice is not None:
        raise FleetError(f"the cell {twice} was measured twice on one host")
    return blocks


def _request(asked: Request, cells: tuple[str, ...]) -> Request:
    """What was asked of this host."""
    mine = [Cell.from_key(key) for key in cells]
    return msgspec.structs.replace(
        asked,
        threads=tuple(dict.fromkeys(cell.threads for cell in mine)) or asked.threads,
        batch_sizes=tuple(dict.fromkeys(cell.batch for cell in mine)) or asked.batch_sizes,
        resolutions=tuple(dict.fromkeys(cell.resolution for cell in mine)) or asked.resolutions,
    )


def _finished(runs: Sequence[Run]) -> RunFinished | None:
    ends = [run.finished for run in runs]
    if any(end is None for end in ends):
        return None
    whole = [end for end in ends if end is not None]
    order = ("complete", "failures", "partial")
    precisions = [end.precision_reached for end in whole if end.precision_reached is not None]
    phases: dict[str, float] = {}
    for end in whole:
        for name, seconds in end.phase_seconds.items():
            phases[name] = round(phases.get(name, 0.0) + seconds, 3)
    return RunFinished(
        ended_at=max(end.ended_at for end in whole),
        status=max((end.status for end in whole), key=order.index),
        stopped_because=max(whole, key=lambda end: end.stopped_because == "budget").stopped_because,
        precision_reached=max(precisions, default=None),
        phase_seconds=phases,
    )
