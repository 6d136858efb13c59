"""A user's own model files through the command line: each suffix, each on its own runtime and on others."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from mnv3_bench.backends import get_backend, missing
from mnv3_bench.backends.base import Preparation
from mnv3_reports.journal import assemble, read_journal
from mnv3_reports.record import TensorSpec

if TYPE_CHECKING:
    from pathlib import Path

    from mnv3_reports.record import Run

NATIVE = {
    "net.onnx": "onnxruntime",
    "net.tflite": "litert",
    "net.pt2": "eager",
    "net.pt": "torchscript",
    "net.pte": "executorch",
    "net.xml": "openvino",
}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(missing(get_backend(name).info) is not None for name in NATIVE.values()),
        reason="needs every runtime: pip install 'mnv3-bench[all]'",
    ),
]


class Net(nn.Module):
    """Convolution, normalisation, hard-swish, pooling, a linear layer: ten logits of a 32-pixel image."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Hardswish())
        self.head = nn.Linear(8, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.features(images).mean((2, 3)))
        return logits


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One network as a file of each runtime, written by the runtimes' own exporters."""
    torch.manual_seed(0)
    folder, network = tmp_path_factory.mktemp("files"), Net().eval()
    example = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    torch.export.save(torch.export.export(network, (torch.from_numpy(example),)), str(folder / "net.pt2"))
    torch.jit.save(torch.jit.trace(network, torch.from_numpy(example)), str(folder / "net.pt"))
    for backend, made, suffix in (
        ("onnxruntime", "model.onnx", ".onnx"),
        ("litert", "model.tflite", ".tflite"),
        ("executorch", "model.pte", ".pte"),
        ("openvino", "model.xml", ".xml"),
    ):
        place = folder / backend
        place.mkdir()
        get_backend(backend).prepare(
            Preparation(
                variant="net",
                num_classes=10,
                network=network,
                inputs=(TensorSpec("images", example.shape),),
                example=(example,),
                calibration=[(example,)],
                threads=1,
                device="cpu",
                directory=place,
            )
        )
        (place / made).rename(folder / f"net{suffix}")
        if suffix == ".xml":
            (place / "model.bin").rename(folder / "net.bin")
    return folder


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mnv3_bench.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
        timeout=600,
    )


def run_of(folder: Path) -> Run:
    return assemble(read_journal(folder / "journal.jsonl"))


@pytest.mark.parametrize(
    "names",
    [("net.onnx", "net.tflite", "net.xml"), pytest.param(tuple(NATIVE), marks=pytest.mark.thorough)],
    ids=len,
)
def test_every_suffix_is_measured_by_its_own_runtime_and_by_others(
    files: Path, names: tuple[str, ...]
) -> None:
    models = [part for name in names for part in ("--model", name)]
    output = f"run-{len(names)}"
    done = command(
        files,
        *models,
        *("--backends", ",".join(dict.fromkeys(NATIVE[name] for name in names))),
        *("--input", "1x3x32x32", "--quick", "--time-budget", "8s", "--output", output),
    )
    assert done.returncode == 0, done.stderr
    run = run_of(files / output)
    for name in names:
        backend = NATIVE[name]
        record = run.cells[f"{name}/{backend}?threads=1&batch=1&resolution=32&device=cpu"]
        assert record.inspected is not None
        assert record.inspected.fidelity is not None
        assert record.inspected.fidelity.snr_db >= 60, name
        assert record.inspected.fidelity.reference != "eager fp32"
    assert f"net.pte/{NATIVE['net.onnx']}" not in " ".join(run.cells), (
        "ONNX Runtime cannot be given a .pte file"
    )
    others = {record.cell.variant for record in run.cells.values() if record.cell.backend == "openvino"}
    assert {"net.onnx", "net.tflite", "net.xml"} <= others
    report = (files / output / "report.md").read_text()
    assert all(name in report for name in names)


@pytest.mark.thorough
def test_several_named_inputs_of_other_types(files: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "tokens"], ["embedded"]),
            helper.make_node("Cast", ["mask"], ["weights"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["weights", "last"], ["column"]),
            helper.make_node("Mul", ["embedded", "column"], ["kept"]),
            helper.make_node("ReduceMean", ["kept", "one"], ["mean"], keepdims=0),
        ],
        "text",
        [
            helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "length"]),
            helper.make_tensor_value_info("mask", TensorProto.INT64, ["batch", "length"]),
        ],
        [
            helper.make_tensor_value_info("kept", TensorProto.FLOAT, ["batch", "length", 16]),
            helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["batch", 16]),
        ],
        [
            helper.make_tensor("table", TensorProto.FLOAT, (50, 16), np.linspace(-1, 1, 800).tolist()),
            helper.make_tensor("last", TensorProto.INT64, (1,), [-1]),
            helper.make_tensor("one", TensorProto.INT64, (1,), [1]),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), str(files / "text.onnx"))
    refused = command(files, "--model", "text.onnx", "--backends", "onnxruntime")
    assert refused.returncode == 2
    assert "text.onnx leaves sizes open (tokens ?x? int64, mask ?x? int64)" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    done = command(
        files,
        *("--model", "text.onnx", "--input", "tokens=2x12,mask=2x12", "--backends", "onnxruntime,openvino"),
        *("--quick", "--time-budget", "5s", "--output", "text"),
    )
    assert done.returncode == 0, done.stderr
    run = run_of(files / "text")
    assert run.header.request.models["text.onnx"].inputs == (
        TensorSpec("tokens", (2, 12), "int64"),
        TensorSpec("mask", (2, 12), "int64"),
    )
    for record in run.cells.values():
        assert record.inspected is not None
        assert record.inspected.fidelity is not None
        assert record.inspected.fidelity.top1_agreement is None
    assert "tokens 2x12 int64" in (files / "text" / "report.md").read_text().replace("×", "x")


def test_a_function_with_inputs_of_its_own(files: Path) -> None:
    (files / "text_net.py").write_text(
        "import torch\n"
        "class Text(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.table = torch.nn.Embedding(50, 16)\n"
        "    def forward(self, tokens, scale):\n"
        "        return self.table(tokens).mean(1) * scale\n"
        "def make():\n"
        "    return Text()\n"
    )
    done = command(
        files,
        *("--model", "text_net:make", "--input", "2x12:int64,2x1", "--backends", "eager,torchscript"),
        *("--quick", "--time-budget", "5s", "--output", "function"),
    )
    assert done.returncode == 0, done.stderr
    assert len(run_of(files / "function").cells) == 2


def test_a_gate_between_two_files(files: Path) -> None:
    (files / "new").mkdir()
    (files / "new" / "net.onnx").write_bytes((files / "net.onnx").read_bytes())
    done = command(
        files,
        *("gate", "--base", "net.onnx", "--head", "new/net.onnx", "--deterministic-only", "--output", "gate"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((files / "gate" / "gate.json").read_bytes())
    assert [cell["cell"].partition("?")[0] for cell in report["cells"]] == ["net.onnx/onnxruntime"]


@pytest.mark.parametrize("name", NATIVE)
def test_a_file_cut_short_is_one_line(files: Path, tmp_path: Path, name: str) -> None:
    whole = (files / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    if name == "net.xml":
        (tmp_path / "net.bin").write_bytes((files / "net.bin").read_bytes())
    done = command(tmp_path, "--model", name)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert name in done.stderr
    assert "Traceback" not in done.stderr


def test_a_custom_operator_is_named(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Sparkle", ["x"], ["y"], domain="com.example")],
        "custom",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.example", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets), str(tmp_path / "custom.onnx"))
    done = command(tmp_path, "--model", "custom.onnx")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "Sparkle" in done.stderr


@pytest.mark.thorough
def test_models_that_onnx_runtime_ships(tmp_path: Path) -> None:
    """Files that somebody else made; one of them has outputs that are no tensors, which is said."""
    from onnxruntime.datasets import get_example

    done = command(
        tmp_path,
        *("--model", get_example("sigmoid.onnx"), "--model", get_example("mul_1.onnx")),
        *("--backends", "onnxruntime,openvino", "--quick", "--time-budget", "5s", "--output", "run"),
    )
    assert done.returncode == 0, done.stderr
    assert {record.cell.variant for record in run_of(tmp_path / "run").cells.values()} == {
        "sigmoid.onnx",
        "mul_1.onnx",
    }
    assert msgspec.json.decode((tmp_path / "run" / "run.json").read_bytes())
