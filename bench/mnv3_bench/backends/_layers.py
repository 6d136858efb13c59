"""Which layer of a network an operator in an artifact is, known by its weights.

Exporters rename layers, fold BatchNorm into them and lay their weights out anew, each in its own way and another one
with the next version; after BatchNorm was folded, ONNX's exporter names a convolution by the BatchNorm, OpenVINO's by a
number and LiteRT's by half of a path. What remains is what each output channel weighs, up to a factor per channel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from mnv3_bench.backends.base import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import torch
    from torch import nn

    from mnv3_bench.backends.base import Array, Facts, Preparation

KEPT = "kept in float"
"""The fact that names the layers that were asked for and stayed in float: module paths with commas between."""
_ALIKE = 0.999
"""Least mean cosine between channels. Weights rounded to 8 bits may have it too; those never rounded surely have."""

Key = TypeVar("Key")


def require(preparation: Preparation) -> None:
    """Layers to be kept in float must be layers of a network that PyTorch has.

    Raises:
        BackendError: there is no such convolution or linear layer, or the network is a file.
    """
    if not preparation.float_layers:
        return
    if preparation.format != "module":
        raise BackendError(
            f"{preparation.variant} is a {preparation.format} file; layers can be kept in float of networks built by "
            "Python code only"
        )
    known = _weights(preparation.model)
    for name in preparation.float_layers:
        if name not in known:
            raise BackendError(
                f"'{name}' is no convolution or linear layer of {preparation.variant} that could be kept in float"
            )


def wanted(preparation: Preparation, weights: Mapping[Key, Array]) -> list[Key]:
    """Which of an artifact's operators are the layers to be kept in float.

    Args:
        preparation: says which, by module path.
        weights: every operator's, its output channels first and each channel's numbers in PyTorch's order.

    Raises:
        BackendError: one of the layers is none of the operators.
    """
    require(preparation)
    if not preparation.float_layers:
        return []
    names = match(preparation.model, weights)
    found = [key for key, name in names.items() if name in preparation.float_layers]
    missing = set(preparation.float_layers) - set(names.values())
    if missing:
        raise BackendError(
            f"{sorted(missing)[0]} cannot be kept in float: its weights are not among those of the converted network"
        )
    return found


def kept(preparation: Preparation, floats: Mapping[Any, Array]) -> Facts:
    """The fact that says which of the layers asked for are in float, from the weights that an artifact has in float."""
    if not preparation.float_layers:
        return {}
    return stated(preparation.float_layers, match(preparation.model, floats).values())


def stated(asked: Sequence[str], in_float: Iterable[str]) -> Facts:
    """The same, where an artifact names its layers; nothing where none was asked for."""
    found = set(in_float)
    return {KEPT: ", ".join(name for name in asked if name in found) or "none"} if asked else {}


def path(node: torch.fx.Node) -> str:
    """The module that an exported program's node is of; '' of none."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]).removeprefix("L['self'].") if stack else ""


def match(network: nn.Module, weights: Mapping[Key, Array]) -> dict[Key, str]:
    """Each operator's layer; operators whose weights are no layer's are left out.

    Of layers with equal weights the one that the network defines first goes to the operator that comes first.
    """
    layers = {name: _directions(array) for name, array in _weights(network).items()}
    found: dict[Key, str] = {}
    for key, array in weights.items():
        directions = _directions(array)
        alike = {
            name: round(_likeness(directions, other), 6)
            for name, other in layers.items()
            if other.shape == directions.shape
        }
        # A layer that is called twice is two operators.
        best = max(alike, key=lambda name: (alike[name], name not in found.values()), default=None)
        if best is not None and alike[best] >= _ALIKE:
            found[key] = best
    return found


def _weights(network: nn.Module) -> dict[str, Array]:
    from torch import nn

    return {
        name: module.weight.detach().float().cpu().numpy()
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }


def _directions(weights: Array) -> Array:
    """Every channel's weights with length 1."""
    flat = weights.reshape(len(weights), -1).astype(np.float64)
    lengths = np.linalg.norm(flat, axis=1, keepdims=True)
    return flat / np.where(lengths > 0, lengths, 1.0)


def _likeness(first: Array, second: Array) -> float:
    """Mean cosine over channels, of either sign; channels of zeros alone, as folding may leave them, do not count."""
    cosines = np.abs((first * second).sum(axis=1))
    counted = first.any(axis=1) & second.any(axis=1)
    return float(cosines[counted].mean()) if counted.any() else 0.0
