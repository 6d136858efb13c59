"""The feature table is read off what is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from torch import nn

from mnv3_models import build, list_variants
from mnv3_models.features import ABSENT, features

if TYPE_CHECKING:
    from mnv3_models.layers import MobileNet

EXPECTED = {
    "v1": ["13 of 13 blocks", ABSENT, ABSENT, ABSENT, ABSENT, ABSENT, "3×3 in 13 blocks", ABSENT],
    "v2": [
        "17 of 17 blocks",
        "17 of 17 blocks",
        "16 of 17 blocks",
        "10 of 17 blocks",
        ABSENT,
        ABSENT,
        "3×3 in 17 blocks",
        ABSENT,
    ],
    "v3-large": [
        "15 of 15 blocks",
        "15 of 15 blocks",
        "14 of 15 blocks",
        "10 of 15 blocks",
        "8 of 15 blocks",
        "21 of 32 activations (stem, blocks 7–15 of 15, last convolution, head)",
        "3×3 in 9 blocks, 5×5 in 6 blocks",
        "platform-aware NAS + NetAdapt (from the paper)",
    ],
    "v3-small": [
        "11 of 11 blocks",
        "11 of 11 blocks",
        "10 of 11 blocks",
        "6 of 11 blocks",
        "9 of 11 blocks",
        "19 of 24 activations (stem, blocks 4–11 of 11, last convolution, head)",
        "3×3 in 3 blocks, 5×5 in 8 blocks",
        "platform-aware NAS + NetAdapt (from the paper)",
    ],
    "v3-small-minimal": [
        "11 of 11 blocks",
        "11 of 11 blocks",
        "10 of 11 blocks",
        "6 of 11 blocks",
        ABSENT,
        ABSENT,
        "3×3 in 11 blocks",
        "platform-aware NAS + NetAdapt (from the paper)",
    ],
}
KEYS = [
    "depthwise separable",
    "linear bottleneck",
    "inverted residual",
    "residual addition",
    "squeeze-and-excitation",
    "hard-swish",
    "kernel sizes",
    "architecture search",
]


def of(model: MobileNet) -> dict[str, str]:
    return features(model, model.variant)


@pytest.mark.parametrize("name", EXPECTED)
def test_each_architecture_shows_its_features(name: str) -> None:
    assert of(build(name)) == dict(zip(KEYS, EXPECTED[name], strict=True))


@pytest.mark.parametrize("name", list_variants())
def test_all_architectures_have_the_same_keys_at_any_width(name: str) -> None:
    assert list(of(build(name, width=0.5))) == KEYS


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("small-no-se", {"squeeze-and-excitation": ABSENT}),
        ("small-no-hswish", {"hard-swish": ABSENT}),
        ("small-no-residual", {"residual addition": ABSENT}),
        ("small-no-kernel5", {"kernel sizes": "3×3 in 11 blocks"}),
        (
            "small-composed-hswish",
            {
                "hard-swish": "19 of 24 activations (stem, blocks 4–11 of 11, last convolution, head), of elementary "
                "operations"
            },
        ),
        ("small-se-hswish", {"squeeze-and-excitation": "9 of 11 blocks (hard-swish inside)"}),
        (
            "small-unskipped",
            {
                "inverted residual": "10 of 11 blocks, and 1 that expands to no more channels",
                "hard-swish": "19 of 25 activations (stem, blocks 4–11 of 11, last convolution, head)",
            },
        ),
    ],
)
def test_a_changed_form_differs_in_what_was_changed(name: str, changed: dict[str, str]) -> None:
    plain = dict(zip(KEYS, EXPECTED["v3-small"], strict=True))
    assert of(build(name)) == plain | changed


def test_all_literal_choices_at_once_show() -> None:
    shown = of(build("large-composed-hswish-se-hswish-unskipped-no-residual@0.5"))
    assert shown["squeeze-and-excitation"] == "8 of 15 blocks (hard-swish inside)"
    assert shown["residual addition"] == ABSENT  # the additions inside composed hard-swish are none
    assert shown["hard-swish"].startswith("21 of 33 activations (stem, blocks 7–15 of 15, ")


def test_features_follow_the_modules_not_the_name() -> None:
    model = build("v3-large")
    for block in model.blocks[:7]:
        block.use_residual = False  # type: ignore[assignment]
    model.get_submodule("features.15.block").register_module("2", nn.Identity())  # its SE
    model.classifier[1] = nn.ReLU()
    shown = of(model)
    assert shown["residual addition"] == "6 of 15 blocks"
    assert shown["squeeze-and-excitation"] == "7 of 15 blocks"
    assert shown["hard-swish"] == "20 of 32 activations (stem, blocks 7–15 of 15, last convolution)"


def test_a_network_from_elsewhere_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a Linear has no known blocks; expected a network from build\(\)"):
        features(nn.Linear(2, 2), build("v1").variant)
