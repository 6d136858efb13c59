"""What CI uses: the action, the workflows, and what docs/ci-gate.md tells people to type."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
import yaml

from mnv3_bench import __version__
from mnv3_bench.cli import app
from mnv3_bench.config import read_gate_config
from mnv3_bench.errors import ExitCode
from mnv3_bench.gate.command import EXIT_CODES, REPORT_JSON, REPORT_JUNIT, REPORT_MARKDOWN
from mnv3_bench.gate.rules import DEFAULT_MARGIN, RuleBook
from mnv3_reports.record import Cell
from mnv3_reports.sequential import Design, detectable

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PAGE = (ROOT / "docs" / "ci-gate.md").read_text()
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text())
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]


def blocks(language: str) -> list[str]:
    """Fenced code of docs/ci-gate.md."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


def load(text: str) -> Any:
    """YAML; in YAML 1.1 the key `on` is a boolean, GitHub reads it as a word."""
    document = yaml.safe_load(text)
    if True in document:
        document["on"] = document.pop(True)
    return document


def step(name: str) -> dict[str, Any]:
    return next(each for each in STEPS if each["name"] == name)


def job_steps(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [each for job in document.get("jobs", {}).values() for each in job.get("steps", [])]


def everything_with_steps() -> list[tuple[str, list[dict[str, Any]]]]:
    files = [(path.name, job_steps(load(path.read_text()))) for path in WORKFLOWS]
    pages = [(f"ci-gate.md {number}", job_steps(load(text))) for number, text in enumerate(blocks("yaml"))]
    return [("action.yml", STEPS), *files, *pages]


# What is written is what exists


def options(command: str) -> set[str]:
    found = typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]
    return {option for parameter in found for option in parameter.opts}


def typed_commands() -> list[str]:
    """Every `mnv3-bench …` of the page, in code blocks and in running text, cut where the shell would."""
    pieces = [
        line
        for text in re.findall(r"^```\w+\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
        for line in text.splitlines()
    ]
    pieces += re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", PAGE, flags=re.DOTALL | re.MULTILINE))
    found = [re.search(r"(?:^|[\s-] ?)(mnv3-bench [a-z].*)", piece) for piece in pieces]
    return [re.split(r"\|\||;| #", match[1])[0] for match in found if match]


def test_every_typed_command_has_its_options() -> None:
    commands = typed_commands()
    assert {"run", "gate", "doctor"} <= {command.split()[1] for command in commands}
    for command in commands:
        name = command.split()[1]
        assert set(re.findall(r"--[a-z][a-z-]*", command)) <= options(name), command


def test_every_option_of_the_page_is_one_of_a_command() -> None:
    of_others = {"--no-deps", "--index-url"}
    text = re.sub(r"^\s*- (?:run: )?pip .*$|^\s*pip .*$", "", PAGE, flags=re.MULTILINE)
    known = options("gate") | options("run") | options("doctor") | of_others
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) <= known


def test_the_action_passes_options_of_the_gate() -> None:
    script = step("Gate")["run"]
    used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", script))
    assert {"--base", "--head", "--variants", "--time-budget", "--output"} <= used
    assert used <= options("gate")


def test_extra_arguments_are_options_of_the_gate() -> None:
    given = [
        option
        for _, steps in everything_with_steps()
        for each in steps
        for option in re.findall(r"--[a-z-]+", each.get("with", {}).get("extra-args", ""))
    ]
    assert "--deterministic-only" in given
    assert set(given) <= options("gate")


def test_what_is_given_to_the_action_is_an_input_of_it() -> None:
    uses = [
        each["with"]
        for _, steps in everything_with_steps()
        for each in steps
        if each.get("uses", "") == "./" or "/mnv3-bench@" in each.get("uses", "")
    ]
    assert len(uses) >= 5
    for given in uses:
        assert set(given) <= set(ACTION["inputs"])


def test_every_input_and_output_is_used_and_described_on_the_page() -> None:
    text = (ROOT / "action.yml").read_text()
    table = PAGE[PAGE.index("| input |") : PAGE.index("Outputs:")]
    named = set(re.findall(r"`([a-z-]+)`", "\n".join(row.split("|")[1] for row in table.splitlines() if row)))
    assert named == set(ACTION["inputs"])
    for name, about in ACTION["inputs"].items():
        assert f"inputs.{name} " in text, name
        assert about["description"]
        assert isinstance(about["default"], str), name  # an unquoted true would be a boolean
    script = step("Gate")["run"]
    outputs = PAGE[PAGE.index("Outputs:") :].partition("\n\n")[0]
    for name, about in ACTION["outputs"].items():
        assert about["value"] == f"${{{{ steps.gate.outputs.{name} }}}}"
        assert re.search(rf"\b{name}[=:]", script), name
        assert f"`{name}`" in outputs


# What could be abused


@pytest.mark.parametrize(("name", "steps"), everything_with_steps())
def test_nothing_is_pasted_into_a_script(name: str, steps: list[dict[str, Any]]) -> None:
    for each in steps:
        assert "${{" not in each.get("run", ""), each


@pytest.mark.parametrize(("name", "steps"), everything_with_steps())
def test_actions_are_pinned(name: str, steps: list[dict[str, Any]]) -> None:
    """GitHub's own by major version, anybody else's by commit."""
    for each in steps:
        used = each.get("uses")
        known = r"actions/[a-z-]+@v\d+|[\w-]+/[\w-]+@[0-9a-f]{40}|\./|OWNER/mnv3-bench@REF"
        assert used is None or re.fullmatch(known, used), used


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_may_read_and_nothing_else_and_end(path: Path) -> None:
    document = load(path.read_text())
    assert document["permissions"] == {"contents": "read"}
    assert "pull_request_target" not in document["on"]
    nightly = "schedule" in document["on"]
    assert nightly or "pull_request" in document["on"]
    publishes = path.name == "release.yml"
    assert nightly or document["concurrency"]["cancel-in-progress"] is not publishes
    for name, job in document["jobs"].items():
        if "uses" in job:  # another workflow of this project, which has limits of its own
            assert (ROOT / job["uses"]) in WORKFLOWS, name
            continue
        assert 0 < job["timeout-minutes"] <= (120 if nightly else 60)
        assert publishes or "permissions" not in job, name
        for each in job["steps"]:
            if each.get("uses", "").startswith("actions/checkout@"):
                assert each["with"]["persist-credentials"] is False


def test_what_may_publish_waits_for_the_tests_and_runs_no_code_of_this_project() -> None:
    document = load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    assert document["on"]["push"] == {"tags": ["v*"]}
    jobs = document["jobs"]
    may = {name: job["permissions"] for name, job in jobs.items() if "permissions" in job}
    assert may == {"github": {"contents": "write"}, "pypi": {"id-token": "write"}}
    assert jobs["pypi"]["environment"] == "pypi"
    for name in may:
        assert jobs[name]["if"] == "github.ref_type == 'tag'"
        assert jobs[name]["needs"] == ["tests", "build"]
        used = [each["uses"].partition("@")[0] for each in jobs[name]["steps"] if "uses" in each]
        assert set(used) <= {"actions/download-artifact", "pypa/gh-action-pypi-publish"}
        commands = [each["run"].split()[:3] for each in jobs[name]["steps"] if "run" in each]
        assert commands in ([], [["gh", "release", "create"]])
    kept = {
        each["with"]["name"] for each in jobs["build"]["steps"] if "upload-artifact" in each.get("uses", "")
    }
    taken = {
        each["with"]["name"]
        for name in may
        for each in jobs[name]["steps"]
        if "download-artifact" in each.get("uses", "")
    }
    assert taken == kept == {"dist", "notes"}


def test_a_release_has_the_notes_of_its_version() -> None:
    document = load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    (script,) = (
        each["run"] for each in document["jobs"]["build"]["steps"] if "CHANGELOG.md" in each.get("run", "")
    )
    command = script.removesuffix(" > notes.md")
    notes = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert notes.startswith(f"## {__version__} (")
    assert notes.count("\n## ") == 0
    assert "\n- " in notes


def test_the_gate_on_this_project_has_the_base_and_a_name_for_each_report() -> None:
    document = load((ROOT / ".github" / "workflows" / "perf-gate.yml").read_text())
    names = []
    for job in document["jobs"].values():
        checkout, gate = job["steps"]
        assert checkout["with"]["fetch-depth"] == 0
        names.append(gate["with"]["artifact-name"])
    assert len(names) == len(set(names)) == 2


def test_what_the_tests_run_is_there_and_executable() -> None:
    (script,) = (
        each["run"]
        for each in job_steps(load((ROOT / ".github/workflows/tests.yml").read_text()))
        if "run" in each
    )
    assert (ROOT / script).stat().st_mode & 0o111


# Code of the page


def test_gitlab_lets_inconclusive_pass_alone_and_reads_what_the_gate_writes() -> None:
    (job,) = (load(text)["perf-gate"] for text in blocks("yaml") if "perf-gate:" in text)
    assert job["allow_failure"] == {"exit_codes": [ExitCode.INCONCLUSIVE]}
    (command,) = job["script"]
    folder = command.split("--output ")[1]
    assert job["artifacts"]["paths"] == [folder]
    assert job["artifacts"]["reports"]["junit"] == f"{folder}/{REPORT_JUNIT}"


def test_exit_codes_of_the_page_are_those_of_the_gate() -> None:
    table = PAGE[PAGE.index("| exit code |") :].partition("\n\n")[0]
    shown = {int(code): word for code, word in re.findall(r"^\| (\d+) \| (\w+):", table, re.MULTILINE)}
    verdicts = {int(code): verdict.value for verdict, code in EXIT_CODES.items()}
    assert shown == {**verdicts, ExitCode.USAGE: "none", ExitCode.INTERRUPTED: "none"}


def test_links_of_the_page_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", PAGE)
    assert links
    for link in links:
        assert (ROOT / "docs" / link).is_file(), link


def test_settings_of_the_page_are_settings_and_their_patterns_match(tmp_path: Path) -> None:
    (text,) = blocks("toml")
    file = tmp_path / "gate.toml"
    file.write_text(text)
    asked, gate, _ = read_gate_config(str(file))
    assert asked.time_budget == tomllib.loads(text)["gate"]["time-budget"]
    book = RuleBook(DEFAULT_MARGIN, gate.rules, "page")
    cells = [
        Cell("v3-small", "onnxruntime"),
        Cell("v3-large", "eager"),
        Cell("v3-large", "onnxruntime", threads=4),
    ]
    assert [book.of(cell).latency for cell in cells] == [0.02, 0.08, 0.05]
    assert {book.of(cell).memory.text for cell in cells} == {"10%"}
    assert book.unmatched(cells) == []


def test_rules_named_on_the_page_are_rules() -> None:
    import msgspec

    from mnv3_reports.deterministic import Rules

    (sentence,) = re.findall(r"Rules: (.*?)\.\n", PAGE, re.DOTALL)
    named = {name.replace("-", "_") for name in re.findall(r"`([a-z-]+)`", sentence)}
    assert named == {field.name for field in msgspec.structs.fields(Rules)}


def test_the_table_of_detectable_slowdowns_is_what_the_gate_computes() -> None:
    table = PAGE[PAGE.index("| noise s_d |") :].partition("\n\n")[0].splitlines()
    cells = [int(text) for text in re.findall(r"(\d+) cells?", table[0])]
    assert len(table) == 6
    for row in table[2:]:
        noise, *shown = (float(text) / 100 for text in re.findall(r"([\d.]+) %", row))
        assert shown == [
            pytest.approx(detectable(noise, Design(), DEFAULT_MARGIN, count), abs=0.0005) for count in cells
        ]


@pytest.mark.parametrize("script", [*blocks("sh"), *(each["run"] for each in STEPS if "run" in each)])
def test_scripts_are_bash(script: str) -> None:
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# The action's scripts, run as GitHub runs them


class Ended(NamedTuple):
    code: int
    out: str
    outputs: dict[str, str]


def run_step(name: str, tmp_path: Path, cwd: Path, **environment: str) -> Ended:
    """Run a step's script; what it writes to $GITHUB_OUTPUT is one `name=value` a line."""
    outputs = tmp_path / "outputs"
    outputs.write_text("")
    script = tmp_path / "script.sh"
    script.write_text(step(name)["run"])
    defaults = dict.fromkeys(step(name).get("env", {}), "")
    switches = {"GATE_INSTALL": "true", "GATE_FAIL_ON_INCONCLUSIVE": "false"}
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
        cwd=cwd,
        env={
            "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
            "HOME": str(tmp_path),
            "RUNNER_TEMP": str(tmp_path),
            "GITHUB_OUTPUT": str(outputs),
            "GITHUB_SHA": "",
            **defaults,
            **{name: value for name, value in switches.items() if name in defaults},
            **environment,
        },
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    lines = outputs.read_text().splitlines()
    return Ended(done.returncode, done.stdout, dict(line.split("=", 1) for line in lines))


def fake_gate(tmp_path: Path, code: int, *, report: bool = True) -> Path:
    """A `mnv3-bench` that notes its arguments, one a line, and writes reports; returns where it notes them."""
    folder = tmp_path / "bin"
    folder.mkdir()
    noted = tmp_path / "arguments"
    names = f"{REPORT_JSON} {REPORT_MARKDOWN} {REPORT_JUNIT}"
    write = f'mkdir -p "${{!#}}"; for name in {names}; do : >"${{!#}}/$name"; done' if report else ":"
    file = folder / "mnv3-bench"
    file.write_text(f"#!/bin/bash\nprintf '%s\\n' \"$@\" >'{noted}'\n{write}\nexit {code}\n")
    file.chmod(0o755)
    return noted


@pytest.mark.parametrize(
    ("code", "strict", "verdict", "status"),
    [
        (0, "false", "pass", 0),
        (1, "false", "fail", 1),
        (3, "false", "inconclusive", 0),
        (3, "true", "inconclusive", 3),
        (4, "false", "invalid", 4),
        (130, "false", "interrupted", 130),
    ],
)
def test_a_verdict_becomes_outputs_and_an_exit_status(
    code: int, strict: str, verdict: str, status: int, tmp_path: Path
) -> None:
    fake_gate(tmp_path, code)
    ended = run_step("Gate", tmp_path, tmp_path, GATE_FAIL_ON_INCONCLUSIVE=strict)
    assert ended.code == status, ended.out
    assert (ended.outputs["verdict"], ended.outputs["exit-code"]) == (verdict, str(code))
    for name, file in (("report", REPORT_MARKDOWN), ("json", REPORT_JSON), ("junit", REPORT_JUNIT)):
        assert Path(ended.outputs[name]) == Path(ended.outputs["directory"]) / file
        assert Path(ended.outputs[name]).is_file()
    assert ("::warning" in ended.out) == (code != status)
    assert "::error" not in ended.out  # the gate annotates what it reports


@pytest.mark.parametrize(
    ("code", "verdict", "status"),
    [
        (0, "error", 1),
        (1, "error", 1),
        (2, "error", 2),
        (3, "error", 3),
        (4, "invalid", 4),
        (137, "error", 137),
    ],
)
def test_without_a_report_no_exit_code_passes(code: int, verdict: str, status: int, tmp_path: Path) -> None:
    fake_gate(tmp_path, code, report=False)
    ended = run_step("Gate", tmp_path, tmp_path)
    assert (ended.code, ended.outputs["verdict"]) == (status, verdict)
    assert ended.outputs["exit-code"] == str(code)
    assert "report" not in ended.outputs
    assert [line for line in ended.out.splitlines() if line.startswith("::error")] == [
        f"::error title=mnv3-bench gate::no report, exit code {code}; the last line of this step's log says why"
    ]


@pytest.mark.parametrize(("code", "status"), [(0, 0), (1, 1), (2, 2), (3, 0), (4, 4), (130, 130)])
@pytest.mark.parametrize("where", ["plain shell", "without the action"])
def test_scripts_of_the_page_let_inconclusive_pass_alone(
    where: str, code: int, status: int, tmp_path: Path
) -> None:
    fake_gate(tmp_path, code)
    (by_hand,) = (
        each["run"]
        for _, steps in everything_with_steps()
        for each in steps
        if "mnv3-bench gate --base git:HEAD^1" in each.get("run", "")
    )
    (plain,) = (text for text in blocks("sh") if "case $code" in text)
    script = plain if where == "plain shell" else by_hand
    flags = [] if where == "plain shell" else ["-e"]
    path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    done = subprocess.run(["bash", *flags, "-c", script], cwd=tmp_path, env={"PATH": path}, check=False)
    assert done.returncode == status


def test_a_gate_that_is_not_installed_fails(tmp_path: Path) -> None:
    ended = run_step("Gate", tmp_path, tmp_path)
    assert (ended.code, ended.outputs["verdict"]) == (127, "error")


def test_inputs_become_options_and_empty_ones_none(tmp_path: Path) -> None:
    noted = fake_gate(tmp_path, 0)
    ended = run_step(
        "Gate",
        tmp_path,
        tmp_path,
        GATE_BASE="git:main",
        GATE_HEAD="here",
        GATE_BATCH_SIZES="1,8",
        GATE_TIME_BUDGET="5m",
    )
    assert noted.read_text().splitlines() == [
        "gate", "--base", "git:main", "--head", "here", "--batch-sizes", "1,8", "--time-budget", "5m",
        "--output", ended.outputs["directory"],
    ]  # fmt: skip


def test_what_is_typed_into_an_input_is_never_run(tmp_path: Path) -> None:
    noted = fake_gate(tmp_path, 0)
    (tmp_path / "file").touch()
    nasty = '$(touch pwned) "; touch pwned; `touch pwned`'
    run_step(
        "Gate",
        tmp_path,
        tmp_path,
        GATE_BASE=nasty,
        GATE_EXTRA_ARGS="--seed 3\n  --device *  $(touch\tpwned)\n",
    )
    arguments = noted.read_text().splitlines()
    assert arguments[2] == nasty
    assert arguments[5:-2] == ["--seed", "3", "--device", "*", "$(touch", "pwned)"]
    assert not (tmp_path / "pwned").exists()


def git(cwd: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.invalid", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *identity, *arguments], cwd=cwd, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """`main` went on after `topic` left it, and `merge` is the trial merge of the two."""
    if shutil.which("git", path="/usr/bin:/bin") is None:
        pytest.fail("git is needed for these tests")
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    for name in ("first", "fork"):
        git(folder, "commit", "-q", "--allow-empty", "-m", name)
    git(folder, "branch", "fork")
    git(folder, "checkout", "-q", "-b", "topic")
    git(folder, "commit", "-q", "--allow-empty", "-m", "change")
    git(folder, "checkout", "-q", "main")
    git(folder, "commit", "-q", "--allow-empty", "-m", "others")
    git(folder, "checkout", "-q", "-b", "merge")
    git(folder, "merge", "-q", "--no-ff", "-m", "trial merge", "topic")
    return folder


@pytest.mark.parametrize(
    ("checked_out", "event_base", "given", "expected"),
    [
        ("merge", "main", "", "main"),
        ("merge", "fork", "", "main"),  # the event's base is older than what was merged into
        ("topic", "main", "", "fork"),  # what others did since is not the topic's
        ("main", "", "", "fork"),  # a push
        ("main", "", "git:topic", "topic"),
        ("merge", "main", "git:HEAD~2", "fork"),
    ],
)
def test_the_base_of_an_event(
    checked_out: str, event_base: str, given: str, expected: str, repository: Path, tmp_path: Path
) -> None:
    git(repository, "checkout", "-q", checked_out)
    ended = run_step(
        "Find the base",
        tmp_path,
        repository,
        GATE_BASE=given,
        PULL_REQUEST_BASE=git(repository, "rev-parse", event_base) if event_base else "",
        GITHUB_SHA=git(repository, "rev-parse", "merge" if event_base else checked_out),
    )
    assert ended.code == 0, ended.out
    assert ended.outputs == {"commit": git(repository, "rev-parse", expected)}


@pytest.mark.parametrize("event_base", ["", "main"])
def test_a_shallow_checkout_is_one_line(event_base: str, repository: Path, tmp_path: Path) -> None:
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "-q", "--depth", "1", "--branch", "merge", f"file://{repository}", str(shallow))
    ended = run_step(
        "Find the base",
        tmp_path,
        shallow,
        PULL_REQUEST_BASE=git(repository, "rev-parse", event_base) if event_base else "",
        GITHUB_SHA=git(repository, "rev-parse", "merge"),
    )
    assert ended.code == 2
    (line,) = ended.out.splitlines()
    assert line.startswith("::error ")
    assert "'fetch-depth: 0'" in line
    assert ended.outputs == {}


@pytest.mark.parametrize("given", ["git:nowhere", "git:", "git:-x", "git:$(touch pwned)\n::warning::x"])
def test_a_base_that_is_no_commit_is_one_line(given: str, repository: Path, tmp_path: Path) -> None:
    ended = run_step("Find the base", tmp_path, repository, GATE_BASE=given)
    assert ended.code == 2
    (line,) = ended.out.splitlines()
    assert line.startswith("::error ")
    assert not (repository / "pwned").exists()


def test_a_base_that_is_not_a_commit_needs_no_repository(tmp_path: Path) -> None:
    assert run_step("Find the base", tmp_path, tmp_path, GATE_BASE="large") == (0, "", {})
    ended = run_step("Find the base", tmp_path, tmp_path)
    assert ended.code == 2
    assert "actions/checkout" in ended.out.splitlines()[-1]


@pytest.mark.parametrize("name", ["GATE_INSTALL", "GATE_FAIL_ON_INCONCLUSIVE"])
def test_a_switch_is_true_or_false(name: str, tmp_path: Path) -> None:
    ended = run_step("Find the base", tmp_path, tmp_path, GATE_BASE="large", **{name: "yes"})
    assert ended.code == 2
    (line,) = ended.out.splitlines()
    assert line.endswith("is 'yes'; write true or false")


def test_the_cache_is_named_by_what_is_installed(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "python").symlink_to(shutil.which("python3", path="/usr/bin:/usr/local/bin") or "python3")
    first = run_step("Name the artifact cache", tmp_path, tmp_path)
    assert first.code == 0, first.out
    assert re.fullmatch(r"[0-9a-f]{16}-\d{4}-W\d{2}", first.outputs["key"])
    assert first.outputs["directory"] == str(tmp_path / ".cache" / "mnv3-bench")
    package = tmp_path / "site" / "thing-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
    second = run_step(
        "Name the artifact cache",
        tmp_path,
        tmp_path,
        PYTHONPATH=str(package.parent),
        MNV3_BENCH_CACHE="/elsewhere",
    )
    assert second.outputs["key"] != first.outputs["key"]
    assert second.outputs["directory"] == "/elsewhere"
