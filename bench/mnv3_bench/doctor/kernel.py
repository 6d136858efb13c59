"""Files the kernel shows, read below a root so that tests lay out a /proc and /sys of their own.

Sources: proc(5), cgroups(7), cpuset(7).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

CPU = "sys/devices/system/cpu"
"""Folder of the CPUs, below a root."""


@dataclass(frozen=True)
class Kernel:
    """Files the kernel shows, below a root. A file that is missing or may not be read is None."""

    root: Path = field(default_factory=lambda: Path("/"))

    def text(self, path: str) -> str | None:
        """Contents without surrounding blanks; None where there are none."""
        try:
            return (self.root / path).read_text(errors="replace").strip() or None
        except OSError:
            return None

    def number(self, path: str) -> int | None:
        """Contents as an integer; None where they are something else."""
        return integer(self.text(path))

    def has(self, path: str) -> bool:
        """Whether there is such a file or folder that this process may see."""
        try:
            return (self.root / path).exists()
        except OSError:
            return False

    def fields(self, path: str) -> dict[str, int]:
        """Lines of `name number` or `name: number kB`, as in cpu.stat and /proc/meminfo. Sizes in kB become bytes."""
        found = {}
        for line in (self.text(path) or "").splitlines():
            words = line.replace(":", " ").split()
            value = integer(words[1]) if len(words) > 1 else None
            if value is not None:
                found[words[0]] = value * 1024 if words[-1] == "kB" else value
        return found

    def of_cpus(self, cpus: Iterable[int], file: str) -> dict[int, str]:
        """A file of each CPU's folder, for the CPUs that have it."""
        texts = {cpu: self.text(f"{CPU}/cpu{cpu}/{file}") for cpu in cpus}
        return {cpu: text for cpu, text in texts.items() if text is not None}

    def numbers_of_cpus(self, cpus: Iterable[int], file: str) -> dict[int, int]:
        """The same for files that hold an integer."""
        numbers = {cpu: integer(text) for cpu, text in self.of_cpus(cpus, file).items()}
        return {cpu: number for cpu, number in numbers.items() if number is not None}

    def online(self) -> tuple[int, ...] | None:
        """Logical CPUs that are switched on."""
        text = self.text(f"{CPU}/online")
        return None if text is None else parse_cpus(text)

    def cgroups(self, controller: str) -> list[str]:
        """Folders of this process's cgroup and those above it, nearest first; empty where there are none to read.

        A limit anywhere above holds here too, so all are looked at. Version 2 has one hierarchy, version 1 one for each
        controller (cgroups(7)). In a container /proc/self/cgroup may give the host's path, of which only the upper end
        exists.
        """
        mount, own = self._cgroup_mount(controller)
        if mount is None:
            return []
        parts = [part for part in own.split("/") if part not in ("", "..")]
        paths = ["/".join([mount, *parts[:depth]]) for depth in range(len(parts), -1, -1)]
        return [path for path in paths if self.has(path)]

    def _cgroup_mount(self, controller: str) -> tuple[str | None, str]:
        unified = self.has("sys/fs/cgroup/cgroup.controllers")
        for line in (self.text("proc/self/cgroup") or "").splitlines():
            number, _, rest = line.partition(":")
            controllers, _, own = rest.partition(":")
            if unified and number == "0":
                return "sys/fs/cgroup", own
            if not unified and controller in controllers.split(","):
                return f"sys/fs/cgroup/{controller}", own
        return None, ""


def parse_cpus(text: str) -> tuple[int, ...]:
    """CPUs of the kernel's list format, such as `0-3,8` (cpuset(7)). An empty list is no CPU.

    Raises:
        ValueError: something else than numbers and ranges.
    """
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(found))


def format_cpus(cpus: Iterable[int]) -> str:
    """The kernel's list format, which taskset, numactl and docker read too."""
    ranges: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if ranges and cpu == ranges[-1][1] + 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def integer(text: str | None) -> int | None:
    """A text as an integer; None where it is something else."""
    try:
        return None if text is None else int(text)
    except ValueError:
        return None
