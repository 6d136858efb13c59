"""Where the time goes, in words and tables: by kind of work, by block and stage of the networks, by operator."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mnv3_reports import units
from mnv3_reports.escaping import code, inline
from mnv3_reports.layout import Column, Table, Value, build, folded, missing, to_markdown
from mnv3_reports.profiles import (
    HEAD,
    UNATTRIBUTED,
    WITHIN,
    Block,
    CellProfile,
    blocks_of,
    kinds_of,
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
NAMED = 5
"""Runtimes that a sentence names."""
WORTH_SAYING = 0.02
"""A share of a call below which a kind is not talked of."""
TOLD = ("squeeze-excitation", "depthwise", "reorder", "normalization", UNATTRIBUTED)
"""Kinds that a sentence is about: what papers argue over, and what is no part of the network."""
_WORDS = {
    "squeeze-excitation": "Squeeze-and-excitation",
    "depthwise": "Depthwise convolutions",
    "reorder": "Conversions of layouts and types",
    "normalization": "Batch normalization, not folded,",
    UNATTRIBUTED: "What no operator accounts for",
}
_NOWHERE = Block("", (), "", 0, 0, 0)
"""Stands for operators that belong to no block, conversions at the network's ends for instance."""


def section(summary: Summary) -> Iterator[str]:
    """The section's paragraphs, without heading; none where nothing was profiled."""
    found = profiles(summary)
    if not found:
        return
    yield (
        "Every operator was timed by its runtime's own profiler (median over repeats) and put to the module that it "
        "computes. Shares are of a call without the profiler, which took turns with profiled ones, or of the sum of "
        f"the operators where that is longer. *{UNATTRIBUTED}* is what a call takes beyond its operators. An operator "
        "that computes several modules, such as a convolution with its activation, counts as the one it is put to. "
        "All operators are in `operators.csv`."
    )
    groups = _groups(found)
    opened = [group for number, group in enumerate(groups) if _is_open(summary, groups, number)]
    for group in groups:
        title = _titled(summary, group)
        text = "\n\n".join(_kinds(group))
        yield f"### {inline(title)}\n\n{text}" if group in opened else folded(title, text)
    yield from _stages(summary, found)
    for group in groups:
        text = "\n\n".join(_blocks(group))
        if text:
            yield folded(f"Blocks of {_titled(summary, group)}", text)
    for group in opened:
        tables = (
            f"On {code(each.record.cell.backend)}:\n\n{to_markdown(_operators(each))}" for each in group
        )
        yield folded(f"Dearest operators of {_titled(summary, group)}", "\n\n".join(tables))
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


def _is_open(summary: Summary, groups: Sequence[Sequence[CellProfile]], number: int) -> bool:
    """Whether a reader came for this group: a network that was asked for, at the first of its settings."""
    variants = [group[0].record.cell.variant for group in groups]
    is_first = variants[number] not in variants[:number]
    return number == 0 or (is_first and variants[number] in summary.open)


def _text(text: str) -> Value:
    """What a runtime or a network calls something."""
    return Value(inline(text)) if inline(text) else missing("not told")


def _name(name: str) -> Value:
    """The same, to be typed as it stands."""
    return Value(name, code=True) if name.strip() else missing("has no name")


# Kinds.


def _kinds(group: Sequence[CellProfile]) -> Iterator[str]:
    lines = [line for kind in TOLD for line in _told(kind, group)]
    if lines:
        yield "\n".join(f"- {line}" for line in lines)
    rows = kinds_of(group)
    for start in range(0, len(group), COLUMNS):
        part = group[start : start + COLUMNS]
        columns = [Column[str]("kind", _text, align="left")]
        columns += [
            Column[str](inline(each.record.cell.backend), partial(_kind_value, each), "ms (share)")
            for each in part
        ]
        yield to_markdown(build(columns, rows))


def _kind_value(each: CellProfile, kind: str) -> Value:
    found = each.kinds.get(kind)
    if found is None:
        return Value("0")
    return Value(f"{units.milliseconds(found.seconds)} ({units.percent(found.share)})")


def _told(kind: str, group: Sequence[CellProfile]) -> Iterator[str]:
    """'Squeeze-and-excitation, 3.1 % of the MACs, takes 14 % of a call of v3-small on onnxruntime, 5.6 % on litert.'"""
    told = [
        (each.kinds[kind].share, each)
        for each in group
        if kind in each.kinds and each.kinds[kind].share >= WORTH_SAYING
    ]
    if not told:
        return
    told.sort(key=lambda one: -one[0])
    variant = inline(told[0][1].record.cell.variant)
    shares = [
        f"{units.percent(share)}{f' of a call of {variant}' * (not number)} on {code(each.record.cell.backend)}"
        for number, (share, each) in enumerate(told)
    ]
    if len(told) > NAMED + 1:
        rest = told[NAMED:]
        ends = f"{units.percent(rest[-1][0])} to {units.percent(rest[0][0])}"
        shares[NAMED:] = [f"{ends} on {len(rest)} others"]
    # The network's own share, so of any runtime whose operators were put to modules.
    of_macs = next((each.kinds[kind].macs / each.macs for _, each in told if each.kinds[kind].macs), 0.0)
    beside = f", {units.percent(of_macs)} of the MACs," if of_macs else ""
    verb = "takes" if kind in ("squeeze-excitation", "normalization", UNATTRIBUTED) else "take"
    yield f"{_WORDS[kind]}{beside} {verb} {', '.join(shares)}."


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
        "A stage is all blocks that leave a feature map of one size, in pixels; *head* is what follows the last one. "
        "In parentheses: the stage's share of the network's MACs, and the rate that is reached, in GMAC/s."
    )
    for number, ((backend, setting), group) in enumerate(several.items()):
        stages = dict.fromkeys(block.stage for each in group for block in blocks_of(each.layers).values())
        rows = [*sorted(stages, key=_size, reverse=True)]
        columns = [Column[str]("stage", lambda stage: Value(stage), align="left")]
        columns += [
            Column[str](inline(each.record.cell.variant), partial(_stage_value, each), "ms (MACs, GMAC/s)")
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
    share = units.percent(found.macs / (each.macs or 1))
    return Value(f"{units.milliseconds(found.seconds)} ({share}, {_rate(found.macs, found.seconds)})")


def _rate(macs: int, seconds: float) -> str:
    return units.significant(macs / seconds / 1e9, 2) if macs and seconds else "–"


def _blocks(group: Sequence[CellProfile]) -> Iterator[str]:
    """Each block of a network as a row, and what belongs to none."""
    told = [each for each in group if each.layers and not each.profiled.unmatched]
    if not told:
        return
    blocks = list(blocks_of(told[0].layers).values())
    if any("" in each.blocks for each in told) and "" not in blocks_of(told[0].layers):
        blocks.append(_NOWHERE)
    for start in range(0, len(told), COLUMNS):
        columns = [
            Column[Block]("block", _block_name, align="left"),
            Column[Block]("output", lambda row: Value(" × ".join(map(str, row.shape)) or "–")),
            Column[Block]("MACs", lambda row: Value(units.millions(row.macs)), "M"),
            Column[Block]("parameters", lambda row: Value(f"{row.parameters:,}")),
            Column[Block]("activations", lambda row: Value(f"{row.activations:,}")),
        ]
        columns += [
            Column[Block](inline(each.record.cell.backend), partial(_block_value, each), "ms (GMAC/s)")
            for each in told[start : start + COLUMNS]
        ]
        yield to_markdown(build(columns, blocks))


def _block_name(row: Block) -> Value:
    return Value("in no block") if row is _NOWHERE else _name(row.name)


def _block_value(each: CellProfile, row: Block) -> Value:
    found = each.blocks.get(row.name)
    if found is None:
        return Value("0") if row is _NOWHERE else missing("no operator of its own")
    rate = f" ({_rate(found.macs, found.seconds)})" if found.macs else ""
    return Value(f"{units.milliseconds(found.seconds)}{rate}")


# Operators.


def _operators(each: CellProfile) -> Table:
    ordered = sorted(each.profiled.operators, key=lambda operator: -operator.seconds)
    columns = [
        Column[ProfiledOperator]("operator", lambda row: _name(row.operation or row.name), align="left"),
        Column[ProfiledOperator]("module", _module, align="left"),
        Column[ProfiledOperator]("kind", lambda row: _text(row.kind), align="left"),
        Column[ProfiledOperator]("also computes", partial(_contents, each), align="left"),
        Column[ProfiledOperator]("median", _spread, "µs [quartiles]"),
        Column[ProfiledOperator]("share", lambda row: Value(units.percent(each.share([row]).share))),
        Column[ProfiledOperator](
            "MACs", lambda row: Value(units.millions(row.macs) if row.macs else "0"), "M"
        ),
        Column[ProfiledOperator]("moves", _moved, "kB"),
        Column[ProfiledOperator]("achieves", lambda row: Value(_rate(row.macs, row.seconds)), "GMAC/s"),
    ]
    return build(columns, ordered[:DEAREST])


def _module(row: ProfiledOperator) -> Value:
    return Value(row.module, code=True) if row.module.strip() else missing("no module could be told")


def _contents(each: CellProfile, row: ProfiledOperator) -> Value:
    """The classes of what is fused into an operator."""
    classes = {layer.name: layer.kind for layer in each.layers}
    names = [inline(classes.get(path) or path) for path in row.contains]
    return Value(", ".join(names) or "–")


def _spread(row: ProfiledOperator) -> Value:
    middle, low, high = (units.significant(value * 1e6) for value in (row.seconds, row.lower, row.upper))
    return Value(f"{middle} [{low}, {high}]")


def _moved(row: ProfiledOperator) -> Value:
    return Value(units.significant(row.bytes / 1e3)) if row.bytes else missing("not told")


# Reconciliation.


def _reconciled(summary: Summary, found: Sequence[CellProfile]) -> Iterator[str]:
    complete = [each for each in found if each.profiled.complete]
    close = [each for each in complete if each.coverage is not None and abs(each.coverage - 1) <= WITHIN]
    if complete:
        yield (
            f"In {len(close)} of {units.counted(len(complete), 'cell')} whose runtime tells the time of everything "
            f"that it runs, the operators add up to within {units.percent(WITHIN)} of a call without the profiler."
        )
    left = units.counted(len(found) - len(complete), "cell")
    if len(complete) < len(found):
        yield (
            f"In {f'the other {left}' if complete else left} the runtime does work that its profiler gives to no "
            f"operator, so *{UNATTRIBUTED}* is part of the answer."
        )
    columns = [
        Column[CellProfile]("cell", lambda row: _text(named(summary, row.record.cell)), align="left"),
        Column[CellProfile]("operators", lambda row: Value(str(len(row.profiled.operators)))),
        Column[CellProfile]("add up to", lambda row: Value(units.milliseconds(row.attributed)), "ms"),
        Column[CellProfile](
            "without profiler", lambda row: Value(units.milliseconds(row.profiled.plain_seconds)), "ms"
        ),
        Column[CellProfile]("measured median", _measured, "ms [95 %]"),
        Column[CellProfile]("sum / call", _coverage),
        Column[CellProfile]("profiler adds", _overhead),
        Column[CellProfile]("by", lambda row: _text(row.profiled.by), align="left"),
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


def _coverage(row: CellProfile) -> Value:
    return (
        Value(units.significant(row.coverage)) if row.coverage is not None else missing("no time of a call")
    )


def _overhead(row: CellProfile) -> Value:
    return (
        Value(units.percent(row.overhead).replace("-", "−"))
        if row.overhead is not None
        else missing("not timed by the same clock")
    )
