"""The table of backends: a name and where its class is, imported on use.

A new runtime is one file here, one row of `BACKENDS` and one row of the shared contract test. A backend from another
distribution needs neither: it registers its class under the entry-point group `mnv3_bench.backends`.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mnv3_bench.backends.base import Backend, BackendInfo

__all__ = ["BACKENDS", "ENTRY_POINT_GROUP", "UnknownBackendError", "backend_names", "get_backend", "missing"]

ENTRY_POINT_GROUP = "mnv3_bench.backends"

BACKENDS: dict[str, str] = {
    "eager": "mnv3_bench.backends.eager:Eager",
    "eager-channels-last": "mnv3_bench.backends.eager_channels_last:EagerChannelsLast",
    "torchscript": "mnv3_bench.backends.torchscript:TorchScript",
    "compile": "mnv3_bench.backends.compile:Compile",
    "quantized-dynamic": "mnv3_bench.backends.quantized_dynamic:QuantizedDynamic",
    "quantized-static": "mnv3_bench.backends.quantized_static:QuantizedStatic",
    "onnxruntime": "mnv3_bench.backends.onnxruntime:OnnxRuntime",
    "onnxruntime-int8-dynamic": "mnv3_bench.backends.onnxruntime_int8_dynamic:OnnxRuntimeInt8Dynamic",
    "onnxruntime-int8": "mnv3_bench.backends.onnxruntime_int8:OnnxRuntimeInt8",
}


class UnknownBackendError(ValueError):
    """No backend has this name."""


def backend_names() -> tuple[str, ...]:
    """Every registered name, in the order of the table; those of other distributions follow."""
    return tuple(_places())


def get_backend(name: str) -> Backend:
    """The backend of this name. Its runtime is not imported.

    Raises:
        UnknownBackendError: no backend has this name; the message offers the nearest ones.
    """
    place = _places().get(name)
    if place is None:
        near = difflib.get_close_matches(name, _places(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}" if near else f"expected one of {', '.join(_places())}"
        raise UnknownBackendError(f"'{name}' is not a backend; {hint}")
    return _instance(name, place)


def missing(info: BackendInfo) -> tuple[str, str] | None:
    """What keeps a backend from running here, found without importing anything.

    Returns:
        The reason and the command that mends it, or None when everything is installed.
    """
    tops = dict.fromkeys(
        module.partition(".")[0] for module in (*info.runtime_modules, *info.prepare_modules)
    )
    absent = [top for top in tops if importlib.util.find_spec(top) is None]
    if not absent:
        return None
    wanted = f"'mnv3-bench[{info.extra}]'" if info.extra else " ".join(info.distributions or absent)
    return f"{' and '.join(absent)} cannot be imported", f"pip install {wanted}"


@cache
def _places() -> dict[str, str]:
    places = dict(BACKENDS)
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name in places:
            raise ValueError(
                f"two backends are called '{point.name}': {places[point.name]} and {point.value}; "
                "uninstall one of them or rename its entry point"
            )
        places[point.name] = point.value
    return places


@cache
def _instance(name: str, place: str) -> Backend:
    module, _, attribute = place.partition(":")
    backend: Backend = getattr(importlib.import_module(module), attribute)()
    if backend.info.name != name:
        raise ValueError(f"{place} calls itself '{backend.info.name}' but is registered as '{name}'")
    return backend
