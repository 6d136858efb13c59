"""The two sides of a gate: what was typed for `--base` and `--head`, and how each prepares itself."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mnv3_bench.cache import hold
from mnv3_bench.errors import IncomparableError, UsageError
from mnv3_bench.gate.arm_worker import ANSWER, ArmAnswer, ArmRequest
from mnv3_bench.model_files import SUFFIXES, archived, format_of
from mnv3_bench.plan_models import label
from mnv3_bench.protocol import PROTOCOL
from mnv3_models import parse_variant
from mnv3_reports.journal import NAME as JOURNAL
from mnv3_reports.journal import JournalError, assemble, read_journal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mnv3_reports.record import Cell, Run

WEIGHTS_SUFFIXES = (".pth", ".pt", ".safetensors")
HERE = "here"
FORMS = (
    "a variant (small), a weights file (.pth, .safetensors), a model file (.onnx, .tflite, .pt2, .pte, .xml), git:REF, "
    "python:PATH of an interpreter, or here"
)


@dataclass(frozen=True)
class Arm:
    """One side, as asked for."""

    text: str
    flag: str
    variant: str | None = None
    """The network this arm is, where the arms differ in it."""
    weights: str | None = None
    model: str | None = None
    """Path of the file that this arm's network is."""
    python: str = sys.executable
    directory: str | None = None
    """Where its processes are started; None is here."""
    variables: Mapping[str, str] = field(default_factory=dict)
    label: str = ""
    commit: str | None = None

    @property
    def surroundings(self) -> tuple[object, ...]:
        """What two arms must share to be prepared and forked together."""
        return self.python, self.directory, tuple(sorted(self.variables.items()))

    @property
    def elsewhere(self) -> bool:
        """It runs other code or another interpreter than this process."""
        return self.surroundings != Arm("", "").surroundings


@dataclass
class PreparedArm:
    """An arm that has prepared itself."""

    arm: Arm
    run: Run
    answer: ArmAnswer


def parse_arm(text: str, flag: str, checkouts: Path) -> Arm:
    """Read `--base` or `--head`.

    Args:
        text: what was typed.
        flag: which of the two, for messages.
        checkouts: folder for the files of git references.

    Raises:
        UsageError: it is none of the forms, or what it names is not there.
    """
    if text == HERE:
        return Arm(text, flag, label="here")
    if text.startswith("git:"):
        return _git_arm(text, flag, checkouts)
    if text.startswith("python:"):
        return _python_arm(text, flag)
    if Path(text).suffix in WEIGHTS_SUFFIXES and not _is_script(Path(text).expanduser()):
        path = Path(text).expanduser()
        if not path.is_file():
            raise UsageError(f"{flag}: there is no file {text}; type {FORMS}")
        return Arm(text, flag, weights=str(path.resolve()), label=path.name)
    if Path(text).suffix in SUFFIXES:
        path = Path(text).expanduser()
        format_of(path)
        return Arm(text, flag, variant=label(path), model=str(path.resolve()), label=path.name)
    try:
        variant = parse_variant(text).name
    except ValueError as error:
        raise UsageError(f"{flag}: {error}; an arm is {FORMS}") from None
    return Arm(text, flag, variant=variant, label=variant)


def _is_script(path: Path) -> bool:
    """Whether a .pt file is a TorchScript program, which shares its suffix with weights."""
    return path.suffix == ".pt" and path.is_file() and any("/code/" in name for name in archived(path) or ())


def _python_arm(text: str, flag: str) -> Arm:
    path = Path(text.partition(":")[2]).expanduser()
    if path.is_dir():
        path = path / "bin" / "python"
    if not path.is_file() or not os.access(path, os.X_OK):
        raise UsageError(
            f"{flag} {text}: {path} is no interpreter; type python: and the path of a virtual environment or of its "
            "bin/python"
        )
    # Not resolved: a virtual environment is known by the path of its link to the interpreter.
    return Arm(text, flag, python=str(path.absolute()), label=text)


def _git(flag: str, *arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, check=False, timeout=300)
    except FileNotFoundError:
        raise UsageError(f"{flag}: git is not installed; install it, or name two interpreters") from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["git failed"]
        raise UsageError(f"{flag}: {lines[-1]}")
    return done.stdout


def _git_arm(text: str, flag: str, checkouts: Path) -> Arm:
    """Unpack a commit into a folder of its own; the repository itself is not touched."""
    reference = text.partition(":")[2]
    top = Path(_git(flag, "rev-parse", "--show-toplevel").decode().strip())
    try:
        if not reference or reference.startswith("-"):
            raise UsageError("")
        commit = _git(flag, "rev-parse", "--verify", "--quiet", f"{reference}^{{commit}}").decode().strip()
    except UsageError:
        raise UsageError(
            f"{flag} {text}: this repository has no commit '{reference}'; type for example git:HEAD~1 or git:main "
            "(a shallow clone lacks older commits: git fetch --unshallow)"
        ) from None
    root = checkouts / commit[:12]
    if not root.is_dir():
        unpacked = root.with_name(f"{root.name}.unpacking")
        archive = io.BytesIO(_git(flag, "-C", str(top), "archive", "--format=tar", commit))
        try:
            with tarfile.open(fileobj=archive) as tar:
                tar.extractall(unpacked, filter="data")
        except (tarfile.TarError, OSError) as error:
            raise UsageError(
                f"{flag} {text}: its files cannot be unpacked: {error}; name another commit, or check it out yourself "
                "and name an interpreter that has it installed"
            ) from None
        unpacked.rename(root)
    directory = root / Path.cwd().resolve().relative_to(top.resolve())
    if not directory.is_dir():
        directory = root
    path = [str(entry) for entry in import_roots(root)]
    inherited = os.environ.get("PYTHONPATH")
    return Arm(
        text,
        flag,
        directory=str(directory.resolve()),
        variables={"PYTHONPATH": os.pathsep.join([*path, *([inherited] if inherited else [])])},
        label=f"{text} ({commit[:12]})",
        commit=commit,
    )


def import_roots(checkout: Path) -> list[Path]:
    """Folders of a checkout that packages are imported from.

    What `[tool.setuptools.packages.find] where` names, else `src` where there is one, and the checkout itself.
    """
    try:
        table = tomllib.loads((checkout / "pyproject.toml").read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError):
        table = {}
    find = table.get("tool", {}).get("setuptools", {}).get("packages", {})
    where = find.get("find", {}).get("where", []) if isinstance(find, dict) else []
    named = [checkout / str(entry) for entry in where] or [checkout / "src"]
    return [entry.resolve() for entry in (*named, checkout) if entry.is_dir()]


def prepare_arms(
    arms: tuple[Arm, Arm], asked: Mapping[str, Any], directory: Path, tell: Callable[[str], None]
) -> tuple[PreparedArm, PreparedArm]:
    """Let both arms prepare themselves; arms with the same surroundings and weights do it together.

    Args:
        arms: base and head.
        asked: fields of `plan.Asked`; `variants` where the arms do not name their own.
        directory: of the gate; each arm gets a folder in it.
        tell: one line of progress.

    Raises:
        UsageError: an arm says the request is wrong, or cannot be started.
        IncomparableError: an arm's mnv3-bench cannot be used by this one.
    """
    base, head = arms
    names = asked["variants"]
    together = base.surroundings == head.surroundings and base.weights == head.weights
    if base.model != head.model and base.variant == head.variant:
        together = False  # two files of one name
    if together:
        both = list(dict.fromkeys(name for arm in arms for name in _variants_of(arm, names)))
        models = list(dict.fromkeys(arm.model for arm in arms if arm.model is not None))
        prepared = _prepare(base, both, asked, directory / "arms", tell, models)
        return prepared, PreparedArm(head, prepared.run, prepared.answer)
    return (
        _prepare(base, _variants_of(base, names), asked, directory / "arms" / "base", tell),
        _prepare(head, _variants_of(head, names), asked, directory / "arms" / "head", tell),
    )


def _variants_of(arm: Arm, names: list[str]) -> list[str]:
    return [arm.variant] if arm.variant is not None else list(names)


def _prepare(
    arm: Arm,
    variants: list[str],
    asked: Mapping[str, Any],
    directory: Path,
    tell: Callable[[str], None],
    models: Sequence[str] | None = None,
) -> PreparedArm:
    directory.mkdir(parents=True)
    files = [arm.model] if models is None and arm.model is not None else list(models or ())
    own = {
        **asked,
        "variants": [name for name in variants if not parse_variant(name).is_file],
        "references": ["none"],
    }
    if files:
        own["models"] = files
    if arm.weights is not None:
        own["weights"] = [f"{variants[0]}={arm.weights}"]
    request = ArmRequest(PROTOCOL, own, str(directory.resolve() / "run"), f"gate arm {arm.text}")
    file = directory / "request.json"
    file.write_bytes(msgspec.json.encode(request))
    tell(f"preparing {arm.label}: {', '.join(variants)}")
    log = directory / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [arm.python, "-m", "mnv3_bench.gate.arm_worker", str(file.resolve())],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **arm.variables},
            cwd=arm.directory,
        )
        try:
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if code:
        raise _refused(arm, code, log)
    answer = msgspec.json.decode((directory / "run" / ANSWER).read_bytes(), type=ArmAnswer)
    # The arm's own leases ended with it.
    hold(
        Path(path)
        for paths in (answer.artifacts, answer.references, answer.images)
        for path in paths.values()
    )
    try:
        run = assemble(read_journal(directory / "run" / JOURNAL))
    except JournalError as error:
        raise IncomparableError(f"{arm.flag} {arm.text}: its record cannot be read: {error}") from None
    return PreparedArm(arm, run, answer)


def _refused(arm: Arm, code: int, log: Path) -> UsageError:
    """Why an arm did not prepare itself."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    last = lines[-1] if lines else f"exit code {code}"
    text = last.removeprefix("mnv3-bench: ")
    # Python's message may name the module that was asked for as well as the one that it did not find.
    if "No module named 'mnv3_bench.gate" in last:
        return IncomparableError(
            f"{arm.flag} {arm.text}: the mnv3-bench there is older than the gate; choose a newer commit, or update it"
        )
    if "No module named 'mnv3_bench'" in last:
        return UsageError(
            f"{arm.flag} {arm.text}: mnv3-bench is not installed there; type {arm.python} -m pip install mnv3-bench"
        )
    if code == IncomparableError.exit_code:
        return IncomparableError(f"{arm.flag} {arm.text}: {text}")
    return UsageError(f"{arm.flag} {arm.text}: {text}")


def pairs(base: PreparedArm, head: PreparedArm) -> list[tuple[Cell | None, Cell | None]]:
    """Cells that are compared: those that differ in nothing but what the arms differ in.

    A cell that one arm lacks is paired with None.
    """

    def place(arm: Arm, cell: Cell) -> tuple[object, ...]:
        return (None if arm.variant is not None else cell.variant, cell.backend, cell.setting)

    def cells(prepared: PreparedArm) -> dict[tuple[object, ...], Cell]:
        return {
            place(prepared.arm, record.cell): record.cell
            for record in prepared.run.cells.values()
            if prepared.arm.variant in (None, record.cell.variant)
        }

    before, after = cells(base), cells(head)
    return [(before.get(key), after.get(key)) for key in {**before, **after}]
