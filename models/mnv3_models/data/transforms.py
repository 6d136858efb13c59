"""From an image to a network's input."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mnv3_models.data.errors import DataError

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch
    from PIL import Image

    from mnv3_models.data.preprocessing import Preprocessing


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

    The sizes are those of torchvision's Resize and CenterCrop on Pillow images. A bilinear resize is computed for the
    part that is kept only. Pillow rounds after each of its two passes and takes them in another order then, so that a
    pixel may differ by 1 (of noise, 2) of 255 from resizing all and cutting (tests/models/test_data_transforms.py).
    Its bicubic also cuts off overshoots in between, which differs by more, and is done in full.

    Raises:
        DataError: the interpolation is not known, or the shorter side smaller than the crop.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        if preprocessing.interpolation not in ("bilinear", "bicubic"):
            raise DataError(
                f"the interpolation {preprocessing.interpolation} is not known; expected bilinear or bicubic"
            )
        if not 1 <= preprocessing.resolution <= preprocessing.resize:
            raise DataError(
                f"a crop of {preprocessing.resolution} cannot be cut out of images whose shorter side is "
                f"{preprocessing.resize}; expected at least as much"
            )
        self.preprocessing = preprocessing
        self._scale = np.array([1 / (255 * std) for std in preprocessing.std], np.float32).reshape(3, 1, 1)
        self._shift = np.array(
            [mean / std for mean, std in zip(preprocessing.mean, preprocessing.std, strict=True)], np.float32
        ).reshape(3, 1, 1)

    def pixels(self, image: Image.Image, seed: tuple[int, ...] = ()) -> npt.NDArray[np.uint8]:  # noqa: ARG002
        """Resized and cut."""
        from PIL import Image

        crop, resize = self.preprocessing.resolution, self.preprocessing.resize
        width, height = image.size
        if width <= height:
            wide, high = resize, int(resize * height / width)
        else:
            wide, high = int(resize * width / height), resize
        left, top = round((wide - crop) / 2), round((high - crop) / 2)
        if self.preprocessing.interpolation == "bilinear":
            across, down = width / wide, height / high
            box = (
                left * across,
                top * down,
                min(width, (left + crop) * across),
                min(height, (top + crop) * down),
            )
            image = image.resize((crop, crop), Image.Resampling.BILINEAR, box)
        else:
            image = image.resize((wide, high), Image.Resampling.BICUBIC)
            image = image.crop((left, top, left + crop, top + crop))
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))

    def finish(self, pixels: torch.Tensor) -> torch.Tensor:
        """(pixel / 255 - mean) / std."""
        import torch

        return (
            pixels.to(torch.float32).mul_(torch.from_numpy(self._scale)).sub_(torch.from_numpy(self._shift))
        )
