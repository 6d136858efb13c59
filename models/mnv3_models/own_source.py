"""Where the source of an own model lies and what it amounts to, found without executing any of it."""

from __future__ import annotations

import ast
import contextlib
import difflib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import re
import sys
import warnings
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mnv3_models.variants import Variant

_INSTALLED = ("site-packages", "dist-packages")
_CODE = (".py", ".so", ".pyd")
_MAKES_NAMES = re.compile(r"import\s*\*|__getattr__|globals\(|setattr\(|exec\(")
"""Ways for a module to have a name that its text does not show."""


class _Place(NamedTuple):
    """Where a module or package lies."""

    file: Path | None
    """Of a package its __init__.py; None for what is built in, and for a package without one."""
    folders: tuple[Path, ...] | None
    """Of a package, where its modules are; None for a module."""


@contextlib.contextmanager
def current_directory_first() -> Iterator[None]:
    """Python's path with the current directory in front, where a user's module lies more often than not.

    An installed script, unlike `python -m`, does not have it there.
    """
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()  # the file may have been written a moment ago
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the module that was imported took it away
            sys.path.remove(here)


def require_source(variant: Variant) -> None:
    """Check that an own model's module is there and, as far as its text tells, has the function.

    Raises:
        ValueError: it is not.
    """
    module, _, function = variant.name.partition(":")
    place = _find(module)
    if place is None:
        raise ValueError(no_module(module))
    source = place.file
    if source is None or source.suffix != ".py":
        return
    text = source.read_text(encoding="utf-8", errors="replace")
    if not re.search(rf"\b{re.escape(function)}\b", text) and not _MAKES_NAMES.search(text):
        raise ValueError(no_function(module, function, _functions(source.read_bytes())))


def no_module(module: str) -> str:
    """The message about a module that is not there."""
    return (
        f"there is no module '{module}' in {Path.cwd()} or on Python's path; run in the folder that holds "
        f"{module.partition('.')[0]}, or add that folder to PYTHONPATH"
    )


def no_function(module: str, function: str, known: list[str]) -> str:
    """The message about a function that the module does not have."""
    near = difflib.get_close_matches(function, known, n=3, cutoff=0.5)
    advice = (
        f"did you mean {' or '.join(f'{module}:{name}' for name in near)}?"
        if near
        else "expected a function without arguments that returns the network"
    )
    return f"module '{module}' has no '{function}'; {advice}"


def fingerprint(variant: Variant) -> dict[str, str]:
    """What changes when the code of an own model does; part of the key of everything made from it.

    Top-level package or module to a hash: the model's own, and everything that it imports, and that those import in
    turn. A package counts with every .py file in it. What is installed counts by the hashes its installer wrote down
    (its version alone would not tell two builds of a project under development apart), and what that imports is not
    followed. No path outside a package is hashed, so the same code in another folder has the same fingerprint.

    Imports are read from the text. What it cannot show is not in here: names given to `importlib.import_module`, and
    files that the function reads, such as weights or a configuration.

    Raises:
        ValueError: the module is not there.
    """
    module = variant.name.partition(":")[0]
    if _find(module) is None:
        raise ValueError(no_module(module))
    found: dict[str, str] = {}
    waiting = [module.partition(".")[0]]
    seen = {*sys.stdlib_module_names}
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        place = _find(name)
        if place is None:  # an import that is allowed to fail, or that will say so when it is executed
            continue
        if _is_installed(place) and (installed := _installed_digest(name)) is not None:
            found[name] = installed
            continue
        total = hashlib.sha256()
        for title, file in _files(place):
            content = file.read_bytes()
            total.update(f"{title}\0{len(content)}\0".encode())
            total.update(content)
            waiting += _imports(content)
        found[name] = total.hexdigest()[:16]
    return dict(sorted(found.items()))


def _find(module: str) -> _Place | None:
    """Where it lies. `importlib.util.find_spec` alone would import the packages above it."""
    name, *rest = module.split(".")
    with current_directory_first():
        try:
            spec = importlib.util.find_spec(name)
        except ValueError:  # it is loaded and has none, such as __main__
            return None
        for part in rest:
            if spec is None or spec.submodule_search_locations is None:
                return None
            # By its last name: with the whole one, Python looks for a package above it among what is imported.
            spec = PathFinder.find_spec(part, list(spec.submodule_search_locations))
        if spec is None:
            return None
        file = Path(spec.origin) if spec.has_location and spec.origin is not None else None
        # Read here: a package without __init__.py looks its folders up at each reading, on the path of that moment.
        folders = spec.submodule_search_locations
        return _Place(file, None if folders is None else tuple(map(Path, folders)))


def _files(place: _Place) -> list[tuple[str, Path]]:
    """Its source files, each with its path inside the package."""
    if place.folders is None:
        return [(place.file.name, place.file)] if place.file is not None else []
    found = []
    for folder in place.folders:
        for file in folder.rglob("*.py"):
            inside = file.relative_to(folder)
            # A package without __init__.py may be a whole project folder, with an environment in it.
            if not any(part.startswith(".") or part in _INSTALLED for part in inside.parts):
                found.append((inside.as_posix(), file))
    return sorted(found)


def _imports(source: bytes) -> list[str]:
    """Top-level names of what a file imports, relative imports left out: they stay in its package."""
    names = []
    for node in ast.walk(_tree(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names.append(node.module)
    return [name.partition(".")[0] for name in names]


def _functions(source: bytes) -> list[str]:
    kinds = (ast.FunctionDef, ast.ClassDef)
    nodes = (node for node in _tree(source).body if isinstance(node, kinds))
    return [node.name for node in nodes if not node.name.startswith("_")]


def _tree(source: bytes) -> ast.Module:
    """Its syntax; nothing where it is no Python text, or wrong: importing it will say so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the user's code, which are for its own import to give
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError):
            return ast.Module([], [])


def _is_installed(place: _Place) -> bool:
    paths = place.folders or ((place.file,) if place.file is not None else ())
    return any(part in _INSTALLED for path in paths for part in path.parts)


@cache
def _distributions() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())


@cache
def _installed_digest(name: str) -> str | None:
    """Version and code of the distributions that bring a top-level package; None when none claims it."""
    parts = []
    for title in sorted(set(_distributions().get(name, []))):
        distribution = importlib.metadata.distribution(title)
        record = distribution.read_text("RECORD") or ""
        # Path, hash and size of each file. Others than code, such as direct_url.json, name folders of this machine.
        code = sorted(line for line in record.splitlines() if line.partition(",")[0].endswith(_CODE))
        digest = hashlib.sha256("\n".join(code).encode()).hexdigest()[:16] if code else "no record"
        parts.append(f"{title} {distribution.version} {digest}")
    return ", ".join(parts) or None
