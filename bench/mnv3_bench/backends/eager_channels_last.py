"""PyTorch with the two changes that need no compiler: BatchNorm folded, channels last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnv3_bench.backends import _torch
from mnv3_bench.backends._artifact import About
from mnv3_bench.backends.base import Backend, BackendInfo, Switch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mnv3_bench.backends.base import Arrays, Explanation, Facts, Preparation, Profile

LAYOUT = Switch("layout", ("channels-last", "contiguous"), "memory format of images and weights")
SOURCES = (
    "https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html",
    "https://docs.pytorch.org/tutorials/intermediate/fx_conv_bn_fuser.html",
)


class EagerChannelsLast(Backend):
    """Conv-BN folded and channels last, as PyTorch's performance tuning guide recommends for vision on the CPU."""

    info = BackendInfo(
        name="eager-channels-last",
        summary="PyTorch with BatchNorm folded and channels-last tensors, fp32",
        runtime_modules=("torch",),
        distributions=("torch", "safetensors"),
        forkable=True,
        switches=(LAYOUT,),
        sources=SOURCES,
    )

    def prepare(self, preparation: Preparation) -> Facts:
        """Store the folded weights."""
        folded, facts = _torch.folded(preparation.model)
        _torch.save_weights(folded, preparation.directory)
        About.of(preparation, facts).write(preparation.directory)
        return facts

    def load(self, directory: Path, threads: int, device: str) -> _torch.TorchSession:
        """Build the network around the folded weights."""
        import torch

        place = _torch.torch_device(device)
        torch.set_num_threads(threads)
        about = About.read(directory)
        model = _torch.rebuild(about, directory)
        channels_last = self.settings["layout"] == "channels-last"
        _torch.lay_out(model, channels_last=channels_last)
        return _torch.TorchSession(
            model, about, place, lambda: _torch.module_facts(model), channels_last=channels_last
        )

    def explain(self, directory: Path, threads: int, calls: Sequence[Arrays]) -> Explanation:
        """PyTorch's profiler and oneDNN's own log."""
        from mnv3_bench.backends import _torch_explain

        return _torch_explain.operators(self.load(directory, threads, "cpu"), calls)

    def profile(self, directory: Path, threads: int, calls: Sequence[Arrays], folder: Path) -> Profile:
        """PyTorch's profiler, operator by operator."""
        from mnv3_bench.backends import _torch_profile

        return _torch_profile.operators(self.load(directory, threads, "cpu"), calls, folder)
