"""Histories: files of other tools, runs of strangers, and Parquet files that were damaged in between."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from fuzz import made
from mnv3_reports import journal
from mnv3_reports.history.adding import add_rows, add_runs
from mnv3_reports.history.imported import import_file
from mnv3_reports.history.metrics import metric
from mnv3_reports.history.places import HistoryError, LocalPlace
from mnv3_reports.history.query import Question, opened
from mnv3_reports.history.trends import trends
from mnv3_reports.pytest_benchmark import to_pytest_benchmark

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ASV = {
    "version": 2,
    "commit_hash": "abc",
    "date": 1_700_000_000_000,
    "python": "3.11",
    "params": {"machine": "box", "cpu": "Imaginary CPU", "os": "Linux", "arch": "x86_64", "ram": "8"},
    "requirements": {"numpy": "2.0"},
    "env_vars": {},
    "result_columns": ["result", "params", "version", "started_at", "duration"],
    "results": {
        "net.time_call": [[0.001, 0.002], [["'a'", "'b'"]], "v1", 1_700_000_000_000, 1.0],
        "net.peakmem_call": [[1000], [], "v1", 1_700_000_000_000, 1.0],
    },
}
TIMM = (
    b"model,infer_samples_per_sec,infer_step_time,infer_batch_size,infer_img_size,param_count\n"
    b"mobilenetv3_small_100,1000,1.5,1,224,2.5\nmobilenetv3_large_100,500,3,1,224,5.4\n"
)


@st.composite
def files(draw: st.DrawFn) -> tuple[str, bytes]:
    """A suffix and what stands in a file of another tool."""
    kind = draw(st.integers(0, 2))
    if kind == 0:
        content = TIMM
    else:
        whole = ASV if kind == 1 else json.loads(json.dumps(to_pytest_benchmark(made.runs()[3])))
        value = draw(made.changed(whole))
        content = json.dumps(value).encode() if draw(st.booleans()) else msgspec.json.encode(value)
    if kind == 0 or draw(st.integers(0, 3)) == 0:
        content = draw(made.damaged(content))
    return ".csv" if kind == 0 else ".json", content


@st.composite
def stores(draw: st.DrawFn) -> tuple[int, list[Any], bytes | None]:
    """A run whose journal has a changed line, and bytes in place of its Parquet file."""
    which = draw(st.integers(0, len(made.runs()) - 1))
    lines = made.journal_of(made.runs()[which]).splitlines()
    place = draw(st.integers(0, len(lines) - 1))
    lines[place] = msgspec.json.encode(draw(made.changed(msgspec.json.decode(lines[place]), 2)))
    return which, lines, draw(made.damaged(parquet(which))) if draw(st.booleans()) else None


_PARQUET: dict[int, bytes] = {}


def parquet(which: int) -> bytes:
    """A history's file of one run."""
    if which not in _PARQUET:
        folder = made.scratch() / f"of-history-{which}"
        folder.mkdir(exist_ok=True)
        (folder / journal.NAME).write_bytes(made.journal_of(made.runs()[which]))
        place = LocalPlace(folder / "store")
        for added in add_runs([folder], place, now=NOW):
            _PARQUET[which] = (folder / "store" / added.name).read_bytes()
    return _PARQUET[which]


@given(files() | stores())
def fuzz(given_: Any) -> None:
    """Rows of it come into a history and out again, or one line says why not."""
    folder = made.scratch() / "history"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    place = LocalPlace(folder / "store")
    try:
        if len(given_) == 2:
            path = folder / f"figures{given_[0]}"
            path.write_bytes(given_[1])
            found = import_file(path, now=NOW, date=NOW if given_[0] == ".csv" else None)
            add_rows(found.rows, place, str(path))
        else:
            _which, lines, damaged = given_
            (folder / journal.NAME).write_bytes(b"\n".join(lines) + b"\n")
            for _ in add_runs([folder], place, now=NOW):
                pass
            if damaged is not None:
                for name in place.files():
                    (folder / "store" / name).write_bytes(damaged)
        with opened([place], Question(metric("latency"), "*")) as history:
            trends(history)
    except HistoryError as error:
        made.one_line(error)
    outside = [path.name for path in folder.iterdir()]
    assert set(outside) <= {"figures.csv", "figures.json", journal.NAME, "store"}, outside
