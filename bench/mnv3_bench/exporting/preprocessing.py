"""What a manifest says of how an image becomes an input: `mnv3_models.data.published` in the manifest's words."""

from __future__ import annotations

from pathlib import Path

from mnv3_bench.errors import UsageError
from mnv3_bench.exporting.manifest import Image, Resize
from mnv3_models.data.published import NORMALIZATIONS, asked_for


def image(
    *, typed: str | None, file: str | None, sha256: str | None, timm: bool, variant: str, resolution: int
) -> Image:
    """How to make an input of a photograph.

    Args:
        typed: a name of `NORMALIZATIONS`, or None.
        file: the weights file; None for seeded weights. Its card is read if it has one.
        sha256: of that file.
        timm: whether its parameters have timm's names.
        variant: canonical name.
        resolution: pixels a side of the exported network.

    Raises:
        UsageError: there is no such normalization, or the file's card cannot be read.
    """
    try:
        asked = asked_for(
            None if file is None else Path(file).expanduser(),
            sha256=sha256,
            layout="timm" if timm else "torchvision",
            variant=variant,
            resolution=resolution,
            normalization=require(typed),
        )
    except (ValueError, OSError) as error:
        raise UsageError(f"--weights: {error}") from error
    found = asked.preprocessing
    values = [
        (pixel - mean) / std for pixel in (0, 1) for mean, std in zip(found.mean, found.std, strict=True)
    ]
    resize = Resize(found.resize, resolution, found.interpolation) if asked.resize_known else None
    return Image(
        colour_order="RGB",
        formula="(pixel / 255 - mean) / std",
        mean=found.mean,
        std=found.std,
        value_range=(round(min(values), 4), round(max(values), 4)),
        resize=resize,
        source=found.source,
    )


def require(typed: str | None) -> str | None:
    """What was typed as --normalization.

    Raises:
        UsageError: there is no such normalization.
    """
    if typed is not None and typed not in NORMALIZATIONS:
        raise UsageError(f"--normalization {typed} is not known; type {', '.join(NORMALIZATIONS)}")
    return typed
