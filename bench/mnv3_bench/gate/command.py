"""`mnv3-bench gate`: two arms, the deterministic channel, the trial, the verdict and what CI reads."""

from __future__ import annotations

import math
import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mnv3_bench.backends import get_backend, native_backend
from mnv3_bench.coldstart import file_name
from mnv3_bench.environment import affinity_list, machine, usable_cpus, usable_memory
from mnv3_bench.errors import ExitCode, UsageError
from mnv3_bench.folders import RUNS, new_folder
from mnv3_bench.gate.arms import Arm, PreparedArm, pairs, parse_arm, prepare_arms
from mnv3_bench.gate.rules import DEFAULT_MARGIN, RuleBook, margin
from mnv3_bench.gate.trial import (
    ROLES,
    CellEpoch,
    Question,
    TooLittleTimeError,
    Trial,
    TrialPlan,
    Umpire,
    performer_key,
)
from mnv3_bench.launcher import Launcher
from mnv3_bench.model_files import format_of
from mnv3_bench.plan import Asked, Limits, make_limits
from mnv3_bench.plan_models import is_function
from mnv3_bench.protocol import Load
from mnv3_bench.quantities import seconds
from mnv3_bench.stage import Performer, WorkerStage
from mnv3_reports.deterministic import Rules, compare
from mnv3_reports.sequential import Design, detectable
from mnv3_reports.statistics import Interval, log_interval, spread
from mnv3_reports.units import counted, percent
from mnv3_reports.verdict import (
    VERDICT_SCHEMA,
    ArmFacts,
    CellVerdict,
    Check,
    GateReport,
    Verdict,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mnv3_bench.gate.trial import Stage
    from mnv3_reports.record import Cell

MEMORY_SHARE = 0.5
FIRST_CELL_SECONDS, SECONDS_PER_CELL = 45.0, 20.0
"""Default time budget: one cell in less than a minute, 24 in less than ten, preparing from the cache included."""
SAME_NETWORK_SNR_DB = 40.0
"""Two builds of one network agree to more than 100 dB; below this (1 % error) they are not the same network."""
FIGURES_NAMED = 2
EPOCHS_FILE, REPORT_JSON, REPORT_MARKDOWN, REPORT_JUNIT = (
    "epochs.jsonl",
    "gate.json",
    "gate.md",
    "gate.junit.xml",
)


@dataclass(frozen=True, kw_only=True)
class GateAsked:
    """What was typed, beside what `run` knows too; None where nothing was."""

    base: str | None = None
    head: str | None = None
    baseline: str | None = None
    """File of `run --save-baseline` to compare with, instead of two arms."""
    control: str | None = None
    """Cell whose ratio to the others is compared with the baseline's, instead of absolute times."""
    margin: str | float | None = None
    detect: str | float | None = None
    alpha: float | None = None
    power: float | None = None
    inject_slowdown: str | float | None = None
    allow_different_outputs: bool | None = None
    deterministic_only: bool | None = None
    rules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rules_from: str = "--config"


@dataclass
class Contest:
    """One cell of both arms, and what is known of it before anything is timed."""

    key: str
    base_cell: Cell
    head_cell: Cell
    rules: Rules
    checks: tuple[Check, ...] = ()
    verdict: Verdict | None = None
    reason: str = ""


@dataclass
class Gate:
    """An open gate: what it was asked, where it writes, what it found."""

    asked: GateAsked
    run_asked: Asked
    directory: Path
    command: str
    design: Design
    limits: Limits
    seed: int
    injected: float
    started: float = field(default_factory=time.monotonic)
    started_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    notes: list[str] = field(default_factory=list)
    tell: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True)
    """Takes one line of progress."""
    order_seed: int = 0
    """Of the order of everything that is shuffled."""
    around_stage: Callable[[Stage], Stage] = lambda stage: stage
    """Puts something around the stage: a load that is switched with its turns."""
    trial: Trial | None = None
    """What was timed, once it was."""


def open_gate(asked: GateAsked, run_asked: Asked, command: str) -> Gate:
    """Check what was asked and make the gate's folder.

    Raises:
        UsageError: the request is wrong, or the folder cannot be made.
    """
    design = _design(asked)
    injected = (
        margin(asked.inject_slowdown, "--inject-slowdown") if asked.inject_slowdown is not None else 0.0
    )
    _require_one_kind(asked)
    book = rule_book(asked)
    if asked.detect is not None and margin(asked.detect, "--detect") <= book.margin:
        raise UsageError(
            f"--detect {asked.detect} is not above the margin of {book.margin:.3g}, up to which nothing fails; type a "
            "larger --detect or a smaller --margin"
        )
    if run_asked.time_budget is not None:
        seconds(run_asked.time_budget, "--time-budget")
    limits = make_limits(run_asked)
    if limits.memory_bytes is None and (run_asked.device or "cpu") == "cpu":
        limits = replace(limits, memory_bytes=int(usable_memory() * MEMORY_SHARE))
    directory = Path(run_asked.output) if run_asked.output else RUNS
    try:
        directory = Path(run_asked.output) if run_asked.output else new_folder(datetime.now(UTC), "gate-")
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise UsageError(f"--output: {directory} is not empty; type another folder, or remove it")
    except OSError as error:
        raise UsageError(f"--output: {directory} cannot be made: {error.strerror}") from None
    seed = run_asked.seed or 0
    return Gate(
        asked, run_asked, directory.resolve(), command, design, limits, seed, injected, order_seed=seed
    )


def _require_one_kind(asked: GateAsked) -> None:
    """Two arms, or a baseline."""
    if asked.baseline is not None and (asked.base is not None or asked.head is not None):
        raise UsageError(
            "--baseline and --base or --head are two kinds of gate; type --baseline FILE alone, or --base and --head"
        )
    if asked.control is not None and asked.baseline is None:
        raise UsageError(
            "--control belongs to --baseline FILE; two arms in one job need none, so leave it out"
        )
    if asked.baseline is None and (asked.base is None or asked.head is None):
        raise UsageError(
            "gate needs --base and --head (or --baseline FILE); type for example --base git:main --head here"
        )


def rule_book(asked: GateAsked) -> RuleBook:
    """The rules that were asked for.

    Raises:
        UsageError: one of them means nothing.
    """
    default = DEFAULT_MARGIN if asked.margin is None else margin(asked.margin, "--margin")
    return RuleBook(default, asked.rules, asked.rules_from)


def run_gate(gate: Gate) -> GateReport:
    """Compare two arms, or what is here with a stored baseline.

    Raises:
        UsageError: the request is wrong.
    """
    asked = gate.asked
    if asked.baseline is not None:
        from mnv3_bench.gate.against_baseline import run_against_baseline

        return run_against_baseline(gate)
    assert asked.base is not None
    assert asked.head is not None
    arms = (
        parse_arm(asked.base, "--base", gate.directory / "checkouts"),
        parse_arm(asked.head, "--head", gate.directory / "checkouts"),
    )
    base, head = prepare_arms(arms, _asked_of_arms(gate, arms), gate.directory, gate.tell)
    contests = _contests(gate, base, head)
    trial = Trial(())
    stopped = "deterministic"
    if not asked.deterministic_only and any(c.verdict is None for c in contests):
        trial, stopped = _hold_trial(gate, base, head, [c for c in contests if c.verdict is None])
        gate.trial = trial
    return _report(gate, base, head, contests, trial, stopped)


def _design(asked: GateAsked) -> Design:
    try:
        return Design(
            alpha=0.05 if asked.alpha is None else asked.alpha,
            power=0.8 if asked.power is None else asked.power,
        )
    except ValueError as error:
        raise UsageError(f"--alpha, --power: {error}") from None


def _asked_of_arms(gate: Gate, arms: tuple[Arm, Arm]) -> dict[str, Any]:
    """What both arms are asked to prepare."""
    base, head = arms
    asked = gate.run_asked
    if (base.variant is None) != (head.variant is None):
        plain = base if base.variant is None else head
        raise UsageError(
            f"--base {base.text} --head {head.text}: one names a network, the other does not; type --variants with "
            f"{plain.flag} {plain.text} and another of git:REF, python:PATH, here or a weights file"
        )
    if base.variant is not None and asked.variants is not None:
        gate.notes.append("--variants is not used: the arms name their networks")
    models = [*([asked.models] if isinstance(asked.models, str) else asked.models or ())]
    if base.variant is not None and models:
        gate.notes.append("--model is not used: the arms name their networks")
        models = []
    names = _as_list(asked.variants, "" if models else "large,small")
    if (base.weights or head.weights) and len(names) != 1:
        raise UsageError("a weights file belongs to one network; type for example --variants small")
    keep = (
        "backends", "threads", "batch_sizes", "resolutions", "device", "seed", "num_classes", "weights", "cold",
        "inputs", "limit_time", "limit_memory",
    )  # fmt: skip
    given = {name: getattr(asked, name) for name in keep if getattr(asked, name) is not None}
    files = [*(arm.model for arm in arms if arm.model is not None), *models]
    given.setdefault("backends", _backends_for(files))
    if models:
        given["models"] = [
            name if is_function(name) else str(Path(name).expanduser().resolve()) for name in models
        ]
    if "weights" in given:
        # An arm may prepare itself in a checkout, where a relative path means something else.
        given["weights"] = [_absolute(part) for part in _as_list(given["weights"], "")]
    return {**given, "variants": names}


def _backends_for(models: Sequence[str]) -> str:
    """What is measured where nothing was typed: a model file on its own runtime."""
    formats = [format_of(Path(name)) for name in models if not is_function(name)]
    natives = dict.fromkeys(native_backend(each).info.name for each in formats)
    return ",".join(natives) or "onnxruntime,eager"


def _absolute(weights: str) -> str:
    """`FILE` or `variant=FILE` with the file's whole path."""
    name, separator, file = weights.rpartition("=")
    return f"{name}{separator}{Path(file).expanduser().resolve()}"


def _as_list(given: str | Sequence[str] | None, default: str) -> list[str]:
    text = default if given is None else given
    parts = text.split(",") if isinstance(text, str) else list(text)
    return [part.strip() for part in parts if part.strip()]


def _contests(gate: Gate, base: PreparedArm, head: PreparedArm) -> list[Contest]:
    """Pair the arms' cells, and judge what can be judged without timing."""
    book = rule_book(gate.asked)
    found = []
    for before, after in pairs(base, head):
        cell = after or before
        assert cell is not None
        contest = Contest(cell.key, before or cell, after or cell, book.of(cell))
        _judge_untimed(gate, contest, base if before else None, head if after else None)
        found.append(contest)
    for pattern in book.unmatched([contest.head_cell for contest in found]):
        gate.notes.append(f"the rule for '{pattern}' matches no cell of this gate")
    return found


def _judge_untimed(gate: Gate, contest: Contest, base: PreparedArm | None, head: PreparedArm | None) -> None:
    """Missing cells, failed arms, different outputs, the deterministic channel."""
    if base is None or head is None:
        arm = "base" if base is None else "head"
        contest.verdict, contest.reason = Verdict.INVALID, f"the {arm} arm has no such cell"
        return
    before, after = base.run.cells[contest.base_cell.key], head.run.cells[contest.head_cell.key]
    if before.failure is not None:
        contest.verdict = Verdict.INVALID
        contest.reason = f"the base arm failed ({before.failure.phase}): {before.failure.reason}"
        return
    if after.failure is not None:
        contest.verdict = Verdict.FAIL
        contest.reason = f"the head arm failed ({after.failure.phase}): {after.failure.reason}"
        return
    contest.checks = compare(base.run, before.cell.key, head.run, after.cell.key, contest.rules)
    different = _different_outputs(contest, base, head)
    if different is not None and not gate.asked.allow_different_outputs:
        contest.verdict, contest.reason = Verdict.INVALID, different


def _different_outputs(contest: Contest, base: PreparedArm, head: PreparedArm) -> str | None:
    """Why the arms do not compute the same thing, where they ought to."""
    import numpy as np

    from mnv3_bench.worker import agreement

    outputs = []
    for prepared, cell in ((base, contest.base_cell), (head, contest.head_cell)):
        with np.load(prepared.answer.references[f"{cell.variant}@{cell.resolution}"]) as stored:
            outputs.append([stored[name] for name in sorted(stored.files, key=int)])
    shapes = [" and ".join("x".join(map(str, array.shape)) for array in arrays) for arrays in outputs]
    if shapes[0] != shapes[1]:
        return f"the arms give outputs of different shapes ({shapes[0]}; {shapes[1]}); they do not do the same job"
    same_network = contest.base_cell.variant == contest.head_cell.variant
    if not same_network or base.arm.weights != head.arm.weights or base.arm.model != head.arm.model:
        return None
    before, after = (
        np.concatenate([np.ravel(array).astype(np.float64) for array in arrays])[None] for arrays in outputs
    )
    found = agreement(after, before)
    if found.snr_db >= SAME_NETWORK_SNR_DB:
        return None
    return (
        f"the arms compute different outputs (signal-to-noise {found.snr_db:.1f} dB, below "
        f"{SAME_NETWORK_SNR_DB:.0f} dB): not the same network; if that is meant, type --allow-different-outputs"
    )


def _hold_trial(
    gate: Gate, base: PreparedArm, head: PreparedArm, contests: list[Contest]
) -> tuple[Trial, str]:
    """Time what is left; returns the trial and why it stopped."""
    questions = [Question(key=c.key, margin=c.rules.latency, threads=c.head_cell.threads) for c in contests]
    launchers: dict[object, Launcher] = {}
    performers: dict[str, Performer] = {}
    for contest in contests:
        for role in ROLES:
            prepared, cell = (head, contest.head_cell) if role == "head" else (base, contest.base_cell)
            launcher = launchers.setdefault(
                prepared.arm.surroundings, _launcher(gate, prepared.arm, len(launchers))
            )
            key = performer_key(role, contest.key)
            performers[key] = _performer(gate, key, role, prepared, base, cell, launcher)
    asked_budget = gate.run_asked.time_budget
    budget = (
        seconds(asked_budget, "--time-budget")
        if asked_budget is not None
        else FIRST_CELL_SECONDS + SECONDS_PER_CELL * (len(contests) - 1)
    )
    plan = TrialPlan(
        design=gate.design,
        time_budget=budget,
        seed=gate.order_seed,
        detect=margin(gate.asked.detect, "--detect") if gate.asked.detect is not None else None,
        budget_was_asked=asked_budget is not None,
    )
    file = (gate.directory / EPOCHS_FILE).open("ab", buffering=0)

    def record(found: CellEpoch) -> None:
        file.write(msgspec.json.encode(found) + b"\n")

    umpire = Umpire(
        gate.around_stage(WorkerStage(performers, gate.limits, usable_cpus(), lambda: None)),
        plan,
        affinity_list(),
        record=record,
        tell=gate.tell,
    )
    try:
        trial = umpire.run(questions)
        return trial, trial.stopped_because
    except TooLittleTimeError as error:
        for contest in contests:
            # An arm that broke in the first epoch stays broken.
            if contest.key not in umpire.trial.verdicts:
                contest.verdict, contest.reason = Verdict.INCONCLUSIVE, str(error)
        return umpire.trial, "budget"
    except KeyboardInterrupt:
        return umpire.trial, "interrupted"
    finally:
        file.close()
        for launcher in launchers.values():
            launcher.kill_all()


def _launcher(gate: Gate, arm: Arm, number: int) -> Launcher:
    return Launcher(
        gate.directory / "logs" / str(number),
        memory_limit=gate.limits.memory_bytes,
        python=arm.python,
        variables=arm.variables,
        directory=Path(arm.directory) if arm.directory is not None else None,
    )


def _performer(
    gate: Gate, key: str, role: str, prepared: PreparedArm, base: PreparedArm, cell: Cell, launcher: Launcher
) -> Performer:
    info = get_backend(cell.backend).info
    load = Load(
        backend=cell.backend,
        directory=prepared.answer.artifacts[cell.key],
        threads=cell.threads,
        device=cell.device,
        # The base's images for every arm: the same numbers go in.
        images=base.answer.images[_pool_of(base, cell)],
        batch=cell.batch,
        slowdown=gate.injected if role == "head" else 0.0,
    )
    name = f"{role}-{file_name(cell)}"
    return Performer(key, name, info.runtime_modules, info.forkable, cell.threads, load, launcher)


def _pool_of(base: PreparedArm, cell: Cell) -> str:
    """What the base calls its inputs for a cell of either arm."""
    models = base.run.header.request.models
    name = base.arm.variant if base.arm.variant is not None else cell.variant
    return name if name in models else str(cell.resolution)


def _report(
    gate: Gate,
    base: PreparedArm,
    head: PreparedArm,
    contests: list[Contest],
    trial: Trial,
    stopped: str,
) -> GateReport:
    cells = tuple(_cell_verdict(contest, trial, stopped) for contest in contests)
    verdict = overall([cell.verdict for cell in cells])
    code = EXIT_CODES[verdict] if stopped != "interrupted" else ExitCode.INTERRUPTED
    return GateReport(
        schema=VERDICT_SCHEMA,
        started_at=gate.started_at,
        seconds=time.monotonic() - gate.started,
        command=gate.command,
        verdict=verdict,
        exit_code=int(code),
        summary=summarize(verdict, cells, stopped),
        base=_arm_facts(base),
        head=_arm_facts(head),
        machine=machine(),
        alpha=gate.design.alpha,
        power=gate.design.power,
        looks=trial.design.looks,
        stopped_because=stopped,
        cells=cells,
        prediction=trial.prediction,
        notes=tuple(dict.fromkeys((*gate.notes, *trial.notes))),
        seed=gate.seed,
        injected=gate.injected,
    )


EXIT_CODES = {
    Verdict.PASS: ExitCode.DONE,
    Verdict.FAIL: ExitCode.REGRESSION,
    Verdict.INCONCLUSIVE: ExitCode.INCONCLUSIVE,
    Verdict.INVALID: ExitCode.INCOMPARABLE,
}


def overall(verdicts: Sequence[Verdict]) -> Verdict:
    """The gate's verdict: a regression that was shown outweighs a cell that nobody could measure."""
    for verdict in (Verdict.FAIL, Verdict.INVALID, Verdict.INCONCLUSIVE):
        if verdict in verdicts:
            return verdict
    return Verdict.PASS if verdicts else Verdict.INVALID


def _arm_facts(prepared: PreparedArm) -> ArmFacts:
    answer = prepared.answer
    return ArmFacts(prepared.arm.label, answer.python, answer.packages, prepared.arm.commit or answer.commit)


def _cell_verdict(contest: Contest, trial: Trial, stopped: str) -> CellVerdict:
    key = contest.key
    epochs = trial.of(key)
    differences = [found.difference for found in epochs]
    noise = spread([math.exp(value) for value in differences])
    verdict = contest.verdict or trial.verdicts.get(key)
    reason = contest.reason or trial.reasons.get(key, "")
    ratio = _ratio(differences)
    if verdict is None and stopped == "deterministic":
        verdict, reason = Verdict.PASS, "nothing was timed"
    if verdict is None:
        verdict = Verdict.INCONCLUSIVE
        reason = f"{len(epochs)} epochs did not decide it ({stopped})"
    verdict, reason = outweigh(
        verdict, reason, contest.checks, slower=trial.verdicts.get(key) is Verdict.FAIL
    )
    if not reason and ratio is not None:
        words = {Verdict.FAIL: "slower by more than", Verdict.PASS: "not slower than"}[verdict]
        reason = f"{words} the margin of {percent(contest.rules.latency)}"
    design = trial.design
    return CellVerdict(
        cell=key,
        base_cell=contest.base_cell.key,
        verdict=verdict,
        reason=reason,
        margin=contest.rules.latency,
        ratio=ratio,
        null=_ratio([found.null for found in epochs]),
        noise=noise,
        detectable=detectable(
            noise, replace(design, epochs=max(5, len(epochs))), contest.rules.latency, len(trial.questions)
        )
        if noise is not None
        else None,
        epochs=len(epochs),
        decided_at=trial.decided_at.get(key),
        p_value=trial.p_values.get(key),
        base_seconds=_geometric_mean([found.base_seconds for found in epochs]),
        head_seconds=_geometric_mean([found.head_seconds for found in epochs]),
        disturbance=trial.noise(key),
        checks=contest.checks,
    )


def outweigh(verdict: Verdict, reason: str, checks: Sequence[Check], *, slower: bool) -> tuple[Verdict, str]:
    """A cell's verdict and reason once its deterministic figures are known: the worse of time and figures counts.

    Args:
        verdict: without the figures.
        reason: the same; empty where it goes without saying.
        checks: the figures.
        slower: the cell's time failed.
    """
    failed = [check for check in checks if check.verdict is Verdict.FAIL]
    if failed:
        named = failed if len(failed) <= FIGURES_NAMED else failed[:FIGURES_NAMED]
        worse = ", ".join(f"{c.name} {c.base:,.10g} -> {c.head:,.10g} (allowed {c.rule})" for c in named)
        if len(named) < len(failed):
            worse += f" and {len(failed) - len(named)} more figures"
        return Verdict.FAIL, f"{reason or 'slower by more than the margin'}; {worse}" if slower else worse
    lacking = ", ".join(check.name for check in checks if check.verdict is Verdict.INVALID)
    if lacking and verdict is not Verdict.FAIL:
        return Verdict.INVALID, f"one arm does not have: {lacking}"
    return verdict, reason


def _ratio(logs: Sequence[float]) -> Interval | None:
    return log_interval([math.exp(value) for value in logs]) if logs else None


def _geometric_mean(values: Sequence[float]) -> float | None:
    return math.exp(math.fsum(map(math.log, values)) / len(values)) if values else None


def summarize(verdict: Verdict, cells: Sequence[CellVerdict], stopped: str) -> str:
    """The verdict and why, on one line."""
    mine = [cell for cell in cells if cell.verdict is verdict]
    names = ", ".join(_with_change(cell) for cell in mine[:4]) + (
        f" and {len(mine) - 4} more" if len(mine) > 4 else ""
    )
    count = f"{len(mine)} of {counted(len(cells), 'cell')}"
    if stopped == "interrupted":
        return f"interrupted; {count} {verdict.value}: {names}"
    match verdict:
        case Verdict.FAIL:
            broken = all(
                not any(c.changed for c in cell.checks) and "arm failed" in cell.reason for cell in mine
            )
            return f"{count} {'failed' if broken else 'regressed'}: {names}"
        case Verdict.PASS:
            return f"no regression in {counted(len(cells), 'cell')}" + (
                "" if stopped != "deterministic" else " (deterministic figures only; nothing was timed)"
            )
        case Verdict.INCONCLUSIVE:
            return f"no verdict on {count}: {mine[0].reason}"
        case Verdict.INVALID:
            return f"{count} cannot be compared: {names}: {mine[0].reason}" if mine else "nothing to compare"


def _with_change(cell: CellVerdict) -> str:
    name = cell.cell.partition("?")[0]
    return name if cell.ratio is None else f"{name} {100 * (cell.ratio.estimate - 1):+.1f} %"


def write_gate(
    report: GateReport, directory: Path, environment: Mapping[str, str] = os.environ
) -> list[Path]:
    """Write what CI reads, and append the summary to GitHub's job summary where there is one.

    Raises:
        RunDirectoryError: a file cannot be written.
    """
    from mnv3_reports.rundir import write_file, write_text
    from mnv3_reports.verdict_formats import to_annotations, to_json, to_junit
    from mnv3_reports.verdict_markdown import to_markdown

    markdown = to_markdown(report)
    written = [
        write_file(directory / REPORT_JSON, lambda path: path.write_bytes(to_json(report))),
        write_text(directory / REPORT_MARKDOWN, markdown),
        write_text(directory / REPORT_JUNIT, to_junit(report)),
    ]
    summary = environment.get("GITHUB_STEP_SUMMARY")
    if summary:
        try:
            with Path(summary).open("a", encoding="utf-8") as file:
                file.write(markdown + "\n")
        except OSError as error:
            print(f"$GITHUB_STEP_SUMMARY cannot be written: {error.strerror}", file=sys.stderr)
    if environment.get("GITHUB_ACTIONS") == "true":
        print(to_annotations(report), end="")
    return written


def say(report: GateReport, written: Sequence[Path], out: Callable[[str], object] = print) -> None:
    """Print the verdict."""
    from mnv3_reports.verdict_formats import to_lines

    for line in to_lines(report):
        out(line)
    for path in written:
        if path.suffix == ".md":
            out(f"report: {path}")


def forget_checkouts(gate: Gate) -> None:
    """Remove unpacked commits; what was built from them is in the artifact cache."""
    import shutil

    with suppress(OSError):
        shutil.rmtree(gate.directory / "checkouts")
