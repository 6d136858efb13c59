"""Ingredients of MobileNetV3 that can be left out or changed one at a time, to see what each of them costs and brings.

The first four leave out what makes V3 what it is. The others are choices that reimplementations by hand often make:
they hardly change the number of parameters, and all of them change what is computed or how fast.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mnv3_models.variants import CHANGEABLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnv3_models.variants import Variant

_PAPER = "Searching for MobileNetV3 (Howard et al. 2019, arXiv:1905.02244)"


@dataclass(frozen=True)
class Ingredient:
    """Something that V3-Large and V3-Small have, and the form without it, or with another in its place."""

    name: str
    """As `ablated` takes it, such as 'se'."""
    suffix: str
    """What the form's name ends in, after a hyphen, such as 'no-se'. A key of `variants.CHANGES`."""
    description: str
    """What the form has instead, in one line."""
    source: str
    """Where the ingredient, or leaving it out, is described."""


INGREDIENTS: dict[str, Ingredient] = {
    each.name: each
    for each in (
        Ingredient(
            "se",
            "no-se",
            "no squeeze-and-excitation in any block",
            f"{_PAPER}, sections 3 and 5.3; column SE of tables 1 and 2",
        ),
        Ingredient(
            "hswish",
            "no-hswish",
            "ReLU wherever hard-swish was: stem, deeper blocks, last convolution and head",
            f"{_PAPER}, section 5.2; row ReLU of table 5",
        ),
        Ingredient(
            "residual",
            "no-residual",
            "no block adds its input to its output",
            "MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381), section 6.4 and figure 6 b",
        ),
        Ingredient(
            "kernel5",
            "no-kernel5",
            "3×3 kernels wherever 5×5 ones were",
            f"{_PAPER}, section 4.1; column Operator of tables 1 and 2",
        ),
        Ingredient(
            "composed-hswish",
            "composed-hswish",
            "hard-swish as x · relu6(x + 3) / 6 from elementary operations: the same values, more passes over memory",
            f"{_PAPER}, section 5.2; column 'no-opt' of table 5",
        ),
        Ingredient(
            "se-hswish",
            "se-hswish",
            "hard-swish instead of ReLU inside squeeze-and-excitation",
            "torchvision, timm and tensorflow/models research/slim have ReLU there",
        ),
        Ingredient(
            "unskipped",
            "unskipped",
            "an expansion convolution also in the first block, where it widens nothing",
            "torchvision, timm and tensorflow/models research/slim leave it out",
        ),
    )
}
"""By name, in the order of `variants.CHANGES`."""


def ablated(variant: Variant, ingredients: Sequence[str]) -> tuple[Variant, ...]:
    """One form of the variant for each ingredient, changed in that ingredient alone, in the order given.

    What the variant has changed already stays changed: of v3-small-no-se the form for 'residual' is
    v3-small-no-se-no-residual.

    Args:
        variant: V3-Large or V3-Small at any width, or a form of them.
        ingredients: names in `INGREDIENTS`; capitals do not matter, and one named twice counts once.

    Raises:
        ValueError: there is no such ingredient, the variant is another network, it is without the ingredient
            already, or what it has changed contradicts the change.
    """
    named = dict.fromkeys(name.strip().lower() for name in ingredients)
    unknown = next((name for name in named if name not in INGREDIENTS), None)
    if unknown is not None:
        near = difflib.get_close_matches(unknown.removeprefix("no-"), INGREDIENTS)
        advice = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(INGREDIENTS)}"
        raise ValueError(f"'{unknown}' is no ingredient of V3; {advice}")
    if variant.unchanged.base not in CHANGEABLE:
        raise ValueError(
            f"{variant.name} has no form for {', '.join(named) or 'an ingredient'}; only "
            f"{' and '.join(CHANGEABLE)} have, at any width"
        )
    for name in named:
        if INGREDIENTS[name].suffix in variant.changes:
            raise ValueError(
                f"{variant.name} has no form for {name}, which is what it changes already; leave '{name}' out"
            )
    return tuple(variant.changed(INGREDIENTS[name].suffix) for name in named)
