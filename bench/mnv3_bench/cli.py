"""The command line. Only `main` ends the process; everything heavy is imported by the command that needs it."""

from __future__ import annotations

import errno
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mnv3_bench import __version__, cache_cli, history_cli
from mnv3_bench.errors import ExitCode, UsageError
from mnv3_bench.evaluating import cli as evaluating_cli
from mnv3_bench.exporting import cli as exporting_cli
from mnv3_bench.gate import cli as gate_cli
from mnv3_bench.profiling import cli as profiling_cli
from mnv3_bench.training import cli as training_cli


class _RunByDefault(TyperGroup):
    """`mnv3-bench --variants …` is `mnv3-bench run --variants …`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args:
            args = ["--help"]
        elif args[0].startswith("-") and args[0] not in ("--help", "--version", *_COMPLETION):
            args = ["run", *args]
        return super().parse_args(ctx, args)


_COMPLETION = ("--install-completion", "--show-completion")

app = typer.Typer(
    cls=_RunByDefault,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Which MobileNet, on which runtime, at which precision: measured, with intervals. "
    "'mnv3-bench --variants large,small --backends all' is the main job; "
    "an option without a command belongs to 'run'.",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"mnv3-bench {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    variants: Annotated[
        str | None,
        typer.Option(
            help="Networks, such as large,small,v2@0.5,small-minimal, or module:function. Default: large,small."
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A network of your own: FILE.onnx, .tflite, .pt2, .pt (TorchScript), .pte, .xml (OpenVINO), or "
            "module:function; may be given again. TorchScript, .pt2 and module:function execute code: measure only "
            "what you trust."
        ),
    ] = None,
    input: Annotated[  # noqa: A002 - the flag's name
        list[str] | None,
        typer.Option(
            help="What such a model takes, such as 1x3x224x224 or tokens=1x128:int64,mask=1x128:int64. Default: as the "
            "file says."
        ),
    ] = None,
    backends: Annotated[
        str | None,
        typer.Option(
            help="Runtimes, or 'all' that are installed here; with a setting as NAME:SWITCH=VALUE. Default: all."
        ),
    ] = None,
    references: Annotated[
        str | None, typer.Option(help="Networks to compare with, or 'none'. Default: v1,v2.")
    ] = None,
    threads: Annotated[str | None, typer.Option(help="Threads a cell, such as 1,2. Default: 1.")] = None,
    batch_sizes: Annotated[str | None, typer.Option(help="Images a call, such as 1,8. Default: 1.")] = None,
    resolutions: Annotated[
        str | None, typer.Option(help="Pixels a side. Default: as the weights were trained, else 224.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N. Default: cpu.")] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="Stop when every printed ratio's 95 % interval is this narrow (half width). Default: 2%."
        ),
    ] = None,
    time_budget: Annotated[
        str | None,
        typer.Option(help="Stop measuring after this long, such as 4m. Default: about 5 s a cell."),
    ] = None,
    quick: Annotated[
        bool | None, typer.Option("--quick", help="Precision 10% and about 2 s a cell: a first look.")
    ] = None,
    tune: Annotated[
        bool | None,
        typer.Option(
            "--tune",
            help="Search each backend's own switches for faster settings, on other inputs, and measure the winner "
            "beside the default.",
        ),
    ] = None,
    tune_budget: Annotated[
        str | None,
        typer.Option(help="Time for that search, such as 5m; implies --tune. Default: 20 s a cell."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Weights: FILE for one variant, or variant=FILE,… (.pth, .safetensors, the folder of 'train', "
            "torchvision:NAME). Default: seeded."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Also measure accuracy on labelled images: digits, imagefolder:PATH[,labels=FILE] or npz:FILE."
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Which of them: held-out or all. Default: never what weights were trained on."),
    ] = None,
    normalization: Annotated[
        str | None,
        typer.Option(help="Of these images: imagenet, half or unit. Default: what is known of the weights."),
    ] = None,
    max_drop: Annotated[
        str | None,
        typer.Option(help="Points of top-1 that a backend may lose against fp32; more is shown in red."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Train networks without weights on --data first, such as quick; 'mnv3-bench recipes'."
        ),
    ] = None,
    ablate: Annotated[
        str | None,
        typer.Option(
            help="Also V3's forms without an ingredient: se, hswish, residual, kernel5; or with the article's choices: "
            "composed-hswish, se-hswish, unskipped. Each is trained by --recipe (quick) on --data (digits)."
        ),
    ] = None,
    keep_float: Annotated[
        int | None,
        typer.Option(
            help="So many of the most sensitive layers stay in float in quantized backends that can."
        ),
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option(help="Outputs of the classifier. Default: as the weights say, else 1000.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, inputs and order. Default: 0.")] = None,
    output: Annotated[
        str | None, typer.Option(help="Folder of this run. Default: mnv3-runs/ and the time.")
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(help="TOML file with these options. Default: [tool.mnv3-bench] in ./pyproject.toml."),
    ] = None,
    save_baseline: Annotated[
        str | None,
        typer.Option(help="Also write what 'gate --baseline FILE' compares with later to this file."),
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="End with a line a cell, as logs want it, also on a terminal.")
    ] = False,
    resume: Annotated[str | None, typer.Option(help="Go on with an interrupted run from its folder.")] = None,
    fleet: Annotated[
        str | None,
        typer.Option(
            help="Measure on other machines: the address of a dask scheduler, such as tcp://192.168.1.5:8786, or "
            "local:N for N hosts on this one."
        ),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            help="Kinds of hosts by their labels, such as 'board=pi5,board=x86*'; each measures everything. Default: "
            "each kind of machine that is there."
        ),
    ] = None,
    fleet_wait: Annotated[
        str | None,
        typer.Option(help="How long to wait for hosts that are not there, such as 10m. Default: 60s."),
    ] = None,
    cold: Annotated[
        bool | None, typer.Option("--cold", help="Build everything anew instead of using the artifact cache.")
    ] = None,
    limit_time: Annotated[
        str | None,
        typer.Option(
            "--limit-time",
            "--timeout",
            help="Limit for each order to a worker and for reading a --model, such as 60s. Default: by phase.",
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
) -> ExitCode:
    """Measure networks on runtimes and write the comparison. This is the main job."""
    from mnv3_bench.config import merge, read_config
    from mnv3_bench.plan import Asked, make_limits, make_plan

    asked = Asked(
        variants=variants,
        references=references,
        backends=backends,
        threads=threads,
        batch_sizes=batch_sizes,
        resolutions=resolutions,
        device=device,
        precision=precision,
        time_budget=time_budget,
        seed=seed,
        num_classes=num_classes,
        weights=weights,
        data=data,
        split=split,
        normalization=normalization,
        max_drop=max_drop,
        recipe=recipe,
        ablate=ablate,
        keep_float=keep_float,
        models=model or None,
        inputs=input or None,
        tune=tune,
        tune_budget=tune_budget,
        quick=quick,
        cold=cold,
        output=output,
        limit_time=limit_time,
        limit_memory=limit_memory,
    )
    of_fleet = fleet is not None or (resume is not None and (Path(resume) / "fleet.jsonl").is_file())
    if not of_fleet and (on is not None or fleet_wait is not None):
        raise UsageError(
            "--on and --fleet-wait are about a fleet; type --fleet tcp://HOST:8786 or local:2 too"
        )
    if resume is not None:
        _only_with_resume(asked)
    else:
        from_file, file = read_config(config)
        asked = merge(asked, from_file)
        if file is not None:
            print(f"settings from {file}", file=sys.stderr)
    if of_fleet:
        return _run_on_fleet(asked, fleet, on, fleet_wait, resume, save_baseline, plain=plain)
    from mnv3_bench.run import execute, open_run, reopen

    if save_baseline is not None:
        from mnv3_bench.gate import against_baseline

        against_baseline.require_writable(Path(save_baseline))
    if resume is not None:
        session = reopen(Path(resume), make_limits(asked))
    else:
        session = open_run(make_plan(asked), shlex.join(["mnv3-bench", *sys.argv[1:]]))
    code = execute(session)
    _show(session.run, session.directory, plain=plain)
    if save_baseline is not None and code is ExitCode.INTERRUPTED:
        print("no baseline was written, since the run was interrupted; go on with --resume", file=sys.stderr)
    elif save_baseline is not None:
        for line in against_baseline.save_baseline(session.run, Path(save_baseline), session.directory):
            print(line)
    return code


def _run_on_fleet(
    asked: Any,
    address: str | None,
    on: str | None,
    wait: str | None,
    resume: str | None,
    save_baseline: str | None,
    *,
    plain: bool,
) -> ExitCode:
    from mnv3_bench.fleet import command
    from mnv3_bench.plan import make_limits, make_plan
    from mnv3_bench.quantities import seconds
    from mnv3_reports.fleet import host_runs, read_fleet

    if save_baseline is not None:
        raise UsageError(
            "--save-baseline is of one machine; after the run type mnv3-bench gate --base RUN/hosts/HOST …"
        )
    patience = seconds(wait, "--fleet-wait") if wait is not None else None
    if resume is not None:
        if on is not None:
            raise UsageError(
                "--resume goes on with what that run asked for; leave out --on, or start a new run"
            )
        directory, code = command.resume(Path(resume), make_limits(asked), address, patience)
    else:
        assert address is not None
        requested = asked.backends is not None and asked.backends != "all"
        line = shlex.join(["mnv3-bench", *sys.argv[1:]])
        plan = make_plan(asked, elsewhere=True)
        directory, code = command.start(plan, line, address, on, requested=requested, wait=patience)
    for each in host_runs(directory, read_fleet(directory)):
        print(f"{each.host.host}: {each.host.machine.cpu}, {each.host.machine.usable_cpus} CPUs")
        _show(each.run, directory / "hosts" / each.host.host, plain=plain)
    print(f"all hosts: {directory / 'report.md'}")
    return code


@app.command()
def worker(
    address: Annotated[str, typer.Argument(help="Of the dask scheduler, such as tcp://192.168.1.5:8786.")],
    label: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE, such as board=pi5; may be given again.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of this host in reports. Default: its host name.")] = None,
) -> ExitCode:
    """Join a fleet: measure here what 'mnv3-bench run --fleet' asks for, until interrupted."""
    from mnv3_bench.fleet.cluster import local_hosts, require_dask
    from mnv3_bench.fleet.wire import labels_of
    from mnv3_bench.fleet.worker import default_name, supervise

    labels = labels_of(label or [])
    require_dask()
    if local_hosts(address) is not None:
        raise UsageError(
            f"{address} has no scheduler to join; type its address, such as tcp://192.168.1.5:8786"
        )
    supervise(address, name or default_name(), labels)
    return ExitCode.DONE


def _only_with_resume(asked: Any) -> None:
    """A resumed run is the one that was asked for then; only limits may change."""
    given = [
        name
        for name in asked.__dataclass_fields__
        if getattr(asked, name) is not None and name not in ("limit_time", "limit_memory")
    ]
    if given:
        flags = ", ".join("--" + name.replace("_", "-") for name in given)
        raise UsageError(
            f"--resume goes on with what that run asked for; leave out {flags}, or start a new run"
        )


def _show(run: Any, directory: Path, *, plain: bool) -> None:
    from rich.console import Console

    from mnv3_reports.terminal import advice_lines, plain_lines, summary_table

    if sys.stdout.isatty() and not plain:
        Console().print(summary_table(run))
    else:
        for line in plain_lines(run):
            print(line)
    for line in advice_lines(run):
        print(line)
    print(f"report: {directory / 'report.md'}")


@app.command("list")
def list_() -> ExitCode:
    """Show variants and backends, what is installed, and how to install the rest."""
    from mnv3_bench.listing import listing

    print(listing())
    return ExitCode.DONE


@app.command()
def report(
    directory: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run.")],
    format: Annotated[  # noqa: A002 - the flag's name
        str, typer.Option(help="md, html, csv, json, parquet, junit, pytest-benchmark; several with commas.")
    ] = "md,html",
    output: Annotated[str | None, typer.Option(help="Folder to write to. Default: the run's.")] = None,
) -> ExitCode:
    """Write the report of a run again, without measuring; or its figures in forms that other tools read."""
    from mnv3_reports.fleet import FleetError, is_fleet
    from mnv3_reports.formats import write_formats
    from mnv3_reports.rundir import RunDirectoryError

    names = [name.strip() for name in format.split(",") if name.strip()]
    place = Path(output) if output is not None else None
    try:
        if is_fleet(Path(directory)):
            from mnv3_reports.fleet_report import write_fleet_report

            written = write_fleet_report(Path(directory), names, place)
        else:
            written = write_formats(Path(directory), names, place)
    except (FleetError, RunDirectoryError, ValueError) as error:
        raise UsageError(f"--format: {error}" if isinstance(error, ValueError) else str(error)) from None
    for path in written:
        print(path)
    return ExitCode.DONE


@app.command()
def compare(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN RUN…", help="Folders of runs; the first is the base.")
    ],
    output: Annotated[
        str | None, typer.Option(help="Folder to write compare.md and compare.html to. Default: none.")
    ] = None,
) -> ExitCode:
    """Hold runs against the first of them: cells that got faster or slower, with intervals. Measures nothing."""
    from mnv3_reports.between import compared
    from mnv3_reports.html.page import plain_page
    from mnv3_reports.parts import to_markdown
    from mnv3_reports.rundir import RunDirectoryError, load_run, write_text

    try:
        parts = compared([(Path(name).resolve().name, load_run(name)) for name in runs])
        text = to_markdown(None, parts)
        print(text, end="")
        for name, page in (("compare.md", text), ("compare.html", plain_page(parts))) if output else ():
            print(write_text(Path(str(output)) / name, page))
    except (RunDirectoryError, ValueError) as error:
        raise UsageError(str(error)) from None
    return ExitCode.DONE


@app.command()
def hosts(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN RUN…", help="Folders of runs, each of another host; or of a run over several."
        ),
    ],
    output: Annotated[
        str | None, typer.Option(help="Folder to write hosts.md and hosts.html to. Default: none.")
    ] = None,
) -> ExitCode:
    """Put hosts beside each other: what is fastest on each, and which ranks change. Measures nothing."""
    from mnv3_reports.across import across_hosts
    from mnv3_reports.across_runs import load_hosts
    from mnv3_reports.fleet import FleetError
    from mnv3_reports.fleet_words import notes as notes_of
    from mnv3_reports.html.page import plain_page
    from mnv3_reports.parts import to_markdown
    from mnv3_reports.rundir import RunDirectoryError, write_text

    try:
        found, fleets = load_hosts(runs)
        notes = [note for fleet in fleets for note in notes_of(fleet)]
        number = "1 host" if len(found) == 1 else f"{len(found)} hosts"
        parts = across_hosts(f"MobileNet benchmark over {number}", found, notes)
        print(to_markdown(None, parts), end="")
        if output is not None:
            print(write_text(Path(output) / "hosts.md", to_markdown(None, parts, page="hosts.html")))
            print(write_text(Path(output) / "hosts.html", plain_page(parts)))
    except (RunDirectoryError, FleetError, ValueError) as error:
        raise UsageError(str(error)) from None
    return ExitCode.DONE


app.command("gate")(gate_cli.gate)
app.command("gate-selftest")(gate_cli.selftest)
app.command("export")(exporting_cli.export)
app.command("profile")(profiling_cli.profile)
app.command("evaluate")(evaluating_cli.evaluate)
app.command("train")(training_cli.train)
app.command("recipes")(training_cli.recipes)
app.add_typer(cache_cli.app, name="cache")
app.add_typer(history_cli.app, name="history")


@app.command()
def doctor(
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Also measure the noise, and what a gate could detect here."),
    ] = False,
) -> ExitCode:
    """Say what on this machine disturbs a measurement, and what to change."""
    from mnv3_bench.doctor import examine, to_lines

    for line in to_lines(examine()):
        print(line)
    if measure:
        from mnv3_bench.gate.selftest import noise_floor

        for line in noise_floor():
            print(line)
    return ExitCode.DONE


def main() -> None:
    """Entry point of the `mnv3-bench` script."""
    sys.exit(invoke(sys.argv[1:]))


def invoke(arguments: list[str]) -> int:
    """Run a command line and return its exit code. Whatever the user can mend is one line on stderr."""
    command = typer.main.get_command(app)
    try:
        code = command.main(arguments, prog_name="mnv3-bench", standalone_mode=False)
    except UsageError as error:
        return _complain(str(error), error.exit_code)
    except typer.TyperException as error:
        return _complain(error.format_message(), ExitCode.USAGE)
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - Python's own exit code for it is 1, a gate's 'regression'
        if isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            name = str(error.filename)  # typed by somebody, whatever it was typed for
            shown = name if len(name) <= 60 else f"{name[:60]}…"
            return _complain(
                f"'{shown}' cannot be looked up: {error.strerror}; type another path", ExitCode.USAGE
            )
        import traceback

        traceback.print_exc()
        return _complain("this is a fault of mnv3-bench itself; please report it", ExitCode.FAULT)
    return int(code) if isinstance(code, int) else ExitCode.DONE


def _complain(text: str, code: int) -> int:
    from mnv3_reports.escaping import plain

    print(f"mnv3-bench: {plain(text)}", file=sys.stderr)  # it may quote a stranger's file
    return int(code)


if __name__ == "__main__":
    main()
