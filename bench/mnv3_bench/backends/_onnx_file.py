"""ONNX files of the user's own: what they say of themselves, what they compute, and a copy with every size fixed.

Sources: onnx.ai/onnx/repo-docs/ExternalData.html;
onnxruntime.ai/docs/tutorials/mobile/helpers/make-dynamic-shape-fixed.html.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from mnv3_bench.backends._artifact import by
from mnv3_bench.backends.base import BackendError, OpenSpec, Signature

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mnv3_bench.backends.base import Arrays
    from mnv3_reports.record import TensorSpec

LARGEST_FILE = 2**31
"""Bytes a protobuf message may have."""
_QUANTIZED = (
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "ConvInteger",
    "MatMulInteger",
    "QLinearConv",
    "QLinearMatMul",
    "QGemm",
    "DynamicQuantizeMatMul",
    "MatMulNBits",
)


def read(file: Path) -> Any:
    """An ONNX file as a protobuf message, without what lies in other files.

    Raises:
        BackendError: it is no ONNX file, is cut short, or names data outside its own folder.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from onnx.external_data_helper import ExternalDataInfo

    try:
        size = file.stat().st_size
        if size >= LARGEST_FILE:
            raise BackendError(
                f"{file.name} has {size / 1e9:.1f} GB, and no ONNX file can have more than 2; save it with "
                "onnx.save(..., save_as_external_data=True)"
            )
        model = onnx.load_model_from_string(file.read_bytes())
    except OSError as error:
        raise BackendError(f"{file.name} cannot be read: {error.strerror}") from error
    except DecodeError as error:
        raise BackendError(f"{file.name} is no ONNX file, or is cut short; export it again") from error
    if not model.graph.node or not model.opset_import:
        raise BackendError(f"{file.name} holds no ONNX network; export it again")
    folder = file.parent.resolve()
    for tensor in external_tensors(model):
        location = ExternalDataInfo(tensor).location
        target = (folder / location).resolve()
        if not target.is_relative_to(folder):
            raise BackendError(
                f"{file.name} reads '{location}', outside its own folder; save it again with its data beside it"
            )
        if not target.is_file():
            raise BackendError(f"{file.name} reads {location}, which is not beside it; put it there")
    return model


def external_tensors(model: Any) -> list[Any]:
    """The tensors of a model whose data lies in other files."""
    from onnx.external_data_helper import uses_external_data

    constants = (
        attribute.t for node in nodes(model) for attribute in node.attribute if attribute.HasField("t")
    )
    stored = itertools.chain.from_iterable(graph.initializer for graph in _graphs(model.graph))
    return [tensor for tensor in itertools.chain(stored, constants) if uses_external_data(tensor)]


def nodes(model: Any) -> Iterator[Any]:
    """Every node: of the graph, of graphs inside its nodes, and of the model's own functions."""
    for graph in (*_graphs(model.graph), *model.functions):
        yield from graph.node


def _graphs(graph: Any) -> Iterator[Any]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _graphs(inner)


def signature(file: Path) -> Signature:
    """Names, shapes and types of inputs and outputs.

    Raises:
        BackendError: it is no ONNX file, or needs what ONNX Runtime has not.
    """
    model = read(file)
    _require_known_operators(model, file.name)
    _plain_session(file)
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None)
    facts: dict[str, str | int | float | bool | None] = {
        "opset": opset,
        "onnx nodes": sum(1 for _ in nodes(model)),
        "written by": f"{model.producer_name} {model.producer_version}".strip(),
    }
    return Signature(
        inputs=tuple(_spec(value, file.name) for value in inputs(model)),
        outputs=tuple(_spec(value, file.name) for value in model.graph.output),
        parameters=sum(
            math.prod(tensor.dims)
            for graph in _graphs(model.graph)
            for tensor in graph.initializer
            if tensor.data_type != tensor.INT64  # shapes and axes
        ),
        holds=tuple(_reduced(model)),
        facts=facts,
    )


def reference(file: Path, calls: Sequence[Arrays]) -> list[Arrays]:
    """Its outputs on ONNX Runtime with every graph optimization off, by one thread.

    Raises:
        BackendError: it cannot be run.
    """
    names = [value.name for value in inputs(read(file))]
    session = _plain_session(file)
    try:
        return [tuple(session.run(None, dict(zip(names, call, strict=True)))) for call in calls]
    except Exception as error:  # its exceptions share no other base class
        raise BackendError(
            f"ONNX Runtime cannot run {file.name}: {' '.join(str(error).split())[:300]}"
        ) from error


def inputs(model: Any) -> list[Any]:
    """What is given at each call: old files list their weights among the inputs too."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in stored]


def write_fixed(file: Path, given: Sequence[TensorSpec], target: Path) -> None:
    """Write a copy whose inputs have these shapes and no others, in one file where that is not too large.

    Raises:
        BackendError: it cannot be read, or has other inputs.
    """
    import onnx
    from onnx.external_data_helper import load_external_data_for_model

    model = read(file)
    fix_sizes(model, given, file.name)
    load_external_data_for_model(model, str(file.parent))
    weights = sum(len(tensor.raw_data) for graph in _graphs(model.graph) for tensor in graph.initializer)
    large = weights > 0.9 * LARGEST_FILE
    onnx.save(
        model, str(target), save_as_external_data=large, location=f"{target.name}.data" if large else None
    )


def fix_sizes(model: Any, given: Sequence[TensorSpec], name: str) -> None:
    """Write sizes of inputs into a model, in place of what it leaves open, and wherever it names the same size.

    Raises:
        BackendError: its inputs do not allow these shapes.
    """
    values = inputs(model)
    if len(values) != len(given):
        raise BackendError(f"{name} takes {len(values)} inputs, {len(given)} were given")
    symbols: dict[str, int] = {}
    for value, spec in zip(values, given, strict=True):
        shape = value.type.tensor_type.shape
        stated = _sizes(value)
        if not value.type.tensor_type.HasField("shape"):
            for size in spec.shape:
                shape.dim.add().dim_value = size
            continue
        fits = len(stated) == len(spec.shape) and all(
            size in (None, wanted) for size, wanted in zip(stated, spec.shape, strict=True)
        )
        for part, wanted in zip(shape.dim, spec.shape, strict=False):
            # A name that is no identifier, such as Paddle's '?' for every size, says nothing of two being the same.
            if part.dim_param.isidentifier():
                fits = fits and symbols.setdefault(part.dim_param, wanted) == wanted
            part.dim_value = wanted
        if not fits:
            open_shape = "x".join("?" if size is None else str(size) for size in stated)
            raise BackendError(
                f"{name} takes {value.name} of {open_shape}, which {by(spec.shape)} does not fit"
            )
    for value in (*model.graph.output, *model.graph.value_info):
        for part in value.type.tensor_type.shape.dim:
            if part.dim_param in symbols:
                part.dim_value = symbols[part.dim_param]


def require_float32(model: Any, name: str, precision: str) -> None:
    """What is converted must not have been converted already.

    Raises:
        BackendError: it is quantized, or has fp16 weights.
    """
    reduced = _reduced(model)
    if reduced:
        what, where = next(iter(reduced.items()))
        raise BackendError(
            f"{name} holds {what} already ({where}); run it with onnxruntime as it is, or give its fp32 form "
            f"to be made {precision}"
        )


def raise_opset(file: Path, least: int) -> None:
    """Rewrite a file whose opset is older, as users' own may be.

    Raises:
        BackendError: it has operators that onnx cannot convert.
    """
    import onnx
    from onnx import version_converter

    model = onnx.load(str(file))
    stated = {entry.domain: entry.version for entry in model.opset_import}
    opset = stated.get("", stated.get("ai.onnx", least))
    if opset >= least:
        return
    try:
        onnx.save(version_converter.convert_version(model, least), str(file))
    except Exception as error:  # the converter's share no base class
        raise BackendError(
            f"the file's opset is {opset} and cannot be raised to {least}: {' '.join(str(error).split())[:300]}"
        ) from error


def _reduced(model: Any) -> dict[str, str]:
    """What is below fp32, and where: 'int8' to '3 QLinearConv'."""
    from onnx import TensorProto

    kinds = Counter(node.op_type for node in nodes(model))
    quantized = ", ".join(f"{kinds[kind]} {kind}" for kind in _QUANTIZED if kinds[kind])
    halves = sum(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)
    return ({"int8": quantized} if quantized else {}) | ({"fp16": f"{halves} tensors"} if halves else {})


def _require_known_operators(model: Any, name: str) -> None:
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

    known = {(schema.domain, schema.name) for schema in get_all_operator_schema()}
    known |= {(function.domain, function.name) for function in model.functions}
    needed = {("" if node.domain == "ai.onnx" else node.domain, node.op_type) for node in nodes(model)}
    unknown = sorted(f"{domain or 'ai.onnx'}::{kind}" for domain, kind in needed - known)
    if unknown:
        raise BackendError(
            f"{name} needs operators that ONNX Runtime {onnxruntime.__version__} does not have: "
            f"{', '.join(unknown)[:200]}; export it without them, libraries of custom operators are not loaded"
        )


def _plain_session(file: Path) -> Any:
    import onnxruntime

    from mnv3_bench.backends._ort import open_model

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return open_model(file, options, ["CPUExecutionProvider"])


def _sizes(value: Any) -> tuple[int | None, ...]:
    """Sizes as the file states them, None for what it leaves open: a name, nothing, or a number below 1."""
    return tuple(part.dim_value if part.dim_value > 0 else None for part in value.type.tensor_type.shape.dim)


def _spec(value: Any, name: str) -> OpenSpec:
    import onnx

    if not value.type.HasField("tensor_type"):
        raise BackendError(
            f"{name} takes or gives {value.name}, which is no tensor; export it with tensors only"
        )
    kind = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    known = kind.HasField("shape")
    # Nothing is known of a shape that is not there; () would be a single number.
    return OpenSpec(value.name, _sizes(value), dtype if known else "")
