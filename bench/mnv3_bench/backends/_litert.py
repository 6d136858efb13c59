"""What the LiteRT backends share: conversion, what a .tflite file says of itself, and the session.

The runtime is `ai_edge_litert.interpreter.Interpreter`, whose default delegate is XNNPACK. LiteRT's documentation
recommends the newer CompiledModel API (https://ai.google.dev/edge/litert/next/python), for GPUs and NPUs: on the CPU
both run the same kernels. Measured with ai-edge-litert 2.3 on V3-Small, taking turns within one process, copying input
and output included: CompiledModel / Interpreter 0.99 to 1.02 at 1 and 2 threads. Of the two the Interpreter is the
plainer program: it needs 62 MB at its peak instead of 69, looks for no GPU and NPU libraries when it starts, takes
inputs of every type, and tells which operators XNNPACK took.

Neither the converter nor the runtime opens a connection or starts a program.
"""

from __future__ import annotations

import math
import re
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnv3_bench.backends._artifact import About, by
from mnv3_bench.backends._onnx import quiet
from mnv3_bench.backends.base import BackendError, OpenSpec, Signature, Switch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mnv3_bench.backends.base import Array, Arrays, Facts, Preparation
    from mnv3_reports.record import TensorSpec

MODEL = "model.tflite"
RUNTIME_MODULES = ("numpy", "ai_edge_litert.interpreter")
PREPARE_MODULES = ("torch", "litert_torch")
DISTRIBUTIONS = ("torch", "litert-torch", "litert-converter", "ai-edge-litert")
SOURCES = (
    "https://github.com/google-ai-edge/LiteRT/blob/main/tflite/delegates/xnnpack/README.md",
    "https://github.com/google-ai-edge/litert-torch",
    "https://ai.google.dev/edge/litert/models/convert_pytorch",
    "https://ai.google.dev/edge/litert/next/python",
)
LAYOUT = Switch(
    "layout",
    ("nhwc", "nchw"),
    "order of the file's image inputs; XNNPACK computes in NHWC, nchw keeps the network's own and transposes first",
    shapes_artifact=True,
    tuned=False,
)
"""litert-torch's `to_channel_last_io` makes the file take NHWC, as cameras and TensorFlow Lite's own models have it.
V3-Small then needs 0.95 of the time at 1 thread (0.08 ms less), and the same numbers come out."""

LAYOUT_FACT = "input layout"
KEPT_FACT = "kept in fp32 for XNNPACK"
MIXED = "fp32 with int8 weights"
NETWORK_ONLY = {"QUANTIZE", "DEQUANTIZE", "DELEGATE"}
"""Operators that no network asked for."""


def write_model(preparation: Preparation, path: Path, layout: str) -> Facts:
    """Write what was given as a .tflite file; a .tflite file is copied.

    Args:
        preparation: of the backend.
        path: of the file to be written.
        layout: 'nhwc' or 'nchw', of a network's inputs with four dimensions. A file has its own.

    Raises:
        BackendError: it cannot be converted, or is no .tflite file.
    """
    if preparation.format == "tflite":
        if preparation.file is None:
            raise BackendError(f"{preparation.variant} is a .tflite file, but the file is not named")
        check_file(preparation.file)
        shutil.copyfile(preparation.file, path)
        return {LAYOUT_FACT: "as the file has it"}
    images = [position for position, array in enumerate(preparation.example) if array.ndim == 4]
    last = bool(images) and layout == "nhwc"
    with quiet():
        import litert_torch
        import torch

        example = tuple(
            torch.from_numpy(channels_last(array) if last else array.copy()) for array in preparation.example
        )
        module = preparation.model
        if last:
            module = litert_torch.to_channel_last_io(module, args=images)
        try:
            litert_torch.convert(module, example).export(str(path))
        except Exception as error:  # torch.export, the lowering and the converter share no base class
            raise BackendError(f"the network cannot be converted to LiteRT: {one_line(error)}") from error
    return {LAYOUT_FACT: "NHWC" if last else "NCHW" if images else "as in the network"}


def channels_last(array: Array) -> Array:
    """A copy in NHWC of an array in NCHW; of any other array a copy."""
    return np.array(array.transpose(0, 2, 3, 1) if array.ndim == 4 else array, order="C")


def one_line(error: Exception) -> str:
    """The start of a message of the runtime or converter."""
    return " ".join(str(error).split())[:300]


def check_file(path: Path) -> None:
    """Look for the mark of a TensorFlow Lite flatbuffer before the native parser sees the file.

    Raises:
        BackendError: it cannot be read, or is no .tflite file.
    """
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise BackendError(f"{path} cannot be read: {error.strerror}") from error
    if head[4:8] != b"TFL3":
        raise BackendError(f"{path} is no .tflite file: it lacks the mark TFL3 at its fifth byte")


def open_interpreter(
    path: Path, shapes: Sequence[tuple[int, ...]] | None = None, *, threads: int = 1, plain: bool = False
) -> Any:
    """An interpreter with its tensors allocated.

    Args:
        path: of the file.
        shapes: of its inputs, in its order and layout; sizes that it leaves open are set to these. None: as it stands.
        threads: of XNNPACK and of LiteRT's own kernels.
        plain: with the reference kernels, and without XNNPACK.

    Raises:
        BackendError: it is damaged, needs operators that this LiteRT lacks, or does not take such inputs.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    check_file(path)
    kernels = OpResolverType.BUILTIN_REF if plain else OpResolverType.AUTO
    try:
        interpreter = Interpreter(
            model_path=str(path), num_threads=threads, experimental_op_resolver_type=kernels
        )
        if shapes is not None:
            _resize(interpreter, path, shapes)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise BackendError(_reason(path, str(error))) from error
    return interpreter


def _resize(interpreter: Any, path: Path, shapes: Sequence[tuple[int, ...]]) -> None:
    details = interpreter.get_input_details()
    if len(details) != len(shapes):
        raise BackendError(f"{path.name} takes {len(details)} inputs, {len(shapes)} were given")
    for detail, shape in zip(details, shapes, strict=True):
        wanted = _open_shape(detail)
        fits = len(wanted) == len(shape) and all(
            size in (None, asked) for size, asked in zip(wanted, shape, strict=True)
        )
        if not fits:
            stated = "x".join("?" if size is None else str(size) for size in wanted) or "()"
            raise BackendError(
                f"{path.name} takes {detail['name']} as {stated}, not as {by(shape)}; "
                "ask for that size, or convert the network for this one"
            )
        if tuple(int(size) for size in detail["shape"]) != shape:
            interpreter.resize_tensor_input(detail["index"], shape, strict=True)


def _open_shape(detail: dict[str, Any]) -> tuple[int | None, ...]:
    """The shape of a tensor with None where the file leaves a size open, which it states as -1."""
    shape, stated = detail["shape"], detail["shape_signature"]
    sizes = stated if len(stated) == len(shape) else shape
    return tuple(None if size < 0 else int(size) for size in sizes)


def _reason(path: Path, message: str) -> str:
    """What LiteRT complains of, in terms of what to do."""
    lacking = re.search(r"unresolved custom op: ([^.\s]+)|builtin opcode '(\w+)'", message)
    if lacking is not None:
        name = lacking[1] or lacking[2]
        return (
            f"{path.name} needs the operator {name}, which this LiteRT has no kernel for; "
            "update ai-edge-litert, or convert the network without that operator"
        )
    if "Select TensorFlow op" in message:
        return (
            f"{path.name} needs TensorFlow's own operators, which LiteRT's Python package has not; "
            "convert the network with LiteRT's built-in operators only"
        )
    if "not a valid Flatbuffer" in message or "failed to verify" in message:
        return f"{path.name} is cut short or damaged: LiteRT's check of the flatbuffer fails; copy or convert it again"
    return f"LiteRT cannot load {path.name}: {' '.join(message.split())[:300]}"


@dataclass(frozen=True)
class Operator:
    """One operator of a loaded file."""

    name: str
    """As LiteRT calls it, such as CONV_2D."""
    precision: str
    """'fp32', 'int8', 'fp32 with int8 weights', or another type by numpy's name."""
    delegated: bool
    """Whether XNNPACK runs it."""


def operators(interpreter: Any) -> dict[int, Operator]:
    """The operators of an allocated interpreter by their number, without the delegate's own.

    The package offers no public way to ask for them; this one is marked as experimental.
    """
    details = interpreter._get_ops_details()
    delegates = [each for each in details if each["op_name"] == "DELEGATE"]
    makers = {
        tensor: each["index"]
        for each in details
        if each["op_name"] != "DELEGATE"
        for tensor in each["outputs"]
    }
    taken: set[int] = set()
    for delegate in delegates:
        edge, waiting = set(delegate["inputs"]), list(delegate["outputs"])
        while waiting:
            tensor = waiting.pop()
            maker = makers.get(tensor)
            if tensor in edge or maker is None or maker in taken:
                continue
            taken.add(maker)
            waiting.extend(details[maker]["inputs"])
    return {
        each["index"]: Operator(each["op_name"], _precision(each), each["index"] in taken)
        for each in details
        if each["op_name"] != "DELEGATE"
    }


def partitions(interpreter: Any) -> int:
    """Parts of the graph that XNNPACK runs, each with what lies between it and the next one left to LiteRT."""
    return sum(each["op_name"] == "DELEGATE" for each in interpreter._get_ops_details())


def _precision(details: dict[str, Any]) -> str:
    result = np.dtype(details["result_types"][0]) if details["result_types"] else np.dtype(np.void)
    if result == np.float32:
        weights = np.int8 in details["operand_types"] and details["op_name"] not in NETWORK_ONLY
        return MIXED if weights else "fp32"
    return result.name


def counted(found: Iterable[Operator], *, precision: bool = False) -> str:
    """Operators as text: '41 CONV_2D, 2 FULLY_CONNECTED', the most frequent first; 'none' without any."""
    names = Counter(f"{each.name} ({each.precision})" if precision else each.name for each in found)
    return ", ".join(f"{count} {name}" for name, count in names.most_common()) or "none"


def inspect(file: Path) -> Signature:
    """What a .tflite file says of itself; of several subgraphs and signatures the first.

    Raises:
        BackendError: it is no such file, is damaged, or needs operators that this LiteRT lacks.
    """
    interpreter = open_interpreter(file)
    signatures = list(interpreter.get_signature_list())
    names = {}
    if signatures:
        runner = interpreter.get_signature_runner(signatures[0])
        known = {**runner.get_output_details(), **runner.get_input_details()}
        names = {detail["index"]: name for name, detail in known.items()}

    def spec(detail: dict[str, Any]) -> OpenSpec:
        name = names.get(detail["index"], detail["name"])
        return OpenSpec(name, _open_shape(detail), np.dtype(detail["dtype"]).name)

    found = operators(interpreter).values()
    return Signature(
        inputs=tuple(map(spec, interpreter.get_input_details())),
        outputs=tuple(map(spec, interpreter.get_output_details())),
        parameters=_parameters(file),
        holds=tuple(reduced(found)),
        facts={
            "operators": counted(found),
            "precision": ", ".join(dict.fromkeys(each.precision for each in found)),
            "signatures": ", ".join(signatures) or "none",
        },
    )


def require_signature(file: Path) -> None:
    """Give a file that has no signature, as older converters wrote them, one that names inputs and outputs by tensor.

    ai-edge-quantizer feeds a file by the names of its signature.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(file.read_bytes()))
    if model.signatureDefs:
        return
    graph = model.subgraphs[0]

    def named(tensors: Sequence[int]) -> list[Any]:
        maps = []
        for place, tensor in enumerate(tensors):
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = f"{place}:".encode() + graph.tensors[tensor].name, tensor
            maps.append(entry)
        return maps

    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = b"serving_default", 0
    signature.inputs, signature.outputs = named(graph.inputs), named(graph.outputs)
    model.signatureDefs = [signature]
    builder = flatbuffers.Builder(file.stat().st_size + 4096)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    file.write_bytes(builder.Output())


def reduced(found: Iterable[Operator]) -> dict[str, str]:
    """What of a file's operators is below fp32, and where: 'int8' to '41 CONV_2D (int8)'."""
    within = list(found)
    quantized = [each for each in within if "int8" in each.precision or each.name == "QUANTIZE"]
    if quantized:
        return {"int8": counted(quantized, precision=True)}
    # Weights that are stored in half precision and computed with in fp32.
    halves = [each for each in within if each.name == "DEQUANTIZE"]
    return {"fp16": f"{len(halves)} tensors"} if halves else {}


def _parameters(file: Path) -> int:
    """Numbers in the constants of a file that are floating-point or quantized, each buffer once.

    What remains are shapes, axes and paddings.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(file.read_bytes())
    sizes: dict[int, int] = {}
    for graph in map(model.Subgraphs, range(model.SubgraphsLength())):
        for tensor in map(graph.Tensors, range(graph.TensorsLength())):
            buffer = model.Buffers(tensor.Buffer())
            constant = buffer.DataLength() > 0 or buffer.Offset() > 1
            floating = tensor.Type() in (schema.TensorType.FLOAT32, schema.TensorType.FLOAT16)
            scales = tensor.Quantization()
            if constant and (floating or (scales is not None and scales.ScaleLength() > 0)):
                sizes[tensor.Buffer()] = math.prod(map(tensor.Shape, range(tensor.ShapeLength())))
    return sum(sizes.values())


def reference(file: Path, calls: Sequence[Arrays]) -> list[Arrays]:
    """Outputs of a .tflite file with LiteRT's reference kernels, without XNNPACK, on one thread.

    Raises:
        BackendError: it cannot be run on these inputs.
    """
    if not calls:
        return []
    interpreter = open_interpreter(file, [array.shape for array in calls[0]], plain=True)
    session = Call(interpreter)
    try:
        return [tuple(session.run(session.arguments(call))) for call in calls]
    except (ValueError, RuntimeError) as error:
        raise BackendError(f"LiteRT cannot run {file.name}: {one_line(error)}") from error


class Call:
    """One interpreter's inputs and outputs, in the file's order."""

    def __init__(self, interpreter: Any) -> None:
        self.invoke = interpreter.invoke
        self.set_tensor, self.get_tensor = interpreter.set_tensor, interpreter.get_tensor
        self.inputs = [
            (detail["index"], np.dtype(detail["dtype"]), detail["name"])
            for detail in interpreter.get_input_details()
        ]
        self.outputs = [detail["index"] for detail in interpreter.get_output_details()]

    def arguments(self, arrays: Arrays) -> list[tuple[int, Array]]:
        """Arrays with the numbers of the tensors they go into, in the file's types.

        Raises:
            BackendError: the file takes another type, or values that it cannot hold.
        """
        return [
            (index, _as_type(array, dtype, name))
            for (index, dtype, name), array in zip(self.inputs, arrays, strict=True)
        ]

    def run(self, arguments: list[tuple[int, Array]]) -> list[Array]:
        """Copy the inputs in, compute, copy the outputs out."""
        for index, array in arguments:
            self.set_tensor(index, array)
        self.invoke()
        return [self.get_tensor(index) for index in self.outputs]


def _as_type(array: Array, dtype: np.dtype[Any], name: str) -> Array:
    """An array in the file's type: litert-torch makes 32-bit inputs of 64-bit ones."""
    if array.dtype == dtype:
        return array
    if (array.dtype.name, dtype.name) not in (("int64", "int32"), ("float64", "float32")):
        raise BackendError(f"the file takes {name} as {dtype}, not as {array.dtype}; convert it with .astype")
    converted = array.astype(dtype)
    if dtype.kind == "i" and not np.array_equal(converted, array):
        raise BackendError(f"the file takes {name} as int32, into which {np.abs(array).max()} does not fit")
    return converted


def finish(preparation: Preparation, facts: Facts) -> Facts:
    """Check that the artifact loads, and describe it in `artifact.json`; what the facts become.

    Raises:
        BackendError: LiteRT cannot run it, or it does not take the inputs it was made for.
    """
    path = preparation.directory / MODEL
    about = About.of(preparation, facts)
    interpreter = _load(path, about, threads=1)
    Call(interpreter).arguments(in_file_layout(preparation.example, facts))
    about = About.of(
        preparation, {**facts, "operators": counted(operators(interpreter).values(), precision=True)}
    )
    about.write(preparation.directory)
    return dict(about.facts)


def in_file_layout(arrays: Arrays, facts: Facts) -> Arrays:
    """One call's inputs in the layout that these facts of an artifact state."""
    return tuple(map(channels_last, arrays)) if facts.get(LAYOUT_FACT) == "NHWC" else arrays


def _load(path: Path, about: About, threads: int) -> Any:
    nhwc = about.facts.get(LAYOUT_FACT) == "NHWC"
    return open_interpreter(path, [_file_shape(spec, nhwc=nhwc) for spec in about.inputs], threads=threads)


def _file_shape(spec: TensorSpec, *, nhwc: bool) -> tuple[int, ...]:
    if not nhwc or len(spec.shape) != 4:
        return spec.shape
    batch, channels, height, width = spec.shape
    return batch, height, width, channels


def open_session(directory: Path, threads: int, device: str) -> LiteRtSession:
    """Load an artifact for the CPU with XNNPACK, which LiteRT applies by default, on `threads` threads.

    The number is given when the interpreter is made, as XNNPACK asks for; it uses one thread unless told otherwise.

    Raises:
        BackendError: the device is not the CPU, or the artifact cannot be loaded.
    """
    if device != "cpu":
        raise BackendError(f"{device} was asked for, but LiteRT runs on the CPU here; use --device cpu")
    about = About.read(directory)
    before = _os_threads()
    interpreter = _load(directory / MODEL, about, threads)
    return LiteRtSession(interpreter, about, threads, _os_threads() - before)


def _os_threads() -> int:
    """Threads of this process where the system tells, otherwise 0."""
    tasks = Path("/proc/self/task")
    return sum(1 for _ in tasks.iterdir()) if tasks.is_dir() else 0


class LiteRtSession:
    """An interpreter: arrays in, arrays out.

    What is timed is what a program around LiteRT's documented loop does for every image: `set_tensor` copies the input
    in, `invoke` computes, `get_tensor` copies the output out.
    """

    def __init__(self, interpreter: Any, about: About, threads: int, started: int) -> None:
        self.interpreter = interpreter
        self.about = about
        self.threads = threads
        self.started = started
        self.call: Call | None = Call(interpreter)
        self.run: Any = self.call.run

    def stage(self, inputs: Arrays) -> list[tuple[int, Array]]:
        """The inputs in the file's layout and types, with the numbers of their tensors."""
        assert self.call is not None, "a closed session is not run"
        return self.call.arguments(in_file_layout(self.about.own(inputs), self.about.facts))

    def fetch(self, output: list[Array]) -> Arrays:
        """The outputs."""
        return tuple(output)

    def facts(self) -> Facts:
        """What LiteRT says of the loaded graph; threads as XNNPACK started them beside the caller's."""
        import ai_edge_litert

        found = operators(self.interpreter).values()
        left = [each for each in found if not each.delegated]
        pool = self.started > 0 or self.threads == 1
        return {
            "runtime": f"ai_edge_litert {ai_edge_litert.__version__}",
            "threads": self.started + 1 if pool else self.threads,
            "operators in XNNPACK": f"{len(found) - len(left)} of {len(found)}",
            "XNNPACK partitions": partitions(self.interpreter),
            "left to LiteRT's own kernels": counted(left, precision=True),
            **self.about.facts,
        }

    def close(self) -> None:
        """Drop the interpreter, and what refers to it."""
        self.interpreter = self.call = self.run = None
