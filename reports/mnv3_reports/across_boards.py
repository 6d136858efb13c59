"""Of a report over hosts: how much boards alike differ, the only times that are held against those of another host."""

from __future__ import annotations

import math
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

from mnv3_reports import units
from mnv3_reports.across_machines import listed
from mnv3_reports.across_ranks import Across, Host, machine_of, together, versions_of
from mnv3_reports.between import HELD, Change, changes
from mnv3_reports.escaping import inline
from mnv3_reports.layout import Column, Value, build, missing, to_markdown
from mnv3_reports.statistics import median, spread

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DEAREST = 12
"""Cells that are listed of boards that differ."""
PAIRS = 24
"""Pairs of boards that are listed."""
BOARDS = """\
These hosts have one fingerprint of the machine and one of the versions: boards alike, or one machine more than once,
which a fingerprint does not tell. Only here is a time held against that of another host."""


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


def alike(across: Across) -> list[Alike]:
    """Hosts with the same fingerprints of machine and versions that timed some cell on two of them."""
    groups = together(across.hosts, lambda host: (machine_of(host), versions_of(host)))
    found = [
        Alike(group, [(*two, changes(two[0].summary, two[1].summary)) for two in combinations(group, 2)])
        for group in groups
        if len(group) > 1
    ]
    return [group for group in found if group.spread is not None]


def sentence(group: Alike) -> str:
    """How much boards alike differ, beside how much processes of one of them do."""
    compared = [change for _, _, found in group.differences for change in found]
    within = (
        f"; fresh processes of one of them by {units.percent(group.within)}"
        if group.within is not None
        else ""
    )
    return (
        f"**Board to board** ({listed(group.hosts)}, one fingerprint): the same cell differs by "
        f"{units.percent(group.spread or 0.0)} (standard deviation, median over cells){within}. Beyond the interval: "
        f"{len(_told(compared))} of {units.counted(len(compared), 'comparison')}."
    )


def boards(across: Across, groups: Sequence[Alike]) -> Iterator[str]:
    """The section about boards alike; nothing where there are none."""
    if groups:
        yield " ".join(BOARDS.split())
    for group in groups:
        yield sentence(group)
        yield to_markdown(build(_OF_PAIRS, group.differences[:PAIRS]))
        if len(group.differences) > PAIRS:
            yield f"{len(group.differences) - PAIRS:,} more pairs of boards are not printed."
        yield from _beyond(group)
    if groups:
        yield HELD
    for hosts in together(across.hosts, machine_of):
        if len({versions_of(host) for host in hosts}) > 1:
            yield (
                f"{listed(hosts)} have one fingerprint of the machine and several of the versions: the spread from "
                "board to board is not told from what the versions do."
            )


_Difference = tuple["Host", "Host", "list[Change]"]

_OF_PAIRS: tuple[Column[_Difference], ...] = (
    Column("board", lambda row: Value(inline(row[0].name)), align="left"),
    Column("against", lambda row: Value(inline(row[1].name)), align="left"),
    Column("cells on both", lambda row: Value(str(len(row[2])))),
    Column("differ beyond the interval", lambda row: Value(str(len(_told(row[2]))))),
    Column("second / first, median", lambda row: _middle(row[2])),
)


def _told(found: Sequence[Change]) -> list[Change]:
    return [change for change in found if change.shown != "no difference shown"]


def _middle(found: Sequence[Change]) -> Value:
    if not found:
        return missing("no cell was timed on both")
    return Value(units.significant(median(change.ratio.estimate for change in found)))


def _beyond(group: Alike) -> Iterator[str]:
    """The cells that differ most."""
    told = [(one, other, change) for one, other, found in group.differences for change in _told(found)]
    told.sort(key=lambda row: -abs(math.log(row[2].ratio.estimate)))
    if not told:
        return
    columns: list[Column[tuple[Host, Host, Change]]] = [
        Column("network", lambda row: Value(inline(row[0].summary.names.one(row[2].cell))), align="left"),
        Column("backend", lambda row: Value(row[2].cell.backend, code=True), align="left"),
        Column("board", lambda row: Value(inline(row[0].name)), align="left"),
        Column("", lambda row: Value(units.milliseconds(row[2].before)), "ms"),
        Column("against", lambda row: Value(inline(row[1].name)), align="left"),
        Column("", lambda row: Value(units.milliseconds(row[2].after)), "ms"),
        Column("second / first", lambda row: Value(units.enclosed(row[2].ratio)), "[95 %]"),
    ]
    more = f" (of {len(told):,})" if len(told) > DEAREST else ""
    yield f"What differs most between boards alike{more}:\n\n" + to_markdown(build(columns, told[:DEAREST]))
