"""ExecuTorch, quantized to int8."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnv3_bench.backends import _executorch, _executorch_explain, _executorch_lower, _torch
from mnv3_bench.backends._artifact import About
from mnv3_bench.backends._onnx import quiet
from mnv3_bench.backends.base import Backend, BackendInfo, Switch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch

    from mnv3_bench.backends.base import Arrays, Explanation, Facts, Preparation


class ExecuTorchInt8(Backend):
    """torchao's PT2E flow with XNNPACK's quantizer: s8 weights a channel, s8 activations a tensor.

    That is the scheme XNNPACK's documentation gives, per channel, with histogram observers as the quantizer chooses
    them (https://docs.pytorch.org/executorch/stable/backends/xnnpack/xnnpack-quantization.html).

    `recipe=static` calibrates the activations' ranges on the given inputs. `recipe=dynamic` finds them at every call,
    for convolutions and linear layers only, and ExecuTorch 1.5's quantizer leaves out depthwise convolutions and those
    followed by a ReLU: of V3-Small's 54 layers with weights it takes 32. Seen on V3-Small with seeded weights, 64
    images for calibration and 32 for the ratio of signal to noise: 17.8 dB static, 22.3 dB dynamic; on one thread with
    AVX-512 VNNI, the least of 60 turns, 1.40 and 1.41 ms beside 1.74 ms in fp32.
    """

    info = BackendInfo(
        name="executorch-int8",
        summary="ExecuTorch, int8 (XNNPACK quantizer, per channel, calibrated)",
        runtime_modules=_executorch.RUNTIME_MODULES,
        prepare_modules=_executorch.PREPARE_MODULES,
        distributions=_executorch.DISTRIBUTIONS,
        extra="executorch",
        precision="int8",
        floor_snr_db=8.0,
        forkable=True,
        takes=("module", "pt2"),
        switches=(
            Switch(
                name="recipe",
                values=("static", "dynamic"),
                help="activations' ranges: calibrated, or found at every call",
                shapes_artifact=True,
                tuned=False,
            ),
        ),
        exact="executorch",
        sources=(
            *_executorch.SOURCES,
            "https://docs.pytorch.org/executorch/stable/backends/xnnpack/xnnpack-quantization.html",
        ),
    )

    def prepare(self, preparation: Preparation) -> Facts:
        """Export, calibrate, quantize, export what came of it and lower."""
        dynamic = self.settings["recipe"] == "dynamic"
        example = _torch.tensors(preparation.example)
        quantized = _quantize(preparation, example, dynamic=dynamic)
        program = _executorch_lower.export(quantized, example)
        facts: Facts = {
            "quantized by": "torchao PT2E, XNNPACKQuantizer",
            "calibration calls": 0 if dynamic else len(preparation.calibration),
            "activations": "s8 a tensor, " + ("at every call" if dynamic else "histogram"),
            "weights": "s8 a channel",
            **_executorch_lower.write(program, preparation.directory),
        }
        About.of(preparation, facts).write(preparation.directory)
        return facts

    def load(self, directory: Path, threads: int, device: str) -> _executorch.Session:
        """Load the program."""
        return _executorch.open_session(directory, threads, device)

    def explain(self, directory: Path, threads: int, calls: Sequence[Arrays]) -> Explanation:
        """Time by operator, and what was not delegated or not quantized."""
        return _executorch_explain.explain(directory, threads, calls)


def _quantize(
    preparation: Preparation, example: tuple[torch.Tensor, ...], *, dynamic: bool
) -> torch.fx.GraphModule:
    import torch

    exported = _executorch_lower.export(preparation.model, example)
    with quiet(), torch.no_grad():
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        quantizer = XNNPACKQuantizer()
        quantizer.set_global(get_symmetric_quantization_config(is_per_channel=True, is_dynamic=dynamic))
        observed = prepare_pt2e(exported.module(), quantizer)
        # Even with ranges found at run time one call is needed: observers of the weights look at them when called.
        for inputs in [preparation.example] if dynamic else preparation.calibration:
            observed(*_torch.tensors(inputs))
        converted: torch.fx.GraphModule = convert_pt2e(observed)
    return converted
