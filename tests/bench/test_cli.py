from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from mnv3_bench import __version__
from mnv3_bench.backends import backend_names
from mnv3_bench.cli import invoke

if TYPE_CHECKING:
    from pathlib import Path


def test_help_names_every_command_and_the_main_job(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "mnv3-bench --variants large,small --backends all" in text
    for command in ("run", "list", "report"):
        assert f" {command} " in text
    assert invoke([]) == 0
    assert "Usage" in capsys.readouterr().out


def test_an_option_without_a_command_belongs_to_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["--variants", "lagre"]) == 2
    first = capsys.readouterr().err
    assert invoke(["run", "--variants", "lagre"]) == 2
    assert capsys.readouterr().err == first


@pytest.mark.parametrize(
    "arguments",
    [
        ["--bogus"],
        ["bogus"],
        ["--seed", "x"],
        ["--threads", "0"],
        ["--config", "nowhere.toml"],
        ["--resume", "nowhere"],
        ["--resume", "nowhere", "--variants", "small"],
        ["report", "nowhere"],
        ["report"],
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert err.startswith("mnv3-bench: ")
    assert list(tmp_path.iterdir()) == []


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["--version"]) == 0
    assert capsys.readouterr().out == f"mnv3-bench {__version__}\n"


def test_list_shows_every_variant_and_backend(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["list"]) == 0
    text = capsys.readouterr().out
    for name in (*backend_names(), "v3-large-minimal", "v2"):
        assert f"  {name} " in text


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["--version"]])
def test_light_commands_import_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom mnv3_bench.cli import invoke\n"
        f"invoke({arguments!r})\n"
        "heavy = {'torch', 'onnxruntime', 'onnx', 'pandas', 'scipy.stats', 'altair', 'fvcore'}\n"
        "sys.exit(f'imported {heavy & set(sys.modules)}' if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_fault_of_its_own_is_not_taken_for_a_regression(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> str:
        raise RuntimeError("made on purpose")

    monkeypatch.setattr("mnv3_bench.listing.listing", broken)
    assert invoke(["list"]) == 70
    err = capsys.readouterr().err
    assert "made on purpose" in err
    assert err.strip().splitlines()[-1].startswith("mnv3-bench: this is a fault")
