"""What loading adds to decoding: images/s of one worker against a bare loop, taking turns.

MNV3_PERF_IMAGES sets how many 224 x 224 JPEGs are made and read, 2,000 by default.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from mnv3_models.data import CentreCrop, Part, Preprocessing, Tally, loader, open_data
from mnv3_reports.statistics import log_interval

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

IMAGES = int(os.environ.get("MNV3_PERF_IMAGES", "2000"))
SIDE = 224
BATCH = 32
ROUNDS = 5
PREPROCESSING = Preprocessing(SIDE, 256)


def noise(rng: np.random.Generator, scale: int) -> np.ndarray:
    """Smooth over `scale` pixels."""
    side = SIDE // scale
    coarse = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((SIDE, SIDE))).astype(np.int16)


def made(root: Path, count: int) -> Part:
    """JPEGs with the detail, and about the bytes, of photographs of their size: coarse and fine noise added up."""
    rng = np.random.default_rng(0)
    coarse = [
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (SIDE // scale, SIDE // scale, 3), dtype=np.uint8)).resize(
                (SIDE, SIDE)
            )
        ).astype(np.int16)
        for scale in (64, 32, 16, 8)
        for _ in range(4)
    ]
    for number in range(count):
        folder = root / f"class{number % 10}"
        folder.mkdir(exist_ok=True)
        layers = [coarse[4 * level + rng.integers(4)] for level in range(4)]
        pixels = sum(layer * weight // 8 for layer, weight in zip(layers, (4, 2, 1, 1), strict=True))
        pixels = np.roll(pixels, rng.integers(SIDE, size=2), (0, 1))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:05}.jpg", quality=85)
    return open_data(f"imagefolder:{root}").part("all")


def _decode(part: Part, going: Connection) -> None:
    """What no loader can do without, in a process of its own: files to pixels of the network's size."""
    transform = CentreCrop(PREPROCESSING)
    while going.recv():
        start = time.perf_counter()
        for index in range(len(part)):
            transform.pixels(part.image(index))
        going.send(time.perf_counter() - start)


def test_one_worker_against_decoding_alone(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Everything from files to float32 batches, against Pillow and the crop in a bare loop."""
    part = made(tmp_path, IMAGES)
    here, there = multiprocessing.Pipe()
    bare = multiprocessing.get_context("fork").Process(target=_decode, args=(part, there), daemon=True)
    bare.start()
    batches = loader(part, CentreCrop(PREPROCESSING), batch=BATCH, workers=1, tally=Tally())
    torch.set_num_threads(1)
    for _ in zip(batches, range(2), strict=False):  # the worker has started
        pass
    ratios: list[float] = []
    rates: dict[str, list[float]] = {"bare": [], "loader": []}

    def turn() -> None:
        seconds = {}
        for who in random.Random(len(ratios)).sample(["bare", "loader"], 2):
            if who == "bare":
                here.send(True)
                seconds[who] = here.recv()
            else:
                start = time.perf_counter()
                seen = sum(len(batch.labels) for batch in batches)
                seconds[who] = time.perf_counter() - start
                assert seen == len(part)
            rates[who].append(len(part) / seconds[who])
        ratios.append(seconds["bare"] / seconds["loader"])

    benchmark.pedantic(turn, rounds=ROUNDS)
    here.send(False)
    bare.join()
    batches.close()
    ratio = log_interval(ratios)
    decoded, loaded = (float(np.median(rates[who])) for who in ("bare", "loader"))
    benchmark.extra_info |= {"ratio": ratio.estimate, "low": ratio.low, "decoded": decoded, "loaded": loaded}
    print(
        f"\n{len(part)} JPEGs of {SIDE} x {SIDE}: decoding alone {decoded:.0f} images/s, loader with 1 worker "
        f"{loaded:.0f}; ratio {ratio.estimate:.3f} [{ratio.low:.3f}, {ratio.high:.3f}] over {ROUNDS} rounds"
    )
    assert ratio.high >= 0.9
