"""Batches of inputs, decoded by worker processes while the network computes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from mnv3_models.data.errors import BrokenImageError, DataError
from mnv3_models.data.slots import Slots
from mnv3_models.data.transforms import PixelTransform

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from multiprocessing.process import BaseProcess

    import numpy.typing as npt
    import torch
    from torch.utils.data import DataLoader

    from mnv3_models.data.source import Part
    from mnv3_models.data.transforms import Transform

Key = int | tuple[int, ...]
"""Index of an image into its part, or the seed of a transform's randomness with that index last."""

BROKEN_SHARE = 0.01
"""More than this share of images that cannot be decoded is an error; one image never is."""
MOST_WORKERS = 8
PREFETCHED = 2
"""Batches that each worker makes ahead."""
_SHOWN = 5


class Batch(NamedTuple):
    """Inputs of a network with their labels."""

    images: torch.Tensor
    """n x 3 x resolution x resolution, float32."""
    labels: torch.Tensor
    """n, int64."""
    indices: torch.Tensor
    """n, int64: into the part."""


class Tally:
    """What could not be decoded, by name."""

    def __init__(self) -> None:
        self.broken: dict[str, str] = {}

    def add(self, name: str, reason: str) -> None:
        """Count an image; only once, however often it is met."""
        self.broken.setdefault(name, reason)

    def check(self, total: int) -> None:
        """See that it is few of `total` images.

        Raises:
            DataError: more than 1 % of them are broken, and more than one.
        """
        if len(self.broken) > max(1, total * BROKEN_SHARE):
            raise DataError(
                f"{len(self.broken)} of {total} images cannot be read, more than 1 %: {self._named()}; replace or "
                "remove them"
            )

    def describe(self) -> str:
        """A sentence for reports; empty where everything could be decoded."""
        if not self.broken:
            return ""
        images = "1 image" if len(self.broken) == 1 else f"{len(self.broken)} images"
        return f"{images} could not be read and left out: {self._named()}."

    def _named(self) -> str:
        some = [f"{name} ({reason})" for name, reason in list(self.broken.items())[:_SHOWN]]
        rest = len(self.broken) - len(some)
        return ", ".join(some) + (f" and {rest} more" if rest else "")


def default_workers(cpus: int) -> int:
    """Processes that decode, where a network computes at the same time: half of the processors, at most 8."""
    return 0 if cpus < 2 else min(MOST_WORKERS, cpus // 2)


class Loader:
    """Passes over a part, as `loader` makes them. Workers live until `close` or until it is dropped."""

    def __init__(
        self,
        part: Part,
        transform: Transform,
        *,
        batch: int,
        workers: int,
        tally: Tally,
        order: Iterable[Sequence[Key]] | None,
    ) -> None:
        import torch
        from torch.utils.data import DataLoader

        if batch < 1:
            raise ValueError(f"batch is {batch}; expected a number of images, 1 or more")
        if workers < 0:
            raise ValueError(f"workers is {workers}; expected a number of processes, 0 for none")
        self._part = part
        self._transform = transform
        self._tally = tally
        self._broken = Tally()  # of this part; the tally may count those of others too
        self._children: list[BaseProcess] = []
        self._slots = _slots(transform, batch, workers)
        tasks = _Tasks(InOrder(len(part), batch) if order is None else order, self._slots)
        self._loader: DataLoader[Any] = DataLoader(
            cast("Any", _Decoded(part, transform, self._slots)),
            batch_size=None,  # the sampler's items are whole batches
            sampler=cast("Any", tasks),
            num_workers=workers,
            prefetch_factor=PREFETCHED if workers else None,
            collate_fn=cast("Any", _as_it_is),
            worker_init_fn=_become_worker if workers else None,
            multiprocessing_context=_start_method() if workers else None,
            persistent_workers=workers > 0,
            # Its seeds are not used: without a generator of its own it would draw from torch's global one.
            generator=torch.Generator(),
        )

    def __iter__(self) -> Iterator[Batch]:
        import torch

        seen = 0
        try:
            for found in self._passed():
                for name, reason in found.broken:
                    self._tally.add(name, reason)
                    self._broken.add(name, reason)
                self._broken.check(len(self._part))
                images = self._finished(found)
                if len(found.labels):
                    seen += 1
                    yield Batch(images, torch.from_numpy(found.labels), torch.from_numpy(found.indices))
        except RuntimeError as error:
            dead = [child for child in self._children if child.exitcode is not None]
            if not dead:
                raise
            self.close()
            raise DataError(obituary(dead[0].exitcode or 0)) from error
        if not seen and self._broken.broken:
            raise DataError(f"none of the images can be read: {self._broken.describe()}")

    def close(self) -> None:
        """End the workers. Another pass would start new ones."""
        iterator = self._loader._iterator
        self._loader._iterator = None
        if iterator is not None and hasattr(iterator, "_shutdown_workers"):
            iterator._shutdown_workers()
        self._children = []

    def _finished(self, found: _Raw) -> torch.Tensor:
        import torch

        images = found.images
        if found.slot is not None:
            assert self._slots is not None
            images = torch.from_numpy(self._slots[found.slot][: len(found.labels)])
        if isinstance(self._transform, PixelTransform):
            images = self._transform.finish(images)  # in memory of its own, so that the slot is free
        if found.slot is not None and self._slots is not None:
            self._slots.give(found.slot)
        return images

    def _passed(self) -> Iterator[_Raw]:
        """One pass of torch's loader, whose complaint of a dead worker comes from here and nowhere else.

        torch has SIGCHLD raise it, at whatever the main thread is just doing. Without that it notices within five
        seconds of waiting for a batch.
        """
        before = set(multiprocessing.active_children())
        is_main = threading.current_thread() is threading.main_thread()
        handler = signal.getsignal(signal.SIGCHLD) if is_main else None
        passing = iter(self._loader)
        if is_main and handler is not None:
            signal.signal(signal.SIGCHLD, handler)
        self._children += [child for child in multiprocessing.active_children() if child not in before]
        return passing


def loader(
    part: Part,
    transform: Transform,
    *,
    batch: int,
    workers: int,
    tally: Tally,
    order: Iterable[Sequence[Key]] | None = None,
) -> Loader:
    """Batches of a part's images; every iteration is a pass.

    Images that cannot be decoded are left out of their batches and counted; the pass ends as soon as they are too
    many. Interrupts and terminations are for the main process: workers ignore them and end with it.

    Args:
        part: the images.
        transform: what makes inputs of them; a `PixelTransform` is done in two steps.
        batch: images of a batch, where there is no `order`.
        workers: processes that decode; 0 does it here.
        tally: where to count.
        order: batches of keys, read anew for every pass. None takes every image once, in order, the last batch short.

    Raises:
        DataError: while iterating: too many images are broken, or a worker died.
        ValueError: `batch` or `workers` is out of range.
    """
    return Loader(part, transform, batch=batch, workers=workers, tally=tally, order=order)


class InOrder:
    """Every index once, in batches.

    Args:
        count: of images.
        batch: how many each time; the last ones may be fewer.
    """

    def __init__(self, count: int, batch: int) -> None:
        self.count = count
        self.batch = batch

    def __iter__(self) -> Iterator[range]:
        for start in range(0, self.count, self.batch):
            yield range(start, min(start + self.batch, self.count))

    def __len__(self) -> int:
        return -(-self.count // self.batch)


class _Task(NamedTuple):
    """A batch to be made."""

    slot: int | None
    """Where its pixels go; None hands over a tensor."""
    keys: Sequence[Key]


class _Tasks:
    """Batches to be made, anew for every pass."""

    def __init__(self, order: Iterable[Sequence[Key]], slots: Slots | None) -> None:
        self._order = order
        self._slots = slots

    def __iter__(self) -> Iterator[_Task]:
        if self._slots is not None:
            self._slots.reset()  # a pass that ended early never gave back what was under way
        for keys in self._order:
            fits = self._slots is not None and len(keys) <= self._slots.rows
            yield _Task(self._slots.take() if fits and self._slots is not None else None, keys)


class _Raw(NamedTuple):
    """A batch as it comes from a worker."""

    images: torch.Tensor
    slot: int | None
    """Where the images are, if not in `images`."""
    labels: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int64]
    broken: list[tuple[str, str]]


class _Decoded:
    """A part as torch's loader wants it: batches by their tasks."""

    def __init__(self, part: Part, transform: Transform, slots: Slots | None) -> None:
        self._part = part
        self._transform = transform
        self._slots = slots

    def __getitem__(self, task: _Task) -> _Raw:
        import torch
        from torch.utils.data import default_collate

        rows = None if task.slot is None or self._slots is None else self._slots[task.slot]
        images: list[torch.Tensor] = []
        indices: list[int] = []
        broken: list[tuple[str, str]] = []
        for key in task.keys:
            seed = key if isinstance(key, tuple) else (key,)
            index = seed[-1]
            try:
                image = self._part.image(index)
            except BrokenImageError as error:
                broken.append((error.name, error.reason))
                continue
            if not isinstance(self._transform, PixelTransform):
                images.append(self._transform(image, seed))
            elif rows is not None:
                rows[len(indices)] = self._transform.pixels(image, seed)
            else:
                images.append(torch.from_numpy(self._transform.pixels(image, seed)))
            indices.append(index)
        made = default_collate(images) if images else torch.empty(0, 3, 1, 1, dtype=torch.uint8)
        positions = np.array(indices, dtype=np.int64)
        return _Raw(made, task.slot, self._part.labels[positions], positions, broken)


def _as_it_is(found: _Raw) -> _Raw:
    return found


def _slots(transform: Transform, batch: int, workers: int) -> Slots | None:
    """Memory for as many batches as may be under way, two more than torch asks for ahead."""
    if not workers or _start_method() != "fork" or not isinstance(transform, PixelTransform):
        return None
    from PIL import Image

    shape = transform.pixels(Image.new("RGB", (8, 8)), (0,)).shape
    return Slots(workers * PREFETCHED + 2, batch, shape)


def _start_method() -> str | None:
    """Forking shares what is loaded and starts at once. macOS' own libraries do not survive it."""
    return "fork" if sys.platform == "linux" else None


def _become_worker(_: int) -> None:
    """Leave signals to the main process, except a termination that it sends itself.

    Ctrl-C and a batch system's SIGTERM reach the whole process group. A worker that dies of it would look like a
    fault while the main process is still saving.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_await_parent, args=(os.getppid(),), daemon=True).start()


def _await_parent(parent: int) -> None:
    while True:
        if signal.sigwaitinfo({signal.SIGTERM}).si_pid == parent:
            os._exit(0)


def obituary(code: int) -> str:
    """What to say of a worker that ended with an exit code, or by a signal, as its negative number."""
    if code >= 0:
        how = f"exited with code {code}"
    else:
        try:
            how = f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            how = f"was killed by signal {-code}"
    hint = ""
    if -code == signal.SIGKILL:
        hint = "perhaps for want of memory; "
    elif -code == signal.SIGBUS:
        hint = "perhaps for want of shared memory (/dev/shm); "
    return f"a worker that decodes images {how}; {hint}try --workers 0"
