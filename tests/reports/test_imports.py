"""Reading and measuring must not pay for what they do not use.

Who may import what is in docs/architecture.md and held by tests/bench/test_import_rules.py;
here it is what really happens.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mnv3_reports

HEAVY = (
    "torch", "onnxruntime", "pandas", "pyarrow", "altair", "vl_convert", "scipy.stats", "rich",
    "dask", "duckdb", "fsspec", "jinja2", "ruptures",
)  # fmt: skip


def loaded(program: str, names: tuple[str, ...]) -> str:
    check = f"import sys; {program}; print([n for n in {names!r} if n in sys.modules])"
    return subprocess.run(
        [sys.executable, "-c", check], check=True, capture_output=True, text=True, timeout=60
    ).stdout.strip()


def test_what_the_measuring_process_imports_is_small_and_fast() -> None:
    modules = "mnv3_reports.record, mnv3_reports.journal, mnv3_reports.statistics, mnv3_reports.compare"
    assert loaded(f"import {modules}", (*HEAVY, "scipy")) == "[]"
    program = f"import time; t = time.process_time(); import {modules}; print(time.process_time() - t)"
    times = [
        float(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout)
        for _ in range(3)
    ]
    assert min(times) < 0.15


def test_intervals_need_no_scipy_stats() -> None:
    use = "from mnv3_reports import statistics as s; s.t_interval([1, 2]); s.order_statistic_interval([1.0], 0.9)"
    assert loaded(use, HEAVY) == "[]"


def test_importing_any_module_loads_nothing_heavy() -> None:
    package = Path(mnv3_reports.__file__).parent
    files = [path.relative_to(package).with_suffix("") for path in package.rglob("*.py")]
    names = sorted(".".join(("mnv3_reports", *path.parts)).removesuffix(".__init__") for path in files)
    assert "mnv3_reports.html.page" in names
    assert loaded("; ".join(f"import {name}" for name in names), HEAVY) == "[]"


def test_a_report_is_written_without_torch_or_a_runtime(tmp_path: Path) -> None:
    tests = str(Path(__file__).parents[1])
    program = (
        f"sys.path.insert(0, {tests!r}); from reports import factory; "
        "from mnv3_reports.rundir import write_run; from mnv3_reports.writer import write_report; "
        f"from pathlib import Path; path = Path({str(tmp_path)!r}); "
        "write_run(factory.evaluated_run(path), path); write_report(path)"
    )
    assert loaded(program, ("torch", "onnxruntime", "pandas", "scipy.stats")) == "[]"
