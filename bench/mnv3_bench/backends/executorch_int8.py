"""ExecuTorch, quantized to int8."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnv3_bench.backends import (
    _executorch,
    _executorch_explain,
    _executorch_lower,
    _executorch_profile,
    _layers,
    _pt2e,
    _torch,
)
from mnv3_bench.backends._artifact import About
from mnv3_bench.backends._onnx import quiet
from mnv3_bench.backends.base import Backend, BackendInfo, Switch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch

    from mnv3_bench.backends.base import Arrays, Explanation, Facts, Preparation, Profile


class ExecuTorchInt8(Backend):
    """torchao's PT2E flow with XNNPACK's quantizer: s8 weights a channel, s8 activations a tensor.

    That is the scheme XNNPACK's documentation gives, per channel, with histogram observers as the quantizer chooses
    them (https://docs.pytorch.org/executorch/stable/backends/xnnpack/xnnpack-quantization.html). On networks trained on
    the digits at 64 x 64 (128 images for calibration; signal-to-noise over 449 held-out ones, and points of top-1 lost,
    of which one image is 0.22; the quantized graph in PyTorch):

    =========  =============  =============  =============  =============
    ranges     V3-Small       V3-Large       V1             V2
    =========  =============  =============  =============  =============
    histogram  32.8 dB, 0.00  34.0 dB, 0.00  25.5 dB, 0.44  28.8 dB, 0.45
    minmax     33.1 dB, 0.00  32.7 dB, 0.00  24.4 dB, 0.44  27.9 dB, 0.89
    =========  =============  =============  =============  =============

    V1 and V2 lose some 4 and 1 dB that ONNX Runtime does not: the quantizer fuses ReLU with the convolution before it,
    and not ReLU6, and takes one range for what goes in and what comes out.

    There is neither bias correction nor cross-layer equalisation in this flow.

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
            Switch(
                name="calibration",
                values=("histogram", "minmax"),
                help="activations' ranges of the static recipe: the least error over a histogram, or least and "
                "greatest value",
                shapes_artifact=True,
                tuned=False,
            ),
        ),
        keeps_layers=True,
        exact="executorch",
        sources=(
            *_executorch.SOURCES,
            "https://docs.pytorch.org/executorch/stable/backends/xnnpack/xnnpack-quantization.html",
        ),
    )

    def prepare(self, preparation: Preparation) -> Facts:
        """Export, calibrate, quantize, export what came of it and lower."""
        dynamic, ranges = self.settings["recipe"] == "dynamic", self.settings["calibration"]
        example = _torch.tensors(preparation.example)
        _layers.require(preparation)
        quantized = _quantize(preparation, example, dynamic=dynamic, histogram=ranges == "histogram")
        program = _executorch_lower.export(quantized, example)
        facts: Facts = {
            "quantized by": "torchao PT2E, XNNPACKQuantizer",
            "calibration calls": 0 if dynamic else len(preparation.calibration),
            "activations": "s8 a tensor, " + ("at every call" if dynamic else ranges),
            "weights": "s8 a channel",
            **_executorch_lower.write(program, preparation.directory, preparation.float_layers),
        }
        About.of(preparation, facts).write(preparation.directory)
        return facts

    def load(self, directory: Path, threads: int, device: str) -> _executorch.Session:
        """Load the program."""
        return _executorch.open_session(directory, threads, device)

    def explain(self, directory: Path, threads: int, calls: Sequence[Arrays]) -> Explanation:
        """Time by operator, and what was not delegated or not quantized."""
        return _executorch_explain.explain(directory, threads, calls)

    def profile(self, directory: Path, threads: int, calls: Sequence[Arrays], folder: Path) -> Profile:  # noqa: ARG002
        """The event tracer, operator by operator."""
        return _executorch_profile.profile(directory, threads, calls)


def _quantize(
    preparation: Preparation, example: tuple[torch.Tensor, ...], *, dynamic: bool, histogram: bool
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
        config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=dynamic)
        if not (dynamic or histogram):
            config = _pt2e.with_extremes(config)
        quantizer.set_global(config)
        # It takes no 'not this module'.
        quantizer.set_filter_function(lambda node: _layers.path(node) not in preparation.float_layers)
        observed = prepare_pt2e(exported.module(), quantizer)
        # Even with ranges found at run time one call is needed: observers of the weights look at them when called.
        for inputs in [preparation.example] if dynamic else preparation.calibration:
            observed(*_torch.tensors(inputs))
        converted: torch.fx.GraphModule = convert_pt2e(observed)
    return converted
