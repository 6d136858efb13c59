"""Everything that is done with a run directory somebody else may have written: read it, and show it in every form."""

from __future__ import annotations

import io
from functools import cache
from typing import TYPE_CHECKING
from unicodedata import category

from mnv3_reports import class_tables, evaluation, export, junit, operators_csv, pytest_benchmark, terminal
from mnv3_reports.html import turns
from mnv3_reports.html.page import page_text
from mnv3_reports.markdown import parts_of
from mnv3_reports.parts import to_markdown
from mnv3_reports.profile_terminal import plain_lines, profile_tables
from mnv3_reports.rundir import RunDirectoryError, load_run, write_run
from mnv3_reports.summary import Summary

if TYPE_CHECKING:
    from pathlib import Path

    from mnv3_reports.record import Run

# It is the same chart whatever the run, and half of the time of a page.
turns.turns_chart = cache(turns.turns_chart)


def read_and_show(directory: Path) -> str | None:
    """Load the run and show it. What cannot be a run's record is refused in one line, which is returned."""
    try:
        run = load_run(directory)
    except RunDirectoryError as error:
        message = str(error)
        assert len(message.splitlines()) == 1, message
        return message
    show(run, directory)
    return None


def show(run: Run, directory: Path) -> None:
    """Every text that a run is shown in; charts, which only draw what the tables hold, are left out."""
    summary = Summary(run, directory)
    parts = parts_of(summary) if run.header.request.timed else evaluation.parts_of(summary)
    texts = [
        to_markdown(run, parts, []),
        page_text(summary, parts, [], None),
        export.to_csv(run),
        export.to_json(run),
        junit.to_junit(run),
        str(pytest_benchmark.to_pytest_benchmark(run)),
        operators_csv.to_csv(run) or "",
    ]
    if not run.header.request.timed:
        texts.append(class_tables.to_csv(summary) or "")
    write_run(run, directory / "again")
    lines = [*terminal.plain_lines(run), *terminal.accuracy_lines(run), *terminal.advice_lines(run)]
    lines += plain_lines(run)
    for line in lines:
        harmless(line)
    harmless(texts[0], several=True)  # the page holds names as data, which its script makes text of
    on_terminal(run)


def on_terminal(run: Run) -> None:
    """The tables for a terminal."""
    from rich.console import Console

    shown = Console(file=io.StringIO(), width=100, force_terminal=False)
    tables = [terminal.summary_table(run), *profile_tables(run, 100)]
    if run.evaluation is not None:
        tables.append(terminal.accuracy_table(run))
    for table in tables:
        shown.print(table)
    harmless(shown.file.getvalue(), several=True)  # type: ignore[attr-defined]


def harmless(text: str, *, several: bool = False) -> None:
    """No character that drives a terminal or hides text; no line break unless there are several lines."""
    kept = "\n\t" if several else ""
    bad = sorted({c for c in text if not c.isprintable() and c not in kept and category(c) != "Zs"})
    assert not bad, f"{bad} in what is shown"
