"""`mnv3-bench gate`: whole gates in real processes, and its decisions on synthetic arms."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from fakes.mnv3_fakes import registered
from reports import factory

from mnv3_bench.errors import UsageError
from mnv3_bench.gate import command as do
from mnv3_bench.gate.arm_worker import ArmAnswer
from mnv3_bench.gate.arms import Arm, PreparedArm
from mnv3_bench.gate.command import Gate, GateAsked, open_gate, overall, write_gate
from mnv3_bench.gate.trial import CellEpoch, Question, TooLittleTimeError, Trial, Umpire
from mnv3_bench.plan import Asked
from mnv3_bench.prepare_worker import save_arrays
from mnv3_reports.record import Cell, Failure
from mnv3_reports.verdict import Check, GateReport, Verdict
from mnv3_reports.verdict_formats import from_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TINY = ("--resolutions", "64", "--backends", "eager")
SMALL, LARGE = "small@0.35", "large@0.35"


# Whole gates


@pytest.fixture
def environment(tmp_path: Path, artifact_cache: Path) -> dict[str, str]:
    return {
        **registered(tmp_path / "fakes"),
        "MNV3_BENCH_CACHE": str(artifact_cache),
        "XDG_CACHE_HOME": str(tmp_path),
        "GITHUB_ACTIONS": "",
        "GITHUB_STEP_SUMMARY": "",
    }


def gate(*arguments: str, env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mnv3_bench.cli", "gate", *arguments, "--output", "out"],
        env=env,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def report_of(directory: Path) -> GateReport:
    return from_json((directory / "out" / "gate.json").read_bytes())


@pytest.mark.slow
def test_identical_arms_pass_and_everything_is_written_that_ci_reads(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("what an earlier step wrote\n")
    github = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)}
    done = gate(
        *("--base", SMALL, "--head", SMALL, "--deterministic-only", *TINY),
        env={**environment, **github},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    report = report_of(tmp_path)
    assert (report.verdict, report.exit_code, report.stopped_because) == (Verdict.PASS, 0, "deterministic")
    (cell,) = report.cells
    assert cell.ratio is None
    assert {"parameters", "macs", "artifact_bytes", "peak_bytes"} <= {check.name for check in cell.checks}
    markdown = (tmp_path / "out" / "gate.md").read_text()
    assert summary.read_text() == f"what an earlier step wrote\n{markdown}\n"
    suites = ET.parse(tmp_path / "out" / "gate.junit.xml").getroot()
    assert (suites.get("failures"), suites.get("errors")) == ("0", "0")
    assert any(cell.cell in (case.get("name") or "") for case in suites.iter("testcase"))
    assert "PASS: no regression in 1 cell" in done.stdout
    assert "::error" not in done.stdout
    assert f"report: {tmp_path.resolve() / 'out' / 'gate.md'}" in done.stdout
    # The folder is not written over.
    again = gate("--base", SMALL, "--head", SMALL, *TINY, env=environment, cwd=tmp_path)
    assert again.returncode == 2
    assert "is not empty; type another folder" in again.stderr


@pytest.mark.slow
@pytest.mark.thorough
def test_a_larger_network_fails_without_being_timed(tmp_path: Path, environment: dict[str, str]) -> None:
    done = gate(
        *("--base", SMALL, "--head", LARGE, "--deterministic-only", *TINY),
        env={**environment, "GITHUB_ACTIONS": "true"},
        cwd=tmp_path,
    )
    assert done.returncode == 1, done.stderr
    report = report_of(tmp_path)
    (cell,) = report.cells
    assert (report.verdict, cell.verdict) == (Verdict.FAIL, Verdict.FAIL)
    assert (Cell.from_key(cell.base_cell).variant, Cell.from_key(cell.cell).variant) == (
        "v3-small@0.35",
        "v3-large@0.35",
    )
    worse = {check.name for check in cell.checks if check.verdict is Verdict.FAIL}
    assert {"parameters", "macs", "activations", "artifact_bytes"} <= worse
    assert "v3-large@0.35/eager" in report.summary
    assert "parameters 1,358,808 -> 2,132,216" in cell.reason
    assert "::error" in done.stdout
    assert not (tmp_path / "out" / "epochs.jsonl").exists()


@pytest.mark.slow
def test_too_little_time_is_inconclusive_and_says_how_much_to_give(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    done = gate(
        *("--base", SMALL, "--head", SMALL, "--time-budget", "1s", *TINY), env=environment, cwd=tmp_path
    )
    assert done.returncode == 3, done.stderr
    report = report_of(tmp_path)
    assert (report.verdict, report.stopped_because) == (Verdict.INCONCLUSIVE, "budget")
    assert "type --time-budget " in report.summary
    # What was measured is there nevertheless.
    assert len((tmp_path / "out" / "epochs.jsonl").read_text().splitlines()) == 1


@pytest.mark.slow
def test_a_slowdown_made_on_purpose_fails_and_is_labelled(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    done = gate(
        *("--base", SMALL, "--head", SMALL, "--inject-slowdown", "60%", "--time-budget", "90s", *TINY),
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 1, f"{done.stdout}\n{done.stderr}"
    report = report_of(tmp_path)
    (cell,) = report.cells
    assert (cell.verdict, report.injected) == (Verdict.FAIL, 0.6)
    assert cell.ratio is not None
    assert cell.ratio.low > 1.03
    assert cell.decided_at == cell.epochs >= 5
    assert "TEST OF THE GATE" in done.stdout
    lines = (tmp_path / "out" / "epochs.jsonl").read_text().splitlines()
    assert len(lines) == cell.epochs


NETWORK = """
from torch import nn

def make():
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.{activation}(), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(stem, nn.Flatten(), nn.Linear(8, 5))
"""


@pytest.mark.slow
@pytest.mark.thorough
def test_two_commits_whose_networks_compute_different_things_cannot_be_compared(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()

    def git(*arguments: str) -> None:
        author = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        config = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
        subprocess.run(["git", *author, *arguments], cwd=repository, check=True, env={**os.environ, **config})

    git("init", "--quiet")
    for activation in ("ReLU", "Tanh"):
        (repository / "net.py").write_text(NETWORK.format(activation=activation))
        git("add", "--all")
        git("commit", "--quiet", "--message", activation)
    done = gate(
        *("--base", "git:HEAD~1", "--head", "git:HEAD", "--variants", "net:make", *TINY),
        env=environment,
        cwd=repository,
    )
    assert done.returncode == 4, f"{done.stdout}\n{done.stderr}"
    report = report_of(repository)
    (cell,) = report.cells
    assert cell.verdict is Verdict.INVALID
    assert "compute different outputs" in cell.reason
    assert "--allow-different-outputs" in cell.reason
    assert report.base.commit != report.head.commit
    # Both were built from their own sources, though the names are the same.
    assert all(check.verdict is Verdict.PASS for check in cell.checks)
    assert not (repository / "out" / "checkouts").exists()


# Decisions on synthetic arms


def opened(tmp_path: Path, run_asked: Asked | None = None, **asked: Any) -> Gate:
    given = {"base": "small", "head": "small", **asked}
    found = open_gate(GateAsked(**given), run_asked or Asked(output=str(tmp_path / "gate")), "gate")
    found.tell = lambda text: None
    return found


def arm(tmp_path: Path, name: str, variants: tuple[str, ...] = ("v3-small",), **changed: Any) -> PreparedArm:
    """An arm that has prepared its eager and ONNX Runtime cells; its networks' outputs are seeded."""
    run = factory.whole_run(
        factory.request(variants, (), ("eager", "onnxruntime")), epochs=1, rounds=1, calls=1
    )
    references = {}
    for variant in variants:
        outputs = np.random.default_rng(0).normal(size=(4, 10)).astype(np.float32)
        file = tmp_path / f"{name}-{variant}.npz"
        save_arrays(file, [outputs])
        references[f"{variant}@224"] = str(file)
    answer = ArmAnswer(
        protocol=1,
        python="3.11",
        packages={},
        commit=None,
        artifacts={key: str(tmp_path) for key in run.cells},
        references=references,
        images={"224": str(tmp_path / "images")},
    )
    return PreparedArm(Arm(name, f"--{name}", **changed), run, answer)


def change_outputs(prepared: PreparedArm, change: Callable[[Any], Any]) -> None:
    (file,) = prepared.answer.references.values()
    with np.load(file) as stored:
        outputs = stored["0"]
    save_arrays(Path(file), [change(outputs)])


def verdicts(gate: Gate, base: PreparedArm, head: PreparedArm) -> list[tuple[Verdict | None, str]]:
    return [(contest.verdict, contest.reason) for contest in do._contests(gate, base, head)]


def test_equal_arms_leave_everything_to_the_clock(tmp_path: Path) -> None:
    found = verdicts(opened(tmp_path), arm(tmp_path, "base"), arm(tmp_path, "head"))
    assert found == [(None, ""), (None, "")]


@pytest.mark.parametrize("allowed", [False, True])
def test_outputs_that_differ_by_more_than_rounding_are_invalid_unless_meant(
    tmp_path: Path, allowed: bool
) -> None:
    gate = opened(tmp_path, allow_different_outputs=allowed)
    base, head = arm(tmp_path, "base"), arm(tmp_path, "head")
    change_outputs(head, lambda outputs: outputs * (1 + 1e-5))
    assert verdicts(gate, base, head)[0][0] is None
    change_outputs(head, lambda outputs: outputs * 1.05)
    verdict, reason = verdicts(gate, base, head)[0]
    assert verdict is (None if allowed else Verdict.INVALID)
    assert ("not the same network" in reason) is not allowed
    change_outputs(head, lambda outputs: outputs * np.nan)
    assert verdicts(gate, base, head)[0][0] is (None if allowed else Verdict.INVALID)


def test_outputs_of_other_weights_may_differ_but_not_in_shape(tmp_path: Path) -> None:
    gate = opened(tmp_path)
    base, head = arm(tmp_path, "base"), arm(tmp_path, "head", weights="w.pth")
    change_outputs(head, lambda outputs: -outputs)
    assert verdicts(gate, base, head)[0][0] is None
    change_outputs(head, lambda outputs: outputs[:, :7])
    verdict, reason = verdicts(gate, base, head)[0]
    assert verdict is Verdict.INVALID
    assert "different shapes (4x10; 4x7)" in reason


@pytest.mark.parametrize(
    ("side", "verdict", "reason"),
    [
        ("head", Verdict.FAIL, "the head arm failed (prepare): no C++ compiler"),
        ("base", Verdict.INVALID, "the base arm failed (prepare): no C++ compiler"),
        ("both", Verdict.INVALID, "the base arm failed (prepare): no C++ compiler"),
    ],
)
def test_cells_that_an_arm_could_not_prepare(
    tmp_path: Path, side: str, verdict: Verdict, reason: str
) -> None:
    base, head = arm(tmp_path, "base"), arm(tmp_path, "head")
    key = Cell("v3-small", "eager").key
    for name, prepared in (("base", base), ("head", head)):
        if side in (name, "both"):
            prepared.run.add(Failure(key, "prepare", "no C++ compiler"))
    found = verdicts(opened(tmp_path), base, head)
    assert found == [(verdict, reason), (None, "")]


def test_a_cell_that_an_arm_lacks_is_invalid(tmp_path: Path) -> None:
    base, head = arm(tmp_path, "base", ("v3-small", "v3-large")), arm(tmp_path, "head")
    found = verdicts(opened(tmp_path), base, head)
    assert found[:2] == [(None, ""), (None, "")]
    assert found[2:] == [(Verdict.INVALID, "the head arm has no such cell")] * 2
    backwards = verdicts(opened(tmp_path / "backwards"), head, base)
    assert backwards[2:] == [(Verdict.INVALID, "the base arm has no such cell")] * 2


def test_rules_hold_for_their_cells_and_unmatched_ones_are_noted(tmp_path: Path) -> None:
    gate = opened(
        tmp_path,
        margin="7%",
        rules={"*/eager": {"latency": "2%"}, "v9/*": {"size": "1%"}},
        rules_from="gate.toml",
    )
    contests = do._contests(gate, arm(tmp_path, "base"), arm(tmp_path, "head"))
    assert [contest.rules.latency for contest in contests] == pytest.approx([0.02, 0.07])
    assert gate.notes == ["the rule for 'v9/*' matches no cell of this gate"]


def test_bad_rules_and_settings_are_found_before_anything_is_made(tmp_path: Path) -> None:
    for asked in (
        {"rules": {"*": {"size": "much"}}},
        {"margin": "0"},
        {"detect": "3%"},
        {"inject_slowdown": "-5%"},
        {"alpha": 0.0001},
        {"base": None},
    ):
        with pytest.raises(UsageError):
            opened(tmp_path, **asked)
    with pytest.raises(UsageError, match="--time-budget"):
        opened(tmp_path, Asked(output=str(tmp_path / "gate"), time_budget="soon"))
    assert not (tmp_path / "gate").exists()


def test_the_seed_orders_and_weights_are_found_from_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    gate = opened(tmp_path, Asked(output="gate", seed=5, variants="small", weights="small=w.pth"))
    assert gate.order_seed == 5
    here = Arm("here", "--base")
    assert do._asked_of_arms(gate, (here, here))["weights"] == [f"small={tmp_path.resolve() / 'w.pth'}"]


def epoch(key: str, number: int, difference: float) -> CellEpoch:
    return CellEpoch(
        cell=key,
        epoch=number,
        difference=difference,
        null=0.0,
        base_seconds=0.01,
        head_seconds=0.01,
        base_interference=0.0,
        head_interference=0.0,
        start_seconds=0.1,
        blocks=(),
    )


def timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, perform: Callable[[Trial, Sequence[Question]], None]
) -> GateReport:
    """A gate whose trial goes as `perform` has it."""

    class Acted(Umpire):
        def run(self, questions: Sequence[Question]) -> Trial:
            self.trial = Trial(tuple(questions))
            perform(self.trial, questions)
            return self.trial

    monkeypatch.setattr(do, "Umpire", Acted)
    gate, base, head = opened(tmp_path), arm(tmp_path, "base"), arm(tmp_path, "head")
    contests = do._contests(gate, base, head)
    trial, stopped = do._hold_trial(gate, base, head, contests)
    return do._report(gate, base, head, contests, trial, stopped)


def test_an_arm_that_broke_stays_broken_when_the_time_is_too_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def perform(trial: Trial, questions: Sequence[Question]) -> None:
        trial.verdicts[questions[0].key] = Verdict.FAIL
        trial.reasons[questions[0].key] = "the head arm failed in epoch 1 (load): gone"
        raise TooLittleTimeError("type --time-budget 9s")

    report = timed(tmp_path, monkeypatch, perform)
    assert [(cell.verdict, cell.reason) for cell in report.cells] == [
        (Verdict.FAIL, "the head arm failed in epoch 1 (load): gone"),
        (Verdict.INCONCLUSIVE, "type --time-budget 9s"),
    ]
    assert (report.verdict, report.exit_code, report.stopped_because) == (Verdict.FAIL, 1, "budget")


def test_an_interrupted_gate_reports_what_it_has_and_exits_130(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def perform(trial: Trial, questions: Sequence[Question]) -> None:
        trial.epochs.append({question.key: epoch(question.key, 0, 0.01) for question in questions})
        raise KeyboardInterrupt

    report = timed(tmp_path, monkeypatch, perform)
    assert (report.exit_code, report.stopped_because, report.verdict) == (
        130,
        "interrupted",
        Verdict.INCONCLUSIVE,
    )
    assert [cell.epochs for cell in report.cells] == [1, 1]
    assert report.summary.startswith("interrupted; ")


def test_cells_of_a_finished_gate_say_how_slow_and_how_sure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def perform(trial: Trial, questions: Sequence[Question]) -> None:
        for number in range(8):
            trial.epochs.append(
                {
                    q.key: epoch(q.key, number, slow + 0.001 * (-1) ** number)
                    for q, slow in zip(questions, (0.1, 0.0), strict=True)
                }
            )
        for question, verdict in zip(questions, (Verdict.FAIL, Verdict.PASS), strict=True):
            trial.verdicts[question.key], trial.decided_at[question.key] = verdict, 8

    report = timed(tmp_path, monkeypatch, perform)
    slow, same = report.cells
    assert slow.ratio is not None
    assert same.ratio is not None
    assert (slow.ratio.estimate, same.ratio.estimate) == (pytest.approx(np.exp(0.1)), pytest.approx(1.0))
    assert slow.ratio.low < slow.ratio.estimate < slow.ratio.high
    assert slow.noise == pytest.approx(0.001 * np.sqrt(8 / 7))
    assert slow.detectable is not None
    assert slow.detectable > 0.03
    assert (slow.reason, same.reason) == (
        "slower by more than the margin of 3.0 %",
        "not slower than the margin of 3.0 %",
    )
    assert (report.verdict, report.exit_code) == (Verdict.FAIL, 1)


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ("", Verdict.INVALID),
        ("pass", Verdict.PASS),
        ("pass inconclusive", Verdict.INCONCLUSIVE),
        ("inconclusive invalid pass", Verdict.INVALID),
        ("invalid fail inconclusive", Verdict.FAIL),
    ],
)
def test_the_worst_cell_decides(found: str, verdict: Verdict) -> None:
    assert overall([Verdict(name) for name in found.split()]) is verdict


def check(verdict: Verdict) -> Check:
    return Check("macs", 1.0, 2.0 if verdict is Verdict.FAIL else None, "0", verdict, True)


@pytest.mark.parametrize(
    ("timed_as", "figures", "verdict", "words"),
    [
        (Verdict.PASS, Verdict.FAIL, Verdict.FAIL, "macs 1 -> 2 (allowed 0)"),
        (Verdict.INVALID, Verdict.FAIL, Verdict.FAIL, "macs 1 -> 2"),
        (Verdict.FAIL, Verdict.FAIL, Verdict.FAIL, "why; macs 1 -> 2"),
        (Verdict.FAIL, Verdict.INVALID, Verdict.FAIL, "why"),
        (Verdict.PASS, Verdict.INVALID, Verdict.INVALID, "one arm does not have: macs"),
        (Verdict.INCONCLUSIVE, Verdict.PASS, Verdict.INCONCLUSIVE, "why"),
    ],
)
def test_the_worse_of_time_and_figures_counts(
    timed_as: Verdict, figures: Verdict, verdict: Verdict, words: str
) -> None:
    found, reason = do.outweigh(timed_as, "why", [check(figures)], slower=timed_as is Verdict.FAIL)
    assert (found, words in reason) == (verdict, True)


def test_a_summary_that_cannot_be_written_does_not_change_the_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = timed(tmp_path, monkeypatch, lambda trial, questions: None)
    written = write_gate(
        report, tmp_path / "gate", {"GITHUB_STEP_SUMMARY": str(tmp_path / "gone" / "summary.md")}
    )
    assert sorted(path.name for path in written) == ["gate.json", "gate.junit.xml", "gate.md"]
    assert "$GITHUB_STEP_SUMMARY cannot be written" in capsys.readouterr().err
    assert from_json((tmp_path / "gate" / "gate.json").read_bytes()) == report
