"""Series of nights: recorded noise drawn in blocks, made noise, and steps put into either."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mnv3_reports.changepoints import change_points

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

WORKLOADS = ("numpy", "onnxruntime", "eager", "eager-glibc")
"""Columns of nights.csv, which tests/perf/record_nights.py recorded; the last has two levels by chance."""
CALMER = 110
"""Nights until the other jobs on the recording machine became many."""
NEAR = 7
"""Nights that a change may be placed wrong by and still count as found."""


class Series(NamedTuple):
    """Seconds a night and, if they are known, their half widths relative to them."""

    values: Array
    half_widths: Array | None = None

    def stepped(self, place: int, step: float) -> Series:
        """With every night from this place on slower by this share."""
        values = self.values.copy()
        values[place:] *= 1 + step
        return self._replace(values=values)


FIRST, INDEPENDENT = "nights.csv", "nights-independent.csv"
"""Recordings: the method was chosen on the first, the other was made after it."""


@cache
def recorded(recording: str = FIRST) -> dict[str, Series]:
    """Each workload's nights, in order."""
    lines = (Path(__file__).parent / recording).read_text().splitlines()
    table = [line for line in lines if not line.startswith("#")]
    names = table[0].split(",")
    columns = dict(zip(names, np.array([line.split(",") for line in table[1:]], dtype=float).T, strict=True))
    return {name: Series(columns[name], columns[f"{name}_half"]) for name in WORKLOADS}


def recorded_noise(
    workload: str, block: int = 10, *, first: int | None = None, recording: str = FIRST
) -> Callable[[np.random.Generator, int], Series]:
    """Blocks of so many recorded nights from random places, one after the other; of all or of the first ones."""
    nights = recorded(recording)[workload]
    assert nights.half_widths is not None
    values, half_widths = nights.values[:first], nights.half_widths[:first]

    def made(random: np.random.Generator, size: int) -> Series:
        starts = random.integers(0, len(values) - block + 1, -(-size // block))
        places = (starts[:, np.newaxis] + np.arange(block)).ravel()[:size]
        return Series(values[places], half_widths[places])

    return made


def normal_noise(deviation: float, memory: float = 0.0) -> Callable[[np.random.Generator, int], Series]:
    """Normal noise with first-order autocorrelation."""

    def made(random: np.random.Generator, size: int) -> Series:
        noise = random.standard_normal(size + 100)
        for point in range(1, len(noise) if memory else 0):
            noise[point] += memory * noise[point - 1]
        return Series(0.01 * np.exp(deviation * np.sqrt(1 - memory**2) * noise[100:]))

    return made


def heavy_noise(scale: float) -> Callable[[np.random.Generator, int], Series]:
    """Student's t with 2 degrees of freedom, whose variance is infinite."""
    return lambda random, size: Series(0.01 * np.exp(scale * np.clip(random.standard_t(2, size), -50, 50)))


def found(series: Series) -> list[int]:
    """Places of the changes that `change_points` finds."""
    half_widths = None if series.half_widths is None else series.half_widths.tolist()
    return [change.index for change in change_points(series.values.tolist(), half_widths=half_widths)]


class Score(NamedTuple):
    """Of many series: true changes, those found, and what was reported besides."""

    true: int
    hits: int
    false: int

    @property
    def recall(self) -> float:
        """Share of the true changes that were found."""
        return self.hits / self.true

    @property
    def precision(self) -> float:
        """Share of the reported changes that are true ones, not a number if there are none."""
        reported = self.hits + self.false
        return self.hits / reported if reported else float("nan")


def score(places: Sequence[int], reported: Sequence[int]) -> Score:
    """Every true place takes the nearest report that is near and not yet taken; a report too far off is false."""
    left = list(reported)
    hits = 0
    for place in places:
        near = min(left, key=lambda report: abs(report - place), default=None)
        if near is not None and abs(near - place) <= NEAR:
            left.remove(near)
            hits += 1
    return Score(len(places), hits, len(left))


def steps_score(
    noise: Callable[[np.random.Generator, int], Series],
    step: float,
    *,
    count: int,
    size: int = 300,
    seed: int = 0,
    detector: Callable[[Series], list[int]] = found,
) -> Score:
    """Of so many series with one step each, slower or faster at random, 20 nights or more from either end."""
    random = np.random.default_rng(seed)
    scores = []
    for _ in range(count):
        place = int(random.integers(20, size - 20))
        change = step if random.random() < 0.5 else 1 / (1 + step) - 1
        scores.append(score([place], detector(noise(random, size).stepped(place, change))))
    return Score(*(sum(column) for column in zip(*scores, strict=True)))


def false_alarms(
    noise: Callable[[np.random.Generator, int], Series],
    *,
    count: int,
    size: int = 300,
    seed: int = 0,
    detector: Callable[[Series], list[int]] = found,
) -> int:
    """How many of so many series without a change raise one."""
    random = np.random.default_rng(seed)
    return sum(bool(detector(noise(random, size))) for _ in range(count))
