"""MobileNet V1, V2 and V3: builders, checkpoints, published figures, derived features; and models of the user's own.

Importing this package, listing variants and reading published figures do not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from mnv3_models.variants import UnknownVariantError, Variant, list_variants, parse_variant

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from mnv3_models.checkpoints import LoadedWeights
    from mnv3_models.layers import MobileNet

__all__ = ["UnknownVariantError", "Variant", "build", "list_variants", "load_weights", "parse_variant"]


def build(
    name: str,
    *,
    width: float | None = None,
    num_classes: int = 1000,
    dropout: float = 0.2,
    bn_eps: float | None = None,
    bn_momentum: float | None = None,
) -> MobileNet:
    """Build a network, freshly initialised and in train mode.

    'module:function' imports the user's module, with the current directory first on Python's path, and calls the
    function: **it executes that code**. What the function returns is given back as it is, and the arguments after
    the name, which are for the networks of this package, do not touch it.

    Args:
        name: a variant, such as 'v3-large', 'small@0.75', 'small-no-se', 'v2' or 'mynet:tiny'.
        width: width multiplier, instead of '@width' in the name.
        num_classes: length of the logits.
        dropout: probability of the one dropout, before the last linear layer.
        bn_eps: BatchNorm epsilon; by default 1e-3 for V3 and 1e-5 for V1 and V2.
        bn_momentum: BatchNorm momentum; by default 0.01 for V3 and 0.1 for V1 and V2.

    Returns:
        A module that takes images, n x 3 x height x width, and gives logits, n x num_classes. An own model is any
        `nn.Module`; the type is that of this package's networks. That it gives logits is for
        `mnv3_models.own.count_classes` to say, which has to run it.

    Raises:
        UnknownVariantError: no variant has this name.
        ValueError: an argument is out of range, `width` contradicts the name, suffixes of the name contradict each
            other, or an own model cannot be made.
    """
    variant = parse_variant(name, width)
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}; expected a whole number of at least 1, such as 1000")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}; expected a probability from 0 to below 1, such as 0.2")
    if bn_eps is not None and not 0 < bn_eps < 1:
        raise ValueError(f"bn_eps is {bn_eps}; expected a small positive number, such as 1e-3")
    if bn_momentum is not None and not 0 < bn_momentum <= 1:
        raise ValueError(f"bn_momentum is {bn_momentum}; expected a number above 0 and up to 1, such as 0.01")
    if variant.is_own:
        from mnv3_models.own import build_own

        return cast("MobileNet", build_own(variant))
    if variant.is_file:
        raise ValueError(
            f"'{variant.name}' is a model file, and nothing builds it; type --model {variant.name}"
        )
    match variant.family:
        case "v1":
            from mnv3_models.v1 import mobilenet_v1 as builder
        case "v2":
            from mnv3_models.v2 import mobilenet_v2 as builder
        case _:
            from mnv3_models.v3 import mobilenet_v3 as builder
    return builder(variant, num_classes, dropout, bn_eps, bn_momentum)


def load_weights(model: nn.Module, path: str | Path, *, bn_eps: float | None = None) -> LoadedWeights:
    """Fill a network that `build` made from a checkpoint; see `mnv3_models.checkpoints.load_weights`."""
    from mnv3_models import checkpoints

    return checkpoints.load_weights(model, path, bn_eps=bn_eps)
