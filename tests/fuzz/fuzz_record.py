"""A stranger's run.json and samples: parts of true ones replaced, left out, repeated or exchanged; or bytes damaged."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from fuzz import made, reading
from mnv3_reports.rundir import RUN, SAMPLES, write_run


@st.composite
def records(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """What became of a run's run.json, and of its samples."""
    which = draw(st.integers(0, len(made.runs()) - 1))
    document = made.document_of(made.runs()[which])
    match draw(st.integers(0, 4)):
        case 0:
            return draw(made.damaged(msgspec.json.encode(document))), samples(which)
        case 1:
            return msgspec.json.encode(document), draw(made.damaged(samples(which)))
        case _:
            return msgspec.json.encode(draw(made.changed(document))), samples(which)


_SAMPLES: dict[int, bytes] = {}


def samples(which: int) -> bytes:
    """samples.parquet of that run."""
    if which not in _SAMPLES:
        folder = made.scratch() / f"true-{which}"
        write_run(made.runs()[which], folder)
        _SAMPLES[which] = (folder / SAMPLES).read_bytes()
    return _SAMPLES[which]


@given(records())
def fuzz(record: Any) -> None:
    """It is shown, or refused in one line."""
    content, table = record
    folder = made.scratch() / "record"
    folder.mkdir(exist_ok=True)
    (folder / RUN).write_bytes(content)
    (folder / SAMPLES).write_bytes(table)
    reading.read_and_show(folder)
