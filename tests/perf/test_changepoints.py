"""Change points: false alarms, precision and recall in recorded and made noise, rivals, time; `pytest -s` prints."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from perf import rival_changepoints as rivals
from reports.nights import (
    CALMER,
    FIRST,
    INDEPENDENT,
    WORKLOADS,
    Score,
    false_alarms,
    found,
    heavy_noise,
    normal_noise,
    recorded,
    recorded_noise,
    score,
    steps_score,
)

from mnv3_reports import best_split
from mnv3_reports.changepoints import change_points

if TYPE_CHECKING:
    from collections.abc import Callable

    from reports.nights import Series

    Noise = Callable[[np.random.Generator, int], Series]

STEPS = (0.03, 0.05, 0.1)
CLEAN = 3000
STEPPED = 200
MADE: dict[str, Noise] = {
    **{f"normal, {percent} %": normal_noise(percent / 100) for percent in (1, 2, 5)},
    "t with 2 degrees, scale 2 %": heavy_noise(0.02),
    **{f"normal, 2 %, memory {memory}": normal_noise(0.02, memory) for memory in (0.3, 0.5, 0.7, 0.85)},
}
RECORDED: dict[str, Noise] = {name: recorded_noise(name) for name in WORKLOADS}


RECORDED_CALMER: dict[str, Noise] = {name: recorded_noise(name, first=CALMER) for name in WORKLOADS}


def described(counted: Score) -> str:
    return f"{counted.recall:.2f} / {counted.precision:.2f}"


def deviation(workload: str, first: int | None = None, recording: str = FIRST) -> str:
    logs = np.log(recorded(recording)[workload].values[:first])
    return f"{100 * 1.4826 * np.median(np.abs(logs - np.median(logs))):.1f} %"


@pytest.mark.parametrize("size", [300, 730])
@pytest.mark.parametrize("first", [CALMER, None])
def test_false_alarms_and_steps_in_recorded_noise(size: int, first: int | None) -> None:
    nights = f"the first {first} recorded nights" if first else "all recorded nights"
    print(f"\n{nights}, {size} points; false alarms of {CLEAN} clean series; recall / precision a step")
    total = 0
    for name, noise in (RECORDED_CALMER if first else RECORDED).items():
        alarms = false_alarms(noise, count=CLEAN, size=size, seed=100)
        total += alarms
        reached = [described(steps_score(noise, step, count=STEPPED, size=size, seed=101)) for step in STEPS]
        print(f"| {name} | {deviation(name, first)} | {alarms} | " + " | ".join(reached) + " |", flush=True)
    assert total <= 0.01 * CLEAN * len(RECORDED)


@pytest.mark.parametrize("size", [300, 730])
def test_false_alarms_in_a_recording_that_nothing_was_chosen_on(size: int) -> None:
    print(f"\nthe independent recording, {size} points; false alarms of {CLEAN} clean series")
    for name in WORKLOADS:
        alarms = false_alarms(recorded_noise(name, recording=INDEPENDENT), count=CLEAN, size=size, seed=100)
        print(f"| {name} | {deviation(name, recording=INDEPENDENT)} | {alarms} |", flush=True)
        assert alarms <= 0.01 * CLEAN


def test_what_half_widths_bring() -> None:
    print("\nrecorded noise without half widths")
    for name, noise in RECORDED.items():
        plain: Noise = lambda random, size, noise=noise: noise(random, size)._replace(half_widths=None)  # noqa: E731
        alarms = false_alarms(plain, count=CLEAN // 2, seed=102)
        reached = [described(steps_score(plain, step, count=STEPPED, seed=101)) for step in STEPS]
        print(f"| {name} | {alarms} of {CLEAN // 2} | " + " | ".join(reached) + " |", flush=True)


def test_longer_blocks_of_recorded_noise() -> None:
    print("\nfalse alarms by the length of the blocks, numpy to eager-glibc")
    for block in (1, 5, 20):
        alarms = [false_alarms(recorded_noise(name, block), count=CLEAN // 2, seed=103) for name in WORKLOADS]
        print(f"blocks of {block}: {alarms} of {CLEAN // 2} each", flush=True)


def test_made_noise() -> None:
    print(f"\nmade noise, 300 nights; false alarms of {CLEAN}; recall / precision a step")
    for name, noise in MADE.items():
        alarms = false_alarms(noise, count=CLEAN, seed=104)
        reached = [described(steps_score(noise, step, count=STEPPED, seed=105)) for step in STEPS]
        print(f"| {name} | {alarms} | " + " | ".join(reached) + " |", flush=True)
        assert alarms <= 0.01 * CLEAN


def test_short_series() -> None:
    print(
        "\nshort series in normal noise of 2 %: false alarms by memory 0, 0.5, 0.7; recall / precision of 10 %"
    )
    for size in (45, 60, 90, 120):
        alarms = [
            false_alarms(normal_noise(0.02, memory), count=CLEAN, size=size, seed=106)
            for memory in (0, 0.5, 0.7)
        ]
        reached = steps_score(normal_noise(0.02), 0.1, count=STEPPED, size=size, seed=107)
        print(f"| {size} | {alarms} of {CLEAN} each | {described(reached)} |", flush=True)


def test_what_is_hard() -> None:
    random = np.random.default_rng(108)
    noise = normal_noise(0.02)
    print("\nof 100 series of 300 nights in normal noise of 2 %")
    for nights in (7, 10, 14, 21):
        new = [
            sum(
                bool(score([300 - nights], found(noise(random, 300).stepped(300 - nights, step))).hits)
                for _ in range(100)
            )
            for step in STEPS
        ]
        print(f"the last {nights} nights slower by 3, 5, 10 %: found {new}", flush=True)
    for nights in (1, 2, 3, 5, 7, 10):
        alarms = sum(
            bool(found(noise(random, 300).stepped(150, 0.5).stepped(150 + nights, 1 / 1.5 - 1)))
            for _ in range(100)
        )
        print(f"{nights} nights in a row at 1.5 times: reported {alarms}", flush=True)
    for back in (20, 40):
        both = sum(
            score(
                [140, 140 + back],
                found(noise(random, 300).stepped(140, 0.1).stepped(140 + back, 1 / 1.1 - 1)),
            ).hits
            == 2
            for _ in range(100)
        )
        print(f"10 % slower for {back} nights: both ends found {both}", flush=True)
    for count in (3, 6):
        scores = []
        for _ in range(100):
            places = [int(place + random.integers(-10, 11)) for place in np.linspace(0, 300, count + 2)[1:-1]]
            series = noise(random, 300)
            for place in places:
                series = series.stepped(place, 0.05 if random.random() < 0.5 else 1 / 1.05 - 1)
            scores.append(score(places, found(series)))
        print(
            f"{count} steps of 5 %: {described(Score(*(sum(c) for c in zip(*scores, strict=True))))}",
            flush=True,
        )
    for drift in (0.005, 0.01, 0.02, 0.05):
        alarms = 0
        for _ in range(100):
            clean = noise(random, 300)
            alarms += bool(found(clean._replace(values=clean.values * np.linspace(1, 1 + drift, 300))))
        print(f"a drift of {100 * drift} % over the series: reported {alarms}", flush=True)


def test_intervals_hold_the_ratio() -> None:
    print("\nhow many 95 % intervals hold the true ratio, of steps found within a week")
    for name, noise in {**RECORDED, **MADE}.items():
        random = np.random.default_rng(109)
        held = []
        for _ in range(STEPPED):
            place = int(random.integers(40, 260))
            series = noise(random, 300).stepped(place, 0.1)
            widths = None if series.half_widths is None else series.half_widths.tolist()
            changes = change_points(series.values.tolist(), half_widths=widths)
            held += [c.lower <= 1.1 <= c.upper for c in changes if abs(c.index - place) <= 7]
        print(
            f"| {name} | {100 * np.mean(held):.0f} % of {len(held)} |" if held else f"| {name} | none |",
            flush=True,
        )


def test_rivals() -> None:
    print(
        "\nrivals, 300 nights: series of 60 clean with an alarm; recall / precision of 5 % in 40; ms a clean series"
    )
    noises = {
        "normal, 2 %": MADE["normal, 2 %"],
        "normal, 2 %, memory 0.5": MADE["normal, 2 %, memory 0.5"],
        **RECORDED,
    }
    detectors = {
        "ours": found,
        "E-divisive": rivals.e_divisive,
        "t test": rivals.with_t_test,
        "PELT": rivals.pelt,
        "KernelCPD": rivals.kernel,
    }
    for name, detector in detectors.items():
        for label, noise in noises.items():
            start = time.process_time()
            alarms = false_alarms(noise, count=60, seed=110, detector=detector)
            taken = (time.process_time() - start) / 60
            reached = steps_score(noise, 0.05, count=40, seed=111, detector=detector)
            print(f"| {name} | {label} | {alarms} | {described(reached)} | {1e3 * taken:.1f} |", flush=True)


def test_the_best_rival_at_length() -> None:
    print("\nthis and KernelCPD, 300 nights in normal noise of 2 %")
    noise = MADE["normal, 2 %"]
    for name, detector in {"this": found, "KernelCPD": rivals.kernel}.items():
        random = np.random.default_rng(113)
        new = [detector(noise(random, 300).stepped(293, 0.1)) for _ in range(100)]
        back = [detector(noise(random, 300).stepped(140, 0.1).stepped(160, 1 / 1.1 - 1)) for _ in range(100)]
        hits = sum(score([293], reported).hits for reported in new)
        both = sum(score([140, 160], reported).hits == 2 for reported in back)
        small = described(steps_score(noise, 0.03, count=STEPPED, seed=114, detector=detector))
        large = described(
            steps_score(MADE["normal, 2 %, memory 0.7"], 0.1, count=STEPPED, seed=114, detector=detector)
        )
        print(
            f"| {name} | 10 % for the last 7 nights {hits} of 100 | 10 % for 20 nights {both} | 3 % {small} | ",
            end="",
        )
        print(f"10 %, memory 0.7 {large} | false alarms of {CLEAN}: ", end="")
        for noisy in ("normal, 2 %, memory 0.85", "normal, 2 %, memory 0.7"):
            print(noisy, false_alarms(MADE[noisy], count=CLEAN, seed=115, detector=detector), end="; ")
        alarms = {
            key: false_alarms(made, count=CLEAN, seed=116, detector=detector)
            for key, made in RECORDED.items()
        }
        print(alarms, flush=True)


@pytest.mark.parametrize("size", [300, 730])
def test_a_thousand_series(size: int) -> None:
    """Half of them with a step, all kinds of noise, and nothing drawn before."""
    random = np.random.default_rng(112)
    noises = [*RECORDED.values(), *MADE.values()]
    series = [noises[number % len(noises)](random, size) for number in range(1000)]
    series = [one.stepped(size // 3, 0.05) if number % 2 else one for number, one in enumerate(series)]
    best_split._null.cache_clear()
    wall, cpu = time.perf_counter(), time.process_time()
    changes = sum(len(found(one)) for one in series)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(
        f"\n1,000 series of {size} nights: {wall:.1f} s, {cpu:.1f} s of processor time, one process; {changes} changes"
    )
    assert cpu < 60
