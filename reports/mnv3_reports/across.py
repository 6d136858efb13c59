"""Runs of several hosts beside each other: what is fastest on each, and whether rankings change between them.

Every ratio is formed within one host, where its cells took turns. A rank changes between two hosts only where the whole
interval of the ratio is below 1 on the one and above 1 on the other. Hosts alike (one fingerprint of the machine, one of
the versions) are the exception: there the same cell is held against itself, which is the spread from board to board.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Literal, NamedTuple

from mnv3_reports.between import Change, changes
from mnv3_reports.escaping import plain
from mnv3_reports.statistics import median, spread
from mnv3_reports.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from mnv3_reports.record import Cell, Run
    from mnv3_reports.statistics import Interval

Kind = Literal["backend", "network"]
Place = Literal["below", "above", "untold"]


class HostRun(NamedTuple):
    """What one host has measured, of however many cells."""

    name: str
    labels: Mapping[str, str]
    """What the host was told apart by, such as {'board': 'pi5'}; may be empty."""
    run: Run


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
    found: list[Host] = []
    seen: Counter[str] = Counter()
    for host in hosts:
        name = plain(host.name) or "host without a name"
        seen[name] += 1
        unique = name if seen[name] == 1 else f"{name} ({seen[name]})"
        found.append(Host(unique, host.labels, Summary(host.run)))
    return found


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
        below, above = (self.on(place) or list(self.ratios) for place in ("below", "above"))  # type: ignore[arg-type]
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


class Alike(NamedTuple):
    """Hosts of one fingerprint: boards of one kind, or one machine more than once."""

    hosts: list[Host]
    differences: list[tuple[Host, Host, list[Change]]]
    """Every two of them: the cells that both timed, the second's time over the first's."""

    @property
    def spread(self) -> float | None:
        """Standard deviation between boards of ln(median), the median over cells; None without a cell on two."""
        found = [_spread_of(key, self.hosts) for key in _keys(self.hosts)]
        known = [each for each in found if each is not None]
        return median(known) if known else None

    @property
    def within(self) -> float | None:
        """The same between fresh processes of one board."""
        found = [
            statistics.epoch_spread
            for host in self.hosts
            for statistics in host.summary.statistics.values()
            if statistics.epoch_spread is not None
        ]
        return median(found) if found else None


def _keys(hosts: Sequence[Host]) -> list[str]:
    return list(dict.fromkeys(key for host in hosts for key in host.summary.statistics))


def _spread_of(key: str, hosts: Sequence[Host]) -> float | None:
    timed = (host.summary.statistics.get(key) for host in hosts)
    return spread([found.latency.estimate for found in timed if found is not None])


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
        return _together(self.hosts, versions_of)

    @cached_property
    def alike(self) -> list[Alike]:
        """Hosts with the same fingerprints of machine and versions, where there are several."""
        groups = _together(self.hosts, lambda host: (_machine(host), *versions_of(host)))
        return [
            Alike(group, [(*two, changes(two[0].summary, two[1].summary)) for two in combinations(group, 2)])
            for group in groups
            if len(group) > 1
        ]

    @cached_property
    def alike_but_for_versions(self) -> list[list[Host]]:
        """Hosts with one machine's fingerprint and several of versions."""
        groups = _together(self.hosts, lambda host: (_machine(host),))
        return [group for group in groups if len({versions_of(host) for host in group}) > 1]


def versions_of(host: Host) -> tuple[str, ...]:
    """What is equal where the versions are."""
    software = host.summary.run.header.software
    return software.fingerprint or repr(software), software.project_version


def _machine(host: Host) -> str:
    machine = host.summary.run.header.machine
    return machine.fingerprint or repr(machine)


def _together(hosts: Sequence[Host], key: Callable[[Host], tuple[str, ...]]) -> list[list[Host]]:
    found: dict[tuple[str, ...], list[Host]] = {}
    for host in hosts:
        found.setdefault(key(host), []).append(host)
    return list(found.values())
