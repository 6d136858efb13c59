"""Three counters agree on these networks, and say so where they do not."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mnv3_bench import complexity
from mnv3_models import build

if TYPE_CHECKING:
    from mnv3_reports.record import Complexity

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


def count(model: nn.Module, resolution: int) -> Complexity:
    return complexity.count(model, (np.zeros((1, 3, resolution, resolution), dtype=np.float32),))


@pytest.mark.parametrize("name", MACS)
def test_three_counters_agree_on_the_published_macs(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings():
        warnings.simplefilter("error")
        counted = count(build(name), 224)
    assert counted.macs == MACS[name]
    assert counted.counters == dict.fromkeys(("fvcore", "flop_counter", "analytic"), MACS[name])
    assert counted.disagreement is None
    assert caplog.records == []
    assert sum(layer.macs for layer in counted.layers) == counted.macs
    assert sum(layer.parameters for layer in counted.layers) == counted.parameters
    assert sum(layer.activations for layer in counted.layers) == counted.activations


def test_operations_outside_macs_are_one_an_output_element() -> None:
    """By hand for V3-Small at 32: its feature maps are 16, 8, 4, 2 and 1 pixels wide."""
    counted = count(build("v3-small"), 32)
    convolved = 16 * 16**2  # stem
    convolved += 16 * 8**2 + 16 * 8**2  # block 1: depthwise, projection
    convolved += 72 * 8**2 + 72 * 4**2 + 24 * 4**2
    convolved += (88 + 88 + 24) * 4**2
    convolved += 96 * 4**2 + 96 * 2**2 + 40 * 2**2
    convolved += 2 * (240 + 240 + 40) * 2**2
    convolved += (120 + 120 + 48) * 2**2 + (144 + 144 + 48) * 2**2
    convolved += 288 * 2**2 + 288 + 96
    convolved += 2 * (576 + 576 + 96)
    convolved += 576
    squeezed = {16: 8, 96: 24, 240: 64, 120: 32, 144: 40, 288: 72, 576: 144}
    times = {16: 1, 96: 1, 240: 2, 120: 1, 144: 1, 288: 1, 576: 2}
    gates = sum(n * channels for channels, n in times.items())
    squeezes = sum(n * squeezed[channels] for channels, n in times.items())
    projected = 16 * 8**2 + 2 * 24 * 4**2 + 3 * 40 * 2**2 + 2 * 48 * 2**2 + 3 * 96
    residuals = 24 * 4**2 + 2 * 40 * 2**2 + 2 * 48 * 2**2 - 48 * 2**2 + 2 * 96
    scaled = 16 * 8**2 + (96 + 2 * 240 + 120 + 144) * 2**2 + 288 + 2 * 576
    assert counted.other_operations == {
        "batch_norm": convolved,
        "activation": convolved - projected + gates + squeezes + 1024,
        "elementwise": residuals + scaled,
        "pooling": gates + 576,
    }
    assert counted.activations == convolved + gates + squeezes + 1024 + 1000


def test_sizes_are_counted() -> None:
    counted = count(build("v3-small"), 64)
    assert counted.parameters == 2_542_856
    norms = 6_056  # channels of all BatchNorm layers: a mean and a variance each, and one counter a layer
    assert counted.buffers == 2 * norms + 34
    assert counted.weight_bytes == 4 * (2_542_856 + 2 * norms) + 8 * 34


def test_layers_are_listed_in_order_with_their_cost() -> None:
    layers = count(build("v3-large"), 224).layers
    stem = layers[0]
    assert (stem.name, stem.kind, stem.output_shape) == ("features.0.0", "Conv2d", (16, 112, 112))
    assert (stem.macs, stem.parameters, stem.activations) == (5_419_008, 432, 200_704)
    assert (layers[1].kind, layers[1].macs, layers[1].activations) == ("BatchNorm2d", 0, 0)
    assert (layers[-1].name, layers[-1].macs, layers[-1].output_shape) == ("classifier.3", 1_280_000, (1000,))


def test_macs_follow_the_resolution() -> None:
    assert count(build("v1", num_classes=10), 32).macs < count(build("v1", num_classes=10), 64).macs / 3.9


def test_the_network_is_left_as_it_was() -> None:
    model = build("v3-small").train()
    count(model, 32)
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert model.get_buffer("features.0.1.num_batches_tracked") == 0


def test_grouped_strided_transposed_and_reused_layers_are_counted() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.grouped = nn.Conv2d(3, 6, 3, stride=2, padding=1, groups=3)
            self.up = nn.ConvTranspose2d(6, 3, 2, stride=2)
            self.linear = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.up(F.relu(self.grouped(x))).mean((2, 3))
            out: torch.Tensor = self.linear(self.linear(x))
            return out

    counted = count(Mixed(), 8)
    assert counted.disagreement is None
    assert counted.macs == 6 * 16 * 9 + 6 * 16 * 3 * 4 + 2 * 9
    assert counted.other_operations == {"activation": 96, "pooling": 3}
    assert counted.activations == 96 + 3 * 64 + 2 * 3
    assert {layer.name: layer.activations for layer in counted.layers}["linear"] == 6


def test_a_disagreement_says_where() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 1)
            self.kernel = nn.Parameter(torch.ones(4, 4, 1, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.conv2d(self.stem(x), self.kernel)

    counted = count(nn.Sequential(nn.ReLU(), Functional()), 8)
    assert counted.counters == {"fvcore": 1792, "flop_counter": 1792, "analytic": 768}
    assert counted.disagreement == (
        "fvcore counts 1,792, flop_counter counts 1,792, analytic counts 768; "
        "fvcore and the layers' own count differ in 1"
    )


def test_an_operator_nobody_counts_is_named() -> None:
    counted = count(nn.Sequential(nn.Conv2d(3, 2, 1), nn.Softmax(dim=1), nn.Softmax(dim=1)), 4)
    assert counted.macs == 96
    assert counted.disagreement == "not counted, because no counter knows them: aten::softmax (2 calls)"
