"""OpenVINO, fp32."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from mnv3_bench.backends import _openvino, _openvino_convert, _openvino_explain, _openvino_profile
from mnv3_bench.backends._artifact import About
from mnv3_bench.backends.base import Backend, BackendInfo

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mnv3_bench.backends.base import Arrays, Explanation, Facts, Preparation, Profile, Signature


class OpenVino(Backend):
    """The network as OpenVINO's IR, or a given IR as it is, computed in f32 by the CPU plugin.

    Telemetry of OpenVINO is kept from starting (`mnv3_bench.no_telemetry`).
    """

    info = BackendInfo(
        name="openvino",
        summary="OpenVINO on the CPU, fp32 (without saying so it would be bf16 where the processor has it)",
        runtime_modules=_openvino.RUNTIME_MODULES,
        prepare_modules=("torch",),
        distributions=_openvino_convert.DISTRIBUTIONS,
        extra="openvino",
        forkable=True,
        takes=_openvino_convert.TAKES,
        native="openvino",
        switches=(_openvino.PINNING,),
        sources=_openvino.SOURCES,
    )
    arithmetic: ClassVar[_openvino.Precision] = "f32"
    """Of what is not quantized."""

    def prepare(self, preparation: Preparation) -> Facts:
        """Convert to IR."""
        model = _openvino_convert.convert(preparation)
        _openvino_convert.save(model, preparation.directory)
        facts = _openvino_convert.ir_facts(model, preparation)
        About.of(preparation, facts).write(preparation.directory)
        return facts

    def load(self, directory: Path, threads: int, device: str) -> _openvino.OpenVinoSession:
        """Compile for this processor."""
        return _openvino.open_session(directory, threads, device, self.arithmetic, pinning=self._pinning)

    def inspect(self, file: Path) -> Signature:
        """What an IR says of itself."""
        return _openvino_convert.inspect(file)

    def reference(self, file: Path, calls: Sequence[Arrays]) -> list[Arrays]:
        """Outputs of an IR in fp32 on one thread: the same plugin, which has no plainer form."""
        return _openvino_convert.reference(file, calls)

    def explain(self, directory: Path, threads: int, calls: Sequence[Arrays]) -> Explanation:
        """The plugin's counters: reference kernels, conversions, and what a reduced form left in fp32."""
        return _openvino_explain.explain(
            directory,
            threads,
            calls,
            self.arithmetic,
            pinning=self._pinning,
            reduced=self.info.precision != "fp32",
        )

    def profile(self, directory: Path, threads: int, calls: Sequence[Arrays], folder: Path) -> Profile:  # noqa: ARG002
        """The plugin's counters, operator by operator."""
        return _openvino_profile.profile(directory, threads, calls, self.arithmetic, pinning=self._pinning)

    @property
    def _pinning(self) -> bool:
        return self.settings[_openvino.PINNING.name] == "yes"
