"""How a photograph becomes a network's input: resized, cropped at the centre, normalised."""

from __future__ import annotations

import msgspec

Channels = tuple[float, float, float]

IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)


class Preprocessing(msgspec.Struct, frozen=True):
    """From an RGB image of any size to 3 x resolution x resolution, float32: (pixel / 255 - mean) / std."""

    resolution: int
    """Pixels along each side after the centre crop."""
    resize: int
    """Pixels of the shorter side before it; at least `resolution`."""
    interpolation: str = "bilinear"
    """bilinear or bicubic, both antialiased as Pillow does it."""
    mean: Channels = IMAGENET_MEAN
    std: Channels = IMAGENET_STD
    source: str = ""
    """Why it is this: whose weights ask for it, or that it is assumed."""

    def describe(self) -> str:
        """Every step in one line, for a report."""
        mean, std = (" ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return (
            f"shorter side {self.resize} ({self.interpolation}), centre crop {self.resolution}, "
            f"mean {mean}, deviation {std}"
        )

    def at(self, resolution: int) -> Preprocessing:
        """The same at another resolution: what is cut off keeps its share."""
        if resolution == self.resolution:
            return self
        resize = max(resolution, round(self.resize * resolution / self.resolution))
        return msgspec.structs.replace(self, resolution=resolution, resize=resize)
