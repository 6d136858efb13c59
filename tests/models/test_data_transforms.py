"""What evaluation makes of an image, against resizing all of it and cutting with Pillow."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from mnv3_models.data import CentreCrop, DataError, PixelTransform, Preprocessing

RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def scene(width: int, height: int) -> Image.Image:
    """Edges and gradients, as photographs have them."""
    x, y = np.meshgrid(np.linspace(0, 9, width), np.linspace(0, 9, height))
    bright = 128 + 60 * np.sin(x * y / 3) + 60 * (np.hypot(x - 4, y - 5) < 2)
    return Image.fromarray(np.stack([bright, bright[::-1], 255 - bright], 2).clip(0, 255).astype(np.uint8))


def plain(image: Image.Image, resize: int, crop: int, interpolation: str) -> np.ndarray:
    """torchvision's Resize and CenterCrop, to the letter."""
    width, height = image.size
    short, long = min(width, height), max(width, height)
    size = (resize, int(resize * long / short)) if width <= height else (int(resize * long / short), resize)
    # Across, then down, as Pillow itself does; newer ones do what is over twice as high as wide the other way.
    image = image.resize((size[0], height), RESAMPLING[interpolation]).resize(size, RESAMPLING[interpolation])
    top, left = int(round((image.height - crop) / 2.0)), int(round((image.width - crop) / 2.0))  # noqa: RUF046
    return np.asarray(image.crop((left, top, left + crop, top + crop))).astype(int)


SIZES = [
    (500, 375),
    (375, 500),
    (256, 256),
    (224, 224),
    (301, 999),
    (640, 233),
    (8, 8),
    (17, 30),
    (1, 40),
    (224, 300),
]


@pytest.mark.parametrize("interpolation", RESAMPLING)
@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (232, 224), (224, 224), (37, 32)])
@pytest.mark.parametrize("size", SIZES)
def test_it_differs_from_the_plain_way_by_rounding_alone(
    size: tuple[int, int], resize: int, crop: int, interpolation: str
) -> None:
    transform = CentreCrop(Preprocessing(crop, resize, interpolation))
    for image in (noise(*size), scene(*size)):
        off = transform.pixels(image).transpose(1, 2, 0) - plain(image, resize, crop, interpolation)
        assert np.abs(off).max() <= 2
        assert (off != 0).mean() <= 0.05


@pytest.mark.parametrize("interpolation", RESAMPLING)
def test_an_image_of_extreme_proportions_takes_no_gigabytes(interpolation: str) -> None:
    transform = CentreCrop(Preprocessing(224, 256, interpolation))
    for size in ((60_000, 1), (1, 60_000)):
        assert transform.pixels(Image.new("RGB", size, (10, 20, 30))).reshape(3, -1).mean(1).tolist() == [
            10,
            20,
            30,
        ]


def test_pixels_are_normalised_by_the_formula() -> None:
    made = Preprocessing(32, 32, mean=(0.1, 0.5, 0.3), std=(0.2, 0.25, 0.5))
    image = noise(32, 32)
    found = CentreCrop(made)(image, ())
    assert (found.shape, found.dtype) == ((3, 32, 32), torch.float32)
    assert found.is_contiguous()
    wanted = (np.asarray(image) / 255 - np.array(made.mean)) / np.array(made.std)
    assert np.allclose(found.permute(1, 2, 0), wanted, atol=2e-6)


def test_a_batch_is_finished_as_each_image_is() -> None:
    transform = CentreCrop(Preprocessing(24, 28))
    images = [noise(40, 30, seed) for seed in range(5)]
    pixels = torch.from_numpy(np.stack([transform.pixels(image) for image in images]))
    assert torch.equal(transform.finish(pixels), torch.stack([transform(image) for image in images]))
    assert isinstance(pickle.loads(pickle.dumps(transform)), PixelTransform)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (Preprocessing(224, 256, "nearest"), "nearest is not known; expected bilinear or bicubic"),
        (Preprocessing(224, 200), "shorter side is 200"),
        (Preprocessing(0, 0), "crop of 0"),
    ],
)
def test_what_cannot_be_done_is_refused(made: Preprocessing, said: str) -> None:
    with pytest.raises(DataError, match=said):
        CentreCrop(made)
