"""Run directories of strangers: nothing in them drives a terminal, leaves its folder, fills the memory or ends in a
traceback. Where a fuzzer found it, it is kept here."""

from __future__ import annotations

import csv
import io
import os
import re
import zipfile
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reports import factory
from rich.console import Console

from mnv3_reports import checking, export, fleet, journal, operators_csv, predictions, rundir, units
from mnv3_reports.escaping import plain, printable, spreadsheet
from mnv3_reports.history.imported import import_file
from mnv3_reports.history.places import HistoryError
from mnv3_reports.html.page import page_text
from mnv3_reports.layout import Column, Value, build, fenced, to_rich
from mnv3_reports.markdown import parts_of, report_text
from mnv3_reports.predictions import PredictionsError
from mnv3_reports.profile_terminal import plain_lines as profile_lines
from mnv3_reports.record import (
    Block,
    Cell,
    Epoch,
    Failure,
    Profiled,
    ProfiledOperator,
    Run,
    Skipped,
    Tuned,
)
from mnv3_reports.rundir import RUN, SAMPLES, RunDirectoryError, load_run, write_run, write_text
from mnv3_reports.summary import Summary
from mnv3_reports.terminal import accuracy_lines, advice_lines, plain_lines, summary_table
from mnv3_reports.writer import write_report

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ESCAPE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202eevil"
"""Sets a terminal's title, clears it, colours it, and turns the line around."""


def small() -> Run:
    asked = factory.request(("v3-small",), (), ("eager", "onnxruntime"))
    return factory.whole_run(asked, epochs=2, rounds=2, calls=3)


def written(run: Run, folder: Path) -> Path:
    """A journal, as that run would have left it."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [msgspec.json.encode(entry) for entry in factory.entries_of(run)]
    (folder / journal.NAME).write_bytes(b"\n".join(lines) + b"\n")
    return folder


def document(run: Run, change: Callable[[Any], object] = lambda _: None) -> bytes:
    """run.json, changed as a stranger may have."""
    value = msgspec.json.decode(msgspec.json.encode(msgspec.structs.replace(run, blocks=[])))
    change(value)
    return msgspec.json.encode(value)


def first(value: Any) -> Any:
    return next(iter(value["cells"].values()))


def refused(folder: Path) -> str:
    with pytest.raises(RunDirectoryError) as caught:
        load_run(folder)
    message = str(caught.value)
    assert message.isprintable(), message
    assert len(message) < 1000
    return message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: first(value)["cell"].update(variant="v2"), "is cell 'v2/eager"),
        (lambda value: first(value)["prepared"].update(cell="x"), "holds what is recorded of cell 'x'"),
        (lambda value: value["header"].update(cells=["a/b"]), "speaks of cell 'a/b'"),
        (lambda value: value["epochs"][0].update(cells=["\x1b[2J"]), "speaks of cell '\ufffd[2J'"),
        (
            lambda value: first(value)["prepared"].update(build_seconds=1e300),
            "build_seconds is a number of hundreds",
        ),
        (lambda value: first(value)["prepared"].update(build_seconds=1e-320), "build_seconds is"),
        (lambda value: first(value)["prepared"].update(artifact_bytes=2**64), "artifact_bytes is 1.84e+19"),
        (
            lambda value: first(value)["prepared"]["facts"].update(x=10**400),
            "facts is a number of hundreds of digits",
        ),
    ],
    ids=[
        "another-name",
        "another-cell",
        "unlisted",
        "unlisted-with-escapes",
        "huge",
        "tiny",
        "wide",
        "digits",
    ],
)
def test_a_record_that_contradicts_itself_is_one_line(
    tmp_path: Path, change: Callable[[Any], object], message: str
) -> None:
    (tmp_path / RUN).write_bytes(document(small(), change))
    assert message in refused(tmp_path)


def test_counts_of_images_are_no_more_than_there_are(tmp_path: Path) -> None:
    run = factory.evaluated_run(tmp_path / "x", factory.request(("v3-small",), (), ("eager",)))
    for name, value in (("top1", 10**6), ("images", -1), ("loss_sd", -0.5)):
        changed = msgspec.json.decode(document(run))
        first(changed)["accuracy"][name] = value
        (tmp_path / RUN).write_bytes(msgspec.json.encode(changed))
        assert "images" in refused(tmp_path) or name in refused(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (RUN, b'{"header": {"schema": 4, "run_id": "\xb3"}}'),
        (RUN, b'{"header":' + b"[" * 200_000),
        (RUN, b'{"header": {"schema": 4}, "notes": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
        (RUN, b'{"header": {"schema": "\\u001b[2J\\n\\n"}}'),
        (journal.NAME, b'{"type":"started","schema":4,"run_id":"\xaa"}\n'),
        (journal.NAME, b'{"type":"started","schema":4,"x":' + b"[" * 200_000 + b"\n"),
        (journal.NAME, b'{"type":"\\u001b[2J"}\n'),
    ],
    ids=["utf-8", "deep", "deep-closed", "escapes", "journal-utf-8", "journal-deep", "journal-escapes"],
)
def test_bytes_that_are_no_record_are_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path)


def test_a_damaged_journal_is_one_line(tmp_path: Path) -> None:
    run = small()
    key = run.header.cells[0]
    for entry, message in (
        (Tuned("a\nb\x1b", None, (), 1.0, "searched"), "speaks of cell 'a b"),
        (Epoch(7, ("v1/eager",), 1.0), "speaks of cell 'v1/eager'"),
        (factory.block(run.cells[key].cell, 9, 9, (0,)), "took no time that can be"),
        (factory.block(run.cells[key].cell, 2**40, 9, (5,)), "has a place that no block has"),
        (factory.block(run.cells[key].cell, 9, 9, (5,), wall_seconds=1e-320), "of a block"),
    ):
        folder = written(run, tmp_path / "run")
        with (folder / journal.NAME).open("ab") as file:
            file.write(msgspec.json.encode(entry) + b"\n")
        assert message in refused(folder)
    lines = (written(run, tmp_path / "run") / journal.NAME).read_bytes().splitlines()
    lines[0] = lines[0].replace(key.encode(), b"no key of a cell", 1)
    (tmp_path / "run" / journal.NAME).write_bytes(b"\n".join(lines) + b"\n")
    assert "is no cell key" in refused(tmp_path / "run")


def test_a_name_of_ten_megabytes_is_refused_and_a_reason_is_not(tmp_path: Path) -> None:
    run = small()
    run.add(Failure(run.header.cells[0], "load", "x" * 10_000_000))
    assert load_run(written(run, tmp_path / "reason")).cells
    cell = Cell("v3-small", "e" * 10_000_000)
    long = Run.started(msgspec.structs.replace(run.header, cells=(cell.key,)))
    assert "is no name of a cell" in refused(written(long, tmp_path / "name"))


def test_what_was_recorded_here_is_never_refused() -> None:
    for run in (factory.whole_run(), factory.tuned_run(), factory.own_run(), factory.ablated_run()):
        assert checking.fault(run) is None
    run = small()
    machine = msgspec.structs.replace(run.header.machine, memory_limit_bytes=2**63 - 4096)  # a cgroup's 'max'
    run.header = msgspec.structs.replace(run.header, machine=machine)
    assert checking.fault(run) is None


def escaping_run() -> Run:
    """Every name and reason in it drives a terminal."""
    asked = factory.request(("v3-small",), (), ("eager", f"onnxruntime:{ESCAPE}"))
    run = factory.whole_run(asked, epochs=2, rounds=2, calls=3)
    run.add(Skipped(f"ncnn{ESCAPE}", ESCAPE, f"pip install {ESCAPE}", requested=True))
    record = next(iter(run.cells.values()))
    run.add(factory.explained(record.cell, ESCAPE, exact=ESCAPE))
    operator = ProfiledOperator(ESCAPE, ESCAPE, ESCAPE, ESCAPE, (ESCAPE,), 1e-3, 1e-3, 1e-3, ESCAPE)
    run.add(Profiled(record.cell.key, ESCAPE, 3, (operator,), 2e-3, 2e-3, complete=True))
    run.add(Failure(record.cell.key, ESCAPE, ESCAPE, f"a\n{ESCAPE}\r\nb", ESCAPE))
    run.notes.append(ESCAPE)
    run.header = msgspec.structs.replace(run.header, command=f"mnv3-bench {ESCAPE}", started_at=ESCAPE)
    return run


def test_nothing_of_a_record_drives_a_terminal(tmp_path: Path) -> None:
    run = escaping_run()
    shown = Console(file=io.StringIO(), width=120, force_terminal=False)
    shown.print(summary_table(run))
    texts = [
        *(*plain_lines(run), *accuracy_lines(run), *advice_lines(run), *profile_lines(run)),
        shown.file.getvalue(),  # type: ignore[attr-defined]
        report_text(Summary(run)),
    ]
    for text in texts:
        assert not set(text) & set("\x1b\x07\x9b\u202e\r"), text
    summary = Summary(run, tmp_path)
    page = page_text(summary, parts_of(summary), [])
    assert "\x1b" not in page
    assert "\x07" not in page


def test_markup_in_names_is_no_markup_of_a_terminal() -> None:
    table = build([Column[str]("[red]name", lambda row: Value(row, row))], ["[/bold]", "[link=http://x]y"])
    shown = Console(file=io.StringIO(), width=80)
    shown.print(to_rich(table, caption="[/]"))
    text = shown.file.getvalue()  # type: ignore[attr-defined]
    assert "[/bold] (a)" in text
    assert "[link=http://x]y" in text


def test_no_cell_of_a_csv_is_a_formula() -> None:
    run = small()
    cell = Cell("=HYPERLINK(A1)", "@SUM(A1)")
    run = Run.started(msgspec.structs.replace(run.header, cells=(cell.key,)))
    run.add(Failure(cell.key, "+1", "-2\n=3"))
    operator = ProfiledOperator("=1", "+1", "-1", "@1", ("=2",), 1e-3, 1e-3, 1e-3)
    run.add(Profiled(cell.key, "x", 1, (operator,), 1e-3, 1e-3, complete=True))
    texts = (export.to_csv(run), operators_csv.to_csv(run) or "")
    fields = [field for text in texts for row in csv.reader(io.StringIO(text)) for field in row]
    assert "'=HYPERLINK(A1)" in fields
    assert not [field for field in fields if field.startswith(("=", "+", "@", "\t"))]
    assert spreadsheet("\t=1") == "'=1"
    assert spreadsheet("-x") == "'-x"
    assert spreadsheet("a=1") == "a=1"


def test_texts_made_harmless_keep_what_can_be_read() -> None:
    assert plain("a\x1b[1m\nb\u2028c") == "a\ufffd[1m b c"
    assert printable("a\u00a0b\nc\x1bd\te\rf") == "a\u00a0b\nc\ufffdd e f"
    assert fenced("x\x1b[2J\n```") == "````\nx\ufffd[2J\n```\n````"


def test_the_smallest_number_is_printed() -> None:
    assert units.significant(5e-324) == "4.94e-324"
    assert units.significant(9.996) == "10.0"


def answers(path: Path, **changed: Any) -> None:
    arrays = {
        "indices": np.arange(3),
        "labels": np.array([0, 1, 2]),
        "classes": np.array([[0], [1], [2]], dtype=np.int32),
        **changed,
    }
    np.savez_compressed(path, **arrays)


def test_predictions_stay_in_their_folder_and_within_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    answers(tmp_path / "outside.npz")
    (run / "link.npz").symlink_to(tmp_path / "outside.npz")
    os.mkfifo(run / "pipe.npz")
    answers(run / "far.npz", labels=np.array([0, 1, 2**62]))
    answers(run / "zeros.npz", more=np.zeros(3_000_000, dtype=np.uint8))
    cases = {
        "link.npz": "outside the run directory",
        "../outside.npz": "outside the run directory",
        "pipe.npz": "is no file",
        "far.npz": "a class beyond 1,000,000",
        "a\x00b": "holds no predictions",
        "x" * 5000: "holds no predictions",
        "": "is no file",
        ".": "is no file",
    }
    for name, message in cases.items():
        with pytest.raises(PredictionsError, match=message):
            predictions.read(run, name)
    assert len(predictions.read(run, "zeros.npz").labels) == 3
    monkeypatch.setattr(predictions, "MOST_BYTES", 2_000_000)
    assert (run / "zeros.npz").stat().st_size < 10_000
    with pytest.raises(PredictionsError, match="unpacks to 3 MB"):
        predictions.read(run, "zeros.npz")


def test_predictions_whose_header_promises_terabytes_are_refused(tmp_path: Path) -> None:
    header = (
        b"\x93NUMPY\x01\x00v\x00"
        + b"{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117)
        + b"\n"
    )
    with zipfile.ZipFile(tmp_path / "cell.npz", "w") as archive:
        for name in ("indices", "labels", "classes"):
            archive.writestr(f"{name}.npy", header)
    with pytest.raises(PredictionsError, match="holds no predictions"):
        predictions.read(tmp_path, "cell.npz")


def test_samples_are_bounded_and_of_their_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = small()
    write_run(run, tmp_path)
    whole = pq.read_table(tmp_path / SAMPLES)
    monkeypatch.setattr(rundir, "MOST_CALLS", 10)
    assert "more than any run has calls" in load_run(tmp_path).lost[0]
    monkeypatch.undo()
    assert load_run(tmp_path).blocks == run.blocks
    for column, values in (("epoch", pa.array(["\x1b"] * len(whole))), ("disturbed", pa.nulls(len(whole)))):
        place = whole.schema.get_field_index(column)
        pq.write_table(whole.set_column(place, column, values), tmp_path / SAMPLES)
        (lost,) = load_run(tmp_path).lost
        assert "does not hold samples of a run" in lost
        assert lost.isprintable()


def test_a_report_is_not_written_through_links(tmp_path: Path) -> None:
    folder = written(small(), tmp_path / "run")
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("mine")
    (folder / "report.md").symlink_to(precious / "file")
    (folder / RUN).symlink_to(precious / "file")
    (folder / "charts").symlink_to(precious)
    with pytest.raises(RunDirectoryError, match="is a link to another folder"):
        write_report(folder)
    (folder / "charts").unlink()
    write_report(folder, with_charts=False)
    write_text(folder / "report.md", "x")
    assert (precious / "file").read_text() == "mine"
    assert [path.name for path in precious.iterdir()] == ["file"]
    assert not (folder / "report.md").is_symlink()


def elements(page: str) -> list[tuple[str, list[tuple[str, str | None]]]]:
    """Tags with their attributes, as a browser would find them."""
    found = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.append((tag, attrs))

    Reader().feed(page)
    return found


def test_the_page_of_a_stranger_runs_only_its_own_scripts() -> None:
    names = ("</script><script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "javascript:alert(1)")
    asked = factory.request(
        ("v3-small",), (), ("eager", *("eager:" + re.sub("[/?]", "|", name) for name in names))
    )
    run = factory.whole_run(asked, epochs=1, rounds=1, calls=2)
    run.notes += names
    summary = Summary(run)
    page = page_text(summary, parts_of(summary), [])
    found = elements(page)
    tags = [tag for tag, _ in found]
    attributes = [(name, value or "") for _, each in found for name, value in each]
    plain_summary = Summary(factory.whole_run(factory.request(("v3-small",), (), ("eager",) * 4), epochs=1))
    usual = [tag for tag, _ in elements(page_text(plain_summary, parts_of(plain_summary), []))]
    assert tags.count("script") == usual.count("script")
    assert not {"img", "iframe", "object", "embed", "svg", "base", "link"} & set(tags)
    assert {name for name, _ in attributes if name.startswith("on")} <= {"onsubmit"}
    assert all(value.startswith(("#", "data:")) for name, value in attributes if name in ("href", "src"))
    assert "default-src 'none'" in page


def test_blocks_have_every_field_checked() -> None:
    """A figure that joins `Block` later is checked, too."""
    numbers = {field.name for field in msgspec.structs.fields(Block)} - {"cell", "samples_ns", "disturbed"}
    run = small()
    for name in numbers:
        bad = msgspec.structs.replace(run.blocks[0], **{name: 2**70})
        assert checking.fault(msgspec.structs.replace(run, blocks=[bad])) is not None, name


def test_results_of_other_tools_with_strange_columns_are_one_line(tmp_path: Path) -> None:
    whole: dict[str, Any] = {
        "version": 2,
        "commit_hash": "a",
        "date": 1.7e12,
        "result_columns": ["result", "params"],
    }
    path = tmp_path / "results.json"
    for changed in (
        {"results": {"net.time_x": [[0.1], ["a"]]}, "result_columns": [[], "params"]},
        {"results": {"net.time_x": [[0.1], 5]}, "date": "\x1b"},
        {"results": {"net.time_x": [{"a": 1}, None]}},
        {"results": [1, 2]},
    ):
        path.write_bytes(msgspec.json.encode({**whole, **changed}))
        with pytest.raises(HistoryError) as caught:
            import_file(path, now=datetime(2026, 1, 1, tzinfo=UTC))
        assert len(str(caught.value).splitlines()) == 1


def test_a_fleets_journal_of_strange_bytes_is_one_line(tmp_path: Path) -> None:
    for content in (b'{"type":"\xb3"}\n', b"[" * 200_000 + b"\n", b'{"type":"a\\nb\\u001b"}\n'):
        (tmp_path / fleet.FLEET).write_bytes(content)
        with pytest.raises(fleet.FleetError) as caught:
            fleet.read_fleet(tmp_path)
        assert str(caught.value).isprintable()
