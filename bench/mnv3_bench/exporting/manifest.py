"""What `manifest.json` says of a folder of exported files, as data with a version, and its JSON schema.

The published copy of the schema is written anew by

    python -m mnv3_bench.exporting.manifest > docs/export-schema.json
"""

from __future__ import annotations

import json
from typing import Any, Literal

import msgspec

from mnv3_reports.record import Fidelity, Scalar

MANIFEST_SCHEMA = 1
MANIFEST = "manifest.json"

Channels = tuple[float, float, float]


class Part(msgspec.Struct, frozen=True):
    """One file of the folder."""

    name: str
    """In the manifest's own folder; no path."""
    sha256: str
    bytes: int


class Resize(msgspec.Struct, frozen=True):
    """What the published accuracy of the weights was measured with."""

    shorter_side: int
    """Pixels the image's shorter side is resized to, keeping its proportions."""
    crop: int
    """Pixels a side of the square then cut out of the middle."""
    interpolation: str


class Image(msgspec.Struct, frozen=True):
    """From an 8-bit photograph to an input."""

    colour_order: Literal["RGB"]
    formula: str
    """A channel's value from its pixel's, 0 to 255."""
    mean: Channels
    std: Channels
    value_range: tuple[float, float]
    """Least and greatest value an input can then have."""
    resize: Resize | None
    """None where nothing is known of how the weights were evaluated."""
    source: str
    """Why these figures: which weights they belong to, or that they are assumed."""


class Input(msgspec.Struct, frozen=True):
    """One input, in the order in which the network takes them."""

    name: str | None
    """As the file has it; None where the runtime takes inputs by position alone."""
    shape: tuple[int | None, ...]
    """Batch included; None for a size that the file leaves open."""
    dtype: str
    """numpy's name."""
    layout: Literal["NCHW", "NHWC"] | None
    """Of images; None for what is no image."""
    image: Image | None
    """None where it is no image, or where nobody knows what the network was trained on."""


class Output(msgspec.Struct, frozen=True):
    """One output, in the order in which the network gives them."""

    name: str | None
    shape: tuple[int | None, ...]
    dtype: str
    meaning: str | None
    """'logits' (softmax makes probabilities of them); None where nobody told."""


class Calibration(msgspec.Struct, frozen=True):
    """What the ranges of a quantized file were found on."""

    inputs: str
    count: int
    """Images, or calls of a network with inputs of its own."""


class Runtime(msgspec.Struct, frozen=True):
    """What a file was run with when its fidelity was measured."""

    name: str
    version: str
    portable: str
    """Where else the file runs."""


class ExportedFile(msgspec.Struct, frozen=True):
    """One deployable file and all that is needed to call it."""

    target: str
    """As `--to` names it."""
    file: Part
    companions: tuple[Part, ...]
    """Files that belong to it and must lie beside it."""
    runtime: Runtime
    precision: str
    calibration: Calibration | None
    """None for a file that was not quantized with calibration."""
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    fidelity: Fidelity
    """Of this very file, loaded by its runtime in a process of its own."""
    facts: dict[str, Scalar]
    """What the converter, the file and the loaded session say of themselves."""
    built_with: dict[str, str]
    """Distributions that made it, with versions."""
    run: str | None
    """Python that computes `y`, the first output, from the numpy array `x` (of several inputs `x0`, `x1`, ...) in this
    folder; None where the file has no names to call it by."""


class Network(msgspec.Struct, frozen=True):
    """What was exported."""

    variant: str
    title: str
    batch: int
    resolution: int
    """Pixels a side; 0 where the inputs are no images."""
    parameters: int | None
    macs: int | None
    """Multiply-accumulates of convolutions and linear layers for one image."""


class WeightsOrigin(msgspec.Struct, frozen=True):
    """Where the weights came from."""

    file: str | None
    """Name of the weights or model file; None when the weights were drawn or made by the network's own code."""
    sha256: str | None
    origin: str
    """In words."""


class Labels(msgspec.Struct, frozen=True):
    """Names of the classes, a line each, in the order of the logits."""

    file: Part
    count: int


class Manifest(msgspec.Struct, frozen=True):
    """A folder of exported files."""

    schema: int
    tool: str
    tool_version: str
    created_at: str
    python: str
    packages: dict[str, str]
    network: Network
    weights: WeightsOrigin
    labels: Labels | None
    """None when none were given; those of ImageNet are not shipped."""
    files: tuple[ExportedFile, ...]


def encode(manifest: Manifest) -> bytes:
    """The text of `manifest.json`."""
    return msgspec.json.format(msgspec.json.encode(manifest)) + b"\n"


def json_schema() -> dict[str, Any]:
    """The schema of `manifest.json` (JSON Schema 2020-12)."""
    (manifest,), definitions = msgspec.json.schema_components([Manifest], ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"mnv3-bench export manifest, version {MANIFEST_SCHEMA}",
        "description": "manifest.json in a folder that 'mnv3-bench export' wrote.",
        **manifest,
        "$defs": definitions,
    }


def text() -> str:
    """The schema as published."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(text(), end="")
