"""ONNX Runtime's session: its settings for latency, what it says of itself, and its switches."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from mnv3_bench.backends._artifact import About
from mnv3_bench.backends._onnx import MODEL
from mnv3_bench.backends.base import BackendError, Switch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from mnv3_bench.backends.base import Arrays, Facts

SWITCHES = (
    Switch("graph", ("all", "extended"), "graph optimizations; only 'all' has the blocked NCHWc layout"),
    Switch("spinning", ("on", "off"), "whether idle threads of the pool wait by spinning"),
)
SOURCES = (
    "https://onnxruntime.ai/docs/performance/tune-performance/threading.html",
    "https://onnxruntime.ai/docs/performance/model-optimizations/graph-optimizations.html",
)


def providers(device: str) -> list[Any]:
    """Execution providers for a device.

    Raises:
        BackendError: the installed ONNX Runtime has none for it.
    """
    import onnxruntime

    if device == "cpu":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise BackendError(
            f"{device} was asked for, but this ONNX Runtime {onnxruntime.__version__} has no CUDA provider; "
            "use --device cpu, or install onnxruntime-gpu instead of onnxruntime",
            install="pip install onnxruntime-gpu",
        )
    return [("CUDAExecutionProvider", {"device_id": int(device.partition(":")[2] or 0)})]


def open_session(
    directory: Path,
    threads: int,
    device: str,
    settings: Mapping[str, str],
    read_back: Callable[[OnnxSession], Facts] | None = None,
) -> OnnxSession:
    """Load an artifact.

    Args:
        directory: the artifact.
        threads: of the intra-op pool.
        device: cpu, cuda or cuda:N.
        settings: of `SWITCHES`.
        read_back: further facts of the session.

    Raises:
        BackendError: the artifact cannot be loaded, or the device is not there.
    """
    about = About.read(directory)
    chosen = providers(device)
    session = open_model(directory / MODEL, options(threads, settings), chosen)
    if device == "cpu":
        return OnnxSession(session, about, read_back)
    return CudaOnnxSession(session, about, read_back, device)


def options(threads: int, settings: Mapping[str, str]) -> Any:
    """ONNX Runtime's settings for latency, which are its defaults: sequential, all optimizations, spinning."""
    import onnxruntime

    made = onnxruntime.SessionOptions()
    made.intra_op_num_threads = threads
    made.inter_op_num_threads = 1
    made.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    level = onnxruntime.GraphOptimizationLevel
    made.graph_optimization_level = {"all": level.ORT_ENABLE_ALL, "extended": level.ORT_ENABLE_EXTENDED}[
        settings["graph"]
    ]
    made.add_session_config_entry(
        "session.intra_op.allow_spinning", "1" if settings["spinning"] == "on" else "0"
    )
    made.log_severity_level = 3
    return made


def open_model(file: Path, session_options: Any, chosen: list[Any]) -> Any:
    """An inference session of a file.

    Raises:
        BackendError: ONNX Runtime cannot load it.
    """
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(str(file), session_options, providers=chosen)
    except Exception as error:  # its exceptions share no other base class
        raise BackendError(f"ONNX Runtime cannot load {file.name}: {_said(error, file)}") from error


def _said(error: Exception, file: Path) -> str:
    """What an exception of ONNX Runtime says, without its code, folders, and the place in its own source."""
    text = " ".join(str(error).split()).replace(str(file), file.name)
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : |/\S+\.(cc|h):\d+ .*\) (?=[A-Z])", "", text)[:300]


class OnnxSession:
    """A session on the CPU: arrays in, arrays out."""

    def __init__(
        self, session: Any, about: About, read_back: Callable[[OnnxSession], Facts] | None = None
    ) -> None:
        self.session = session
        self.about = about
        self.read_back = read_back
        self.names = [output.name for output in session.get_outputs()]
        # By position: an exporter may have renamed an input whose name ONNX does not take.
        self.inputs = [given.name for given in session.get_inputs()]

    def stage(self, inputs: Arrays) -> Any:
        """The session's feed."""
        return dict(zip(self.inputs, self.about.own(inputs), strict=True))

    def run(self, staged: Any) -> Any:
        """One inference."""
        return self.session.run(self.names, staged)

    def fetch(self, output: Any) -> Arrays:
        """The outputs."""
        return tuple(output)

    def facts(self) -> Facts:
        """What the session says of itself."""
        import onnxruntime

        options = self.session.get_session_options()
        return {
            "runtime": f"onnxruntime {onnxruntime.__version__}",
            "providers": ", ".join(self.session.get_providers()),
            "threads": options.intra_op_num_threads,
            "graph optimization": options.graph_optimization_level.name,
            "execution mode": options.execution_mode.name,
            "spinning": options.get_session_config_entry("session.intra_op.allow_spinning") == "1",
            **(self.read_back(self) if self.read_back is not None else {}),
            **self.about.facts,
        }

    def close(self) -> None:
        """Drop the session."""
        self.session = None


class CudaOnnxSession(OnnxSession):
    """A session on a CUDA device, its inputs and outputs bound there. Timed by the wall clock, synchronised."""

    clock = "wall-synchronised"

    def __init__(
        self, session: Any, about: About, read_back: Callable[[OnnxSession], Facts] | None, device: str
    ) -> None:
        super().__init__(session, about, read_back)
        self.index = int(device.partition(":")[2] or 0)

    def stage(self, inputs: Arrays) -> Any:
        """A binding whose inputs lie on the device."""
        import onnxruntime

        binding = self.session.io_binding()
        for name, array in zip(self.inputs, self.about.own(inputs), strict=True):
            value = onnxruntime.OrtValue.ortvalue_from_numpy(array, "cuda", self.index)
            binding.bind_ortvalue_input(name, value)
        for name in self.names:
            binding.bind_output(name, "cuda", self.index)
        return binding

    def run(self, staged: Any) -> Any:
        """One inference; ONNX Runtime waits for the device at its end."""
        self.session.run_with_iobinding(staged)
        return staged

    def synchronize(self) -> None:
        """Nothing is left to wait for: `run_with_iobinding` synchronises its outputs."""

    def fetch(self, output: Any) -> Arrays:
        """The outputs, copied to the host."""
        return tuple(output.copy_outputs_to_cpu())
