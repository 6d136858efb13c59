"""What a backend is: data about what it needs, and two halves.

`prepare` runs in a child process that may import anything (torch, exporters, quantizers) and leaves an artifact on
disk. `load` runs in the measured process and imports only the runtime. Modules of backends therefore import torch
and runtimes inside their functions, never at the top.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    import torch

    FloatArray = npt.NDArray[np.float32]
    Array = npt.NDArray[Any]
    Arrays = tuple[Array, ...]

    from mnv3_reports.record import OperatorCost, TensorSpec

Facts = dict[str, "str | int | float | bool | None"]
"""Small printable statements, shown in the report."""


class BackendError(Exception):
    """A backend cannot do what was asked, for a reason the user can act on. The message is one clear line."""

    def __init__(self, message: str, install: str | None = None) -> None:
        super().__init__(message)
        self.install = install


Format = Literal["module", "pt2", "aoti", "torchscript", "onnx", "tflite", "pte", "openvino"]
"""What a network is given as: a module built by Python code, or a file of a runtime's own; 'aoti' is a .pt2 file that
AOTInductor compiled."""


class OpenSpec(msgspec.Struct, frozen=True):
    """One input or output as a file states it."""

    name: str
    shape: tuple[int | None, ...]
    """None for a size that the file leaves open."""
    dtype: str
    """numpy's name, or the file's own where numpy has none."""


class Signature(msgspec.Struct, frozen=True):
    """What a model file says of itself."""

    inputs: tuple[OpenSpec, ...]
    outputs: tuple[OpenSpec, ...]
    parameters: int | None = None
    """Numbers in its weights, None where nothing counts them."""
    holds: tuple[str, ...] = ()
    """What of it is below fp32 already: 'int8', 'fp16'."""
    facts: dict[str, str | int | float | bool | None] = {}


@dataclass(frozen=True)
class Switch:
    """A setting of a backend that a user may choose: `backend:switch=value` as a backend's name."""

    name: str
    values: tuple[str, ...]
    """What it may be; the first is the default, which the runtime's documentation recommends for latency."""
    help: str
    shapes_artifact: bool = False
    """Whether it acts while preparing; otherwise it acts while loading, and artifacts are shared."""
    tuned: bool = True
    """Whether `--tune` tries its values. Not where they change what is computed, such as a quantization recipe."""


@dataclass(frozen=True, kw_only=True)
class BackendInfo:
    """What the suite must know of a backend before importing any runtime."""

    name: str
    summary: str
    """One line for `mnv3-bench list`."""
    runtime_modules: tuple[str, ...]
    """Modules the measured process imports; importing them is timed as the runtime's own start."""
    prepare_modules: tuple[str, ...] = ()
    """Modules only `prepare` imports."""
    distributions: tuple[str, ...] = ()
    """Distributions whose versions shape the artifact; part of its cache key."""
    extra: str | None = None
    """The extra of this project that installs what is missing."""
    devices: tuple[str, ...] = ("cpu",)
    needs_compiler: bool = False
    """A C++ compiler is needed to prepare (and is looked for first)."""
    threads_shape_artifact: bool = False
    """The artifact depends on the number of threads."""
    precision: str = "fp32"
    floor_snr_db: float = 60.0
    """Fidelity below this against eager fp32 makes the cell a failed one."""
    forkable: bool = False
    """Importing `runtime_modules` starts no thread, so a process may import them and then fork into workers."""
    takes: tuple[Format, ...] = ("module",)
    """What it can be given."""
    refuses: tuple[str, ...] = ()
    """What a file may not hold already (`Signature.holds`), since this backend makes it of fp32."""
    native: Format | None = None
    """The kind of file whose own runtime this is: it says what such a file holds and computes its reference."""
    switches: tuple[Switch, ...] = ()
    keeps_layers: bool = False
    """Whether its quantizer can leave single layers in float (`Preparation.float_layers`)."""
    exact: str | None = None
    """The same runtime's fp32 backend, for a quantized or reduced one: what it is held against."""
    sources: tuple[str, ...] = ()
    """Pages of the runtime's own documentation that its defaults follow."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What `prepare` gets: a network with its weights, and what shapes its artifact."""

    variant: str
    """Canonical variant name; `mnv3_models.build(variant, num_classes=...)` builds a 'module' again."""
    num_classes: int
    network: torch.nn.Module | None
    """In eval mode; None for a file that PyTorch does not read. Of .pt2 its module, of TorchScript the script."""
    inputs: tuple[TensorSpec, ...]
    example: Arrays
    """One call's inputs: for a variant one batch x 3 x resolution x resolution, image-like."""
    calibration: Sequence[Arrays]
    """Inputs of several calls for post-training quantization, each shaped as `example`; disjoint from every measured
    input."""
    threads: int
    device: str
    directory: Path
    """Empty; everything the deployed process needs is written here, and nothing else."""
    format: Format = "module"
    file: Path | None = None
    """The user's file; None for 'module'."""
    float_layers: tuple[str, ...] = ()
    """Module paths, such as features.4.block.1.0, that a quantizer is to leave alone; where `keeps_layers` is set."""

    @property
    def model(self) -> torch.nn.Module:
        """The network as a module.

        Raises:
            BackendError: it is a file that PyTorch does not read.
        """
        if self.network is None:
            raise BackendError(
                f"{self.variant} is a {self.format} file; this backend needs a PyTorch network"
            )
        return self.network


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Where a cell's time goes and what its conversion left behind, by the runtime's own account."""

    by: str
    """The runtime's means, such as 'ONNX Runtime profiler, 20 calls'."""
    operators: tuple[OperatorCost, ...] = ()
    """By cost, the dearest first."""
    reasons: tuple[str, ...] = ()
    """What makes it slower than it might be, each a sentence: operators left in fp32, layouts converted back and
    forth, parts that were not delegated, emulated arithmetic."""


class OperatorTime(msgspec.Struct, frozen=True, kw_only=True):
    """One operator of a loaded artifact, timed by its runtime's profiler."""

    name: str
    """As the runtime calls this one."""
    operation: str
    """As the runtime calls what it does; where it tells, with the implementation that it chose."""
    seconds: tuple[float, ...]
    """Of one call, once a repeat."""
    precision: str | None = None
    module: str | None = None
    """Path in the builder's network, where it is known and need not be found by order."""
    output_shape: tuple[int, ...] | None = None
    """Batch left out."""
    bytes: int | None = None
    """Read and written by one call, where the runtime tells."""


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """A loaded artifact's time by operator."""

    by: str
    """The runtime's means, in words."""
    operators: tuple[OperatorTime, ...]
    """In the order they run."""
    plain: tuple[float, ...]
    """Seconds of calls without the profiler, in turns with those below."""
    profiled: tuple[float, ...]
    """Seconds of calls under it; empty where its calls cannot be timed apart."""
    complete: bool
    """Whether the runtime tells the time of everything that it runs."""
    trace: str | None = None
    """A file in Chrome's trace format that the runtime itself wrote, in the folder that was given."""


class Session(Protocol):
    """A loaded artifact. `run` alone is timed."""

    def stage(self, inputs: Arrays) -> Any:
        """Put one call's inputs into the runtime's own form (and on its device). Not timed.

        Raises:
            BackendError: their number, shapes or types are not what the artifact was made for.
        """

    def run(self, staged: Any) -> Any:
        """One inference."""

    def fetch(self, output: Any) -> Arrays:
        """Outputs on the host, in the network's order; of a variant one, batch x classes. Not timed."""

    def facts(self) -> Facts:
        """What the session really uses, read back from the runtime: mode, threads, precision, fallbacks."""

    def close(self) -> None:
        """Give everything back."""


class Backend(ABC):
    """A way to run a network. One file a runtime; it holds its settings and no other state."""

    info: ClassVar[BackendInfo]

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        """Choose settings; the rest are the defaults.

        Raises:
            ValueError: there is no such switch, or it does not take that value.
        """
        self.settings = {switch.name: switch.values[0] for switch in self.info.switches}
        for name, value in (settings or {}).items():
            switch = next((switch for switch in self.info.switches if switch.name == name), None)
            if switch is None:
                known = ", ".join(switch.name for switch in self.info.switches) or "none"
                raise ValueError(f"{self.info.name} has no switch '{name}'; it has {known}")
            if value not in switch.values:
                raise ValueError(f"{self.info.name}:{name} takes {', '.join(switch.values)}, not '{value}'")
            self.settings[name] = value

    @property
    def name(self) -> str:
        """What it is asked for by: its name and the settings that are not the defaults, `backend:switch=value`."""
        chosen = [
            f":{switch.name}={self.settings[switch.name]}"
            for switch in self.info.switches
            if self.settings[switch.name] != switch.values[0]
        ]
        return self.info.name + "".join(chosen)

    def options(self) -> dict[str, str | int | float | bool]:
        """What shapes the artifact besides the switches that do; part of its cache key."""
        return {}

    def shaping(self) -> dict[str, str]:
        """Settings that shape the artifact; part of its cache key."""
        return {
            switch.name: self.settings[switch.name] for switch in self.info.switches if switch.shapes_artifact
        }

    def unavailable(self) -> str | None:
        """Why this machine cannot do what the name says, such as arithmetic it only emulates; None when it can."""
        return None

    @abstractmethod
    def prepare(self, preparation: Preparation) -> Facts:
        """Write the artifact.

        Raises:
            BackendError: it cannot be made, for a reason the user can act on.
        """

    @abstractmethod
    def load(self, directory: Path, threads: int, device: str) -> Session:
        """Load the artifact in the measured process.

        Raises:
            BackendError: the device or the artifact cannot be used.
        """

    def inspect(self, file: Path) -> Signature:
        """What a file of this runtime's own format says of itself; for a backend whose `native` is set.

        Raises:
            BackendError: it is no such file, is cut short, or needs what this runtime has not.
        """
        raise NotImplementedError(f"{self.info.name} is no format's own runtime")

    def reference(self, file: Path, calls: Sequence[Arrays]) -> list[Arrays]:
        """Outputs of such a file on its own runtime in its plainest form: every optimization off, one thread.

        Raises:
            BackendError: it cannot be run.
        """
        raise NotImplementedError(f"{self.info.name} is no format's own runtime")

    def explain(self, directory: Path, threads: int, calls: Sequence[Arrays]) -> Explanation | None:  # noqa: ARG002
        """Profile an artifact with the runtime's own means, in a process that is not measured.

        Args:
            directory: the artifact.
            threads: of the cell.
            calls: inputs of several calls.

        Returns:
            None when the runtime cannot tell.
        """
        return None

    def profile(
        self,
        directory: Path,  # noqa: ARG002
        threads: int,  # noqa: ARG002
        calls: Sequence[Arrays],  # noqa: ARG002
        folder: Path,  # noqa: ARG002
    ) -> Profile | None:
        """Time every operator of an artifact with the runtime's own means, beside calls without them.

        Args:
            directory: the artifact.
            threads: of the cell.
            calls: inputs of several calls, gone round.
            folder: where a trace may be written.

        Returns:
            None when the runtime has no means.

        Raises:
            BackendError: its means cannot be used here, with the reason.
        """
        return None
