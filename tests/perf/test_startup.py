"""How long a person waits for `--help`, `list` and `report`. Each is paired with a yardstick that runs in between."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

ROUNDS = 20
SCRIPT = str(Path(sys.executable).with_name("mnv3-bench"))
YARDSTICK = [sys.executable, "-c", "import typer, rich"]


def run(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


@pytest.mark.parametrize("arguments", [["--help"], ["list"]], ids=lambda arguments: arguments[0])
def test_light_commands_against_importing_typer_and_rich(
    benchmark: BenchmarkFixture, arguments: list[str]
) -> None:
    yardstick: list[float] = []
    own: list[float] = []
    run(YARDSTICK)
    benchmark.pedantic(
        lambda: own.append(run([SCRIPT, *arguments])),
        setup=lambda: yardstick.append(run(YARDSTICK)),
        rounds=ROUNDS,
        warmup_rounds=1,
    )
    ratio = statistics.median(a / b for a, b in zip(own, yardstick, strict=True))
    benchmark.extra_info["ratio_to_import_typer_rich"] = ratio
    print(f"\nmnv3-bench {arguments[0]}: {ratio:.2f} x `python -c 'import typer, rich'` ({ROUNDS} pairs)")
    if arguments == ["--help"]:
        assert ratio <= 1.3
