"""What `mnv3-bench list` says. Nothing heavy is imported: what is installed is found out, not tried out."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING

from mnv3_bench.backends import backend_names, get_backend, missing
from mnv3_bench.model_files import SUFFIXES
from mnv3_models import list_variants, parse_variant

if TYPE_CHECKING:
    from mnv3_bench.backends.base import Backend


def listing() -> str:
    """Variants, backends and their switches as plain text."""
    lines = ["variants (append @WIDTH for another width, such as v2@0.5)"]
    names = [parse_variant(name) for name in list_variants()]
    width = max(len(variant.name) for variant in names)
    lines += [f"  {variant.name:<{width}}  {variant.title}" for variant in names]
    lines += [
        "  aliases: large, small, large-minimal, small-minimal for v3-…",
        f"  your own: module:function, or --model FILE ({', '.join(SUFFIXES)})",
        "",
        "backends (with a setting: NAME:SWITCH=VALUE; the first value is the default)",
    ]
    backends = [get_backend(name) for name in backend_names()]
    width = max(len(backend.info.name) for backend in backends)
    for backend in backends:
        info = backend.info
        devices = "/".join(info.devices)
        lines.append(
            f"  {info.name:<{width}}  {info.precision:<5} {devices:<9} {info.summary} [{_state(backend)}]"
        )
        lines += [
            f"  {'':<{width}}  :{switch.name}={'|'.join(switch.values)}  {switch.help}"
            for switch in info.switches
        ]
    distributions = dict.fromkeys(
        ("torch", *(name for backend in backends for name in backend.info.distributions))
    )
    lines += ["", "versions: " + ", ".join(map(_version, distributions))]
    return "\n".join(lines)


def _state(backend: Backend) -> str:
    lack = missing(backend.info)
    if lack is not None:
        return f"{lack[0]}; {lack[1]}"
    unable = backend.unavailable()
    return "installed" if unable is None else f"not here: {unable}"


def _version(name: str) -> str:
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{name} not installed"
