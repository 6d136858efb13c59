"""A PyTorch cell's time by operator: PyTorch's profiler, or oneDNN's log where code is compiled past the dispatcher."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from mnv3_bench.backends import _pacing, _torch_explain
from mnv3_bench.backends.base import OperatorTime, Profile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mnv3_bench.backends._torch import TorchSession
    from mnv3_bench.backends.base import Arrays

TRACE = "torch.pt.trace.json"
TRACED = 3
"""Calls of the trace, which has shapes, memory and FLOPs and is no good for timing."""
_MODULE = "module "
_GENERATED = "cpp_fused"
"""What inductor's names of its kernels start with; the rest of a name is what it is fused of."""


def operators(
    session: TorchSession, calls: Sequence[Arrays], folder: Path, *, precision: str = "fp32"
) -> Profile:
    """Profile a session by the operators that PyTorch dispatches. It is closed afterwards.

    An operator is one that the network itself calls; its time holds what it calls in turn. A repeat is a profiled call.
    Between operators runs Python, which no operator's time holds.

    Args:
        session: whose callable is a module, a script or a compiled function.
        calls: inputs of several calls.
        folder: where the trace goes.
        precision: that its arithmetic is in, unless the operator's name tells another.
    """
    staged = [session.stage(inputs) for inputs in calls]
    _pacing.warm_up(session.run, staged)
    found: list[list[Any]] = []

    plain: list[float] = []
    under: list[float] = []
    for repeat in range(_pacing.REPEATS):
        given = staged[repeat % len(staged)]
        plain.append(_pacing.seconds(session.run, given))
        with _profiler() as profiler:
            under.append(_pacing.seconds(session.run, given))
        found.append(_called(profiler))
    modules = _modules(session, staged[0])
    _trace(session, staged, folder / TRACE)
    session.close()
    usual = _usual([tuple(event.name for event in events) for events in found])
    kept = [events for events in found if tuple(event.name for event in events) == usual]
    told = dict(enumerate(path for _, path in modules)) if tuple(name for name, _ in modules) == usual else {}
    return Profile(
        by=f"PyTorch profiler, {len(kept)} calls one at a time",
        operators=tuple(
            OperatorTime(
                name=same[0].name,
                operation=_operation(same[0]),
                seconds=tuple(event.cpu_time_total / 1e6 for event in same),
                precision=_precision(same[0].name, precision),
                module=told.get(place),
            )
            for place, same in enumerate(zip(*kept, strict=True))
        ),
        plain=tuple(plain),
        profiled=tuple(under),
        complete=False,
        trace=TRACE,
    )


def logged(session: TorchSession, calls: Sequence[Arrays], folder: Path) -> Profile:
    """Profile a session whose operators are compiled into one program, by oneDNN's log. It is closed afterwards.

    The program's own loops are in no log: they are what is left of the call.
    """
    staged = [session.stage(inputs) for inputs in calls]
    _pacing.warm_up(session.run, staged)
    plain: list[float] = []
    logs = []
    for repeat in range(_pacing.REPEATS):
        given = staged[repeat % len(staged)]
        plain.append(_pacing.seconds(session.run, given))
        logs.append(_torch_explain.logged_call(session, given))
    _trace(session, staged, folder / TRACE)
    session.close()
    usual = _usual([tuple(each.kind for each in log) for log in logs])
    kept = [log for log in logs if tuple(each.kind for each in log) == usual]
    return Profile(
        by=f"oneDNN's log, {len(kept)} calls",
        operators=tuple(
            OperatorTime(
                name=f"oneDNN {same[0].kind}",
                operation=f"{same[0].kind} ({same[0].implementation})",
                seconds=tuple(each.seconds for each in same),
                precision=same[0].precision,
            )
            for same in zip(*kept, strict=True)
        ),
        plain=tuple(plain),
        profiled=(),
        complete=False,
        trace=TRACE,
    )


@contextmanager
def kernels_named(modules: Sequence[Any]) -> Iterator[None]:
    """While open, PyTorch's profiler sees the kernels of these generated Python modules, by their names."""
    from torch.profiler import record_function

    def seen(name: str, kernel: Any) -> Any:
        def run(*arguments: Any) -> Any:
            with record_function(name):
                return kernel(*arguments)

        return run

    originals = [
        (module, name, value)
        for module in modules
        for name, value in vars(module).items()
        if name.startswith(_GENERATED) and callable(value)
    ]
    for module, name, value in originals:
        setattr(module, name, seen(name, value))
    try:
        yield
    finally:
        for module, name, value in originals:
            setattr(module, name, value)


def _profiler(**options: Any) -> Any:
    from torch.profiler import ProfilerActivity, profile

    return profile(activities=[ProfilerActivity.CPU], acc_events=True, **options)


def _called(profiler: Any) -> list[Any]:
    """The operators that the network itself calls, in order: those within no other one."""
    events = sorted(profiler.events(), key=lambda event: event.time_range.start)
    return [
        event
        for event in events
        if _is_operator(event) and not any(_is_operator(outer) for outer in _around(event))
    ]


def _is_operator(event: Any) -> bool:
    """Whether it is no annotation, such as a step of the profiler or a part of compiled code."""
    name: str = event.name
    return name.startswith(_GENERATED) or ("::" in name and not name.startswith(_MODULE))


def _around(event: Any) -> Iterator[Any]:
    """What an event lies within, the innermost first."""
    while event.cpu_parent is not None:
        event = event.cpu_parent
        yield event


def _usual(sequences: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """What most calls ran."""
    return max(sequences, key=sequences.count)


def _modules(session: TorchSession, given: Any) -> list[tuple[str, str]]:
    """Each operator of a call and the innermost module that calls it; nothing where none can be asked."""
    network = session.call
    if not _has_modules(network):
        return []
    with _annotated(network), _profiler() as profiler:
        session.run(given)
    return [
        (event.name, next((outer.name.removeprefix(_MODULE) for outer in _around(event)), ""))
        for event in _called(profiler)
    ]


def _has_modules(network: Any) -> bool:
    """Whether modules are called: a script or an exported program has only a graph."""
    from torch import fx, jit, nn

    return isinstance(network, nn.Module) and not isinstance(network, jit.ScriptModule | fx.GraphModule)


@contextmanager
def _annotated(network: Any) -> Iterator[None]:
    """While open, PyTorch's profiler sees which module runs, where there are modules."""
    from torch.profiler import record_function

    open_ranges: list[Any] = []

    def enter(name: str) -> Any:
        def hook(*_: Any) -> None:
            opened = record_function(_MODULE + name)
            opened.__enter__()  # type: ignore[no-untyped-call]
            open_ranges.append(opened)

        return hook

    def leave(*_: Any) -> None:
        open_ranges.pop().__exit__(None, None, None)

    with ExitStack() as hooks:
        for name, module in network.named_modules() if _has_modules(network) else ():
            hooks.enter_context(module.register_forward_pre_hook(enter(name)))
            hooks.enter_context(module.register_forward_hook(leave))
        yield


def _operation(event: Any) -> str:
    """The operator and, where that is another, the one within it that the time is spent in."""
    inner = event
    while inner.cpu_children:
        dearest = max(inner.cpu_children, key=lambda child: child.cpu_time_total)
        if dearest.cpu_time_total <= inner.cpu_time_total / 2:
            break
        inner = dearest
    names = dict.fromkeys(each.name.removeprefix("aten::") for each in (event, inner))
    return " → ".join(names)


def _precision(name: str, usual: str) -> str:
    return (
        "int8" if "dynamic" in name or "quantized" in name or "qlinear" in name or "qconv" in name else usual
    )


def _trace(session: TorchSession, staged: Sequence[Any], path: Path) -> None:
    """Write a trace of a few calls with shapes, memory and FLOPs."""
    from torch.profiler import schedule

    steps = schedule(wait=0, warmup=1, active=TRACED, repeat=1)
    with (
        _annotated(session.call),
        _profiler(
            record_shapes=True,
            profile_memory=True,
            with_flops=True,
            schedule=steps,
            on_trace_ready=lambda profiler: profiler.export_chrome_trace(str(path)),
        ) as profiler,
    ):
        for step in range(1 + TRACED):
            session.run(staged[step % len(staged)])
            profiler.step()
