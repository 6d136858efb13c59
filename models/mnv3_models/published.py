"""What papers and libraries publish about these networks, with sources. Quoted, not measured here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mnv3_models.variants import parse_variant

if TYPE_CHECKING:
    from collections.abc import Mapping

V1_PAPER = "MobileNets (Howard et al. 2017, arXiv:1704.04861), tables 6 and 7"
V2_PAPER = "MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381), table 4"
V3_PAPER = "Searching for MobileNetV3 (Howard et al. 2019, arXiv:1905.02244), table 3"
V3_PAPER_INT8 = "Searching for MobileNetV3 (Howard et al. 2019, arXiv:1905.02244), table 4"
V3_PAPER_NONLINEARITIES = "Searching for MobileNetV3 (Howard et al. 2019, arXiv:1905.02244), table 5"
SLIM = "tensorflow/models research/slim (mobilenet_v1.md, nets/mobilenet/README.md)"
TORCHVISION = "torchvision 0.29 model weights"
TIMM = "pytorch-image-models 1.0, results/results-imagenet.csv"

_PIXELS = ("Pixel 1", "Pixel 2", "Pixel 3")


@dataclass(frozen=True)
class PublishedFigure:
    """One row of figures somebody published about a network."""

    variant: str
    """Canonical variant name."""
    source: str
    weights: str = ""
    """Name of the weights, where the source offers several."""
    precision: str = "fp32"
    resolution: int = 224
    top1: float | None = None
    """ImageNet-1k validation accuracy in percent."""
    macs: float | None = None
    parameters: float | None = None
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    """Device to milliseconds, one image on one big core."""


def figures(variant_name: str) -> tuple[PublishedFigure, ...]:
    """Everything published about a variant, empty for a width nobody published.

    Raises:
        UnknownVariantError: no variant has this name.
    """
    name = parse_variant(variant_name).name
    return tuple(figure for figure in _FIGURES if figure.variant == name)


def top1(variant_name: str) -> PublishedFigure | None:
    """The fp32 figure at 224 to plot accuracy from; None where nobody published one.

    It is slim's wherever slim has one, so that all architectures come from the same group's training and a
    chart compares networks rather than recipes (V3-Large alone is published from 74.0 to 77.9 %). Other
    sources follow in the order paper, torchvision, timm.

    Raises:
        UnknownVariantError: no variant has this name.
    """
    usable = [
        f
        for f in figures(variant_name)
        if f.top1 is not None and (f.precision, f.resolution) == ("fp32", 224)
    ]
    order = (SLIM, V1_PAPER, V2_PAPER, V3_PAPER, V3_PAPER_NONLINEARITIES, TORCHVISION, TIMM)
    return min(usable, key=lambda figure: order.index(figure.source), default=None)


def _row(
    variant: str,
    source: str,
    top1: float,
    macs: float | None = None,
    parameters: float | None = None,
    latency: tuple[float, ...] = (),
    *,
    weights: str = "",
    precision: str = "fp32",
    resolution: int = 224,
) -> PublishedFigure:
    """A row in the sources' own units: percent, millions, millions, milliseconds on Pixel 1, 2 and 3."""
    return PublishedFigure(
        variant=variant,
        source=source,
        weights=weights,
        precision=precision,
        resolution=resolution,
        top1=top1,
        macs=None if macs is None else round(macs * 1e6),
        parameters=None if parameters is None else round(parameters * 1e6),
        latency_ms=dict(zip(_PIXELS, latency, strict=False)),
    )


def _rows_by_resolution(
    variant: str, source: str, parameters: float, cells: dict[int, tuple[float, float]]
) -> list[PublishedFigure]:
    """Rows of one width: resolution to (top-1, MACs in millions)."""
    return [_row(variant, source, t, m, parameters, resolution=r) for r, (t, m) in cells.items()]


_FIGURES: tuple[PublishedFigure, ...] = (
    # V3 paper, table 3.
    _row("v3-large", V3_PAPER, 75.2, 219, 5.4, (51, 61, 44)),
    _row("v3-large@0.75", V3_PAPER, 73.3, 155, 4.0, (39, 46, 40)),
    _row("v3-small", V3_PAPER, 67.4, 66, 2.9, (15.8, 19.4, 14.4)),
    _row("v3-small@0.75", V3_PAPER, 65.4, 44, 2.4, (12.8, 15.6, 11.7)),
    _row("v2", V3_PAPER, 72.0, 300, 3.4, (64, 76, 56)),
    _row("v2@0.35", V3_PAPER, 60.8, 59.2, 1.6, (16.6, 19.6, 13.9)),
    # V3 paper, table 4.
    _row("v3-large", V3_PAPER_INT8, 73.8, latency=(44, 42.5, 31.7), precision="int8"),
    _row("v3-small", V3_PAPER_INT8, 64.9, latency=(15.5, 14.9, 10.7), precision="int8"),
    _row("v2", V3_PAPER_INT8, 70.9, latency=(52, 48.3, 37.0), precision="int8"),
    _row("v2@0.35", V3_PAPER_INT8, 57.2, latency=(16.7, 15.6, 11.9), precision="int8"),
    # V3 paper, table 5: the rows that are a form built here ('h-swish@16' and '@112' put hard-swish elsewhere). With
    # composed hard-swish it is the accuracy of the plain network, which computes the same, and the latency 'no-opt'.
    _row("v3-large-no-hswish", V3_PAPER_NONLINEARITIES, 74.5, latency=(50.5,)),
    _row("v3-large-composed-hswish", V3_PAPER_NONLINEARITIES, 75.2, latency=(57.5,)),
    # slim, V3.
    _row("v3-large", SLIM, 75.2, 217, 5.4, (51.2, 61, 44)),
    _row("v3-large", SLIM, 73.9, 217, 5.4, (44, 42.5, 32), precision="int8"),
    _row("v3-large@0.75", SLIM, 73.3, 155, 4.0, (39.8, 48, 34)),
    _row("v3-small", SLIM, 67.5, 66, 2.9, (15.8, 19.4, 14.4)),
    _row("v3-small", SLIM, 64.9, 66, 2.9, (15.5, 15, 10.7), precision="int8"),
    _row("v3-small@0.75", SLIM, 65.4, 44, 2.4, (12.8, 15.9, 11.6)),
    _row("v3-large-minimal", SLIM, 72.3, 209, 3.9, (44.1, 51, 35)),
    _row("v3-large-minimal", SLIM, 71.3, 209, 3.9, (37, 35, 27), precision="int8"),
    _row("v3-small-minimal", SLIM, 61.9, 65, 2.0, (12.2, 15.1, 11)),
    # V2 paper, table 4.
    _row("v1", V2_PAPER, 70.6, 575, 4.2, (113,)),
    _row("v2", V2_PAPER, 72.0, 300, 3.4, (75,)),
    _row("v2@1.4", V2_PAPER, 74.7, 585, 6.9, (143,)),
    # slim, V2.
    *_rows_by_resolution(
        "v2",
        SLIM,
        3.47,
        {224: (71.8, 300), 192: (70.7, 221), 160: (68.8, 154), 128: (65.3, 99), 96: (60.3, 56)},
    ),
    *_rows_by_resolution(
        "v2@0.75",
        SLIM,
        2.61,
        {224: (69.8, 209), 192: (68.7, 153), 160: (66.4, 107), 128: (63.2, 69), 96: (58.8, 39)},
    ),
    *_rows_by_resolution(
        "v2@0.5",
        SLIM,
        1.95,
        {224: (65.4, 97), 192: (63.9, 71), 160: (61.0, 50), 128: (57.7, 32), 96: (51.2, 18)},
    ),
    *_rows_by_resolution(
        "v2@0.35",
        SLIM,
        1.66,
        {224: (60.3, 59), 192: (58.2, 43), 160: (55.7, 30), 128: (50.8, 20), 96: (45.5, 11)},
    ),
    _row("v2@1.4", SLIM, 75.0, 582, 6.06),
    _row("v2@1.3", SLIM, 74.4, 509, 5.34),
    # V1 paper, tables 6 and 7.
    _row("v1", V1_PAPER, 70.6, 569, 4.2),
    _row("v1@0.75", V1_PAPER, 68.4, 325, 2.6),
    _row("v1@0.5", V1_PAPER, 63.7, 149, 1.3),
    _row("v1@0.25", V1_PAPER, 50.6, 41, 0.5),
    _row("v1", V1_PAPER, 69.1, 418, 4.2, resolution=192),
    _row("v1", V1_PAPER, 67.2, 290, 4.2, resolution=160),
    _row("v1", V1_PAPER, 64.4, 186, 4.2, resolution=128),
    # slim, V1. It prints 317 M for width 0.75 at 224; the paper, and counting, give 325 M.
    *_rows_by_resolution(
        "v1", SLIM, 4.24, {224: (70.9, 569), 192: (70.0, 418), 160: (68.0, 291), 128: (65.2, 186)}
    ),
    *_rows_by_resolution(
        "v1@0.75", SLIM, 2.59, {224: (68.4, 317), 192: (67.2, 233), 160: (65.3, 162), 128: (62.1, 104)}
    ),
    *_rows_by_resolution(
        "v1@0.5", SLIM, 1.34, {224: (63.3, 150), 192: (61.7, 110), 160: (59.1, 77), 128: (56.3, 49)}
    ),
    *_rows_by_resolution(
        "v1@0.25", SLIM, 0.47, {224: (49.8, 41), 192: (47.7, 34), 160: (45.5, 21), 128: (41.5, 14)}
    ),
    _row("v1", SLIM, 69.7, 569, 4.24, precision="int8"),
    _row("v1@0.75", SLIM, 67.9, 317, 2.59, precision="int8"),
    _row("v1@0.5", SLIM, 62.2, 150, 1.34, precision="int8"),
    _row("v1@0.25", SLIM, 48.2, 41, 0.47, precision="int8"),
    # torchvision; parameters are exact.
    _row("v3-large", TORCHVISION, 74.042, 217, 5.483032, weights="IMAGENET1K_V1"),
    _row("v3-large", TORCHVISION, 75.274, 217, 5.483032, weights="IMAGENET1K_V2"),
    _row("v3-small", TORCHVISION, 67.668, 57, 2.542856, weights="IMAGENET1K_V1"),
    _row("v2", TORCHVISION, 71.878, 301, 3.504872, weights="IMAGENET1K_V1"),
    _row("v2", TORCHVISION, 72.154, 301, 3.504872, weights="IMAGENET1K_V2"),
    _row("v2", TORCHVISION, 71.658, 301, 3.504872, weights="IMAGENET1K_QNNPACK_V1", precision="int8"),
    _row("v3-large", TORCHVISION, 73.004, 217, 5.483032, weights="IMAGENET1K_QNNPACK_V1", precision="int8"),
    # timm; its GMACs are rounded to 10 M and run slightly above the exact counts.
    _row("v1", TIMM, 75.388, 580, 4.23, weights="mobilenetv1_100.ra4_e3600"),
    _row("v2", TIMM, 72.910, 310, 3.50, weights="mobilenetv2_100.ra"),
    _row("v3-large", TIMM, 75.784, 230, 5.48, weights="mobilenetv3_large_100.ra"),
    _row("v3-large", TIMM, 76.310, 230, 5.48, weights="mobilenetv3_large_100.ra4_e3600"),
    _row("v3-large", TIMM, 77.920, 230, 5.48, weights="mobilenetv3_large_100.miil_in21k_ft"),
    _row("v3-large", TIMM, 75.510, 230, 5.48, weights="tf_mobilenetv3_large_100"),
    _row("v3-large@0.75", TIMM, 73.442, 160, 3.99, weights="tf_mobilenetv3_large_075"),
    _row("v3-small", TIMM, 67.636, 60, 2.54, weights="mobilenetv3_small_100.lamb"),
    _row("v3-small", TIMM, 67.922, 60, 2.54, weights="tf_mobilenetv3_small_100"),
    _row("v3-small@0.75", TIMM, 65.284, 50, 2.04, weights="mobilenetv3_small_075.lamb"),
    _row("v3-small@0.75", TIMM, 65.706, 50, 2.04, weights="tf_mobilenetv3_small_075"),
    _row("v3-small@0.5", TIMM, 57.918, 30, 1.59, weights="mobilenetv3_small_050.lamb"),
    _row("v3-large-minimal", TIMM, 72.270, 220, 3.92, weights="tf_mobilenetv3_large_minimal_100"),
    _row("v3-small-minimal", TIMM, 62.892, 60, 2.04, weights="tf_mobilenetv3_small_minimal_100"),
)
