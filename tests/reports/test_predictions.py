"""Counts per class and per pair of classes are those of a count by hand, whatever the files are like."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from mnv3_reports import predictions
from mnv3_reports.predictions import ClassCounts, Confusion, Predictions, PredictionsError
from mnv3_reports.record import Pairs

if TYPE_CHECKING:
    from pathlib import Path


def made(labels: list[int], answers: list[int], indices: list[int] | None = None) -> Predictions:
    numbers = indices if indices is not None else list(range(len(labels)))
    return Predictions(*(np.array(values, dtype=np.int64) for values in (numbers, labels, answers)))


def write(path: Path, **changed: object) -> None:
    arrays: dict[str, object] = {
        "indices": np.arange(3),
        "labels": np.array([0, 1, 2]),
        "classes": np.array([[0, 1], [1, 0], [0, 2]], dtype=np.int32),
        **changed,
    }
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})  # type: ignore[arg-type]


def test_classes_are_counted_as_by_hand() -> None:
    found = made([0, 0, 0, 1, 1, 3], [0, 1, 1, 1, 0, 0])
    zero, one, two, three = predictions.by_class(found)
    assert zero == ClassCounts(0, 3, 1, 3, (1, 2))
    assert one == ClassCounts(1, 2, 1, 3, (0, 1))
    assert two == ClassCounts(2, 0, 0, 0, None)
    assert three == ClassCounts(3, 1, 0, 0, (0, 1))
    assert zero.recall is not None
    assert zero.recall.estimate == pytest.approx(1 / 3)
    assert (two.recall, three.precision) == (None, None)
    assert predictions.confusions(found) == [Confusion(0, 1, 2), Confusion(1, 0, 1), Confusion(3, 0, 1)]
    assert predictions.matrix(found, 4) == [[1, 2, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
    with pytest.raises(ValueError, match="beyond 3 classes"):
        predictions.matrix(found, 3)


def test_nothing_and_nothing_wrong_are_counted_too() -> None:
    nothing = made([], [])
    assert predictions.by_class(nothing, 2) == [ClassCounts(0, 0, 0, 0, None), ClassCounts(1, 0, 0, 0, None)]
    assert predictions.confusions(nothing) == []
    assert predictions.matrix(nothing, 1) == [[0]]
    assert predictions.confusions(made([1, 2], [1, 2])) == []


def test_pairs_are_counted_image_by_image_in_any_order() -> None:
    reference = made([0, 1, 2, 0, 1], [0, 1, 0, 1, 2], [7, 5, 9, 1, 3])
    cell = made([1, 0, 2, 0, 1], [1, 1, 2, 0, 2], [5, 7, 9, 1, 3])
    found = predictions.pairs_of(reference, cell, "eager fp32")
    assert found == Pairs("eager fp32", 1, 1, 2, 1, agree=2)
    assert predictions.pairs_of(made([], []), made([], []), "x") == Pairs("x", 0, 0, 0, 0, 0)


def test_other_images_or_labels_are_no_pairs() -> None:
    with pytest.raises(PredictionsError, match="not evaluated on the same images"):
        predictions.pairs_of(made([0, 1], [0, 1]), made([0, 1], [0, 1], [0, 2]), "x")
    with pytest.raises(PredictionsError, match="other labels"):
        predictions.pairs_of(made([0, 1], [0, 1]), made([0, 0], [0, 1]), "x")


def test_a_file_is_read_and_its_first_class_is_the_answer(tmp_path: Path) -> None:
    write(tmp_path / "cell.npz")
    found = predictions.read(tmp_path, "cell.npz")
    assert [array.tolist() for array in found] == [[0, 1, 2], [0, 1, 2], [0, 1, 0]]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": np.array([0, 1])}, "do not fit together"),
        ({"classes": np.array([0, 1, 2])}, "do not fit together"),
        ({"classes": np.zeros((3, 0), dtype=np.int32)}, "do not fit together"),
        ({"labels": np.array([0.5, 1, 2])}, "do not fit together"),
        ({"indices": np.array([0, 0, 2])}, "has an image twice"),
        ({"labels": np.array([0, -1, 2])}, "a class below zero"),
        ({"labels": None}, "holds no predictions"),
        ({"labels": np.array([None, 1, 2], dtype=object)}, "holds no predictions"),
    ],
)
def test_a_file_of_something_else_is_one_line(
    tmp_path: Path, changed: dict[str, object], message: str
) -> None:
    write(tmp_path / "cell.npz", **changed)
    with pytest.raises(PredictionsError, match=message) as caught:
        predictions.read(tmp_path, "cell.npz")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_damaged_or_elsewhere_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    write(tmp_path / "outside.npz")
    for name, content in (("torn", b"PK\x03\x04 and no more"), ("text", b"hello"), ("empty", b"")):
        (tmp_path / "run" / f"{name}.npz").write_bytes(content)
    np.save(tmp_path / "run" / "array.npy", np.arange(3))
    expected = {
        "absent.npz": "missing from the run directory",
        "../outside.npz": "outside the run directory",
        str(tmp_path / "outside.npz"): "outside the run directory",
        "torn.npz": "holds no predictions",
        "text.npz": "holds no predictions",
        "empty.npz": "holds no predictions",
        "array.npy": "holds no predictions",
        ".": "holds no predictions",
        "nul\0.npz": "holds no predictions",
    }
    for name, message in expected.items():
        with pytest.raises(PredictionsError, match=message):
            predictions.read(tmp_path / "run", name)
    with pytest.raises(PredictionsError, match="not at hand"):
        predictions.read(None, "cell.npz")
