"""What is asked from libraries instead of read below a root: CPUs, hypervisor, mains power, what a run records."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mnv3_bench.noise import available

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Here:
    """This process on this machine.

    Attributes:
        cpus: logical CPUs this process may run on, ascending.
        hypervisor: what this is a virtual machine of, None on hardware.
        plugged: whether mains power is connected; None without a battery.
        recordable: which disturbances a run can record here, from `mnv3_bench.noise.available`.
    """

    cpus: tuple[int, ...]
    hypervisor: str | None
    plugged: bool | None
    recordable: Mapping[str, bool]

    @classmethod
    def now(cls) -> Here:
        """Ask for this process on this machine."""
        from mnv3_bench.environment import machine

        return cls(
            cpus=_own_cpus(),
            hypervisor=machine().hypervisor,
            plugged=_plugged(),
            recordable=available(),
        )


def _own_cpus() -> tuple[int, ...]:
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def _plugged() -> bool | None:
    import psutil

    # psutil leaves the function out on systems that have no such thing.
    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    return None if battery is None else battery.power_plugged
