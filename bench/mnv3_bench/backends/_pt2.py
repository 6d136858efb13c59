"""A `.pt2` file that holds an exported program: reading it, what it says of itself, and what it computes.

Source: docs.pytorch.org/docs/stable/export.html.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mnv3_bench.backends._torch import as_arrays, tensors
from mnv3_bench.backends.base import BackendError, OpenSpec, Signature

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch
    from torch import fx, nn
    from torch.export import ExportedProgram

    from mnv3_bench.backends.base import Arrays

_TRAINING_ARGUMENT = {"aten.batch_norm": 5, "aten.dropout": 2, "aten.dropout_": 2}
"""Where an operator says that it trains."""


def read(file: Path) -> ExportedProgram:
    """Read it. This executes code that is in the file.

    Raises:
        BackendError: it is no such file, or is cut short.
    """
    import torch

    try:
        return torch.export.load(file)
    except (
        Exception
    ) as error:  # zipfile's, pickle's and json's own, RuntimeError, and whatever its code raises
        raise BackendError(
            f"{file.name} holds no program that torch {torch.__version__} can read: it is cut short, or another "
            "PyTorch's; write it again with torch.export.save"
        ) from error


def module(program: ExportedProgram, device: torch.device) -> nn.Module:
    """The program as a module on a device, without the checks of its inputs at each call: a session checks them."""
    import torch
    from torch.export.passes import move_to_device_pass

    if device.type != "cpu":
        program = move_to_device_pass(program, str(device))
    made: nn.Module = program.module(check_guards=False)
    for parameter in made.parameters():
        parameter.requires_grad_(False)
    assert isinstance(made, torch.fx.GraphModule)
    return made


def signature(file: Path) -> Signature:
    """Names, shapes and types of its inputs and outputs.

    Raises:
        BackendError: it cannot be read, or takes something else than tensors by position.
    """
    program = read(file)
    graph = program.graph_signature
    _require_positional_tensors(program, file.name)
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    facts: dict[str, str | int | float | bool | None] = {
        "operators": sum(node.op == "call_function" for node in program.graph.nodes)
    }
    training = in_training_mode(program.graph)
    if training:
        facts["mode"] = f"train ({training} operators)"
    return Signature(
        inputs=tuple(_spec(str(name), values[str(name)]) for name in graph.user_inputs),
        outputs=tuple(_spec(str(name), values.get(str(name))) for name in graph.user_outputs),
        parameters=sum(
            program.state_dict[name].numel() for name in graph.parameters if name in program.state_dict
        ),
        facts=facts,
    )


def reference(file: Path, calls: Sequence[Arrays]) -> list[Arrays]:
    """Its outputs, computed operator by operator as PyTorch does without a compiler, by one thread.

    Raises:
        BackendError: it cannot be read.
    """
    import torch

    network = module(read(file), torch.device("cpu"))
    torch.set_num_threads(1)
    with torch.inference_mode():
        return [as_arrays(network(*tensors(inputs))) for inputs in calls]


def in_training_mode(graph: fx.Graph) -> int:
    """How many BatchNorms and dropouts of an exported graph compute what they do in training."""
    return sum(
        len(node.args) > position and node.args[position] is True
        for node in graph.nodes
        for position in [_TRAINING_ARGUMENT.get(str(node.target).rpartition(".")[0], 99)]
    )


def _require_positional_tensors(program: ExportedProgram, name: str) -> None:
    import torch

    taken = program.call_spec.in_spec
    positional, keywords = taken.children() if taken is not None else ((), None)
    named = keywords is not None and keywords.num_leaves > 0
    nested = any(not child.is_leaf() for child in positional.children()) if positional else False
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    others = [
        given
        for given in program.graph_signature.user_inputs
        if not isinstance(values.get(str(given)), torch.Tensor)
    ]
    if named or nested or others:
        what = "keyword arguments" if named else "nested inputs" if nested else "inputs that are no tensors"
        raise BackendError(
            f"{name} takes {what}; export a network whose forward takes tensors by position, and nothing else"
        )


def _spec(name: str, value: Any) -> OpenSpec:
    return OpenSpec(
        name,
        tuple(size if isinstance(size, int) else None for size in getattr(value, "shape", ())),
        str(getattr(value, "dtype", "")).removeprefix("torch."),
    )
