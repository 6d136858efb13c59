"""PyTorch int8 with calibrated activations: torchao's PT2E flow, x86 kernels through AOTInductor."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mnv3_bench.backends import _aoti, _cpu, _inductor, _layers, _pt2e, _torch
from mnv3_bench.backends._artifact import About
from mnv3_bench.backends.base import Backend, BackendInfo, Switch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import torch

    from mnv3_bench.backends.base import Arrays, Explanation, Facts, Preparation, Profile

_WEIGHTED = ("conv2d", "linear")


class QuantizedStatic(Backend):
    """u8 activations (histogram observers), s8 weights a channel; int8 convolutions and linear layers of oneDNN.

    PT2E with `X86InductorQuantizer` rather than FX graph mode, measured on networks with seeded, calibrated weights
    (64 images for calibration, 32 for the ratio of signal to noise, latencies at the 10th percentile taking turns,
    builds on a busy machine):

    ============================  ===================  ===================  ==================
    V3-Small, V3-Large, V2        SNR dB               1 thread ms          build s
    ============================  ===================  ===================  ==================
    PT2E + AOTInductor            19.2, 14.7, 15.9     2.4, 4.4, 4.4        43, 66, 79
    FX, x86 engine, traced        14.2, 12.9, 14.3     2.0, 4.0, 4.2        3, 6, 8
    FX, onednn engine, traced     18.3, 14.8, 15.5     2.0, 4.0, 4.1        3, 6, 9
    ============================  ===================  ===================  ==================

    So PT2E is as accurate as the better engine of FX and up to a fifth slower, because FX also quantizes the
    squeeze-and-excitation products and the residual additions. It is chosen because it is what PyTorch supports:
    torch.ao.quantization, which FX belongs to, is deprecated and to be removed in favour of torchao.

    Histogram observers are torchao's own choice. On networks trained on the digits at 64 x 64 (128 images for
    calibration; signal-to-noise over 449 held-out ones, and points of top-1 lost, of which one image is 0.22; the
    quantized graph before it is compiled):

    =========  =============  =============  =============  =============
    ranges     V3-Small       V3-Large       V1             V2
    =========  =============  =============  =============  =============
    histogram  35.8 dB, 0.00  35.8 dB, 0.00  26.0 dB, 0.67  29.7 dB, 0.22
    minmax     35.7 dB, 0.00  34.3 dB, 0.00  26.4 dB, 0.67  29.4 dB, 0.45
    =========  =============  =============  =============  =============

    There is neither bias correction nor cross-layer equalisation in this flow.

    The compiled library holds weights and code and is run by AOTInductor's own container (see `_aoti`): nothing of
    inductor is imported, no compiler is called, and nothing is unpacked, in the measured process (25 ms to the first
    output). Freezing, and `reduce_range` on processors without VNNI, are what its documentation asks for.
    """

    info = BackendInfo(
        name="quantized-static",
        summary="PyTorch int8: torchao PT2E, x86 inductor quantizer, AOTInductor",
        runtime_modules=("torch",),
        prepare_modules=("torchao",),
        distributions=("torch", "torchao"),
        extra="pt2e",
        needs_compiler=True,
        threads_shape_artifact=True,
        precision="int8",
        floor_snr_db=8.0,
        forkable=True,
        takes=("module", "pt2"),
        switches=(
            Switch(
                "calibration",
                ("histogram", "minmax"),
                "activations' ranges: the least error over a histogram, or least and greatest value",
                shapes_artifact=True,
                tuned=False,
            ),
        ),
        keeps_layers=True,
        exact="aot-inductor",
        sources=("https://docs.pytorch.org/ao/stable/pt2e_quantization/pt2e_quant_x86_inductor.html",),
    )

    def prepare(self, preparation: Preparation) -> Facts:
        """Export, calibrate, convert, compile."""
        import torch
        import torch._inductor

        _inductor.require_compiler()
        torch.set_num_threads(preparation.threads)
        reduce_range = not _cpu.has_vnni()
        example = _torch.tensors(preparation.example)
        directory = preparation.directory
        package = directory / "model.pt2"
        ranges = self.settings["calibration"]
        _layers.require(preparation)
        with torch.no_grad(), _inductor.building():
            converted = _quantize(preparation, example, reduce_range, histogram=ranges == "histogram")
            program = torch.export.export(converted, example)
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(package), inductor_configs={"freezing": True}
            )
        _aoti.keep_library(package, directory / _aoti.LIBRARY)
        package.unlink()
        facts: Facts = {
            "quantized by": "torchao PT2E, X86InductorQuantizer",
            "calibration calls": len(preparation.calibration),
            "activations": f"u8 a tensor, {ranges}" + (", 7 bit (no VNNI)" if reduce_range else ""),
            "weights": "s8 a channel",
            **_coverage(converted),
            **_layers.stated(preparation.float_layers, _in_float(converted)),
        }
        About.of(preparation, facts).write(directory)
        return facts

    def load(self, directory: Path, threads: int, device: str) -> _torch.TorchSession:
        """Open the library."""
        return _aoti.session(directory, threads, device)

    def explain(self, directory: Path, threads: int, calls: Sequence[Arrays]) -> Explanation:
        """oneDNN's own log, and what quantizing left in fp32."""
        from mnv3_bench.backends import _torch_explain

        found = _torch_explain.compiled(self.load(directory, threads, "cpu"), calls)
        left = About.read(directory).facts.get("fp32 operators")
        reason = f"the quantizer leaves these operators in fp32, except for those that are fused into others: {left}"
        return replace(found, reasons=(*found.reasons, reason))

    def profile(self, directory: Path, threads: int, calls: Sequence[Arrays], folder: Path) -> Profile:
        """oneDNN's own log."""
        from mnv3_bench.backends import _torch_profile

        return _torch_profile.logged(self.load(directory, threads, "cpu"), calls, folder)


def _quantize(
    preparation: Preparation, example: tuple[torch.Tensor, ...], reduce_range: bool, *, histogram: bool
) -> torch.fx.GraphModule:
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer()
    config = x86.get_default_x86_inductor_quantization_config(reduce_range=reduce_range)
    quantizer.set_global(config if histogram else _pt2e.with_extremes(config))
    for layer in preparation.float_layers:
        quantizer.set_module_name_qconfig(layer, None)
    observed = prepare_pt2e(torch.export.export(preparation.model, example).module(), quantizer)
    for inputs in preparation.calibration:
        observed(*_torch.tensors(inputs))
    converted: torch.fx.GraphModule = convert_pt2e(observed)
    return converted


def _coverage(converted: torch.fx.GraphModule) -> Facts:
    """Which operators read dequantized int8 weights (those run in int8), and which were left in fp32."""
    int8: Counter[str] = Counter()
    fp32: Counter[str] = Counter()
    for node in converted.graph.nodes:
        name = _operator(node)
        if name is None:
            continue
        (int8 if _has_int8_weights(node) else fp32)[name] += 1
    return {
        "int8 operators": ", ".join(f"{count} {name}" for name, count in sorted(int8.items())),
        "fp32 operators": ", ".join(f"{count} {name}" for name, count in sorted(fp32.items())) or "none",
    }


def _in_float(converted: torch.fx.GraphModule) -> Iterator[str]:
    """Paths of the layers whose weights are no int8."""
    for node in converted.graph.nodes:
        if _operator(node) in _WEIGHTED and not _has_int8_weights(node):
            yield _layers.path(node)


def _has_int8_weights(node: Any) -> bool:
    weights = node.args[1] if _operator(node) in _WEIGHTED else None
    return weights is not None and _operator(weights) is None and "dequantize" in str(weights.target)


def _operator(node: Any) -> str | None:
    target = str(node.target)
    if node.op != "call_function" or not target.startswith("aten."):
        return None
    return target.split(".")[1].rstrip("_")
