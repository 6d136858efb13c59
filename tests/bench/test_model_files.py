"""Model files and `--input`: what is typed is held against what is there, in one line each."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from made_models import with_fp16_weights
from onnx import TensorProto, helper, numpy_helper

from mnv3_bench.backends.base import OpenSpec, Signature
from mnv3_bench.errors import UsageError
from mnv3_bench.inputs import Pool, samples
from mnv3_bench.model_files import companions, format_of, signature
from mnv3_bench.plan import Asked, make_plan
from mnv3_bench.plan_models import (
    Typed,
    batch_and_resolution,
    is_function,
    label,
    models,
    read_inputs,
    settled,
)
from mnv3_bench.prepare_worker import save_arrays
from mnv3_reports.record import TensorSpec

IMAGES = OpenSpec("images", (None, 3, 224, 224), "float32")


def archive(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, "x")
    return path


class TestFormat:
    @pytest.mark.parametrize(
        ("name", "content", "expected"),
        [
            ("a.tflite", b"\x20\0\0\0TFL3rest", "tflite"),
            ("a.pte", b"\x20\0\0\0ET12rest", "pte"),
            ("a.onnx", b"\x08\x08\x12\x07pytorch", "onnx"),
            ("a.xml", b'<?xml version="1.0"?>\n<net name="x" version="11">', "openvino"),
        ],
    )
    def test_it_is_told_by_suffix_and_first_bytes(
        self, tmp_path: Path, name: str, content: bytes, expected: str
    ) -> None:
        (tmp_path / name).write_bytes(content)
        assert format_of(tmp_path / name) == expected

    def test_archives_are_told_by_what_they_hold(self, tmp_path: Path) -> None:
        assert (
            format_of(archive(tmp_path / "a.pt", "net/code/__torch__.py", "net/constants.pkl"))
            == "torchscript"
        )
        assert format_of(archive(tmp_path / "a.pt2", "net/archive_format", "net/models/model.json")) == "pt2"

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.onnx", b"", "a.onnx is no .onnx file: it is empty"),
            ("a.onnx", b"\x20\0\0\0TFL3rest", "it looks like a .tflite file; rename it"),
            (
                "a.tflite",
                b"\x08\x08\x12\x07pytorch",
                "a.tflite is no .tflite file: its first bytes are not those",
            ),
            ("a.pte", b"\x20\0\0\0TFL3rest", "it looks like a .tflite file"),
            (
                "a.tflite",
                b"version https://git-lfs.github.com/spec/v1\noid",
                "it is a Git LFS pointer; type 'git lfs pull'",
            ),
            ("a.onnx", b"<!DOCTYPE html><html>", "it is a web page; download the file itself"),
            ("a.xml", b"<html><body>", "it is a web page"),
            ("a.xml", b'<?xml version="1.0"?><feed/>', "its first bytes are not those of such a file"),
            ("a.pt", b"PK\x03\x04 cut short", None),
            ("a.pt", b"\x80\x02}q\x00.", "its first bytes are not those of such a file"),
            (
                "a.h5",
                b"\x89HDF",
                r"a.h5 has the suffix '.h5'; expected .onnx, .tflite, .pt2, .pt, .pte, .xml, or module:function",
            ),
        ],
    )
    def test_what_is_not_what_its_suffix_says(
        self, tmp_path: Path, name: str, content: bytes, message: str | None
    ) -> None:
        (tmp_path / name).write_bytes(content)
        if message is None:  # its own runtime says what is wrong
            assert format_of(tmp_path / name) == "torchscript"
            return
        with pytest.raises(UsageError, match=message) as caught:
            format_of(tmp_path / name)
        assert "\n" not in str(caught.value)

    def test_weights_are_no_network(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="it holds weights and no network; type --weights for it"):
            format_of(archive(tmp_path / "a.pt", "net/data.pkl", "net/data/0"))

    def test_what_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"there is no file .*gone\.onnx"):
            format_of(tmp_path / "gone.onnx")
        with pytest.raises(UsageError, match="is a folder; type the model file in it"):
            format_of(tmp_path)


class TestInputs:
    def test_what_can_be_typed(self) -> None:
        assert read_inputs("1x3x224x224") == [Typed("", (1, 3, 224, 224), "")]
        assert read_inputs("tokens=1x128:int64, mask=1x128:int64") == [
            Typed("tokens", (1, 128), "int64"),
            Typed("mask", (1, 128), "int64"),
        ]
        assert read_inputs("7:uint8") == [Typed("", (7,), "uint8")]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("224", None),
            ("", "--input names nothing; type for example --input 1x3x224x224"),
            ("1,3,224,224x", "--input 224x is no input"),
            ("axb", "--input axb is no input"),
            ("1x-3x224", "is no input"),
            ("1x0x2", "has a size of 0"),
            ("1x3:quaternion", "'quaternion' is no type of a tensor; expected float32"),
        ],
    )
    def test_what_cannot(self, text: str, message: str | None) -> None:
        if message is None:
            assert read_inputs(text) == [Typed("", (224,), "")]
            return
        with pytest.raises(UsageError, match=message):
            read_inputs(text)

    def test_sizes_come_from_the_file_where_it_has_them(self) -> None:
        stated = Signature((OpenSpec("x", (1, 3, 32, 32), "float32"),), ())
        assert settled("a.onnx", stated, []) == [TensorSpec("x", (1, 3, 32, 32))]

    def test_an_open_size_has_to_be_typed(self) -> None:
        stated = Signature((IMAGES,), ())
        with pytest.raises(
            UsageError,
            match=r"a.onnx leaves sizes open \(images \?x3x224x224 float32\); .*--input images=1x3x224x224",
        ):
            settled("a.onnx", stated, [])
        assert settled("a.onnx", stated, read_inputs("8x3x224x224")) == [
            TensorSpec("images", (8, 3, 224, 224))
        ]

    @pytest.mark.parametrize(
        ("typed", "message"),
        [
            ("1x3x225x224", "--input 1x3x225x224 does not fit a.onnx, which takes images"),
            ("1x3", "does not fit"),
            ("pixels=1x3x224x224", "a.onnx has no input 'pixels'; it takes images"),
            ("images=1x3x224x224:float64", "images of a.onnx is float32, not float64"),
            ("1x3x224x224,1x2", "--input gives 2 inputs, a.onnx takes 1"),
        ],
    )
    def test_what_contradicts_the_file(self, typed: str, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            settled("a.onnx", Signature((IMAGES,), ()), read_inputs(typed))

    def test_a_type_nobody_can_make(self) -> None:
        stated = Signature((OpenSpec("text", (1,), "string"),), ())
        with pytest.raises(UsageError, match=r"text of a\.onnx is string; inputs can be made of float32"):
            settled("a.onnx", stated, [])

    def test_a_file_that_says_nothing_takes_what_is_typed(self) -> None:
        with pytest.raises(UsageError, match=r"a\.pt does not say what it takes"):
            settled("a.pt", Signature((), ()), [])
        assert settled("a.pt", Signature((), ()), read_inputs("1x3x8x8,2:int64")) == [
            TensorSpec("input0", (1, 3, 8, 8)),
            TensorSpec("input1", (2,), "int64"),
        ]

    def test_cells_of_images_and_of_what_is_none(self) -> None:
        assert batch_and_resolution([TensorSpec("x", (8, 3, 32, 32))]) == (8, 32)
        assert batch_and_resolution([TensorSpec("x", (2, 96, 64, 3))]) == (2, 96)
        assert batch_and_resolution([TensorSpec("x", (4, 128), "int64")]) == (4, 0)
        assert batch_and_resolution([TensorSpec("x", (), "int64")]) == (1, 0)


def tiny_onnx(path: Path, shape: list[int | str], dtype: int = TensorProto.FLOAT, op: str = "Relu") -> Path:
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", dtype, shape)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), str(path))
    return path


class TestModels:
    def test_names(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert is_function("mynet:tiny")
        assert not is_function("C:/net.onnx")
        assert not is_function("net.onnx")
        assert label(Path("some folder/my net (1).onnx")) == "my_net__1_.onnx"

    def test_two_files_of_one_name(self, tmp_path: Path) -> None:
        for folder in ("a", "b"):
            (tmp_path / folder).mkdir()
            tiny_onnx(tmp_path / folder / "net.onnx", [1, 4])
        with pytest.raises(UsageError, match=r"two networks are called net\.onnx; rename one"):
            models([str(tmp_path / folder / "net.onnx") for folder in ("a", "b")], [])

    def test_a_tensor_of_two_gigabytes(self, tmp_path: Path) -> None:
        path = tiny_onnx(tmp_path / "net.onnx", ["n", 4])
        with pytest.raises(UsageError, match=r"x 134217728x4 float32 takes 2\.1 GB; .* type a smaller shape"):
            models([str(path)], ["134217728x4"])

    def test_data_outside_the_folder_of_an_onnx_file_is_refused(self, tmp_path: Path) -> None:
        folder = tmp_path / "model"
        folder.mkdir()
        weights = numpy_helper.from_array(np.ones((4,), np.float32), "w")
        graph = helper.make_graph(
            [helper.make_node("Add", ["x", "w"], ["y"])],
            "external",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
            [weights],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
        path = folder / "net.onnx"
        onnx.save(model, str(path), save_as_external_data=True, location="net.data", size_threshold=0)
        assert [part.name for part in companions(path)] == ["net.data"]
        (folder / "net.data").rename(tmp_path / "net.data")
        with pytest.raises(UsageError, match=r"reads net\.data, which is not beside it"):
            signature(path, "onnx")
        moved = onnx.load(str(path), load_external_data=False)
        moved.graph.initializer[0].external_data[0].value = "../net.data"
        path.write_bytes(moved.SerializeToString())
        with pytest.raises(UsageError, match=r"reads '\.\./net\.data', outside its own folder"):
            companions(path)


class TestWhatIsReducedAlready:
    """A file below fp32 is measured as it is, and by nothing that would reduce it once more."""

    @pytest.fixture
    def halves(self, tmp_path: Path) -> Path:
        """A convolution whose weights are stored in fp16."""
        return with_fp16_weights(tmp_path / "halves.onnx", 8)

    def test_such_cells_are_left_out_with_a_note(self, halves: Path) -> None:
        plan = make_plan(Asked(models=str(halves), backends="onnxruntime,onnxruntime-int8,openvino-int8"))
        assert plan.request.models["halves.onnx"].holds == ("fp16",)
        assert {cell.backend for cell in plan.cells} <= {"onnxruntime", "openvino-int8"}
        assert "onnxruntime" in {cell.backend for cell in plan.cells}
        (note,) = [note for note in plan.notes if "already" in note]
        assert note == ("halves.onnx holds fp16 already; what makes it of fp32 is left out: onnxruntime-int8")

    def test_nothing_left_is_one_line(self, halves: Path) -> None:
        with pytest.raises(UsageError, match=r"none of them can measure halves.onnx; these can: onnxruntime"):
            make_plan(Asked(models=str(halves), backends="onnxruntime-int8"))


def test_a_scalar_input_is_an_array_in_every_call(tmp_path: Path) -> None:
    """A sampling rate beside a waveform: ONNX Runtime takes no number, only an array of no dimension."""
    specs = (TensorSpec("wave", (1, 16)), TensorSpec("gain", ()), TensorSpec("rate", (), "int64"))
    save_arrays(tmp_path / "inputs.npz", samples(0, "measure", specs, 3))
    calls = [*Pool(tmp_path / "inputs.npz", 1).calls()]
    assert len(calls) == 3
    for inputs in calls:
        assert [(each.shape, str(each.dtype)) for each in inputs] == [
            (spec.shape, spec.dtype) for spec in specs
        ]
        assert all(isinstance(each, np.ndarray) for each in inputs)


def test_every_open_input_is_in_the_example() -> None:
    stated = Signature(
        (
            OpenSpec("wave", (None, None), "float32"),
            OpenSpec("state", (2, None, 128), "float32"),
            OpenSpec("rate", (), "int64"),
        ),
        (),
    )
    with pytest.raises(UsageError, match=r"rate scalar int64\).*--input wave=1x1,state=2x1x128$"):
        settled("vad.onnx", stated, [])
