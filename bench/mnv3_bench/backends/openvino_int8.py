"""OpenVINO, statically quantized to int8 by NNCF."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mnv3_bench.backends import _cpu, _layers, _onnx, _openvino, _openvino_convert
from mnv3_bench.backends._artifact import About
from mnv3_bench.backends.base import BackendError, Switch
from mnv3_bench.backends.openvino import OpenVino

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mnv3_bench.backends.base import Array, Arrays, Facts, Preparation

_WEIGHTED = ("Convolution", "GroupConvolution", "MatMul")
CALIBRATION = Switch(
    "calibration",
    ("minmax", "histogram", "mean"),
    "activations' ranges: from the least to the greatest value seen, the least error over a histogram, or NNCF's "
    "default, the means of each call's least and greatest",
    shapes_artifact=True,
    tuned=False,
)
BIAS_CORRECTION = Switch(
    "bias-correction",
    ("fast", "none"),
    "whether NNCF makes up in biases for the mean error of each layer; fast is its default",
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

    Ranges over all calls, since the mean cuts off half of the inputs (`calibration=mean` has it nevertheless). The full
    range of weights where products cannot saturate: half of it in the first layer is NNCF's remedy for processors
    without VNNI. Computing what is left in bf16 gained nothing (1.00 to 1.08 times as long) and is not offered.

    On networks trained on the digits at 64 x 64 (128 images for calibration; signal-to-noise over 449 held-out ones,
    and points of top-1 lost, of which one image is 0.22) ranges by histogram are as good, and bias correction costs
    three networks of four 3 to 4 dB:

    =============================  =============  =============  =============  =============
    ranges, bias correction        V3-Small       V3-Large       V1             V2
    =============================  =============  =============  =============  =============
    minmax, fast                   35.6 dB, 0.00  31.0 dB, 0.22  26.8 dB, 0.22  26.9 dB, 0.45
    histogram, fast                35.7 dB, 0.00  31.2 dB, 0.00  26.4 dB, 0.22  27.4 dB, 0.00
    mean, fast                     24.7 dB, 0.00  27.7 dB, 0.00  26.1 dB, 0.67  23.8 dB, 0.00
    minmax, none                   32.8 dB, 0.00  35.4 dB, 0.22  29.4 dB, 0.22  30.5 dB, 0.00
    mean of each call's quantiles  5.9 dB, 1.78   5.8 dB, 4.01   3.8 dB, 14.7   5.2 dB, 1.56
    =============================  =============  =============  =============  =============

    The fast correction takes each layer's error to be that on its mean input; where maps are as small as here, 2 x 2
    in the last blocks, padding makes that wrong. With the same weights at 128 x 128 (BatchNorm's statistics taken anew)
    it costs the three 0.2 to 0.6 dB and gains V3-Small 4.2. So NNCF's default stays; `bias-correction=none` is for
    small images. Quantiles are not offered. NNCF's channel alignment, a cross-layer equalisation, is off by default and
    in 3.4.0 ends with an error on OpenVINO's models.

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
        switches=(CALIBRATION, BIAS_CORRECTION, _openvino.PINNING),
        keeps_layers=True,
        refuses=("int8",),
        exact="openvino",
        sources=(
            *_openvino.SOURCES,
            "https://docs.openvino.ai/2026/openvino-workflow/model-optimization-guide/quantizing-models-post-training/basic-quantization-flow.html",
        ),
    )

    def options(self) -> dict[str, str | int | float | bool]:
        """How it is quantized."""
        return {"preset": "MIXED", "first layer halved": not _cpu.has_vnni()}

    def prepare(self, preparation: Preparation) -> Facts:
        """Convert, calibrate, quantize."""
        model = _openvino_convert.convert(preparation)
        already = _openvino_convert.fake_quantizers(model)
        if already:
            raise BackendError(
                f"{preparation.variant} is quantized already, in {already} places; measure it with openvino"
            )
        left = _layers.wanted(preparation, _float_weights(model))
        quantized = _quantize(model, preparation.calibration, self.settings, left)
        _openvino_convert.save(quantized, preparation.directory)
        facts: Facts = {
            **_openvino_convert.ir_facts(quantized, preparation),
            "quantized by": "NNCF, preset MIXED",
            "bias correction": self.settings[BIAS_CORRECTION.name],
            "calibration calls": len(preparation.calibration),
            "activation ranges": self.settings[CALIBRATION.name],
            "weights": "int8 a channel"
            + ("" if _cpu.has_vnni() else ", half range in the first layer (no VNNI)"),
            "int8 operators": _coverage(quantized),
            **_layers.kept(preparation, _float_weights(quantized)),
        }
        About.of(preparation, facts).write(preparation.directory)
        return facts


def _quantize(model: Any, calls: Sequence[Arrays], settings: Mapping[str, str], left: Sequence[str]) -> Any:
    """Quantize a model.

    Args:
        model: as converted.
        calls: to find the ranges with.
        settings: values of the backend's switches.
        left: names of operators that stay in float.

    Raises:
        BackendError: NNCF cannot.
    """
    _openvino.package()  # before NNCF, which would import it with its telemetry
    with _onnx.quiet():
        import nncf
        from nncf.quantization.range_estimator import RangeEstimatorParameters, RangeEstimatorParametersSet

        seen = {
            "minmax": RangeEstimatorParametersSet.MINMAX,
            "histogram": RangeEstimatorParametersSet.HISTOGRAM,
            "mean": RangeEstimatorParameters(),
        }[settings[CALIBRATION.name]]
        try:
            return nncf.quantize(
                model,
                nncf.Dataset([dict(enumerate(inputs)) for inputs in calls]),
                preset=nncf.QuantizationPreset.MIXED,
                target_device=nncf.TargetDevice.CPU,
                subset_size=len(calls),
                ignored_scope=nncf.IgnoredScope(names=list(left)) if left else None,
                advanced_parameters=nncf.AdvancedQuantizationParameters(
                    overflow_fix=nncf.OverflowFix.DISABLE
                    if _cpu.has_vnni()
                    else nncf.OverflowFix.FIRST_LAYER,
                    activations_range_estimator_params=seen,
                    disable_bias_correction=settings[BIAS_CORRECTION.name] == "none",
                ),
            )
        except Exception as error:
            raise BackendError(f"NNCF cannot quantize the network: {_openvino.reason(error)}") from error


def _float_weights(model: Any) -> dict[str, Array]:
    """The weights of convolutions and linear layers that are stored in float, by the names of their operators.

    Output channels come first, as in PyTorch.
    """
    found = {}
    for node in model.get_ops():
        kind = node.get_type_name()
        if kind not in _WEIGHTED or node.input_value(1).get_node().get_type_name() != "Constant":
            continue
        weights = node.input_value(1).get_node().get_data()
        if kind == "GroupConvolution":  # groups x channels of each x the rest
            weights = weights.reshape(-1, *weights.shape[2:])
        elif kind == "MatMul" and not node.get_attributes()["transpose_b"]:
            weights = weights.T
        found[node.get_friendly_name()] = weights
    return found


def _coverage(model: Any) -> str:
    """How many of the operators with weights read quantized values."""
    every: Counter[str] = Counter()
    int8: Counter[str] = Counter()
    for node in model.get_ops():
        kind = node.get_type_name()
        if kind in _WEIGHTED:
            every[kind] += 1
            source = node.input_value(0).get_node()
            while source.get_type_name() in ("Reshape", "Squeeze", "Unsqueeze", "Transpose"):
                source = source.input_value(0).get_node()
            int8[kind] += source.get_type_name() == "FakeQuantize"
    return ", ".join(f"{int8[kind]} of {count} {kind}" for kind, count in sorted(every.items()))
