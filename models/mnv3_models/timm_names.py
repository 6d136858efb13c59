"""timm's parameter names for the same networks.

Source: pytorch-image-models 1.0, timm/models/_efficientnet_blocks.py, efficientnet.py (V1, V2),
mobilenetv3.py. Its blocks are numbered by stage; a block without expansion calls its second convolution
conv_pw, one with expansion calls it conv_dw; V3's first classifier layer is a 1x1 convolution, `conv_head`.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from torch import nn

from mnv3_models.v3 import SqueezeExcitation

if TYPE_CHECKING:
    from mnv3_models.layers import MobileNet

_WITHOUT_EXPANSION = ("conv_dw", "bn1", "conv_pw", "bn2")
_WITH_EXPANSION = ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")


def timm_names(model: MobileNet) -> dict[str, str]:
    """Name of every module that holds parameters, here, to its name in timm."""
    names = {"features.0.0": "conv_stem", "features.0.1": "bn1"}
    places = chain.from_iterable(((s, b) for b in range(n)) for s, n in enumerate(model.stages))
    for index, (block, (stage, number)) in enumerate(zip(model.blocks, places, strict=True), start=1):
        prefix = f"blocks.{stage}.{number}."
        names |= {f"features.{index}.{k}": prefix + v for k, v in _block_names(block).items()}
    last, family = len(model.features) - 1, model.variant.family
    if family == "v2":
        names |= {f"features.{last}.0": "conv_head", f"features.{last}.1": "bn2"}
    if family == "v3":
        prefix = f"blocks.{len(model.stages)}.0."
        names |= {f"features.{last}.0": prefix + "conv", f"features.{last}.1": prefix + "bn1"}
        names["classifier.0"] = "conv_head"
    names[f"classifier.{len(model.classifier) - 1}"] = "classifier"
    return names


def _block_names(block: nn.Module) -> dict[str, str]:
    names: dict[str, str] = {}
    chained: list[str] = []  # convolutions and norms outside squeeze-and-excitation, in order
    for name, module in block.named_modules():
        if isinstance(module, SqueezeExcitation):
            names |= {f"{name}.fc1": "se.conv_reduce", f"{name}.fc2": "se.conv_expand"}
        elif isinstance(module, nn.Conv2d | nn.BatchNorm2d) and name not in names:
            chained.append(name)
    theirs = _WITH_EXPANSION if len(chained) == len(_WITH_EXPANSION) else _WITHOUT_EXPANSION
    return names | dict(zip(chained, theirs, strict=True))
