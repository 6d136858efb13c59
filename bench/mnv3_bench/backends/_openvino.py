"""What the OpenVINO backends share when they run: compiling, the session, and what both say of themselves.

Everything is set that would otherwise depend on the machine. The precision above all: on processors with bfloat16 the
CPU plugin computes an fp32 network in bf16 unless it is told not to
(https://docs.openvino.ai/2025/openvino-workflow/running-inference/inference-devices-and-modes/cpu-device.html).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mnv3_bench.backends._artifact import About
from mnv3_bench.backends.base import BackendError, Switch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mnv3_bench.backends.base import Arrays, Facts

    Precision = Literal["f32", "bf16"]

MODEL = "model.xml"
RUNTIME_MODULES = ("numpy", "mnv3_bench.no_telemetry", "openvino")
SOURCES = (
    "https://docs.openvino.ai/2025/openvino-workflow/running-inference/inference-devices-and-modes/cpu-device.html",
    "https://docs.openvino.ai/2025/openvino-workflow/running-inference/inference-devices-and-modes/cpu-device/performance-hint-and-thread-scheduling.html",
)
PINNING = Switch(
    "pinning",
    ("no", "yes"),
    "bind OpenVINO's threads, the calling one included, to the first CPUs of the process",
)
"""OpenVINO's own default on Linux is yes; its documentation advises against it where several programs share the
machine, which is what cells that take turns do. A pinned call cannot leave a CPU that something else keeps busy.
V3-Small and V3-Large took, pinned, 1.01 and 0.98 times as long with one thread, 1.05 and 1.00 with two; on a machine
busy with other work 1.00, 0.99, 1.07 and 1.34 times."""

PRECISIONS = {"i8": "int8", "f32": "fp32", "f16": "fp16", "unknown": None}
"""How kernels' names end, and what that is called here."""


def package() -> Any:
    """OpenVINO, without its telemetry."""
    from mnv3_bench import no_telemetry  # noqa: F401  # importing it is what it is for

    import openvino  # isort: skip

    return openvino


def version() -> str:
    """OpenVINO's, without its build."""
    return str(package().__version__).partition("-")[0]


def compile_artifact(
    directory: Path, threads: int, precision: Precision, *, pinning: bool, profile: bool = False
) -> Any:
    """Compile an artifact's network for the CPU, for latency: one stream, and exactly `threads` threads in it.

    Hyper-threading stays off as the latency hint has it, so that no core computes two shares of one layer, unless
    there are fewer cores than threads asked for.

    Raises:
        BackendError: it cannot be read, this processor lacks the precision, or OpenVINO would use fewer threads.
    """
    core = package().Core()
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": pinning,
        "PERF_COUNT": profile,
    }
    try:
        model = core.read_model(directory / MODEL)
        compiled = core.compile_model(model, "CPU", settings)
        if compiled.get_property("INFERENCE_NUM_THREADS") != threads:
            compiled = core.compile_model(model, "CPU", {**settings, "ENABLE_HYPER_THREADING": True})
    except Exception as error:  # OpenVINO raises RuntimeError and its own kinds, which share no other base
        raise BackendError(
            f"OpenVINO cannot load the artifact ({reason(error)}); prepare it again, for example with --cold"
        ) from error
    used = compiled.get_property("INFERENCE_NUM_THREADS")
    if used != threads:
        raise BackendError(
            f"OpenVINO would use {used} of {threads} threads: this process may run on fewer CPUs; "
            f"type --threads {used}"
        )
    return compiled


def open_session(
    directory: Path, threads: int, device: str, precision: Precision, *, pinning: bool
) -> OpenVinoSession:
    """Load an artifact in the measured process.

    Raises:
        BackendError: the device or the artifact cannot be used.
    """
    about = About.read(directory)
    if device != "cpu":
        raise BackendError(
            f"{device} was asked for; OpenVINO is measured on the CPU alone, type --device cpu"
        )
    return OpenVinoSession(compile_artifact(directory, threads, precision, pinning=pinning), about)


class OpenVinoSession:
    """One request that is used again and again, as OpenVINO recommends.

    Timed is what a program does with an image that lies in its memory: giving the request that memory as its input,
    without a copy, and inferring. The output stays in the request's own memory. Beside the latency that
    `benchmark_app` prints, which the request itself measures and which leaves both out, this is 5 to 8 microseconds
    more (https://docs.openvino.ai/2025/get-started/learn-openvino/openvino-samples/benchmark-tool.html).
    """

    def __init__(self, compiled: Any, about: About) -> None:
        self.compiled = compiled
        self.request = compiled.create_infer_request()
        self.about = about

    def stage(self, inputs: Arrays) -> Any:
        """Tensors on copies of the inputs. They do not own that memory, so its arrays stay beside them."""
        tensor = package().Tensor
        return [
            (position, tensor(array, shared_memory=True), array)
            for position, array in enumerate(self.about.own(inputs))
        ]

    def run(self, staged: Any) -> Any:
        """One inference."""
        request = self.request
        for position, tensor, _ in staged:
            request.set_input_tensor(position, tensor)
        return request.infer(share_outputs=True)

    def fetch(self, output: Any) -> Arrays:
        """Copies of the outputs, whose memory the next inference writes to."""
        return tuple(np.array(array) for array in output.to_tuple())

    def facts(self) -> Facts:
        """What the compiled network says of itself."""
        compiled = self.compiled
        return {
            "runtime": f"openvino {version()}",
            "threads": compiled.get_property("INFERENCE_NUM_THREADS"),
            "streams": compiled.get_property("NUM_STREAMS"),
            "threads pinned": compiled.get_property("ENABLE_CPU_PINNING"),
            "two threads a core": compiled.get_property("ENABLE_HYPER_THREADING"),
            "inference precision": compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name(),
            "execution mode": compiled.get_property("EXECUTION_MODE_HINT").name,
            **graph_facts(compiled),
            **self.about.facts,
        }

    def close(self) -> None:
        """Drop the request and the network."""
        self.request = self.compiled = None


def graph_facts(compiled: Any) -> Facts:
    """How many operators are carried out in a call, in which precision, and how many only convert."""
    kinds: Counter[str] = Counter()
    reorders = 0
    for kind, kernel in executed(compiled):
        if kind in ("Reorder", "Convert"):
            reorders += 1
        else:
            kinds[f"{kernel_precision(kernel) or 'no'} {kind}"] += 1
    return {
        "graph operators": kinds.total(),
        "operators by precision": ", ".join(f"{count} {what}" for what, count in sorted(kinds.items())),
        "reorders": reorders,
    }


def executed(compiled: Any) -> Iterator[tuple[str, str]]:
    """Kind and kernel of each operator that a call carries out: not constants, nor what is made of them beforehand."""
    constant: set[str] = set()
    for node in compiled.get_runtime_model().get_ordered_ops():
        about = node.get_rt_info()
        kind = about["layerType"].astype(str)
        sources = [value.get_source_output().get_node().get_friendly_name() for value in node.inputs()]
        if kind == "Const" or (sources and constant.issuperset(sources)):
            constant.add(node.get_friendly_name())
        elif kind not in ("Input", "Output", "Reshape"):
            yield kind, about["primitiveType"].astype(str)


def kernel_precision(kernel: str) -> str | None:
    """What a kernel computes in, from its name: 'jit_avx512_I8', and of AMX also 'brgconv_avx512_amx_1x1_i8'."""
    ending = kernel.rpartition("_")[2].lower()
    return PRECISIONS.get(ending, ending)


def reason(error: Exception) -> str:
    """OpenVINO's messages name its source files first and the reason last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__).rstrip(".!")[:300]
