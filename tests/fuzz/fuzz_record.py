"""run.json of a stranger: any part of a true one replaced, left out, repeated or exchanged; or its bytes damaged."""

from __future__ import annotations

from typing import Any

import msgspec
from fuzz import made, reading
from hypothesis import given
from hypothesis import strategies as st

from mnv3_reports.rundir import RUN, SAMPLES, write_run


@st.composite
def records(draw: st.DrawFn) -> tuple[int, bytes]:
    """Which run, and what its run.json became."""
    which = draw(st.integers(0, len(made.runs()) - 1))
    document = made.document_of(made.runs()[which])
    if draw(st.integers(0, 3)):
        return which, msgspec.json.encode(draw(made.changed(document)))
    return which, draw(made.damaged(msgspec.json.encode(document)))


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
    which, content = record
    folder = made.scratch() / "record"
    folder.mkdir(exist_ok=True)
    (folder / RUN).write_bytes(content)
    (folder / SAMPLES).write_bytes(samples(which))
    reading.read_and_show(folder)
