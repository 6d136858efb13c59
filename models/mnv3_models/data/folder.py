"""Images in folders: a folder a class as ImageNet has them, or one folder with a file of labels."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mnv3_models.data import images, labels
from mnv3_models.data.errors import BrokenImageError, DataError
from mnv3_models.data.source import Names, Source, numbered

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt
    from PIL import Image

TRAIN = "train"
HELD_OUT = ("val", "validation", "test")
"""Folders beside 'train' whose images are held out; the first one that is there."""
LABEL_FILES = ("labels.csv", "labels.tsv", "labels.txt")
CLASSES_FILE = "classes.txt"


class _Found(NamedTuple):
    """An image file."""

    name: str
    """Relative, with slashes."""
    size: int
    """Bytes; -1 for a link to nothing."""


class _Labelled(NamedTuple):
    """Images of one folder."""

    found: list[_Found]
    labels: list[str]
    """A class' name, or its number where a file of labels has numbers."""
    by_file: bool
    """The labels are from a file; they are names of folders otherwise."""


class ImageFolder(Source):
    """A folder of JPEG, PNG, WebP or BMP files.

    - 'train' beside 'val', 'validation' or 'test': the latter is held out.
    - Otherwise, every folder in it is a class; images in folders below count to it.
    - Without folders, labels come from `labels` or from labels.csv, .tsv or .txt beside the images.

    Classes are in alphabetical order, as torchvision's ImageFolder numbers them, or as a 'classes.txt' in the folder
    lists them: then a folder with some of ImageNet's classes keeps the numbers that a network has for them. Hidden
    files are left out, and so are those that a file of labels does not name.

    Args:
        root: the folder.
        labels: the file of labels; relative to the current directory, or to the folder.

    Raises:
        DataError: there are no images or no labels, or they do not fit together.
    """

    def __init__(self, root: Path, labels: Path | None = None) -> None:
        root = _existing(root)
        labels = None if labels is None else _labels_file(labels, root)
        classes = _read_classes(root / CLASSES_FILE)
        held_out = next((root / name for name in HELD_OUT if (root / name).is_dir()), None)
        if labels is None and held_out is not None and (root / TRAIN).is_dir():
            parts = [(folder.name + "/", _read(folder, None, classes)) for folder in (root / TRAIN, held_out)]
        else:
            _require_no_lone_split(root)
            parts = [("", _read(root, labels, classes))]
        found = [
            _Found(prefix + each.name, each.size) for prefix, labelled in parts for each in labelled.found
        ]
        self.root = root
        self._sizes = np.array([each.size for each in found], dtype=np.int64)
        classes, numbers = _number([labelled for _, labelled in parts], classes, root)
        super().__init__(
            spec=f"imagefolder:{root}" + (f",labels={labels}" if labels is not None else ""),
            name=root.name or "folder",
            classes=classes,
            labels=numbers,
            names=Names(os.fsencode(each.name) for each in found),
            held_out=np.arange(len(found)) >= len(parts[0][1].found) if len(parts) > 1 else None,
        )

    def read(self, index: int) -> Image.Image:
        """Decode one file."""
        name = self._names[index]
        if self._sizes[index] == 0:
            raise BrokenImageError(name, "an empty file")
        return images.read(self.root / os.fsdecode(self._names.raw(index)), name)

    def _content(self) -> Iterator[bytes]:
        # Names, sizes and labels: reading every file would take as long as evaluating on them.
        for index, size in enumerate(self._sizes.tolist()):
            name = self._names.raw(index)
            yield b"%d %b %d %d\n" % (len(name), name, size, self._labels[index])


def _existing(root: Path) -> Path:
    root = root.expanduser()
    if not root.exists():
        raise DataError(
            f"there is no folder {root}; type imagefolder:PATH with the path of one that has images"
        )
    if not root.is_dir():
        raise DataError(f"{root} is no folder; type imagefolder:PATH with the path of one that has images")
    return root.resolve()


def _labels_file(labels: Path, root: Path) -> Path:
    labels = labels.expanduser()
    for path in (labels, root / labels):
        if path.is_file():
            return path.resolve()
    raise DataError(f"there is no file of labels {labels}, neither here nor in {root}; type labels=FILE")


def _require_no_lone_split(root: Path) -> None:
    """Refuse a folder whose only class would be called 'val'."""
    there = [entry.name for entry in _entries(root) if entry.is_dir()]
    if there and set(there) <= {TRAIN, *HELD_OUT}:
        raise DataError(
            f"{root} holds only {' and '.join(sorted(there))}; expected train beside val, or a folder a class: type "
            f"imagefolder:{root / sorted(there)[0]}"
        )


def _read(root: Path, labels_file: Path | None, classes: Sequence[str] | None) -> _Labelled:
    """The images of one folder with their labels."""
    found = sorted(_walk(root, "", ()))
    in_folders = [each for each in found if "/" in each.name]
    if labels_file is None and in_folders:
        names = [each.name.split("/", 1)[0] for each in in_folders]
        empty = sorted({entry.name for entry in _entries(root) if entry.is_dir()} - set(names))
        if empty and classes is None:
            raise DataError(
                f"the folder {root / empty[0]} holds no images, but every folder in {root} is a class; remove it, or "
                f"list the classes in {root / CLASSES_FILE}"
            )
        return _Labelled(in_folders, names, by_file=False)
    if not found:
        raise DataError(
            f"{root} holds no images ({', '.join(images.SUFFIXES)}); expected a folder with images for every class, "
            "or images with a file of labels"
        )
    if labels_file is None:
        labels_file = next((root / name for name in LABEL_FILES if (root / name).is_file()), None)
    if labels_file is None:
        raise DataError(
            f"the images in {root} have no labels; put those of each class into a folder of their own, or type "
            f"imagefolder:{root},labels=FILE with lines of 'name,label'"
        )
    chosen, texts = labels.read(labels_file, [each.name for each in found])
    return _Labelled([found[index] for index in chosen], texts, by_file=True)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"the folder {folder} cannot be read ({error.strerror})") from error


def _walk(folder: Path, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[_Found]:
    """Image files in a folder and those below it, through links that do not lead back up."""
    about = folder.stat()
    here = (about.st_dev, about.st_ino)
    if here in above:
        return
    for entry in _entries(folder):
        if entry.is_dir():
            yield from _walk(Path(entry.path), f"{prefix}{entry.name}/", (*above, here))
        elif entry.name.lower().endswith(images.SUFFIXES):
            if entry.is_file():
                yield _Found(prefix + entry.name, entry.stat().st_size)
            elif entry.is_symlink() and not Path(entry.path).exists():
                yield _Found(prefix + entry.name, -1)  # counted as broken, not overlooked


def _read_classes(path: Path) -> tuple[str, ...] | None:
    if not path.is_file():
        return None
    lines = tuple(line.strip() for line in labels.text(path).splitlines())
    if not lines or "" in lines:
        raise DataError(
            f"{path} has empty lines; expected the name of a class on each, in the order of the outputs"
        )
    if len(set(lines)) < len(lines):
        twice = next(line for line in lines if lines.count(line) > 1)
        raise DataError(
            f"{path} names the class {twice} twice; expected each once, in the order of the outputs"
        )
    return lines


def _number(
    parts: Sequence[_Labelled], classes: tuple[str, ...] | None, root: Path
) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
    """Names of the classes, and the class of every image of all parts after each other."""
    given = classes is not None
    if classes is None:
        first = set(parts[0].labels)
        if parts[0].by_file and all(map(labels.is_number, first)):
            classes = numbered(max(map(int, first)), str(root))
        else:
            classes = tuple(sorted(first))
    numbers = {key: number for number, name in enumerate(classes) for key in _keys(name)}
    found = []
    for part in parts:
        if (
            part.by_file
            and not (set(part.labels) <= numbers.keys())
            and all(map(labels.is_number, part.labels))
        ):
            labels.require_within(part.labels, len(classes), root)
            found += [int(label) for label in part.labels]
            continue
        for label, image in zip(part.labels, part.found, strict=True):
            if label not in numbers:
                known = f"{root / CLASSES_FILE}" if given else f"{root / TRAIN}"
                raise DataError(
                    f"{image.name} is of the class {label}, which is none of the {len(classes)} of {known}"
                )
            found.append(numbers[label])
    return classes, np.array(found, dtype=np.int64)


def _keys(name: str) -> set[str]:
    """How a class may be called: lists of ImageNet's have its WordNet ID before the words."""
    first = name.split(maxsplit=1)[0]
    is_wordnet = len(first) == 9 and first[0] == "n" and first[1:].isdigit()
    return {name, first} if is_wordnet else {name}
