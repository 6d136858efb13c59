"""A prepared cell for benchmarks that drive workers themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mnv3_bench.backends import get_backend
from mnv3_bench.cache import Store, default_root
from mnv3_bench.launcher import Launcher
from mnv3_bench.plan import Asked, Limits, make_plan
from mnv3_bench.prepare import Artifacts, Preparer

if TYPE_CHECKING:
    from pathlib import Path

    from mnv3_reports.record import Cell, Entry


@dataclass
class PreparedCell:
    """Where a cell's artifact and inputs are."""

    cell: Cell
    artifacts: Artifacts
    limits: Limits

    @property
    def directory(self) -> Path:
        """The artifact."""
        return self.artifacts.directories[self.cell.key]

    @property
    def modules(self) -> tuple[str, ...]:
        """What the measured process imports."""
        return get_backend(self.cell.backend).info.runtime_modules


def prepared_cell(variant: str, backend: str, directory: Path, threads: int = 1) -> PreparedCell:
    """Prepare a cell through the same store a run uses."""
    plan = make_plan(Asked(variants=variant, backends=backend, references="none", threads=threads))
    entries: list[Entry] = []
    launcher = Launcher(directory / "prepare-logs", memory_limit=None)
    try:
        preparer = Preparer(
            plan.request, plan.cells, Store(default_root()), launcher, plan.limits, entries.append, print
        )
        artifacts = preparer.run(2)
    finally:
        launcher.kill_all()
    return PreparedCell(plan.cells[0], artifacts, plan.limits)
