"""Plain PyTorch: the network as it was built, and the reference every other backend is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnv3_bench.backends import _torch
from mnv3_bench.backends._artifact import About
from mnv3_bench.backends.base import Backend, BackendInfo

if TYPE_CHECKING:
    from pathlib import Path

    from mnv3_bench.backends.base import Facts, Preparation


class Eager(Backend):
    """`model(x)` in inference mode; nothing is folded, packed or converted."""

    info = BackendInfo(
        name="eager",
        summary="PyTorch as it is, fp32",
        runtime_modules=("torch",),
        distributions=("torch", "safetensors"),
        devices=("cpu", "cuda"),
        forkable=True,
    )

    def prepare(self, preparation: Preparation) -> Facts:
        """Store the weights; the structure is built again from the variant's name."""
        _torch.save_weights(preparation.model, preparation.directory)
        About.of(preparation, {}).write(preparation.directory)
        return {}

    def load(self, directory: Path, threads: int, device: str) -> _torch.TorchSession:
        """Build the network around the stored weights."""
        import torch

        place = _torch.torch_device(device)
        torch.set_num_threads(threads)
        about = About.read(directory)
        model = _torch.rebuild(about, directory).to(place)
        return _torch.TorchSession(model, about, place, lambda: _torch.module_facts(model))
