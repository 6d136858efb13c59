"""Several runs beside each other: every cell's time against the first run's, with the interval of independent samples.

Runs are not interleaved: what happened to the machine between them is in the ratio and not in its interval, which every
report of this module says. Runs of other machines or versions are labelled.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from mnv3_reports import units
from mnv3_reports.baseline import absolute, epochs_of, incomparable, of_run
from mnv3_reports.escaping import inline, plain
from mnv3_reports.layout import Column, Table, Value, build, folded, missing, to_markdown
from mnv3_reports.parts import Parts, Section
from mnv3_reports.sequential import welch_interval
from mnv3_reports.statistics import Interval
from mnv3_reports.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mnv3_reports.record import Block, Cell, Run

HELD = (
    "Times of different runs are not interleaved. The intervals (Welch's, over epochs) know how much fresh processes "
    "of one run differ and nothing of what happened to the machine between the runs, which is easily several per cent "
    "on shared machines. To gate a change use `mnv3-bench gate`, which measures both in one job."
)
LONG = 24
"""Rows of a table that a reader gets without unfolding it."""


class Named(NamedTuple):
    """A run and what it is called here."""

    name: str
    summary: Summary


class Change(NamedTuple):
    """A cell that two runs have timed."""

    cell: Cell
    before: float
    """Seconds."""
    after: float
    ratio: Interval
    """Of their geometric means; above 1 the second is slower."""

    @property
    def shown(self) -> str:
        """What the interval shows."""
        if not self.ratio.bounded or self.ratio.contains(1.0):
            return "no difference shown"
        return "slower" if self.ratio.low > 1 else "faster"


def compared(runs: Sequence[tuple[str, Run]]) -> Parts:
    """A report on two runs or more; the first is what the others are held against.

    Args:
        runs: what each is called, and the run.

    Raises:
        ValueError: there are fewer than two.
    """
    if len(runs) < 2:
        raise ValueError("two runs or more are compared; give their folders")
    base, *others = (Named(plain(name), Summary(run)) for name, run in runs)
    pairs = [(other, changes(base.summary, other.summary)) for other in others]
    sections = []
    for other, found in pairs:
        sections += [
            Section(f"{inline(other.name)} against {inline(base.name)}", list(_section(base, other, found)))
        ]
    sections.append(Section("The runs", ["\n".join(_about(named) for named in (base, *others)), HELD]))
    answer = "\n".join(f"- {_answer(base, other, found)}" for other, found in pairs)
    names = ", ".join(other.name for other in others)
    return Parts.of(f"{names} against {base.name}", answer, sections, "")


def changes(base: Summary, other: Summary) -> list[Change]:
    """The cells that both have timed, in the first run's order."""
    there = {record.cell.key for record in other.measured}
    by_cell = [_by_cell(each.run) for each in (base, other)]
    found = []
    for record in base.measured:
        key = record.cell.key
        if key not in there:
            continue
        logs = [absolute(epochs_of(blocks[key])) for blocks in by_cell]
        interval = welch_interval(logs[1], logs[0])
        high = math.exp(interval.high) if interval.bounded else math.inf
        ratio = Interval(math.exp(interval.estimate), math.exp(interval.low), high, interval.n)
        before, after = (each.statistics[key].latency.estimate for each in (base, other))
        found.append(Change(record.cell, before, after, ratio))
    return found


def _by_cell(run: Run) -> dict[str, list[Block]]:
    found: dict[str, list[Block]] = {}
    for block in run.blocks:
        found.setdefault(block.cell, []).append(block)
    return found


def _answer(base: Named, other: Named, found: Sequence[Change]) -> str:
    name = f"**{inline(other.name)} against {inline(base.name)}:**"
    if not found:
        return f"{name} no cell was timed in both."
    counts = {word: [change for change in found if change.shown == word] for word in ("slower", "faster")}
    parts = []
    for word, some in counts.items():
        if some:
            worst = max(some, key=lambda change: abs(math.log(change.ratio.estimate)))
            parts.append(
                f"{len(some)} {word}, most of all {inline(worst.cell.key)} at {units.enclosed(worst.ratio)} × its time"
            )
    rest = len(found) - sum(map(len, counts.values()))
    parts.append(f"{rest} without a difference shown")
    label = _label(base, other)
    return (
        f"{name} of {units.counted(len(found), 'cell')} {'; '.join(parts)}.{f' ⚠ {label}' if label else ''}"
    )


def _label(base: Named, other: Named) -> str | None:
    """What makes the comparison one of more than the code."""
    header = other.summary.run.header
    reason = incomparable(of_run(base.summary.run), header.machine, header.software)
    return f"These are {inline(reason)}." if reason is not None else None


def _section(base: Named, other: Named, found: Sequence[Change]) -> Iterator[str]:
    label = _label(base, other)
    if label is not None:
        yield f"> ⚠ {label}"
    if found:
        yield "Time of a call relative to the first run's: above 1 is slower, **bold is beyond the interval**."
        text = to_markdown(_table(base, other, found))
        yield folded(units.counted(len(found), "cell"), text) if len(found) > LONG else text
    for here, there in ((base, other), (other, base)):
        only = [key for key in here.summary.statistics if key not in there.summary.statistics]
        if only:
            listed = "\n".join(
                f"- {inline(key)}"
                + (
                    f" ({inline(there.summary.why_not_timed(key))} there)"
                    if key in there.summary.run.cells
                    else ""
                )
                for key in only
            )
            title = f"{units.counted(len(only), 'cell')} timed in {plain(here.name)} only"
            yield folded(title, listed)


def _table(base: Named, other: Named, found: Sequence[Change]) -> Table:
    def ratio(change: Change) -> Value:
        text = units.enclosed(change.ratio)
        if not change.ratio.bounded:
            return Value(text, "a run with one epoch has no interval")
        return Value(f"**{text}**" if change.shown != "no difference shown" else text)

    def figure(change: Change, name: str, named: Named) -> float | None:
        record = named.summary.run.cells[change.cell.key]
        holder = record.prepared if name == "artifact_bytes" else record.inspected
        return getattr(holder, name) if holder is not None else None

    def relative(change: Change, name: str) -> Value:
        before, after = figure(change, name, base), figure(change, name, other)
        if not before or after is None:
            return missing("not known of both")
        return Value("same" if before == after else units.significant(after / before))

    names = base.summary.names
    columns = [
        Column[Change]("network", lambda change: Value(names.one(change.cell)), align="left"),
        Column[Change]("backend", lambda change: Value(change.cell.backend, code=True), align="left"),
        Column[Change]("first", lambda change: Value(units.milliseconds(change.before)), "ms"),
        Column[Change]("this", lambda change: Value(units.milliseconds(change.after)), "ms"),
        Column[Change]("this / first", ratio, "[95 %]"),
        Column[Change]("", lambda change: Value(change.shown), "shown", align="left"),
        Column[Change]("artifact", partial(relative, name="artifact_bytes"), "/ first"),
        Column[Change]("peak memory", partial(relative, name="peak_bytes"), "/ first"),
    ]
    return build(columns, sorted(found, key=lambda change: -abs(math.log(change.ratio.estimate))))


def _about(named: Named) -> str:
    header = named.summary.run.header
    cells = units.counted(len(named.summary.measured), "timed cell")
    cpu = plain(header.machine.cpu) or "CPU of unknown name"
    return (
        f"- **{inline(named.name)}:** {inline(header.run_id)}, {header.started_at[:16]}, {inline(cpu)}, mnv3-bench "
        f"{header.software.project_version}, {cells}."
    )
