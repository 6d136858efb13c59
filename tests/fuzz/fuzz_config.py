"""Configuration files: TOML with any keys and values, and bytes that are none."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fuzz import fuzz_cli, made

keys = st.sampled_from([flag.strip("-") for flag in fuzz_cli.FLAGS if flag.strip("-")])
keys |= st.sampled_from(("rules", "gate", "tool", "", "a b", "é")) | st.text(max_size=5)
scalars = st.one_of(
    st.sampled_from(fuzz_cli.VALUES),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from((1, 2, 224, 0, -1)),
    st.floats(),
    st.booleans(),
    st.text(max_size=8),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=5,
)


def toml(value: Any) -> str:
    """A value as TOML has it."""
    match value:
        case bool():
            return "true" if value else "false"
        case float():
            return repr(value) if math.isfinite(value) else "nan" if math.isnan(value) else "inf"
        case int():
            return str(value)
        case str():
            return quoted(value)
        case list():
            return "[" + ", ".join(map(toml, value)) + "]"
        case _:
            return "{" + ", ".join(f"{quoted(key)} = {toml(each)}" for key, each in value.items()) + "}"


def quoted(text: str) -> str:
    """A basic string."""
    plain = (c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text)
    return '"' + "".join(plain) + '"'


tables = st.dictionaries(keys, values, max_size=5)
documents = st.one_of(
    tables.map(
        lambda table: "".join(f"{quoted(key)} = {toml(value)}\n" for key, value in table.items()).encode()
    ),
    st.tuples(tables, tables).map(
        lambda both: (
            "".join(f"{quoted(key)} = {toml(value)}\n" for key, value in both[0].items() if key != "gate")
            + "[gate]\n"
            + "".join(f"{quoted(key)} = {toml(value)}\n" for key, value in both[1].items())
        ).encode()
    ),
    st.binary(max_size=60),
)


@given(documents, st.sampled_from(("c.toml", "pyproject.toml")))
def fuzz(content: Any, name: Any) -> None:
    """Read as settings of a run and of a gate, planned as far as that goes, or refused in one line."""
    folder = made.scratch() / "config"
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(b"[tool.mnv3-bench]\n" + content if name == "pyproject.toml" else content)
    for command in (("run", "--backends", "eager"), ("gate", "--base", "small", "--head", "small@0.9")):
        fuzz_cli.typed([*command, "--config", str(path)])
