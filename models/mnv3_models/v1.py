"""MobileNetV1: a chain of depthwise separable convolutions.

Source: Howard et al., 'MobileNets', 2017, https://arxiv.org/abs/1704.04861, table 1, and its authors' code
(tensorflow/models research/slim/nets/mobilenet_v1.py). Where the two differ the code is followed, as by
every set of published weights: the last depthwise convolution has stride 1 (the paper prints 2), and the
activation is ReLU6 (the paper says ReLU; slim and timm use ReLU6). BatchNorm keeps PyTorch's epsilon and
momentum, which timm's weights go with.

torchvision has no V1. Parameter names follow its V2 and V3: `features.0.{0,1}` is the stem,
`features.N.0.{0,1}` and `features.N.1.{0,1}` are the depthwise and pointwise halves of block N (1-13),
`classifier.1` is the linear layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import nn

from mnv3_models.layers import ConvNormAct, MobileNet, NormLayer, batch_norm

if TYPE_CHECKING:
    from mnv3_models.variants import Variant


class Row(NamedTuple):
    """A row of table 1: output channels and stride of one depthwise separable convolution."""

    out: int
    stride: int


STEM = 32
ROWS = (
    Row(64, 1),
    Row(128, 2),
    Row(128, 1),
    Row(256, 2),
    Row(256, 1),
    Row(512, 2),
    *[Row(512, 1)] * 5,
    Row(1024, 2),
    Row(1024, 1),
)
STAGES = (1, 2, 2, 6, 2)


class DepthwiseSeparable(nn.Sequential):
    """3x3 depthwise, then 1x1, each with BatchNorm and ReLU6; no residual."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm: NormLayer) -> None:
        super().__init__(
            ConvNormAct(
                in_channels, in_channels, 3, stride, groups=in_channels, norm=norm, activation=nn.ReLU6
            ),
            ConvNormAct(in_channels, out_channels, 1, norm=norm, activation=nn.ReLU6),
        )


def mobilenet_v1(
    variant: Variant, num_classes: int, dropout: float, bn_eps: float | None, bn_momentum: float | None
) -> MobileNet:
    """Build MobileNetV1. Channels are scaled by slim's rule, max(int(channels x width), 8)."""
    norm = batch_norm(1e-5 if bn_eps is None else bn_eps, 0.1 if bn_momentum is None else bn_momentum)

    def scaled(channels: int) -> int:
        return max(int(channels * variant.width), 8)

    channels = scaled(STEM)
    features: list[nn.Module] = [ConvNormAct(3, channels, 3, 2, norm=norm, activation=nn.ReLU6)]
    for row in ROWS:
        features.append(DepthwiseSeparable(channels, scaled(row.out), row.stride, norm))
        channels = scaled(row.out)
    classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(channels, num_classes))
    return MobileNet(variant, nn.Sequential(*features), classifier, STAGES)
