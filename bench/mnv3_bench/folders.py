"""Folders that are named by the time, where nobody named one."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

RUNS = Path("mnv3-runs")


def new_folder(now: datetime, prefix: str = "") -> Path:
    """Make a folder in `RUNS` that nobody else has: two runs may begin in one second, and a clock may be set back.

    Raises:
        OSError: it cannot be made.
    """
    RUNS.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        folder = RUNS / f"{prefix}{now:%Y-%m-%dT%H-%M-%S}{f'-{number}' if number > 1 else ''}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError("numbers do not end")
