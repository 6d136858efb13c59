from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from mnv3_bench.errors import UsageError
from mnv3_bench.gate import selftest
from mnv3_bench.gate.simulation import CellTrace, Condition, GateTrace, epochs_of, simulate
from mnv3_bench.plan import Asked
from mnv3_reports.verdict import Verdict

if TYPE_CHECKING:
    from pathlib import Path


def trace(load: str = "idle", injected: float = 0.0, noise: float = 0.01, seed: int = 0) -> GateTrace:
    chance = np.random.default_rng(seed)
    cells = tuple(
        CellTrace(
            cell=f"v3-small/{name}?threads=1&batch=1&resolution=224&device=cpu",
            verdict=Verdict.PASS,
            reason="",
            differences=tuple((np.log1p(injected) + chance.normal(0, noise, 8)).tolist()),
            nulls=tuple(chance.normal(0, noise, 8).tolist()),
            decided_at=8,
        )
        for name in ("eager", "onnxruntime")
    )
    return GateTrace(load, injected, seed, "2026-01-01", 30.0, Verdict.PASS, 0, (8, 14, 20), cells)  # type: ignore[arg-type]


def test_conditions_are_every_load_with_every_slowdown() -> None:
    assert selftest.conditions("idle,bursty", "0,5%") == [
        Condition("idle", 0.0),
        Condition("bursty", 0.0),
        Condition("idle", 0.05),
        Condition("bursty", 0.05),
    ]
    with pytest.raises(UsageError, match="'steddy' is not a load; did you mean steady"):
        selftest.conditions("steddy", "0")
    with pytest.raises(UsageError, match="--inject"):
        selftest.conditions("idle", "fast")


def test_identical_arms_never_fail_and_slow_ones_do() -> None:
    sources = epochs_of([trace(seed=seed) for seed in range(6)], "idle")
    assert [source.shape for source in sources] == [(8, 2, 3)] * 6
    assert simulate(sources, Condition("idle", 0.0), 50).verdicts[Verdict.FAIL] == 0
    assert simulate(sources, Condition("idle", 0.10), 50).verdicts[Verdict.FAIL] == 50


def test_a_simulation_uses_identical_arms_under_its_own_load_only() -> None:
    traces = [trace("steady"), trace("idle", 0.05)]
    assert epochs_of(traces, "idle") == []
    with pytest.raises(ValueError, match="no epochs were recorded"):
        simulate([], Condition("idle", 0.0), 1)


def test_gates_go_on_from_what_was_recorded_and_a_cut_off_line_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = msgspec.json.encode(trace()) + b"\n"
    (tmp_path / selftest.GATES).write_bytes(whole + whole[:40])
    held: list[Condition] = []

    def hold(condition: Condition, seed: int, asked: Asked) -> GateTrace:
        held.append(condition)
        if len(held) == 3:
            raise KeyboardInterrupt
        return trace(condition.load, condition.injected, seed=seed)

    monkeypatch.setattr(selftest, "_one_gate", hold)
    wanted = [Condition("idle", 0.0), Condition("steady", 0.0)]
    with pytest.raises(KeyboardInterrupt):
        selftest.run_selftest(tmp_path, wanted, 2, Asked(), lambda _: None)
    assert [condition.load for condition in held] == ["steady", "idle", "steady"]
    assert len(selftest.read_traces(tmp_path)) == 3
    text = selftest.to_markdown(selftest.read_traces(tmp_path), [], "command")
    assert "| 0% | idle | 2 | 2 | 0 | 0 | 0 |" in text


def test_an_interrupted_gate_ends_the_test_and_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Report:
        stopped_because = "interrupted"

    monkeypatch.setattr(selftest, "run_gate", lambda _: Report())
    with pytest.raises(KeyboardInterrupt):
        selftest._one_gate(Condition("idle", 0.0), 0, Asked())


def test_a_load_is_gone_after_its_context() -> None:
    from mnv3_bench.gate.loads import Load

    with Load("bursty") as load:
        processes = list(load.processes)
        assert processes
        assert all(process.poll() is None for process in processes)
    assert all(process.poll() is not None for process in processes)
