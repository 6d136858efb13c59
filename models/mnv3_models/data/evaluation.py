"""Which images a network is judged by, and which calibrate its quantized forms: never the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from mnv3_models.data.source import Part, Source, spread

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

LARGEST_SHARE = 4
"""At most one image of so many is taken from the evaluated ones to calibrate with."""


class EvaluationParts(NamedTuple):
    """What `evaluation_parts` chose."""

    evaluated: Part
    calibration: Part
    split: Literal["held-out", "all"]
    sentence: str
    """For the report: which images calibrate, and that none of them is evaluated."""


def evaluation_parts(
    source: Source,
    trained_fingerprints: AbstractSet[str],
    split: Literal["held-out", "all"] | None,
    calibration: int,
) -> EvaluationParts:
    """Choose the images, the same ones every time.

    Args:
        source: the data.
        trained_fingerprints: of the data that any of the weights was trained on, by its card.
        split: what was asked for. None takes what is held out where the source says so itself or weights were
            trained on it, and everything otherwise.
        calibration: images to calibrate with, spread over the classes: of those to train on where the evaluated ones
            are held out, else taken out of the evaluated ones, of which at most a quarter may go. May be 0.

    Raises:
        DataError: nothing is left to evaluate.
        ValueError: `calibration` is negative.
    """
    if calibration < 0:
        raise ValueError(f"calibration is {calibration}; expected a number of images, 0 or more")
    trained_on = source.fingerprint in trained_fingerprints
    chosen = split or ("held-out" if source.has_own_split or trained_on else "all")
    evaluated = source.part(chosen)
    if chosen == "held-out":
        pool = source.part("train") if calibration else evaluated
        taken = pool.select(spread(pool, min(calibration, len(pool))))
        where = "of the images that are not held out"
    else:
        indices = spread(evaluated, min(calibration, len(evaluated) // LARGEST_SHARE))
        taken = evaluated.select(indices)
        evaluated = evaluated.select(np.setdiff1d(np.arange(len(evaluated)), indices))
        where = "taken out of all images"
    return EvaluationParts(evaluated, taken, chosen, _sentence(source, chosen, taken, where, trained_on))


def _sentence(source: Source, split: str, taken: Part, where: str, trained_on: bool) -> str:
    if len(taken):
        images = "1 image calibrates" if len(taken) == 1 else f"{len(taken):,} images calibrate"
        said = (
            f"{images} the quantized forms: a fixed choice over the classes of {source.name}, {where}; "
            f"{'it is' if len(taken) == 1 else 'they are'} none of the evaluated."
        )
    else:
        said = "No images calibrate quantized forms."
    if split == "all" and trained_on:
        said += (
            " The evaluated images include those that weights were trained on, so that the accuracy says little of "
            "new images."
        )
    return said
