"""The gate, tested on itself: whole gates on identical arms and with slowdowns made on purpose, under loads it starts.

What was measured is appended to a file, a gate a line, so that it can be done in pieces. `simulation` extends the
number of gates from these recordings; the two are reported apart.
"""

from __future__ import annotations

import math
import shutil
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from mnv3_bench.backends import get_backend, missing
from mnv3_bench.errors import UsageError
from mnv3_bench.gate.command import GateAsked, open_gate, run_gate
from mnv3_bench.gate.loads import LOADS, Load
from mnv3_bench.gate.rules import DEFAULT_MARGIN, margin
from mnv3_bench.gate.simulation import CellTrace, Condition, GateTrace, Simulated
from mnv3_bench.plan import Asked, nearest
from mnv3_reports.sequential import Design, clopper_pearson, detectable, predicted_power
from mnv3_reports.statistics import t_interval
from mnv3_reports.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mnv3_reports.statistics import Interval

GATES = "gates.jsonl"
DEFAULT_VARIANTS = "small"
VERDICTS = (Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.INVALID)
MORE = ("s_d", "predicted power", "ratio intervals that cover", "null's", "median s")
DEFAULT_BACKENDS = "onnxruntime,onnxruntime-int8,eager,torchscript"


def conditions(loads: str, injected: str) -> list[Condition]:
    """Every load with every slowdown.

    Raises:
        UsageError: a load is not known, or a slowdown is none.
    """
    names = [name.strip() for name in loads.split(",") if name.strip()]
    for name in names:
        if name not in LOADS:
            raise UsageError(
                f"--loads: '{name}' is not a load{nearest(name, LOADS) or '; known are ' + ', '.join(LOADS)}"
            )
    shares = [
        0.0 if text.strip() in ("0", "0%") else margin(text.strip(), "--inject")
        for text in injected.split(",")
    ]
    return [Condition(name, share) for share in shares for name in names]  # type: ignore[arg-type]


def read_traces(directory: Path) -> list[GateTrace]:
    """Gates recorded so far; a line that was cut off is left out.

    Raises:
        UsageError: the file is damaged before its last line.
    """
    file = directory / GATES
    if not file.is_file():
        return []
    lines = file.read_bytes().split(b"\n")[:-1]
    try:
        return [msgspec.json.decode(line, type=GateTrace) for line in lines]
    except msgspec.DecodeError as error:
        raise UsageError(
            f"--output: {file} is damaged: {error}; remove it, or choose another folder"
        ) from None


def run_selftest(
    directory: Path,
    wanted: Sequence[Condition],
    gates: int,
    asked: Asked,
    tell: Callable[[str], None],
) -> list[GateTrace]:
    """Run whole gates until every condition has as many as asked, and record each.

    Conditions take turns, so that a stop at any time leaves them about even.

    Args:
        directory: with what was recorded before; gates go on from there.
        gates: how many each condition shall have in the end.
        asked: cells, threads and budget of every gate.

    Raises:
        UsageError: the cells cannot be measured here, or the folder cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / GATES).open("ab")
    except OSError as error:
        raise UsageError(f"--output: {directory} cannot be written: {error.strerror}") from None
    traces = read_traces(directory)
    with file:
        file.truncate(sum(len(msgspec.json.encode(trace)) + 1 for trace in traces))
        while True:
            done = Counter(Condition(trace.load, trace.injected) for trace in traces)
            missing = [condition for condition in wanted if done[condition] < gates]
            if not missing:
                return traces
            condition = min(missing, key=lambda each: done[each])
            trace = _one_gate(condition, len(traces), asked)
            file.write(msgspec.json.encode(trace) + b"\n")
            file.flush()
            traces.append(trace)
            tell(
                f"gate {len(traces)}: load {condition.load}, injected {condition.injected:.0%}: "
                f"{trace.verdict.value} in {trace.seconds:.0f} s"
            )


def _one_gate(condition: Condition, seed: int, asked: Asked) -> GateTrace:
    directory = Path(tempfile.mkdtemp(prefix="mnv3-selftest-"))
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    arms = str(asked.variants or DEFAULT_VARIANTS)
    try:
        gate = open_gate(
            GateAsked(
                base=arms,
                head=arms,
                inject_slowdown=condition.injected or None,
            ),
            replace(asked, variants=None, output=str(directory / "gate")),
            "gate-selftest",
        )
        gate.tell = lambda _: None
        gate.order_seed = seed
        with Load(condition.load, seed) as load:
            gate.around_stage = load.around
            report = run_gate(gate)
        if report.stopped_because == "interrupted":
            # Half a gate is no gate; what was recorded before stays.
            raise KeyboardInterrupt
        found = gate.trial
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    assert found is not None
    return GateTrace(
        load=condition.load,
        injected=condition.injected,
        seed=seed,
        started_at=started,
        seconds=time.monotonic() - clock,
        verdict=report.verdict,
        exit_code=report.exit_code,
        looks=report.looks,
        cells=tuple(
            CellTrace(
                cell=cell.cell,
                verdict=cell.verdict,
                reason=cell.reason,
                differences=tuple(each.difference for each in found.of(cell.cell)),
                nulls=tuple(each.null for each in found.of(cell.cell)),
                decided_at=cell.decided_at,
            )
            for cell in report.cells
        ),
    )


def noise_floor(seconds: float = 40.0) -> list[str]:
    """What a gate could detect on this machine, from a gate on identical arms; lines for people.

    Raises:
        UsageError: nothing can be measured here.
    """
    directory = Path(tempfile.mkdtemp(prefix="mnv3-doctor-"))
    backend = "onnxruntime" if missing(get_backend("onnxruntime").info) is None else "eager"
    try:
        gate = open_gate(
            GateAsked(base=DEFAULT_VARIANTS, head=DEFAULT_VARIANTS),
            Asked(backends=backend, time_budget=seconds, output=str(directory / "gate")),
            "doctor --measure",
        )
        report = run_gate(gate)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    (cell,) = report.cells
    if cell.noise is None or cell.null is None or gate.trial is None:
        return [f"the noise could not be measured: {cell.reason}"]
    epoch_seconds = gate.trial.seconds / max(1, cell.epochs)
    lines = [
        f"measured: {cell.cell}, {cell.epochs} epochs of identical workers in {gate.trial.seconds:.0f} s",
        f"noise: {cell.noise:.1%} an epoch (standard deviation of ln head/base)",
        f"null control: {_change(cell.null)}, which ought to contain 0",
    ]
    for cells in (1, 8, 24):
        least = detectable(cell.noise, Design(), DEFAULT_MARGIN, cells)
        lines.append(
            f"a gate over {cells} such {'cell' if cells == 1 else 'cells'} finds a slowdown of {least:.1%} "
            f"(margin {DEFAULT_MARGIN:.0%}, power 80 %) with 20 epochs, in about "
            f"{math.ceil(20 * cells * epoch_seconds / 60)} min"
        )
    if cell.disturbance is not None:
        lines.append(
            f"disturbed: {cell.disturbance.disturbed_blocks} of {cell.disturbance.blocks} blocks; others took "
            f"{cell.disturbance.base_interference:.2f} CPUs meanwhile"
        )
    return lines


class Tally(NamedTuple):
    """Verdicts of gates under one condition."""

    condition: Condition
    gates: int
    verdicts: Counter[Verdict]
    covered: int
    """Intervals (95 %, one a cell) that contain the injected slowdown."""
    intervals: int
    null_covered: int
    seconds: float
    """Median of a gate."""
    noise: float
    """s_d, root mean square over cells and gates."""

    def share(self, verdict: Verdict) -> Interval:
        """Clopper and Pearson's interval for the share of gates with this verdict."""
        return clopper_pearson(self.verdicts[verdict], self.gates)


def tally(traces: Iterable[GateTrace]) -> list[Tally]:
    """Count, by condition, in order of slowdown and load."""
    groups: dict[Condition, list[GateTrace]] = {}
    for trace in traces:
        groups.setdefault(Condition(trace.load, trace.injected), []).append(trace)
    found = []
    for condition in sorted(groups, key=lambda c: (c.injected, LOADS.index(c.load))):
        mine = groups[condition]
        truth = math.log1p(condition.injected)
        cells = [cell for trace in mine for cell in trace.cells if len(cell.differences) > 1]
        variances = [statistics.variance(cell.differences) for cell in cells]
        found.append(
            Tally(
                condition=condition,
                gates=len(mine),
                verdicts=Counter(trace.verdict for trace in mine),
                covered=sum(t_interval(cell.differences).contains(truth) for cell in cells),
                null_covered=sum(t_interval(cell.nulls).contains(0.0) for cell in cells),
                intervals=len(cells),
                seconds=statistics.median(trace.seconds for trace in mine),
                noise=math.sqrt(statistics.fmean(variances)) if variances else 0.0,
            )
        )
    return found


def to_markdown(traces: Sequence[GateTrace], simulated: Sequence[Simulated], command: str) -> str:
    """Tables for docs/gate.md: measured, and apart from it simulated."""
    cells = sorted({cell.cell for trace in traces for cell in trace.cells})
    count = max((len(trace.cells) for trace in traces), default=1)
    lines = [
        f"Measured: {len(traces)} whole gates of {count} cells ({', '.join(c.partition('?')[0] for c in cells)}).",
        "",
        _row("injected", "load", "gates", *VERDICTS, "failed, 95 % interval", *MORE),
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in tally(traces):
        failed = row.share(Verdict.FAIL)
        power = (
            f"{predicted_power(row.condition.injected, row.noise, Design(), DEFAULT_MARGIN, count):.0%}"
            if row.condition.injected
            else ""
        )
        lines.append(
            _row(
                f"{row.condition.injected:.0%}",
                row.condition.load,
                row.gates,
                *(row.verdicts[verdict] for verdict in VERDICTS),
                _span(failed),
                f"{row.noise:.1%}",
                power,
                f"{row.covered} of {row.intervals}",
                f"{row.null_covered} of {row.intervals}",
                f"{row.seconds:.0f}",
            )
        )
    if simulated:
        lines += [
            "",
            "Simulated from the epochs of these gates on identical arms (20 epochs, roles exchanged at random):",
            "",
            _row("injected", "load", "gates", *VERDICTS, "failed, 95 % interval"),
            "| ---: | --- | ---: | ---: | ---: | ---: | ---: | --- |",
        ]
        lines += [
            _row(
                f"{each.condition.injected:.0%}",
                each.condition.load,
                each.gates,
                *(each.verdicts[verdict] for verdict in VERDICTS),
                _span(clopper_pearson(each.verdicts[Verdict.FAIL], each.gates)),
            )
            for each in simulated
        ]
    return "\n".join([*lines, "", f"Command: `{command}`", ""])


def _span(interval: Interval) -> str:
    return f"{interval.estimate:.1%} [{interval.low:.1%}, {interval.high:.1%}]"


def _change(interval: Interval) -> str:
    """A ratio as a change, with its interval."""
    return " ".join((f"{interval.estimate - 1:+.1%}", f"[{interval.low - 1:+.1%}, {interval.high - 1:+.1%}]"))


def _row(*columns: object) -> str:
    return "| " + " | ".join(map(str, columns)) + " |"
