"""`mnv3-bench history`: trends and changes over many runs, and how runs get into a history. Measures nothing."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mnv3_bench.errors import ExitCode, UsageError
from mnv3_reports.escaping import plain
from mnv3_reports.units import counted, megabytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mnv3_reports.history.adding import Added
    from mnv3_reports.history.places import Place
    from mnv3_reports.history.query import Question

STORE = "mnv3-history"
RUNS = "mnv3-runs"

app = typer.Typer(
    rich_markup_mode=None,
    invoke_without_command=True,
    help="Trends and lasting changes over many runs, with the versions and commits that changed there. Alone it asks "
    "a history; add, import, compact and prune look after one.",
)

_Store = Annotated[
    str, typer.Option(help="Folder or fsspec URL (such as s3://bucket/history) of the history.")
]


@app.callback()
def ask(
    context: typer.Context,
    cell: Annotated[
        str,
        typer.Option(help="Cells, such as 'v3-small/onnxruntime*'; a whole key also says threads and batch."),
    ] = "*",
    since: Annotated[
        str | None, typer.Option(help="Runs from a date on, or of the last 90d, 12w, 6m, 2y. Default: all.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Runs before a date, such as 2026-01-31.")] = None,
    store: Annotated[
        list[str] | None,
        typer.Option(
            help="Folder or fsspec URL of a history, or of run directories; may be given again. "
            f"Default: {STORE} and {RUNS}, where they are."
        ),
    ] = None,
    metric: Annotated[
        str,
        typer.Option(
            help="latency, p90, p99, minimum, ratio-to-eager, memory, size, cold-start or accuracy."
        ),
    ] = "latency",
    host: Annotated[
        str, typer.Option(help="Hosts, such as 'pi5-*': of a fleet, or named by history add --host.")
    ] = "*",
    output: Annotated[
        str | None,
        typer.Option(help="Folder to write history.md with charts, and history.html to. Default: none."),
    ] = None,
) -> None:
    """Show how cells' figures went over time, and where they changed for good."""
    if context.invoked_subcommand is not None:
        return
    with _one_line():
        from mnv3_reports.history import metrics, report
        from mnv3_reports.history.dates import moment
        from mnv3_reports.history.query import Question, opened
        from mnv3_reports.history.trends import trends
        from mnv3_reports.parts import to_markdown

        now = datetime.now(UTC)
        question = Question(
            metrics.metric(metric),
            cell,
            moment(since, "--since", now) if since is not None else None,
            moment(until, "--until", now) if until is not None else None,
            host,
        )
        with opened([_place(name) for name in store or _usual()], question) as history:
            found = trends(history)
            if not found:
                there = history.some("cell" if question.hosts == "*" else "host")
                raise UsageError(_no_match(question, there, since, until))
            parts = report.report_of(found, question, history.sources)
        print(to_markdown(None, parts), end="")
        if output is not None:
            from mnv3_reports.history.writer import write_pages

            for path in write_pages(parts, found, question.metric, Path(output)):
                print(path)


@app.command()
def add(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN…", help="Folders of runs, or folders that hold some.")
    ],
    store: _Store = STORE,
    commit: Annotated[
        str | None,
        typer.Option(
            help="Commit of what was measured, such as $(git rev-parse HEAD): a run does not record it."
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            help="What to call the machine, such as $(hostname): a run does not record it. A fleet's runs have their "
            "hosts' names."
        ),
    ] = None,
) -> ExitCode:
    """Put runs into a history: a small file each. What is there already stays; months that are over become one file."""
    from mnv3_reports.history.adding import add_runs, run_directories

    with _one_line():
        place = _place(store)
        found = run_directories(map(Path, runs))
        for added in add_runs(found, place, repository_commit=commit, host=host):
            _tell(added)
    return ExitCode.DONE


@app.command("import")
def import_(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE…",
            help="pytest-benchmark's JSON, results files of asv (results/MACHINE/COMMIT-….json), or CSV files of "
            "timm's benchmark.py.",
        ),
    ],
    store: _Store = STORE,
    date: Annotated[
        str | None, typer.Option(help="When a CSV of timm was measured, such as 2026-01-31.")
    ] = None,
    machine: Annotated[
        str | None, typer.Option(help="What to call the machine of a CSV of timm. Default: the file's name.")
    ] = None,
) -> ExitCode:
    """Put figures of other tools into a history, as series of their own: they have no intervals and no fingerprints."""
    from mnv3_reports.history.adding import add_rows, tidy
    from mnv3_reports.history.dates import moment
    from mnv3_reports.history.imported import import_file

    with _one_line():
        place = _place(store)
        now = datetime.now(UTC)
        on = moment(date, "--date", now) if date is not None else None
        for name in files:
            found = import_file(Path(name), now=now, date=on, machine=machine)
            _tell(add_rows(found.rows, place, name))
            if found.left_out:
                print(
                    f"{plain(name)}: {counted(found.left_out, 'figure')} left out: no time, no memory, or failed"
                )
        tidy(place)
    return ExitCode.DONE


@app.command()
def compact(store: _Store = STORE) -> ExitCode:
    """Put the files of every month together, also of the one that is not over. Readers and writers may go on."""
    from mnv3_reports.history.compaction import by_month, compact_month

    with _one_line():
        place = _place(store)
        months = by_month(place.files())
        if not months:
            raise UsageError(f"'{store}' holds no history; type mnv3-bench history add RUN --store {store}")
        done = [found for month in months if (found := compact_month(place, month)) is not None]
        for month in done:
            print(
                f"{month.month}: {counted(month.files, 'file')} with {counted(month.rows, 'row')} became one"
            )
        if not done:
            print("every month is one file already")
    return ExitCode.DONE


@app.command()
def prune(
    keep_raw: Annotated[
        str, typer.Option(help="Raw samples of the last 90d, 12w, 6m or 2y stay; older ones go.")
    ],
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN…", help=f"Folders of runs, or folders that hold some. Default: {RUNS}."),
    ] = None,
    store: _Store = STORE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> ExitCode:
    """Remove journals and samples of old runs. Their summaries are in the history before anything goes."""
    from mnv3_reports.history.dates import span
    from mnv3_reports.history.pruning import prune as pruned
    from mnv3_reports.history.rows import naive

    with _one_line():
        place = _place(store)
        now = datetime.now(UTC)
        try:
            before = naive(now) - span(keep_raw, "--keep-raw")
        except OverflowError:
            raise UsageError(f"--keep-raw {keep_raw} is before all runs; type for example 90d") from None
        freed = 0
        for found in pruned([Path(name) for name in runs or [RUNS]], place, before, now, dry=dry_run):
            freed += found.bytes
            name = plain(str(found.directory))
            what = f"{megabytes(found.bytes)} MB {'would go' if dry_run else 'went'}"
            print(f"{name}: {what}" if found.kept is None else f"{name}: stays; it {plain(found.kept)}")
        print(f"{megabytes(freed)} MB of raw samples {'would go' if dry_run else 'went'}")
    return ExitCode.DONE


def _tell(added: Added) -> None:
    what = "added" if added.new else "is there already"
    print(f"{plain(added.what)}: {what}, {counted(added.cells, 'cell')} ({added.name})")


def _usual() -> list[str]:
    found = [name for name in (STORE, RUNS) if Path(name).is_dir()]
    if not found:
        raise UsageError(f"there is neither {STORE} nor {RUNS} here; type --store with a folder or URL")
    return found


def _place(given: str) -> Place:
    from mnv3_reports.history.places import open_place

    return open_place(given)


def _no_match(question: Question, names: list[str], since: str | None, until: str | None) -> str:
    span = f"{f' since {since}' if since else ''}{f' until {until}' if until else ''}"
    there = f"; there are for example {', '.join(map(plain, names))}" if names else ""
    hosts = ""
    if question.hosts != "*":
        hosts = f" on hosts '{question.hosts}'"
        there = there or "; no run has a host's name: history add --host gives one"
    wider = " (or a wider span)" if span else ""
    other = "--cell, --metric or --host" if hosts else "--cell or --metric"
    return f"no {question.metric.name} of cells '{question.cells}'{hosts}{span}{there}; type another {other}{wider}"


@contextmanager
def _one_line() -> Iterator[None]:
    """What a history cannot do is one line."""
    from mnv3_reports.history.places import HistoryError
    from mnv3_reports.rundir import RunDirectoryError

    try:
        yield
    except (HistoryError, RunDirectoryError) as error:
        sys.stdout.flush()
        raise UsageError(str(error)) from None
