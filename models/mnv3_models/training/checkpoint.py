"""Files that are either the old one or the new one, whole, whatever happens while they are written.

A checkpoint is one safetensors file. What else it has to say, where the training stands and what was asked for, is
JSON in its header, so that no two files can be of different moments.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import msgspec

from mnv3_models.training.job import CHECKPOINT_FILE, EpochResult, Request, TrainingError

if TYPE_CHECKING:
    from pathlib import Path

    import torch

HEADER_KEY = "mnv3_models.checkpoint"
VERSION = 1


class CheckpointError(TrainingError):
    """A checkpoint that cannot be written or read."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Where a training stands."""

    version: int = VERSION
    request: Request
    threads: int
    """Of the network's arithmetic: another number adds in another order."""
    processes: int
    step: int
    """Steps done since the start."""
    history: tuple[EpochResult, ...]
    """Epochs that are evaluated."""
    seconds: float
    """Spent so far, by all processes one after the other."""
    epoch_seconds: float
    """Spent so far on the steps of an unfinished epoch."""
    epoch_images: int
    """Trained so far in an unfinished epoch."""
    scaler: dict[str, int | float] = {}
    """State of the scaling of fp16's gradients."""
    broken: dict[str, str] = {}
    """Images that could not be decoded, and why."""


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file, or on any error leave the old one as it is.

    Raises:
        OSError: it cannot be written, for want of space or otherwise.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # its space may be what is lacking
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def save(directory: Path, standing: Standing, tensors: dict[str, torch.Tensor]) -> None:
    """Write the checkpoint of a directory.

    Raises:
        CheckpointError: it cannot be written; the older one is whole.
    """
    from safetensors.torch import save as serialise

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = serialise(plain, {HEADER_KEY: msgspec.json.encode(standing).decode()})
    path = directory / CHECKPOINT_FILE
    try:
        write_atomically(path, content)
    except OSError as error:
        what = f"the checkpoint cannot be written to {directory} ({error.strerror or error})"
        if not path.exists():
            raise CheckpointError(
                f"{what}; make room for {len(content) / 1e6:.0f} MB and start again"
            ) from error
        raise CheckpointError(
            f"{what}; the older one is whole: make room for {len(content) / 1e6:.0f} MB and go on with --resume "
            f"{directory}"
        ) from error


def read_standing(directory: Path) -> Standing:
    """Where the training in a directory stands, without its tensors; torch is not imported.

    Raises:
        CheckpointError: there is no checkpoint, or none that can be read.
    """
    path = directory / CHECKPOINT_FILE
    if not directory.is_dir():
        raise CheckpointError(
            f"there is no folder {directory} to go on from; type the one that 'train' wrote"
        )
    if not path.is_file():
        found = ", ".join(sorted(entry.name for entry in directory.iterdir())[:4])
        raise CheckpointError(
            f"{directory} has no {CHECKPOINT_FILE}, only {found or 'nothing'}; type the folder that 'train' wrote"
        )
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if 0 < length <= path.stat().st_size else {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from error
    text = header.get("__metadata__", {}).get(HEADER_KEY) if isinstance(header, dict) else None
    if not isinstance(text, str):
        raise CheckpointError(f"{path} is no checkpoint of 'train'; type the folder that 'train' wrote")
    try:
        standing = msgspec.json.decode(text, type=Standing)
    except msgspec.DecodeError as error:
        raise CheckpointError(
            f"{path} is of another version of this program ({error}); train again"
        ) from error
    if standing.version != VERSION:
        raise CheckpointError(
            f"{path} is of another version of this program ({standing.version}, expected {VERSION}); train again"
        )
    return standing


def load(directory: Path) -> tuple[Standing, dict[str, torch.Tensor]]:
    """The checkpoint of a directory.

    Raises:
        CheckpointError: there is none, or none that can be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as deserialise

    standing = read_standing(directory)
    path = directory / CHECKPOINT_FILE
    try:
        return standing, deserialise(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from error
