"""A gate's verdict as GitHub-flavoured markdown, for a pull request and for $GITHUB_STEP_SUMMARY.

The heading, one paragraph and the first table say what regressed and by how much; what makes it believable follows.
Names and reasons come from the measured code, so they are escaped and can neither break a table nor mention anybody.
The words are those of `mnv3_reports.verdict_words`.
"""

from __future__ import annotations

import math
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from mnv3_reports import units
from mnv3_reports.escaping import code, inline, plain
from mnv3_reports.layout import Column, Row, Value, build, fenced, folded, missing
from mnv3_reports.layout import to_markdown as table_text
from mnv3_reports.verdict import CellVerdict, Verdict
from mnv3_reports.verdict_words import (
    OUTCOME,
    SEVERITY,
    Names,
    advice,
    allowed,
    change,
    check_words,
    failing_checks,
    injection_notice,
    machine_line,
    regression,
    slower,
    worst_first,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mnv3_reports.verdict import ArmFacts, Check, GateReport

STOPPED = {
    "decided": "every cell had its verdict",
    "epochs": "all looks were used",
    "budget": "the time budget was spent",
    "interrupted": "it was interrupted",
    "deterministic": "the deterministic figures decided, so nothing was timed",
    "failed": "something that was to be measured failed",
}
"""The report's reasons in words; any other one is printed as it is."""

UNFOLDED = 8
"""Rows that need nobody's attention fold away when there are more."""
NAMED = 5
"""Cells that a sentence names; the table has them all."""
FIGURES_NAMED = 2
"""Figures of one cell that the first paragraph names."""


def to_markdown(report: GateReport) -> str:
    """The verdict, what it rests on, and how to get it again. One second-level heading, the rest below it."""
    names = Names(report)
    sections = chain(
        _opening(report, names),
        _cells(report, names),
        _checks(report, names),
        _certainty(report, names),
        _arms(report),
        _provenance(report),
    )
    return "\n\n".join(sections) + "\n"


# The sections.


def _opening(report: GateReport, names: Names) -> Iterable[str]:
    yield f"## Performance gate {OUTCOME[report.verdict]}"
    notice = injection_notice(report)
    if notice is not None:
        yield f"> **{inline(notice)}**"
    summary = inline(report.summary) or "The gate gave no summary"
    sentences = [f"**{summary}{'' if summary.endswith(('.', '!', '?')) else '.'}**"]
    sentences += _details(report, names)
    yield " ".join(sentences)
    typed = advice(report)
    if typed is not None:
        yield f"{inline(typed.why)} To decide it, type:"
        yield fenced(typed.command)


def _details(report: GateReport, names: Names) -> Iterable[str]:
    """What the summary leaves open: cells it does not name, figures, and reasons."""
    ordered = worst_first(report.cells)
    regressed = [cell for cell in ordered if regression(cell)]
    worse = [
        _worse(cell, names) for cell in regressed if failing_checks(cell) or not names.told(cell, report)
    ]
    if worse:
        yield f"Regressed: {_some(worse)}."
    for verdict, title in ((Verdict.FAIL, "Failed"), (Verdict.INVALID, "Invalid")):
        others = [cell for cell in ordered if cell.verdict is verdict and cell not in regressed]
        reasons = [
            f"{names.pair(cell)} ({inline(cell.reason)})"
            for cell in others
            if cell.reason not in report.summary or not names.told(cell, report)
        ]
        if reasons:
            yield f"{title}: {_some(reasons)}."
    if report.verdict is Verdict.PASS:
        yield from _closest(report, names)


def _worse(cell: CellVerdict, names: Names) -> str:
    timed = slower(cell) and cell.ratio is not None
    time = [f"**{change(cell.ratio, cell.margin)}**"] if timed and cell.ratio is not None else []
    failing = failing_checks(cell)
    # The table below has all of them.
    shown = failing if len(failing) <= FIGURES_NAMED + 1 else failing[:FIGURES_NAMED]
    figures = [f"{code(check.name)} {inline(str(check_words(check)))}" for check in shown]
    if len(shown) < len(failing):
        figures.append(f"{len(failing) - len(shown)} more figures")
    return f"{names.pair(cell)} {', '.join(time + figures)}"


def _closest(report: GateReport, names: Names) -> list[str]:
    timed = [(cell.ratio, cell) for cell in report.cells if cell.ratio is not None]
    if not timed:
        return []
    ratio, cell = max(timed, key=lambda pair: pair[0].estimate / (1 + pair[1].margin))
    return [
        f"Closest to its margin: {names.pair(cell)} {change(ratio, cell.margin)}, allowed {allowed(cell.margin)}."
    ]


def _cells(report: GateReport, names: Names) -> Iterable[str]:
    if not report.cells:
        yield "No cell was compared."
        return
    if not any(cell.ratio or cell.base_seconds or cell.head_seconds for cell in report.cells):
        yield "Nothing was timed."
        untimed = [_cell_column(names), Column[CellVerdict]("verdict", _verdict_value, align="left")]
        yield from _split(untimed, worst_first(report.cells), _matters, "passed", "cell")
        return
    columns = [
        _cell_column(names),
        Column[CellVerdict](
            "base", lambda cell: _or_missing(cell.base_seconds, units.milliseconds, "not timed"), "ms"
        ),
        Column[CellVerdict](
            "head", lambda cell: _or_missing(cell.head_seconds, units.milliseconds, "not timed"), "ms"
        ),
        Column[CellVerdict]("change [95 %]", _change_value),
        Column[CellVerdict]("allowed", lambda cell: Value(allowed(cell.margin))),
        Column[CellVerdict]("verdict", _verdict_value, align="left"),
    ]
    ordered = worst_first(report.cells)
    setting = names.setting
    intro = "Median time of a call, head against base; above zero the head is slower."
    yield intro + (f" Every cell: {inline(setting)}." if setting else "")
    yield from _split(columns, ordered, _matters, "passed", "cell")


class _CheckRow(NamedTuple):
    cell: CellVerdict
    check: Check


def _checks(report: GateReport, names: Names) -> Iterable[str]:
    yield "### Deterministic figures"
    rows = [_CheckRow(cell, check) for cell in worst_first(report.cells) for check in cell.checks]
    shown = [row for row in rows if row.check.changed or row.check.verdict is not Verdict.PASS]
    same = len(rows) - len(shown)
    if not rows:
        yield "No deterministic figure was compared."
    elif not shown:
        yield f"Nothing changed: {units.counted(len(rows), 'figure')} are the same in base and head."
    if not shown:
        return
    columns = [
        Column[_CheckRow]("cell", lambda row: Value(names.pair(row.cell)), align="left"),
        Column[_CheckRow]("figure", lambda row: Value(code(row.check.name)), align="left"),
        Column[_CheckRow]("before", _before),
        Column[_CheckRow]("after", _after),
        Column[_CheckRow]("rule", lambda row: Value(inline(row.check.rule) or "0")),
        Column[_CheckRow]("verdict", lambda row: Value(_loud(row.check.verdict)), align="left"),
    ]
    shown.sort(key=lambda row: SEVERITY.index(row.check.verdict))
    yield from _split(columns, shown, lambda row: _matters(row.check), "changed within the rules", "figure")
    others = f" {units.counted(same, 'other figure')} did not change." if same else ""
    yield f"A rule says by how much the head may be worse.{others}"


def _certainty(report: GateReport, names: Names) -> Iterable[str]:
    yield "### What was measured, and how sure it is"
    yield "\n".join(_course(report))
    timed = [cell for cell in worst_first(report.cells) if cell.ratio is not None or cell.epochs]
    if not timed:
        return
    columns = [
        _cell_column(names),
        Column[CellVerdict](
            "noise s_d", lambda cell: _or_missing(cell.noise, units.percent, "fewer than two epochs")
        ),
        Column[CellVerdict](
            "detectable", lambda cell: _or_missing(cell.detectable, units.percent, "too few epochs to say")
        ),
        Column[CellVerdict]("epochs", lambda cell: Value(str(cell.epochs))),
        Column[CellVerdict]("decided after", _decided),
        Column[CellVerdict](
            "null control", lambda cell: Value(change(cell.null)) if cell.null else missing("not measured")
        ),
        Column[CellVerdict](
            "p",
            lambda cell: _or_missing(cell.p_value, lambda p: units.significant(p, 2), "no look was reached"),
        ),
        Column[CellVerdict]("disturbed blocks", _disturbed),
        Column[CellVerdict]("CPU taken by others, base / head", _interference),
    ]
    text = table_text(build(columns, timed))
    legend = (
        "Noise is the standard deviation of an epoch's logarithm of the ratio. Detectable is the smallest slowdown "
        f"that this many epochs fail with a power of {allowed(report.power)}. The null control is a second base "
        "worker against the first: its true change is 0. p is of 'not slower than allowed', corrected over cells."
    )
    if len(timed) > UNFOLDED:
        yield folded(f"Noise, null control and p value of {len(timed)} cells", f"{text}\n\n{legend}")
    else:
        yield text
        yield legend


def _course(report: GateReport) -> Iterable[str]:
    stopped = STOPPED.get(report.stopped_because, report.stopped_because)
    *earlier, last = map(str, report.looks or (0,))
    if report.looks:
        looks = f"{', '.join(earlier)} or {last}" if earlier else last
        yield (
            f"- A verdict may fall after {looks} epochs (fresh processes); chance of a false failure over all looks "
            f"and cells at most {allowed(report.alpha)}, power asked {allowed(report.power)}."
        )
    yield f"- Stopped because {inline(stopped)}; {units.duration(report.seconds)} in all."
    pilot = report.prediction
    if pilot is not None:
        yield (
            f"- Predicted by the pilot ({units.counted(pilot.pilot_epochs, 'epoch')}, blind to the head): noise "
            f"{_share(pilot.noise)}, smallest detectable slowdown {_share(pilot.detectable)} with "
            f"{units.counted(pilot.epochs, 'epoch')} of {units.counted(pilot.rounds, 'round')}, at most "
            f"{units.duration(pilot.seconds)}."
        )
    elif report.looks:
        yield "- No pilot was measured, so nothing was predicted."
    reached = _reached(report)
    if reached:
        yield f"- Reached: {reached}."
    noises = [
        cell.disturbance for cell in report.cells if cell.disturbance is not None and cell.disturbance.blocks
    ]
    if noises:
        blocks = sum(noise.blocks for noise in noises)
        base = sum(noise.base_interference * noise.blocks for noise in noises) / blocks
        head = sum(noise.head_interference * noise.blocks for noise in noises) / blocks
        yield (
            f"- Disturbed: {sum(noise.disturbed_blocks for noise in noises):,} of {units.counted(blocks, 'block')}; "
            f"others took {_share(base)} of a CPU during the base's blocks and {_share(head)} during the head's."
        )


def _reached(report: GateReport) -> str:
    noises = [cell.noise for cell in report.cells if cell.noise is not None and math.isfinite(cell.noise)]
    slowdowns = sorted(
        cell.detectable
        for cell in report.cells
        if cell.detectable is not None and math.isfinite(cell.detectable)
    )
    epochs = sorted({cell.epochs for cell in report.cells if cell.epochs})
    parts = []
    if noises:
        root_mean_square = math.sqrt(math.fsum(noise**2 for noise in noises) / len(noises))
        parts.append(f"noise {_share(root_mean_square)} (root mean square over cells)")
    if slowdowns:
        ends = dict.fromkeys((_share(slowdowns[0]), _share(slowdowns[-1])))
        parts.append(
            f"smallest detectable slowdown {' to '.join(ends)}, by cell"
            if len(ends) > 1
            else f"smallest detectable slowdown {next(iter(ends))}"
        )
    if epochs:
        span = f"{epochs[0]} to " if len(epochs) > 1 else ""
        parts.append(f"{span}{units.counted(epochs[-1], 'epoch')}")
    return ", ".join(parts)


def _arms(report: GateReport) -> Iterable[str]:
    yield "### What was compared"
    arms = [("base", report.base), ("head", report.head)]
    columns = [
        Column[tuple[str, "ArmFacts"]]("arm", lambda row: Value(row[0]), align="left"),
        Column[tuple[str, "ArmFacts"]]("what", lambda row: Value(code(row[1].label)), align="left"),
        Column[tuple[str, "ArmFacts"]]("Python", lambda row: Value(code(row[1].python)), align="left"),
        Column[tuple[str, "ArmFacts"]](
            "commit",
            lambda row: Value(code(row[1].commit)) if row[1].commit else missing("no commit is known"),
            align="left",
        ),
    ]
    yield table_text(build(columns, arms))
    base, head = report.base.packages, report.head.packages
    names = sorted(name for name in base.keys() | head.keys() if base.get(name) != head.get(name))
    if not names:
        known = f"no difference ({len(base)} compared)" if base else "none are known, so none were compared"
        yield f"Packages: {known}."
        return
    packages = [
        Column[str]("package", lambda name: Value(code(name)), align="left"),
        Column[str]("base", lambda name: _version(base.get(name), "base")),
        Column[str]("head", lambda name: _version(head.get(name), "head")),
    ]
    text = table_text(build(packages, names))
    title = f"{units.counted(len(names), 'package')} differ" if len(names) > 1 else "1 package differs"
    yield folded(title, text) if len(names) > UNFOLDED else f"{title}:\n\n{text}"


def _provenance(report: GateReport) -> Iterable[str]:
    yield "### Where, and how to repeat it"
    lines = [
        f"- Machine: {inline(machine_line(report.machine))}.",
        f"- Started {inline(report.started_at)}; seed {report.seed}; exit code {report.exit_code}.",
        *(f"- Note: {inline(note)}" for note in report.notes),
    ]
    yield "\n".join(lines)
    yield fenced(plain(report.command) or "(the command is not known)")


# Values of tables.


def _split(
    columns: Sequence[Column[Row]], rows: Sequence[Row], matters: Callable[[Row], bool], calm: str, noun: str
) -> Iterable[str]:
    """One table; or, when many rows need nobody's attention, those apart and folded."""
    quiet = [row for row in rows if not matters(row)]
    if len(quiet) <= UNFOLDED:
        yield table_text(build(columns, rows))
        return
    loud = [row for row in rows if matters(row)]
    if loud:
        yield table_text(build(columns, loud))
    yield folded(f"{units.counted(len(quiet), noun)} {calm}", table_text(build(columns, quiet)))


def _cell_column(names: Names) -> Column[CellVerdict]:
    return Column("cell", lambda cell: Value(names.pair(cell)), align="left")


def _matters(judged: CellVerdict | Check) -> bool:
    return judged.verdict is not Verdict.PASS


def _change_value(cell: CellVerdict) -> Value:
    if cell.ratio is None:
        return missing("not timed")
    text = change(cell.ratio, cell.margin)
    return Value(f"**{text}**" if slower(cell) else text)


def _verdict_value(cell: CellVerdict) -> Value:
    reason = inline(cell.reason)
    return Value(_loud(cell.verdict), reason if reason and cell.verdict is not Verdict.PASS else None)


def _loud(verdict: Verdict) -> str:
    return verdict.value if verdict is Verdict.PASS else f"**{verdict.value.upper()}**"


def _before(row: _CheckRow) -> Value:
    words = check_words(row.check)
    return missing("the base has no such figure") if words.base is None else Value(words.base)


def _after(row: _CheckRow) -> Value:
    words = check_words(row.check)
    if words.head is None:
        return missing("the head has no such figure")
    return Value(f"{words.head} ({words.difference})" if words.difference else words.head)


def _version(text: str | None, arm: str) -> Value:
    return missing(f"not installed in the {arm}") if text is None else Value(code(text))


def _decided(cell: CellVerdict) -> Value:
    if cell.decided_at is None:
        return missing("undecided")
    return Value(units.counted(cell.decided_at, "epoch"))


def _disturbed(cell: CellVerdict) -> Value:
    noise = cell.disturbance
    return Value(f"{noise.disturbed_blocks:,} of {noise.blocks:,}") if noise else missing("not recorded")


def _interference(cell: CellVerdict) -> Value:
    noise = cell.disturbance
    if noise is None:
        return missing("not recorded")
    return Value(f"{_share(noise.base_interference)} / {_share(noise.head_interference)}")


def _or_missing(value: float | None, form: Callable[[float], str], why: str) -> Value:
    return Value(form(value)) if value is not None and math.isfinite(value) else missing(why)


def _share(value: float) -> str:
    return units.percent(value) if math.isfinite(value) else "unknown"


def _some(texts: Sequence[str]) -> str:
    more = [f"and {len(texts) - NAMED} more"] if len(texts) > NAMED else []
    return "; ".join([*texts[:NAMED], *more])
