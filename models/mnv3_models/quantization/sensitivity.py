"""Which layers of a network lose most when they are quantized to int8, one at a time, simulated."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from mnv3_models.layers import MobileNet
from mnv3_models.quantization.fake import SCHEME, attach

if TYPE_CHECKING:
    from collections.abc import Callable

    from mnv3_models.quantization.fake import Ranges

CHUNK = 64
"""Images at a time, where only speed depends on it: V3-Large at 64 x 64 then takes 0.7 of the time of 256 at a time."""
IDENTICAL_DB = 200.0
EVERYTHING = "everything"


@dataclass(frozen=True)
class LayerSensitivity:
    """What quantizing one layer alone does to the logits."""

    name: str
    """Module path; 'everything' for all of the network at once."""
    kind: str
    """stem, expansion, depthwise, projection, squeeze-excitation, last convolution, classifier; in V1 pointwise; in a
    network of the user's own stem, depthwise, pointwise, squeeze-excitation, convolution or linear."""
    snr_db: float
    """Power of the logits in fp32 over power of the change; 200 for no change, or hardly any."""
    agreement: float
    """Share of images that get the same class as in fp32."""
    top1: float
    """Share of images classified correctly."""
    loss: float
    """Mean cross-entropy, in nats."""


@dataclass(frozen=True)
class Scan:
    """Sensitivity of every layer of a network."""

    images: int
    top1: float
    """In fp32."""
    loss: float
    scheme: str
    """What is simulated, in words."""
    layers: tuple[LayerSensitivity, ...]
    """The most sensitive first, by signal-to-noise."""
    together: LayerSensitivity
    """Everything at once, with sums, products and pooled values, as a runtime has it."""


def scan(
    model: nn.Module,
    calibration: torch.Tensor,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    ranges: Ranges = "minmax",
    progress: Callable[[int, int], None] | None = None,
) -> Scan:
    """Quantize each layer alone (its weights, and what it gives), then everything.

    The network is left alone: a copy of it is quantized. V3-Large with 256 images of 64 x 64 takes about 20 s on one
    core: a call of the network for every layer.

    Args:
        model: any network that gives one tensor, n x classes. It computes where its parameters are, in eval mode.
        calibration: n x 3 x height x width, to find the ranges of activations with.
        images: n x 3 x height x width, to be classified.
        labels: n integers.
        ranges: as `Attached.calibrate` takes them.
        progress: called with the number of layers done and their total.

    Raises:
        ValueError: there are no images, not as many labels, or the network has no layer to quantize.
    """
    if not len(images) or len(images) != len(labels):
        raise ValueError(
            f"{len(images)} images and {len(labels)} labels were given; expected as many, at least 1"
        )
    device = next(model.parameters()).device
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    copied.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # its stub lacks this argument
    chunks = [_laid_out(chunk.to(device)) for chunk in torch.split(images, CHUNK)]
    labels = labels.to(device)
    exact = _logits(copied, chunks)
    attached = attach(copied)
    attached.calibrate([_laid_out(chunk) for chunk in torch.split(calibration, CHUNK)], ranges)

    def measure(name: str, kind: str) -> LayerSensitivity:
        found = _logits(copied, chunks)
        return LayerSensitivity(
            name=name,
            kind=kind,
            snr_db=_snr_db(exact, found),
            agreement=_share(found.argmax(1) == exact.argmax(1)),
            top1=_share(found.argmax(1) == labels),
            loss=float(F.cross_entropy(found, labels)),
        )

    together = measure(EVERYTHING, EVERYTHING)
    kinds = layer_kinds(copied)
    layers = []
    for done, name in enumerate(attached.layers):
        attached.only([name])
        layers.append(measure(name, kinds[name]))
        if progress is not None:
            progress(done + 1, len(attached.layers))
    return Scan(
        images=len(images),
        top1=_share(exact.argmax(1) == labels),
        loss=float(F.cross_entropy(exact, labels)),
        scheme=f"{SCHEME}, {_IN_WORDS[ranges]} of {len(calibration)} images",
        layers=tuple(sorted(layers, key=lambda layer: layer.snr_db)),
        together=together,
    )


_IN_WORDS = {
    "minmax": "least and greatest value",
    "percentile": "0.01th and 99.99th percentile",
    "mse": "ranges of least squared error",
}


def layer_kinds(model: nn.Module) -> dict[str, str]:
    """What each convolution and linear layer is for, by module path, in the order of definition."""
    modules = dict(model.named_modules())
    layers = [name for name, module in modules.items() if isinstance(module, nn.Conv2d | nn.Linear)]
    squeezing = {
        name
        for name in layers
        if any("squeeze" in type(above).__name__.lower() for above in _above(modules, name))
    }
    found = {name: _by_shape(modules[name]) for name in layers}
    if isinstance(model, MobileNet):
        found |= {name: "classifier" for name in layers if name.startswith("classifier.")}
        outer = {name: name.split(".")[1] for name in layers if name.startswith("features.")}
        last = str(len(model.features) - 1)
        for place in dict.fromkeys(outer.values()):
            inside = [name for name in layers if outer.get(name) == place and name not in squeezing]
            whole = [name for name in inside if found[name] != "depthwise"]
            if len(inside) == 1:
                found[inside[0]] = "last convolution" if place == last else "stem"
            elif model.variant.family != "v1":
                found |= dict.fromkeys(whole[:-1], "expansion") | dict.fromkeys(whole[-1:], "projection")
    elif layers:
        found[layers[0]] = "stem"
    return found | dict.fromkeys(squeezing, "squeeze-excitation")


def _above(modules: dict[str, nn.Module], name: str) -> list[nn.Module]:
    parts = name.split(".")
    return [modules[".".join(parts[:length])] for length in range(1, len(parts))]


def _by_shape(layer: nn.Module) -> str:
    if not isinstance(layer, nn.Conv2d):
        return "linear"
    if layer.groups == layer.in_channels > 1:
        return "depthwise"
    return "pointwise" if layer.kernel_size == (1, 1) else "convolution"


def _laid_out(images: torch.Tensor) -> torch.Tensor:
    return images.contiguous(memory_format=torch.channels_last)


def _logits(model: nn.Module, chunks: list[torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model(chunk).float() for chunk in chunks])


def _share(which: torch.Tensor) -> float:
    return float(which.double().mean())


def _snr_db(exact: torch.Tensor, found: torch.Tensor) -> float:
    error = float((found.double() - exact.double()).square().sum())
    power = float(exact.double().square().sum())
    return min(IDENTICAL_DB, 10 * math.log10(power / error)) if error and power else IDENTICAL_DB
