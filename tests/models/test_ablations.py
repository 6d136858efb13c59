"""Forms of V3 with an ingredient changed: what they cost by arithmetic on the paper's rows, and what they compute."""

from __future__ import annotations

import re
from functools import cache
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import pytest
import torch
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode

from mnv3_models import build, list_variants, parse_variant
from mnv3_models.ablations import INGREDIENTS, ablated
from mnv3_models.checkpoints import load_weights
from mnv3_models.v3 import ComposedHardswish, SqueezeExcitation
from mnv3_models.variants import CHANGES

if TYPE_CHECKING:
    from mnv3_models.layers import MobileNet


class Block(NamedTuple):
    """A row of the paper's tables, with what follows from it: channels in, squeezed channels, pixels a side after."""

    kernel: int
    hidden: int
    squeezed: int
    pixels: int


# Kernel, expansion, squeezed channels (a quarter, to a multiple of 8; 0: no SE), and resolution behind the depthwise
# convolution for images of 224: tables 1 and 2 of the paper, written down apart from the builder's.
LARGE = [
    Block(*row)
    for row in (
        (3, 16, 0, 112), (3, 64, 0, 56), (3, 72, 0, 56), (5, 72, 24, 28), (5, 120, 32, 28), (5, 120, 32, 28),
        (3, 240, 0, 14), (3, 200, 0, 14), (3, 184, 0, 14), (3, 184, 0, 14), (3, 480, 120, 14), (3, 672, 168, 14),
        (5, 672, 168, 7), (5, 960, 240, 7), (5, 960, 240, 7),
    )
]  # fmt: skip
SMALL = [
    Block(*row)
    for row in (
        (3, 16, 8, 56), (3, 72, 0, 28), (3, 88, 0, 28), (5, 96, 24, 14), (5, 240, 64, 14), (5, 240, 64, 14),
        (5, 120, 32, 14), (5, 144, 40, 14), (5, 288, 72, 7), (5, 576, 144, 7), (5, 576, 144, 7),
    )
]  # fmt: skip
SIZES = {"large": LARGE, "small": SMALL}
SAME_LAYERS = ("no-hswish", "no-residual", "composed-hswish", "se-hswish")


@cache
def count(name: str) -> tuple[int, int]:
    """Parameters, and multiply-accumulates of one image of 224 x 224."""
    with torch.device("meta"):
        model, image = build(name).eval(), torch.empty(1, 3, 224, 224)
    with FlopCounterMode(display=False) as counter:
        model(image)
    return sum(parameter.numel() for parameter in model.parameters()), counter.get_total_flops() // 2


def difference(change: str, rows: list[Block]) -> tuple[int, int]:
    """Parameters and MACs that a change adds, from the rows alone."""
    if change == "no-se":  # two 1x1 convolutions with biases, on one pixel
        weights = sum(2 * row.hidden * row.squeezed for row in rows)
        return -weights - sum(row.hidden + row.squeezed for row in rows if row.squeezed), -weights
    if change == "no-kernel5":
        large = [row for row in rows if row.kernel == 5]
        return -sum(16 * row.hidden for row in large), -sum(16 * row.hidden * row.pixels**2 for row in large)
    if change == "unskipped":  # 16 to 16 channels with BatchNorm, on the stem's 112 x 112
        return 16 * 16 + 2 * 16, 16 * 16 * 112 * 112
    return 0, 0


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_costs_what_the_papers_rows_say(size: str, change: str) -> None:
    plain, changed = count(size), count(f"{size}-{change}")
    assert (changed[0] - plain[0], changed[1] - plain[1]) == difference(change, SIZES[size])


def test_the_first_blocks_expansion_is_the_known_difference_of_literal_readings() -> None:
    assert difference("unskipped", LARGE) == (288, 3_211_264)
    assert count("large-unskipped") == (5_483_032 + 288, 216_589_760 + 3_211_264)


def test_without_the_three_it_is_the_minimalistic_network() -> None:
    for size in SIZES:
        minimal = build(f"{size}-minimal").eval()
        changed = build(f"{size}-no-se-no-hswish-no-kernel5").eval()
        changed.load_state_dict(minimal.state_dict())
        images = torch.randn(1, 3, 64, 64)
        assert torch.equal(changed(images), minimal(images))


@pytest.fixture(scope="module", params=SIZES)
def pair(request: pytest.FixtureRequest) -> tuple[str, MobileNet]:
    """A size, and the plain network of it with statistics that let activations reach hard-swish's bends."""
    torch.manual_seed(0)
    model = build(request.param, width=0.5, num_classes=10)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.bias, 0.0, 1.5)
            norm.momentum = None
    for layer in model.classifier:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0.0, 0.3)
    with torch.no_grad():
        model(torch.randn(8, 3, 64, 64))
    return request.param, model.eval()


@pytest.mark.parametrize("change", SAME_LAYERS)
def test_weights_of_the_plain_network_load_into_what_has_its_layers(
    pair: tuple[str, MobileNet], change: str, tmp_path: object
) -> None:
    size, plain = pair
    file = f"{tmp_path}/plain.pth"
    torch.save(plain.state_dict(), file)
    changed = build(f"{size}-{change}", width=0.5, num_classes=10).eval()
    load_weights(changed, file)
    assert list(changed.state_dict()) == list(plain.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        ours, theirs = changed(images), plain(images)
    scale = theirs.abs().max()
    if change == "composed-hswish":
        assert (ours - theirs).abs().max() < 1e-5 * scale
    else:  # really another function
        assert (ours - theirs).abs().max() > 1e-2 * scale


def test_composed_hard_swish_has_hard_swishs_values_and_gradients() -> None:
    points = torch.cat(
        [torch.linspace(-8, 8, 4000), torch.tensor([0.0, 1e6, -1e6])]
    )  # not the bends at -3 and 3
    ours, theirs = points.clone().requires_grad_(), points.requires_grad_()
    composed, whole = ComposedHardswish()(ours), nn.Hardswish()(theirs)
    torch.testing.assert_close(composed, whole, atol=1e-6, rtol=1e-6)
    composed.sum().backward()
    whole.sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-6)
    kept = torch.randn(10)
    before = kept.clone()
    ComposedHardswish(inplace=True)(kept)
    assert torch.equal(kept, before)


@pytest.mark.parametrize("size", SIZES)
def test_a_change_reaches_every_place(size: str) -> None:
    def kinds(name: str) -> dict[type[nn.Module], int]:
        found = [type(module) for module in build(name).modules()]
        watched = (nn.ReLU, nn.Hardswish, ComposedHardswish, nn.Hardsigmoid, SqueezeExcitation, nn.Conv2d)
        return {kind: found.count(kind) for kind in watched}

    plain, squeezes = kinds(size), sum(row.squeezed > 0 for row in SIZES[size])
    relu, swish, composed, sigmoid, squeeze, convolution = plain
    assert (plain[squeeze], plain[sigmoid], plain[composed]) == (squeezes, squeezes, 0)
    assert kinds(f"{size}-no-residual") == kinds(f"{size}-no-kernel5") == plain
    assert kinds(f"{size}-no-se") == plain | {
        relu: plain[relu] - squeezes,
        sigmoid: 0,
        squeeze: 0,
        convolution: plain[convolution] - 2 * squeezes,
    }
    assert kinds(f"{size}-no-hswish") == plain | {relu: plain[relu] + plain[swish], swish: 0}
    assert kinds(f"{size}-composed-hswish") == plain | {composed: plain[swish], swish: 0}
    assert kinds(f"{size}-se-hswish") == plain | {
        relu: plain[relu] - squeezes,
        swish: plain[swish] + squeezes,
    }
    assert kinds(f"{size}-composed-hswish-se-hswish") == plain | {
        relu: plain[relu] - squeezes,
        swish: 0,
        composed: plain[swish] + squeezes,
    }
    assert kinds(f"{size}-unskipped") == plain | {
        relu: plain[relu] + 1,
        convolution: plain[convolution] + 1,
    }


@pytest.mark.parametrize("size", SIZES)
def test_without_residual_additions_no_block_passes_its_input_on(size: str) -> None:
    """With its last norm at zero, a block with a residual is the identity; none may be."""
    model = build(f"{size}-no-residual").eval()
    x = model.features[0](torch.rand(1, 3, 64, 64))
    for block in model.blocks:
        after = block(x)
        last = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)][-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        assert not block(x).any()
        x = after


def test_any_changes_that_agree_build_and_run() -> None:
    contradictory = ({"no-se", "se-hswish"}, {"no-hswish", "composed-hswish"}, {"no-hswish", "se-hswish"})
    for changes in combinations(CHANGES, 2):
        if set(changes) in contradictory:
            continue
        model = build("-".join(("small", *changes)), width=0.35, num_classes=7).eval()
        assert model.variant.changes == changes
        assert model(torch.randn(1, 3, 32, 32)).shape == (1, 7)


LITERAL = "small-no-residual-composed-hswish-se-hswish-unskipped"


@pytest.mark.filterwarnings("ignore:.torch.jit.trace")  # deprecated, and still a backend
def test_a_form_with_every_other_choice_can_be_traced_and_exported() -> None:
    model, images = build(LITERAL, width=0.35).eval(), torch.randn(2, 3, 32, 32)
    traced = torch.jit.trace(model, images)  # type: ignore[no-untyped-call]
    for form in (traced, fx.symbolic_trace(model), torch.export.export(model, (images,)).module()):
        torch.testing.assert_close(form(images), model(images))


def test_ingredients_are_told_in_a_line_and_have_a_source() -> None:
    assert list(INGREDIENTS) == [
        "se",
        "hswish",
        "residual",
        "kernel5",
        "composed-hswish",
        "se-hswish",
        "unskipped",
    ]
    assert [each.suffix for each in INGREDIENTS.values()] == list(CHANGES)
    for name, each in INGREDIENTS.items():
        assert each.name == name
        assert each.description
        assert each.source
        assert "\n" not in each.description + each.source


def test_each_ingredient_gives_one_form() -> None:
    forms = ablated(parse_variant("small@0.75"), ["hswish", " SE ", "residual", "se"])
    assert [form.name for form in forms] == [
        "v3-small-no-hswish@0.75",
        "v3-small-no-se@0.75",
        "v3-small-no-residual@0.75",
    ]
    assert [form.name for form in ablated(parse_variant("large"), list(INGREDIENTS))] == [
        f"v3-large-{change}" for change in CHANGES
    ]
    more = ablated(parse_variant("small-no-kernel5"), ["se", "unskipped"])
    assert [form.name for form in more] == ["v3-small-no-se-no-kernel5", "v3-small-no-kernel5-unskipped"]
    assert ablated(parse_variant("small"), []) == ()


@pytest.mark.parametrize(
    ("variant", "ingredient", "told"),
    [
        ("small", "hswsh", "'hswsh' is no ingredient of V3; did you mean hswish"),
        ("small", "no-se", "did you mean se"),
        ("small", "kernel", "did you mean kernel5?"),
        ("small", "attention", "known are se, hswish, residual, kernel5, "),
        ("v2", "residual", "v2 has no form for residual; only v3-large and v3-small have, at any width"),
        ("small-minimal", "se", "v3-small-minimal has no form for se; only v3-large and v3-small have"),
        ("mine:net", "se", "mine:net has no form for se"),
        ("small-no-se@0.5", "se", "v3-small-no-se@0.5 has no form for se, which is what it changes already"),
        ("large-no-se", "se-hswish", "-no-se and -se-hswish contradict each other"),
    ],
)
def test_what_has_no_such_form_is_told(variant: str, ingredient: str, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)) as caught:
        ablated(parse_variant(variant), ["residual" if variant == "small" else ingredient, ingredient])
    assert "\n" not in str(caught.value)


def test_plain_networks_have_nothing_changed() -> None:
    assert not any(parse_variant(name).changes for name in list_variants())
