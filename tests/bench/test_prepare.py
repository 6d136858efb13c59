"""What is prepared comes from processes forked from few that imported torch; without those it comes all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mnv3_bench import prepare
from mnv3_bench.cache import Store
from mnv3_bench.launcher import CAN_FORK, Launcher
from mnv3_bench.plan import Asked, make_plan
from mnv3_bench.prepare import Preparer

if TYPE_CHECKING:
    from pathlib import Path

    from mnv3_bench.launcher import Worker
    from mnv3_reports.record import Entry


class Counting(Launcher):
    """Remembers what it was asked to start."""

    def __init__(self, logs: Path) -> None:
        super().__init__(logs, memory_limit=None)
        self.started: list[str] = []
        self.copied: list[str] = []

    def fresh(self, name: str, threads: int) -> Worker:
        self.started.append(name)
        return super().fresh(name, threads)

    def forked(self, name: str, nursery: Worker, limit: float) -> Worker:
        self.copied.append(name)
        return super().forked(name, nursery, limit)


def prepared(directory: Path) -> tuple[Counting, list[Entry]]:
    plan = make_plan(Asked(variants="small@0.35", backends="eager", references="none", resolutions=32))
    launcher = Counting(directory / "logs")
    entries: list[Entry] = []
    try:
        preparer = Preparer(
            *(plan.request, plan.cells, Store(directory / "cache"), launcher, plan.limits),
            *(entries.append, lambda _title, _work: None),
        )
        artifacts = preparer.run(2)
        assert set(artifacts.directories) == {cell.key for cell in plan.cells}
        assert launcher.alive == []
    finally:
        launcher.kill_all()
    return launcher, entries


@pytest.mark.skipif(not CAN_FORK, reason="workers are forked on Linux only")
def test_only_two_processes_import_for_all(tmp_path: Path) -> None:
    launcher, _ = prepared(tmp_path)
    assert launcher.started == ["nursery-0", "nursery-1"]
    assert len(launcher.copied) == len(set(launcher.copied)) >= 8
    again, _ = prepared(tmp_path)
    assert again.started == again.copied == [], "all is in the store: nothing is imported"


@pytest.mark.thorough
@pytest.mark.skipif(not CAN_FORK, reason="workers are forked on Linux only")
def test_where_the_import_fails_each_imports_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "TORCH", ("module_that_nobody_has",))
    launcher, entries = prepared(tmp_path)
    assert sum(name.startswith("prepare-") for name in launcher.started) >= 3, "weights, reference, artifact"
    assert {type(entry).__name__ for entry in entries} == {"VariantFacts", "Prepared", "Explained"}
