"""`kill -9` at random moments of a run, and `--resume`; tests/scale/kill_run.py does it a hundred times."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from scale.kill_run import REAL, strike

QUICK_RUN = Path(__file__).parents[1] / "fakes" / "quick_run.py"


def test_three_kills_of_a_run_in_which_nothing_takes_long(tmp_path: Path) -> None:
    asked = ("run", "--variants", "small@0.35", "--references", "none", "--backends", "eager,onnxruntime")
    environment = {**os.environ, "MNV3_BENCH_CACHE": str(tmp_path / "cache"), "QUICK_RUN_PAUSE": "0.1"}
    struck = strike(asked, tmp_path, 3, 1, environment, 3.0, (sys.executable, str(QUICK_RUN)))
    assert struck.kills == 3
    assert struck.blocks_at_kills > 0
    assert struck.blocks_at_end > 0


@pytest.mark.thorough
def test_three_kills_of_a_real_run(tmp_path: Path, artifact_cache: Path) -> None:
    environment = {**os.environ, "MNV3_BENCH_CACHE": str(artifact_cache)}
    struck = strike(REAL, tmp_path, 3, 7, environment, 6.0)
    assert struck.kills == 3
    assert struck.blocks_at_end > 0
