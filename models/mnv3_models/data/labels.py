"""Files that say which class an image is of."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from mnv3_models.data.errors import DataError
from mnv3_models.data.images import SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_EXPECTED = "expected lines of 'name,label', or one label a line in the order of the files' names"
_SHOWN = 3


def read(path: Path, there: Sequence[str]) -> tuple[list[int], list[str]]:
    """Labels of images.

    Lines are 'name,label', also with a tab or (in .txt files) spaces between; a first line without an image's name is
    a heading. Or they are one label each, as many as there are images, in the order of their names: ImageNet's form.

    Args:
        path: the file.
        there: names of the images that there are, sorted, relative, with slashes.

    Returns:
        Indices into `there`, ascending, and the label of each, as written.

    Raises:
        DataError: the file cannot be read, or does not fit the images.
    """
    rows = _rows(path)
    if all(len(row) == 1 for row in rows):
        return list(range(len(there))), _in_order(path, [row[0] for row in rows], len(there))
    if not rows[0][0].lower().endswith(SUFFIXES):
        rows = rows[1:]
    wrong = next((row for row in rows if len(row) != 2 or not all(row)), None)
    if wrong is not None or not rows:
        raise DataError(f"{path} has a line {','.join(wrong or [])!r}; {_EXPECTED}")
    found: dict[str, str] = {}
    for name, label in rows:
        name = name.replace("\\", "/").removeprefix("./")
        if found.setdefault(name, label) != label:
            raise DataError(f"{path} gives {name} two labels, {found[name]} and {label}; expected one")
    missing = found.keys() - set(there)
    if missing:
        some = ", ".join(sorted(missing)[:_SHOWN])
        raise DataError(
            f"{path} names {len(missing)} of {len(found)} images that are not there ({some}); expected names relative "
            "to the folder, with their endings"
        )
    chosen = [index for index, name in enumerate(there) if name in found]
    return chosen, [found[there[index]] for index in chosen]


def text(path: Path) -> str:
    """A text file, with or without a byte-order mark.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8") from error


def is_number(label: str) -> bool:
    """Whether a label is a class' number."""
    return label.isascii() and label.removeprefix("-").isdigit()


def require_within(found: Sequence[str], classes: int, where: Path) -> None:
    """See that numbers are those of classes.

    Raises:
        DataError: some are not.
    """
    low, high = min(map(int, found)), max(map(int, found))
    if low < 0 or high >= classes:
        counted = "; numbers count from 0" if low == 1 and high == classes else ""
        raise DataError(
            f"the labels of {where} reach from {low} to {high}, but the {classes} classes are 0 to "
            f"{classes - 1}{counted}"
        )


def _rows(path: Path) -> list[list[str]]:
    lines = [line for line in text(path).splitlines() if line.strip()]
    if not lines:
        raise DataError(f"{path} is empty; {_EXPECTED}")
    if any("\t" in line for line in lines):
        rows = list(csv.reader(lines, delimiter="\t"))
    elif path.suffix.lower() == ".csv" or any("," in line for line in lines):
        rows = list(csv.reader(lines, skipinitialspace=True))
    else:
        rows = [line.rsplit(maxsplit=1) for line in lines]
    return [[field.strip() for field in row] for row in rows]


def _in_order(path: Path, found: list[str], images: int) -> list[str]:
    if len(found) == images + 1 and not is_number(found[0]):
        found = found[1:]  # a heading
    if len(found) != images:
        raise DataError(f"{path} has {len(found)} labels for {images} images; {_EXPECTED}")
    if all(map(is_number, found)) and (min(map(int, found)), max(map(int, found))) == (1, 1000):
        raise DataError(
            f"{path} has ILSVRC's own numbers, 1 to 1000, which are in another order than networks' outputs; expected "
            "numbers from 0 in the order of the WordNet IDs, or those IDs (n01440764) with a classes.txt that lists all"
        )
    return found
