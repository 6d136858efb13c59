"""Of a report over hosts: the tables with a column a host."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from mnv3_reports import tables, units
from mnv3_reports.across_machines import heading, version_sets
from mnv3_reports.across_ranks import placed
from mnv3_reports.escaping import code, inline, plain
from mnv3_reports.layout import Column, Row, Value, build, folded, missing, to_markdown
from mnv3_reports.tables import ONE_EPOCH, CellRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mnv3_reports.across_ranks import Across, Host, Pair
    from mnv3_reports.record import Cell
    from mnv3_reports.statistics import Interval

COLUMNS = 6
"""Hosts side by side in one table; the others follow in tables of their own."""
WIDE = 4
"""Hosts whose intervals are printed with both ends; of more their half width has to do."""
OPEN = 24
"""Rows of a table that a reader gets without unfolding it."""
MOST = 200
"""Pairs that are printed at all."""

READING = """\
Times stand side by side as each machine gave them, and none is divided by that of another machine: ratios are formed
within one host, between cells that took turns there. **Bold is the fastest of a network and setting on its host.**"""
RELATIVE = """\
Time relative to the reference on the same backend, setting and host: **below 1 is faster than it**. Beside each other
the figures show where a network gains more."""
RANKS = """\
A rank changes between two hosts only where the whole 95 % interval of the ratio is below 1 on the one and above 1 on
the other; anything less is *not told apart*. Each pair is judged alone, so of many pairs a few may be chance. Figures
are the time of the first over that of the second on the same host: below 1 the first is faster, **bold is beyond the
interval**."""


class _Row(NamedTuple):
    """A cell on the hosts that have it."""

    cell: Cell
    on: dict[str, CellRow]
    """By host's name."""

    @property
    def first(self) -> CellRow:
        return next(iter(self.on.values()))

    @property
    def seconds(self) -> float:
        """The median call, its mean over hosts; infinite where none timed it."""
        found = [row.seconds for row in self.on.values() if row.statistics is not None]
        return sum(found) / len(found) if found else float("inf")


def _rows(across: Across, variant: str) -> list[_Row]:
    """The network's cells: setting by setting, the fastest first."""
    rows = []
    for cell in across.cells:
        if cell.variant == variant:
            on = {
                host.name: CellRow(host.summary, host.summary.run.cells[cell.key])
                for host in across.hosts
                if cell.key in host.summary.run.cells
            }
            rows.append(_Row(cell, on))
    places = {setting: place for place, setting in enumerate(across.settings)}
    return sorted(rows, key=lambda row: (places[row.cell.setting], row.seconds))


def _pages(
    across: Across,
    naming: Sequence[Column[Row]],
    rows: Sequence[Row],
    value: Callable[[Sequence[Host], Row], Value],
    unit: str,
) -> str:
    """What a row is, then a column a host; of many hosts several tables."""
    pages = []
    for start in range(0, len(across.columns), COLUMNS):
        columns = [
            Column[Row](heading(across, hosts), partial(value, hosts), unit)
            for hosts in across.columns[start : start + COLUMNS]
        ]
        pages.append(to_markdown(build([*naming, *columns], rows)))
    return "\n\n".join(pages)


def _naming(across: Across, rows: Sequence[_Row]) -> list[Column[_Row]]:
    """Backend, what of the setting takes more than one value, and which host it was where hosts share a column."""

    def of_first(row: _Row, column: Column[CellRow]) -> Value:
        return column.value(row.first)

    def hosts(row: _Row) -> Value:
        return Value(inline(", ".join(row.on)))

    found = [Column[_Row]("backend", lambda row: Value(row.cell.backend, code=True), align="left")]
    found += [
        Column[_Row](column.title, partial(of_first, column=column))
        for column in tables.setting_columns([row.first for row in rows])
    ]
    if any(len(column) > 1 for column in across.columns):
        found.append(Column("on", hosts, align="left"))
    return found


def _here(hosts: Sequence[Host], row: _Row) -> tuple[Host, CellRow] | Value:
    """The host of a column that has the cell, and its row there; else why there is none."""
    for host in hosts:
        if host.name in row.on:
            return host, row.on[host.name]
    base = row.cell.backend.partition(":")[0]
    for skipped in hosts[0].summary.run.skipped:
        if skipped.backend == base:
            return missing(f"skipped there: {plain(skipped.reason)}")
    return missing(
        "tuned otherwise, or not at all, there" if base != row.cell.backend else "not part of the run there"
    )


# Latencies.


def latencies(across: Across) -> Iterator[str]:
    """A table for every network; those that nobody asked for, and long ones, folded."""
    if not across.cells:
        yield "No cell was planned."
        return
    yield " ".join(READING.split())
    if len(across.versions) > 1:
        yield f"Hosts with the same letter have the same versions: {version_sets(across)}."
    column = tables.MEDIAN if len(across.columns) <= WIDE else tables.COMPACT_MEDIAN
    for variant in across.variants:
        rows = _rows(across, variant)
        text = _pages(across, _naming(across, rows), rows, partial(_median, column=column), column.unit)
        if variant in across.open and len(rows) <= OPEN:
            yield f"### {inline(variant)}\n\n{text}"
        else:
            yield folded(f"{variant}, {units.counted(len(rows), 'cell')}", text)


def _median(hosts: Sequence[Host], row: _Row, column: Column[CellRow]) -> Value:
    here = _here(hosts, row)
    if isinstance(here, Value):
        return here
    host, found = here
    value = column.value(found)
    best = host.summary.fastest(row.cell.variant, row.cell.setting)
    return value._replace(text=f"**{value.text}**") if best == row.cell else value


# Ratios to the reference networks.


def references(across: Across) -> Iterator[str]:
    """A table for every requested network beside every reference."""
    asked = [host.summary.run.header.request.references for host in across.hosts]
    found = False
    for variant in (name for name in across.variants if name in across.open):
        for reference in dict.fromkeys(name for names in asked for name in names):
            rows = [row for row in _rows(across, variant) if _beside(row, reference)]
            if variant == reference or not rows:
                continue
            if not found:
                yield " ".join(RELATIVE.split())
            found = True
            text = _pages(
                across, _naming(across, rows), rows, partial(_relative, reference=reference), "[95 %]"
            )
            title = f"{variant} / {reference}"
            yield f"### {inline(title)}\n\n{text}" if len(rows) <= OPEN else folded(title, text)
    if not found:
        yield "No reference network was timed beside the requested ones."


def _beside(row: _Row, reference: str) -> bool:
    return any(found.summary.to_reference(row.cell, reference) is not None for found in row.on.values())


def _relative(hosts: Sequence[Host], row: _Row, reference: str) -> Value:
    here = _here(hosts, row)
    if isinstance(here, Value):
        return here
    host, found = here
    if found.statistics is None:
        return found.untimed()
    ratio = host.summary.to_reference(row.cell, reference)
    return (
        missing(f"{reference} was not timed beside it there")
        if ratio is None
        else _ratio(ratio.interval, mark=False)
    )


def _ratio(ratio: Interval, *, mark: bool = True) -> Value:
    text = units.enclosed(ratio)
    beyond = mark and placed(ratio) != "untold"
    return Value(f"**{text}**" if beyond else text, None if ratio.bounded else ONE_EPOCH)


# Ranks.


def ranks(across: Across) -> Iterator[str]:
    """Pairs whose rank changes, backends and networks apart; folded those that are not told apart."""
    if not across.pairs:
        return
    yield " ".join(RANKS.split())
    if not across.changed:
        yield f"No rank is shown to change, of {units.counted(len(across.pairs), 'pair')}."
    for kind, title in (("backend", "Backends"), ("network", "Networks")):
        pairs = [pair for pair in across.changed if pair.kind == kind]
        if pairs:
            yield f"### {title}\n\n{_of_pairs(across, pairs[:OPEN])}"
        if len(pairs) > OPEN:
            rest = pairs[OPEN:MOST]
            yield folded(
                f"{units.counted(len(rest), 'more pair')} of {title.lower()}", _of_pairs(across, rest)
            )
        if len(pairs) > MOST:
            yield f"{len(pairs) - MOST:,} more are not printed."
    if across.untold:
        shown = across.untold[:MOST]
        left = f"\n\n{len(across.untold) - MOST:,} more are not printed." if len(across.untold) > MOST else ""
        title = f"{units.counted(len(across.untold), 'pair')} in another order on some host, not told apart"
        yield folded(title, _of_pairs(across, shown) + left)


def sides(across: Across, pair: Pair) -> tuple[str, str, str]:
    """The two of a pair, and what they share, as markdown."""
    if pair.kind == "backend":
        return code(pair.first.backend), code(pair.second.backend), inline(across.names.one(pair.first))
    setting = across.names.setting(pair.first)
    shared = f"{code(pair.first.backend)} ({inline(setting)})" if setting else code(pair.first.backend)
    return inline(pair.first.variant), inline(pair.second.variant), shared


def _of_pairs(across: Across, pairs: Sequence[Pair]) -> str:
    def ratio(hosts: Sequence[Host], pair: Pair) -> Value:
        found = next((pair.ratios[host.name] for host in hosts if host.name in pair.ratios), None)
        return missing("not both timed in one round there") if found is None else _ratio(found)

    naming: list[Column[Pair]] = [
        Column("with", lambda pair: Value(sides(across, pair)[2]), align="left"),
        Column("time of", lambda pair: Value(sides(across, pair)[0]), align="left"),
        Column("over that of", lambda pair: Value(sides(across, pair)[1]), align="left"),
    ]
    return _pages(across, naming, pairs, ratio, "[95 %]")
