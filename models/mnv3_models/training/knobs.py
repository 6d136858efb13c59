"""How a network is trained: every knob there is, and what values it can have. Nothing here imports torch.

A step is one update of the weights, from `batch_size` images over all processes and `accumulate` parts. Learning rates
follow the step, as fractions of an epoch, where torchvision and timm change them at the end of epochs.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Callable

    from mnv3_models.data import Preprocessing

Optimizer = Literal["sgd", "rmsprop", "rmsprop-tf", "adamw"]
Schedule = Literal["cosine", "step"]
Augment = Literal["none", "randaugment", "trivial-augment", "auto-augment"]
Crop = Literal["none", "pad-shift", "random-resized-crop"]
Fill = Literal["mean", "noise"]
Precision = Literal["fp32", "bf16", "fp16"]
NormalizationName = Literal["imagenet", "half", "unit"]


class RecipeError(ValueError):
    """A recipe that does not exist, or a knob that cannot have this value. The message is one line."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Every knob of a training."""

    name: str
    source: str = ""
    """Where it is described."""
    lacks: tuple[str, ...] = ()
    """What of the original is not done, or done otherwise."""
    changed: tuple[str, ...] = ()
    """Knobs that are not as in the recipe of this name."""

    epochs: int
    batch_size: int
    """Images of a step."""
    accumulate: int = 1
    """Parts that a step's images are computed in, one after the other, to save memory. BatchNorm sees a part."""

    optimizer: Optimizer = "sgd"
    lr: float
    """The highest one."""
    momentum: float = 0.9
    """Of SGD and RMSprop."""
    alpha: float = 0.9
    """Share of the old mean square that RMSprop keeps."""
    eps: float = 1e-8
    """Added to RMSprop's and AdamW's root, in rmsprop-tf inside it."""
    weight_decay: float = 0.0
    """Times the weight, added to the gradient; AdamW's is its own."""
    norm_decay: bool = True
    """Whether it applies to BatchNorm's weights and biases."""
    bias_decay: bool = True
    """Whether it applies to biases of linear layers and convolutions."""
    depthwise_decay: bool = True
    """Whether it applies to depthwise convolutions."""
    clip_norm: float = 0.0
    """Longest gradient of all weights together; 0 for no limit."""

    schedule: Schedule = "cosine"
    """Half a cosine down to 0, or a factor `gamma` every `step_epochs`."""
    step_epochs: float = 1.0
    gamma: float = 0.1
    warmup_epochs: float = 0.0
    """Epochs of linear growth at the start."""
    warmup_from: float = 0.01
    """Share of the learning rate that it starts at."""

    label_smoothing: float = 0.0
    dropout: float = 0.2
    """Probability of the one dropout, before the last linear layer."""
    ema_decay: float = 0.0
    """Of the moving average of all weights and statistics; 0 for none. The average is what is evaluated and saved."""
    ema_every: int = 1
    """Steps between two updates of the average."""
    ema_adjusted: bool = False
    """Whether the decay is at most (1 + n) / (10 + n) at update n, as TensorFlow's `num_updates` makes it."""
    bn_momentum: float | None = None
    """Share of a new batch in BatchNorm's statistics; None for the network's own."""
    bn_eps: float | None = None
    """BatchNorm's epsilon; None for the network's own."""

    resolution: int
    """Pixels a side in training."""
    eval_resolution: int = 0
    """Pixels a side when evaluated; 0 for the same."""
    eval_resize: int = 0
    """Pixels of the shorter side before the centre crop; 0 for the same as the crop."""
    normalization: NormalizationName = "imagenet"
    """Mean and deviation of inputs."""
    crop: Crop = "none"
    """As in evaluation; that shifted at random, black moving in; or a random part of the image, resized."""
    shift: float = 0.125
    """Largest shift of pad-shift, as a share of the resolution."""
    crop_scale: float = 0.08
    """Smallest share of the image's area that random-resized-crop takes."""
    flip: float = 0.0
    """Probability of a mirror image, left to right."""
    augment: Augment = "none"
    """kornia's policies."""
    magnitude: int = 9
    """Of randaugment's two operations, between 0 and 30."""
    random_erasing: float = 0.0
    """Probability that a rectangle of 2 to 33 % of the image is erased."""
    erasing_fill: Fill = "mean"
    """With the mean colour, or with noise of the normalisation's mean and deviation."""
    mixup: float = 0.0
    """Of the Beta distribution that pairs of images are mixed by; 0 for none."""
    cutmix: float = 0.0
    """Of the Beta distribution of rectangles that images take from each other; 0 for none. With mixup, either."""

    precision: Precision = "fp32"
    """Of the network's arithmetic in training; weights and evaluation are fp32 always."""

    fine_tunes: bool = False
    """Whether it is for weights that are trained already."""
    qat: bool = False
    """Whether fake quantization takes part."""
    observers_off_after: int = 0
    """Epochs after which the ranges of fake quantization stay as they are; 0 for never."""
    bn_frozen_after: int = 0
    """Epochs after which BatchNorm's statistics stay as they are, with qat; 0 for never."""

    def preprocessing(self) -> Preprocessing:
        """What evaluation makes of an image."""
        from mnv3_models.data import Preprocessing
        from mnv3_models.data.published import NORMALIZATIONS

        values = NORMALIZATIONS[self.normalization]
        resolution = self.eval_resolution or self.resolution
        return Preprocessing(
            resolution=resolution,
            resize=max(resolution, self.eval_resize),
            mean=values.mean,
            std=values.std,
            source=f"trained with it (recipe {self.label})",
        )

    @property
    def label(self) -> str:
        """The preset's name, with what was changed: 'quick with epochs 3'."""
        changed = ", ".join(f"{knob} {getattr(self, knob)}" for knob in self.changed)
        return f"{self.name} with {changed}" if changed else self.name


KNOBS = tuple(
    field.name
    for field in fields(Recipe)
    if field.name not in ("name", "source", "lacks", "changed", "fine_tunes")
)
"""What may be changed of a preset."""

_CHOICES: dict[str, Any] = {
    "optimizer": Optimizer,
    "schedule": Schedule,
    "augment": Augment,
    "crop": Crop,
    "erasing_fill": Fill,
    "precision": Precision,
    "normalization": NormalizationName,
}
_RANGES: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    ("epochs batch_size accumulate ema_every", lambda value: value >= 1, "a whole number of at least 1"),
    ("lr step_epochs eps", lambda value: value > 0, "a number above 0"),
    (
        "weight_decay clip_norm warmup_epochs mixup cutmix observers_off_after bn_frozen_after eval_resize",
        lambda value: value >= 0,
        "0 or more",
    ),
    (
        "momentum alpha label_smoothing dropout ema_decay shift",
        lambda value: 0 <= value < 1,
        "a number from 0 to below 1",
    ),
    ("flip random_erasing warmup_from", lambda value: 0 <= value <= 1, "a number from 0 to 1"),
    ("gamma crop_scale", lambda value: 0 < value <= 1, "a number above 0 and up to 1"),
    ("magnitude", lambda value: 0 < value < 30, "a number between 0 and 30, such as 9"),
)
SMALLEST = 32
"""Pixels a side: all of these networks halve their input five times."""


def flag(knob: str) -> str:
    """How a knob is typed: --batch-size."""
    return "--ema" if knob == "ema_decay" else "--" + knob.replace("_", "-")


def check(recipe: Recipe) -> Recipe:
    """The same recipe, if all its knobs can have their values.

    Raises:
        RecipeError: one cannot; named with what was expected.
    """
    for knob, choices in _CHOICES.items():
        _choose(knob, getattr(recipe, knob), get_args(choices))
    for knobs, fits, expected in _RANGES:
        for knob in knobs.split():
            value = getattr(recipe, knob)
            if not (fits(value) and value < math.inf):  # also refuses nan
                raise RecipeError(f"{flag(knob)} is {value}; expected {expected}")
    if recipe.resolution < SMALLEST or 0 < recipe.eval_resolution < SMALLEST:
        size = min(recipe.resolution, recipe.eval_resolution or recipe.resolution)
        raise RecipeError(f"--resolution is {size}; expected at least {SMALLEST} pixels a side, such as 224")
    for knob in ("bn_momentum", "bn_eps"):
        value = getattr(recipe, knob)
        if value is not None and not 0 < value < 1:
            raise RecipeError(f"{flag(knob)} is {value}; expected a number between 0 and 1")
    if recipe.batch_size % recipe.accumulate:
        raise RecipeError(
            f"--batch-size {recipe.batch_size} has no {recipe.accumulate} equal parts; expected a --accumulate that "
            "divides it"
        )
    if recipe.warmup_epochs >= recipe.epochs and recipe.warmup_epochs:
        raise RecipeError(
            f"--warmup-epochs {recipe.warmup_epochs:g} leaves nothing of {recipe.epochs} epochs; expected fewer"
        )
    return recipe


def _choose(knob: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1)
        advice = f"did you mean {near[0]}?" if near else f"expected {', '.join(choices)}"
        raise RecipeError(f"{flag(knob)} {value} is not known; {advice}")


def override(recipe: Recipe, **knobs: Any) -> Recipe:
    """The recipe with some knobs changed; those that are None stay. Another training resolution is evaluated at, too.

    Raises:
        RecipeError: a knob cannot have its value.
    """
    given = {knob: value for knob, value in knobs.items() if value is not None}
    unknown = next((knob for knob in given if knob not in KNOBS), None)
    if unknown is not None:
        near = difflib.get_close_matches(unknown, KNOBS, n=1)
        raise RecipeError(
            f"a recipe has no knob '{unknown}'" + (f"; did you mean {near[0]}?" if near else "")
        )
    differ = [knob for knob in KNOBS if knob in given and given[knob] != getattr(recipe, knob)]
    changed = tuple(knob for knob in KNOBS if knob in differ or knob in recipe.changed)
    if "resolution" in differ:
        given.setdefault("eval_resolution", 0)
        if recipe.eval_resize:
            share = recipe.eval_resize / recipe.preprocessing().resolution
            given.setdefault("eval_resize", round(given["resolution"] * share))
    return check(replace(recipe, changed=changed, **given))
