"""One thing looked at and what is said of it: its level, the facts, what to change; and how all are printed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Literal

from mnv3_bench.doctor.kernel import CPU

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Level = Literal["ok", "warning", "problem", "unknown"]

LEVELS: tuple[Level, ...] = ("problem", "warning", "unknown", "ok")
"""In the order in which they are shown."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        name: what was looked at.
        level: `ok`, `warning` (figures scatter or shift), `problem` (they cannot be relied on), or `unknown`
            (the machine does not show it).
        seen: the facts, with units; for `unknown`, what could not be read.
        advice: one sentence that says what to change. None where nothing has to be.

    Raises:
        ValueError: a warning or problem without advice, or something that is fine with it.
    """

    name: str
    level: Level
    seen: str
    advice: str | None = None

    def __post_init__(self) -> None:
        if (self.level == "ok" and self.advice) or (self.level in ("warning", "problem") and not self.advice):
            raise ValueError(
                f"{self.name}: {self.level} with advice {self.advice!r}; what is not ok has advice"
            )


def to_lines(findings: Iterable[Finding]) -> list[str]:
    """Plain text: what is worst first, advice on a line of its own, and a line that counts."""
    ordered = sorted(findings, key=lambda finding: LEVELS.index(finding.level))
    width = max((len(finding.name) for finding in ordered), default=0)
    lines = []
    for finding, following in zip_longest(ordered, ordered[1:]):
        lines.append(f"{finding.level:<7}  {finding.name:<{width}}  {finding.seen}")
        # One advice for several in a row is said once, below the last.
        if finding.advice and (following is None or following.advice != finding.advice):
            lines.append(f"{'':<7}  {'':<{width}}  -> {finding.advice}")
    return [*lines, _summary(Counter(finding.level for finding in ordered))]


def _summary(counts: Mapping[Level, int]) -> str:
    return (
        f"{count(counts['problem'], 'problem')}, {count(counts['warning'], 'warning')}; "
        f"{counts['unknown']} could not be checked, {counts['ok']} fine"
    )


def graded(name: str, seen: str, advice: str, *, warning: bool, problem: bool = False) -> Finding:
    """The worse of the two that hold, else `ok` and no advice."""
    if not (problem or warning):
        return Finding(name, "ok", seen)
    return Finding(name, "problem" if problem else "warning", seen, advice)


def unread(name: str, files: str, advice: str | None = None) -> Finding:
    """Files that are missing or may not be read."""
    return Finding(name, "unknown", f"could not read {files}", advice)


def host_decides(name: str, files: str) -> Finding:
    """Something that only the host of a virtual machine knows, below the CPUs' folder."""
    return unread(name, f"{files} below /{CPU}; in a virtual machine the host decides")


def count(number: int, noun: str) -> str:
    """A number and its noun, in the plural unless it is one."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration(seconds: float) -> str:
    """Seconds with the unit that suits them, from ns to s."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns"
