"""What a network can be exported to: a backend whose artifact is deployed, and what a user must know of the file."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mnv3_bench.backends import get_backend, missing
from mnv3_bench.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnv3_bench.backends.base import Format


@dataclass(frozen=True, kw_only=True)
class Target:
    """One kind of file."""

    name: str
    backend: str
    """Builds the artifact that the file is, or is made of."""
    artifact: str
    """Suffix of the file among the backend's artifact; empty for a file that `torch_programs` makes of the artifact."""
    ending: str
    """Of the exported file's name, after the network's."""
    native: Format | None = None
    """The format whose own runtime tells what the file takes; None where the file does not hold shapes."""
    named: bool = True
    """Whether inputs and outputs are called by their names; otherwise they go by position alone."""
    run: str
    """Python that computes `y` from the numpy array `x` in the files' folder, by the runtime's own call alone: a
    template for `describing.call`."""
    portable: str
    """Where the file runs."""


_OPSET = (
    "any ONNX runtime that knows its opset and IR version (onnxruntime.ai/docs/reference/compatibility.html)"
)
_TFLITE = "LiteRT (formerly TensorFlow Lite) on any platform, within its schema's versions"
_IR = "OpenVINO of this version or a newer one; the .xml and the .bin belong together"
_PTE = "ExecuTorch with the XNNPACK delegate built in, on any platform it supports"
_ONNX_CALL = "import onnxruntime; y = onnxruntime.InferenceSession({file}).run(None, {named})[0]"
_LITERT_CALL = (
    "from ai_edge_litert.interpreter import Interpreter; "
    "y = Interpreter({file}).get_signature_runner()(**{named})[{output}]"
)
# On processors with bfloat16 OpenVINO computes in it unless told otherwise, and is then less exact than stated.
_OPENVINO_CALL = (
    "import openvino; "
    'y = openvino.Core().compile_model({file}, "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})({listed})[0]'
)
_EXECUTORCH_CALL = (
    "import torch; from executorch.runtime import Runtime; "
    'y = Runtime.get().load_program({file}).load_method("forward").execute([{tensors}])[0].numpy()'
)

TARGETS: tuple[Target, ...] = (
    Target(
        name="onnx",
        backend="onnxruntime",
        artifact=".onnx",
        ending=".onnx",
        native="onnx",
        run=_ONNX_CALL,
        portable=_OPSET,
    ),
    Target(
        name="onnx-int8",
        backend="onnxruntime-int8",
        artifact=".onnx",
        ending="-int8.onnx",
        native="onnx",
        run=_ONNX_CALL,
        portable=_OPSET,
    ),
    Target(
        name="litert",
        backend="litert",
        artifact=".tflite",
        ending=".tflite",
        native="tflite",
        run=_LITERT_CALL,
        portable=_TFLITE,
    ),
    Target(
        name="litert-int8",
        backend="litert-int8",
        artifact=".tflite",
        ending="-int8.tflite",
        native="tflite",
        run=_LITERT_CALL,
        portable=_TFLITE,
    ),
    Target(
        name="openvino",
        backend="openvino",
        artifact=".xml",
        ending=".xml",
        native="openvino",
        run=_OPENVINO_CALL,
        portable=_IR,
    ),
    Target(
        name="openvino-int8",
        backend="openvino-int8",
        artifact=".xml",
        ending="-int8.xml",
        native="openvino",
        run=_OPENVINO_CALL,
        portable=_IR,
    ),
    Target(
        name="executorch",
        backend="executorch",
        artifact=".pte",
        ending=".pte",
        native="pte",
        named=False,
        run=_EXECUTORCH_CALL,
        portable=_PTE,
    ),
    Target(
        name="executorch-int8",
        backend="executorch-int8",
        artifact=".pte",
        ending="-int8.pte",
        native="pte",
        named=False,
        run=_EXECUTORCH_CALL,
        portable=_PTE,
    ),
    Target(
        name="torchscript",
        backend="torchscript",
        artifact="",
        ending=".ts.pt",
        run="import torch; y = torch.jit.load({file})({tensors}){first}.detach().numpy()",
        portable="PyTorch of this version or a newer one, from Python or C++; TorchScript is deprecated",
    ),
    Target(
        name="pt2",
        backend="eager",
        artifact="",
        ending=".pt2",
        run="import torch; y = torch.export.load({file}).module()({tensors}){first}.detach().numpy()",
        portable="PyTorch of this version or a newer one, and the compilers that take an ExportedProgram",
    ),
    Target(
        name="aot-inductor",
        backend="aot-inductor",
        artifact="",
        ending="-aot-inductor.pt2",
        run="import torch; y = torch._inductor.aoti_load_package({file})({tensors}){first}.detach().numpy()",
        portable="PyTorch of exactly this version, on this kind of processor, with one thread",
    ),
)


@dataclass(frozen=True)
class Lack:
    """Why a target cannot be had, and what to type to have it."""

    target: str
    reason: str
    install: str | None = None
    tail: str = ""
    """Last lines of what the process printed that failed."""


@dataclass(frozen=True)
class Selected:
    """What a list of targets comes to on this machine."""

    targets: tuple[Target, ...]
    """Those whose runtime is installed."""
    lacks: tuple[Lack, ...]
    by_name: bool
    """Whether each was asked for by its name, and not all that there are."""


def select(asked: str | None) -> Selected:
    """The targets of a list such as 'onnx,litert-int8' or 'all'.

    Raises:
        UsageError: the list is empty or names something that is no target.
    """
    names = [name.strip() for name in (asked or "").split(",") if name.strip()]
    known = {target.name: target for target in TARGETS}
    if not names:
        raise UsageError(
            f"--to names nothing; type for example --to onnx,litert-int8 (of {', '.join(known)})"
        )
    by_name = names != ["all"]
    found, lacks = [], []
    for name in dict.fromkeys(names if by_name else known):
        if name not in known:
            raise UsageError(f"--to: '{name}' is nothing to export to; {_hint(name, list(known))}")
        backend = get_backend(known[name].backend)
        lack = missing(backend.info)
        unable = backend.unavailable() if lack is None else None
        if lack is not None:
            lacks.append(Lack(name, *lack))
        elif unable is not None:
            lacks.append(Lack(name, unable))
        else:
            found.append(known[name])
    return Selected(tuple(found), tuple(lacks), by_name)


def _hint(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f"did you mean {' or '.join(near)}?" if near else f"expected {', '.join(known)}"
