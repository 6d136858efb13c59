"""What every artifact says about itself, and the one check every session makes of its input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from mnv3_bench.backends.base import BackendError

if TYPE_CHECKING:
    from pathlib import Path

    from mnv3_bench.backends.base import FloatArray, Preparation

ABOUT = "artifact.json"


class About(msgspec.Struct, frozen=True):
    """What loading an artifact needs to know besides its files."""

    variant: str
    num_classes: int
    shape: tuple[int, int, int, int]
    """The one input shape it was made for: batch x 3 x height x width."""
    threads: int
    bn_eps: float | None = None
    """Epsilon of the network's BatchNorms, which a state dict does not hold; None without any."""
    facts: dict[str, str | int | float | bool | None] = {}
    """What only preparing could see, such as the number of graph breaks."""

    @classmethod
    def of(cls, preparation: Preparation, facts: dict[str, str | int | float | bool | None]) -> About:
        """Describe what is being prepared."""
        batch, channels, height, width = preparation.example.shape
        epsilons = (getattr(module, "eps", None) for module in preparation.model.modules())
        return cls(
            variant=preparation.variant,
            num_classes=preparation.num_classes,
            shape=(batch, channels, height, width),
            threads=preparation.threads,
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

    def own(self, images: FloatArray) -> FloatArray:
        """A writable, contiguous copy of a batch of the right shape.

        Raises:
            BackendError: shape or type differ from what the artifact was made for.
        """
        if images.shape != self.shape:
            raise BackendError(
                f"images have shape {_by(images.shape)}, this artifact takes {_by(self.shape)}; "
                "prepare an artifact for that batch size and resolution"
            )
        if images.dtype != np.float32:
            raise BackendError(
                f"images are {images.dtype}, expected float32; convert them with .astype('float32')"
            )
        return np.array(images, order="C")


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape) or "()"
