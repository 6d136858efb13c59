"""What a cell answered for every image: its file in the run directory, and the counts that are drawn from it.

A file is an .npz with `indices` and `labels` (int64, n images), `classes` (int32, n x at most five, the most probable
first), `probabilities` (float32, of the same shape) and `losses` (float32, n).
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

from mnv3_reports.accuracy import wilson_interval
from mnv3_reports.checking import MOST_CLASSES
from mnv3_reports.record import Pairs

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from mnv3_reports.statistics import Interval

    Array = np.ndarray[Any, Any]


MOST_BYTES = 1 << 29
"""Of a file of predictions, unpacked: eight million images."""


class PredictionsError(ValueError):
    """A file of predictions cannot be used. The message is one line that says why."""


class Predictions(NamedTuple):
    """Labels and answers, an image a row."""

    indices: Array
    """Of each image in its data: int64, n."""
    labels: Array
    """int64, n."""
    answers: Array
    """The most probable class of each image: int64, n."""


class ClassCounts(NamedTuple):
    """One class in a network's answers."""

    label: int
    images: int
    """With this label."""
    right: int
    answered: int
    """Images that were taken for this class, rightly or not."""
    taken_for: tuple[int, int] | None
    """The class that its images are mistaken for most often, and how many are; None where none is."""

    @property
    def recall(self) -> Interval | None:
        """Share of its images that are right, with Wilson's interval; None without images."""
        return wilson_interval(self.right, self.images)

    @property
    def precision(self) -> Interval | None:
        """Share of the answers of this class that are right, with Wilson's interval; None without any."""
        return wilson_interval(self.right, self.answered)


class Confusion(NamedTuple):
    """How many images of one class were taken for another."""

    label: int
    answer: int
    images: int


def read(directory: Path | None, name: str) -> Predictions:
    """Read a file of a run directory, named as in `Accuracy.predictions`.

    Raises:
        PredictionsError: the file is not there, lies outside the directory, or holds no predictions.
    """
    import numpy as np

    if directory is None:
        raise PredictionsError("the run directory with its predictions is not at hand")
    path = directory / name
    try:
        if not path.resolve().is_relative_to(directory.resolve()):
            raise PredictionsError(f"'{name}' lies outside the run directory")
        _require_bounded(path, name)
        with np.load(path, allow_pickle=False) as arrays:
            indices, labels, classes = (arrays[part] for part in ("indices", "labels", "classes"))
    except PredictionsError:
        raise
    except FileNotFoundError:
        raise PredictionsError(f"'{name}' is missing from the run directory") from None
    except (
        *(OSError, KeyError, ValueError, EOFError, TypeError, AttributeError, MemoryError, SyntaxError),
        *(RecursionError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error, struct.error),
    ) as error:
        # A file that is no archive is read as something else, which has no parts.
        raise PredictionsError(f"'{name}' holds no predictions ({type(error).__name__})") from error
    shapes = indices.shape, labels.shape, classes.shape[:1]
    kinds = {array.dtype.kind for array in (indices, labels, classes)}
    if (
        indices.ndim != 1
        or len(set(shapes)) != 1
        or classes.ndim != 2
        or not classes.shape[1]
        or kinds - set("iu")
    ):
        raise PredictionsError(f"'{name}' holds arrays that do not fit together; evaluate again")
    if len(labels) and min(labels.min(), classes.min()) < 0:
        raise PredictionsError(f"'{name}' has a class below zero; evaluate again")
    if len(labels) and max(labels.max(), classes.max()) >= MOST_CLASSES:
        raise PredictionsError(f"'{name}' has a class beyond {MOST_CLASSES:,}; evaluate again")
    if len(np.unique(indices)) != len(indices):
        raise PredictionsError(f"'{name}' has an image twice; evaluate again")
    return Predictions(indices, labels, classes[:, 0].astype(np.int64))


def _require_bounded(path: Path, name: str) -> None:
    """Refuse what is no file, or unpacks to more than any predictions: a few kilobytes can hold gigabytes of zeros."""
    if path.exists() and not path.is_file():
        raise PredictionsError(f"'{name}' holds no predictions: it is no file")
    unpacked = path.stat().st_size
    if unpacked <= MOST_BYTES:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > MOST_BYTES:
        raise PredictionsError(f"'{name}' unpacks to {unpacked / 1e6:,.0f} MB, which no predictions take")


def by_class(found: Predictions, classes: int = 0) -> list[ClassCounts]:
    """Counts of every class, in the order of the outputs.

    Args:
        found: the predictions.
        classes: how many there are; more where labels or answers go further.
    """
    import numpy as np

    if not len(found.labels):
        return [ClassCounts(label, 0, 0, 0, None) for label in range(classes)]
    number = max(classes, int(found.labels.max()) + 1, int(found.answers.max()) + 1)
    images = np.bincount(found.labels, minlength=number)
    answered = np.bincount(found.answers, minlength=number)
    right = np.bincount(found.labels[found.labels == found.answers], minlength=number)
    mistaken: dict[int, tuple[int, int]] = {}
    for label, answer, count in confusions(found):
        mistaken.setdefault(label, (answer, count))
    return [
        ClassCounts(label, int(images[label]), int(right[label]), int(answered[label]), mistaken.get(label))
        for label in range(number)
    ]


def confusions(found: Predictions) -> list[Confusion]:
    """Every pair of classes that was confused, the most frequent first."""
    import numpy as np

    wrong = found.labels != found.answers
    pairs = np.stack([found.labels[wrong], found.answers[wrong]], axis=1)
    if not len(pairs):
        return []
    unique, counts = np.unique(pairs, axis=0, return_counts=True)
    listed = [
        Confusion(int(label), int(answer), int(count))
        for (label, answer), count in zip(unique, counts, strict=True)
    ]
    return sorted(listed, key=lambda confusion: (-confusion.images, confusion.label, confusion.answer))


def matrix(found: Predictions, classes: int) -> list[list[int]]:
    """Images of each label (row) by answer (column), for so many classes.

    Raises:
        ValueError: a label or an answer is beyond them.
    """
    import numpy as np

    if len(found.labels) and max(int(found.labels.max()), int(found.answers.max())) >= classes:
        raise ValueError(f"a label or an answer is beyond {classes} classes")
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (found.labels, found.answers), 1)
    rows: list[list[int]] = counts.tolist()
    return rows


def pairs_of(reference: Predictions, cell: Predictions, name: str) -> Pairs:
    """The images of both, answer by answer.

    Args:
        reference: what is held against.
        cell: what is compared.
        name: what the reference is called.

    Raises:
        PredictionsError: they are not of the same images, or disagree about a label.
    """
    import numpy as np

    mine, other = np.argsort(cell.indices), np.argsort(reference.indices)
    if not np.array_equal(cell.indices[mine], reference.indices[other]):
        raise PredictionsError("the two were not evaluated on the same images")
    labels = cell.labels[mine]
    if not np.array_equal(labels, reference.labels[other]):
        raise PredictionsError("the two have other labels for the same images")
    cell_answers, reference_answers = cell.answers[mine], reference.answers[other]
    cell_right, reference_right = cell_answers == labels, reference_answers == labels
    return Pairs(
        reference=name,
        both_right=int(np.sum(reference_right & cell_right)),
        only_reference=int(np.sum(reference_right & ~cell_right)),
        only_cell=int(np.sum(~reference_right & cell_right)),
        both_wrong=int(np.sum(~reference_right & ~cell_right)),
        agree=int(np.sum(cell_answers == reference_answers)),
    )
