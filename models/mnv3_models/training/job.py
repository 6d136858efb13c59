"""What is to be trained, what is said meanwhile, what comes of it, and how it can end. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mnv3_models.training.knobs import KNOBS, Recipe, flag

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

    from mnv3_models.card import Card

WEIGHTS_FILE = "model.safetensors"
RUN_FILE = "model.json"
CHECKPOINT_FILE = "checkpoint.safetensors"
TENSORBOARD_FOLDER = "tensorboard"


class JobError(ValueError):
    """The request cannot be carried out. The message is one line that says what to change."""


class TrainingError(Exception):
    """A training had to stop. What was saved is whole, and the message says how to go on."""


class InterruptedTrainingError(TrainingError):
    """It was asked to stop, and saved a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training."""

    variant: str
    data: str
    """As `mnv3_models.data.open_data` takes it."""
    recipe: Recipe
    directory: Path
    """Where the weights, the run's JSON, checkpoints and logs go."""
    seed: int = 0
    num_classes: int | None = None
    """Outputs; None for the classes of the data."""
    weights: Path | None = None
    """To start from, in torchvision's or timm's layout."""
    resume: bool = False
    """Go on from the directory's checkpoint."""
    checkpoint_steps: int | None = None
    """Also save after every so many steps, besides every epoch."""
    checkpoint_seconds: float | None = None
    """Also save when the last checkpoint is so old."""
    device: str = "cpu"
    threads: int | None = None
    """Of the network's arithmetic on the CPU; None for what a resumed run had, or torch's own choice."""
    workers: int = 0
    """Processes that decode images."""
    tensorboard: bool = True
    prepare_model: Callable[[nn.Module], nn.Module] | None = None
    """Called with the network once it has its first weights, on the CPU; what it returns is trained. The names of its
    state dict have to stay."""


@dataclass(frozen=True)
class Request:
    """What decides a training's result, as a checkpoint and the run's JSON record it."""

    variant: str
    data: str
    """The canonical specification, with absolute paths."""
    data_fingerprint: str
    recipe: Recipe
    seed: int
    num_classes: int
    weights: str
    """File name and start of the SHA-256 of the weights it began with; empty from scratch."""

    def contradictions(self, other: Request) -> list[str]:
        """How a new request differs from this one in what decides the result: '--epochs 5 (here 3)'."""
        parts = [(flag(knob), getattr(other.recipe, knob), getattr(self.recipe, knob)) for knob in KNOBS]
        parts += [
            (flag(name), getattr(other, name), getattr(self, name))
            for name in ("variant", "seed", "num_classes", "weights")
        ]
        if other.data_fingerprint != self.data_fingerprint:
            parts.append(("--data", other.data, f"{self.data}, fingerprint {self.data_fingerprint}"))
        return [f"{typed} {new} (there {old})" for typed, new, old in parts if new != old]


@dataclass(frozen=True)
class EpochResult:
    """One epoch, and how good the weights were after it."""

    epoch: int
    """The first is 1."""
    step: int
    """Steps done since the start."""
    loss: float
    """Mean training loss, with smoothing and mixing, in nats."""
    held_out_loss: float
    """Mean cross-entropy of the held-out images, in nats."""
    top1: float
    """Share of them that is classified correctly."""
    learning_rate: float
    """Of the last step."""
    seconds: float
    """Of the training in this epoch, without evaluation and saving."""
    images_per_second: float
    """Trained."""


@dataclass(frozen=True)
class Note:
    """Something the user should know."""

    text: str


@dataclass(frozen=True)
class Began:
    """The first step is about to be made."""

    variant: str
    recipe: str
    data: str
    images: int
    held_out: int
    classes: int
    epochs: int
    steps: int
    """Of an epoch."""
    done: int
    """Steps of an earlier process."""


@dataclass(frozen=True)
class Stepped:
    """The state of things, about twice a second."""

    epoch: int
    """The first is 1."""
    epochs: int
    step: int
    """Of this epoch, done."""
    steps: int
    loss: float
    """Mean over this epoch so far."""
    learning_rate: float
    images_per_second: float
    seconds_left: float
    """Of the whole training."""


@dataclass(frozen=True)
class EpochDone:
    """An epoch has ended; its checkpoint is about to be written."""

    result: EpochResult
    epochs: int
    seconds_left: float


Progress = Note | Began | Stepped | EpochDone


@dataclass(frozen=True)
class Outcome:
    """What came of a training."""

    weights: Path
    card: Card
    history: tuple[EpochResult, ...]
    images: int
    """To train on; augmentation counts none."""
    seconds: float
    """Of all processes that took part one after the other, loading of libraries left out."""

    @property
    def loss(self) -> float:
        """Mean training loss of the last epoch."""
        return self.history[-1].loss

    @property
    def top1(self) -> float:
        """Share of the held-out images that the weights classify correctly."""
        return self.history[-1].top1

    @property
    def best(self) -> EpochResult:
        """The epoch with the highest top-1. Its weights are not kept: chosen so, it is too good by chance."""
        return max(self.history, key=lambda result: result.top1)
