"""Batches from worker processes: all of them, in order, without what is broken, and a clear end when a worker dies."""

from __future__ import annotations

import gc
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from mnv3_models.data import (
    CentreCrop,
    DataError,
    Part,
    Preprocessing,
    Tally,
    default_workers,
    loader,
    loading,
    open_data,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

CROP = CentreCrop(Preprocessing(16, 18))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 images, one of which is cut short."""
    root = tmp_path_factory.mktemp("folder")
    rng = np.random.default_rng(0)
    for number in range(120):
        path = root / f"class{number % 3}" / f"{number:03}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (24, 30, 3), dtype=np.uint8)).save(path)
    broken = root / "class1" / "040.jpg"
    broken.write_bytes(broken.read_bytes()[:400])
    return root


@pytest.fixture
def part(folder: Path) -> Part:
    return open_data(f"imagefolder:{folder}").part("all")


@pytest.fixture(autouse=True)
def no_worker_is_left() -> Iterator[None]:
    before = set(multiprocessing.active_children())
    yield
    until = time.monotonic() + 20
    while set(multiprocessing.active_children()) - before and time.monotonic() < until:
        time.sleep(0.05)
    assert not set(multiprocessing.active_children()) - before


def batches(part: Part, workers: int, **how: Any) -> list[Any]:
    made = loader(
        part, CROP, batch=how.pop("batch", 16), workers=workers, tally=how.pop("tally", Tally()), **how
    )
    try:
        return list(made)
    finally:
        made.close()


class Plain:
    """A transform in one step, that shows its seed."""

    def __call__(self, image: Image.Image, seed: tuple[int, ...], /) -> torch.Tensor:
        made = CROP(image)
        made[0, 0, : len(seed)] = torch.tensor(seed, dtype=torch.float32)
        return made


@pytest.mark.parametrize("workers", [0, 2])
def test_every_image_once_in_order_but_the_broken_one(part: Part, workers: int) -> None:
    tally = Tally()
    found = batches(part, workers, tally=tally)
    indices = torch.cat([batch.indices for batch in found])
    broken = part.names.index("class1/040.jpg")
    assert indices.tolist() == [index for index in range(120) if index != broken]
    assert [len(batch.images) for batch in found][-1] == 8
    assert torch.cat([batch.labels for batch in found]).tolist() == part.labels[indices.numpy()].tolist()
    for batch in found:
        assert (batch.images.shape[1:], batch.images.dtype) == ((3, 16, 16), torch.float32)
        assert (batch.labels.dtype, batch.indices.dtype) == (torch.int64, torch.int64)
        wanted = [CROP(part.image(index), ()) for index in batch.indices.tolist()]
        assert torch.equal(batch.images, torch.stack(wanted))
    assert list(tally.broken) == ["class1/040.jpg"]
    assert "truncated" in tally.describe().lower()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_order_is_read_anew_for_every_pass(part: Part, workers: int) -> None:
    class Order:
        passes = 0

        def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
            self.passes += 1
            yield [(self.passes, 7, index) for index in (5, 3, 5)]
            yield [(self.passes, 8, 1)]

    made = loader(part, Plain(), batch=1, workers=workers, tally=Tally(), order=Order())
    for number in (1, 2):
        first, second = made
        assert first.indices.tolist() == [5, 3, 5]
        assert first.images[:, 0, 0, :3].tolist() == [[number, 7, index] for index in (5, 3, 5)]
        assert second.images[0, 0, 0, :3].tolist() == [number, 8, 1]
    made.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pass_may_end_early_and_another_begin(part: Part, workers: int) -> None:
    made = loader(part, CROP, batch=4, workers=workers, tally=Tally())
    for _ in range(3):
        for batch in made:
            assert batch.indices.tolist() == [0, 1, 2, 3]
            break
    assert sum(len(batch.labels) for batch in made) == 119
    made.close()
    made.close()
    assert len(next(iter(made)).labels) == 4
    # Workers end with the loader, closed or not: the fixture waits for them.


def test_batches_may_be_larger_than_announced(part: Part) -> None:
    order = [[3], list(range(20)), [7, 8]]
    found = batches(part, 2, batch=2, order=order)
    assert [batch.indices.tolist() for batch in found] == order
    for batch in found:
        wanted = [CROP(part.image(index), ()) for index in batch.indices.tolist()]
        assert torch.equal(batch.images, torch.stack(wanted))


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="counts files by /proc")
def test_loaders_side_by_side_leave_no_files_open(part: Part) -> None:
    batches(part, 1)  # what torch opens once
    gc.collect()  # what earlier tests left to it
    before = open_files()
    made = [loader(part, transform, batch=8, workers=1, tally=Tally()) for transform in (CROP, Plain())]
    for first, second in zip(*made, strict=True):
        assert torch.equal(first.indices, second.indices)
    for each in made:
        each.close()
    del first, second  # a tensor in shared memory has one
    gc.collect()  # processes that ended
    assert open_files() == before


def test_torch_draws_the_same_numbers_with_a_loader_and_without(part: Part) -> None:
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    batches(part, 1)
    assert torch.equal(torch.rand(4), wanted)


class Deadly:
    """A transform that kills its worker at one image."""

    def __init__(self) -> None:
        self.main = os.getpid()

    def __call__(self, image: Image.Image, seed: tuple[int, ...], /) -> torch.Tensor:
        if seed[-1] == 21 and os.getpid() != self.main:
            os.kill(os.getpid(), signal.SIGKILL)
        return CROP(image)


def test_a_worker_that_dies_is_named(part: Part) -> None:
    handler = signal.getsignal(signal.SIGCHLD)
    made = loader(part, Deadly(), batch=8, workers=2, tally=Tally())
    said = "a worker that decodes images was killed by SIGKILL; perhaps for want of memory; try --workers 0"
    with pytest.raises(DataError, match=re.escape(said)):
        sum(len(batch.labels) for batch in made)
    assert signal.getsignal(signal.SIGCHLD) == handler


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (3, "exited with code 3; try"),
        (-7, "was killed by SIGBUS; perhaps for want of shared memory (/dev/shm); try"),
        (-11, "was killed by SIGSEGV; try"),
        (-99, "was killed by signal 99; try"),
    ],
)
def test_how_a_worker_died(code: int, said: str) -> None:
    assert said in loading.obituary(code)


def test_a_fault_of_a_transform_is_no_dead_worker(part: Part) -> None:
    class Faulty:
        def __call__(self, image: Image.Image, seed: tuple[int, ...], /) -> torch.Tensor:
            raise RuntimeError("a fault of its own")

    for workers in (0, 1):
        made = loader(part, Faulty(), batch=8, workers=workers, tally=Tally())
        with pytest.raises(RuntimeError, match="a fault of its own"):
            next(iter(made))
        made.close()


GROUP = """
import os, signal, sys, time
from mnv3_models.data import CentreCrop, Preprocessing, Tally, loader, open_data

stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
signal.signal(signal.SIGINT, lambda *_: stopped.append(True))
part = open_data("imagefolder:" + sys.argv[1]).part("all")
made = loader(part, CentreCrop(Preprocessing(16, 18)), batch=4, workers=2, tally=Tally())
seen = 0
for number, batch in enumerate(made):
    seen += len(batch.labels)
    if number == 3:
        print("ready", flush=True)
        sys.stdin.readline()
print(seen, len(stopped))
made.close()
"""


def test_signals_to_the_whole_group_are_for_the_main_process(folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", GROUP, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGTERM)
        os.killpg(process.pid, signal.SIGINT)
        said, complaints = process.communicate("\n", timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, complaints
    seen, stopped = map(int, said.split())
    assert seen == 119
    assert stopped == 2
    assert complaints == ""


ABANDONED = (
    GROUP.split("stopped =")[0]
    + """
part = open_data("imagefolder:" + sys.argv[1]).part("all")
made = loader(part, CentreCrop(Preprocessing(16, 18)), batch=4, workers=2, tally=Tally())
passing = iter(made)
next(passing)
raise SystemExit(4)
"""
)


def test_a_program_ends_in_the_middle_of_a_pass(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ABANDONED, str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (4, "", "")


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_broken_images_are_an_error(tmp_path: Path, workers: int) -> None:
    (tmp_path / "a").mkdir()
    for number in range(30):
        path = tmp_path / "a" / f"{number:02}.png"
        Image.new("RGB", (20, 20)).save(path)
        if number % 10 == 5:
            path.write_bytes(b"nothing")
    part = open_data(f"imagefolder:{tmp_path}").part("all")
    seen: list[int] = []
    made = loader(part, CROP, batch=2, workers=workers, tally=Tally())
    with pytest.raises(DataError) as caught:
        seen.extend(len(batch.labels) for batch in made)
    assert str(caught.value) == (
        "2 of 30 images cannot be read, more than 1 %: a/05.png (no image by its content), a/15.png (no image by its "
        "content); replace or remove them"
    )
    assert sum(seen) <= 16  # not only at the end
    made.close()


def test_none_that_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(b"nothing")
    part = open_data(f"imagefolder:{tmp_path}").part("all")
    with pytest.raises(DataError, match=r"none of the images can be read: .*a/1\.png"):
        batches(part, 0)


class TestTally:
    def test_one_percent_or_one_image(self) -> None:
        tally = Tally()
        tally.check(0)
        assert tally.describe() == ""
        tally.add("a", "cut short")
        tally.add("a", "cut short")
        tally.check(1)
        assert tally.describe() == "1 image could not be read and left out: a (cut short)."
        tally.add("b", "cut short")
        tally.check(200)
        with pytest.raises(DataError, match="2 of 199 images cannot be read, more than 1 %"):
            tally.check(199)

    def test_not_all_are_named(self) -> None:
        tally = Tally()
        for number in range(12):
            tally.add(str(number), "x")
        assert tally.describe().endswith("4 (x) and 7 more.")


@pytest.mark.parametrize(("cpus", "workers"), [(1, 0), (2, 1), (4, 2), (64, 8)])
def test_workers_by_default(cpus: int, workers: int) -> None:
    assert default_workers(cpus) == workers


@pytest.mark.parametrize(("how", "said"), [({"batch": 0}, "batch is 0"), ({"workers": -1}, "workers is -1")])
def test_numbers_out_of_range(part: Part, how: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        loader(part, CROP, **{"batch": 1, "workers": 0} | how, tally=Tally())
