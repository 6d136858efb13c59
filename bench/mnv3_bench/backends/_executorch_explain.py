"""Where the time of an ExecuTorch program goes, by its own event tracer."""

from __future__ import annotations

import itertools
import re
import tempfile
import warnings
from collections import Counter, defaultdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from mnv3_bench.backends import _executorch
from mnv3_bench.backends._artifact import About
from mnv3_bench.backends._executorch_file import counted
from mnv3_bench.backends._onnx import quiet
from mnv3_bench.backends.base import BackendError, Explanation
from mnv3_reports.record import OperatorCost

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mnv3_bench.backends.base import Arrays

CALLS = 20
_AROUND = ("Method::execute", "DELEGATE_CALL", "OPERATOR_CALL")
"""Events that others lie within."""
KERNEL = "native_call_"
"""What the name of an operator on ExecuTorch's own kernels starts with."""
_TABLE = "Invalid Unary Op"
"""XNNPACK's name for a function of 8-bit integers that it looks up in a table: one for each int8 hard swish."""
_WORTH_SAYING = 0.01
"""Of the time."""


def explain(directory: Path, threads: int, calls: Sequence[Arrays]) -> Explanation:
    """Run an artifact under the event tracer, which also has XNNPACK time each of its operators.

    (https://docs.pytorch.org/executorch/stable/etdump.html and
    https://docs.pytorch.org/executorch/stable/backends/xnnpack/xnnpack-troubleshooting.html.) XNNPACK tells whole
    microseconds, so the cheapest operators show none.

    Raises:
        BackendError: the program cannot be run, or the installed runtime was built without the tracer.
    """
    about = About.read(directory)
    program = _executorch.Program(directory / _executorch.PROGRAM, threads, traced=True)
    session = _executorch.Session(program, about)
    try:
        require_tracer(program)
        for inputs in itertools.islice(itertools.cycle(calls), CALLS):
            session.run(session.stage(inputs))
        found = events(program.program)
    finally:
        session.close()
    seconds: dict[str, float] = defaultdict(float)
    counts: Counter[str] = Counter()
    for event in found:
        seconds[event.name] += median(event.seconds)
        counts[event.name] += 1
    operators = tuple(
        OperatorCost(
            name=f"{name} (look-up table)" if name == _TABLE else name.removeprefix(KERNEL),
            count=counts[name],
            seconds=cost,
            precision=precision(name),
        )
        for name, cost in sorted(seconds.items(), key=lambda item: -item[1])
    )
    reasons = _reasons(counts, seconds, about.facts)
    return Explanation(
        by=f"ExecuTorch event tracer, {CALLS} calls", operators=operators, reasons=tuple(reasons)
    )


def precision(name: str) -> str | None:
    """What an operator of XNNPACK computes in, as its name tells: 'Fully Connected (NC, QS8, QC8W) GEMM'."""
    kinds = re.findall(r"\b(?:Q\w*8\w*|F32|F16)\b", name)
    if name == _TABLE or any(kind.startswith("Q") for kind in kinds):
        return "int8"
    return {"F32": "fp32", "F16": "fp16"}[kinds[0]] if kinds else None


class Event(NamedTuple):
    """One operator of a call, in the order they run."""

    name: str
    seconds: tuple[float, ...]
    """Of each call."""


def require_tracer(program: _executorch.Program) -> None:
    """Whether a program that was loaded to be traced is.

    Raises:
        BackendError: the installed runtime was built without the tracer.
    """
    if not program.program.has_etdump():
        raise BackendError("this ExecuTorch was built without its event tracer; install its official wheel")


def events(program: Any) -> list[Event]:
    """Every operator that the calls of a traced program ran."""
    with tempfile.TemporaryDirectory() as scratch, quiet(), warnings.catch_warnings():
        from executorch.devtools import Inspector

        warnings.simplefilter("ignore")
        path = Path(scratch) / "events.etdp"
        program.write_etdump_result_to_file(str(path), None)
        blocks = [block for block in Inspector(etdump_path=str(path)).event_blocks if block.name == "Execute"]
    # Delegated operators are listed after those that they ran between.
    ran = sorted(
        (event for block in blocks for event in block.events if event.perf_data is not None),
        key=lambda event: event.start_time[-1] if event.start_time else 0,
    )
    return [
        Event(
            re.sub(r" #\d+$", "", event.name),
            tuple(milliseconds / 1e3 for milliseconds in event.perf_data.raw),
        )
        for event in ran
        if event.name not in _AROUND
    ]


def _reasons(
    counts: Counter[str], seconds: dict[str, float], facts: dict[str, str | int | float | bool | None]
) -> list[str]:
    total = sum(seconds.values()) or 1.0

    def share(names: Iterable[str]) -> float:
        return sum(seconds[name] for name in names) / total

    kernels = Counter(
        {
            name.removeprefix(KERNEL).partition(".")[0]: count
            for name, count in counts.items()
            if name.startswith(KERNEL)
        }
    )
    reasons = []
    if kernels:
        part = share(name for name in counts if name.startswith(KERNEL))
        reasons.append(
            f"{kernels.total()} operators ({counted(kernels)}) were not delegated to XNNPACK and run in ExecuTorch's "
            f"own kernels, {part:.1%} of the time."
        )
    parts = str(facts.get("delegated parts", ""))
    if parts == "none":
        reasons.append("No part of the network was delegated: all of it runs in ExecuTorch's own kernels.")
    elif not parts.startswith("1 ") or "," in parts:
        reasons.append(f"The network is cut into several delegated parts ({parts}).")
    fp32 = facts.get("fp32 operators")
    if fp32 is not None and fp32 != "none":
        reasons.append(f"Not quantized, these compute in fp32: {fp32}.")
    for start, words in (
        ("Convert (", "conversions between int8 and fp32"),
        ("Transpose (", "transposes, as XNNPACK computes on NHWC and the network is NCHW,"),
    ):
        names = [name for name in counts if name.startswith(start)]
        if share(names) >= _WORTH_SAYING:
            reasons.append(
                f"{sum(counts[name] for name in names)} {words} take {share(names):.1%} of the time."
            )
    return reasons
