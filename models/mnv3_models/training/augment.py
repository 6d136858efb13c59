"""What training makes of an image, and of a batch. All chance comes from seeds: no state, and no order of workers."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from mnv3_models.data import CentreCrop, PixelTransform
from mnv3_models.training.order import MIX, SAMPLE, generator

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL import Image
    from torch import nn

    from mnv3_models.data import Preprocessing
    from mnv3_models.training.knobs import Recipe

    Pixels = npt.NDArray[np.uint8]  # 3 x height x width

CROP_RATIOS = (3 / 4, 4 / 3)
ERASED_AREAS = (0.02, 1 / 3)
ERASED_RATIOS = (0.3, 1 / 0.3)
TRIES = 10
"""That a rectangle of random shape gets to lie within the image; the numbers are torchvision's."""


class Augmentation(PixelTransform):
    """A recipe's crop, flip, policy and erasing, at its training resolution.

    Args:
        recipe: whose knobs count.
        preprocessing: what evaluation makes of an image; sizes of crops and normalisation follow it.
    """

    def __init__(self, recipe: Recipe, preprocessing: Preprocessing) -> None:
        self._recipe = recipe
        self._preprocessing = preprocessing.at(recipe.resolution)
        self._centre = CentreCrop(self._preprocessing)

    def pixels(self, image: Image.Image, seed: tuple[int, ...]) -> Pixels:
        """Everything but normalisation; chance comes from the seed alone."""
        recipe = self._recipe
        chance = generator(SAMPLE, *seed)
        if recipe.crop == "random-resized-crop":
            found = _random_resized_crop(image, recipe.resolution, recipe.crop_scale, chance)
        else:
            found = self._centre.pixels(image)
            if recipe.crop == "pad-shift":
                found = _shifted(found, round(recipe.shift * recipe.resolution), chance)
        if recipe.flip and chance.random() < recipe.flip:
            found = found[:, :, ::-1]
        if recipe.augment != "none":
            found = _by_policy(found, recipe.augment, recipe.magnitude, int(chance.integers(2**63)))
        if recipe.random_erasing and chance.random() < recipe.random_erasing:
            found = self._erased(found, chance)
        return np.ascontiguousarray(found)

    def finish(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised, as in evaluation."""
        return self._centre.finish(pixels)

    def _erased(self, pixels: Pixels, chance: np.random.Generator) -> Pixels:
        box = _box(chance, pixels.shape[1], pixels.shape[2], ERASED_AREAS, ERASED_RATIOS)
        if box is None:
            return pixels
        top, left, height, width = box
        mean, deviation = (
            np.array(values).reshape(3, 1, 1) * 255
            for values in (self._preprocessing.mean, self._preprocessing.std)
        )
        noise = chance.standard_normal((3, height, width)) if self._recipe.erasing_fill == "noise" else 0.0
        erased = np.array(pixels)
        erased[:, top : top + height, left : left + width] = np.clip(
            np.rint(mean + deviation * noise), 0, 255
        )
        return erased


def _box(
    chance: np.random.Generator,
    height: int,
    width: int,
    areas: tuple[float, float],
    ratios: tuple[float, float],
) -> tuple[int, int, int, int] | None:
    """Top, left, height and width of a rectangle within the image, None where no try fits."""
    for _ in range(TRIES):
        area = height * width * chance.uniform(*areas)
        ratio = math.exp(chance.uniform(math.log(ratios[0]), math.log(ratios[1])))
        high, wide = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < high <= height and 0 < wide <= width:
            top = int(chance.integers(height - high + 1))
            return top, int(chance.integers(width - wide + 1)), high, wide
    return None


def _random_resized_crop(
    image: Image.Image, size: int, smallest: float, chance: np.random.Generator
) -> Pixels:
    """A random part of the image, resized; where none fits, the largest at the centre with a ratio that is allowed."""
    from PIL import Image

    width, height = image.size
    box = _box(chance, height, width, (smallest, 1.0), CROP_RATIOS)
    if box is None:
        wide = min(width, round(height * CROP_RATIOS[1]))
        high = min(height, round(width / CROP_RATIOS[0]))
        box = ((height - high) // 2, (width - wide) // 2, high, wide)
    top, left, high, wide = box
    resized = image.resize((size, size), Image.Resampling.BILINEAR, (left, top, left + wide, top + high))
    return np.asarray(resized).transpose(2, 0, 1)


def _shifted(pixels: Pixels, most: int, chance: np.random.Generator) -> Pixels:
    """Moved by up to so many pixels each way; what moves in is black."""
    down, right = (int(moved) for moved in chance.integers(-most, most + 1, 2))
    height, width = pixels.shape[1:]
    padded = np.pad(pixels, ((0, 0), (most, most), (most, most)))
    return padded[:, most - down : most - down + height, most - right : most - right + width]


@lru_cache(maxsize=4)
def _policy(name: str, magnitude: int) -> nn.Module:
    from kornia.augmentation import auto

    policy: nn.Module
    match name:
        case "randaugment":
            policy = auto.RandAugment(n=2, m=magnitude)
        case "trivial-augment":
            policy = auto.TrivialAugment()
        case _:
            policy = auto.AutoAugment("imagenet")
    return policy.eval()


def _by_policy(pixels: Pixels, name: str, magnitude: int, seed: int) -> Pixels:
    """What one of kornia's policies makes of an image.

    It draws from torch's global generator, which is put back, and its means are summed in an order that depends on the
    number of threads, which is therefore always 1, as in worker processes.
    """
    policy = _policy(name, magnitude)
    images = torch.from_numpy(np.ascontiguousarray(pixels)).unsqueeze(0).to(torch.float32).div_(255)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    try:
        torch.default_generator.manual_seed(seed)
        if threads > 1:
            torch.set_num_threads(1)
        with torch.inference_mode():
            images = policy(images)
    finally:
        torch.set_rng_state(state)
        if threads > 1:
            torch.set_num_threads(threads)
    found: Pixels = images[0].mul(255).round_().clamp_(0, 255).to(torch.uint8).numpy()
    return found


class Mixed(NamedTuple):
    """A batch whose images may be made of two each."""

    images: torch.Tensor
    """n x 3 x r x r."""
    labels: torch.Tensor
    """n."""
    partners: torch.Tensor
    """n: labels of the second images."""
    share: float
    """Of the first image; 1 where nothing was mixed."""


def mix(images: torch.Tensor, labels: torch.Tensor, recipe: Recipe, seed: tuple[int, ...]) -> Mixed:
    """Mixup or cutmix of a batch with itself, shifted by one; either at random where a recipe has both.

    Sources: Zhang et al. 2018, arXiv:1710.09412; Yun et al. 2019, arXiv:1905.04899.
    """
    kinds = [kind for kind in ("mixup", "cutmix") if getattr(recipe, kind)]
    if not kinds or len(labels) < 2:
        return Mixed(images, labels, labels, 1.0)
    chance = generator(MIX, *seed)
    kind = kinds[int(chance.integers(len(kinds)))]
    alpha = getattr(recipe, kind)
    share = float(chance.beta(alpha, alpha))
    others = images.roll(1, 0)
    if kind == "mixup":
        return Mixed(torch.lerp(others, images, share), labels, labels.roll(1), share)
    height, width = images.shape[-2:]
    half_high, half_wide = (int(side * math.sqrt(1 - share) / 2) for side in (height, width))
    middle, centre = int(chance.integers(height)), int(chance.integers(width))
    top, bottom = max(0, middle - half_high), min(height, middle + half_high)
    left, right = max(0, centre - half_wide), min(width, centre + half_wide)
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = others[..., top:bottom, left:right]
    return Mixed(mixed, labels, labels.roll(1), 1 - (bottom - top) * (right - left) / (height * width))
