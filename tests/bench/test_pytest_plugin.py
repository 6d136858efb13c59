"""The fixture `against` in pytest sessions of its own: verdicts, options, what is written, and its neighbours."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import entry_points
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from mnv3_bench.pytest_plugin import ATTRIBUTE

pytest_plugins = ("pytester",)

PLUGIN = "mnv3_bench.pytest_plugin"
INSTALLED = any(point.value == PLUGIN for point in entry_points(group="pytest11"))

FORGED = """
import mnv3_bench.gate.against as engine
from mnv3_reports.record import Failure
from mnv3_reports.statistics import Interval
from mnv3_reports.verdict import Verdict

def compare(base, head, **settings):
    kind = base()
    said = " ".join(f"{name}={value}" for name, value in sorted(settings.items()))
    if kind == "broken":
        failure = Failure("base x", "load", "KeyError: 1", "Traceback: in make_old")
        return engine.Comparison("make_old", "make_new", Verdict.INVALID, "the base arm failed", 0.03, failure=failure)
    return engine.Comparison(
        "make_old", "make_new", Verdict(kind), said, 0.03,
        ratio=Interval(1.5, 1.4, 1.6, 8), null=Interval(1.0, 0.99, 1.01, 8), noise=0.01, epochs=8,
        base_seconds=0.001, head_seconds=0.0015, base_blocks=(0.001, 0.0011), head_blocks=(0.0015,), block_calls=20)

engine.compare = compare
"""
"""A conftest whose comparisons have the verdict that the base function names."""


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """A pytest session in a process of its own, with the plugin and none of the settings around it."""
    plugin = () if INSTALLED else ("-p", PLUGIN)
    return pytester.runpytest_subprocess(*plugin, *arguments)


@pytest.fixture(autouse=True)
def _no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions of their own, also where these tests run in a worker of pytest-xdist."""
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def forged(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest(FORGED)
    return pytester


EVERY = ("pass", "fail", "inconclusive", "invalid", "broken")
CHECK = "against.check(base=make, head=make)"
CALL = "against(base=make, head=make)"


def cases(body: str, *kinds: str) -> str:
    """A test for each kind of verdict, in which `make` gets it."""
    return "\n".join(
        f"def make_{kind}(): return '{kind}'\ndef test_{kind}(against):\n    make = make_{kind}; {body}"
        for kind in kinds
    )


# Verdicts


@pytest.mark.parametrize(
    ("arguments", "outcomes"),
    [
        ((), {"passed": 1, "failed": 2, "skipped": 2}),
        (("--against-inconclusive", "fail"), {"passed": 1, "failed": 4}),
        (("--against-inconclusive", "pass"), {"passed": 3, "failed": 2}),
        (("-o", "against_inconclusive=fail"), {"passed": 1, "failed": 4}),
        (("--against-skip",), {"skipped": 5}),
    ],
)
def test_check_ends_a_test_by_its_verdict(
    forged: pytest.Pytester, arguments: tuple[str, ...], outcomes: dict[str, int]
) -> None:
    forged.makepyfile(cases(CHECK, *EVERY))
    run(forged, *arguments).assert_outcomes(**outcomes)


def test_a_call_alone_judges_nothing(forged: pytest.Pytester) -> None:
    forged.makepyfile(cases(CALL, *EVERY))
    run(forged).assert_outcomes(passed=5)


def test_what_failed_is_said_in_one_line_and_with_the_workers_traceback(forged: pytest.Pytester) -> None:
    forged.makepyfile(cases(CHECK, *EVERY))
    result = run(forged, "-rs")
    line = r"FAIL: make_new against make_old \+50.0 % \[\+40.0, \+60.0\] \(allowed 3 %\), 1.00 ms -> 1.50 ms, 8 epochs"
    result.stdout.re_match_lines([f"{line}.*", "INVALID: make_new against make_old: the base arm failed"])
    result.stdout.fnmatch_lines(
        ["Traceback: in make_old", "SKIPPED * INCONCLUSIVE: make_new against make_old *"]
    )
    # Neither the plugin's code nor its place: the skipped test is the place.
    assert "mnv3_bench/pytest_plugin.py" not in result.stdout.str()


def test_asserting_that_it_passed_shows_the_figures(forged: pytest.Pytester) -> None:
    forged.makepyfile(cases(f"assert {CALL}.passed", *EVERY))
    result = run(forged)
    result.assert_outcomes(passed=1, failed=4)
    result.stdout.fnmatch_lines(["E*where False = <FAIL: make_new against make_old +50.0 %*>.passed"])


def test_the_summary_lists_every_comparison(forged: pytest.Pytester) -> None:
    forged.makepyfile(cases(f"{CALL}; {CALL}", *EVERY))
    result = run(forged, "-q")
    lines = [line for line in result.stdout.lines if "::test_" in line]
    assert len(lines) == 10
    assert lines[0].startswith("PASS ")
    assert "::test_pass make_new against make_old +50.0 %" in lines[0]
    assert [line.split()[0] for line in lines[::2]] == ["PASS", "FAIL", "INCONCLUSIVE", "INVALID", "INVALID"]


# Settings


@pytest.mark.parametrize(
    ("arguments", "call", "expected"),
    [
        ((), "", "margin=3% threads=1 time_budget=20s timeout=2m"),
        (("-o", "against_time_budget=7s"), "", "time_budget=7s"),
        (("-o", "against_time_budget=7s"), "time_budget='9s', threads=2", "threads=2 time_budget=9s"),
        (("-o", "against_time_budget=7s", "--against-time-budget=5s"), "time_budget='9s'", "time_budget=5s"),
        (("-o", "against_margin=8%"), "", "margin=8%"),
        (("-o", "against_margin=8%"), "margin=0.02", "margin=0.02"),
    ],
)
def test_the_command_line_goes_before_the_test_and_the_test_before_the_settings(
    forged: pytest.Pytester, arguments: tuple[str, ...], call: str, expected: str
) -> None:
    forged.makepyfile(cases(f"against.check(make, make, {call})", "fail"))
    run(forged, *arguments).stdout.fnmatch_lines(
        [f"*: {expected}*" if expected[0] == "m" else f"*{expected}*"]
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--against-time-budget", "soon"), "--against-time-budget soon is not a duration"),
        (("-o", "against_time_budget=0"), "against_time_budget 0 is not a duration"),
        (("-o", "against_margin=0"), "against_margin 0 must lie above 0"),
        (
            ("-o", "against_inconclusive=maybe"),
            "against_inconclusive is 'maybe'; expected one of skip, fail, pass",
        ),
        (("--against-json", "nowhere/x.json"), "--against-json nowhere/x.json: expected a file in a folder"),
    ],
)
def test_wrong_settings_end_the_session_at_once(
    pytester: pytest.Pytester, arguments: tuple[str, ...], says: str
) -> None:
    pytester.makepyfile("def test_never_run(): raise AssertionError")
    result = run(pytester, *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.stderr.lines if line]
    assert line.startswith(f"ERROR: {says}")


def test_wrong_arguments_fail_the_test_with_one_line(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def make(): return int
        def test_lambda(against): against(base=lambda: int, head=make)
        def test_margin(against): against(base=make, head=make, margin="3x")
        def test_inconclusive(against): against.check(base=make, head=make, inconclusive="maybe")
        """
    )
    result = run(pytester)
    result.assert_outcomes(failed=3)
    for line in (
        "against: base is a lambda, and cannot be found by the fresh interpreters that measure; write a function *",
        "against: margin 3x is no share; type for example 3%",
        "against: inconclusive is 'maybe'; expected one of 'skip', 'fail', 'pass'",
    ):
        result.stdout.fnmatch_lines([line])
    assert "another exception" not in result.stdout.str()
    assert "Traceback" not in result.stdout.str()


# What is written


def test_json_is_read_by_pytest_benchmark(forged: pytest.Pytester) -> None:
    forged.makepyfile(
        test_x=f"{cases(CALL, *EVERY)}\n{cases(f'{CALL}; {CALL}', 'fail').replace('test_fail', 'test_two')}"
    )
    run(forged, "--against-json", "out.json").stdout.fnmatch_lines(["wrote *out.json"])
    document = json.loads((forged.path / "out.json").read_text())
    found: dict[str, Any] = {entry["fullname"]: entry for entry in document["benchmarks"]}
    assert "test_x.py::test_broken[base]" not in found  # nothing was measured
    assert list(found)[:2] == ["test_x.py::test_pass[base]", "test_x.py::test_pass[head]"]
    twice = [name for name in found if "test_two" in name]
    assert twice == [f"test_x.py::test_two[{arm}]" for arm in ("base", "head", "base 2", "head 2")]
    head = found["test_x.py::test_fail[head]"]
    assert head["stats"]["data"] == [0.0015]
    assert head["stats"]["iterations"] == 20
    facts = head["extra_info"]
    assert (facts["verdict"], facts["ratio"], facts["low"], facts["high"]) == ("fail", 1.5, 1.4, 1.6)
    command = [sys.executable, "-m", "pytest_benchmark", "compare", "out.json"]
    shown = subprocess.run(command, cwd=forged.path, capture_output=True, text=True, timeout=120, check=True)
    assert "Failed to load" not in shown.stderr
    assert "test_fail[head]" in shown.stdout


def test_a_file_that_cannot_be_written_any_more_is_said(forged: pytest.Pytester) -> None:
    forged.makepyfile(
        """
        import shutil
        def test_in_the_way():
            shutil.rmtree("results")
        """
    )
    forged.mkdir("results")
    result = run(forged, "--against-json", "results/out.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(["--against-json: *out.json cannot be written: No such file or directory"])


def test_junit_has_the_figures_as_properties(forged: pytest.Pytester) -> None:
    forged.makepyfile(cases(CHECK, "fail"))
    # Without a plugin that some runtimes bring along, which itself warns when it is loaded.
    run(forged, "--junitxml=junit.xml", "-p", "no:anyio", "-W", "error").assert_outcomes(failed=1)
    root = ET.parse(forged.path / "junit.xml").getroot()
    found = {entry.get("name"): entry.get("value") for entry in root.iter("property")}
    assert (found["against_verdict"], found["against_ratio"], found["against_epochs"]) == ("fail", "1.5", "8")


# Neighbours


def test_it_does_not_measure_beside_other_tests(
    forged: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    forged.makepyfile(cases(CHECK, "fail"))
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "2")
    result = run(forged, "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*type -n 0 (or -n 1) for these tests"])
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "1")
    run(forged).assert_outcomes(failed=1)


def test_a_report_carries_its_comparisons_from_process_to_process(forged: pytest.Pytester) -> None:
    """pytest-xdist sends what `pytest_report_to_serializable` makes of a report."""
    forged.makeconftest(
        FORGED
        + f"""
import json
def pytest_runtest_logreport(report):
    if report.when == "call":
        from _pytest.reports import TestReport
        sent = json.dumps(report._to_json())
        again = TestReport._from_json(json.loads(sent))
        assert getattr(again, "{ATTRIBUTE}")[0]["verdict"] == "fail"
        print("carried")
"""
    )
    forged.makepyfile(cases(CHECK, "fail"))
    run(forged, "-s").stdout.fnmatch_lines(["*carried*"])


def test_loading_the_plugin_costs_nothing(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    heavy = ("mnv3_bench.gate", "mnv3_reports", "msgspec", "psutil", "numpy", "torch", "scipy", "rich")
    program = f"import sys, pytest, {PLUGIN}; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
    # Nor does a session that does not use it; plugins of other packages may import what they like.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(
        f"import sys\ndef test_x(): assert [name for name in {heavy!r} if name in sys.modules] == []"
    )
    pytester.runpytest_subprocess("-p", PLUGIN).assert_outcomes(passed=1)


SLOWER = """
import time

def make_old():
    data = list(range(2000))
    return lambda: sum(data)

def make_new():
    old, clock = make_old(), time.perf_counter_ns
    def slower():
        start = clock()
        old()
        now = clock()
        end = now + (now - start) * 0.5
        while clock() < end:
            pass
    return slower

def test_slower(against):
    against.check(base=make_old, head=make_new)

def test_alone(benchmark):
    benchmark(make_old())
"""


@pytest.mark.parametrize("mode", ["prepend", "append", "importlib"])
def test_workers_find_the_functions_of_a_test_module_in_every_import_mode(
    pytester: pytest.Pytester, mode: str
) -> None:
    suite = pytester.mkdir("suite")
    for name, text in {
        "__init__.py": "",
        "makers.py": "def make_old(): raise KeyError('found')",
        "test_two.py": "from .makers import make_old\ndef test_two(against): against.check(make_old, make_old)",
    }.items():
        (suite / name).write_text(text)
    result = run(pytester, f"--import-mode={mode}", "suite")
    result.stdout.fnmatch_lines(
        ["INVALID: make_old against make_old: the base arm failed (load): KeyError: 'found'"]
    )


def test_beside_pytest_benchmark_for_real(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_two=SLOWER)
    for budget in ("12s", "40s"):  # a busy machine gets more time
        result = run(
            pytester,
            "--import-mode=importlib",
            f"--against-time-budget={budget}",
            "--against-json=against.json",
            "--benchmark-json=benchmark.json",
            "--benchmark-max-time=0.1",
        )
        if not result.parseoutcomes().get("skipped"):
            break
    else:
        (shown,) = [line for line in result.stdout.lines if "::test_slower" in line]
        assert shown.startswith(("INCONCLUSIVE", "INVALID"))
        pytest.skip(f"this machine is too busy for any verdict: {shown}")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.re_match_lines([r"FAIL test_two.py::test_slower make_new against make_old \+.*"])
    stored = json.loads((pytester.path / "against.json").read_text())["benchmarks"]
    assert 1.2 < stored[0]["extra_info"]["ratio"] < 2.5
    alone = json.loads((pytester.path / "benchmark.json").read_text())["benchmarks"]
    assert [entry["name"] for entry in alone] == ["test_alone"]
