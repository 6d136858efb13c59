"""All tensors that a training's next step depends on, by name: taken from it, and put back to the bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.swa_utils import AveragedModel

State = dict[str, torch.Tensor]


def prefixed(prefix: str, state: State) -> State:
    """The same tensors with a prefix before their names."""
    return {f"{prefix}.{name}": tensor for name, tensor in state.items()}


def below(prefix: str, state: State) -> State:
    """The tensors whose names have the prefix, without it."""
    return {
        name.removeprefix(f"{prefix}."): tensor
        for name, tensor in state.items()
        if name.startswith(f"{prefix}.")
    }


def of_optimizer(optimizer: Optimizer, model: nn.Module) -> State:
    """What an optimizer remembers of each weight, as 'name of the weight:what'."""
    return {
        f"{name}:{what}": value
        for name, weight in model.named_parameters()
        for what, value in optimizer.state.get(weight, {}).items()
        if isinstance(value, torch.Tensor)
    }


def into_optimizer(optimizer: Optimizer, model: nn.Module, state: State) -> None:
    """Put it back, each tensor laid out in memory as its weight is."""
    weights = dict(model.named_parameters())
    optimizer.state.clear()
    for key, value in state.items():
        name, _, what = key.rpartition(":")
        weight = weights[name]
        if value.shape == weight.shape and value.dim():
            value = torch.empty_like(weight, dtype=value.dtype).copy_(value)
        optimizer.state[weight][what] = value


def into_module(module: nn.Module, state: State) -> None:
    """Fill a module that has the same names.

    Raises:
        KeyError: a tensor is missing.
    """
    with torch.no_grad():
        for name, tensor in module.state_dict().items():  # shares memory with the module
            tensor.copy_(state[name])


def of_average(average: AveragedModel | None) -> State:
    """The average with the number of its updates; nothing where there is none."""
    return {} if average is None else dict(average.state_dict())


def is_finite(state: dict[str, Any]) -> bool:
    """Whether no tensor holds nan or an infinity."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in state.values() if tensor.is_floating_point())
