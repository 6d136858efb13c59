"""`--config FILE` and `[tool.mnv3-bench]`: the same names as the flags, in TOML."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

from mnv3_bench.errors import UsageError
from mnv3_bench.plan import Asked, nearest


def read_config(path: str | None) -> tuple[Asked, str | None]:
    """What a configuration file asks for, and which file that was.

    Without a path, a `pyproject.toml` in the current directory is read if it has a table `[tool.mnv3-bench]`.

    Raises:
        UsageError: the file is not there, is no TOML, or has a key or value that means nothing.
    """
    file = Path(path) if path is not None else Path("pyproject.toml")
    if path is None and not file.is_file():
        return Asked(), None
    try:
        with file.open("rb") as stream:
            table = tomllib.load(stream)
    except FileNotFoundError:
        raise UsageError(f"--config: there is no file {file}") from None
    except OSError as error:
        raise UsageError(f"--config: {file} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        if path is None:
            return Asked(), None  # somebody else's broken pyproject.toml is not ours to complain about
        raise UsageError(f"--config: {file} is not TOML: {error}") from None
    if file.name == "pyproject.toml":
        table = table.get("tool", {}).get("mnv3-bench", {})
        if not table:
            if path is not None:
                raise UsageError(f"--config: {file} has no table [tool.mnv3-bench]")
            return Asked(), None
    return _asked(table, file), str(file)


def _asked(table: dict[str, Any], file: Path) -> Asked:
    known = {field.name.replace("_", "-"): field.name for field in dataclasses.fields(Asked)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = known.get(key.replace("_", "-"))
        if name is None:
            hint = nearest(key, sorted(known)) or f"; known are {', '.join(sorted(known))}"
            raise UsageError(f"{file}: '{key}' is not a setting{hint}")
        plain = isinstance(value, (str, int, float)) and not (
            isinstance(value, bool) and name not in ("quick", "cold")
        )
        listed = isinstance(value, list) and all(isinstance(item, (str, int)) for item in value)
        wants_flag = name in ("quick", "cold")
        wants_integer = name in ("seed", "num_classes")
        if (
            not (plain or listed)
            or (wants_flag and not isinstance(value, bool))
            or (wants_integer and not isinstance(value, int))
        ):
            expected = (
                "true or false"
                if wants_flag
                else "a whole number"
                if wants_integer
                else "text, a number or a list"
            )
            raise UsageError(f"{file}: {key} = {value!r} is not what was expected: {expected}")
        values[name] = value
    return Asked(**values)


def merge(first: Asked, second: Asked) -> Asked:
    """What `first` says, and where it says nothing, what `second` says."""
    values = {
        field.name: getattr(first, field.name)
        if getattr(first, field.name) is not None
        else getattr(second, field.name)
        for field in dataclasses.fields(Asked)
    }
    return Asked(**values)
