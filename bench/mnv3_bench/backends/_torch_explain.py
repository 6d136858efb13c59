"""Where the time of a PyTorch backend goes: PyTorch's profiler, and what oneDNN logs of its own primitives.

The profiler sees operators; compiled code calls oneDNN past the dispatcher, where only oneDNN's log tells what ran, in
which precision, by which implementation (docs.pytorch.org/docs/stable/backends.html, `torch.backends.mkldnn.verbose`;
uxlfoundation.github.io/oneDNN/dev_guide_verbose.html).
"""

from __future__ import annotations

import ctypes
import os
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mnv3_bench.backends.base import Explanation
from mnv3_reports.record import OperatorCost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnv3_bench.backends._torch import TorchSession
    from mnv3_bench.backends.base import Arrays

CALLS = 20
"""Of which the least counts: other programs only add time."""
WARM_UP = 5
SMALLEST_SHARE = 0.001
WORTH_SAYING = 0.01
_PRECISIONS = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "u8": "int8", "s8": "int8", "s32": "int32"}
_WITHOUT_BF16 = ("avx512_core", "avx512_core_vnni", "avx2", "avx2_vnni", "sse41")
_GENERATED = "generated code, and all else"
_COMPUTING = ("convolution", "deconvolution", "inner_product", "matmul")


@dataclass(frozen=True)
class Primitive:
    """One execution of a oneDNN primitive."""

    kind: str
    """Such as convolution or reorder."""
    implementation: str
    """Such as brgconv_1x1:avx512_core."""
    precision: str
    seconds: float


def operators(session: TorchSession, calls: Sequence[Arrays], *, generates: bool = False) -> Explanation:
    """Explain a session by the operators that PyTorch dispatches. It is closed afterwards.

    Args:
        session: is closed afterwards.
        calls: inputs of several calls.
        generates: whether it also runs generated code, which the profiler does not see: what it took is what is left.
    """
    from torch.profiler import ProfilerActivity, profile

    staged = _warm(session, calls)
    fastest = _fastest(session, staged)
    counts: dict[str, int] = {}
    seconds: dict[str, float] = {}
    for index in range(CALLS):
        with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiled:
            session.run(staged[index % len(staged)])
        for event in profiled.key_averages():
            spent = event.self_cpu_time_total / 1e6
            counts[event.key] = event.count
            seconds[event.key] = min(spent, seconds.get(event.key, spent))
    primitives = logged(session, staged)
    session.close()
    if generates:
        seconds[_GENERATED] = max(0.0, fastest - sum(seconds.values()))
        counts[_GENERATED] = 1
    total = sum(seconds.values())
    costs = [OperatorCost(name=name, count=counts[name], seconds=spent) for name, spent in seconds.items()]
    reasons = [*_plain_convolutions(counts, seconds, total), *_batch_norms(counts, seconds, total)]
    return Explanation(
        by=f"PyTorch profiler and oneDNN's log, the least of {CALLS} calls",
        operators=_dearest(costs, total),
        reasons=(*reasons, *_reasons(primitives, total)),
    )


def compiled(session: TorchSession, calls: Sequence[Arrays]) -> Explanation:
    """Explain a session whose operators are compiled into one program. It is closed afterwards."""
    staged = _warm(session, calls)
    total = _fastest(session, staged)
    primitives = logged(session, staged)
    session.close()
    groups: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for each in primitives:
        groups[each.kind, each.precision].append(each.seconds)
    costs = [
        OperatorCost(name=f"oneDNN {kind}", count=len(parts), seconds=sum(parts), precision=precision)
        for (kind, precision), parts in groups.items()
    ]
    rest = total - sum(each.seconds for each in primitives)
    if rest > 0:
        costs.append(OperatorCost(name=_GENERATED, count=1, seconds=rest))
    return Explanation(
        by=f"oneDNN's log, the least of {CALLS} calls; the fastest call less what was logged",
        operators=_dearest(costs, total),
        reasons=tuple(_reasons(primitives, total)),
    )


def logged(session: TorchSession, staged: Sequence[Any]) -> list[Primitive]:
    """The oneDNN primitives of a call, each with the least of its seconds; none where PyTorch has no oneDNN."""
    logs = [logged_call(session, staged[index % len(staged)]) for index in range(CALLS)]
    usual = statistics.mode(len(log) for log in logs)
    return [
        replace(same[0], seconds=min(each.seconds for each in same))
        for same in zip(*(log for log in logs if len(log) == usual), strict=True)
    ]


def logged_call(session: TorchSession, staged: Any) -> list[Primitive]:
    """The oneDNN primitives of one call, in order; none where PyTorch has no oneDNN."""
    import torch

    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return []

    library = ctypes.CDLL(None)
    library.fflush(None)
    original = os.dup(1)
    with tempfile.TemporaryFile() as file:
        # It prints from C++: only the descriptor can be caught.
        os.dup2(file.fileno(), 1)
        try:
            with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):  # type: ignore[no-untyped-call]
                session.run(staged)
            library.fflush(None)
        finally:
            os.dup2(original, 1)
            os.close(original)
        file.seek(0)
        lines = file.read().decode(errors="replace").splitlines()
    return [made for made in map(_primitive, lines) if made is not None]


def _primitive(line: str) -> Primitive | None:
    """One line of the log: onednn_verbose,v1,primitive,exec,ENGINE,KIND,IMPLEMENTATION,PROP,MEMORY,...,MILLISECONDS."""
    parts = line.split(",")
    if len(parts) < 12 or parts[0] != "onednn_verbose" or parts[2:4] != ["primitive", "exec"]:
        return None
    source = next((part for part in parts[8].split() if part.startswith("src")), "")
    precision = source.split(":")[1] if ":" in source else ""
    return Primitive(parts[5], parts[6], _PRECISIONS.get(precision, precision), float(parts[-1]) / 1e3)


def _warm(session: TorchSession, calls: Sequence[Arrays]) -> list[Any]:
    staged = [session.stage(inputs) for inputs in calls]
    for index in range(WARM_UP):
        session.run(staged[index % len(staged)])
    return staged


def _fastest(session: TorchSession, staged: Sequence[Any]) -> float:
    times = []
    for index in range(CALLS):
        start = time.perf_counter()
        session.run(staged[index % len(staged)])
        times.append(time.perf_counter() - start)
    return min(times)


def _dearest(costs: Sequence[OperatorCost], total: float) -> tuple[OperatorCost, ...]:
    ordered = sorted(costs, key=lambda cost: -(cost.seconds or 0.0))
    return tuple(cost for cost in ordered if (cost.seconds or 0.0) >= SMALLEST_SHARE * total)


def _plain_convolutions(counts: dict[str, int], seconds: dict[str, float], total: float) -> list[str]:
    """PyTorch takes oneDNN for some shapes, and for the others an own loop of matrix products over unfolded images."""
    name = "aten::_slow_conv2d_forward"
    if not counts.get(name):
        return []
    every = counts.get("aten::_convolution", counts[name])
    reason = (
        f"{counts[name]} of {every} convolutions run in PyTorch's plain kernel (_slow_conv2d_forward, "
        f"{seconds[name] / total:.0%} of the time) and not in oneDNN"
    )
    return [reason]


def _batch_norms(counts: dict[str, int], seconds: dict[str, float], total: float) -> list[str]:
    name = "aten::native_batch_norm"
    if seconds.get(name, 0.0) < WORTH_SAYING * total:
        return []
    reason = (
        f"{counts[name]} BatchNorms are computed at each call ({seconds[name] / total:.0%} of the time); "
        "folded into convolutions they would cost nothing"
    )
    return [reason]


def _reasons(primitives: Sequence[Primitive], total: float) -> list[str]:
    """What oneDNN's log says against its own speed."""
    found = []
    reorders = [each.seconds for each in primitives if each.kind == "reorder"]
    if sum(reorders) >= WORTH_SAYING * total:
        found.append(
            f"oneDNN converts the layout or type of {len(reorders)} tensors at each call ({sum(reorders) / total:.0%} "
            "of the time)"
        )
    computing = [each for each in primitives if each.kind in _COMPUTING]
    precisions = Counter(each.precision for each in computing)
    for reduced in ("int8", "bf16"):
        if precisions[reduced] and precisions["fp32"]:
            spent = sum(each.seconds for each in computing if each.precision == "fp32")
            found.append(
                f"{precisions['fp32']} of {len(computing)} convolutions and matrix products compute in fp32 "
                f"({spent / total:.0%} of the time), the others in {reduced}"
            )
    slow = [each for each in computing if each.implementation.split(":")[0] in ("ref", "simple")]
    if slow:
        found.append(
            f"{len(slow)} convolutions or matrix products run in oneDNN's reference implementation "
            f"({sum(each.seconds for each in slow) / total:.0%} of the time)"
        )
    emulated = [
        each
        for each in computing
        if each.precision == "bf16" and each.implementation.rpartition(":")[2] in _WITHOUT_BF16
    ]
    if emulated:
        found.append(
            f"{len(emulated)} bfloat16 convolutions or matrix products run without bfloat16 instructions "
            f"({', '.join(sorted({each.implementation for each in emulated}))})"
        )
    return found
