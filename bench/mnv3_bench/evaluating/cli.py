"""`mnv3-bench evaluate` as it is typed. Everything heavy is imported when it runs."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from mnv3_bench.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from mnv3_reports.record import Run


def evaluate(
    variants: Annotated[
        str | None,
        typer.Option(help="Networks, such as large,small. Default: those that the weights are of."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A model file, as 'run' takes it and 'export' writes it; may be given again. TorchScript, .pt2 and "
            "module:function execute code: evaluate only what you trust."
        ),
    ] = None,
    input: Annotated[  # noqa: A002 - the flag's name
        list[str] | None, typer.Option(help="What such a file takes, where it leaves sizes open.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Weights: FILE, or variant=FILE,… (.pth, .safetensors, the folder of 'train', torchvision:NAME)."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Labelled images: digits, imagefolder:PATH[,labels=FILE] or npz:FILE. Default: digits."
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="held-out or all. Default: held-out where the data have such a part or the weights were trained on "
            "them, else all but the images that calibrate."
        ),
    ] = None,
    backends: Annotated[
        str | None, typer.Option(help="Runtimes, or 'all' that are installed here. Default: all.")
    ] = None,
    max_drop: Annotated[
        str | None,
        typer.Option(
            help="Points of top-1 that a backend may lose against fp32; also decides the exit code: 0 none loses more, "
            "1 one does, 3 the images are too few to say."
        ),
    ] = None,
    keep_float: Annotated[
        int | None,
        typer.Option(
            help="So many of the most sensitive layers stay in float in quantized backends that can."
        ),
    ] = None,
    normalization: Annotated[
        str | None, typer.Option(help="imagenet, half or unit. Default: what is known of the weights.")
    ] = None,
    resolutions: Annotated[
        str | None, typer.Option(help="Pixels a side. Default: as the weights were trained, else 224.")
    ] = None,
    threads: Annotated[str | None, typer.Option(help="Threads a cell. Default: 1.")] = None,
    batch_sizes: Annotated[str | None, typer.Option(help="Images a call. Default: 1.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N. Default: cpu.")] = None,
    num_classes: Annotated[
        int | None, typer.Option(help="Outputs of the classifier. Default: as the weights say, else 1000.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights that are not given. Default: 0.")] = None,
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
    """Measure accuracy on labelled images, on every backend, paired with eager fp32."""
    from mnv3_bench.plan import Asked, make_plan
    from mnv3_bench.run import execute, open_run

    if weights is None and not model:
        raise UsageError(
            "evaluate needs trained weights; type --weights FILE (what 'mnv3-bench train' writes, or torchvision's), "
            "or --model FILE"
        )
    asked = Asked(
        variants=variants,
        references="none",
        models=model or None,
        inputs=input or None,
        weights=weights,
        data=data or "digits",
        split=split,
        backends=backends,
        max_drop=max_drop,
        keep_float=keep_float,
        normalization=normalization,
        resolutions=resolutions,
        threads=threads,
        batch_sizes=batch_sizes,
        device=device,
        num_classes=num_classes,
        seed=seed,
        output=output,
        cold=cold,
        limit_time=limit_time,
        limit_memory=limit_memory,
    )
    session = open_run(make_plan(asked, timed=False), shlex.join(["mnv3-bench", *sys.argv[1:]]))
    code = execute(session)
    _show(session.run, session.directory)
    return _verdict(session.run) if code is ExitCode.DONE and max_drop is not None else code


def _show(run: Run, directory: Path) -> None:
    from rich.console import Console

    from mnv3_reports.terminal import accuracy_lines, accuracy_table

    if sys.stdout.isatty():
        Console().print(accuracy_table(run))
    else:
        for line in accuracy_lines(run):
            print(line)
    print(f"report: {directory / 'report.md'}")


def _verdict(run: Run) -> ExitCode:
    """A drop that is shown to be above what is accepted decides; then one that may be."""
    from mnv3_reports.accuracy import drop_of, is_reference

    most = run.header.request.max_drop
    assert most is not None, "asked only where a drop is accepted"
    pairs = [
        record.accuracy.pairs
        for record in run.cells.values()
        if record.accuracy is not None and record.accuracy.pairs is not None and not is_reference(record)
    ]
    verdicts = {drop.against(most) for each in pairs if (drop := drop_of(each)) is not None}
    if "above" in verdicts:
        return ExitCode.REGRESSION
    return ExitCode.INCONCLUSIVE if "not told apart" in verdicts else ExitCode.DONE
