"""Chance comes from seeds alone: of a sample from the run's, the epoch and its index, of a step from its number."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from mnv3_models.data import CentreCrop, Preprocessing, Tally, loader, open_data
from mnv3_models.training.augment import Augmentation, mix
from mnv3_models.training.order import Order
from mnv3_models.training.recipes import get_recipe, override

if TYPE_CHECKING:
    from mnv3_models.data import Batch, Part
    from mnv3_models.training.knobs import Recipe

EVERYTHING: dict[str, Any] = {
    "resolution": 32,
    "crop": "random-resized-crop",
    "flip": 0.5,
    "random_erasing": 0.5,
    "erasing_fill": "noise",
}
POLICIES = ("randaugment", "trivial-augment", "auto-augment")


def recipe(**knobs: Any) -> Recipe:
    return override(get_recipe("quick"), **{"resolution": 32, "crop": "none", **knobs})


@pytest.fixture(scope="module")
def digits() -> Part:
    return open_data("digits").part("train")


def photograph() -> Image.Image:
    """Colours everywhere, and no symmetry."""
    down, across = np.mgrid[0:48, 0:64]
    pixels = np.stack([down * 5, across * 4, (down * across) % 256], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def batches(part: Part, knobs: dict[str, Any], workers: int, epochs: int = 2) -> list[Batch]:
    chosen = recipe(**knobs)
    order = Order(len(part), 16, accumulate=2, seed=7)
    found = loader(
        part,
        Augmentation(chosen, chosen.preprocessing()),
        batch=8,
        workers=workers,
        tally=Tally(),
        order=order,
    )
    seen = []
    for epoch in range(epochs):
        order.epoch = epoch
        seen += list(found)
    found.close()
    return seen


def equal(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(left, right)
        for a, b in zip(one, other, strict=True)
        for left, right in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("augment", ["none", *POLICIES])
def test_the_number_of_workers_changes_nothing(digits: Part, augment: str) -> None:
    part = digits.select(range(40))
    torch.manual_seed(1)
    alone = batches(part, {**EVERYTHING, "augment": augment}, 0)
    torch.manual_seed(2)
    torch.set_num_threads(2)
    assert equal(alone, batches(part, {**EVERYTHING, "augment": augment}, 2))
    assert equal(alone, batches(part, {**EVERYTHING, "augment": augment}, 0)), "nor does the global generator"


@pytest.mark.parametrize("augment", POLICIES)
def test_a_policy_leaves_the_global_generator_and_the_threads_alone(augment: str) -> None:
    chosen = recipe(augment=augment)
    augmentation = Augmentation(chosen, chosen.preprocessing())
    torch.manual_seed(3)
    before = torch.get_rng_state()
    torch.set_num_threads(2)
    augmentation.pixels(photograph(), (0, 0, 0))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(
    "knobs",
    [
        {"crop": "pad-shift"},
        {"crop": "random-resized-crop"},
        {"flip": 0.5},
        {"random_erasing": 0.5},
        {"random_erasing": 1.0, "erasing_fill": "noise"},
        *({"augment": policy} for policy in POLICIES),
    ],
    ids=str,
)
def test_every_part_of_the_seed_counts(knobs: dict[str, Any]) -> None:
    chosen = recipe(**knobs)
    augmentation = Augmentation(chosen, chosen.preprocessing())

    def made(seed: tuple[int, ...]) -> np.ndarray[Any, Any]:
        return augmentation.pixels(photograph(), seed)

    assert np.array_equal(made((1, 2, 3)), made((1, 2, 3)))
    assert made((0, 0, 0)).shape == (3, 32, 32)
    for vary in range(3):
        seeds = [tuple(number if position == vary else 0 for position in range(3)) for number in range(12)]
        assert len({made(seed).tobytes() for seed in seeds}) > 1


def test_without_knobs_it_is_what_evaluation_does() -> None:
    chosen = recipe()
    images = photograph()
    assert torch.equal(
        Augmentation(chosen, chosen.preprocessing())(images, (1, 2, 3)),
        CentreCrop(chosen.preprocessing())(images),
    )


def test_training_at_another_resolution_than_evaluation() -> None:
    chosen = get_recipe("torchvision-v2-improved")
    made = Augmentation(replace(chosen, augment="none"), chosen.preprocessing())(photograph(), (0, 0, 0))
    assert made.shape == (3, 176, 176)


def test_shifts_go_everywhere_and_black_moves_in() -> None:
    chosen = recipe(crop="pad-shift", shift=0.125)
    augmentation = Augmentation(chosen, chosen.preprocessing())
    plain = augmentation._centre.pixels(photograph())
    seen = set()
    for index in range(200):
        made = augmentation.pixels(photograph(), (0, 0, index))
        for down in range(-4, 5):
            for right in range(-4, 5):
                expected = np.zeros_like(plain)
                expected[:, max(0, down) : 32 + min(0, down), max(0, right) : 32 + min(0, right)] = plain[
                    :, max(0, -down) : 32 + min(0, -down), max(0, -right) : 32 + min(0, -right)
                ]
                if np.array_equal(made, expected):
                    seen.add((down, right))
                    break
            else:
                continue
            break
        else:
            pytest.fail("it is no shift")
    assert {down for down, _ in seen} == {right for _, right in seen} == set(range(-4, 5))


def test_flips_are_about_half() -> None:
    chosen = recipe(flip=0.5)
    augmentation = Augmentation(chosen, chosen.preprocessing())
    plain = augmentation._centre.pixels(photograph())
    flipped = [
        np.array_equal(augmentation.pixels(photograph(), (0, 0, index)), plain[:, :, ::-1])
        for index in range(200)
    ]
    assert 70 <= sum(flipped) <= 130


@pytest.mark.parametrize("fill", ["mean", "noise"])
def test_erasing(fill: Any) -> None:
    chosen = recipe(random_erasing=1.0, erasing_fill=fill)
    preprocessing = Preprocessing(32, 32, mean=(0.2, 0.4, 0.6), std=(0.1, 0.1, 0.1))
    augmentation = Augmentation(chosen, preprocessing)
    plain = augmentation._centre.pixels(photograph())
    shares, values = [], []
    for index in range(100):
        made = augmentation.pixels(photograph(), (0, 0, index))
        changed = (made != plain).any(axis=0)
        shares.append(changed.mean())
        values.append(made[:, changed])
    assert 0.01 < min(shares) < 0.1
    assert 0.25 < max(shares) <= 0.36
    erased = np.concatenate(values, axis=1) / 255
    assert erased.mean(axis=1) == pytest.approx([0.2, 0.4, 0.6], abs=0.01)
    assert erased.std(axis=1).max() == pytest.approx(0.0 if fill == "mean" else 0.1, abs=0.01)


def test_random_crops_are_parts_of_the_image() -> None:
    chosen = recipe(crop="random-resized-crop", crop_scale=0.25)
    augmentation = Augmentation(chosen, chosen.preprocessing())
    top = [augmentation.pixels(photograph(), (0, 0, index))[0].min() for index in range(50)]
    assert len(set(top)) > 10, "rows of another height at the top"


@pytest.mark.parametrize("knobs", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}], ids=str)
def test_mixing(knobs: dict[str, Any]) -> None:
    """The share that the loss gives to the first label is the first image's share of the pixels."""
    images = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 3, 16, 16).contiguous()
    labels = torch.arange(4)
    chosen = recipe(**knobs)
    kinds = set()
    for step in range(40):
        mixed = mix(images, labels, chosen, (5, step, 0, 0))
        again = mix(images, labels, chosen, (5, step, 0, 0))
        assert torch.equal(mixed.images, again.images)
        assert mixed.share == again.share
        assert torch.equal(mixed.labels, labels)
        assert torch.equal(mixed.partners, labels.roll(1))
        expected = mixed.share * labels + (1 - mixed.share) * labels.roll(1)
        assert torch.allclose(mixed.images.mean((1, 2, 3)), expected, atol=1e-5)
        kinds.add(len(mixed.images[1].unique()) > 1)
    shares = [mix(images, labels, chosen, (5, step, 0, 0)).share for step in range(40)]
    assert len(set(shares)) > 20
    assert kinds >= {"cutmix" in knobs}


def test_nothing_is_mixed_without_a_knob_or_a_partner() -> None:
    images, labels = torch.ones(4, 3, 8, 8), torch.arange(4)
    assert mix(images, labels, recipe(), (0, 0, 0, 0)).images is images
    alone = mix(images[:1], labels[:1], recipe(mixup=0.2), (0, 0, 0, 0))
    assert alone.share == 1


def test_an_epochs_order() -> None:
    order = Order(50, 8, seed=1)
    first = [key for batch in order for key in batch]
    assert order.steps == len(order) == 6
    assert len({index for _, _, index in first}) == 48, "each image once; two are left over"
    assert first == [key for batch in order for key in batch]
    order.epoch = 1
    second = [key for batch in order for key in batch]
    assert [index for _, _, index in first] != [index for _, _, index in second]
    assert {key[:2] for key in second} == {(1, 1)}
    assert [key for batch in Order(50, 8, seed=2) for key in batch] != first


def test_an_epoch_that_goes_on() -> None:
    order = Order(50, 8, accumulate=2, seed=1)
    whole = list(order)
    order.skipped = 4
    assert list(order) == whole[8:]
    assert len(order) == 4


def test_processes_share_each_step() -> None:
    whole = list(Order(50, 8, seed=1))
    shared = [list(Order(50, 8, seed=1, accumulate=2, rank=rank, world=2)) for rank in (0, 1)]
    for step in range(6):
        parts = [key for part in (0, 1) for rank in (0, 1) for key in shared[rank][2 * step + part]]
        assert parts == whole[step]


def test_few_images() -> None:
    order = Order(5, 64, accumulate=2)
    assert (order.steps, order.part, order.batch) == (1, 2, 4)
    with pytest.raises(ValueError, match="1 images cannot be spread over 2 parts"):
        Order(1, 64, accumulate=2)
