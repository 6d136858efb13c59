"""OpenVINO beyond the contract: precision, telemetry, files of every format, several inputs, profiles."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from mnv3_bench.backends import _openvino, get_backend
from mnv3_bench.backends.base import BackendError, Preparation
from mnv3_bench.environment import machine, usable_cpus
from mnv3_bench.inputs import images
from mnv3_models import build
from mnv3_models.calibration import calibrate, seed_weights
from mnv3_reports.record import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mnv3_bench.backends.base import Arrays, Format

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("openvino", "nncf")),
    reason="OpenVINO or NNCF is not installed; pip install 'mnv3-bench[openvino]'",
)

HAS_BF16 = not {"avx512_bf16", "amx_bf16"}.isdisjoint(machine().isa)
NAMES = ["openvino", "openvino-bf16", "openvino-int8"]


def preparation(
    directory: Path,
    network: nn.Module | None,
    example: Arrays,
    names: Sequence[str] = ("images",),
    file: Path | None = None,
    file_format: Format = "module",
    calibration: Sequence[Arrays] = (),
) -> Preparation:
    directory.mkdir(exist_ok=True)
    return Preparation(
        variant="tested",
        num_classes=10,
        network=network,
        inputs=tuple(
            TensorSpec(name, array.shape, str(array.dtype))
            for name, array in zip(names, example, strict=True)
        ),
        example=example,
        calibration=calibration or [example] * 4,
        threads=1,
        device="cpu",
        directory=directory,
        format=file_format,
        file=file,
    )


def run(name: str, directory: Path, inputs: Arrays) -> Arrays:
    session = get_backend(name).load(directory, 1, "cpu")
    outputs = session.fetch(session.run(session.stage(inputs)))
    session.close()
    return outputs


def snr_db(exact: np.ndarray, found: np.ndarray) -> float:
    return 10 * float(np.log10((exact**2).sum() / ((found - exact) ** 2).sum()))


@pytest.fixture(scope="module")
def small() -> nn.Module:
    network = build("v3-small@0.35", num_classes=10)
    seed_weights(network, 0)
    calibrate(network, images(0, "weights", 64))
    return network.eval()


CALIBRATION = [(image[None],) for image in images(0, "calibration", 64, 24)]


def prepared(name: str, small: nn.Module, directory: Path) -> Path:
    example = (images(0, "measure", 64, 1),)
    get_backend(name).prepare(preparation(directory, small, example, calibration=CALIBRATION))
    return directory


@pytest.fixture(scope="module")
def artifacts(small: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """V3-Small @0.35 at 64 x 64, prepared by each backend."""
    return {name: prepared(name, small, tmp_path_factory.mktemp(name)) for name in NAMES}


def precisions(compiled: Any) -> set[str | None]:
    return {_openvino.kernel_precision(kernel) for _, kernel in _openvino.executed(compiled)}


@pytest.mark.skipif(not HAS_BF16, reason="on this processor OpenVINO would compute in fp32 anyway")
def test_fp32_is_fp32_where_openvino_would_choose_bf16(artifacts: dict[str, Path]) -> None:
    import openvino

    unasked = openvino.Core().compile_model(str(artifacts["openvino"] / "model.xml"), "CPU")
    assert "bf16" in precisions(unasked)
    asked = get_backend("openvino").load(artifacts["openvino"], 1, "cpu")
    assert "bf16" not in precisions(asked.compiled)  # type: ignore[attr-defined]
    assert asked.facts()["inference precision"] == "f32"


@pytest.mark.skipif(not HAS_BF16, reason="this processor has no bf16 instructions")
def test_bf16_is_bf16(artifacts: dict[str, Path]) -> None:
    session = get_backend("openvino-bf16").load(artifacts["openvino-bf16"], 1, "cpu")
    assert session.facts()["inference precision"] == "bf16"
    assert "bf16 Convolution" in str(session.facts()["operators by precision"])


def test_bf16_is_for_processors_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import msgspec

    from mnv3_bench import environment

    backend = get_backend("openvino-bf16")
    facts = machine()
    for isa, found in {("avx512f",): False, ("avx512_bf16",): True, ("amx_bf16",): True}.items():
        monkeypatch.setattr(environment, "machine", lambda isa=isa: msgspec.structs.replace(facts, isa=isa))
        assert (backend.unavailable() is None) is found
    assert get_backend("openvino").unavailable() is None


def test_int8_holds_a_quarter_of_the_bytes_and_computes_convolutions_in_int8(
    artifacts: dict[str, Path],
) -> None:
    def size(name: str) -> int:
        return sum(file.stat().st_size for file in artifacts[name].glob("model.bin"))

    assert size("openvino-int8") <= 0.35 * size("openvino")
    session = get_backend("openvino-int8").load(artifacts["openvino-int8"], 1, "cpu")
    facts = session.facts()
    assert facts["int8 operators"] == "41 of 41 Convolution, 11 of 11 GroupConvolution, 2 of 2 MatMul"
    ran = _openvino.executed(session.compiled)  # type: ignore[attr-defined]
    kinds = Counter(kind for kind, kernel in ran if _openvino.kernel_precision(kernel) == "int8")
    assert kinds["Convolution"] == 52
    assert facts["calibration calls"] == 24


def test_ranges_over_all_calls_are_more_faithful_than_their_means(
    small: nn.Module, artifacts: dict[str, Path], tmp_path: Path
) -> None:
    tested = images(0, "fidelity", 64, 8)
    with torch.inference_mode():
        exact = small(torch.from_numpy(tested)).numpy()

    def fidelity(name: str, directory: Path) -> float:
        session = get_backend(name).load(directory, 1, "cpu")
        outputs = [session.fetch(session.run(session.stage((image[None],))))[0] for image in tested]
        return snr_db(exact, np.concatenate(outputs))

    mean = "openvino-int8:calibration=mean"
    with_means = fidelity(mean, prepared(mean, small, tmp_path))
    assert fidelity("openvino-int8", artifacts["openvino-int8"]) > with_means + 3


TELEMETRY = """
import json, sys, time
from pathlib import Path
seen = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.fork", "os.posix_spawn", "os.system"):
        seen.append(event)
        raise RuntimeError("not in a test")
sys.addaudithook(watch)
{what}
time.sleep(1.5)
real = getattr(sys.modules.get("openvino_telemetry"), "Telemetry", None) is not None
print("\\n" + json.dumps([seen, real, [str(p) for p in Path.home().rglob("*") if "intel" in p.parts]]))
"""
PREPARING = """
import numpy as np, torch
from mnv3_bench.backends import get_backend
from mnv3_bench.backends.base import Preparation
from mnv3_reports.record import TensorSpec
from torch.nn import Conv2d, Flatten, Hardswish, Linear
network = torch.nn.Sequential(Conv2d(3, 8, 3), Hardswish(), Flatten(), Linear(288, 4))
x = np.ones((1, 3, 8, 8), dtype=np.float32)
for name in ("openvino", "openvino-int8"):
    directory = Path.home() / name
    directory.mkdir()
    get_backend(name).prepare(Preparation(
        variant="tested", num_classes=4, network=network.eval(), inputs=(TensorSpec("images", x.shape),),
        example=(x,), calibration=[(x,)] * 3, threads=1, device="cpu", directory=directory))
    session = get_backend(name).load(directory, 1, "cpu")
    session.run(session.stage((x,)))
"""
IMPORTING = """
import importlib
from mnv3_bench.backends import get_backend
for module in get_backend("openvino").info.runtime_modules:
    importlib.import_module(module)
"""


def watched(what: str, home: Path) -> tuple[list[str], bool, list[str]]:
    """Events, whether telemetry was imported, and files it left: in a process that takes neither pytest nor CI for a
    reason to stay silent."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("CI", "TF_BUILD", "JENKINS_URL") and not name.startswith("NNCF")
    }
    done = subprocess.run(
        [sys.executable, "-c", TELEMETRY.format(what=what)],
        env={**environment, "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    events, real, files = json.loads(done.stdout.splitlines()[-1])
    return events, real, files


@pytest.mark.skipif(
    importlib.util.find_spec("openvino_telemetry") is None, reason="there is no telemetry to keep silent"
)
def test_without_us_importing_openvino_reports_home(tmp_path: Path) -> None:
    """What the next test would see, if it were so; nothing leaves this machine, the hook stops it."""
    events, real, files = watched("import openvino", tmp_path)
    assert events
    assert real
    assert files


@pytest.mark.parametrize("what", [IMPORTING, PREPARING], ids=["importing", "preparing"])
def test_nothing_is_reported_home(what: str, tmp_path: Path) -> None:
    assert watched(what, tmp_path) == ([], False, [])


def cut(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "no weights": (
        lambda file: file.with_suffix(".bin").unlink(),
        r"model\.xml has no weights: model\.bin is not beside it; put it there",
    ),
    "weights cut short": (
        lambda file: cut(file.with_suffix(".bin"), 1000),
        r"OpenVINO 20.* cannot read model\.xml: Incorrect weights in bin file",
    ),
    "network cut short": (lambda file: cut(file, 3000), r"cannot read model\.xml: \w.* at offset \d+"),
    "empty": (lambda file: cut(file, 0), r"cannot read model\.xml: Unable to read the model"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_file_is_refused_in_one_line(
    broken: str, artifacts: dict[str, Path], tmp_path: Path
) -> None:
    for ending in (".xml", ".bin"):
        shutil.copy(artifacts["openvino"] / f"model{ending}", tmp_path)
    spoil, message = BROKEN[broken]
    spoil(tmp_path / "model.xml")
    for use in (
        lambda file: get_backend("openvino").inspect(file),
        lambda file: get_backend("openvino").reference(file, [(images(0, "measure", 64, 1),)]),
    ):
        with pytest.raises(BackendError, match=message) as caught:
            use(tmp_path / "model.xml")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_an_artifact_cut_short(name: str, artifacts: dict[str, Path], tmp_path: Path) -> None:
    directory = shutil.copytree(artifacts[name], tmp_path / "copy")
    cut(directory / "model.bin", 1000)
    with pytest.raises(BackendError, match=r"cannot load the artifact \(Incorrect weights.*--cold") as caught:
        get_backend(name).load(directory, 1, "cpu")
    assert "\n" not in str(caught.value)


class Two(nn.Module):
    """Two inputs of different types, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 16, 3)
        self.table = nn.Embedding(5, 16)

    def forward(self, ids: torch.Tensor, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen = nn.functional.hardswish(self.convolution(image)).mean((2, 3))
        return seen + self.table(ids), 3.0 * seen


IDS = np.array([3, 1], dtype=np.int64)
IMAGES = images(0, "measure", 16, 2)


@pytest.fixture(scope="module")
def two() -> nn.Module:
    torch.manual_seed(0)
    return Two().eval()


@pytest.fixture(scope="module")
def files(two: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> dict[Format, Path]:
    """The network in every format, of any batch size where the format can say so."""
    import openvino

    folder = tmp_path_factory.mktemp("files")
    some = (torch.zeros(3, dtype=torch.int64), torch.zeros(3, 3, 16, 16))
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(two, some, dynamic_shapes=({0: batch}, {0: batch}))
    torch.export.save(program, folder / "two.pt2")
    torch.jit.save(torch.jit.script(two), folder / "two.pt")
    torch.onnx.export(
        two,
        some,
        folder / "two.onnx",
        dynamo=True,
        external_data=False,
        verbose=False,
        input_names=["ids", "image"],
        dynamic_shapes=({0: batch}, {0: batch}),
    )
    openvino.save_model(openvino.Core().read_model(folder / "two.onnx"), folder / "two.xml")
    return {
        "module": folder,
        "pt2": folder / "two.pt2",
        "torchscript": folder / "two.pt",
        "onnx": folder / "two.onnx",
        "openvino": folder / "two.xml",
    }


@pytest.mark.parametrize("name", ["openvino", "openvino-int8"])
@pytest.mark.parametrize("file_format", ["module", "pt2", "torchscript", "onnx", "openvino"])
def test_several_inputs_and_outputs_of_every_format(
    name: str, file_format: Format, two: nn.Module, files: dict[Format, Path], tmp_path: Path
) -> None:
    network = {
        "module": lambda: two,
        "pt2": lambda: torch.export.load(files["pt2"]).module(check_guards=False),
        "torchscript": lambda: torch.jit.load(files["torchscript"]),
    }.get(file_format, lambda: None)()
    facts = get_backend(name).prepare(
        preparation(
            tmp_path,
            network,
            (IDS, IMAGES),
            ["ids", "image"],
            None if file_format == "module" else files[file_format],
            file_format,
        )
    )
    assert "torch.export" in str(facts["converted from"]) or "file" in str(facts["converted from"])
    found = run(name, tmp_path, (IDS, IMAGES))
    with torch.inference_mode():
        exact = [output.numpy() for output in two(torch.from_numpy(IDS), torch.from_numpy(IMAGES))]
    assert [array.shape for array in found] == [(2, 16), (2, 16)]
    for wanted, array in zip(exact, found, strict=True):
        assert snr_db(wanted, array) > (20 if "int8" in name else 60 if file_format == "openvino" else 90)


def test_inputs_are_told_apart_by_name(files: dict[Format, Path], two: nn.Module, tmp_path: Path) -> None:
    """Asked for in the other order than the file has them."""
    get_backend("openvino").prepare(
        preparation(tmp_path, None, (IMAGES, IDS), ["image", "ids"], files["onnx"], "onnx")
    )
    first, _ = run("openvino", tmp_path, (IMAGES, IDS))
    with torch.inference_mode():
        exact, _ = two(torch.from_numpy(IDS), torch.from_numpy(IMAGES))
    assert snr_db(exact.numpy(), first) > 90


@pytest.mark.slow
def test_a_tflite_file(tmp_path: Path) -> None:
    litert_torch = pytest.importorskip("litert_torch")
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Hardswish(), nn.Flatten(), nn.Linear(8 * 14 * 14, 4)
    ).eval()
    image = IMAGES[:1]
    litert_torch.convert(network, (torch.from_numpy(image),)).export(str(tmp_path / "tested.tflite"))
    get_backend("openvino").prepare(
        preparation(tmp_path / "a", None, (image,), ["args_0"], tmp_path / "tested.tflite", "tflite")
    )
    with torch.inference_mode():
        exact = network(torch.from_numpy(image)).numpy()
    assert snr_db(exact, run("openvino", tmp_path / "a", (image,))[0]) > 90


def test_a_file_says_what_it_takes(files: dict[Format, Path]) -> None:
    said = get_backend("openvino").inspect(files["openvino"])
    assert [(spec.name, spec.shape, spec.dtype) for spec in said.inputs] == [
        ("ids", (None,), "int64"),
        ("image", (None, 3, 16, 16), "float32"),
    ]
    assert [(spec.shape, spec.dtype) for spec in said.outputs] == [((None, 16), "float32")] * 2
    assert said.parameters == 3 * 3 * 3 * 16 + 16 + 5 * 16
    assert said.facts["weights stored as"] == "f16"


def test_quantizing_adds_no_parameters(artifacts: dict[str, Path]) -> None:
    backend = get_backend("openvino")
    plain, quantized = (
        backend.inspect(artifacts[name] / "model.xml") for name in ("openvino", "openvino-int8")
    )
    assert plain.parameters == quantized.parameters
    assert plain.facts["quantized activations and weights"] == 0
    assert int(str(quantized.facts["quantized activations and weights"])) > 52


def test_reference_is_the_file_in_fp32(small: nn.Module, artifacts: dict[str, Path]) -> None:
    calls = [(image[None],) for image in images(0, "fidelity", 64, 3)]
    found = get_backend("openvino").reference(artifacts["openvino"] / "model.xml", calls)
    for (image,), (logits,) in zip(calls, found, strict=True):
        with torch.inference_mode():
            assert snr_db(small(torch.from_numpy(image)).numpy(), logits) > 90


REFUSED: dict[str, tuple[Arrays, list[str], str]] = {
    "shape": (
        (IDS, IMAGES[:, :1]),
        ["ids", "image"],
        r"cannot take inputs of the shapes asked for: .*channel",
    ),
    "type": ((IDS, IMAGES.astype(np.float64)), ["ids", "image"], "takes image as float32, not as float64"),
    "number": ((IDS,), ["ids"], "has 2 inputs for OpenVINO, expected 1: ids"),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_inputs_that_a_file_does_not_take(wrong: str, files: dict[Format, Path], tmp_path: Path) -> None:
    example, names, message = REFUSED[wrong]
    with pytest.raises(BackendError, match=message) as caught:
        get_backend("openvino").prepare(preparation(tmp_path, None, example, names, files["onnx"], "onnx"))
    assert "\n" not in str(caught.value)


def test_a_network_that_cannot_be_exported(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(BackendError, match="tested cannot be converted to OpenVINO: ") as caught:
        get_backend("openvino").prepare(preparation(tmp_path, Branching(), (IMAGES,)))
    assert "\n" not in str(caught.value)


def test_what_is_quantized_is_not_quantized_again(artifacts: dict[str, Path], tmp_path: Path) -> None:
    file = artifacts["openvino-int8"] / "model.xml"
    given = preparation(tmp_path, None, (images(0, "measure", 64, 1),), file=file, file_format="openvino")
    with pytest.raises(BackendError, match=r"is quantized already, in \d+ places; measure it with openvino"):
        get_backend("openvino-int8").prepare(given)
    get_backend("openvino").prepare(given)
    session = get_backend("openvino").load(tmp_path, 1, "cpu")
    assert "int8 Convolution" in str(session.facts()["operators by precision"])


def test_more_threads_than_cpus(artifacts: dict[str, Path]) -> None:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else usable_cpus()
    message = f"would use {cpus} of {cpus + 1} threads.*type --threads {cpus}"
    with pytest.raises(BackendError, match=message):
        get_backend("openvino").load(artifacts["openvino"], cpus + 1, "cpu")


def test_two_threads_share_a_core_only_where_there_are_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """One core with two threads, as OpenVINO shows it under its latency hint."""
    asked = []

    class Compiled:
        def __init__(self, settings: dict[str, Any]) -> None:
            self.both = settings.get("ENABLE_HYPER_THREADING", False)

        def get_property(self, name: str) -> int:
            assert name == "INFERENCE_NUM_THREADS"
            return 2 if self.both else 1

    class Core:
        def read_model(self, path: object) -> None:
            return None

        def compile_model(self, model: None, device: str, settings: dict[str, Any]) -> Compiled:
            asked.append(settings.get("ENABLE_HYPER_THREADING", False))
            return Compiled(settings)

    monkeypatch.setattr(_openvino, "package", lambda: type("Package", (), {"Core": Core}))
    for threads in (1, 2):
        compiled = _openvino.compile_artifact(Path(), threads, "f32", pinning=False)
        assert compiled.get_property("INFERENCE_NUM_THREADS") == threads
    assert asked == [False, False, True]


def test_another_device(artifacts: dict[str, Path]) -> None:
    with pytest.raises(BackendError, match="cuda was asked for; OpenVINO is measured on the CPU alone"):
        get_backend("openvino").load(artifacts["openvino"], 1, "cuda")


@pytest.mark.parametrize(("name", "pinned"), [("openvino", False), ("openvino:pinning=yes", True)])
def test_threads_are_pinned_on_request(name: str, pinned: bool, artifacts: dict[str, Path]) -> None:
    if pinned and sys.platform != "linux":
        pytest.skip("OpenVINO pins on Linux only")
    assert get_backend(name).load(artifacts["openvino"], 1, "cpu").facts()["threads pinned"] is pinned


def test_staged_inputs_and_fetched_outputs_keep_their_memory(artifacts: dict[str, Path]) -> None:
    """OpenVINO only borrows the inputs' memory, and writes every output to the same place."""
    session = get_backend("openvino").load(artifacts["openvino"], 1, "cpu")
    calls = list(images(0, "fidelity", 64, 4))
    staged = [session.stage((image[None].copy(),)) for image in calls]
    gc.collect()
    litter = [np.full((1, 3, 64, 64), 1e9, dtype=np.float32) for _ in range(64)]
    found = [session.fetch(session.run(each))[0] for each in staged]
    assert len(litter) == 64
    for image, logits in zip(calls, found, strict=True):
        assert np.array_equal(run("openvino", artifacts["openvino"], (image[None],))[0], logits)
    assert len({logits.tobytes() for logits in found}) == 4


def test_a_profile_tells_kernels_precisions_and_what_was_left(artifacts: dict[str, Path]) -> None:
    calls = [(image[None],) for image in images(0, "tuning", 64, 4)]
    found = get_backend("openvino-int8").explain(artifacts["openvino-int8"], 1, calls)
    assert found is not None
    assert "200 calls" in found.by
    costs = [cost.seconds or 0.0 for cost in found.operators]
    assert costs == sorted(costs, reverse=True)
    assert 1e-5 < sum(costs) < 1.0
    # Which of them are convolutions differs between processors: without AMX two 1 x 1 ones are fully connected.
    kinds = ("Convolution", "FullyConnected")
    int8 = [c for c in found.operators if c.precision == "int8" and any(kind in c.name for kind in kinds)]
    # Of 52 convolutions and 2 layers of the classifier those that take the counters' whole microsecond.
    assert 40 <= sum(cost.count for cost in int8) <= 54
    left = [reason for reason in found.reasons if "left in fp32" in reason]
    assert len(left) <= 1  # none where that, too, takes less
    assert all("Subgraph" in reason and reason.endswith(".") for reason in left)
    plain = get_backend("openvino").explain(artifacts["openvino"], 1, calls)
    assert plain is not None
    assert {cost.precision for cost in plain.operators} == {"fp32"}
    assert not [reason for reason in plain.reasons if "left in fp32" in reason]


@pytest.mark.parametrize(
    ("kernel", "precision"),
    [
        ("jit_avx512_I8", "int8"),
        ("brgconv_avx512_amx_1x1_i8", "int8"),
        ("jit_avx512_f32", "fp32"),
        ("brgemm_avx512_bf16", "bf16"),
        ("unknown", None),
    ],
)
def test_a_kernel_s_precision_is_in_its_name(kernel: str, precision: str | None) -> None:
    assert _openvino.kernel_precision(kernel) == precision
