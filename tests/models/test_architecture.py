"""What is built: exact counts, and structure that equal counts would hide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode

from mnv3_models import build, list_variants
from mnv3_models.layers import make_divisible
from mnv3_models.v3 import SqueezeExcitation

if TYPE_CHECKING:
    from mnv3_models.layers import MobileNet

PARAMETERS = {
    "v1": 4_231_976,
    "v1@0.75": 2_585_560,
    "v1@0.5": 1_331_592,
    "v1@0.25": 470_072,
    "v2": 3_504_872,
    "v2@0.5": 1_968_680,
    "v2@1.4": 6_108_776,
    "v3-large": 5_483_032,
    "v3-large@0.75": 3_993_528,
    "v3-large-minimal": 3_924_288,
    "v3-small": 2_542_856,
    "v3-small@0.75": 2_041_872,
    "v3-small@0.5": 1_593_224,
    "v3-small-minimal": 2_044_736,
}
MACS = {
    "v1": 568_740_352,
    "v2": 300_774_272,
    "v3-large": 216_589_760,
    "v3-large@0.75": 154_560_624,
    "v3-large-minimal": 209_136_704,
    "v3-small": 56_510_400,
    "v3-small@0.75": 43_399_344,
    "v3-small-minimal": 52_288_448,
}

# A block a line: kernel, hidden channels, output channels, squeezed channels (0: no SE), activation, stride.
LARGE = """
3 16 16 0 ReLU 1
3 64 24 0 ReLU 2
3 72 24 0 ReLU 1
5 72 40 24 ReLU 2
5 120 40 32 ReLU 1
5 120 40 32 ReLU 1
3 240 80 0 Hardswish 2
3 200 80 0 Hardswish 1
3 184 80 0 Hardswish 1
3 184 80 0 Hardswish 1
3 480 112 120 Hardswish 1
3 672 112 168 Hardswish 1
5 672 160 168 Hardswish 2
5 960 160 240 Hardswish 1
5 960 160 240 Hardswish 1
"""
SMALL = """
3 16 16 8 ReLU 2
3 72 24 0 ReLU 2
3 88 24 0 ReLU 1
5 96 40 24 Hardswish 2
5 240 40 64 Hardswish 1
5 240 40 64 Hardswish 1
5 120 48 32 Hardswish 1
5 144 48 40 Hardswish 1
5 288 96 72 Hardswish 2
5 576 96 144 Hardswish 1
5 576 96 144 Hardswish 1
"""
SMALL_MINIMAL = """
3 16 16 0 ReLU 2
3 72 24 0 ReLU 2
3 88 24 0 ReLU 1
3 96 40 0 ReLU 2
3 240 40 0 ReLU 1
3 240 40 0 ReLU 1
3 120 48 0 ReLU 1
3 144 48 0 ReLU 1
3 288 96 0 ReLU 2
3 576 96 0 ReLU 1
3 576 96 0 ReLU 1
"""
V2 = """
3 32 16 0 ReLU6 1
3 96 24 0 ReLU6 2
3 144 24 0 ReLU6 1
3 144 32 0 ReLU6 2
3 192 32 0 ReLU6 1
3 192 32 0 ReLU6 1
3 192 64 0 ReLU6 2
3 384 64 0 ReLU6 1
3 384 64 0 ReLU6 1
3 384 64 0 ReLU6 1
3 384 96 0 ReLU6 1
3 576 96 0 ReLU6 1
3 576 96 0 ReLU6 1
3 576 160 0 ReLU6 2
3 960 160 0 ReLU6 1
3 960 160 0 ReLU6 1
3 960 320 0 ReLU6 1
"""
V1 = """
3 32 64 0 ReLU6 1
3 64 128 0 ReLU6 2
3 128 128 0 ReLU6 1
3 128 256 0 ReLU6 2
3 256 256 0 ReLU6 1
3 256 512 0 ReLU6 2
3 512 512 0 ReLU6 1
3 512 512 0 ReLU6 1
3 512 512 0 ReLU6 1
3 512 512 0 ReLU6 1
3 512 512 0 ReLU6 1
3 512 1024 0 ReLU6 2
3 1024 1024 0 ReLU6 1
"""
TABLES = {"v1": V1, "v2": V2, "v3-large": LARGE, "v3-small": SMALL, "v3-small-minimal": SMALL_MINIMAL}


def modules_of(module: nn.Module, kind: type[Any]) -> list[Any]:
    return [m for m in module.modules() if isinstance(m, kind)]


def activations_of(module: nn.Module) -> list[str]:
    names = [type(m).__name__ for m in module.modules()]
    return [name for name in names if name in ("ReLU", "ReLU6", "Hardswish", "Hardsigmoid")]


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_equal_the_published_count(name: str) -> None:
    model = build(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", MACS)
def test_macs_equal_the_published_count(name: str) -> None:
    with torch.device("meta"):
        model, image = build(name).eval(), torch.empty(1, 3, 224, 224)
    with FlopCounterMode(display=False) as counter:
        model(image)
    assert counter.get_total_flops() == 2 * MACS[name]


@pytest.mark.parametrize("name", TABLES)
def test_every_block_is_its_row(name: str) -> None:
    rows = [line.split() for line in TABLES[name].strip().splitlines()]
    blocks = build(name).blocks
    assert len(blocks) == len(rows)
    for block, row in zip(blocks, rows, strict=True):
        (depthwise,) = [conv for conv in modules_of(block, nn.Conv2d) if conv.groups > 1]
        squeeze = modules_of(block, SqueezeExcitation)
        built = [
            depthwise.kernel_size[0],
            depthwise.out_channels,
            modules_of(block, nn.BatchNorm2d)[-1].num_features,
            squeeze[0].fc1.out_channels if squeeze else 0,
            activations_of(block)[0],
            depthwise.stride[0],
        ]
        assert [str(value) for value in built] == row
        assert depthwise.groups == depthwise.in_channels == depthwise.out_channels
        assert depthwise.padding[0] == (depthwise.kernel_size[0] - 1) // 2


def test_squeeze_and_excitation_sits_between_depthwise_activation_and_projection() -> None:
    block = build("v3-large").blocks[3].get_submodule("block")
    expand, depthwise, squeeze, project = block.children()
    assert [type(layer).__name__ for layer in expand.children()] == ["Conv2d", "BatchNorm2d", "ReLU"]
    assert [type(layer).__name__ for layer in depthwise.children()] == ["Conv2d", "BatchNorm2d", "ReLU"]
    assert isinstance(squeeze, SqueezeExcitation)
    assert activations_of(squeeze) == ["ReLU", "Hardsigmoid"]
    assert [type(layer).__name__ for layer in project.children()] == ["Conv2d", "BatchNorm2d"]


def test_squeeze_and_excitation_scales_each_channel_by_its_gate() -> None:
    squeeze = SqueezeExcitation(32)
    x = torch.randn(2, 32, 5, 5)
    (w1, b1), (w2, b2) = squeeze.fc1.parameters(), squeeze.fc2.parameters()
    hidden = torch.relu(x.mean((2, 3)) @ w1.flatten(1).T + b1)
    gate = ((hidden @ w2.flatten(1).T + b2) / 6 + 0.5).clamp(0, 1)
    torch.testing.assert_close(squeeze(x), x * gate[:, :, None, None])


@pytest.mark.parametrize(
    ("name", "residuals"),
    [
        ("v1", []),
        ("v2", [3, 5, 6, 8, 9, 10, 12, 13, 15, 16]),
        ("v3-large", [1, 3, 5, 6, 8, 9, 10, 12, 14, 15]),
        ("v3-small", [3, 5, 6, 8, 10, 11]),
    ],
)
def test_residuals_are_really_added(name: str, residuals: list[int]) -> None:
    """With its last norm at zero, a block with a residual is the identity and one without gives zeros."""
    model = build(name).eval()
    x = torch.rand(1, 3, 64, 64)
    x = model.features[0](x)
    identities = []
    for number, block in enumerate(model.blocks, start=1):
        after = block(x)
        last = modules_of(block, nn.BatchNorm2d)[-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        if torch.equal(without := block(x), x):
            identities.append(number)
        else:
            assert not without.any()
        x = after
    assert identities == residuals


@pytest.mark.parametrize(
    ("name", "head", "last"),
    [
        ("v3-large", ["Linear", "Hardswish", "Dropout", "Linear"], 960),
        ("v3-small", ["Linear", "Hardswish", "Dropout", "Linear"], 576),
        ("v3-small-minimal", ["Linear", "ReLU", "Dropout", "Linear"], 576),
        ("v2", ["Dropout", "Linear"], 1280),
        ("v1", ["Dropout", "Linear"], 1024),
    ],
)
def test_head_and_stem(name: str, head: list[str], last: int) -> None:
    model = build(name, dropout=0.3)
    assert [type(layer).__name__ for layer in model.classifier] == head
    (dropout,) = modules_of(model, nn.Dropout)
    assert dropout.p == 0.3
    stem = model.features[0]
    act = {"v1": "ReLU6", "v2": "ReLU6", "v3-small-minimal": "ReLU"}.get(name, "Hardswish")
    assert activations_of(stem) == [act]
    assert stem.get_submodule("0").stride == (2, 2)
    assert modules_of(model.features, nn.BatchNorm2d)[-1].num_features == last


@pytest.mark.parametrize("name", list_variants())
def test_every_place_has_an_activation_of_its_own(name: str) -> None:
    graph = fx.symbolic_trace(build(name).eval())
    kinds = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid)
    calls = [
        node.target
        for node in graph.graph.nodes
        if node.op == "call_module" and isinstance(graph.get_submodule(node.target), kinds)
    ]
    assert len(calls) == len(set(calls)) == len(activations_of(build(name)))


def test_heads_are_not_narrowed_but_widened() -> None:
    assert build("v3-large@0.5").classifier[0].out_features == 1280
    assert build("v3-small@0.5").classifier[0].out_features == 1024
    assert build("v3-large@1.25").classifier[0].out_features == 1600
    assert build("v2@0.35").classifier[1].in_features == 1280
    assert build("v2@1.4").classifier[1].in_features == 1792


def test_batch_norm_defaults_follow_the_family_and_can_be_set() -> None:
    def settings(model: MobileNet) -> set[tuple[float, float | None]]:
        return {(norm.eps, norm.momentum) for norm in modules_of(model, nn.BatchNorm2d)}

    assert settings(build("v3-large")) == settings(build("v3-small-minimal")) == {(1e-3, 0.01)}
    assert settings(build("v1")) == settings(build("v2")) == {(1e-5, 0.1)}
    assert settings(build("v3-small", bn_eps=1e-5, bn_momentum=0.1)) == {(1e-5, 0.1)}


def test_initialisation_is_torchvisions() -> None:
    torch.manual_seed(0)
    model = build("v3-large")
    assert model.get_parameter("classifier.3.weight").std().item() == pytest.approx(0.01, rel=0.01)
    assert not model.get_parameter("classifier.3.bias").any()
    conv = model.get_parameter("features.16.0.weight")  # 1x1, 160 to 960: fan-out 960
    assert conv.std().item() == pytest.approx((2 / 960) ** 0.5, rel=0.02)
    assert not model.get_parameter("features.4.block.2.fc1.bias").any()
    assert model.get_parameter("features.0.1.weight").eq(1).all()
    assert not model.get_parameter("features.0.1.bias").any()


@pytest.mark.parametrize("width", [0.01, 0.1, 0.35, 1.3, 2.0])
@pytest.mark.parametrize("name", list_variants())
def test_any_width_and_number_of_classes_runs(name: str, width: float) -> None:
    model = build(name, width=width, num_classes=7)
    assert model.training
    assert model.eval()(torch.randn(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.filterwarnings("ignore:.torch.jit.trace")  # deprecated, and still a backend
@pytest.mark.parametrize("name", list_variants())
def test_networks_can_be_traced(name: str) -> None:
    model, images = build(name, width=0.35).eval(), torch.randn(2, 3, 32, 32)
    for form in (torch.jit.trace(model, images), fx.symbolic_trace(model)):  # type: ignore[no-untyped-call]
        torch.testing.assert_close(form(images), model(images))


@pytest.mark.parametrize("name", ["v1", "v2", "v3-small"])
def test_networks_can_be_exported(name: str) -> None:
    model, images = build(name, width=0.35).eval(), torch.randn(2, 3, 32, 32)
    program = torch.export.export(model, (images,), strict=True)
    torch.testing.assert_close(program.module()(images), model(images))


@pytest.mark.parametrize(
    ("channels", "rounded"), [(32, 32), (44.8, 48), (18, 24), (11.2, 16), (7, 8), (0.5, 8), (58.7, 56)]
)
def test_channels_round_to_eights_and_lose_at_most_a_tenth(channels: float, rounded: int) -> None:
    assert make_divisible(channels) == rounded
    assert make_divisible(channels) >= 0.9 * channels
