"""pytest plugin: the fixture `against` compares two callables by the gate's paired statistic (docs/pytest.md).

It is loaded into every pytest of an environment that has mnv3-bench, so nothing but pytest is imported before the
fixture is used.
"""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

    from mnv3_bench.gate.against import Comparison, Make

INCONCLUSIVE = ("skip", "fail", "pass")
"""What may become of a test whose comparison shows nothing."""
DEFAULTS = {"against_time_budget": "20s", "against_inconclusive": "skip", "against_margin": "3%"}
ATTRIBUTE = "mnv3_against"
"""Of a test report: its comparisons, as plain data, so that they travel from a worker of pytest-xdist."""
PENDING = pytest.StashKey[list[Any]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options and settings."""
    group = parser.getgroup("against", "comparing two callables (mnv3-bench)")
    group.addoption(
        "--against-time-budget",
        metavar="DURATION",
        help="time for each comparison, such as 20s or 2m, whatever the tests say",
    )
    group.addoption(
        "--against-inconclusive",
        choices=INCONCLUSIVE,
        help="what becomes of a test whose comparison shows nothing, whatever the tests say (skip unless given)",
    )
    group.addoption(
        "--against-skip", action="store_true", help="skip every test that uses the fixture `against`"
    )
    group.addoption(
        "--against-json",
        metavar="FILE",
        help="write the comparisons as pytest-benchmark's JSON, two benchmarks each",
    )
    parser.addini("against_time_budget", "time for each comparison (20s)", default=None)
    parser.addini(
        "against_inconclusive", "what becomes of a test whose comparison shows nothing", default=None
    )
    parser.addini("against_margin", "relative slowdown that is tolerated (3%)", default=None)


def pytest_configure(config: pytest.Config) -> None:
    """Refuse what means nothing before any test runs."""
    for name in DEFAULTS:
        for text, where in ((config.getoption(name, None), _flag(name)), (config.getini(name), name)):
            if text:
                _check(name, str(text), where)
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Board(config), "mnv3-against-board")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _check(name: str, text: str, where: str) -> None:
    if name == "against_inconclusive":
        if text not in INCONCLUSIVE:
            raise pytest.UsageError(f"{where} is '{text}'; expected one of {', '.join(INCONCLUSIVE)}")
        return
    from mnv3_bench.errors import UsageError
    from mnv3_bench.gate.rules import margin
    from mnv3_bench.quantities import seconds

    try:
        if name == "against_margin":
            margin(text, where)
        else:
            seconds(text, where)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.fixture
def against(request: pytest.FixtureRequest) -> Against:
    """Compare two callables in fresh interpreters, taking turns: see `Against`."""
    if request.config.getoption("against_skip"):
        pytest.skip("--against-skip was given")
    if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1:
        pytest.skip(
            "comparing while other tests run beside it would measure them too; type -n 0 (or -n 1) for these tests"
        )
    return Against(request)


class Against:
    """What the fixture `against` is.

    Called, it measures and gives a `mnv3_bench.gate.against.Comparison`; `check` also ends the test by its verdict.
    """

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._config = request.config
        self._item: pytest.Item = request.node

    def __call__(
        self,
        base: Make,
        head: Make,
        *,
        margin: str | float | None = None,
        time_budget: str | float | None = None,
        threads: int = 1,
        timeout: str | float | None = None,
    ) -> Comparison:
        """Measure and judge nothing.

        Args:
            base: a function at the top level of a file that does the set-up and returns the callable to be timed.
            head: the same for the callable that must not be slower.
            margin: relative slowdown that is tolerated, such as '3%' or 0.03; the setting `against_margin` unless
                given.
            time_budget: for this comparison, such as '20s'; the setting `against_time_budget` unless given, and the
                option `--against-time-budget` before either.
            threads: that each callable uses.
            timeout: after which an import, a set-up or a block counts as hanging; '2m' unless given.

        A wrong argument fails the test with one line.
        """
        from mnv3_bench.errors import UsageError
        from mnv3_bench.gate.against import DEFAULT_TIMEOUT, compare

        try:
            comparison = compare(
                base,
                head,
                margin=self._setting("against_margin", margin),
                time_budget=self._setting("against_time_budget", time_budget),
                threads=threads,
                timeout=DEFAULT_TIMEOUT if timeout is None else timeout,
            )
        except UsageError as error:
            raise pytest.fail.Exception(f"against: {error}", pytrace=False) from None
        self._note(comparison)
        return comparison

    def check(
        self,
        base: Make,
        head: Make,
        *,
        margin: str | float | None = None,
        time_budget: str | float | None = None,
        threads: int = 1,
        timeout: str | float | None = None,
        inconclusive: str | None = None,
    ) -> Comparison:
        """Measure, and end the test by the verdict.

        FAIL fails the test, and so does an arm that does not run, whichever it is. INCONCLUSIVE and INVALID show
        nothing about the code: the test is skipped with the reason, or fails, or passes, as `inconclusive` says
        ('skip', 'fail', 'pass'; the option `--against-inconclusive` before it, the setting after it). It returns only
        where the test goes on.
        """
        __tracebackhide__ = True  # a skip is reported with its place: that of the test
        if inconclusive is not None and inconclusive not in INCONCLUSIVE:
            _fail(
                f"against: inconclusive is {inconclusive!r}; expected one of {', '.join(map(repr, INCONCLUSIVE))}"
            )
        found = self(base, head, margin=margin, time_budget=time_budget, threads=threads, timeout=timeout)
        if found.failure is not None:
            _fail(f"{found}\n{found.failure.tail}".rstrip())
        if found.failed:
            _fail(str(found))
        if not found.passed:
            match self._setting("against_inconclusive", inconclusive):
                case "skip":
                    pytest.skip(str(found))
                case "fail":
                    _fail(str(found))
        return found

    def _note(self, comparison: Comparison) -> None:
        self._item.stash.setdefault(PENDING, []).append(comparison)
        # What `record_property` does, less its warning that JUnit's stricter form has no place for properties.
        self._item.user_properties += [
            (f"against_{name}", value) for name, value in _properties(comparison).items()
        ]

    def _setting(self, name: str, argument: str | float | None) -> Any:
        """The command line goes before the test, the test before the settings file."""
        option = self._config.getoption(name, None)
        if option is not None:
            return option
        return argument if argument is not None else (self._config.getini(name) or DEFAULTS[name])


def _fail(text: str) -> NoReturn:
    pytest.fail(text, pytrace=False)


def _properties(comparison: Comparison) -> dict[str, Any]:
    """What JUnit XML and `extra_info` say of a comparison."""
    from mnv3_reports.pytest_benchmark import ratio_fields

    return {
        "verdict": comparison.verdict.value,
        "reason": comparison.reason,
        "margin": comparison.margin,
        **ratio_fields(comparison.ratio),
        "null": comparison.null.estimate if comparison.null is not None else None,
        "noise": comparison.noise,
        "detectable": comparison.detectable,
        "epochs": comparison.epochs,
    }


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Send a test's comparisons along with its report."""
    report = yield
    pending = item.stash.get(PENDING, None)
    if pending:
        import msgspec

        setattr(report, ATTRIBUTE, [msgspec.to_builtins(found) for found in pending])
        pending.clear()
    return report


class Board:
    """Collects the comparisons of a session, lists them and writes them."""

    def __init__(self, config: pytest.Config) -> None:
        """Refuse a file that cannot be written now, not after an hour.

        Raises:
            pytest.UsageError: the file's folder is not there, or it is a folder itself.
        """
        given = config.getoption("against_json")
        self.file = Path(given).absolute() if given is not None else None
        if self.file is not None and (not self.file.parent.is_dir() or self.file.is_dir()):
            raise pytest.UsageError(f"--against-json {given}: expected a file in a folder that is there")
        self.started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self.found: list[tuple[str, Comparison]] = []
        self.note = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take a test's comparisons."""
        carried = getattr(report, ATTRIBUTE, None)
        if carried:
            import msgspec

            from mnv3_bench.gate.against import Comparison

            self.found += [(report.nodeid, msgspec.convert(found, Comparison)) for found in carried]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the file."""
        if self.file is None:
            return
        import json

        text = json.dumps(self._document(session.config.rootpath), indent=1, allow_nan=False)
        try:
            self.file.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            self.note = f"--against-json: {self.file} cannot be written: {error.strerror}"
            session.exitstatus = pytest.ExitCode.USAGE_ERROR
        else:
            self.note = f"wrote {self.file}"

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """One line a comparison."""
        if not self.found and not self.note:
            return
        terminalreporter.section("against: head against base, in paired blocks", sep="-")
        for nodeid, comparison in self.found:
            color = {"pass": "green", "fail": "red"}.get(comparison.verdict.value, "yellow")
            terminalreporter.write(comparison.verdict.upper(), **{color: True})
            # Not write_line: it may begin with a line break.
            terminalreporter.write(f" {nodeid} {comparison.line}\n")
        if self.note:
            terminalreporter.write_line(self.note)

    def _document(self, root: Path) -> dict[str, Any]:
        import platform

        from mnv3_bench.environment import machine
        from mnv3_reports.pytest_benchmark import benchmark, document

        benchmarks = []
        numbers: dict[str, int] = {}
        for nodeid, comparison in self.found:
            number = numbers[nodeid] = numbers.get(nodeid, 0) + 1
            counted = f" {number}" if number > 1 else ""
            sides = {
                "base": (comparison.base, comparison.base_blocks),
                "head": (comparison.head, comparison.head_blocks),
            }
            benchmarks += [
                benchmark(
                    f"{nodeid}[{side}{counted}]",
                    blocks,
                    name=f"{nodeid.rpartition('::')[2]}[{side}{counted}]",
                    group=nodeid,
                    extra={**_properties(comparison), "arm": side, "function": function},
                    iterations=comparison.block_calls,
                )
                for side, (function, blocks) in sides.items()
                if blocks
            ]
        return document(
            benchmarks,
            machine(),
            python=platform.python_version(),
            commit=_commit(root),
            started_at=self.started_at,
            project=root.name,
        )


def _commit(root: Path) -> str | None:
    """Commit of the tested project, None where there is none or git is not installed."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
