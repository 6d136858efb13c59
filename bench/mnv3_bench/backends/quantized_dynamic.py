"""PyTorch's dynamic quantization: int8 weights for the linear layers."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from mnv3_bench.backends import _layers, _torch
from mnv3_bench.backends._artifact import About
from mnv3_bench.backends.base import Backend, BackendError, BackendInfo

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import nn

    from mnv3_bench.backends.base import Arrays, Explanation, Facts, Preparation, Profile

STATE = "quantized.pt"


class QuantizedDynamic(Backend):
    """`torch.ao.quantization.quantize_dynamic`: linear layers only, whatever types are asked for.

    The default mapping has no dynamic convolution, so asking for Conv2d changes nothing. V3-Large's two linear layers
    hold 46 % of its weights and 1 % of its MACs: expect a smaller file, not a faster network. The x86 engine is the
    one PyTorch recommends on x86-64. Weights are quantized a channel at a time: 40.0 dB on V3-Small and 38.6 dB on
    V3-Large instead of 35.9 and 34.2 dB a tensor at a time, at the same speed. torch.ao.quantization is deprecated in
    favour of torchao, whose int8 dynamic quantization of linear layers was not faster here.
    """

    info = BackendInfo(
        name="quantized-dynamic",
        summary="PyTorch dynamic int8: linear layers only",
        runtime_modules=("torch",),
        distributions=("torch",),
        precision="int8 linear, fp32 rest",
        floor_snr_db=20.0,
        forkable=True,
        exact="eager",
        keeps_layers=True,
        sources=("https://docs.pytorch.org/docs/stable/quantization-support.html",),
    )

    def prepare(self, preparation: Preparation) -> Facts:
        """Quantize the linear layers' weights and store the network's state."""
        import torch

        _layers.require(preparation)
        quantized = _quantize(preparation.model, preparation.float_layers)
        torch.save(quantized.state_dict(), preparation.directory / STATE)
        facts = _coverage(quantized) | _layers.stated(preparation.float_layers, _in_float(quantized))
        About.of(preparation, facts).write(preparation.directory)
        return facts

    def load(self, directory: Path, threads: int, device: str) -> _torch.TorchSession:
        """Build the network, replace its linear layers, and fill both from the stored state."""
        import torch

        from mnv3_models import build

        place = _torch.torch_device(device)
        torch.set_num_threads(threads)
        about = About.read(directory)
        network = build(about.variant, num_classes=about.num_classes, bn_eps=about.bn_eps)
        model = _quantize(network.eval(), str(about.facts.get(_layers.KEPT, "")).split(", "))
        try:
            # Nothing in the file is executed: quantized tensors are among the types that are only data.
            model.load_state_dict(torch.load(directory / STATE, weights_only=True))
        except (OSError, RuntimeError) as error:
            raise BackendError(
                f"the artifact's {STATE} cannot be loaded ({_line(error)}); prepare it again with --cold"
            ) from error
        model.requires_grad_(False)
        return _torch.TorchSession(
            model,
            about,
            place,
            lambda: {**_torch.module_facts(model), "engine": torch.backends.quantized.engine},
        )

    def explain(self, directory: Path, threads: int, calls: Sequence[Arrays]) -> Explanation:
        """PyTorch's profiler and oneDNN's own log."""
        from mnv3_bench.backends import _torch_explain

        return _torch_explain.operators(self.load(directory, threads, "cpu"), calls)

    def profile(self, directory: Path, threads: int, calls: Sequence[Arrays], folder: Path) -> Profile:
        """PyTorch's profiler, operator by operator."""
        from mnv3_bench.backends import _torch_profile

        return _torch_profile.operators(self.load(directory, threads, "cpu"), calls, folder)


def _quantize(model: nn.Module, kept: Sequence[str]) -> nn.Module:
    """Quantize its linear layers, but for those that are to be kept in float."""
    import torch
    from torch import nn

    engine = "x86" if "x86" in torch.backends.quantized.supported_engines else "qnnpack"
    torch.backends.quantized.engine = engine
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*torch.ao.quantization is deprecated", category=DeprecationWarning
        )
        warnings.filterwarnings("ignore", message=".*TypedStorage is deprecated", category=UserWarning)
        quantize: Any = torch.ao.quantization.quantize_dynamic
        wanted = {
            name: torch.ao.quantization.per_channel_dynamic_qconfig
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and name not in kept
        }
        # Of an empty mapping it makes its own choice, which is every layer.
        quantized: nn.Module = quantize(model, wanted) if wanted else model
    return quantized.eval()  # layers it made are in train mode


def _coverage(model: nn.Module) -> Facts:
    import torch
    from torch import nn

    kind = torch.ao.nn.quantized.dynamic.Linear
    return {
        "int8 layers": sum(isinstance(module, kind) for module in model.modules()),
        "fp32 convolutions": sum(isinstance(module, nn.Conv2d) for module in model.modules()),
        "covers": "linear layers only; convolutions stay fp32",
    }


def _in_float(model: nn.Module) -> list[str]:
    from torch import nn

    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) or type(module) is nn.Linear
    ]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
