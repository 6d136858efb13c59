"""`--config FILE` and `[tool.mnv3-bench]`: the same names as the flags, in TOML."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv3_bench.errors import UsageError
from mnv3_bench.plan import Asked, nearest

if TYPE_CHECKING:
    from mnv3_bench.gate.command import GateAsked


def read_config(path: str | None) -> tuple[Asked, str | None]:
    """What a configuration file asks for, and which file that was.

    Without a path, a `pyproject.toml` in the current directory is read if it has a table `[tool.mnv3-bench]`.

    Raises:
        UsageError: the file is not there, is no TOML, or has a key or value that means nothing.
    """
    table, file = _read_table(path)
    return (Asked(), None) if file is None else (_asked(table, file), str(file))


def read_gate_config(path: str | None) -> tuple[Asked, GateAsked, str | None]:
    """The same for `mnv3-bench gate`, whose own settings and rules stand in the table `gate`.

    Raises:
        UsageError: as `read_config`.
    """
    from mnv3_bench.gate.command import GateAsked

    table, file = _read_table(path)
    if file is None:
        return Asked(), GateAsked(), None
    gate = table.get("gate", {})
    if not isinstance(gate, dict):
        raise UsageError(f"{file}: gate = {gate!r} is no table; write [gate]")
    known = {field.name.replace("_", "-"): field.name for field in dataclasses.fields(GateAsked)}
    del known["rules-from"]
    values: dict[str, Any] = {"rules_from": str(file)}
    shared: dict[str, Any] = {}
    for key, value in gate.items():
        dashed = key.replace("_", "-")
        if dashed in _SHARED_WITH_RUN:
            shared[dashed] = value
        elif dashed not in known:
            names = sorted({*known, *_SHARED_WITH_RUN})
            raise UsageError(f"{file}: 'gate.{key}' is not a setting{nearest(key, names)}")
        elif "\0" in str(value):
            raise UsageError(f"{file}: gate.{key} holds a NUL character, which no text and no path has")
        elif not _fits_gate(known[dashed], value):
            raise UsageError(f"{file}: gate.{key} = {value!r} is not what was expected")
        else:
            values[known[dashed]] = value
    # What a run measures for is not what a gate measures for: its own budget only.
    of_run = {
        k: v for k, v in table.items() if k.replace("_", "-") not in ("time-budget", "precision", "quick")
    }
    return _asked({**of_run, **shared}, file), GateAsked(**values), str(file)


_SHARED_WITH_RUN = ("time-budget", "output")


def _fits_gate(name: str, value: Any) -> bool:
    if name in ("allow_different_outputs", "deterministic_only"):
        return isinstance(value, bool)
    if name == "rules":
        return isinstance(value, dict)
    if name in ("base", "head", "baseline", "control"):
        return isinstance(value, str)
    if name in ("alpha", "power"):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, (str, int, float)) and not isinstance(value, bool)


def _read_table(path: str | None) -> tuple[dict[str, Any], Path | None]:
    """A configuration file's own table; no file where there is none to read."""
    file = Path(path) if path is not None else Path("pyproject.toml")
    if path is None and not file.is_file():
        return {}, None
    try:
        with file.open("rb") as stream:
            table = tomllib.load(stream)
    except FileNotFoundError:
        raise UsageError(f"--config: there is no file {file}") from None
    except OSError as error:
        raise UsageError(f"--config: {file} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        if path is None:
            return {}, None  # somebody else's broken pyproject.toml is not ours to complain about
        raise UsageError(f"--config: {file} is not TOML: {error}") from None
    if file.name == "pyproject.toml":
        table = table.get("tool", {}).get("mnv3-bench", {})
        if not table:
            if path is not None:
                raise UsageError(f"--config: {file} has no table [tool.mnv3-bench]")
            return {}, None
    return table, file


def _asked(table: dict[str, Any], file: Path) -> Asked:
    known = {field.name.replace("_", "-"): field.name for field in dataclasses.fields(Asked)}
    for plural in ("models", "inputs"):  # as the flags are called, which are given once for each
        known[plural.removesuffix("s")] = known.pop(plural)
    known |= {"timeout": "limit_time", "worker-memory": "limit_memory"}  # as these flags may be typed, too
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key == "gate":
            continue
        name = known.get(key.replace("_", "-"))
        if name is not None and "\0" in str(value):
            raise UsageError(f"{file}: {key} holds a NUL character, which no text and no path has")
        if name is None:
            hint = nearest(key, sorted(known)) or f"; known are {', '.join(sorted(known))}"
            raise UsageError(f"{file}: '{key}' is not a setting{hint}")
        if not _fits(name, value):
            raise UsageError(f"{file}: {key} = {value!r} is not what was expected: {_EXPECTED[_kind(name)]}")
        values[name] = value
    return Asked(**values)


_KINDS = {
    "flag": ("quick", "cold", "tune"),
    "integer": ("seed", "num_classes", "keep_float"),
    "text": ("device", "output", "data", "split", "normalization", "recipe"),
    "quantity": ("precision", "time_budget", "tune_budget", "limit_time", "limit_memory", "max_drop"),
    "counts": ("threads", "batch_sizes", "resolutions"),
}
_EXPECTED = {
    "flag": "true or false",
    "integer": "a whole number",
    "text": "text",
    "quantity": "text or a number",
    "counts": "a whole number, text or a list of whole numbers",
    "names": "text or a list of text",
}


def _kind(name: str) -> str:
    return next((kind for kind, names in _KINDS.items() if name in names), "names")


def _fits(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return _kind(name) == "flag"
    match _kind(name):
        case "flag":
            return False
        case "integer":
            return isinstance(value, int)
        case "text":
            return isinstance(value, str)
        case "quantity":
            return isinstance(value, (str, int, float))
        case "counts":
            return isinstance(value, (str, int)) or _all(value, int)
        case _:
            return isinstance(value, str) or _all(value, str)


def _all(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, kind) and not isinstance(item, bool) for item in value
    )


def merge(first: Asked, second: Asked) -> Asked:
    """What `first` says, and where it says nothing, what `second` says."""
    values = {
        field.name: getattr(first, field.name)
        if getattr(first, field.name) is not None
        else getattr(second, field.name)
        for field in dataclasses.fields(Asked)
    }
    return Asked(**values)
