"""What a child process does with labelled images: inputs of a purpose, training, the scan of layers, predictions."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mnv3_bench.prepare_worker import (
    ABOUT_WEIGHTS_FILE,
    IMAGES_FILE,
    SAMPLES_FILE,
    WEIGHTS_FILE,
    AboutWeights,
    load_prepared,
    save_arrays,
)
from mnv3_bench.protocol import DataImages, Done, Evaluate, Scan, Train

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from mnv3_bench.backends.base import Array
    from mnv3_bench.protocol import Labelled
    from mnv3_models import data
    from mnv3_models.data.preprocessing import Preprocessing
    from mnv3_reports.record import TensorSpec

SENSITIVITY_FILE = "sensitivity.json"
TRAINED_FILE = "trained.json"
DECODED_AT_ONCE = 32
"""Images that travel between processes together."""


def carry_out(order: DataImages | Train | Scan | Evaluate) -> Done:
    """Carry out one order about labelled images."""
    import torch

    start = time.perf_counter()
    match order:
        case DataImages():
            torch.set_num_threads(1)
            _make_images(order)
        case Train():
            _train(order)
        case Scan():
            torch.set_num_threads(1)
            _scan(order)
        case Evaluate():
            from mnv3_bench.evaluating.predicting import evaluate

            evaluate(order)
    return Done(time.perf_counter() - start)


def parts(labelled: Labelled) -> tuple[data.Part, data.Part]:
    """The images to evaluate and those to calibrate on, which are never the same."""
    from mnv3_models import data

    evaluated, calibration, _, _ = data.evaluation_parts(
        data.open_data(labelled.data), set(), _split(labelled), labelled.calibration
    )
    return evaluated, calibration


def _split(labelled: Labelled) -> Any:
    return labelled.split


def preprocessing_of(labelled: Labelled) -> Preprocessing:
    """The same preprocessing as mnv3_models has it."""
    from mnv3_models.data.preprocessing import Preprocessing

    return Preprocessing(**msgspec.structs.asdict(labelled.preprocessing))


def decoded(
    part: data.Part, labelled: Labelled, *, workers: int, tally: data.Tally, batch: int = DECODED_AT_ONCE
) -> Iterator[data.Batch]:
    """Preprocessed images of a part, in its order; what cannot be decoded goes to the tally."""
    from mnv3_models import data

    yield from data.loader(
        part, data.CentreCrop(preprocessing_of(labelled)), batch=batch, workers=workers, tally=tally
    )


def arranged(images: Array, inputs: tuple[TensorSpec, ...]) -> Array:
    """A batch of images in the layout that a network with inputs of its own takes."""
    if inputs and inputs[0].shape[1] != 3:
        return np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    return images


def _make_images(order: DataImages) -> None:
    """Calibration images of the part set apart; for every other purpose the first of the evaluated part."""
    from mnv3_models import data

    evaluated, calibration = parts(order.labelled)
    part = calibration if order.purpose == "calibration" else evaluated
    chosen = part.select(np.arange(min(order.count, len(part))))
    tally = data.Tally()
    batches = [batch.images.numpy() for batch in decoded(chosen, order.labelled, workers=0, tally=tally)]
    if not batches:
        raise data.DataError(f"none of the {len(chosen)} images for {order.purpose} can be decoded")
    images = np.concatenate(batches)
    directory = Path(order.directory)
    if not order.inputs:
        np.save(directory / IMAGES_FILE, images)
        return
    batch = order.inputs[0].shape[0]
    calls = -(-len(images) // batch)
    grouped = images[np.arange(calls * batch) % len(images)].reshape(calls, batch, *images.shape[1:])
    save_arrays(directory / SAMPLES_FILE, [np.stack([arranged(call, order.inputs) for call in grouped])])


def _train(order: Train) -> None:
    from mnv3_models.card import read_card
    from mnv3_models.training import train_weights
    from mnv3_reports.record import Trained

    directory = Path(order.directory)
    start = time.perf_counter()
    outcome = train_weights(order.variant, order.data, order.recipe, order.seed, directory, order.threads)
    card = read_card(directory / WEIGHTS_FILE)
    assert card is not None, "training writes a card"
    about = AboutWeights(bn_eps=card.bn_eps, layout="torchvision")
    (directory / ABOUT_WEIGHTS_FILE).write_bytes(msgspec.json.encode(about))
    trained = Trained(
        variant=order.variant,
        recipe=order.recipe,
        epochs=card.epochs,
        seed=order.seed,
        images=outcome.images,
        seconds=time.perf_counter() - start,
        cached=False,
        loss=outcome.loss,
    )
    (directory / TRAINED_FILE).write_bytes(msgspec.json.encode(trained))


def _scan(order: Scan) -> None:
    """On the calibration images alone: what is evaluated must not choose how it is quantized."""
    from mnv3_models import data
    from mnv3_models.quantization import sensitivity
    from mnv3_reports.record import LayerSensitivity, Sensitivity

    network = load_prepared(order.variant, order.num_classes, order.weights)
    _, calibration = parts(order.labelled)
    tally = data.Tally()
    batches = list(decoded(calibration, order.labelled, workers=0, tally=tally))
    images, labels = _joined(batches)
    found = sensitivity.scan(network, images, images, labels)

    def entry(layer: sensitivity.LayerSensitivity) -> LayerSensitivity:
        return LayerSensitivity(
            name=layer.name,
            kind=layer.kind,
            snr_db=layer.snr_db,
            agreement=layer.agreement,
            top1=layer.top1,
            loss=layer.loss,
        )

    result = Sensitivity(
        variant=order.variant,
        resolution=order.labelled.preprocessing.resolution,
        images=len(labels),
        top1=found.top1,
        loss=found.loss,
        scheme=found.scheme,
        layers=tuple(map(entry, found.layers)),
        together=entry(found.together),
    )
    (Path(order.directory) / SENSITIVITY_FILE).write_bytes(msgspec.json.encode(result))


def _joined(batches: list[data.Batch]) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    return torch.cat([batch.images for batch in batches]), torch.cat([batch.labels for batch in batches])
