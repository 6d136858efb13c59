"""What CI and contributors run: `nox` for lint, types and tests; `nox -s perf` for the benchmarks."""

from __future__ import annotations

import os
import shutil

import nox

nox.needs_version = ">=2024.10"
nox.options.default_venv_backend = "venv"
nox.options.sessions = ["lint", "tests"]  # tests does what bare and types do, in one environment

PINNED = ("-c", "constraints.txt")
# Two at a time, whatever the machine: a test may itself use two threads, and be about them.
# In the order of pyproject.toml, so that no long file is the last to begin.
# A test process that dies ends the session: with a new one in its place pytest-xdist 3.8 waited for ever, each process
# for a test after its last.
IN_PARALLEL = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "--max-worker-restart", "0")
# Idle OpenMP threads may spin on the processor that the other test computes on, and a wrapper that only has to be right
# need not be optimised. What either saves was not measured alone.
QUICKER = {"OMP_WAIT_POLICY": "passive", "AOT_INDUCTOR_COMPILE_WRAPPER_OPT_LEVEL": "O0"}


@nox.session
def lint(session: nox.Session) -> None:
    session.install("-q", *PINNED, "ruff")
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Types alone."""
    session.install("-q", *PINNED, ".[types]")
    session.run("mypy", *session.posargs)


@nox.session
def bare(session: nox.Session) -> None:
    """None of the extras: every runtime that is missing is skipped with the command that installs it."""
    session.install("-q", *PINNED, ".", "pytest")
    session.run("pytest", "tests/bare", "-p", "no:cacheprovider", *session.posargs)


def install_browser(session: nox.Session) -> dict[str, str]:
    """Chromium from the system's packages, for the tests of the HTML page; without it they are skipped, and say so.

    Gives what tells them that it must be there.
    """
    if shutil.which("chromedriver") is None and shutil.which("apt-get") and os.geteuid() == 0:
        session.run("apt-get", "update", "-q", external=True, silent=True)
        packages = ("chromium", "chromium-driver")
        session.run("apt-get", "install", "-y", "-q", *packages, external=True, silent=True)
    return {"MNV3_BENCH_REQUIRE_BROWSER": "1"} if shutil.which("chromedriver") else {}


@nox.session
def tests(session: nox.Session) -> None:
    """What CI asks of a change: the package without extras, then types and tests with all of them."""
    session.install("-q", *PINNED, ".", "pytest", "pytest-xdist")
    session.run("pytest", "tests/bare", "-n", "2", env=QUICKER)
    session.install("-q", *PINNED, ".[dev]")
    session.run("mypy")
    browser = install_browser(session)
    session.run("pytest", *IN_PARALLEL, *session.posargs, env={**QUICKER, **browser})


@nox.session
def thorough(session: nox.Session) -> None:
    """Every test, those too that say again at length what a quicker one says in short; for a nightly job."""
    session.install("-q", *PINNED, ".[dev]")
    browser = install_browser(session)
    everything = ("-m", "thorough or not thorough", "--hypothesis-profile", "default")
    session.run("pytest", *IN_PARALLEL, *everything, *session.posargs, env={**QUICKER, **browser})


@nox.session
def perf(session: nox.Session) -> None:
    """Benchmarks; needs about twenty quiet minutes. Figures go to docs/performance.md by hand, with the machine."""
    session.install("-q", *PINNED, ".[dev]")
    arguments = session.posargs or ["tests/perf"]
    session.run("pytest", "-s", "--benchmark-json", "perf.json", *arguments)


@nox.session
def scale(session: nox.Session) -> None:
    """A hundred `kill -9` of real runs that are gone on with, and a fleet whose parts are killed; half an hour."""
    session.install("-q", *PINNED, ".[dev]")
    folder = session.create_tmp()
    session.run("python", "tests/scale/kill_run.py", "--kills", "100", "--seed", "0", "--folder", folder)
    session.run("pytest", "-s", "tests/perf/test_fleet.py")


@nox.session
def fuzz(session: nox.Session) -> None:
    """Fuzzers: `nox -s fuzz -- --minutes 10` runs each for so long, guided by coverage (docs/security.md)."""
    session.install("-q", *PINNED, ".[dev]", "atheris>=3")
    session.run("python", "tests/fuzz/run.py", *session.posargs)


@nox.session
def audit(session: nox.Session) -> None:
    """Known vulnerabilities of the pinned versions. A package about which nothing can be learned here fails it."""
    session.install("-q", *PINNED, "pip-audit>=2.7")
    # Without --strict it ends well, whatever it could not look up.
    session.run(
        "pip-audit", "--strict", "--no-deps", "--disable-pip", "-r", "constraints.txt", *session.posargs
    )


@nox.session
def build(session: nox.Session) -> None:
    """The wheel and the sdist of a release in dist/; both are installed and run where nothing of the checkout is."""
    session.install("-q", *PINNED, "build", "packaging", "pytest")
    shutil.rmtree("dist", ignore_errors=True)
    # With a time of its own, and not the hour of building, the same commit gives the same wheel.
    said = session.run("git", "log", "-1", "--format=%ct", external=True, silent=True, success_codes=[0, 128])
    time = str(said).strip()
    session.run("python", "-m", "build", env={"SOURCE_DATE_EPOCH": time} if time.isdigit() else {})
    session.run("pytest", "tests/release", "-p", "no:cacheprovider", *session.posargs)
