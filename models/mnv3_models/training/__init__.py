"""Training: recipes, and the loop that follows them.

`train` and `train_weights` import torch when they are called; nothing else here does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnv3_models.training.job import (
    Began,
    EpochDone,
    EpochResult,
    InterruptedTrainingError,
    Job,
    JobError,
    Note,
    Outcome,
    Progress,
    Stepped,
    TrainingError,
)
from mnv3_models.training.recipes import Recipe, RecipeError, get_recipe, override

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = [
    "Began",
    "EpochDone",
    "EpochResult",
    "InterruptedTrainingError",
    "Job",
    "JobError",
    "Note",
    "Outcome",
    "Progress",
    "Recipe",
    "RecipeError",
    "Stepped",
    "TrainingError",
    "get_recipe",
    "override",
    "train",
    "train_weights",
]


def train(
    job: Job,
    report: Callable[[Progress], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Carry out a job; see `mnv3_models.training.engine.train`."""
    from mnv3_models.training import engine

    return engine.train(job, report, should_stop)


def train_weights(
    variant: str,
    data: str,
    recipe: str | Recipe,
    seed: int,
    directory: Path,
    threads: int | None = None,
    *,
    weights: Path | None = None,
    workers: int = 0,
    report: Callable[[Progress], None] = lambda _: None,
) -> Outcome:
    """Train a network on a source's training part and write `model.safetensors` with its card.

    Where the directory holds a checkpoint of the same request, the training goes on from it.

    Args:
        variant: the network.
        data: as `mnv3_models.data.open_data` takes it.
        recipe: a preset's name, or a recipe.
        seed: of everything random; 0 or more.
        directory: where to write; it is made.
        threads: of the network's arithmetic; None for torch's own choice.
        weights: to start from.
        workers: processes that decode images.
        report: told of what goes on.

    Raises:
        JobError, RecipeError, DataError: the request cannot be carried out.
        TrainingError: the training had to stop.
    """
    from mnv3_models.training.job import CHECKPOINT_FILE

    return train(
        Job(
            variant=variant,
            data=data,
            recipe=get_recipe(recipe) if isinstance(recipe, str) else recipe,
            directory=directory,
            seed=seed,
            weights=weights,
            threads=threads,
            workers=workers,
            resume=(directory / CHECKPOINT_FILE).is_file(),
            tensorboard=False,
        ),
        report,
    )
