"""What the three architectures share: rounding of channels, conv-norm-activation, the net, initialisation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from mnv3_models.variants import Variant

NormLayer = Callable[[int], nn.Module]


def make_divisible(channels: float, divisor: int = 8) -> int:
    """Round to the nearest multiple of `divisor` that is at least 90 % of `channels`.

    Source: tensorflow/models research/slim `_make_divisible`; torchvision and timm round alike.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def batch_norm(eps: float, momentum: float) -> NormLayer:
    """A maker of BatchNorm layers, given their number of channels."""
    return partial(nn.BatchNorm2d, eps=eps, momentum=momentum)


class ConvNormAct(nn.Sequential):
    """Convolution without bias, normalisation and, unless None, an activation of its own.

    Padding is (kernel - 1) // 2 on every side, as in torchvision. TensorFlow's SAME pads the bottom and
    right more where the stride is 2; weights ported from TensorFlow lose a little accuracy here.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        *,
        norm: NormLayer,
        activation: type[nn.Module] | None,
    ) -> None:
        padding = (kernel - 1) // 2
        layers = [
            nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False),
            norm(out_channels),
        ]
        if activation is not None:
            layers.append(activation(inplace=True))
        super().__init__(*layers)


class MobileNet(nn.Module):
    """Features, global average pooling, classifier. Takes n x 3 x height x width, gives n x classes.

    `features` is a `ConvNormAct` stem, then blocks, then (V2, V3) a last 1x1 `ConvNormAct`.
    """

    def __init__(
        self, variant: Variant, features: nn.Sequential, classifier: nn.Sequential, stages: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.variant = variant
        self.stages = stages
        """Number of blocks in each row of the paper's table, or stage; timm's parameter names follow it."""
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = classifier
        initialise(self)

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks between the stem and the last convolution."""
        return [module for module in self.features if not isinstance(module, ConvNormAct)]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of a batch of images."""
        logits: torch.Tensor = self.classifier(torch.flatten(self.avgpool(self.features(images)), 1))
        return logits


def initialise(model: nn.Module, generator: torch.Generator | None = None) -> None:
    """Give every layer its starting values, drawn from `generator` (torch's global one if None).

    He-normal by fan-out for convolutions, normal with deviation 0.01 for linear layers, zero biases,
    BatchNorm at identity with fresh statistics. Source: torchvision's MobileNetV2 and V3 (the V1 paper
    gives no rule).
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.01, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
