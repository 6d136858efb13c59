"""Seeded networks are reproducible, well scaled, and tell images apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from mnv3_models import build, list_variants
from mnv3_models.calibration import STATISTICS_IMAGES, calibrate, seed_weights

if TYPE_CHECKING:
    import numpy.typing as npt

    from mnv3_models.layers import MobileNet

RESOLUTION = 96


def make_images(seed: int, count: int) -> npt.NDArray[np.float32]:
    """1/f noise with a colour and a contrast of its own for each image."""
    rng = np.random.default_rng(seed)
    f = np.hypot(np.fft.fftfreq(RESOLUTION)[:, None], np.fft.rfftfreq(RESOLUTION)[None])
    f[0, 0] = np.inf
    phases = np.exp(2j * np.pi * rng.random((count, 3, *f.shape)))
    fields = np.fft.irfft2(phases / f ** rng.uniform(0.8, 1.4, (count, 1, 1, 1)), s=(RESOLUTION, RESOLUTION))
    fields /= fields.std(axis=(2, 3), keepdims=True)
    images = rng.uniform(0.4, 1, (count, 1, 1, 1)) * fields + rng.normal(0, 0.5, (count, 3, 1, 1))
    return images.astype(np.float32)


IMAGES, FRESH = make_images(1, 96), torch.from_numpy(make_images(2, 64))


def calibrated(name: str, seed: int = 0, num_classes: int = 1000) -> MobileNet:
    model = build(name, num_classes=num_classes)
    seed_weights(model, seed)
    calibrate(model, IMAGES)
    return model.eval()


@torch.no_grad()
def logits_of(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return torch.cat([model(chunk) for chunk in torch.split(images, 16)])


@pytest.mark.parametrize("name", list_variants())
def test_logits_tell_images_apart(name: str) -> None:
    logits = logits_of(calibrated(f"{name}@0.5"), FRESH)
    assert torch.isfinite(logits).all()
    assert 1 < logits.std() < 4
    assert logits.abs().max() < 60
    assert len(set(logits.argmax(dim=1).tolist())) >= len(FRESH) // 2
    noise = torch.randn(100, *logits.shape, generator=torch.Generator().manual_seed(0))
    noisy = logits + 0.01 * logits.std() * noise
    assert (noisy.argmax(dim=-1) == logits.argmax(dim=-1)).double().mean() > 0.97


@pytest.mark.parametrize("name", ["v1@0.5", "v2@0.5"])
def test_rounding_errors_stay_below_the_differences_between_images(name: str) -> None:
    """Weights rounded to 7 bits a channel; the plain initialisation gives 2 to 3 dB and 0.3 here."""
    model = calibrated(name)
    logits = logits_of(model, FRESH)
    with torch.no_grad():
        for layer in model.features.modules():
            if isinstance(layer, nn.Conv2d):
                step = layer.weight.abs().amax(dim=(1, 2, 3), keepdim=True) / 63
                layer.weight.copy_((layer.weight / step).round() * step)
    rounded = logits_of(model, FRESH)
    snr_db = 10 * torch.log10(logits.square().sum() / (logits - rounded).square().sum())
    assert snr_db > 9
    assert (rounded.argmax(dim=1) == logits.argmax(dim=1)).double().mean() > 0.6


def test_a_seed_gives_one_network_and_leaves_the_global_state_alone() -> None:
    before = torch.get_rng_state()
    model = build("v3-small")
    torch.set_rng_state(before)
    seed_weights(model, 5)
    calibrate(model, IMAGES)
    assert torch.equal(torch.get_rng_state(), before)
    again, other = calibrated("v3-small", seed=5), calibrated("v3-small", seed=6)
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    assert not torch.equal(model.features[0][0].weight, other.features[0][0].weight)  # type: ignore[index]


def test_statistics_are_exactly_those_of_the_images() -> None:
    model = calibrated("v3-small")
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def watch(name: str, norm: nn.BatchNorm2d) -> None:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
            given = inputs[0].double()
            seen[name] = (given.mean((0, 2, 3)), given.var((0, 2, 3), correction=0))

        norm.register_forward_hook(hook)

    norms = {name: m for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    for name, norm in norms.items():
        watch(name, norm)
    with torch.no_grad():
        model.features(torch.from_numpy(IMAGES[:STATISTICS_IMAGES]))
    assert len(seen) == len(norms) == 34
    for name, norm in norms.items():
        mean, var = seen[name]
        torch.testing.assert_close(norm.get_buffer("running_mean").double(), mean, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(norm.get_buffer("running_var").double(), var, rtol=1e-3, atol=1e-6)


def test_mode_and_convolutions_are_kept() -> None:
    model = build("v3-small")
    seed_weights(model, 0)
    convolutions = {k: v.clone() for k, v in model.state_dict().items() if v.dim() == 4}
    for training in (True, False):
        calibrate(model.train(training), IMAGES[:8])
        assert model.training is training
        assert model.features.training is training
    assert all(torch.equal(model.state_dict()[key], value) for key, value in convolutions.items())


@pytest.mark.parametrize("num_classes", [1, 10, 96, 200])
def test_any_number_of_classes(num_classes: int) -> None:
    model = calibrated("v3-small@0.5", num_classes=num_classes)
    logits = logits_of(model, FRESH)
    assert logits.shape == (64, num_classes)
    assert torch.isfinite(logits).all()
    assert len({tuple(row) for row in model.get_parameter("classifier.3.weight").tolist()}) == num_classes


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 3, 32, 32), (4, 1, 32, 32)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected n x 3 x height x width, n >= 2"):
        calibrate(build("v3-small"), np.zeros(shape, dtype=np.float32))


def test_images_that_are_all_alike_are_refused() -> None:
    with pytest.raises(ValueError, match="all alike"):
        calibrate(build("v1@0.25"), np.repeat(IMAGES[:1], 4, axis=0))


def test_a_network_from_elsewhere_is_refused() -> None:
    with pytest.raises(ValueError, match="a Linear cannot be calibrated"):
        calibrate(nn.Linear(2, 2), IMAGES)
