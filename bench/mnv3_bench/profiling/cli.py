"""`mnv3-bench profile` as it is typed. Everything heavy is imported when it runs."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mnv3_bench.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from mnv3_reports.record import Request, Run

RUNS = Path("mnv3-runs")
_FLAGS = {"models": "model", "inputs": "input"}
"""Options that may be given again, and are then many."""


def profile(
    directory: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]", help="Folder of a profiled run, to be shown or, with --open, served."
        ),
    ] = None,
    variants: Annotated[
        str | None, typer.Option(help="Networks, such as large,small,v2@0.5. Default: large,small.")
    ] = None,
    backends: Annotated[
        str | None, typer.Option(help="Runtimes, or 'all' that are installed here. Default: all.")
    ] = None,
    references: Annotated[
        str | None, typer.Option(help="Networks to compare with, or 'none'. Default: v1,v2.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="A network of your own, as 'run' takes it; may be given again.")
    ] = None,
    input: Annotated[  # noqa: A002 - the flag's name
        list[str] | None, typer.Option(help="What such a model takes, where it leaves sizes open.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Weights: FILE, or variant=FILE,…. Default: seeded.")
    ] = None,
    threads: Annotated[str | None, typer.Option(help="Threads a cell, such as 1,2. Default: 1.")] = None,
    batch_sizes: Annotated[str | None, typer.Option(help="Images a call, such as 1,8. Default: 1.")] = None,
    resolutions: Annotated[
        str | None, typer.Option(help="Pixels a side. Default: as the weights were trained, else 224.")
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option(help="Outputs of the classifier. Default: as the weights say, else 1000.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, inputs and order. Default: 0.")] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="Of the unprofiled latencies, as 'run' has it. Default: 10%, as with 'run --quick'."
        ),
    ] = None,
    time_budget: Annotated[
        str | None, typer.Option(help="For measuring these. Default: about 2 s a cell.")
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="Folder of this run. Default: mnv3-runs/ and the time.")
    ] = None,
    cold: Annotated[
        bool | None, typer.Option("--cold", help="Build everything anew instead of using the artifact cache.")
    ] = None,
    limit_time: Annotated[
        str | None,
        typer.Option(
            "--limit-time",
            "--timeout",
            help="Limit for each order to a worker and for reading a --model, such as 60s.",
        ),
    ] = None,
    limit_memory: Annotated[
        str | None,
        typer.Option(
            "--limit-memory",
            "--worker-memory",
            help="Memory limit of each worker and of reading a --model, such as 4GB. Default: half of the machine's.",
        ),
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Print lines for a log, without bars or colour.")
    ] = False,
    open_: Annotated[
        bool,
        typer.Option(
            "--open",
            help="Serve the traces with TensorBoard on loopback: of RUN, of the last profiled run, or, with "
            "something to profile, of that.",
        ),
    ] = False,
    port: Annotated[int | None, typer.Option(help="Of TensorBoard. Default: a free one.")] = None,
) -> ExitCode:
    """Say where the time goes: every operator by its runtime's own profiler, layers, roofline, memory, traces."""
    from mnv3_bench.plan import Asked, make_plan
    from mnv3_bench.profiling.tensorboard import open_profile
    from mnv3_bench.run import execute, open_run

    asked = Asked(
        variants=variants,
        references=references,
        models=model or None,
        inputs=input or None,
        weights=weights,
        backends=backends,
        threads=threads,
        batch_sizes=batch_sizes,
        resolutions=resolutions,
        num_classes=num_classes,
        seed=seed,
        precision=precision,
        time_budget=time_budget,
        quick=True,
        output=output,
        cold=cold,
        limit_time=limit_time,
        limit_memory=limit_memory,
    )
    given = [name for name, value in vars(asked).items() if value is not None and name != "quick"]
    if port is not None and not open_:
        raise UsageError("--port is TensorBoard's; type it with --open")
    if directory is not None and given:
        flags = ", ".join("--" + _FLAGS.get(name, name).replace("_", "-") for name in given)
        raise UsageError(f"'{directory}' is a run that is there already; leave it out, or leave out {flags}")
    if directory is not None or (open_ and not given):
        folder = Path(directory) if directory is not None else _last()
        if open_:
            return open_profile(folder, port)
        _show(_profiled(folder), folder, plain=plain)
        return ExitCode.DONE
    plan = make_plan(asked)
    session = open_run(
        replace(plan, request=_with_profiles(plan.request)), shlex.join(["mnv3-bench", *sys.argv[1:]])
    )
    code = execute(session)
    _show(session.run, session.directory, plain=plain)
    if open_ and code is not ExitCode.INTERRUPTED:
        shown = open_profile(session.directory, port)
        return code if code is not ExitCode.DONE else shown
    return code


def _with_profiles(request: Request) -> Request:
    """The same request, with profiles."""
    import msgspec

    return msgspec.structs.replace(request, profiled=True)


def _last() -> Path:
    """The newest run here that has traces.

    Raises:
        UsageError: there is none.
    """
    from mnv3_bench.profiling.traces import TRACES

    found = sorted(path for path in RUNS.glob("*") if (path / TRACES).is_dir()) if RUNS.is_dir() else []
    if not found:
        raise UsageError(
            f"there is no profiled run in {RUNS}; type mnv3-bench profile --variants small --open, or the folder of one"
        )
    return found[-1]


def _profiled(folder: Path) -> Run:
    from mnv3_reports.rundir import RunDirectoryError, load_run

    try:
        run = load_run(folder)
    except RunDirectoryError as error:
        raise UsageError(str(error)) from None
    if not any(record.profiled for record in run.cells.values()):
        raise UsageError(f"{folder} has no profiles; type mnv3-bench profile --variants … to make some")
    return run


def _show(run: Run, directory: Path, *, plain: bool) -> None:
    from rich.console import Console

    from mnv3_reports.profile_terminal import plain_lines, profile_tables

    if sys.stdout.isatty() and not plain:
        console = Console()
        for table in profile_tables(run, console.width):
            console.print(table)
    else:
        for line in plain_lines(run):
            print(line)
    print(f"report: {directory / 'report.md'}")
