"""Labelled images: all that a source has, and parts of it, some of them held out from training.

Both travel to worker processes, so that they hold compact arrays and no open files.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal, overload

import numpy as np

from mnv3_models.data.errors import DataError

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL import Image

Split = Literal["train", "held-out", "all"]
Indices = "npt.NDArray[np.int64]"

HELD_OUT = 0.25
"""Share of a source without a split of its own that is held out."""

MOST_CLASSES = 100_000
"""Where nothing names them; more are a column that is no label."""


class Names(Sequence[str]):
    """Many names in two arrays. A list of strings would be copied into every worker as its reference counts change."""

    def __init__(self, names: Iterable[bytes]) -> None:
        each = list(names)
        self._text = b"".join(each)
        self._ends = np.cumsum([0, *map(len, each)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def raw(self, index: int) -> bytes:
        """As it was given."""
        return self._text[self._ends[index] : self._ends[index + 1]]

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        # A file's name need not be UTF-8; what is shown and recorded has to be.
        return self.raw(index % len(self)).decode("utf-8", "backslashreplace")


class Picked(Sequence[str]):
    """Some names of many, without copying them."""

    def __init__(self, names: Sequence[str], indices: npt.NDArray[np.int64]) -> None:
        self._names = names
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._names[int(each)] for each in self._indices[index]]
        return self._names[int(self._indices[index])]


class Source(ABC):
    """Labelled images of one origin.

    Args:
        spec: what `open_data` takes to open it again from anywhere.
        name: for reports; no path.
        classes: names, in the order of the outputs.
        labels: n, a class of each image.
        names: n, for messages.
        held_out: n, which images are no training data, where the source itself says so; None splits off a quarter.
    """

    def __init__(
        self,
        *,
        spec: str,
        name: str,
        classes: Sequence[str],
        labels: npt.NDArray[np.int64],
        names: Names,
        held_out: npt.NDArray[np.bool_] | None,
    ) -> None:
        self.spec = spec
        self.name = name
        self.classes = tuple(classes)
        self.has_own_split = held_out is not None
        self._labels = labels
        self._names = names
        self._held_out = quarter(labels, names) if held_out is None else held_out

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that are the same for the same images and labels, wherever they lie."""
        digest = hashlib.blake2b(digest_size=8)
        for chunk in self._content():
            digest.update(chunk)
        return digest.hexdigest()

    def part(self, split: Split) -> Part:
        """Images to train on, those held out from it, or both.

        Raises:
            DataError: there are none.
        """
        match split:
            case "train":
                indices = np.flatnonzero(~self._held_out)
            case "held-out":
                indices = np.flatnonzero(self._held_out)
            case "all":
                indices = np.arange(len(self._labels))
        if not len(indices):
            raise DataError(
                f"{self.spec} has no images {'to train on' if split == 'train' else 'that are held out'}; expected at "
                "least two images of a class"
            )
        return Part(self, indices.astype(np.int64))

    @abstractmethod
    def read(self, index: int) -> Image.Image:
        """One of all images: RGB, upright.

        Raises:
            BrokenImageError: it cannot be decoded.
        """

    @abstractmethod
    def _content(self) -> Iterable[bytes | memoryview]:
        """Everything the fingerprint is of."""


class Part:
    """A choice of a source's images, in a fixed order."""

    def __init__(self, source: Source, indices: npt.NDArray[np.int64]) -> None:
        self._source = source
        self._indices = indices
        self.labels: npt.NDArray[np.int64] = source._labels[indices]
        """Of every image, its class."""
        self.names: Sequence[str] = Picked(source._names, indices)
        """Of every image, what to call it in messages."""

    def __len__(self) -> int:
        return len(self._indices)

    def image(self, index: int) -> Image.Image:
        """One image: RGB, upright.

        Raises:
            BrokenImageError: it cannot be decoded.
        """
        return self._source.read(int(self._indices[index]))

    def select(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Part:
        """Some of these, in the order given."""
        return Part(self._source, self._indices[np.asarray(indices, dtype=np.int64)])


def numbered(highest: int, where: str) -> tuple[str, ...]:
    """Names of classes that have none: their numbers.

    Raises:
        DataError: they would be too many to be classes.
    """
    if highest >= MOST_CLASSES:
        raise DataError(
            f"{where} has the label {highest}; expected numbers of classes, below {MOST_CLASSES:,}"
        )
    return tuple(map(str, range(highest + 1)))


def draws(names: Sequence[str], purpose: str) -> npt.NDArray[np.uint64]:
    """A number for each name that decides for a purpose and is the same with every version of every library."""
    key = purpose.encode()
    each = [hashlib.blake2b(name.encode(), digest_size=8, key=key).digest() for name in names]
    return np.frombuffer(b"".join(each), dtype="<u8")


def ranks(labels: npt.NDArray[np.int64], drawn: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Of each image, how many of its own class were drawn before it."""
    order = np.lexsort((drawn, labels))
    counts = np.bincount(labels)
    starts = np.cumsum(counts) - counts
    found = np.empty(len(labels), dtype=np.int64)
    found[order] = np.arange(len(labels)) - np.repeat(starts, counts)
    return found


def quarter(labels: npt.NDArray[np.int64], names: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Which images are held out: a quarter of each class, at least one where there are two, always the same ones."""
    counts = np.bincount(labels)
    quota = np.where(counts >= 2, np.maximum(1, np.rint(counts * HELD_OUT)), 0)
    return np.asarray(ranks(labels, draws(names, "held out")) < quota[labels])


def spread(part: Part, count: int) -> npt.NDArray[np.int64]:
    """Indices into a part of `count` of its images, always the same ones, of as many classes as it takes."""
    drawn = draws(part.names, "spread")
    order = np.lexsort((drawn, ranks(part.labels, drawn)))
    return np.sort(order[:count]).astype(np.int64)
