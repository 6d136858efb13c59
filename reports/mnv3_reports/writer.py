"""The one place that writes a report to disk.

`python -m mnv3_reports.writer RUN` does it in a process of its own: drawing takes about 200 MB for a moment, which
a process that must stay small can leave to a child.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mnv3_reports import charts, class_tables, journal, pareto, sensitivity
from mnv3_reports.evaluation import PER_CLASS, evaluation_text
from mnv3_reports.markdown import Picture, report_text
from mnv3_reports.rundir import RUN, RunDirectoryError, load_run, write_run, write_text
from mnv3_reports.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Iterator

    import altair as alt

REPORT = "report.md"


def write_report(directory: str | Path, *, with_charts: bool = True) -> list[Path]:
    """Write `report.md` and `charts/*.svg` of a run, and its record anew where there is a journal.

    A run that was to measure accuracy alone (`Request.timed`) gets a report of an evaluation, and `per_class.csv`.

    Raises:
        RunDirectoryError: the directory holds no run, or a file cannot be written.
    """
    directory = Path(directory)
    run = load_run(directory)
    written = []
    if (directory / journal.NAME).is_file() or not (directory / RUN).is_file():
        written += write_run(run, directory)
    summary = Summary(run, directory)
    pictures = []
    for name, title, chart in _charts(summary) if with_charts else ():
        path = directory / "charts" / f"{name}.svg"
        written.append(write_text(path, charts.to_svg(chart)))
        pictures.append(Picture(title, f"charts/{name}.svg"))
    if run.header.request.timed:
        return [*written, write_text(directory / REPORT, report_text(summary, pictures))]
    per_class = class_tables.to_csv(summary)
    if per_class is not None:
        written.append(write_text(directory / PER_CLASS, per_class))
    return [*written, write_text(directory / REPORT, evaluation_text(summary, pictures))]


def _charts(summary: Summary) -> Iterator[tuple[str, str, alt.Chart]]:
    """File name, title and chart, for each setting of the run."""
    for setting in summary.settings:
        suffix = "" if len(summary.settings) == 1 else f"-{_slug(summary, setting)}"
        latency = charts.latency_chart(summary, setting)
        if latency is not None:
            yield f"latency{suffix}", f"Latency by backend, {summary.describe(setting)}", latency
        trade_offs = pareto.pareto_chart(summary, setting)
        if trade_offs is not None:
            title = f"{pareto.title_of(summary, setting)}, {summary.describe(setting)}"
            yield f"pareto{suffix}", title, trade_offs
    scans = sensitivity.in_order(summary)
    for number, scan in enumerate(scans):
        layers = sensitivity.sensitivity_chart(summary, scan)
        if layers is not None:
            suffix = "" if len(scans) == 1 else f"-{number + 1}"
            yield f"sensitivity{suffix}", f"Sensitivity to int8 by layer, {scan.variant}", layers


def _slug(summary: Summary, setting: str) -> str:
    cell = next(record.cell for record in summary.run.cells.values() if record.cell.setting == setting)
    pixels = cell.resolution or "own-inputs"
    return f"{cell.device}-threads{cell.threads}-batch{cell.batch}-{pixels}".replace(":", "")


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
