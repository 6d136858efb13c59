"""Optimizers against what they are defined to compute, and which weights decay."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from mnv3_models import build
from mnv3_models.training.average import make_average
from mnv3_models.training.optimizers import RMSpropTF, make_optimizer, parameter_groups
from mnv3_models.training.recipes import get_recipe
from mnv3_models.training.state import below, into_module, into_optimizer, of_optimizer

if TYPE_CHECKING:
    from collections.abc import Callable

GRADIENTS = [0.5, -2.0, 0.25, 0.0, 1.0]


def follow(
    optimizer: torch.optim.Optimizer, weight: torch.Tensor, rates: list[float] | None = None
) -> list[float]:
    """The weight after each of `GRADIENTS`."""
    seen = []
    for position, gradient in enumerate(GRADIENTS):
        if rates is not None:
            optimizer.param_groups[0]["lr"] = rates[position]
        weight.grad = torch.full_like(weight, gradient)
        optimizer.step()
        seen.append(float(weight.detach().flatten()[0]))
    return seen


def by_hand(lr: Callable[[int], float], decay: float = 0.0) -> list[float]:
    """TensorFlow's ApplyRMSProp, written out for one weight that starts at 1."""
    weight, square, moved = 1.0, 1.0, 0.0
    seen = []
    for position, given in enumerate(GRADIENTS):
        gradient = given + decay * weight
        square += (gradient * gradient - square) * (1 - 0.9)
        moved = moved * 0.8 + lr(position) * gradient / math.sqrt(square + 1e-2)
        weight -= moved
        seen.append(weight)
    return seen


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_rmsprop_as_tensorflow_computes_it(decay: float) -> None:
    weight = nn.Parameter(torch.ones(3, 2, dtype=torch.float64))
    optimizer = RMSpropTF([weight], lr=0.3, alpha=0.9, momentum=0.8, eps=1e-2, weight_decay=decay)
    assert follow(optimizer, weight) == pytest.approx(by_hand(lambda _: 0.3, decay), rel=1e-12)


def test_the_learning_rate_is_inside_the_momentum() -> None:
    """A change of it works on new gradients only: what moves already goes on at its old pace."""
    rates = [0.3, 0.3, 0.0, 0.0, 0.0]
    weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = RMSpropTF([weight], lr=0.3, alpha=0.9, momentum=0.8, eps=1e-2)
    seen = follow(optimizer, weight, rates)
    assert seen == pytest.approx(by_hand(lambda position: rates[position]), rel=1e-12)
    assert seen[3] != seen[2], "it still moves"


def test_it_differs_from_torchs_rmsprop() -> None:
    """Or there would be no need of it: epsilon of a small gradient counts less outside the root."""
    ours, theirs = (nn.Parameter(torch.ones(1)) for _ in range(2))
    first = follow(RMSpropTF([ours], lr=0.1, eps=1e-3), ours)
    second = follow(torch.optim.RMSprop([theirs], lr=0.1, alpha=0.9, momentum=0.9, eps=1e-3), theirs)
    assert first != pytest.approx(second, rel=1e-2)


def test_weights_without_a_gradient_stay() -> None:
    weight, other = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = RMSpropTF([weight, other], lr=0.1, weight_decay=1.0)
    weight.grad = torch.ones(1)
    optimizer.step()
    assert float(other.detach()) == 1.0
    assert other not in optimizer.state


@pytest.mark.parametrize(
    ("changed", "kept"),
    [
        ({}, set()),
        ({"norm_decay": False}, {"norm"}),
        ({"bias_decay": False}, {"bias"}),
        ({"depthwise_decay": False}, {"depthwise"}),
        ({"norm_decay": False, "bias_decay": False, "depthwise_decay": False}, {"norm", "bias", "depthwise"}),
    ],
)
@pytest.mark.parametrize("name", ["v1", "v2", "v3-small"])
def test_what_does_not_decay(name: str, changed: dict[str, bool], kept: set[str]) -> None:
    plain = {"norm_decay": True, "bias_decay": True, "depthwise_decay": True}
    recipe = replace(get_recipe("quick"), **{**plain, **changed}, weight_decay=0.1)  # type: ignore[arg-type]
    model = build(f"{name}@0.25", num_classes=10)
    kinds = {}
    for path, module in model.named_modules():
        for leaf, weight in module.named_parameters(recurse=False):
            if isinstance(module, nn.BatchNorm2d):
                kinds[weight] = "norm"
            elif leaf == "bias":
                kinds[weight] = "bias"
            else:
                depthwise = isinstance(module, nn.Conv2d) and module.groups > 1
                kinds[weight] = "depthwise" if depthwise else path
    groups = parameter_groups(model, recipe)
    decays = {weight: group["weight_decay"] for group in groups for weight in group["params"]}
    assert decays.keys() == set(model.parameters())
    assert {weight for weight, decay in decays.items() if not decay} == {w for w in kinds if kinds[w] in kept}
    assert set(decays.values()) <= {0.0, 0.1}


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "rmsprop-tf", "adamw"])
def test_an_optimizers_state_comes_back_to_the_bit(name: Any) -> None:
    """Laid out as the weights are: some kernels go through memory without looking at strides."""
    recipe = replace(get_recipe("quick"), optimizer=name, lr=1e-3)
    models = [_network(seed) for seed in (0, 1)]
    optimizers = [make_optimizer(model, recipe) for model in models]
    _steps(models[0], optimizers[0], range(3))
    saved = {key: value.clone().contiguous() for key, value in of_optimizer(optimizers[0], models[0]).items()}
    into_module(models[1], models[0].state_dict())
    into_optimizer(optimizers[1], models[1], saved)
    for model, optimizer in zip(models, optimizers, strict=True):
        _steps(model, optimizer, range(3, 6))
    for first, second in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(first, second)
        assert first.stride() == second.stride()


def _network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    network: nn.Module = build("v3-small@0.25", num_classes=10, dropout=0.0).to(
        memory_format=torch.channels_last
    )  # type: ignore[call-overload]
    return network


def _steps(model: nn.Module, optimizer: torch.optim.Optimizer, numbers: range) -> None:
    for number in numbers:
        images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(number))
        optimizer.zero_grad()
        model(images.to(memory_format=torch.channels_last)).square().mean().backward()
        optimizer.step()


def test_the_average_of_weights_and_statistics() -> None:
    model = nn.Sequential(nn.BatchNorm1d(1))
    recipe = replace(get_recipe("quick"), ema_decay=0.75)
    average = make_average(model, recipe)
    assert average is not None
    weights, means = [1.0], [0.0]
    for value in (2.0, 4.0, -3.0):
        with torch.no_grad():
            model[0].weight.fill_(value)
            model[0].running_mean.fill_(10 * value)  # type: ignore[union-attr]
            model[0].num_batches_tracked += 1  # type: ignore[operator]
        average.update_parameters(model)
        weights.append(0.75 * weights[-1] + 0.25 * value)
        means.append(0.75 * means[-1] + 0.25 * 10 * value)
        assert float(average.module[0].weight) == pytest.approx(weights[-1])
        assert float(average.module[0].running_mean) == pytest.approx(means[-1])
    assert int(average.module[0].num_batches_tracked) == 3
    assert not average.module[0].weight.requires_grad


def test_the_adjusted_average_follows_quickly_at_first() -> None:
    model = nn.Sequential(nn.BatchNorm1d(1))
    average = make_average(model, replace(get_recipe("quick"), ema_decay=0.9999, ema_adjusted=True))
    assert average is not None
    with torch.no_grad():
        model[0].weight.fill_(2.0)
    average.update_parameters(model)
    assert float(average.module[0].weight) == pytest.approx(1 + 9 / 11), (
        "the decay of the first update is 2 / 11"
    )


def test_no_average_is_asked_for() -> None:
    assert make_average(nn.BatchNorm1d(1), get_recipe("quick")) is None
    assert below("average", {"average.x": torch.ones(1), "other": torch.ones(1)}).keys() == {"x"}
