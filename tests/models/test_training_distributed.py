"""Two processes train as one with twice the images a step."""

from __future__ import annotations

import math
import socket
from typing import TYPE_CHECKING, Any

import pytest
import torch
import trainings
from torch import nn

from mnv3_models import build
from mnv3_models.training import JobError, setup, train
from mnv3_models.training.checkpoint import load
from mnv3_models.training.distributed import SyncBatchNorm2d, World, synchronise_norms

if TYPE_CHECKING:
    from pathlib import Path

TOLERANCE = 1e-10
"""Of all that changed in nine steps, relative to its length, in float64. In float32 rounding alone makes about 1 % of
the gradient of these networks' first steps: as much as between one and two threads of one process."""
PLAIN = {"optimizer": "sgd", "lr": 0.02, "dropout": 0.0, "epochs": 1, "warmup_epochs": 0.0}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def test_two_processes_are_one_with_the_double_batch(tmp_path: Path) -> None:
    """BatchNorm's statistics and their gradients included: over half of the images they would be others."""
    knobs: dict[str, Any] = {**PLAIN, "ema_decay": 0.5, "prepare_model": trainings.in_float64}
    together, alone = (trainings.job(tmp_path / name, **knobs) for name in ("two", "one"))
    context = trainings.children()
    port = free_port()
    processes = [
        context.Process(target=trainings.carry_out_together, args=(together, rank, 2, port))
        for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    train(alone)
    (two, parallel), (one, single) = load(together.directory), load(alone.directory)
    assert (two.processes, one.processes) == (2, 1)
    assert two.step == one.step == trainings.STEPS
    assert parallel.keys() == single.keys()
    torch.manual_seed(alone.seed)
    first = build(alone.variant, num_classes=10).double().state_dict()
    for prefix in ("model", "average.module"):
        difference, moved = 0.0, 0.0
        for name, start in first.items():
            key = f"{prefix}.{name}"
            difference += float((parallel[key] - single[key]).double().square().sum())
            moved += float((single[key] - start).double().square().sum())
        assert math.sqrt(difference / moved) <= TOLERANCE
    assert two.history[0].loss == pytest.approx(one.history[0].loss, rel=TOLERANCE)
    assert two.history[0].held_out_loss == pytest.approx(one.history[0].held_out_loss, rel=1e-5), (
        "float32 logits"
    )
    assert two.history[0].top1 == pytest.approx(one.history[0].top1)


def test_a_batch_that_two_processes_cannot_share(tmp_path: Path) -> None:
    job = trainings.job(tmp_path, batch_size=9)
    with pytest.raises(JobError, match=r"--batch-size 9 has no 2 equal parts for 2 processes.*such as 10"):
        setup.open_job(job, World(0, 2))
    with pytest.raises(JobError, match="--qat trains in one process"):
        setup.open_job(trainings.job(tmp_path, qat=True), World(0, 2))


def test_alone_nothing_is_changed() -> None:
    norms = nn.Sequential(nn.BatchNorm2d(3))
    assert type(synchronise_norms(norms, World())[0]) is nn.BatchNorm2d  # type: ignore[index]
    assert World().total(1.0, 2.0) == [1.0, 2.0]


def test_synchronised_norms_keep_names_and_identity() -> None:
    norms = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    before = norms[1]
    synchronise_norms(norms, World(0, 2))
    assert norms[1] is before
    assert isinstance(before, SyncBatchNorm2d)
    assert set(norms.state_dict()) >= {"1.weight", "1.running_var"}
    images = torch.randn(2, 3, 5, 5)
    assert torch.equal(norms.eval()(images), nn.BatchNorm2d(4).eval()(norms[0](images))), (
        "nothing to share in eval mode"
    )
