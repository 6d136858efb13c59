"""With none of the extras installed: what is missing is named with the command that installs it, and the rest works.

Run by `nox -s bare`, in an environment that has this package and pytest only.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from mnv3_bench.backends import backend_names, get_backend, missing

if TYPE_CHECKING:
    from pathlib import Path

WITH_EXTRA = [name for name in backend_names() if get_backend(name).info.extra is not None]
LACKING = [name for name in WITH_EXTRA if missing(get_backend(name).info) is not None]
pytestmark = pytest.mark.skipif(LACKING != WITH_EXTRA, reason="extras are installed here; run nox -s bare")


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mnv3_bench.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
        timeout=600,
    )


def test_there_are_backends_with_and_without_an_extra() -> None:
    assert len(WITH_EXTRA) >= 10
    assert {"eager", "torchscript", "compile"}.isdisjoint(WITH_EXTRA)


@pytest.mark.parametrize("name", WITH_EXTRA)
def test_what_installs_a_backend_is_said(name: str) -> None:
    info = get_backend(name).info
    lack = missing(info)
    assert lack is not None
    assert lack[1] == f"pip install 'mnv3-bench[{info.extra}]'"


def test_all_measures_what_is_there_and_names_the_rest(tmp_path: Path) -> None:
    (tmp_path / "bare_net.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1),\n"
        "                         nn.Flatten(), nn.Linear(8, 5))\n"
    )
    done = command(
        *("--variants", "bare_net:build", "--references", "none", "--backends", "all", "--resolutions", "64"),
        *("--quick", "--time-budget", "8s", "--output", "run", "--cold"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    report = (tmp_path / "run" / "report.md").read_text()
    for name in WITH_EXTRA:
        assert f"skipped {name}: " in done.stderr
        assert f"pip install 'mnv3-bench[{get_backend(name).info.extra}]'" in report
    without = [name for name in backend_names() if name not in WITH_EXTRA]
    for name in without:
        assert f"bare_net:build/{name}?" in done.stdout or f"skipped {name}: " in done.stderr


def test_a_backend_asked_for_by_name_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = command("--variants", "small", "--backends", "litert", cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "pip install 'mnv3-bench[litert]'" in done.stderr


def test_a_model_file_whose_runtime_is_missing(tmp_path: Path) -> None:
    (tmp_path / "net.tflite").write_bytes(b"\x20\0\0\0TFL3" + bytes(100))
    done = command("--model", "net.tflite", cwd=tmp_path)
    assert done.returncode == 2
    assert "pip install 'mnv3-bench[litert]'" in done.stderr


def test_listing_and_help_need_no_extra(tmp_path: Path) -> None:
    listed = command("list", cwd=tmp_path)
    assert listed.returncode == 0
    assert all(name in listed.stdout for name in backend_names())
    assert command("--help", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    "asked", [("train",), ("--variants", "small", "--recipe", "quick", "--data", "digits")]
)
def test_what_reads_labelled_images_is_named(asked: tuple[str, ...], tmp_path: Path) -> None:
    done = command(*asked, cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "pip install 'mnv3-bench[data]'" in line
