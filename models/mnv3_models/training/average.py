"""The moving average of a network's weights and statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.optim.swa_utils import AveragedModel

from mnv3_models.training.schedules import average_decay

if TYPE_CHECKING:
    from torch import nn

    from mnv3_models.training.knobs import Recipe


def make_average(model: nn.Module, recipe: Recipe) -> AveragedModel | None:
    """The average that a recipe asks for, starting at the network's weights; None where it asks for none.

    BatchNorm's statistics are averaged too, and its counters copied.
    """
    if not recipe.ema_decay:
        return None

    def blend(averaged: Any, current: Any, updates: torch.Tensor | int) -> None:
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1 - average_decay(recipe, int(updates)))
        else:
            torch._foreach_copy_(averaged, current)

    average = AveragedModel(model, multi_avg_fn=blend, use_buffers=True)
    average.update_parameters(model)  # the first update is a copy: count it, so that the next one blends
    average.requires_grad_(False)
    return average
