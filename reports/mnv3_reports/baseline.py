"""Stored baselines: what a gate needs of an earlier run, in one JSON file, and the comparison of times with it.

Two runs at different times are two independent samples, so their epochs are compared by Welch's interval, on one
machine with the same versions only. That interval knows how much epochs of one run differ. It does not know what
happened to the machine between the two runs (its neighbours, its temperature, where it was moved to), which is easily
several per cent on shared machines: two arms in one job see the same machine and are the better gate.
Ratios to a control cell of the same run, formed within rounds, take out what slows both cells alike, and can be
compared between machines.

Schema history:
    1  first version; the structs of `mnv3_reports.record`, schema 1, are in it
    2  those of schema 2: complexity may be missing. A baseline of version 1 is one of version 2.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec

from mnv3_reports.record import (
    SCHEMA_VERSION,
    Cell,
    Failure,
    Inspected,
    Machine,
    Prepared,
    Request,
    Run,
    RunStarted,
    Software,
    VariantFacts,
)
from mnv3_reports.rundir import write_text
from mnv3_reports.sequential import FEWEST_EPOCHS, welch_interval
from mnv3_reports.statistics import Interval, block_medians, median
from mnv3_reports.units import counted
from mnv3_reports.verdict import Verdict
from mnv3_reports.verdict_words import SAVE_AGAIN, allowed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mnv3_reports.record import Block

BASELINE_SCHEMA = 2
DIGITS = 7
"""Significant digits of stored seconds: far finer than the clock, and a file a third as long."""

Seconds = Annotated[float, msgspec.Meta(gt=0)]


class BaselineError(Exception):
    """A file is no baseline, or cannot be read. The message is one line."""


class BaselineVersionError(BaselineError):
    """A baseline of a schema version that is not read here."""


class TimedEpoch(msgspec.Struct, frozen=True):
    """One epoch of one cell: one process."""

    epoch: int
    seconds: Seconds
    """A call: the geometric mean of the rounds' medians."""
    rounds: dict[int, Seconds]
    """Round to the median call, in seconds. Two cells' ratio is formed within the rounds that they share."""


class BaselineCell(msgspec.Struct, frozen=True):
    """What is kept of one cell."""

    prepared: Prepared | None = None
    inspected: Inspected | None = None
    failure: Failure | None = None
    """Why the cell has no times; without the output of its process."""
    epochs: tuple[TimedEpoch, ...] = ()


class Baseline(msgspec.Struct, frozen=True, kw_only=True, tag="baseline"):
    """An earlier run, as far as a gate needs it. Its commit is `software.commit`."""

    schema: int
    created_at: str
    command: str
    """That measured it."""
    machine: Machine
    software: Software
    request: Request
    variants: tuple[VariantFacts, ...]
    """Without costs by layer and without published figures."""
    cells: dict[str, BaselineCell]

    def as_run(self) -> Run:
        """The run that this was, without blocks: what `mnv3_reports.deterministic.compare` takes."""
        header = RunStarted(
            schema=SCHEMA_VERSION,
            run_id="baseline",
            started_at=self.created_at,
            command=self.command,
            request=self.request,
            cells=tuple(self.cells),
            machine=self.machine,
            software=self.software,
        )
        run = Run.started(header)
        for facts in self.variants:
            run.add(facts)
        for cell in self.cells.values():
            for part in (cell.prepared, cell.inspected, cell.failure):
                if part is not None:
                    run.add(part)
        return run


class _Opening(msgspec.Struct):
    """What every version's file has."""

    type: str
    schema: int


def of_run(run: Run) -> Baseline:
    """What is kept of a run."""
    blocks: dict[str, list[Block]] = {key: [] for key in run.cells}
    for block in run.blocks:
        blocks[block.cell].append(block)
    cells = {}
    for key, record in run.cells.items():
        failure = record.failure and msgspec.structs.replace(record.failure, tail="")
        epochs = () if failure else epochs_of(blocks[key])
        cells[key] = BaselineCell(record.prepared, record.inspected, failure, epochs)
    return Baseline(
        schema=BASELINE_SCHEMA,
        created_at=run.finished.ended_at if run.finished is not None else run.header.started_at,
        command=run.header.command,
        machine=run.header.machine,
        software=run.header.software,
        request=run.header.request,
        variants=tuple(
            msgspec.structs.replace(
                facts,
                complexity=facts.complexity and msgspec.structs.replace(facts.complexity, layers=()),
                features={},
                published=(),
            )
            for facts in run.variants
        ),
        cells=cells,
    )


def epochs_of(blocks: Iterable[Block]) -> tuple[TimedEpoch, ...]:
    """A cell's epochs, in order, from its blocks."""
    return tuple(
        TimedEpoch(
            epoch,
            _rounded(math.exp(math.fsum(map(math.log, rounds.values())) / len(rounds))),
            {number: _rounded(value) for number, value in sorted(rounds.items())},
        )
        for epoch, rounds in sorted(block_medians(blocks).items())
    )


def _rounded(seconds: float) -> float:
    return float(f"{seconds:.{DIGITS}g}")


def write_baseline(path: str | Path, baseline: Baseline) -> Path:
    """Write the file, complete or not at all; one that is there already is replaced.

    Raises:
        RunDirectoryError: it cannot be written; what was there before stays.
    """
    data = msgspec.to_builtins(baseline, str_keys=True)
    return write_text(Path(path), json.dumps(data, sort_keys=True, indent=1, allow_nan=False) + "\n")


def read_baseline(path: str | Path) -> Baseline:
    """Read what `write_baseline` wrote.

    Raises:
        BaselineVersionError: the file has a schema version that is not read here.
        BaselineError: it is not there, cannot be read, or is no baseline.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise BaselineError(
            f"there is no file '{path}'; write one: mnv3-bench run … --save-baseline {path}"
        ) from None
    except OSError as error:
        raise BaselineError(f"'{path}' cannot be read: {error.strerror}") from None
    none = f"'{path}' is no baseline; expected a file that mnv3-bench run … --save-baseline {path} wrote"
    try:
        opening = msgspec.json.decode(data, type=_Opening)
    except msgspec.DecodeError:
        raise BaselineError(none) from None
    if opening.type != "baseline":
        raise BaselineError(none)
    if not 1 <= opening.schema <= BASELINE_SCHEMA:
        remedy = "update mnv3-bench" if opening.schema > BASELINE_SCHEMA else "save it again"
        raise BaselineVersionError(
            f"'{path}' has baseline schema {opening.schema}, this mnv3-bench reads schema 1 to {BASELINE_SCHEMA}; "
            f"{remedy}"
        )
    try:
        baseline = msgspec.json.decode(data, type=Baseline)
        baseline = msgspec.structs.replace(baseline, schema=BASELINE_SCHEMA)
        for key in baseline.cells:
            Cell.from_key(key)
        baseline.as_run()
    except (msgspec.DecodeError, ValueError) as error:
        raise BaselineError(f"'{path}' is damaged: {error}; save it again") from None
    except KeyError as error:
        raise BaselineError(f"'{path}' is damaged: it has figures of {error}, no cell of it") from None
    return baseline


# Comparing.


def incomparable(baseline: Baseline, machine: Machine, software: Software) -> str | None:
    """Why absolute times here may not be compared with the baseline's; None where they may."""
    was = baseline.machine
    if was.fingerprint != machine.fingerprint:
        names = ("cpu", "usable_cpus", "cpu_quota", "hypervisor", "governor", "gpus", "isa")
        pairs = [(name, getattr(machine, name), getattr(was, name)) for name in names]
        differing = [
            f"{_MACHINE_WORDS[name]} {_shown(here)} against {_shown(there)}"
            for name, here, there in pairs
            if here != there
        ]
        differing = differing or [f"fingerprint {machine.fingerprint} against {was.fingerprint}"]
        return f"absolute times of another machine ({', '.join(differing[:2])})"
    before = baseline.software
    if before.fingerprint != software.fingerprint:
        packages = sorted({*before.packages, *software.packages})
        versions: list[tuple[str, str | None, str | None]] = [("Python", before.python, software.python)]
        versions += [(name, before.packages.get(name), software.packages.get(name)) for name in packages]
        variables = sorted({*before.environment, *software.environment})
        versions += [
            (name, before.environment.get(name), software.environment.get(name)) for name in variables
        ]
        changed = [
            f"{name} {_shown(there)} -> {_shown(here)}" for name, there, here in versions if there != here
        ]
        changed = changed or [f"fingerprint {before.fingerprint} -> {software.fingerprint}"]
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        return f"absolute times of other versions ({', '.join(changed[:3])}{more})"
    return None


_MACHINE_WORDS = {
    "cpu": "CPU",
    "usable_cpus": "usable CPUs",
    "cpu_quota": "CPU quota",
    "hypervisor": "hypervisor",
    "governor": "governor",
    "gpus": "GPUs",
    "isa": "instruction sets",
}


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def absolute(epochs: Sequence[TimedEpoch]) -> list[float]:
    """The logarithm of the seconds a call, one value an epoch."""
    return [math.log(found.seconds) for found in epochs]


def to_control(epochs: Sequence[TimedEpoch], control: Sequence[TimedEpoch]) -> list[float]:
    """ln(cell / control), one value an epoch: the median over the rounds that both have, as ratios of a run are.

    Epochs without a shared round are left out.
    """
    others = {found.epoch: found.rounds for found in control}
    values = []
    for found in epochs:
        other = others.get(found.epoch, {})
        logs = [math.log(found.rounds[n] / other[n]) for n in found.rounds.keys() & other.keys()]
        if logs:
            values.append(median(logs))
    return values


class Timing(msgspec.Struct, frozen=True):
    """A verdict on one cell's time. Ratios are head over baseline."""

    verdict: Verdict
    reason: str
    ratio: Interval
    """With its 95 % interval (Welch), over epochs."""
    epochs: int
    """Of the side that has fewer."""
    p_value: float | None = None
    """Of 'not slower than the margin', corrected over cells."""
    noise: float | None = None
    """Standard deviation of the difference of an epoch here and one of the baseline, on the logarithm."""
    detectable: float | None = None
    """Smallest slowdown that so many epochs fail with the asked power, relative."""


def judge_timing(
    head: Sequence[float],
    base: Sequence[float],
    *,
    margin: float,
    alpha: float,
    power: float,
    cells: int,
    here_longer: str = "type a longer --time-budget",
) -> Timing:
    """Compare the epochs of a cell here with the baseline's.

    FAIL: the lower bound at alpha / cells (Bonferroni) lies above the margin. PASS: the upper bound at alpha lies below
    it (no correction: Berger 1982, as in `mnv3_reports.sequential`).

    Args:
        head: logarithms of durations (or of ratios to a control), one an epoch, independent of each other.
        base: the baseline's.
        margin: relative slowdown that is tolerated (0.03 is 3 %).
        alpha: chance of a false failure of the whole gate, and of a false pass of a cell; below 0.5.
        power: for `Timing.detectable`.
        cells: that are judged together.
        here_longer: what to type for more epochs here.

    Raises:
        ValueError: a side is empty, or a value is not finite.
    """
    limit = math.log1p(margin)
    ratio = _ratio(welch_interval(head, base))
    fewest = min(len(head), len(base))
    if fewest < FEWEST_EPOCHS:
        short = (
            f"the baseline has {counted(len(base), 'epoch')} and a verdict needs {FEWEST_EPOCHS}; {SAVE_AGAIN}"
            if len(base) < FEWEST_EPOCHS
            else f"{counted(len(head), 'epoch')} could be measured here and a verdict needs {FEWEST_EPOCHS}; "
            f"{here_longer}"
        )
        noise = _Welch(head, base).noise if fewest > 1 else None
        return Timing(Verdict.INCONCLUSIVE, short, ratio, fewest, noise=noise)
    welch = _Welch(head, base)
    lower = welch_interval(head, base, 1 - 2 * alpha / cells).low
    upper = welch_interval(head, base, 1 - 2 * alpha).high
    if lower > limit:
        verdict, reason = Verdict.FAIL, f"slower by more than the margin of {allowed(margin)}"
    elif upper < limit:
        verdict, reason = Verdict.PASS, f"slower by less than the margin of {allowed(margin)}, if at all"
    else:
        verdict = Verdict.INCONCLUSIVE
        reason = (
            f"{counted(len(head), 'epoch')} here and {len(base)} of the baseline do not show on which side of the "
            f"margin of {allowed(margin)} it lies"
        )
    return Timing(
        verdict,
        reason,
        ratio,
        fewest,
        p_value=min(1.0, cells * welch.p_value(limit)),
        noise=welch.noise,
        detectable=math.expm1(limit + welch.reach(alpha / cells, power)),
    )


class _Welch:
    """What Welch's interval is made of, for the figures that are no interval."""

    def __init__(self, head: Sequence[float], base: Sequence[float]) -> None:
        import numpy as np

        variances = [float(np.var(side, ddof=1)) for side in (head, base)]
        parts = [variance / len(side) for variance, side in zip(variances, (head, base), strict=True)]
        self.difference = float(np.mean(head) - np.mean(base))
        self.noise = math.sqrt(sum(variances))
        self.error = math.sqrt(sum(parts))
        below = sum(part**2 / (len(side) - 1) for part, side in zip(parts, (head, base), strict=True))
        self.freedom = sum(parts) ** 2 / below if below else math.inf

    def p_value(self, limit: float) -> float:
        """One-sided, of 'the difference is not above the limit'."""
        from scipy.special import stdtr

        if not self.error:
            return 0.0 if self.difference > limit else 1.0
        return float(stdtr(self.freedom, (limit - self.difference) / self.error))

    def reach(self, alpha: float, power: float) -> float:
        """How far above a limit a difference has to lie to fail at alpha with this power."""
        from scipy.special import stdtrit

        if not self.error:
            return 0.0
        return self.error * float(stdtrit(self.freedom, 1 - alpha) + stdtrit(self.freedom, power))


def _ratio(logs: Interval) -> Interval:
    """A difference of logarithms as a ratio; an unbounded end stays one."""
    low, high = (math.exp(end) if math.isfinite(end) else max(end, 0.0) for end in (logs.low, logs.high))
    return Interval(math.exp(logs.estimate), low, high, logs.n)
