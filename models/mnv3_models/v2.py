"""MobileNetV2: inverted residuals with linear bottlenecks.

Source: Sandler et al., 'MobileNetV2', 2018, https://arxiv.org/abs/1801.04381, table 2. Parameter names,
ReLU6 and BatchNorm's epsilon and momentum (PyTorch's defaults) are torchvision's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import nn

from mnv3_models.layers import ConvNormAct, MobileNet, NormLayer, batch_norm, make_divisible

if TYPE_CHECKING:
    import torch

    from mnv3_models.variants import Variant


class Row(NamedTuple):
    """A row of table 2: expansion t, output channels c, repeats n, stride s of the first repeat."""

    t: int
    c: int
    n: int
    s: int


STEM = 32
ROWS = (
    Row(1, 16, 1, 1),
    Row(6, 24, 2, 2),
    Row(6, 32, 3, 2),
    Row(6, 64, 4, 2),
    Row(6, 96, 3, 1),
    Row(6, 160, 3, 2),
    Row(6, 320, 1, 1),
)
HEAD = 1280


class InvertedResidual(nn.Module):
    """1x1 expansion (none where t is 1), 3x3 depthwise, linear 1x1 projection; residual where shapes allow."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, t: int, norm: NormLayer) -> None:
        super().__init__()
        hidden = in_channels * t
        self.use_residual = stride == 1 and in_channels == out_channels
        layers: list[nn.Module] = []
        if t != 1:
            layers.append(ConvNormAct(in_channels, hidden, 1, norm=norm, activation=nn.ReLU6))
        layers += [
            ConvNormAct(hidden, hidden, 3, stride, groups=hidden, norm=norm, activation=nn.ReLU6),
            # Not a ConvNormAct: torchvision's parameter names have projection and norm at this level.
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            norm(out_channels),
        ]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """n x in x h x w to n x out x h/stride x w/stride."""
        out: torch.Tensor = self.conv(x)
        return x + out if self.use_residual else out


def mobilenet_v2(
    variant: Variant, num_classes: int, dropout: float, bn_eps: float | None, bn_momentum: float | None
) -> MobileNet:
    """Build MobileNetV2. The last convolution is widened above width 1.0 but never narrowed below it."""
    norm = batch_norm(1e-5 if bn_eps is None else bn_eps, 0.1 if bn_momentum is None else bn_momentum)
    channels = make_divisible(STEM * variant.width)
    features: list[nn.Module] = [ConvNormAct(3, channels, 3, 2, norm=norm, activation=nn.ReLU6)]
    for row in ROWS:
        out = make_divisible(row.c * variant.width)
        for repeat in range(row.n):
            features.append(InvertedResidual(channels, out, row.s if repeat == 0 else 1, row.t, norm))
            channels = out
    head = make_divisible(HEAD * max(1.0, variant.width))
    features.append(ConvNormAct(channels, head, 1, norm=norm, activation=nn.ReLU6))
    classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(head, num_classes))
    return MobileNet(variant, nn.Sequential(*features), classifier, tuple(row.n for row in ROWS))
