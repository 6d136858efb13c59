"""Operators of runtimes put to layers, in the manner of each runtime; times and names are made up."""

from __future__ import annotations

import pytest

from mnv3_bench.backends._pacing import in_turns
from mnv3_bench.backends.base import OperatorTime, Profile
from mnv3_bench.profiling.attribution import SQUEEZE, _sort, attribute
from mnv3_reports.record import LayerCost, Profiled, ProfiledOperator


def layer(
    name: str, kind: str, role: str, shape: tuple[int, ...], given: tuple[int, ...], macs: int = 0
) -> LayerCost:
    return LayerCost(name, kind, macs, 10 if macs else 0, 0, shape, given, role)


IMAGE, WIDE, MAP, DOT = (3, 32, 32), (16, 16, 16), (8, 16, 16), (16, 1, 1)
LAYERS = (
    layer("features.0.0", "Conv2d", "convolution", WIDE, IMAGE, 1000),
    layer("features.0.1", "BatchNorm2d", "normalization", WIDE, WIDE),
    layer("features.0.2", "Hardswish", "activation", WIDE, WIDE),
    layer("features.1.block.0.0", "Conv2d", "depthwise", WIDE, WIDE, 200),
    layer("features.1.block.0.1", "BatchNorm2d", "normalization", WIDE, WIDE),
    layer("features.1.block.0.2", "Hardswish", "activation", WIDE, WIDE),
    layer("features.1.block.1.avgpool", "AdaptiveAvgPool2d", SQUEEZE, DOT, WIDE),
    layer("features.1.block.1.fc1", "Conv2d", SQUEEZE, (4, 1, 1), DOT, 64),
    layer("features.1.block.1.activation", "ReLU", SQUEEZE, (4, 1, 1), (4, 1, 1)),
    layer("features.1.block.1.fc2", "Conv2d", SQUEEZE, DOT, (4, 1, 1), 64),
    layer("features.1.block.1.scale_activation", "Hardsigmoid", SQUEEZE, DOT, DOT),
    layer("features.1.block.2.0", "Conv2d", "pointwise", MAP, WIDE, 500),
    layer("features.1.block.2.1", "BatchNorm2d", "normalization", MAP, MAP),
    layer("features.2.0", "Conv2d", "pointwise", WIDE, MAP, 500),
    layer("features.2.1", "BatchNorm2d", "normalization", WIDE, WIDE),
    layer("features.2.2", "ReLU", "activation", WIDE, WIDE),
    layer("avgpool", "AdaptiveAvgPool2d", "other", DOT, WIDE),
    layer("classifier.0", "Linear", "linear", (10,), (16,), 160),
)
"""A stem, a block with squeeze-and-excitation and a residual, a last convolution, a classifier."""
MACS = sum(each.macs for each in LAYERS)


def profile(*operations: str, precision: str = "fp32", modules: tuple[str, ...] | None = None) -> Profile:
    return Profile(
        by="made up",
        operators=tuple(
            OperatorTime(
                name=f"node {place}",
                operation=operation,
                seconds=(2e-6, 1e-6, 4e-6),
                precision=precision,
                module=modules[place] if modules is not None else None,
            )
            for place, operation in enumerate(operations)
        ),
        plain=(3e-5, 2e-5, 4e-5),
        profiled=(5e-5,),
        complete=True,
    )


def put(*operations: str, batch: int = 1, precision: str = "fp32") -> Profiled:
    return attribute(profile(*operations, precision=precision), LAYERS, "cell", batch)


def said(operators: tuple[ProfiledOperator, ...]) -> list[tuple[str, str, str]]:
    return [(each.operation, each.kind, each.module) for each in operators]


def test_everything_is_fused_but_what_no_layer_can_take() -> None:
    found = put(
        *("Conv", "Conv", "ReduceMean", "Conv", "Conv", "Mul", "Conv", "Add", "Conv", "Pooling", "Gemm")
    )
    assert found.unmatched == ""
    assert said(found.operators) == [
        ("Conv", "convolution", "features.0.0"),
        ("Conv", "depthwise", "features.1.block.0.0"),
        ("ReduceMean", SQUEEZE, "features.1.block.1.avgpool"),
        ("Conv", SQUEEZE, "features.1.block.1.fc1"),
        ("Conv", SQUEEZE, "features.1.block.1.fc2"),
        ("Mul", SQUEEZE, "features.1.block.1"),
        ("Conv", "pointwise", "features.1.block.2.0"),
        ("Add", "other", "features.1"),
        ("Conv", "pointwise", "features.2.0"),
        ("Pooling", "other", "avgpool"),
        ("Gemm", "linear", "classifier.0"),
    ]
    contents = {each.module: each.contains for each in found.operators}
    assert contents["features.0.0"] == ("features.0.1", "features.0.2")
    assert contents["features.1.block.1.fc1"] == ("features.1.block.1.activation",)
    assert contents["features.1.block.1.fc2"] == ("features.1.block.1.scale_activation",)
    assert contents["features.1.block.2.0"] == ("features.1.block.2.1",)
    assert sum(each.macs for each in found.operators) == MACS


def test_a_hard_swish_cut_in_pieces_between_conversions() -> None:
    pieces = ("DequantizeLinear", "HardSigmoid", "Mul", "QuantizeLinear")
    found = put(
        *("QuantizeLinear", "QLinearConv", *pieces, "QLinearConv", *pieces, "QLinearGlobalAveragePool"),
        *("QLinearConv", "QLinearConv", "DequantizeLinear", "HardSigmoid", "QuantizeLinear", "QLinearMul"),
        *(
            "QLinearConv",
            "QLinearAdd",
            "QLinearConv",
            "QLinearGlobalAveragePool",
            "QGemm",
            "DequantizeLinear",
        ),
    )
    assert found.unmatched == ""
    kinds = [each.kind for each in found.operators]
    assert kinds[:6] == ["reorder", "convolution", "reorder", "activation", "activation", "reorder"]
    assert [each.module for each in found.operators[3:5]] == ["features.0.2", "features.0.2"]
    gate = found.operators[17]
    assert (gate.operation, gate.kind, gate.module) == ("QLinearMul", SQUEEZE, "features.1.block.1")
    assert found.operators[15].module == "features.1.block.1.scale_activation"
    assert found.operators[1].contains == ("features.0.1",)
    assert kinds.count("reorder") == 8


def test_generated_kernels_take_what_their_names_tell() -> None:
    found = put(
        *("cpp_fused_convolution_0", "convolution → mkldnn_convolution", "cpp_fused_hardswish_1"),
        *(
            "convolution → copy_",
            "cpp_fused_hardswish_mean_2",
            "convolution",
            "cpp_fused_relu_3",
            "convolution",
        ),
        *("cpp_fused_hardsigmoid_hardswish_mul_4", "convolution", "cpp_fused_add_5", "convolution"),
        *("cpp_fused_mean_relu_6", "addmm"),
    )
    assert found.unmatched == ""
    assert said(found.operators)[:5] == [
        ("cpp_fused_convolution_0", "reorder", ""),
        ("convolution → mkldnn_convolution", "convolution", "features.0.0"),
        ("cpp_fused_hardswish_1", "activation", "features.0.2"),
        ("convolution → copy_", "depthwise", "features.1.block.0.0"),
        ("cpp_fused_hardswish_mean_2", "activation", "features.1.block.0.2"),
    ]
    assert found.operators[4].contains == ("features.1.block.1.avgpool",)
    assert [each.kind for each in found.operators[5:9]] == [SQUEEZE] * 4
    assert found.operators[10].kind == "other"
    assert found.operators[12].contains == ("avgpool",)


def test_told_modules_are_believed_and_their_macs_counted_once() -> None:
    operations = (
        "aten::conv2d",
        "aten::batch_norm",
        "aten::conv2d",
        "aten::conv2d",
        "aten::mul",
        "aten::add",
    )
    modules = (
        *("features.0.0", "features.0.1", "features.1.block.1.fc1", "features.1.block.1.fc1"),
        *("features.1.block.1", "features.1"),
    )
    found = attribute(profile(*operations, modules=modules), LAYERS, "cell", 1)
    assert [each.kind for each in found.operators] == [
        *("convolution", "normalization", SQUEEZE, SQUEEZE, SQUEEZE, "other")
    ]
    assert [each.macs for each in found.operators] == [1000, 0, 64, 0, 0, 0]
    assert [each.module for each in found.operators] == list(modules)


def test_where_the_numbers_differ_nothing_is_guessed() -> None:
    found = put("Conv", "Transpose", "Conv", "Relu")
    assert found.unmatched == ("the runtime tells of 2 convolutions and linear layers, the network has 7")
    assert [(each.kind, each.module, each.macs) for each in found.operators] == [
        ("convolution", "", 0),
        ("reorder", "", 0),
        ("convolution", "", 0),
        ("activation", "", 0),
    ]


def test_without_layers_or_operators() -> None:
    uncounted = attribute(profile("Conv"), (), "cell", 1)
    assert uncounted.unmatched == "nothing counted the layers of this network"
    assert [each.kind for each in uncounted.operators] == ["convolution"]
    empty = put()
    assert (empty.operators, empty.repeats) == ((), 0)
    assert empty.unmatched


@pytest.mark.parametrize(("precision", "width"), [("fp32", 4), ("bf16", 2), ("fp16", 2), ("int8", 1)])
def test_macs_are_of_the_batch_and_bytes_of_the_precision(precision: str, width: int) -> None:
    found = put(
        *("Conv", "Conv", "ReduceMean", "Conv", "Conv", "Mul", "Conv", "Add", "Conv", "Pooling", "Gemm"),
        batch=3,
        precision=precision,
    )
    assert sum(each.macs for each in found.operators) == 3 * MACS
    stem, add = found.operators[0], found.operators[7]
    assert stem.bytes == width * (3 * (3 * 32 * 32 + 16 * 16 * 16) + 10)
    assert add.bytes == width * 3 * 3 * 8 * 16 * 16  # two are read and one is written


def test_times_are_the_median_with_quartiles() -> None:
    found = put("Conv")
    (operator,) = found.operators
    assert (operator.seconds, operator.lower, operator.upper) == pytest.approx((2e-6, 1.5e-6, 3e-6))
    assert (found.plain_seconds, found.profiled_seconds, found.repeats) == (3e-5, 5e-5, 3)


SORTS = {
    "mac": (
        *(
            "Conv",
            "FusedConv",
            "QLinearConv",
            "ConvInteger",
            "MatMulInteger",
            "Gemm",
            "QGemm",
            "aten::conv2d",
        ),
        *(
            "aten::_convolution",
            "aten::linear",
            "aten::addmm",
            "quantized::linear_dynamic",
            "oneDNN convolution",
        ),
        *("onednn::qconv2d_pointwise", "mkldnn::_linear_pointwise", "Convolution (NHWC, F32) IGEMM"),
        *("Fully Connected (NC, QS8, QC8W) GEMM", "Convolution (NHWC, QC8) DWConv", "ConvolutionDepthWise"),
        *("InnerProduct", "GroupConvolution (brgconv_avx512_dw)", "FullyConnected (gemm_mlas)"),
        *("inner_product (brgemm:avx512_core)", "convolution → copy_", "conv2d → _slow_conv2d_forward"),
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
        *(
            "Transpose",
            "Transpose (ND, X32)",
            "Convert (NC, F32, QS8)",
            "Reorder (reorder_brgemm)",
            "oneDNN reorder",
        ),
        *(
            "aten::quantize_per_tensor",
            "aten::dequantize",
            "aten::_to_copy",
            "_to_dim_order_copy.out",
            "QUANTIZE",
        ),
        *("cpp_fused_convolution_0", "cpp_fused__to_copy_convolution_3"),
    ),
    "activation": (
        *(
            "HardSwish",
            "aten::hardswish_",
            "HardSigmoid",
            "aten::relu_",
            "Clip",
            "aten::clamp_min",
            "QLinearSigmoid",
        ),
        *("Invalid Unary Op", "hard_swish", "Hard Swish (NC)"),
    ),
    "pooling": (
        "ReduceMean",
        "QLinearGlobalAveragePool",
        "aten::adaptive_avg_pool2d",
        "Mean (ND) Reduce2",
        "Pooling",
    ),
    "normalization": ("aten::batch_norm", "BatchNormalization"),
    "multiplication": ("Mul", "aten::mul", "Multiply (ND)", "QLinearMul", "BinaryOp"),
    "addition": ("Add", "aten::add", "QLinearAdd", "Eltwise"),
    "generated": ("cpp_fused_hardswish_mean_14", "Subgraph (Multiply)"),
    "other": ("Split", "Flatten", "Reshape", "Static Reshape (NC)"),
}


@pytest.mark.parametrize(
    ("operation", "sort"), [(name, sort) for sort, names in SORTS.items() for name in names]
)
def test_what_runtimes_call_things(operation: str, sort: str) -> None:
    assert _sort(OperatorTime(name="x", operation=operation, seconds=(1e-6,))) == sort


def test_calls_take_turns_and_either_goes_first() -> None:
    order: list[str] = []
    plain, under = in_turns(
        lambda _: order.append("plain"), lambda _: order.append("under"), [1, 2], repeats=4
    )
    assert (len(plain), len(under)) == (4, 4)
    assert order == ["under", "plain", "plain", "under"] * 2
