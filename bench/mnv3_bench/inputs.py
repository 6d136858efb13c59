"""Seeded, image-like inputs.

Natural images have a power spectrum that falls with 1/f^2 (Field 1987, J. Opt. Soc. Am. A 4, 2379) and strongly
correlated colour channels. Convolution arithmetic does not care, but quantizers do: ranges calibrated on white noise
fit nothing else. Pixels are normalised with ImageNet's mean and standard deviation.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from mnv3_bench.backends.base import Arrays
    from mnv3_bench.protocol import Purpose
    from mnv3_reports.record import TensorSpec


COUNTS: dict[Purpose, int] = {"weights": 128, "calibration": 64, "fidelity": 32, "measure": 32, "tuning": 32}
"""Images made for each purpose. The sets are disjoint: each purpose has a random stream of its own."""

MOST_BYTES = 1 << 28
"""Of the ready inputs made for one purpose."""

DESCRIPTION = "seeded 1/f images with shapes, ImageNet-normalised"

_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)[:, None, None]
_STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)[:, None, None]
_STREAMS: dict[Purpose, int] = {"weights": 1, "calibration": 2, "fidelity": 3, "measure": 4, "tuning": 5}


def images(seed: int, purpose: Purpose, resolution: int, count: int | None = None) -> npt.NDArray[np.float32]:
    """Make `count` images of shape 3 x resolution x resolution, as count x 3 x resolution x resolution."""
    number = COUNTS[purpose] if count is None else count
    rng = np.random.default_rng([seed, _STREAMS[purpose], resolution])
    return np.stack([_image(rng, resolution) for _ in range(number)])


def bytes_of(inputs: Sequence[TensorSpec]) -> int:
    """Bytes that one call's inputs take."""
    return sum(math.prod(spec.shape) * np.dtype(spec.dtype).itemsize for spec in inputs)


def samples(seed: int, purpose: Purpose, inputs: Sequence[TensorSpec], count: int) -> list[npt.NDArray[Any]]:
    """Make the inputs of `count` calls, or of as many as fit `MOST_BYTES`, at least two: count x its shape an input.

    What looks like images (float32, four sizes, three channels first or last) is images; other floating-point inputs
    are standard normal, integers are 0 or 1, which any table of at least two rows can look up.
    """
    rng = np.random.default_rng([seed, _STREAMS[purpose], 0])
    count = max(2, min(count, MOST_BYTES // max(1, bytes_of(inputs))))
    return [np.stack([_sample(rng, spec) for _ in range(count)]) for spec in inputs]


def describe(inputs: Sequence[TensorSpec]) -> str:
    """What `samples` makes of these inputs, for the report."""
    kinds = []
    for spec in inputs:
        dtype = np.dtype(spec.dtype)
        kind = DESCRIPTION if is_image(spec) else "standard normal" if dtype.kind == "f" else "0 or 1"
        kinds.append(f"{spec.name} {'x'.join(map(str, spec.shape))} {spec.dtype}: {kind}")
    return "; ".join(kinds)


def is_image(spec: TensorSpec) -> bool:
    """Whether an input looks like a batch of images, channels first or last."""
    return spec.dtype == "float32" and len(spec.shape) == 4 and 3 in (spec.shape[1], spec.shape[3])


def _sample(rng: np.random.Generator, spec: TensorSpec) -> npt.NDArray[Any]:
    if is_image(spec):
        first = spec.shape[1] == 3
        height, width = spec.shape[2:] if first else spec.shape[1:3]
        made = np.stack([_image(rng, max(height, width))[:, :height, :width] for _ in range(spec.shape[0])])
        return made if first else np.ascontiguousarray(made.transpose(0, 2, 3, 1))
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        return rng.standard_normal(spec.shape).astype(dtype)
    return rng.integers(0, 2, spec.shape).astype(dtype)


def _image(rng: np.random.Generator, resolution: int) -> npt.NDArray[np.float32]:
    frequencies = np.hypot(np.fft.fftfreq(resolution)[:, None], np.fft.rfftfreq(resolution)[None, :])
    frequencies[0, 0] = 1.0 / resolution
    exponent = rng.uniform(0.8, 1.4)
    texture = np.empty((3, resolution, resolution), dtype=np.float32)
    for channel in range(3):
        phase = rng.uniform(0, 2 * np.pi, frequencies.shape)
        field = np.fft.irfft2(np.exp(1j * phase) / frequencies**exponent, s=(resolution, resolution))
        texture[channel] = field / (field.std() + 1e-12)
    # Mix the channels so that most of the variation is shared brightness, as in photographs.
    pixels = 0.8 * texture.mean(axis=0, keepdims=True) * np.sqrt(3) + 0.35 * texture
    pixels = rng.uniform(0.3, 0.6) + rng.uniform(0.1, 0.25) * pixels

    rows, columns = np.mgrid[0:resolution, 0:resolution].astype(np.float32) / resolution
    for _ in range(int(rng.integers(1, 5))):
        centre_y, centre_x = rng.uniform(0.1, 0.9, 2)
        height, width = rng.uniform(0.05, 0.35, 2)
        y, x = (rows - centre_y) / height, (columns - centre_x) / width
        inside = (y * y + x * x < 1) if rng.random() < 0.5 else (np.maximum(abs(y), abs(x)) < 1)
        colour = rng.uniform(0, 1, (3, 1)).astype(np.float32)
        pixels[:, inside] = 0.25 * pixels[:, inside] + 0.75 * colour

    normalised: npt.NDArray[np.float32] = (np.clip(pixels, 0, 1).astype(np.float32) - _MEAN) / _STD
    return normalised


def batch_indices(images: int, batch: int) -> npt.NDArray[np.intp]:
    """Which images of a pool go into which batch, as batches x batch; going round where the pool is too small.

    Eight batches, or as many as the pool has disjoint ones if that is fewer, but at least two, so that no two
    consecutive calls see the same input.
    """
    number = max(2, min(8, images // batch))
    step = batch if number * batch <= images else max(1, images // number)
    indices: npt.NDArray[np.intp] = (step * np.arange(number)[:, None] + np.arange(batch)[None, :]) % images
    return indices


class Pool:
    """A file of inputs: images that are put into batches (.npy), or ready inputs of calls (.npz)."""

    def __init__(self, path: str | Path, batch: int) -> None:
        """Open it.

        Args:
            path: count x 3 x height x width images; or one array an input, each with a leading count of calls.
            batch: images a call; of no meaning for ready inputs.
        """
        self.path = Path(path)
        self.batch = batch

    @property
    def is_ready(self) -> bool:
        """Whether its entries are the inputs of calls, and not single images."""
        return self.path.suffix == ".npz"

    def calls(self) -> Iterator[Arrays]:
        """Inputs of calls that are made again and again, no two consecutive ones alike.

        Each call's inputs are read by themselves, so that memory holds no more than what is kept of them.
        """
        if self.is_ready:
            yield from self.cover()
            return
        count = len(np.load(self.path, mmap_mode="r"))
        for indices in batch_indices(count, self.batch):
            yield (np.ascontiguousarray(np.load(self.path, mmap_mode="r")[indices]),)

    def cover(self) -> Iterator[Arrays]:
        """Inputs of calls that together use every entry; the last batch goes round."""
        if self.is_ready:
            with np.load(self.path) as arrays:
                columns = [arrays[name] for name in sorted(arrays.files, key=int)]
            for call in range(len(columns[0])):
                yield tuple(np.asarray(column[call]) for column in columns)  # of a scalar input, an array too
            return
        images = np.load(self.path, mmap_mode="r")
        for start in range(0, len(images), self.batch):
            yield (np.ascontiguousarray(images[np.arange(start, start + self.batch) % len(images)]),)
