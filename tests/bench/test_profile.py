"""`mnv3-bench profile`: one whole run in real processes, its command line, and what of a run is left to be profiled."""

from __future__ import annotations

import csv
import gzip
import io
import json
import subprocess
import sys
import time
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pytest
from fakes.mnv3_fakes import registered
from reports import factory

from mnv3_bench.backends import _pacing, get_backend
from mnv3_bench.backends.base import Backend
from mnv3_bench.backends.eager import Eager
from mnv3_bench.cli import invoke
from mnv3_bench.launcher import Launcher
from mnv3_bench.plan import Limits
from mnv3_bench.prepare import Artifacts
from mnv3_bench.profiling.stage import Profiler
from mnv3_bench.profiling.traces import TRACES
from mnv3_reports.record import Activations, Profiled, Roofs, Run
from mnv3_reports.rundir import load_run, write_run

if TYPE_CHECKING:
    from mnv3_reports.record import Cell, Entry

CRASHING, REFUSING = "fake-unprofilable-crash", "fake-unprofilable"
PROFILED = ("eager", "onnxruntime")


class Done(NamedTuple):
    """A command that has ended, and what it wrote."""

    command: subprocess.CompletedProcess[str]
    directory: Path

    @property
    def run(self) -> Run:
        return load_run(self.directory)

    def lines(self) -> list[str]:
        return self.command.stdout.splitlines()


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, artifact_cache: Path) -> Done:
    pytest.importorskip("onnxruntime", reason="pip install 'mnv3-bench[onnxruntime]'")
    folder = tmp_path_factory.mktemp("profile")
    environment = {
        **registered(folder / "fakes"),
        "MNV3_BENCH_CACHE": str(artifact_cache),
        "XDG_CACHE_HOME": str(folder),
    }
    command = subprocess.run(
        [
            *(sys.executable, "-m", "mnv3_bench.cli", "profile", "--variants", "small@0.35"),
            *("--references", "none", "--resolutions", "64", "--time-budget", "2s", "--output", "out"),
            *("--backends", ",".join((*PROFILED, REFUSING, CRASHING))),
        ],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Done(command, folder / "out")


def profiles_of(run: Run) -> dict[str, Profiled]:
    found = {record.cell.backend: record.profiled for record in run.cells.values()}
    return {backend: profiled for backend, profiled in found.items() if profiled is not None}


def test_a_run_with_profilers_that_fail_is_complete(done: Done) -> None:
    assert done.command.returncode == 0, done.command.stderr
    assert "Traceback" not in done.command.stderr
    run = done.run
    assert run.finished is not None
    assert run.finished.status == "complete"
    assert run.finished.phase_seconds["profile"] > 0
    assert all(record.failure is None for record in run.cells.values())
    assert {block.cell for block in run.blocks} == set(run.cells)
    assert set(profiles_of(run)) == set(PROFILED)


def test_what_cannot_be_profiled_has_a_note_that_says_why(done: Done) -> None:
    notes = {
        backend: [
            note for note in done.run.notes if note.startswith("no profile of") and f"/{backend}?" in note
        ]
        for backend in (*PROFILED, REFUSING, CRASHING)
    }
    assert [len(found) for found in notes.values()] == [0, 0, 1, 1]
    assert notes[REFUSING][0].endswith(": its profiler was left out of this build")
    assert notes[CRASHING][0].endswith(": the process was killed by SIGABRT")
    report = (done.directory / "report.md").read_text()
    assert "its profiler was left out of this build" in report
    assert "SIGABRT" in report


def test_operators_have_times_layers_and_all_the_arithmetic(done: Done) -> None:
    run = done.run
    (facts,) = run.variants
    assert facts.complexity is not None
    for backend, profiled in profiles_of(run).items():
        assert profiled.unmatched == "", backend
        assert profiled.repeats >= 3
        assert profiled.plain_seconds > 0
        assert all(0 <= each.lower <= each.seconds <= each.upper for each in profiled.operators)
        assert sum(each.macs for each in profiled.operators) == facts.complexity.macs
        kinds = {each.kind for each in profiled.operators}
        assert {"convolution", "pointwise", "depthwise", "squeeze-excitation", "linear"} <= kinds
    assert "normalization" in {each.kind for each in profiles_of(run)["eager"].operators}
    assert "normalization" not in {each.kind for each in profiles_of(run)["onnxruntime"].operators}


def test_roofs_and_activations_are_measured_once_for_all_cells(done: Done) -> None:
    run = done.run
    (roofs,) = run.roofs
    assert roofs.threads == 1
    assert "fp32" in {roof.name for roof in roofs.compute}
    assert all(roof.value > 0 for roof in (*roofs.compute, *roofs.bandwidth))
    (activations,) = run.activations
    assert (activations.variant, activations.resolution, activations.batch) == ("v3-small@0.35", 64, 1)
    assert activations.input_bytes == 3 * 64 * 64 * 4
    assert max(step.peak_bytes for step in activations.steps) > 0


def test_what_was_found_is_in_the_document_of_the_run(done: Done) -> None:
    text = (done.directory / "run.json").read_text()
    document: dict[str, Any] = json.loads(text)
    assert document["header"]["request"]["profiled"] is True
    assert len(document["roofs"]) == len(document["activations"]) == 1
    assert text.count('"operators"') >= len(PROFILED)


def test_traces_lie_where_the_record_says(done: Done) -> None:
    written = set()
    for backend, profiled in profiles_of(done.run).items():
        (trace,) = profiled.traces
        assert not Path(trace).is_absolute()
        written.add(done.directory / trace)
        events = json.loads(gzip.decompress((done.directory / trace).read_bytes()))["traceEvents"]
        names = {event.get("name") for event in events}
        assert {each.name for each in profiled.operators} <= names, backend
    assert {path for path in (done.directory / TRACES).rglob("*") if path.is_file()} == written


def test_every_operator_is_a_row_of_the_table(done: Done) -> None:
    rows = list(csv.DictReader(io.StringIO((done.directory / "operators.csv").read_text())))
    for backend, profiled in profiles_of(done.run).items():
        mine = [row for row in rows if row["backend"] == backend]
        assert [row["kind"] for row in mine] == [each.kind for each in profiled.operators]
    assert {row["backend"] for row in rows} == set(PROFILED)


def test_the_reports_say_where_the_time_goes(done: Done) -> None:
    assert "## Where the time goes" in (done.directory / "report.md").read_text()
    assert "Where the time goes" in (done.directory / "report.html").read_text()


def test_a_line_for_each_profiled_cell_is_printed(done: Done) -> None:
    *lines, last = done.lines()
    assert last == "report: out/report.md"
    cells = [line for line in lines if " ms a call: " in line]
    assert len(cells) == len(PROFILED)
    for line in cells:
        assert "depthwise" in line
        assert "%" in line


def test_a_profiled_run_is_shown_again_without_measuring(
    done: Done, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (done.directory / "journal.jsonl").read_bytes()
    assert invoke(["profile", str(done.directory), "--plain"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out.splitlines()[:-1] == done.lines()[:-1]
    assert shown.out.splitlines()[-1] == f"report: {done.directory / 'report.md'}"
    assert (done.directory / "journal.jsonl").read_bytes() == before


@pytest.fixture
def unprofiled(tmp_path: Path) -> Path:
    write_run(factory.whole_run(epochs=1, rounds=1, calls=1), tmp_path / "run")
    return tmp_path / "run"


def complaint(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert invoke(["profile", *arguments]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("mnv3-bench: ")
    assert len(told.err.splitlines()) == 1
    return told.err


def test_a_port_without_a_server_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--port is TensorBoard's; type it with --open" in complaint(["--port", "6006"], capsys)


def test_a_run_and_something_to_profile_are_not_both_taken(
    unprofiled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = complaint([str(unprofiled), "--variants", "small", "--batch-sizes", "8"], capsys)
    assert "is a run that is there already" in told
    assert "--variants" in told
    assert "--batch-sizes" in told
    told = complaint([str(unprofiled), "--cold", "--model", "net.onnx"], capsys)
    assert "--cold" in told
    assert "--model" in told


def test_a_run_without_profiles_cannot_be_shown(unprofiled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{unprofiled} has no profiles" in complaint([str(unprofiled)], capsys)


def test_a_folder_that_is_no_run_cannot_be_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere" in complaint([str(tmp_path / "nowhere"), "--plain"], capsys)


def test_nothing_is_opened_where_nothing_was_profiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "there is no profiled run in mnv3-runs" in complaint(["--open"], capsys)
    # A run that has no traces is none to open.
    (tmp_path / "mnv3-runs" / "2026-01-01T00-00-00").mkdir(parents=True)
    assert "there is no profiled run in mnv3-runs" in complaint(["--open"], capsys)


def test_the_last_profiled_run_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[Path, int | None]] = []

    def open_profile(directory: Path, port: int | None = None) -> int:
        opened.append((directory, port))
        return 0

    monkeypatch.setattr("mnv3_bench.profiling.tensorboard.open_profile", open_profile)
    monkeypatch.chdir(tmp_path)
    for name in ("2026-01-01T00-00-00", "2026-01-02T00-00-00"):
        (tmp_path / "mnv3-runs" / name / TRACES).mkdir(parents=True)
    (tmp_path / "mnv3-runs" / "2026-01-03T00-00-00").mkdir()
    assert invoke(["profile", "--open", "--port", "6006"]) == 0
    assert opened == [(Path("mnv3-runs/2026-01-02T00-00-00"), 6006)]


ASKED = factory.request(
    variants=("v3-small",),
    references=(),
    backends=("eager", "onnxruntime", "onnxruntime-int8"),
    threads=(1, 2),
    batch_sizes=(1, 8),
)


def steps_of(run: Run, cells: list[Cell], directory: Path) -> list[tuple[str, Any]]:
    """What a profiler would do, by the names of its methods and what they are given."""
    written: list[Entry] = []
    profiler = Profiler(
        directory,
        run,
        Artifacts(),
        Launcher(directory / "logs", memory_limit=None),
        Limits(),
        written.append,
        lambda _: None,
    )
    steps = profiler.steps(cells)
    assert all(isinstance(step, partial) for step in steps)
    assert written == []
    return [(step.func.__name__, *step.args) for step in steps if isinstance(step, partial)]


def profiled(cell: Cell) -> Profiled:
    return Profiled(cell.key, "made up", 1, (), 1e-3, 1e-3, complete=True)


def test_roofs_come_once_a_number_of_threads_and_activations_once_a_shape(tmp_path: Path) -> None:
    run = Run.started(factory.header(ASKED))
    cells = factory.cells_of(ASKED)
    steps = steps_of(run, cells, tmp_path)
    assert [step for step in steps if step[0] == "_measure_roofs"] == [
        ("_measure_roofs", 1),
        ("_measure_roofs", 2),
    ]
    followed = [step[1] for step in steps if step[0] == "_follow"]
    assert [(cell.variant, cell.resolution, cell.batch) for cell in followed] == [
        ("v3-small", 224, 1),
        ("v3-small", 224, 8),
    ]
    # The machine first, then the network, then cells, in their order.
    assert [step[1] for step in steps[4:]] == cells
    assert {step[0] for step in steps[4:]} == {"_profile"}


def test_what_is_recorded_is_not_profiled_again(tmp_path: Path) -> None:
    run = Run.started(factory.header(ASKED))
    cells = factory.cells_of(ASKED)
    run.add(Roofs(1, (), (), 1.0))
    run.add(Activations("v3-small", 224, 8, 1, 1, ()))
    run.add(profiled(cells[0]))
    steps = steps_of(run, cells, tmp_path)
    assert [step[1:] for step in steps if step[0] == "_measure_roofs"] == [(2,)]
    assert [step[1].batch for step in steps if step[0] == "_follow"] == [1]
    assert [step[1] for step in steps if step[0] == "_profile"] == cells[1:]
    run.add(Roofs(2, (), (), 1.0))
    run.add(Activations("v3-small", 224, 1, 1, 1, ()))
    for cell in cells:
        run.add(profiled(cell))
    assert steps_of(run, cells, tmp_path) == []


def test_cells_on_another_device_are_not_profiled(tmp_path: Path) -> None:
    asked = msgspec.structs.replace(ASKED, device="cuda", threads=(1,), batch_sizes=(1,))
    cells = factory.cells_of(asked)
    # Activations are the network's, wherever it runs.
    assert steps_of(Run.started(factory.header(asked)), cells, tmp_path) == [("_follow", cells[0])]


def test_cells_whose_runtime_has_no_means_are_not_profiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent(Eager):
        profile = Backend.profile  # type: ignore[assignment]

    def found(name: str) -> Backend:
        return Silent() if name == "onnxruntime" else get_backend(name)

    monkeypatch.setattr("mnv3_bench.profiling.stage.get_backend", found)
    steps = steps_of(Run.started(factory.header(ASKED)), factory.cells_of(ASKED), tmp_path)
    profiled = {step[1].backend for step in steps if step[0] == "_profile"}
    assert profiled == {"eager", "onnxruntime-int8"}


@pytest.mark.parametrize(("repeats", "inputs"), [*product((1, 4, 7), (1, 3))])
def test_plain_and_profiled_calls_take_turns(repeats: int, inputs: int) -> None:
    called: list[tuple[str, str]] = []
    staged = [f"input {number}" for number in range(inputs)]
    plain, under = _pacing.in_turns(
        lambda given: called.append(("plain", given)),
        lambda given: called.append(("profiled", given)),
        staged,
        repeats,
    )
    assert len(plain) == len(under) == repeats
    assert len(called) == 2 * repeats
    pairs = list(zip(called[::2], called[1::2], strict=True))
    for number, ((first, given), (second, same)) in enumerate(pairs):
        assert {first, second} == {"plain", "profiled"}
        assert given == same == staged[number % inputs]
        if number:
            # Whoever came first comes second the next time.
            assert first == pairs[number - 1][1][0]


def test_times_go_to_the_side_that_took_them() -> None:
    plain, under = _pacing.in_turns(lambda _: None, lambda _: time.sleep(0.02), [None], 3)
    assert min(under) >= 0.02 > max(plain)
