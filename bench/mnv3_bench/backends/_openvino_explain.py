"""Where the time of an OpenVINO cell goes, by the counters of its own plugin.

https://docs.openvino.ai/2025/openvino-workflow/running-inference/inference-devices-and-modes/cpu-device.html lists
`PERF_COUNT` among the properties; each operator's counter gives the mean over all calls since loading, in whole
microseconds.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import cycle, islice
from typing import TYPE_CHECKING

from mnv3_bench.backends import _openvino
from mnv3_bench.backends._artifact import About
from mnv3_bench.backends.base import Explanation
from mnv3_reports.record import OperatorCost

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mnv3_bench.backends._openvino import OpenVinoSession, Precision
    from mnv3_bench.backends.base import Arrays

FIRST, COUNTED = 10, 200
CONVERSIONS = ("Reorder", "Convert")


def explain(
    directory: Path,
    threads: int,
    calls: Sequence[Arrays],
    precision: Precision,
    *,
    pinning: bool,
    reduced: bool,
) -> Explanation:
    """Profile an artifact.

    Args:
        directory: the artifact.
        threads: of the cell.
        calls: inputs of several calls, gone round.
        precision: of floating-point arithmetic.
        pinning: as the cell has it.
        reduced: whether fp32 arithmetic is a remainder that costs, and not what was asked for.

    Raises:
        BackendError: the artifact cannot be used.
    """
    compiled = _openvino.compile_artifact(directory, threads, precision, pinning=pinning, profile=True)
    session = _openvino.OpenVinoSession(compiled, About.read(directory))
    staged = [session.stage(inputs) for inputs in calls]
    # The first calls are slow, and the counters' means never forget them: their share is taken out again.
    early = _totals(session, staged, FIRST, 0)
    late = _totals(session, staged, COUNTED, FIRST)
    session.close()
    counts: Counter[tuple[str, str]] = Counter()
    seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
    for name, (kind, kernel, total) in late.items():
        counts[kind, kernel] += 1
        seconds[kind, kernel] += max(0.0, total - early[name][2]) / COUNTED
    operators = [
        OperatorCost(_label(kind, kernel), count, seconds[kind, kernel], _openvino.kernel_precision(kernel))
        for (kind, kernel), count in counts.items()
    ]
    return Explanation(
        by=f"OpenVINO's performance counters, {COUNTED} calls",
        operators=tuple(sorted(operators, key=lambda cost: -(cost.seconds or 0.0))),
        reasons=tuple(_reasons(counts, seconds, reduced=reduced)),
    )


def _totals(
    session: OpenVinoSession, staged: Sequence[object], runs: int, earlier: int
) -> dict[str, tuple[str, str, float]]:
    """Kind, kernel and seconds of each operator that ran, over these runs and the earlier ones together."""
    ran = _openvino.package().ProfilingInfo.Status.EXECUTED
    for each in islice(cycle(staged), runs):
        session.run(each)
    return {
        found.node_name: (
            found.node_type,
            found.exec_type,
            found.real_time.total_seconds() * (runs + earlier),
        )
        for found in session.request.get_profiling_info()
        if found.status == ran
    }


def _label(kind: str, kernel: str) -> str:
    how = kernel.rpartition("_")[0]
    return f"{kind} ({how})" if how else kind


def _reasons(
    counts: Counter[tuple[str, str]], seconds: dict[tuple[str, str], float], *, reduced: bool
) -> list[str]:
    whole = sum(seconds.values())

    def told(chosen: list[tuple[str, str]], what: str) -> list[str]:
        if not chosen:
            return []
        kinds: Counter[str] = Counter()
        for kind, kernel in chosen:
            kinds[kind] += counts[kind, kernel]
        share = sum(seconds[each] for each in chosen) / whole if whole else 0.0
        listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        return [f"{kinds.total()} of {counts.total()} operators {what}, {share:.0%} of the time: {listed}."]

    conversions = [each for each in counts if each[0] in CONVERSIONS]
    plain = [each for each in counts if each not in conversions and each[1].startswith("ref")]
    left = [
        each
        for each in counts
        if reduced and each not in conversions and _openvino.kernel_precision(each[1]) == "fp32"
    ]
    return [
        *told(left, "were left in fp32"),
        *told(plain, "ran on plain reference kernels"),
        *told(conversions, "only convert layouts or types between others"),
    ]
