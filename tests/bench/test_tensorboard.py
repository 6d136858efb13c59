"""TensorBoard with PyTorch's profiler plugin, started on loopback: what it serves of our traces, and how it ends."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path  # noqa: TC003 - the type of a field
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

import psutil
import pytest

from mnv3_bench.errors import UsageError
from mnv3_bench.profiling import tensorboard
from mnv3_bench.profiling.traces import TRACES, Call, Span, from_kineto, trace_path, write_chrome
from mnv3_reports.record import Cell

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 60.0
PLUGIN = "data/plugin/pytorch_profiler"
FAKE = Cell("small", "fake")
EAGER = Cell("small", "eager")
OTHER = Cell("v2", "fake", threads=2)
TIMES = {"/features/0/Conv": 250e-6, "/features/0/HardSwish": 40e-6, "/classifier/Gemm": 10e-6}
REPEATS = 3

needs_plugin = pytest.mark.skipif(
    importlib.util.find_spec("torch_tb_profiler") is None,
    reason="needs TensorBoard's profiler plugin: pip install 'mnv3-bench[profile]'",
)


class Served(NamedTuple):
    root: Path
    server: tensorboard.Server

    def page(self, route: str) -> str:
        url = self.server.url.partition("#")[0] + f"{PLUGIN}/{route}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=PATIENCE) as answer:
            text: str = answer.read().decode()
            return text

    def ask(self, route: str, **query: str) -> Any:
        return json.loads(self.page(f"{route}?{urlencode(query)}"))

    def of(self, cell: Cell, route: str, **query: str) -> Any:
        worker = trace_path(self.root, cell).name.removesuffix(".pt.trace.json.gz")
        return self.ask(route, run=cell.variant, worker=worker, span="default", **query)


def fake_calls() -> list[Call]:
    spans = [
        Span(name, seconds, module=name[1:].rpartition("/")[0].replace("/", "."))
        for name, seconds in TIMES.items()
    ]
    return [Call(spans, seconds=350e-6)] * REPEATS


def eager_profile() -> Any:
    import torch
    from torch.profiler import ProfilerActivity, profile, schedule

    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Hardswish()).eval()
    image = torch.ones(1, 3, 16, 16)
    steps = schedule(wait=0, warmup=1, active=REPEATS, repeat=1)
    with (
        torch.inference_mode(),
        profile(
            activities=[ProfilerActivity.CPU],
            acc_events=True,
            record_shapes=True,
            with_stack=True,
            schedule=steps,
        ) as found,
    ):
        for _ in range(1 + REPEATS):
            network(image)
            found.step()
    return found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Two networks on made-up runtimes, one of them on PyTorch too, loaded by one TensorBoard."""
    root = tmp_path_factory.mktemp("run")
    for cell in (FAKE, OTHER):
        write_chrome(trace_path(root, cell), fake_calls(), process_name=cell.key)
    from_kineto(eager_profile(), trace_path(root, EAGER))
    with tensorboard.serve(root / TRACES) as server:
        found = Served(root, server)
        deadline = time.monotonic() + PATIENCE
        while found.ask("runs") != {"runs": ["small", "v2"], "loading": False}:
            assert time.monotonic() < deadline, found.ask("runs")
            time.sleep(0.05)
        yield found


@needs_plugin
def test_networks_are_runs_with_a_worker_for_each_backend(served: Served) -> None:
    assert {"Overview", "Operator", "Trace", "Module"} <= set(served.ask("views", run="small"))
    assert served.ask("workers", run="small", view="Operator") == [
        "eager.t1-b1-r224-cpu",
        "fake.t1-b1-r224-cpu",
    ]
    assert served.ask("workers", run="v2", view="Operator") == ["fake.t2-b1-r224-cpu"]


@needs_plugin
@pytest.mark.parametrize("cell", [FAKE, OTHER])
def test_our_operators_come_back_with_their_times(served: Served, cell: Cell) -> None:
    table = served.of(cell, "operation/table", group_by="Operation")["data"]
    # The table has whole microseconds.
    assert {row["name"]: (row["calls"], row["host_total_duration"]) for row in table} == {
        name: (REPEATS, pytest.approx(seconds * REPEATS * 1e6, abs=1)) for name, seconds in TIMES.items()
    }
    slices = served.of(cell, "operation", group_by="Operation")["host_self_time"]["rows"]
    assert dict(slices) == pytest.approx(
        {name: seconds * REPEATS * 1e6 for name, seconds in TIMES.items()}, abs=0.01
    )


@needs_plugin
def test_calls_come_back_as_steps(served: Served) -> None:
    overview = served.of(FAKE, "overview")
    assert [row[0] for row in overview["steps"]["rows"]] == ["0", "1", "2"]
    assert overview["performance"][0]["value"] == 350
    parts = {part["name"]: part["value"] for part in overview["performance"][0]["children"]}
    assert parts["CPU Exec"] == pytest.approx(sum(TIMES.values()) * 1e6, abs=1)
    assert parts["Other"] == pytest.approx(50, abs=1)


@needs_plugin
def test_operators_of_pytorch_come_back_with_their_call_stacks(served: Served) -> None:
    table = served.of(EAGER, "operation/table", group_by="Operation")["data"]
    rows = {row["name"]: row for row in table}
    assert rows["aten::conv2d"]["calls"] == REPEATS
    assert rows["aten::conv2d"]["has_call_stack"]
    stacks = served.of(EAGER, "operation/stack", group_by="Operation", op_name="aten::conv2d")["data"]
    assert all("nn.Module: Conv2d_0" in row["call_stack"] for row in stacks)
    shapes = served.of(EAGER, "operation/table", group_by="OperationAndInputShape")["data"]
    assert any("[1, 3, 16, 16]" in row["input_shape"] for row in shapes if row["name"] == "aten::conv2d")


@needs_plugin
def test_it_listens_on_loopback_alone(served: Served) -> None:
    family = [served.server.process.pid]
    family += [child.pid for child in psutil.Process(family[0]).children(recursive=True)]
    listening = {
        connection.laddr
        for pid in family
        for connection in psutil.Process(pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert {(address.ip, address.port) for address in listening} == {(tensorboard.HOST, _port(served.server))}


@needs_plugin
@pytest.mark.parametrize("page", ["index.html", "trace_embedding.html"])
def test_its_pages_load_nothing_from_elsewhere(served: Served, page: str) -> None:
    html = served.page(page)
    loaded = re.findall(r"""<(?:script|link|iframe|img)[^>]*\s(?:src|href)=["']?([^\s"'>]+)""", html)
    assert not [source for source in loaded if "//" in source]
    assert ("google = {" in html) == (page == "index.html")


@needs_plugin
def test_it_talks_to_nobody_else(served: Served) -> None:
    served.of(FAKE, "overview")
    talking = psutil.Process(served.server.process.pid).net_connections("inet")
    assert all(each.raddr.ip == tensorboard.HOST for each in talking if each.raddr)


@needs_plugin
def test_a_port_that_is_taken_is_refused(served: Served) -> None:
    taken = _port(served.server)
    with pytest.raises(UsageError, match=rf"port {taken} cannot be used: .*; choose another --port"):
        tensorboard.serve(served.root / TRACES, taken)
    with pytest.raises(UsageError, match="port 70000 cannot be used"):
        tensorboard.serve(served.root / TRACES, 70000)


@needs_plugin
@pytest.mark.parametrize("logdir", ["missing", "."])
def test_a_folder_without_traces_is_refused(tmp_path: Path, logdir: str) -> None:
    with pytest.raises(UsageError, match="has no traces; mnv3-bench profile writes some"):
        tensorboard.serve(tmp_path / logdir)


@pytest.mark.parametrize("missing", ["tensorboard", "torch_tb_profiler"])
def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else object())
    with pytest.raises(UsageError, match=r"is not installed; pip install 'mnv3-bench\[profile\]'"):
        tensorboard.serve(tmp_path)


def stub(folder: Path, program: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put another program in TensorBoard's place. Returns a run directory with a trace."""
    package = folder / "stub" / "tensorboard"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "main.py").write_text(program)
    plugin = folder / "stub" / "torch_tb_profiler"
    plugin.mkdir()
    (plugin / "__init__.py").touch()
    (plugin / "plugin.py").write_text("class TorchProfilerPlugin:\n    static_file_route = None\n")
    monkeypatch.setenv("PYTHONPATH", str(folder / "stub"))
    monkeypatch.syspath_prepend(folder / "stub")
    write_chrome(trace_path(folder, FAKE), fake_calls(), process_name="fake")
    return folder


SERVING = """
import http.server, os, sys
port = int(next(each for each in sys.argv if each.startswith("--port=")).partition("=")[2])
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response({status})
        self.end_headers()
        {after}
http.server.HTTPServer(("127.0.0.1", port), Answer).serve_forever()
"""


@pytest.mark.parametrize(
    ("program", "line"),
    [
        ("import sys; sys.exit('first\\nno \\x1b[31mroom')", r"TensorBoard did not start: no \[31mroom$"),
        ("run_main = lambda: None", "TensorBoard did not start: it printed nothing"),
        (SERVING.format(status=404, after=""), "runs without its profiler plugin .*404"),
    ],
)
def test_a_tensorboard_that_does_not_serve_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, line: str
) -> None:
    root = stub(tmp_path, program, monkeypatch)
    before = psutil.Process().children()
    with pytest.raises(UsageError, match=line):
        tensorboard.serve(root / TRACES)
    assert psutil.Process().children() == before


def test_a_tensorboard_that_never_answers_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = stub(tmp_path, "import time; time.sleep(600)", monkeypatch)
    monkeypatch.setattr(tensorboard, "PATIENCE", 0.2)
    before = psutil.Process().children()
    with pytest.raises(UsageError, match="no answer within 0 s: it printed nothing"):
        tensorboard.serve(root / TRACES)
    assert psutil.Process().children() == before


def test_a_tensorboard_that_ends_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    after = "self.wfile.flush(); print('enough', flush=True); os._exit(3)"
    root = stub(tmp_path, SERVING.format(status=200, after=after), monkeypatch)
    with pytest.raises(UsageError, match="TensorBoard ended: enough"):
        tensorboard.open_profile(root)
    assert "http://127.0.0.1:" in capsys.readouterr().out


def opened(root: Path) -> tuple[subprocess.Popen[str], psutil.Process]:
    """A process that shows a run's traces, and the server that it started."""
    program = (
        "import sys; from pathlib import Path; from mnv3_bench.profiling.tensorboard import open_profile;"
        f"sys.exit(open_profile(Path({str(root)!r})))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("TensorBoard: http://127.0.0.1:")
    (server,) = psutil.Process(process.pid).children()
    return process, server


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it_and_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    root = stub(tmp_path, SERVING.format(status=200, after=""), monkeypatch)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process, server = opened(root)
    # As a terminal does it: to the whole group.
    os.killpg(process.pid, number)
    assert process.wait(PATIENCE) == 0
    assert psutil.wait_procs([server], PATIENCE)[1] == []
    assert not list(tmp_path.glob("mnv3-bench-tensorboard-*"))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of a parent's death")
def test_it_dies_with_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = stub(tmp_path, SERVING.format(status=200, after=""), monkeypatch)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process, server = opened(root)
    process.kill()
    process.wait()
    assert psutil.wait_procs([server], PATIENCE)[1] == []


def test_what_the_plugin_forks_ends_with_the_server() -> None:
    program = (
        "import os, time\n"
        "from mnv3_bench.profiling.tensorboard_offline import forks_end_with_their_parent\n"
        "forks_end_with_their_parent()\n"
        "child = os.fork()\n"
        "print(child, flush=True) if child else None\n"
        "time.sleep(600)\n"
    )
    server = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    child = psutil.Process(int(server.stdout.readline()))
    assert child.is_running()
    server.kill()
    server.wait()
    assert psutil.wait_procs([child], PATIENCE)[1] == []


def test_closing_twice_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = stub(tmp_path, SERVING.format(status=200, after=""), monkeypatch)
    server = tensorboard.serve(root / TRACES)
    server.close()
    server.close()
    assert not server.folder.exists()
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect((tensorboard.HOST, _port(server)))


def _port(server: tensorboard.Server) -> int:
    return int(server.url.partition("#")[0].rstrip("/").rpartition(":")[2])
