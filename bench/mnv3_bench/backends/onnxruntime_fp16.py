"""ONNX Runtime, fp16."""

from __future__ import annotations

import platform
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from mnv3_bench.backends import _cpu, _onnx, _onnx_file, _ort
from mnv3_bench.backends._artifact import About
from mnv3_bench.backends.base import Backend, BackendInfo

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mnv3_bench.backends.base import Arrays, Explanation, Facts, Preparation, Profile


class OnnxRuntimeFp16(Backend):
    """Weights and arithmetic in fp16, inputs and outputs in fp32, converted by the tool that ONNX Runtime ships.

    Its CPU provider has fp16 kernels for convolutions and matrix products on 64-bit ARM only. On x86-64 it casts
    weights back to fp32 when it loads them, or at each call, and computes in fp32: a smaller file and nothing else. So
    the backend is not offered there, unless ONNX Runtime has a CUDA provider; asked for by name it runs, and its fact
    'computes in' says what it does.
    """

    info = BackendInfo(
        name="onnxruntime-fp16",
        summary="ONNX Runtime, fp16",
        runtime_modules=_onnx.RUNTIME_MODULES,
        prepare_modules=_onnx.PREPARE_MODULES,
        distributions=_onnx.DISTRIBUTIONS,
        extra="onnxruntime",
        devices=("cpu", "cuda"),
        precision="fp16",
        floor_snr_db=30.0,
        takes=_onnx.TAKES,
        switches=_ort.SWITCHES,
        refuses=("int8", "fp16"),
        exact="onnxruntime",
        sources=(
            *_ort.SOURCES,
            "https://onnxruntime.ai/docs/performance/model-optimizations/float16.html",
        ),
    )

    def unavailable(self) -> str | None:
        """Whether no device here computes in fp16."""
        if _cpu.has_arm_fp16() or _has_cuda_build():
            return None
        return (
            f"ONNX Runtime's CPU provider has no fp16 arithmetic on this {platform.machine()} processor: it would "
            "compute in fp32 between casts"
        )

    def prepare(self, preparation: Preparation) -> Facts:
        """Export, then convert weights and operators."""
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16

        path = preparation.directory / _onnx.MODEL
        _onnx.export(preparation, path)
        model = onnx.load(str(path))
        _onnx_file.require_float32(model, preparation.variant, "fp16")
        with _onnx.quiet():
            onnx.save(convert_float_to_float16(model, keep_io_types=True), str(path))
        facts: Facts = {**_onnx.graph_facts(path), "stored in": "fp16"}
        About.of(preparation, facts).write(preparation.directory)
        return facts

    def load(self, directory: Path, threads: int, device: str) -> _ort.OnnxSession:
        """Open an inference session."""
        return _ort.open_session(directory, threads, device, self.settings, _computes_in)

    def explain(self, directory: Path, threads: int, calls: Sequence[Arrays]) -> Explanation:
        """ONNX Runtime's profiler, and the graph it optimized."""
        from mnv3_bench.backends import _ort_explain

        found = _ort_explain.explain(directory, threads, self.settings, calls)
        half = sum(operator.count for operator in found.operators if operator.precision == "fp16")
        every = sum(operator.count for operator in found.operators)
        reason = f"{every - half} of {every} operators do not compute in fp16: ONNX Runtime has no such kernel here"
        return replace(found, reasons=(*found.reasons, reason)) if half < every else found

    def profile(self, directory: Path, threads: int, calls: Sequence[Arrays], folder: Path) -> Profile:  # noqa: ARG002
        """ONNX Runtime's profiler, node by node."""
        from mnv3_bench.backends import _ort_profile

        return _ort_profile.profile(directory, threads, self.settings, calls)


def _has_cuda_build() -> bool:
    try:
        return bool(version("onnxruntime-gpu"))
    except PackageNotFoundError:
        return False


def _computes_in(session: _ort.OnnxSession) -> Facts:
    """Whether the session's provider has a convolution in fp16, by ONNX Runtime's own registry of kernels."""
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_opkernel_def

    provider = session.session.get_providers()[0]
    half = any(
        kernel.op_name == "Conv"
        and kernel.provider == provider
        and any("tensor(float16)" in types for types in kernel.type_constraints.values())
        for kernel in get_all_opkernel_def()
    )
    return {"computes in": "fp16" if half else "fp32, between casts"}
