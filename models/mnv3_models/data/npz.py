"""Images and labels as arrays in one .npz file: nothing is executed, and where possible nothing is loaded whole."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mnv3_models.data.errors import DataError
from mnv3_models.data.source import Names, Source, numbered

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt
    from PIL import Image

SPLITS = (
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("x_train", "y_train", "x_test", "y_test"),
)
"""Names of arrays with a split of their own; Keras calls them by the second four."""
_EXPECTED = (
    "expected images (n x height x width [x 3 or 1], uint8) and labels (n whole numbers), or train_images, "
    "train_labels, test_images and test_labels"
)
_CHUNK = 16 << 20
_ZIP_HEADER = struct.Struct("<4s22xHH")  # of a member: signature, lengths of its name and of its extra field


class _Array(NamedTuple):
    """Where a file has an array."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int | None
    """Of its first byte in the file; None where it is compressed or in Fortran's order."""


class Npz(Source):
    """An .npz file with images and labels; a part named 'test' is held out.

    What numpy's `savez` wrote is mapped into memory and read as needed. `savez_compressed` has to be unpacked whole.

    Args:
        path: the file.

    Raises:
        DataError: it cannot be read, or holds something else.
    """

    def __init__(self, path: Path) -> None:
        path = path.expanduser()
        if not path.is_file():
            raise DataError(f"there is no file {path}; type npz:FILE with the path of one")
        self.path = path = path.resolve()
        arrays = _contents(path)
        split = next((names for names in SPLITS if names[0] in arrays or names[2] in arrays), None)
        pairs = [("images", "labels")] if split is None else [split[:2], split[2:]]
        missing = [name for pair in pairs for name in pair if name not in arrays]
        if missing:
            raise DataError(
                f"{path} has no array {missing[0]}, but {', '.join(arrays) or 'none'}; {_EXPECTED}"
            )
        labels = []
        for images_name, labels_name in pairs:
            _require_images(path, images_name, arrays[images_name])
            labels.append(_labels(path, labels_name, arrays[images_name].shape[0]))
        self._members = [pair[0] for pair in pairs]
        self._counts = [len(each) for each in labels]
        self._images: list[npt.NDArray[np.uint8]] | None = None
        numbers = np.concatenate(labels)
        if not len(numbers):
            raise DataError(f"{path} holds no images; {_EXPECTED}")
        classes = _classes(path, numbers) if "classes" in arrays else None
        super().__init__(
            spec=f"npz:{path}",
            name=path.name,
            classes=classes or numbered(int(numbers.max()), str(path)),
            labels=numbers,
            names=Names(
                f"{_called(member)} {number}".encode()
                for member, count in zip(self._members, self._counts, strict=True)
                for number in range(count)
            ),
            held_out=None if split is None else np.arange(len(numbers)) >= self._counts[0],
        )

    def read(self, index: int) -> Image.Image:
        """One image of the arrays."""
        from PIL import Image

        for images in self._opened():
            if index < len(images):
                pixels = np.asarray(images[index])
                return Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels).convert("RGB")
            index -= len(images)
        raise IndexError(index)

    def _opened(self) -> list[npt.NDArray[np.uint8]]:
        if self._images is None:
            self._images = [_open(self.path, member) for member in self._members]
        return self._images

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_images": None}  # another process opens the file itself

    def _content(self) -> Iterator[bytes]:
        for images in self._opened():
            yield repr(images.shape).encode()
            step = max(1, _CHUNK // max(1, images[:1].nbytes))
            for start in range(0, len(images), step):
                yield images[start : start + step].tobytes()
        yield self._labels.tobytes()
        yield "\n".join(self.classes).encode()


def _called(member: str) -> str:
    return {"images": "image"}.get(member, "test image" if "test" in member else "train image")


def _contents(path: Path) -> dict[str, _Array]:
    """The arrays of a file by name, without their values."""
    found = {}
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            for info in archive.infolist():
                if not info.filename.endswith(".npy"):
                    continue
                with archive.open(info) as member:
                    version = np.lib.format.read_magic(member)
                    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else None
                    shape, fortran, dtype = (read or np.lib.format.read_array_header_2_0)(member)
                    header = member.tell()
                if not dtype.hasobject and header + math.prod(shape) * dtype.itemsize != info.file_size:
                    raise ValueError(
                        f"{info.filename} has {info.file_size} bytes, which are not those of its shape"
                    )
                file.seek(info.header_offset)
                _, name, extra = _ZIP_HEADER.unpack(file.read(_ZIP_HEADER.size))
                offset = info.header_offset + _ZIP_HEADER.size + name + extra + header
                stored = info.compress_type == zipfile.ZIP_STORED and not fortran
                found[info.filename.removesuffix(".npy")] = _Array(shape, dtype, offset if stored else None)
    except zipfile.BadZipFile as error:
        raise DataError(f"{path} is no .npz file ({error}); write it with numpy.savez") from error
    except (OSError, ValueError, EOFError, RuntimeError, struct.error, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({' '.join(str(error).split())})") from error
    return found


def _open(path: Path, name: str) -> npt.NDArray[Any]:
    """An array, mapped where it lies uncompressed."""
    about = _contents(path)[name]
    if about.offset is not None and about.shape[0]:
        return np.memmap(path, about.dtype, "r", about.offset, about.shape)
    return _load(path, name)


def _load(path: Path, name: str) -> npt.NDArray[Any]:
    """An array, read whole.

    Raises:
        DataError: it is damaged, or would have to execute code.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return np.asarray(file[name])
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: {name} cannot be read ({' '.join(str(error).split())})") from error


def _require_images(path: Path, name: str, about: _Array) -> None:
    shape = " x ".join(map(str, about.shape))
    is_image = len(about.shape) == 3 or (len(about.shape) == 4 and about.shape[3] in (1, 3))
    if about.dtype != np.uint8 or not is_image or 0 in about.shape[1:]:
        of = "Python objects" if about.dtype.hasobject else about.dtype.name
        raise DataError(f"{path}: {name} is {shape or 'a single value'} of {of}; {_EXPECTED}")


def _labels(path: Path, name: str, images: int) -> npt.NDArray[np.int64]:
    about = _contents(path)[name]
    if about.dtype.kind not in "iu" or about.shape not in ((images,), (images, 1)):
        of = "Python objects" if about.dtype.hasobject else about.dtype.name
        shape = " x ".join(map(str, about.shape)) or "a single value"
        raise DataError(f"{path}: {name} is {shape} of {of} for {images} images; {_EXPECTED}")
    labels = _load(path, name).reshape(-1).astype(np.int64)
    if len(labels) and labels.min() < 0:
        raise DataError(f"{path}: {name} has the label {labels.min()}; expected classes from 0 on")
    return labels


def _classes(path: Path, labels: npt.NDArray[np.int64]) -> tuple[str, ...]:
    found = _contents(path)["classes"]
    if found.dtype.kind not in "US" or len(found.shape) != 1:
        raise DataError(
            f"{path}: classes is no list of names; expected an array of text, in the order of the outputs"
        )
    values = _load(path, "classes")
    names = tuple(
        each.decode("utf-8", "replace") if isinstance(each, bytes) else str(each) for each in values
    )
    if labels.max() >= len(names):
        raise DataError(
            f"{path}: the labels reach to {labels.max()}, but the {len(names)} classes are 0 to {len(names) - 1}"
        )
    return names
