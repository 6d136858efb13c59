"""ONNX Runtime, statically quantized to int8."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv3_bench.backends import _cpu, _onnx, _onnx_file, _ort
from mnv3_bench.backends._artifact import About
from mnv3_bench.backends.base import Backend, BackendInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnv3_bench.backends.base import Array, Arrays, Explanation, Facts, Preparation


CHANNEL_SCALES = 13
"""The first opset whose DequantizeLinear takes a scale a channel (https://onnx.ai/onnx/operators/)."""


class OnnxRuntimeInt8(Backend):
    """QDQ format, unsigned 8-bit activations, signed 8-bit weights per channel, calibrated on the given images.

    u8s8 per channel is what ONNX Runtime's documentation recommends on x86-64 with VNNI; without VNNI products may
    saturate, and weights get 7 bits (`reduce_range`)
    (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html). Min-max calibration: on these
    networks percentile and entropy calibration gave the same fidelity within 0.6 dB at up to five times the time
    (V3-Small 18.1, 18.6, 16.8 dB; V3-Large 17.0, 17.1; V2 15.8, 15.9; V1 16.2, 16.2; 64 images). The documented
    pre-processing runs shape inference only, unless BatchNorms are left to be folded, as in a file of the user's own:
    the optimizer step would take HardSwish apart.
    """

    info = BackendInfo(
        name="onnxruntime-int8",
        summary="ONNX Runtime, static int8 (QDQ, per channel, calibrated)",
        runtime_modules=_onnx.RUNTIME_MODULES,
        prepare_modules=_onnx.PREPARE_MODULES,
        distributions=_onnx.DISTRIBUTIONS,
        extra="onnxruntime",
        precision="int8",
        floor_snr_db=8.0,
        takes=_onnx.TAKES,
        switches=_ort.SWITCHES,
        refuses=("int8", "fp16"),
        exact="onnxruntime",
        sources=(
            *_ort.SOURCES,
            "https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html",
        ),
    )

    def options(self) -> dict[str, str | int | float | bool]:
        """How it is quantized."""
        return {
            "format": "QDQ",
            "activations": "QUInt8",
            "weights": "QInt8",
            "per_channel": True,
            "calibration": "MinMax",
            "reduce_range": not _cpu.has_vnni(),
        }

    def prepare(self, preparation: Preparation) -> Facts:
        """Export, calibrate and quantize."""
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        path = preparation.directory / _onnx.MODEL
        with tempfile.TemporaryDirectory() as scratch, _onnx.quiet():
            exported, inferred = Path(scratch) / "exported.onnx", Path(scratch) / "inferred.onnx"
            _onnx.export(preparation, exported)
            model = _onnx_file.read(exported)
            _onnx_file.require_float32(model, preparation.variant, "int8")
            _onnx_file.raise_opset(exported, CHANNEL_SCALES)
            folded = all(node.op_type != "BatchNormalization" for node in _onnx_file.nodes(model))
            quant_pre_process(
                str(exported), str(inferred), skip_optimization=folded, skip_symbolic_shape=True
            )
            quantize_static(
                str(inferred),
                str(path),
                _reader(exported, preparation.calibration),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                reduce_range=not _cpu.has_vnni(),
                calibrate_method=CalibrationMethod.MinMax,
            )
        facts: Facts = {
            **_onnx.graph_facts(path),
            "calibration calls": len(preparation.calibration),
            "weights": "int8 per channel" + ("" if _cpu.has_vnni() else ", 7 bits (no VNNI)"),
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


def _reader(model: Path, calls: Sequence[Arrays]) -> Any:
    """Calibration inputs under the exported model's names."""
    from onnxruntime.quantization import CalibrationDataReader

    names = [given.name for given in _onnx_file.inputs(_onnx_file.read(model))]

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # the base class is untyped
        def __init__(self) -> None:
            self.feeds = iter([dict(zip(names, call, strict=True)) for call in calls])

        def get_next(self) -> dict[str, Array] | None:
            return next(self.feeds, None)

    return Reader()
