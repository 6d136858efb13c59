"""TorchScript: traced, then frozen (BatchNorm folded, attributes inlined)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnv3_bench.backends import _torch
from mnv3_bench.backends._artifact import About
from mnv3_bench.backends.base import Backend, BackendInfo

if TYPE_CHECKING:
    from pathlib import Path

    from mnv3_bench.backends.base import Facts, Preparation


class TorchScript(Backend):
    """`torch.jit.freeze(torch.jit.trace(model, x))`, saved and loaded as deployed programs do.

    TorchScript is deprecated since PyTorch 2.10 and still in wide use. `torch.jit.optimize_for_inference` is left out:
    it made both networks slower on the processors tried.

    Source: docs.pytorch.org/docs/stable/generated/torch.jit.freeze.html.
    """

    info = BackendInfo(
        name="torchscript",
        summary="TorchScript, traced and frozen, fp32",
        runtime_modules=("torch",),
        distributions=("torch",),
        devices=("cpu", "cuda"),
        forkable=True,
    )

    def prepare(self, preparation: Preparation) -> Facts:
        """Trace, freeze and save on the device the artifact is for."""
        _torch.save_script(preparation.model, preparation)
        About.of(preparation, {}).write(preparation.directory)
        return {}

    def load(self, directory: Path, threads: int, device: str) -> _torch.TorchSession:
        """Load the saved program."""
        return _torch.load_script(directory, threads, device)
