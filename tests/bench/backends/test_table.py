"""The table of backends."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mnv3_bench import backends
from mnv3_bench.backends import BACKENDS, UnknownBackendError, backend_names, get_backend, missing

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.mark.parametrize("name", BACKENDS)
def test_every_row_leads_to_the_backend_of_its_name(name: str) -> None:
    info = get_backend(name).info
    assert info.name == name
    assert info.devices[0] == "cpu"
    assert "\n" not in info.summary


def test_reading_the_table_imports_no_runtime() -> None:
    code = (
        "import sys; from mnv3_bench.backends import backend_names, get_backend, missing\n"
        "for name in backend_names(): missing(get_backend(name).info)\n"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'torchao', 'mnv3_models'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownBackendError, match="'onnxruntim' is not a backend; did you mean onnxruntime"):
        get_backend("onnxruntim")
    with pytest.raises(UnknownBackendError, match="'zzz' is not a backend; expected one of eager, "):
        get_backend("zzz")


@pytest.fixture
def entry_points(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[EntryPoint]]:
    """Entry points of other distributions; tests add to the list before they ask for a backend."""
    points: list[EntryPoint] = []
    monkeypatch.setattr(
        backends, "entry_points", lambda group: points if group == "mnv3_bench.backends" else []
    )
    backends._places.cache_clear()
    yield points
    backends._places.cache_clear()


def test_other_distributions_add_backends(entry_points: list[EntryPoint]) -> None:
    entry_points.append(EntryPoint("other", "mnv3_bench.backends.eager:Eager", "mnv3_bench.backends"))
    assert backend_names() == (*BACKENDS, "other")
    with pytest.raises(UnknownBackendError, match="calls itself 'eager' but is registered as 'other'"):
        get_backend("other")


def test_two_backends_of_one_name_are_an_error(entry_points: list[EntryPoint]) -> None:
    entry_points.append(EntryPoint("eager", "elsewhere:Eager", "mnv3_bench.backends"))
    with pytest.raises(ValueError, match=r"two backends are called 'eager': .* and elsewhere:Eager"):
        backend_names()


def test_what_is_missing_comes_with_a_command() -> None:
    info = get_backend("onnxruntime").info
    assert missing(replace(info, runtime_modules=("sys",), prepare_modules=())) is None
    absent = replace(info, runtime_modules=("no_such_runtime.part",), prepare_modules=())
    assert missing(absent) == (
        "no_such_runtime cannot be imported",
        "pip install 'mnv3-bench[onnxruntime]'",
    )
    assert missing(replace(absent, extra=None, distributions=("no-such",))) == (
        "no_such_runtime cannot be imported",
        "pip install no-such",
    )


@pytest.mark.parametrize("name", BACKENDS)
def test_the_docs_name_every_backend_and_what_its_defaults_follow(name: str) -> None:
    text = (Path(__file__).parents[3] / "docs" / "backends.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]
    assert len(rows) == 1
    info = get_backend(name).info
    assert info.sources
    assert all(f"<{source}>" in text for source in info.sources)
    assert (info.extra or "") == rows[0].split("|")[2].strip()
    assert f"{info.floor_snr_db:.0f} dB" in rows[0]
