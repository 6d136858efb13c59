"""What a backend is: data about what it needs, and two halves.

`prepare` runs in a child process that may import anything (torch, exporters, quantizers) and leaves an artifact on
disk. `load` runs in the measured process and imports only the runtime. Modules of backends therefore import torch
and runtimes inside their functions, never at the top.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    import torch

    FloatArray = npt.NDArray[np.float32]

Facts = dict[str, "str | int | float | bool | None"]
"""Small printable statements, shown in the report."""


class BackendError(Exception):
    """A backend cannot do what was asked, for a reason the user can act on. The message is one clear line."""

    def __init__(self, message: str, install: str | None = None) -> None:
        super().__init__(message)
        self.install = install


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


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What `prepare` gets: a built network in eval mode with its weights, and what shapes its artifact."""

    variant: str
    """Canonical variant name; `mnv3_models.build(variant, num_classes=...)` builds the same structure again."""
    num_classes: int
    model: torch.nn.Module
    example: FloatArray
    """batch x 3 x resolution x resolution, an image-like input of the cell's shape."""
    calibration: FloatArray
    """n x 3 x resolution x resolution images for post-training quantization; disjoint from every measured input."""
    threads: int
    device: str
    directory: Path
    """Empty; everything the deployed process needs is written here, and nothing else."""


class Session(Protocol):
    """A loaded artifact. `run` alone is timed."""

    def stage(self, images: FloatArray) -> Any:
        """Put a batch into the runtime's own input form (and on its device). Not timed."""

    def run(self, staged: Any) -> Any:
        """One inference."""

    def fetch(self, output: Any) -> FloatArray:
        """Logits as batch x classes on the host. Not timed."""

    def facts(self) -> Facts:
        """What the session really uses, read back from the runtime: mode, threads, precision, fallbacks."""

    def close(self) -> None:
        """Give everything back."""


class Backend(ABC):
    """A way to run a network. One file a runtime; stateless."""

    info: ClassVar[BackendInfo]

    def options(self) -> dict[str, str | int | float | bool]:
        """Settings that shape the artifact; part of its cache key."""
        return {}

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
