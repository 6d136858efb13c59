"""MobileNetV3 Large and Small, and their minimalistic forms.

Source: Howard et al., 'Searching for MobileNetV3', 2019, https://arxiv.org/abs/1905.02244, tables 1 and 2.
Where the paper's print of table 2 differs from its authors' code, the code is followed, as torchvision and
timm do: Small has no squeeze-and-excitation on its last convolution, and a head of 1024. Parameter names,
BatchNorm's epsilon and momentum and the squeeze-and-excitation block are torchvision's.

Widths other than 1.0 follow the authors' code and timm: hidden channels are the block's expansion ratio
times its scaled input, the stem stays at 16 below width 0.75, and the head (1280 or 1024) is not narrowed
below width 1.0. torchvision scales the head too, so its V3 at width 0.75 is another, smaller network (3.38
M against 3.99 M parameters for Large). Above width 1.0 the head is widened, as in V2.

The minimalistic forms replace hard-swish by ReLU, 5x5 by 3x3 kernels, and leave squeeze-and-excitation out
(tensorflow/models research/slim/nets/mobilenet/README.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import nn

from mnv3_models.layers import ConvNormAct, MobileNet, NormLayer, batch_norm, make_divisible

if TYPE_CHECKING:
    import torch

    from mnv3_models.variants import Variant


class Row(NamedTuple):
    """A row of table 1 or 2, in the paper's column order."""

    kernel: int
    exp: int
    out: int
    se: bool
    nl: str
    stride: int


class Table(NamedTuple):
    """Blocks, channels of the last convolution, and of the head's first linear layer."""

    rows: tuple[Row, ...]
    last: int
    head: int


STEM = 16
LARGE = Table(
    (
        Row(3, 16, 16, False, "RE", 1),
        Row(3, 64, 24, False, "RE", 2),
        Row(3, 72, 24, False, "RE", 1),
        Row(5, 72, 40, True, "RE", 2),
        Row(5, 120, 40, True, "RE", 1),
        Row(5, 120, 40, True, "RE", 1),
        Row(3, 240, 80, False, "HS", 2),
        Row(3, 200, 80, False, "HS", 1),
        Row(3, 184, 80, False, "HS", 1),
        Row(3, 184, 80, False, "HS", 1),
        Row(3, 480, 112, True, "HS", 1),
        Row(3, 672, 112, True, "HS", 1),
        Row(5, 672, 160, True, "HS", 2),
        Row(5, 960, 160, True, "HS", 1),
        Row(5, 960, 160, True, "HS", 1),
    ),
    last=960,
    head=1280,
)
SMALL = Table(
    (
        Row(3, 16, 16, True, "RE", 2),
        Row(3, 72, 24, False, "RE", 2),
        Row(3, 88, 24, False, "RE", 1),
        Row(5, 96, 40, True, "HS", 2),
        Row(5, 240, 40, True, "HS", 1),
        Row(5, 240, 40, True, "HS", 1),
        Row(5, 120, 48, True, "HS", 1),
        Row(5, 144, 48, True, "HS", 1),
        Row(5, 288, 96, True, "HS", 2),
        Row(5, 576, 96, True, "HS", 1),
        Row(5, 576, 96, True, "HS", 1),
    ),
    last=576,
    head=1024,
)
ACTIVATIONS: dict[str, type[nn.Module]] = {"RE": nn.ReLU, "HS": nn.Hardswish}


class SqueezeExcitation(nn.Module):
    """Scale each channel by a gate computed from all channels' means. Shape is kept, n x c x h x w."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = make_divisible(channels / 4)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.activation = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.scale_activation = nn.Hardsigmoid(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The input times its gate."""
        gate = self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x)))))
        scaled: torch.Tensor = gate * x
        return scaled


class InvertedResidual(nn.Module):
    """1x1 expansion (none where it would not widen), depthwise, SE, linear 1x1 projection; residual if shapes allow."""

    def __init__(self, in_channels: int, hidden: int, out_channels: int, row: Row, norm: NormLayer) -> None:
        super().__init__()
        activation = ACTIVATIONS[row.nl]
        self.use_residual = row.stride == 1 and in_channels == out_channels
        layers: list[nn.Module] = []
        if hidden != in_channels:
            layers.append(ConvNormAct(in_channels, hidden, 1, norm=norm, activation=activation))
        layers.append(
            ConvNormAct(hidden, hidden, row.kernel, row.stride, hidden, norm=norm, activation=activation)
        )
        if row.se:
            layers.append(SqueezeExcitation(hidden))
        layers.append(ConvNormAct(hidden, out_channels, 1, norm=norm, activation=None))
        self.block = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """n x in x h x w to n x out x h/stride x w/stride."""
        out: torch.Tensor = self.block(x)
        return x + out if self.use_residual else out


def minimalistic(table: Table) -> Table:
    """The same table with 3x3 kernels and ReLU only, without squeeze-and-excitation."""
    return table._replace(rows=tuple(row._replace(kernel=3, se=False, nl="RE") for row in table.rows))


def stages(rows: tuple[Row, ...]) -> tuple[int, ...]:
    """Number of consecutive rows with the same output channels."""
    outs = [row.out for row in rows]
    return tuple(outs.count(out) for out in dict.fromkeys(outs))


def mobilenet_v3(
    variant: Variant, num_classes: int, dropout: float, bn_eps: float | None, bn_momentum: float | None
) -> MobileNet:
    """Build MobileNetV3 in one of its four forms."""
    norm = batch_norm(1e-3 if bn_eps is None else bn_eps, 0.01 if bn_momentum is None else bn_momentum)
    size, _, minimal = variant.form.partition("-")
    table = LARGE if size == "large" else SMALL
    table = minimalistic(table) if minimal else table
    hard_swish = ACTIVATIONS["RE" if minimal else "HS"]
    width = variant.width

    unscaled, channels = STEM, STEM if width < 0.75 else make_divisible(STEM * width)
    features: list[nn.Module] = [ConvNormAct(3, channels, 3, 2, norm=norm, activation=hard_swish)]
    for row in table.rows:
        hidden, out = make_divisible(channels * row.exp / unscaled), make_divisible(row.out * width)
        features.append(InvertedResidual(channels, hidden, out, row, norm))
        unscaled, channels = row.out, out
    last, head = make_divisible(table.last * width), make_divisible(table.head * max(1.0, width))
    features.append(ConvNormAct(channels, last, 1, norm=norm, activation=hard_swish))
    classifier = nn.Sequential(
        nn.Linear(last, head), hard_swish(inplace=True), nn.Dropout(dropout), nn.Linear(head, num_classes)
    )
    return MobileNet(variant, nn.Sequential(*features), classifier, stages(table.rows))
