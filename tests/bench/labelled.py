"""A tiny network with a card, and images whose labels are what that network makes of them: 100 % in eager fp32."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save_file

from mnv3_models import build, data
from mnv3_models.calibration import calibrate, seed_weights
from mnv3_models.card import Card, metadata

if TYPE_CHECKING:
    from pathlib import Path

VARIANT, CLASSES, PIXELS = "v3-small@0.25", 4, 32
PREPROCESSING = data.Preprocessing(PIXELS, PIXELS + 8, source="the test")


def card(**changes: object) -> Card:
    values: dict[str, object] = {
        "variant": VARIANT,
        "num_classes": CLASSES,
        "bn_eps": 1e-3,
        "preprocessing": PREPROCESSING,
        "classes": tuple("abcd"),
    }
    return Card(**{**values, **changes})  # type: ignore[arg-type]


def write_weights(path: Path, card: Card) -> Path:
    """Random weights, with a head that puts pictures into different classes."""
    model = build(card.variant, num_classes=card.num_classes)
    seed_weights(model, 3)
    images = _inputs(pictures(48, seed=9), card)
    calibrate(model, images.numpy())
    model.eval()
    head: torch.nn.Linear = model.classifier[-1]
    torch.nn.init.normal_(head.weight, 0.0, 1.0, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        head.bias.copy_(head.bias - model(images).mean(0))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_file(state, path, metadata=metadata(card))
    return path


def _inputs(images: np.ndarray, card: Card) -> torch.Tensor:
    from PIL import Image

    crop = data.CentreCrop(card.preprocessing)
    return torch.stack([crop(Image.fromarray(image), (0,)) for image in images])


def pictures(count: int, seed: int = 0) -> np.ndarray:
    """count x 40 x 48 x 3, uint8: blots of colour."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (count, 5, 6, 3), dtype=np.uint8)
    return np.repeat(np.repeat(small, 8, axis=1), 8, axis=2)


def predicted(weights: Path, card: Card, images: np.ndarray) -> np.ndarray:
    """Classes that the network gives these pictures, computed without the code under test."""
    from mnv3_models import load_weights

    model = build(card.variant, num_classes=card.num_classes).eval()
    load_weights(model, weights)
    with torch.inference_mode():
        found: np.ndarray = model(_inputs(images, card)).argmax(1).numpy()
    return found
