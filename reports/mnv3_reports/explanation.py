"""Why: reduced cells that are slower than their runtime's fp32, and what conversions left behind.

Reasons and profiles are the runtimes' own account. Times under a profiler show where time goes and are no latencies,
so only shares of them are printed.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from mnv3_reports import units
from mnv3_reports.escaping import code, inline, plain
from mnv3_reports.layout import Column, Table, Value, build, folded, missing, to_markdown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mnv3_reports.record import Cell, Explained, OperatorCost
    from mnv3_reports.statistics import Interval
    from mnv3_reports.summary import Summary

DEAREST = 5
"""Operators that are shown where a cell is slower; the folded profiles have more."""
PROFILED = 8
"""Operators of a folded profile; the rest are one row."""
OPEN = 12
"""Lines of a list that a reader gets without unfolding it."""


class _Told(NamedTuple):
    """A cell and what its runtime says of it."""

    cell: Cell
    explained: Explained


class _Reduced(NamedTuple):
    """A cell of reduced precision beside the same runtime's fp32."""

    told: _Told
    exact: str
    interval: Interval

    @property
    def slower(self) -> bool:
        """Whether the whole interval lies above 1."""
        return self.interval.bounded and self.interval.low > 1


def section(summary: Summary) -> Iterator[str]:
    """The section's paragraphs, without heading; none where no runtime said anything."""
    told = [
        _Told(record.cell, record.explained)
        for record in summary.run.cells.values()
        if record.explained is not None
    ]
    if not told:
        return
    reduced = list(_reduced(summary, told))
    slower = [row for row in reduced if row.slower]
    if reduced:
        yield (
            "Time of reduced precision relative to the same runtime's fp32 on the same network and setting: below 1 "
            "it is faster, **bold is slower beyond the interval**."
        )
        yield to_markdown(_ratios(summary, reduced))
    if slower:
        yield "### Slower than the same runtime's fp32, and why"
        yield from _slower(summary, slower)
    elif reduced:
        yield "No reduced cell is slower than its runtime's fp32 beyond its interval."
    apart = [row.told for row in slower]
    rest = [found for found in told if found not in apart]
    yield from _left_behind(summary, rest, others=bool(apart))
    yield from _profiles(summary, told)


def _reduced(summary: Summary, told: Sequence[_Told]) -> Iterator[_Reduced]:
    for found in told:
        ratio = summary.to_exact(summary.run.cells[found.cell.key])
        if ratio is not None and found.explained.exact is not None:
            yield _Reduced(found, found.explained.exact, ratio.interval)


def _ratios(summary: Summary, reduced: Sequence[_Reduced]) -> Table:
    """A row for each backend and setting, a column for each network."""
    rows: dict[tuple[str, str], dict[str, _Reduced]] = {}
    for row in reduced:
        cell = row.told.cell
        rows.setdefault((cell.backend, cell.setting), {})[cell.variant] = row
    variants = [variant for variant in summary.asked if any(variant in row for row in rows.values())]

    def ratio(key: tuple[str, str], variant: str) -> Value:
        row = rows[key].get(variant)
        if row is None:
            return missing("not both timed")
        text = units.enclosed(row.interval)
        return Value(f"**{text}**" if row.slower else text)

    def first(key: tuple[str, str]) -> _Reduced:
        return next(iter(rows[key].values()))

    def setting(key: tuple[str, str]) -> Value:
        cell = first(key).told.cell
        return Value(summary.names.setting(cell) or summary.names.describe(cell))

    columns = [
        Column[tuple[str, str]]("backend", lambda key: Value(key[0], code=True), align="left"),
        Column[tuple[str, str]]("against", lambda key: Value(first(key).exact, code=True), align="left"),
    ]
    if len({key[1] for key in rows}) > 1:
        columns.append(Column("setting", setting, align="left"))
    columns += [
        Column[tuple[str, str]](variant, partial(ratio, variant=variant), "[95 %]") for variant in variants
    ]
    return build(columns, sorted(rows, key=lambda key: key[0]))


# Reasons.


class _Reason(NamedTuple):
    """One reason, of every cell that it holds for."""

    text: str
    """Where cells differ in a number only, it is a range: '2 to 24 operators'."""
    exactly: dict[str, list[Cell]]
    """Each text as it was told, and the cells it was told of."""

    @property
    def cells(self) -> list[Cell]:
        """All of them, once."""
        return list(dict.fromkeys(cell for cells in self.exactly.values() for cell in cells))


_NUMBER = re.compile(r"(?<![\w.,])\d+(?:[.,]\d+)*(?![\w.]*\d)")


def _merged(told: Sequence[_Told]) -> list[_Reason]:
    """Reasons of cells of one backend, those of most cells first; texts that differ in numbers only become one."""
    alike: dict[str, dict[str, list[Cell]]] = {}
    for cell, explained in told:
        for reason in dict.fromkeys(plain(reason).rstrip(".") for reason in explained.reasons):
            alike.setdefault(_NUMBER.sub("\0", reason), {}).setdefault(reason, []).append(cell)
    found = [_Reason(_ranged(template, list(exactly)), exactly) for template, exactly in alike.items()]
    return sorted(found, key=lambda reason: -len(reason.cells))


def _ranged(template: str, texts: Sequence[str]) -> str:
    """The template with each number, or the smallest and the largest where they differ."""
    columns = zip(*(_NUMBER.findall(text) for text in texts), strict=True)
    text = template
    for column in columns:
        ends = sorted(dict.fromkeys(column), key=lambda number: float(number.replace(",", "")))
        text = text.replace("\0", ends[0] if len(ends) == 1 else f"{ends[0]} to {ends[-1]}", 1)
    return text


def _slower(summary: Summary, slower: Sequence[_Reduced]) -> Iterator[str]:
    """For each backend: how much slower, the reasons, and the dearest operators of its slowest cell."""
    groups: dict[tuple[str, str], list[_Reduced]] = {}
    for row in slower:
        groups.setdefault((row.told.cell.backend, row.exact), []).append(row)
    for (backend, exact), rows in groups.items():
        yield f"**{code(backend)} takes longer than {code(exact)}:** {_by_network(summary, rows)}."
        everything = [row.told.cell for row in rows]
        lines = [
            f"- {_sentence(reason.text)}"
            if len(reason.cells) == len(rows)
            else f"- {inline(summary.names.many(reason.cells, everything))}: {_sentence(reason.text)}"
            for reason in _merged([row.told for row in rows])
        ]
        yield "\n".join(lines) or "Its runtime gives no reason."
        worst = max(rows, key=lambda row: row.interval.estimate).told
        if worst.explained.operators:
            by = inline(worst.explained.by)
            yield f"Its dearest operators where it is slowest, {inline(summary.names.one(worst.cell))} ({by}):"
            yield to_markdown(_operators(summary, [worst], DEAREST))


def _by_network(summary: Summary, rows: Sequence[_Reduced]) -> str:
    """'v1 3.94 [3.86, 4.02] × (1 thread), 3.97 [3.86, 4.08] × (2 threads); v2 …'."""
    networks: dict[str, list[str]] = {}
    for row in rows:
        setting = summary.names.setting(row.told.cell)
        ratio = f"{units.enclosed(row.interval)} ×" + (f" ({inline(setting)})" if setting else "")
        networks.setdefault(row.told.cell.variant, []).append(ratio)
    return "; ".join(f"{inline(variant)} {', '.join(ratios)}" for variant, ratios in networks.items())


def _sentence(text: str) -> str:
    return f"{inline(text)}."


def _left_behind(summary: Summary, told: Sequence[_Told], *, others: bool) -> Iterator[str]:
    """Reasons of the cells that are not slower: a line a backend, with cells where a reason is not of all of them."""
    lines = []
    for backend, found in _by_backend(told).items():
        everything = [cell for cell, _ in found]
        sentences = [
            _sentence(reason.text)
            if len(reason.cells) == len(found)
            else f"On {inline(summary.names.many(reason.cells, everything))}: {_sentence(reason.text)}"
            for reason in _merged(found)
        ]
        if sentences:
            lines.append(f"- {code(backend)}: {' '.join(sentences)}")
    if not lines:
        return
    yield f"### What the runtimes say of {'the other' if others else 'their'} cells"
    text = "\n".join(lines)
    yield folded(units.counted(len(lines), "backend"), text) if len(lines) > OPEN else text


def _by_backend(told: Sequence[_Told]) -> dict[str, list[_Told]]:
    found: dict[str, list[_Told]] = {}
    for one in told:
        found.setdefault(one.cell.backend, []).append(one)
    return found


# Profiles.


def _profiles(summary: Summary, told: Sequence[_Told]) -> Iterator[str]:
    """Folded, a backend each: what every cell's time goes to, and what it said where a range stood for it above."""
    # A profiled cell has them by layer, in a section of its own.
    profiled = _by_backend(
        [
            found
            for found in told
            if found.explained.operators and summary.run.cells[found.cell.key].profiled is None
        ]
    )
    if profiled:
        yield "### Profiles"
        yield (
            "Under each runtime's own profiler: shares of the profiled time, not latencies; in parentheses how many "
            "operators of the kind one call has."
        )
    for backend, found in profiled.items():
        by = "; ".join(dict.fromkeys(inline(one.explained.by) for one in found))
        parts = [f"By {by}.", to_markdown(_operators(summary, found, PROFILED))]
        everything = [one.cell for one in found]
        exactly = [
            f"- {inline(summary.names.many(cells, everything))}: {_sentence(text)}"
            for reason in _merged(found)
            if len(reason.exactly) > 1
            for text, cells in reason.exactly.items()
        ]
        if exactly:
            parts.append("\n".join(exactly))
        yield folded(f"Operators of {backend} ({units.counted(len(found), 'cell')})", "\n\n".join(parts))


class _Kind(NamedTuple):
    """A row of a profile: operators of one name and precision, by cell; or all that have no row of their own."""

    name: Value
    precisions: tuple[str, ...]
    costs: dict[str, list[OperatorCost]]
    """Cell's key to its operators of this kind."""


def _operators(summary: Summary, told: Sequence[_Told], shown: int) -> Table:
    """Operators (rows, the dearest first) of cells (columns); the others together are the last row."""
    totals = {one.cell.key: sum(found.seconds or 0.0 for found in one.explained.operators) for one in told}
    kinds: dict[tuple[str, str], dict[str, list[OperatorCost]]] = {}
    for one in told:
        for found in one.explained.operators:
            # A precision that is not told is not that of a namesake.
            name = plain(found.name) or "(no name)", plain(found.precision or "")
            kinds.setdefault(name, {}).setdefault(one.cell.key, []).append(found)

    def dearest(costs: dict[str, list[OperatorCost]]) -> float:
        return max(
            sum(found.seconds or 0.0 for found in some) / totals[key] if totals[key] > 0 else 0.0
            for key, some in costs.items()
        )

    ordered = sorted(kinds.items(), key=lambda item: -dearest(item[1]))
    # A row that stands for a single other one would hide its name for nothing.
    head = ordered if len(ordered) == shown + 1 else ordered[:shown]
    rows = [
        _Kind(Value(name, code=True), (precision,) if precision else (), costs)
        for (name, precision), costs in head
    ]
    rest = ordered[len(head) :]
    if rest:
        together: dict[str, list[OperatorCost]] = {}
        for _, costs in rest:
            for key, some in costs.items():
                together.setdefault(key, []).extend(some)
        precisions = dict.fromkeys(precision for (_, precision), _ in rest if precision)
        rows.append(_Kind(Value(f"{len(rest)} other kinds"), tuple(precisions), together))

    def share(row: _Kind, key: str) -> Value:
        some = row.costs.get(key)
        if some is None:
            return Value("0")
        count = f"{sum(found.count for found in some):,}"
        known = [found.seconds for found in some if found.seconds is not None]
        return Value(
            f"{units.percent(sum(known) / totals[key])} ({count})" if known and totals[key] > 0 else count
        )

    columns = [Column[_Kind]("operator", lambda row: row.name, align="left")]
    if any(row.precisions for row in rows):
        columns.append(
            Column("precision", lambda row: Value(", ".join(row.precisions) or "not told"), align="left")
        )
    single = "share (count)" if any(totals.values()) else "count"
    columns += [
        Column[_Kind](
            single if len(told) == 1 else summary.names.one(one.cell), partial(share, key=one.cell.key)
        )
        for one in told
    ]
    return build(columns, rows)
