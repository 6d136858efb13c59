"""What backends cannot do is said in one line, by the name of the thing to change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from mnv3_bench.backends import BACKENDS, get_backend, missing
from mnv3_bench.backends._artifact import About
from mnv3_bench.backends._torch import TorchSession, fold_batch_norm, torch_device
from mnv3_bench.backends.base import BackendError, Preparation
from mnv3_bench.inputs import images
from mnv3_models import build
from mnv3_reports.record import TensorSpec

if TYPE_CHECKING:
    from pathlib import Path

ON_CUDA = [name for name in BACKENDS if "cuda" in get_backend(name).info.devices]
COMPILED = [name for name in BACKENDS if get_backend(name).info.needs_compiler]


def preparation(directory: Path, device: str = "cpu") -> Preparation:
    example = images(0, "measure", 32, 1)
    return Preparation(
        variant="v3-small@0.35",
        num_classes=10,
        network=build("v3-small@0.35", num_classes=10).eval(),
        inputs=(TensorSpec("images", example.shape),),
        example=(example,),
        calibration=[(example,)],
        threads=1,
        device=device,
        directory=directory,
    )


def test_the_backends_for_cuda_are_these() -> None:
    assert ON_CUDA == ["eager", "torchscript", "compile", "onnxruntime", "onnxruntime-fp16"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what the test does without")
@pytest.mark.parametrize("name", ON_CUDA)
def test_cuda_without_cuda(name: str, tmp_path: Path) -> None:
    about = About.of(preparation(tmp_path), {})
    about.write(tmp_path)
    with pytest.raises(BackendError, match=r"cuda was asked for, but .*--device cpu") as caught:
        get_backend(name).load(tmp_path, 1, "cuda")
    assert "\n" not in str(caught.value)


def test_a_device_nobody_knows() -> None:
    with pytest.raises(BackendError, match="'tpu' is not a device; expected cpu, cuda or cuda:0"):
        torch_device("tpu")


def test_sessions_on_cuda_are_timed_by_events(tmp_path: Path) -> None:
    """Everything short of the device: the session says how it is to be timed."""
    about = About.of(preparation(tmp_path), {})
    assert TorchSession(lambda x: x, about, torch.device("cuda"), dict).clock == "cuda-events"
    assert TorchSession(lambda x: x, about, torch.device("cpu"), dict).clock == "wall"


@pytest.mark.parametrize("name", BACKENDS)
def test_a_folder_that_holds_no_artifact(name: str, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"holds no readable artifact .*prepare it again"):
        get_backend(name).load(tmp_path, 1, "cpu")


@pytest.mark.parametrize("name", ["eager", "eager-bf16", "torchscript", "onnxruntime", "quantized-dynamic"])
def test_an_artifact_cut_short(name: str, tmp_path: Path) -> None:
    backend = get_backend(name)
    backend.prepare(preparation(tmp_path))
    (file,) = (path for path in tmp_path.iterdir() if path.name != "artifact.json")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(BackendError) as caught:
        backend.load(tmp_path, 1, "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", COMPILED)
def test_no_compiler(name: str, tmp_path: Path) -> None:
    import torch._inductor.config as inductor

    with (
        inductor.patch({"cpp.cxx": (None, "no-such-compiler")}),
        pytest.raises(BackendError, match=r"needs a C\+\+ compiler and found none") as caught,
    ):
        get_backend(name).prepare(preparation(tmp_path))
    assert caught.value.install == "apt-get install g++"


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_for_another_number_of_threads(name: str, tmp_path: Path) -> None:
    About.of(preparation(tmp_path), {}).write(tmp_path)
    with pytest.raises(BackendError, match="compiled for 1 threads, not 2"):
        get_backend(name).load(tmp_path, 2, "cpu")


def test_weights_of_another_network(tmp_path: Path) -> None:
    backend = get_backend("eager")
    made = preparation(tmp_path)
    backend.prepare(made)
    (tmp_path / "artifact.json").write_text(
        (tmp_path / "artifact.json").read_text().replace("v3-small@0.35", "v3-large")
    )
    with pytest.raises(BackendError, match="weights do not fit v3-large") as caught:
        backend.load(tmp_path, 1, "cpu")
    assert "\n" not in str(caught.value)


def test_a_network_that_cannot_be_traced() -> None:
    class Branching(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(BackendError, match="BatchNorm cannot be folded"):
        fold_batch_norm(Branching())


@pytest.mark.parametrize("name", BACKENDS)
def test_what_can_be_chosen_is_complete(name: str) -> None:
    """Switches have a choice; what a backend is held against exists, computes in fp32, and is of the same runtime."""
    info = get_backend(name).info
    assert all(len(switch.values) > 1 and switch.help for switch in info.switches)
    assert len({switch.name for switch in info.switches}) == len(info.switches)
    assert all(source.startswith("https://") for source in info.sources)
    if info.exact is not None:
        exact = get_backend(info.exact).info
        assert exact.precision == "fp32"
        assert set(exact.runtime_modules) & set(info.runtime_modules)


@pytest.mark.parametrize("name", [name for name in BACKENDS if get_backend(name).info.native])
def test_a_file_of_its_own_format_that_is_none(name: str, tmp_path: Path) -> None:
    backend = get_backend(name)
    lacking = missing(backend.info)
    if lacking is not None:
        pytest.skip(f"{lacking[0]}; {lacking[1]}")
    file = tmp_path / "noise.bin"
    file.write_bytes(bytes(range(256)) * 64)
    with pytest.raises(BackendError, match="noise") as caught:
        backend.inspect(file)
    assert "\n" not in str(caught.value)
