"""Small true model files and weights, from which fuzzers make untrue ones."""

from __future__ import annotations

import io
import zipfile
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from fuzz import made

if TYPE_CHECKING:
    from pathlib import Path


def _folder() -> Path:
    folder = made.scratch() / "seeds"
    folder.mkdir(exist_ok=True)
    return folder


@cache
def onnx() -> bytes:
    """One convolution, and a branch that holds a graph of its own."""
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.ones((4, 3, 3, 3), dtype=np.float32), "weights")
    inner = helper.make_graph([helper.make_node("Neg", ["maps"], ["less"])], "inner", [], [_value("less")])
    other = helper.make_graph([helper.make_node("Abs", ["maps"], ["more"])], "other", [], [_value("more")])
    nodes = [
        helper.make_node("Conv", ["images", "weights"], ["maps"], pads=[1, 1, 1, 1]),
        helper.make_node("If", ["yes"], ["chosen"], then_branch=inner, else_branch=other),
    ]
    yes = numpy_helper.from_array(np.array(True), "yes")
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 8, 8])
    graph = helper.make_graph(nodes, "net", [given], [_value("chosen")], [weights, yes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


def _value(name: str) -> object:
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 8, 8])


@cache
def onnx_with_data(location: str = "weights.bin") -> bytes:
    """The same network, its weights in a file of this name."""
    import onnx as library
    from onnx import TensorProto

    model = library.load_model_from_string(onnx())
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(4 * 3 * 3 * 3 * 4))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return bytes(model.SerializeToString())


@cache
def xml() -> bytes:
    """An IR of two operators, without weights."""
    import openvino
    from openvino import opset13

    given = opset13.parameter([1, 3, 8, 8], np.float32, name="images")
    network = openvino.Model([opset13.relu(given)], [given], "net")
    path = _folder() / "net.xml"
    openvino.save_model(network, str(path))
    return path.read_bytes()


@cache
def tflite() -> bytes:
    """One addition."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    def tensor(name: str, buffer: int) -> object:
        made = schema.TensorT()
        made.shape, made.type, made.buffer, made.name = [1, 8], schema.TensorType.FLOAT32, buffer, name
        return made

    graph = schema.SubGraphT()
    graph.tensors = [tensor("a", 1), tensor("b", 2), tensor("sum", 3)]
    graph.inputs, graph.outputs = [0, 1], [2]
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0, 1], [2]
    operator.builtinOptionsType, operator.builtinOptions = (
        schema.BuiltinOptions.AddOptions,
        schema.AddOptionsT(),
    )
    graph.operators = [operator]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.ADD
    code.version = 1
    model = schema.ModelT()
    model.version, model.subgraphs, model.operatorCodes = 3, [graph], [code]
    model.buffers = [schema.BufferT() for _ in range(4)]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@cache
def pt() -> bytes:
    """A TorchScript program."""
    import torch

    held = io.BytesIO()
    torch.jit.save(torch.jit.trace(_net(), torch.zeros(1, 3, 8, 8), check_trace=False), held)  # type: ignore[no-untyped-call]
    return held.getvalue()


@cache
def pt2() -> bytes:
    """An exported program."""
    import torch

    held = io.BytesIO()
    torch.export.save(torch.export.export(_net(), (torch.zeros(1, 3, 8, 8),)), held)
    return held.getvalue()


@cache
def pte() -> bytes:
    """An ExecuTorch program."""
    import torch
    from executorch.exir import to_edge_transform_and_lower

    return bytes(
        to_edge_transform_and_lower(torch.export.export(_net(), (torch.zeros(1, 3, 8, 8),)))
        .to_executorch()
        .buffer
    )


def _net() -> object:
    import torch

    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).eval()


@cache
def bomb(size: int) -> bytes:
    """A zip archive of a few kilobytes, laid out like a checkpoint, one record of which unpacks to so many bytes."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in ("net/version", "net/code/__torch__.py", "net/constants.pkl", "net/data.pkl"):
            archive.writestr(name, b"3\n")
        with archive.open("net/data/0", "w", force_zip64=True) as record:
            chunk = bytes(1 << 20)
            for _ in range(size >> 20):
                record.write(chunk)
    return held.getvalue()


MODELS = {".onnx": onnx, ".tflite": tflite, ".xml": xml, ".pt": pt, ".pt2": pt2, ".pte": pte}
"""Suffix to what makes such a file."""
