"""Plain PyTorch: the network as it was built, and the reference every other backend is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnv3_bench.backends import _torch
from mnv3_bench.backends._artifact import About
from mnv3_bench.backends.base import Backend, BackendInfo

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mnv3_bench.backends.base import Arrays, Explanation, Facts, Preparation, Profile, Signature


class Eager(Backend):
    """`model(x)` in inference mode; nothing is folded, packed or converted, so it has no switches.

    Of a .pt2 file the exported program's module is called, operator by operator, without its own check of the inputs
    at each call.
    """

    info = BackendInfo(
        name="eager",
        summary="PyTorch as it is, fp32",
        runtime_modules=("torch",),
        distributions=("torch", "safetensors"),
        devices=("cpu", "cuda"),
        forkable=True,
        takes=("module", "pt2"),
        native="pt2",
        sources=(
            "https://docs.pytorch.org/docs/stable/generated/torch.autograd.grad_mode.inference_mode.html",
        ),
    )

    def prepare(self, preparation: Preparation) -> Facts:
        """Store the weights, around which the variant's network is built again; or the exported program."""
        _torch.save_network(preparation)
        About.of(preparation, {}).write(preparation.directory)
        return {}

    def load(self, directory: Path, threads: int, device: str) -> _torch.TorchSession:
        """Build the network around the stored weights, or load the program."""
        import torch

        place = _torch.torch_device(device)
        torch.set_num_threads(threads)
        about = About.read(directory)
        model = _torch.load_network(about, directory, place)
        return _torch.TorchSession(model, about, place, lambda: _torch.module_facts(model))

    def inspect(self, file: Path) -> Signature:
        """What an exported program takes and gives."""
        from mnv3_bench.backends import _pt2

        return _pt2.signature(file)

    def reference(self, file: Path, calls: Sequence[Arrays]) -> list[Arrays]:
        """Eager outputs of an exported program."""
        from mnv3_bench.backends import _pt2

        return _pt2.reference(file, calls)

    def explain(self, directory: Path, threads: int, calls: Sequence[Arrays]) -> Explanation:
        """PyTorch's profiler and oneDNN's own log."""
        from mnv3_bench.backends import _torch_explain

        return _torch_explain.operators(self.load(directory, threads, "cpu"), calls)

    def profile(self, directory: Path, threads: int, calls: Sequence[Arrays], folder: Path) -> Profile:
        """PyTorch's profiler, operator by operator."""
        from mnv3_bench.backends import _torch_profile

        return _torch_profile.operators(self.load(directory, threads, "cpu"), calls, folder)
