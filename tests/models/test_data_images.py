"""Pixels of whatever a file holds: RGB, 8 bits, upright, or one line of why not."""

from __future__ import annotations

import io
import pickle
import re
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from mnv3_models.data import BrokenImageError
from mnv3_models.data.images import read, rgb

if TYPE_CHECKING:
    from pathlib import Path

COLOURS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [200, 100, 50]]], dtype=np.uint8)


def pixels(path: Path) -> np.ndarray:
    image = read(path, path.name)
    assert image.mode == "RGB"
    return np.asarray(image)


def saved(image: Image.Image, path: Path, **how: object) -> Path:
    image.save(path, **how)
    return path


def photo(size: int = 64) -> Image.Image:
    ramp = np.linspace(0, 255, size).astype(np.uint8)
    return Image.fromarray(
        np.stack(
            [np.tile(ramp, (size, 1)), np.tile(ramp[:, None], (1, size)), np.full((size, size), 90)], 2
        ).astype(np.uint8)
    )


@pytest.mark.parametrize("suffix", ["png", "bmp"])
def test_colours_are_kept(tmp_path: Path, suffix: str) -> None:
    assert np.array_equal(pixels(saved(Image.fromarray(COLOURS), tmp_path / f"a.{suffix}")), COLOURS)


def test_jpeg_is_what_pillow_decodes(tmp_path: Path) -> None:
    path = saved(photo(), tmp_path / "a.jpg", quality=90)
    assert np.array_equal(pixels(path), np.asarray(Image.open(path)))


def test_greyscale_gets_three_equal_channels(tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    found = pixels(saved(Image.fromarray(grey), tmp_path / "a.png"))
    assert all(np.array_equal(found[..., channel], grey) for channel in range(3))
    black_and_white = Image.fromarray(grey).convert("1")
    assert set(np.unique(pixels(saved(black_and_white, tmp_path / "b.png")))) == {0, 255}


def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path: Path) -> None:
    deep = np.array([[0, 127, 129, 255, 256, 257 * 100, 257 * 200 + 128, 65535]], dtype=np.uint16)
    found = pixels(saved(Image.fromarray(deep), tmp_path / "a.png"))[0, :, 0]
    assert found.tolist() == [0, 0, 1, 1, 1, 100, 200, 255]
    wide = Image.fromarray(deep.astype(np.int32))
    assert wide.mode == "I"
    assert np.array_equal(np.asarray(rgb(wide))[0, :, 0], found)  # older Pillows open 16 bits as this


def test_alpha_is_dropped_as_the_published_accuracies_were_measured(tmp_path: Path) -> None:
    alpha = np.array([[0, 64], [128, 255]], dtype=np.uint8)
    found = pixels(saved(Image.fromarray(np.dstack([COLOURS, alpha])), tmp_path / "a.png"))
    assert np.array_equal(found, COLOURS)
    grey = np.dstack([COLOURS[..., 0], alpha])
    assert np.array_equal(
        pixels(saved(Image.fromarray(grey, "LA"), tmp_path / "b.png"))[..., 1], COLOURS[..., 0]
    )


@pytest.mark.parametrize("transparency", [None, 1, b"\x00\x80\xff\xff"])
def test_palettes_become_their_colours(tmp_path: Path, transparency: int | bytes | None) -> None:
    image = Image.new("P", (2, 2))
    image.putpalette(COLOURS.reshape(-1).tolist())
    image.putdata([0, 1, 2, 3])
    how = {} if transparency is None else {"transparency": transparency}
    assert np.array_equal(pixels(saved(image, tmp_path / "a.png", **how)), COLOURS)


def test_printing_colours_are_converted(tmp_path: Path) -> None:
    image = Image.new("CMYK", (32, 32), (0, 255, 255, 0))  # magenta and yellow: red
    found = pixels(saved(image, tmp_path / "a.jpg", quality=95)).reshape(-1, 3).mean(0)
    assert found[0] > 230
    assert found[1:].max() < 40


ORIENTED = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),  # clockwise
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", ORIENTED)
def test_exif_says_which_side_is_up(tmp_path: Path, orientation: int) -> None:
    raw = np.arange(18, dtype=np.uint8).reshape(3, 2, 3) * 10
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = pixels(saved(Image.fromarray(raw), tmp_path / "a.png", exif=exif))
    assert np.array_equal(found, ORIENTED[orientation](raw))
    jpeg = pixels(saved(photo().crop((0, 0, 64, 32)), tmp_path / "a.jpg", exif=exif))
    assert jpeg.shape[:2] == ((64, 32) if orientation > 4 else (32, 64))


def test_damaged_metadata_lose_no_pixels(tmp_path: Path) -> None:
    path = saved(photo(), tmp_path / "a.jpg", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff not at all")
    assert pixels(path).shape == (64, 64, 3)


def png_claiming(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\x00" * 100)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def jpeg() -> bytes:
    file = io.BytesIO()
    photo(256).save(file, "JPEG", quality=95)
    return file.getvalue()


BROKEN = {
    "cut short": (jpeg()[:1500], "truncated"),
    "only a head": (jpeg()[:10], "no image by its content|truncated"),
    "text": (b"<html>404</html>", "no image by its content"),
    "100 million pixels": (png_claiming(10_000, 10_000), "so many pixels"),
    "4,000 million pixels": (png_claiming(65_000, 65_000), "so many pixels"),
    "a long one": (png_claiming(2 << 20, 1), "pixels"),
    "wrong checksum": (png_claiming(8, 8)[:-20] + b"\x00" * 20, "."),
    "PNG cut short": (png_claiming(64, 64), "truncated|unrecognized|incomplete|."),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_is_named_with_the_reason(tmp_path: Path, what: str) -> None:
    content, reason = BROKEN[what]
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(BrokenImageError) as caught:
        read(path, "cat/x.jpg")
    assert caught.value.name == "cat/x.jpg"
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("the image cat/x.jpg cannot be read (")
    assert re.search(reason, caught.value.reason, re.IGNORECASE)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.name, again.reason) == (caught.value.name, caught.value.reason)


def test_a_file_that_is_gone_is_broken(tmp_path: Path) -> None:
    with pytest.raises(BrokenImageError, match="No such file"):
        read(tmp_path / "gone.jpg", "gone.jpg")
