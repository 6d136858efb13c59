"""Activations are counted to the byte: networks whose figures follow by hand, and V3-Small beside torch's profiler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from mnv3_bench import memory
from mnv3_bench.complexity import count
from mnv3_models import build

if TYPE_CHECKING:
    from mnv3_reports.record import Activations

F32 = 4
IMAGE = 3 * 8 * 8 * F32
"""Bytes of the input that most of these networks take."""


def follow(model: nn.Module, *shape: int, resolution: int = 8) -> Activations:
    inputs = (np.zeros(shape or (1, 3, 8, 8), dtype=np.float32),)
    return memory.follow(model, inputs, variant="toy", resolution=resolution)


def steps(counted: Activations) -> list[tuple[str, int, int]]:
    """Module, live after it and peak while it ran, both above the input."""
    held = counted.input_bytes
    return [(step.module, step.live_bytes - held, step.peak_bytes - held) for step in counted.steps]


def conv(channels: int, made: int) -> nn.Conv2d:
    return nn.Conv2d(channels, made, 1, bias=False)


MAP = 8 * 8 * F32
"""Bytes of one channel."""


def test_a_chain_holds_a_layers_input_and_output() -> None:
    counted = follow(nn.Sequential(conv(3, 4), conv(4, 10), conv(10, 2)))
    assert (counted.variant, counted.resolution, counted.batch) == ("toy", 8, 1)
    assert counted.input_bytes == IMAGE == 3 * MAP
    assert counted.weight_bytes == (3 * 4 + 4 * 10 + 10 * 2) * F32
    assert steps(counted) == [
        ("0", 4 * MAP, 4 * MAP),
        ("1", 10 * MAP, (4 + 10) * MAP),
        ("2", 2 * MAP, (10 + 2) * MAP),
    ]
    assert [step.kind for step in counted.steps] == ["Conv2d"] * 3
    assert counted.steps[0].live_bytes == IMAGE + 4 * MAP  # the caller holds the input


def test_bytes_grow_with_the_batch_and_nothing_else() -> None:
    one, five = (follow(build("v3-small"), n, 3, 32, 32, resolution=32) for n in (1, 5))
    assert (five.batch, five.input_bytes) == (5, 5 * one.input_bytes)
    assert five.weight_bytes == one.weight_bytes
    assert [step.module for step in five.steps] == [step.module for step in one.steps]
    assert [step.peak_bytes for step in five.steps] == [5 * step.peak_bytes for step in one.steps]


def test_in_place_results_take_nothing_and_others_do() -> None:
    counted = follow(nn.Sequential(conv(3, 4), nn.ReLU(inplace=True), nn.ReLU(), nn.BatchNorm2d(4)))
    assert steps(counted) == [
        ("0", 4 * MAP, 4 * MAP),
        ("1", 4 * MAP, 4 * MAP),
        ("2", 4 * MAP, 8 * MAP),
        ("3", 4 * MAP, 8 * MAP),
    ]


def test_an_operator_in_place_on_the_input_takes_nothing() -> None:
    inputs = (np.full((1, 3, 8, 8), -1.0, dtype=np.float32),)
    counted = memory.follow(nn.Sequential(nn.ReLU(inplace=True)), inputs, variant="toy", resolution=8)
    assert steps(counted) == [("0", 0, 0)]
    assert (inputs[0] == -1.0).all()  # the caller's array is the caller's


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = conv(3, 5)
        self.second = conv(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.second(self.first(x))
        return out


def test_a_residual_is_a_step_of_the_module_that_adds() -> None:
    counted = follow(nn.Sequential(conv(3, 3), Residual()))
    assert steps(counted) == [
        ("0", 3 * MAP, 3 * MAP),
        ("1.first", (3 + 5) * MAP, (3 + 5) * MAP),
        ("1.second", (3 + 3) * MAP, (3 + 5 + 3) * MAP),
        ("1", 3 * MAP, (3 + 3 + 3) * MAP),
    ]
    assert counted.steps[-1].kind == "Residual"


class Gate(nn.Module):
    """Squeeze, excite, multiply; the channels' means are a view's worth of other work in between."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.excite = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = self.excite(self.pool(x).flatten(1))
        scaled: torch.Tensor = x * gate[:, :, None, None]
        return scaled


def test_a_gate_and_its_views() -> None:
    counted = follow(nn.Sequential(conv(3, 4), Gate()))
    vector = 4 * F32
    assert steps(counted) == [
        ("0", 4 * MAP, 4 * MAP),
        ("1.pool", 4 * MAP + vector, 4 * MAP + vector),
        ("1", 4 * MAP + vector, 4 * MAP + vector),  # flatten: a view
        ("1.excite", 4 * MAP + vector, 4 * MAP + 2 * vector),
        ("1", 4 * MAP, 8 * MAP + vector),  # two views and the product
    ]


def test_a_view_keeps_the_whole_storage_alive() -> None:
    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide = conv(3, 8)
            self.narrow = conv(2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            part = self.wide(x)[:, :2]
            out: torch.Tensor = self.narrow(part)
            return out

    assert steps(follow(Part())) == [
        ("wide", 8 * MAP, 8 * MAP),
        ("", 8 * MAP, 8 * MAP),
        ("narrow", 1 * MAP, 9 * MAP),
    ]


def test_what_composite_operators_make_on_their_way_is_seen() -> None:
    """The layer's mean and deviation of each of 24 rows: results of an operator inside layer_norm that it drops."""
    assert steps(follow(nn.Sequential(nn.LayerNorm(8)))) == [("0", 3 * MAP, 3 * MAP + 2 * 24 * F32)]


def test_weights_and_other_tensors_of_before_do_not_count() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, 1, 1))
            self.register_buffer("shift", torch.ones(1, 3, 8, 8))
            self.plain = torch.ones(2, 3, 8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x * self.weight[:3]
            x = x + self.plain[0]
            return x.add_(self.get_buffer("shift"))

    counted = follow(Table())
    assert counted.weight_bytes == 3 * F32 + 3 * MAP
    assert steps(counted) == [("", 3 * MAP, 6 * MAP)]


def test_a_tensor_made_of_numbers_counts() -> None:
    class Made(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([1.0, 2.0, 3.0]).sum() + x.sum()

    # The three numbers and their sum; then the two sums and theirs.
    assert steps(follow(Made())) == [("", F32, 4 * F32)]


def test_a_resized_storage_counts_with_its_new_size() -> None:
    class Grown(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.new_empty(2).resize_(100)

    assert steps(follow(Grown())) == [("", 100 * F32, 100 * F32)]


def test_outputs_of_any_shape_and_several_inputs() -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(4, 2)

        def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> dict[str, Any]:
            return {"a": (self.embed(tokens), None), "b": [mask.float(), "text"]}

    inputs = (np.zeros((2, 6), dtype=np.int64), np.zeros((2, 6), dtype=bool))
    counted = memory.follow(Several(), inputs, variant="own", resolution=0)
    assert (counted.batch, counted.input_bytes) == (2, 12 * 8 + 12)
    assert steps(counted) == [
        ("embed", 12 * 2 * F32, 12 * 2 * F32),
        ("", 12 * 2 * F32 + 12 * F32, 12 * 2 * F32 + 12 * F32),
    ]


def test_scalars_sparse_tensors_and_a_network_without_operators() -> None:
    class Sparse(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.to_sparse()

    class Nothing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    assert len(follow(Sparse()).steps) == 1
    assert follow(Nothing()).steps == ()
    scalar = memory.follow(nn.Identity(), (np.array(1.0, dtype=np.float32),), variant="own", resolution=0)
    assert (scalar.batch, scalar.input_bytes) == (1, F32)


def test_a_module_called_twice_is_two_steps() -> None:
    shared = conv(3, 3)
    assert [step.module for step in follow(nn.Sequential(shared, shared)).steps] == ["0", "0"]


def test_a_scripted_network_is_one_step() -> None:
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        scripted = torch.jit.script(nn.Sequential(conv(3, 4), nn.ReLU()).eval())
    counted = follow(scripted)
    assert steps(counted) == [("", 4 * MAP, 8 * MAP)]


def test_half_precision_networks_take_half_precision_inputs() -> None:
    counted = follow(nn.Sequential(conv(3, 4)).to(torch.bfloat16))
    assert counted.input_bytes == IMAGE // 2
    assert steps(counted) == [("0", 2 * MAP, 2 * MAP)]


def test_the_network_is_left_as_it_was() -> None:
    model = build("v3-small").train()
    follow(model, 1, 3, 32, 32, resolution=32)
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert model.get_buffer("features.0.1.num_batches_tracked") == 0


def test_a_call_that_fails_raises_its_own_error_and_garbage_is_collected_again() -> None:
    import gc

    with pytest.raises(RuntimeError, match="channels"):
        follow(nn.Sequential(conv(4, 4)))
    assert gc.isenabled()


def test_v3_small_by_hand() -> None:
    """The peak is in block 2's expansion: its convolution's and BatchNorm's outputs, 72 x 56 x 56 both, while the
    block's input, 16 x 56 x 56, and the image are held by their callers.
    """
    model = build("v3-small")
    counted = follow(model, 1, 3, 224, 224, resolution=224)
    image, expanded, entered = 3 * 224**2 * F32, 72 * 56**2 * F32, 16 * 56**2 * F32
    assert counted.input_bytes == image == 602_112
    highest = max(counted.steps, key=lambda step: step.peak_bytes)
    assert (highest.module, highest.kind) == ("features.2.block.0.1", "BatchNorm2d")
    assert highest.peak_bytes == image + entered + 2 * expanded == 2_609_152
    by_name = {step.module: step for step in counted.steps}
    stem = 16 * 112**2 * F32
    assert by_name["features.0.0"].peak_bytes == image + stem
    assert by_name["features.0.1"].peak_bytes == image + 2 * stem
    assert by_name["features.0.1"].live_bytes == image + stem
    assert counted.steps[-1].module == "classifier.3"
    assert counted.steps[-1].live_bytes == image + 1000 * F32
    inputs = (np.zeros((1, 3, 224, 224), dtype=np.float32),)
    assert counted.weight_bytes == count(model, inputs).weight_bytes


def test_two_countings_are_equal() -> None:
    first, second = (follow(build("v3-large"), 1, 3, 32, 32, resolution=32) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("name", ["v3-small", "v2"])
def test_the_profiler_sees_the_same_peak_beside_what_operators_take_for_themselves(name: str) -> None:
    model = build(name).eval()
    counted = follow(model, 1, 3, 224, 224, resolution=224)
    peak = max(step.peak_bytes for step in counted.steps) - counted.input_bytes
    image = torch.zeros(1, 3, 224, 224)
    with torch.inference_mode():
        model(image)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            output = model(image)
    roots = sorted(
        profiler.profiler.kineto_results.experimental_event_tree(), key=lambda event: event.start_time_ns
    )
    # An operator's own buffers, oneDNN's reordered copies above all, are taken and given back within it.
    live, between, within = 0, [0], [0]
    for root in roots:
        for size in allocations(root):
            live += size
            within.append(live)
        between.append(live)
    assert live == output.nbytes
    assert max(between) == peak
    assert max(within) >= peak


def allocations(event: Any) -> list[int]:
    """Bytes allocated (or, negative, freed) in an event of the profiler and those inside it, in order."""
    own = [event.extra_fields.alloc_size] if event.name == "[memory]" else []
    inside = sorted(event.children, key=lambda child: child.start_time_ns)
    return own + [size for child in inside for size in allocations(child)]
