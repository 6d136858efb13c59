"""What `mnv3-bench list` says. Nothing heavy is imported: what is installed is found out, not tried out."""

from __future__ import annotations

import importlib.metadata

from mnv3_bench.backends import backend_names, get_backend, missing
from mnv3_models import list_variants, parse_variant


def listing() -> str:
    """Variants and backends as plain text."""
    lines = ["variants (append @WIDTH for another width, such as v2@0.5)"]
    names = [parse_variant(name) for name in list_variants()]
    width = max(len(variant.name) for variant in names)
    lines += [f"  {variant.name:<{width}}  {variant.title}" for variant in names]
    lines.append("  aliases: large, small, large-minimal, small-minimal for v3-…")
    lines += ["", "backends"]
    infos = [get_backend(name).info for name in backend_names()]
    width = max(len(info.name) for info in infos)
    for info in infos:
        lack = missing(info)
        devices = "/".join(info.devices)
        state = "installed" if lack is None else f"not installed: {lack[1]}"
        lines.append(f"  {info.name:<{width}}  {info.precision:<5} {devices:<9} {info.summary} [{state}]")
    shown = ("torch", "onnxruntime", "torchao", "onnx")
    versions = []
    for name in shown:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} not installed")
    lines += ["", "versions: " + ", ".join(versions)]
    return "\n".join(lines)
