"""The PyTorch backends beyond what all backends promise: files of the user's own, switches, explanations."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from mnv3_bench.backends import _aoti, _cpu, _torch, _torch_explain, get_backend
from mnv3_bench.backends.base import BackendError, OpenSpec, Preparation
from mnv3_bench.inputs import images
from mnv3_bench.model_files import format_of
from mnv3_models import build
from mnv3_models.calibration import calibrate, seed_weights
from mnv3_reports.record import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mnv3_bench.backends.base import Arrays, Facts, Format

RESOLUTION = 32


@dataclass
class Files:
    """One network, and the files PyTorch makes of it."""

    network: nn.Module
    pt2: Path
    torchscript: Path
    frozen: Path


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("files")
    network = build("v3-small@0.35", num_classes=10)
    seed_weights(network, 0)
    calibrate(network, images(0, "weights", RESOLUTION, 16))
    network.eval()
    example = (torch.zeros(2, 3, RESOLUTION, RESOLUTION),)
    batch = torch.export.Dim("batch", min=1, max=8)
    torch.export.save(
        torch.export.export(network, example, dynamic_shapes={"images": {0: batch}}), folder / "net.pt2"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.trace(network, example, check_trace=False)
        torch.jit.save(script, folder / "net.pt")
        torch.jit.save(torch.jit.freeze(script), folder / "frozen.pt")
    return Files(network, folder / "net.pt2", folder / "net.pt", folder / "frozen.pt")


def read(file: Path) -> Any:
    return torch.export.load(file).module() if file.suffix == ".pt2" else torch.jit.load(file)


def prepared(
    name: str,
    directory: Path,
    network: nn.Module | None,
    file: Path | None = None,
    example: Arrays | None = None,
) -> Facts:
    """Prepare for one thread; the network of a file is the one in it."""
    made = example if example is not None else (images(0, "measure", RESOLUTION, 2),)
    kind: Format = "module" if file is None else format_of(file)
    return get_backend(name).prepare(
        Preparation(
            variant="v3-small@0.35",
            num_classes=10,
            network=network,
            inputs=tuple(TensorSpec(f"input{i}", array.shape) for i, array in enumerate(made)),
            example=made,
            calibration=[made],
            threads=1,
            device="cpu",
            directory=directory,
            format=kind,
            file=file,
        )
    )


def outputs(name: str, directory: Path, inputs: Arrays) -> tuple[np.ndarray, Facts]:
    session = get_backend(name).load(directory, 1, "cpu")
    found, facts = session.fetch(session.run(session.stage(inputs))), session.facts()
    session.close()
    return found[0], facts


def eager(network: nn.Module, inputs: Arrays) -> np.ndarray:
    with torch.inference_mode():
        return np.asarray(network(*map(torch.from_numpy, inputs)))


def snr_db(reference: np.ndarray, found: np.ndarray) -> float:
    error = float(((found.astype(np.float64) - reference) ** 2).sum())
    return 10 * float(np.log10((reference.astype(np.float64) ** 2).sum() / error)) if error else 200.0


class TestFiles:
    @pytest.mark.parametrize(
        ("backend", "kind"),
        [
            ("eager", "pt2"),
            ("torchscript", "pt2"),
            ("torchscript", "torchscript"),
            ("torchscript", "frozen"),
            ("torchscript:layout=channels-last", "torchscript"),
        ],
    )
    def test_a_file_gives_what_its_network_gives(
        self, files: Files, backend: str, kind: str, tmp_path: Path
    ) -> None:
        inputs = (images(0, "fidelity", RESOLUTION, 2),)
        file: Path = getattr(files, kind)
        prepared(backend, tmp_path, read(file), file)
        found, facts = outputs(backend, tmp_path, inputs)
        assert snr_db(eager(files.network, inputs), found) > 60
        assert str(facts["mode"]).startswith("eval")

    @pytest.mark.parametrize("backend", ["eager", "torchscript"])
    def test_a_file_that_holds_no_network(self, files: Files, backend: str, tmp_path: Path) -> None:
        with pytest.raises(BackendError, match="is a pt2 file; this backend needs a PyTorch network"):
            prepared(backend, tmp_path, None, files.pt2)

    def test_an_exported_program_says_what_it_takes(self, files: Files) -> None:
        found = get_backend("eager").inspect(files.pt2)
        assert found.inputs == (OpenSpec("images", (None, 3, RESOLUTION, RESOLUTION), "float32"),)
        assert [(spec.shape, spec.dtype) for spec in found.outputs] == [((None, 10), "float32")]
        assert found.parameters == sum(each.numel() for each in files.network.parameters())

    def test_a_script_says_what_its_first_convolution_takes(self, files: Files) -> None:
        weights = sum(each.numel() for each in files.network.parameters())
        for file in (files.torchscript, files.frozen):
            found = get_backend("torchscript").inspect(file)
            assert found.inputs == (OpenSpec("images", (None, 3, None, None), "float32"),)
            assert found.parameters is not None
            assert 0.9 * weights < found.parameters <= weights, "freezing folds BatchNorm and keeps the rest"

    def test_a_script_without_a_convolution_leaves_all_open(self, tmp_path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.script(nn.Linear(3, 2).eval()), tmp_path / "linear.pt")
        (given,) = get_backend("torchscript").inspect(tmp_path / "linear.pt").inputs
        assert (given.shape, given.dtype) == ((), "")

    @pytest.mark.parametrize(("backend", "kind"), [("eager", "pt2"), ("torchscript", "torchscript")])
    def test_the_reference_is_eager(self, files: Files, backend: str, kind: str) -> None:
        inputs = (images(0, "fidelity", RESOLUTION, 2),)
        ((found,),) = get_backend(backend).reference(getattr(files, kind), [inputs])
        assert snr_db(eager(files.network, inputs), found) > 100

    @pytest.mark.parametrize(("backend", "kind"), [("eager", "pt2"), ("torchscript", "torchscript")])
    def test_a_file_cut_short(self, files: Files, backend: str, kind: str, tmp_path: Path) -> None:
        whole: Path = getattr(files, kind)
        cut = tmp_path / f"cut{whole.suffix}"
        cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        with pytest.raises(
            BackendError, match=f"{cut.name} holds no program that torch .* can read"
        ) as caught:
            get_backend(backend).inspect(cut)
        assert "\n" not in str(caught.value)

    def test_a_program_that_takes_keyword_arguments(self, tmp_path: Path) -> None:
        class Network(nn.Module):
            def forward(self, x: torch.Tensor, *, scale: torch.Tensor) -> torch.Tensor:
                return x * scale

        program = torch.export.export(Network(), (torch.ones(2),), {"scale": torch.ones(2)})
        torch.export.save(program, tmp_path / "net.pt2")
        with pytest.raises(BackendError, match=r"net\.pt2 takes keyword arguments; export a network"):
            get_backend("eager").inspect(tmp_path / "net.pt2")

    def test_a_program_that_was_exported_while_training_says_so(self, tmp_path: Path) -> None:
        network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout()).train()
        file = tmp_path / "net.pt2"
        example = (np.ones((2, 3, 4, 4), np.float32),)
        torch.export.save(torch.export.export(network, tuple(map(torch.from_numpy, example))), file)
        assert get_backend("eager").inspect(file).facts["mode"] == "train (2 operators)"
        (tmp_path / "made").mkdir()
        prepared("eager", tmp_path / "made", read(file), file, example)
        _, facts = outputs("eager", tmp_path / "made", example)
        assert facts["mode"] == "train (2 modules)"


class Tiny(nn.Module):
    """What compiles in seconds, and has two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.linear = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        return self.linear(torch.relu(self.norm(self.convolution(x))).mean((2, 3))) + offset


TINY_INPUTS = (np.linspace(-1, 1, 3 * 64, dtype=np.float32).reshape(1, 3, 8, 8), np.ones((1, 4), np.float32))


@dataclass
class Compiled:
    """A tiny network: as it is, exported, and compiled by the user."""

    network: nn.Module
    program: Path
    package: Path


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    import torch._inductor

    folder = tmp_path_factory.mktemp("compiled")
    torch.manual_seed(0)
    network = Tiny().eval().requires_grad_(False)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    program = torch.export.export(network, tuple(map(torch.from_numpy, TINY_INPUTS)))
    torch.export.save(program, folder / "net.pt2")
    with torch.no_grad():  # otherwise nothing is frozen
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(folder / "compiled.pt2"), inductor_configs={"freezing": True}
        )
    torch.set_num_threads(before)
    return Compiled(network, folder / "net.pt2", folder / "compiled.pt2")


@pytest.mark.slow
class TestCompiled:
    @pytest.mark.parametrize(
        "backend",
        [
            pytest.param("compile", marks=pytest.mark.thorough),
            "aot-inductor:freezing=off:autotune=max-autotune",
        ],
    )
    def test_exported_programs_are_compiled(self, compiled: Compiled, backend: str, tmp_path: Path) -> None:
        prepared(backend, tmp_path, read(compiled.program), compiled.program, TINY_INPUTS)
        found, _ = outputs(backend, tmp_path, TINY_INPUTS)
        floor = get_backend(backend).info.floor_snr_db
        assert snr_db(eager(compiled.network, TINY_INPUTS), found) > floor

    def test_a_package_says_what_it_takes(self, compiled: Compiled) -> None:
        found = get_backend("aot-inductor").inspect(compiled.package)
        assert [(spec.shape, spec.dtype) for spec in found.inputs] == [
            ((1, 3, 8, 8), "float32"),
            ((1, 4), "float32"),
        ]
        assert found.facts == {"compiled by": "AOTInductor"}

    def test_a_package_is_run_as_it_is(self, compiled: Compiled, tmp_path: Path) -> None:
        facts = prepared("aot-inductor", tmp_path, None, compiled.package, TINY_INPUTS)
        assert facts == {"compiled": "by the user"}
        before = _aoti._openmp_runtimes()  # other runtimes that tests of this process loaded have theirs
        found, facts = outputs("aot-inductor", tmp_path, TINY_INPUTS)
        exact = eager(compiled.network, TINY_INPUTS)
        assert snr_db(exact, found) > 60
        assert {"OpenMP runtimes": facts["OpenMP runtimes"]} == before
        ((reference,),) = get_backend("aot-inductor").reference(compiled.package, [TINY_INPUTS])
        assert snr_db(exact, reference) > 60

    def test_a_package_for_other_inputs(self, compiled: Compiled, tmp_path: Path) -> None:
        other = (np.ones((1, 3, 9, 9), np.float32), TINY_INPUTS[1])
        with pytest.raises(
            BackendError, match="does not run with inputs 1x3x9x9 float32, 1x4 float32"
        ) as caught:
            prepared("aot-inductor", tmp_path, None, compiled.package, other)
        assert "\n" not in str(caught.value)

    def test_it_explains_what_onednn_ran(self, compiled: Compiled, tmp_path: Path) -> None:
        prepared("aot-inductor", tmp_path, None, compiled.package, TINY_INPUTS)
        found = get_backend("aot-inductor").explain(tmp_path, 1, [TINY_INPUTS])
        assert found is not None
        names = {cost.name: cost for cost in found.operators}
        assert names["oneDNN convolution"].precision == "fp32"
        assert names["oneDNN convolution"].count == 1


class TestBf16:
    def test_a_processor_without_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        backend = get_backend("eager-bf16")
        monkeypatch.setattr(_cpu, "has_bf16", lambda: True)
        assert backend.unavailable() is None
        monkeypatch.setattr(_cpu, "has_bf16", lambda: False)
        assert "has no bfloat16 arithmetic" in str(backend.unavailable())

    def test_weights_are_bfloat16_and_images_are_not(self, files: Files, tmp_path: Path) -> None:
        prepared("eager-bf16", tmp_path, files.network)
        session = get_backend("eager-bf16").load(tmp_path, 1, "cpu")
        (staged,) = session.stage((images(0, "measure", RESOLUTION, 2),))
        assert staged.dtype == torch.float32, "the conversion is part of the call"
        assert session.run((staged,)).dtype == torch.bfloat16
        assert session.facts()["parameter types"] == "bfloat16"

    def test_the_given_network_stays_as_it_is(self, tmp_path: Path) -> None:
        class Network(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.used = nn.Conv2d(3, 4, 1)
                self.unused = nn.Linear(4, 4)  # as a head that only training needs

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.used(x).mean((2, 3))

        network = Network().eval()
        prepared("eager-bf16", tmp_path, network)
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


class TestSwitches:
    @pytest.mark.parametrize(
        ("name", "layout"),
        [
            ("eager-channels-last", "channels_last"),
            ("eager-channels-last:layout=contiguous", "contiguous_format"),
            ("eager-bf16:layout=contiguous", "contiguous_format"),
            ("torchscript", "contiguous_format"),
            ("torchscript:optimize=optimize-for-inference", "contiguous_format"),
            ("torchscript:optimize=optimize-for-inference:layout=channels-last", "channels_last"),
        ],
    )
    def test_settings_change_the_layout_and_not_the_numbers(
        self, files: Files, name: str, layout: str, tmp_path: Path
    ) -> None:
        inputs = (images(0, "fidelity", RESOLUTION, 2),)
        prepared(name, tmp_path, files.network)
        found, facts = outputs(name, tmp_path, inputs)
        assert facts["memory format"] == layout
        assert snr_db(eager(files.network, inputs), found) > get_backend(name).info.floor_snr_db

    def test_optimizing_for_inference_changes_the_program(self, files: Files, tmp_path: Path) -> None:
        prepared("torchscript", tmp_path, files.network)
        inputs = (images(0, "fidelity", RESOLUTION, 2),)
        plain, optimized = (
            outputs(name, tmp_path, inputs)[1]["graph nodes"]
            for name in ("torchscript", "torchscript:optimize=optimize-for-inference")
        )
        assert plain != optimized


class TestSession:
    def test_calls_are_in_inference_mode_and_nothing_else_is(self, files: Files, tmp_path: Path) -> None:
        prepared("eager", tmp_path, files.network)
        sessions = [get_backend("eager").load(tmp_path, 1, "cpu") for _ in range(2)]
        for session in sessions:
            staged = session.stage((images(0, "measure", RESOLUTION, 2),))
            assert session.run(staged).is_inference()
            assert session.run(staged).is_inference()
            assert not torch.is_inference_mode_enabled()
            session.close()


LOG = (
    "onednn_verbose,v1,primitive,exec,cpu,{kind},{implementation},forward_inference,"
    "src:{type}::blocked:acdb::f0 wei:s8:a:blocked:Acdb16a::f0 dst:f32::blocked:acdb::f0,"
    "attr-scratchpad:user,alg:convolution_direct,mb1_ic3oc16,{milliseconds}"
)


class TestExplanations:
    def test_eager_computes_batch_norms_and_the_folded_network_does_not(
        self, files: Files, tmp_path: Path
    ) -> None:
        told = {}
        for name in ("eager", "eager-channels-last"):
            (tmp_path / name).mkdir()
            prepared(name, tmp_path / name, files.network)
            found = get_backend(name).explain(tmp_path / name, 1, [(images(0, "measure", RESOLUTION, 2),)])
            assert found is not None
            costs = [cost.seconds or 0.0 for cost in found.operators]
            assert costs == sorted(costs, reverse=True)
            told[name] = found
        assert any("34 BatchNorms are computed at each call" in reason for reason in told["eager"].reasons)
        assert not any("BatchNorm" in reason for reason in told["eager-channels-last"].reasons)
        counts = {cost.name: cost.count for cost in told["eager"].operators}
        assert counts["aten::native_batch_norm"] == 34

    def test_a_line_of_onednns_log(self) -> None:
        line = LOG.format(
            kind="convolution", implementation="brgconv:avx512_core_vnni", type="u8", milliseconds=0.5
        )
        assert _torch_explain._primitive(line) == _torch_explain.Primitive(
            "convolution", "brgconv:avx512_core_vnni", "int8", 0.5e-3
        )
        assert _torch_explain._primitive("onednn_verbose,v1,info,cpu,runtime:OpenMP,nthr:1") is None

    def test_reasons_name_what_is_slow(self) -> None:
        def primitive(kind: str, implementation: str, precision: str, milliseconds: float) -> Any:
            return _torch_explain.Primitive(kind, implementation, precision, milliseconds / 1e3)

        found = _torch_explain._reasons(
            [
                primitive("reorder", "jit:uni", "fp32", 0.1),
                primitive("convolution", "brgconv:avx512_core", "bf16", 0.3),
                primitive("convolution", "ref:any", "fp32", 0.4),
            ],
            1e-3,
        )
        assert found == [
            "oneDNN converts the layout or type of 1 tensors at each call (10% of the time)",
            "1 of 2 convolutions and matrix products compute in fp32 (40% of the time), the others in bf16",
            "1 convolutions or matrix products run in oneDNN's reference implementation (40% of the time)",
            "1 bfloat16 convolutions or matrix products run without bfloat16 instructions (brgconv:avx512_core)",
        ]

    def test_standard_output_is_given_back(self, files: Files, tmp_path: Path, capfd: Any) -> None:
        prepared("eager", tmp_path, files.network)
        get_backend("eager").explain(tmp_path, 1, [(images(0, "measure", RESOLUTION, 2),)])
        print("still here", flush=True)
        said = capfd.readouterr().out
        assert "still here" in said
        assert "onednn_verbose" not in said


def test_folding_counts_what_it_folds() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    _, facts = _torch.folded(network)
    assert facts == {"batch norms folded": 1, "batch norms left": 1}
