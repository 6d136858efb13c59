"""`run --save-baseline FILE` and `gate --baseline FILE`: what was measured then against the same cells here and now.

The baseline's request is measured again as `run` measures it, and compared figure by figure. Absolute times count only
on the baseline's machine with the baseline's versions; elsewhere ratios to a control cell do (`--control`). Two runs
at different times contain the machine's drift between them, which no interval knows: where both versions of the code
are at hand, two arms in one job (`--base`, `--head`) are the better gate.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mnv3_bench import run as running
from mnv3_bench.backends import backend_names, get_backend, missing
from mnv3_bench.conductor import START_SHARE
from mnv3_bench.config import merge
from mnv3_bench.environment import machine, software
from mnv3_bench.errors import ExitCode, IncomparableError, RunStoppedError, UsageError
from mnv3_bench.gate.command import (
    EXIT_CODES,
    FIRST_CELL_SECONDS,
    SECONDS_PER_CELL,
    outweigh,
    overall,
    rule_book,
    summarize,
)
from mnv3_bench.plan import Asked, Plan, sees_gpu
from mnv3_bench.quantities import seconds
from mnv3_models import parse_variant
from mnv3_reports.baseline import (
    Baseline,
    BaselineError,
    BaselineVersionError,
    TimedEpoch,
    Timing,
    absolute,
    epochs_of,
    incomparable,
    judge_timing,
    of_run,
    read_baseline,
    to_control,
    write_baseline,
)
from mnv3_reports.deterministic import Rules, compare
from mnv3_reports.journal import JournalError
from mnv3_reports.record import Cell, Run
from mnv3_reports.rundir import RunDirectoryError
from mnv3_reports.sequential import FEWEST_EPOCHS
from mnv3_reports.units import counted
from mnv3_reports.verdict import VERDICT_SCHEMA, ArmFacts, CellVerdict, Check, GateReport, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnv3_bench.gate.command import Gate, GateAsked

NAMED = 6
"""Cells that a message lists."""
ROOM = 1.3
"""A suggested time budget is this many times what the epochs took here."""
LIMITS = ("time_budget", "output", "limit_time", "limit_memory")
"""What may differ from the baseline's run: how long it may take, and where it writes."""
RESTRICTING = ("variants", "backends")
OF_TWO_ARMS = ("detect", "inject_slowdown", "allow_different_outputs")
"""Options of a gate that need two arms in one job."""
DRIFT = (
    "the baseline was measured at another time: what changed on the machine since then is not in these intervals; "
    "two arms in one job (--base, --head) see the same machine"
)
UNSHARED_DRIFT = (
    "a ratio to a control leaves out what slowed both cells alike since the baseline was measured, nothing else; two "
    "arms in one job (--base, --head) need no control"
)


# Saving.


def require_writable(path: Path) -> None:
    """Refuse a place for a baseline before a run is measured for it.

    Raises:
        UsageError: the file could not be written there.
    """
    if path.is_dir():
        raise UsageError(
            f"--save-baseline: {path} is a folder; type the name of a file, such as {path / 'b.json'}"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--save-baseline: {path.parent} cannot be made: {error.strerror}") from None


def save_baseline(run: Run, path: Path, directory: Path) -> list[str]:
    """Write a run's baseline; returns lines that say what it is good for.

    Args:
        run: finished.
        path: of the file; one that is there is replaced.
        directory: of the run, for what to type if it cannot be written.

    Raises:
        UsageError: the file cannot be written.
    """
    baseline = of_run(run)
    try:
        write_baseline(path, baseline)
    except RunDirectoryError as error:
        cause = error.__cause__
        reason = (cause.strerror if isinstance(cause, OSError) else None) or str(error)
        raise UsageError(
            f"--save-baseline: {path} cannot be written: {reason}; the run is kept, so type "
            f"mnv3-bench --resume {directory} --save-baseline FILE"
        ) from None
    lines = [f"baseline: {path}"]
    failed = [key for key, cell in baseline.cells.items() if cell.failure is not None]
    if failed:
        lines.append(f"note: a gate will call these cells invalid, because they failed: {_some(failed)}")
    fewest = min(
        (len(cell.epochs) for cell in baseline.cells.values() if cell.failure is None), default=FEWEST_EPOCHS
    )
    if fewest < FEWEST_EPOCHS:
        precise = run.finished is not None and run.finished.stopped_because == "precision"
        lines.append(
            f"note: {counted(fewest, 'epoch')} were measured and a gate needs {FEWEST_EPOCHS} for a verdict on times; "
            f"type --time-budget {_budget_for_verdict(run)}s or more"
            + (" and --precision 0.1%" if precise else "")
        )
    return lines


def _budget_for_verdict(run: Run) -> int:
    """Seconds that ought to give enough epochs: starting workers takes a fixed share of the budget."""
    starts: dict[int, float] = {}
    for epoch in run.epochs:
        starts[epoch.epoch] = starts.get(epoch.epoch, 0.0) + epoch.start_seconds
    longest = max(starts.values(), default=0.0)
    enough = ROOM * FEWEST_EPOCHS * longest / START_SHARE
    return math.ceil(max(enough, 2 * run.header.request.time_budget))


# Comparing.


def asked_of_run(typed: GateAsked, run_typed: Asked, of_file: Asked) -> Asked:
    """What a gate with a baseline takes from the command line and the configuration file.

    A file's settings of a run are not taken: the baseline's own are. Its limits are.

    Raises:
        UsageError: something was typed that does not go with a baseline.
    """
    own = {field.name for field in fields(Asked)} - {*LIMITS, *RESTRICTING}
    given = sorted(name for name in own if getattr(run_typed, name) is not None)
    if given:
        raise UsageError(
            f"--baseline measures what its run did; leave out {_flags(given)} (--variants and --backends choose among "
            "its cells), or save another baseline"
        )
    given = [name for name in OF_TWO_ARMS if getattr(typed, name) is not None]
    if given:
        raise UsageError(
            f"{_flags(given)} needs two arms in one job; leave it out, or type --base and --head"
        )
    return merge(run_typed, Asked(**{name: getattr(of_file, name) for name in LIMITS}))


@dataclass
class Comparison:
    """A gate against a baseline: both runs, and what is known of each cell before its time is judged."""

    gate: Gate
    path: Path
    baseline: Baseline
    before: Run
    cells: list[Cell]
    """That get a verdict."""
    controls: dict[str, Cell]
    """Setting to the control cell of that setting; empty where absolute times are compared."""
    absent: dict[str, str]
    """Cell to why it cannot be measured here at all."""
    refused: str | None = None
    """Why no time may be compared."""
    after: Run | None = None
    stopped: str = "deterministic"

    @property
    def timed(self) -> bool:
        """Whether anything is to be timed."""
        return not self.gate.asked.deterministic_only and self.refused is None


def run_against_baseline(gate: Gate) -> GateReport:
    """Measure the baseline's cells here and compare.

    Raises:
        IncomparableError: the baseline has another schema version, or needs a device that is not here.
        UsageError: the request is wrong, or the file is no baseline.
        RunStoppedError: what is measured cannot be recorded.
    """
    comparison = _open(gate)
    _measure(comparison)
    verdicts = _verdicts(comparison)
    verdict = overall([cell.verdict for cell in verdicts])
    interrupted = comparison.stopped == "interrupted"
    baseline, here = comparison.baseline, software()
    return GateReport(
        schema=VERDICT_SCHEMA,
        started_at=gate.started_at,
        seconds=time.monotonic() - gate.started,
        command=gate.command,
        verdict=verdict,
        exit_code=int(ExitCode.INTERRUPTED if interrupted else EXIT_CODES[verdict]),
        summary=summarize(verdict, verdicts, comparison.stopped),
        base=ArmFacts(
            f"baseline {comparison.path} ({baseline.created_at[:10]})",
            baseline.software.python,
            baseline.software.packages,
            baseline.software.commit,
        ),
        head=ArmFacts("here", here.python, here.packages, here.commit),
        machine=machine(),
        alpha=gate.design.alpha,
        power=gate.design.power,
        looks=(),
        stopped_because=comparison.stopped,
        cells=verdicts,
        notes=tuple(dict.fromkeys(gate.notes)),
        seed=baseline.request.seed,
    )


def _open(gate: Gate) -> Comparison:
    """Read the baseline and choose cells; everything that can be wrong with the request is found here."""
    asked = gate.asked
    assert asked.baseline is not None
    path = Path(asked.baseline)
    try:
        baseline = read_baseline(path)
    except BaselineVersionError as error:
        raise IncomparableError(f"--baseline: {error}") from None
    except BaselineError as error:
        raise UsageError(f"--baseline: {error}") from None
    unused = [name for name in OF_TWO_ARMS if getattr(asked, name) is not None]
    if unused:
        gate.notes.append(f"{_flags(unused)} is not used with a baseline")
    cells = choose(baseline, gate.run_asked, path)
    controls: dict[str, Cell] = {}
    if asked.control is not None and asked.deterministic_only:
        gate.notes.append("--control is not used: nothing is timed")
    elif asked.control is not None:
        controls = find_controls(baseline, asked.control, path)
        cells = [cell for cell in cells if cell not in controls.values()]
        names = _some([cell.key for cell in controls.values()])
        if not cells:
            raise UsageError(
                f"--control {asked.control}: no other cell is left to be judged; choose more cells"
            )
        gate.notes.append(
            f"{names} is the control and not judged: a change of its own time would show as one of every other cell"
        )
        gate.notes.append("changes are of the ratio to the control, not of the milliseconds")
    refused = None
    difference = incomparable(baseline, machine(), software())
    if difference is not None and not controls and not asked.deterministic_only:
        refused = (
            f"{difference}; type --control CELL to compare ratios to a cell, --deterministic-only, or save a "
            "baseline here"
        )
    elif difference is not None:
        gate.notes.append(f"not the baseline's surroundings: {difference}")
    comparison = Comparison(gate, path, baseline, baseline.as_run(), cells, controls, {}, refused)
    if comparison.timed:
        gate.notes.append(UNSHARED_DRIFT if controls else DRIFT)
    for cell in (*cells, *controls.values()):
        lack = _absence(cell, path)
        if lack is not None:
            comparison.absent[cell.key] = lack
    _require_weights(comparison)
    return comparison


def choose(baseline: Baseline, asked: Asked, path: Path) -> list[Cell]:
    """The baseline's cells that are asked for: all, or those of the typed variants and backends.

    Raises:
        UsageError: a typed name is none, or the baseline has no such cell.
    """
    cells = [Cell.from_key(key) for key in baseline.cells]
    backends = _names(asked.backends)
    wanted_backends: Sequence[str | None] = [None] if backends in ([], ["all"]) else backends
    wanted_variants: list[str | None] = []
    for name in _names(asked.variants):
        try:
            wanted_variants.append(parse_variant(name).name)
        except ValueError as error:
            raise UsageError(f"--variants: {error}") from None
    chosen: dict[Cell, None] = {}
    for variant in wanted_variants or [None]:
        for backend in wanted_backends:
            found = [c for c in cells if variant in (None, c.variant) and backend in (None, c.backend)]
            if not found:
                known = list(dict.fromkeys(f"{cell.variant}/{cell.backend}" for cell in cells))
                raise UsageError(
                    f"--baseline {path} has no cell {variant or '(any network)'}/{backend or '(any backend)'}; it has "
                    f"{_some(known) or 'none at all'}"
                )
            chosen |= dict.fromkeys(found)
    return [cell for cell in cells if cell in chosen]


def find_controls(baseline: Baseline, text: str, path: Path) -> dict[str, Cell]:
    """The control of each setting: cells of different settings are never measured in turns.

    Args:
        baseline: the control has to be timed in it.
        text: a cell's key, or `variant/backend` for every setting.
        path: of the baseline, for messages.

    Raises:
        UsageError: no cell is called so, or it has no time in the baseline.
    """
    variant, _, backend = text.partition("/")
    try:
        short = f"{parse_variant(variant).name}/{backend}"
    except ValueError:
        short = text
    cells = [Cell.from_key(key) for key in baseline.cells]
    found = [cell for cell in cells if cell.key in (text, short) or f"{cell.variant}/{cell.backend}" == short]
    timed = [cell for cell in cells if baseline.cells[cell.key].epochs]
    others = (
        _some([cell.key if "?" in text else f"{cell.variant}/{cell.backend}" for cell in timed]) or "none"
    )
    if not found:
        raise UsageError(f"--control {text}: {path} has no such cell; it has times of {others}")
    if not all(cell in timed for cell in found):
        raise UsageError(f"--control {text}: it has no times in {path}; these have: {others}")
    return {cell.setting: cell for cell in found}


def _absence(cell: Cell, path: Path) -> str | None:
    """Why a cell cannot be measured here.

    Raises:
        IncomparableError: no cell can, because the device is not here.
    """
    if cell.device.startswith("cuda") and not sees_gpu():
        raise IncomparableError(
            f"--baseline {path} was measured on {cell.device}, and this machine shows no GPU; save a baseline here"
        )
    if cell.backend not in backend_names():
        return f"'{cell.backend}' is not a backend here"
    lack = missing(get_backend(cell.backend).info)
    if lack is None:
        return None
    reason, install = lack
    return f"{cell.backend} cannot be measured here: {reason}" + (f" (type: {install})" if install else "")


def _require_weights(comparison: Comparison) -> None:
    weights = comparison.baseline.request.weights
    for cell in (*comparison.cells, *comparison.controls.values()):
        file = weights.get(cell.variant)
        if file is not None and not Path(file).is_file():
            raise UsageError(
                f"--baseline {comparison.path}: {cell.variant} was measured with weights from {file}, which is not "
                "here; put the file there, or save a baseline here"
            )


def _measure(comparison: Comparison) -> None:
    """Prepare, inspect and (where times count) time the cells; the run lies in the gate's folder."""
    gate, baseline = comparison.gate, comparison.baseline
    cells = [
        cell
        for cell in (*comparison.cells, *comparison.controls.values())
        if cell.key not in comparison.absent and baseline.cells[cell.key].failure is None
    ]
    if not cells:
        comparison.stopped = "failed"
        return
    budget = gate.run_asked.time_budget
    request = msgspec.structs.replace(
        baseline.request,
        time_budget=seconds(budget, "--time-budget")
        if budget is not None
        else FIRST_CELL_SECONDS + SECONDS_PER_CELL * (len(cells) - 1),
        # It is epochs that a gate needs: no printed ratio is precise enough to stop for.
        precision=0.0,
        cold=False,
    )
    plan = Plan(
        request=request,
        cells=tuple(cells),
        skipped=(),
        notes=(),
        limits=gate.limits,
        output=gate.directory / "run",
    )
    session = running.open_run(plan, gate.command)
    comparison.after = session.run
    try:
        artifacts = running.prepare(session)
        running.inspect(session, artifacts)
        if comparison.timed:
            comparison.stopped = "interrupted"
            outcome = running.measure(session, artifacts)
            comparison.stopped = (
                "failed" if outcome.stopped_because == "nothing-left" else outcome.stopped_because
            )
    except KeyboardInterrupt:
        if comparison.stopped != "interrupted":
            raise
    except JournalError as error:
        raise RunStoppedError(f"{error}; then type the same again with another --output") from error
    finally:
        session.launcher.kill_all()
        session.display.end()
        session.journal.close()


def _verdicts(comparison: Comparison) -> tuple[CellVerdict, ...]:
    gate = comparison.gate
    book = rule_book(gate.asked)
    for pattern in book.unmatched(comparison.cells):
        gate.notes.append(f"the rule for '{pattern}' matches no cell of this gate")
    _note_weights(comparison)
    epochs = _epochs(comparison)
    judged = sum(
        bool(_logs(comparison, cell, epochs) and _logs(comparison, cell, _stored(comparison)))
        for cell in comparison.cells
    )
    return tuple(_verdict(comparison, cell, book.of(cell), epochs, judged) for cell in comparison.cells)


Epochs = dict[str, tuple[TimedEpoch, ...]]


def _epochs(comparison: Comparison) -> Epochs:
    """What was timed here, by cell; nothing of a cell that failed."""
    if comparison.after is None:
        return {}
    blocks = comparison.after.blocks
    return {
        key: epochs_of(block for block in blocks if block.cell == key)
        for key, record in comparison.after.cells.items()
        if record.failure is None
    }


def _stored(comparison: Comparison) -> Epochs:
    return {key: cell.epochs for key, cell in comparison.baseline.cells.items()}


def _logs(comparison: Comparison, cell: Cell, epochs: Epochs) -> list[float]:
    """One value an epoch: of the cell's time, or of its ratio to the control of its setting."""
    mine = epochs.get(cell.key, ())
    if not comparison.gate.asked.control:
        return absolute(mine)
    control = comparison.controls.get(cell.setting)
    return to_control(mine, epochs.get(control.key, ())) if control is not None else []


def _verdict(comparison: Comparison, cell: Cell, rules: Rules, epochs: Epochs, judged: int) -> CellVerdict:
    baseline, after = comparison.baseline, comparison.after
    verdict: Verdict
    checks: tuple[Check, ...] = ()
    timing: Timing | None = None
    earlier = baseline.cells[cell.key].failure
    if cell.key in comparison.absent:
        verdict, reason = Verdict.INVALID, comparison.absent[cell.key]
    elif earlier is not None:
        verdict = Verdict.INVALID
        reason = f"the cell failed in the baseline ({earlier.phase}): {earlier.reason}"
    else:
        assert after is not None, "a cell that is neither absent nor failed in the baseline is measured"
        failure = after.cells[cell.key].failure
        if failure is not None:
            verdict, reason = Verdict.FAIL, f"the cell failed here ({failure.phase}): {failure.reason}"
        else:
            checks = compare(comparison.before, cell.key, after, cell.key, rules)
            verdict, reason, timing = _timing(comparison, cell, rules, epochs, judged)
            verdict, reason = outweigh(verdict, reason, checks, slower=verdict is Verdict.FAIL)
    found = CellVerdict(
        cell=cell.key,
        base_cell=cell.key,
        verdict=verdict,
        reason=reason,
        margin=rules.latency,
        checks=checks,
    )
    if timing is None:
        return found
    return msgspec.structs.replace(
        found,
        ratio=timing.ratio,
        noise=timing.noise,
        detectable=timing.detectable,
        epochs=timing.epochs,
        decided_at=None if timing.verdict is Verdict.INCONCLUSIVE else timing.epochs,
        p_value=timing.p_value,
        base_seconds=_seconds(_stored(comparison)[cell.key]),
        head_seconds=_seconds(epochs.get(cell.key, ())),
    )


def _timing(
    comparison: Comparison, cell: Cell, rules: Rules, epochs: Epochs, judged: int
) -> tuple[Verdict, str, Timing | None]:
    """The verdict on a cell's time, why, and the figures where there are any."""
    if comparison.gate.asked.deterministic_only:
        return Verdict.PASS, "nothing was timed", None
    if comparison.refused is not None:
        return Verdict.INVALID, comparison.refused, None
    if comparison.stopped == "interrupted":
        return Verdict.INCONCLUSIVE, "it was interrupted before the cell's time could be judged", None
    lack = _no_control(comparison, cell)
    if lack is not None:
        return Verdict.INVALID, lack, None
    here, there = _logs(comparison, cell, epochs), _logs(comparison, cell, _stored(comparison))
    if not here or not there:
        what = "no round has this cell and the control" if comparison.controls else "the cell was not timed"
        return Verdict.INVALID, f"{what} {'in the baseline' if not there else 'here'}", None
    design = comparison.gate.design
    assert comparison.after is not None
    timing = judge_timing(
        here,
        there,
        margin=rules.latency,
        alpha=design.alpha,
        power=design.power,
        cells=judged,
        here_longer=f"type --time-budget {_budget_for_verdict(comparison.after)}s or more",
    )
    return timing.verdict, timing.reason, timing


def _no_control(comparison: Comparison, cell: Cell) -> str | None:
    """Why a cell has no control to be compared with, where one was asked for."""
    if comparison.gate.asked.control is None:
        return None
    control = comparison.controls.get(cell.setting)
    if control is None:
        return f"the control {comparison.gate.asked.control} was not measured in this cell's setting"
    if control.key in comparison.absent:
        return f"the control is missing: {comparison.absent[control.key]}"
    assert comparison.after is not None
    failure = comparison.after.cells[control.key].failure
    return f"the control failed here ({failure.phase}): {failure.reason}" if failure is not None else None


def _note_weights(comparison: Comparison) -> None:
    """Say so where a network has other weights than it had: times hardly depend on them, fidelity does."""
    before = {(facts.variant, facts.resolution): facts.weights for facts in comparison.baseline.variants}
    for facts in comparison.after.variants if comparison.after is not None else ():
        was = before.get((facts.variant, facts.resolution))
        if was is not None and was != facts.weights:
            comparison.gate.notes.append(
                f"{facts.variant} has other weights than in the baseline: {was} -> {facts.weights}"
            )


def _seconds(epochs: Sequence[TimedEpoch]) -> float | None:
    """The geometric mean over epochs."""
    return math.exp(math.fsum(absolute(epochs)) / len(epochs)) if epochs else None


def _names(given: str | Sequence[str] | None) -> list[str]:
    parts = given.split(",") if isinstance(given, str) else list(given or ())
    return [part.strip() for part in parts if part.strip()]


def _flags(names: Sequence[str]) -> str:
    return ", ".join("--" + name.replace("_", "-") for name in names)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
