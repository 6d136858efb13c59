"""What the ONNX Runtime backends share: export, the session, and what it says of itself.

The exporter is torch.export's (`dynamo=True`, PyTorch's default and the one that is maintained). Beside the older
TorchScript exporter it writes the same operators without Identity nodes, at the current opset, with HardSwish kept
whole; it takes 6 s instead of 2 s for V3-Small, once, in the preparing process.
"""

from __future__ import annotations

import collections
import contextlib
import io
import logging
import warnings
from typing import TYPE_CHECKING, Any

from mnv3_bench.backends._artifact import About
from mnv3_bench.backends.base import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mnv3_bench.backends.base import Arrays, Facts, Preparation

MODEL = "model.onnx"
RUNTIME_MODULES = ("numpy", "onnxruntime")
PREPARE_MODULES = ("torch", "onnx", "onnxscript")
DISTRIBUTIONS = ("torch", "onnx", "onnxscript", "onnxruntime")


def export(preparation: Preparation, path: Path) -> None:
    """Write the network as one ONNX file with a static input shape.

    A static batch lets the runtime plan memory and layout once; ONNX Runtime recommends fixed shapes where they are
    known (https://onnxruntime.ai/docs/performance/).

    Raises:
        BackendError: the network cannot be exported.
    """
    import onnx
    import torch

    with quiet():
        try:
            torch.onnx.export(
                preparation.model,
                tuple(torch.from_numpy(array) for array in preparation.example),
                str(path),
                dynamo=True,
                external_data=False,
                input_names=[spec.name for spec in preparation.inputs],
                output_names=["logits"] if preparation.format == "module" else None,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            reason = " ".join(str(error).split())[:300]
            raise BackendError(f"the network cannot be exported to ONNX: {reason}") from error
    model = onnx.load(str(path))
    # The exporter notes where in which source file each node came from: paths of the machine it ran on.
    del model.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    onnx.save(model, str(path))


def graph_facts(path: Path) -> Facts:
    """What is in an ONNX file: opset, nodes, and the operators that matter for speed."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    counts = collections.Counter(node.op_type for node in model.graph.node)
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None)
    convolutions = counts["Conv"] + counts["ConvInteger"]
    return {
        "opset": opset,
        "onnx nodes": sum(counts.values()),
        "convolutions": convolutions,
        "HardSwish kept whole": counts["HardSwish"],
        "quantize/dequantize nodes": counts["QuantizeLinear"] + counts["DequantizeLinear"],
        "dynamically quantized": counts["DynamicQuantizeLinear"],
    }


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


def open_session(directory: Path, threads: int, device: str) -> OnnxSession:
    """Load an artifact with ONNX Runtime's settings for latency.

    Sequential execution, one inter-op thread, `threads` intra-op threads, every graph optimization (the NCHWc layout
    that makes convolutions fast on the CPU is only in ORT_ENABLE_ALL), spinning as the default has it
    (https://onnxruntime.ai/docs/performance/tune-performance/threading.html and .../graph-optimizations.html).

    Raises:
        BackendError: the artifact cannot be loaded, or the device is not there.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    about = About.read(directory)
    chosen = providers(device)
    try:
        session = onnxruntime.InferenceSession(str(directory / MODEL), options, providers=chosen)
    except Exception as error:  # its exceptions share no other base class
        raise BackendError(
            f"ONNX Runtime cannot load the artifact: {' '.join(str(error).split())[:300]}"
        ) from error
    if device == "cpu":
        return OnnxSession(session, about, threads)
    return CudaOnnxSession(session, about, threads, device)


class OnnxSession:
    """A session on the CPU: arrays in, arrays out."""

    def __init__(self, session: Any, about: About, threads: int) -> None:
        self.session = session
        self.about = about
        self.threads = threads
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
            **self.about.facts,
        }

    def close(self) -> None:
        """Drop the session."""
        self.session = None


class CudaOnnxSession(OnnxSession):
    """A session on a CUDA device, its inputs and outputs bound there. Timed by the wall clock, synchronised."""

    clock = "wall-synchronised"

    def __init__(self, session: Any, about: About, threads: int, device: str) -> None:
        super().__init__(session, about, threads)
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


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's progress and the notices of what it does without (torchvision) out of the log."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
