"""What a state dict does not hold survives preparing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from mnv3_bench.backends import get_backend
from mnv3_bench.backends.base import Preparation
from mnv3_bench.inputs import images
from mnv3_bench.prepare_worker import about_weights, carry_out, load_prepared
from mnv3_bench.protocol import Weights
from mnv3_models import build
from mnv3_reports.record import TensorSpec

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("backend", ["eager", "eager-channels-last", "torchscript"])
def test_the_epsilon_of_a_checkpoint_reaches_the_measured_network(tmp_path: Path, backend: str) -> None:
    """timm's plain V3 weights were trained with epsilon 1e-5, torchvision's with 1e-3."""
    state = build("small@0.35", num_classes=10).state_dict()
    # Small variances make the epsilon matter.
    state = {name: t * 1e-3 if name.endswith("running_var") else t for name, t in state.items()}
    torch.save(state, tmp_path / "weights.pth")
    prepared, artifact = tmp_path / "prepared", tmp_path / "artifact"
    prepared.mkdir()
    artifact.mkdir()
    carry_out(Weights("v3-small@0.35", 10, 0, str(tmp_path / "weights.pth"), "", str(prepared)))
    weights = prepared / "model.safetensors"
    assert about_weights(weights).bn_eps == 1e-3
    (prepared / "weights.json").write_text('{"bn_eps": 1e-05}')
    model = load_prepared("v3-small@0.35", 10, str(weights))
    example = images(0, "fidelity", 64, 1)
    with torch.inference_mode():
        wanted = model(torch.from_numpy(example)).numpy()
        other = build("small@0.35", num_classes=10)
        other.load_state_dict(model.state_dict())
        wrong = other.eval()(torch.from_numpy(example)).numpy()
    assert not np.allclose(wanted, wrong, rtol=1e-2), (
        "the epsilon makes no difference, so the test shows nothing"
    )
    chosen = get_backend(backend)
    chosen.prepare(
        Preparation(
            variant="v3-small@0.35",
            num_classes=10,
            network=model,
            inputs=(TensorSpec("images", example.shape),),
            example=(example,),
            calibration=[(example,)],
            threads=1,
            device="cpu",
            directory=artifact,
        )
    )
    session = chosen.load(artifact, 1, "cpu")
    (found,) = session.fetch(session.run(session.stage((example,))))
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)
    session.close()
