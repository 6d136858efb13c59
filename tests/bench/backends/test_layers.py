"""Layers that a quantizer leaves in float: found in the artifact, read back from it, and better for it."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from mnv3_bench.backends import BACKENDS, _layers, get_backend
from mnv3_bench.backends.base import BackendError, Preparation
from mnv3_reports.record import TensorSpec

if TYPE_CHECKING:
    from pathlib import Path

KEEPING = [name for name in BACKENDS if get_backend(name).info.keeps_layers]
PIXELS = 16


class Hostile(nn.Module):
    """A few layers, one of which gives values that no eight bits can hold apart: a channel a thousand times larger."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.wild = nn.Conv2d(8, 8, 1)
        self.last = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)
        with torch.no_grad():
            self.wild.weight[0] *= 1000
            self.wild.bias.zero_()
            self.last.weight[:, 0] /= 1000

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = torch.relu(self.stem(images))
        maps = torch.relu(self.last(self.wild(maps)))
        logits: torch.Tensor = self.head(maps.mean((2, 3)))
        return logits


def preparation(directory: Path, network: nn.Module, layers: tuple[str, ...]) -> Preparation:
    random = np.random.default_rng(0)
    calls = [(random.normal(size=(1, 3, PIXELS, PIXELS)).astype(np.float32),) for _ in range(16)]
    directory.mkdir()
    return Preparation(
        variant="hostile:build",
        num_classes=5,
        network=network.eval(),
        inputs=(TensorSpec("images", (1, 3, PIXELS, PIXELS)),),
        example=calls[0],
        calibration=calls,
        threads=1,
        device="cpu",
        directory=directory,
        float_layers=layers,
    )


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an own network is: a backend may build it anew where it loads an artifact."""
    module = ModuleType("hostile")
    monkeypatch.setattr(module, "build", Hostile, raising=False)
    monkeypatch.setitem(sys.modules, "hostile", module)


def test_every_quantizer_keeps_layers() -> None:
    assert set(KEEPING) == {name for name in BACKENDS if "int8" in get_backend(name).info.precision}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.thorough] * (name in ("executorch-int8", "quantized-static")))
        for name in KEEPING
    ],
)
def test_a_layer_kept_in_float_is_said_to_be_and_helps(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Hostile()
    images = np.random.default_rng(1).normal(size=(1, 3, PIXELS, PIXELS)).astype(np.float32)
    with torch.inference_mode():
        exact = network.eval()(torch.from_numpy(images)).numpy()
    errors = {}
    for layers in ((), ("wild", "last", "head")):
        made = preparation(tmp_path / f"kept-{len(layers)}", network, layers)
        backend = get_backend(name)
        facts = backend.prepare(made)
        assert facts.get(_layers.KEPT) == (", ".join(layers) if layers else None)
        session = backend.load(made.directory, 1, "cpu")
        (found,) = session.fetch(session.run(session.stage((images,))))
        errors[layers] = float(np.abs(found - exact).max())
        session.close()
    assert errors["wild", "last", "head"] < 0.5 * errors[()]


@pytest.mark.parametrize("name", KEEPING)
def test_a_layer_that_is_not_there_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="'wilder' is no convolution or linear layer"):
        get_backend(name).prepare(preparation(tmp_path / "made", Hostile(), ("wilder",)))


def test_layers_are_known_by_their_weights_whatever_they_are_called() -> None:
    torch.manual_seed(0)
    network = Hostile()
    weights = {
        "7": network.last.weight.detach().numpy()
        * np.linspace(0.5, 2, 8, dtype=np.float32)[:, None, None, None],
        "8": network.head.weight.detach().numpy(),
        "other": np.random.default_rng(0).normal(size=(8, 8, 1, 1)),
    }
    assert _layers.match(network, weights) == {"7": "last", "8": "head"}
