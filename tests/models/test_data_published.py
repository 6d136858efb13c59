"""Whose word counts on how images become inputs: the card's, the publisher's, a rule's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from mnv3_models.card import Card, metadata
from mnv3_models.data import Preprocessing, preprocessing_for
from mnv3_models.data.published import PUBLISHED

if TYPE_CHECKING:
    from pathlib import Path

V2_LARGE = "5c1a4163" + "0" * 56


def found(file: Path | None, **changed: Any) -> Preprocessing:
    asked: dict[str, Any] = {
        "sha256": "0" * 64,
        "layout": "torchvision",
        "variant": "v3-large",
        "resolution": 224,
        "normalization": None,
    }
    return preprocessing_for(file, **asked | changed)


def with_card(path: Path, made: Preprocessing) -> Path:
    save_file({"x": torch.zeros(1)}, path, metadata(Card("v3-small", 10, 1e-3, made)))
    return path


def test_the_card_comes_first(tmp_path: Path) -> None:
    made = Preprocessing(96, 108, "bicubic", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    weights = with_card(tmp_path / "own.safetensors", made)
    card = found(weights, sha256=V2_LARGE, resolution=96)
    assert (card.resize, card.interpolation, card.mean, card.std) == (108, "bicubic", made.mean, made.std)
    assert "v3-small" in card.source
    assert found(weights, resolution=48).resize == 54


def test_published_weights_are_known_by_their_digest(tmp_path: Path) -> None:
    large = found(tmp_path / "w.pth", sha256=V2_LARGE)
    assert (large.resolution, large.resize, large.interpolation) == (224, 232, "bilinear")
    assert "IMAGENET1K_V2" in large.source
    assert found(tmp_path / "w.pth", sha256=V2_LARGE, resolution=160).resize == round(160 * 232 / 224)
    assert all(len(digits) == 8 and each.resize >= each.resolution for digits, each in PUBLISHED.items())


@pytest.mark.parametrize(
    ("name", "changed", "mean"),
    [
        ("w.pth", {}, 0.485),
        ("w.pth", {"layout": "timm"}, 0.485),
        ("w.pth", {"layout": "timm", "variant": "v1@0.5"}, 0.5),
        ("w.pth", {"layout": "timm", "variant": "v3-small-minimal"}, 0.5),
        ("mobilenetv3_large_100.ra4_e3600_r224_in1k.pth", {"layout": "timm"}, 0.5),
        ("mobilenetv3_large_100.ra4_e3600_r224_in1k.pth", {}, 0.485),
        ("extra4.pth", {"layout": "timm"}, 0.485),
    ],
)
def test_the_rest_is_assumed_and_said_to_be(
    tmp_path: Path, name: str, changed: dict[str, Any], mean: float
) -> None:
    rule = found(tmp_path / name, **changed)
    assert rule.mean[0] == mean
    assert rule.resize == 256
    assert "assumed" in rule.source


@pytest.mark.parametrize(("resolution", "resize"), [(224, 256), (192, 219), (96, 110), (32, 37), (1, 1)])
def test_the_shorter_side_keeps_its_ratio(resolution: int, resize: int) -> None:
    assert found(None, sha256=None, layout=None, resolution=resolution).resize == resize


def test_what_was_typed_replaces_mean_and_deviation_only(tmp_path: Path) -> None:
    typed = found(tmp_path / "w.pth", sha256=V2_LARGE, normalization="half")
    assert (typed.mean, typed.std, typed.resize) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 232)
    assert typed.source == "--normalization half"
    with pytest.raises(ValueError, match="zero is not known; type imagenet, half, unit"):
        found(None, normalization="zero")


def test_a_damaged_card_is_no_assumption(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "w.safetensors", {"mnv3_models.card": "{"})
    with pytest.raises(ValueError, match="cannot be read"):
        found(tmp_path / "w.safetensors")
