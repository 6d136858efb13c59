"""An option for every knob of a recipe, so that none can be forgotten when one is added."""

from __future__ import annotations

import inspect
import types
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

from mnv3_models.training.knobs import KNOBS, Recipe, flag

if TYPE_CHECKING:
    from collections.abc import Callable

HELP = {
    "epochs": "Passes over the training images.",
    "batch_size": "Images of a step, over all processes and parts.",
    "accumulate": "Parts that a step is computed in, to save memory.",
    "optimizer": "",
    "lr": "Learning rate at its highest.",
    "momentum": "Of SGD and RMSprop.",
    "alpha": "Share of the old mean square that RMSprop keeps.",
    "eps": "Epsilon of RMSprop and AdamW; inside the root with rmsprop-tf.",
    "weight_decay": "Times the weight, added to the gradient; AdamW's is its own.",
    "norm_decay": "Weight decay for BatchNorm.",
    "bias_decay": "Weight decay for biases.",
    "depthwise_decay": "Weight decay for depthwise convolutions.",
    "clip_norm": "Longest gradient; 0 for no limit.",
    "schedule": "",
    "step_epochs": "Epochs after which the step schedule multiplies the learning rate.",
    "gamma": "By how much.",
    "warmup_epochs": "Epochs of linear growth at the start.",
    "warmup_from": "Share of the learning rate that it starts at.",
    "label_smoothing": "Share of the target that goes to all classes.",
    "dropout": "Probability of the dropout before the last layer.",
    "ema_decay": "Decay of the moving average of weights; 0 for none.",
    "ema_every": "Steps between its updates.",
    "ema_adjusted": "Let the decay begin low, as TensorFlow's num_updates does.",
    "bn_momentum": "Share of a new batch in BatchNorm's statistics.",
    "bn_eps": "BatchNorm's epsilon.",
    "resolution": "Pixels a side in training, and when evaluated.",
    "eval_resolution": "Pixels a side when evaluated, where that is another.",
    "eval_resize": "Pixels of the shorter side before the centre crop.",
    "normalization": "Mean and deviation of inputs.",
    "crop": "",
    "shift": "Largest shift of pad-shift, as a share of the resolution.",
    "crop_scale": "Smallest share of the image that random-resized-crop takes.",
    "flip": "Probability of a mirror image.",
    "augment": "Policy, by kornia.",
    "magnitude": "Of randaugment, 1 to 29.",
    "random_erasing": "Probability that a rectangle is erased.",
    "erasing_fill": "What with.",
    "mixup": "Alpha of mixup; 0 for none.",
    "cutmix": "Alpha of cutmix; 0 for none.",
    "precision": "Of the network's arithmetic in training.",
    "qat": "Quantization-aware training.",
    "observers_off_after": "Epochs after which the ranges of fake quantization stay; 0 for never.",
    "bn_frozen_after": "Epochs after which BatchNorm's statistics stay, with --qat; 0 for never.",
}


def with_knobs(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command, taking an option for every knob where it says `**knobs`; what is not typed is None."""
    signature = inspect.signature(command, eval_str=True)
    plain = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
    kinds = get_type_hints(Recipe)
    options = [
        inspect.Parameter(
            knob, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(knob, kinds[knob])
        )
        for knob in KNOBS
    ]
    command.__signature__ = signature.replace(parameters=[*plain, *options])  # type: ignore[attr-defined]
    return command


def _option(knob: str, kind: Any) -> Any:
    """What typer wants to know of a knob."""
    name, text = flag(knob), HELP[knob]
    if get_origin(kind) is Literal:
        text = f"{text} {', '.join(get_args(kind))}.".strip()
        kind = str
    elif get_origin(kind) in (Union, types.UnionType):
        kind = next(each for each in get_args(kind) if each is not types.NoneType)
    names = (f"{name}/--no-{name.removeprefix('--')}",) if kind is bool else (name,)
    return Annotated[kind | None, typer.Option(*names, help=f"{text} Default: the recipe's.")]
