"""Evaluating decodes and computes at the same time: what that gives of the slower of the two alone."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from perf.cells import prepared_cell
from PIL import Image

from mnv3_bench.inputs import images
from mnv3_bench.protocol import Evaluate, Labelled
from mnv3_reports.record import Preprocessing

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

IMAGES = int(os.environ.get("MNV3_PERF_IMAGES", "10000"))
ROUNDS = 3
CLASSES = 1000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEGs of 224 x 224 with the statistics of photographs, in ImageNet's layout, a thousand classes."""
    home = tmp_path_factory.mktemp("jpegs")
    made = images(0, "fidelity", 224, 64)
    pixels = np.clip(made.transpose(0, 2, 3, 1) * 58 + 118, 0, 255).astype(np.uint8)
    for number in range(IMAGES):
        place = home / f"n{number % CLASSES:08d}"
        place.mkdir(exist_ok=True)
        shifted = np.roll(pixels[number % len(pixels)], number, axis=1)
        Image.fromarray(shifted).save(place / f"{number:05d}.jpg", quality=90)
    return home


@pytest.mark.parametrize("backend", ["eager", "onnxruntime"])
def test_evaluating_against_the_slower_of_its_halves(
    benchmark: BenchmarkFixture, folder: Path, backend: str, tmp_path: Path
) -> None:
    """Images/s in turns: decoding by one process, computing by one thread, and both as `evaluate` does.

    Two processors of a shared machine may be slower together than each alone. So decoding and computing also run at
    once as two programs that know nothing of each other, which shows how much of a loss is the machine's.
    """
    found = prepared_cell("v3-small", backend, tmp_path, 1)
    asked = Preprocessing(224, 256, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "")
    order = Evaluate(
        variant="v3-small",
        num_classes=CLASSES,
        labelled=Labelled(f"imagefolder:{folder}", "all", 0, asked),
        backend=backend,
        source=str(found.directory),
        threads=1,
        device="cpu",
        batch=1,
        workers=1,
        reference=None,
        reference_name="",
        directory=str(tmp_path),
    )
    measured: dict[str, list[float]] = {what: [] for what in ("decode", "compute", "evaluate", "apart")}

    def begin(what: str) -> subprocess.Popen[str]:
        child = Path(__file__).with_name("evaluation_child.py")
        return subprocess.Popen(
            [sys.executable, child, what, msgspec.json.encode(order)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )

    def rate(child: subprocess.Popen[str]) -> float:
        printed, _ = child.communicate()
        assert child.returncode == 0
        return float(printed)

    def turn() -> None:
        for what in ("decode", "compute", "evaluate"):
            measured[what].append(rate(begin(what)))
        measured["apart"].append(min(map(rate, [begin("decode"), begin("compute")])))

    benchmark.pedantic(turn, rounds=ROUNDS)
    slower = map(min, measured["decode"], measured["compute"])
    of_slower, of_apart = (
        [both / other for both, other in zip(measured["evaluate"], others, strict=True)]
        for others in (slower, measured["apart"])
    )
    benchmark.extra_info.update(
        images=IMAGES,
        **{f"{what}_images_per_second": statistics.median(rates) for what, rates in measured.items()},
        of_slower=of_slower,
        of_both_apart=of_apart,
    )
    print(f"\n{backend}: {benchmark.extra_info}")
