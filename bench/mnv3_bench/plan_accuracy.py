"""From `--data` and what goes with it to what accuracy is measured on, and with which preprocessing.

Data are opened here, so that a folder without images or labels of other classes are found before anything is built.
Images themselves are decoded later, in workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mnv3_bench.errors import UsageError
from mnv3_bench.inputs import is_image
from mnv3_models import parse_variant
from mnv3_models.variants import CHANGEABLE
from mnv3_reports.record import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mnv3_bench.plan_weights import Weights
    from mnv3_models import data
    from mnv3_models.data.preprocessing import Preprocessing as OurPreprocessing
    from mnv3_models.training.recipes import Recipe
    from mnv3_reports.record import Model

CALIBRATION_IMAGES = 128
"""Of the data, for quantizers and for the scan of sensitive layers; evaluated images are never among them."""
DEFAULT_CLASSES = 1000
DEFAULT_RESOLUTION = 224
ABLATION_DATA, ABLATION_RECIPE = "digits", "quick"
"""Of `--ablate`, where nothing else is typed: forms that nobody has weights of are trained."""


@dataclass(frozen=True)
class Subject:
    """What accuracy is measured on."""

    source: data.Source
    split: str
    images: int
    sentence: str
    """Which images calibrate, for the report."""


def open_source(spec: str) -> data.Source:
    """The labelled images that `--data` names.

    Raises:
        UsageError: there are none, or what reads them is not installed.
    """
    from mnv3_models import data

    try:
        return data.open_data(spec)
    except data.DataError as error:
        raise UsageError(f"--data: {error}") from None


def recipe_named(name: str) -> Recipe:
    """The training recipe of this name.

    Raises:
        UsageError: there is none.
    """
    from mnv3_models.training.recipes import get_recipe

    try:
        return get_recipe(name)
    except ValueError as error:
        raise UsageError(f"--recipe: {error}") from None


def ablations(names: Sequence[str], variants: Sequence[str]) -> dict[str, str]:
    """Forms of V3 that lack one ingredient each, to the network they are forms of.

    Raises:
        UsageError: there is no such ingredient, or none of the networks has it.
    """
    from mnv3_models.ablations import ablated

    found: dict[str, str] = {}
    bases = [variant for variant in variants if parse_variant(variant).unchanged.base in CHANGEABLE]
    if not bases:
        raise UsageError(
            f"--ablate is for V3-Large and V3-Small; this run asks for {', '.join(variants)}: "
            "type --variants small"
        )
    for base in bases:
        try:
            forms = ablated(parse_variant(base), names)
        except ValueError as error:
            raise UsageError(f"--ablate: {error}") from None
        found.update({form.name: base for form in forms})
    return found


def num_classes(typed: int | None, weights: Weights, source: data.Source | None, *, trains: bool) -> int:
    """Outputs of the classifier: as typed, as the weights have it, as the data to be trained on ask, or 1000.

    Raises:
        UsageError: these contradict each other.
    """
    of_weights = {card.num_classes: variant for variant, card in weights.cards.items()}
    if len(of_weights) > 1:
        shown = ", ".join(f"{variant} has {number}" for number, variant in of_weights.items())
        raise UsageError(
            f"--weights: the networks have different numbers of classes: {shown}; measure them apart"
        )
    known = next(iter(of_weights), None)
    if typed is not None and known is not None and typed != known:
        raise UsageError(f"--num-classes {typed}: the weights have {known} classes; leave it out")
    number = typed if typed is not None else known
    if number is None:
        number = len(source.classes) if source is not None and trains else DEFAULT_CLASSES
    if number < 2:
        raise UsageError(f"--num-classes {number} is too few; type at least 2")
    return number


def check_classes(source: data.Source, number: int) -> None:
    """Labels have to mean the outputs of the network.

    Raises:
        UsageError: there are more or fewer classes than outputs.
    """
    has = len(source.classes)
    if has == number:
        return
    said = f"--data: {source.name} has {has} classes, the network has {number} outputs"
    head = "train a head for them (mnv3-bench train --weights FILE --data …), or name other data"
    if has < number and source.spec.startswith("imagefolder:"):
        raise UsageError(
            f"{said}, and nobody says which is which; put a classes.txt with the {number} names in the order of the "
            f"outputs into the folder, or {head}"
        )
    raise UsageError(f"{said}; {head}")


def subject(source: data.Source, weights: Weights, split: str | None, *, trains: bool) -> Subject:
    """Which images are evaluated, and which calibrate.

    Args:
        source: the labelled images.
        weights: whose cards say what they were trained on.
        split: as typed.
        trains: whether networks are trained on them in this very run.

    Raises:
        UsageError: there is no such split, or too few images for both.
    """
    from mnv3_models import data

    match split:
        case None | "held-out" | "all":
            asked = split
        case _:
            raise UsageError(f"--split {split} is not known; type held-out or all")
    trained_on = {card.data_fingerprint for card in weights.cards.values() if card.data_fingerprint}
    trained_on |= {source.fingerprint} if trains else set()
    try:
        part, _, chosen, sentence = data.evaluation_parts(source, trained_on, asked, CALIBRATION_IMAGES)
    except data.DataError as error:
        raise UsageError(f"--data: {error}") from None
    return Subject(source, chosen, len(part), sentence)


def resolutions(weights: Weights, recipe: Recipe | None) -> tuple[int, ...]:
    """Pixels a side where nobody typed them: as the weights were trained, else the published 224.

    Raises:
        UsageError: the weights were trained at different resolutions.
    """
    of_weights = {card.preprocessing.resolution: variant for variant, card in weights.cards.items()}
    if recipe is not None:
        of_weights.setdefault(recipe.preprocessing().resolution, f"recipe {recipe.name}")
    if len(of_weights) > 1:
        shown = ", ".join(f"{variant} {pixels}" for pixels, variant in of_weights.items())
        raise UsageError(
            f"--weights: they were trained at different resolutions ({shown}); type --resolutions"
        )
    return tuple(of_weights) or (DEFAULT_RESOLUTION,)


def preprocessing(
    variants: Sequence[str],
    weights: Weights,
    models: Mapping[str, Model],
    resolution: int,
    normalization: str | None,
    recipe: Recipe | None,
) -> dict[str, Preprocessing]:
    """What each network wants its images made into, at this resolution; networks without weights have no entry.

    Raises:
        UsageError: there is no such normalization, or a file's inputs are no images.
    """
    found: dict[str, Preprocessing] = {}
    for variant in variants:
        if variant in models:
            model = models[variant]
            if parse_variant(variant).is_file:
                found[variant] = _of_file(variant, model, normalization)
        elif variant in weights.files:
            found[variant] = _ours(
                _of_weights(Path(weights.files[variant]), variant, resolution, normalization)
            )
        elif recipe is not None and not parse_variant(variant).is_own:
            found[variant] = _ours(recipe.preprocessing().at(resolution))
    return found


def _of_weights(file: Path, variant: str, resolution: int, normalization: str | None) -> OurPreprocessing:
    from mnv3_bench.keys import digest_of
    from mnv3_models.data import preprocessing_for

    try:
        return preprocessing_for(
            file,
            sha256=digest_of(str(file)),
            layout=None,
            variant=variant,
            resolution=resolution,
            normalization=normalization,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None


def _of_file(variant: str, model: Model, normalization: str | None) -> Preprocessing:
    """As the manifest beside an exported file says, else as assumed."""
    spec = model.inputs[0]
    if len(model.inputs) != 1 or not is_image(spec):
        raise UsageError(
            f"--data: {variant} does not take one batch of images, float32 with three channels; "
            "accuracy is measured on images"
        )
    size = spec.shape[2:] if spec.shape[1] == 3 else spec.shape[1:3]
    if size[0] != size[1]:
        raise UsageError(f"--data: {variant} takes images of {size[0]} x {size[1]}; expected square ones")
    stated = None if normalization is not None else _manifest(Path(model.path), size[0])
    if stated is not None:
        return stated
    from mnv3_models.data import preprocessing_for

    try:
        assumed = preprocessing_for(
            None, sha256=None, layout=None, variant=variant, resolution=size[0], normalization=normalization
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    if normalization is None:
        assumed = msgspec.structs.replace(
            assumed, source="assumed, since the file does not say; --normalization states another"
        )
    return _ours(assumed)


def _manifest(file: Path, resolution: int) -> Preprocessing | None:
    """What `mnv3-bench export` wrote beside the file; None where there is nothing of its kind."""
    from mnv3_bench.exporting.manifest import MANIFEST, Manifest

    try:
        manifest = msgspec.json.decode(file.with_name(MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError):
        return None
    entry = next((entry for entry in manifest.files if entry.file.name == file.name), None)
    image = entry.inputs[0].image if entry is not None and entry.inputs else None
    if image is None:
        return None
    resize = image.resize
    return Preprocessing(
        resolution=resolution,
        resize=resize.shorter_side if resize is not None else round(resolution * 256 / 224),
        interpolation=resize.interpolation if resize is not None else "bilinear",
        mean=image.mean,
        std=image.std,
        source=f"{MANIFEST} beside the file: {image.source}",
    )


def _ours(found: OurPreprocessing) -> Preprocessing:
    return Preprocessing(
        found.resolution, found.resize, found.interpolation, found.mean, found.std, found.source
    )
