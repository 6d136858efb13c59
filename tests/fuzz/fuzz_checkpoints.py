"""Weights of strangers: names, shapes and types of tensors changed, containers around them, bytes damaged."""

from __future__ import annotations

import io
from functools import cache, lru_cache
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save as to_safetensors

from fuzz import made
from mnv3_models import build, checkpoints, load_weights
from mnv3_models.card import read_card
from mnv3_models.checkpoints import load_for_fine_tuning
from mnv3_models.timm_names import timm_names

torch.set_num_threads(1)
# Searching for the network that a file does fit builds dozens of them each time.
checkpoints.build = lru_cache(200)(checkpoints.build)
checkpoints._expected = lru_cache(400)(checkpoints._expected)

NETWORKS = ("v1@0.05", "v2@0.05", "v3-small@0.05", "v3-large-minimal@0.05")
PREFIXES = ("", "module.", "_orig_mod.", "module._orig_mod.", "model.")
CONTAINERS = (None, "state_dict", "model", "state_dict_ema", "model_ema", "weights")


@cache
def network(name: str) -> Any:
    """A network to be filled, again and again."""
    return build(name, num_classes=10)


@cache
def state(name: str, layout: str) -> dict[str, torch.Tensor]:
    """Its weights in one of the layouts."""
    model = network(name)
    own = {key: value.clone() for key, value in model.state_dict().items()}
    if layout == "torchvision":
        return own
    names = timm_names(model)
    found = {}
    for key, value in own.items():
        module, _, tensor = key.rpartition(".")
        found[f"{names[module]}.{tensor}"] = value
    return found


tensors = st.sampled_from(
    (
        torch.zeros(()),
        torch.zeros(0),
        torch.zeros(3, 3),
        torch.zeros(10, 1, 1, 1),
        torch.zeros(10, dtype=torch.int64),
        torch.zeros(2, dtype=torch.complex64),
        torch.zeros(4, dtype=torch.bool),
        torch.zeros(2, 0, 5),
        torch.full((10,), float("nan")),
        torch.zeros(10).to_sparse(),
        torch.zeros(10, device="meta"),
        torch.quantize_per_tensor(torch.zeros(10), 0.1, 0, torch.quint8),
        torch.zeros(10, dtype=torch.float8_e4m3fn),
    )
)


def storable(tensor: torch.Tensor) -> bool:
    """Whether safetensors has a form for it."""
    return not (tensor.is_sparse or tensor.is_meta or tensor.is_quantized)


others = st.one_of(tensors, tensors, st.none(), st.integers(), st.text(max_size=5), st.just([]), st.just({}))


@st.composite
def files(draw: st.DrawFn) -> tuple[str, str, bytes]:
    """A network, a suffix, and a file that may be its."""
    name = draw(st.sampled_from(NETWORKS))
    held: dict[Any, Any] = dict(state(name, draw(st.sampled_from(("torchvision", "timm")))))
    suffix = draw(st.sampled_from((".pth", ".safetensors")))
    for _ in range(draw(st.integers(0, 3))):
        key = draw(st.sampled_from(list(held))) if held else "a"
        match draw(st.integers(0, 4)):
            case 0:
                held[key] = draw(tensors.filter(storable) if suffix == ".safetensors" else others)
            case 1:
                del held[key]
            case 2:
                held[draw(st.text(max_size=8)) or "b"] = held[key]
            case 3:
                held[key.replace("0", "1")] = held.pop(key)
            case _:
                value = held[key]
                held[key] = value.reshape(-1) if isinstance(value, torch.Tensor) else value
    prefix = draw(st.sampled_from(PREFIXES))
    held = {f"{prefix}{key}": value for key, value in held.items()}
    if suffix == ".safetensors":
        data = to_safetensors(
            {key: value.contiguous().clone() for key, value in held.items()}, draw(_METADATA)
        )
    else:
        container = draw(st.sampled_from(CONTAINERS))
        file = io.BytesIO()
        torch.save(held if container is None else {container: held, "epoch": 3}, file)
        data = file.getvalue()
    return name, suffix, draw(made.damaged(data)) if draw(st.booleans()) else data


_METADATA = st.none() | st.dictionaries(
    st.sampled_from(("mnv3_models.card", "mnv3_models", "format", "x")),
    st.text(max_size=20) | st.just("{}"),
    max_size=2,
)


@given(files(), st.booleans())
def fuzz(file: Any, fine_tuning: Any) -> None:
    """It fills the network, or is refused with `ValueError`, and then the network is as it was."""
    name, suffix, content = file
    folder = made.scratch() / "weights"
    folder.mkdir(exist_ok=True)
    path = folder / f"weights{suffix}"
    path.write_bytes(content)
    try:
        read_card(path)
    except ValueError as error:
        made.said(error)
    model = network(name)
    watched = [*model.state_dict().values()][::40]
    before = [value.clone() for value in watched]
    try:
        (load_for_fine_tuning if fine_tuning else load_weights)(model, path)
    except ValueError as error:
        made.said(error)
        for now, then in zip(watched, before, strict=True):
            assert torch.equal(now, then) or now.isnan().any(), "a file that was refused changed the network"
