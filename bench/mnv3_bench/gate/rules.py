"""Margins a cell: `--margin`, and the patterns of a configuration file."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import msgspec

from mnv3_bench.errors import UsageError
from mnv3_bench.plan import nearest
from mnv3_bench.quantities import size
from mnv3_reports.deterministic import Allowance, Rules

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mnv3_reports.record import Cell

DEFAULT_MARGIN = 0.03
_SIZES = ("memory", "size", "device_memory")


class RuleBook:
    """Finds the rules of a cell: every pattern that matches applies, later ones over earlier ones."""

    def __init__(self, margin: float, patterns: Mapping[str, Mapping[str, Any]], where: str) -> None:
        """Read patterns such as `{"v3-small/onnxruntime*": {"latency": "3%", "memory": "5%", "size": "0"}}`.

        Args:
            margin: of every cell's latency that no pattern says otherwise for.
            patterns: shell patterns over cell keys, or over `variant/backend` alone.
            where: the file they come from, for messages.

        Raises:
            UsageError: a rule is not known, or its value means nothing.
        """
        self.margin = margin
        self.patterns: list[tuple[str, dict[str, Any]]] = []
        for pattern, rules in patterns.items():
            if not isinstance(rules, dict):
                raise UsageError(
                    f"{where}: the rule for '{pattern}' is {rules!r}; expected a table such as "
                    '{ latency = "3%", size = "0" }'
                )
            self.patterns.append(
                (pattern, dict(_rule(name, value, f"{where}: '{pattern}'") for name, value in rules.items()))
            )

    def of(self, cell: Cell) -> Rules:
        """The rules of one cell."""
        found: dict[str, Any] = {"latency": self.margin}
        for pattern, rules in self.patterns:
            if any(fnmatchcase(name, pattern) for name in (cell.key, f"{cell.variant}/{cell.backend}")):
                found |= rules
        return Rules(**found)

    def unmatched(self, cells: list[Cell]) -> list[str]:
        """Patterns that no cell matches: most likely misspelt."""
        names = [name for cell in cells for name in (cell.key, f"{cell.variant}/{cell.backend}")]
        return [
            pattern for pattern, _ in self.patterns if not any(fnmatchcase(name, pattern) for name in names)
        ]


def margin(given: str | float, flag: str) -> float:
    """A tolerated slowdown such as '3%' or 0.03, as a share.

    Raises:
        UsageError: it is none, or not above zero: with a margin of zero noise alone decides.
    """
    text = str(given).strip()
    match = re.fullmatch(r"(-?\d+(?:\.\d+)?)\s*(%?)", text)
    if match is None:
        raise UsageError(f"{flag} {text} is no share; type for example 3%")
    value = float(match[1]) / (100 if match[2] else 1)
    if not 0 < value < 1:
        raise UsageError(
            f"{flag} {text} must lie above 0 and below 100 %: no machine can show that nothing got slower at all; "
            "type for example 3%"
        )
    return value


def _rule(name: str, value: Any, where: str) -> tuple[str, Any]:
    known = tuple(msgspec.structs.fields(Rules))
    names = [field.name for field in known]
    field = name.replace("-", "_")
    if field not in names:
        raise UsageError(
            f"{where}: '{name}' is no rule{nearest(name, names) or '; known are ' + ', '.join(names)}"
        )
    if field == "latency":
        return field, margin(value, f"{where}: latency")
    return field, _allowance(field, str(value).strip(), f"{where}: {name}")


def _allowance(field: str, text: str, where: str) -> Allowance:
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", text):
        if field == "fidelity":
            raise UsageError(f"{where} = '{text}': fidelity is in decibels; write for example '0.5 dB'")
        return Allowance(text, relative=float(match[1]) / 100)
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*dB", text):
        if field == "fidelity":
            return Allowance(text, absolute=float(match[1]))
    elif re.fullmatch(r"\d+(\.\d+)?" if field == "fidelity" else r"\d+(\.0+)?", text):
        # Counts and bytes are whole: 0.05 is most likely meant as a share.
        return Allowance(text, absolute=float(text))
    elif field in _SIZES and re.fullmatch(r"\d+(\.\d+)?\s*[kmg]?i?b", text, re.IGNORECASE):
        return Allowance(text, absolute=float(size(text, where)))
    raise UsageError(
        f"{where} = '{text}' is no allowance; write "
        + {
            "fidelity": "decibels such as '0.5 dB'",
            **dict.fromkeys(_SIZES, "'0', a share such as '5%', or a size such as '2MB'"),
        }.get(field, "'0', a share such as '5%', or a whole number")
    )
