"""Every fuzzer for a moment, the same examples each time. `nox -s fuzz` runs each for minutes, guided by coverage."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

RUN = Path(__file__).parent / "run.py"
SHORT = {"variants": 150, "config": 15, "cli": 40, "journal": 6, "record": 8, "fleet": 20, "history": 6}
"""Name to examples: what takes about a second."""
LONG = {"checkpoints": 30, "model_files": 60}
"""Those that import torch or every runtime."""


def for_a_moment(name: str, examples: int) -> None:
    fuzz = importlib.import_module(f"fuzz.fuzz_{name}").fuzz
    briefly = settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    briefly(fuzz)()


@pytest.mark.parametrize("name", SHORT)
def test_a_moment(name: str) -> None:
    for_a_moment(name, SHORT[name])


@pytest.mark.thorough
@pytest.mark.parametrize("name", LONG)
def test_a_longer_moment(name: str) -> None:
    for_a_moment(name, LONG[name])


def test_no_fuzzer_is_left_out() -> None:
    there = {path.stem.removeprefix("fuzz_") for path in RUN.parent.glob("fuzz_*.py")}
    assert there == {*SHORT, *LONG}


@pytest.mark.thorough
def test_the_session_counts_and_finds(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(RUN), "--minutes", "0.05", "variants"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "examples in" in done.stdout
    assert "no unhandled exception" in done.stdout
    unknown = subprocess.run(
        [sys.executable, str(RUN), "nothing"], capture_output=True, text=True, check=False
    )
    assert unknown.returncode == 2
    assert "there is no fuzzer nothing" in unknown.stderr
