"""Which images each step takes: a function of the seed and the epoch, so that nothing of it has to be saved."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

Key = tuple[int, int, int]
"""Seed, epoch and index of an image: all that its augmentation depends on."""

PERMUTATION, SAMPLE, MIX, STEP = range(4)
"""What randomness is for: draws for one purpose say nothing of those for another."""


def generator(purpose: int, *seed: int) -> np.random.Generator:
    """Random numbers for one purpose, the same ones for the same seed on every machine."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((purpose, *seed))))


class Order:
    """Batches of keys for one process, as `mnv3_models.data.loader` reads them; another permutation every epoch.

    The images of a step are consecutive ones of the permutation. Its parts go around the processes: part 0 of each
    process, then part 1. What is left over at an epoch's end, less than a step, is left out; with fewer images than
    a step takes, a step takes them all.

    Args:
        count: images there are.
        batch: images of a step, of all processes and parts.
        accumulate: parts of a step that a process computes one after the other.
        rank: number of this process.
        world: number of processes.
        seed: of the run.

    Raises:
        ValueError: there are fewer images than parts.
    """

    def __init__(
        self, count: int, batch: int, *, accumulate: int = 1, rank: int = 0, world: int = 1, seed: int = 0
    ) -> None:
        parts = accumulate * world
        self.part = min(count, batch) // parts
        """Images that a process computes at once."""
        if not self.part:
            raise ValueError(
                f"{min(count, batch)} images cannot be spread over {parts} parts of a step; expected fewer "
                "processes or a smaller --accumulate"
            )
        self.steps = count // (self.part * parts)
        """Of an epoch."""
        self.epoch = 0
        """The one that the next pass is."""
        self.skipped = 0
        """Steps of it that are done already."""
        self._count = count
        self._accumulate = accumulate
        self._rank = rank
        self._world = world
        self._seed = seed

    @property
    def batch(self) -> int:
        """Images of a step."""
        return self.part * self._accumulate * self._world

    def __iter__(self) -> Iterator[list[Key]]:
        epoch = self.epoch
        shuffled = generator(PERMUTATION, self._seed, epoch).permutation(self._count)
        for step in range(self.skipped, self.steps):
            for accumulated in range(self._accumulate):
                start = step * self.batch + (accumulated * self._world + self._rank) * self.part
                yield [(self._seed, epoch, int(index)) for index in shuffled[start : start + self.part]]

    def __len__(self) -> int:
        return (self.steps - self.skipped) * self._accumulate
