"""What the processor can do, where a backend's settings depend on it."""

from __future__ import annotations

from functools import cache


@cache
def has_vnni() -> bool:
    """Whether 8-bit products are added up in 32 bits (AVX-512 VNNI, AVX-VNNI, or ARM's dot product).

    Without it, u8 x s8 products are added in 16 bits and may saturate; quantizers then take 7-bit weights.
    """
    return _has("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")


@cache
def has_bf16() -> bool:
    """Whether products of bfloat16 numbers are one instruction, and not emulated in fp32."""
    return _has("avx512_bf16", "amx_bf16", "bf16")


@cache
def has_arm_fp16() -> bool:
    """Whether an ARM processor computes with vectors of fp16 numbers (ARMv8.2-A's FEAT_FP16)."""
    return _has("asimdhp")


def _has(*names: str) -> bool:
    from mnv3_bench.environment import machine

    return not set(names).isdisjoint(machine().isa)
