"""Checkpoints in torchvision's and timm's layout give the logits of the layout they came from.

The networks are written here a second time, as functions over bare tensors in a neutral naming, with tables of their
own. Two independent namings turn the same tensors into the two layouts, with the parameter names and shapes that
torchvision 0.29 and timm 1.0 have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from mnv3_models import build, load_weights

if TYPE_CHECKING:
    from pathlib import Path

State = dict[str, torch.Tensor]
CLASSES = 11


class Spec(NamedTuple):
    """One repeated block: repeats, kernel, stride, expansion ratio, output channels, SE, activation."""

    n: int
    k: int
    s: int
    e: float
    c: int
    se: bool = False
    act: str = "relu6"


class Net(NamedTuple):
    family: str
    stages: list[list[Spec]]
    stem: tuple[int, str]
    last: int
    head: int
    eps: dict[str, float]  # by layout
    residual: bool = True


def v3(stages: list[list[Spec]], last: int, head: int, act: str, timm_eps: float = 1e-5) -> Net:
    return Net("v3", stages, (16, act), last, head, {"timm": timm_eps, "torchvision": 1e-3})


NETS = {
    "v1": Net(
        "v1",
        [[Spec(1, 3, 1, 1, 64)]]
        + [[Spec(1, 3, 2, 1, c), Spec(n, 3, 1, 1, c)] for c, n in ((128, 1), (256, 1), (512, 5), (1024, 1))],
        (32, "relu6"),
        0,
        0,
        {"timm": 1e-5, "torchvision": 1e-5},
        residual=False,
    ),
    "v2": Net(
        "v2",
        [
            [Spec(n, 3, s, e, c)]
            for n, s, e, c in (
                (1, 1, 1, 16),
                (2, 2, 6, 24),
                (3, 2, 6, 32),
                (4, 2, 6, 64),
                (3, 1, 6, 96),
                (3, 2, 6, 160),
                (1, 1, 6, 320),
            )
        ],
        (32, "relu6"),
        1280,
        0,
        {"timm": 1e-5, "torchvision": 1e-5},
    ),
    "v3-large": v3(
        [
            [Spec(1, 3, 1, 1, 16, act="relu")],
            [Spec(1, 3, 2, 4, 24, act="relu"), Spec(1, 3, 1, 3, 24, act="relu")],
            [Spec(3, 5, 2, 3, 40, True, "relu")],
            [
                Spec(1, 3, 2, 6, 80, act="hs"),
                Spec(1, 3, 1, 2.5, 80, act="hs"),
                Spec(2, 3, 1, 2.3, 80, act="hs"),
            ],
            [Spec(2, 3, 1, 6, 112, True, "hs")],
            [Spec(3, 5, 2, 6, 160, True, "hs")],
        ],
        960,
        1280,
        "hs",
    ),
    "v3-small": v3(
        [
            [Spec(1, 3, 2, 1, 16, True, "relu")],
            [Spec(1, 3, 2, 4.5, 24, act="relu"), Spec(1, 3, 1, 3.67, 24, act="relu")],
            [Spec(1, 5, 2, 4, 40, True, "hs"), Spec(2, 5, 1, 6, 40, True, "hs")],
            [Spec(2, 5, 1, 3, 48, True, "hs")],
            [Spec(3, 5, 2, 6, 96, True, "hs")],
        ],
        576,
        1024,
        "hs",
    ),
    "v3-small-minimal": v3(
        [
            [Spec(1, 3, 2, 1, 16, act="relu")],
            [Spec(1, 3, 2, 4.5, 24, act="relu"), Spec(1, 3, 1, 3.67, 24, act="relu")],
            [Spec(1, 3, 2, 4, 40, act="relu"), Spec(2, 3, 1, 6, 40, act="relu")],
            [Spec(2, 3, 1, 3, 48, act="relu")],
            [Spec(3, 3, 2, 6, 96, act="relu")],
        ],
        576,
        1024,
        "relu",
        timm_eps=1e-3,
    ),
}


class Place(NamedTuple):
    """A block of the unrolled network."""

    stage: int
    number: int
    cin: int
    hidden: int
    spec: Spec
    stride: int

    @property
    def parts(self) -> list[str]:
        """Convolutions in order, 'se' standing for squeeze-and-excitation."""
        return ["pw"] * (self.spec.e != 1) + ["dw"] + ["se"] * self.spec.se + ["pwl"]


def eights(channels: float) -> int:
    low = int(channels + 4) // 8 * 8
    return low if low >= 0.9 * channels else low + 8


def places(net: Net) -> list[Place]:
    found, cin = [], net.stem[0]
    for stage, specs in enumerate(net.stages):
        number = 0
        for spec in specs:
            for repeat in range(spec.n):
                stride = spec.s if repeat == 0 else 1
                found.append(Place(stage, number, cin, eights(cin * spec.e), spec, stride))
                number, cin = number + 1, spec.c
    return found


def tensors(net: Net) -> State:
    """Random tensors in the neutral naming: '<block>.<part>.w|g|b|m|v' for convolution and norm."""
    torch.manual_seed(3)
    state: State = {}

    def conv_norm(name: str, cout: int, cin: int, k: int) -> None:
        state[f"{name}.w"] = torch.randn(cout, cin, k, k) * (2 / (cin * k * k)) ** 0.5
        state[f"{name}.g"], state[f"{name}.b"] = torch.rand(cout) + 0.5, torch.randn(cout) * 0.3
        state[f"{name}.m"], state[f"{name}.v"] = torch.randn(cout) * 0.1, torch.rand(cout) * 0.5 + 0.2

    def linear(name: str, cout: int, cin: int) -> None:
        state[f"{name}.w"], state[f"{name}.b"] = torch.randn(cout, cin) / cin**0.5, torch.randn(cout) * 0.1

    conv_norm("stem", net.stem[0], 3, 3)
    out = 0
    for i, place in enumerate(places(net)):
        hidden, out = place.hidden, place.spec.c
        if "pw" in place.parts:
            conv_norm(f"{i}.pw", hidden, place.cin, 1)
        conv_norm(f"{i}.dw", hidden, 1, place.spec.k)
        if place.spec.se:
            linear(f"{i}.se1", eights(hidden / 4), hidden)
            linear(f"{i}.se2", hidden, eights(hidden / 4))
        conv_norm(f"{i}.pwl", out, hidden, 1)
    if net.last:
        conv_norm("last", net.last, out, 1)
        out = net.last
    if net.head:
        linear("head", net.head, out)
        out = net.head
    linear("fc", CLASSES, out)
    return state


def forward(net: Net, state: State, x: torch.Tensor, eps: float) -> torch.Tensor:
    """The network as a function, in double precision."""
    p = {key: value.double() for key, value in state.items()}
    activate = {"relu": F.relu, "relu6": F.relu6, "hs": lambda t: t * (t + 3).clamp(0, 6) / 6}

    def conv_norm(name: str, x: torch.Tensor, stride: int = 1, act: str | None = None) -> torch.Tensor:
        w = p[f"{name}.w"]
        x = F.conv2d(x, w, None, stride, w.shape[-1] // 2, groups=x.shape[1] // w.shape[1])
        scale = p[f"{name}.g"] / (p[f"{name}.v"] + eps).sqrt()
        x = (x - p[f"{name}.m"][:, None, None]) * scale[:, None, None] + p[f"{name}.b"][:, None, None]
        return activate[act](x) if act else x

    x = conv_norm("stem", x.double(), 2, net.stem[1])
    for i, place in enumerate(places(net)):
        given, act = x, place.spec.act
        if "pw" in place.parts:
            x = conv_norm(f"{i}.pw", x, 1, act)
        x = conv_norm(f"{i}.dw", x, place.stride, act)
        if place.spec.se:
            gate = F.relu(x.mean((2, 3)) @ p[f"{i}.se1.w"].T + p[f"{i}.se1.b"])
            gate = (gate @ p[f"{i}.se2.w"].T + p[f"{i}.se2.b"] + 3).clamp(0, 6) / 6
            x = x * gate[:, :, None, None]
        x = conv_norm(f"{i}.pwl", x, 1, act if net.family == "v1" else None)
        if net.residual and place.stride == 1 and x.shape == given.shape:
            x = x + given
    if net.last:
        x = conv_norm("last", x, 1, net.stem[1])
    x = x.mean((2, 3))
    if net.head:
        x = activate[net.stem[1]](x @ p["head.w"].T + p["head.b"])
    return x @ p["fc.w"].T + p["fc.b"]


def put_conv_norm(into: State, state: State, name: str, conv: str, norm: str) -> None:
    into[f"{conv}.weight"] = state[f"{name}.w"]
    for theirs, ours in (("weight", "g"), ("bias", "b"), ("running_mean", "m"), ("running_var", "v")):
        into[f"{norm}.{theirs}"] = state[f"{name}.{ours}"]
    into[f"{norm}.num_batches_tracked"] = torch.tensor(7)


def put_linear(into: State, state: State, name: str, target: str, *, as_conv: bool = False) -> None:
    weight = state[f"{name}.w"]
    into[f"{target}.weight"] = weight[:, :, None, None].clone() if as_conv else weight
    into[f"{target}.bias"] = state[f"{name}.b"]


def timm_layout(net: Net, state: State) -> State:
    into: State = {}
    put_conv_norm(into, state, "stem", "conv_stem", "bn1")
    for i, place in enumerate(places(net)):
        prefix = f"blocks.{place.stage}.{place.number}."
        names = (("dw", "conv_dw"), ("pwl", "conv_pw"))
        if "pw" in place.parts:
            names = (("pw", "conv_pw"), ("dw", "conv_dw"), ("pwl", "conv_pwl"))  # type: ignore[assignment]
        for n, (part, conv) in enumerate(names, start=1):
            put_conv_norm(into, state, f"{i}.{part}", prefix + conv, f"{prefix}bn{n}")
        if place.spec.se:
            put_linear(into, state, f"{i}.se1", prefix + "se.conv_reduce", as_conv=True)
            put_linear(into, state, f"{i}.se2", prefix + "se.conv_expand", as_conv=True)
    if net.family == "v2":
        put_conv_norm(into, state, "last", "conv_head", "bn2")
    if net.family == "v3":
        prefix = f"blocks.{len(net.stages)}.0."
        put_conv_norm(into, state, "last", prefix + "conv", prefix + "bn1")
        put_linear(into, state, "head", "conv_head", as_conv=True)
    put_linear(into, state, "fc", "classifier")
    return into


def torchvision_layout(net: Net, state: State) -> State:
    into: State = {}
    put_conv_norm(into, state, "stem", "features.0.0", "features.0.1")
    for i, place in enumerate(places(net)):
        inner = {"v1": "", "v2": "conv.", "v3": "block."}[net.family]
        prefix = f"features.{i + 1}.{inner}"
        for j, part in enumerate(place.parts):
            if part == "se":
                put_linear(into, state, f"{i}.se1", f"{prefix}{j}.fc1", as_conv=True)
                put_linear(into, state, f"{i}.se2", f"{prefix}{j}.fc2", as_conv=True)
            elif part == "pwl" and net.family == "v2":
                put_conv_norm(into, state, f"{i}.pwl", f"{prefix}{j}", f"{prefix}{j + 1}")
            else:
                put_conv_norm(into, state, f"{i}.{part}", f"{prefix}{j}.0", f"{prefix}{j}.1")
    if net.last:
        last = len(places(net)) + 1
        put_conv_norm(into, state, "last", f"features.{last}.0", f"features.{last}.1")
    if net.head:
        put_linear(into, state, "head", "classifier.0")
    put_linear(into, state, "fc", "classifier.3" if net.head else "classifier.1")
    return into


LAYOUTS = {"timm": timm_layout, "torchvision": torchvision_layout}
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(5)) * 2 - 1


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NETS)
def test_logits_are_those_of_the_layout(name: str, layout: str, tmp_path: Path) -> None:
    net, path = NETS[name], tmp_path / "weights.safetensors"
    state = tensors(net)
    save_file(LAYOUTS[layout](net, state), path)
    model = build(name, num_classes=CLASSES)
    loaded = load_weights(model, path)
    assert (loaded.layout, loaded.bn_eps) == (layout, net.eps[layout])
    expected = forward(net, state, IMAGES, net.eps[layout])
    assert expected.std() > 0.1
    torch.testing.assert_close(model.double().eval()(IMAGES.double()), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NETS)
def test_torchvisions_layout_loads_strictly_without_any_mapping(name: str) -> None:
    net = NETS[name]
    build(name, num_classes=CLASSES).load_state_dict(torchvision_layout(net, tensors(net)), strict=True)


def test_narrow_timm_networks_load(tmp_path: Path) -> None:
    """Expansion, squeezed and fixed-stem widths of mobilenetv3_small_050 as timm has them."""
    net = NETS["v3-small"]._replace(
        stages=[
            [spec._replace(c=eights(spec.c * 0.5)) for spec in specs] for specs in NETS["v3-small"].stages
        ],
        last=288,
    )
    state = tensors(net)
    torch.save(timm_layout(net, state), tmp_path / "small_050.pth")
    model = build("v3-small@0.5", num_classes=CLASSES)
    load_weights(model, tmp_path / "small_050.pth")
    expected = forward(net, state, IMAGES, 1e-5)
    torch.testing.assert_close(model.double().eval()(IMAGES.double()), expected, rtol=1e-9, atol=1e-9)


def test_the_epsilon_of_a_port_from_tensorflow_is_given_by_hand(tmp_path: Path) -> None:
    net, path = NETS["v3-large"], tmp_path / "tf_large.pth"
    state = tensors(net)
    torch.save(timm_layout(net, state), path)
    model = build("large", num_classes=CLASSES)
    plain = load_weights(model, path)
    ported = load_weights(model, path, bn_eps=1e-3)
    assert (plain.bn_eps, plain.note) == (1e-5, None)
    assert ported.bn_eps == 1e-3
    assert ported.note is not None
    assert "SAME padding" in ported.note
    expected = forward(net, state, IMAGES, 1e-3)
    torch.testing.assert_close(model.double().eval()(IMAGES.double()), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("container", "prefix"),
    [
        (None, ""),
        ("state_dict", "module."),
        ("model", ""),
        ("state_dict_ema", "module._orig_mod."),
        ("model_ema", "module."),
    ],
)
def test_wrappers_are_seen_through(container: str | None, prefix: str, tmp_path: Path) -> None:
    source = build("small", num_classes=CLASSES)
    state: dict[str, object] = {prefix + key: value for key, value in source.state_dict().items()}
    if container:
        other = {key: torch.zeros_like(value) for key, value in source.state_dict().items()}
        state = {"epoch": 3, "optimizer": {"lr": 0.1}, container: state}
        if container.endswith("_ema"):  # averaged weights are preferred
            state |= {container.removesuffix("_ema"): other}
    torch.save(state, tmp_path / "checkpoint.pt")
    model = build("small", num_classes=CLASSES).eval()
    loaded = load_weights(model, tmp_path / "checkpoint.pt")
    assert loaded.layout == "torchvision"
    assert not model.training
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, source.state_dict()[key])
