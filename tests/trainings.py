"""Small trainings for tests, and what child processes do with them: importable by name, as those need."""

from __future__ import annotations

import os
from dataclasses import replace
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import numpy as np

from mnv3_models.training import Began, Job, get_recipe, override, train
from mnv3_models.training.job import CHECKPOINT_FILE

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext
    from multiprocessing.synchronize import Event
    from pathlib import Path

    import torch
    from torch import nn

    from mnv3_models.training import Progress

SMALLEST: dict[str, Any] = {"resolution": 32, "epochs": 2, "batch_size": 32, "warmup_epochs": 0.5}
IMAGES = 400
STEPS = 9
"""Of an epoch: three quarters of the images, 32 a step."""


def job(directory: Path, **changed: Any) -> Job:
    """A training of less than a second: some digits, a narrow network; knobs and fields of the job may change."""
    fields = {name: changed.pop(name) for name in list(changed) if name in Job.__dataclass_fields__}
    recipe = override(get_recipe("quick"), **{**SMALLEST, **changed})
    plain = Job(
        variant="v3-small@0.25",
        data=some_digits(directory.parent),
        recipe=recipe,
        directory=directory,
        threads=1,
        tensorboard=False,
    )
    return replace(plain, **fields)


def some_digits(folder: Path) -> str:
    """The first of scikit-learn's digits, as --data takes them."""
    from sklearn.datasets import load_digits

    file = folder / "digits.npz"
    if not file.exists():
        digits = load_digits()
        np.savez(file, images=(digits.images[:IMAGES] * 15).astype(np.uint8), labels=digits.target[:IMAGES])
    return f"npz:{file}"


def in_float64(network: nn.Module) -> nn.Module:
    """For `Job.prepare_model`: the same network with enough digits that rounding does not matter."""
    network.double().register_forward_pre_hook(_as_float64)
    return network


def _as_float64(_: nn.Module, images: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    return (images[0].double(),)


def children() -> ForkServerContext:
    """Processes that start at once, from one that has imported torch and not yet used it."""
    context = get_context("forkserver")
    # Optimizers import dynamo.
    modules = ["mnv3_models.training.engine", "torch._dynamo", "sklearn.datasets", "PIL.Image"]
    context.set_forkserver_preload(modules)
    return context


def carry_out(each: Job, began: Event) -> None:
    """Train in a child process; the event is set when the steps begin."""

    def report(progress: Progress) -> None:
        if isinstance(progress, Began):
            began.set()

    train(each, report)


def carry_out_together(each: Job, rank: int, size: int, port: int) -> None:
    """Train as one of several processes."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    train(each)


def tensors(path: Path) -> dict[str, Any]:
    """All tensors of a safetensors file."""
    from safetensors.torch import load_file

    return load_file(path)


def same(one: Path, other: Path) -> bool:
    """Whether two files hold the same tensors to the bit."""
    import torch

    first, second = tensors(one), tensors(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def resumed(each: Job) -> Job:
    """The same, going on from where it stopped; from the start where it was killed before it saved anything."""
    return replace(each, resume=(each.directory / CHECKPOINT_FILE).exists())
