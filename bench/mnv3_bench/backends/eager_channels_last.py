"""PyTorch with the two changes that need no compiler: BatchNorm folded, channels last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnv3_bench.backends import _torch
from mnv3_bench.backends._artifact import About
from mnv3_bench.backends.base import Backend, BackendInfo

if TYPE_CHECKING:
    from pathlib import Path

    from mnv3_bench.backends.base import Facts, Preparation


class EagerChannelsLast(Backend):
    """Conv-BN folded and channels last, as PyTorch's performance tuning guide recommends for vision on the CPU.

    Source: docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html ('Use channels_last memory format') and
    docs.pytorch.org/tutorials/intermediate/fx_conv_bn_fuser.html.
    """

    info = BackendInfo(
        name="eager-channels-last",
        summary="PyTorch with BatchNorm folded and channels-last tensors, fp32",
        runtime_modules=("torch",),
        distributions=("torch", "safetensors"),
        forkable=True,
    )

    def prepare(self, preparation: Preparation) -> Facts:
        """Store the folded weights."""
        from torch import nn

        folded = _torch.fold_batch_norm(preparation.model)
        _torch.save_weights(folded, preparation.directory)
        before, after = (
            sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
            for model in (preparation.model, folded)
        )
        facts: Facts = {"batch norms folded": before - after, "batch norms left": after}
        About.of(preparation, facts).write(preparation.directory)
        return facts

    def load(self, directory: Path, threads: int, device: str) -> _torch.TorchSession:
        """Build the network around the folded weights."""
        import torch

        place = _torch.torch_device(device)
        torch.set_num_threads(threads)
        about = About.read(directory)
        model = _torch.rebuild(about, directory)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # its stub lacks this argument
        return _torch.TorchSession(
            model, about, place, lambda: _torch.module_facts(model), channels_last=True
        )
