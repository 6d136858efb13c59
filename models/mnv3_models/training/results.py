"""What a training leaves: weights with their card, and the run as JSON."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import torch

from mnv3_models.card import metadata
from mnv3_models.training.checkpoint import write_atomically
from mnv3_models.training.job import RUN_FILE, TrainingError

if TYPE_CHECKING:
    from torch import nn

    from mnv3_models.training.distributed import World
    from mnv3_models.training.job import Outcome, Request


class Circumstances(NamedTuple):
    """Of a run, what its outcome does not say."""

    request: Request
    threads: int
    world: World
    broken: dict[str, str]


def write_results(network: nn.Module, outcome: Outcome, how: Circumstances) -> None:
    """Write the weights, last, and before them the run's JSON, beside them.

    Raises:
        TrainingError: they cannot be written.
    """
    from safetensors.torch import save as serialise

    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    directory = outcome.weights.parent
    try:
        write_atomically(directory / RUN_FILE, _as_json(outcome, how))
        write_atomically(outcome.weights, serialise(weights, metadata(outcome.card)))
    except OSError as error:
        raise TrainingError(
            f"the weights cannot be written to {directory} ({error.strerror or error}); the checkpoint is whole: make "
            f"room and go on with --resume {directory}"
        ) from error


def _as_json(outcome: Outcome, how: Circumstances) -> bytes:
    """All knobs, what it was on, and its history. No path, and nothing of the machine but its kind."""
    cuda = how.world.device.type == "cuda"
    run = {
        "request": {**msgspec.to_builtins(how.request), "data": outcome.card.data},
        "card": outcome.card,
        "history": outcome.history,
        "best": outcome.best,
        "images": outcome.images,
        "broken": how.broken,
        "seconds": outcome.seconds,
        "device": torch.cuda.get_device_name(how.world.device) if cuda else "cpu",
        "threads": how.threads,
        "processes": how.world.size,
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "mnv3-bench": _own_version(),
        },
    }
    return msgspec.json.format(msgspec.json.encode(run), indent=1)


def _own_version() -> str:
    try:
        return version("mnv3-bench")
    except PackageNotFoundError:
        return "not installed"
