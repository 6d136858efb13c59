from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from mnv3_bench.evaluating.predicting import (
    Predictions,
    paired,
    predictions,
    read_predictions,
    summary,
)
from mnv3_bench.protocol import Evaluate, Labelled
from mnv3_models.data import Batch
from mnv3_reports.record import Preprocessing

if TYPE_CHECKING:
    from pathlib import Path

LABELLED = Labelled("npz:x", "all", 0, Preprocessing(1, 1, "bilinear", (0, 0, 0), (1, 1, 1), ""))
ORDER = Evaluate("v1", 7, LABELLED, "eager", "", 1, "cpu", 1, 0, None, "eager fp32", "")


def batches(labels: list[int], size: int) -> list[Batch]:
    """Images whose one pixel is their index."""
    found = []
    for start in range(0, len(labels), size):
        index = torch.arange(start, min(start + size, len(labels)))
        images = index.float().reshape(-1, 1, 1, 1).expand(-1, 3, 1, 1)
        found.append(Batch(images, torch.tensor(labels)[index], index))
    return found


def run(labels: list[int], logits: Any, size: int, batch: int) -> tuple[Predictions, list[int]]:
    table = np.asarray(logits, dtype=np.float32)
    calls: list[int] = []

    def predict(images: Any) -> Any:
        calls.append(len(images))
        return table[images[:, 0, 0, 0].astype(int)]

    first, *rest = batches(labels, size)
    return predictions(first, iter(rest), predict, batch), calls


def test_every_image_is_counted_once_and_calls_are_always_full() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(11, 7))
    labels = random.integers(0, 7, 11).tolist()
    found, calls = run(labels, logits, size=6, batch=4)
    assert calls == [4, 4, 4, 4]  # 6 = 4 + 2, 5 = 4 + 1: the last call of each is filled up
    assert found.indices.tolist() == list(range(11))
    assert found.labels.tolist() == labels
    assert (found.classes == np.argsort(-logits.astype(np.float32), axis=1)[:, :5]).all()
    exact = torch.softmax(torch.tensor(logits), 1).numpy()
    np.testing.assert_allclose(found.probabilities[:, 0], exact.max(1), rtol=1e-5)
    loss = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(labels), reduction="none")
    np.testing.assert_allclose(found.losses, loss.numpy(), rtol=1e-5)


def test_a_summary_is_the_predictions_counted() -> None:
    logits = np.full((4, 7), -20.0)
    logits[0, 3] = logits[1, 3] = logits[2, 6] = logits[3, 1] = 20.0
    found, _ = run([3, 2, 6, 0], logits, size=4, batch=2)
    counted = summary(found, ORDER, None, 1.5)
    assert (counted.images, counted.top1) == (4, 2)
    assert counted.top5 == 4  # all others are equal, and the first classes come first
    last = counted.bins[-1]
    assert (last.images, last.right) == (4, 2)
    assert last.confidence == pytest.approx(4, abs=1e-6)
    assert counted.loss == pytest.approx(20.0, abs=1e-3)


def test_pairs_count_each_kind_of_image(tmp_path: Path) -> None:
    def of(classes: list[int]) -> Predictions:
        logits = np.zeros((len(classes), 7))
        logits[np.arange(len(classes)), classes] = 5.0
        return run([0, 0, 0, 1, 1, 2], logits, size=6, batch=1)[0]

    reference, cell = of([0, 0, 1, 1, 3, 4]), of([0, 1, 0, 1, 3, 5])
    np.savez(tmp_path / "r.npz", **reference._asdict())
    pairs = paired(cell, read_predictions(tmp_path / "r.npz"), "eager fp32")
    assert (pairs.both_right, pairs.only_reference, pairs.only_cell, pairs.both_wrong) == (2, 1, 1, 2)
    assert pairs.agree == 3
    with pytest.raises(ValueError, match="other images"):
        paired(cell, reference._replace(indices=reference.indices + 1), "eager fp32")


def test_outputs_that_are_no_probabilities_are_refused() -> None:
    logits = np.zeros((2, 7))
    with pytest.raises(ValueError, match="label 9 is beyond the network's 7 outputs"):
        run([1, 9], logits, size=2, batch=1)
    logits[1, 3] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        run([1, 1], logits, size=2, batch=1)
