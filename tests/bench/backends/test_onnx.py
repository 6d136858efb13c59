"""The exported graph."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import onnx
import pytest

from mnv3_bench.backends import _onnx
from mnv3_bench.backends.base import Preparation
from mnv3_bench.inputs import images
from mnv3_models import build
from mnv3_reports.record import TensorSpec

if TYPE_CHECKING:
    from pathlib import Path


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
