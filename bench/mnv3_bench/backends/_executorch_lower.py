"""From a PyTorch network to an ExecuTorch program delegated to XNNPACK.

Lowering is what takes the time: some thirty passes, each of which walks the whole graph again with fake tensors. It
calls the package's own flatc, and neither the network nor an installer.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from mnv3_bench.backends import _executorch, _executorch_file, _layers
from mnv3_bench.backends._onnx import quiet
from mnv3_bench.backends.base import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import torch

    from mnv3_bench.backends.base import Facts

_WEIGHTED = ("convolution", "linear", "addmm", "mm")
_FUSED = ("relu", "hardtanh", "clamp")
"""Activations that XNNPACK computes together with the operator before them."""
_REMOVED = ("_clone_dim_order", "clone")
"""What is left of dropout; XNNPACK's passes take it out."""
_CONVERSIONS = ("quantize_", "dequantize_", "choose_qparams")


def export(network: torch.nn.Module, example: tuple[torch.Tensor, ...]) -> torch.export.ExportedProgram:
    """Export a network for the example's shapes.

    Raises:
        BackendError: torch.export refuses it.
    """
    import torch

    try:
        with torch.no_grad():
            return torch.export.export(network, example)
    except Exception as error:  # whatever dynamo, or the network's own code, raises
        raise BackendError(f"torch.export cannot export the network: {_line(error)}") from error


def write(program: torch.export.ExportedProgram, directory: Path, float_layers: Sequence[str] = ()) -> Facts:
    """Lower an exported network to XNNPACK and write it.

    The route is the one the documentation gives for the CPU, with every setting as it is there: one call of
    `to_edge_transform_and_lower` (https://docs.pytorch.org/executorch/stable/backends/xnnpack/xnnpack-overview.html).

    Args:
        program: exported, and quantized where it is to be.
        directory: of the artifact.
        float_layers: module paths that a quantizer was to leave alone.

    Returns:
        What was delegated, what computes in int8 and in fp32, and which of the layers have float weights.

    Raises:
        BackendError: ExecuTorch cannot lower it, or has no kernel for something in it.
    """
    with quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        try:
            edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
            module = edge.exported_program().graph_module
            coverage = _coverage(module) | _layers.stated(float_layers, _in_float(module))
            buffer = edge.to_executorch().buffer
        except Exception as error:  # its passes raise whatever they like
            raise BackendError(f"ExecuTorch cannot lower the network: {_line(error)}") from error
    path = directory / _executorch.PROGRAM
    path.write_bytes(buffer)
    # Lowering asks for kernels that the runtime may not have; loading is what finds out.
    _executorch.Program(path, None).close()
    return {**_executorch_file.contents(path), **coverage}


def _coverage(module: torch.fx.GraphModule) -> Facts:
    """Operators that went to XNNPACK, by kind; the same nodes as `get_delegation_info` of executorch.devtools sees,
    but for the picking of outputs; named as operators ('mean') and not as nodes ('aten_mean_dim').
    """
    delegated = [node for part in delegates(module) for node in part.graph.nodes]
    left = [name for name in map(operator, module.graph.nodes) if name is not None]
    names = Counter(name for name in map(operator, delegated) if name is not None)
    conversions = Counter({name: count for name, count in names.items() if name.startswith(_CONVERSIONS)})
    facts: Facts = {
        "delegated nodes": names.total(),
        "nodes not delegated": len(left),
        "delegated operators": _executorch_file.counted(names - conversions),
    }
    if conversions:
        computing = [
            node
            for node in delegated
            if operator(node) in names - conversions and operator(node) not in _REMOVED
        ]
        facts["int8 operators"] = _executorch_file.counted(
            Counter(str(operator(node)) for node in computing if _in_int8(node))
        )
        facts["fp32 operators"] = _executorch_file.counted(
            Counter(str(operator(node)) for node in computing if not _in_int8(node))
        )
    return facts


def _in_float(module: torch.fx.GraphModule) -> Iterator[str]:
    """Paths of the layers whose weights are not dequantized before use."""
    for graph in (module.graph, *(part.graph for part in delegates(module))):
        for node in graph.nodes:
            kind = operator(node)
            if kind in _WEIGHTED:
                weights = node.args[2 if kind == "addmm" else 1]
                if not str(operator(weights)).startswith("dequantize_"):
                    yield _layers.path(node)


def delegates(module: torch.fx.GraphModule) -> Iterator[torch.fx.GraphModule]:
    """What each delegated part of a lowered graph was made from."""
    for node in module.graph.nodes:
        if node.op == "get_attr" and node.name.startswith("lowered_module_"):
            yield getattr(module, node.target).original_module.graph_module


def operator(node: Any) -> str | None:
    """What a node computes, such as 'convolution'; None for what is no operator: inputs, picking of an output."""
    overload = getattr(node.target, "_op", node.target)
    schema = getattr(overload, "_schema", None)
    return None if schema is None else str(schema.name).rpartition("::")[2]


def _in_int8(node: Any) -> bool:
    """Whether XNNPACK has integers to compute with: all its activations were just dequantized and it is quantized next.

    With ranges found at run time only the inputs are integers, and a convolution's or linear layer's output is fp32.
    """
    sources = _sources(node)
    if not sources:
        return False
    if all(str(operator(source)).startswith("dequantize_") for source in sources):
        dynamic = any("dequantize_per_tensor.tensor" in str(source.target) for source in sources)
        return (dynamic and operator(node) in _WEIGHTED) or _quantized_after(node)
    return operator(node) in _FUSED and len(sources) == 1 and _in_int8(sources[0])


def _quantized_after(node: Any) -> bool:
    users = _users(node)
    if len(users) == 1 and operator(users[0]) in _FUSED:
        users = _users(users[0])
    return all(str(operator(user)).startswith("quantize_") for user in users)


def _sources(node: Any) -> list[Any]:
    """Operators whose results a node takes."""
    found = [source for source in node.all_input_nodes if operator(source) is not None]
    return [
        each for source in found for each in (_sources(source) if operator(source) in _REMOVED else [source])
    ]


def _users(node: Any) -> list[Any]:
    """Nodes that take its result."""
    return [each for user in node.users for each in (_users(user) if operator(user) in _REMOVED else [user])]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
