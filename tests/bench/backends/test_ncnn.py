"""ncnn: several inputs and outputs, sizes that fill no register, batches, and networks that it cannot take."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from mnv3_bench.backends import get_backend, missing
from mnv3_bench.backends.base import BackendError, Format, Preparation
from mnv3_reports.record import TensorSpec

if TYPE_CHECKING:
    from pathlib import Path

    from mnv3_bench.backends.base import Arrays

LACKING = missing(get_backend("ncnn").info)
pytestmark = pytest.mark.skipif(LACKING is not None, reason=str(LACKING))

RNG = np.random.default_rng(0)


class TwoInTwoOut(nn.Module):
    """A map beside a vector, so that outputs differ in their number of sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Hardswish())
        self.head = nn.Linear(5, 6)

    def forward(self, pictures: torch.Tensor, vector: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.features(pictures)
        return features, self.head(features.mean((2, 3)) + vector)


class Sorting(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sort(dim=1).values


class ValueDependent(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(-1, len(x) + 2)


def preparation(
    network: nn.Module, directory: Path, example: Arrays, model_format: Format = "module"
) -> Preparation:
    return Preparation(
        variant="own",
        num_classes=6,
        network=network,
        inputs=tuple(
            TensorSpec(name, array.shape, str(array.dtype))
            for name, array in zip(("pictures", "vector"), example, strict=False)
        ),
        example=example,
        calibration=[example],
        threads=1,
        device="cpu",
        directory=directory,
        format=model_format,
    )


@pytest.mark.parametrize("model_format", ["module", "torchscript"])
@pytest.mark.parametrize(("batch", "pixels"), [(1, 7), (2, 13)])
def test_several_inputs_and_outputs(tmp_path: Path, batch: int, pixels: int, model_format: Format) -> None:
    network = TwoInTwoOut().eval()
    example = (
        RNG.random((batch, 3, pixels, pixels), dtype=np.float32),
        RNG.random((batch, 5), dtype=np.float32),
    )
    given = network if model_format == "module" else torch.jit.script(network)
    get_backend("ncnn").prepare(preparation(given, tmp_path, example, model_format))
    with closing(get_backend("ncnn").load(tmp_path, 1, "cpu")) as session, torch.inference_mode():
        found = session.fetch(session.run(session.stage(example)))
        expected = network(*map(torch.from_numpy, example))
    assert [each.shape for each in found] == [tuple(each.shape) for each in expected]
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs.numpy(), rtol=1e-4, atol=1e-5)


def test_only_what_is_loaded_is_kept(tmp_path: Path) -> None:
    example = (RNG.random((1, 3, 8, 8), dtype=np.float32), RNG.random((1, 5), dtype=np.float32))
    facts = get_backend("ncnn").prepare(preparation(TwoInTwoOut().eval(), tmp_path, example))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifact.json", "model.bin", "model.param"]
    assert str(tmp_path) not in (tmp_path / "model.param").read_text()
    assert facts["layers"] > 3


@pytest.mark.parametrize(
    ("network", "example", "reason"),
    [
        (nn.Identity(), (np.zeros((1, 4)),), "ncnn takes float32 inputs"),
        (nn.Identity(), (np.zeros((1, 4), dtype=np.int64),), "ncnn takes float32 inputs"),
        (nn.Identity(), (np.zeros(4, dtype=np.float32),), "ncnn takes float32 inputs"),
        (Sorting(), (np.zeros((1, 4), dtype=np.float32),), "ncnn has no layer"),
        (ValueDependent(), (np.zeros((1, 4), dtype=np.float32),), "the network cannot be traced"),
    ],
)
def test_what_it_cannot_take_is_one_line(
    tmp_path: Path, network: nn.Module, example: Arrays, reason: str
) -> None:
    with pytest.raises(BackendError, match=reason) as caught:
        get_backend("ncnn").prepare(preparation(network, tmp_path, example))
    assert "\n" not in str(caught.value)


def test_an_artifact_cut_short(tmp_path: Path) -> None:
    example = (RNG.random((1, 3, 8, 8), dtype=np.float32), RNG.random((1, 5), dtype=np.float32))
    get_backend("ncnn").prepare(preparation(TwoInTwoOut().eval(), tmp_path, example))
    weights = tmp_path / "model.bin"
    weights.write_bytes(weights.read_bytes()[:20])
    with pytest.raises(BackendError, match="cannot read the artifact; prepare it again"):
        get_backend("ncnn").load(tmp_path, 1, "cpu")
