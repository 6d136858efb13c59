"""What weights want images made into: by their card, by what their publisher says, or by a rule that is named.

Other people's weights files do not say so. Published ones are known by their SHA-256, whose first eight digits
torchvision and timm write into the names of the files; the rest is assumed, and `Preprocessing.source` says so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from mnv3_models.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Channels, Preprocessing

if TYPE_CHECKING:
    from pathlib import Path

PUBLISHED_RESOLUTION = 224
USUAL_RESIZE = 256
"""Pixels of the shorter side before the crop of 224: 87.5 %, as most evaluate ImageNet."""


@dataclass(frozen=True)
class Normalization:
    """Mean and deviation of a channel, of pixels from 0 to 1."""

    mean: Channels
    std: Channels
    text: str


NORMALIZATIONS = {
    "imagenet": Normalization(IMAGENET_MEAN, IMAGENET_STD, "ImageNet's mean and deviation"),
    "half": Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "0.5 and 0.5, which makes -1 to 1"),
    "unit": Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "none, pixels from 0 to 1"),
}

_TORCHVISION = "torchvision's {}, docs.pytorch.org/vision/stable/models.html"
_TIMM = "timm's {}, github.com/huggingface/pytorch-image-models, timm/models/mobilenetv3.py"


def _published(normalization: str, resize: int, interpolation: str, source: str, name: str) -> Preprocessing:
    values = NORMALIZATIONS[normalization]
    return Preprocessing(
        resolution=PUBLISHED_RESOLUTION,
        resize=resize,
        interpolation=interpolation,
        mean=values.mean,
        std=values.std,
        source=source.format(name),
    )


def _torchvision(name: str, resize: int) -> Preprocessing:
    return _published("imagenet", resize, "bilinear", _TORCHVISION, name)


def _timm(name: str, interpolation: str, normalization: str = "imagenet") -> Preprocessing:
    return _published(normalization, USUAL_RESIZE, interpolation, _TIMM, name)  # crop_pct 0.875


PUBLISHED: dict[str, Preprocessing] = {
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


@dataclass(frozen=True)
class Asked:
    """What a network's weights ask for."""

    preprocessing: Preprocessing
    resize_known: bool
    """Whether resize and interpolation are those of the weights' published or recorded accuracy."""


def preprocessing_for(
    file: Path | None,
    *,
    sha256: str | None,
    layout: str | None,
    variant: str,
    resolution: int,
    normalization: str | None,
) -> Preprocessing:
    """How to make inputs of photographs; see `asked_for`, of which this is the whole answer to most questions."""
    return asked_for(
        file,
        sha256=sha256,
        layout=layout,
        variant=variant,
        resolution=resolution,
        normalization=normalization,
    ).preprocessing


def asked_for(
    file: Path | None,
    *,
    sha256: str | None,
    layout: str | None,
    variant: str,
    resolution: int,
    normalization: str | None,
) -> Asked:
    """How to make inputs of photographs, and how far that is known.

    The weights' own card says it, or else their publisher. Of others timm's 'ra4' recipe, its V1 (which it publishes
    of that recipe) and its ports from TensorFlow want 0.5 and 0.5, and everything else ImageNet's mean and deviation;
    the shorter side is then 256 of 224. At another resolution the shorter side keeps its ratio to the crop.

    Args:
        file: the weights; None for those that this project draws.
        sha256: of that file, or its first eight digits at least.
        layout: whose parameter names the file has: 'torchvision' or 'timm'.
        variant: canonical name.
        resolution: pixels a side of the network's input.
        normalization: a name of `NORMALIZATIONS` that counts whatever the weights say; None for theirs.

    Raises:
        ValueError: there is no such normalization, or the file's card is damaged.
        OSError: the file is there and cannot be read.
    """
    if normalization is not None and normalization not in NORMALIZATIONS:
        raise ValueError(f"--normalization {normalization} is not known; type {', '.join(NORMALIZATIONS)}")
    known = _of_card(file) or PUBLISHED.get((sha256 or "")[:8])
    found = known or _assumed(file, layout, variant)
    if normalization is not None:
        values = NORMALIZATIONS[normalization]
        found = msgspec.structs.replace(
            found, mean=values.mean, std=values.std, source=f"--normalization {normalization}"
        )
    resize_known = known is not None and known.resolution == resolution
    return Asked(found.at(resolution), resize_known)


def _of_card(file: Path | None) -> Preprocessing | None:
    from mnv3_models.card import read_card  # which imports this package

    card = read_card(file) if file is not None and file.is_file() else None
    if card is None:
        return None
    source = card.preprocessing.source or f"what {card.variant} was trained with, by its weights file"
    return msgspec.structs.replace(card.preprocessing, source=source)


def _assumed(file: Path | None, layout: str | None, variant: str) -> Preprocessing:
    name, source = _rule(file, layout, variant)
    values = NORMALIZATIONS[name]
    return Preprocessing(PUBLISHED_RESOLUTION, USUAL_RESIZE, mean=values.mean, std=values.std, source=source)


def _rule(file: Path | None, layout: str | None, variant: str) -> tuple[str, str]:
    """A name of `NORMALIZATIONS`, and why it is that one."""
    if file is None:
        return "imagenet", "the images that the seeded weights were calibrated on"
    assumed = "assumed, since a weights file does not say; --normalization states another"
    timm = layout == "timm"
    if timm and "minimal" in variant:
        return "half", f"timm's minimalistic networks are ports from TensorFlow; {assumed}"
    # timm publishes weights of one recipe for V1; for others the recipe is part of a file's or its folder's name.
    named = re.search(r"(^|[._-])ra4([._-]|$)", f"{file.parent.name}.{file.name}")
    if timm and (named or variant.startswith("v1")):
        return "half", f"timm's 'ra4' weights; {assumed}"
    return "imagenet", assumed
