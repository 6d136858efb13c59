"""Published checkpoints by name or URL, with a progress bar on a terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mnv3_bench.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


def downloaded(name: str) -> tuple[Path, str | None]:
    """The file of this name, from the cache or the network, and the variant it is of where that is known.

    Raises:
        UsageError: there is no such name, or it cannot be had; the message says which file to put where.
    """
    import mnv3_models.downloads as downloads

    try:
        if not sys.stderr.isatty():
            return downloads.resolve(name), downloads.variant_of(name)
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(name, total=None)
            path = downloads.resolve(
                name, progress=lambda done, total: bar.update(task, completed=done, total=total)
            )
        return path, downloads.variant_of(name)
    except downloads.DownloadError as error:
        raise UsageError(f"--weights: {error}") from None
