"""The roofline of this machine: arithmetic and bandwidth that the suite itself attains, in seconds (docs/roofline.md).

Source of the model: Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for multicore
architectures", Communications of the ACM 52(4), 2009.
"""

from __future__ import annotations

import time

from mnv3_bench.roofline import bandwidth, compute
from mnv3_reports.record import Roofs

__all__ = ["measure"]


def measure(threads: int, seconds: float = 6.0) -> Roofs:
    """Measure what the machine attains with so many threads.

    To be called in a process that does nothing else. Bandwidth comes first: thread pools that arithmetic starts may
    spin for a while. What cannot be measured here is in the notes of the result.

    Args:
        threads: that work at the same time; nothing pins them.
        seconds: about how long repeats may take, half of it bandwidth. Compiling and filling arrays come on top, and
            every roof gets a few repeats however little time there is.

    Raises:
        ValueError: fewer than one thread, or no time.
    """
    if threads < 1:
        raise ValueError(f"{threads} threads; at least 1 is needed")
    if not seconds > 0:
        raise ValueError(f"{seconds} seconds; more than 0 are needed")
    start = time.perf_counter()
    levels = bandwidth.measure(threads, seconds / 2)
    arithmetic = compute.measure(threads, seconds / 2)
    return Roofs(
        threads=threads,
        compute=arithmetic.roofs,
        bandwidth=levels.roofs,
        seconds=time.perf_counter() - start,
        notes=(*levels.notes, *arithmetic.notes),
    )
