"""ONNX Runtime, dynamically quantized to int8: the linear layers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mnv3_bench.backends import _cpu, _layers, _onnx, _onnx_file, _ort
from mnv3_bench.backends._artifact import About
from mnv3_bench.backends.base import Backend, BackendInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnv3_bench.backends.base import Arrays, Explanation, Facts, Preparation, Profile

COVERED = ("MatMul", "Gemm")


class OnnxRuntimeInt8Dynamic(Backend):
    """int8 weights for MatMul and Gemm, activations quantized on the fly; convolutions stay fp32.

    ONNX Runtime recommends dynamic quantization for transformers and static quantization for convolutional networks
    (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html). Asked to quantize convolutions
    dynamically it writes ConvInteger, which has no fast kernel: V3-Small took 29.6 ms that way beside 2.6 ms for the
    linear layers alone (1 thread, AMD EPYC with AVX-512 VNNI, onnxruntime 1.32). So the linear layers it is; they hold
    46 % of V3-Large's weights and 1 % of its MACs: expect a smaller file, not a faster network.
    """

    info = BackendInfo(
        name="onnxruntime-int8-dynamic",
        summary="ONNX Runtime, dynamic int8: linear layers only",
        runtime_modules=_onnx.RUNTIME_MODULES,
        prepare_modules=_onnx.PREPARE_MODULES,
        distributions=_onnx.DISTRIBUTIONS,
        extra="onnxruntime",
        precision="int8 linear, fp32 rest",
        floor_snr_db=20.0,
        takes=_onnx.TAKES,
        switches=_ort.SWITCHES,
        keeps_layers=True,
        refuses=("int8", "fp16"),
        exact="onnxruntime",
        sources=(
            *_ort.SOURCES,
            "https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html",
        ),
    )

    def options(self) -> dict[str, str | int | float | bool]:
        """What is quantized, and how."""
        return {
            "operators": ",".join(COVERED),
            "weights": "QInt8",
            "per_channel": True,
            "reduce_range": not _cpu.has_vnni(),
        }

    def prepare(self, preparation: Preparation) -> Facts:
        """Export, then quantize the weights of linear layers."""
        from onnxruntime.quantization import QuantType, quantize_dynamic

        path = preparation.directory / _onnx.MODEL
        with tempfile.TemporaryDirectory() as scratch, _onnx.quiet():
            exported = Path(scratch) / _onnx.MODEL
            _onnx.export(preparation, exported)
            model = _onnx_file.read(exported)
            _onnx_file.require_float32(model, preparation.variant, "int8")
            left = _layers.wanted(preparation, _onnx.float_weights(model))
            quantize_dynamic(
                str(exported),
                str(path),
                weight_type=QuantType.QInt8,
                per_channel=True,
                reduce_range=not _cpu.has_vnni(),
                op_types_to_quantize=list(COVERED),
                # A Gemm is taken apart first.
                nodes_to_exclude=[*left, *(f"{name}_MatMul" for name in left)],
            )
        facts: Facts = {
            **_onnx.graph_facts(path),
            "covers": "linear layers only; convolutions stay fp32",
            **_layers.kept(preparation, _onnx.float_weights(_onnx_file.read(path))),
        }
        About.of(preparation, facts).write(preparation.directory)
        return facts

    def load(self, directory: Path, threads: int, device: str) -> _ort.OnnxSession:
        """Open an inference session."""
        return _ort.open_session(directory, threads, device, self.settings)

    def explain(self, directory: Path, threads: int, calls: Sequence[Arrays]) -> Explanation:
        """ONNX Runtime's profiler, and the graph it optimized."""
        from mnv3_bench.backends import _ort_explain

        return _ort_explain.explain(directory, threads, self.settings, calls)

    def profile(self, directory: Path, threads: int, calls: Sequence[Arrays], folder: Path) -> Profile:  # noqa: ARG002
        """ONNX Runtime's profiler, node by node."""
        from mnv3_bench.backends import _ort_profile

        return _ort_profile.profile(directory, threads, self.settings, calls)
