"""The wheel and the sdist of a release: what is in them, and that they run where nothing of the checkout is.

Run by `nox -s build`, which has made both in `dist/`; in no other session, since it installs everything anew. See
docs/releasing.md.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from packaging.metadata import Metadata

ROOT = Path(__file__).parents[2]
DIST = ROOT / "dist"
PACKAGES = {"mnv3_bench": ROOT / "bench", "mnv3_models": ROOT / "models", "mnv3_reports": ROOT / "reports"}
CELL = (
    "run --variants small-minimal@0.35 --references none --backends eager --resolutions 64 --quick "
    "--time-budget 5s --output measured"
)


def only(pattern: str) -> Path:
    (found,) = DIST.glob(pattern)
    return found


@pytest.fixture(scope="module")
def wheel() -> Path:
    return only("*.whl")


@pytest.fixture(scope="module")
def sdist() -> Path:
    return only("*.tar.gz")


@pytest.fixture(scope="module")
def version() -> str:
    """As it is written in the source, which is the only place."""
    text = (ROOT / "bench" / "mnv3_bench" / "__init__.py").read_text()
    (found,) = re.findall(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    return str(found)


def names_in_wheel(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


# What is in them


def test_the_version_is_the_same_everywhere(wheel: Path, sdist: Path, version: str) -> None:
    assert wheel.name == f"mnv3_bench-{version}-py3-none-any.whl"
    assert sdist.name == f"mnv3_bench-{version}.tar.gz"


def test_the_wheel_holds_the_packages_whole_and_nothing_else(wheel: Path) -> None:
    expected = {
        file.relative_to(root).as_posix()
        for package, root in PACKAGES.items()
        for file in (root / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert any(name.endswith(".jinja") for name in expected)
    inside = {name for name in names_in_wheel(wheel) if ".dist-info/" not in name}
    assert inside == expected


def test_the_sdist_holds_the_repository(sdist: Path, version: str) -> None:
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "CHANGELOG.md", "constraints.txt", "noxfile.py", "docs/architecture.md"} <= inside
    assert {"reports/mnv3_reports/html/page.css", "bench/mnv3_bench/roofline/bandwidth.c"} <= inside
    if not (ROOT / ".git").exists():
        pytest.skip("no repository to compare with")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    tracked = {name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()}
    assert tracked <= inside, sorted(tracked - inside)


def test_metadata_is_valid_and_names_the_license(wheel: Path, version: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        folder = f"mnv3_bench-{version}.dist-info"
        metadata = Metadata.from_email(archive.read(f"{folder}/METADATA"), validate=True)
        assert archive.read(f"{folder}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert str(metadata.version) == version
    assert metadata.license_expression == "Apache-2.0"
    assert metadata.description_content_type == "text/markdown"
    assert {"all", "fleet", "history"} <= set(metadata.provides_extra or [])


def test_the_wheel_is_the_same_when_it_is_built_again(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        built = archive.infolist()[0].date_time
    # Its files' time is the only one in a wheel.
    epoch = str(int(datetime(*built, tzinfo=UTC).timestamp()))
    again = tmp_path / "again"
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(again), str(source)]
    done = subprocess.run(
        command, env={**os.environ, "SOURCE_DATE_EPOCH": epoch}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (again / wheel.name).read_bytes() == wheel.read_bytes()


def test_a_tag_is_of_this_version_and_the_changelog_has_its_date(version: str) -> None:
    heading = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    if os.environ.get("GITHUB_REF_TYPE") == "tag":
        assert os.environ["GITHUB_REF_NAME"] == f"v{version}"
        assert re.fullmatch(rf"{re.escape(version)} \(\d{{4}}-\d\d-\d\d\)", heading)
    else:
        assert heading.startswith(f"{version} (")


# That they run


class Installed:
    """A virtual environment outside the checkout, and a folder to type commands in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "venv" / "bin"
        self.environment = {
            **{
                name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")
            },
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "MNV3_BENCH_CACHE": str(folder / "cache"),
        }

    def type(self, *command: str | Path) -> str:
        """Run a command; what it printed."""
        done = subprocess.run(
            [str(part) for part in command],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def pip(self, *arguments: str | Path) -> str:
        """Run this environment's pip with the pins of the project."""
        return self.type("python", "-m", "pip", *arguments)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Installed:
    """The wheel with what it needs, and no extras."""
    made = Installed(tmp_path_factory.mktemp("installed"))
    assert not made.folder.is_relative_to(ROOT)
    subprocess.run([sys.executable, "-m", "venv", str(made.folder / "venv")], check=True)
    made.pip("install", "-q", "-c", ROOT / "constraints.txt", wheel)
    return made


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_it_runs_installed(
    kind: str, installed: Installed, request: pytest.FixtureRequest, version: str
) -> None:
    file: Path = request.getfixturevalue(kind)
    shutil.rmtree(installed.folder / "measured", ignore_errors=True)
    installed.pip("uninstall", "-q", "-y", "mnv3-bench")
    installed.pip("install", "-q", "--no-deps", file)
    installed.pip("check")
    where = installed.type("python", "-c", "import mnv3_bench; print(mnv3_bench.__file__)")
    assert Path(where.strip()).is_relative_to(installed.folder)
    assert installed.type("mnv3-bench", "--version") == f"mnv3-bench {version}\n"
    assert "Usage" in installed.type("mnv3-bench", "--help")
    installed.type("mnv3-bench", *CELL.split())
    files = {file.name for file in (installed.folder / "measured").iterdir()}
    assert {"run.json", "cells.parquet", "samples.parquet", "charts", "report.md"} <= files
    assert "v3-small-minimal@0.35" in (installed.folder / "measured" / "report.md").read_text()
    page = (installed.folder / "measured" / "report.html").read_text()
    assert (ROOT / "reports" / "mnv3_reports" / "html" / "page.css").read_text().splitlines()[0] in page
    assert installed.type("mnv3-bench", "report", "measured").count("report.") >= 2
