"""What the processor can do, where a backend's settings depend on it."""

from __future__ import annotations

from functools import cache


@cache
def has_vnni() -> bool:
    """Whether 8-bit products are added up in 32 bits (AVX-512 VNNI, AVX-VNNI, or ARM's dot product).

    Without it, u8 x s8 products are added in 16 bits and may saturate; quantizers then take 7-bit weights.
    """
    from mnv3_bench.environment import machine

    return not {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}.isdisjoint(machine().isa)
