"""From an image to a network's input."""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import ceil, floor
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mnv3_models.data.errors import DataError

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch
    from PIL import Image

    from mnv3_models.data.preprocessing import Preprocessing

INTERPOLATIONS = {"bilinear": (2, 1), "bicubic": (3, 2)}
"""Pillow's number of a filter (`Image.Resampling`), and how many source pixels it reaches to either side at scale 1."""


class Transform(Protocol):
    """What makes an input of an image: 3 x resolution x resolution, float32."""

    def __call__(self, image: Image.Image, seed: tuple[int, ...], /) -> torch.Tensor:
        """Of an RGB image, with randomness (if any) from the seed alone."""
        ...


class PixelTransform(ABC):
    """A transform in two steps: pixels in worker processes, numbers where the network runs.

    Pixels are a quarter of the bytes to carry between processes. `loader` takes the steps apart; called as a whole it
    is a transform like any other, with the same results.
    """

    @abstractmethod
    def pixels(self, image: Image.Image, seed: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        """3 x resolution x resolution of an RGB image."""

    @abstractmethod
    def finish(self, pixels: torch.Tensor) -> torch.Tensor:
        """Float32 of uint8, [n x] 3 x resolution x resolution, in memory of its own."""

    def __call__(self, image: Image.Image, seed: tuple[int, ...] = ()) -> torch.Tensor:
        """Both steps."""
        import torch

        return self.finish(torch.from_numpy(self.pixels(image, seed)))


class CentreCrop(PixelTransform):
    """What evaluation makes of an image: shorter side resized, centre cut out, normalised.

    The sizes are those of torchvision's Resize and CenterCrop on Pillow images. Only what is kept is computed, in the
    two passes in which Pillow resizes a whole image: across, then down. (Given the corners to keep it may take them
    the other way round; its bicubic then differs by a tenth of the range, since overshoots are cut off in between.)
    Pillow takes corners in float32, so that a few values differ from resizing all and cutting, by 1 or 2 of 255: of
    ImageNet's usual 500 x 375 pixels one in 800, even of noise (tests/models/test_data_transforms.py).

    Raises:
        DataError: the interpolation is not known, or the shorter side smaller than the crop.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        if preprocessing.interpolation not in INTERPOLATIONS:
            raise DataError(
                f"the interpolation {preprocessing.interpolation} is not known; expected bilinear or bicubic"
            )
        if not 1 <= preprocessing.resolution <= preprocessing.resize:
            raise DataError(
                f"a crop of {preprocessing.resolution} cannot be cut out of images whose shorter side is "
                f"{preprocessing.resize}; expected at least as much"
            )
        self.preprocessing = preprocessing
        self._method, self._taps = INTERPOLATIONS[preprocessing.interpolation]
        self._scale = np.array([1 / (255 * std) for std in preprocessing.std], np.float32).reshape(3, 1, 1)
        self._shift = np.array(
            [mean / std for mean, std in zip(preprocessing.mean, preprocessing.std, strict=True)], np.float32
        ).reshape(3, 1, 1)

    def pixels(self, image: Image.Image, seed: tuple[int, ...] = ()) -> npt.NDArray[np.uint8]:  # noqa: ARG002
        """Resized and cut."""
        crop, resize = self.preprocessing.resolution, self.preprocessing.resize
        width, height = image.size
        if width <= height:
            wide, high = resize, int(resize * height / width)
        else:
            wide, high = int(resize * width / height), resize
        left, top = round((wide - crop) / 2), round((high - crop) / 2)
        across, down = width / wide, height / high
        reach = self._taps * max(down, 1)
        first, end = max(0, floor(top * down - reach)), min(height, ceil((top + crop) * down + reach))
        if (first, end) != (0, height):
            image = image.crop((0, first, width, end))
        rows = image.height
        kept: tuple[float, float, float, float] = (left * across, 0, min(width, (left + crop) * across), rows)
        image = image.resize((crop, rows), self._method, kept)
        kept = (0, top * down - first, crop, min(rows, (top + crop) * down - first))
        image = image.resize((crop, crop), self._method, kept)
        return np.asarray(image).transpose(2, 0, 1).copy()

    def finish(self, pixels: torch.Tensor) -> torch.Tensor:
        """(pixel / 255 - mean) / std."""
        import torch

        scale, shift = torch.from_numpy(self._scale), torch.from_numpy(self._shift)
        made = torch.empty(pixels.shape)
        # One by one: an image stays in the cache through the three steps, and a batch does not.
        images = (-1, *pixels.shape[-3:])
        for source, target in zip(pixels.reshape(images), made.view(images), strict=True):
            target.copy_(source).mul_(scale).sub_(shift)
        return made
