"""Model files that several tests need."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path


def with_fp16_weights(path: Path, pixels: int) -> Path:
    """An ONNX file of one convolution on images, whose weights are stored in fp16."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.ones((4, 3, 3, 3), dtype=np.float16), "weights")
    nodes = [
        helper.make_node("Cast", ["weights"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["images", "wide"], ["maps"]),
    ]
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, pixels, pixels])
    made = helper.make_tensor_value_info("maps", TensorProto.FLOAT, [1, 4, pixels - 2, pixels - 2])
    graph = helper.make_graph(nodes, "halves", [given], [made], [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    return path
