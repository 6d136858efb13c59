"""Optimizers as the recipes name them, and which weights decay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer, RMSprop

if TYPE_CHECKING:
    from collections.abc import Callable

    from mnv3_models.training.knobs import Recipe


class RMSpropTF(Optimizer):
    """RMSprop as TensorFlow 1 computes it, which the MobileNets were trained with.

    Unlike torch's: epsilon is inside the root, the mean square starts at 1, and the learning rate is part of what the
    momentum gathers, so that a change of it works slowly.

        square = alpha * square + (1 - alpha) * gradient^2
        moved = momentum * moved + lr * gradient / sqrt(square + eps)
        weight = weight - moved

    Source: tensorflow/python/training/rmsprop.py and the kernel ApplyRMSProp.

    Args:
        params: weights, or groups of them.
        lr: learning rate.
        alpha: share of the old mean square that is kept; TensorFlow's `decay`.
        momentum: share of the old movement that is kept.
        eps: added inside the root.
        weight_decay: times the weight, added to the gradient.
    """

    def __init__(
        self,
        params: Any,
        *,
        lr: float,
        alpha: float = 0.9,
        momentum: float = 0.9,
        eps: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {
            "lr": lr,
            "alpha": alpha,
            "momentum": momentum,
            "eps": eps,
            "weight_decay": weight_decay,
        }
        super().__init__(params, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every weight that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            for weight in weights:
                if not self.state[weight]:
                    self.state[weight] = {
                        "square_avg": torch.ones_like(weight),
                        "momentum_buffer": torch.zeros_like(weight),
                    }
            _update(weights, [self.state[weight] for weight in weights], group)
        return loss


def _update(
    weights: list[torch.Tensor], states: list[dict[str, torch.Tensor]], group: dict[str, Any]
) -> None:
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    squares = [state["square_avg"] for state in states]
    moved = [state["momentum_buffer"] for state in states]
    if group["weight_decay"]:
        gradients = list(torch._foreach_add(gradients, weights, alpha=group["weight_decay"]))
    torch._foreach_mul_(squares, group["alpha"])
    torch._foreach_addcmul_(squares, gradients, gradients, value=1 - group["alpha"])
    roots = torch._foreach_add(squares, group["eps"])
    torch._foreach_sqrt_(roots)
    torch._foreach_mul_(moved, group["momentum"])
    torch._foreach_addcdiv_(moved, gradients, roots, value=group["lr"])
    torch._foreach_sub_(weights, moved)


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Weights that decay, and weights that do not, in the order of the network; no group is empty."""
    decaying: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            (decaying if _decays(module, name, recipe) else kept).append(weight)
    groups = ((decaying, recipe.weight_decay), (kept, 0.0))
    return [{"params": weights, "weight_decay": decay} for weights, decay in groups if weights]


def _decays(module: nn.Module, name: str, recipe: Recipe) -> bool:
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return recipe.norm_decay
    if name == "bias":
        return recipe.bias_decay
    if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
        return recipe.depthwise_decay
    return True


def make_optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """The recipe's optimizer over a network's weights."""
    groups = parameter_groups(model, recipe)
    match recipe.optimizer:
        case "sgd":
            return SGD(groups, lr=recipe.lr, momentum=recipe.momentum)
        case "rmsprop":
            return RMSprop(groups, lr=recipe.lr, alpha=recipe.alpha, momentum=recipe.momentum, eps=recipe.eps)
        case "rmsprop-tf":
            return RMSpropTF(
                groups, lr=recipe.lr, alpha=recipe.alpha, momentum=recipe.momentum, eps=recipe.eps
            )
        case "adamw":
            return AdamW(groups, lr=recipe.lr, eps=recipe.eps)
