"""The handwritten digits that scikit-learn ships: 1,797 real images of 8 x 8 pixels, with no network needed.

They are the test set of the UCI 'Optical Recognition of Handwritten Digits' data, E. Alpaydin and C. Kaynak, 1998.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mnv3_models.data.errors import require
from mnv3_models.data.source import Names, Source, quarter

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt
    from PIL import Image

SIDE = 8
BRIGHTEST = 16
FILE = "datasets/data/digits.csv.gz"
"""In scikit-learn's folder."""


class Digits(Source):
    """All of them; a quarter of each digit is held out, always the same."""

    def __init__(self) -> None:
        require("sklearn", "scikit-learn", "'digits'")
        table = _table()
        labels = table[:, -1].astype(np.int64)
        names = Names(f"digit {number}".encode() for number in range(len(labels)))
        super().__init__(
            spec="digits",
            name="digits",
            classes=[str(number) for number in range(10)],
            labels=labels,
            names=names,
            held_out=quarter(labels, names),
        )
        self._pixels = np.rint(table[:, :-1].reshape(-1, SIDE, SIDE) * (255 / BRIGHTEST)).astype(np.uint8)

    def read(self, index: int) -> Image.Image:
        """One digit, 8 x 8, white on black."""
        from PIL import Image

        return Image.fromarray(self._pixels[index]).convert("RGB")

    def _content(self) -> Iterator[bytes]:
        yield self._pixels.tobytes()
        yield self._labels.tobytes()


def _table() -> npt.NDArray[np.uint8]:
    """A line an image: 64 pixels from 0 to 16, and the digit. Importing scikit-learn to read it takes over a second."""
    found = importlib.util.find_spec("sklearn")
    if (
        found is not None
        and found.origin is not None
        and (file := Path(found.origin).parent / FILE).is_file()
    ):
        return np.loadtxt(file, np.uint8, delimiter=",")
    from sklearn.datasets import load_digits

    loaded = load_digits()
    return np.column_stack([loaded.data, loaded.target]).astype(np.uint8)
