"""A journal after whatever may happen to a file: bytes damaged, lines torn, repeated, out of order, of two runs."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from fuzz import made, reading
from mnv3_reports import journal


@st.composite
def journals(draw: st.DrawFn) -> bytes:
    """What became of a journal."""
    lines = made.journal_of(draw(st.sampled_from(made.runs()))).splitlines(keepends=True)
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(lines) - 1))
        match draw(st.integers(0, 4)):
            case 0:
                value = msgspec.json.decode(lines[place])
                lines[place] = msgspec.json.encode(draw(made.changed(value, 2))) + b"\n"
            case 1:
                lines.insert(draw(st.integers(0, len(lines))), lines[place])
            case 2:
                lines.insert(draw(st.integers(0, len(lines))), lines.pop(place))
            case 3:
                other = made.journal_of(draw(st.sampled_from(made.runs()))).splitlines(keepends=True)
                lines.insert(place, draw(st.sampled_from(other)))
            case _ if len(lines) > 1:
                del lines[place]
    content = b"".join(lines)
    return draw(made.damaged(content)) if draw(st.booleans()) else content


@given(journals())
def fuzz(content: Any) -> None:
    """It is shown, or refused in one line; and what can be read can be gone on with."""
    folder = made.scratch() / "journal"
    folder.mkdir(exist_ok=True)
    path = folder / journal.NAME
    path.write_bytes(content)
    refused = reading.read_and_show(folder)
    try:
        with journal.Journal.resume(path):
            pass
    except journal.JournalError as error:
        made.one_line(error)
        return
    if refused is None:
        assert len(journal.read_journal(path)) == content.count(b"\n"), "nothing finished was lost"
