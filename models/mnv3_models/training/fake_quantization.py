"""Quantization-aware training: when fake quantization observes, and when BatchNorm's statistics stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from mnv3_models.training.knobs import Recipe
    from mnv3_models.training.state import State


class FakeQuantization:
    """What a recipe with `qat` does to a network at the start, at each epoch and at the end.

    Args:
        model: the network, which is changed in place; the names of its state dict stay.
        recipe: says when what stops.
    """

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        from mnv3_models.quantization.fake import attach

        self._recipe = recipe
        self._attached = attach(model)

    def begin_epoch(self, epoch: int) -> None:
        """Set everything for an epoch, the first one being 0; the network is in train mode."""
        recipe = self._recipe
        self._attached.observe(not recipe.observers_off_after or epoch < recipe.observers_off_after)
        if recipe.bn_frozen_after and epoch >= recipe.bn_frozen_after:
            self._attached.freeze_batch_norm()

    def state(self) -> State:
        """Ranges and whatever else the fake quantizers remember."""
        return self._attached.state()

    def restore(self, saved: State) -> None:
        """Put it back."""
        self._attached.load_state(saved)

    def end(self) -> None:
        """Leave the float network, whose weights have learnt to be rounded."""
        self._attached.detach()
