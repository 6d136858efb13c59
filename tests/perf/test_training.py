"""What the training loop adds to a plain one, and whether images come fast enough."""

from __future__ import annotations

import math
import statistics
import time
from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn import functional as F

from mnv3_models import build
from mnv3_models.data import Tally, loader, open_data
from mnv3_models.training import Began, EpochDone, Job, Progress, get_recipe, override, train
from mnv3_models.training.augment import Augmentation
from mnv3_models.training.order import Order
from mnv3_reports.statistics import log_interval

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

    from mnv3_models.training import Recipe

EPOCHS = 10


class PlainLoop:
    """The fewest lines that train the same network on the same batches with the same optimizer."""

    def __init__(self, variant: str, recipe: Recipe) -> None:
        part = open_data("digits").part("train")
        torch.manual_seed(0)
        self.model = build(variant, num_classes=10, dropout=recipe.dropout, bn_momentum=recipe.bn_momentum)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay
        )
        self.order = Order(len(part), recipe.batch_size)
        transform = Augmentation(recipe, recipe.preprocessing())
        self.batches = loader(part, transform, batch=1, workers=0, tally=Tally(), order=self.order)
        self.smoothing = recipe.label_smoothing

    def steps(self) -> Iterator[None]:
        """One epoch, a step each time."""
        self.model.train()
        for batch in self.batches:
            images = batch.images.to(memory_format=torch.channels_last)
            loss = F.cross_entropy(self.model(images), batch.labels, label_smoothing=self.smoothing)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            yield


class InTurn:
    """Asked by the training at each step whether to stop: makes a step of the plain loop, and times both."""

    def __init__(self, plain: PlainLoop) -> None:
        self.epochs: list[list[float]] = []
        """Logarithms of plain over ours, a number for each step but an epoch's first."""
        self._plain = plain
        self._steps: Iterator[None] = iter(())
        self._since = 0.0

    def __call__(self) -> bool:
        ours = time.perf_counter() - self._since
        start = time.perf_counter()
        made = next(self._steps, "none") is None
        if made:
            self.epochs[-1].append(math.log((time.perf_counter() - start) / ours))
        self._since = time.perf_counter()
        return False

    def begin_epoch(self) -> None:
        """What comes next also waits for the first batch."""
        self._steps = self._plain.steps()
        next(self._steps)
        self.epochs.append([])


@pytest.mark.parametrize("variant", ["v3-small", "v3-large"])
def test_the_loop_against_a_plain_one(benchmark: BenchmarkFixture, variant: str, tmp_path: Path) -> None:
    """Images a second, a step each in turn, in one process. Evaluating and saving, once an epoch, are no part of it."""
    recipe = override(get_recipe("quick"), epochs=EPOCHS)
    turns = InTurn(PlainLoop(variant, recipe))

    def report(progress: Progress) -> None:
        if isinstance(progress, Began | EpochDone):
            turns.begin_epoch()

    job = Job(variant=variant, data="digits", recipe=recipe, directory=tmp_path, tensorboard=False)
    benchmark.pedantic(lambda: train(job, report, turns), rounds=1)
    medians = [math.exp(statistics.median(steps)) for steps in turns.epochs[1:-1]]
    ratio = log_interval(medians)
    benchmark.extra_info |= {"ratio": ratio.estimate, "low": ratio.low, "high": ratio.high}
    print(
        f"\n{variant}: images/s of the loop / of a plain one = {ratio.estimate:.4f} "
        f"[{ratio.low:.4f}, {ratio.high:.4f}] over {len(medians)} epochs of {len(turns.epochs[1])} steps"
    )
    assert ratio.estimate >= 0.97


@pytest.mark.parametrize("variant", ["v3-small", "v3-large"])
def test_images_come_faster_than_they_are_trained(benchmark: BenchmarkFixture, variant: str) -> None:
    """A pass of the loader alone against one that trains, in turn; both read in the training's process."""
    recipe = get_recipe("quick")
    plain = PlainLoop(variant, recipe)
    ratios: list[float] = []

    def both() -> None:
        start = time.monotonic()
        for _ in plain.batches:
            pass
        loading = time.monotonic() - start
        start = time.monotonic()
        for _ in plain.steps():
            pass
        ratios.append((time.monotonic() - start) / loading)

    benchmark.pedantic(both, rounds=6, warmup_rounds=1)
    ratio = log_interval(ratios[1:])
    print(
        f"\n{variant}: images/s of the loader alone / of training = {ratio.estimate:.1f} "
        f"[{ratio.low:.1f}, {ratio.high:.1f}]"
    )
    benchmark.extra_info |= {"ratio": ratio.estimate}
    assert ratio.low > 2
