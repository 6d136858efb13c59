"""From `--model` and `--input` to networks with inputs: what was typed, held against what the files say."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mnv3_bench.errors import UsageError
from mnv3_bench.inputs import bytes_of, is_image
from mnv3_bench.model_files import Reading, format_of, signature
from mnv3_models import parse_variant
from mnv3_reports.record import Model, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mnv3_bench.backends.base import OpenSpec, Signature

DTYPES = ("float32", "float16", "float64", "int8", "uint8", "int16", "int32", "int64", "bool")
MOST_INPUT_BYTES = 1 << 30
"""What one call's inputs may take: more is a slip of the keyboard, and would not fit several times over."""
EXAMPLE = "--input 1x3x224x224, or --input tokens=1x128:int64,mask=1x128:int64"


class Typed(TensorSpec, frozen=True):
    """One part of `--input`; without a name it goes by its place, without a type the file's is taken."""


def models(names: Sequence[str], inputs: Sequence[str], reading: Reading | None = None) -> dict[str, Model]:
    """Networks of the user's own, by the name of their variant.

    `module:function` is not looked up here, nor in the result unless it has inputs of its own: then it is measured
    like any variant, on images. With several networks, `inputs` are for those that leave sizes open.

    Raises:
        UsageError: a file is not there, is not what its suffix says, or cannot be read; sizes are open or differ from
            what was typed.
    """
    typed = [part for text in inputs for part in read_inputs(text)]
    found: dict[str, Model] = {}
    for name in names:
        variant = variant_of(name)
        if is_function(name):
            model = Model(format="module", path=name, inputs=tuple(named(typed))) if typed else None
        else:
            model = _file(Path(name).expanduser(), typed, reading, alone=len(names) == 1)
        if variant in found:
            raise UsageError(
                f"--model: two networks are called {variant}; rename one of the files, since cells go by that name"
            )
        if model is not None:
            found[variant] = model
    return found


def is_function(name: str) -> bool:
    """Whether `--model` names a function and no file."""
    return ":" in name and not Path(name).expanduser().exists() and "/" not in name.partition(":")[2]


def variant_of(name: str) -> str:
    """What the cells of a `--model` are called.

    Raises:
        UsageError: it is `module:function`, and there is no such module or function.
    """
    if not is_function(name):
        return label(Path(name))
    from mnv3_models.own_source import require_source

    try:
        variant = parse_variant(name)
        require_source(variant)
    except (OSError, ValueError) as error:
        raise UsageError(f"--model: {error}") from None
    return variant.name


def label(path: Path) -> str:
    """A file's name as cells carry it: what their keys and file names cannot hold becomes '_'."""
    return re.sub(r"[^\w.+-]", "_", path.name)


def read_inputs(text: str) -> list[Typed]:
    """Parts of one `--input`: `[name=]1x3x224x224[:dtype]`, separated by commas.

    Raises:
        UsageError: a part is none.
    """
    parts = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        match = re.fullmatch(r"(?:(?P<name>[^=]+)=)?(?P<shape>\d+(?:[x*]\d+)*)(?::(?P<dtype>\w+))?", part)
        if match is None:
            raise UsageError(f"--input {part} is no input; type for example {EXAMPLE}")
        dtype = match["dtype"] or ""
        if dtype and dtype not in DTYPES:
            raise UsageError(
                f"--input {part}: '{dtype}' is no type of a tensor; expected {', '.join(DTYPES)}"
            )
        shape = tuple(int(size) for size in re.split("[x*]", match["shape"]))
        if 0 in shape:
            raise UsageError(f"--input {part} has a size of 0; type sizes of at least 1")
        parts.append(Typed(match["name"] or "", shape, dtype))
    if not parts:
        raise UsageError(f"--input names nothing; type for example {EXAMPLE}")
    return parts


def named(typed: Sequence[Typed]) -> list[TensorSpec]:
    """Inputs of a function's network, which are given by position.

    Raises:
        UsageError: one call of them takes too much memory.
    """
    inputs = [
        TensorSpec(part.name or f"input{position}", part.shape, part.dtype or "float32")
        for position, part in enumerate(typed)
    ]
    bounded(inputs)
    return inputs


def _file(path: Path, typed: Sequence[Typed], reading: Reading | None, *, alone: bool) -> Model:
    model_format = format_of(path)
    stated = signature(path, model_format, reading)
    complete = bool(stated.inputs) and all(spec.dtype and None not in spec.shape for spec in stated.inputs)
    inputs = settled(path.name, stated, typed if alone or not complete else [])
    bounded(inputs)
    return Model(format=model_format, path=str(path.resolve()), inputs=tuple(inputs), holds=stated.holds)


def settled(name: str, stated: Signature, typed: Sequence[Typed]) -> list[TensorSpec]:
    """Inputs of a file, from what it states and what was typed.

    Raises:
        UsageError: they contradict each other, or leave a size open.
    """
    wanted = list(stated.inputs)
    shown = ", ".join(_shown(spec) for spec in wanted) or "no input"
    by_name = {part.name: part for part in typed if part.name}
    by_place = [part for part in typed if not part.name]
    unknown = [given for given in by_name if given not in {spec.name for spec in wanted}]
    # A file that states no shapes at all states no names that a user could know either.
    stateless = not wanted or all(not spec.shape for spec in wanted)
    if unknown and not stateless:
        raise UsageError(f"--input: {name} has no input '{unknown[0]}'; it takes {shown}")
    if stateless and typed:
        return named(typed)
    if by_name and by_place and len(wanted) > 1:
        raise UsageError(f"--input: name every input of {name} or none; it takes {shown}")
    if by_place and len(by_place) != len(wanted):
        raise UsageError(f"--input gives {len(by_place)} inputs, {name} takes {len(wanted)}: {shown}")
    found = []
    for position, spec in enumerate(wanted):
        part = by_place[position] if by_place else by_name.get(spec.name)
        found.append(_one(name, spec, part, shown, _example(wanted, by_name)))
    if not found:
        raise UsageError(f"--model: {name} does not say what it takes; type its shape, for example {EXAMPLE}")
    return found


def _open(spec: OpenSpec) -> bool:
    """Whether a user has to say something of an input: a size, or everything. A scalar has a type and no size."""
    return None in spec.shape or (not spec.shape and not spec.dtype)


def _example(wanted: Sequence[OpenSpec], typed: Mapping[str, Typed]) -> str:
    """What could be typed for every open input that was not typed yet."""
    return ",".join(
        f"{spec.name}="
        + ("x".join(str(_guess(spec, place)) for place in range(len(spec.shape))) or "1x3x224x224")
        for spec in wanted
        if _open(spec) and spec.name not in typed
    )


def _one(name: str, spec: OpenSpec, part: Typed | None, shown: str, example: str) -> TensorSpec:
    if part is not None:
        fits = len(part.shape) == len(spec.shape) and all(
            size in (None, given) for size, given in zip(spec.shape, part.shape, strict=True)
        )
        if not fits:
            raise UsageError(f"--input {_by(part.shape)} does not fit {name}, which takes {shown}")
        if part.dtype and spec.dtype and part.dtype != spec.dtype:
            raise UsageError(
                f"--input: {spec.name} of {name} is {spec.dtype}, not {part.dtype}; leave the type out"
            )
        shape: tuple[int, ...] = part.shape
    elif _open(spec):
        raise UsageError(
            f"--model: {name} leaves sizes open ({shown}); type them, for example --input {example}"
        )
    else:
        shape = tuple(size for size in spec.shape if size is not None)
    dtype = spec.dtype or (part.dtype if part is not None else "") or "float32"
    if dtype not in DTYPES:
        raise UsageError(
            f"--model: {spec.name} of {name} is {dtype}; inputs can be made of {', '.join(DTYPES)}"
        )
    return TensorSpec(spec.name, shape, dtype)


def _guess(spec: OpenSpec, place: int) -> int:
    """A size to type where the file leaves it open: one call of one image of 224 pixels, if it is images."""
    size = spec.shape[place]
    if size is not None:
        return size
    return 224 if len(spec.shape) == 4 and place else 1


def bounded(inputs: Sequence[TensorSpec]) -> None:
    """Refuse inputs that would fill the memory, or that are empty.

    Raises:
        UsageError: one call of them takes too much, or nothing.
    """
    for spec in inputs:
        if 0 in spec.shape:
            raise UsageError(
                f"--input: {spec.name} {_by(spec.shape)} has a size of 0, so nothing would be computed"
            )
        if math.prod(spec.shape) * np.dtype(spec.dtype).itemsize > MOST_INPUT_BYTES:
            raise UsageError(
                f"--input: {spec.name} {_by(spec.shape)} {spec.dtype} takes {bytes_of([spec]) / 1e9:.1f} GB; "
                f"one call's inputs may take {MOST_INPUT_BYTES / 1e9:.1f} GB: type a smaller shape"
            )


def batch_and_resolution(inputs: Sequence[TensorSpec]) -> tuple[int, int]:
    """What a cell says of a network with these inputs: images a call, and pixels a side; 0 where they are no images."""
    first = inputs[0]
    batch = first.shape[0] if first.shape else 1
    if len(inputs) == 1 and is_image(first):
        return batch, max(first.shape[2:] if first.shape[1] == 3 else first.shape[1:3])
    return batch, 0


def _shown(spec: OpenSpec) -> str:
    shape = "scalar" if spec.dtype and not spec.shape else _by(spec.shape)
    return f"{spec.name} {shape} {spec.dtype}".strip()


def _by(shape: Sequence[int | None]) -> str:
    return "x".join("?" if size is None else str(size) for size in shape) or "of any shape"
