"""The parts of a report that say where its figures come from: request, machine, method and versions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnv3_reports import units
from mnv3_reports.cell_words import inputs_of
from mnv3_reports.escaping import code, inline, plain
from mnv3_reports.layout import escape, fenced, folded

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mnv3_reports.record import Cell, Machine, Request, Run
    from mnv3_reports.summary import Summary

METHOD = """\
Every cell has its own process, which loads a finished artifact and imports only its runtime. Cells take
turns in blocks of about 100 ms, in rounds of shuffled order. A ratio is formed within a round, then the
median over rounds is taken; its interval (Student's t on logarithms) is over epochs, each with fresh
processes. p90 to p99 carry exact order-statistic intervals for independent calls; calls of one process
are correlated, so take those as too narrow rather than too wide. Inputs are seeded, like images where
they are images, and taken in turn from a small pool."""

METHOD_OF_ACCURACY = """\
Every cell has its own process, which loads a finished artifact and answers each image once; images are decoded by
other processes in the same order for every cell. The answers of a cell are held against those of its network in eager
fp32, image by image. Intervals are at 95 %."""

STOPPED = {
    "precision": "every printed ratio is as precise as asked",
    "budget": "the time budget was spent",
    "interrupted": "it was interrupted",
    "nothing-left": "no cell was left to measure",
}
"""The record's reasons in words; any other one is printed as it is."""


def partial_notice(run: Run) -> str | None:
    """One line when the run is not whole, else None."""
    if run.lost:
        return f"DAMAGED: {'; '.join(run.lost)}. The rest of the record is whole."
    if run.finished is None:
        cause = "the run was cut off before its end"
    elif run.finished.status == "partial":
        cause = f"the run ended early ({run.finished.stopped_because})"
    else:
        return None
    return f"PARTIAL: {cause}; what follows holds what was measured until then. Go on with --resume."


def context(run: Run) -> str:
    """One line of plain text: on which machine, when, and with which of our versions."""
    machine, software = run.header.machine, run.header.software
    cpus = units.counted(machine.usable_cpus, "usable CPU")
    return (
        f"{plain(machine.cpu) or 'CPU of unknown name'}, {cpus}; {run.header.started_at[:10]}; "
        f"mnv3-bench {software.project_version}, run {run.header.run_id}"
    )


def asked(summary: Summary) -> list[str]:
    """What was asked for, and of which machine, as markdown bullets."""
    request, machine = summary.run.header.request, summary.run.header.machine
    shapes = [f"batch {listed(request.batch_sizes)}", f"pixels {listed(request.resolutions)}"]
    timing = [
        f"every printed ratio to ± {units.percent(request.precision)}",
        f"at most {units.duration(request.time_budget)} of measuring",
    ]
    forms = [variant for variant in request.variants if variant in request.ablated]
    wishes = [
        f"networks {inline(listed(v for v in request.variants if v not in request.ablated))}",
        *([f"ablated forms {inline(listed(forms))}"] if forms else []),
        *(
            [f"references {inline(listed(request.references))}"]
            if request.timed or request.references
            else []
        ),
        f"backends {listed(map(code, request.backends))}",
        f"threads {listed(request.threads)}",
        *([] if only_models(request) else shapes),
        f"device {inline(request.device)}",
        *(timing if request.timed else ["accuracy alone"]),
        *_accuracy(request),
        f"seed {request.seed}",
    ]
    if request.tune is not None:
        wishes.append(f"faster settings searched for, for at most {units.duration(request.tune)}")
    wishes += ["quick"] if request.quick else []
    wishes += ["cold (cached artifacts not used)"] if request.cold else []
    facts = [
        f"- **Asked:** {'; '.join(wishes)}.",
        *_models(request),
        f"- **Machine:** {'; '.join(_machine(machine))}.",
        f"- **Weights:** {_weights(summary)}",
    ]
    if machine.isa:
        facts.append(f"- **Instruction sets:** {inline(', '.join(machine.isa))}.")
    if machine.gpus:
        facts.append(f"- **GPUs:** {inline(', '.join(machine.gpus))}.")
    return facts


def _accuracy(request: Request) -> Iterable[str]:
    """What was asked for about accuracy."""
    if request.data is not None:
        # A path is the reader's own; which data they are is told where accuracy is.
        yield f"accuracy on {inline(request.data.partition(':')[0])}" + (
            f", {inline(request.split)}" if request.split is not None else ""
        )
    if request.max_drop is not None:
        yield f"a drop of {units.significant(request.max_drop * 100, 2)} points accepted"
    if request.recipe is not None:
        yield f"networks without weights trained by recipe {inline(request.recipe)}"
    if request.keep_float:
        yield f"the {units.counted(request.keep_float, 'most sensitive layer')} kept in float"


def only_models(request: Request) -> bool:
    """Whether every network has inputs of its own: batch and resolution were not asked for then."""
    return bool(request.models) and request.models.keys() >= {*request.variants, *request.references}


def _models(request: Request) -> Iterable[str]:
    """Networks of the user's own: what they were given as, and what they take."""
    if request.models:
        each = (
            f"{code(variant)} ({model.format}; takes {inline(inputs_of(model))})"
            for variant, model in request.models.items()
        )
        yield f"- **Networks of one's own:** {'; '.join(each)}."


def _machine(machine: Machine) -> Iterable[str]:
    cores = f", physical cores: {machine.physical_cores}" if machine.physical_cores is not None else ""
    yield f"{inline(machine.cpu) or 'CPU of unknown name'}{cores}"
    quota = f" and a cgroup quota of {machine.cpu_quota:g}" if machine.cpu_quota is not None else ""
    yield f"{machine.logical_cpus} logical CPUs, {machine.usable_cpus} usable{quota}"
    limit = machine.memory_limit_bytes
    limited = f" (cgroup limit {units.gibibytes(limit)})" if limit is not None else ""
    swap = f"swap {units.gibibytes(machine.swap_bytes)}" if machine.swap_bytes else "no swap"
    yield f"{units.gibibytes(machine.memory_bytes)} memory{limited}, {swap}"
    yield f"governor {inline(machine.governor)}" if machine.governor else "no frequency governor visible"
    yield f"virtual machine ({inline(machine.hypervisor)})" if machine.hypervisor else "no hypervisor seen"
    yield f"{inline(machine.system)}, kernel {inline(machine.kernel)}"


def _weights(summary: Summary) -> str:
    request = summary.run.header.request
    sources = {facts.variant: facts.weights for facts in summary.run.variants}
    files = [v for v in summary.variants if v in request.models and request.models[v].format != "module"]
    unfilled = [v for v in summary.variants if v not in request.weights and v not in files]
    # `module:function` is a user's own network, which makes its own weights.
    own = [variant for variant in unfilled if ":" in variant]
    trained = [each.variant for each in summary.run.trained if each.variant in unfilled]
    seeded = [variant for variant in unfilled if variant not in own and variant not in trained]
    real = [
        f"{inline(variant)} from {inline(sources.get(variant, path))}"
        for variant, path in request.weights.items()
    ]
    parts = [f"{'; '.join(real)}."] if real else []
    if files:
        each = (f"{inline(v)} ({inline(sources[v])})" if sources.get(v) else inline(v) for v in files)
        parts.append(f"those in the files {listed(each)}.")
    if own:
        parts.append(f"as they are made by {inline(listed(own))}, after torch.manual_seed({request.seed}).")
    if trained:
        parts.append(f"trained for this run: {inline(listed(trained))}{';' if seeded else '.'}")
    if seeded:
        parts.append(
            f"random, seeded ({request.seed}) and calibrated for {inline(listed(seeded))}. Speed and memory hardly "
            "depend on them, but fidelity computed with them says little about accuracy."
        )
    return " ".join(parts) or "no network was planned."


def method(summary: Summary) -> list[str]:
    """How it was measured, as markdown paragraphs."""
    run = summary.run
    text = METHOD if run.header.request.timed else METHOD_OF_ACCURACY
    return [" ".join(text.split()), "\n".join(_course(summary)), fenced(run.header.command), _versions(run)]


def _course(summary: Summary) -> Iterable[str]:
    run = summary.run
    header, finished = run.header, run.finished
    rounds = len({(block.epoch, block.round) for block in run.blocks})
    timed = header.request.timed
    if timed:
        yield f"- Epochs: {len({block.epoch for block in run.blocks})}; rounds in all: {rounds}."
    if finished is None:
        yield "- Stopped because: the run was cut off."
    elif timed:
        reached = finished.precision_reached
        shown = f"± {units.percent(reached)}" if reached is not None else "unknown (no ratio has an interval)"
        yield f"- Precision asked: ± {units.percent(header.request.precision)}; reached: {shown}."
        yield f"- Stopped because: {STOPPED.get(finished.stopped_because) or inline(finished.stopped_because)}."
    if finished is not None and finished.phase_seconds:
        phases = finished.phase_seconds.items()
        yield f"- Time: {', '.join(f'{inline(name)} {units.duration(took)}' for name, took in phases)}."
    if not timed:
        seconds = [record.accuracy.seconds for record in run.cells.values() if record.accuracy is not None]
        if seconds:
            cells = units.counted(len(seconds), "cell")
            yield f"- Evaluating {cells}, decoding included: {units.duration(sum(seconds))} in all."
    yield f"- Seed {header.request.seed}; started {inline(header.started_at)}; run {inline(header.run_id)}."
    for resumed in run.resumed:
        same = resumed.machine.fingerprint == header.machine.fingerprint
        yield f"- Resumed {inline(resumed.resumed_at)} on {'the same' if same else '**another**'} machine."
    for note in run.notes:
        yield f"- Note: {escape(note)}"
    together = [r.inspected.side_by_side for r in run.cells.values() if r.inspected is not None]
    if max(together, default=1) > 1:
        yield f"- Load, first-call and memory figures were taken with up to {max(together)} processes side by side."
    unsteady: dict[str, list[Cell]] = {}
    everything: dict[str, list[Cell]] = {}
    for record in summary.measured:
        everything.setdefault(record.cell.backend, []).append(record.cell)
        if record.inspected is not None and not record.inspected.steady:
            unsteady.setdefault(record.cell.backend, []).append(record.cell)
    if unsteady:
        each = (
            f"{code(backend)} ({inline(summary.names.many(cells, everything[backend]))})"
            for backend, cells in unsteady.items()
        )
        yield f"- Not steady after warming up: {listed(each)}."


def _versions(run: Run) -> str:
    software = run.header.software
    packages = [f"{name} {version}" for name, version in sorted(software.packages.items())]
    commit = f" ({software.commit})" if software.commit else ""
    own = inline(f"mnv3-bench {software.project_version}{commit}; Python {software.python}")
    variables = " ".join(f"{name}={value}" for name, value in sorted(software.environment.items()))
    return folded(
        "Versions and environment",
        f"{own}; packages: {inline(listed(packages))}.\n\n"
        f"Variables set for workers: {code(variables) if variables else 'none'}.",
    )


def listed(values: Iterable[object]) -> str:
    """Values with commas, or 'none'."""
    return ", ".join(map(str, values)) or "none"
