"""MobileNetV3 Large and Small, their minimalistic forms, and forms with one ingredient or several changed.

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

Parameter names depend on nothing but which layers there are, so weights of the plain network load into every form
that has its layers: without hard-swish or residual additions, with composed hard-swish, with hard-swish inside
squeeze-and-excitation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn
from torch.nn import functional as F

from mnv3_models.layers import ConvNormAct, MobileNet, NormLayer, batch_norm, make_divisible

if TYPE_CHECKING:
    from collections.abc import Callable

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


class ComposedHardswish(nn.Module):
    """Hard-swish from elementary operations, x * relu6(x + 3) / 6: the same values as `nn.Hardswish`, in four passes
    over memory. A runtime may or may not recognise it.

    `inplace` is taken as other activations take it and changes nothing: the input is needed to the end.
    """

    def __init__(self, inplace: bool = False) -> None:  # noqa: ARG002
        super().__init__()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape, which is kept."""
        return x * F.relu6(x + 3) / 6


class Table(NamedTuple):
    """Blocks, channels of the last convolution and of the head's first linear layer, and what all blocks share."""

    rows: tuple[Row, ...]
    last: int
    head: int
    nl: str = "HS"
    """Activation of the stem, the last convolution and the head."""
    se_nl: str = "RE"
    """Activation inside squeeze-and-excitation."""
    hard_swish: type[nn.Module] = nn.Hardswish
    """What HS stands for."""
    residual: bool = True
    """Whether a block adds its input where shapes allow."""
    skip: bool = True
    """Whether the expansion is left out where it would not widen."""

    def activation(self, nl: str) -> type[nn.Module]:
        """The module that a name in a table stands for."""
        known: dict[str, type[nn.Module]] = {"RE": nn.ReLU, "HS": self.hard_swish}
        return known[nl]

    def every_row(self, **changes: Any) -> Table:
        """The same table with these values in all rows."""
        return self._replace(rows=tuple(row._replace(**changes) for row in self.rows))


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


class SqueezeExcitation(nn.Module):
    """Scale each channel by a gate computed from all channels' means. Shape is kept, n x c x h x w."""

    def __init__(self, channels: int, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        squeezed = make_divisible(channels / 4)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.activation = activation(inplace=True)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.scale_activation = nn.Hardsigmoid(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The input times its gate."""
        gate = self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x)))))
        scaled: torch.Tensor = gate * x
        return scaled


class InvertedResidual(nn.Module):
    """1x1 expansion (none where it would not widen), depthwise, SE, linear 1x1 projection; residual if shapes allow.

    Args:
        in_channels: of the images it takes.
        hidden: channels of the depthwise convolution.
        out_channels: of the images it gives.
        row: kernel, stride, activation, and whether there is squeeze-and-excitation.
        table: the row's, for what all blocks share.
        norm: maker of normalisation layers.
    """

    def __init__(
        self, in_channels: int, hidden: int, out_channels: int, row: Row, table: Table, norm: NormLayer
    ) -> None:
        super().__init__()
        activation = table.activation(row.nl)
        self.use_residual = table.residual and row.stride == 1 and in_channels == out_channels
        layers: list[nn.Module] = []
        if hidden != in_channels or not table.skip:
            layers.append(ConvNormAct(in_channels, hidden, 1, norm=norm, activation=activation))
        layers.append(
            ConvNormAct(hidden, hidden, row.kernel, row.stride, hidden, norm=norm, activation=activation)
        )
        if row.se:
            layers.append(SqueezeExcitation(hidden, table.activation(table.se_nl)))
        layers.append(ConvNormAct(hidden, out_channels, 1, norm=norm, activation=None))
        self.block = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """n x in x h x w to n x out x h/stride x w/stride."""
        out: torch.Tensor = self.block(x)
        return x + out if self.use_residual else out


CHANGES: dict[str, Callable[[Table], Table]] = {
    "no-se": lambda table: table.every_row(se=False),
    "no-hswish": lambda table: table.every_row(nl="RE")._replace(nl="RE"),
    "no-residual": lambda table: table._replace(residual=False),
    "no-kernel5": lambda table: table.every_row(kernel=3),
    "composed-hswish": lambda table: table._replace(hard_swish=ComposedHardswish),
    "se-hswish": lambda table: table._replace(se_nl="HS"),
    "unskipped": lambda table: table._replace(skip=False),
}
"""What each suffix of a variant's name does to a table; see `mnv3_models.ablations`."""
MINIMALISTIC = ("no-se", "no-hswish", "no-kernel5")
"""The changes that make the minimalistic forms."""


def table_of(variant: Variant) -> Table:
    """Table 1 or 2 of the paper with the variant's changes, at width 1.0."""
    size, _, minimal = variant.unchanged.form.partition("-")
    table = LARGE if size == "large" else SMALL
    for change in MINIMALISTIC if minimal else variant.changes:
        table = CHANGES[change](table)
    return table


def stages(rows: tuple[Row, ...]) -> tuple[int, ...]:
    """Number of consecutive rows with the same output channels."""
    outs = [row.out for row in rows]
    return tuple(outs.count(out) for out in dict.fromkeys(outs))


def mobilenet_v3(
    variant: Variant, num_classes: int, dropout: float, bn_eps: float | None, bn_momentum: float | None
) -> MobileNet:
    """Build MobileNetV3 in one of its forms."""
    norm = batch_norm(1e-3 if bn_eps is None else bn_eps, 0.01 if bn_momentum is None else bn_momentum)
    table = table_of(variant)
    activation = table.activation(table.nl)
    width = variant.width

    unscaled, channels = STEM, STEM if width < 0.75 else make_divisible(STEM * width)
    features: list[nn.Module] = [ConvNormAct(3, channels, 3, 2, norm=norm, activation=activation)]
    for row in table.rows:
        hidden, out = make_divisible(channels * row.exp / unscaled), make_divisible(row.out * width)
        features.append(InvertedResidual(channels, hidden, out, row, table, norm))
        unscaled, channels = row.out, out
    last, head = make_divisible(table.last * width), make_divisible(table.head * max(1.0, width))
    features.append(ConvNormAct(channels, last, 1, norm=norm, activation=activation))
    classifier = nn.Sequential(
        nn.Linear(last, head), activation(inplace=True), nn.Dropout(dropout), nn.Linear(head, num_classes)
    )
    return MobileNet(variant, nn.Sequential(*features), classifier, stages(table.rows))
