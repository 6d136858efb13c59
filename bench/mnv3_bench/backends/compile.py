"""torch.compile with inductor, compiled ahead of time and loaded without a compiler."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mnv3_bench.backends import _inductor, _torch
from mnv3_bench.backends._artifact import About
from mnv3_bench.backends.base import Backend, BackendError, BackendInfo

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mnv3_bench.backends.base import Arrays, Explanation, Facts, Preparation, Profile

FUNCTION = "compiled.bin"
KERNELS = "kernels"


class Compile(Backend):
    """`torch.compile(model, fullgraph=True)` on a network whose BatchNorms are folded.

    The folding stands in for inductor's freezing, which its CPU documentation recommends and whose results it
    refuses to cache ('Cannot cache a graph with freezing enabled', torch 2.13), so that every process would compile
    again. Nothing is lost: V3-Small took 5.5 ms plain, 5.5 ms frozen and 4.8 ms folded, V3-Large at best 11.6, 12.1
    and 10.5 ms (one thread, taking turns), and folding halves the compile time.

    What is measured is torch.compile's own form, generated Python that calls generated C++ and oneDNN. It is loaded
    through `torch.compiler.load_compiled_function`; guards are left out (3 microseconds a call) since the session
    checks the shape when a batch is staged.

    An exported program (.pt2) is compiled as it is: inductor takes its BatchNorms apart into arithmetic that it fuses.
    There are no switches: mode='max-autotune' tries generated matrix products only on frozen weights, and 'layout' does
    nothing, since inductor chooses layouts itself.
    """

    info = BackendInfo(
        name="compile",
        summary="torch.compile (inductor), BatchNorm folded, fp32",
        runtime_modules=("torch", "torch._inductor.compile_fx", "torch._dynamo.aot_compile"),
        distributions=("torch", "safetensors"),
        devices=("cpu", "cuda"),
        needs_compiler=True,
        threads_shape_artifact=True,
        forkable=True,
        takes=("module", "pt2"),
        sources=(
            "https://docs.pytorch.org/docs/stable/generated/torch.compile.html",
            "https://docs.pytorch.org/tutorials/intermediate/fx_conv_bn_fuser.html",
        ),
    )

    def prepare(self, preparation: Preparation) -> Facts:
        """Store folded weights, the compiled function, and its kernels."""
        import torch
        from torch._dynamo.utils import counters

        place = _torch.torch_device(preparation.device)
        compiler = _inductor.require_compiler()
        torch.set_num_threads(preparation.threads)
        directory = preparation.directory
        if preparation.format == "module":
            _torch.save_weights(_torch.fold_batch_norm(preparation.model), directory)
        else:
            _torch.save_network(preparation)
        model = _torch.load_network(About.of(preparation, {}), directory, place)
        example = _torch.tensors(preparation.example, place)
        torch.compiler.reset()
        counters.clear()
        compiled = torch.compile(
            model.forward,
            fullgraph=True,
            dynamic=False,
            options={"guard_filter_fn": torch.compiler.skip_all_guards_unsafe},
        )
        with torch.inference_mode(), _inductor.building(), _inductor.recording_kernels(directory / KERNELS):
            try:
                function = compiled.aot_compile((example, {}))  # type: ignore[attr-defined]
            except torch._dynamo.exc.Unsupported as error:
                raise BackendError(
                    f"torch.compile cannot take the network as one graph: {_line(error)}"
                ) from error
            function.save_compiled_function(str(directory / FUNCTION))
        facts: Facts = {
            "compiler": compiler,
            "graph breaks": sum(counters["graph_break"].values()),
            "generated kernels": sum(1 for _ in (directory / KERNELS).iterdir()),
            "library calls": counters["inductor"]["extern_calls"],
        }
        About.of(preparation, facts).write(directory)
        return facts

    def load(self, directory: Path, threads: int, device: str) -> _torch.TorchSession:
        """Build the network around the folded weights and load the function compiled for it."""
        import torch

        place = _torch.torch_device(device)
        about = About.read(directory)
        if place.type == "cpu":
            _inductor.require_threads(about.threads, threads)
        torch.set_num_threads(threads)
        model = _torch.load_network(about, directory, place)
        with (
            _inductor.stored_kernels(directory / KERNELS) as loaded,
            (directory / FUNCTION).open("rb") as file,
        ):
            function = torch.compiler.load_compiled_function(file)

        def read_back() -> Facts:
            return {
                **_torch.module_facts(model),
                "kernels loaded": len(loaded),
                "compiled while loading": False,
            }

        return _torch.TorchSession(partial(function, model), about, place, read_back)

    def explain(self, directory: Path, threads: int, calls: Sequence[Arrays]) -> Explanation:
        """PyTorch's profiler, which sees what generated code calls, and oneDNN's own log."""
        from mnv3_bench.backends import _torch_explain

        return _torch_explain.operators(self.load(directory, threads, "cpu"), calls, generates=True)

    def profile(self, directory: Path, threads: int, calls: Sequence[Arrays], folder: Path) -> Profile:
        """PyTorch's profiler, shown the generated kernels by their names."""
        from mnv3_bench.backends import _torch_profile

        session = self.load(directory, threads, "cpu")
        with _torch_profile.kernels_named(_inductor.generated()):
            return _torch_profile.operators(session, calls, folder)


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
