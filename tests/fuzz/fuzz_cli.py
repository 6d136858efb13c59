"""Command lines, up to where something would be measured, built, trained, downloaded or served."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import typer
from hypothesis import given
from hypothesis import strategies as st

from fuzz import made
from mnv3_bench import cli
from mnv3_bench.errors import ExitCode, UsageError
from mnv3_reports.rundir import write_run

if TYPE_CHECKING:
    from collections.abc import Iterator

LEFT_OUT = ("doctor", "gate-selftest", "worker")
"""Commands that measure this machine or serve, whatever else is typed."""
COMMAND = typer.main.get_command(cli.app)
VALUES = (
    *(
        "large",
        "small",
        "v2@0.5",
        "small-no-se",
        "large,small",
        "eager",
        "onnxruntime-int8",
        "all",
        "none",
        "1",
        "0",
    ),
    *(
        "-1",
        "1,8",
        "224",
        "65537",
        "99999999999999999999",
        "1e400",
        "nan",
        "inf",
        "2%",
        "0%",
        "100%",
        "-5%",
        "4m",
    ),
    *(
        "0s",
        "1h",
        "2GB",
        "512MiB",
        "9" * 400,
        "1x3x224x224",
        "a=1x2:int64",
        "1x0",
        "x:float32",
        ":",
        "=",
        ",",
        ",,",
    ),
    *(
        "digits",
        "imagefolder:.",
        "imagefolder:",
        "npz:run/run.json",
        "npz:",
        "held-out",
        "imagenet",
        "half",
        "quick",
    ),
    *(
        "se,hswish",
        "kernel5",
        "run",
        "run/run.json",
        "run/journal.jsonl",
        ".",
        "..",
        "/",
        "/dev/null",
        "~",
        "~nobody",
    ),
    *(
        "net.onnx",
        "net.tflite",
        "net.pt",
        "net.pte",
        "net.xml",
        "w.pth",
        "w.safetensors",
        "small=w.pth",
        "c.toml",
    ),
    *(
        "mynet:build",
        "os:system",
        "a.b:c",
        "git:main",
        "git:",
        "python:",
        "python:/bin/true",
        "here",
        "base.json",
    ),
    *(
        "torchvision:",
        "md,html",
        "csv",
        "json",
        "junit",
        "é",
        "\x1b[2J",
        "\n",
        "",
        " ",
        "[/bold]",
        "x" * 300,
        "%s",
    ),
    *("eager:threads=2", "eager:x=", "onnxruntime:optimization=all", "openvino:streams=1:pinning=no"),
)
# The system passes no NUL.
values = st.sampled_from(VALUES) | st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12
)


def options(name: str) -> list[tuple[str, bool]]:
    """Every flag of a command, and whether a value follows."""
    params = COMMAND.commands[name].params  # type: ignore[attr-defined]
    return [
        (flag, not getattr(each, "is_flag", False))
        for each in params
        for flag in (*each.opts, *each.secondary_opts)
    ]


FLAGS = sorted({flag for name in COMMAND.commands for flag, _ in options(name) if flag.startswith("--")})  # type: ignore[attr-defined]


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    """A command and some of its own flags with values of any kind; sometimes other words among them."""
    names = [name for name in COMMAND.commands if name not in LEFT_OUT]  # type: ignore[attr-defined]
    name = draw(st.sampled_from(names))
    typed = [name] if name != "run" or draw(st.booleans()) else []
    known = options(name)
    for _ in range(draw(st.integers(0, 6))):
        if not known or draw(st.integers(0, 7)) == 0:
            typed.append(draw(values | st.sampled_from(FLAGS)))
            continue
        flag, valued = draw(st.sampled_from(known))
        typed += [flag] if flag.startswith("-") else []
        typed += [draw(values)] if valued else []
    return typed


class _PlannedError(UsageError):
    """What would be measured is settled."""


def _planned(*_: Any, **__: Any) -> Any:
    raise _PlannedError("planned")


@contextlib.contextmanager
def nothing_is_done() -> Iterator[None]:
    """No process is started, nothing is measured, trained or downloaded; files are made in a scratch folder only."""
    home = made.scratch() / "cli"
    if not home.is_dir():
        home.mkdir()
        write_run(made.runs()[0], home / "run")
        for name in ("net.onnx", "net.tflite", "net.pt", "net.pte", "net.xml", "w.pth", "w.safetensors"):
            (home / name).write_bytes(b"\x08\x07\x12\x04")
        (home / "c.toml").write_text("variants = 'small'\n[gate]\nmargin = '3%'\n")
        (home / "base.json").write_text("{}")
        (home / "mynet.py").write_text("def build(): raise RuntimeError\n")
    before = Path.cwd()
    os.chdir(home)
    places = {"HOME": str(home), "MNV3_BENCH_CACHE": str(home / "cache")}
    try:
        with (
            mock.patch.dict(os.environ, places),
            mock.patch("typer.main.get_command", return_value=COMMAND),
            mock.patch("subprocess.Popen", _planned),
            mock.patch("mnv3_bench.run.open_run", _planned),
            mock.patch("mnv3_bench.run.reopen", _planned),
            mock.patch("mnv3_bench.gate.command.run_gate", _planned),
            mock.patch("mnv3_bench.training.command.make_job", _planned),
            mock.patch("mnv3_bench.downloading.downloaded", _planned),
            mock.patch("socket.socket.connect", _planned),
        ):
            yield
    finally:
        os.chdir(before)


@given(lines())
def fuzz(arguments: Any) -> None:
    """It is carried out or refused in one line; never a fault of ours, never a traceback."""
    if not arguments or arguments[0] not in LEFT_OUT:
        typed(arguments)


def typed(arguments: list[str]) -> None:
    """Carry out a command line, and hold what it says against what is promised."""
    out, err = io.StringIO(), io.StringIO()
    with nothing_is_done(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.invoke(list(arguments))
    said = err.getvalue()
    assert code != ExitCode.FAULT, (arguments, said)
    assert "Traceback" not in said, (arguments, said)
    if code == ExitCode.USAGE:
        last = said.rstrip("\n").splitlines()[-1]
        assert last.startswith("mnv3-bench: "), (arguments, said)
        assert all(c.isprintable() for c in last), (arguments, last)
