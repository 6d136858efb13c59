"""What may be measured apart from what, and which hosts may measure it."""

from __future__ import annotations

import hashlib
import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import msgspec

from mnv3_bench.errors import UsageError
from mnv3_reports.fleet import Group, safe_name
from mnv3_reports.record import Cell

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mnv3_reports.record import Request


def patterns(on: str | None) -> tuple[str, ...]:
    """`--on 'board=pi5,board=x86*'`: each is a kind of host that measures everything.

    Raises:
        UsageError: one is no NAME=VALUE.
    """
    if on is None:
        return ()
    found = [text.strip() for text in on.split(",") if text.strip()]
    for text in found:
        if not all("=" in part.strip("=") for part in text.split("&")):
            raise UsageError(
                f"--on {text}: expected labels as workers were given them, such as board=pi5, 'board=x86*' or "
                "'board=pi5&room=2'"
            )
    if not found:
        raise UsageError("--on names no hosts; type for example --on 'board=pi5,board=x86*', or leave it out")
    return tuple(dict.fromkeys(found))


def matches(pattern: str, labels: Mapping[str, str]) -> bool:
    """Whether a host's labels fit one pattern: every NAME=VALUE of it, where a value may have * and ?."""
    wanted = [part.strip().partition("=") for part in pattern.split("&")]
    return all(name in labels and fnmatchcase(labels[name], value) for name, _, value in wanted)


def groups(cells: Sequence[Cell], kind: str) -> list[Group]:
    """Cells that are compared with each other stay together: those of equal threads, batch, resolution and device."""
    settings: dict[str, list[str]] = {}
    for cell in cells:
        settings.setdefault(cell.setting, []).append(cell.key)
    return [Group(group_name(setting, kind), kind, tuple(keys)) for setting, keys in settings.items()]


def group_name(setting: str, kind: str) -> str:
    """A name that a folder may have, and that two kinds of hosts never share."""
    short = "".join(
        f"-{name[0]}{value}"
        for name, value in (part.split("=") for part in setting.split("&"))
        if name != "device"
    )
    mark = hashlib.sha256(f"{kind}\n{setting}".encode()).hexdigest()[:6]
    return f"group{short}-{mark}"


def folder_name(name: str) -> str:
    """A host's name as that of a folder. Names come from other machines, and may be anything."""
    if safe_name(name):
        return name
    kept = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_")[:40]
    return f"{kept or 'host'}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def request_of(asked: Request, group: Group, total: int) -> Request:
    """What is asked for in one group: its cells' setting, and its share of the time."""
    cells = [Cell.from_key(key) for key in group.cells]
    share = len(cells) / total
    return msgspec.structs.replace(
        asked,
        threads=tuple(dict.fromkeys(cell.threads for cell in cells)),
        batch_sizes=tuple(dict.fromkeys(cell.batch for cell in cells)),
        resolutions=tuple(dict.fromkeys(cell.resolution for cell in cells)),
        time_budget=asked.time_budget * share,
        tune=asked.tune * share if asked.tune is not None else None,
    )
