"""In a child process: every labelled image through one artifact, and what came out.

Images are decoded by processes of their own while the network computes, so that evaluating takes as long as the slower
of the two. Those processes are started before the runtime is loaded, since a process with a runtime's threads in it
cannot safely be forked.
"""

from __future__ import annotations

import time
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from mnv3_bench.data_worker import arranged, decoded, parts
from mnv3_reports.record import Accuracy, Bin, Pairs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mnv3_bench.backends.base import Array
    from mnv3_bench.protocol import Evaluate
    from mnv3_models import data

ACCURACY_FILE = "accuracy.json"
PREDICTIONS_FILE = "predictions.npz"
BROKEN_FILE = "broken.json"
BINS = 15
"""Of confidence, as Guo et al. 2017, 'On Calibration of Modern Neural Networks', have it."""
KEPT = 5
"""Most probable classes that are kept of each image."""
EAGER_BATCH = 32


class Predictions(NamedTuple):
    """A row an image, in the order of the data."""

    indices: Array
    labels: Array
    classes: Array
    """n x 5 (fewer with fewer classes), the most probable first."""
    probabilities: Array
    losses: Array


def evaluate(order: Evaluate) -> None:
    """Write predictions and what they come to."""
    from mnv3_models import data

    start = time.perf_counter()
    evaluated, _ = parts(order.labelled)
    tally = data.Tally()
    batch = order.batch if order.backend is not None else EAGER_BATCH
    at_once = max(1, round(EAGER_BATCH / batch)) * batch
    with_images = decoded(evaluated, order.labelled, workers=order.workers, tally=tally, batch=at_once)
    first = next(with_images, None)  # the decoding processes are there now
    if first is None:
        tally.check(len(evaluated))
        raise data.DataError(f"{order.labelled.data} holds no image that can be decoded")
    predict, close = _predictor(order)
    found = predictions(first, with_images, predict, batch)
    close()
    tally.check(len(evaluated))
    directory = Path(order.directory)
    np.savez(directory / PREDICTIONS_FILE, **found._asdict())
    pairs = None
    if order.reference is not None:
        pairs = paired(found, read_predictions(Path(order.reference)), order.reference_name)
    accuracy = summary(found, order, pairs, time.perf_counter() - start)
    (directory / ACCURACY_FILE).write_bytes(msgspec.json.encode(accuracy))
    (directory / BROKEN_FILE).write_bytes(msgspec.json.encode(tally.broken))


def _predictor(order: Evaluate) -> tuple[Callable[[Array], Array], Callable[[], None]]:
    """What gives logits, batch x classes, of one batch of images, n x 3 x height x width; and what ends it."""
    if order.backend is None:
        import torch

        from mnv3_bench.prepare_worker import load_prepared

        torch.set_num_threads(order.threads)
        network = load_prepared(order.variant, order.num_classes, order.source)

        def eager(images: Array) -> Array:
            with torch.inference_mode():
                logits: Array = network(torch.from_numpy(images)).numpy()
            return logits

        return eager, lambda: None
    from mnv3_bench.backends import get_backend
    from mnv3_bench.backends.base import BackendError

    session = get_backend(order.backend).load(Path(order.source), order.threads, order.device)

    def run(images: Array) -> Array:
        outputs = session.fetch(session.run(session.stage((arranged(images, order.inputs),))))
        logits = np.asarray(outputs[0], dtype=np.float32)
        if logits.ndim != 2 or len(logits) != len(images):
            raise BackendError(
                f"its first output has shape {logits.shape}; expected logits, {len(images)} x classes"
            )
        return logits

    return run, session.close


def predictions(
    first: data.Batch, rest: Iterator[data.Batch], predict: Callable[[Array], Array], batch: int
) -> Predictions:
    """Run every image; a batch that the last images do not fill is filled with the last one again."""
    columns: list[Predictions] = []
    for each in chain([first], rest):
        images = np.ascontiguousarray(each.images.numpy())
        logits = []
        for start in range(0, len(images), batch):
            mine = images[start : start + batch]
            number = len(mine)
            if number < batch:
                mine = np.concatenate([mine, np.repeat(mine[-1:], batch - number, axis=0)])
            logits.append(predict(mine)[:number])
        columns.append(_rows(each, np.concatenate(logits)))
    return Predictions(*(np.concatenate(column) for column in zip(*columns, strict=True)))


def _rows(batch: data.Batch, logits: Array) -> Predictions:
    labels = batch.labels.numpy()
    if not np.isfinite(logits).all():
        raise ValueError("the outputs contain NaN or infinity")
    if labels.max() >= logits.shape[1]:
        raise ValueError(
            f"label {labels.max()} is beyond the network's {logits.shape[1]} outputs; the data have other classes"
        )
    exact = logits.astype(np.float64)
    exact -= exact.max(axis=1, keepdims=True)
    logs = exact - np.log(np.exp(exact).sum(axis=1, keepdims=True))
    kept = min(KEPT, logits.shape[1])
    # Stable, so that equal logits, as int8 gives them, are broken alike on every backend.
    order = np.argsort(-logits, axis=1, kind="stable")[:, :kept]
    return Predictions(
        indices=batch.indices.numpy().astype(np.int64),
        labels=labels.astype(np.int64),
        classes=order.astype(np.int32),
        probabilities=np.exp(np.take_along_axis(logs, order, axis=1)).astype(np.float32),
        losses=(-logs[np.arange(len(labels)), labels]).astype(np.float32),
    )


def read_predictions(path: Path) -> Predictions:
    """What `evaluate` wrote."""
    with np.load(path) as arrays:
        return Predictions(*(arrays[name] for name in Predictions._fields))


def summary(found: Predictions, order: Evaluate, pairs: Pairs | None, seconds: float) -> Accuracy:
    """Counts and sums of predictions; whoever reads them derives shares and intervals."""
    right = found.classes[:, 0] == found.labels
    within = (found.classes == found.labels[:, None]).any(axis=1)
    confidence = found.probabilities[:, 0].astype(np.float64)
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return Accuracy(
        cell="",
        images=len(right),
        top1=int(right.sum()),
        top5=int(within.sum()) if found.classes.max(initial=0) >= KEPT else None,
        loss=float(found.losses.mean(dtype=np.float64)),
        loss_sd=float(found.losses.std(ddof=1, dtype=np.float64)) if len(right) > 1 else 0.0,
        bins=tuple(
            Bin(
                int((place == each).sum()),
                float(confidence[place == each].sum()),
                int(right[place == each].sum()),
            )
            for each in range(BINS)
        ),
        pairs=pairs,
        preprocessing=order.labelled.preprocessing,
        predictions=PREDICTIONS_FILE,
        seconds=seconds,
    )


def paired(mine: Predictions, other: Predictions, name: str) -> Pairs:
    """The same images on a cell and on its reference.

    Raises:
        ValueError: they are of other images.
    """
    if not np.array_equal(mine.indices, other.indices):
        raise ValueError("the reference was evaluated on other images; run again, with --cold")
    mine_right, other_right = (each.classes[:, 0] == each.labels for each in (mine, other))
    return Pairs(
        reference=name,
        both_right=int((mine_right & other_right).sum()),
        only_reference=int((~mine_right & other_right).sum()),
        only_cell=int((mine_right & ~other_right).sum()),
        both_wrong=int((~mine_right & ~other_right).sum()),
        agree=int((mine.classes[:, 0] == other.classes[:, 0]).sum()),
    )
