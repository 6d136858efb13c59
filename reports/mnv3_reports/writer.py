"""The one place that writes a report to disk.

`python -m mnv3_reports.writer RUN` does it in a process of its own: drawing takes about 200 MB for a moment, which
a process that must stay small can leave to a child.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mnv3_reports import charts, class_tables, evaluation, journal, operators_csv
from mnv3_reports.drawings import Picture, drawings
from mnv3_reports.html.page import page_text
from mnv3_reports.markdown import parts_of
from mnv3_reports.parts import PAGE as PAGE
from mnv3_reports.parts import to_markdown
from mnv3_reports.rundir import RUN, RunDirectoryError, load_run, write_run, write_text
from mnv3_reports.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnv3_reports.record import Run

REPORT = "report.md"


def write_report(directory: str | Path, *, with_charts: bool = True) -> list[Path]:
    """Write the pages of a run, and its record anew where there is a journal.

    Raises:
        RunDirectoryError: the directory holds no run, or a file cannot be written.
    """
    directory = Path(directory)
    run = load_run(directory)
    written = []
    if (directory / journal.NAME).is_file() or not (directory / RUN).is_file():
        written += write_run(run, directory)
    return [*written, *write_pages(run, directory, directory, with_charts=with_charts)]


def write_pages(
    run: Run,
    directory: Path,
    output: Path,
    pages: Sequence[str] = ("md", "html"),
    *,
    with_charts: bool = True,
) -> list[Path]:
    """Write `report.md` with `charts/*.svg`, and `report.html`.

    A run that was to measure accuracy alone (`Request.timed`) gets reports of an evaluation, and `per_class.csv`;
    a profiled one also `operators.csv`.

    Args:
        run: what they are of.
        directory: of the run, which has its predictions and its journal.
        output: where they are written.
        pages: which of them.
        with_charts: whether charts are drawn.

    Raises:
        RunDirectoryError: a file cannot be written.
    """
    summary = Summary(run, directory)
    drawn = list(drawings(summary)) if with_charts else []
    parts = parts_of(summary) if run.header.request.timed else evaluation.parts_of(summary)
    per_class = None if run.header.request.timed else class_tables.to_csv(summary)
    operators = operators_csv.to_csv(run)
    written = []
    if operators is not None:
        written.append(write_text(output / operators_csv.OPERATORS, operators))
    if per_class is not None:
        written.append(write_text(output / evaluation.PER_CLASS, per_class))
    if "html" in pages:
        page = page_text(summary, parts, drawn, directory / journal.NAME)
        written.append(write_text(output / PAGE, page))
    if (output / "charts").is_symlink():
        raise RunDirectoryError(
            f"'{output / 'charts'}' is a link to another folder; remove it, charts go there"
        )
    if "md" in pages:
        pictures = []
        for drawing in drawn:
            light, dark = f"charts/{drawing.name}.svg", f"charts/{drawing.name}-dark.svg"
            drawn_light = charts.to_svg(drawing.light)
            written.append(write_text(output / light, drawn_light))
            written.append(write_text(output / dark, charts.darkened_svg(drawn_light)))
            pictures.append(Picture(drawing.title, light, dark))
        written.append(write_text(output / REPORT, to_markdown(run, parts, pictures, page=PAGE)))
    return written


def main(arguments: list[str]) -> int:
    """Write the report of the run directory that is the only argument. Prints the written paths, or one line."""
    if len(arguments) != 1:
        print("give one run directory: python -m mnv3_reports.writer RUN", file=sys.stderr)
        return 2
    try:
        written = write_report(arguments[0])
    except RunDirectoryError as error:
        print(error, file=sys.stderr)
        return 2
    print(*written, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
