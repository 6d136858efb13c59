"""Simulated int8: where it is put, what it computes, what it leaves alone, and that training through it works."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mnv3_models import build
from mnv3_models.quantization.fake import Attached, attach

IMAGES = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def seeded(model: nn.Module) -> nn.Module:
    """With BatchNorms that are no identity."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(-1.5, 1.5, generator=generator)  # of either sign, as trained ones are
            module.bias.data.normal_(generator=generator)
            module.running_var.uniform_(0.2, 2, generator=generator)
    return model.eval()


class Own(nn.Module):
    """Functions and modules mixed, BatchNorms defined after all convolutions, control flow that no tracer follows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.conv2 = nn.Conv2d(8, 8, 3, 1, 1, bias=False)
        self.conv3 = nn.Conv2d(16, 8, 1)
        self.bn1, self.bn2 = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(x))
        if float(out.detach().mean()) > -1e9:
            out += x
        out = self.relu(out)
        out = self.conv3(torch.cat([out, x], 1))
        out = out * F.relu6(out + 3) / 6
        return self.head(F.dropout(out.mean((2, 3)), 0.2, self.training))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return seeded(build("v3-small@0.35", num_classes=6, bn_momentum=0.1))


@torch.no_grad()
def outputs(model: nn.Module) -> torch.Tensor:
    return model(IMAGES)


class TestWhatIsLeftAlone:
    @pytest.mark.parametrize("variant", ["v1@0.25", "v2@0.35", "v3-small@0.35", "v3-small-minimal@0.35"])
    def test_a_network_is_the_same_before_and_after(self, variant: str) -> None:
        torch.manual_seed(0)
        model = seeded(build(variant, num_classes=6))
        before, exact = {name: value.clone() for name, value in model.state_dict().items()}, outputs(model)
        attached = attach(model)
        attached.calibrate([IMAGES])
        quantized = outputs(model)
        assert 0 < (quantized - exact).norm() < 0.6 * exact.norm()
        assert list(model.state_dict()) == list(before)
        attached.quantize(False)
        assert torch.equal(outputs(model), exact)
        attached.quantize(True)
        assert torch.equal(outputs(model), quantized)
        attached.detach()
        assert torch.equal(outputs(model), exact)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert not model._forward_pre_hooks
        assert not model._forward_hooks

    def test_the_caller_s_images_carry_nothing_to_the_next_call(self, model: nn.Module) -> None:
        images = IMAGES.clone()
        attached = attach(model)
        attached.calibrate([images])
        with torch.no_grad():
            first = model(images)
            images.mul_(0.5)
            assert not torch.equal(model(images), first)

    def test_an_interrupted_call_does_not_make_the_next_one_quantize_twice(self, model: nn.Module) -> None:
        attached = attach(model)
        attached.calibrate([IMAGES])
        expected = outputs(model)

        def interrupt(*_: Any) -> None:
            raise KeyboardInterrupt

        for kind in (KeyboardInterrupt, RuntimeError):

            def stop(*_: Any, kind: type[BaseException] = kind) -> None:
                raise kind

            handle = model.classifier.register_forward_pre_hook(stop)
            with pytest.raises(kind):
                outputs(model)
            handle.remove()
            assert torch.equal(outputs(model), expected)
        free = torch.randn(3)
        assert not hasattr(F.relu(free), "_mnv3_mark")


class TestPlaces:
    def test_of_a_block_with_everything(self, model: nn.Module) -> None:
        attached = attach(model)
        attached.calibrate([IMAGES])
        names = list(attached.places)
        assert names[:3] == ["features.0.0:input", "features.0.0", "features.0.0:hardswish"]
        start = names.index("features.5.block.0.0")
        assert names[start : start + 11] == [
            "features.5.block.0.0",
            "features.5.block.0.0:hardswish",
            "features.5.block.1.0",
            "features.5.block.1.0:hardswish",
            "pooling 3",
            "features.5.block.2.fc1",  # fused with its ReLU
            "features.5.block.2.fc2",
            "features.5.block.2.fc2:hardsigmoid",
            "product 3",
            "features.5.block.3.0",
            "addition 2",
        ]
        assert names[-4:] == ["pooling 10", "classifier.0", "classifier.0:hardswish", "classifier.3"]

    def test_of_a_network_s_own_code(self) -> None:
        torch.manual_seed(0)
        model = seeded(Own())
        exact = outputs(model)
        attached = attach(model)
        attached.calibrate([IMAGES])
        assert list(attached.places) == [
            "conv1:input",
            "conv1",
            "conv2",
            "addition 1",
            "concatenation 1",
            "conv3",
            "product 1",
            "head:input",
            "head",
        ]
        quantized = outputs(model)
        error = (quantized - exact).norm() / exact.norm()
        assert 0 < error < 0.1

    def test_values_are_on_at_most_256_steps_and_weights_on_255(self, model: nn.Module) -> None:
        attached = attach(model)
        attached.calibrate([IMAGES])
        seen: dict[str, tuple[int, int]] = {}
        conv2d = torch.conv2d

        class Watch(torch.overrides.TorchFunctionMode):
            def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                if func is conv2d:
                    steps = max(len(channel.unique()) for channel in args[1].flatten(1))
                    seen[str(len(seen))] = len(args[0].unique()), steps
                return func(*args, **(kwargs or {}))

        with Watch():  # entered first, so that it sees what the simulation calls
            outputs(model)
        assert len(seen) == 52
        assert all(activations <= 256 and weights <= 255 for activations, weights in seen.values())
        assert max(activations for activations, _ in seen.values()) > 100

    def test_as_worked_out_by_hand(self) -> None:
        layer = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU()).eval()
        layer[0].weight.data.fill_(0.5)
        attached = attach(layer)
        attached.calibrate([torch.tensor([-1.0, 4.1]).reshape(2, 1, 1, 1)])
        image = torch.tensor([-3.0, 1.003, 2.5]).reshape(3, 1, 1, 1)
        # In: -1 to 4.1 in steps of 0.02, so -3 is clipped and 1.003 becomes 1.00. Out: 0 to 2.05, in steps of 2.05/255.
        step = 2.05 / 255
        expected = torch.tensor([0.0, round(0.5 / step) * step, round(1.25 / step) * step])
        with torch.no_grad():
            assert torch.allclose(layer(image).flatten(), expected, atol=1e-6)


def test_quantizing_unfolded_weights_is_quantizing_folded_ones() -> None:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16)
    unfolded = seeded(nn.Sequential(conv, norm))
    folded = nn.Sequential(torch.nn.utils.fuse_conv_bn_eval(conv, norm))
    found = []
    for model in (unfolded, folded):
        attached = attach(model)
        attached.calibrate([IMAGES])
        found.append(outputs(model))
    assert (norm.weight < 0).any()
    step = float(attached.places["0"].scale)
    # The same up to float rounding, which may put a value on the next step of the output.
    apart = (found[0] - found[1]).abs()
    assert apart.max() < 1.01 * step
    assert (apart > 0.5 * step).float().mean() < 1e-3


class TestChoosing:
    def test_one_layer_alone_changes_less_than_all(self, model: nn.Module) -> None:
        exact = outputs(model)
        attached = attach(model)
        attached.calibrate([IMAGES])
        everything = (outputs(model) - exact).norm()
        attached.only(["features.4.block.1.0"])
        one = (outputs(model) - exact).norm()
        assert 0 < one < everything
        attached.only([])
        assert torch.equal(outputs(model), exact)
        attached.only(None)
        assert (outputs(model) - exact).norm() == everything

    def test_a_layer_kept_in_float_computes_with_its_own_weights(self) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)).eval()
        attached = attach(model, float_layers=["1"])
        attached.calibrate([IMAGES])
        given: dict[str, torch.Tensor] = {}
        for name in ("0", "1", "2"):
            model[int(name)].register_forward_hook(
                lambda module, args, out, name=name: given.update({name: out, f"{name} in": args[0]})
            )
        outputs(model)
        # The hooks see what a layer gives before something takes it.
        in_int8 = attached.places["0"].quantize(given["0"])
        assert torch.allclose(given["1"], F.conv2d(in_int8, model[1].weight, model[1].bias), atol=1e-6)
        assert torch.equal(given["2 in"], given["1"])
        taken = attached.places["1"].quantize(given["1"])
        exact = F.conv2d(taken, model[2].weight, model[2].bias)
        assert not torch.equal(given["2"], exact)
        assert (given["2"] - exact).norm() < 0.02 * exact.norm()

    def test_names_that_are_no_layers(self, model: nn.Module) -> None:
        with pytest.raises(
            ValueError, match=r"^'features\.4\.block\.1' is no .* layer .*near are features\.4\.block"
        ):
            attach(model, float_layers=["features.4.block.1"])
        attached = attach(model)
        with pytest.raises(ValueError, match=r"^'features\.0\.1' is no convolution or linear layer"):
            attached.only(["features.0.1"])
        with pytest.raises(ValueError, match="attached to already"):
            attach(model)
        with pytest.raises(ValueError, match="no convolution and no linear layer"):
            attach(nn.ReLU())


class TestRanges:
    def test_nothing_seen_is_said_and_not_guessed(self, model: nn.Module) -> None:
        attached = attach(model)
        with pytest.raises(RuntimeError, match=r"no range is known at 'features\.0\.0:input'"):
            outputs(model)
        with pytest.raises(ValueError, match="no images to calibrate with"):
            attached.calibrate([])

    def test_training_moves_them_and_evaluation_does_not(self, model: nn.Module) -> None:
        attached = attach(model)
        model.train()
        model(IMAGES)
        first = float(attached.places["features.0.0:input"].maximum)
        assert first == float(IMAGES.max())
        model(10 * IMAGES)
        moved = float(attached.places["features.0.0:input"].maximum)
        assert moved == pytest.approx(first + 0.01 * (10 * first - first), rel=1e-5)
        model.eval()
        model(100 * IMAGES)
        model.train()
        attached.observe(False)
        model(100 * IMAGES)
        assert float(attached.places["features.0.0:input"].maximum) == moved

    def test_ways_to_cut_outliers(self) -> None:
        model = nn.Sequential(nn.Conv2d(1, 1, 1)).eval()
        values = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
        values[0] = 40.0
        images = values.reshape(-1, 1, 100, 100)
        found: dict[str, Any] = {}
        attached = attach(model)
        for ranges in ("minmax", "percentile", "mse"):
            attached.calibrate([images[:10], images[10:]], ranges)  # type: ignore[arg-type]
            place = attached.places["0:input"]
            error = float((place.quantize(values) - values).square().mean())
            found[ranges] = float(place.minimum), float(place.maximum), error
        assert found["minmax"][:2] == (float(values.min()), 40.0)
        expected = torch.quantile(values.double(), torch.tensor([0.0001, 0.9999], dtype=torch.float64))
        assert found["percentile"][:2] == pytest.approx(expected.tolist(), abs=0.05)
        assert found["mse"][2] < min(found["minmax"][2], found["percentile"][2])

    def test_a_range_without_extent(self) -> None:
        model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False)).eval()
        attached = attach(model)
        for ranges in ("minmax", "percentile", "mse"):
            attached.calibrate([torch.zeros(2, 1, 4, 4)], ranges)  # type: ignore[arg-type]
            with torch.no_grad():
                assert torch.equal(model(torch.zeros(2, 1, 4, 4)), torch.zeros(2, 1, 4, 4))


def steps(
    model: nn.Module, attached: Attached, optimizer: torch.optim.Optimizer, count: int, first: int = 0
) -> None:
    model.train()
    for step in range(first, first + count):
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(8, 3, 32, 32, generator=generator)
        labels = torch.randint(6, (8,), generator=generator)
        torch.manual_seed(step)  # dropout
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


class TestTraining:
    def test_gradients_pass_through_rounding_and_not_through_clipping(self) -> None:
        layer = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False)).eval()
        layer[0].weight.data.fill_(0.3)
        attached = attach(layer)
        attached.calibrate([torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1)])
        image = torch.tensor([0.5, 3.0]).reshape(2, 1, 1, 1).requires_grad_()
        layer(image).sum().backward()
        assert image.grad is not None
        assert image.grad.flatten().tolist() == pytest.approx([0.3, 0.0])
        assert layer[0].weight.grad is not None

    def test_training_goes_on_in_int8(self) -> None:
        torch.manual_seed(0)
        model = Own()
        attached = attach(model)
        optimizer = torch.optim.Adam(model.parameters(), 0.005)
        labels = torch.arange(8) % 2
        images = 0.3 * IMAGES + labels.reshape(8, 1, 1, 1)

        def train(steps: int) -> list[float]:
            losses = []
            for _ in range(steps):
                loss = F.cross_entropy(model(images), labels)
                optimizer.zero_grad()
                loss.backward()
                assert all(parameter.grad is not None for parameter in model.parameters())
                optimizer.step()
                losses.append(float(loss.detach()))
            return losses

        attached.quantize(False)
        reached = train(12)[-1]
        attached.quantize(True)
        assert max(train(60)[-10:]) < 0.6 * reached

    def test_batch_norm_stays_frozen_when_training_goes_on(self, model: nn.Module) -> None:
        attached = attach(model)
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        steps(model, attached, optimizer, 1)
        norm = model.features[0][1]
        mean, weight = norm.running_mean.clone(), norm.weight.detach().clone()
        steps(model, attached, optimizer, 1)
        assert not torch.equal(norm.running_mean, mean)
        mean = norm.running_mean.clone()
        attached.freeze_batch_norm()
        model.train()
        steps(model, attached, optimizer, 1)
        assert torch.equal(norm.running_mean, mean)
        assert not torch.equal(norm.weight, weight)

    def test_resumed_training_comes_to_the_same_numbers(self, model: nn.Module) -> None:
        def run(stop: bool) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
            network = copy.deepcopy(model)
            attached = attach(network)
            optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)
            steps(network, attached, optimizer, 2)
            attached.freeze_batch_norm()
            if stop:
                saved = copy.deepcopy([network.state_dict(), optimizer.state_dict(), attached.state()])
                network = build("v3-small@0.35", num_classes=6, bn_momentum=0.1)
                network.load_state_dict(saved[0])
                optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)
                optimizer.load_state_dict(saved[1])
                attached = attach(network)
                attached.load_state(saved[2])
            steps(network, attached, optimizer, 2, first=2)
            return network.state_dict(), attached.state()

        whole, resumed = run(stop=False), run(stop=True)
        for one, other in zip(whole, resumed, strict=True):
            assert list(one) == list(other)
            assert all(torch.equal(one[name], other[name]) for name in one)

    def test_a_copy_is_quantized_by_the_same_ranges_and_with_its_own_weights(self, model: nn.Module) -> None:
        attached = attach(model)
        attached.calibrate([IMAGES])
        average = copy.deepcopy(model)
        assert torch.equal(outputs(average), outputs(model))
        average.classifier[3].weight.data.mul_(2)
        assert not torch.equal(outputs(average), outputs(model))
        attached.quantize(False)
        exact = outputs(average)
        attached.detach()
        assert torch.equal(outputs(average), exact)

    def test_in_bfloat16(self, model: nn.Module) -> None:
        attached = attach(model)
        attached.calibrate([IMAGES])
        exact = outputs(model)
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            found = model(IMAGES)
        assert found.dtype == torch.bfloat16
        assert (found.float() - exact).norm() < 0.3 * exact.norm()

    def test_a_state_of_another_network(self, model: nn.Module) -> None:
        attached = attach(model)
        attached.calibrate([IMAGES])
        other = attach(nn.Sequential(nn.Conv2d(3, 4, 1)))
        with pytest.raises(ValueError, match=r"range for 'features\.0\.0', which this network has no layer"):
            other.load_state(attached.state())
