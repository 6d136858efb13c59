"""What `mnv3-bench train` does: from options to a job, the job, and what to type next."""

from __future__ import annotations

import os
import shlex
import signal
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv3_bench import plan_weights
from mnv3_bench.environment import usable_cpus
from mnv3_bench.errors import ExitCode, RunStoppedError, UsageError
from mnv3_bench.quantities import seconds
from mnv3_bench.training.display import make_display
from mnv3_models import parse_variant
from mnv3_models.data import DataError, default_workers
from mnv3_models.training import (
    InterruptedTrainingError,
    Job,
    JobError,
    Outcome,
    TrainingError,
    get_recipe,
    override,
)
from mnv3_models.training.job import CHECKPOINT_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mnv3_models.training.knobs import Recipe

DEFAULTS = {"variant": "small", "data": "digits", "recipe": "quick"}


@dataclass(frozen=True)
class TrainAsked:
    """The options as they were typed; None is 'not given'."""

    variant: str | None = None
    data: str | None = None
    recipe: str | None = None
    weights: str | None = None
    num_classes: int | None = None
    seed: int | None = None
    device: str | None = None
    threads: int | None = None
    workers: int | None = None
    output: str | None = None
    resume: str | None = None
    checkpoint_every: str | None = None
    tensorboard: bool = True
    knobs: dict[str, Any] = field(default_factory=dict)
    """Of the recipe."""


def train(asked: TrainAsked) -> ExitCode:
    """Train, and say where the weights lie.

    Raises:
        UsageError: the request is wrong.
        RunStoppedError: the training had to stop; what was saved is whole.
    """
    from mnv3_models.training import train as carry_out

    rank = int(os.environ.get("RANK", "0"))
    try:
        job = make_job(asked)
        display = make_display() if rank == 0 else None
        try:
            with _asked_to_stop() as should_stop:
                outcome = carry_out(job, display or (lambda _: None), should_stop)
        finally:
            if display is not None:
                display.end()
    except InterruptedTrainingError as error:
        if rank == 0:
            print(f"mnv3-bench: {error}", flush=True)
        return ExitCode.INTERRUPTED
    except (JobError, DataError) as error:
        # The same in every process.
        if rank != 0:
            return ExitCode.USAGE
        raise UsageError(str(error)) from None
    except TrainingError as error:
        where = f"process {rank}: " if rank else ""
        raise RunStoppedError(f"{where}{error}") from None
    if rank == 0:
        for line in farewell(job, outcome):
            print(line)
    return ExitCode.DONE


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C or SIGTERM arrived; the second Ctrl-C ends at once, as usual."""
    heard: list[int] = []

    def hear(number: int, _: object) -> None:
        heard.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(heard)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def make_job(asked: TrainAsked) -> Job:
    """The job that options stand for; with --resume, what is not typed is as it was.

    Raises:
        UsageError: an option cannot have its value, or there is nothing to go on from.
    """
    from mnv3_models.training.checkpoint import CheckpointError, read_standing

    earlier = None
    if asked.resume is not None:
        if asked.output is not None:
            raise UsageError("--resume writes to the folder it goes on from; leave out --output")
        try:
            earlier = read_standing(Path(asked.resume)).request
        except CheckpointError as error:
            raise UsageError(f"--resume: {error}") from None
    try:
        recipe = override(
            get_recipe(asked.recipe or DEFAULTS["recipe"])
            if earlier is None or asked.recipe
            else earlier.recipe,
            **asked.knobs,
        )
        name = asked.variant or (earlier.variant if earlier is not None else DEFAULTS["variant"])
        variant = parse_variant(name).name
    except ValueError as error:
        raise UsageError(str(error)) from None
    data = asked.data or (earlier.data if earlier is not None else DEFAULTS["data"])
    seed = asked.seed if asked.seed is not None else (earlier.seed if earlier is not None else 0)
    steps, seconds = _checkpoint_every(asked.checkpoint_every)
    return Job(
        variant=variant,
        data=data,
        recipe=recipe,
        directory=_directory(asked, variant),
        seed=seed,
        num_classes=asked.num_classes,
        weights=_weights(asked.weights, variant) if asked.weights is not None else None,
        resume=earlier is not None,
        checkpoint_steps=steps,
        checkpoint_seconds=seconds,
        device=asked.device or "cpu",
        threads=asked.threads,
        workers=_workers(data, recipe) if asked.workers is None else asked.workers,
        tensorboard=asked.tensorboard,
    )


def _directory(asked: TrainAsked, variant: str) -> Path:
    if asked.resume is not None:
        return Path(asked.resume)
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S")
    return Path(asked.output) if asked.output is not None else Path("mnv3-train") / f"{variant}-{now}"


def _weights(text: str, variant: str) -> Path:
    (named,) = plan_weights.read([text])
    if named.variant not in (None, variant):
        raise UsageError(
            f"--weights: {text} is of {named.variant}, not of {variant}; type --variant {named.variant}"
        )
    return named.file


def _workers(data: str, recipe: Recipe) -> int:
    """None where making an input takes less time than handing it over."""
    return 0 if data == "digits" and recipe.augment == "none" else default_workers(usable_cpus())


def _checkpoint_every(text: str | None) -> tuple[int | None, float | None]:
    """Steps or seconds."""
    if text is None:
        return None, None
    if text.isdigit():
        if int(text) < 1:
            raise UsageError(
                f"--checkpoint-every is {text}; expected a number of steps, or a time such as 60s"
            )
        return int(text), None
    return None, seconds(text, "--checkpoint-every")


def farewell(job: Job, outcome: Outcome) -> list[str]:
    """Where everything lies, how good it is, and what to type next."""
    best = outcome.best
    folder = job.directory
    lines = [
        f"{outcome.card.variant}: {outcome.top1:.2%} of {outcome.card.images} held-out images right after "
        f"{len(outcome.history)} epochs in {outcome.seconds:.0f} s"
        + (f" (best {best.top1:.2%}, epoch {best.epoch})" if best.top1 > outcome.top1 else ""),
        f"weights: {outcome.weights}",
        f"run: {folder / 'model.json'}; checkpoint: {folder / CHECKPOINT_FILE}",
    ]
    if job.tensorboard:
        lines.append(f"curves: tensorboard --logdir {folder / 'tensorboard'}")
    weights, on = shlex.quote(str(outcome.weights)), f"--data {shlex.quote(job.data)} --backends all"
    return [
        *lines,
        "next:",
        f"  mnv3-bench evaluate --variants {job.variant} --weights {weights} {on}",
        f"  mnv3-bench --variants {job.variant} --weights {job.variant}={weights} {on}",
    ]
