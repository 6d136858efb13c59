"""ONNX Runtime, statically quantized to int8."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv3_bench.backends import _cpu, _layers, _onnx, _onnx_file, _ort
from mnv3_bench.backends._artifact import About
from mnv3_bench.backends.base import Backend, BackendInfo, Switch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnv3_bench.backends.base import Array, Arrays, Explanation, Facts, Preparation, Profile


CHANNEL_SCALES = 13
"""The first opset whose DequantizeLinear takes a scale a channel (https://onnx.ai/onnx/operators/)."""
IMAGES_AT_A_TIME = 8
"""Whose tensors ONNX Runtime holds while it counts them: 40 MB an image of V3-Large at 224 x 224."""
CALIBRATION = Switch(
    "calibration",
    ("minmax", "entropy", "percentile"),
    "activations' ranges: least and greatest value, the least loss of entropy, or the 99.999th percentile",
    shapes_artifact=True,
    tuned=False,
)


class OnnxRuntimeInt8(Backend):
    """QDQ format, unsigned 8-bit activations, signed 8-bit weights per channel, calibrated on the given images.

    u8s8 per channel is what ONNX Runtime's documentation recommends on x86-64 with VNNI; without VNNI products may
    saturate, and weights get 7 bits (`reduce_range`)
    (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html). The documented pre-processing runs
    shape inference only, unless BatchNorms are left to be folded, as in a file of the user's own: the optimizer step
    would take HardSwish apart.

    Min-max calibration: the others are no better. Networks trained on the digits at 64 x 64, 128 images for
    calibration, signal-to-noise over 449 held-out ones, and points of top-1 lost, of which one image is 0.22:

    ==================  =============  =============  =============  =============
    ranges              V3-Small       V3-Large       V1             V2
    ==================  =============  =============  =============  =============
    minmax              33.0 dB, 0.00  33.2 dB, 0.22  29.1 dB, 0.22  30.1 dB, 0.45
    entropy             31.8 dB, 0.00  34.2 dB, 0.00  28.9 dB, 0.22  29.7 dB, 0.22
    percentile, 99.999  32.2 dB, 0.00  33.7 dB, 0.00  29.1 dB, 0.22  30.7 dB, 0.00
    percentile, 99.9    27.1 dB, 0.00  27.4 dB, 0.00  17.0 dB, 0.89  25.0 dB, 0.00
    ==================  =============  =============  =============  =============

    Percentiles are of the values themselves: ONNX Runtime's default, those of their magnitudes, leaves half of the
    steps after a ReLU unused. Entropy is taken over ONNX Runtime's own 128 bins. In `quantize_static` it has no choice
    to make between as many bins as there are levels, unless calls come in several parts (here eight images at a time),
    which widen the histogram; with 512 bins it cuts too much, and V1 falls to 5.4 dB.

    ONNX Runtime's quantizer has neither bias correction nor cross-layer equalisation.
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
        switches=(CALIBRATION, *_ort.SWITCHES),
        keeps_layers=True,
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
            "reduce_range": not _cpu.has_vnni(),
        }

    def prepare(self, preparation: Preparation) -> Facts:
        """Export, calibrate and quantize."""
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
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
            left = _layers.wanted(preparation, _onnx.float_weights(_onnx_file.read(inferred)))
            method, extra = _calibration(self.settings[CALIBRATION.name], preparation)
            quantize_static(
                str(inferred),
                str(path),
                _reader(exported, preparation.calibration),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                reduce_range=not _cpu.has_vnni(),
                nodes_to_exclude=left,
                calibrate_method=method,
                extra_options=extra,
            )
        facts: Facts = {
            **_onnx.graph_facts(path),
            "calibration calls": len(preparation.calibration),
            "activation ranges": self.settings[CALIBRATION.name],
            "weights": "int8 per channel" + ("" if _cpu.has_vnni() else ", 7 bits (no VNNI)"),
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


def _calibration(ranges: str, preparation: Preparation) -> tuple[Any, dict[str, Any]]:
    """ONNX Runtime's method and its options.

    Where it counts values it holds every tensor of the calls that it was given; given a few at a time, it needs memory
    for these.
    """
    from onnxruntime.quantization import CalibrationMethod

    if ranges == "minmax":
        return CalibrationMethod.MinMax, {}
    calls, images = len(preparation.calibration), len(preparation.example[0]) if preparation.example else 1
    # It refuses a number of calls that is no multiple.
    parts = [size for size in range(1, IMAGES_AT_A_TIME + 1) if calls % size == 0]
    fitting = [size for size in parts if size * images <= IMAGES_AT_A_TIME]
    extra = {"CalibStridedMinMax": max(fitting, default=1), "CalibTensorRangeSymmetric": False}
    return {"entropy": CalibrationMethod.Entropy, "percentile": CalibrationMethod.Percentile}[ranges], extra


def _reader(model: Path, calls: Sequence[Arrays]) -> Any:
    """Calibration inputs under the exported model's names."""
    from onnxruntime.quantization import CalibrationDataReader

    names = [given.name for given in _onnx_file.inputs(_onnx_file.read(model))]

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # the base class is untyped
        def __init__(self) -> None:
            self.set_range(0, len(calls))

        def __len__(self) -> int:
            return len(calls)

        def set_range(self, start_index: int, end_index: int) -> None:
            part = calls[start_index:end_index]
            self.feeds = iter([dict(zip(names, call, strict=True)) for call in part])

        def get_next(self) -> dict[str, Array] | None:
            return next(self.feeds, None)

    return Reader()
