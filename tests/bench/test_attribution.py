"""Which layer each operator of a runtime is said to compute, on profiles made up in the manner of every runtime."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from mnv3_bench.backends.base import OperatorTime, Profile
from mnv3_bench.profiling import attribution
from mnv3_bench.profiling.attribution import SQUEEZE, attribute
from mnv3_reports.record import LayerCost

if TYPE_CHECKING:
    from mnv3_reports.record import Profiled, ProfiledOperator


@dataclasses.dataclass(frozen=True)
class Told:
    """What a runtime tells of one operator, where it tells more than its name."""

    operation: str
    module: str | None = None
    precision: str | None = None
    output_shape: tuple[int, ...] | None = None
    bytes: int | None = None
    seconds: tuple[float, ...] = (1e-6,)


def layer(
    name: str,
    kind: str,
    role: str,
    given: tuple[int, ...],
    made: tuple[int, ...],
    macs: int = 0,
    weights: int = 0,
) -> LayerCost:
    return LayerCost(name, kind, macs, weights, 0, made, given, role)


IMAGE, STEM, WIDE, CHANNELS, NARROW = (3, 8, 8), (4, 4, 4), (8, 4, 4), (8, 1, 1), (2, 1, 1)
LAYERS = (
    layer("features.0.0", "Conv2d", "convolution", IMAGE, STEM, macs=1728, weights=108),
    layer("features.0.1", "BatchNorm2d", "normalization", STEM, STEM, weights=8),
    layer("features.0.2", "Hardswish", "activation", STEM, STEM),
    layer("features.1.block.0.0", "Conv2d", "pointwise", STEM, WIDE, macs=512, weights=32),
    layer("features.1.block.0.1", "BatchNorm2d", "normalization", WIDE, WIDE, weights=16),
    layer("features.1.block.0.2", "Hardswish", "activation", WIDE, WIDE),
    layer("features.1.block.1.0", "Conv2d", "depthwise", WIDE, WIDE, macs=1152, weights=72),
    layer("features.1.block.1.1", "BatchNorm2d", "normalization", WIDE, WIDE, weights=16),
    layer("features.1.block.1.2", "Hardswish", "activation", WIDE, WIDE),
    layer("features.1.block.2.avgpool", "AdaptiveAvgPool2d", SQUEEZE, WIDE, CHANNELS),
    layer("features.1.block.2.fc1", "Conv2d", SQUEEZE, CHANNELS, NARROW, macs=16, weights=18),
    layer("features.1.block.2.activation", "ReLU", SQUEEZE, NARROW, NARROW),
    layer("features.1.block.2.fc2", "Conv2d", SQUEEZE, NARROW, CHANNELS, macs=16, weights=24),
    layer("features.1.block.2.scale_activation", "Hardsigmoid", SQUEEZE, CHANNELS, CHANNELS),
    layer("features.1.block.3.0", "Conv2d", "pointwise", WIDE, STEM, macs=512, weights=32),
    layer("features.1.block.3.1", "BatchNorm2d", "normalization", STEM, STEM, weights=8),
    layer("avgpool", "AdaptiveAvgPool2d", "other", STEM, (4, 1, 1)),
    layer("classifier.0", "Linear", "linear", (4,), (16,), macs=64, weights=80),
    layer("classifier.1", "Hardswish", "activation", (16,), (16,)),
    layer("classifier.2", "Dropout", "other", (16,), (16,)),
    layer("classifier.3", "Linear", "linear", (16,), (10,), macs=160, weights=170),
)
"""A stem, an inverted residual with squeeze-and-excitation, a classifier."""
ARITHMETIC = [each.name for each in LAYERS if each.macs]
SE = "features.1.block.2"
MACS = sum(each.macs for each in LAYERS)


def profile_of(*told: Told | str, repeats: tuple[float, ...] = (3e-3, 1e-3, 2e-3)) -> Profile:
    full = [each if isinstance(each, Told) else Told(each) for each in told]
    return Profile(
        by="made up",
        operators=tuple(
            OperatorTime(
                name=f"{place}",
                **{field.name: getattr(each, field.name) for field in dataclasses.fields(each)},
            )
            for place, each in enumerate(full)
        ),
        plain=repeats,
        profiled=(),
        complete=True,
    )


def attributed(*told: Told | str, layers: tuple[LayerCost, ...] = LAYERS, batch: int = 1) -> Profiled:
    found = attribute(profile_of(*told), layers, "cell", batch)
    assert [each.name for each in found.operators] == [f"{place}" for place in range(len(told))]
    return found


def rows(found: Profiled) -> list[tuple[str, str, str]]:
    """Operation, kind and module of each operator."""
    return [(each.operation, each.kind, each.module) for each in found.operators]


def of_module(found: Profiled, module: str) -> ProfiledOperator:
    (one,) = (each for each in found.operators if each.module == module and each.macs)
    return one


def names_computed(found: Profiled) -> list[str]:
    return [name for each in found.operators for name in (each.module, *each.contains)]


OPENVINO = (
    "Reorder (reorder_brgemm)",
    "Convolution (brgconv_avx512)",
    "Convolution (brgconv_avx512_1x1)",
    "GroupConvolution (brgconv_avx512_dw)",
    "ReduceMean (jit_avx512)",
    "Convolution (brgconv_avx512_1x1)",
    "Convolution (brgconv_avx512_1x1)",
    "Subgraph (Multiply)",
    "Convolution (brgconv_avx512_1x1)",
    "ReduceMean (jit_avx512)",
    "FullyConnected (brgemm_avx512)",
    "FullyConnected (gemm_mlas)",
)


def test_what_is_fused_is_computed_along_by_the_layer_before() -> None:
    """OpenVINO, all of whose activations, normalizations and sums are in convolutions."""
    found = attributed(*OPENVINO)
    assert found.unmatched == ""
    assert rows(found) == [
        (OPENVINO[0], "reorder", ""),
        (OPENVINO[1], "convolution", "features.0.0"),
        (OPENVINO[2], "pointwise", "features.1.block.0.0"),
        (OPENVINO[3], "depthwise", "features.1.block.1.0"),
        (OPENVINO[4], SQUEEZE, f"{SE}.avgpool"),
        (OPENVINO[5], SQUEEZE, f"{SE}.fc1"),
        (OPENVINO[6], SQUEEZE, f"{SE}.fc2"),
        (OPENVINO[7], SQUEEZE, SE),
        (OPENVINO[8], "pointwise", "features.1.block.3.0"),
        (OPENVINO[9], "other", "avgpool"),
        (OPENVINO[10], "linear", "classifier.0"),
        (OPENVINO[11], "linear", "classifier.3"),
    ]
    contents = {each.module: each.contains for each in found.operators if each.contains}
    assert contents == {
        "features.0.0": ("features.0.1", "features.0.2"),
        "features.1.block.0.0": ("features.1.block.0.1", "features.1.block.0.2"),
        "features.1.block.1.0": ("features.1.block.1.1", "features.1.block.1.2"),
        f"{SE}.fc1": (f"{SE}.activation",),
        f"{SE}.fc2": (f"{SE}.scale_activation",),
        "features.1.block.3.0": ("features.1.block.3.1",),
        "classifier.0": ("classifier.1",),
    }


LITERT = (
    "Convolution (NHWC, F32) IGEMM",
    "HardSwish (NC)",
    "Fully Connected (NC, F32) GEMM",
    "HardSwish (NC)",
    "Convolution (NHWC, F32) DWConv",
    "HardSwish (NC)",
    "Mean (ND) Reduce2",
    "Fully Connected (NC, F32) GEMM",
    "Fully Connected (NC, F32) GEMM",
    "Multiply (ND)",
    "Multiply (ND)",
    "Fully Connected (NC, F32) GEMM",
    "Add (ND)",
    "Mean (ND) Reduce2",
    "Fully Connected (NC, F32) GEMM",
    "HardSwish (NC)",
    "Fully Connected (NC, F32) GEMM",
)


def test_an_activation_that_is_an_operator_of_its_own_has_its_own_module() -> None:
    """LiteRT, with hard swish apart and a sum of the residual."""
    found = attributed(*LITERT)
    assert [row for row in rows(found) if row[1] == "activation"] == [
        ("HardSwish (NC)", "activation", "features.0.2"),
        ("HardSwish (NC)", "activation", "features.1.block.0.2"),
        ("HardSwish (NC)", "activation", "features.1.block.1.2"),
        ("HardSwish (NC)", "activation", "classifier.1"),
    ]
    assert found.operators[0].contains == ("features.0.1",)
    assert rows(found)[9:11] == [("Multiply (ND)", SQUEEZE, SE)] * 2
    computed = [name for name in names_computed(found) if name not in (SE, "features.1")]
    # Dropout does nothing; every other leaf is computed, and by one operator.
    assert sorted(computed) == sorted(each.name for each in LAYERS if each.kind != "Dropout")


def test_the_sum_of_a_residual_is_other_work_of_its_block() -> None:
    found = attributed(*LITERT)
    assert rows(found)[12:14] == [
        ("Add (ND)", "other", "features.1"),
        ("Mean (ND) Reduce2", "other", "avgpool"),
    ]
    # Two tensors are read and one is written, of 4 channels of 4 x 4 fp32 numbers each.
    add = found.operators[12]
    assert (add.macs, add.contains, add.bytes) == (0, (), 3 * 4 * 16 * 4)


INT8 = (
    "QuantizeLinear",
    "QLinearConv",
    "DequantizeLinear",
    "HardSigmoid",
    "Mul",
    "QuantizeLinear",
    "QLinearConv",
    "DequantizeLinear",
    "HardSigmoid",
    "QLinearMul",
    "QLinearConv",
    "DequantizeLinear",
    "HardSigmoid",
    "Mul",
    "ReduceMean",
    "QuantizeLinear",
    "QLinearConv",
    "QLinearConv",
    "DequantizeLinear",
    "HardSigmoid",
    "Mul",
    "QuantizeLinear",
    "QLinearConv",
    "QLinearAdd",
    "QLinearGlobalAveragePool",
    "QGemm",
    "DequantizeLinear",
    "HardSigmoid",
    "Mul",
    "QuantizeLinear",
    "QGemm",
    "DequantizeLinear",
)


def test_a_product_after_a_hard_sigmoid_is_half_of_the_hard_swish() -> None:
    """ONNX Runtime in int8, which has no kernel for a hard swish and leaves int8 for it."""
    found = attributed(*INT8)
    assert found.unmatched == ""
    products = [row for row in rows(found) if row[0] in ("HardSigmoid", "Mul", "QLinearMul")]
    assert products == [
        ("HardSigmoid", "activation", "features.0.2"),
        ("Mul", "activation", "features.0.2"),
        ("HardSigmoid", "activation", "features.1.block.0.2"),
        ("QLinearMul", "activation", "features.1.block.0.2"),
        ("HardSigmoid", "activation", "features.1.block.1.2"),
        ("Mul", "activation", "features.1.block.1.2"),
        ("HardSigmoid", SQUEEZE, f"{SE}.scale_activation"),
        ("Mul", SQUEEZE, SE),
        ("HardSigmoid", "activation", "classifier.1"),
        ("Mul", "activation", "classifier.1"),
    ]
    assert {row[1] for row in rows(found) if "quantizelinear" in row[0].lower()} == {"reorder"}
    assert rows(found)[14] == ("ReduceMean", SQUEEZE, f"{SE}.avgpool")
    assert rows(found)[23:25] == [
        ("QLinearAdd", "other", "features.1"),
        ("QLinearGlobalAveragePool", "other", "avgpool"),
    ]


def test_a_conversion_is_put_to_what_it_follows() -> None:
    """ONNX Runtime, which lays out in blocks of channels what convolutions take and gives it back for the others."""
    operations = (
        *(
            "Conv",
            "Conv",
            "Conv",
            "ReorderOutput",
            "ReduceMean",
            "ReorderInput",
            "Conv",
            "Conv",
            "ReorderOutput",
        ),
        *(
            "Mul",
            "ReorderInput",
            "Conv",
            "ReorderOutput",
            "ReduceMean",
            "Reshape",
            "Gemm",
            "HardSigmoid",
            "Mul",
            "Gemm",
        ),
    )
    found = attributed(*operations)
    assert [row for row in rows(found) if row[1] == "reorder"] == [
        ("ReorderOutput", "reorder", "features.1.block.1.0"),
        ("ReorderInput", "reorder", "features.1.block.1.0"),
        ("ReorderOutput", "reorder", f"{SE}.fc2"),
        ("ReorderInput", "reorder", f"{SE}.fc2"),
        ("ReorderOutput", "reorder", "features.1.block.3.0"),
    ]
    assert [each.module for each in found.operators if each.macs] == ARITHMETIC
    assert ("Mul", SQUEEZE, SE) in rows(found)
    assert all(each.macs == 0 for each in found.operators if each.kind == "reorder")


INDUCTOR = (
    "cpp_fused_convolution_0",
    "convolution → mkldnn_convolution",
    "cpp_fused_hardswish_1",
    "convolution → _slow_conv2d_forward",
    "cpp_fused_hardswish_2",
    "convolution → mkldnn_convolution",
    "cpp_fused_hardswish_mean_14",
    "convolution → _slow_conv2d_forward",
    "cpp_fused_relu_15",
    "convolution → _slow_conv2d_forward",
    "cpp_fused_hardsigmoid_hardswish_mul_16",
    "convolution → _slow_conv2d_forward",
    "cpp_fused_add_mean_17",
    "addmm",
    "cpp_fused_hardswish_18",
    "addmm",
)


def test_a_generated_kernel_computes_what_it_is_named_by() -> None:
    found = attributed(*INDUCTOR)
    generated = [
        (each.operation, each.kind, each.module, each.contains)
        for each in found.operators
        if each.operation.startswith("cpp_fused")
    ]
    assert generated == [
        ("cpp_fused_convolution_0", "reorder", "", ()),
        ("cpp_fused_hardswish_1", "activation", "features.0.2", ()),
        ("cpp_fused_hardswish_2", "activation", "features.1.block.0.2", ()),
        ("cpp_fused_hardswish_mean_14", "activation", "features.1.block.1.2", (f"{SE}.avgpool",)),
        ("cpp_fused_relu_15", SQUEEZE, f"{SE}.activation", ()),
        ("cpp_fused_hardsigmoid_hardswish_mul_16", SQUEEZE, f"{SE}.scale_activation", ()),
        ("cpp_fused_add_mean_17", "other", "avgpool", ()),
        ("cpp_fused_hardswish_18", "activation", "classifier.1", ()),
    ]
    assert of_module(found, "features.1.block.1.0").contains == ("features.1.block.1.1",)


def test_a_kernel_that_makes_a_mean_reads_what_the_layer_before_gave() -> None:
    mean = attributed(*INDUCTOR).operators[6]
    # 8 channels of 4 x 4 numbers are read, and 8 means are written.
    assert mean.bytes == (8 * 16 + 8) * 4


def in_module(operation: str, module: str) -> Told:
    return Told(operation, module=module)


EAGER = (
    in_module("conv2d → mkldnn_convolution", "features.0.0"),
    in_module("batch_norm → native_batch_norm", "features.0.1"),
    in_module("hardswish_", "features.0.2"),
    in_module("adaptive_avg_pool2d → mean", f"{SE}.avgpool"),
    in_module("conv2d → _slow_conv2d_forward", f"{SE}.fc1"),
    in_module("relu_ → clamp_min_", f"{SE}.activation"),
    in_module("hardsigmoid_", SE),
    in_module("mul", SE),
    in_module("add", "features.1"),
    in_module("flatten", ""),
    in_module("linear → addmm", "classifier.3"),
)


def test_modules_that_a_runtime_tells_are_taken_as_told() -> None:
    """Eager, with functions that the squeeze-and-excitation calls itself; as many convolutions are not needed."""
    found = attributed(*EAGER)
    assert found.unmatched == ""
    assert [row[1:] for row in rows(found)] == [
        ("convolution", "features.0.0"),
        ("normalization", "features.0.1"),
        ("activation", "features.0.2"),
        (SQUEEZE, f"{SE}.avgpool"),
        (SQUEEZE, f"{SE}.fc1"),
        (SQUEEZE, f"{SE}.activation"),
        (SQUEEZE, SE),
        (SQUEEZE, SE),
        ("other", "features.1"),
        ("other", ""),
        ("linear", "classifier.3"),
    ]


def test_a_module_that_runs_two_multiplying_operators_is_counted_once() -> None:
    twice = in_module("linear → addmm", "classifier.0")
    found = attributed(twice, in_module("dropout", "classifier.2"), twice, batch=3)
    assert [each.macs for each in found.operators] == [3 * 64, 0, 0]


@pytest.mark.parametrize(
    "manner", [OPENVINO, LITERT, INT8, INDUCTOR], ids=["openvino", "litert", "int8", "inductor"]
)
def test_every_multiply_accumulate_is_counted_once_whatever_the_runtime(manner: tuple[str, ...]) -> None:
    for batch in (1, 8):
        found = attributed(*manner, batch=batch)
        assert sum(each.macs for each in found.operators) == MACS * batch
        assert [each.module for each in found.operators if each.macs] == ARITHMETIC


def test_bytes_are_inputs_weights_and_outputs_in_the_width_of_the_numbers() -> None:
    def moved(precision: str | None, batch: int) -> int:
        convolutions = [Told("Conv", precision=precision)] * len(ARITHMETIC)
        return attributed(*convolutions, batch=batch).operators[0].bytes

    numbers, weights = 3 * 8 * 8 + 4 * 4 * 4, 108
    assert moved(None, 1) == moved("fp32", 1) == (numbers + weights) * 4
    assert moved("fp32", 8) == (8 * numbers + weights) * 4
    assert moved("bf16", 8) == moved("fp16", 8) == (8 * numbers + weights) * 2
    assert moved("int8", 8) == 8 * numbers + weights


def test_bytes_that_the_runtime_tells_are_taken_where_no_layer_is_known() -> None:
    told = [Told("Conv", bytes=7)] * len(ARITHMETIC)
    found = attributed(*told[:1], Told("ReorderOutput", bytes=77), *told[1:])
    # Of a layer it leaves out weights that it has packed.
    assert found.operators[0].bytes == (3 * 8 * 8 + 4 * 4 * 4 + 108) * 4
    assert found.operators[1].bytes == 77


def test_a_runtime_that_tells_other_convolutions_than_the_network_has_is_not_guessed_at() -> None:
    found = attributed("ReorderInput", "Conv", "HardSwish", "BatchNormalization", "Gemm", "Reshape", batch=4)
    assert "3 convolutions" not in found.unmatched
    assert "2 convolutions and linear layers" in found.unmatched
    assert f"the network has {len(ARITHMETIC)}" in found.unmatched
    assert [row[1:] for row in rows(found)] == [
        ("reorder", ""),
        ("convolution", ""),
        ("activation", ""),
        ("normalization", ""),
        ("convolution", ""),
        ("other", ""),
    ]
    assert all((each.macs, each.contains) == (0, ()) for each in found.operators)


def test_without_layers_kinds_are_told_and_modules_are_not() -> None:
    found = attributed(*OPENVINO, layers=())
    assert found.unmatched == "nothing counted the layers of this network"
    assert {row[1] for row in rows(found)} == {"convolution", "reorder", "other"}
    assert {row[2] for row in rows(found)} == {""}


def test_without_layers_modules_that_the_runtime_tells_are_not_needed_either() -> None:
    assert attributed(*EAGER, layers=()).unmatched


def test_a_profile_of_nothing_has_no_operators_and_still_its_calls() -> None:
    found = attributed()
    assert (found.operators, found.repeats) == ((), 0)
    assert found.plain_seconds == 2e-3
    assert found.profiled_seconds == 0.0
    assert "tells of 0 convolutions" in found.unmatched
    assert attributed(layers=()).operators == ()


def test_a_network_that_multiplies_nothing_has_all_its_operators_before_the_first_layer() -> None:
    only = (layer("0", "ReLU", "activation", (4,), (4,)), layer("1", "Flatten", "other", (4,), (4,)))
    found = attributed("Relu", "Flatten", layers=only)
    assert rows(found) == [("Relu", "activation", "0"), ("Flatten", "other", "")]


def test_times_are_the_median_and_the_quartiles_over_repeats() -> None:
    found = attributed(Told("Conv", seconds=(5.0, 1.0, 2.0, 4.0, 3.0)), layers=())
    (one,) = found.operators
    assert (one.lower, one.seconds, one.upper) == (2.0, 3.0, 4.0)
    assert found.repeats == 5


SORTS = {
    "mac": (
        *(
            "QLinearConv",
            "ConvInteger",
            "MatMulInteger",
            "FusedConv",
            "NhwcFusedConv",
            "Conv",
            "Gemm",
            "QGemm",
            "MatMul",
        ),
        *("FusedMatMul", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "ConvTranspose"),
        *(
            "Convolution (NHWC, F32) IGEMM",
            "Convolution (NHWC, QS8, QC8W) IGEMM",
            "Convolution (NHWC, F32) DWConv",
        ),
        *("Fully Connected (NC, QS8, QC8W) GEMM", "Fully Connected (NC, F32) GEMM"),
        *("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"),
        *("Convolution", "ConvolutionDepthWise", "DeconvolutionDepthWise", "InnerProduct"),
        *(
            "GroupConvolution (brgconv_avx512_dw)",
            "Convolution (brgconv_avx512_1x1)",
            "FullyConnected (gemm_mlas)",
        ),
        *(
            "aten::conv2d",
            "aten::_convolution",
            "aten::linear",
            "aten::addmm",
            "aten::mm",
            "aten::conv_transpose2d",
        ),
        *("conv2d → mkldnn_convolution", "linear → addmm", "convolution → _slow_conv2d_forward"),
        *(
            "quantized::linear_dynamic",
            "quantized::conv2d",
            "onednn::qconv2d_pointwise",
            "onednn::qlinear_pointwise",
        ),
        *(
            "mkldnn::_linear_pointwise",
            "mkldnn::_convolution_pointwise",
            "mkldnn::_convolution_pointwise.binary",
        ),
        *(
            "oneDNN convolution",
            "convolution (brg_conv_fwd:avx512_core)",
            "inner_product (brgemm)",
            "convolution.out",
        ),
    ),
    "reorder": (
        *(
            "QuantizeLinear",
            "DequantizeLinear",
            "DynamicQuantizeLinear",
            "ReorderInput",
            "ReorderOutput",
            "Cast",
        ),
        *("Transpose", "Convert (NC, F32, QS8)", "Convert (NC, QS8, F32)", "Transpose (ND, X32) Transpose"),
        *("Copy (NC, X32)", "QUANTIZE", "DEQUANTIZE", "Packing", "Permute", "Reorder (reorder_brgemm)"),
        *(
            "reorder (jit:uni)",
            "aten::to",
            "aten::_to_copy",
            "aten::copy_",
            "aten::contiguous",
            "_to_dim_order_copy.out",
        ),
        *("quantized_decomposed::quantize_per_tensor.out", "quantized_decomposed::dequantize_per_channel"),
        *("cpp_fused_convolution_0", "cpp_fused__to_copy_3", "cpp_fused_addmm_7"),
    ),
    "normalization": ("aten::batch_norm", "batch_norm → native_batch_norm", "BatchNormalization"),
    "pooling": (
        *(
            "QLinearGlobalAveragePool",
            "GlobalAveragePool",
            "ReduceMean",
            "ReduceMean (jit_avx512)",
            "Pooling",
        ),
        *(
            "Mean (ND) Reduce2",
            "MEAN",
            "mean.out",
            "aten::adaptive_avg_pool2d",
            "adaptive_avg_pool2d → _to_copy",
        ),
    ),
    "activation": (
        *(
            "HardSigmoid",
            "HardSwish",
            "Clip",
            "Relu",
            "QLinearSigmoid",
            "HardSwish (NC)",
            "Clamp (NC)",
            "HARD_SWISH",
        ),
        *("aten::hardswish_", "relu_ → clamp_min_", "aten::hardsigmoid_", "aten::hardtanh_", "hardswish.out"),
    ),
    "multiplication": (
        "Mul",
        "QLinearMul",
        "MUL",
        "Multiply (ND)",
        "aten::mul",
        "quantized::mul",
        "BinaryOp",
        "mul.out",
    ),
    "addition": (
        "Add",
        "QLinearAdd",
        "ADD",
        "Add (ND)",
        "aten::add",
        "aten::add_",
        "quantized::add",
        "Eltwise",
        "Sum",
    ),
    "generated": ("cpp_fused_hardswish_mean_14", "cpp_fused_add_8", "Subgraph (Multiply)", "QuickGelu"),
    "other": (
        "Split",
        "Reshape",
        "Flatten",
        "Softmax",
        "Concat",
        "aten::flatten",
        "aten::dropout",
        "Identity",
    ),
}
"""How each runtime calls operators, by what they do."""


@pytest.mark.parametrize(
    ("operation", "kind"),
    [(operation, kind) for kind, operations in SORTS.items() for operation in operations],
)
def test_operators_are_sorted_by_what_runtimes_call_them(operation: str, kind: str) -> None:
    assert attribution._sort(OperatorTime(name="", operation=operation, seconds=(1.0,))) == kind
