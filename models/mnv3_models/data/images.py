"""A file's pixels as the networks want them: RGB, 8 bits, upright, whatever the file holds."""

from __future__ import annotations

import struct
import warnings
import zlib
from typing import TYPE_CHECKING

import numpy as np

from mnv3_models.data.errors import BrokenImageError

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
"""Of files that count as images, in lower case."""
LONGEST_SIDE = 1 << 20
"""Pixels; Pillow's resizing calculates in float32, which knows no halves of much longer ones."""

_ORIENTATION = 0x0112  # Exif's tag
_SIXTEEN_BIT = ("I", "I;16", "I;16B", "I;16L", "I;16N")


def read(path: Path | str, name: str) -> Image.Image:
    """Decode a file. What it takes for granted is what published accuracies were measured with: alpha is dropped.

    torchvision's and timm's own loaders drop it too (`convert("RGB")`); laying a transparent image on white or black
    would give their networks other pixels than those they were evaluated on. The same holds for the decoder: no
    draft mode, whose smaller JPEGs are not what decoding and resizing gives.

    Args:
        path: of any format that Pillow knows by its content.
        name: for the error.

    Raises:
        BrokenImageError: there is no such file, it is no image, is cut short, or has so many pixels that Pillow
            takes it for an attack.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of metadata, in every worker
            # Pillow itself only warns between 90 and 180 million pixels.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if max(image.size) > LONGEST_SIDE:
                    raise ValueError(f"{image.width} x {image.height} pixels")
                return upright(rgb(image), image)
    except UnidentifiedImageError:
        raise BrokenImageError(name, "no image by its content") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BrokenImageError(name, "so many pixels that decoding it may exhaust the memory") from None
    except OSError as error:
        raise BrokenImageError(name, _one_line(error.strerror or str(error))) from error
    except (ValueError, SyntaxError, EOFError, LookupError, TypeError, OverflowError) as error:
        raise BrokenImageError(name, _one_line(str(error) or type(error).__name__)) from error
    except (struct.error, zlib.error) as error:
        raise BrokenImageError(name, _one_line(str(error))) from error


def rgb(image: Image.Image) -> Image.Image:
    """Three channels of 8 bits; `image` itself where it has them."""
    from PIL import Image

    if image.mode == "RGB":
        image.load()
        return image
    if image.mode in _SIXTEEN_BIT:
        # Pillow's own conversion cuts off at 255.
        values = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels, of which nobody says what is white")
    if image.mode == "P" and "transparency" in image.info:
        # The colours are the same by this way, which Pillow wants for palettes with transparency.
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def upright(image: Image.Image, opened: Image.Image) -> Image.Image:
    """Turned as the Exif data of the opened file ask for."""
    from PIL import Image

    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    turn = turns.get(_orientation(opened))
    return image if turn is None else image.transpose(turn)


def _orientation(opened: Image.Image) -> int:
    if not opened.info.keys() & {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}:
        return 1
    try:
        value = opened.getexif().get(_ORIENTATION, 1)
    except (OSError, ValueError, SyntaxError, LookupError, TypeError, struct.error):
        return 1  # the pixels are whole; damaged metadata are no reason to lose them
    return value if isinstance(value, int) else 1


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]
