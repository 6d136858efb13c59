"""The learning rate as a function of the step. Nothing of it has to be saved, and nothing here imports torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mnv3_models.training.knobs import Recipe


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step, the first one being 0.

    The warm-up grows linearly and ends at what the schedule, which began when the warm-up ends, then gives.
    """
    epoch = step / steps_per_epoch
    if epoch < recipe.warmup_epochs:
        share = recipe.warmup_from + (1 - recipe.warmup_from) * epoch / recipe.warmup_epochs
        return recipe.lr * share
    epoch -= recipe.warmup_epochs
    if recipe.schedule == "cosine":
        return recipe.lr * (1 + math.cos(math.pi * epoch / (recipe.epochs - recipe.warmup_epochs))) / 2
    # The tolerance is for epochs such as 2.4, whose multiples are no whole steps.
    return recipe.lr * recipe.gamma ** math.floor(epoch / recipe.step_epochs + 1e-9)


def average_decay(recipe: Recipe, updates: int) -> float:
    """The decay of the moving average of weights, after so many updates of it.

    Source of the adjustment: TensorFlow's ExponentialMovingAverage with `num_updates`.
    """
    return min(recipe.ema_decay, (1 + updates) / (10 + updates)) if recipe.ema_adjusted else recipe.ema_decay
