"""`gate --baseline FILE`: every way it can end on synthetic runs, and once for real."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from reports.factory import MACHINE, SOFTWARE, cells_of, failure, request, whole_run

from mnv3_bench.cli import invoke
from mnv3_bench.errors import ExitCode, IncomparableError, UsageError
from mnv3_bench.gate import against_baseline as against
from mnv3_bench.gate.command import GateAsked, open_gate, run_gate, write_gate
from mnv3_bench.plan import Asked
from mnv3_reports.baseline import of_run, read_baseline, write_baseline
from mnv3_reports.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mnv3_bench.plan import Plan
    from mnv3_reports.record import Run
    from mnv3_reports.verdict import CellVerdict, GateReport

ASKED = request(("v3-small",), ("v1",), ("eager", "onnxruntime"))
SMALL_EAGER, SMALL, V1_EAGER, V1 = (cell.key for cell in cells_of(ASKED))


def measured(epochs: int = 8) -> Run:
    return whole_run(ASKED, epochs=epochs)


def slower(run: Run, key: str, factor: float) -> Run:
    """The run with one cell's calls taking so many times as long."""
    run.blocks = [
        msgspec.structs.replace(block, samples_ns=tuple(round(x * factor) for x in block.samples_ns))
        if block.cell == key
        else block
        for block in run.blocks
    ]
    return run


class Here:
    """What this machine is, and what measuring here would find."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.folder = folder
        self.file = write_baseline(folder / "baseline.json", of_run(measured()))
        self.run: Run = measured()
        self.machine, self.software = MACHINE, SOFTWARE
        self.interrupt = False
        self.stopped = "budget"
        self.plan: Plan | None = None
        self.steps: list[str] = []
        self.missing: dict[str, tuple[str, str]] = {}
        monkeypatch.setattr(against, "machine", lambda: self.machine)
        monkeypatch.setattr(against, "software", lambda: self.software)
        monkeypatch.setattr(against, "missing", lambda info: self.missing.get(info.name))
        for name in ("open_run", "prepare", "inspect", "measure"):
            monkeypatch.setattr(against.running, name, getattr(self, name))

    def open_run(self, plan: Plan, command: str) -> Here:
        self.plan = plan
        keys = [cell.key for cell in plan.cells]
        self.run.cells = {key: self.run.cells[key] for key in keys}
        self.run.blocks = [block for block in self.run.blocks if block.cell in keys]
        return self

    def prepare(self, session: Here) -> str:
        self.steps.append("prepare")
        return "artifacts"

    def inspect(self, session: Here, artifacts: str) -> None:
        self.steps.append("inspect")

    def measure(self, session: Here, artifacts: str) -> Here:
        self.steps.append("measure")
        if self.interrupt:
            raise KeyboardInterrupt
        return self

    @property
    def stopped_because(self) -> str:
        return self.stopped

    # A session's launcher, display and journal: all that is asked of them is that they end.
    @property
    def launcher(self) -> Here:
        return self

    display = journal = launcher

    def kill_all(self) -> None:
        self.steps.append("end")

    end = close = kill_all

    def gate(self, asked: Asked | None = None, **gate_asked: Any) -> GateReport:
        opened = open_gate(
            GateAsked(baseline=str(self.file), **gate_asked),
            replace(asked or Asked(), output=str(self.folder / f"gate-{len(list(self.folder.iterdir()))}")),
            "mnv3-bench gate --baseline baseline.json",
        )
        return run_gate(opened)

    def edit(self, change: Callable[[Any], object]) -> None:
        data = json.loads(self.file.read_text())
        change(data)
        self.file.write_text(json.dumps(data))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Here:
    return Here(monkeypatch, tmp_path)


def cell_of(report: GateReport, key: str) -> CellVerdict:
    (cell,) = (cell for cell in report.cells if cell.cell == key)
    return cell


# Exit codes.


def test_the_same_again_passes(here: Here) -> None:
    report = here.gate()
    assert (report.verdict, report.exit_code) == (Verdict.PASS, 0)
    assert {cell.cell for cell in report.cells} == set(here.run.cells)
    assert all(cell.ratio is not None and cell.epochs == 8 for cell in report.cells)
    assert report.base.label.startswith(f"baseline {here.file}")
    assert report.base.label.endswith("(2026-01-01)")
    assert (report.seed, report.looks, report.stopped_because) == (ASKED.seed, (), "budget")
    assert any("another time" in note for note in report.notes)
    assert here.steps[-3:] == ["end"] * 3


def test_a_slower_cell_fails_and_is_the_only_one(here: Here) -> None:
    slower(here.run, SMALL, 1.3)
    report = here.gate()
    assert report.exit_code == 1
    assert [cell.cell for cell in report.cells if cell.verdict is Verdict.FAIL] == [SMALL]
    found = cell_of(report, SMALL)
    assert found.ratio is not None
    assert found.ratio.estimate == pytest.approx(1.3, rel=1e-3)
    assert found.base_seconds is not None
    assert found.head_seconds == pytest.approx(1.3 * found.base_seconds, rel=1e-3)
    assert found.decided_at == 8
    assert "v3-small/onnxruntime +30.0 %" in report.summary


def test_a_margin_and_rules_are_those_of_any_gate(here: Here) -> None:
    slower(here.run, SMALL, 1.3)
    assert here.gate(margin="60%").exit_code == 0
    here.run = slower(measured(), SMALL, 1.3)
    report = here.gate(rules={"v3-small/onnxruntime": {"latency": "60%"}, "v9*": {"latency": "1%"}})
    assert report.exit_code == 0
    assert any("'v9*' matches no cell" in note for note in report.notes)


@pytest.mark.parametrize(("there", "now", "said"), [(3, 8, "save it again"), (8, 4, "type --time-budget")])
def test_too_few_epochs_on_one_side_are_inconclusive(here: Here, there: int, now: int, said: str) -> None:
    write_baseline(here.file, of_run(measured(there)))
    here.run = measured(now)
    report = here.gate()
    assert report.exit_code == 3
    assert all(said in cell.reason for cell in report.cells)


def test_a_worse_figure_fails_whatever_the_time_says(here: Here) -> None:
    here.edit(lambda data: data["cells"][SMALL]["prepared"].update(artifact_bytes=21_000_000))
    report = here.gate()
    assert report.exit_code == 1
    assert cell_of(report, SMALL).reason.startswith("artifact_bytes 21,000,000 -> 21,900,000")
    slower(here.run, SMALL, 1.3)
    assert cell_of(here.gate(), SMALL).reason.startswith(
        "slower by more than the margin of 3 %; artifact_bytes"
    )


def test_a_figure_the_baseline_lacks_is_invalid(here: Here) -> None:
    here.edit(lambda data: data["cells"][SMALL]["inspected"].update(fidelity=None))
    report = here.gate()
    assert report.exit_code == 4
    assert "fidelity_snr_db" in cell_of(report, SMALL).reason


def test_only_deterministic_figures_measure_nothing(here: Here) -> None:
    slower(here.run, SMALL, 2.0)
    report = here.gate(deterministic_only=True, control=V1)
    assert (report.exit_code, report.stopped_because) == (0, "deterministic")
    assert "measure" not in here.steps
    assert len(report.cells) == 4
    assert "--control is not used: nothing is timed" in report.notes


def test_only_deterministic_figures_count_on_another_machine_too(here: Here) -> None:
    here.machine = msgspec.structs.replace(MACHINE, cpu="Other", fingerprint="m2")
    assert here.gate(deterministic_only=True).exit_code == 0
    here.edit(lambda data: data["cells"][SMALL]["prepared"].update(artifact_bytes=21_000_000))
    assert here.gate(deterministic_only=True).exit_code == 1


def test_times_of_another_machine_are_refused_and_not_even_measured(here: Here) -> None:
    here.machine = msgspec.structs.replace(MACHINE, cpu="Other", fingerprint="m2")
    report = here.gate()
    assert report.exit_code == 4
    assert "measure" not in here.steps
    for cell in report.cells:
        assert cell.reason.startswith("absolute times of another machine (CPU Other against Imaginary")
        assert "--control" in cell.reason
        assert cell.ratio is None
        assert cell.checks
    here.edit(lambda data: data["cells"][SMALL]["prepared"].update(artifact_bytes=21_000_000))
    assert here.gate().exit_code == 1


def test_times_of_other_versions_are_refused(here: Here) -> None:
    here.software = msgspec.structs.replace(
        SOFTWARE, packages={**SOFTWARE.packages, "torch": "2.14.0"}, fingerprint="s2"
    )
    report = here.gate()
    assert report.exit_code == 4
    assert "other versions (torch 2.13.0 -> 2.14.0)" in report.summary


def test_a_cell_that_failed_in_the_baseline_is_invalid_and_not_measured(here: Here) -> None:
    broken = measured()
    broken.add(failure(broken.cells[SMALL].cell, "load"))
    write_baseline(here.file, of_run(broken))
    report = here.gate()
    assert report.exit_code == 4
    assert cell_of(report, SMALL).reason == (
        "the cell failed in the baseline (load): no C++ compiler | found"
    )
    assert here.plan is not None
    assert SMALL not in [cell.key for cell in here.plan.cells]


def test_a_cell_that_fails_here_is_a_failed_gate(here: Here) -> None:
    here.run.add(failure(here.run.cells[SMALL].cell, "fidelity"))
    report = here.gate()
    assert report.exit_code == 1
    assert cell_of(report, SMALL).reason.startswith("the cell failed here (fidelity)")


def test_a_cell_without_times_in_the_baseline_is_invalid(here: Here) -> None:
    here.edit(lambda data: data["cells"][SMALL].update(epochs=[]))
    report = here.gate()
    assert report.exit_code == 4
    assert cell_of(report, SMALL).reason == "the cell was not timed in the baseline"


def test_a_backend_that_is_not_installed_here_is_invalid(here: Here) -> None:
    here.missing["onnxruntime"] = ("onnxruntime is not installed", "pip install onnxruntime")
    report = here.gate()
    assert report.exit_code == 4
    assert cell_of(report, SMALL).reason.endswith("(type: pip install onnxruntime)")
    assert cell_of(report, SMALL_EAGER).verdict is Verdict.PASS


def test_nothing_that_can_be_measured_is_invalid(here: Here) -> None:
    here.missing = dict.fromkeys(("onnxruntime", "eager"), ("not installed", "pip"))
    report = here.gate()
    assert (report.exit_code, report.stopped_because) == (4, "failed")
    assert here.steps == []


def test_an_interruption_while_measuring_is_reported(here: Here) -> None:
    here.interrupt = True
    report = here.gate()
    assert (report.exit_code, report.stopped_because) == (130, "interrupted")
    assert all(cell.verdict is Verdict.INCONCLUSIVE and cell.checks for cell in report.cells)
    assert here.steps[-3:] == ["end"] * 3


def test_the_report_is_written_in_every_form(here: Here, tmp_path: Path) -> None:
    slower(here.run, SMALL, 1.3)
    folder = tmp_path / "written"
    folder.mkdir()
    written = write_gate(here.gate(), folder, {})
    assert [path.name for path in written] == ["gate.json", "gate.md", "gate.junit.xml"]
    assert json.loads(written[0].read_bytes())["exit_code"] == 1
    assert f"baseline {here.file}" in written[1].read_text()


# A control.


def elsewhere(here: Here) -> None:
    """A machine that is half as fast."""
    here.machine = msgspec.structs.replace(MACHINE, cpu="Other", fingerprint="m2")
    for key in here.run.cells:
        slower(here.run, key, 2.0)


@pytest.mark.parametrize("control", ["v1/onnxruntime", V1])
def test_ratios_to_a_control_are_compared_across_machines(here: Here, control: str) -> None:
    elsewhere(here)
    report = here.gate(control=control)
    assert report.exit_code == 0
    assert [cell.cell for cell in report.cells] == sorted([SMALL_EAGER, SMALL, V1_EAGER])
    assert any(note.startswith(f"{V1} is the control and not judged") for note in report.notes)
    assert any("not the baseline's surroundings: absolute times of another" in note for note in report.notes)
    assert against.UNSHARED_DRIFT in report.notes
    assert against.DRIFT not in report.notes


def test_a_cell_slower_than_its_control_fails(here: Here) -> None:
    elsewhere(here)
    slower(here.run, SMALL, 1.2)
    report = here.gate(control="v1/onnxruntime")
    assert report.exit_code == 1
    found = cell_of(report, SMALL)
    assert found.ratio is not None
    assert found.ratio.estimate == pytest.approx(1.2, rel=1e-3)
    assert cell_of(report, SMALL_EAGER).verdict is Verdict.PASS


def test_a_control_is_measured_even_where_it_was_not_chosen(here: Here) -> None:
    report = here.gate(Asked(variants="small", backends="onnxruntime"), control="v1/onnxruntime")
    assert [cell.cell for cell in report.cells] == [SMALL]
    assert here.plan is not None
    assert [cell.key for cell in here.plan.cells] == [SMALL, V1]


def test_a_control_that_fails_here_leaves_nothing_to_compare_with(here: Here) -> None:
    here.run.add(failure(here.run.cells[V1].cell, "measure"))
    report = here.gate(control="v1/onnxruntime")
    assert report.exit_code == 4
    assert all(cell.reason.startswith("the control failed here (measure)") for cell in report.cells)


def test_a_control_that_cannot_be_measured_here_leaves_nothing_to_compare_with(here: Here) -> None:
    here.missing["onnxruntime"] = ("not installed", "pip")
    report = here.gate(Asked(backends="eager"), control="v1/onnxruntime")
    assert report.exit_code == 4
    assert all("the control is missing" in cell.reason for cell in report.cells)


def test_a_control_of_one_setting_does_not_serve_another(here: Here) -> None:
    asked = request(("v3-small",), ("v1",), ("onnxruntime",), threads=(1, 2))
    write_baseline(here.file, of_run(whole_run(asked, epochs=8)))
    here.run = whole_run(asked, epochs=8)
    report = here.gate(control=V1)
    assert [cell.verdict for cell in report.cells if "threads=1" in cell.cell] == [Verdict.PASS]
    others = [cell for cell in report.cells if "threads=2" in cell.cell]
    assert len(others) == 2
    assert all("was not measured in this cell's setting" in cell.reason for cell in others)
    here.run = whole_run(asked, epochs=8)
    report = here.gate(control="v1/onnxruntime")
    assert (report.exit_code, len(report.cells)) == (0, 2)


def test_without_a_shared_round_there_is_no_ratio(here: Here) -> None:
    here.run.blocks = [
        msgspec.structs.replace(block, round=block.round + 100) if block.cell == V1 else block
        for block in here.run.blocks
    ]
    report = here.gate(control="v1/onnxruntime")
    assert report.exit_code == 4
    assert all(cell.reason == "no round has this cell and the control here" for cell in report.cells)


# Wrong requests: one line each, before anything is measured.


@pytest.mark.parametrize(
    ("asked", "gate_asked", "said"),
    [
        (
            Asked(variants="large"),
            {},
            "no cell v3-large/(any backend); it has v1/eager, v1/onnxruntime, v3-small",
        ),
        (Asked(backends="torchscript"), {}, "no cell (any network)/torchscript"),
        (Asked(variants="small,v1", backends="compile"), {}, "no cell v3-small/compile"),
        (Asked(variants="smal"), {}, "--variants"),
        (Asked(), {"control": "v2/eager"}, "--control v2/eager: "),
        (Asked(variants="v1", backends="eager"), {"control": "v1/eager"}, "no other cell is left"),
    ],
)
def test_a_cell_the_baseline_does_not_have_is_named(
    here: Here, asked: Asked, gate_asked: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        here.gate(asked, **gate_asked)
    assert said in str(caught.value)
    assert caught.value.exit_code == ExitCode.USAGE
    assert here.steps == []


def test_typed_names_restrict_the_cells(here: Here) -> None:
    report = here.gate(Asked(variants="small", backends="all", time_budget="7s"))
    assert [cell.cell for cell in report.cells] == sorted([SMALL_EAGER, SMALL])
    assert here.plan is not None
    assert here.plan.request == msgspec.structs.replace(ASKED, time_budget=7.0, precision=0.0)


def test_a_control_without_times_in_the_baseline_is_refused(here: Here) -> None:
    here.edit(lambda data: data["cells"][V1].update(epochs=[]))
    with pytest.raises(UsageError, match=r"it has no times in .*; these have: v1/eager, v3-small/eager"):
        here.gate(control="v1/onnxruntime")


def test_weights_that_are_not_here_are_asked_for(here: Here) -> None:
    here.edit(lambda data: data["request"].update(weights={"v3-small": "/nowhere/small.pth"}))
    with pytest.raises(UsageError, match=r"weights from /nowhere/small\.pth, which is not here"):
        here.gate()
    assert here.gate(Asked(variants="v1")).exit_code == 0


def test_other_weights_are_noted(here: Here) -> None:
    here.edit(lambda data: data["variants"][0].update(weights="small.pth (sha256 0123)"))
    assert any("has other weights" in note and "small.pth" in note for note in here.gate().notes)


def test_a_baseline_of_a_gpu_needs_one(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(against, "sees_gpu", lambda: False)
    here.file.write_text(here.file.read_text().replace("device=cpu", "device=cuda"))
    with pytest.raises(IncomparableError, match="measured on cuda, and this machine shows no GPU"):
        here.gate()


def test_a_missing_file_another_version_and_no_baseline(
    here: Here, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def typed(file: Path, *more: str) -> tuple[int, str]:
        code = invoke(["gate", "--baseline", str(file), "--output", str(tmp_path / "out"), *more])
        error = capsys.readouterr().err
        assert error.startswith("mnv3-bench: ")
        assert error.count("\n") == 1
        return code, error

    code, error = typed(tmp_path / "none.json")
    assert (code, "--save-baseline" in error) == (2, True)
    other = tmp_path / "other.json"
    other.write_text("{}")
    code, error = typed(other)
    assert (code, "is no baseline" in error) == (2, True)
    here.edit(lambda data: data.update(schema=99))
    code, error = typed(here.file)
    assert (code, "schema 99" in error) == (4, True)
    for extra, said in (
        (["--base", "here"], "two kinds of gate"),
        (["--threads", "2", "--seed", "1"], "leave out --seed, --threads"),
        (["--detect", "5%"], "--detect needs two arms"),
        (["--time-budget", "soon"], "--time-budget"),
    ):
        code, error = typed(here.file, *extra)
        assert (code, said in error) == (2, True), error
    assert invoke(["gate", "--base", "small", "--head", "small", "--control", "v1/eager"]) == 2
    assert "--control belongs to --baseline" in capsys.readouterr().err


def test_what_a_file_says_of_runs_and_arms_does_not_disturb_a_typed_baseline(
    here: Here, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "gate.toml"
    config.write_text('variants = "large"\nthreads = 2\n[gate]\nbase = "git:main"\nhead = "here"\n')
    common = ["--config", str(config), "--output", str(tmp_path / "out")]
    assert invoke(["gate", "--baseline", str(here.file), *common]) == 0
    assert "no regression in 4 cells" in capsys.readouterr().out
    config.write_text(f'[gate]\nbase = "small"\nhead = "small"\nbaseline = "{here.file}"\n')
    assert invoke(["gate", "--config", str(config), "--output", str(tmp_path / "out2")]) == 2
    assert "two kinds of gate" in capsys.readouterr().err


# Saving.


def test_saving_says_how_many_epochs_a_gate_would_miss_and_what_failed(tmp_path: Path) -> None:
    run = measured(3)
    run.add(failure(run.cells[SMALL].cell))
    lines = against.save_baseline(run, tmp_path / "b.json", tmp_path)
    assert lines[0] == f"baseline: {tmp_path / 'b.json'}"
    assert SMALL in lines[1]
    # The run stopped because it was precise: more time alone would not help.
    assert "3 epochs" in lines[2]
    assert "--time-budget" in lines[2]
    assert "--precision" in lines[2]
    assert len(against.save_baseline(measured(8), tmp_path / "b.json", tmp_path)) == 1
    assert len(read_baseline(tmp_path / "b.json").cells[SMALL].epochs) == 8


def test_a_place_that_cannot_be_written_is_refused_before_the_run_and_keeps_it_after(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a folder"):
        against.require_writable(tmp_path)
    with pytest.raises(UsageError, match="cannot be made"):
        against.require_writable(tmp_path / "file" / "sub" / "b.json")
    with pytest.raises(
        UsageError, match=r"cannot be written: .*the run is kept, so type mnv3-bench --resume"
    ):
        against.save_baseline(measured(), tmp_path / "file" / "b.json", tmp_path)


@pytest.mark.slow
def test_for_real_a_run_is_saved_and_what_is_here_is_gated_against_it(
    tmp_path: Path, artifact_cache: Path
) -> None:
    pytest.importorskip("onnxruntime")

    def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mnv3_bench.cli", *arguments],
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "MNV3_BENCH_CACHE": str(artifact_cache)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    cell = ["--variants", "small@0.35", "--references", "none", "--resolutions", "64"]
    saved = bench(*cell, "--backends", "onnxruntime", "--time-budget", "8s", "--save-baseline", "b.json")
    assert saved.returncode == 0, saved.stderr
    assert "baseline: b.json" in saved.stdout
    baseline = read_baseline(tmp_path / "b.json")
    (key,) = baseline.cells

    def gate(change: Callable[[Any], object], *arguments: str) -> tuple[int, Any, str]:
        data = json.loads((tmp_path / "b.json").read_text())
        change(data)
        (tmp_path / "forged.json").write_text(json.dumps(data))
        folder = tmp_path / f"gate-{len(list(tmp_path.iterdir()))}"
        done = bench("gate", "--baseline", "forged.json", "--output", str(folder), *arguments)
        document = json.loads((folder / "gate.json").read_bytes()) if (folder / "gate.json").is_file() else {}
        return done.returncode, document, done.stderr

    code, report, error = gate(lambda data: None, "--deterministic-only")
    assert code == 0, error
    assert report["cells"][0]["checks"]

    # Noise decides between the verdicts that a timed gate on the same code may have; a wide margin leaves one.
    code, report, error = gate(lambda data: None, "--time-budget", "8s", "--margin", "95%")
    found = report["cells"][0]
    few = min(len(baseline.cells[key].epochs), found["epochs"]) < 5
    assert code == (3 if few else 0), error
    assert found["ratio"]["n"] == found["epochs"] >= 3

    code, report, _ = gate(lambda data: data["machine"].update(fingerprint="another", cpu="Forged CPU"))
    assert code == 4
    assert "Forged CPU" in report["cells"][0]["reason"]

    code, report, error = gate(lambda data: data.update(schema=99))
    assert (code, report) == (4, {})
    assert "schema 99" in error

    smaller = {"artifact_bytes": baseline.cells[key].prepared.artifact_bytes - 1}  # type: ignore[union-attr]
    code, report, _ = gate(
        lambda data: data["cells"][key]["prepared"].update(smaller), "--deterministic-only"
    )
    assert code == 1
    assert "artifact_bytes" in report["summary"] + report["cells"][0]["reason"]
