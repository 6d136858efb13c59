"""Where series changed their level for good, and which versions and commits changed there."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from mnv3_reports.changepoints import change_points
from mnv3_reports.statistics import median

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mnv3_reports.changepoints import ChangePoint
    from mnv3_reports.history.query import History, Placed, Point, Series

AROUND = 3
"""So many runs before and after a change are looked through for another version."""
NAMES = {
    "python": "Python",
    "project_version": "mnv3-bench",
    "commit": "commit of mnv3-bench",
    "repository_commit": "commit",
    "kernel": "kernel",
    "weights": "weights",
    "macs_per_image": "MACs an image",
    "parameters": "parameters",
    "host": "host",
}
"""Column to what it is called; `packages` has names of its own."""


class Difference(NamedTuple):
    """Something that runs state otherwise from one run on."""

    name: str
    before: str
    after: str
    runs_away: int
    """From the change: 0 when it came with it, 1 when it came one run later, -1 one run earlier."""


class Change(NamedTuple):
    """A lasting change of a series."""

    start: int
    """Number of the first point after it."""
    last: Placed
    """The last run before it."""
    first: Placed
    """The first run after it."""
    found: ChangePoint
    differences: tuple[Difference, ...]
    """The nearest first; what changes with nearly every run, such as commits, at the change itself alone."""


class Trend(NamedTuple):
    """A series and its changes, in order of time."""

    series: Series
    changes: tuple[Change, ...]

    @property
    def levels(self) -> tuple[tuple[Point, Point, float], ...]:
        """Stretches between changes: their first and last point, and their median."""
        points = self.series.points
        bounds = [0, *(change.start for change in self.changes), len(points)]
        return tuple(
            (points[start], points[stop - 1], median(point.value for point in points[start:stop]))
            for start, stop in pairwise(bounds)
            if start < stop
        )


class _Located(NamedTuple):
    """A change with the runs around it."""

    series: Series
    found: ChangePoint
    near: list[Placed]
    after: int
    """Number, in `near`, of the first run after the change."""


def trends(history: History) -> list[Trend]:
    """Every series of a history with its changes."""
    every = history.series()
    located = {series.key: list(_located(history, series)) for series in every}
    near = [(each.series, run) for several in located.values() for each in several for run in each.near]
    versions = history.versions(near)
    return [Trend(series, tuple(_change(each, versions) for each in located[series.key])) for series in every]


def _located(history: History, series: Series) -> Iterator[_Located]:
    points = series.points
    values = [point.value for point in points]
    for found in change_points(values, half_widths=[_half_width(point) for point in points]):
        # The change may lie within either of the two groups of runs that meet there.
        start, stop = points[found.index - 1].first, points[found.index].first + points[found.index].runs
        runs = history.placed(series, start - AROUND, stop + AROUND - 1)
        at = _first_after(runs, found, start, stop) if stop - start > 2 else points[found.index].first
        near = [run for run in runs if at - AROUND - 1 <= run.place < at + AROUND + 1]
        yield _Located(series, found, near, next(n for n, run in enumerate(near) if run.place == at))


def _change(located: _Located, versions: dict[tuple[int, str], dict[str, Any]]) -> Change:
    near, after = located.near, located.after
    stated = [_stated(versions.get((located.series.key, run.run_id), {})) for run in near]
    differences = tuple(_differences(stated, after))
    return Change(located.found.index, near[after - 1], near[after], located.found, differences)


def _first_after(runs: Sequence[Placed], found: ChangePoint, start: int, stop: int) -> int:
    """The place of the split at which the runs are nearest to the levels before and after, on a logarithmic scale."""
    inside = [run for run in runs if start <= run.place < stop]
    before, after = math.log(found.before), math.log(found.after)
    # From 'all of them come after' on, each run that comes before instead changes the cost by so much.
    cost, best, place = 0.0, math.inf, inside[1].place
    for run in inside[:-1]:
        value = math.log(run.value)
        cost += abs(value - before) - abs(value - after)
        if cost < best:
            best, place = cost, run.place + 1
    return place


def _differences(stated: Sequence[dict[str, str]], after: int) -> Iterator[Difference]:
    """What differs between neighbouring runs.

    Args:
        stated: what each run states, in order of time.
        after: number of the first run after the change.
    """
    steps: dict[str, list[Difference]] = {}
    for number, (here, there) in enumerate(pairwise(stated), start=1):
        # What only one of two runs states is unknown of the other, and no change.
        for name in sorted(here.keys() & there.keys()):
            if here[name] != there[name]:
                step = Difference(name, here[name], there[name], number - after)
                steps.setdefault(name, []).append(step)
    nearest = []
    for found in steps.values():
        step = min(found, key=lambda each: abs(each.runs_away))
        if step.runs_away == 0 or 2 * len(found) < len(stated):
            nearest.append(step)
    yield from sorted(nearest, key=lambda each: (abs(each.runs_away), each.name))


def _stated(versions: dict[str, Any]) -> dict[str, str]:
    """Names to what a run states, packages one by one."""
    stated = {
        NAMES[name]: str(value) for name, value in versions.items() if name in NAMES and value is not None
    }
    try:
        packages = msgspec.json.decode(versions.get("packages") or "{}", type=dict[str, str])
    except msgspec.DecodeError:
        return stated  # a stranger's file may say anything
    return stated | packages


def _half_width(point: Point) -> float:
    if point.low is None or point.high is None:
        return math.inf
    return (point.high - point.low) / 2 / point.value
