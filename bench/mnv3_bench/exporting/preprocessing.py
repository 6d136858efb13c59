"""What a network wants its images made into: mean, deviation and crop by the weights it has.

A weights file does not say so. Published files are known by their SHA-256, whose first eight digits torchvision and
timm write into their names; the rest is assumed, and the manifest says which.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mnv3_bench.errors import UsageError
from mnv3_bench.exporting.manifest import Channels, Image, Resize

PUBLISHED_RESOLUTION = 224


@dataclass(frozen=True)
class Normalization:
    """Mean and deviation of a channel, of pixels from 0 to 1."""

    mean: Channels
    std: Channels
    text: str


NORMALIZATIONS = {
    "imagenet": Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "ImageNet's mean and deviation"),
    "half": Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "0.5 and 0.5, which makes -1 to 1"),
    "unit": Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "none, pixels from 0 to 1"),
}

_TORCHVISION = "torchvision's {}, docs.pytorch.org/vision/stable/models.html"
_TIMM = "timm's {}, github.com/huggingface/pytorch-image-models, timm/models/mobilenetv3.py"


@dataclass(frozen=True)
class Published:
    """Weights that somebody published together with how they were evaluated, at 224 pixels."""

    normalization: str
    shorter_side: int
    interpolation: str
    source: str


def _torchvision(name: str, shorter_side: int) -> Published:
    return Published("imagenet", shorter_side, "bilinear", _TORCHVISION.format(name))


def _timm(name: str, interpolation: str, normalization: str = "imagenet") -> Published:
    return Published(normalization, 256, interpolation, _TIMM.format(name))  # crop_pct 0.875


PUBLISHED: dict[str, Published] = {
    "8738ca79": _torchvision("MobileNet_V3_Large_Weights.IMAGENET1K_V1", 256),
    "5c1a4163": _torchvision("MobileNet_V3_Large_Weights.IMAGENET1K_V2", 232),
    "047dcff4": _torchvision("MobileNet_V3_Small_Weights.IMAGENET1K_V1", 256),
    "b0353104": _torchvision("MobileNet_V2_Weights.IMAGENET1K_V1", 256),
    "7ebf99e0": _torchvision("MobileNet_V2_Weights.IMAGENET1K_V2", 232),
    "f55367f5": _timm("mobilenetv3_large_100.ra_in1k", "bicubic"),
    "66471c13": _timm("mobilenetv3_large_100.miil_in21k_ft_in1k", "bilinear", "unit"),
    "4b7bbe87": _timm("mobilenetv3_small_050.lamb_in1k", "bicubic"),
    "384766db": _timm("mobilenetv3_small_075.lamb_in1k", "bicubic"),
    "266a294c": _timm("mobilenetv3_small_100.lamb_in1k", "bicubic"),
    "150ee8b0": _timm("tf_mobilenetv3_large_075.in1k", "bilinear", "half"),
    "427764d5": _timm("tf_mobilenetv3_large_100.in1k", "bilinear", "half"),
    "8596ae28": _timm("tf_mobilenetv3_large_minimal_100.in1k", "bilinear", "half"),
    "da427f52": _timm("tf_mobilenetv3_small_075.in1k", "bilinear", "half"),
    "37f49e2b": _timm("tf_mobilenetv3_small_100.in1k", "bilinear", "half"),
    "922a7843": _timm("tf_mobilenetv3_small_minimal_100.in1k", "bilinear", "half"),
}
"""By the first eight digits of the file's SHA-256."""


def image(
    *, typed: str | None, file: str | None, sha256: str | None, timm: bool, variant: str, resolution: int
) -> Image:
    """How to make an input of a photograph.

    Args:
        typed: a name of `NORMALIZATIONS`, or None.
        file: the weights file; None for seeded weights.
        sha256: of that file.
        timm: whether its parameters have timm's names.
        variant: canonical name.
        resolution: pixels a side of the exported network.

    Raises:
        UsageError: there is no such normalization.
    """
    published = PUBLISHED.get((sha256 or "")[:8])
    name, source = _choose(require(typed), published, file, timm=timm, variant=variant)
    chosen = NORMALIZATIONS[name]
    values = [
        (pixel - mean) / std for pixel in (0, 1) for mean, std in zip(chosen.mean, chosen.std, strict=True)
    ]
    resize = None
    if published is not None and resolution == PUBLISHED_RESOLUTION:
        resize = Resize(published.shorter_side, resolution, published.interpolation)
    return Image(
        colour_order="RGB",
        formula="(pixel / 255 - mean) / std",
        mean=chosen.mean,
        std=chosen.std,
        value_range=(round(min(values), 4), round(max(values), 4)),
        resize=resize,
        source=source,
    )


def require(typed: str | None) -> str | None:
    """What was typed as --normalization.

    Raises:
        UsageError: there is no such normalization.
    """
    if typed is not None and typed not in NORMALIZATIONS:
        raise UsageError(f"--normalization {typed} is not known; type {', '.join(NORMALIZATIONS)}")
    return typed


def _choose(
    typed: str | None, published: Published | None, file: str | None, *, timm: bool, variant: str
) -> tuple[str, str]:
    """A name of `NORMALIZATIONS`, and why it is that one."""
    if typed is not None:
        return typed, f"--normalization {typed}"
    if published is not None:
        return published.normalization, published.source
    if file is None:
        return "imagenet", "the images that the seeded weights were calibrated on"
    assumed = "assumed, since a weights file does not say; --normalization states another"
    if timm and "minimal" in variant:
        return "half", f"timm's minimalistic networks are ports from TensorFlow; {assumed}"
    # timm publishes weights of one recipe for V1; for others the recipe is part of a file's or its folder's name.
    named = re.search(r"(^|[._-])ra4([._-]|$)", f"{Path(file).parent.name}.{Path(file).name}")
    if timm and (named or variant.startswith("v1")):
        return "half", f"timm's 'ra4' weights; {assumed}"
    return "imagenet", assumed
