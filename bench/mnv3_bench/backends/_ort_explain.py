"""Where the time of an ONNX Runtime backend goes, by its own profiler and the graph it made when loading.

Source: onnxruntime.ai/docs/performance/tune-performance/profiling-tools.html.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv3_bench.backends import _ort
from mnv3_bench.backends._artifact import About
from mnv3_bench.backends._onnx import MODEL
from mnv3_bench.backends.base import Explanation
from mnv3_reports.record import OperatorCost

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mnv3_bench.backends.base import Arrays

CALLS = 20
"""Of which the least time of a node counts: other programs only add time."""
WORTH_SAYING = 0.01
_PRECISIONS = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "uint8": "int8", "int8": "int8"}
NODE_END = "_kernel_time"
"""What the name of such an event ends with."""
_BLOCKED = "com.microsoft.nchwc"
_CONVERSIONS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
_REORDERS = ("ReorderInput", "ReorderOutput")


@dataclass(frozen=True)
class Node:
    """A node of the optimized graph."""

    kind: str
    precision: str | None
    seconds: float


def explain(
    directory: Path, threads: int, settings: Mapping[str, str], calls: Sequence[Arrays]
) -> Explanation:
    """Profile an artifact."""
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        options = _ort.options(threads, settings)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.optimized_model_filepath = str(optimized)
        session = _ort.open_model(directory / MODEL, options, _ort.providers("cpu"))
        loaded = _ort.OnnxSession(session, About.read(directory))
        staged = [loaded.stage(inputs) for inputs in calls]
        for index in range(CALLS):
            loaded.run(staged[index % len(staged)])
        events = json.loads(Path(session.end_profiling()).read_bytes())
        loaded.close()
        domains = _domains(optimized)
    nodes = _nodes(events)
    total = sum(node.seconds for node in nodes)
    return Explanation(
        by=f"ONNX Runtime profiler, the least of {CALLS} calls, and its optimized graph",
        operators=_costs(nodes),
        reasons=tuple(_reasons(nodes, domains, total)),
    )


def of_nodes(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The events of a profile that are a node's computing, with its time in `dur`, in microseconds."""
    return [event for event in events if event["cat"] == "Node" and event["name"].endswith(NODE_END)]


def _nodes(events: Sequence[Mapping[str, Any]]) -> list[Node]:
    durations: defaultdict[str, list[int]] = defaultdict(list)
    arguments: dict[str, Mapping[str, Any]] = {}
    for event in of_nodes(events):
        # An index a node: names may occur twice.
        key = f"{event['args']['node_index']} {event['name']}"
        durations[key].append(event["dur"])
        arguments[key] = event["args"]
    return [
        Node(given["op_name"], precision_of(given), min(durations[key]) / 1e6)
        for key, given in arguments.items()
    ]


def precision_of(arguments: Mapping[str, Any]) -> str | None:
    """What a node computes in: the type of its first input, which ONNX Runtime has cast to what its kernel takes."""
    types = [next(iter(given)) for given in arguments["input_type_shape"] if given]
    return _PRECISIONS.get(types[0], types[0]) if types else None


def _domains(optimized: Path) -> Counter[tuple[str, str]]:
    import onnx

    model = onnx.load(str(optimized), load_external_data=False)
    return Counter((node.domain, node.op_type) for node in model.graph.node)


def _costs(nodes: Sequence[Node]) -> tuple[OperatorCost, ...]:
    groups: defaultdict[tuple[str, str | None], list[float]] = defaultdict(list)
    for node in nodes:
        groups[node.kind, node.precision].append(node.seconds)
    costs = [
        OperatorCost(name=kind, count=len(seconds), seconds=sum(seconds), precision=precision)
        for (kind, precision), seconds in groups.items()
    ]
    return tuple(sorted(costs, key=lambda cost: -(cost.seconds or 0.0)))


def _reasons(nodes: Sequence[Node], domains: Counter[tuple[str, str]], total: float) -> list[str]:
    def chosen(test: Callable[[Node], bool]) -> tuple[int, float, str]:
        found = [node for node in nodes if test(node)]
        kinds = Counter(node.kind for node in found)
        text = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        return len(found), sum(node.seconds for node in found) / total, text

    reasons = []
    count, share, text = chosen(lambda node: node.kind in _REORDERS)
    if share >= WORTH_SAYING:
        reasons.append(
            f"{count} of {len(nodes)} operators ({text}) convert between the plain and the blocked NCHWc layout "
            f"({share:.0%} of the time)"
        )
    blocked, plain = domains[_BLOCKED, "Conv"], domains["", "Conv"] + domains["com.microsoft", "FusedConv"]
    if blocked and plain:
        reasons.append(f"{plain} of {blocked + plain} convolutions are not in the blocked NCHWc layout")
    if any(node.precision == "int8" for node in nodes):
        count, share, text = chosen(lambda node: node.kind in _CONVERSIONS)
        if count:
            reasons.append(
                f"{count} operators only convert between int8 and fp32 ({text}; {share:.0%} of the time)"
            )
        count, share, text = chosen(lambda node: node.precision == "fp32" and node.kind not in _CONVERSIONS)
        if count:
            reasons.append(f"{count} operators compute in fp32 ({text}; {share:.0%} of the time)")
    count, share, text = chosen(lambda node: node.kind == "Cast")
    if share >= WORTH_SAYING:
        reasons.append(f"{text} convert types ({share:.0%} of the time)")
    return reasons
