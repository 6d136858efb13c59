"""What is evaluated and what calibrates: disjoint, fixed, and never what was trained on by accident."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from mnv3_models.data import DataError, Part, Source, evaluation_parts, open_data

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def whole(tmp_path: Path) -> Source:
    """40 images of 10 classes, without a split of their own."""
    images = np.random.default_rng(0).integers(0, 256, (40, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(40) % 10)
    return open_data(f"npz:{tmp_path / 'a.npz'}")


def disjoint(first: Part, second: Part) -> bool:
    return set(first.names).isdisjoint(second.names)


def test_a_split_of_its_own_counts() -> None:
    digits = open_data("digits")
    found = evaluation_parts(digits, set(), None, 64)
    assert found.split == "held-out"
    assert list(found.evaluated.names) == list(digits.part("held-out").names)
    assert set(found.calibration.names) <= set(digits.part("train").names)
    assert sorted(np.bincount(found.calibration.labels).tolist()) == [6] * 6 + [7] * 4
    assert found.sentence == (
        "64 images calibrate the quantized forms: a fixed choice over the classes of digits, of the images that are "
        "not held out; they are none of the evaluated."
    )


def test_all_that_no_weights_were_trained_on(whole: Source) -> None:
    found = evaluation_parts(whole, {"0" * 16}, None, 5)
    assert found.split == "all"
    assert (len(found.evaluated), len(found.calibration)) == (35, 5)
    assert disjoint(found.evaluated, found.calibration)
    assert len(set(found.calibration.labels.tolist())) == 5
    again = evaluation_parts(whole, set(), "all", 5)
    assert list(again.calibration.names) == list(found.calibration.names)
    assert "taken out of all images" in found.sentence
    assert "trained on" not in found.sentence


def test_what_weights_were_trained_on_is_held_out(whole: Source) -> None:
    found = evaluation_parts(whole, {whole.fingerprint}, None, 64)
    assert found.split == "held-out"
    assert len(found.evaluated) == 10
    assert len(found.calibration) == 30  # all there are
    assert disjoint(found.evaluated, found.calibration)


def test_all_may_be_asked_for_and_is_said_to_be_no_test(whole: Source) -> None:
    found = evaluation_parts(whole, {whole.fingerprint}, "all", 64)
    assert found.split == "all"
    assert (len(found.evaluated), len(found.calibration)) == (30, 10)  # at most a quarter goes
    assert "include those that weights were trained on" in found.sentence
    assert evaluation_parts(whole, set(), "held-out", 4).split == "held-out"


@pytest.mark.parametrize("split", ["all", "held-out"])
def test_nothing_to_calibrate(whole: Source, split: str) -> None:
    found = evaluation_parts(whole, set(), split, 0)  # type: ignore[arg-type]
    assert len(found.calibration) == 0
    assert len(found.evaluated) == (40 if split == "all" else 10)
    assert found.sentence == "No images calibrate quantized forms."
    with pytest.raises(ValueError, match="calibration is -1"):
        evaluation_parts(whole, set(), split, -1)  # type: ignore[arg-type]


def test_calibration_is_over_all_classes_and_not_the_first_ones(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(200), 2)
    np.savez(tmp_path / "a.npz", images=np.zeros((400, 2, 2), np.uint8), labels=labels)
    found = evaluation_parts(open_data(f"npz:{tmp_path / 'a.npz'}"), set(), "all", 40).calibration.labels
    assert len(set(found.tolist())) == 40
    assert 70 < found.mean() < 130


def test_nothing_held_out(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((3, 2, 2), np.uint8), labels=np.arange(3))
    source = open_data(f"npz:{tmp_path / 'a.npz'}")
    with pytest.raises(
        DataError, match="no images that are held out; expected at least two images of a class"
    ):
        evaluation_parts(source, {source.fingerprint}, None, 0)
