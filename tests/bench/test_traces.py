"""Traces: their structure as any viewer reads it, and as TensorBoard's profiler plugin parses it."""

from __future__ import annotations

import gzip
import json
import math
import random
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from mnv3_bench.backends.base import OperatorTime, Profile
from mnv3_bench.profiling.traces import (
    MODULE_ANNOTATION,
    MOST_CALLS,
    TRACES,
    Call,
    Span,
    calls_of,
    from_kineto,
    from_kineto_file,
    repair,
    trace_path,
    write_chrome,
)
from mnv3_reports.record import Cell, Profiled, ProfiledOperator

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = "<script>alert(1)</script>|\n\u202e\ud800\"'"


def read(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    found: dict[str, Any] = json.loads(gzip.decompress(data) if path.name.endswith(".gz") else data)
    return found


def parsed(trace: dict[str, Any]) -> Any:
    """What the plugin makes of a trace."""
    data = pytest.importorskip("torch_tb_profiler.profiler.data", reason="pip install 'mnv3-bench[profile]'")
    return data.RunProfileData.from_json("worker", None, trace)


def operators(trace: dict[str, Any]) -> dict[str, tuple[int, float]]:
    """Calls and microseconds of every row of the plugin's operator table."""
    return {row.name: (row.calls, row.host_duration) for row in parsed(trace).op_list_groupby_name}


def slices(trace: dict[str, Any], category: str = "cpu_op") -> list[dict[str, Any]]:
    return [event for event in trace["traceEvents"] if event.get("cat") == category]


def written(folder: Path, *calls: Call) -> dict[str, Any]:
    return read(write_chrome(folder / "some.pt.trace.json", calls, process_name="small/fake"))


def made_up_call(spans: int, seed: int = 0) -> Call:
    chosen = random.Random(seed)
    return Call(
        [
            Span(f"Conv_{number}", chosen.randint(300, 90_000) / 1e9, module=f"features.{number // 3}.block")
            for number in range(spans)
        ]
    )


def test_every_event_has_what_the_format_asks_for(tmp_path: Path) -> None:
    call = Call([Span("Conv", 2e-6, module="features.0"), Span("Relu", 1e-6, track=1)])
    trace = written(tmp_path, call, call)
    assert trace["schemaVersion"] == 1
    for event in trace["traceEvents"]:
        assert event["ph"] in ("X", "M")
        assert isinstance(event["name"], str)
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        assert event["ts"] >= 0
        if event["ph"] == "X":
            assert event["dur"] >= 0
            assert event["cat"] in ("cpu_op", "python_function", "user_annotation")
    names = [event["args"]["name"] for event in trace["traceEvents"] if event["ph"] == "M"]
    assert names == ["small/fake", "track 0", "track 1"]
    ids = [event["args"]["External id"] for event in slices(trace)]
    assert ids == [1, 2, 3, 4]


def test_slices_of_a_thread_lie_beside_or_within_each_other(tmp_path: Path) -> None:
    trace = written(tmp_path, made_up_call(50), made_up_call(50, seed=1))
    open_ends: list[float] = []
    on_thread = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    for event in sorted(on_thread, key=lambda event: (event["ts"], -event["dur"])):
        while open_ends and open_ends[-1] <= event["ts"]:
            open_ends.pop()
        end = event["ts"] + event["dur"]
        assert not open_ends or end <= open_ends[-1]
        open_ends.append(end)


def test_operators_without_a_start_follow_each_other_and_keep_their_times(tmp_path: Path) -> None:
    call = made_up_call(2000)
    trace = written(tmp_path, call)
    found = slices(trace)
    assert [event["name"] for event in found] == [span.name for span in call.spans]
    for event, span in zip(found, call.spans, strict=True):
        assert event["dur"] == pytest.approx(span.seconds * 1e6, abs=0.001)
    # Exactly, or the plugin takes the next operator for a part of this one that ends too late, and drops it.
    for event, following in pairwise(found):
        assert event["ts"] + event["dur"] == following["ts"]


def test_the_plugin_loses_none_of_thousands_of_touching_operators(tmp_path: Path) -> None:
    call = made_up_call(2000)
    found = operators(written(tmp_path, call))
    assert len(found) == 2000
    total = sum(microseconds for _, microseconds in found.values())
    assert total == pytest.approx(sum(span.seconds for span in call.spans) * 1e6, abs=2)


def test_calls_are_the_plugins_steps(tmp_path: Path) -> None:
    call = Call([Span("Conv", 3e-6), Span("Relu", 1e-6)], seconds=10e-6)
    profile = parsed(written(tmp_path, call, call, call))
    assert profile.steps_names == ["0", "1", "2"]
    by_name = {row.name: row for row in profile.op_list_groupby_name}
    assert {name: row.calls for name, row in by_name.items()} == {"Conv": 3, "Relu": 3}
    assert by_name["Conv"].host_duration == pytest.approx(9, abs=0.01)
    total = profile.avg_costs.costs[-1]
    assert total == pytest.approx(10, abs=0.01)


def test_known_starts_are_kept_and_overlaps_go_to_a_track_of_their_own(tmp_path: Path) -> None:
    call = Call(
        [
            Span("outer", 10e-6, 5e-6),
            Span("inner", 2e-6, 6e-6),
            Span("across", 10e-6, 9e-6),
            Span("other thread", 1e-6, 0.0, track=7),
        ]
    )
    trace = written(tmp_path, call)
    found = {event["name"]: event for event in slices(trace)}
    assert {name: round(event["ts"], 3) for name, event in found.items()} == {
        "outer": 5,
        "inner": 6,
        "across": 9,
        "other thread": 0,
    }
    assert found["outer"]["tid"] == found["inner"]["tid"]
    assert len({event["tid"] for event in found.values()}) == 3
    assert len(operators(trace)) == 4


def test_modules_are_drawn_around_their_operators_and_are_one_row_each(tmp_path: Path) -> None:
    call = Call(
        [
            Span("a", 1e-6, module="features.0.conv"),
            Span("b", 2e-6, module="features.0.act"),
            Span("reorder", 4e-6),
            Span("c", 8e-6, module="features.0.conv"),
            Span("d", 16e-6, module="classifier"),
        ]
    )
    trace = written(tmp_path, call, call)
    shown = [(event["name"], round(event["dur"])) for event in slices(trace, "python_function")]
    first = shown[: len(shown) // 2]
    assert first == [
        ("nn.Module: features", 3),
        ("nn.Module: features.0", 3),
        ("nn.Module: features.0.conv", 1),
        ("nn.Module: features.0.act", 2),
        ("nn.Module: features", 8),
        ("nn.Module: features.0", 8),
        ("nn.Module: features.0.conv", 8),
        ("nn.Module: classifier", 16),
    ]
    stats = pytest.importorskip("torch_tb_profiler.profiler.module_op")
    profile = parsed(trace)
    roots = stats.aggegate_module_view(profile.tid2tree, profile.events)
    assert [(root.name, root.occurences) for root in roots] == [("classifier", 2), ("features", 4)]
    (block,) = roots[1].children
    assert block.host_duration == pytest.approx(22, abs=0.1)
    assert {child.name for child in block.children} == {"features.0.conv", "features.0.act"}


def test_call_stacks_name_the_modules(tmp_path: Path) -> None:
    trace = written(tmp_path, Call([Span("Conv", 1e-6, module="features.4.block")]))
    (stack,) = parsed(trace).stack_lists_group_by_name["Conv"]
    assert stack.callstacks == {"features.4.block;features.4;features"}


def test_shapes_tell_operators_of_a_name_apart(tmp_path: Path) -> None:
    spans = [Span("Conv", 1e-6, input_shapes=((1, 3, 32, 32),)), Span("Conv", 1e-6, input_shapes=((1, 8),))]
    rows = parsed(written(tmp_path, Call(spans))).op_list_groupby_name_input
    assert {row.input_shape for row in rows} == {"[[1, 3, 32, 32]]", "[[1, 8]]"}


@pytest.mark.parametrize("name", [HOSTILE, "", "ProfilerStep#x", "Optimizer.step", "nccl:reduce"])
def test_no_name_breaks_the_file_or_hides_the_operator(tmp_path: Path, name: str) -> None:
    call = Call([Span(name, 5e-6, module=HOSTILE, arguments={HOSTILE: HOSTILE}), Span("Conv", 1e-6)])
    found = operators(written(tmp_path, call))
    assert len(found) == 2
    assert any(row.endswith(name) for row in found)


def test_operators_of_no_time_are_kept(tmp_path: Path) -> None:
    spans = [Span("none", 0.0, module="a"), Span("some", 1e-6, module="a"), Span("last", 0.0, module="a")]
    assert set(operators(written(tmp_path, Call(spans)))) == {"none", "some", "last"}
    assert set(operators(written(tmp_path, Call([Span("none", 0.0)])))) == {"none"}


@pytest.mark.parametrize("seconds", [-1e-9, math.nan, math.inf])
def test_a_time_that_is_none_is_refused_by_name(tmp_path: Path, seconds: float) -> None:
    with pytest.raises(ValueError, match="'Conv' cannot take"):
        written(tmp_path, Call([Span("Conv", seconds)]))
    with pytest.raises(ValueError, match="'Conv' cannot start"):
        written(tmp_path, Call([Span("Conv", 1e-6, seconds if seconds != -1e-9 else -1.0)]))
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_draw_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="small/fake' has no operators"):
        written(tmp_path, Call([]))


def test_equal_calls_make_equal_files(tmp_path: Path) -> None:
    files = [
        write_chrome(tmp_path / folder / "x.pt.trace.json.gz", [made_up_call(30)], process_name="x")
        for folder in ("a", "b")
    ]
    assert files[0].read_bytes() == files[1].read_bytes()
    plain = write_chrome(tmp_path / "x.pt.trace.json", [made_up_call(30)], process_name="x")
    assert read(plain) == read(files[0])


def test_networks_are_runs_and_backends_are_workers(tmp_path: Path) -> None:
    consts = pytest.importorskip("torch_tb_profiler.consts")
    path = trace_path(tmp_path, Cell("v2@0.5", "onnxruntime", threads=2))
    assert path == tmp_path / TRACES / "v2@0.5" / "onnxruntime.t2-b1-r224-cpu.pt.trace.json.gz"
    worker, span = consts.WORKER_PATTERN.match(path.name).groups()
    assert (worker, span) == ("onnxruntime.t2-b1-r224-cpu", None)


@pytest.mark.parametrize(
    "name", ["../../etc", "/etc/passwd", "..", ".", "", "a/b", "a\0b", "x" * 5000, HOSTILE, "-rf", ".hidden"]
)
def test_no_name_leaves_the_folder(tmp_path: Path, name: str) -> None:
    path = trace_path(tmp_path, Cell(name, name, name))
    assert path.parent.parent == tmp_path / TRACES
    assert path.resolve() == path
    assert write_chrome(path, [made_up_call(1)], process_name=name).is_file()
    assert path != trace_path(tmp_path, Cell(name + "_", name, name))


def test_names_that_look_alike_as_files_stay_apart(tmp_path: Path) -> None:
    assert trace_path(tmp_path, Cell("a/b", "eager")) != trace_path(tmp_path, Cell("a_b", "eager"))
    assert trace_path(tmp_path, Cell("a/b", "eager")) != trace_path(tmp_path, Cell("a:b", "eager"))


def profile_of(times: dict[str, tuple[float, ...]]) -> Profile:
    return Profile(
        by="a fake",
        operators=tuple(
            OperatorTime(name=name, operation="Conv", seconds=seconds) for name, seconds in times.items()
        ),
        plain=(),
        profiled=(),
        complete=True,
    )


def profiled_of(*names: str) -> Profiled:
    found = tuple(
        ProfiledOperator(name, "Conv", "pointwise", "features.1", (), 1e-6, 1e-6, 1e-6, "fp32", 9, 8, (4, 2))
        for name in names
    )
    return Profiled("small/fake", "a fake", 2, found, 1e-6, 1e-6, complete=True)


def test_a_profile_becomes_a_call_for_each_repeat() -> None:
    calls = calls_of(profile_of({"a": (1e-6, 2e-6), "b": (3e-6, 4e-6, 5e-6)}), profiled_of("a", "b"))
    assert [[span.seconds for span in call.spans] for call in calls] == [[1e-6, 3e-6], [2e-6, 4e-6]]
    span = calls[0].spans[0]
    assert (span.name, span.module) == ("a", "features.1")
    assert span.arguments["kind"] == "pointwise"
    assert span.arguments["MACs"] == 9
    assert span.arguments["output shape"] == "4 × 2"


def test_a_trace_holds_so_many_calls_and_no_more() -> None:
    assert len(calls_of(profile_of({"a": (1e-6,) * 1000}), profiled_of("a"))) == MOST_CALLS
    assert calls_of(profile_of({}), profiled_of()) == ()


def test_operators_without_their_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        calls_of(profile_of({"a": (1e-6,)}), profiled_of("a", "b"))


def recorded() -> Any:
    """PyTorch's own recording of three calls of a tiny network."""
    import torch
    from torch import nn
    from torch.profiler import ProfilerActivity, profile, record_function, schedule

    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Hardswish(), nn.Flatten(), nn.Linear(288, 4)).eval()
    image = torch.ones(1, 3, 8, 8)
    with (
        torch.inference_mode(),
        profile(
            activities=[ProfilerActivity.CPU],
            acc_events=True,
            record_shapes=True,
            profile_memory=True,
            schedule=schedule(wait=0, warmup=1, active=3, repeat=1),
        ) as found,
    ):
        for _ in range(4):
            with record_function(MODULE_ANNOTATION):
                value = image
                for name, layer in network.named_children():
                    with record_function(f"{MODULE_ANNOTATION}features.{name}"):
                        value = layer(value)
            found.step()
    return found


@pytest.fixture(scope="module")
def kineto(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trace that PyTorch writes of it."""
    path = tmp_path_factory.mktemp("kineto") / "own.json.gz"
    recorded().export_chrome_trace(str(path))
    return path


def test_pytorchs_own_trace_is_read_whole(kineto: Path, tmp_path: Path) -> None:
    own = read(kineto)
    trace = read(from_kineto_file(kineto, tmp_path / "eager.pt.trace.json.gz"))
    assert trace["traceName"] == "eager.pt.trace.json.gz"
    assert [event["name"] for event in slices(trace)] == [event["name"] for event in slices(own)]
    assert min(event["ts"] for event in trace["traceEvents"]) == 0
    for new, old in zip(slices(trace), slices(own), strict=True):
        assert new["dur"] == pytest.approx(old["dur"], abs=0.002)
        assert (new["ts"] + trace["baseTimeNanoseconds"] / 1000) == pytest.approx(
            old["ts"] + own["baseTimeNanoseconds"] / 1000, abs=1
        )
    rows = operators(trace)
    expected = [event["dur"] for event in slices(own) if event["name"] == "aten::conv2d"]
    assert rows["aten::conv2d"][0] == 3
    assert rows["aten::conv2d"][1] == pytest.approx(sum(expected), abs=0.01)
    profile = parsed(trace)
    assert profile.steps_names == ["1", "2", "3"]
    assert profile.memory_snapshot is not None
    assert "[[1, 3, 8, 8]" in str([row.input_shape for row in profile.op_list_groupby_name_input])


def test_a_profiler_is_written_without_a_file_of_its_own(tmp_path: Path) -> None:
    path = from_kineto(recorded(), tmp_path / "some" / "eager.pt.trace.json.gz")
    assert operators(read(path))["aten::conv2d"][0] == 3
    assert list(path.parent.iterdir()) == [path]


def test_what_pytorch_leaves_out_for_the_plugin_is_put_in(kineto: Path, tmp_path: Path) -> None:
    view = pytest.importorskip("torch_tb_profiler.profiler.module_op", reason="mnv3-bench[profile]")
    own = parsed(read(kineto))
    assert not own.stack_lists_group_by_name, "PyTorch writes call stacks again: repair() need not"
    assert view.aggegate_module_view(own.tid2tree, own.events) is None
    profile = parsed(read(from_kineto_file(kineto, tmp_path / "x.pt.trace.json")))
    (stack,) = profile.stack_lists_group_by_name["aten::conv2d"]
    assert stack.callstacks == {"nn.Module: features.0;nn.Module: (network)"}
    (network,) = view.aggegate_module_view(profile.tid2tree, profile.events)
    assert (network.name, network.occurences) == ("(network)", 3)
    assert [child.name for child in network.children] == [f"features.{layer}" for layer in range(4)]


def test_python_functions_are_call_stacks_too() -> None:
    def event(category: str, name: str, start: float, length: float, **arguments: Any) -> dict[str, Any]:
        times = {"ts": 4866261906603.338 + start, "dur": length, "pid": 5, "tid": 5}
        return {"ph": "X", "cat": category, "name": name, **times, "args": arguments}

    trace = {
        "baseTimeNanoseconds": 7,
        "traceEvents": [
            event(
                "python_function", "a.py(1): main; x", 0, 100, **{"Python id": 1, "Python parent id": None}
            ),
            event("python_function", "b.py(2): f", 10, 20, **{"Python id": 2, "Python parent id": 1}),
            event("cpu_op", "aten::mul", 12, 5),
            event("cpu_op", "aten::add", 40, 5),
            event("cpu_op", "aten::outside", 200, 5),
        ],
    }
    repair(trace)
    events: list[Any] = trace["traceEvents"]  # type: ignore[assignment]
    assert [each["args"].get("Call stack") for each in events[2:]] == [
        "b.py(2): f;a.py(1): main, x",
        "a.py(1): main, x",
        None,
    ]
    assert trace["baseTimeNanoseconds"] == 4866261906603338 + 7


def test_touching_operators_of_pytorch_still_touch() -> None:
    """As it writes them, decimal microseconds after a distant origin, the plugin drops many."""
    chosen = random.Random(0)
    now = 4866261906603338
    events: list[dict[str, Any]] = []
    for number in range(2000):
        length = chosen.randint(500, 90_000)
        place = {"pid": 1, "tid": 1, "ts": now / 1000, "dur": length / 1000}
        events.append({"ph": "X", "cat": "cpu_op", "name": f"op{number}", **place, "args": {}})
        now += length
    trace = {"traceEvents": events}
    lost = 2000 - len(operators(json.loads(json.dumps(trace))))
    assert lost > 0, "the plugin reads decimal times: repair() need not change them"
    repair(trace)
    assert len(operators(trace)) == 2000


def test_another_file_is_no_trace(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text("[1]")
    with pytest.raises(ValueError, match=r"other.json' is no trace of PyTorch"):
        from_kineto_file(other, tmp_path / "x.pt.trace.json")
