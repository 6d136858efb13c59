"""ONNX Runtime, fp32."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnv3_bench.backends import _onnx, _onnx_file, _ort
from mnv3_bench.backends._artifact import About
from mnv3_bench.backends.base import Backend, BackendInfo

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mnv3_bench.backends.base import Arrays, Explanation, Facts, Preparation, Profile, Signature


class OnnxRuntime(Backend):
    """The network as exported; ONNX Runtime optimizes the graph when it loads it."""

    info = BackendInfo(
        name="onnxruntime",
        summary="ONNX Runtime, fp32",
        runtime_modules=_onnx.RUNTIME_MODULES,
        prepare_modules=_onnx.PREPARE_MODULES,
        distributions=_onnx.DISTRIBUTIONS,
        extra="onnxruntime",
        devices=("cpu", "cuda"),
        takes=_onnx.TAKES,
        native="onnx",
        switches=_ort.SWITCHES,
        sources=_ort.SOURCES,
    )

    def prepare(self, preparation: Preparation) -> Facts:
        """Export to ONNX, or fix the sizes of a file that is ONNX already."""
        path = preparation.directory / _onnx.MODEL
        _onnx.export(preparation, path)
        facts = _onnx.graph_facts(path)
        About.of(preparation, facts).write(preparation.directory)
        return facts

    def load(self, directory: Path, threads: int, device: str) -> _ort.OnnxSession:
        """Open an inference session."""
        return _ort.open_session(directory, threads, device, self.settings)

    def inspect(self, file: Path) -> Signature:
        """What an ONNX file takes and gives, and whether ONNX Runtime has what it needs."""
        return _onnx_file.signature(file)

    def reference(self, file: Path, calls: Sequence[Arrays]) -> list[Arrays]:
        """Its outputs with every graph optimization off, by one thread."""
        return _onnx_file.reference(file, calls)

    def explain(self, directory: Path, threads: int, calls: Sequence[Arrays]) -> Explanation:
        """ONNX Runtime's profiler, and the graph it optimized."""
        from mnv3_bench.backends import _ort_explain

        return _ort_explain.explain(directory, threads, self.settings, calls)

    def profile(self, directory: Path, threads: int, calls: Sequence[Arrays], folder: Path) -> Profile:  # noqa: ARG002
        """ONNX Runtime's profiler, node by node."""
        from mnv3_bench.backends import _ort_profile

        return _ort_profile.profile(directory, threads, self.settings, calls)
