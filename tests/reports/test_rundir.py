"""A run comes back from disk as it was, from whichever files are left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import jsonschema  # type: ignore[import-untyped]
import msgspec
import pandas as pd
import pytest
from reports import factory

from mnv3_reports import flat, journal, rundir, schema
from mnv3_reports.record import SCHEMA_VERSION, Run, Skipped
from mnv3_reports.rundir import CELLS, RUN, SAMPLES, RunDirectoryError, load_run, write_run, write_text
from mnv3_reports.summary import Summary
from mnv3_reports.writer import write_report

if TYPE_CHECKING:
    from collections.abc import Callable


def eventful_run() -> Run:
    """A run with something of everything."""
    run = factory.whole_run(epochs=2, rounds=2, calls=3)
    cell = run.cells[run.header.cells[0]].cell
    run.add(factory.block(cell, 2, 0, (), mhz=2500.0))
    run.add(factory.block(cell, 2, 1, (1, 2), disturbed=("steal", "pressure"), mhz=2400.5))
    run.add(factory.failure(run.cells[run.header.cells[1]].cell, tail="Segmentation fault"))
    run.add(Skipped("openvino", "not installed", "pip install openvino"))
    return run


def test_a_run_comes_back_from_its_files(tmp_path: Path) -> None:
    run = eventful_run()
    written = write_run(run, tmp_path)
    assert sorted(path.name for path in written) == sorted(path.name for path in tmp_path.iterdir())
    assert load_run(tmp_path) == run


def test_a_run_without_blocks_comes_back(tmp_path: Path) -> None:
    run = Run.started(factory.header())
    write_run(run, tmp_path)
    assert load_run(tmp_path) == run


def test_a_run_comes_back_from_its_journal_even_when_older_files_lie_beside_it(tmp_path: Path) -> None:
    run = factory.whole_run(epochs=2, rounds=2, calls=3)
    stale = msgspec.structs.replace(run, finished=None, blocks=run.blocks[:3])
    write_run(stale, tmp_path)
    with journal.Journal.create(tmp_path / journal.NAME) as lines:
        for entry in factory.entries_of(run):
            lines.append(entry)
    assert load_run(tmp_path) == run
    write_report(tmp_path, with_charts=False)
    (tmp_path / journal.NAME).unlink()
    assert load_run(tmp_path) == run


def test_cells_and_samples_are_tables_that_others_read(tmp_path: Path) -> None:
    run = eventful_run()
    write_run(run, tmp_path)
    cells = pd.read_parquet(tmp_path / CELLS)
    assert list(cells.columns) == [field.name for field in flat.FIELDS]
    assert list(cells["cell"]) == list(run.cells)
    first = cells.iloc[0]
    statistics = Summary(run).statistics[first["cell"]]
    assert first["latency_median_seconds"] == statistics.latency.estimate
    assert first["latency_median_low_seconds"] == statistics.latency.low
    assert cells["status"].tolist().count("failed") == 1
    assert pd.isna(cells.iloc[1]["latency_median_seconds"])
    samples = pd.read_parquet(tmp_path / SAMPLES)
    assert samples["sample_ns"].count() == sum(len(block.samples_ns) for block in run.blocks)
    medians = samples.groupby(["cell", "epoch", "round"])["sample_ns"].median()
    block = run.blocks[5]
    assert medians[block.cell, block.epoch, block.round] == sorted(block.samples_ns)[1]


def test_columns_keep_their_types_whatever_is_missing(tmp_path: Path) -> None:
    write_run(Run.started(factory.header()), tmp_path / "empty")
    write_run(factory.whole_run(epochs=2), tmp_path / "whole")
    empty, whole = (pd.read_parquet(tmp_path / name / CELLS) for name in ("empty", "whole"))
    together = pd.concat([empty.astype(whole.dtypes.where(whole.dtypes == "float64", "object")), whole])
    assert len(together) == 24
    import pyarrow.parquet as pq

    assert pq.read_schema(tmp_path / "empty" / CELLS) == pq.read_schema(tmp_path / "whole" / CELLS)


def test_run_json_follows_the_published_schema(tmp_path: Path) -> None:
    write_run(eventful_run(), tmp_path)
    rules = schema.json_schema()
    document = json.loads((tmp_path / RUN).read_text())
    jsonschema.Draft202012Validator.check_schema(rules)
    jsonschema.Draft202012Validator(rules).validate(document)
    line_rules = {"$ref": "#/$defs/JournalEntry", "$defs": rules["$defs"]}
    for entry in factory.entries_of(eventful_run()):
        jsonschema.Draft202012Validator(line_rules).validate(json.loads(msgspec.json.encode(entry)))
    del document["header"]["request"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(rules).validate(document)


def test_the_published_schema_is_the_generated_one() -> None:
    published = Path(__file__).parents[2] / "docs" / "record-schema.json"
    assert published.read_text() == schema.text(), (
        "write it anew: python -m mnv3_reports.schema > docs/record-schema.json"
    )


def test_other_directories_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_run(factory.whole_run(epochs=1, rounds=1, calls=1), tmp_path / "mixed")
    other = factory.whole_run(factory.request(variants=("v2",), references=()), epochs=1, rounds=1, calls=1)
    write_run(other, tmp_path / "other")
    (tmp_path / "other" / RUN).replace(tmp_path / "mixed" / RUN)
    write_run(other, tmp_path / "foreign")
    (tmp_path / "foreign" / RUN).write_text('{"name": "package"}')
    write_run(other, tmp_path / "newer")
    (tmp_path / "newer" / RUN).write_text('{"header": {"schema": 5}}')
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / journal.NAME).write_bytes(b'{"type":"star')
    expected = {
        "absent": "is no directory",
        "empty": "is no run directory: it has neither journal.jsonl nor run.json",
        "mixed": "mixes two runs",
        "foreign": "is not the record of a run",
        "newer": "schema 5, this mnv3-bench reads schema 1 to 4; update",
        "torn": "nothing was recorded",
    }
    for name, message in expected.items():
        with pytest.raises(RunDirectoryError, match=message) as caught:
            load_run(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [None, 0.0, 0.5, 0.99])
def test_without_whole_samples_the_rest_is_shown_and_what_is_lost_is_named(
    tmp_path: Path, kept: float | None
) -> None:
    write_run(factory.whole_run(), tmp_path)
    samples = (tmp_path / SAMPLES).read_bytes()
    if kept is None:
        (tmp_path / SAMPLES).unlink()
    else:
        (tmp_path / SAMPLES).write_bytes(samples[: int(kept * len(samples))])
    run = load_run(tmp_path)
    assert run.blocks == []
    (lost,) = run.lost
    assert SAMPLES in lost
    write_report(tmp_path, with_charts=False)
    report = (tmp_path / "report.md").read_text()
    assert report.splitlines()[2].startswith("> **DAMAGED: no cell has a latency here, since ")
    assert "What the networks are made of" in report
    assert "DAMAGED: no cell has a latency" in (tmp_path / "report.html").read_text()


def test_what_cannot_be_written_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = factory.whole_run(epochs=1, rounds=1, calls=1)
    write_run(run, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunDirectoryError, match=r"run\.json': No space left on device"):
        write_run(factory.whole_run(epochs=2), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_is_on_the_disk_before_it_is_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    replace = Path.replace

    def replacing(self: Path, target: Path) -> Path:
        steps.append("replace")
        return replace(self, target)

    monkeypatch.setattr(
        rundir, "sync_data", lambda descriptor: steps.append(f"sync {os.fstat(descriptor).st_size}")
    )
    monkeypatch.setattr(rundir, "sync_directory", lambda directory: steps.append(f"sync {directory.name}"))
    monkeypatch.setattr(Path, "replace", replacing)
    write_text(tmp_path / "runs" / "f", "four")
    assert steps == ["sync 4", "replace", "sync runs"]


CUT_OFF = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from reports import factory
from mnv3_reports.rundir import write_run
import os, signal
left, real = {cut}, Path.replace

def replace(self, target):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return real(self, target)

Path.replace = replace
write_run(factory.whole_run(epochs=4, rounds=2, calls=3), Path({directory!r}))
"""


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_files_of_two_moments_are_never_read_as_one_and_are_written_anew_from_the_journal(
    tmp_path: Path, cut: int
) -> None:
    """A run was reported, went on, and whoever wrote its files anew was killed before so many were in place."""
    before = factory.whole_run(epochs=2, rounds=2, calls=3)
    after = factory.whole_run(epochs=4, rounds=2, calls=3)
    write_run(before, tmp_path)
    program = CUT_OFF.format(tests=str(Path(__file__).parents[1]), cut=cut, directory=str(tmp_path))
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".*.part"))) == 1
    run = load_run(tmp_path)
    if cut == 0:
        assert run == before
    else:
        assert run == msgspec.structs.replace(after, blocks=[], lost=run.lost)
        (lost,) = run.lost
        assert lost.startswith("no cell has a latency here, since '")
        assert lost.endswith(
            "samples.parquet' is of another moment of the run than run.json: "
            "whoever wrote them was cut off between the two"
        )
    with journal.Journal.create(tmp_path / journal.NAME) as lines:
        for entry in factory.entries_of(after):
            lines.append(entry)
    assert load_run(tmp_path) == after
    write_report(tmp_path, with_charts=False)
    assert list(tmp_path.glob(".*.part")) == []
    (tmp_path / journal.NAME).unlink()
    assert load_run(tmp_path) == after


def test_two_writers_of_one_file_do_not_sweep_each_other_away(tmp_path: Path) -> None:
    def inner(path: Path) -> None:
        write_text(tmp_path / "f", "of the quicker one")
        path.write_text("of the slower one")

    rundir.write_file(tmp_path / "f", inner)
    assert (tmp_path / "f").read_text() == "of the slower one"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


VERSIONS = range(1, SCHEMA_VERSION + 1)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_has_a_run_that_its_own_code_wrote(version: int) -> None:
    """Whoever raises SCHEMA_VERSION adds one of the version before, if that is not there, and one of the new."""
    old = Path(__file__).parent / f"record-v{version}"
    for name in (journal.NAME, RUN, SAMPLES):
        assert (old / name).is_file(), f"there is no {old / name}"
    assert json.loads((old / journal.NAME).read_text().split("\n")[0])["schema"] == version
    assert json.loads((old / RUN).read_text())["header"]["schema"] == version


@pytest.mark.parametrize("version", VERSIONS)
def test_a_run_of_any_version_says_the_same_from_its_journal_and_from_its_files(
    tmp_path: Path, version: int
) -> None:
    old = Path(__file__).parent / f"record-v{version}"
    for name in (RUN, SAMPLES):
        (tmp_path / name).write_bytes((old / name).read_bytes())
    run = load_run(tmp_path)
    assert (run.lost, run.header.schema) == ((), SCHEMA_VERSION)
    assert run.blocks
    assert load_run(old) == run
    written = write_report(tmp_path, with_charts=False)
    assert (tmp_path / RUN) not in written, "without a journal the record stays as it was written"
    write_run(run, tmp_path / "anew")
    assert load_run(tmp_path / "anew") == run


def test_a_place_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match="cannot write"):
        write_run(factory.whole_run(epochs=1, rounds=1, calls=1), tmp_path / "file" / "run")


def test_loading_and_reporting_a_full_run_is_quick(tmp_path: Path) -> None:
    run = factory.whole_run(factory.request(backends=tuple(factory.SPEEDUP)), epochs=4, rounds=8, calls=40)
    write_run(run, tmp_path)
    write_report(tmp_path, with_charts=False)  # imports are paid here
    begin = time.process_time()
    write_report(tmp_path, with_charts=False)
    assert time.process_time() - begin < 2.0  # 36 cells, 46,080 calls: about 0.4 s
    assert (tmp_path / SAMPLES).stat().st_size < 46_080 * 8


@pytest.mark.parametrize("without", [None, journal.NAME])
def test_a_run_of_the_first_version_is_read_and_reported(tmp_path: Path, without: str | None) -> None:
    """Written by the code of that version, with its own structs."""
    old = Path(__file__).parent / "record-v1"
    for file in (journal.NAME, RUN, SAMPLES):
        if file != without:
            (tmp_path / file).write_bytes((old / file).read_bytes())
    assert b'"schema": 1' in (tmp_path / RUN).read_bytes()
    run = load_run(tmp_path)
    assert run.header.schema == SCHEMA_VERSION
    assert (len(run.cells), len(run.blocks), run.tuned) == (4, 24, [])
    write_report(tmp_path, with_charts=False)
    report = (tmp_path / "report.md").read_text()
    assert "**v3-small, 1 thread:** `onnxruntime-int8` is " in report
    assert "`v1/eager?threads=1&batch=1&resolution=224&device=cpu` failed (prepare)" in report
    if without is None:
        # Where the journal is, the record is written anew: in this version's form.
        jsonschema.Draft202012Validator(schema.json_schema()).validate(
            json.loads((tmp_path / RUN).read_text())
        )
        assert b'"schema": 4' in (tmp_path / RUN).read_bytes()


@pytest.mark.parametrize("without", [None, journal.NAME])
def test_a_run_of_the_second_version_is_read_and_reported(tmp_path: Path, without: str | None) -> None:
    """Written by the code of that version: a search for settings, with explanations."""
    old = Path(__file__).parent / "record-v2"
    for file in (journal.NAME, RUN, SAMPLES):
        if file != without:
            (tmp_path / file).write_bytes((old / file).read_bytes())
    assert b'"schema": 2' in (tmp_path / RUN).read_bytes()
    run = load_run(tmp_path)
    assert run.header.schema == SCHEMA_VERSION
    assert (len(run.cells), len(run.blocks), len(run.tuned)) == (4, 16, 2)
    assert (run.evaluation, run.trained, run.sensitivities) == (None, [], [])
    write_report(tmp_path, with_charts=False)
    report = (tmp_path / "report.md").read_text()
    assert "`onnxruntime:spinning=off:graph=extended` (tuned) is " in report
    assert "2 operators compute in fp32" in report
    if without is None:
        jsonschema.Draft202012Validator(schema.json_schema()).validate(
            json.loads((tmp_path / RUN).read_text())
        )
        assert b'"schema": 4' in (tmp_path / RUN).read_bytes()


@pytest.mark.parametrize("without", [None, journal.NAME])
def test_a_run_of_the_third_version_is_read_and_reported(tmp_path: Path, without: str | None) -> None:
    """Written by the code of that version: a network trained for the run, latency and accuracy."""
    old = Path(__file__).parent / "record-v3"
    for file in (journal.NAME, RUN, SAMPLES):
        if file != without:
            (tmp_path / file).write_bytes((old / file).read_bytes())
    assert b'"schema": 3' in (tmp_path / RUN).read_bytes()
    run = load_run(tmp_path)
    assert run.header.schema == SCHEMA_VERSION
    assert (len(run.cells), len(run.blocks), len(run.trained)) == (2, 6, 1)
    assert (run.roofs, run.activations) == ([], [])
    complexity = run.variants[0].complexity
    assert complexity is not None
    assert {(layer.role, layer.input_shape) for layer in complexity.layers} == {("", ())}
    write_report(tmp_path, with_charts=False)
    report = (tmp_path / "report.md").read_text()
    assert "99.6 [98.4, 99.9]" in report
    assert "Where the time goes" not in report
    if without is None:
        jsonschema.Draft202012Validator(schema.json_schema()).validate(
            json.loads((tmp_path / RUN).read_text())
        )
        assert b'"schema": 4' in (tmp_path / RUN).read_bytes()


@pytest.mark.parametrize("make", [factory.tuned_run, factory.own_run])
def test_tuned_cells_and_networks_of_ones_own_come_back(tmp_path: Path, make: Callable[[], Run]) -> None:
    run = make()
    run.add(factory.explained(run.cells[run.header.cells[-1]].cell, "a reason", exact="eager"))
    write_run(run, tmp_path)
    assert load_run(tmp_path) == run
    jsonschema.Draft202012Validator(schema.json_schema()).validate(json.loads((tmp_path / RUN).read_text()))
    cells = pd.read_parquet(tmp_path / CELLS)
    assert list(cells["backend"]) == [record.cell.backend for record in run.cells.values()]
    assert cells["macs_per_image"].isna().all() == (make is factory.own_run)
    assert list(cells["tuned_from"].dropna()) == [tuned.cell for tuned in run.tuned if tuned.winner]
    samples = pd.read_parquet(tmp_path / SAMPLES)
    assert set(samples["cell"]) == set(run.cells)
