"""What every artifact says about itself, and the one check every session makes of its input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from mnv3_bench.backends.base import BackendError, Format
from mnv3_reports.record import TensorSpec

if TYPE_CHECKING:
    from pathlib import Path

    from mnv3_bench.backends.base import Arrays, Preparation

ABOUT = "artifact.json"


class About(msgspec.Struct, frozen=True):
    """What loading an artifact needs to know besides its files."""

    variant: str
    num_classes: int
    inputs: tuple[TensorSpec, ...]
    """The inputs it was made for; of a variant one, batch x 3 x height x width."""
    threads: int
    format: Format = "module"
    bn_eps: float | None = None
    """Epsilon of the network's BatchNorms, which a state dict does not hold; None without any."""
    facts: dict[str, str | int | float | bool | None] = {}
    """What only preparing could see, such as the number of graph breaks."""

    @classmethod
    def of(cls, preparation: Preparation, facts: dict[str, str | int | float | bool | None]) -> About:
        """Describe what is being prepared."""
        modules = preparation.network.modules() if preparation.network is not None else ()
        epsilons = (getattr(module, "eps", None) for module in modules)
        return cls(
            variant=preparation.variant,
            num_classes=preparation.num_classes,
            inputs=preparation.inputs,
            threads=preparation.threads,
            format=preparation.format,
            bn_eps=next((epsilon for epsilon in epsilons if epsilon is not None), None),
            facts=facts,
        )

    def write(self, directory: Path) -> None:
        """Put it beside the artifact's other files."""
        (directory / ABOUT).write_bytes(msgspec.json.format(msgspec.json.encode(self)))

    @classmethod
    def read(cls, directory: Path) -> About:
        """Read it back.

        Raises:
            BackendError: the directory holds no artifact.
        """
        try:
            return msgspec.json.decode((directory / ABOUT).read_bytes(), type=cls)
        except (OSError, msgspec.MsgspecError) as error:
            raise BackendError(
                f"{directory} holds no readable artifact ({error}); prepare it again, for example with --cold"
            ) from error

    def own(self, inputs: Arrays) -> Arrays:
        """Writable, contiguous copies of one call's inputs.

        Raises:
            BackendError: their number, shapes or types differ from what the artifact was made for.
        """
        if len(inputs) != len(self.inputs):
            raise BackendError(
                f"{len(inputs)} inputs were given, this artifact takes {len(self.inputs)}: "
                f"{', '.join(spec.name for spec in self.inputs)}"
            )
        for array, spec in zip(inputs, self.inputs, strict=True):
            if array.shape != spec.shape:
                raise BackendError(
                    f"{spec.name} has shape {by(array.shape)}, this artifact takes {by(spec.shape)}; "
                    "prepare an artifact for that shape"
                )
            if str(array.dtype) != spec.dtype:
                raise BackendError(
                    f"{spec.name} is {array.dtype}, expected {spec.dtype}; convert it with .astype('{spec.dtype}')"
                )
        return tuple(np.array(array, order="C") for array in inputs)


def by(shape: tuple[int, ...]) -> str:
    """A shape as it is typed: 1x3x224x224."""
    return "x".join(str(size) for size in shape) or "()"
