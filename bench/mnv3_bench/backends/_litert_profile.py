"""A LiteRT cell's time by kernel, from LiteRT's own profiler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnv3_bench.backends import _litert, _litert_explain, _litert_profiler, _pacing
from mnv3_bench.backends.base import BackendError, OperatorTime, Profile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mnv3_bench.backends.base import Arrays


def profile(directory: Path, threads: int, calls: Sequence[Arrays]) -> Profile:
    """Profile an artifact; the calls without the profiler, on the interpreter that is measured, are before and after.

    Raises:
        BackendError: the artifact cannot be loaded, or this version's profiler cannot be used.
    """
    session = _litert.open_session(directory, threads, "cpu")
    found = _litert.operators(session.interpreter)
    staged = [session.stage(inputs) for inputs in calls]
    _pacing.warm_up(session.run, staged)
    arrays = [[array for _, array in each] for each in staged]
    half = _pacing.REPEATS // 2
    plain = [_pacing.seconds(session.run, staged[call % len(staged)]) for call in range(half)]
    try:
        kernels = _litert_profiler.kernels(directory / _litert.MODEL, threads, arrays, _pacing.REPEATS)
    except _litert_profiler.ProfilerError as error:
        raise BackendError(str(error)) from error
    plain += [_pacing.seconds(session.run, staged[call % len(staged)]) for call in range(half)]
    session.close()
    return Profile(
        by=f"LiteRT profiler (CompiledModel API), {_pacing.REPEATS} calls",
        operators=tuple(
            OperatorTime(
                name=kernel.tag,
                operation=kernel.tag,
                seconds=kernel.seconds,
                precision=found[kernel.node].precision
                if kernel.node in found
                else _litert_explain.kernel_precision(kernel.tag),
            )
            for kernel in kernels
        ),
        plain=tuple(plain),
        profiled=(),
        complete=True,
    )
