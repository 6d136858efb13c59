"""ExecuTorch, fp32."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np

from mnv3_bench.backends import (
    _executorch,
    _executorch_explain,
    _executorch_file,
    _executorch_lower,
    _executorch_profile,
    _torch,
)
from mnv3_bench.backends._artifact import About
from mnv3_bench.backends.base import Backend, BackendError, BackendInfo

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import nn

    from mnv3_bench.backends.base import Arrays, Explanation, Facts, Preparation, Profile, Signature


class ExecuTorch(Backend):
    """The network delegated to XNNPACK, run by ExecuTorch's Python bindings.

    The bindings work on PyTorch's tensors, so the measured process imports torch: its memory and start-up are those of
    ExecuTorch in Python, and far above those of the C++ program that ExecuTorch is made for. Latencies are XNNPACK's.
    """

    info = BackendInfo(
        name="executorch",
        summary="ExecuTorch, fp32 (XNNPACK)",
        runtime_modules=_executorch.RUNTIME_MODULES,
        prepare_modules=_executorch.PREPARE_MODULES,
        distributions=_executorch.DISTRIBUTIONS,
        extra="executorch",
        forkable=True,
        takes=("module", "pt2", "pte"),
        native="pte",
        sources=_executorch.SOURCES,
    )

    def prepare(self, preparation: Preparation) -> Facts:
        """Export and lower; a program is taken as it is."""
        if preparation.format == "pte":
            facts = _take(preparation)
        else:
            network, folded_by = _folded(preparation)
            example = _torch.tensors(preparation.example)
            program = _executorch_lower.export(network, example)
            facts = {
                "BatchNorm folded by": folded_by,
                **_executorch_lower.write(program, preparation.directory),
            }
        About.of(preparation, facts).write(preparation.directory)
        return facts

    def load(self, directory: Path, threads: int, device: str) -> _executorch.Session:
        """Load the program."""
        return _executorch.open_session(directory, threads, device)

    def inspect(self, file: Path) -> Signature:
        """Inputs and outputs, numbered: a program names none. The program is loaded to see that it can be."""
        return _executorch_file.signature(file)

    def reference(self, file: Path, calls: Sequence[Arrays]) -> list[Arrays]:
        """Outputs on one thread.

        A program has no plainer form: what it delegates exists only in XNNPACK's own format.
        """
        program = _executorch.Program(file, 1)
        try:
            with _executorch.runtime_log() as log:
                return [
                    _executorch.arrays(program.method(_executorch.tensors(tuple(map(np.copy, inputs)))))
                    for inputs in calls
                ]
        except RuntimeError as error:
            raise BackendError(
                f"ExecuTorch cannot run {file.name}: {_executorch.reason(log.getvalue(), error)}"
            ) from error
        finally:
            program.close()

    def explain(self, directory: Path, threads: int, calls: Sequence[Arrays]) -> Explanation:
        """Time by operator, and what was not delegated."""
        return _executorch_explain.explain(directory, threads, calls)

    def profile(self, directory: Path, threads: int, calls: Sequence[Arrays], folder: Path) -> Profile:  # noqa: ARG002
        """The event tracer, operator by operator."""
        return _executorch_profile.profile(directory, threads, calls)


def _take(preparation: Preparation) -> Facts:
    if preparation.file is None:
        raise BackendError(f"{preparation.variant} is said to be a .pte file, and no file was given")
    _executorch.require_program(preparation.file)
    path = preparation.directory / _executorch.PROGRAM
    shutil.copyfile(preparation.file, path)
    return _executorch_file.contents(path)


def _folded(preparation: Preparation) -> tuple[nn.Module, str]:
    """The network with BatchNorm folded into its convolutions, where torch.fx can trace it.

    XNNPACK's passes fold it anyway, to the same operators; but until then each of them walks a third more nodes. Folded
    before the export, converting V3-Small takes 15 s of processor time instead of 21 s (a busy machine, taking turns).
    """
    if preparation.format == "module":
        try:
            folded = _torch.fold_batch_norm(preparation.model)
        except BackendError:  # torch.fx cannot trace it; the export has its own way of tracing
            return preparation.model, "XNNPACK's passes"
        return folded, "torch.fx, before export"
    return preparation.model, "XNNPACK's passes"
