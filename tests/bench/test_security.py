"""What may execute or unpickle stands in docs/security.md and nowhere else; model files of strangers have limits."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
import typer
from fuzz import seeds

from mnv3_bench import cli, model_files
from mnv3_bench.cache import Manifest, Store, digest
from mnv3_bench.config import read_config
from mnv3_bench.display import Display
from mnv3_bench.errors import ExitCode, UsageError
from mnv3_bench.fleet import shipping, wire
from mnv3_bench.model_files import Reading, archived, companions, format_of, signature
from mnv3_bench.plan import Asked, make_limits
from mnv3_reports.record import Cell

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
SOURCES = [path for root in ("bench", "models", "reports") for path in sorted((ROOT / root).rglob("*.py"))]
NEVER = {
    *(
        "eval",
        "exec",
        "os.system",
        "os.popen",
        "yaml.load",
        "yaml.unsafe_load",
        "np.fromfile",
        "runpy.run_path",
    ),
    *(
        "pickle.load",
        "pickle.loads",
        "marshal.load",
        "marshal.loads",
        "shelve.open",
        "joblib.load",
        "dill.load",
    ),
    *("torch.hub.load", "subprocess.getoutput", "subprocess.getstatusoutput"),
}
RUNS = {
    *("torch.export.load", "torch.jit.load", "torch._inductor.aoti_load_package", "importlib.import_module"),
    *("spec.loader.exec_module", "torch._export.aot_load", "torch._C._aoti.AOTIModelContainerRunnerCpu"),
}
"""Calls that may run what is in a file: each file that has one is named in docs/security.md."""
TELLING = re.compile(
    r"\b(?:eval|exec|loads?|unsafe_load|system|popen|get\w*output|fromfile|run_path|shelve)\b *\(|shell|allow_pickle"
    r"|import_module|exec_module|aot",
)
"""What a file with such a call has somewhere."""
ENOUGH = Reading(60.0, 4 << 30)


@cache
def calls() -> list[tuple[Path, str, ast.Call]]:
    """Every call of a name in the sources: file, dotted name, call."""
    found: list[tuple[Path, str, ast.Call]] = []
    for path in SOURCES:
        text = path.read_text()
        if TELLING.search(text) is None:
            continue  # most of them, and parsing takes a while
        named = (
            (dotted(node.func), node) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)
        )
        found += [(path, name, call) for name, call in named if name is not None]
    return found


def dotted(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value)
        return f"{inner}.{node.attr}" if inner is not None else None
    return None


def keywords(call: ast.Call) -> dict[str | None, str]:
    return {each.arg: ast.unparse(each.value) for each in call.keywords}


def test_nothing_is_unpickled_evaluated_or_given_to_a_shell() -> None:
    found = []
    for path, name, call in calls():
        given = keywords(call)
        bad = name in NEVER or given.get("shell", "False") != "False"
        bad |= given.get("allow_pickle", "False") != "False"
        bad |= name == "torch.load" and given.get("weights_only") != "True"
        if bad:
            found.append(f"{path.relative_to(ROOT)}:{call.lineno}: {ast.unparse(call)}")
    assert not found


def test_what_can_run_code_of_a_file_is_named_in_the_page() -> None:
    running = {path.relative_to(ROOT) for path, name, _ in calls() if name in RUNS}
    assert running, "the names above are still those in use"
    missing = [str(path) for path in sorted(running) if path.name not in PAGE]
    assert not missing


def test_the_linter_watches_for_shells_and_pickles() -> None:
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert "S" in lint["select"]
    assert not {"S301", "S302", "S307", "S506", "S602", "S604", "S605", "S614"} & set(lint["ignore"])


def test_limits_go_by_their_old_names_too(tmp_path: Path) -> None:
    command = typer.main.get_command(cli.app)
    for name in ("run", "profile", "evaluate", "gate"):
        flags = {flag for each in command.commands[name].params for flag in each.opts}  # type: ignore[attr-defined]
        assert {"--limit-time", "--timeout", "--limit-memory", "--worker-memory"} <= flags, name
    exported = {flag for each in command.commands["export"].params for flag in each.opts}  # type: ignore[attr-defined]
    assert {"--limit-time", "--limit-memory"} <= exported
    file = tmp_path / "c.toml"
    for text in ("limit-time = '9s'\nlimit-memory = '2GB'", "timeout = 9\nworker_memory = '2GB'"):
        file.write_text(text)
        limits = make_limits(read_config(str(file))[0])
        assert (limits.load, limits.everywhere, limits.memory_bytes) == (9.0, 9.0, 2 * 10**9)
    with pytest.raises(UsageError, match="--limit-time soon is not a duration"):
        make_limits(Asked(limit_time="soon"))


def test_limits_beyond_all_measure_are_one_line() -> None:
    for digits in ("9" * 400, "9" * 30):
        with pytest.raises(UsageError, match="--limit-memory 99999999999999999999 is more than a petabyte"):
            make_limits(Asked(limit_memory=digits))
        with pytest.raises(UsageError, match="--limit-time 99999999999999999999 is more than ten years"):
            make_limits(Asked(limit_time=digits))


def test_a_configuration_with_a_nul_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('models = "a\\u0000.onnx"')
    assert cli.invoke(["run", "--config", str(file)]) == ExitCode.USAGE
    file.write_text('[gate]\nbase = "a\\u0000"')
    assert cli.invoke(["gate", "--config", str(file), "--head", "small"]) == ExitCode.USAGE


@pytest.mark.parametrize("flag", ["--model", "--config", "--output", "--resume", "--weights"])
def test_a_path_that_is_too_long_is_one_line(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"{'x' * 300}{'.onnx' if flag == '--model' else ''}"
    assert cli.invoke(["run", flag, name]) == ExitCode.USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mnv3-bench: ")


def test_what_a_strangers_file_says_does_not_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Display().say("v3/eager: cannot be prepared: \x1b[2J\x1b]0;owned\x07 [/bold]")
    assert cli.invoke(["run", "--variants", "\x1b[2Jsmall"]) == ExitCode.USAGE
    shown = capsys.readouterr().err
    assert not set(shown) & set("\x1b\x07")


def test_a_live_table_takes_no_markup_from_names(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    from mnv3_bench.display import LiveDisplay

    display = LiveDisplay([Cell("[/bold]net.onnx", "eager:x=[link]")])
    try:
        display.where = "failed: [ONNXRuntimeError] [/] \x1b[2J"
        shown = Console(file=io.StringIO(), width=120)
        shown.print(display._table())
    finally:
        display.end()
    text = shown.file.getvalue()  # type: ignore[attr-defined]
    assert "[ONNXRuntimeError] [/]" in text
    assert "[/bold]net.onnx" in text
    assert "\x1b[2J" not in text


def many_nodes(count: int) -> bytes:
    """An ONNX file of two bytes a node, each of which takes a hundred in memory."""
    nodes = b"\x0a\x00" * count
    length, rest = b"", len(nodes)
    while rest > 127:
        length, rest = length + bytes([rest & 127 | 128]), rest >> 7
    return seeds.onnx() + b"\x3a" + length + bytes([rest]) + nodes


def cyclic() -> bytes:
    from onnx import TensorProto, helper

    nodes = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Neg", ["a"], ["b"])]
    given, made = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "b"))
    graph = helper.make_graph(nodes, "net", [given], [made])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


def with_bomb(program: bytes, megabytes: int) -> bytes:
    """A TorchScript or exported program whose weights unpack to so much."""
    held, source = io.BytesIO(), zipfile.ZipFile(io.BytesIO(program))
    bombed = next(
        info.filename for info in source.infolist() if "/data/" in info.filename and info.file_size > 100
    )
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for info in source.infolist():
            if info.filename != bombed:
                archive.writestr(info.filename, source.read(info))
                continue
            with archive.open(info.filename, "w", force_zip64=True) as record:
                for _ in range(megabytes):
                    record.write(bytes(1 << 20))
    return held.getvalue()


def refusal(path: Path, content: bytes, reading: Reading = ENOUGH) -> str:
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        signature(path, format_of(path), reading)
    message = str(caught.value)
    assert "Traceback" not in message
    return message


class Refused(NamedTuple):
    """What a process said that was asked for a file's signature, and the most memory in bytes that it held."""

    message: str
    own: int
    reader: int


def read_elsewhere(path: Path, seconds: float) -> Refused:
    """Refuse a file within 1 GiB in a process of its own: the kernel knows of a parent only its largest child."""
    program = """
import json, resource, sys
from pathlib import Path
from mnv3_bench.errors import UsageError
from mnv3_bench.model_files import Reading, format_of, signature

path = Path(sys.argv[1])
try:
    signature(path, format_of(path), Reading(float(sys.argv[2]), 1 << 30))
except UsageError as error:
    # Its ru_maxrss would begin with what the process held that started it.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    own, reader = int(status["VmHWM"].split()[0]), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(json.dumps([str(error), own << 10, reader << 10]))
"""
    command = [sys.executable, "-c", program, str(path), str(seconds)]
    return Refused(*json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def test_an_onnx_file_reads_nothing_outside_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(seeds.onnx_with_data("../../etc/passwd"))
    with pytest.raises(UsageError, match=r"reads '../../etc/passwd', outside its own folder"):
        companions(path)
    (tmp_path / "weights.bin").write_bytes(bytes(432))
    path.write_bytes(seeds.onnx_with_data())
    assert companions(path) == [tmp_path / "weights.bin"]


def test_a_file_that_fills_the_memory_meets_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(many_nodes(8_000_000))
    refused = read_elsewhere(path, 60.0)
    assert "net.onnx" in refused.message
    assert refused.own < 500 << 20, "it has not read the file itself"
    assert refused.reader < 2 << 30


def test_a_file_that_takes_for_ever_is_given_up(tmp_path: Path) -> None:
    message = refusal(tmp_path / "net.onnx", seeds.onnx(), Reading(0.05, 1 << 30))
    assert "took more than 0 s" in message
    assert "--limit-time" in message


def test_limits_reach_the_process_that_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(seeds.tflite())
    asked = ["run", "--model", str(path), "--backends", "litert", "--output", str(tmp_path / "out")]
    assert cli.invoke([*asked, "--limit-memory", "1MB"]) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert "--limit-memory" in said
    assert "Traceback" not in said
    assert cli.invoke([*asked, "--limit-time", "0.01"]) == ExitCode.USAGE
    assert "--limit-time" in capsys.readouterr().err


def test_a_flatbuffer_that_is_cut_short_is_one_line(tmp_path: Path) -> None:
    assert "cut short or damaged" in refusal(tmp_path / "net.tflite", seeds.tflite()[:200])


def test_a_graph_without_a_beginning_is_one_line(tmp_path: Path) -> None:
    assert "not acyclic" in refusal(tmp_path / "net.onnx", cyclic())


def test_special_files_are_no_models(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "net.onnx")
    (tmp_path / "zero.onnx").symlink_to("/dev/zero")
    for name in ("net.onnx", "zero.onnx"):
        with pytest.raises(UsageError, match="is no regular file"):
            format_of(tmp_path / name)


def test_an_archives_table_of_contents_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(2000):
            archive.writestr(f"net/{number}", b"")
    assert len(archived(path) or ()) == 2000
    monkeypatch.setattr(model_files, "LARGEST_CONTENTS", 50_000)
    assert archived(path) is None
    path.write_bytes(path.read_bytes()[:-30])
    assert archived(path) is None


@pytest.mark.thorough
@pytest.mark.parametrize(("suffix", "make"), [(".pt", seeds.pt), (".pt2", seeds.pt2)])
def test_an_archive_that_unpacks_to_gigabytes_meets_its_limit(
    tmp_path: Path, suffix: str, make: object
) -> None:
    assert callable(make)
    content = with_bomb(make(), 1536)
    assert len(content) < 8 << 20
    path = tmp_path / f"net{suffix}"
    path.write_bytes(content)
    refused = read_elsewhere(path, 120.0)
    assert "holds no program" in refused.message
    assert refused.reader < 2 << 30


@pytest.mark.thorough
@pytest.mark.parametrize("suffix", list(seeds.MODELS))
def test_any_true_file_cut_short_is_one_line(tmp_path: Path, suffix: str) -> None:
    whole = seeds.MODELS[suffix]()
    (tmp_path / "net.bin").write_bytes(bytes(64))
    path = tmp_path / f"net{suffix}"
    path.write_bytes(whole)
    true = signature(path, format_of(path), ENOUGH)
    taken = []
    for length in (len(whole) // 3, len(whole) * 2 // 3, len(whole) - 1):
        path.write_bytes(whole[:length])
        with contextlib.suppress(UsageError):  # anything else is a fault
            assert signature(path, format_of(path), ENOUGH) == true, (
                "what is missing may be what nobody reads"
            )
            taken.append(length)
    assert len(whole) // 3 not in taken


@pytest.mark.thorough
def test_weights_that_unpack_to_gigabytes_are_a_named_failure(tmp_path: Path) -> None:
    import torch

    from mnv3_models import build

    held = io.BytesIO()
    torch.save(build("small").state_dict(), held)
    weights = tmp_path / "w.pth"
    weights.write_bytes(with_bomb(held.getvalue(), 3072))
    asked = [
        "run",
        "--variants",
        "small",
        "--references",
        "none",
        "--weights",
        f"small={weights}",
        "--backends",
        "eager",
    ]
    code = cli.invoke([*asked, "--limit-memory", "2GB", "--quick", "--output", str(tmp_path / "out")])
    assert code == ExitCode.CELLS_FAILED
    assert "is no readable PyTorch checkpoint" in (tmp_path / "out" / "report.md").read_text()


def test_what_comes_over_a_network_is_typed_and_stays_in_its_folder(tmp_path: Path) -> None:
    for content in (b'{"name":"\xb3"}', b"[" * 200_000, b"{}", b'{"folder":1}'):
        with pytest.raises(wire.WireError):
            wire.decode(content, wire.File)
        with pytest.raises(wire.WireError):
            shipping.told_by(content)
    for name in ("../x", "/etc/passwd", "a/../../x", "", "a\x00b", "..\\x"):
        with pytest.raises(wire.WireError, match="which is not a path below a folder"):
            shipping.place_of(wire.File("f", name, "/net.onnx", "0" * 64, 1))
        key = {"kind": "artifact"}
        manifest = Manifest(key, "2026-01-01", 1.0, {name: 1}, {})
        with pytest.raises(wire.WireError, match="which is not a path below a folder"):
            shipping.Receiver(Store(tmp_path)).begin(digest(key), msgspec.json.encode(manifest))
