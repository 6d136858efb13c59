"""Runs of several hosts beside each other: what is fastest on each, and whether rankings change between them.

Every ratio is formed within one host, where its cells took turns. A rank changes between two hosts only where the whole
interval of the ratio is below 1 on the one and above 1 on the other. Hosts alike (one fingerprint of machine, one of
the versions) are the exception: there the same cell is held against itself, which is the spread from board to board.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Literal, NamedTuple

from mnv3_reports.cell_words import CellNames
from mnv3_reports.escaping import plain
from mnv3_reports.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence

    from mnv3_reports.across import HostRun
    from mnv3_reports.record import Cell
    from mnv3_reports.statistics import Interval

Kind = Literal["backend", "network"]
Place = Literal["below", "above", "untold"]


class Host(NamedTuple):
    """A host with everything derived from its run."""

    name: str
    """Printable, and of no other host."""
    labels: Mapping[str, str]
    summary: Summary

    def timed(self, cell: Cell) -> bool:
        """Whether the cell has a latency here."""
        return cell.key in self.summary.statistics


def named(hosts: Iterable[HostRun]) -> list[Host]:
    """The hosts with names that can be printed; of namesakes the later ones are numbered."""
    found: dict[str, Host] = {}
    for host in hosts:
        name = unique = plain(host.name) or "host without a name"
        number = 1
        while unique in found:
            number += 1
            unique = f"{name} ({number})"
        found[unique] = Host(unique, host.labels, Summary(host.run))
    return list(found.values())


def placed(ratio: Interval) -> Place:
    """On which side of 1 the whole interval lies."""
    if ratio.bounded and ratio.high < 1:
        return "below"
    return "above" if ratio.bounded and ratio.low > 1 else "untold"


class Pair(NamedTuple):
    """Two cells that differ in the backend or in the network, on every host that timed both in one round."""

    kind: Kind
    first: Cell
    second: Cell
    ratios: dict[str, Interval]
    """Host's name to the time of the first over that of the second."""

    def on(self, place: Place) -> list[str]:
        """Hosts where the interval lies there."""
        return [name for name, ratio in self.ratios.items() if placed(ratio) == place]

    @property
    def changes_rank(self) -> bool:
        """Whether one is faster on one host and the other on another, each beyond its interval."""
        return bool(self.on("below") and self.on("above"))

    @property
    def order_differs(self) -> bool:
        """Whether the estimates alone are on both sides of 1."""
        return len({ratio.estimate < 1 for ratio in self.ratios.values()}) > 1

    @property
    def margin(self) -> float:
        """How far beyond 1 both sides are at least, as a logarithm; negative where no rank changes."""
        low = max(-math.log(ratio.high) if ratio.bounded else -math.inf for ratio in self.ratios.values())
        high = max(
            math.log(ratio.low) if ratio.bounded and ratio.low > 0 else -math.inf
            for ratio in self.ratios.values()
        )
        return min(low, high)

    @property
    def extremes(self) -> tuple[str, str]:
        """The hosts with the lowest and with the highest ratio, of those that tell it where some do."""
        below, above = (self.on(place) or list(self.ratios) for place in ("below", "above"))
        return (
            min(below, key=lambda name: self.ratios[name].estimate),
            max(above, key=lambda name: self.ratios[name].estimate),
        )


def pair_of(kind: Kind, first: Cell, second: Cell, hosts: Sequence[Host]) -> Pair:
    """The pair on the hosts that timed both in a round that they share; perhaps on none."""
    ratios = {}
    for host in hosts:
        if host.timed(first) and host.timed(second):
            ratio = host.summary.ratio(first.key, second.key)
            if ratio is not None:
                ratios[host.name] = ratio
    return Pair(kind, first, second, ratios)


class Question(NamedTuple):
    """A network in a setting, and what is fastest for it on each host."""

    variant: str
    setting: str
    cell: Cell
    """Any of it, for words about the setting."""
    best: dict[str, Cell]
    """Host's name to the fastest cell; without hosts that timed none."""


@dataclass(frozen=True)
class Across:
    """All hosts together."""

    hosts: list[Host]

    @cached_property
    def cells(self) -> list[Cell]:
        """Every cell that some host was to measure or found while tuning, in the order of the hosts."""
        found = {key: record.cell for host in self.hosts for key, record in host.summary.run.cells.items()}
        return list(found.values())

    @cached_property
    def names(self) -> CellNames:
        """The cells in words."""
        models = {
            name: model
            for host in self.hosts
            for name, model in host.summary.run.header.request.models.items()
        }
        return CellNames(self.cells, models)

    @cached_property
    def columns(self) -> list[list[Host]]:
        """Hosts of a table's columns: one each, but hosts alike that shared the work have one together."""
        found: list[list[Host]] = []
        for group in together(self.hosts, lambda host: (machine_of(host), versions_of(host))):
            keys = Counter(key for host in group for key in host.summary.run.cells)
            apart = len(group) == 1 or max(keys.values(), default=1) > 1
            found += [[host] for host in group] if apart else [group]
        return sorted(found, key=lambda column: self.hosts.index(column[0]))

    @cached_property
    def variants(self) -> list[str]:
        """Networks: what was asked for, then references, then ablated forms."""
        ordered = dict.fromkeys(variant for host in self.hosts for variant in host.summary.asked)
        ordered |= dict.fromkeys(variant for host in self.hosts for variant in host.summary.variants)
        return list(ordered)

    @cached_property
    def open(self) -> set[str]:
        """Networks that a reader came for."""
        return {variant for host in self.hosts for variant in host.summary.open}

    @cached_property
    def settings(self) -> list[str]:
        """Every setting, in the order of the hosts."""
        return list(dict.fromkeys(cell.setting for cell in self.cells))

    @property
    def shared(self) -> bool:
        """Whether some cell was timed on two hosts."""
        counts = Counter(key for host in self.hosts for key in host.summary.statistics)
        return any(number > 1 for number in counts.values())

    @cached_property
    def questions(self) -> list[Question]:
        """Networks in the report's order, each in every setting that it has."""
        found = []
        for variant in self.variants:
            mine = {cell.setting: cell for cell in self.cells if cell.variant == variant}
            for setting in self.settings:
                if setting in mine:
                    best = {host.name: host.summary.fastest(variant, setting) for host in self.hosts}
                    told = {name: cell for name, cell in best.items() if cell is not None}
                    found.append(Question(variant, setting, mine[setting], told))
        return found

    @cached_property
    def pairs(self) -> list[Pair]:
        """Every two backends of one network, and every two networks on one backend, that two hosts or more timed."""
        return [pair for pair in self._pairs() if len(pair.ratios) > 1]

    def _pairs(self) -> Iterator[Pair]:
        by_network: dict[tuple[str, str], list[Cell]] = {}
        by_backend: dict[tuple[str, str], list[Cell]] = {}
        for cell in self.cells:
            if sum(host.timed(cell) for host in self.hosts) > 1:
                by_network.setdefault((cell.variant, cell.setting), []).append(cell)
                by_backend.setdefault((cell.backend, cell.setting), []).append(cell)
        for cells in by_network.values():
            yield from (pair_of("backend", *two, self.hosts) for two in combinations(cells, 2))
        for cells in by_backend.values():
            yield from (pair_of("network", *two, self.hosts) for two in combinations(cells, 2))

    @cached_property
    def changed(self) -> list[Pair]:
        """Pairs whose rank changes, the clearest first."""
        return sorted((pair for pair in self.pairs if pair.changes_rank), key=lambda pair: -pair.margin)

    @cached_property
    def untold(self) -> list[Pair]:
        """Pairs whose medians change order between hosts, but not beyond the intervals of both sides."""
        found = (pair for pair in self.pairs if pair.order_differs and not pair.changes_rank)
        return sorted(found, key=lambda pair: -pair.margin)

    @cached_property
    def versions(self) -> list[list[Host]]:
        """Hosts with the same versions together, in their order."""
        return together(self.hosts, versions_of)


def versions_of(host: Host) -> tuple[str, ...]:
    """What is equal where the versions are."""
    software = host.summary.run.header.software
    return software.fingerprint or repr(software), software.project_version


def machine_of(host: Host) -> str:
    """What is equal where machines are alike."""
    machine = host.summary.run.header.machine
    return machine.fingerprint or repr(machine)


def together(hosts: Sequence[Host], key: Callable[[Host], Hashable]) -> list[list[Host]]:
    """Hosts of one key in one list, in their order."""
    found: dict[Hashable, list[Host]] = {}
    for host in hosts:
        found.setdefault(key(host), []).append(host)
    return list(found.values())
