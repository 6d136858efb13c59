"""Where a LiteRT cell's time goes: XNNPACK's kernels, and what was left to LiteRT's own."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from mnv3_bench.backends import _litert, _litert_profiler
from mnv3_bench.backends._artifact import About
from mnv3_bench.backends.base import Explanation
from mnv3_reports.record import OperatorCost

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mnv3_bench.backends._litert import Operator
    from mnv3_bench.backends._litert_profiler import Cost
    from mnv3_bench.backends.base import Arrays

RUNS = 20
FOLDED = "Invalid Unary Op"
"""What XNNPACK's profile calls DEQUANTIZE, one elementwise operator and QUANTIZE after it has made a table of them."""


def explain(directory: Path, threads: int, calls: Sequence[Arrays]) -> Explanation:
    """Profile an artifact; without a usable profiler, count its operators.

    Args:
        directory: the artifact.
        threads: of the cell.
        calls: inputs of several calls, as the session's `stage` takes them.

    Raises:
        BackendError: the artifact cannot be loaded, or does not take these inputs.
    """
    about = About.read(directory)
    session = _litert.open_session(directory, threads, "cpu")
    found = _litert.operators(session.interpreter)
    parts = _litert.partitions(session.interpreter)
    staged = [[array for _, array in session.stage(call)] for call in calls]
    session.close()
    try:
        costs = _litert_profiler.profile(directory / _litert.MODEL, threads, staged, RUNS)
    except _litert_profiler.ProfilerError as error:
        return Explanation(
            by="LiteRT's account of the loaded graph, without times",
            operators=tuple(_counts(found)),
            reasons=(f"{error}: operators are counted, not timed.", *_reasons(found, parts, [], about)),
        )
    return Explanation(
        by=f"LiteRT profiler (CompiledModel API), {RUNS} calls",
        operators=tuple(_times(found, costs)),
        reasons=tuple(_reasons(found, parts, costs, about)),
    )


def _counts(found: dict[int, Operator]) -> list[OperatorCost]:
    kinds = Counter((each.name, each.precision) for each in found.values())
    return [OperatorCost(name, count, None, precision) for (name, precision), count in kinds.most_common()]


def _times(found: dict[int, Operator], costs: list[Cost]) -> list[OperatorCost]:
    counts: Counter[tuple[str, str | None]] = Counter()
    seconds: defaultdict[tuple[str, str | None], float] = defaultdict(float)
    for cost in costs:
        operator = found.get(cost.node) if cost.node is not None else None
        key = cost.tag, operator.precision if operator is not None else kernel_precision(cost.tag)
        counts[key] += cost.count
        seconds[key] += cost.seconds
    dearest = sorted(counts, key=lambda key: seconds[key], reverse=True)
    return [OperatorCost(key[0], counts[key], seconds[key], key[1]) for key in dearest]


def kernel_precision(tag: str) -> str | None:
    """What an XNNPACK kernel computes in, by the types in its name, such as 'Convolution (NHWC, QC8) DWConv'."""
    types = set(re.findall(r"[A-Z]+\d+[A-Z]*", tag))
    if any(kind.startswith("QD") for kind in types):
        return "int8 products, fp32 between operators"
    if types & {"QC8", "QS8", "QU8"}:
        return "int8"
    return next((name for kind, name in (("F32", "fp32"), ("F16", "fp16")) if kind in types), None)


def _reasons(found: dict[int, Operator], parts: int, costs: list[Cost], about: About) -> list[str]:
    total = sum(cost.seconds for cost in costs)

    def share(seconds: float) -> str:
        return f": {seconds * 1e3:.2f} of {total * 1e3:.2f} ms a call" if costs else ""

    reasons = []
    left = Counter((each.name, each.precision) for each in found.values() if not each.delegated)
    for (name, precision), count in left.most_common():
        mine = {number for number, each in found.items() if (each.name, each.precision) == (name, precision)}
        spent = sum(cost.seconds for cost in costs if cost.node in mine)
        reasons.append(
            f"XNNPACK does not take {count} {name} in {precision}; LiteRT's own kernels run them{share(spent)}."
        )
    if parts > 1:
        reasons.append(
            f"What XNNPACK does not take cuts the graph into {parts} parts, not optimized together."
        )
    kept = about.facts.get(_litert.KEPT_FACT, "none")
    if kept != "none":
        reasons.append(
            f"{kept} stays fp32, because XNNPACK takes it only so; quantized it would cut the graph into parts."
        )
    reasons += list(_conversions(found, costs))
    transposes = sum(each.name == "TRANSPOSE" for each in found.values())
    if transposes:
        spent = sum(cost.seconds for cost in costs if "transpose" in cost.tag.lower())
        hint = (
            "; layout=nhwc does without the input's" if about.facts.get(_litert.LAYOUT_FACT) == "NCHW" else ""
        )
        reasons.append(
            f"{transposes} TRANSPOSE between the network's order and XNNPACK's NHWC{share(spent)}{hint}."
        )
    return reasons


def _conversions(found: dict[int, Operator], costs: list[Cost]) -> Iterator[str]:
    """What QUANTIZE and DEQUANTIZE are there for."""
    kinds = Counter(each.name for each in found.values())
    into, out = kinds["QUANTIZE"], kinds["DEQUANTIZE"]
    mixed = [each for each in found.values() if each.precision == _litert.MIXED]
    if mixed:
        yield (
            f"{len(mixed)} operators ({_litert.counted(mixed)}) quantize their inputs anew in every call; between "
            "them everything is fp32."
        )
    if out and not into:
        yield (
            f"{out} DEQUANTIZE make fp32 weights of the file's int8 ones while it is loaded: the file is smaller, "
            "the arithmetic and its time are those of fp32."
        )
    if into:
        exact = [
            each
            for each in found.values()
            if each.precision == "fp32" and each.name not in _litert.NETWORK_ONLY
        ]
        folded = sum(cost.count for cost in costs if cost.tag == FOLDED)
        note = f" XNNPACK makes a table of {folded} of them ('{FOLDED}' in its profile)." if folded else ""
        around = f" and around what is computed in fp32 ({_litert.counted(exact)})" if exact else ""
        yield f"{into} QUANTIZE and {out} DEQUANTIZE lead into int8 and out of it, at the network's ends{around}.{note}"
