"""Attainable bandwidth by cache level: STREAM's triad on working sets that fit one level and not the one before.

Source of the kernel: McCalpin, "Memory bandwidth and machine balance in current high performance computers", IEEE
TCCA Newsletter, 1995. Bytes are counted as STREAM counts them: 24 an element, two numbers read and one written; the
line that a cache reads before it writes one is not counted.
"""

from __future__ import annotations

import ctypes
import math
import os
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mnv3_bench.doctor.kernel import CPU, Kernel, parse_cpus
from mnv3_bench.roofline.measured import FEWEST, Measured, roof

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mnv3_reports.record import Roof

SOURCE = Path(__file__).with_name("bandwidth.c")
COMPILERS = ("cc", "gcc", "clang")
"""Looked for in this order, after $CC."""
FLAGS = (
    # 512-bit vectors are taken where there are any; without being told to, GCC takes 256-bit ones.
    ("-O3", "-march=native", "-funroll-loops", "-mprefer-vector-width=512"),
    ("-O3", "-march=native", "-funroll-loops"),
    ("-O3", "-mcpu=native", "-funroll-loops"),
    ("-O3",),
)
"""Tried in this order: not every compiler knows every flag."""
ELEMENT = 24
"""Bytes that one element of the triad counts, in double precision."""
GAP = 256
"""Numbers between two arrays: equal addresses modulo 4 KiB would make loads wait for stores."""
ALIGNMENT = 4096
REPEAT_SECONDS = 10e-3
"""Passes are grouped so that a repeat lasts about as long, at least: threads begin within some microseconds."""
BEYOND = 4
"""Memory's working set is so many times the last cache, as STREAM's rules have it."""
MOST = 1 << 30
"""Bytes that memory's working set has at most."""
UNKNOWN = 512 << 20
"""Bytes of memory's working set where the sizes of caches are not told."""
APART = 2.0
"""A working set is at least so many times a thread's share of the level before."""
WITHIN = 0.75
"""And at most such a part of its share of its own level."""


class Cache(NamedTuple):
    """One level of data caches."""

    name: str
    """L1, L2, L3."""
    size: int
    """Bytes of one cache."""
    number: int
    """Caches of this level that the usable CPUs have between them."""


class WorkingSet(NamedTuple):
    """What one level is measured with."""

    name: str
    """L1, L2, L3 or memory."""
    capacity: int
    """Bytes that the level holds for all threads together; 0 for memory."""
    size: int
    """Bytes of one thread's three arrays."""

    @property
    def elements(self) -> int:
        """Of one array; a multiple of 512, so that the arrays' distance modulo a page is the gap's."""
        return max(512, self.size // ELEMENT // 512 * 512)


class Plan(NamedTuple):
    """Working sets from the smallest cache to memory, and what there is none for."""

    sets: tuple[WorkingSet, ...]
    notes: tuple[str, ...]


class NoKernelError(Exception):
    """The kernel could not be compiled or loaded; the message says why."""


def measure(threads: int, seconds: float, kernel: Kernel | None = None) -> Measured:
    """Attainable bytes a second by level.

    Without a C compiler only the last cache and memory are measured, by PyTorch's own triad.

    Args:
        threads: that work at the same time, each on arrays of its own.
        seconds: for the repeats of all levels together.
        kernel: where the sizes of caches are read.
    """
    from mnv3_bench.environment import affinity_list, usable_memory

    cpus = affinity_list() or [0]
    planned = plan(caches(kernel or Kernel(), cpus), threads, usable_memory())
    with tempfile.TemporaryDirectory() as folder:
        try:
            library, how = compiled(Path(folder))
        except NoKernelError as error:
            slow = planned.sets[-2:] if len(planned.sets) > 1 else planned.sets
            reached = [_by_torch(each, threads, seconds / len(slow)) for each in slow]
            left_out = [each.name for each in planned.sets if each not in slow]
            why = (
                f"Bandwidth of {' and '.join(left_out) or 'caches'} was not measured, and that of the rest by PyTorch: "
                f"{error}. Any C compiler will do: `apt-get install gcc`."
            )
            return Measured(tuple(reached), (*planned.notes, why))
        found = []
        for each in planned.sets:
            rates = _by_kernel(library, each, threads, seconds / len(planned.sets))
            found.append(roof(each.name, rates, _method(f"triad in C ({how})", each, threads), each.capacity))
    return Measured(tuple(found), planned.notes)


def caches(kernel: Kernel, cpus: Sequence[int]) -> tuple[Cache, ...]:
    """Data caches from the smallest level on; none where the system does not tell.

    Sizes are those of the first CPU, as /sys/devices/system/cpu/cpu*/cache has them. In a virtual machine they are what
    the hypervisor says, and a cache of the host may be shared with others.

    Args:
        kernel: where to read.
        cpus: that may be used; the first one's sizes hold for all.
    """
    found: dict[int, Cache] = {}
    for index in range(16):
        folder = f"{CPU}/cpu{cpus[0]}/cache/index{index}"
        level, size = kernel.number(f"{folder}/level"), _bytes(kernel.text(f"{folder}/size"))
        if level is None:
            break
        if size and kernel.text(f"{folder}/type") in ("Data", "Unified"):
            sharing = kernel.of_cpus(cpus, f"cache/index{index}/shared_cpu_list")
            groups = {frozenset(parse_cpus(text)) for text in sharing.values()}
            found[level] = Cache(f"L{level}", size, len(groups) or 1)
    return tuple(found[level] for level in sorted(found))


def _bytes(text: str | None) -> int:
    """'48K' as bytes; 0 for what is no size."""
    if not text or not text.rstrip("KMG").isdigit():
        return 0
    return int(text.rstrip("KMG")) * {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1], 1)


def plan(levels: Sequence[Cache], threads: int, memory: int) -> Plan:
    """Sizes of working sets.

    L1 gets half of a thread's share of it. Every further cache gets the geometric mean of its share and that of the
    level before, so that a set is well beyond the one and well within the other; where that is not possible the level
    is left out. Memory gets `BEYOND` times the last cache, between all threads.

    Args:
        levels: from the smallest on.
        threads: that share them.
        memory: bytes that this process may use; a quarter of them is taken at most.
    """
    sets: list[WorkingSet] = []
    notes = []
    before = 0.0
    for level in levels:
        capacity = level.size * min(threads, level.number)
        share = capacity / threads
        size = max(math.sqrt(before * share), APART * before) if before else share / 2
        if size <= WITHIN * share:
            sets.append(WorkingSet(level.name, capacity, int(size)))
        else:
            notes.append(
                f"Bandwidth of {level.name} was not measured: a thread's share of it is hardly larger than that of the "
                "cache before."
            )
        before = max(before, share)
    last = levels[-1].size * levels[-1].number if levels else 0
    wanted = BEYOND * last if levels else UNKNOWN
    total = min(wanted, MOST, memory // 4)
    if not levels:
        notes.append("Bandwidth of caches was not measured: the system does not tell their sizes.")
    elif total < wanted:
        notes.append(
            f"Bandwidth of memory was measured on {total / 2**20:.0f} MiB, {total / last:.1f} times the last cache "
            f"({BEYOND} times is the rule): some of it may be the cache's."
        )
    sets.append(WorkingSet("memory", 0, total // threads))
    return Plan(tuple(sets), tuple(notes))


def compiled(folder: Path) -> tuple[ctypes.CDLL, str]:
    """Compile the kernel for this very processor and load it.

    Args:
        folder: for the library, which stays loaded when its file is deleted.

    Returns:
        The library, and compiler and flags in words.

    Raises:
        NoKernelError: there is no compiler, it fails, or what it makes cannot be loaded.
    """
    named = shlex.split(os.environ.get("CC", ""))
    found = next(filter(None, (shutil.which(name) for name in (*named[:1], *COMPILERS))), None)
    if found is None:
        raise NoKernelError("no C compiler was found")
    target, reason = folder / "bandwidth.so", ""
    for flags in FLAGS:
        command = [found, *flags, "-shared", "-fPIC", "-o", str(target), str(SOURCE)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
            library = ctypes.CDLL(str(target))
        except subprocess.CalledProcessError as error:
            reason = _complaint(error.stderr)
            continue
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NoKernelError(f"the kernel could not be built with {Path(found).name}: {error}") from error
        pointers = (ctypes.c_void_p,) * 3
        library.fill.argtypes = (*pointers, ctypes.c_ssize_t)
        library.triad.argtypes = (*pointers, ctypes.c_double, ctypes.c_ssize_t, ctypes.c_ssize_t)
        library.fill.restype = library.triad.restype = None
        return library, f"{Path(found).name} {' '.join(flags)}"
    raise NoKernelError(f"{Path(found).name} could not compile the kernel: {reason}")


def _complaint(text: str) -> str:
    """The line of a compiler's output that says what is wrong, without this machine's folders."""
    lines = text.replace(str(SOURCE), SOURCE.name).strip().splitlines() or ["it does not say why"]
    return next((line for line in lines if "error" in line), lines[-1])[:200].rstrip(".")


class _Turns:
    """Repeats that all threads begin together. Between two of them one thread looks at the time and decides."""

    def __init__(self, threads: int, elements: int, seconds: float) -> None:
        self.barrier = threading.Barrier(threads, action=self._decide)
        self.passes = 1
        self.spans: list[tuple[float, float]] = []
        """Begin and end of the repeat by each thread."""
        self.rates: list[float] = []
        self.over = False
        self._bytes = threads * elements * ELEMENT
        self._warm = False
        self._seconds = seconds
        self._end = math.inf

    def _decide(self) -> None:
        spans, self.spans = self.spans, []
        if not spans:
            return  # arrays were filled
        elapsed = max(end for _, end in spans) - min(start for start, _ in spans)
        if not self._warm:
            # The first repeats bring the arrays into the cache and find out how many passes a repeat takes.
            if elapsed < REPEAT_SECONDS:
                self.passes = math.ceil(self.passes * min(2 * REPEAT_SECONDS / max(elapsed, 1e-9), 100))
                return
            self._warm, self._end = True, time.perf_counter() + self._seconds
            return
        self.rates.append(self.passes * self._bytes / elapsed)
        self.over = time.perf_counter() >= self._end and len(self.rates) >= FEWEST


def _by_kernel(library: ctypes.CDLL, of: WorkingSet, threads: int, seconds: float) -> list[float]:
    """Bytes a second of every repeat: all threads' bytes over the time from the first's begin to the last's end."""
    turns = _Turns(threads, of.elements, seconds)

    def work() -> None:
        try:
            a, b, c, _owner = _arrays(of.elements)
            library.fill(a, b, c, of.elements)
            turns.barrier.wait()
            while not turns.over:
                start = time.perf_counter()
                library.triad(a, b, c, 0.5, of.elements, turns.passes)
                turns.spans.append((start, time.perf_counter()))
                turns.barrier.wait()
        except BaseException:
            turns.barrier.abort()  # or the others would wait for ever
            raise

    with ThreadPoolExecutor(threads) as pool:
        errors = [future.exception() for future in [pool.submit(work) for _ in range(threads)]]
    for error in errors:
        if error is not None and not isinstance(error, threading.BrokenBarrierError):
            raise error
    return turns.rates


def _arrays(elements: int) -> tuple[int, int, int, object]:
    """Addresses of three arrays, and what keeps them alive. No page is touched."""
    step = (elements + GAP) * 8
    buffer = np.empty(3 * step + ALIGNMENT, np.uint8)
    first = -(-buffer.ctypes.data // ALIGNMENT) * ALIGNMENT
    return first, first + step, first + 2 * step, buffer


def _by_torch(of: WorkingSet, threads: int, seconds: float) -> Roof:
    """The same triad as one operator of PyTorch, split between its threads: too slow to call for small caches."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        count = of.elements * threads
        # Filled by the threads that will use them: both are split alike.
        a, b, c = (torch.empty(count, dtype=torch.float64).fill_(value) for value in (0.0, 1.0, 2.0))

        def call() -> object:
            return torch.add(b, c, alpha=0.5, out=a)

        rates = _rates(call, count * ELEMENT, seconds)
    finally:
        torch.set_num_threads(before)
    return roof(of.name, rates, _method("triad by torch.add", of, threads), of.capacity)


def _rates(call: Callable[[], object], moved: int, seconds: float) -> list[float]:
    """Bytes a second of every repeat, each of several calls."""
    call()
    start = time.perf_counter()
    call()
    number = max(1, math.ceil(REPEAT_SECONDS / (time.perf_counter() - start)))
    rates: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(rates) < FEWEST:
        start = time.perf_counter()
        for _ in range(number):
            call()
        rates.append(number * moved / (time.perf_counter() - start))
    return rates


def _method(kernel: str, of: WorkingSet, threads: int) -> str:
    whole = threads * of.elements * ELEMENT
    level = f" in {_kibibytes(of.capacity)} of {of.name}" if of.capacity else ""
    return f"{kernel}, 24 B an element, arrays of {_kibibytes(whole)} together{level}"


def _kibibytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB" if size >= 8 << 20 else f"{size / 2**10:,.0f} KiB"
