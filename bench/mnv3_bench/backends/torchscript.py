"""TorchScript: traced, then frozen (BatchNorm folded, attributes inlined)."""

from __future__ import annotations

import warnings
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mnv3_bench.backends import _torch
from mnv3_bench.backends._artifact import About
from mnv3_bench.backends.base import Backend, BackendError, BackendInfo, OpenSpec, Signature, Switch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mnv3_bench.backends.base import Arrays, Explanation, Facts, Preparation, Profile

SCRIPT = "model.ts"
_FROM_SCALAR_TYPE = {
    "Float": "float32",
    "Double": "float64",
    "Half": "float16",
    "Long": "int64",
    "Int": "int32",
}
_GROUPS_ARGUMENT = {"aten::conv2d": 6, "aten::_convolution": 8, "aten::convolution": 8}


class TorchScript(Backend):
    """`torch.jit.freeze(torch.jit.trace(model, x))`, saved and loaded as deployed programs do.

    TorchScript is deprecated since PyTorch 2.10 and still in wide use. `torch.jit.optimize_for_inference`, which its
    documentation calls a prototype that may slow a network down, is a switch: it made both V3 networks slower on the
    processors tried. What it makes cannot be saved, so it runs when the program is loaded.

    A TorchScript file of the user's own is put into eval mode and frozen as it is, with no tracing. It may be a script
    with control flow.
    """

    info = BackendInfo(
        name="torchscript",
        summary="TorchScript, traced and frozen, fp32",
        runtime_modules=("torch",),
        distributions=("torch",),
        devices=("cpu", "cuda"),
        forkable=True,
        takes=("module", "pt2", "torchscript"),
        native="torchscript",
        switches=(
            Switch(
                "optimize",
                ("freeze", "optimize-for-inference"),
                "what is done to the program beside tracing: only freezing, or also torch.jit.optimize_for_inference",
            ),
            Switch(
                "layout",
                ("contiguous", "channels-last"),
                "memory format of images and weights",
                shapes_artifact=True,
            ),
        ),
        sources=(
            "https://docs.pytorch.org/docs/stable/generated/torch.jit.freeze.html",
            "https://docs.pytorch.org/docs/stable/generated/torch.jit.optimize_for_inference.html",
        ),
    )

    def prepare(self, preparation: Preparation) -> Facts:
        """Trace, freeze and save on the device the artifact is for."""
        import torch

        place = _torch.torch_device(preparation.device)
        channels_last = self.settings["layout"] == "channels-last"
        network = preparation.model.to(place)
        _torch.lay_out(network, channels_last=channels_last)
        example = tuple(
            _torch.laid_out(tensor, channels_last=channels_last)
            for tensor in _torch.tensors(preparation.example, place)
        )
        with torch.inference_mode(), _deprecated():
            if preparation.format == "torchscript":
                script: Any = network.eval() if hasattr(network, "training") else network
            else:
                script = torch.jit.trace(network, example, check_trace=False)  # type: ignore[no-untyped-call]
                script.eval()
            if hasattr(script, "training"):  # a frozen program has no such flag, and cannot be frozen again
                script = torch.jit.freeze(script)
            torch.jit.save(script, preparation.directory / SCRIPT)
        About.of(preparation, {}).write(preparation.directory)
        return {}

    def load(self, directory: Path, threads: int, device: str) -> _torch.TorchSession:
        """Load the saved program."""
        import torch

        place = _torch.torch_device(device)
        torch.set_num_threads(threads)
        about = About.read(directory)
        try:
            script = _read(directory / SCRIPT, place)
        except (RuntimeError, ValueError) as error:
            raise BackendError(
                f"the artifact's {SCRIPT} cannot be read; prepare it again with --cold"
            ) from error
        if self.settings["optimize"] == "optimize-for-inference":
            with _deprecated():
                script = torch.jit.optimize_for_inference(script)

        def read_back() -> Facts:
            kinds = Counter(node.kind() for node in script.inlined_graph.nodes())
            return {
                # Freezing inlines the flag and drops it; only a network in eval mode can be frozen.
                "mode": "train" if getattr(script, "training", False) else "eval, frozen",
                "graph nodes": sum(count for kind, count in kinds.items() if kind != "prim::Constant"),
                "batch norms left": kinds["aten::batch_norm"],
            }

        return _torch.TorchSession(
            script, about, place, read_back, channels_last=self.settings["layout"] == "channels-last"
        )

    def inspect(self, file: Path) -> Signature:
        """Names of its inputs; a file that was saved holds no shapes.

        Where an input is first used by a convolution, it is four sizes of floats, whose second is the convolution's;
        elsewhere neither shape nor type is known.
        """
        script = _open(file)
        graph = script.inlined_graph  # its values die with it
        _, *inputs = graph.inputs()
        others = [given.debugName() for given in inputs if given.type().kind() != "TensorType"]
        if others:
            raise BackendError(
                f"{file.name} takes something else than tensors ({', '.join(others)}); save a network whose forward "
                "takes tensors only"
            )
        return Signature(
            inputs=tuple(_input_spec(script, given) for given in inputs),
            outputs=tuple(OpenSpec(given.debugName(), (), "") for given in graph.outputs()),
            parameters=_parameters(script),
        )

    def reference(self, file: Path, calls: Sequence[Arrays]) -> list[Arrays]:
        """The script as it was saved, neither frozen nor optimized, run operator by operator by one thread."""
        import torch
        from torch.jit._fuser import optimized_execution

        script = _open(file)
        torch.set_num_threads(1)
        with torch.inference_mode(), optimized_execution(False):
            return [_torch.as_arrays(script(*_torch.tensors(inputs))) for inputs in calls]

    def explain(self, directory: Path, threads: int, calls: Sequence[Arrays]) -> Explanation:
        """PyTorch's profiler and oneDNN's own log."""
        from mnv3_bench.backends import _torch_explain

        return _torch_explain.operators(self.load(directory, threads, "cpu"), calls)

    def profile(self, directory: Path, threads: int, calls: Sequence[Arrays], folder: Path) -> Profile:
        """PyTorch's profiler, operator by operator."""
        from mnv3_bench.backends import _torch_profile

        return _torch_profile.operators(self.load(directory, threads, "cpu"), calls, folder)


def _read(file: Path, device: Any) -> Any:
    import torch

    with _deprecated():
        return torch.jit.load(file, map_location=device)  # type: ignore[no-untyped-call]


def _open(file: Path) -> Any:
    """A user's file, in eval mode. This executes code that is in it.

    Raises:
        BackendError: it is no TorchScript file, or is cut short.
    """
    import torch

    try:
        script = _read(file, "cpu")
    except Exception as error:  # RuntimeError, ValueError, and whatever its code raises
        raise BackendError(
            f"{file.name} holds no program that torch {torch.__version__} can read: it is cut short, or another "
            "PyTorch's; write it again with torch.jit.save"
        ) from error
    return script.eval() if hasattr(script, "training") else script


def _parameters(script: Any) -> int:
    """Numbers in its weights: parameters, or the constants that freezing makes of them."""
    import torch

    graph = script.inlined_graph  # its nodes die with it
    constants = [node.output().toIValue() for node in graph.findAllNodes("prim::Constant")]
    frozen = [each for each in constants if isinstance(each, torch.Tensor) and each.is_floating_point()]
    return sum(int(each.numel()) for each in (*frozen, *script.parameters()))


def _input_spec(script: Any, given: Any) -> OpenSpec:
    import torch

    name = given.debugName().removesuffix(".1")
    sizes, scalar = given.type().sizes(), given.type().scalarType()
    if sizes is not None:
        return OpenSpec(name, tuple(sizes), _FROM_SCALAR_TYPE.get(scalar, ""))
    for use in given.uses():
        if use.user.kind() in _GROUPS_ARGUMENT:
            arguments = list(use.user.inputs())
            weight = _constant(script, arguments[1])
            groups = _constant(script, arguments[_GROUPS_ARGUMENT[use.user.kind()]])
            if isinstance(weight, torch.Tensor) and isinstance(groups, int):
                return OpenSpec(name, (None, weight.shape[1] * groups, None, None), "float32")
    return OpenSpec(name, (), _FROM_SCALAR_TYPE.get(scalar, ""))


def _constant(script: Any, value: Any) -> Any:
    """What a value of a graph is, where it depends on the program alone: a constant, or an attribute of a module."""
    node = value.node()
    if node.kind() == "prim::GetAttr":
        (owner,) = node.inputs()
        return getattr(_constant(script, owner), node.s("name"))
    if node.kind() == "prim::Constant":
        return value.toIValue()
    return script if node.kind() == "prim::Param" else None


@contextmanager
def _deprecated() -> Iterator[None]:
    """Known and stated in the summary: TorchScript is deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*torch.jit.*deprecated.*")
        yield
