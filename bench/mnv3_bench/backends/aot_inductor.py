"""AOTInductor: compiled ahead of time into a library that neither traces nor compiles when it is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnv3_bench.backends import _aoti, _inductor, _torch
from mnv3_bench.backends._artifact import About
from mnv3_bench.backends.base import Backend, BackendError, BackendInfo, Switch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mnv3_bench.backends.base import Arrays, Explanation, Facts, Preparation, Profile, Signature


class AotInductor(Backend):
    """`torch.export`, `aoti_compile_and_package` with freezing; run by AOTInductor's own container (see `_aoti`).

    Freezing folds BatchNorm, lays weights out for oneDNN and is what its documentation recommends on the CPU. Unlike
    `torch.compile`'s, what it makes here is kept. Without it BatchNorm is folded by torch.fx before the export.
    `max-autotune` also generates matrix products in C++ and keeps what was faster while compiling, them or oneDNN's;
    convolutions are oneDNN's either way. V3-Small, 1 thread, taking turns, AMD EPYC with AVX-512 VNNI: 3.5 ms; 0.96 of
    that without freezing (1.04 if BatchNorm is not folded either), 0.92 with max-autotune, 0.80 with both, 0.99 with
    channels-last inputs, which is why there is no such switch.

    Threads: the library uses PyTorch's own OpenMP runtime (the fact 'OpenMP runtimes' is 1), whose threads wait by
    spinning for some milliseconds. Where as many threads as CPUs are asked for and another program runs, a spinning
    thread keeps the CPU that the one it waits for needs: medians of 12-22 ms instead of 2.9 for V3-Small with 2 threads
    on 2 CPUs, and single calls of 600 ms. That is so for every PyTorch backend, and shorter waiting is no cure
    (OMP_WAIT_POLICY=passive: 8 ms whether busy or not). Leave a CPU free.

    A .pt2 file that is a package which AOTInductor compiled is run as it is, with whatever number of threads it was
    compiled for.
    """

    info = BackendInfo(
        name="aot-inductor",
        summary="AOTInductor: torch.export compiled ahead of time, fp32",
        runtime_modules=("torch",),
        distributions=("torch",),
        needs_compiler=True,
        threads_shape_artifact=True,
        forkable=True,
        takes=("module", "pt2", "aoti"),
        native="aoti",
        switches=(
            Switch(
                "freezing",
                ("on", "off"),
                "weights as constants, laid out while compiling",
                shapes_artifact=True,
            ),
            Switch(
                "autotune",
                ("off", "max-autotune"),
                "while compiling, time generated matrix products beside oneDNN's and take the faster",
                shapes_artifact=True,
            ),
        ),
        sources=(
            "https://docs.pytorch.org/docs/stable/torch.compiler_aot_inductor.html",
            "https://github.com/pytorch/pytorch/pull/128010",  # its documentation's advice to freeze on the CPU
            "https://pytorch.org/tutorials/prototype/max_autotune_on_CPU_tutorial.html",
        ),
    )

    def prepare(self, preparation: Preparation) -> Facts:
        """Export and compile, or unpack what was compiled already."""
        library = preparation.directory / _aoti.LIBRARY
        if preparation.format == "aoti" and preparation.file is not None:
            _aoti.keep_library(preparation.file, library)
            _aoti.try_out(library, preparation.example)
            facts: Facts = {"compiled": "by the user"}
        else:
            facts = self._compile(preparation, library)
        About.of(preparation, facts).write(preparation.directory)
        return facts

    def _compile(self, preparation: Preparation, library: Path) -> Facts:
        import torch
        import torch._inductor
        from torch._dynamo.utils import counters

        compiler = _inductor.require_compiler()
        torch.set_num_threads(preparation.threads)
        freezing = self.settings["freezing"] == "on"
        model = preparation.model
        if not freezing and preparation.format == "module":
            model = _torch.fold_batch_norm(model)
        package = library.with_suffix(".pt2")
        counters.clear()
        with torch.no_grad(), _inductor.building():
            try:
                program = torch.export.export(model, _torch.tensors(preparation.example))
            except Exception as error:  # its exceptions share no other base class
                reason = str(error).strip().partition("\n")[0][:300]
                raise BackendError(f"torch.export cannot take the network as one graph: {reason}") from error
            torch._inductor.aoti_compile_and_package(
                program,
                package_path=str(package),
                inductor_configs={
                    "freezing": freezing,
                    "max_autotune": self.settings["autotune"] == "max-autotune",
                },
            )
        _aoti.keep_library(package, library)
        package.unlink()
        return {"compiler": compiler, "library calls": counters["inductor"]["extern_calls"]}

    def load(self, directory: Path, threads: int, device: str) -> _torch.TorchSession:
        """Open the library."""
        return _aoti.session(directory, threads, device)

    def inspect(self, file: Path) -> Signature:
        """What a compiled package says of itself."""
        return _aoti.signature(file)

    def reference(self, file: Path, calls: Sequence[Arrays]) -> list[Arrays]:
        """Outputs of a compiled package; it holds no plainer form of itself."""
        return _aoti.reference(file, calls)

    def explain(self, directory: Path, threads: int, calls: Sequence[Arrays]) -> Explanation:
        """oneDNN's own log."""
        from mnv3_bench.backends import _torch_explain

        return _torch_explain.compiled(self.load(directory, threads, "cpu"), calls)

    def profile(self, directory: Path, threads: int, calls: Sequence[Arrays], folder: Path) -> Profile:
        """oneDNN's own log."""
        from mnv3_bench.backends import _torch_profile

        return _torch_profile.logged(self.load(directory, threads, "cpu"), calls, folder)
