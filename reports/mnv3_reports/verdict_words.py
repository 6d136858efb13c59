"""A gate's verdict in words: what every renderer says alike of a change, a figure, a cell, a machine, and what to type.

`mnv3_reports.verdict_markdown` and `mnv3_reports.verdict_formats` put them into their forms. Names and reasons come
from the measured code, so `mnv3_reports.escaping` makes them harmless.
"""

from __future__ import annotations

import math
import re
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from mnv3_reports import units
from mnv3_reports.cell_words import describe
from mnv3_reports.escaping import code, plain
from mnv3_reports.record import Cell
from mnv3_reports.verdict import CellVerdict, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mnv3_reports.record import Machine
    from mnv3_reports.statistics import Interval
    from mnv3_reports.verdict import Check, GateReport

SEVERITY = (Verdict.FAIL, Verdict.INVALID, Verdict.INCONCLUSIVE, Verdict.PASS)
"""What a reader has to see first."""

OUTCOME = {
    Verdict.PASS: "passed",
    Verdict.FAIL: "failed",
    Verdict.INCONCLUSIVE: "inconclusive",
    Verdict.INVALID: "invalid",
}

LARGEST_FACTOR = 8.0
"""More time than this many times the last is not advised: the change lies at the margin, or nearly."""
_SECONDS = {None: 1, "s": 1, "m": 60, "min": 60, "h": 3600}
"""Units of a duration as --time-budget takes them."""

SAVE_AGAIN = "save it again with a longer --time-budget"
"""What the reason of an inconclusive cell ends with where a stored baseline has too few epochs for any verdict."""


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
        return bool(re.search(rf"{re.escape(self.short(cell.cell))}(?![\w-]|[:.]\w)", plain(report.summary)))

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
    """What to type for a verdict, None unless the gate is inconclusive and a longer one could decide.

    A stored baseline with too few epochs has no more of them however long the gate takes; the cells' reasons say what
    helps there.

    The time is a rough estimate: intervals narrow with the square root of it. It is at least twice the last
    budget, and at most `LARGEST_FACTOR` times the time taken.
    """
    if report.verdict is not Verdict.INCONCLUSIVE:
        return None
    command = plain(report.command)
    if report.stopped_because == "interrupted":
        return Advice("It was interrupted; run it again to its end.", command)
    undecided = [cell for cell in report.cells if cell.verdict is Verdict.INCONCLUSIVE]
    if any(SAVE_AGAIN in cell.reason for cell in undecided):
        return None
    needed = [_time_factor(cell) for cell in undecided]
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
