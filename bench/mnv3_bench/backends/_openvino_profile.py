"""An OpenVINO cell's time by operator, from the counters of its CPU plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mnv3_bench.backends import _openvino, _pacing
from mnv3_bench.backends._artifact import About
from mnv3_bench.backends.base import OperatorTime, Profile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mnv3_bench.backends._openvino import OpenVinoSession, Precision
    from mnv3_bench.backends.base import Arrays

LOADS, FIRST, COUNTED = 6, 10, 60
"""A counter is the mean over all calls since loading, in whole microseconds, so that a repeat is a loading anew; the
first calls are slow and are taken out of the mean again."""
_NAMED = 3


def profile(
    directory: Path, threads: int, calls: Sequence[Arrays], precision: Precision, *, pinning: bool
) -> Profile:
    """Profile an artifact: calls of a request with counters and of one without, in turns.

    Raises:
        BackendError: the artifact cannot be used.
    """
    about = About.read(directory)

    def opened(*, counting: bool) -> OpenVinoSession:
        compiled = _openvino.compile_artifact(
            directory, threads, precision, pinning=pinning, profile=counting
        )
        return _openvino.OpenVinoSession(compiled, about)

    plain = opened(counting=False)
    staged = [plain.stage(inputs) for inputs in calls]
    _pacing.warm_up(plain.run, staged)
    without: list[float] = []
    under: list[float] = []
    repeats: list[dict[str, float]] = []
    found: dict[str, Any] = {}
    contents: dict[str, str] = {}
    for _ in range(LOADS):
        session = opened(counting=True)
        for call in range(FIRST):
            session.run(staged[call % len(staged)])
        early = {each.node_name: each.real_time.total_seconds() * FIRST for each in _ran(session)}
        more, profiled = _pacing.in_turns(plain.run, session.run, staged, COUNTED)
        without += more
        under += profiled
        found = {each.node_name: each for each in _ran(session)}
        contents = _contents(session.compiled)
        calls_made = FIRST + COUNTED
        repeats.append(
            {
                name: max(0.0, each.real_time.total_seconds() * calls_made - early.get(name, 0.0)) / COUNTED
                for name, each in found.items()
            }
        )
        session.close()
    plain.close()
    return Profile(
        by=f"OpenVINO's performance counters, {LOADS} loadings of {COUNTED} calls",
        operators=tuple(
            OperatorTime(
                name=name,
                operation=_operation(each.node_type, each.exec_type, contents.get(name, "")),
                seconds=tuple(repeat.get(name, 0.0) for repeat in repeats),
                precision=_openvino.kernel_precision(each.exec_type),
            )
            for name, each in found.items()
        ),
        plain=tuple(without),
        profiled=tuple(under),
        complete=True,
    )


def _ran(session: OpenVinoSession) -> list[Any]:
    """The counters of what a call carries out, in its order."""
    ran = _openvino.package().ProfilingInfo.Status.EXECUTED
    return [each for each in session.request.get_profiling_info() if each.status == ran]


def _contents(compiled: Any) -> dict[str, str]:
    """For each operator the names that its parts had in the network that was given, with commas between."""
    names = {}
    for node in compiled.get_runtime_model().get_ordered_ops():
        about = node.get_rt_info()
        if "originalLayersNames" in about:
            names[node.get_friendly_name()] = about["originalLayersNames"].astype(str)
    return names


def _operation(kind: str, kernel: str, contents: str) -> str:
    """Kind and implementation; of a subgraph, which may be anything elementwise, what it was made of."""
    if kind == "Subgraph":
        parts = [part.rpartition("/")[2] for part in contents.split(",") if part]
        return f"Subgraph ({', '.join(parts[:_NAMED])})" if parts else kind
    how = kernel.rpartition("_")[0]
    return f"{kind} ({how})" if how else kind
