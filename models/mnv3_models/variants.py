"""Names of networks: `[family][-form][@width]`, such as 'v1', 'v3-large', 'small@0.75'; `module:function`; a file's."""

from __future__ import annotations

import difflib
import keyword
import re
from dataclasses import dataclass

MIN_WIDTH, MAX_WIDTH = 0.01, 10.0
OWN = "own"
"""The family of networks that a function of the user's makes; see `mnv3_models.own`."""
FILE = "file"
"""The family of networks that are a file of some runtime's; nothing here builds them."""
FILE_SUFFIXES = (".onnx", ".tflite", ".pt2", ".pt", ".pte", ".xml")

_TITLES = {
    "v1": "MobileNetV1",
    "v2": "MobileNetV2",
    "v3-large": "MobileNetV3-Large",
    "v3-small": "MobileNetV3-Small",
    "v3-large-minimal": "MobileNetV3-Large minimalistic",
    "v3-small-minimal": "MobileNetV3-Small minimalistic",
}
_ALIASES = {
    name.removeprefix("v3-"): name for name in _TITLES if name.startswith("v3-")
}  # 'large', 'small', 'large-minimal', 'small-minimal'


class UnknownVariantError(ValueError):
    """No network has this name. The message offers the nearest ones."""


@dataclass(frozen=True)
class Variant:
    """One network: an architecture at a width."""

    family: str
    """v1, v2, v3, own or file."""
    form: str
    """'' for V1 and V2; large, small, large-minimal or small-minimal for V3; `module:function` for an own model; the
    file's name for a file."""
    width: float = 1.0
    input_size: int = 224
    """Pixels along each side of the images the published figures are for."""

    @property
    def is_own(self) -> bool:
        """Whether a function of the user's makes it, and not this package."""
        return self.family == OWN

    @property
    def is_file(self) -> bool:
        """Whether it is a file that some runtime reads, and not built by Python code."""
        return self.family == FILE

    @property
    def base(self) -> str:
        """The name without the width."""
        if self.is_own or self.is_file:
            return self.form
        return f"{self.family}-{self.form}" if self.form else self.family

    @property
    def name(self) -> str:
        """The canonical name: aliases expanded, '@1.0' left out."""
        return self.base if self.width == 1.0 else f"{self.base}@{_format_width(self.width)}"

    @property
    def title(self) -> str:
        """The name a reader knows, such as 'MobileNetV3-Large 0.75x'; of an own model its `module:function`."""
        title = _TITLES.get(self.base, self.base)
        return title if self.width == 1.0 else f"{title} {_format_width(self.width)}x"


def list_variants() -> tuple[str, ...]:
    """Canonical names at width 1.0; each takes '@width'."""
    return tuple(_TITLES)


def parse_variant(name: str, width: float | None = None) -> Variant:
    """Read a variant's name. Nothing is imported, so an own model's module need not be there.

    Args:
        name: `[family][-form][@width]`, capitals do not matter; or `module:function` or the name of a model file,
            taken as it is written.
        width: width multiplier, for callers that hold it apart from the name.

    Raises:
        UnknownVariantError: no variant has this name.
        ValueError: a width is no number or out of range, or `width` contradicts the name's; a name with a colon
            is no `module:function`, or has a width.
    """
    if ":" in name:
        return _parse_own(name.strip(), width)
    if name.strip().endswith(FILE_SUFFIXES):
        return Variant(FILE, name.strip())
    base, at, suffix = name.strip().lower().partition("@")
    base = _ALIASES.get(base, base)
    if base not in _TITLES:
        raise UnknownVariantError(_unknown(name, base, at + suffix))
    family, _, form = base.partition("-")
    written = _parse_width(name, suffix) if at else None
    if width is not None:
        _check_width(f"width {width}", width)
        if written not in (None, width):
            raise ValueError(f"'{name}' and width={width} contradict each other; give the width once")
    chosen = written if width is None else width
    return Variant(family, form, 1.0 if chosen is None else float(chosen))


def _parse_own(name: str, width: float | None) -> Variant:
    module, _, function = name.partition(":")
    wanted = "expected MODULE:FUNCTION, such as 'mynet:tiny' for the function tiny() of mynet.py"
    if width is not None or "@" in name:
        raise ValueError(
            f"'{name}' is a model of your own and takes no width; write a function for each width, such as "
            f"'{name.partition('@')[0]}_half'"
        )
    if not function:
        built_in = f"; the built-in network is '{module}'" if _ALIASES.get(module, module) in _TITLES else ""
        raise ValueError(f"'{name}' names no function after the colon; {wanted}{built_in}")
    if not module:
        raise ValueError(f"'{name}' names no module before the colon; {wanted}")
    if "/" in module or module.endswith(".py"):
        path = module.removesuffix(".py")
        folder, _, stem = path.rpartition("/")
        where = f" and run it in the folder {folder or '/'}" if "/" in path else ""
        raise ValueError(f"'{module}' is a file, not a module; type '{stem}:{function}'{where}")
    if not all(_is_name(part) for part in module.split(".")):
        raise ValueError(f"'{module}' in '{name}' is no name of a Python module; {wanted}")
    if not _is_name(function):
        plain = function.removesuffix("()")
        advice = f"type '{module}:{plain}'" if _is_name(plain) else wanted
        raise ValueError(f"'{function}' in '{name}' is no name of a function; {advice}")
    return Variant(OWN, name)


def _is_name(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text)


def _parse_width(name: str, text: str) -> float:
    # Not every text float() takes: 'nan', 'inf' and '1_0' are no widths anybody means.
    if re.fullmatch(r"-?(\d+\.?\d*|\.\d+)", text) is None:
        raise ValueError(f"the width in '{name}' is no number; write it as in 'v3-large@0.75'")
    _check_width(f"the width in '{name}'", float(text))
    return float(text)


def _check_width(what: str, width: float) -> None:
    if not MIN_WIDTH <= width <= MAX_WIDTH:  # also refuses nan
        raise ValueError(f"{what} is out of range; expected {MIN_WIDTH} to {MAX_WIDTH:g}, such as 0.75")


def _format_width(width: float) -> str:
    return repr(width).removesuffix(".0")


def _unknown(name: str, base: str, width: str) -> str:
    plain = base.replace("_", "-").replace("mobilenet-", "").replace("mobilenet", "")
    known = [*_TITLES, *_ALIASES]
    near = [n for n in _TITLES if plain and n.startswith(plain)]
    near = near or difflib.get_close_matches(plain, known, n=3, cutoff=0.5)
    near = list(dict.fromkeys(_ALIASES.get(n, n) + width for n in near))
    if near:
        return f"unknown variant '{name}'; did you mean {' or '.join(near)}?"
    return (
        f"unknown variant '{name}'; known are {', '.join(_TITLES)}, each also with a width as in 'v2@0.5', "
        "and a model of your own as MODULE:FUNCTION"
    )
