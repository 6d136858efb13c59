"""OpenVINO, statically quantized to int8 by NNCF."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mnv3_bench.backends import _cpu, _onnx, _openvino, _openvino_convert
from mnv3_bench.backends._artifact import About
from mnv3_bench.backends.base import BackendError, Switch
from mnv3_bench.backends.openvino import OpenVino

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnv3_bench.backends.base import Arrays, Facts, Preparation

RANGES = Switch(
    "ranges",
    ("minmax", "mean"),
    "activations' ranges: from the least to the greatest value seen, or NNCF's default, the means of each call's",
    shapes_artifact=True,
    tuned=False,
)


class OpenVinoInt8(OpenVino):
    """8-bit activations and weights, calibrated on the given inputs; the rest computed in f32.

    Preset MIXED (asymmetric activations) is what NNCF recommends for networks with other activations than ReLU
    (https://docs.openvino.ai/2026/openvino-workflow/model-optimization-guide/quantizing-models-post-training/basic-quantization-flow.html).
    All else is NNCF's default but for two things, measured on networks with seeded, calibrated weights (64 images for
    calibration, 32 for the ratio of signal to noise):

    ==========================================================  ==================  =======
    recipe, MIXED unless it says else                           V3-Small, Large dB  build s
    ==========================================================  ==================  =======
    NNCF's defaults: mean of each call's least and greatest     4.6, 10.0           4, 6
    least and greatest over all calls                           20.2, 17.5          7, 11
    ditto, full range of weights in the first layer             20.0, 19.0          5, 5
    ditto, preset PERFORMANCE, half range in the first layer    17.7, 16.6          9, 9
    ditto, MIXED, slow instead of fast bias correction          20.4                17
    ditto, without bias correction                              19.0, 16.7          3, 8
    ==========================================================  ==================  =======

    Ranges over all calls, since the mean cuts off half of the inputs (`ranges=mean` has it nevertheless). The full
    range of weights where products cannot saturate: half of it in the first layer is NNCF's remedy for processors
    without VNNI. Computing what is left in bf16 gained nothing (1.00 to 1.08 times as long) and is not offered.

    Telemetry of OpenVINO and NNCF is kept from starting (`mnv3_bench.no_telemetry`).
    """

    info = replace(
        OpenVino.info,
        name="openvino-int8",
        summary="OpenVINO on the CPU, static int8 (NNCF, calibrated), the rest fp32",
        prepare_modules=("torch", "nncf"),
        distributions=(*_openvino_convert.DISTRIBUTIONS, "nncf"),
        precision="int8",
        floor_snr_db=8.0,
        native=None,
        switches=(RANGES, _openvino.PINNING),
        refuses=("int8",),
        exact="openvino",
        sources=(
            *_openvino.SOURCES,
            "https://docs.openvino.ai/2026/openvino-workflow/model-optimization-guide/quantizing-models-post-training/basic-quantization-flow.html",
        ),
    )

    def options(self) -> dict[str, str | int | float | bool]:
        """How it is quantized."""
        return {"preset": "MIXED", "bias correction": "fast", "first layer halved": not _cpu.has_vnni()}

    def prepare(self, preparation: Preparation) -> Facts:
        """Convert, calibrate, quantize."""
        model = _openvino_convert.convert(preparation)
        already = _openvino_convert.fake_quantizers(model)
        if already:
            raise BackendError(
                f"{preparation.variant} is quantized already, in {already} places; measure it with openvino"
            )
        quantized = _quantize(model, preparation.calibration, self.settings[RANGES.name])
        _openvino_convert.save(quantized, preparation.directory)
        facts: Facts = {
            **_openvino_convert.ir_facts(quantized, preparation),
            "quantized by": "NNCF, preset MIXED, fast bias correction",
            "calibration calls": len(preparation.calibration),
            "activation ranges": self.settings[RANGES.name],
            "weights": "int8 a channel"
            + ("" if _cpu.has_vnni() else ", half range in the first layer (no VNNI)"),
            "int8 operators": _coverage(quantized),
        }
        About.of(preparation, facts).write(preparation.directory)
        return facts


def _quantize(model: Any, calls: Sequence[Arrays], ranges: str) -> Any:
    _openvino.package()  # before NNCF, which would import it with its telemetry
    with _onnx.quiet():
        import nncf
        from nncf.quantization.range_estimator import RangeEstimatorParameters, RangeEstimatorParametersSet

        seen = RangeEstimatorParametersSet.MINMAX if ranges == "minmax" else RangeEstimatorParameters()
        try:
            return nncf.quantize(
                model,
                nncf.Dataset([dict(enumerate(inputs)) for inputs in calls]),
                preset=nncf.QuantizationPreset.MIXED,
                target_device=nncf.TargetDevice.CPU,
                subset_size=len(calls),
                advanced_parameters=nncf.AdvancedQuantizationParameters(
                    overflow_fix=nncf.OverflowFix.DISABLE
                    if _cpu.has_vnni()
                    else nncf.OverflowFix.FIRST_LAYER,
                    activations_range_estimator_params=seen,
                ),
            )
        except Exception as error:
            raise BackendError(f"NNCF cannot quantize the network: {_openvino.reason(error)}") from error


def _coverage(model: Any) -> str:
    """How many of the operators with weights read quantized values."""
    every: Counter[str] = Counter()
    int8: Counter[str] = Counter()
    for node in model.get_ops():
        kind = node.get_type_name()
        if kind in ("Convolution", "GroupConvolution", "MatMul"):
            every[kind] += 1
            source = node.input_value(0).get_node()
            while source.get_type_name() in ("Reshape", "Squeeze", "Unsqueeze", "Transpose"):
                source = source.input_value(0).get_node()
            int8[kind] += source.get_type_name() == "FakeQuantize"
    return ", ".join(f"{int8[kind]} of {count} {kind}" for kind, count in sorted(every.items()))
