"""Where the time goes, in words and tables: by kind of work, by block and stage of the networks, by operator."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mnv3_reports import units
from mnv3_reports.escaping import code, inline
from mnv3_reports.layout import Column, Table, Value, build, folded, missing, to_markdown
from mnv3_reports.profiles import (
    HEAD,
    KINDS,
    UNATTRIBUTED,
    WITHIN,
    Block,
    CellProfile,
    blocks_of,
    named,
    profiles,
)
from mnv3_reports.record import ProfiledOperator

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mnv3_reports.summary import Summary

DEAREST = 12
"""Operators of a cell that the report shows; `operators.csv` has all."""
COLUMNS = 6
"""Runtimes side by side in one table; the others follow in tables of their own."""
WORTH_SAYING = 0.02
TOLD = ("squeeze-excitation", "depthwise", "reorder", "normalization", UNATTRIBUTED)
"""Kinds that a sentence is about: what papers argue over, and what is no part of the network."""
_WORDS = {
    "squeeze-excitation": "Squeeze-and-excitation",
    "depthwise": "Depthwise convolutions",
    "reorder": "Conversions of layouts and types",
    "normalization": "Batch normalization, not folded,",
    UNATTRIBUTED: "What no operator accounts for",
}


def section(summary: Summary) -> Iterator[str]:
    """The section's paragraphs, without heading; none where nothing was profiled."""
    found = profiles(summary)
    if not found:
        return
    yield (
        "Every operator timed by its runtime's own profiler (median over repeats), put to the module it computes. "
        f"Shares are of a call without the profiler, in turns with profiled ones. *{UNATTRIBUTED}* is what such a "
        "call takes beyond its operators. All operators are in `operators.csv`."
    )
    groups = _groups(found)
    for number, group in enumerate(groups):
        title = _titled(summary, group)
        text = "\n\n".join(_kinds(group))
        yield f"### {inline(title)}\n\n{text}" if _is_open(summary, group, number) else folded(title, text)
    yield from _stages(summary, found)
    for group in groups:
        text = "\n\n".join(_blocks(group))
        if text:
            yield folded(f"Blocks of {_titled(summary, group)}", text)
    for group in groups:
        for each in group:
            yield folded(
                f"Dearest operators of {named(summary, each.record.cell)}", to_markdown(_operators(each))
            )
    yield "### Do the profiles add up?"
    yield from _reconciled(summary, found)


def _groups(found: Sequence[CellProfile]) -> list[list[CellProfile]]:
    """Profiles of one network and setting together."""
    groups: dict[tuple[str, str], list[CellProfile]] = {}
    for each in found:
        groups.setdefault((each.record.cell.variant, each.record.cell.setting), []).append(each)
    return list(groups.values())


def _titled(summary: Summary, group: Sequence[CellProfile]) -> str:
    cell = group[0].record.cell
    return f"{cell.variant}, {summary.names.describe(cell)}"


def _is_open(summary: Summary, group: Sequence[CellProfile], number: int) -> bool:
    """Whether a reader came for this network: asked for, at the first setting."""
    cell = group[0].record.cell
    first = summary.run.cells[next(iter(summary.run.cells))].cell.setting
    return number == 0 or (cell.variant in summary.open and cell.setting == first)


# Kinds.


def _kinds(group: Sequence[CellProfile]) -> Iterator[str]:
    lines = [line for kind in TOLD for line in _told(kind, group)]
    if lines:
        yield "\n".join(f"- {line}" for line in lines)
    rows = [kind for kind in (*KINDS, UNATTRIBUTED) if any(kind in each.kinds for each in group)]
    for start in range(0, len(group), COLUMNS):
        part = group[start : start + COLUMNS]
        columns = [Column[str]("kind", lambda kind: Value(kind), align="left")]
        columns += [
            Column[str](each.record.cell.backend, partial(_kind_value, each), "ms (share)") for each in part
        ]
        yield to_markdown(build(columns, rows))


def _kind_value(each: CellProfile, kind: str) -> Value:
    found = each.kinds.get(kind)
    if found is None:
        return Value("0")
    return Value(f"{units.milliseconds(found.seconds)} ({units.percent(found.share)})")


def _told(kind: str, group: Sequence[CellProfile]) -> Iterator[str]:
    """'Squeeze-and-excitation takes 14 % of v3-small on onnxruntime, 5.6 % on litert, for 3.1 % of its MACs.'"""
    told = [
        (each.kinds[kind].share, each)
        for each in group
        if kind in each.kinds and each.kinds[kind].share >= WORTH_SAYING
    ]
    if not told:
        return
    told.sort(key=lambda one: -one[0])
    first = told[0][1]
    variant = first.record.cell.variant
    shares = ", ".join(
        f"{units.percent(share)}{f' of {inline(variant)}' if not number else ''} on {code(each.record.cell.backend)}"
        for number, (share, each) in enumerate(told)
    )
    total = sum(operator.macs for operator in first.profiled.operators)
    macs = first.kinds[kind].macs
    of_macs = f", for {units.percent(macs / total)} of its MACs" if total and macs else ""
    verb = "takes" if kind in ("squeeze-excitation", "normalization", UNATTRIBUTED) else "take"
    yield f"{_WORDS[kind]} {verb} {shares}{of_macs}."


# Stages and blocks.


def _stages(summary: Summary, found: Sequence[CellProfile]) -> Iterator[str]:
    """For each runtime the networks beside each other, by the size of the feature map."""
    groups: dict[tuple[str, str], list[CellProfile]] = {}
    for each in found:
        if each.stages:
            groups.setdefault((each.record.cell.backend, each.record.cell.setting), []).append(each)
    several = {key: group for key, group in groups.items() if len(group) > 1}
    if not several:
        return
    yield "### Networks beside each other, by stage"
    yield (
        "A stage is all blocks that leave a feature map of one size; in parentheses the stage's share of the network's "
        "MACs and what is achieved, in GMAC/s."
    )
    for number, ((backend, setting), group) in enumerate(several.items()):
        stages = dict.fromkeys(block.stage for each in group for block in blocks_of(each.layers).values())
        rows = [*sorted(stages, key=_size, reverse=True)]
        columns = [Column[str]("stage", lambda stage: Value(stage), align="left")]
        columns += [
            Column[str](each.record.cell.variant, partial(_stage_value, each), "ms (MACs, GMAC/s)")
            for each in group
        ]
        title = f"{backend}, {summary.describe(setting)}"
        text = to_markdown(build(columns, rows))
        yield (
            f"On {code(backend)}, {inline(summary.describe(setting))}:\n\n{text}"
            if not number
            else folded(title, text)
        )


def _size(stage: str) -> int:
    return 0 if stage == HEAD else int(stage.partition(" ")[0])


def _stage_value(each: CellProfile, stage: str) -> Value:
    found = each.stages.get(stage)
    if found is None:
        return missing("the network has no such stage")
    total = sum(operator.macs for operator in each.profiled.operators) or 1
    return Value(
        f"{units.milliseconds(found.seconds)} ({units.percent(found.macs / total)}, {_rate(found.macs, found.seconds)})"
    )


def _rate(macs: int, seconds: float) -> str:
    return units.significant(macs / seconds / 1e9, 2) if macs and seconds else "–"


def _blocks(group: Sequence[CellProfile]) -> Iterator[str]:
    """Each block of a network as a row."""
    told = [each for each in group if not each.profiled.unmatched]
    if not told:
        return
    blocks = list(blocks_of(told[0].layers).values())
    for start in range(0, len(told), COLUMNS):
        columns = [
            Column[Block]("block", lambda row: Value(row.name, code=True), align="left"),
            Column[Block]("output", lambda row: Value(" × ".join(map(str, row.shape)))),
            Column[Block]("MACs", lambda row: Value(units.millions(row.macs)), "M"),
            Column[Block]("parameters", lambda row: Value(f"{row.parameters:,}")),
            Column[Block]("activations", lambda row: Value(f"{row.activations:,}")),
        ]
        columns += [
            Column[Block](each.record.cell.backend, partial(_block_value, each), "ms (GMAC/s)")
            for each in told[start : start + COLUMNS]
        ]
        yield to_markdown(build(columns, blocks))


def _block_value(each: CellProfile, row: Block) -> Value:
    found = each.blocks.get(row.name)
    if found is None:
        return missing("no operator of its own")
    rate = f" ({_rate(found.macs, found.seconds)})" if found.macs else ""
    return Value(f"{units.milliseconds(found.seconds)}{rate}")


# Operators.


def _operators(each: CellProfile) -> Table:
    ordered = sorted(each.profiled.operators, key=lambda operator: -operator.seconds)
    columns = [
        Column[ProfiledOperator](
            "operator", lambda row: Value(row.operation or row.name, code=True), align="left"
        ),
        Column[ProfiledOperator]("module", _module, align="left"),
        Column[ProfiledOperator]("kind", lambda row: Value(row.kind), align="left"),
        Column[ProfiledOperator]("also computes", partial(_contents, each), align="left"),
        Column[ProfiledOperator]("median", _spread, "µs [quartiles]"),
        Column[ProfiledOperator]("share", lambda row: Value(units.percent(row.seconds / each.whole))),
        Column[ProfiledOperator](
            "MACs", lambda row: Value(units.millions(row.macs) if row.macs else "0"), "M"
        ),
        Column[ProfiledOperator]("moves", _moved, "kB"),
        Column[ProfiledOperator]("achieves", lambda row: Value(_rate(row.macs, row.seconds)), "GMAC/s"),
    ]
    return build(columns, ordered[:DEAREST])


def _module(row: ProfiledOperator) -> Value:
    return Value(row.module, code=True) if row.module else missing("no module could be told")


def _contents(each: CellProfile, row: ProfiledOperator) -> Value:
    """The classes of what is fused into an operator."""
    classes = {layer.name: layer.kind for layer in each.layers}
    names = [classes.get(path, path) for path in row.contains]
    return Value(", ".join(names)) if names else Value("–")


def _spread(row: ProfiledOperator) -> Value:
    middle, low, high = (units.significant(value * 1e6) for value in (row.seconds, row.lower, row.upper))
    return Value(f"{middle} [{low}, {high}]")


def _moved(row: ProfiledOperator) -> Value:
    return Value(units.significant(row.bytes / 1e3)) if row.bytes else missing("not told")


# Reconciliation.


def _reconciled(summary: Summary, found: Sequence[CellProfile]) -> Iterator[str]:
    complete = [each for each in found if each.profiled.complete]
    close = [each for each in complete if abs(each.coverage - 1) <= WITHIN]
    if complete:
        yield (
            f"Of {units.counted(len(complete), 'cell')} whose runtime tells of everything it runs, the operators of "
            f"{len(close)} add up to within {units.percent(WITHIN)} of a call without the profiler."
        )
    columns = [
        Column[CellProfile]("cell", lambda row: Value(named(summary, row.record.cell)), align="left"),
        Column[CellProfile]("operators", lambda row: Value(str(len(row.profiled.operators)))),
        Column[CellProfile]("add up to", lambda row: Value(units.milliseconds(row.attributed)), "ms"),
        Column[CellProfile](
            "without profiler", lambda row: Value(units.milliseconds(row.profiled.plain_seconds)), "ms"
        ),
        Column[CellProfile]("measured median", _measured, "ms [95 %]"),
        Column[CellProfile]("sum / call", lambda row: Value(units.significant(row.coverage))),
        Column[CellProfile]("profiler adds", _overhead),
        Column[CellProfile]("by", lambda row: Value(row.profiled.by), align="left"),
    ]
    text = to_markdown(build(columns, found))
    yield folded(units.counted(len(found), "profile"), text)
    lost = [each for each in found if each.profiled.unmatched]
    if lost:
        yield "\n".join(
            f"- {inline(named(summary, each.record.cell))}: operators are not put to modules, since "
            f"{inline(each.profiled.unmatched)}."
            for each in lost
        )


def _measured(row: CellProfile) -> Value:
    return Value(units.enclosed(row.median, 1e3)) if row.median is not None else missing("not measured apart")


def _overhead(row: CellProfile) -> Value:
    return (
        Value(units.percent(row.overhead))
        if row.overhead is not None
        else missing("not timed by the same clock")
    )
