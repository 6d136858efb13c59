"""ONNX: the exported graph, files of the user's own, and what ONNX Runtime says of them."""

from __future__ import annotations

import platform
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from mnv3_bench.backends import _cpu, _onnx, _onnx_file, get_backend
from mnv3_bench.backends.base import BackendError, OpenSpec, Preparation
from mnv3_bench.inputs import images
from mnv3_models import build
from mnv3_reports.record import TensorSpec

if TYPE_CHECKING:
    from pathlib import Path

    from mnv3_bench.backends.base import Arrays, Explanation, Facts, Format

RESOLUTION = 32


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same network exported twice."""
    model = build("v3-small@0.35", num_classes=10).eval()
    paths = []
    for _ in range(2):
        folder = tmp_path_factory.mktemp("export")
        example = images(0, "measure", 32, 2)
        preparation = Preparation(
            variant="v3-small@0.35",
            num_classes=10,
            network=model,
            inputs=(TensorSpec("images", example.shape),),
            example=(example,),
            calibration=[(example,)],
            threads=1,
            device="cpu",
            directory=folder,
        )
        _onnx.export(preparation, folder / _onnx.MODEL)
        paths.append(folder / _onnx.MODEL)
    return paths[0], paths[1]


def test_hard_swish_stays_whole_and_batch_norm_is_folded(exported: tuple[Path, Path]) -> None:
    kinds = Counter(node.op_type for node in onnx.load(exported[0]).graph.node)
    assert kinds["HardSwish"] == 19, "V3-Small has 18 hard-swishes in its features and one in its classifier"
    assert kinds["HardSigmoid"] == 9
    assert kinds["BatchNormalization"] == 0
    assert kinds["Identity"] == 0


def test_the_batch_is_static(exported: tuple[Path, Path]) -> None:
    (images_in,) = onnx.load(exported[0]).graph.input
    assert [size.dim_value for size in images_in.type.tensor_type.shape.dim] == [2, 3, 32, 32]


def test_the_same_network_gives_the_same_bytes_and_no_path_of_this_machine(
    exported: tuple[Path, Path],
) -> None:
    first, second = (path.read_bytes() for path in exported)
    assert first == second
    assert b".py" not in first


class Net(nn.Module):
    """Convolutions with and without BatchNorm, and a linear layer: what quantizers and layouts act on."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3),
            nn.Hardswish(),
        )
        self.classifier = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    made = Net()
    made.train()
    with torch.no_grad():  # BatchNorm learns statistics
        made(torch.from_numpy(images(0, "weights", RESOLUTION, 16)))
    return made.eval()


@pytest.fixture(scope="module")
def user_file(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a user may have it: any batch, BatchNorm not folded."""
    path = tmp_path_factory.mktemp("user") / "net.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(2, 3, RESOLUTION, RESOLUTION),),
            str(path),
            dynamo=False,
            input_names=["pixels"],
            output_names=["scores"],
            dynamic_axes={"pixels": {0: "batch"}, "scores": {0: "batch"}},
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
        )
    assert any(node.op_type == "BatchNormalization" for node in onnx.load(path).graph.node)
    return path


def prepared(
    name: str,
    directory: Path,
    file: Path | None,
    network: nn.Module | None = None,
    batch: int = 2,
    kind: Format = "onnx",
) -> Facts:
    example = (images(0, "measure", RESOLUTION, batch),)
    return get_backend(name).prepare(
        Preparation(
            variant="net",
            num_classes=10,
            network=network,
            inputs=(TensorSpec("pixels", example[0].shape),),
            example=example,
            calibration=[(part,) for part in np.split(images(0, "calibration", RESOLUTION, 8 * batch), 8)],
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


def graph(
    path: Path, node: Any, shape: tuple[int | str, ...] = (1, 4), opset: int = 17, domain: str | None = None
) -> Path:
    value = helper.make_tensor_value_info
    made = helper.make_model(
        helper.make_graph([node], "g", [value("x", 1, shape)], [value("y", 1, shape)]),
        opset_imports=[
            helper.make_opsetid("", opset),
            *([helper.make_opsetid(domain, 1)] if domain is not None else []),
        ],
    )
    made.ir_version = 9
    onnx.save(made, path)
    return path


class TestFiles:
    @pytest.mark.parametrize(
        "name", ["onnxruntime", "onnxruntime-int8", "onnxruntime-int8-dynamic", "onnxruntime-fp16"]
    )
    def test_a_file_gives_what_its_network_gives(
        self, name: str, network: nn.Module, user_file: Path, tmp_path: Path
    ) -> None:
        inputs = (images(0, "fidelity", RESOLUTION, 3),)
        prepared(name, tmp_path, user_file, batch=3)
        found, _ = outputs(name, tmp_path, inputs)
        assert snr_db(eager(network, inputs), found) > get_backend(name).info.floor_snr_db

    def test_batch_norms_of_a_file_are_folded_before_it_is_quantized(
        self, user_file: Path, tmp_path: Path
    ) -> None:
        prepared("onnxruntime-int8", tmp_path, user_file)
        kinds = Counter(node.op_type for node in onnx.load(tmp_path / _onnx.MODEL).graph.node)
        assert kinds["BatchNormalization"] == 0
        assert kinds["Conv"] == 2

    @pytest.mark.parametrize("kind", ["pt2", "torchscript"])
    def test_files_of_pytorch_are_exported(self, kind: Format, network: nn.Module, tmp_path: Path) -> None:
        inputs = (images(0, "fidelity", RESOLUTION, 2),)
        example = (torch.zeros(2, 3, RESOLUTION, RESOLUTION),)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            given: nn.Module = (
                torch.export.export(network, example).module()
                if kind == "pt2"
                else torch.jit.trace(network, example, check_trace=False)
            )
        prepared("onnxruntime", tmp_path, None, given, kind=kind)
        found, _ = outputs("onnxruntime", tmp_path, inputs)
        assert snr_db(eager(network, inputs), found) > 60

    def test_sizes_are_fixed_wherever_the_file_names_them(self, user_file: Path, tmp_path: Path) -> None:
        prepared("onnxruntime", tmp_path, user_file, batch=5)
        model = onnx.load(tmp_path / _onnx.MODEL)
        for value, sizes in ((model.graph.input[0], [5, 3, 32, 32]), (model.graph.output[0], [5, 10])):
            assert [size.dim_value for size in value.type.tensor_type.shape.dim] == sizes

    def test_sizes_that_do_not_fit(self, tmp_path: Path) -> None:
        path = graph(tmp_path / "net.onnx", helper.make_node("Relu", ["x"], ["y"]), ("n", "n", 4))
        for shape in ((2, 2, 5), (2, 3, 4), (2, 2)):
            with pytest.raises(BackendError, match=r"net\.onnx takes x of \?x\?x4, which .* does not fit"):
                _onnx_file.write_fixed(path, [TensorSpec("x", shape)], tmp_path / "fixed.onnx")
        _onnx_file.write_fixed(path, [TensorSpec("x", (2, 2, 4))], tmp_path / "fixed.onnx")

    def test_names_that_are_none_make_no_sizes_equal(self, tmp_path: Path) -> None:
        """Paddle's exporter writes '?' for every size it leaves open."""
        path = graph(tmp_path / "net.onnx", helper.make_node("Relu", ["x"], ["y"]), ("?", "?", 4))
        _onnx_file.write_fixed(path, [TensorSpec("x", (2, 3, 4))], tmp_path / "fixed.onnx")
        found = get_backend("onnxruntime").inspect(tmp_path / "fixed.onnx")
        assert found.inputs == (OpenSpec("x", (2, 3, 4), "float32"),)

    def test_old_opsets_are_quantized_too(self, tmp_path: Path) -> None:
        """Scales a channel came with opset 13."""
        weights = np.random.default_rng(0).normal(size=(10, 3, 3, 3)).astype(np.float32)
        nodes = [
            helper.make_node("Conv", ["pixels", "w", "b"], ["maps"]),
            helper.make_node("GlobalAveragePool", ["maps"], ["means"]),
            helper.make_node("Flatten", ["means"], ["scores"]),
        ]
        given = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [2, 3, RESOLUTION, RESOLUTION])
        made = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [2, 10])
        stored = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(weights[:, 0, 0, 0], "b")]
        model = helper.make_model(
            helper.make_graph(nodes, "old", [given], [made], stored),
            opset_imports=[helper.make_opsetid("", 11)],
            ir_version=7,
        )
        onnx.save(model, tmp_path / "old.onnx")
        inputs = (images(0, "fidelity", RESOLUTION, 2),)
        ((exact,),) = get_backend("onnxruntime").reference(tmp_path / "old.onnx", [inputs])
        (tmp_path / "int8").mkdir()
        prepared("onnxruntime-int8", tmp_path / "int8", tmp_path / "old.onnx")
        found, _ = outputs("onnxruntime-int8", tmp_path / "int8", inputs)
        assert snr_db(exact, found) > 20

    def test_it_says_what_it_takes(self, network: nn.Module, user_file: Path) -> None:
        found = get_backend("onnxruntime").inspect(user_file)
        assert found.inputs == (OpenSpec("pixels", (None, 3, RESOLUTION, RESOLUTION), "float32"),)
        assert found.outputs == (OpenSpec("scores", (None, 10), "float32"),)
        buffers = sum(each.numel() for each in network.buffers() if each.is_floating_point())
        assert found.parameters == sum(each.numel() for each in network.parameters()) + buffers
        assert str(found.facts["written by"]).startswith("pytorch")

    def test_the_reference_is_the_file_without_optimizations(
        self, network: nn.Module, user_file: Path
    ) -> None:
        inputs = (images(0, "fidelity", RESOLUTION, 2),)
        ((found,),) = get_backend("onnxruntime").reference(user_file, [inputs])
        assert snr_db(eager(network, inputs), found) > 100

    @pytest.mark.parametrize(
        ("name", "large"), [("onnxruntime", False), ("onnxruntime", True), ("onnxruntime-int8", False)]
    )
    def test_external_data_goes_with_it(
        self,
        network: nn.Module,
        user_file: Path,
        tmp_path: Path,
        name: str,
        large: bool,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        made = tmp_path / "made"
        made.mkdir()
        onnx.save(
            onnx.load(user_file),
            tmp_path / "net.onnx",
            save_as_external_data=True,
            location="weights.bin",
            size_threshold=0,
        )
        if large:
            monkeypatch.setattr(_onnx_file, "LARGEST_FILE", 10_000)
        prepared(name, made, tmp_path / "net.onnx")
        assert (made / "model.onnx.data").exists() == large
        inputs = (images(0, "fidelity", RESOLUTION, 2),)
        made.rename(tmp_path / "moved")
        found, _ = outputs(name, tmp_path / "moved", inputs)
        assert snr_db(eager(network, inputs), found) > get_backend(name).info.floor_snr_db

    @pytest.mark.parametrize(
        ("location", "message"),
        [
            ("../weights.bin", r"net.onnx reads '\.\./weights.bin', outside its own folder"),
            ("/etc/hostname", "net.onnx reads '/etc/hostname', outside its own folder"),
            ("lost.bin", r"net\.onnx reads lost\.bin, which is not beside it; put it there"),
        ],
    )
    def test_external_data_that_is_not_its_own(
        self, user_file: Path, tmp_path: Path, location: str, message: str
    ) -> None:
        model = onnx.load(user_file)
        (tmp_path.parent / "weights.bin").write_bytes(bytes(1_000_000))
        for tensor in model.graph.initializer:
            onnx.external_data_helper.set_external_data(tensor, location)
            tensor.ClearField("raw_data")
        (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(BackendError, match=message):
            get_backend("onnxruntime").inspect(tmp_path / "net.onnx")
        with pytest.raises(BackendError, match=message):
            prepared("onnxruntime", tmp_path, tmp_path / "net.onnx")

    def test_operators_that_onnx_runtime_lacks_are_named(self, tmp_path: Path) -> None:
        path = graph(
            tmp_path / "net.onnx",
            helper.make_node("Shine", ["x"], ["y"], domain="com.example"),
            domain="com.example",
        )
        with pytest.raises(BackendError, match=r"does not have: com\.example::Shine; export it without"):
            get_backend("onnxruntime").inspect(path)

    def test_an_operator_inside_a_branch_is_found_too(self, tmp_path: Path) -> None:
        inner = helper.make_graph(
            [helper.make_node("Shine", ["x"], ["z"], domain="com.example")],
            "branch",
            [],
            [helper.make_tensor_value_info("z", 1, (1, 4))],
        )
        condition = numpy_helper.from_array(np.array(True), "always")
        made = graph(
            tmp_path / "net.onnx",
            helper.make_node("If", ["always"], ["y"], then_branch=inner, else_branch=inner),
            domain="com.example",
        )
        model = onnx.load(made)
        model.graph.initializer.append(condition)
        onnx.save(model, made)
        with pytest.raises(BackendError, match=r"does not have: com\.example::Shine"):
            get_backend("onnxruntime").inspect(made)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "net.onnx holds no ONNX network"),
            (b"hello, world" * 9, "net.onnx is no ONNX file, or is cut short"),
            (None, "net.onnx is no ONNX file, or is cut short"),
        ],
    )
    def test_what_is_no_onnx_file(
        self, user_file: Path, tmp_path: Path, content: bytes | None, message: str
    ) -> None:
        path = tmp_path / "net.onnx"
        path.write_bytes(user_file.read_bytes()[:-500] if content is None else content)
        with pytest.raises(BackendError, match=message) as caught:
            get_backend("onnxruntime").inspect(path)
        assert "\n" not in str(caught.value)

    def test_an_opset_of_the_future_is_refused_in_one_line(self, tmp_path: Path) -> None:
        path = graph(tmp_path / "net.onnx", helper.make_node("Relu", ["x"], ["y"]), opset=99)
        with pytest.raises(BackendError, match=r"cannot load net\.onnx: .*Opset 99") as caught:
            get_backend("onnxruntime").inspect(path)
        assert "\n" not in str(caught.value)
        assert str(tmp_path) not in str(caught.value)

    def test_more_than_two_gigabytes(self, tmp_path: Path) -> None:
        path = tmp_path / "net.onnx"
        with path.open("wb") as file:
            file.truncate(2**31)
        with pytest.raises(
            BackendError, match=r"net\.onnx has 2\.1 GB, and no ONNX file can have more than 2"
        ):
            get_backend("onnxruntime").inspect(path)

    @pytest.mark.parametrize("name", ["onnxruntime-int8", "onnxruntime-int8-dynamic", "onnxruntime-fp16"])
    def test_what_is_converted_already_is_not_converted_again(
        self, name: str, user_file: Path, tmp_path: Path
    ) -> None:
        for made in ("onnxruntime-int8", "onnxruntime-fp16"):
            (tmp_path / made).mkdir()
            prepared(made, tmp_path / made, user_file)
            (tmp_path / f"from-{made}").mkdir()
            with pytest.raises(BackendError, match=r"already.*; run it with onnxruntime as it is") as caught:
                prepared(name, tmp_path / f"from-{made}", tmp_path / made / _onnx.MODEL)
            assert "\n" not in str(caught.value)

    def test_old_files_list_weights_among_their_inputs(self, tmp_path: Path) -> None:
        path = graph(tmp_path / "net.onnx", helper.make_node("Add", ["x", "w"], ["y"]))
        model = onnx.load(path)
        model.graph.initializer.append(numpy_helper.from_array(np.ones((1, 4), np.float32), "w"))
        model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, (1, 4)))
        onnx.save(model, path)
        assert [spec.name for spec in get_backend("onnxruntime").inspect(path).inputs] == ["x"]


def test_settings_reach_the_session(user_file: Path, tmp_path: Path) -> None:
    prepared("onnxruntime", tmp_path, user_file)
    inputs = (images(0, "fidelity", RESOLUTION, 2),)
    plain, facts = outputs("onnxruntime", tmp_path, inputs)
    assert (facts["graph optimization"], facts["spinning"]) == ("ORT_ENABLE_ALL", True)
    tuned, facts = outputs("onnxruntime:graph=extended:spinning=off", tmp_path, inputs)
    assert (facts["graph optimization"], facts["spinning"]) == ("ORT_ENABLE_EXTENDED", False)
    assert snr_db(plain, tuned) > 100


class TestFp16:
    @pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="of x86-64")
    def test_x86_stores_it_and_computes_in_fp32(self, user_file: Path, tmp_path: Path) -> None:
        stored = prepared("onnxruntime-fp16", tmp_path, user_file)
        assert stored["stored in"] == "fp16"
        _, facts = outputs("onnxruntime-fp16", tmp_path, (images(0, "fidelity", RESOLUTION, 2),))
        assert facts["computes in"] == "fp32, between casts"
        found = explained("onnxruntime-fp16", tmp_path)
        assert all(cost.precision != "fp16" for cost in found.operators if cost.name != "Cast")
        assert "operators do not compute in fp16: ONNX Runtime has no such kernel here" in found.reasons[-1]

    def test_it_is_offered_where_it_is_arithmetic(self, monkeypatch: pytest.MonkeyPatch) -> None:
        backend = get_backend("onnxruntime-fp16")
        monkeypatch.setattr(_cpu, "has_arm_fp16", lambda: True)
        assert backend.unavailable() is None
        monkeypatch.setattr(_cpu, "has_arm_fp16", lambda: False)
        assert "would compute in fp32 between casts" in str(backend.unavailable())


def explained(name: str, directory: Path) -> Explanation:
    found = get_backend(name).explain(directory, 1, [(images(0, "measure", RESOLUTION, 2),)])
    assert found is not None
    return found


class TestExplanations:
    def test_operators_are_counted_and_ordered(self, user_file: Path, tmp_path: Path) -> None:
        prepared("onnxruntime", tmp_path, user_file)
        before = {path.name for path in tmp_path.iterdir()}
        found = explained("onnxruntime", tmp_path)
        counts = {cost.name: cost.count for cost in found.operators}
        assert (counts["Conv"], counts["Gemm"]) == (2, 1)
        costs = [cost.seconds or 0.0 for cost in found.operators]
        assert costs == sorted(costs, reverse=True)
        assert all(cost.precision == "fp32" for cost in found.operators if cost.name == "Conv")
        assert {path.name for path in tmp_path.iterdir()} == before, "an artifact is only read"

    def test_layout_conversions_are_a_reason_where_there_are_any(
        self, user_file: Path, tmp_path: Path
    ) -> None:
        prepared("onnxruntime", tmp_path, user_file)
        converting = any(
            cost.name == "ReorderOutput" for cost in explained("onnxruntime", tmp_path).operators
        )
        reasons = explained("onnxruntime:graph=extended", tmp_path).reasons
        assert not any("NCHWc" in reason for reason in reasons)
        if platform.machine() in ("x86_64", "AMD64"):
            assert converting

    def test_what_quantizing_left_in_fp32_is_named(self, user_file: Path, tmp_path: Path) -> None:
        prepared("onnxruntime-int8", tmp_path, user_file)
        found = explained("onnxruntime-int8", tmp_path)
        assert any(cost.precision == "int8" for cost in found.operators)
        text = " ".join(found.reasons)
        assert "operators only convert between int8 and fp32" in text
        assert "compute in fp32" in text
