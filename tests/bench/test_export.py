"""Exported files do what their manifest says, in programs that know nothing but the runtime and the manifest."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import numpy as np
import pytest
import torch
from made_models import with_fp16_weights
from safetensors.torch import save_file
from torch import nn

from mnv3_bench.backends import get_backend, missing
from mnv3_bench.cli import invoke
from mnv3_bench.errors import ExitCode, RunStoppedError, UsageError
from mnv3_bench.exporting import folder, manifest, preprocessing, targets
from mnv3_bench.exporting.targets import TARGETS
from mnv3_bench.inputs import images
from mnv3_models import build
from mnv3_models.calibration import calibrate, seed_weights
from mnv3_models.card import Card, metadata
from mnv3_models.data.preprocessing import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIANT, RESOLUTION, CLASSES = "v3-small@0.35", 64, 16
SHAPE = ["--resolution", str(RESOLUTION), "--num-classes", str(CLASSES)]
SLOW = ("executorch", "openvino-int8")
SLOWEST = ("aot-inductor", "executorch-int8", "litert-int8")
LABELS = [f"class {number} – Ω" for number in range(CLASSES)]
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])

# What a deployed program is: it reads the manifest, makes an input of a photograph, and calls one runtime.
HEAD = """
import json, sys
from pathlib import Path
import numpy as np

folder, target, photograph, answer = sys.argv[1:]
entry = next(e for e in json.loads(Path(folder, "manifest.json").read_text())["files"] if e["target"] == target)
given = entry["inputs"][0]
assert given["image"]["colour_order"] == "RGB"
pixels = np.load(photograph)  # height x width x RGB, 0 to 255
image = (pixels / 255 - given["image"]["mean"]) / given["image"]["std"]
low, high = given["image"]["value_range"]
assert low - 1e-3 <= image.min() and image.max() <= high + 1e-3
if given["layout"] == "NCHW":
    image = image.transpose(2, 0, 1)
x = np.ascontiguousarray(image[None], dtype=given["dtype"])
assert list(x.shape) == given["shape"]
file = str(Path(folder, entry["file"]["name"]))
"""
TAIL = """
y = np.asarray(y)
assert list(y.shape) == entry["outputs"][0]["shape"] and str(y.dtype) == entry["outputs"][0]["dtype"]
np.save(answer, y)
runtimes = {"ai_edge_litert", "executorch", "onnxruntime", "openvino", "tensorflow", "torch"}
assert not any(name.startswith("mnv3") for name in sys.modules)
assert runtimes & set(sys.modules) == ALLOWED, runtimes & set(sys.modules)
"""
ONNX = """
ALLOWED = {"onnxruntime"}
import onnxruntime
session = onnxruntime.InferenceSession(file)
(y,) = session.run([entry["outputs"][0]["name"]], {given["name"]: x})
"""
LITERT = """
ALLOWED = {"ai_edge_litert"}
from ai_edge_litert.interpreter import Interpreter
run = Interpreter(file).get_signature_runner()
y = run(**{given["name"]: x})[entry["outputs"][0]["name"]]
"""
OPENVINO = """
ALLOWED = {"openvino"}
import openvino
compiled = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
y = compiled({given["name"]: x})[entry["outputs"][0]["name"]]
"""
EXECUTORCH = """
ALLOWED = {"executorch", "torch"}
import torch
from executorch.runtime import Runtime
method = Runtime.get().load_program(file).load_method("forward")
y = method.execute([torch.from_numpy(x)])[0].numpy()
"""
TORCH = """
ALLOWED = {{"torch"}}
import torch
network = {load}
with torch.inference_mode():
    y = network(torch.from_numpy(x)).numpy()
"""
PROGRAMS = {
    "onnx": ONNX,
    "onnx-int8": ONNX,
    "litert": LITERT,
    "litert-int8": LITERT,
    "openvino": OPENVINO,
    "openvino-int8": OPENVINO,
    "executorch": EXECUTORCH,
    "executorch-int8": EXECUTORCH,
    "torchscript": TORCH.format(load="torch.jit.load(file)"),
    "pt2": TORCH.format(load="torch.export.load(file).module()"),
    "aot-inductor": TORCH.format(load="torch._inductor.aoti_load_package(file)"),
}


def installed(name: str) -> bool:
    target = next(target for target in TARGETS if target.name == name)
    return missing(get_backend(target.backend).info) is None


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """With weights that no cache of this project has seen."""
    model = build(VARIANT, num_classes=CLASSES)
    seed_weights(model, 7)
    calibrate(model, images(7, "weights", RESOLUTION))
    return model.eval()


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, network: nn.Module) -> Path:
    """A folder with weights, labels and a photograph."""
    place = tmp_path_factory.mktemp("given")
    torch.save(network.state_dict(), place / "trained.pth")
    (place / "names.txt").write_text("\n".join(LABELS) + "\n", encoding="utf-8")
    normalised = images(3, "measure", RESOLUTION, 1)[0].transpose(1, 2, 0)
    np.save(place / "photograph.npy", (255 * (normalised * STD + MEAN)).round().clip(0, 255).astype(np.uint8))
    return place


def eager(network: nn.Module, given: Path) -> np.ndarray:
    pixels = np.load(given / "photograph.npy") / 255
    normalised = ((pixels - MEAN) / STD).transpose(2, 0, 1)[None].astype(np.float32)
    with torch.inference_mode():
        return network(torch.from_numpy(normalised)).numpy()


def export(*arguments: object, env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mnv3_bench.cli", "export", *map(str, arguments)],
        env=env,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


@pytest.fixture(scope="module")
def environment(artifact_cache: Path) -> dict[str, str]:
    return {**os.environ, "MNV3_BENCH_CACHE": str(artifact_cache)}


@pytest.fixture(scope="module")
def quick(given: Path, environment: dict[str, str]) -> Path:
    """A folder with every kind of file whose runtime is installed, but those that take long."""
    return exported(given, "quick", [t.name for t in TARGETS if t.name not in (*SLOW, *SLOWEST)], environment)


OWN = """
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish(),
        nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 16),
    )
"""
"""A network that compilers and quantizers are done with in seconds."""


@pytest.fixture(scope="module")
def slow(given: Path, environment: dict[str, str]) -> Path:
    """A folder with some others, of a network of one's own."""
    return exported(given, "slow", list(SLOW), environment, own_network(given))


@pytest.fixture(scope="module")
def slowest(given: Path, environment: dict[str, str]) -> Path:
    """A folder with the rest, of that network too."""
    return exported(given, "slowest", list(SLOWEST), environment, own_network(given))


def own_network(given: Path) -> list[str]:
    (given / "slow_net.py").write_text(OWN)
    return ["--model", "slow_net:build", "--resolution", str(RESOLUTION), "--normalization", "imagenet"]


@pytest.fixture(scope="module")
def own() -> nn.Module:
    """The network of `slow`, as it is made where it is exported."""
    names: dict[str, Any] = {}
    exec(OWN, names)
    torch.manual_seed(0)
    made: nn.Module = names["build"]()
    return made.eval()


def exported(
    given: Path, name: str, wanted: list[str], environment: dict[str, str], network: list[str] | None = None
) -> Path:
    wanted = [target for target in wanted if installed(target)]
    variant = ["--variant", "small@0.35", *SHAPE, "--weights", str(given / "trained.pth")]
    done = export(
        *(*(network or variant), "--to", ",".join(wanted), "--output", given / name),
        *("--labels", given / "names.txt"),
        env=environment,
        cwd=given,
    )
    assert done.returncode == ExitCode.DONE, done.stderr
    assert len(done.stdout.splitlines()) == len(wanted) + 1
    return given / name


@pytest.fixture(
    params=[
        pytest.param(
            t.name,
            marks=[pytest.mark.slow] * (t.name in SLOW) + [pytest.mark.thorough] * (t.name in SLOWEST),
        )
        for t in TARGETS
    ]
)
def one(request: pytest.FixtureRequest) -> tuple[str, Path]:
    """A target and the folder that has its file."""
    name = request.param
    if not installed(name):
        pytest.skip(f"the runtime of {name} is not installed")
    folder = "slow" if name in SLOW else "slowest" if name in SLOWEST else "quick"
    return name, request.getfixturevalue(folder)


def read(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "manifest.json").read_text())
    return found


def entry_of(directory: Path, name: str) -> dict[str, Any]:
    return next(entry for entry in read(directory)["files"] if entry["target"] == name)


def snr_db(exact: np.ndarray, found: np.ndarray) -> float:
    error = float(((found.astype(np.float64) - exact) ** 2).sum())
    return 10 * float(np.log10((exact.astype(np.float64) ** 2).sum() / error)) if error else 200.0


class TestEveryFile:
    def test_runs_with_its_runtime_and_the_manifest_alone(
        self, one: tuple[str, Path], given: Path, network: nn.Module, own: nn.Module, tmp_path: Path
    ) -> None:
        name, directory = one
        moved = tmp_path / "deployed"
        moved.symlink_to(directory)
        entry = entry_of(directory, name)
        # Beside the program of this test: the manifest's own line, run in the folder.
        own_line = "\nimport os\nos.chdir(folder)\ny_before = np.asarray(y)\nexec(entry['run'])\n"
        same = "\nassert np.allclose(np.asarray(y), y_before, rtol=1e-4, atol=1e-4)\n"
        done = subprocess.run(
            [
                *(sys.executable, "-I", "-c", HEAD + PROGRAMS[name] + own_line + same + TAIL),
                *(moved, name, given / "photograph.npy", tmp_path / "answer.npy"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        exact = eager(own if name in (*SLOW, *SLOWEST) else network, given)
        answer = np.load(tmp_path / "answer.npy")
        assert answer.shape == exact.shape
        # One image says less than the 32 that the manifest's figure is of.
        floor = 60.0 if entry["precision"] == "fp32" else 5.0
        assert snr_db(exact, answer) >= floor
        assert snr_db(np.roll(exact, 1, axis=1), answer) < 5.0, "any answer would pass"

    def test_is_the_one_in_the_manifest(self, one: tuple[str, Path]) -> None:
        name, directory = one
        entry = entry_of(directory, name)
        for part in (entry["file"], *entry["companions"]):
            content = (directory / part["name"]).read_bytes()
            assert part["sha256"] == hashlib.sha256(content).hexdigest()
            assert part["bytes"] == len(content)
        backend = get_backend(next(t.backend for t in TARGETS if t.name == name))
        found = entry["fidelity"]
        assert found["samples"] == 32
        assert found["reference"] == "eager fp32"
        assert backend.info.floor_snr_db <= found["snr_db"] <= 200
        assert entry["precision"] == ("int8" if name.endswith("int8") else "fp32")
        counted = entry["calibration"]["count"] if entry["precision"] == "int8" else entry["calibration"]
        assert counted == (64 if name.endswith("int8") else None)
        assert entry["runtime"]["name"] in {m.partition(".")[0] for m in backend.info.runtime_modules}
        assert entry["outputs"] == [
            {
                "name": entry["outputs"][0]["name"],
                "shape": [1, CLASSES],
                "dtype": "float32",
                "meaning": "logits",
            }
        ]

    def test_holds_no_path_of_this_machine(self, one: tuple[str, Path]) -> None:
        name, directory = one
        entry = entry_of(directory, name)
        here = str(Path(__file__).parents[2]).encode()
        for part in (entry["file"], *entry["companions"]):
            for inner, content in contents(directory / part["name"]):
                if name == "aot-inductor":
                    # The compiler writes down where torch's headers were; docs/export.md says so.
                    content = re.sub(rb"[^\0]*/site-packages/torch/include/", b"", content)
                assert here not in content, f"{part['name']} {inner}"


def contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """The file, and what is in it where it is an archive."""
    content = path.read_bytes()
    yield "", content
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            yield from ((name, archive.read(name)) for name in archive.namelist())


def test_the_manifest_follows_the_published_schema_and_lists_all_there_is(quick: Path, given: Path) -> None:
    found, rules = read(quick), manifest.json_schema()
    jsonschema.Draft202012Validator.check_schema(rules)
    jsonschema.Draft202012Validator(rules).validate(found)
    listed = {part["name"] for entry in found["files"] for part in (entry["file"], *entry["companions"])}
    assert listed | {"manifest.json", "labels.txt"} == {path.name for path in quick.iterdir()}
    assert found["network"] == {
        "variant": VARIANT,
        "title": "MobileNetV3-Small 0.35x",
        "batch": 1,
        "resolution": RESOLUTION,
        "parameters": sum(p.numel() for p in build(VARIANT, num_classes=CLASSES).parameters()),
        "macs": found["network"]["macs"],
    }
    digest = hashlib.sha256((given / "trained.pth").read_bytes()).hexdigest()
    assert found["weights"]["file"] == "trained.pth"
    assert found["weights"]["sha256"] == digest
    assert found["labels"]["count"] == CLASSES
    assert (quick / "labels.txt").read_text(encoding="utf-8").splitlines() == LABELS
    assert str(given) not in json.dumps(found)
    assert quick.stat().st_mode & 0o777 == 0o755
    del found["files"][0]["inputs"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(rules).validate(found)


def test_the_published_schema_is_the_generated_one() -> None:
    published = Path(__file__).parents[2] / "docs" / "export-schema.json"
    assert published.read_text() == manifest.text(), (
        "write it anew: python -m mnv3_bench.exporting.manifest > docs/export-schema.json"
    )


def test_onnx_keeps_v3s_activations_whole_at_a_current_opset(quick: Path, network: nn.Module) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(str(quick / f"{VARIANT}.onnx"))
    kinds = [node.op_type for node in model.graph.node]
    for kind, layer in (("HardSwish", nn.Hardswish), ("HardSigmoid", nn.Hardsigmoid), ("Conv", nn.Conv2d)):
        assert kinds.count(kind) == sum(isinstance(module, layer) for module in network.modules())
    assert [entry.version for entry in model.opset_import if entry.domain == ""] >= [20]
    assert "BatchNormalization" not in kinds


class TestRequests:
    """In this process, on artifacts that the tests above have built, or on none."""

    @pytest.fixture(autouse=True)
    def somewhere(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environment: dict[str, str]) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("MNV3_BENCH_CACHE", environment["MNV3_BENCH_CACHE"])

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--variant", "small"], "--to names nothing"),
            (["--variant", "small", "--to", "onx"], "'onx' is nothing to export to; did you mean onnx"),
            (["--variant", "small", "--to", "coreml"], "expected onnx, onnx-int8, litert"),
            (["--to", "pt2"], "name one network"),
            (["--variant", "small", "--model", "a:b", "--to", "pt2"], "name one network"),
            (["--variant", "small,large", "--to", "pt2"], "export one at a time"),
            (
                ["--variant", "smal", "--to", "pt2"],
                "--variant: unknown variant 'smal'; did you mean v3-small?",
            ),
            (["--variant", "small", "--to", "pt2", "--resolution", "8"], "--resolution 8 is too small"),
            (["--variant", "small", "--to", "pt2", "--batch", "0"], "--batch 0 is too small"),
            (["--variant", "small", "--to", "pt2", "--normalization", "zero"], "type imagenet, half, unit"),
            (["--variant", "small", "--to", "pt2", "--weights", "no.pth"], "there is no file no.pth"),
            (["--variant", "small", "--to", "pt2", "--labels", "no.txt"], "no.txt cannot be read"),
            (["--model", "no.onnx", "--to", "pt2"], "there is no file no.onnx"),
        ],
    )
    def test_wrong_ones_are_refused_in_one_line(
        self, arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert invoke(["export", *arguments]) == ExitCode.USAGE
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
        assert "--variants" not in line
        assert list(tmp_path.iterdir()) == []

    def test_labels_must_fit(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        labels = tmp_path / "labels"
        for content, said in (
            (b"cat\n\ndog\n", "line 2 of labels is empty"),
            (b"cat\ndog\n", "names 2 classes, the network has 16"),
            (b"\xff\xfe", "it is no UTF-8 text"),
        ):
            labels.write_bytes(content)
            code = invoke(
                ["export", "--variant", "small", "--to", "pt2", *SHAPE, "--labels", "labels", "--output", "o"]
            )
            assert code == ExitCode.USAGE
            (line,) = capsys.readouterr().err.splitlines()
            assert said in line
        assert not (tmp_path / "o").exists()

    def test_what_is_there_is_never_replaced(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "manifest.json").write_text("{}")
        (tmp_path / "file").write_text("kept")
        for name, said in (
            ("mine", "is not empty"),
            ("file", "is no folder"),
            ("file/x", "cannot be written"),
        ):
            assert invoke(["export", "--variant", "small", "--to", "pt2", "--output", name]) == ExitCode.USAGE
            (line,) = capsys.readouterr().err.splitlines()
            assert said in line
        assert (tmp_path / "mine" / "manifest.json").read_text() == "{}"
        assert (tmp_path / "file").read_text() == "kept"

    @pytest.mark.thorough
    def test_the_rest_is_written_when_one_runtime_is_missing(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def lacking(info: Any) -> tuple[str, str] | None:
            return (
                ("onnx cannot be imported", "pip install X") if info.name == "onnxruntime" else missing(info)
            )

        monkeypatch.setattr(targets, "missing", lacking)
        (tmp_path / "o").mkdir()
        code = invoke(
            [
                "export",
                "--variant",
                "small@0.35",
                *SHAPE,
                "--batch",
                "2",
                "--to",
                "onnx,torchscript",
                "--output",
                "o",
            ]
        )
        assert code == ExitCode.CELLS_FAILED
        said = capsys.readouterr()
        assert "onnx was not exported: onnx cannot be imported; type: pip install X" in said.err.splitlines()
        assert said.out.startswith(f"{VARIANT}.ts.pt: ")
        assert f"takes 2x3x{RESOLUTION}x{RESOLUTION} float32" in said.out
        assert {path.name for path in (tmp_path / "o").iterdir()} == {f"{VARIANT}.ts.pt", "manifest.json"}
        found = read(tmp_path / "o")
        assert found["files"][0]["inputs"][0]["shape"] == [2, 3, RESOLUTION, RESOLUTION]
        assert found["files"][0]["outputs"][0]["shape"] == [2, CLASSES]
        assert found["weights"] == {"file": None, "sha256": None, "origin": "seeded 0, calibrated"}
        assert found["labels"] is None
        assert [path.name for path in tmp_path.iterdir()] == ["o"]

    def test_nothing_is_written_when_nothing_can_be_made(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(targets, "missing", lambda info: ("it is not there", "pip install X"))
        for asked in ("pt2", "all"):
            code = invoke(["export", "--variant", "small", "--to", asked, "--output", "o"])
            assert code == ExitCode.CELLS_FAILED
            assert capsys.readouterr().err.splitlines()[-1] == "nothing was written"
        assert list(tmp_path.iterdir()) == []

    def test_a_network_that_cannot_be_made_fails_without_a_trace(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "broken_net.py").write_text("def make():\n    raise OSError('no such luck')\n")
        code = invoke(["export", "--variant", "broken_net:make", *SHAPE, "--to", "pt2", "--output", "o"])
        assert code == ExitCode.CELLS_FAILED
        said = capsys.readouterr().err.splitlines()
        assert any(line.startswith("pt2 was not exported:") and "no such luck" in line for line in said)
        assert not (tmp_path / "o").exists()

    @pytest.mark.thorough
    def test_of_an_own_network_only_what_is_known_is_said(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "export_net.py").write_text(
            "from torch import nn\n"
            "def tiny():\n"
            "    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),\n"
            "                         nn.Linear(8, 5))\n"
        )
        asked = [
            "export",
            "--model",
            "export_net:tiny",
            "--resolution",
            "32",
            "--to",
            "torchscript",
            "--output",
            "o",
        ]
        assert invoke(asked) == ExitCode.DONE, capsys.readouterr().err
        found = read(tmp_path / "o")
        entry = found["files"][0]
        assert entry["file"]["name"] == "export_net-tiny.ts.pt"
        assert entry["inputs"][0]["image"] is None
        assert entry["inputs"][0]["layout"] == "NCHW"
        assert entry["outputs"][0]["shape"] == [1, 5]
        assert entry["fidelity"]["snr_db"] > 100

    @pytest.mark.thorough
    def test_of_several_inputs_each_has_its_place(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "export_two.py").write_text(
            "from torch import nn\n"
            "class Two(nn.Module):\n"
            "    def forward(self, left, tokens):\n"
            "        return left.sum(1) + 10 * tokens.sum(1), left\n"
            "def two():\n"
            "    return Two()\n"
        )
        given = "left=1x2,tokens=1x3:int64"
        asked = ["export", "--model", "export_two:two", "--input", given, "--to", "torchscript"]
        assert invoke([*asked, "--output", "o", "--batch", "2"]) == ExitCode.USAGE
        assert invoke([*asked, "--output", "o"]) == ExitCode.DONE
        (entry,) = read(tmp_path / "o")["files"]
        taken = [(each["shape"], each["dtype"]) for each in entry["inputs"]]
        assert taken == [([1, 2], "float32"), ([1, 3], "int64")]
        assert [each["shape"] for each in entry["outputs"]] == [[1], [1, 2]]
        names: dict[str, Any] = {"x0": np.float32([[1, 2]]), "x1": np.int64([[1, 0, 1]])}
        monkeypatch.chdir(tmp_path / "o")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is
            exec(entry["run"], names)
        assert names["y"] == [23]

    @pytest.mark.thorough
    def test_all_means_what_can_be_made_of_the_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Half(nn.Module):
            def forward(self, images: torch.Tensor) -> torch.Tensor:
                return images.mean((2, 3)) / 2

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is
            torch.jit.save(torch.jit.trace(Half(), torch.zeros(1, 3, 32, 32)), tmp_path / "half.ts.pt")
        kept = tuple(target for target in TARGETS if target.name in ("pt2", "torchscript"))
        monkeypatch.setattr(targets, "TARGETS", kept)
        asked = ["export", "--model", "half.ts.pt", "--input", "1x3x32x32", "--to"]
        assert invoke([*asked, "pt2", "--output", "o"]) == ExitCode.USAGE
        assert invoke([*asked, "all", "--output", "o"]) == ExitCode.DONE
        (entry,) = read(tmp_path / "o")["files"]
        assert entry["file"]["name"] == "half.ts.pt"
        assert entry["precision"] == "as the model file has it"
        assert entry["outputs"][0]["meaning"] is None
        assert invoke([*asked, "pt2,torchscript", "--output", "p"]) == ExitCode.CELLS_FAILED
        assert {path.name for path in (tmp_path / "p").iterdir()} == {"half.ts.pt", "manifest.json"}

    @pytest.mark.skipif(not installed("onnx-int8"), reason="onnxruntime is not installed")
    def test_what_is_below_fp32_is_not_reduced_again(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with_fp16_weights(tmp_path / "halves.onnx", 32)
        asked = ["export", "--model", "halves.onnx", "--to", "onnx,onnx-int8", "--output", "o"]
        assert invoke(asked) == ExitCode.CELLS_FAILED
        told = capsys.readouterr()
        assert "onnx-int8 was not exported: it is made of fp32, and the file holds fp16 already" in told.err
        assert [entry["target"] for entry in read(tmp_path / "o")["files"]] == ["onnx"]
        assert invoke(["export", "--model", "halves.onnx", "--to", "onnx-int8", "--output", "p"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "--to: nothing asked for can be made of halves.onnx; these can: onnx, openvino" in line

    def test_an_interrupted_export_leaves_nothing(self, tmp_path: Path, environment: dict[str, str]) -> None:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mnv3_bench.cli", "export", "--variant", "small@0.35", *SHAPE),
                *("--seed", "99", "--to", "pt2,torchscript", "--output", "o/deep"),
            ],
            cwd=tmp_path,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("o/.deep-*")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
        assert process.returncode == ExitCode.INTERRUPTED
        assert "Traceback" not in said
        assert list((tmp_path / "o").iterdir()) == []


class TestFolder:
    def test_an_error_half_way_leaves_nothing(self, tmp_path: Path) -> None:
        def fill() -> None:
            with folder.whole(tmp_path / "o") as building:
                (building / "half").write_text("x")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with pytest.raises(RunStoppedError, match="No space left"):
            fill()
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_that_was_filled_meanwhile_stays(self, tmp_path: Path) -> None:
        def fill() -> None:
            with folder.whole(tmp_path / "o") as building:
                (building / "ours").write_text("x")
                (tmp_path / "o").mkdir()
                (tmp_path / "o" / "theirs").write_text("y")

        with pytest.raises(UsageError, match="is not empty"):
            fill()
        assert [path.name for path in tmp_path.rglob("*")] == ["o", "theirs"]

    @pytest.mark.parametrize("name", ["", ".", "..", "../x", "/x", "a/b", "a\\b"])
    def test_no_name_leads_out_of_it(self, name: str, tmp_path: Path) -> None:
        (tmp_path / "source").write_text("x")
        (tmp_path / "o").mkdir()
        with pytest.raises(ValueError, match="is no name of a file"):
            folder.place(tmp_path / "source", tmp_path / "o", name)
        assert list((tmp_path / "o").iterdir()) == []

    def test_no_file_replaces_another(self, tmp_path: Path) -> None:
        (tmp_path / "source").write_text("x")
        (tmp_path / "o").mkdir()
        assert folder.place(tmp_path / "source", tmp_path / "o", "a").bytes == 1
        with pytest.raises(ValueError, match="two files"):
            folder.place(tmp_path / "source", tmp_path / "o", "a")


class TestPreprocessing:
    def image(self, **changed: Any) -> Any:
        asked: dict[str, Any] = {
            "typed": None,
            "file": "w.pth",
            "sha256": "0" * 64,
            "timm": False,
            "variant": "v3-large",
            "resolution": 224,
        }
        return preprocessing.image(**asked | changed)

    def test_published_weights_are_known_by_their_digest(self) -> None:
        found = self.image(sha256="5c1a4163" + "0" * 56)
        assert found.resize == manifest.Resize(232, 224, "bilinear")
        assert found.mean == (0.485, 0.456, 0.406)
        assert "IMAGENET1K_V2" in found.source
        assert self.image(sha256="5c1a4163" + "0" * 56, resolution=192).resize is None
        assert self.image(sha256="66471c13" + "0" * 56).value_range == (0.0, 1.0)

    def test_what_is_assumed_is_said_to_be(self) -> None:
        for found, mean in (
            (self.image(), 0.485),
            (self.image(timm=True), 0.485),
            (self.image(timm=True, variant="v1@0.5"), 0.5),
            (self.image(timm=True, variant="v3-large-minimal"), 0.5),
            (
                self.image(timm=True, file="/x/mobilenetv3_large_100.ra4_e3600_r224_in1k/model.safetensors"),
                0.5,
            ),
            (self.image(file="/x/mobilenetv3_large_100.ra4_e3600_r224_in1k/model.safetensors"), 0.485),
            (self.image(timm=True, file="/x/extra4.pth"), 0.485),
        ):
            assert found.mean[0] == mean
            assert "assumed" in found.source
            assert found.resize is None

    def test_what_was_typed_counts(self) -> None:
        found = self.image(typed="unit", sha256="5c1a4163" + "0" * 56)
        assert (found.mean, found.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        assert found.source == "--normalization unit"

    def test_a_card_says_it_of_its_own_weights(self, tmp_path: Path) -> None:
        made = Preprocessing(96, 110, "bicubic", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "training")
        card = metadata(Card("v3-large", 10, 1e-3, made))
        save_file({"x": torch.zeros(1)}, tmp_path / "own.safetensors", card)
        own = {"file": str(tmp_path / "own.safetensors"), "sha256": "5c1a4163" + "0" * 56}
        found = self.image(**own, resolution=96)
        assert found.resize == manifest.Resize(110, 96, "bicubic")
        assert (found.mean, found.std, found.source) == (made.mean, made.std, "training")
        assert self.image(**own, resolution=64).resize is None
        assert self.image(**own, resolution=64).mean == made.mean

    def test_images_of_seeded_weights_are_the_ones_they_were_calibrated_on(self) -> None:
        found = self.image(file=None, sha256=None)
        made = images(0, "fidelity", 64, 8)
        assert made.min() >= found.value_range[0] - 1e-4
        assert made.max() <= found.value_range[1] + 1e-4
        assert (made.min(), made.max()) == pytest.approx(found.value_range, abs=0.3)
