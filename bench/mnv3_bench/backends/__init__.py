"""The table of backends: a name and where its class is, imported on use.

A new runtime is one file here, one row of `BACKENDS` and one row of the shared contract test. A backend from another
distribution needs neither: it registers its class under the entry-point group `mnv3_bench.backends`.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from functools import cache
from importlib.metadata import PackageNotFoundError, entry_points, requires, version
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

if TYPE_CHECKING:
    from mnv3_bench.backends.base import Backend, BackendInfo

__all__ = [
    "BACKENDS",
    "ENTRY_POINT_GROUP",
    "UnknownBackendError",
    "backend_names",
    "get_backend",
    "missing",
    "native_backend",
]

ENTRY_POINT_GROUP = "mnv3_bench.backends"

BACKENDS: dict[str, str] = {
    "eager": "mnv3_bench.backends.eager:Eager",
    "eager-channels-last": "mnv3_bench.backends.eager_channels_last:EagerChannelsLast",
    "eager-bf16": "mnv3_bench.backends.eager_bf16:EagerBf16",
    "torchscript": "mnv3_bench.backends.torchscript:TorchScript",
    "compile": "mnv3_bench.backends.compile:Compile",
    "aot-inductor": "mnv3_bench.backends.aot_inductor:AotInductor",
    "quantized-dynamic": "mnv3_bench.backends.quantized_dynamic:QuantizedDynamic",
    "quantized-static": "mnv3_bench.backends.quantized_static:QuantizedStatic",
    "onnxruntime": "mnv3_bench.backends.onnxruntime:OnnxRuntime",
    "onnxruntime-fp16": "mnv3_bench.backends.onnxruntime_fp16:OnnxRuntimeFp16",
    "onnxruntime-int8-dynamic": "mnv3_bench.backends.onnxruntime_int8_dynamic:OnnxRuntimeInt8Dynamic",
    "onnxruntime-int8": "mnv3_bench.backends.onnxruntime_int8:OnnxRuntimeInt8",
    "openvino": "mnv3_bench.backends.openvino:OpenVino",
    "openvino-bf16": "mnv3_bench.backends.openvino_bf16:OpenVinoBf16",
    "openvino-int8": "mnv3_bench.backends.openvino_int8:OpenVinoInt8",
    "litert": "mnv3_bench.backends.litert:LiteRt",
    "litert-int8": "mnv3_bench.backends.litert_int8:LiteRtInt8",
    "executorch": "mnv3_bench.backends.executorch:ExecuTorch",
    "executorch-int8": "mnv3_bench.backends.executorch_int8:ExecuTorchInt8",
    "ncnn": "mnv3_bench.backends.ncnn:Ncnn",
}


class UnknownBackendError(ValueError):
    """No backend has this name."""


def backend_names() -> tuple[str, ...]:
    """Every registered name, in the order of the table; those of other distributions follow."""
    return tuple(_places())


def get_backend(name: str) -> Backend:
    """The backend of this name, with the settings it asks for: `backend` or `backend:switch=value`.

    No runtime is imported.

    Raises:
        UnknownBackendError: no backend has this name, or it has no such setting; the message offers the nearest ones.
    """
    base, *chosen = name.split(":")
    place = _places().get(base)
    if place is None:
        near = difflib.get_close_matches(base, _places(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}" if near else f"expected one of {', '.join(_places())}"
        raise UnknownBackendError(f"'{base}' is not a backend; {hint}")
    settings = {}
    for part in chosen:
        switch, equals, value = part.partition("=")
        if not equals:
            raise UnknownBackendError(f"'{part}' in '{name}' is no setting; expected {base}:switch=value")
        settings[switch] = value
    try:
        return _class(base, place)(settings)
    except ValueError as error:
        raise UnknownBackendError(str(error)) from None


def native_backend(model_format: str) -> Backend:
    """The backend whose own format this is.

    Raises:
        UnknownBackendError: no runtime's.
    """
    for name in _places():
        backend = get_backend(name)
        if backend.info.native == model_format:
            return backend
    raise UnknownBackendError(f"no backend here is the runtime of '{model_format}' files")


def missing(info: BackendInfo) -> tuple[str, str] | None:
    """What keeps a backend from running here, found without importing anything.

    Returns:
        The reason and the command that mends it, or None when everything is installed, in versions that will do.
    """
    tops = dict.fromkeys(
        module.partition(".")[0] for module in (*info.runtime_modules, *info.prepare_modules)
    )
    absent = [top for top in tops if importlib.util.find_spec(top) is None]
    wanted = f"'mnv3-bench[{info.extra}]'" if info.extra else " ".join(info.distributions or absent)
    if absent:
        return f"{' and '.join(absent)} cannot be imported", f"pip install {wanted}"
    found = [_misfit(wanted) for wanted in _requirements(info.extra)] if info.extra else []
    old = [text for text in found if text is not None]
    return ("; ".join(old), f"pip install -U {wanted}") if old else None


@cache
def _requirements(extra: str) -> tuple[Requirement, ...]:
    """What this project's metadata asks for in an extra; nothing when it is run without being installed."""
    try:
        texts = requires("mnv3-bench") or []
    except PackageNotFoundError:
        return ()
    found = [Requirement(text) for text in texts]
    return tuple(each for each in found if each.marker and each.marker.evaluate({"extra": extra}))


def _misfit(wanted: Requirement) -> str | None:
    """What is wrong with the installed version of a requirement, None when nothing is."""
    try:
        installed = version(wanted.name)
    except PackageNotFoundError:
        return f"{wanted.name} is not installed"
    if wanted.specifier.contains(installed, prereleases=True):
        return None
    return f"{wanted.name} {installed} does not fit; expected {wanted.specifier}"


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
def _class(name: str, place: str) -> type[Backend]:
    module, _, attribute = place.partition(":")
    found: type[Backend] = getattr(importlib.import_module(module), attribute)
    if found.info.name != name:
        raise ValueError(f"{place} calls itself '{found.info.name}' but is registered as '{name}'")
    return found
