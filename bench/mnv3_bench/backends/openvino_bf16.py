"""OpenVINO, bf16."""

from __future__ import annotations

from dataclasses import replace

from mnv3_bench.backends.openvino import OpenVino


class OpenVinoBf16(OpenVino):
    """The IR of `openvino`, weights in fp32 on disk, computed in bf16.

    It is what OpenVINO does by itself on processors that have bf16 instructions. On those without, the documentation
    says that it is simulated, for development (`_openvino.SOURCES`).
    """

    info = replace(
        OpenVino.info,
        name="openvino-bf16",
        summary="OpenVINO on the CPU, bf16 (its own default on processors with bf16 instructions)",
        precision="bf16",
        floor_snr_db=20.0,
        native=None,
        exact="openvino",
    )
    arithmetic = "bf16"

    def unavailable(self) -> str | None:
        """Simulated bf16 is no faster form."""
        from mnv3_bench.environment import machine

        if {"avx512_bf16", "amx_bf16"}.isdisjoint(machine().isa):
            return "this processor has neither avx512_bf16 nor amx_bf16; OpenVINO would refuse bf16 or simulate it"
        return None
