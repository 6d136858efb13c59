"""Attainable arithmetic: products of large matrices by the libraries that PyTorch brings, such as oneDNN and MKL.

It is what libraries attain on their best case, not what a data sheet multiplies out of ports and clock rates: a runtime
that multiplies and accumulates all day will hardly do better. Only precisions that the processor has instructions for
are measured; emulated arithmetic is bounded by what it is emulated with.
"""

from __future__ import annotations

import math
import statistics
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from mnv3_bench.backends._cpu import has_bf16, has_vnni
from mnv3_bench.roofline.measured import FEWEST, Measured, roof

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

SIZES = (512, 1024, 1536, 2048, 4096)
"""Rows and columns of the square matrices tried; which one is best depends on caches, threads and precision."""
LEADING = 2
"""Sizes that go on when all had a few repeats."""
REPEAT_SECONDS = 5e-3
"""Calls are grouped so that a repeat lasts about as long, at least."""


class _Product(NamedTuple):
    """A way to multiply matrices in one precision."""

    precision: str
    prepare: Callable[[int], Callable[[], object]]
    """From rows and columns to a call that multiplies two such matrices."""
    method: str


def measure(threads: int, seconds: float) -> Measured:
    """Attainable operations a second, a multiply-accumulate counted as two.

    The number of threads that PyTorch had before is restored.

    Args:
        threads: of PyTorch's pool.
        seconds: for all precisions together.
    """
    import torch

    found, notes = [], []
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            products = [_fp32()]
            for way in (_bf16(), _int8()):
                if isinstance(way, _Product):
                    products.append(way)
                else:
                    notes.append(way)
            for product in products:
                rates = _rates(product.prepare, seconds / len(products))
                best = max(rates, key=lambda size: statistics.median(rates[size]))
                tried = ", ".join(map(str, rates))
                method = f"{product.method}, {best} × {best} matrices, the best of {tried}"
                found.append(roof(product.precision, rates[best], method))
    finally:
        torch.set_num_threads(before)
    return Measured(tuple(found), tuple(notes))


def _rates(prepare: Callable[[int], Callable[[], object]], budget: float) -> dict[int, list[float]]:
    """Size to operations a second of every repeat; sizes take turns, and after some turns only the leading ones.

    A size for which there is no time is left out, never the smallest one.
    """
    end = time.perf_counter() + budget
    calls: dict[int, tuple[Callable[[], object], int]] = {}
    rate = math.inf
    for size in SIZES:
        if calls and FEWEST * _operations(size) / rate > budget / 5:
            break
        call = prepare(size)
        call()  # packs, compiles, wakes threads
        once = _seconds(call, 1)
        rate = _operations(size) / once
        calls[size] = call, max(1, math.ceil(REPEAT_SECONDS / once))
    rates: dict[int, list[float]] = {size: [] for size in calls}
    turns, racing = 0, list(calls)
    while turns < FEWEST or time.perf_counter() < end:
        if turns == FEWEST:
            racing.sort(key=lambda size: statistics.median(rates[size]), reverse=True)
            racing = racing[:LEADING]
        for size in racing:
            call, number = calls[size]
            rates[size].append(number * _operations(size) / _seconds(call, number))
        turns += 1
    return rates


def _operations(size: int) -> int:
    return 2 * size**3


def _seconds(call: Callable[[], object], number: int) -> float:
    start = time.perf_counter()
    for _ in range(number):
        call()
    return time.perf_counter() - start


def _fp32() -> _Product:
    import torch

    has_mkl = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    library = "MKL" if has_mkl else "the BLAS that PyTorch was built with"
    return _Product("fp32", lambda size: _mm(size, torch.float32), f"torch.mm in fp32 by {library}")


def _has_onednn() -> bool:
    import torch

    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def _bf16() -> _Product | str:
    """The way, or why there is none."""
    import torch

    if not has_bf16():
        return "bf16 arithmetic was not measured: this processor has no instructions for it."
    if not _has_onednn():
        return "bf16 arithmetic was not measured: this PyTorch was built without oneDNN."
    return _Product("bf16", lambda size: _mm(size, torch.bfloat16), "torch.mm in bf16 by oneDNN")


def _int8() -> _Product | str:
    """The fastest way that works here, or why there is none.

    oneDNN's quantized linear layer takes weights that were packed before, as every runtime packs its own once;
    torch._int_mm packs them in every call.
    """
    if not has_vnni():
        return "int8 arithmetic was not measured: this processor has no 8-bit dot products."
    if not _has_onednn():
        return "int8 arithmetic was not measured: this PyTorch was built without oneDNN."
    ways = (
        _Product(
            "int8",
            _packed,
            "torch.ops.onednn.qlinear_pointwise by oneDNN, u8 × s8 to u8, weights packed before",
        ),
        _Product("int8", _unpacked, "torch._int_mm by oneDNN, s8 × s8 to s32"),
    )
    reasons = []
    for way in ways:
        try:
            way.prepare(64)()
        except (AttributeError, RuntimeError) as error:
            reasons.append(" ".join(str(error).split())[:120])
        else:
            return way
    return f"int8 arithmetic was not measured: {'; '.join(reasons)}"


def _mm(size: int, dtype: torch.dtype) -> Callable[[], object]:
    import torch

    a, b = (matrix.to(dtype) for matrix in _uniform(size))
    out = torch.empty(size, size, dtype=dtype)
    return lambda: torch.mm(a, b, out=out)


def _packed(size: int) -> Callable[[], object]:
    import torch

    a, b = _uniform(size)
    # In units of the scales: values around 128 in u8, around 0 in s8.
    source = (a * 250 + 128).to(torch.uint8)
    weight = (b * 250).to(torch.int8)
    scales, zeros = torch.full((size,), 1 / 250), torch.zeros(size, dtype=torch.int32)
    onednn: Any = torch.ops.onednn
    packed = onednn.qlinear_prepack(weight, None)
    out_scale = math.sqrt(size) / 300
    return lambda: onednn.qlinear_pointwise(
        source, 1 / 250, 128, packed, scales, zeros, None, out_scale, 128, torch.uint8, "none", [], ""
    )


def _unpacked(size: int) -> Callable[[], object]:
    import torch

    a, b = ((matrix * 250).to(torch.int8) for matrix in _uniform(size))
    multiply: Any = torch._int_mm
    return lambda: multiply(a, b)


def _uniform(size: int) -> Iterator[torch.Tensor]:
    """Two matrices of numbers between -0.5 and 0.5.

    Their generator is their own: the process's random numbers stay as they are.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    return (torch.rand(size, size, generator=generator) - 0.5 for _ in range(2))
