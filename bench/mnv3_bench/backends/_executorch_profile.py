"""An ExecuTorch program's time by operator, from its own event tracer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnv3_bench.backends import _executorch, _executorch_explain, _pacing
from mnv3_bench.backends._artifact import About
from mnv3_bench.backends.base import OperatorTime, Profile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mnv3_bench.backends.base import Arrays


def profile(directory: Path, threads: int, calls: Sequence[Arrays]) -> Profile:
    """Profile an artifact: a traced program and one without the tracer, in turns.

    Raises:
        BackendError: the program cannot be run, or the installed runtime was built without the tracer.
    """
    about = About.read(directory)
    plain = _executorch.open_session(directory, threads, "cpu")
    staged = [plain.stage(inputs) for inputs in calls]
    _pacing.warm_up(plain.run, staged)
    traced = _executorch.Session(
        _executorch.Program(directory / _executorch.PROGRAM, threads, traced=True), about
    )
    try:
        _executorch_explain.require_tracer(traced.program)
        without, under = _pacing.in_turns(plain.run, traced.run, staged)
        events = _executorch_explain.events(traced.program.program)
    finally:
        traced.close()
        plain.close()
    return Profile(
        by=f"ExecuTorch event tracer, {len(under)} calls",
        operators=tuple(
            OperatorTime(
                name=event.name,
                operation=event.name.removeprefix(_executorch_explain.KERNEL),
                seconds=event.seconds,
                precision=_executorch_explain.precision(event.name),
            )
            for event in events
        ),
        plain=without,
        profiled=under,
        complete=True,
    )
