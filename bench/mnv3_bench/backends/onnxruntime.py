"""ONNX Runtime, fp32."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnv3_bench.backends import _onnx
from mnv3_bench.backends._artifact import About
from mnv3_bench.backends.base import Backend, BackendInfo

if TYPE_CHECKING:
    from pathlib import Path

    from mnv3_bench.backends.base import Facts, Preparation


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
    )

    def prepare(self, preparation: Preparation) -> Facts:
        """Export to ONNX."""
        path = preparation.directory / _onnx.MODEL
        _onnx.export(preparation, path)
        facts = _onnx.graph_facts(path)
        About.of(preparation, facts).write(preparation.directory)
        return facts

    def load(self, directory: Path, threads: int, device: str) -> _onnx.OnnxSession:
        """Open an inference session."""
        return _onnx.open_session(directory, threads, device)
