"""Weights from files in torchvision's or timm's parameter layout. Nothing in a file is executed."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from mnv3_models import build
from mnv3_models.layers import MobileNet
from mnv3_models.timm_names import timm_names
from mnv3_models.variants import list_variants

State = dict[str, torch.Tensor]
Shape = tuple[int, ...]

# Averaged weights first: they are the ones whose accuracy is published (timm's loader has the same order).
_CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model")
_WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")  # DataParallel and AveragedModel; torch.compile
_OPTIONAL = ("num_batches_tracked", "n_averaged")  # counters that no inference reads
_WIDTHS = (1.0, 0.75, 0.5, 0.35, 0.25, 1.25, 1.3, 1.4)  # that public checkpoints have
_PORTED_NOTE = (
    "weights ported from TensorFlow expect its SAME padding, which in strided convolutions pads the bottom and "
    "right more; this network pads all sides alike, so its accuracy is somewhat below the published one"
)
_SHOWN = 4  # keys named in an error, of each kind


@dataclass(frozen=True)
class LoadedWeights:
    """What a file turned out to hold."""

    layout: str
    """torchvision or timm."""
    bn_eps: float
    """BatchNorm epsilon the network now has."""
    note: str | None = None
    """Something the reader of a report should know of these weights."""


def load_weights(model: nn.Module, path: str | Path, *, bn_eps: float | None = None) -> LoadedWeights:
    """Fill a network from a checkpoint, wholly or (on any error) not at all.

    The file is a state dict, bare or under 'state_dict_ema', 'model_ema', 'state_dict' or 'model', in
    torchvision's layout (also what this package's own networks save) or in timm's.

    The BatchNorm epsilon is no part of a file. In torchvision's layout the network keeps its own, which
    `build` sets to torchvision's. In timm's it becomes 1e-5, except for the minimalistic forms, which timm
    has as ports from TensorFlow only: 1e-3. timm's other ports (names that begin with tf_) cannot be told
    from the file: give `bn_eps=1e-3` for them.

    Args:
        model: a network that `build` made. Its train or eval mode is kept.
        path: a .pth, .pt or .safetensors file.
        bn_eps: epsilon the weights were trained with, where the rule above does not hold.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the model is not one of ours, the file is no checkpoint or would execute code, or keys or
            shapes do not fit; the message names them, and the network the file does fit where one is found.
    """
    if not isinstance(model, MobileNet):
        raise ValueError(
            f"a {type(model).__name__} cannot take these weights; expected a network from build()"
        )
    if bn_eps is not None and not 0 < bn_eps < 1:
        raise ValueError(f"bn_eps is {bn_eps}; expected a small positive number, such as 1e-3")
    path = Path(path)
    state = read_state(path)
    return _fill(model, path, state, _layout(path, state), bn_eps)


def load_for_fine_tuning(
    model: nn.Module, path: str | Path, *, bn_eps: float | None = None
) -> tuple[LoadedWeights, int | None]:
    """Fill a network as `load_weights` does, but leave its last layer as it is where the file's has other classes.

    Args:
        model: a network that `build` made.
        path: a .pth, .pt or .safetensors file.
        bn_eps: epsilon the weights were trained with, where `load_weights`'s rule does not hold.

    Returns:
        What the file holds; and, where the last layer was not taken, how many classes the file's has.

    Raises:
        FileNotFoundError, ValueError: as `load_weights`.
    """
    if not isinstance(model, MobileNet):
        raise ValueError(
            f"a {type(model).__name__} cannot take these weights; expected a network from build()"
        )
    path = Path(path)
    state = read_state(path)
    layout = _layout(path, state)
    keys = _keys(model, layout)
    own = model.state_dict()
    head = list(own)[-1].rpartition(".")[0]  # the last linear layer's
    weight, bias = keys[f"{head}.weight"], keys[f"{head}.bias"]
    other = None
    if weight in state and bias in state and state[bias].dim() == 1 and state[weight].dim() > 1:
        found, wanted = state[weight].shape[:2], own[f"{head}.weight"].shape
        if found[0] != wanted[0] and found[1] == wanted[1]:
            other = int(found[0])
            state = {
                **state,
                weight: own[f"{head}.weight"].reshape(*wanted, *[1] * (state[weight].dim() - 2)),
                bias: own[f"{head}.bias"],
            }
    return _fill(model, path, state, layout, bn_eps), other


def _fill(model: MobileNet, path: Path, state: State, layout: str, bn_eps: float | None) -> LoadedWeights:
    """Copy tensors that fit into a network.

    Raises:
        ValueError: they do not.
    """
    if misfit := _misfit(model, state, layout):
        fits = _find_fit(state, layout)
        advice = f"; the file fits {fits}" if fits else ""
        raise ValueError(f"{path} does not fit {model.variant.name}: {misfit}{advice}")
    own = model.state_dict()  # shares memory with the network
    for ours, theirs in _keys(model, layout).items():
        if theirs in state:
            own[ours].copy_(state[theirs].reshape(own[ours].shape))
    ported = layout == "timm" and (bn_eps == 1e-3 or (bn_eps is None and "minimal" in model.variant.form))
    if bn_eps is None and layout == "timm":
        bn_eps = 1e-3 if ported else 1e-5
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.eps = norm.eps if bn_eps is None else bn_eps
    return LoadedWeights(layout, norms[0].eps, _PORTED_NOTE if ported else None)


def read_state(path: Path) -> State:
    """The tensors in a checkpoint by name, on the CPU, with the prefixes of wrappers removed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no checkpoint, or would execute code.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no weights file {path}")
    if path.suffix not in (".pth", ".pt", ".safetensors"):
        raise ValueError(f"{path} is no weights file by its name; expected .pth, .pt or .safetensors")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if isinstance(content, Mapping):
        content = next(
            (content[key] for key in _CONTAINERS if isinstance(content.get(key), Mapping)), content
        )
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{path} holds no state dict; expected tensors by parameter name")
    strange = [str(key) for key, value in content.items() if not _is_plain(value)]
    if strange:
        raise ValueError(f"{path} holds no state dict; these entries are no tensors: {_some(strange)}")
    return {_WRAPPERS.sub("", str(key)): value for key, value in content.items()}


def _is_plain(value: object) -> bool:
    """Whether it is a tensor whose numbers can be copied: none that is sparse, quantized, nested or without data."""
    if not isinstance(value, torch.Tensor) or value.is_quantized or value.is_nested or value.is_meta:
        return False
    return value.layout == torch.strided and not value.is_complex()


def _read_safetensors(path: Path) -> object:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # its own, the system's, and those of torch on types that it lacks
        raise ValueError(f"{path} is no readable safetensors file ({_first_line(error)})") from error


def _read_torch(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's on TorchScript programs, which are refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # nothing of the file is run, but its bytes may make the reader raise anything
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            raise ValueError(
                f"{path} was refused: reading it would run {found[1]}, and weights need no code; "
                "save model.state_dict() alone"
            ) from error
        if "TorchScript" in str(error):
            raise ValueError(
                f"{path} is a TorchScript program, no weights file; save model.state_dict() alone"
            ) from error
        raise ValueError(f"{path} is no readable PyTorch checkpoint ({_first_line(error)})") from error


def _layout(path: Path, state: State) -> str:
    for layout, stem in (("torchvision", "features.0.0.weight"), ("timm", "conv_stem.weight")):
        if stem in state:
            return layout
    raise ValueError(
        f"{path} holds no MobileNet in torchvision's layout (features.0.0.weight) or timm's "
        f"(conv_stem.weight); its keys are {_some(list(state))}"
    )


def _keys(model: MobileNet, layout: str) -> dict[str, str]:
    """Keys of the network's own state dict to keys in the layout."""
    ours = list(model.state_dict())
    if layout == "torchvision":
        return {key: key for key in ours}
    names = timm_names(model)
    split = ((key, *key.rpartition(".")) for key in ours)
    return {key: f"{names[module]}.{tensor}" for key, module, _, tensor in split}


def _expected(model: MobileNet, layout: str) -> dict[str, Shape]:
    """Shape of every tensor the layout has for this network, by the layout's key."""
    own = model.state_dict()
    shapes = {theirs: tuple(own[ours].shape) for ours, theirs in _keys(model, layout).items()}
    if layout == "timm" and "conv_head.bias" in shapes:  # V3: a linear layer here, a 1x1 convolution there
        shapes["conv_head.weight"] = (*shapes["conv_head.weight"], 1, 1)
    return shapes


def _misfit(model: MobileNet, state: State, layout: str) -> str | None:
    """Why the tensors do not fit, None if they do."""
    expected = _expected(model, layout)
    missing = [key for key in expected if key not in state and not key.endswith(_OPTIONAL)]
    unexpected = [key for key in state if key not in expected and not key.endswith(_OPTIONAL)]
    shapes = [
        f"{key} (file {list(state[key].shape)}, network {list(shape)})"
        for key, shape in expected.items()
        if key in state and tuple(state[key].shape) != shape
    ]
    parts = (("missing keys", missing), ("unexpected keys", unexpected), ("other shapes", shapes))
    return "; ".join(f"{what} ({len(keys)}): {_some(keys)}" for what, keys in parts if keys) or None


def _find_fit(state: State, layout: str) -> str | None:
    """The call that builds a network these tensors do fit, None if none of the usual ones does."""
    heads = [key for key in state if re.fullmatch(r"classifier(\.\d)?\.weight", key)]
    num_classes = state[max(heads)].shape[0] if heads and state[max(heads)].dim() else 0
    if not num_classes:
        return None
    for name in list_variants():
        for width in _WIDTHS:
            with torch.device("meta"):
                model = build(name, width=width, num_classes=num_classes)
            if _misfit(model, state, layout) is None:
                return f"build('{model.variant.name}', num_classes={num_classes})"
    return None


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
