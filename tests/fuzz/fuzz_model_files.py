"""Model files of strangers: true ones damaged, or with another's suffix; read as `--model` reads them.

What reads them is a process of its own, as always: here a fork of this one, which has the runtimes imported, so that
there are many a second. Coverage of the runtimes' parsers, which are C++, guides nothing; a parser that dies is one
line, like any other failure.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from fuzz import made, seeds
from mnv3_bench import model_files, plan_models
from mnv3_bench.backends import missing, native_backend
from mnv3_bench.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

MEMORY = 4 << 30
"""Of data; what is imported here counts, too."""
SECONDS = 30.0
SUFFIXES = (".onnx", ".tflite", ".xml")
"""Of files that are made in a moment; the whole run has `EVERY`."""
EVERY = tuple(seeds.MODELS)

suffixes = SUFFIXES


@st.composite
def files(draw: st.DrawFn) -> tuple[str, bytes]:
    """A suffix, and what stands in the file."""
    suffix = draw(st.sampled_from(suffixes))
    kind = draw(st.sampled_from(suffixes)) if draw(st.integers(0, 9)) == 0 else suffix
    content = seeds.MODELS[kind]()
    if kind == ".onnx" and draw(st.booleans()):
        content = seeds.onnx_with_data(
            draw(st.sampled_from(("weights.bin", "../x", "/etc/passwd", ".", "", "a\x00b")))
        )
    return suffix, draw(made.damaged(content))


@given(files())
def fuzz(file: Any) -> None:
    """Its inputs are settled, or it is refused in one line."""
    suffix, content = file
    folder = made.scratch() / "models"
    folder.mkdir(exist_ok=True)
    path = folder / f"net{suffix}"
    path.write_bytes(content)
    (folder / "net.bin").write_bytes(bytes(64))
    (folder / "weights.bin").write_bytes(bytes(4 * 3 * 3 * 3 * 4))
    try:
        stated = _read(path)
        inputs = plan_models.settled(path.name, stated, [])
        plan_models.bounded(inputs)
        plan_models.batch_and_resolution(inputs)
    except UsageError as error:
        made.one_line(error)


def _read(path: Path) -> Any:
    backend = native_backend(model_files.format_of(path)).info
    assert missing(backend) is None, f"{backend.name} has to be installed"
    code, said, complained = forked(["", backend.name, str(path), str(MEMORY)])
    told = model_files.answer(backend.name, path, MEMORY, code, said, complained)
    assert told.signature is not None
    return told.signature


def forked(arguments: list[str]) -> tuple[int, str, str]:
    """`python -m mnv3_bench.model_files` in a fork: its exit code, and what it printed."""
    said, complained = made.scratch() / "said", made.scratch() / "complained"
    pid = os.fork()
    if pid == 0:
        code = 70
        with contextlib.suppress(BaseException):
            faulthandler.disable()
            for number, path in ((1, said), (2, complained)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            sys.argv = arguments
            code = model_files.main()
            sys.stdout.flush()
        os._exit(code)
    deadline = time.monotonic() + SECONDS
    status = 0
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > deadline:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            raise UsageError("reading took too long")
        time.sleep(0.0005)
    code = os.waitstatus_to_exitcode(status)
    assert code != 70, "the reading process failed in a way of its own"
    return code, said.read_text("utf-8", "replace"), complained.read_text("utf-8", "replace")
