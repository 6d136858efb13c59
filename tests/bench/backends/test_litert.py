"""LiteRT: recipes, what XNNPACK does not take, files of the user's own, several inputs and outputs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import flatbuffers
import numpy as np
import pytest
import torch
from torch import nn

from mnv3_bench.backends import _litert, _litert_explain, _litert_profiler, get_backend
from mnv3_bench.backends.base import BackendError, Preparation
from mnv3_bench.inputs import images
from mnv3_models import build
from mnv3_models.calibration import calibrate, seed_weights
from mnv3_reports.record import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnv3_bench.backends.base import Arrays, Facts, Format, Session

pytest.importorskip("ai_edge_litert")
pytest.importorskip("litert_torch")
pytest.importorskip("ai_edge_quantizer")

RESOLUTION, SCALE = 64, 0.35


def prepared(
    backend: str,
    given: nn.Module | Path,
    example: Arrays,
    folder: Path,
    *,
    calibration: Sequence[Arrays] = (),
    format: Format | None = None,  # noqa: A002
) -> Facts:
    folder.mkdir(parents=True)
    file = given if isinstance(given, Path) else None
    return get_backend(backend).prepare(
        Preparation(
            variant="network",
            num_classes=10,
            network=None if isinstance(given, Path) else given,
            inputs=tuple(
                TensorSpec(f"x{position}", array.shape, str(array.dtype))
                for position, array in enumerate(example)
            ),
            example=example,
            calibration=calibration,
            threads=1,
            device="cpu",
            directory=folder,
            format=format or ("module" if file is None else "tflite"),
            file=file,
        )
    )


def loaded(folder: Path, threads: int = 1) -> Session:
    return get_backend("litert").load(folder, threads, "cpu")


def run(folder: Path, *inputs: np.ndarray) -> Arrays:
    session = loaded(folder)
    outputs = session.fetch(session.run(session.stage(inputs)))
    session.close()
    return outputs


def snr_db(reference: np.ndarray, found: np.ndarray) -> float:
    error = ((found.astype(np.float64) - reference) ** 2).sum()
    return 10 * float(np.log10((reference.astype(np.float64) ** 2).sum() / error))


def channels_last(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1))


def convert(module: nn.Module, example: tuple[Any, ...], path: Path, **options: Any) -> Path:
    import litert_torch

    litert_torch.convert(module.eval(), example, **options).export(str(path))
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """V3-Small's artifact in fp32; the bytes of its weights do not depend on the resolution."""
    model = build("v3-small", num_classes=1000)
    seed_weights(model, 0)
    calibrate(model, images(0, "weights", RESOLUTION))
    folder = tmp_path_factory.mktemp("small") / "artifact"
    prepared("litert", model.eval(), (images(0, "measure", RESOLUTION, 1),), folder)
    return folder


@pytest.fixture(scope="module")
def calls() -> list[Arrays]:
    """In the layout of `small`'s file."""
    return [(channels_last(each[None]),) for each in images(0, "calibration", RESOLUTION, 16)]


@pytest.fixture(scope="module")
def recipes(
    small: Path, calls: list[Arrays], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Facts]]:
    """Its file in every recipe."""
    made = {}
    for recipe in ("static", "dynamic", "weight-only"):
        folder = tmp_path_factory.mktemp("recipes") / recipe
        facts = prepared(
            f"litert-int8:recipe={recipe}", small / _litert.MODEL, calls[0], folder, calibration=calls
        )
        made[recipe] = folder, facts
    return made


def fidelity(small: Path, folder: Path) -> float:
    batches = [channels_last(each[None]) for each in images(0, "fidelity", RESOLUTION, 8)]
    exact = get_backend("litert").reference(small / _litert.MODEL, [(batch,) for batch in batches])
    return snr_db(
        np.concatenate([each for (each,) in exact]),
        np.concatenate([run(folder, batch)[0] for batch in batches]),
    )


def size(folder: Path) -> int:
    return (folder / _litert.MODEL).stat().st_size


def test_fp32_is_one_xnnpack_graph_with_batch_norm_folded(small: Path) -> None:
    session = loaded(small, threads=2)
    facts = session.facts()
    session.close()
    assert facts["XNNPACK partitions"] == 1
    assert facts["left to LiteRT's own kernels"] == "none"
    assert facts["input layout"] == "NHWC"
    assert facts["threads"] == 2
    assert "19 HARD_SWISH (fp32)" in str(facts["operators"])
    assert "MUL" in str(facts["operators"])
    assert "SUB" not in str(facts["operators"]), "BatchNorm would leave a SUB or a RSQRT"
    assert "TRANSPOSE" not in str(facts["operators"])


def test_the_same_network_gives_the_same_bytes_and_no_path_of_this_machine(small: Path) -> None:
    content = (small / _litert.MODEL).read_bytes()
    assert b".py" not in content
    assert str(Path(__file__).parents[3]).encode() not in content


def test_static_int8_stays_in_xnnpack_and_is_small(
    small: Path, recipes: dict[str, tuple[Path, Facts]]
) -> None:
    folder, facts = recipes["static"]
    assert facts["kept in fp32 for XNNPACK"] == "HARD_SWISH"
    assert facts["calibration calls"] == 16
    session = loaded(folder)
    seen = session.facts()
    session.close()
    assert seen["XNNPACK partitions"] == 1
    assert "41 CONV_2D (int8)" in str(seen["operators"])
    assert size(folder) <= SCALE * size(small)
    assert fidelity(small, folder) >= get_backend("litert-int8").info.floor_snr_db


def test_other_recipes_keep_more_and_say_what_they_quantize(
    small: Path, recipes: dict[str, tuple[Path, Facts]]
) -> None:
    (dynamic, dynamic_facts), (weights, weights_facts) = recipes["dynamic"], recipes["weight-only"]
    assert dynamic_facts["kept in fp32 for XNNPACK"] == "DEPTHWISE_CONV_2D"
    assert "41 CONV_2D (fp32 with int8 weights)" in str(dynamic_facts["operators"])
    assert weights_facts["kept in fp32 for XNNPACK"] == "none"
    assert "41 CONV_2D (fp32)" in str(weights_facts["operators"])
    static = fidelity(small, recipes["static"][0])
    for folder in (dynamic, weights):
        assert size(folder) <= SCALE * size(small)
        assert fidelity(small, folder) > static


def test_explain_names_what_xnnpack_does_not_take(small: Path, calls: list[Arrays], tmp_path: Path) -> None:
    """The quantizer's own recipe, which leaves hard-swish to LiteRT's kernels."""
    from mnv3_bench.backends import litert_int8

    exact = small / _litert.MODEL
    found = litert_int8._calibrate(_litert.open_interpreter(exact), exact, calls, average=False)
    whole = tmp_path / "whole.tflite"
    whole.write_bytes(litert_int8._quantized(exact, litert_int8._manager("static", set()), found))
    prepared("litert", whole, calls[0], tmp_path / "whole")
    explanation = get_backend("litert").explain(tmp_path / "whole", 1, calls[:2])
    assert explanation is not None
    (left,) = [reason for reason in explanation.reasons if reason.startswith("XNNPACK does not take")]
    assert "19 HARD_SWISH in int8" in left
    assert "ms a call" in left
    assert any("20 parts" in reason for reason in explanation.reasons)
    (hard_swish,) = [each for each in explanation.operators if each.name == "HARD_SWISH"]
    assert (hard_swish.count, hard_swish.precision) == (19, "int8")


def test_explain_gives_the_time_of_every_kernel(
    recipes: dict[str, tuple[Path, Facts]], calls: list[Arrays]
) -> None:
    explanation = get_backend("litert-int8").explain(recipes["static"][0], 1, calls[:2])
    assert explanation is not None
    assert explanation.by.startswith("LiteRT profiler")
    seconds = [each.seconds for each in explanation.operators]
    assert None not in seconds
    assert seconds == sorted(seconds, key=lambda each: -(each or 0))
    assert 0 < sum(each or 0 for each in seconds) < 1
    kernels = {each.name: each for each in explanation.operators}
    depthwise = next(each for name, each in kernels.items() if "DWConv" in name)
    assert (depthwise.count, depthwise.precision) == (11, "int8")
    text = " ".join(explanation.reasons)
    assert "XNNPACK does not take" not in text
    assert "HARD_SWISH stays fp32" in text
    assert "20 QUANTIZE and 20 DEQUANTIZE" in text


def test_explain_says_that_weight_only_computes_in_fp32(
    recipes: dict[str, tuple[Path, Facts]], calls: list[Arrays]
) -> None:
    explanation = get_backend("litert-int8").explain(recipes["weight-only"][0], 1, calls[:1])
    assert explanation is not None
    assert any("make fp32 weights of the file's int8 ones" in reason for reason in explanation.reasons)


def test_explain_counts_when_the_profiler_cannot_be_used(
    small: Path, calls: list[Arrays], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_litert_profiler, "UNTIL", (2, 0))
    images_nchw = [(np.ascontiguousarray(array.transpose(0, 3, 1, 2)),) for (array,) in calls[:1]]
    explanation = _litert_explain.explain(small, 1, images_nchw)
    assert "without times" in explanation.by
    assert all(each.seconds is None for each in explanation.operators)
    assert (explanation.operators[0].name, explanation.operators[0].count) == ("CONV_2D", 41)
    assert "is called as ai-edge-litert 2.3 has it" in explanation.reasons[0]


def test_a_file_says_what_it_holds_and_gives_its_reference(small: Path, calls: list[Arrays]) -> None:
    backend = get_backend("litert")
    signature = backend.inspect(small / _litert.MODEL)
    (taken,), (given,) = signature.inputs, signature.outputs
    assert (taken.name, taken.shape, taken.dtype) == ("args_0", (1, RESOLUTION, RESOLUTION, 3), "float32")
    assert (given.name, given.shape, given.dtype) == ("output_0", (1, 1000), "float32")
    assert signature.parameters is not None
    torch_counts = sum(each.numel() for each in build("v3-small", num_classes=1000).parameters())
    assert 0.99 < signature.parameters / torch_counts < 1
    (reference,) = backend.reference(small / _litert.MODEL, calls[:1])
    as_given = np.ascontiguousarray(calls[0][0].transpose(0, 3, 1, 2))
    assert snr_db(reference[0], run(small, as_given)[0]) > 80


class Two(nn.Module):
    """Inputs of different shapes, outputs of different types, in an order that a mix-up would show."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.linear = nn.Linear(5, 4)

    def forward(self, images: torch.Tensor, numbers: torch.Tensor) -> tuple[torch.Tensor, ...]:
        seen = self.convolution(images).mean((2, 3))
        return self.linear(numbers), seen, seen.argmax(1)


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_several_inputs_and_outputs_keep_their_order(layout: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Two().eval()
    inputs = (
        np.random.default_rng(0).normal(size=(2, 3, 8, 9)),
        np.random.default_rng(1).normal(size=(2, 5)),
    )
    call = tuple(array.astype(np.float32) for array in inputs)
    facts = prepared(f"litert:layout={layout}", model, call, tmp_path / "two")
    assert facts["input layout"] == layout.upper()
    with torch.inference_mode():
        expected = model(*map(torch.from_numpy, call))
    for found, wanted in zip(run(tmp_path / "two", *call), expected, strict=True):
        np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-4, atol=1e-5)
    first, second = get_backend("litert").inspect(tmp_path / "two" / _litert.MODEL).inputs
    assert first.shape == ((2, 8, 9, 3) if layout == "nhwc" else (2, 3, 8, 9))
    assert second.shape == (2, 5)
    explanation = get_backend("litert").explain(tmp_path / "two", 1, [call])
    assert explanation is not None
    hinted = any("layout=nhwc does without" in reason for reason in explanation.reasons)
    assert hinted == (layout == "nchw")
    assert any("1 ARG_MAX" in reason for reason in explanation.reasons)


def test_an_exported_program_is_taken(tmp_path: Path) -> None:
    call = (np.ones((1, 3, 8, 8), np.float32), np.ones((1, 5), np.float32))
    model = Two().eval()
    program = torch.export.export(model, tuple(map(torch.from_numpy, call))).module()
    prepared("litert", program, call, tmp_path / "program", format="pt2")
    with torch.inference_mode():
        expected = model(*map(torch.from_numpy, call))
    np.testing.assert_allclose(run(tmp_path / "program", *call)[0], expected[0].numpy(), rtol=1e-4, atol=1e-5)


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.embedding(tokens).mean(1)


def test_64_bit_integers_become_32_bit_ones_where_they_fit(tmp_path: Path) -> None:
    model = Tokens().eval()
    tokens = np.array([[1, 2, 9]])
    prepared("litert", model, (tokens,), tmp_path / "tokens")
    with torch.inference_mode():
        expected = model(torch.from_numpy(tokens)).numpy()
    np.testing.assert_allclose(run(tmp_path / "tokens", tokens)[0], expected, rtol=1e-5)
    session = loaded(tmp_path / "tokens")
    with pytest.raises(BackendError, match=r"as int32, into which 1099511627776 does not fit"):
        session.stage((np.array([[1, 2, 2**40]]),))


@pytest.fixture(scope="module")
def any_batch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that leaves its batch open."""
    batch = torch.export.Dim("batch", min=1, max=16)
    return convert(
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Hardswish()),
        (torch.zeros(2, 3, 8, 8),),
        tmp_path_factory.mktemp("open") / "open.tflite",
        dynamic_shapes=({0: batch},),
    )


def test_an_open_size_is_set_to_what_was_asked_for(any_batch: Path, tmp_path: Path) -> None:
    backend = get_backend("litert")
    signature = backend.inspect(any_batch)
    assert signature.inputs[0].shape == (None, 3, 8, 8)
    call = (np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32),)
    prepared("litert", any_batch, call, tmp_path / "three")
    assert (tmp_path / "three" / _litert.MODEL).read_bytes() == any_batch.read_bytes()
    (output,) = run(tmp_path / "three", *call)
    assert output.shape == (3, 4, 8, 8)
    np.testing.assert_allclose(output, backend.reference(any_batch, [call])[0][0], rtol=1e-4, atol=1e-5)
    explanation = backend.explain(tmp_path / "three", 1, [call])
    assert explanation is not None
    assert explanation.by.startswith("LiteRT profiler")
    with pytest.raises(BackendError, match=r"takes serving_default_args_0 as \?x3x8x8, not as 3x3x9x9"):
        prepared("litert", any_batch, (np.zeros((3, 3, 9, 9), np.float32),), tmp_path / "nine")


def test_a_file_without_a_signature_is_quantized_like_one_with(
    small: Path, calls: list[Arrays], tmp_path: Path
) -> None:
    """Older converters wrote none; MediaPipe's files have none."""
    from ai_edge_litert import schema_py_generated as schema

    file = small / _litert.MODEL
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(file.read_bytes()))
    model.signatureDefs = None
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    bare = tmp_path / "bare.tflite"
    bare.write_bytes(builder.Output())
    assert get_backend("litert").inspect(bare).facts["signatures"] == "none"
    prepared("litert-int8", bare, calls[0], tmp_path / "bare", calibration=calls)
    prepared("litert-int8", file, calls[0], tmp_path / "signed", calibration=calls)
    np.testing.assert_array_equal(run(tmp_path / "bare", *calls[0]), run(tmp_path / "signed", *calls[0]))


def test_calibration_takes_an_open_size(any_batch: Path, tmp_path: Path) -> None:
    calls = [(batch[None],) for batch in images(0, "calibration", 8, 4)]
    facts = prepared("litert-int8", any_batch, calls[0], tmp_path / "int8", calibration=calls)
    assert "1 CONV_2D (int8)" in str(facts["operators"])
    with pytest.raises(BackendError, match=r"holds int8 already \(.*int8.*measure it with litert"):
        prepared(
            "litert-int8",
            tmp_path / "int8" / _litert.MODEL,
            calls[0],
            tmp_path / "again",
            calibration=calls,
        )
    with pytest.raises(BackendError, match=r"needs calibration inputs; recipe=dynamic"):
        prepared("litert-int8", any_batch, calls[0], tmp_path / "without")


def with_custom_operator(file: Path, path: Path, name: bytes) -> Path:
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(file))
    for code in model.operatorCodes:
        if code.builtinCode == schema.BuiltinOperator.HARD_SWISH:
            code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
            code.customCode = name
    flatbuffer_utils.write_model(model, str(path))
    return path


def test_a_broken_file_is_refused_in_one_line(any_batch: Path, tmp_path: Path) -> None:
    content = any_batch.read_bytes()
    cut, foreign, empty = (tmp_path / name for name in ("cut.tflite", "foreign.tflite", "empty.tflite"))
    cut.write_bytes(content[: len(content) // 2])
    foreign.write_bytes(b"\x08\x00\x00\x00ONNX" + content[8:])
    empty.write_bytes(b"")
    custom = with_custom_operator(any_batch, tmp_path / "custom.tflite", b"OwnSwish")
    flex = with_custom_operator(any_batch, tmp_path / "flex.tflite", b"FlexSwish")
    backend = get_backend("litert")
    for file, expected in (
        (cut, "cut.tflite is cut short or damaged"),
        (foreign, "is no .tflite file: it lacks the mark TFL3"),
        (empty, "is no .tflite file"),
        (tmp_path / "missing.tflite", "cannot be read: No such file"),
        (custom, "custom.tflite needs the operator OwnSwish, which this LiteRT has no kernel for"),
        (flex, "flex.tflite needs TensorFlow's own operators"),
    ):
        with pytest.raises(BackendError, match=expected) as refusal:
            backend.inspect(file)
        assert "\n" not in str(refusal.value)


class Sort(nn.Module):
    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        return torch.sort(numbers, 1)[0]


def test_what_cannot_be_converted_or_run_is_refused_in_one_line(tmp_path: Path) -> None:
    numbers = np.zeros((1, 4), np.float32)
    with pytest.raises(BackendError, match=r"needs the operator STABLEHLO_SORT") as lacking:
        prepared("litert", Sort().eval(), (numbers,), tmp_path / "sort")
    double = nn.Linear(4, 3).double().eval()
    with pytest.raises(BackendError, match=r"the network cannot be converted to LiteRT: ") as refused:
        prepared("litert", double, (numbers.astype(np.float64),), tmp_path / "double")
    assert "\n" not in str(lacking.value) + str(refused.value)


def test_only_the_cpu_is_offered(small: Path) -> None:
    with pytest.raises(BackendError, match="LiteRT runs on the CPU here"):
        get_backend("litert").load(small, 1, "cuda")
