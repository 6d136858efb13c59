"""What `--base` and `--head` name, and what happens when it is not there."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from reports import factory

from mnv3_bench.cli import invoke
from mnv3_bench.errors import IncomparableError, UsageError
from mnv3_bench.gate import arms as module
from mnv3_bench.gate.arm_worker import ArmAnswer
from mnv3_bench.gate.arms import Arm, PreparedArm, import_roots, pairs, parse_arm, prepare_arms

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ASKED: dict[str, Any] = {"variants": ["small"], "backends": "eager"}


def parse(text: str, tmp_path: Path) -> Arm:
    return parse_arm(text, "--head", tmp_path / "checkouts")


def silent(_text: str) -> None:
    pass


# Forms


def test_a_variant_is_known_by_its_full_name(tmp_path: Path) -> None:
    arm = parse("small@0.5", tmp_path)
    assert (arm.variant, arm.label, arm.elsewhere) == ("v3-small@0.5", "v3-small@0.5", False)


def test_here_is_this_interpreter_in_this_folder(tmp_path: Path) -> None:
    arm = parse("here", tmp_path)
    assert (arm.python, arm.directory, arm.variant, arm.weights) == (sys.executable, None, None, None)
    assert not arm.elsewhere


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.safetensors"])
def test_a_weights_file_is_found_from_anywhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).touch()
    arm = parse(name, tmp_path)
    assert (arm.weights, arm.label, arm.variant) == (str(tmp_path.resolve() / name), name, None)
    assert not arm.elsewhere


def test_an_interpreter_or_its_environment(bare: Path, tmp_path: Path) -> None:
    for text in (f"python:{bare}", f"python:{bare / 'bin' / 'python'}"):
        arm = parse(text, tmp_path)
        # The link, not what it points to: that is how an environment is known.
        assert arm.python == str(bare / "bin" / "python")
        assert arm.elsewhere
        assert arm.label == text


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("lagre", "--head: .*lagre.*an arm is a variant"),
        ("", "--head: "),
        ("missing.pth", "--head: there is no file missing.pth; type a variant"),
        ("python:nowhere", "--head python:nowhere: nowhere is no interpreter; type python:"),
        ("python:", "is no interpreter"),
        ("python:plain.txt", "plain.txt is no interpreter"),
        ("python:empty", r"empty/bin/python is no interpreter"),
    ],
)
def test_what_is_no_arm_is_refused(
    text: str, match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.txt").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=match) as caught:
        parse(text, tmp_path)
    assert "\n" not in str(caught.value)


# Commits


def git(directory: Path, *arguments: str) -> str:
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    author = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    done = subprocess.run(
        ["git", *author, *arguments],
        cwd=directory,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three commits: net.py has version 1, then 2 beside an old file, then the old file is gone."""
    root = tmp_path / "repository"
    (root / "inner").mkdir(parents=True)
    git(root, "init", "--quiet", "--initial-branch", "main")
    for version in (1, 2, 3):
        (root / "inner" / "net.py").write_text(f"VERSION = {version}\n")
        old = root / "old.py"
        if version == 2:
            old.write_text("OLD = True\n")
        else:
            old.unlink(missing_ok=True)
        git(root, "add", "--all")
        git(root, "commit", "--quiet", "--message", f"version {version}")
    monkeypatch.chdir(root)
    return root


def checkout_of(arm: Arm) -> Path:
    from pathlib import Path

    assert arm.directory is not None
    return Path(arm.directory)


def test_a_commit_is_unpacked_as_it_was_and_the_repository_left_alone(
    repository: Path, tmp_path: Path
) -> None:
    (repository / "inner" / "net.py").write_text("VERSION = 'not committed'\n")
    before = git(repository, "status", "--porcelain"), git(repository, "rev-parse", "HEAD")
    first, second = parse("git:HEAD~2", tmp_path), parse("git:HEAD~1", tmp_path)
    assert (checkout_of(first) / "inner" / "net.py").read_text() == "VERSION = 1\n"
    assert (checkout_of(second) / "inner" / "net.py").read_text() == "VERSION = 2\n"
    assert [(checkout_of(arm) / "old.py").exists() for arm in (first, second)] == [False, True]
    assert (git(repository, "status", "--porcelain"), git(repository, "rev-parse", "HEAD")) == before
    assert first.commit == git(repository, "rev-parse", "HEAD~2")
    assert first.label == f"git:HEAD~2 ({first.commit[:12]})"
    assert first.elsewhere
    assert first.surroundings != second.surroundings


def test_one_commit_under_two_names_is_one_checkout(repository: Path, tmp_path: Path) -> None:
    arms = [
        parse(text, tmp_path)
        for text in ("git:HEAD", "git:main", f"git:{git(repository, 'rev-parse', 'main')}")
    ]
    assert len({arm.surroundings for arm in arms}) == 1
    assert len(list((tmp_path / "checkouts").iterdir())) == 1


def test_a_commit_is_imported_from_its_own_folders(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    (repository / "src").mkdir()
    (repository / "src" / "package.py").write_text("WHERE = 'src'\n")
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message", "src")
    arm = parse("git:HEAD", tmp_path)
    root = checkout_of(arm)
    assert arm.variables["PYTHONPATH"].split(os.pathsep) == [str(root / "src"), str(root), "/somewhere"]
    # The working tree may go on; the arm has what was committed.
    (repository / "src" / "package.py").write_text("WHERE = 'elsewhere'\n")
    program = "import package, inner.net; print(package.WHERE, package.__file__, inner.net.VERSION)"
    done = subprocess.run(
        [arm.python, "-c", program],
        env={**os.environ, **arm.variables},
        cwd=arm.directory,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["src", str(root / "src" / "package.py"), "3"]


def test_from_a_subfolder_the_arm_starts_in_the_same_subfolder(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository / "inner")
    assert checkout_of(parse("git:HEAD", tmp_path)).name == "inner"
    (repository / "new").mkdir()
    monkeypatch.chdir(repository / "new")
    # That commit has no such folder: the arm starts at the top.
    assert (checkout_of(parse("git:HEAD", tmp_path)) / "inner").is_dir()


@pytest.mark.parametrize("reference", ["nothing", "", "HEAD~9", "--all", "HEAD:inner/net.py"])
def test_a_commit_that_is_not_there(repository: Path, tmp_path: Path, reference: str) -> None:
    with pytest.raises(UsageError, match=r"this repository has no commit '.*'; type for example git:HEAD~1"):
        parse(f"git:{reference}", tmp_path)
    assert not (tmp_path / "checkouts").exists()


def test_without_a_repository_or_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"^--head: fatal: not a git repository"):
        parse("git:HEAD", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="git is not installed; install it, or name two interpreters"):
        parse("git:HEAD", tmp_path)


def test_a_commit_whose_files_would_land_elsewhere_is_refused(repository: Path, tmp_path: Path) -> None:
    (repository / "link").symlink_to("/etc/passwd")
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message", "a link out of the repository")
    with pytest.raises(UsageError, match=r"--head git:HEAD: its files cannot be unpacked: .*link"):
        parse("git:HEAD", tmp_path)
    # A second try does not take what is half unpacked for a checkout.
    with pytest.raises(UsageError, match="cannot be unpacked"):
        parse("git:HEAD", tmp_path)


def test_import_roots_are_what_the_project_says(tmp_path: Path) -> None:
    for name in ("src", "bench", "models"):
        (tmp_path / name).mkdir()

    def roots(text: str | None) -> list[str]:
        file = tmp_path / "pyproject.toml"
        file.unlink(missing_ok=True)
        if text is not None:
            file.write_text(text)
        return [root.name for root in import_roots(tmp_path)]

    top = tmp_path.name
    assert roots(None) == roots("") == roots("not [ TOML") == ["src", top]
    assert roots("[tool.setuptools]\npackages = ['a']") == ["src", top]
    find = "[tool.setuptools.packages.find]\nwhere = "
    assert roots(find + "['bench', 'models', 'gone']") == ["bench", "models", top]
    (tmp_path / "src").rmdir()
    assert roots(None) == [top]


# Arms that cannot prepare themselves


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment in which nothing is installed."""
    root = tmp_path_factory.mktemp("bare") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root)], check=True)
    return root


def refused(bare: Path, tmp_path: Path) -> UsageError:
    arm = parse_arm(f"python:{bare}", "--base", tmp_path / "checkouts")
    with pytest.raises(UsageError) as caught:
        prepare_arms((arm, parse("here", tmp_path)), ASKED, tmp_path / "gate", silent)
    assert str(caught.value).startswith(f"--base python:{bare}: ")
    assert "\n" not in str(caught.value)
    return caught.value


def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worker: str | None) -> None:
    """Another mnv3-bench on the path: one that has no gate, or whose arm worker is this."""
    package = tmp_path / "other" / "mnv3_bench"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    if worker is not None:
        (package / "gate").mkdir()
        (package / "gate" / "__init__.py").touch()
        (package / "gate" / "arm_worker.py").write_text(worker)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))


def test_an_interpreter_without_the_package_says_how_to_install_it(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir(tmp_path)
    error = refused(bare, tmp_path)
    assert error.exit_code == 2
    assert f"not installed there; type {bare}/bin/python -m pip install mnv3-bench" in str(error)


def test_a_version_without_a_gate_is_incomparable(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, monkeypatch, None)
    error = refused(bare, tmp_path)
    assert isinstance(error, IncomparableError)
    assert "older than the gate" in str(error)


@pytest.mark.parametrize(
    ("worker", "code", "text"),
    [
        (
            "import sys; print('mnv3-bench: --threads 0 is too small', file=sys.stderr); sys.exit(2)",
            2,
            "--threads 0",
        ),
        (
            "import sys; print('protocol 9 is spoken here', file=sys.stderr); sys.exit(4)",
            4,
            "protocol 9 is spoken",
        ),
        ("import gone", 2, "ModuleNotFoundError: No module named 'gone'"),
        ("import os; os._exit(7)", 2, "exit code 7"),
        ("raise RuntimeError('first\\nlast')", 2, "last"),
    ],
)
def test_what_an_arm_says_last_is_the_reason(
    worker: str, code: int, text: str, bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, monkeypatch, worker)
    error = refused(bare, tmp_path)
    assert (int(error.exit_code), text in str(error)) == (code, True)
    assert isinstance(error, IncomparableError) == (code == 4)


def test_this_arm_worker_refuses_another_protocol(tmp_path: Path) -> None:
    request = tmp_path / "request.json"
    request.write_text('{"protocol": -1, "asked": {}, "directory": "run", "command": ""}')
    done = subprocess.run(
        [sys.executable, "-m", "mnv3_bench.gate.arm_worker", str(request)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4
    assert "the gate speaks -1" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--base", "small", "--head", "here"], "one names a network, the other does not"),
        (["--base", "git:HEAD", "--head", "large"], "type --variants with --base git:HEAD and another of"),
        (["--base", "w.pth", "--head", "here"], "a weights file belongs to one network"),
        (["--base", "small"], "gate needs --base and --head"),
        (["--base", "small", "--head", "lagre"], "lagre"),
        (["--base", "small", "--head", "small", "--margin", "0"], "--margin 0 must lie above 0"),
        (
            ["--base", "small", "--head", "small", "--detect", "2%"],
            "--detect 2% is not above the margin of 0.03",
        ),
        (
            ["--base", "small", "--head", "small", "--alpha", "0.9"],
            "--alpha, --power: alpha must lie between",
        ),
        (
            ["--base", "small", "--head", "small", "--time-budget", "soon"],
            "--time-budget soon is not a duration",
        ),
        (["--base", "small", "--head", "small", "--backends", "egaer"], "did you mean eager"),
    ],
)
def test_requests_that_cannot_be_met_are_one_line_and_exit_code_2(
    arguments: list[str],
    text: str,
    repository: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (repository / "w.pth").touch()
    assert invoke(["gate", *arguments]) == 2
    out, err = capsys.readouterr()
    complaint = err.splitlines()[-1]
    assert complaint.startswith("mnv3-bench: ")
    assert text in complaint
    assert (out, "Traceback" in err) == ("", False)


# Preparing together or apart, and pairing


def prepare_without_workers(
    arms: tuple[Arm, Arm], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any]
) -> list[tuple[str, list[str], str]]:
    """Who would have been asked to prepare what, and where."""
    calls = []

    def prepare(
        arm: Arm, variants: list[str], _asked: object, directory: Path, _tell: object, _models: object = None
    ) -> PreparedArm:
        calls.append((arm.text, variants, str(directory.relative_to(tmp_path))))
        return prepared(arm)

    monkeypatch.setattr(module, "_prepare", prepare)
    base, head = prepare_arms(arms, asked, tmp_path, silent)
    assert (base.arm, head.arm) == arms
    return calls


def test_arms_of_the_same_code_and_weights_prepare_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = parse("small", tmp_path), parse("large", tmp_path)
    calls = prepare_without_workers(arms, tmp_path, monkeypatch, ASKED)
    assert calls == [("small", ["v3-small", "v3-large"], "arms")]
    same = parse("small", tmp_path), parse("v3-small", tmp_path)
    assert prepare_without_workers(same, tmp_path, monkeypatch, ASKED)[0][1] == ["v3-small"]


def test_arms_that_differ_in_code_or_weights_prepare_apart(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "w.pth").touch()
    here = parse("here", tmp_path)
    for other in (f"python:{bare}", str(tmp_path / "w.pth")):
        arms = here, parse(other, tmp_path)
        calls = prepare_without_workers(arms, tmp_path, monkeypatch, ASKED)
        assert calls == [("here", ["small"], "arms/base"), (other, ["small"], "arms/head")]


def prepared(
    arm: Arm, variants: Sequence[str] = ("v3-small",), threads: tuple[int, ...] = (1,)
) -> PreparedArm:
    run = factory.whole_run(
        factory.request(tuple(variants), (), ("eager", "onnxruntime"), threads=threads),
        epochs=1,
        rounds=1,
        calls=1,
    )
    return PreparedArm(arm, run, ArmAnswer(1, "3.11", {}, None, {}, {}, {}))


def paired(base: PreparedArm, head: PreparedArm) -> list[tuple[str | None, str | None]]:
    def name(cell: Any) -> str | None:
        return None if cell is None else f"{cell.variant}/{cell.backend}/{cell.threads}"

    return [(name(before), name(after)) for before, after in pairs(base, head)]


def test_cells_of_two_networks_are_paired_by_runtime_and_setting(tmp_path: Path) -> None:
    both = prepared(parse("small", tmp_path), ("v3-small", "v3-large"))
    head = PreparedArm(parse("large", tmp_path), both.run, both.answer)
    assert paired(both, head) == [
        ("v3-small/eager/1", "v3-large/eager/1"),
        ("v3-small/onnxruntime/1", "v3-large/onnxruntime/1"),
    ]
    assert paired(both, both) == [(name, name) for name, _ in paired(both, both)]


def test_cells_of_two_checkouts_are_paired_by_network_too_and_gaps_are_kept(tmp_path: Path) -> None:
    here = parse("here", tmp_path)
    base = prepared(here, ("v3-small", "v3-large"))
    head = prepared(here, ("v3-small",), (1, 2))
    assert paired(base, head) == [
        ("v3-small/eager/1", "v3-small/eager/1"),
        ("v3-small/onnxruntime/1", "v3-small/onnxruntime/1"),
        ("v3-large/eager/1", None),
        ("v3-large/onnxruntime/1", None),
        (None, "v3-small/eager/2"),
        (None, "v3-small/onnxruntime/2"),
    ]
