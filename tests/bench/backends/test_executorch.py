"""ExecuTorch: what is delegated, what a program says of itself, programs that cannot be run, where the time goes."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from mnv3_bench.backends import get_backend, missing
from mnv3_bench.backends.base import BackendError, Preparation
from mnv3_bench.inputs import images
from mnv3_models import build
from mnv3_models.calibration import calibrate, seed_weights
from mnv3_reports.record import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mnv3_bench.backends.base import Arrays, Facts

LACKING = missing(get_backend("executorch").info)
pytestmark = pytest.mark.skipif(LACKING is not None, reason=str(LACKING))

RNG = np.random.default_rng(0)


class TwoInTwoOut(nn.Module):
    """An embedding and an argmax, which XNNPACK has not, beside a convolution, which it has."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.Hardswish(), nn.AdaptiveAvgPool2d(1)
        )
        self.table = nn.Embedding(10, 4)
        self.head = nn.Linear(12, 6)

    def forward(self, pictures: torch.Tensor, words: torch.Tensor) -> dict[str, torch.Tensor]:
        joined = torch.cat([self.features(pictures).flatten(1), self.table(words)], dim=1)
        logits = self.head(joined)
        return {"logits": logits, "best": logits.argmax(dim=1)}


class ShapeDependent(nn.Module):
    """torch.fx cannot trace it, torch.export can."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) if x.shape[0] > 0 else x


class Sorting(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sort(dim=1).values


class ValueDependent(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


def call(pictures: tuple[int, ...] = (1, 3, 16, 16)) -> Arrays:
    return (RNG.random(pictures, dtype=np.float32), RNG.integers(0, 10, size=pictures[0]))


def preparation(
    network: nn.Module | None, directory: Path, example: Arrays, calibration: Sequence[Arrays], **given: Any
) -> Preparation:
    names = ("pictures", "words") if len(example) == 2 else ("images",)
    return Preparation(
        variant="own",
        num_classes=6,
        network=network,
        inputs=tuple(
            TensorSpec(name, array.shape, str(array.dtype))
            for name, array in zip(names, example, strict=True)
        ),
        example=example,
        calibration=calibration,
        threads=1,
        device="cpu",
        directory=directory,
        **given,
    )


def run(backend: str, directory: Path, calls: Sequence[Arrays]) -> list[Arrays]:
    with closing(get_backend(backend).load(directory, 1, "cpu")) as session:
        return [session.fetch(session.run(session.stage(inputs))) for inputs in calls]


class Audit:
    """What this process opens to the outside while it is asked to listen; audit hooks cannot be taken away again."""

    def __init__(self) -> None:
        self.listening = False
        self.connections: list[str] = []
        self.programs: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.listening and event in ("socket.connect", "socket.getaddrinfo"):
            self.connections.append(f"{event} {args}")
        elif self.listening and event == "subprocess.Popen":
            self.programs.append(str(args[0]))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    model = TwoInTwoOut()
    with torch.no_grad():
        for _ in range(3):
            model(*map(torch.from_numpy, call((8, 3, 16, 16))))
    return model.eval()


@pytest.fixture(scope="module")
def audit() -> Audit:
    return Audit()


@pytest.fixture(scope="module")
def artifact(network: nn.Module, audit: Audit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("two")
    audit.listening = True
    try:
        get_backend("executorch").prepare(preparation(network, directory, call(), []))
    finally:
        audit.listening = False
    return directory


@pytest.fixture(scope="module")
def program(artifact: Path) -> Path:
    return artifact / "model.pte"


def facts_of(directory: Path) -> Facts:
    with closing(get_backend("executorch").load(directory, 1, "cpu")) as session:
        return session.facts()


def test_several_inputs_and_outputs(network: nn.Module, artifact: Path) -> None:
    calls = [call() for _ in range(5)]
    for inputs, (logits, best) in zip(calls, run("executorch", artifact, calls), strict=True):
        with torch.inference_mode():
            expected = network(*map(torch.from_numpy, inputs))
        np.testing.assert_allclose(logits, expected["logits"].numpy(), atol=1e-5)
        assert best.dtype == np.int64
        assert best.tolist() == expected["best"].tolist()


def test_inputs_of_the_wrong_kind_are_refused_in_one_line(artifact: Path) -> None:
    pictures, words = call()
    with closing(get_backend("executorch").load(artifact, 1, "cpu")) as session:
        with pytest.raises(
            BackendError, match=r"^words is int32, expected int64; convert it with .astype\('int64'\)$"
        ):
            session.stage((pictures, words.astype(np.int32)))
        with pytest.raises(
            BackendError, match=r"^1 inputs were given, this artifact takes 2: pictures, words$"
        ):
            session.stage((pictures,))


def test_converting_reaches_no_network_and_starts_only_the_packages_own_compiler(
    artifact: Path, audit: Audit
) -> None:
    assert artifact.is_dir()
    assert audit.connections == []
    assert {path.rpartition("/")[2] for path in audit.programs} <= {"flatc"}
    assert all("/executorch/data/bin/" in path for path in audit.programs)


def test_delegation_is_counted_as_executorchs_own_tool_counts_it(network: nn.Module, artifact: Path) -> None:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.devtools.backend_debug import get_delegation_info
    from executorch.exir import to_edge_transform_and_lower

    from mnv3_bench.backends._torch import fold_batch_norm

    with torch.no_grad():
        exported = torch.export.export(fold_batch_norm(network), tuple(map(torch.from_numpy, call())))
    edge = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    theirs = get_delegation_info(edge.exported_program().graph_module)
    picking = theirs.delegation_by_operator["getitem"]
    facts = facts_of(artifact)
    assert facts["delegated nodes"] == theirs.num_delegated_nodes - picking.delegated
    assert facts["nodes not delegated"] == theirs.num_non_delegated_nodes - picking.non_delegated
    assert facts["delegated parts"] == f"{theirs.num_delegated_subgraphs} XnnpackBackend"
    assert "1 embedding" in str(facts["not delegated"])
    assert "1 argmax" in str(facts["not delegated"])
    assert "1 convolution, " in str(facts["delegated operators"])


def test_a_network_that_torch_fx_cannot_trace(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ShapeDependent().eval()
    pictures = call()[:1]
    facts = get_backend("executorch").prepare(preparation(model, tmp_path, pictures, []))
    assert facts["BatchNorm folded by"] == "XNNPACK's passes"
    ((found,),) = run("executorch", tmp_path, [pictures])
    with torch.inference_mode():
        np.testing.assert_allclose(found, model(torch.from_numpy(pictures[0])).numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ["executorch", "executorch-int8"])
def test_a_network_that_cannot_be_exported(name: str, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"^torch\.export cannot export the network: ") as caught:
        get_backend(name).prepare(preparation(ValueDependent(), tmp_path, call()[:1], [call()[:1]]))
    assert "\n" not in str(caught.value)


def test_a_network_that_the_runtime_has_no_kernel_for(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"this runtime has no kernel for aten::sort\.values$") as caught:
        get_backend("executorch").prepare(preparation(Sorting(), tmp_path, call()[:1], []))
    assert "\n" not in str(caught.value)


def test_what_a_program_says_of_itself(program: Path) -> None:
    found = get_backend("executorch").inspect(program)
    assert [(spec.name, spec.shape, spec.dtype) for spec in found.inputs] == [
        ("input_0", (1, 3, 16, 16), "float32"),
        ("input_1", (1,), "int64"),
    ]
    assert [(spec.name, spec.shape, spec.dtype) for spec in found.outputs] == [
        ("output_0", (1, 6), "float32"),
        ("output_1", (1,), "int64"),
    ]
    assert found.facts["method"] == "forward"
    assert "XnnpackBackend" in str(found.facts["delegated parts"])


def test_a_program_is_taken_as_it_is(network: nn.Module, program: Path, tmp_path: Path) -> None:
    backend, calls = get_backend("executorch"), [call() for _ in range(3)]
    facts = backend.prepare(preparation(None, tmp_path, calls[0], [], format="pte", file=program))
    assert (tmp_path / "model.pte").read_bytes() == program.read_bytes()
    assert "1 embedding" in str(facts["not delegated"])
    reference = backend.reference(program, calls)
    for expected, found in zip(reference, run("executorch", tmp_path, calls), strict=True):
        for theirs, ours in zip(expected, found, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert not np.array_equal(reference[0][0], reference[1][0])


def test_a_reference_of_inputs_it_does_not_take(program: Path) -> None:
    with pytest.raises(BackendError, match=r"cannot run model\.pte: .*expected Long but was Float") as caught:
        get_backend("executorch").reference(program, [(call()[0], np.zeros(1, dtype=np.float32))])
    assert "\n" not in str(caught.value)


BROKEN = {
    "empty": (lambda data: b"", "is no ExecuTorch program"),
    "text": (lambda data: b"not a program, but a text", "is no ExecuTorch program"),
    "other": (lambda data: data[:4] + b"TFL3" + data[8:], "is no ExecuTorch program"),
    "later": (lambda data: data[:4] + b"ET99" + data[8:], "identifier 'ET99' != expected 'ET12'"),
    "header-only": (lambda data: data[:100], "File size is too small"),
    "half": (lambda data: data[: len(data) // 2], "File size is too small"),
    "short-of-a-byte": (lambda data: data[:-1], "File size is too small"),
    "zeroed": (lambda data: data[:64] + bytes(len(data) - 64), "data may be truncated or corrupt"),
    "kernel": (
        lambda data: data.replace(b"aten::embedding", b"aten::embodying"),
        "no kernel for aten::embodying",
    ),
    "delegate": (
        lambda data: data.replace(b"XnnpackBackend", b"UnknownBackend"),
        "UnknownBackend is not registered",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_program_that_cannot_be_run(kind: str, artifact: Path, tmp_path: Path) -> None:
    spoil, words = BROKEN[kind]
    for path in artifact.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    file = tmp_path / "model.pte"
    file.write_bytes(spoil(file.read_bytes()))
    backend = get_backend("executorch")
    for attempt in (
        lambda: backend.inspect(file),
        lambda: backend.load(tmp_path, 1, "cpu"),
        lambda: backend.reference(file, [call()]),
    ):
        with pytest.raises(BackendError, match=rf"model\.pte.*{words}") as caught:
            attempt()
        assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="cannot be read: No such file or directory"):
        get_backend("executorch").inspect(tmp_path / "none.pte")


@pytest.fixture
def methods(tmp_path: Path) -> Iterator[Any]:
    """Writes a program whose methods have these names."""
    from executorch.exir import to_edge_transform_and_lower

    def write(*names: str) -> Path:
        layer = nn.Linear(4, 2).eval()
        with torch.no_grad():
            exported = torch.export.export(layer, (torch.zeros(1, 4),))
        path = tmp_path / "methods.pte"
        path.write_bytes(to_edge_transform_and_lower(dict.fromkeys(names, exported)).to_executorch().buffer)
        return path

    return write


def test_a_program_of_several_methods_needs_a_forward(methods: Any) -> None:
    backend = get_backend("executorch")
    with pytest.raises(
        BackendError, match="has the methods decode, encode and none called forward"
    ) as caught:
        backend.inspect(methods("encode", "decode"))
    assert "\n" not in str(caught.value)
    assert backend.inspect(methods("encode")).facts["method"] == "encode"
    found = backend.inspect(methods("encode", "forward"))
    assert found.facts["method"] == "forward"
    assert found.facts["delegated parts"] == "none"


def test_a_second_number_of_threads_waits_until_the_first_program_is_closed(artifact: Path) -> None:
    backend = get_backend("executorch")
    with closing(backend.load(artifact, 1, "cpu")) as first:
        with closing(backend.load(artifact, 1, "cpu")):
            pass
        with pytest.raises(BackendError, match="holds an ExecuTorch program with 1 threads") as caught:
            backend.load(artifact, 2, "cpu")
        assert "\n" not in str(caught.value)
        assert first.facts()["threads"] == 1
    with closing(backend.load(artifact, 2, "cpu")) as second:
        assert second.facts()["threads"] == 2


def test_cuda_is_refused(artifact: Path) -> None:
    with pytest.raises(BackendError, match=r"'cuda' is no device of .*--device cpu"):
        get_backend("executorch").load(artifact, 1, "cuda")


def test_explanation_names_what_was_not_delegated(artifact: Path) -> None:
    found = get_backend("executorch").explain(artifact, 1, [call() for _ in range(3)])
    assert found is not None
    costs = {cost.name: cost for cost in found.operators}
    assert costs["embedding.out"].count == 1
    assert all(cost.seconds is not None and cost.seconds >= 0 for cost in found.operators)
    assert [cost.seconds for cost in found.operators] == sorted(
        (cost.seconds for cost in found.operators), reverse=True
    )
    convolutions = [cost for cost in found.operators if cost.name.startswith("Convolution (NHWC, F32)")]
    assert [cost.precision for cost in convolutions] == ["fp32"]
    (left,) = (reason for reason in found.reasons if "not delegated to XNNPACK" in reason)
    assert "1 embedding" in left
    assert "1 argmax" in left


class Untouchable(list[Any]):
    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("ranges that are found at run time need no calibration")


def test_dynamic_quantization_is_another_artifact_and_needs_no_calibration(tmp_path: Path) -> None:
    backend = get_backend("executorch-int8:recipe=dynamic")
    assert backend.name == "executorch-int8:recipe=dynamic"
    assert backend.shaping() == {"recipe": "dynamic", "calibration": "histogram"}
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Hardswish(), nn.Flatten(), nn.Linear(8 * 14 * 14, 6)).eval()
    calls = [call()[:1] for _ in range(4)]
    facts = backend.prepare(preparation(model, tmp_path, calls[0], Untouchable()))
    assert facts["activations"] == "s8 a tensor, at every call"
    assert facts["int8 operators"] == "1 convolution, 1 linear"
    found = np.stack([logits for (logits,) in run("executorch-int8", tmp_path, calls)])
    with torch.inference_mode():
        expected = np.stack([model(torch.from_numpy(x)).numpy() for (x,) in calls])
    error = ((found - expected) ** 2).sum()
    assert 0 < error < 0.01 * (expected**2).sum()


@pytest.mark.parametrize(("name", "floor_db"), [("executorch", 60.0), ("executorch-int8", 20.0)])
def test_an_exported_program_is_exported_again(name: str, floor_db: float, tmp_path: Path) -> None:
    """What a .pt2 file holds: a module of operators in which nothing can be folded by its classes."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Hardswish(), nn.Flatten(), nn.Linear(8 * 14 * 14, 6))
    model = nn.Sequential(*layers).eval()
    calls = [call()[:1] for _ in range(8)]
    held = torch.export.export(model, (torch.from_numpy(calls[0][0]),)).module()
    get_backend(name).prepare(preparation(held, tmp_path, calls[0], calls, format="pt2"))
    found = np.stack([logits for (logits,) in run(name, tmp_path, calls)])
    with torch.inference_mode():
        expected = np.stack([model(torch.from_numpy(x)).numpy() for (x,) in calls])
    error = ((found - expected) ** 2).sum()
    assert 10 * np.log10((expected**2).sum() / error) > floor_db


@pytest.fixture(scope="module")
def v3_small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Facts]]:
    """V3-Small with 1000 classes, on images of 64 x 64 pixels to be quick."""
    model = build("v3-small")
    seed_weights(model, 0)
    calibrate(model, images(0, "weights", 64))
    found = {}
    for name in ("executorch", "executorch-int8"):
        directory = tmp_path_factory.mktemp(name)
        calibration = [(image[None],) for image in images(0, "calibration", 64, 32)]
        given = preparation(model.eval(), directory, (images(0, "measure", 64, 1),), calibration)
        found[name] = (directory, get_backend(name).prepare(given))
    return found


@pytest.mark.thorough
def test_int8_is_a_third_of_the_size_at_most(v3_small: dict[str, tuple[Path, Facts]]) -> None:
    fp32, int8 = (
        (v3_small[name][0] / "model.pte").stat().st_size for name in ("executorch", "executorch-int8")
    )
    assert int8 <= 0.35 * fp32
    assert fp32 > 4 * 2_500_000, "its 2.5 million parameters are in it"


@pytest.mark.thorough
def test_all_of_v3_small_is_delegated_but_the_constants_of_its_hard_sigmoids(
    v3_small: dict[str, tuple[Path, Facts]],
) -> None:
    _, facts = v3_small["executorch"]
    assert facts["delegated parts"] == "1 XnnpackBackend"
    assert facts["not delegated"] == "18 _to_dim_order_copy"
    operators = str(facts["delegated operators"]).split(", ")
    assert {"52 convolution", "19 hardswish", "10 mean", "2 linear"} <= set(operators)


@pytest.mark.thorough
def test_what_v3_small_leaves_in_fp32(v3_small: dict[str, tuple[Path, Facts]]) -> None:
    directory, facts = v3_small["executorch-int8"]
    int8 = str(facts["int8 operators"]).split(", ")
    assert {"52 convolution", "19 hardswish", "10 mean", "9 mul", "6 add", "2 linear"} <= set(int8)
    assert facts["fp32 operators"] == "18 clamp, 9 add, 9 div", "its nine hard sigmoids"
    calls = [(image[None],) for image in images(0, "fidelity", 64, 2)]
    found = get_backend("executorch-int8").explain(directory, 1, calls)
    assert found is not None
    assert "Not quantized, these compute in fp32: 18 clamp, 9 add, 9 div." in found.reasons
    conversions = [cost.count for cost in found.operators if cost.name.startswith("Convert (")]
    assert sum(conversions) == 20, "one at each end of the network, and around each hard sigmoid"
    tables = [cost for cost in found.operators if cost.name.endswith("(look-up table)")]
    assert [(cost.count, cost.precision) for cost in tables] == [(19, "int8")], "its hard swishes"
    weighted = [
        cost for cost in found.operators if cost.name.startswith(("Convolution (", "Fully Connected ("))
    ]
    assert sum(cost.count for cost in weighted) == 54
    assert {cost.precision for cost in weighted} == {"int8"}
