"""Every form that a run can be written in, by name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mnv3_reports import export, journal, junit, pytest_benchmark, writer
from mnv3_reports.rundir import RUN, load_run, write_run, write_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from mnv3_reports.record import Run

PAGES = {"md": writer.REPORT, "html": writer.PAGE}
TEXTS: dict[str, tuple[str, Callable[[Run], str]]] = {
    "csv": ("cells.csv", export.to_csv),
    "json": ("cells.json", export.to_json),
    "junit": ("junit.xml", junit.to_junit),
    "pytest-benchmark": (
        "pytest-benchmark.json",
        lambda run: json.dumps(pytest_benchmark.to_pytest_benchmark(run), indent=1),
    ),
}
"""Name to the file and what makes it."""
FORMATS = (*PAGES, *TEXTS, "parquet")
USUAL = tuple(PAGES)


def write_formats(run_directory: Path, formats: Iterable[str], output: Path | None = None) -> list[Path]:
    """Write a run in some of `FORMATS`; what the run directory itself lacks or has too old is written too.

    Args:
        run_directory: of the run.
        formats: names.
        output: where to; the run directory unless given.

    Raises:
        RunDirectoryError: the directory holds no run, or a file cannot be written.
        ValueError: there is no such format.
    """
    wanted = list(dict.fromkeys(formats))
    for name in wanted:
        if name not in FORMATS:
            raise ValueError(f"there is no format '{name}'; expected {', '.join(FORMATS)}")
    run = load_run(run_directory)
    place = output or run_directory
    written = []
    if (run_directory / journal.NAME).is_file() or not (run_directory / RUN).is_file():
        written += write_run(run, run_directory)
    pages = [name for name in wanted if name in PAGES]
    if pages:
        written += writer.write_pages(run, run_directory, place, pages)
    if "parquet" in wanted and place != run_directory:
        written += write_run(run, place)
    for name, (file, render) in TEXTS.items():
        if name in wanted:
            written.append(write_text(place / file, render(run)))
    return written
