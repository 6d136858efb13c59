"""From a file and what was measured of it to its entry in the manifest."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from mnv3_bench.backends import get_backend
from mnv3_bench.cache import versions
from mnv3_bench.errors import UsageError
from mnv3_bench.exporting.manifest import Calibration, ExportedFile, Input, Output, Runtime
from mnv3_bench.inputs import Pool
from mnv3_bench.launcher import WorkerError
from mnv3_bench.model_files import signature

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mnv3_bench.backends.base import Signature
    from mnv3_bench.exporting.making import Made
    from mnv3_bench.exporting.manifest import Image, Part


AS_GIVEN = "as the model file has it"


@dataclass(frozen=True, kw_only=True)
class Given:
    """What all files of one export have in common."""

    image: Image | None
    outputs: tuple[Output, ...]
    """As the network gives them: without names."""
    calibration: Calibration
    is_file: bool
    """Whether they are all made of a model file, which has a precision of its own."""


def outputs_of(reference: Path, pool: Path, batch: int, meaning: str | None) -> tuple[Output, ...]:
    """What one call gives, from the outputs of all calls on the inputs that fidelity is measured on.

    Args:
        reference: outputs of calls with one image each, or with inputs of their own.
        pool: inputs of those calls.
        batch: images a call of the exported network.
        meaning: of the outputs.
    """
    count = calls_in(pool)
    images = 1 if Pool(pool, 1).is_ready else batch
    with np.load(reference) as stored:
        arrays = [stored[name] for name in sorted(stored.files, key=int)]
    return tuple(
        Output(None, (len(array) // count * images, *array.shape[1:]), str(array.dtype), meaning)
        for array in arrays
    )


def calls_in(pool: Path) -> int:
    """How many images a file of them holds, or how many calls' inputs."""
    return sum(1 for _ in Pool(pool, 1).cover())


def stated(made: Made) -> Signature | None:
    """What the file says of itself, read by its own runtime in a process of its own; None where it says too little.

    Raises:
        WorkerError: the runtime cannot tell.
    """
    if made.target.native is None:
        return None
    try:
        return signature(made.file, made.target.native)
    except UsageError as error:
        raise WorkerError(str(error).removeprefix("--model: ")) from None


def describe(made: Made, says: Signature | None, given: Given, parts: Sequence[Part]) -> ExportedFile:
    """The entry of a file.

    Args:
        made: the file.
        says: what it says of itself.
        given: what it shares with the other files.
        parts: the file as it was placed, and then its companions.
    """
    target = made.target
    info = get_backend(target.backend).info
    if says is None:
        inputs = tuple(_input(None, spec.shape, spec.dtype, given.image) for spec in made.inputs)
        outputs = given.outputs
    else:
        inputs = tuple(
            _input(spec.name if target.named else None, spec.shape, spec.dtype, given.image)
            for spec in says.inputs
        )
        outputs = tuple(
            Output(spec.name if target.named else None, spec.shape, spec.dtype, plain.meaning)
            for spec, plain in zip(says.outputs, given.outputs, strict=True)
        )
    name, _, version = made.runtime.partition(" ")
    return ExportedFile(
        target=target.name,
        file=parts[0],
        companions=tuple(parts[1:]),
        runtime=Runtime(name, version, target.portable),
        precision=AS_GIVEN if given.is_file and info.precision == "fp32" else info.precision,
        calibration=given.calibration if info.precision == "int8" else None,
        inputs=inputs,
        outputs=outputs,
        fidelity=made.fidelity,
        facts={**(says.facts if says is not None else {}), **made.facts},
        built_with=versions("torch", *info.distributions),
        run=call(made, parts[0].name, inputs, outputs) if _callable(says) else None,
    )


def _callable(says: Signature | None) -> bool:
    """Whether the names that a file states are those that it is called by: a .tflite file may have none of those."""
    return says is None or says.facts.get("signatures") != "none"


def _input(name: str | None, shape: tuple[int | None, ...], dtype: str, image: Image | None) -> Input:
    layout = layout_of(shape)
    return Input(name, shape, dtype, layout, image if layout is not None else None)


def layout_of(shape: tuple[int | None, ...]) -> Literal["NCHW", "NHWC"] | None:
    """Where the three channels of a batch of images are, None for what looks like no images."""
    if len(shape) != 4 or 3 not in (shape[1], shape[3]):
        return None
    return "NCHW" if shape[1] == 3 else "NHWC"


def call(made: Made, file: str, inputs: Sequence[Input], outputs: Sequence[Output]) -> str:
    """Python that computes `y` from `x`, or from `x0`, `x1` and so on where there are several inputs."""
    arrays = ["x"] if len(inputs) == 1 else [f"x{position}" for position in range(len(inputs))]
    names = [json.dumps(each.name, ensure_ascii=False) for each in inputs]
    named = ", ".join(f"{name}: {array}" for name, array in zip(names, arrays, strict=True))
    return made.target.run.format(
        file=json.dumps(file, ensure_ascii=False),
        named=f"{{{named}}}",
        listed=f"[{', '.join(arrays)}]",
        first=made.first,
        tensors=", ".join(f"torch.from_numpy({array})" for array in arrays),
        output=json.dumps(outputs[0].name, ensure_ascii=False),
    )
