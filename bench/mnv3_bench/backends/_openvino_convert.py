"""What the OpenVINO backends share when they prepare: a network of any kind as OpenVINO's intermediate representation.

PyTorch networks go through `torch.export` and OpenVINO's own PyTorch frontend, without ONNX in between, which
OpenVINO's documentation calls the backup for what cannot be converted directly
(https://docs.openvino.ai/2026/openvino-workflow/model-preparation/convert-model-pytorch.html). Traced by
`torch.jit.trace`, which is deprecated, V3-Small and V3-Large become the same compiled graph and give the same bits.
Shapes are made static, as the same documentation recommends where they are known, and weights stay fp32.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from mnv3_bench.backends import _onnx, _torch
from mnv3_bench.backends._openvino import MODEL, package, reason, version
from mnv3_bench.backends.base import BackendError, OpenSpec, Signature

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch

    from mnv3_bench.backends.base import Arrays, Facts, Format, Preparation

TAKES: tuple[Format, ...] = ("module", "pt2", "torchscript", "onnx", "tflite", "openvino")
DISTRIBUTIONS = ("torch", "openvino")


def convert(preparation: Preparation) -> Any:
    """The network as an `openvino.Model` that takes exactly the inputs it is prepared for, in their order.

    Raises:
        BackendError: it cannot be converted, read, or given these inputs.
    """
    if preparation.format in ("module", "pt2", "torchscript"):
        model = _from_torch(preparation)
    elif preparation.file is None:
        raise BackendError(
            f"{preparation.variant} is said to be a {preparation.format} file; there is no file"
        )
    else:
        model = read(preparation.file)
    ports = _ports(model, preparation)
    try:
        model.reshape({port: list(spec.shape) for port, spec in zip(ports, preparation.inputs, strict=True)})
    except Exception as error:
        raise BackendError(
            f"{preparation.variant} cannot take inputs of the shapes asked for: {reason(error)}"
        ) from error
    for port, spec in zip(ports, preparation.inputs, strict=True):
        found = type_name(port)
        if found != spec.dtype:
            raise BackendError(f"{preparation.variant} takes {spec.name} as {found}, not as {spec.dtype}")
    if ports != list(model.inputs):
        parameters = [port.get_node() for port in ports]
        model = package().Model(model.get_results(), model.get_sinks(), parameters, model.get_friendly_name())
    return model


def save(model: Any, directory: Path) -> None:
    """Write it, its weights as they are: by default OpenVINO would halve them to fp16."""
    package().save_model(model, str(directory / MODEL), compress_to_fp16=False)


def ir_facts(model: Any, preparation: Preparation) -> Facts:
    """What was made of what."""
    made_of = {"module": "torch.export", "pt2": "torch.export", "torchscript": "the TorchScript file"}
    return {
        "converted from": made_of.get(preparation.format, f"the {preparation.format} file"),
        "ir operators": sum(node.get_type_name() != "Constant" for node in model.get_ops()),
    }


def read(file: Path) -> Any:
    """Read a file that OpenVINO has a frontend for: an IR, ONNX, TensorFlow Lite.

    Raises:
        BackendError: it is not there, is cut short, or is something else.
    """
    if file.suffix == ".xml" and not file.with_suffix(".bin").is_file():
        raise BackendError(
            f"{file.name} has no weights: {file.with_suffix('.bin').name} is not beside it; "
            "put it there, the two files belong together"
        )
    try:
        return package().Core().read_model(str(file))
    except Exception as error:
        raise BackendError(f"OpenVINO {version()} cannot read {file.name}: {reason(error)}") from error


def inspect(file: Path) -> Signature:
    """What an IR says of itself.

    Raises:
        BackendError: it cannot be read.
    """
    model = read(file)
    return Signature(
        inputs=tuple(_spec(port) for port in model.inputs),
        outputs=tuple(_spec(port) for port in model.outputs),
        parameters=sum(prod(node.get_output_shape(0)) for node in model.get_ops() if _is_weights(node)),
        holds=("int8",) if fake_quantizers(model) else (),
        facts={
            "operators": sum(node.get_type_name() != "Constant" for node in model.get_ops()),
            "quantized activations and weights": fake_quantizers(model),
            "weights stored as": ", ".join(
                sorted(
                    {node.get_element_type().get_type_name() for node in model.get_ops() if _is_weights(node)}
                )
            ),
        },
    )


def reference(file: Path, calls: Sequence[Arrays]) -> list[Arrays]:
    """Outputs of an IR in fp32 on one thread, in the mode that puts accuracy first.

    It is the same CPU plugin: the package has no device with reference kernels, and `Model.evaluate` knows no
    convolutions. What an IR states as quantized stays so.

    Raises:
        BackendError: it cannot be read or compiled.
    """
    model = read(file)
    try:
        model.reshape({position: list(array.shape) for position, array in enumerate(calls[0])})
        compiled = (
            package()
            .Core()
            .compile_model(
                model,
                "CPU",
                {
                    "EXECUTION_MODE_HINT": "ACCURACY",
                    "INFERENCE_PRECISION_HINT": "f32",
                    "NUM_STREAMS": 1,
                    "INFERENCE_NUM_THREADS": 1,
                },
            )
        )
        request = compiled.create_infer_request()
        return [
            tuple(np.array(array) for array in request.infer(dict(enumerate(inputs))).to_tuple())
            for inputs in calls
        ]
    except Exception as error:
        raise BackendError(f"OpenVINO cannot run {file.name}: {reason(error)}") from error


def fake_quantizers(model: Any) -> int:
    """Places of a network where values are quantized."""
    return sum(node.get_type_name() == "FakeQuantize" for node in model.get_ops())


def type_name(port: Any) -> str:
    """numpy's name of an input's or output's type, or OpenVINO's own where numpy has none."""
    kind = port.get_element_type()
    try:
        return str(kind.to_dtype())
    except TypeError:
        return str(kind.get_type_name())


def _from_torch(preparation: Preparation) -> Any:
    import torch

    convert_model = package().convert_model
    example = _torch.tensors(preparation.example)
    network = preparation.model
    with _onnx.quiet(), torch.no_grad():
        try:
            if preparation.format == "torchscript":
                return convert_model(_traced(network, example), example_input=example)
            return convert_model(torch.export.export(network, example))
        except Exception as error:  # torch.export's many kinds, and the frontend's
            raise BackendError(
                f"{preparation.variant} cannot be converted to OpenVINO: {reason(error)}"
            ) from error


def _traced(script: torch.nn.Module, example: tuple[torch.Tensor, ...]) -> Any:
    """TorchScript as a trace of these inputs: of a script OpenVINO takes every input for fp32, and mixes them up."""
    import torch

    class Around(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.script = script

        def forward(self, *inputs: torch.Tensor) -> Any:
            return self.script(*inputs)

    return torch.jit.trace(Around().eval(), example, check_trace=False)  # type: ignore[no-untyped-call]


def _ports(model: Any, preparation: Preparation) -> list[Any]:
    """The network's inputs in the order asked for: by their names, or by position where names were not kept."""
    given = list(model.inputs)
    if len(given) != len(preparation.inputs):
        raise BackendError(
            f"{preparation.variant} has {len(given)} inputs for OpenVINO, expected {len(preparation.inputs)}: "
            f"{', '.join(spec.name for spec in preparation.inputs)}"
        )
    named = [[port for port in given if spec.name in port.get_names()] for spec in preparation.inputs]
    if all(len(found) == 1 for found in named):
        return [found[0] for found in named]
    return given


def _spec(port: Any) -> OpenSpec:
    shape = port.get_partial_shape()
    names = sorted(port.get_names())
    return OpenSpec(
        names[0] if names else port.get_node().get_friendly_name(),
        tuple(size.get_length() if size.is_static else None for size in shape)
        if shape.rank.is_static
        else (),
        type_name(port),
    )


def _is_weights(node: Any) -> bool:
    """A constant that is learned: no shape, no axis, no factor, and nothing that says how others are quantized."""
    if node.get_type_name() != "Constant" or prod(node.get_output_shape(0)) == 1:
        return False
    kind = node.get_element_type()
    return bool(kind.is_real() or kind.bitwidth <= 8) and not all(
        _quantizes(target.get_node(), target.get_index()) for target in node.output(0).get_target_inputs()
    )


def _quantizes(user: Any, position: int) -> bool:
    """Whether an operator's input is a limit of a quantizer, or the scale or zero of stored 8-bit weights."""
    kind = user.get_type_name()
    if kind == "FakeQuantize":
        return position > 0
    return kind in ("Multiply", "Subtract") and position == 1 and _is_unpacked(user.input_value(0).get_node())


def _is_unpacked(node: Any) -> bool:
    """Whether these are stored 8-bit weights on the way to floating-point ones."""
    while node.get_type_name() in ("Convert", "Subtract"):
        node = node.input_value(0).get_node()
    return node.get_type_name() == "Constant" and not node.get_element_type().is_real()
