"""LiteRT (TensorFlow Lite), fp32."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnv3_bench.backends import _litert, _litert_explain, _litert_profile
from mnv3_bench.backends.base import Backend, BackendInfo

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mnv3_bench.backends.base import Arrays, Explanation, Facts, Preparation, Profile, Signature


class LiteRt(Backend):
    """The network converted by litert-torch and run by LiteRT's interpreter with XNNPACK; a .tflite file as it is."""

    info = BackendInfo(
        name="litert",
        summary="LiteRT (TensorFlow Lite) with XNNPACK, fp32",
        runtime_modules=_litert.RUNTIME_MODULES,
        prepare_modules=_litert.PREPARE_MODULES,
        distributions=_litert.DISTRIBUTIONS,
        extra="litert",
        takes=("module", "pt2", "tflite"),
        native="tflite",
        switches=(_litert.LAYOUT,),
        sources=_litert.SOURCES,
    )

    def prepare(self, preparation: Preparation) -> Facts:
        """Convert, or copy the file."""
        facts = _litert.write_model(
            preparation, preparation.directory / _litert.MODEL, self.settings[_litert.LAYOUT.name]
        )
        return _litert.finish(preparation, facts)

    def load(self, directory: Path, threads: int, device: str) -> _litert.LiteRtSession:
        """Open an interpreter."""
        return _litert.open_session(directory, threads, device)

    def inspect(self, file: Path) -> Signature:
        """What a .tflite file says of itself."""
        return _litert.inspect(file)

    def reference(self, file: Path, calls: Sequence[Arrays]) -> list[Arrays]:
        """Outputs of LiteRT's reference kernels on one thread."""
        return _litert.reference(file, calls)

    def explain(self, directory: Path, threads: int, calls: Sequence[Arrays]) -> Explanation:
        """LiteRT's profiler, and which operators XNNPACK did not take."""
        return _litert_explain.explain(directory, threads, calls)

    def profile(self, directory: Path, threads: int, calls: Sequence[Arrays], folder: Path) -> Profile:  # noqa: ARG002
        """LiteRT's profiler, kernel by kernel."""
        return _litert_profile.profile(directory, threads, calls)
