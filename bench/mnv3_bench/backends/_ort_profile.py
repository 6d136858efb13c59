"""An ONNX Runtime cell's time by node, from its own profiler."""

from __future__ import annotations

import json
import math
import tempfile
from collections import defaultdict
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from mnv3_bench.backends import _ort, _ort_explain, _pacing
from mnv3_bench.backends._artifact import About
from mnv3_bench.backends._onnx import MODEL
from mnv3_bench.backends.base import OperatorTime, Profile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mnv3_bench.backends.base import Arrays

_SHORT, _LONG = 10, 110
"""Nodes of the chains that tell what the profiler itself takes."""
_CHAIN_FEED = {"x0": np.ones(1, np.float32)}
_SIZES = ("activation_size", "parameter_size", "output_size")


def profile(directory: Path, threads: int, settings: Mapping[str, str], calls: Sequence[Arrays]) -> Profile:
    """Profile an artifact: two sessions, one of them with the profiler on, in turns."""
    about = About.read(directory)
    with tempfile.TemporaryDirectory() as folder:
        options = _ort.options(threads, settings)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        under = _ort.OnnxSession(_open(directory, options), about)
        plain = _ort.OnnxSession(_open(directory, _ort.options(threads, settings)), about)
        staged = [plain.stage(inputs) for inputs in calls]
        _pacing.warm_up(plain.run, staged)
        _pacing.warm_up(under.run, staged)
        without, profiled = _pacing.in_turns(plain.run, under.run, staged)
        events = json.loads(Path(under.session.end_profiling()).read_bytes())
        plain.close()
        under.close()
    added = _added(settings)
    nodes: defaultdict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for event in sorted(_ort_explain.of_nodes(events), key=lambda event: event["ts"]):
        nodes[int(event["args"]["node_index"])].append(event)
    # A node's number is not its place: they run in the order of the last call.
    ordered = sorted(nodes.values(), key=lambda same: same[-1]["ts"])
    return Profile(
        by=f"ONNX Runtime profiler, {len(profiled)} calls, less {added * 1e6:.1f} µs that it adds to each node",
        operators=tuple(_operator(same[-len(profiled) :], added) for same in ordered),
        plain=without,
        profiled=profiled,
        complete=True,
    )


def _open(directory: Path, options: Any) -> Any:
    return _ort.open_model(directory / MODEL, options, _ort.providers("cpu"))


def _added(settings: Mapping[str, str]) -> float:
    """Seconds that the profiler adds to the time of each node, by nodes that do next to nothing.

    A node's time holds the profiler's own work on its shapes and sizes. What such a node takes without a profiler is
    what a longer chain of them takes more than a shorter one.
    """
    with tempfile.TemporaryDirectory() as folder:
        calls = {
            length: _pacing.fastest(partial(_chain(length, settings).run, None), _CHAIN_FEED)
            for length in (_SHORT, _LONG)
        }
        session = _chain(_LONG, settings, str(Path(folder) / "profile"))
        for _ in range(_pacing.REPEATS):
            session.run(None, _CHAIN_FEED)
        events = _ort_explain.of_nodes(json.loads(Path(session.end_profiling()).read_bytes()))
    plain = (calls[_LONG] - calls[_SHORT]) / (_LONG - _SHORT)
    return max(0.0, float(median(event["dur"] for event in events)) / 1e6 - plain)


def _chain(length: int, settings: Mapping[str, str], profile_to: str | None = None) -> Any:
    """A session of so many negations of one number."""
    import onnxruntime
    from onnx import TensorProto, helper

    names = [f"x{place}" for place in range(length + 1)]
    nodes = [helper.make_node("Neg", [one], [next_]) for one, next_ in pairwise(names)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in (names[0], names[-1])]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = _ort.options(1, settings)
    # Two negations are none, to an optimizer.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if profile_to is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile_to
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=_ort.providers("cpu"))


def _operator(same: Sequence[Mapping[str, Any]], added: float) -> OperatorTime:
    about = same[0]["args"]
    shapes = [shape for given in about.get("output_type_shape", ()) for shape in given.values()]
    sizes = [int(about[name]) for name in _SIZES if str(about.get(name, "")).isdigit()]
    return OperatorTime(
        name=same[0]["name"].removesuffix(_ort_explain.NODE_END),
        operation=about["op_name"],
        seconds=tuple(max(0.0, event["dur"] / 1e6 - added) for event in same),
        precision=_ort_explain.precision_of(about),
        output_shape=tuple(shapes[0][1:]) if shapes and math.prod(shapes[0]) else None,
        bytes=sum(sizes) or None,
    )
