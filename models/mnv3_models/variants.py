"""Names of networks: `[family][-form][@width]`, such as 'v1', 'v3-large', 'small@0.75'; `module:function`; a file's.

The two main forms of V3 also come with one or several ingredients changed, as suffixes: 'small-no-se-no-hswish@0.75'.
"""

from __future__ import annotations

import contextlib
import difflib
import keyword
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

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

CHANGEABLE = ("v3-large", "v3-small")
"""Networks that take the suffixes of `CHANGES`."""
CHANGES = {
    "no-se": "without squeeze-and-excitation",
    "no-hswish": "without hard-swish",
    "no-residual": "without residual additions",
    "no-kernel5": "without 5×5 kernels",
    "composed-hswish": "with composed hard-swish",
    "se-hswish": "with hard-swish inside squeeze-and-excitation",
    "unskipped": "with an expansion in every block",
}
"""Suffixes in their canonical order, and how a title says them; `mnv3_models.ablations` describes them."""
_CONTRADICTIONS = {
    ("no-se", "se-hswish"): "the squeeze-and-excitation that -se-hswish changes",
    ("no-hswish", "composed-hswish"): "the hard-swish that -composed-hswish composes",
    ("no-hswish", "se-hswish"): "the hard-swish that -se-hswish adds to",
}
"""Pairs that cannot both hold, and what the first leaves out that the second needs."""
_CHANGE = f"-({'|'.join(CHANGES)})(?=-|$)"


class UnknownVariantError(ValueError):
    """No network has this name. The message offers the nearest ones."""


@dataclass(frozen=True)
class Variant:
    """One network: an architecture at a width."""

    family: str
    """v1, v2, v3, own or file."""
    form: str
    """'' for V1 and V2; large, small, large-minimal or small-minimal for V3, the first two also with suffixes as in
    small-no-se; `module:function` for an own model; the file's name for a file."""
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
    def changes(self) -> tuple[str, ...]:
        """Suffixes, in the order of `CHANGES`: ('no-se', 'unskipped') of small-no-se-unskipped."""
        return tuple(re.findall(_CHANGE, self.form)) if self.family == "v3" else ()

    @property
    def unchanged(self) -> Variant:
        """The same network with nothing changed: v3-small@0.75 of v3-small-no-se@0.75."""
        return replace(self, form=self.form.partition("-")[0]) if self.changes else self

    def changed(self, *changes: str) -> Variant:
        """The same network with these changes as well as its own.

        Raises:
            ValueError: it takes none, has one of them already, or two of them contradict each other.
        """
        plain = self.unchanged
        if plain.base not in CHANGEABLE:
            raise ValueError(_takes_none(plain, changes))
        wanted = [*self.changes, *changes]
        twice = next((change for change in wanted if wanted.count(change) > 1), None)
        if twice is not None:
            raise ValueError(f"-{twice} is named twice for {plain.base}; leave one out")
        for (first, second), what in _CONTRADICTIONS.items():
            if first in wanted and second in wanted:
                raise ValueError(
                    f"-{first} and -{second} contradict each other, since -{first} leaves out {what}; leave one out"
                )
        form = "-".join((plain.form, *(change for change in CHANGES if change in wanted)))
        return replace(self, form=form)

    @property
    def name(self) -> str:
        """The canonical name: aliases expanded, '@1.0' left out."""
        return self.base if self.width == 1.0 else f"{self.base}@{_format_width(self.width)}"

    @property
    def title(self) -> str:
        """The name a reader knows, such as 'MobileNetV3-Large 0.75x without squeeze-and-excitation'; of an own model
        its `module:function`."""
        base = self.unchanged.base
        title = _TITLES.get(base, base) + ("" if self.width == 1.0 else f" {_format_width(self.width)}x")
        said = [CHANGES[change].partition(" ") for change in self.changes]
        parts = [
            f"{word} {_and([what for first, _, what in said if first == word])}"
            for word in dict.fromkeys(first for first, _, _ in said)
        ]
        return " ".join((title, ", ".join(parts))) if parts else title


def list_variants() -> tuple[str, ...]:
    """Canonical names at width 1.0; each takes '@width'. Changed forms of V3 are not listed: there are too many."""
    return tuple(_TITLES)


def parse_variant(name: str, width: float | None = None) -> Variant:
    """Read a variant's name. Nothing is imported, so an own model's module need not be there.

    Args:
        name: `[family][-form][@width]`, capitals do not matter, nor does the order of the form's suffixes; or
            `module:function` or the name of a model file, taken as it is written.
        width: width multiplier, for callers that hold it apart from the name.

    Raises:
        UnknownVariantError: no variant has this name.
        ValueError: a width is no number or out of range, or `width` contradicts the name's; suffixes contradict
            each other; a name with a colon is no `module:function`, or has a width.
    """
    if ":" in name:
        return _parse_own(name.strip(), width)
    if name.strip().endswith(FILE_SUFFIXES):
        return Variant(FILE, name.strip())
    base, at, suffix = name.strip().lower().partition("@")
    base = _ALIASES.get(base, base)
    changes: tuple[str, ...] = ()
    if base not in _TITLES:
        base, changes = _split_changes(name, base, at + suffix)
    family, _, form = base.partition("-")
    variant = Variant(family, form)
    if changes:
        try:
            variant = variant.changed(*changes)
        except ValueError as error:
            raise ValueError(f"'{name}': {error}") from None
    written = _parse_width(name, suffix) if at else None
    if width is not None:
        _check_width(f"width {width}", width)
        if written not in (None, width):
            raise ValueError(f"'{name}' and width={width} contradict each other; give the width once")
    chosen = written if width is None else width
    return replace(variant, width=1.0 if chosen is None else float(chosen))


def _split_changes(name: str, text: str, width: str) -> tuple[str, tuple[str, ...]]:
    """The network and the suffixes of a name that is none of the plain ones.

    Raises:
        UnknownVariantError: it does not begin with a network, or what follows is no suffix.
    """
    written = max(
        (each for each in (*_TITLES, *_ALIASES) if text.startswith(f"{each}-")), key=len, default=None
    )
    if written is None:
        raise UnknownVariantError(_unknown(name, text, width))
    base = _ALIASES.get(written, written)
    rest = text.removeprefix(written)
    start = re.match(f"({_CHANGE})*", rest)
    known = start[0] if start else ""
    changes = tuple(re.findall(_CHANGE, known))
    if known == rest:
        return base, changes
    if base not in CHANGEABLE:
        raise UnknownVariantError(_unknown(name, text, width))
    near = _near_changes(base + known, rest.removeprefix(known), width)
    suffixes = _and([f"-{change}" for change in CHANGES])
    advice = (
        f"did you mean {' or '.join(near)}?"
        if near
        else f"{base} takes the suffixes {suffixes}, or -minimal alone"
    )
    raise UnknownVariantError(f"unknown variant '{name}'; {advice}")


def _near_changes(start: str, rest: str, width: str) -> list[str]:
    """Names that go on with a suffix like the unknown one after `start`, and hold together."""
    possible = [*CHANGES] if parse_variant(start).changes else [*CHANGES, "minimal"]
    typed = rest.strip("-")
    near = [f"no-{typed}"] if f"no-{typed}" in CHANGES else difflib.get_close_matches(typed, possible)
    names = []
    for suffix in near:
        try:
            names.append(parse_variant(f"{start}-{suffix}{width}").name)
        except ValueError:
            continue  # it contradicts the suffixes before it, or the width is wrong as well
    return names


def _takes_none(variant: Variant, changes: tuple[str, ...]) -> str:
    listed = "".join(f"-{change}" for change in changes)
    lacks = "; it lacks se, hswish and kernel5 already" if "minimal" in variant.form else ""
    size = "large" if variant.form.startswith("large") else "small"
    return f"{variant.base} takes no {listed}, only {_and(CHANGEABLE)} do{lacks}; type v3-{size}{listed}"


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
    if found := re.fullmatch(r"([\d.]+)((?:-[a-z]\w*)+)", text):
        form = name.strip().partition("@")[0]
        raise ValueError(f"the width in '{name}' comes last; type '{form}{found[2]}@{found[1]}'")
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
    if plain != base:
        with contextlib.suppress(ValueError):
            return f"unknown variant '{name}'; did you mean {parse_variant(plain + width).name}?"
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


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
