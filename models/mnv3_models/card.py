"""What a weights file of this project says of itself: the card in its safetensors header.

Reading it imports neither torch nor any tensor, and executes nothing.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

import msgspec

from mnv3_models.data.preprocessing import Preprocessing

if TYPE_CHECKING:
    from pathlib import Path

HEADER_KEY = "mnv3_models.card"
_MOST_HEADER_BYTES = 100 << 20  # safetensors' own limit


class Card(msgspec.Struct, frozen=True):
    """How weights came to be, and what they need to be used."""

    variant: str
    num_classes: int
    bn_eps: float
    preprocessing: Preprocessing
    classes: tuple[str, ...] = ()
    """Names of the outputs, in their order."""
    data: str = ""
    """Name of what they were trained on, such as 'digits'; no path."""
    data_fingerprint: str = ""
    """`Source.fingerprint` of it: whoever evaluates on the same data has to use the part that was held out."""
    recipe: str = ""
    epochs: int = 0
    seed: int = 0
    fine_tuned_from: str = ""
    """File name and start of its SHA-256; empty from scratch."""
    quantization_aware: bool = False
    """Fake quantization took part in the training."""
    top1: float | None = None
    """Share of the held-out images that were classified correctly after the last epoch."""
    images: int = 0
    """Number of those images."""


def metadata(card: Card) -> dict[str, str]:
    """The card as safetensors' metadata."""
    return {HEADER_KEY: msgspec.json.encode(card).decode()}


def read_card(path: Path) -> Card | None:
    """The card of a weights file; None where it has none, as files of other projects.

    Raises:
        OSError: the file cannot be read.
        ValueError: it has a card that is damaged or of a later version.
    """
    if path.suffix != ".safetensors":
        return None
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            return None
        (length,) = struct.unpack("<Q", start)
        if length > _MOST_HEADER_BYTES:
            return None
        try:
            header = json.loads(file.read(length))
        except ValueError:
            return None
    text = header.get("__metadata__", {}).get(HEADER_KEY) if isinstance(header, dict) else None
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=Card)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} says of itself what cannot be read ({error}); train it again") from error
