"""From `--weights` to files: which file is whose, what it says of itself, and what has to be downloaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mnv3_bench.errors import UsageError
from mnv3_models import parse_variant
from mnv3_models.card import Card, read_card

if TYPE_CHECKING:
    from collections.abc import Sequence

SUFFIXES = (".pth", ".pt", ".safetensors")
TRAINED = "model.safetensors"
"""What `train` calls the weights in its folder."""
_EXAMPLE = "type --weights small=FILE, with a .pth or .safetensors file"


@dataclass(frozen=True)
class Weights:
    """Files of weights by variant, and the cards of those that have one."""

    files: dict[str, str] = field(default_factory=dict)
    cards: dict[str, Card] = field(default_factory=dict)


@dataclass(frozen=True)
class Named:
    """One part of `--weights`: a file that is there, and whose it is as far as anybody says."""

    file: Path
    variant: str | None
    """Canonical; None where neither the user nor the file says."""
    card: Card | None


def read(given: Sequence[str]) -> list[Named]:
    """Find every file, downloading what is named by a URL or as torchvision's.

    Args:
        given: `FILE` or `variant=FILE`; a file may also be a folder that `train` wrote, `torchvision:NAME` or a URL.

    Raises:
        UsageError: a file is not there, is no weights file, is another network's, or cannot be downloaded.
    """
    return [_one(part) for part in given]


def assign(named: Sequence[Named], variants: Sequence[str]) -> Weights:
    """Give each file to its variant.

    Raises:
        UsageError: nobody says whose a file is, it is no variant of this run, or two files are for one.
    """
    found = Weights()
    for each in named:
        variant = each.variant
        if variant is None:
            if len(variants) != 1:
                raise UsageError(
                    f"--weights {each.file.name}: several networks are measured ({', '.join(variants)}); "
                    f"type --weights {variants[0]}={each.file.name}, or one variant with --references none"
                )
            variant = variants[0]
        if variant not in variants:
            raise UsageError(
                f"--weights: {variant} is not measured in this run; it measures {', '.join(variants)}"
            )
        if variant in found.files:
            raise UsageError(f"--weights: two files are given for {variant}; leave one out")
        found.files[variant] = str(each.file)
        if each.card is not None:
            found.cards[variant] = each.card
    return found


def _one(part: str) -> Named:
    name, separator, text = part.partition("=")
    if not separator or (":" in name and "//" in name):  # a URL may hold '='
        name, text = "", part
    variant = _canonical(name) if name else None
    path, downloaded = _located(text)
    variant = variant or downloaded
    if path.suffix not in SUFFIXES:
        raise UsageError(
            f"--weights: {text} has the suffix '{path.suffix}'; expected .pth, .pt or .safetensors"
        )
    try:
        card = read_card(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"--weights: {error}") from None
    if card is not None:
        if variant is not None and variant != card.variant:
            raise UsageError(
                f"--weights: {text} holds weights of {card.variant}, not of {variant}; type {card.variant}={text}"
            )
        variant = card.variant
    return Named(path.resolve(), variant, card)


def _located(text: str) -> tuple[Path, str | None]:
    """The file, and the variant that a published file's name stands for."""
    from mnv3_models import downloads

    if downloads.is_download(text):
        from mnv3_bench.downloading import downloaded

        return downloaded(text)
    path = Path(text).expanduser()
    if path.is_dir():
        if not (path / TRAINED).is_file():
            raise UsageError(f"--weights: the folder {text} holds no {TRAINED}; {_EXAMPLE}")
        return path / TRAINED, None
    if not path.is_file():
        raise UsageError(f"--weights: there is no file {text}; type a .pth or .safetensors file")
    return path, None


def _canonical(name: str) -> str:
    try:
        variant = parse_variant(name)
    except ValueError as error:
        raise UsageError(f"--weights: {error}") from None
    if variant.is_file:
        raise UsageError(f"--weights: {name} is a model file, which holds its own weights; {_EXAMPLE}")
    return variant.name
