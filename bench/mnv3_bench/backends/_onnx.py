"""A network as one ONNX file with fixed sizes, and what is in such a file.

The exporter is torch.export's (`dynamo=True`, PyTorch's default and the one that is maintained). Beside the older
TorchScript exporter it writes the same operators without Identity nodes, at the current opset, with HardSwish kept
whole; it takes 6 s instead of 2 s for V3-Small, once, in the preparing process. TorchScript programs are only taken by
the older one.
"""

from __future__ import annotations

import collections
import contextlib
import io
import logging
import re
import warnings
from typing import TYPE_CHECKING, Any

from mnv3_bench.backends import _onnx_file
from mnv3_bench.backends.base import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mnv3_bench.backends.base import Array, Facts, Format, Preparation

MODEL = "model.onnx"
RUNTIME_MODULES = ("numpy", "onnxruntime")
PREPARE_MODULES = ("torch", "onnx", "onnxscript")
TAKES: tuple[Format, ...] = ("module", "pt2", "torchscript", "onnx")
DISTRIBUTIONS = ("torch", "onnx", "onnxscript", "onnxruntime")


def export(preparation: Preparation, path: Path) -> None:
    """Write the network as one ONNX file with a static input shape; a user's own ONNX file with its sizes fixed.

    A static batch lets the runtime plan memory and layout once; ONNX Runtime recommends fixed shapes where they are
    known (https://onnxruntime.ai/docs/performance/).

    Raises:
        BackendError: the network cannot be exported, or the file not be read.
    """
    import onnx

    if preparation.format == "onnx" and preparation.file is not None:
        _onnx_file.write_fixed(preparation.file, preparation.inputs, path)
        return
    with quiet():
        try:
            _export(preparation, path)
        except (
            Exception
        ) as error:  # the exporters' own, and whatever the network's code raises while it is traced
            # Their messages begin with a sentence and go on with advice, in colours, over many lines.
            reason = (
                re.sub(r"\x1b\[[0-9;]*m", "", str(error.__cause__ or error)).strip().partition("\n")[0][:300]
            )
            raise BackendError(f"the network cannot be exported to ONNX: {reason}") from error
    model = onnx.load(str(path))
    # The exporter notes where in which source file each node came from: paths of the machine it ran on.
    del model.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    onnx.save(model, str(path))


def _export(preparation: Preparation, path: Path) -> None:
    import torch

    names: dict[str, Any] = {
        "input_names": [spec.name for spec in preparation.inputs],
        "output_names": ["logits"] if preparation.format == "module" else None,
        "verbose": False,
    }
    example = tuple(torch.from_numpy(array) for array in preparation.example)
    if preparation.format == "torchscript":
        torch.onnx.export(preparation.model, example, str(path), dynamo=False, **names)
    else:
        torch.onnx.export(preparation.model, example, str(path), dynamo=True, external_data=False, **names)


def graph_facts(path: Path) -> Facts:
    """What is in an ONNX file: opset, nodes, and the operators that matter for speed."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    counts = collections.Counter(node.op_type for node in model.graph.node)
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None)
    convolutions = counts["Conv"] + counts["ConvInteger"]
    return {
        "opset": opset,
        "onnx nodes": sum(counts.values()),
        "convolutions": convolutions,
        "HardSwish kept whole": counts["HardSwish"],
        "quantize/dequantize nodes": counts["QuantizeLinear"] + counts["DequantizeLinear"],
        "dynamically quantized": counts["DynamicQuantizeLinear"],
    }


def float_weights(model: Any) -> dict[str, Array]:
    """The weights of convolutions and linear layers that are stored in float, by the names of their nodes.

    Output channels come first, as in PyTorch.
    """
    from onnx import TensorProto, numpy_helper

    stored = {
        tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT
    }
    found = {}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[1] not in stored:
            continue
        array = numpy_helper.to_array(stored[node.input[1]])
        turned = any(given.name == "transB" and given.i for given in node.attribute)
        found[node.name] = array if node.op_type == "Conv" or turned else array.T
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's progress and the notices of what it does without (torchvision) out of the log."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
