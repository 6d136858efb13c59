"""PyTorch in bfloat16, BatchNorm folded, channels last."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from mnv3_bench.backends import _cpu, _torch
from mnv3_bench.backends._artifact import About
from mnv3_bench.backends.base import Backend, BackendInfo
from mnv3_bench.backends.eager_channels_last import LAYOUT, SOURCES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch

    from mnv3_bench.backends.base import Arrays, Explanation, Facts, Preparation, Profile


class EagerBf16(Backend):
    """`model.bfloat16()` on a folded network, called with float32 images that are converted in the timed call.

    The conversion is timed because a caller has float32 images; it takes half a percent of V3-Small's call. Weights are
    folded in fp32 first, since bfloat16 keeps eight bits of each factor. `torch.autocast` takes 1.13 times as long (AMD
    EPYC with AVX-512 bf16, 1 thread): it keeps converted copies only of weights that require gradients, so here it
    converts all at each call.
    """

    info = BackendInfo(
        name="eager-bf16",
        summary="PyTorch in bfloat16, BatchNorm folded, channels last",
        runtime_modules=("torch",),
        distributions=("torch", "safetensors"),
        precision="bf16",
        floor_snr_db=20.0,
        forkable=True,
        switches=(LAYOUT,),
        exact="eager-channels-last",
        sources=(*SOURCES, "https://docs.pytorch.org/docs/stable/amp.html"),
    )

    def unavailable(self) -> str | None:
        """Whether bfloat16 products would be emulated."""
        if _cpu.has_bf16():
            return None
        return "this processor has no bfloat16 arithmetic (avx512_bf16, amx_bf16, ARM's bf16): PyTorch would emulate it"

    def prepare(self, preparation: Preparation) -> Facts:
        """Store the folded weights, in bfloat16."""
        folded, facts = _torch.folded(preparation.model)
        # Copied: what folding leaves as it is are layers of the network that was given.
        _torch.save_weights(copy.deepcopy(folded).bfloat16(), preparation.directory)
        About.of(preparation, facts).write(preparation.directory)
        return facts

    def load(self, directory: Path, threads: int, device: str) -> _torch.TorchSession:
        """Build the network around the weights."""
        import torch

        place = _torch.torch_device(device)
        torch.set_num_threads(threads)
        about = About.read(directory)
        model = _torch.rebuild(about, directory)
        channels_last = self.settings["layout"] == "channels-last"
        _torch.lay_out(model, channels_last=channels_last)

        def call(*inputs: torch.Tensor) -> object:
            return model(*(each.bfloat16() if each.is_floating_point() else each for each in inputs))

        return _torch.TorchSession(
            call, about, place, lambda: _torch.module_facts(model), channels_last=channels_last
        )

    def explain(self, directory: Path, threads: int, calls: Sequence[Arrays]) -> Explanation:
        """PyTorch's profiler and oneDNN's own log."""
        from mnv3_bench.backends import _torch_explain

        return _torch_explain.operators(self.load(directory, threads, "cpu"), calls)

    def profile(self, directory: Path, threads: int, calls: Sequence[Arrays], folder: Path) -> Profile:
        """PyTorch's profiler, operator by operator."""
        from mnv3_bench.backends import _torch_profile

        return _torch_profile.operators(self.load(directory, threads, "cpu"), calls, folder, precision="bf16")
