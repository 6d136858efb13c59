"""`mnv3-bench gate` as it is typed. Everything heavy is imported when it runs."""

from __future__ import annotations

import shlex
import sys
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Annotated

import typer

from mnv3_bench.errors import ExitCode

if TYPE_CHECKING:
    from mnv3_bench.gate.command import GateAsked


def gate(
    base: Annotated[
        str | None,
        typer.Option(
            help="What to compare with: a variant, a weights or model file, git:REF, python:PATH of an interpreter, "
            "or here."
        ),
    ] = None,
    head: Annotated[str | None, typer.Option(help="What may have become slower; the same forms.")] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            help="Instead of two arms: compare what is here with FILE of an earlier 'run --save-baseline FILE'."
        ),
    ] = None,
    control: Annotated[
        str | None,
        typer.Option(
            help="With --baseline: compare ratios to this cell, such as v1/onnxruntime, which works across machines."
        ),
    ] = None,
    variants: Annotated[
        str | None,
        typer.Option(
            help="Networks, where the arms do not name them, or module:function. Default: large,small."
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Model files or module:function, where the arms do not name them; may be given again."
        ),
    ] = None,
    input: Annotated[  # noqa: A002 - the flag's name
        list[str] | None, typer.Option(help="What such a model takes, as for 'run'.")
    ] = None,
    backends: Annotated[
        str | None,
        typer.Option(help="Runtimes, or all. Default: onnxruntime,eager; a model file's own runtime."),
    ] = None,
    threads: Annotated[str | None, typer.Option(help="Threads a cell, such as 1,2. Default: 1.")] = None,
    batch_sizes: Annotated[str | None, typer.Option(help="Images a call, such as 1,8. Default: 1.")] = None,
    resolutions: Annotated[str | None, typer.Option(help="Pixels a side. Default: 224.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N. Default: cpu.")] = None,
    margin: Annotated[
        str | None, typer.Option(help="Slowdown that is tolerated, such as 3%. Default: 3%.")
    ] = None,
    detect: Annotated[
        str | None,
        typer.Option(help="Plan for this slowdown to be found with the asked power, such as 5%."),
    ] = None,
    time_budget: Annotated[
        str | None,
        typer.Option(help="Time for measuring, such as 5m. Default: 45 s and 20 s for each further cell."),
    ] = None,
    alpha: Annotated[float | None, typer.Option(help="Chance of a false failure. Default: 0.05.")] = None,
    power: Annotated[float | None, typer.Option(help="Of finding --detect. Default: 0.8.")] = None,
    deterministic_only: Annotated[
        bool | None,
        typer.Option("--deterministic-only", help="Compare sizes, counts and fidelity only; time nothing."),
    ] = None,
    allow_different_outputs: Annotated[
        bool | None,
        typer.Option(
            "--allow-different-outputs", help="Compare arms whose networks compute different things."
        ),
    ] = None,
    inject_slowdown: Annotated[
        str | None,
        typer.Option(
            help="Slow the head down by a busy-wait of this share of each call: a test of the gate."
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Weights of both arms: FILE for one variant, or variant=FILE,….")
    ] = None,
    num_classes: Annotated[int | None, typer.Option(help="Outputs of the classifier. Default: 1000.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, inputs and order. Default: 0.")] = None,
    output: Annotated[
        str | None, typer.Option(help="Folder for reports. Default: mnv3-runs/gate-TIME.")
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(help="TOML file with these options and [gate.rules]. Default: [tool.mnv3-bench]."),
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
            help="Memory limit of each worker and of reading a --model, such as 4GB.",
        ),
    ] = None,
) -> ExitCode:
    """Compare two arms, or here with a baseline. Exit: 0 pass, 1 regression, 3 inconclusive, 4 invalid.

    git: and python: run the code they name, and so does module:function: compare only what you trust.
    """
    from mnv3_bench.config import merge, read_gate_config
    from mnv3_bench.gate import command as do
    from mnv3_bench.plan import Asked
    from mnv3_bench.run import terminations_interrupt

    asked = do.GateAsked(
        base=base,
        head=head,
        baseline=baseline,
        control=control,
        margin=margin,
        detect=detect,
        alpha=alpha,
        power=power,
        inject_slowdown=inject_slowdown,
        allow_different_outputs=allow_different_outputs,
        deterministic_only=deterministic_only,
    )
    run_asked = Asked(
        variants=variants,
        models=model or None,
        inputs=input or None,
        backends=backends,
        threads=threads,
        batch_sizes=batch_sizes,
        resolutions=resolutions,
        device=device,
        time_budget=time_budget,
        seed=seed,
        num_classes=num_classes,
        weights=weights,
        output=output,
        limit_time=limit_time,
        limit_memory=limit_memory,
    )
    of_file, gate_of_file, file = read_gate_config(config)
    merged = _merged(asked, gate_of_file)
    if merged.baseline is not None:
        from mnv3_bench.gate.against_baseline import asked_of_run

        run_merged = asked_of_run(asked, run_asked, of_file)
    else:
        run_merged = merge(run_asked, of_file)
    opened = do.open_gate(merged, run_merged, shlex.join(["mnv3-bench", *sys.argv[1:]]))
    if file is not None:
        opened.tell(f"settings from {file}")
    try:
        with terminations_interrupt():
            report = do.run_gate(opened)
    finally:
        do.forget_checkouts(opened)
    do.say(report, do.write_gate(report, opened.directory))
    return ExitCode(report.exit_code)


def selftest(
    gates: Annotated[
        int, typer.Option(help="Gates for each condition, those recorded before included.")
    ] = 10,
    loads: Annotated[
        str, typer.Option(help="Background loads to start: idle, steady, bursty, one-arm.")
    ] = "idle,steady,bursty",
    inject: Annotated[
        str, typer.Option(help="Slowdowns of the head, such as 0,5%,10%; 0 is identical arms.")
    ] = "0",
    variants: Annotated[str, typer.Option(help="The network of both arms.")] = "small",
    backends: Annotated[
        str, typer.Option(help="Runtimes; each is a cell of every gate.")
    ] = "onnxruntime,onnxruntime-int8,eager,torchscript",
    time_budget: Annotated[str | None, typer.Option(help="Of one gate. Default: as gate has it.")] = None,
    simulate: Annotated[
        int, typer.Option(help="Gates to simulate for each condition from what was recorded.")
    ] = 0,
    output: Annotated[str, typer.Option(help="Folder of the recordings; a later call goes on from them.")] = (
        "mnv3-runs/gate-selftest"
    ),
) -> ExitCode:
    """Test the gate on itself: identical arms and slowdowns made on purpose, idle and under load. Takes hours."""
    from pathlib import Path

    from mnv3_bench.gate import selftest as do
    from mnv3_bench.gate.simulation import epochs_of
    from mnv3_bench.gate.simulation import simulate as draw
    from mnv3_bench.plan import Asked
    from mnv3_bench.run import terminations_interrupt
    from mnv3_reports.rundir import write_text

    wanted = do.conditions(loads, inject)
    asked = Asked(variants=variants, backends=backends, time_budget=time_budget)
    directory = Path(output)

    def tell(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    with terminations_interrupt():
        traces = do.run_selftest(directory, wanted, gates, asked, tell)
    simulated = []
    for condition in wanted if simulate else ():
        sources = epochs_of(traces, condition.load)
        if sources:
            simulated.append(draw(sources, condition, simulate))
    text = do.to_markdown(traces, simulated, shlex.join(["mnv3-bench", *sys.argv[1:]]))
    print(text)
    print(f"report: {write_text(directory / 'selftest.md', text)}")
    return ExitCode.DONE


def _merged(first: GateAsked, second: GateAsked) -> GateAsked:
    """What was typed, and where nothing was, what the file says. A kind of gate that was typed is the only one."""
    if first.baseline is not None:
        second = replace(second, base=None, head=None)
    elif first.base is not None or first.head is not None:
        second = replace(second, baseline=None, control=None)
    typed = {f.name: getattr(first, f.name) for f in fields(first) if f.name not in ("rules", "rules_from")}
    return replace(second, **{name: value for name, value in typed.items() if value is not None})
