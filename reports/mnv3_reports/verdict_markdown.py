"""A gate's verdict as GitHub-flavoured markdown, for a pull request and for $GITHUB_STEP_SUMMARY.

The heading, one paragraph and the first table say what regressed and by how much; what makes it believable follows.
Names and reasons come from the measured code, so they are escaped and can neither break a table nor mention anybody.
The words for a change, a figure and a cell are shared with `mnv3_reports.verdict_formats`.
"""

from __future__ import annotations

import math
import re
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from mnv3_reports import units
from mnv3_reports.answer import describe
from mnv3_reports.layout import Column, Row, Value, build, fenced, folded, missing
from mnv3_reports.layout import to_markdown as table_text
from mnv3_reports.record import Cell
from mnv3_reports.verdict import CellVerdict, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mnv3_reports.record import Machine
    from mnv3_reports.statistics import Interval
    from mnv3_reports.verdict import ArmFacts, Check, GateReport

SEVERITY = (Verdict.FAIL, Verdict.INVALID, Verdict.INCONCLUSIVE, Verdict.PASS)
"""What a reader has to see first."""

OUTCOME = {
    Verdict.PASS: "passed",
    Verdict.FAIL: "failed",
    Verdict.INCONCLUSIVE: "inconclusive",
    Verdict.INVALID: "invalid",
}
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
LARGEST_FACTOR = 8.0
"""More time than this many times the last is not advised: the change lies at the margin, or nearly."""
_SECONDS = {None: 1, "s": 1, "m": 60, "min": 60, "h": 3600}
"""Units of a duration as --time-budget takes them."""


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


# Words that every renderer uses.


def plain(text: str) -> str:
    """One line that can be printed anywhere: no line breaks, control, direction or surrogate characters.

    What is replaced would end a line, hide text, drive a terminal, or be refused by XML and UTF-8.
    """
    printable = (c if c.isprintable() or c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return " ".join("".join(printable).split())


def worst_first(cells: Iterable[CellVerdict]) -> list[CellVerdict]:
    """Failed, invalid, inconclusive, passed; of the failed ones those not timed first, then by excess."""

    def order(cell: CellVerdict) -> tuple[int, float]:
        if cell.verdict is not Verdict.FAIL:
            return SEVERITY.index(cell.verdict), 0.0
        excess = cell.ratio.estimate / (1 + cell.margin) if cell.ratio is not None else math.inf
        return SEVERITY.index(cell.verdict), -excess

    return sorted(cells, key=order)


def change(ratio: Interval, margin: float | None = None) -> str:
    """A ratio as a change with its interval, `+5.1 % [+4.2, +6.0]`; above zero the head is slower.

    An end gets more digits where it would read as equal to `margin` (0.03 is 3 %) and is not: on which side it lies
    is what decides.
    """
    if not math.isfinite(ratio.estimate):
        return "unknown"
    estimate, low, high = ((value - 1) * 100 for value in (ratio.estimate, ratio.low, ratio.high))
    if not ratio.bounded:
        return f"{_signed(estimate, 1)} % (no interval from {units.counted(ratio.n, 'epoch')})"
    decimals = 2 if high - low < 0.2 else 1
    limit = math.nan if margin is None else margin * 100
    while decimals < 4 and any(_reads_as(end, limit, decimals) for end in (low, high)):
        decimals += 1
    first, *ends = (_signed(value, decimals) for value in (estimate, low, high))
    return f"{first} % [{', '.join(ends)}]"


def allowed(margin: float) -> str:
    """A margin such as 0.03 as `3 %`."""
    return f"{margin * 100:.3g} %"


class CheckWords(NamedTuple):
    """One deterministic figure in words; a side that has none is None."""

    base: str | None
    head: str | None
    difference: str | None
    """`+6.3 %`, or the difference itself where a share says nothing (decibels, a single parameter of millions)."""

    def __str__(self) -> str:
        difference = f" ({self.difference})" if self.difference else ""
        return f"{self.base or 'nothing'} -> {self.head or 'nothing'}{difference}"


def check_words(check: Check) -> CheckWords:
    """Both sides with their unit and with as many digits as it takes to tell them apart."""
    unit = next(
        (
            unit
            for end, unit in (("_bytes", " B"), ("_db", " dB"), ("_seconds", " s"))
            if check.name.endswith(end)
        ),
        "",
    )
    base, head = check.base, check.head
    if base is None or head is None:
        one, other = (None if side is None else _number(side, 3) + unit for side in (base, head))
        return CheckWords(one, other, None)
    digits = 3
    while base != head and digits < 17 and _number(base, digits) == _number(head, digits):
        digits += 1
    before, after = _number(base, digits) + unit, _number(head, digits) + unit
    difference = head - base
    if difference == 0 or not math.isfinite(difference):
        return CheckWords(before, after, None)
    if base != 0 and unit != " dB" and abs(difference / base) >= 0.0005:
        return CheckWords(before, after, f"{_signed(difference / abs(base) * 100, 1)} %")
    return CheckWords(before, after, ("+" if difference > 0 else "") + _number(difference, 3) + unit)


def failing_checks(cell: CellVerdict) -> list[Check]:
    """Deterministic figures that did not pass, worst first."""
    failing = (check for check in cell.checks if check.verdict is not Verdict.PASS)
    return sorted(failing, key=lambda check: SEVERITY.index(check.verdict))


def timing_verdict(cell: CellVerdict) -> Verdict | None:
    """The verdict on the cell's time alone, None when nothing was timed.

    A cell's verdict is the worse one of its time and its figures. Where the figures explain it, the time's follows
    from what is recorded: it has a verdict if it was decided, and then lies on one side of the margin.
    """
    failing = failing_checks(cell)
    if not failing or failing[0].verdict is not cell.verdict:
        return cell.verdict if cell.ratio is not None or cell.verdict is not Verdict.PASS else None
    if cell.ratio is None:
        return None
    if cell.decided_at is None:
        return Verdict.INCONCLUSIVE
    return Verdict.FAIL if cell.ratio.estimate > 1 + cell.margin else Verdict.PASS


def slower(cell: CellVerdict) -> bool:
    """Whether the cell was timed until it had a verdict, and is slower than allowed. One that broke is not."""
    return timing_verdict(cell) is Verdict.FAIL and cell.ratio is not None and cell.decided_at is not None


def regression(cell: CellVerdict) -> bool:
    """Whether the cell failed by its time or its figures; a cell can also fail because the head crashed."""
    failing = any(check.verdict is Verdict.FAIL for check in cell.checks)
    return cell.verdict is Verdict.FAIL and (failing or slower(cell))


class Names:
    """Cell names without the settings that all cells share, which are said once."""

    def __init__(self, report: GateReport) -> None:
        self._cells: dict[str, Cell] = {}
        for key in chain.from_iterable((cell.cell, cell.base_cell) for cell in report.cells):
            try:
                self._cells[key] = Cell.from_key(key)
            except ValueError:
                # A name that nobody can take apart is shown whole.
                continue
        settings = [cell.setting.split("&") for cell in self._cells.values()]
        self._shared = (
            {part for part in settings[0] if all(part in other for other in settings)} if settings else set()
        )

    @property
    def setting(self) -> str | None:
        """What all cells share, in words: '1 thread, batch 1, 224 × 224'. None when they share nothing."""
        first = next(iter(self._cells.values()), None)
        if first is None or not self._shared:
            return None
        parts = first.setting.split("&")
        return (
            describe(first)
            if self._shared.issuperset(parts)
            else ", ".join(p for p in parts if p in self._shared)
        )

    def short(self, key: str) -> str:
        """The name on one line, not yet escaped."""
        cell = self._cells.get(key)
        if cell is None:
            return plain(key)
        own = "&".join(part for part in cell.setting.split("&") if part not in self._shared)
        return plain(f"{cell.variant}/{cell.backend}") + (f"?{plain(own)}" if own else "")

    def told(self, cell: CellVerdict, report: GateReport) -> bool:
        """Whether the report's summary names the cell."""
        return bool(re.search(rf"{re.escape(self.short(cell.cell))}(?![\w-])", plain(report.summary)))

    def pair(self, cell: CellVerdict) -> str:
        """The cell as markdown, with the base's where it is another one."""
        head = code(self.short(cell.cell))
        return head if cell.cell == cell.base_cell else f"{head} against {code(self.short(cell.base_cell))}"


class Advice(NamedTuple):
    """How to get a verdict after an inconclusive gate."""

    why: str
    command: str
    """What to type, on one line."""

    def __str__(self) -> str:
        return f"{self.why} Type: {self.command}"


def advice(report: GateReport) -> Advice | None:
    """What to type for a verdict, None unless the gate is inconclusive.

    The time is a rough estimate: intervals narrow with the square root of it. It is at least twice the last
    budget, and at most `LARGEST_FACTOR` times the time taken.
    """
    if report.verdict is not Verdict.INCONCLUSIVE:
        return None
    command = plain(report.command)
    if report.stopped_because == "interrupted":
        return Advice("It was interrupted; run it again to its end.", command)
    needed = [_time_factor(cell) for cell in report.cells if cell.verdict is Verdict.INCONCLUSIVE]
    factor = min(max(needed, default=2.0), LARGEST_FACTOR)
    given = re.search(r"--time-budget[= ](\d+(?:\.\d+)?)(s|m|min|h)?(?= |$)", command)
    last = (
        float(given[1]) * _SECONDS[given[2]]
        if given
        else report.prediction.seconds
        if report.prediction
        else 0.0
    )
    budget = f"--time-budget {math.ceil(max(report.seconds * max(factor, 2.0), 2 * last, 60) / 60)}m"
    why = "More time narrows the intervals, and so does a quieter machine."
    if max(needed, default=0.0) > LARGEST_FACTOR:
        why += " Some change lies so close to its margin that even this may not tell them apart."
    typed = command.replace(given[0], budget) if given else f"{command} {budget}".strip()
    return Advice(why, typed)


def injection_notice(report: GateReport) -> str | None:
    """One line when the head was slowed down on purpose, else None."""
    if not report.injected:
        return None
    return (
        f"TEST OF THE GATE: the head was slowed down by {allowed(report.injected)} on purpose; "
        "this says nothing about the code."
    )


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


def machine_line(machine: Machine) -> str:
    """The machine on one line, not yet escaped."""
    quota = f" (cgroup quota {machine.cpu_quota:g})" if machine.cpu_quota is not None else ""
    parts = [
        machine.cpu or "CPU of unknown name",
        f"{machine.usable_cpus} of {units.counted(machine.logical_cpus, 'logical CPU')} usable{quota}",
        f"{units.gibibytes(machine.memory_limit_bytes or machine.memory_bytes)} memory",
        *machine.gpus,
        f"governor {machine.governor}" if machine.governor else "no frequency governor visible",
        f"virtual machine ({machine.hypervisor})" if machine.hypervisor else "no hypervisor seen",
        f"{machine.system} {machine.kernel}",
    ]
    parts += [f"fingerprint {machine.fingerprint}"] if machine.fingerprint else []
    return plain("; ".join(parts))


# Escaping.


def inline(text: str) -> str:
    """Text that markdown shows as it is, in a paragraph as in a table: no markup, link, mention or issue reference.

    `layout.escape` changes nothing in it: bars and opening angle brackets are entities already. The text must not
    begin a line (as "1." or ">" would mean something there).
    """
    line = re.sub(r"([\\`*_\[\]~])", r"\\\1", plain(text).replace("&", "&amp;"))
    for character in "<|$":
        line = line.replace(character, f"&#{ord(character)};")
    # A zero-width space: GitHub looks for @name and #1 after entities were resolved.
    return re.sub(r"(?<![\w&])@(?=\w)|(?<!&)#(?=\d)", lambda sign: f"{sign[0]}&#8203;", line)


def code(text: str) -> str:
    """A name as a code span; as escaped text where it holds what would end the span or a table's cell."""
    line = plain(text)
    if not line:
        return "(empty)"
    return inline(line) if set(line) & set("`<|") else f"`{line}`"


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


def _signed(value: float, decimals: int) -> str:
    # Adding zero turns -0.0 into 0.0.
    return f"{value:+.2e}" if abs(value) >= 1e5 else f"{round(value, decimals) + 0.0:+.{decimals}f}"


def _reads_as(value: float, limit: float, decimals: int) -> bool:
    return not math.isclose(value, limit) and round(value, decimals) == round(limit, decimals)


def _number(value: float, digits: int) -> str:
    """A counted figure whole, another one with so many significant digits."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "unbounded"
    return (
        f"{int(value):,}" if value == int(value) and abs(value) < 1e15 else units.significant(value, digits)
    )


def _time_factor(cell: CellVerdict) -> float:
    """How many times as long it takes until the interval leaves the margin on one side; infinite at the margin."""
    ratio = cell.ratio
    if ratio is None or not ratio.bounded or ratio.low <= 0:
        return 2.0
    distance = abs(math.log(ratio.estimate) - math.log1p(cell.margin))
    half = (math.log(ratio.high) - math.log(ratio.low)) / 2
    return (half / distance) ** 2 if distance else math.inf
