"""Names of networks: a variant, or one line that says why it is none; and a canonical name is its own."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fuzz import made
from mnv3_models import parse_variant
from mnv3_models.variants import CHANGES

PARTS = (
    *(
        "v1",
        "v2",
        "v3",
        "v3-large",
        "v3-small",
        "large",
        "small",
        "minimal",
        "mobilenet",
        "_",
        "-",
        "@",
        ":",
        ".",
        "/",
    ),
    *(
        "0.5",
        "1",
        "1.0",
        "10",
        "0",
        "-1",
        "1e5",
        "nan",
        "٣",
        "1_0",
        " ",
        "\n",
        "\x00",
        ".onnx",
        ".pt",
        ".py",
        "()",
    ),
    *("mynet", "build", "class", "é", "A", *CHANGES),
)
names = st.lists(st.sampled_from(PARTS) | st.text(max_size=3), max_size=8).map("".join) | st.text(max_size=30)


@given(names, st.none() | st.floats() | st.integers(-3, 20))
def fuzz(name: Any, width: Any) -> None:
    """Only `ValueError`, with a message; what is accepted has a canonical name that means the same."""
    try:
        variant = parse_variant(name, width)
    except ValueError as error:
        made.said(error)
        return
    assert parse_variant(variant.name) == variant, (name, variant)
    assert parse_variant(variant.name).name == variant.name
    assert variant.title
    assert variant.unchanged.changes == ()
