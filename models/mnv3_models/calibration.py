"""Seeded weights on which fidelity means something, for benchmarks without a checkpoint.

A freshly initialised MobileNet is no fair subject for quantization. Its BatchNorm statistics are made up,
its logits hardly differ between images, and, once statistics are measured, it is chaotic: each normalised
layer amplifies small differences, so that rounding errors drown what tells images apart. With calibrated
statistics and classifier but the plain initialisation, V1's logits after static int8 quantization (torch's
x86 kernels, 96 fresh images) had a cosine of 0.59 and 8 % top-1 agreement with fp32; with what `seed_weights`
adds they have 0.98 and 81 %.

Accuracy on real data needs real weights; nothing here replaces them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from mnv3_models.layers import ConvNormAct, MobileNet, initialise

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

ACTIVATED_BIAS = 1.0
"""Bias of every BatchNorm before an activation: most units work on its rising side, as in trained networks."""
RESIDUAL_SCALE = 0.5
"""Weight of the last BatchNorm before a residual addition: the branch corrects its input, not replaces it."""
LOWPASS = 0.5
"""Mean added to depthwise kernels, in standard deviations: natural images hold their differences in low
frequencies, rounding noise is white, and zero-mean kernels remove the former and keep the latter."""

STATISTICS_IMAGES = 32
"""Images BatchNorm statistics come from. They average over positions too: 32 x 7 x 7 in the last layers."""
CHUNK = 4
"""Images at a time where only speed depends on it; small ones stay in the cache."""
RIDGE = 0.03
"""Share of the largest principal variance added to all when whitening, so that noise directions stay small."""
LOGIT_STD = 2.0


def seed_weights(model: nn.Module, seed: int) -> None:
    """Draw every weight anew from `seed`, leaving torch's global random state alone.

    It is the paper's (torchvision's) initialisation, then BatchNorm biases, residual weights and a mean of
    depthwise kernels as this module's constants say.
    """
    initialise(model, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and module.groups > 1:
                module.weight += LOWPASS * module.weight.std()
            if isinstance(module, ConvNormAct) and len(module) == 3:
                nn.init.constant_(_norms(module)[-1].bias, ACTIVATED_BIAS)
            if getattr(module, "use_residual", False):
                nn.init.constant_(_norms(module)[-1].weight, RESIDUAL_SCALE)


@torch.no_grad()
def calibrate(model: nn.Module, images: npt.NDArray[np.float32] | torch.Tensor) -> None:
    """Fit BatchNorm statistics and the classifier to images; convolutions and the train or eval mode are kept.

    Running statistics become exactly those of the first 32 images. V3's hidden linear layer is scaled and
    shifted to mean 0 and deviation 1 over the images. The classifier becomes a matched filter in whitened
    features: each image is the template of one class; further classes are weaker ones, between two images.
    Logits have mean 0 and deviation 2.

    Args:
        model: a network from `build`, with weights.
        images: n x 3 x height x width with n of at least 2, normalised like the inputs to come.

    Raises:
        ValueError: the model is not one of ours, or the images have another shape or are all alike.
    """
    if not isinstance(model, MobileNet):
        raise ValueError(f"a {type(model).__name__} cannot be calibrated; expected a network from build()")
    images = torch.as_tensor(images)
    if images.dim() != 4 or images.shape[1] != 3 or len(images) < 2:
        shape = list(images.shape)
        raise ValueError(f"the images have shape {shape}; expected n x 3 x height x width, n >= 2")
    was_training = model.training
    model.eval()
    _fit_statistics(model, images[:STATISTICS_IMAGES])
    pooled = [model.avgpool(model.features(chunk)).flatten(1) for chunk in torch.split(images, CHUNK)]
    _fit_classifier(model.classifier, torch.cat(pooled))
    model.train(was_training)


def _norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [norm for norm in module.modules() if isinstance(norm, nn.BatchNorm2d)]


def _measure(norm: nn.Module, inputs: tuple[torch.Tensor]) -> None:
    variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
    norm.get_buffer("running_mean").copy_(mean)
    norm.get_buffer("running_var").copy_(variance)


def _fit_statistics(model: MobileNet, images: torch.Tensor) -> None:
    """One pass in eval mode: each layer measures its input, then normalises by what it has just measured."""
    handles = [norm.register_forward_pre_hook(_measure) for norm in _norms(model)]
    model.features(images)
    for handle in handles:
        handle.remove()


def _fit_classifier(classifier: nn.Sequential, features: torch.Tensor) -> None:
    """Fit to features, n x channels, as the classifier's first layer gets them."""
    first, last = classifier[0], classifier[-1]
    assert isinstance(last, nn.Linear)
    if isinstance(first, nn.Linear):
        _set_affine(first, first.weight, features, std=1.0, each=True)
    features = classifier[:-1](features)
    centred = features - features.mean(dim=0)
    _, spread, directions = torch.linalg.svd(centred.double(), full_matrices=False)
    if spread[0] < 1e-6 * features.norm():
        raise ValueError("the images are all alike to this network; expected images that differ")
    whitening = directions / torch.sqrt(spread**2 + RIDGE * spread[0] ** 2)[:, None]
    templates = nn.functional.normalize(centred.double() @ whitening.T)
    further = last.out_features - len(templates)
    if further > 0:
        generator = torch.Generator().manual_seed(0)
        pairs = torch.randint(len(templates), (2, further), generator=generator)
        share = torch.empty(further, 1, dtype=torch.float64).uniform_(0.2, 0.6, generator=generator)
        between = share * templates[pairs[0]] + (0.8 - share) * templates[pairs[1]]
        templates = torch.cat([templates, between])
    weight = (templates[: last.out_features] @ whitening).float()
    _set_affine(last, weight, features, std=LOGIT_STD, each=False)


def _set_affine(
    layer: nn.Linear, weight: torch.Tensor, inputs: torch.Tensor, *, std: float, each: bool
) -> None:
    """Set a layer to `weight`, scaled and shifted so that outputs have mean 0 and deviation `std`.

    `each` scales every output by itself; otherwise all are scaled alike.
    """
    outputs = inputs @ weight.T
    mean = outputs.mean(dim=0)
    scale = std / (outputs.std(dim=0) if each else (outputs - mean).std().expand(len(weight)))
    layer.weight.copy_(weight * scale[:, None])
    layer.bias.copy_(-mean * scale)
