from __future__ import annotations

import pytest
from reports import factory

from mnv3_reports.cell_words import CellNames, backend_name, describe, inputs_of, switched
from mnv3_reports.record import Cell, Model, TensorSpec


def test_a_backends_name_comes_apart() -> None:
    assert backend_name("onnxruntime") == ("onnxruntime", {})
    assert backend_name("a:b=c:d=e=f:g") == ("a", {"b": "c", "d": "e=f", "g": ""})


@pytest.mark.parametrize(
    ("name", "default", "words"),
    [
        ("a:x=1:y=2", "a", "x=1, y=2"),
        ("a:x=1:y=2", "a:x=1", "y=2"),
        ("a", "a:x=1", "x as by default"),
        ("a:x=2", "a:x=1", "x=2"),
        ("a", "a", "nothing"),
    ],
)
def test_what_was_switched_is_what_differs(name: str, default: str, words: str) -> None:
    assert switched(name, default) == words


def test_a_setting_in_words() -> None:
    model = Model("onnx", "m.onnx", (*factory.TOKENS, TensorSpec("scale", (), "float32")))
    assert inputs_of(model) == "tokens 1x128 int64, mask 1x128 bool, scale scalar float32"
    assert describe(Cell("v1", "eager", "cuda:0", 2, 8, 192)) == "cuda:0, 2 threads, batch 8, 192 × 192"
    own = Cell("m.onnx", "onnxruntime", resolution=0)
    assert describe(own) == "1 thread, inputs of its own"
    assert describe(own, model).startswith("1 thread, tokens 1x128 int64, ")


def test_only_what_tells_cells_apart_is_said() -> None:
    cells = [Cell(variant, "a", threads=threads) for variant in ("x", "y", "z") for threads in (1, 2)]
    names = CellNames(cells, {})
    assert names.one(cells[1]) == "x (2 threads)"
    assert names.many(cells, cells) == "x, y, z"
    assert names.many(cells[1:], cells) == "x with 2 threads; y, z"
    assert names.many(cells[::2], cells) == "x, y, z with 1 thread"
    assert names.many(cells[::2], cells[::2]) == "x, y, z"
    assert CellNames(cells[::2], {}).one(cells[0]) == "x"


def test_several_missing_settings_are_all_named() -> None:
    cells = [Cell("x", "a", batch=batch) for batch in (1, 2, 4)]
    assert CellNames(cells, {}).many(cells[:2], cells) == "x with batch 1 and batch 2"
