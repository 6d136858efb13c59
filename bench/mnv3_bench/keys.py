"""Names of prepared things: everything that shapes one, so that a hit in the store needs no checking."""

from __future__ import annotations

import importlib
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mnv3_bench.backends import get_backend, native_backend
from mnv3_bench.cache import file_digest, source_digest, versions
from mnv3_bench.environment import machine
from mnv3_bench.errors import UsageError
from mnv3_bench.model_files import companions
from mnv3_models import parse_variant

if TYPE_CHECKING:
    from mnv3_bench.protocol import Purpose
    from mnv3_reports.record import Cell, Request

WEIGHTS_RESOLUTION = 224
"""Seeded weights are calibrated at the published resolution, whatever resolution is measured."""

Key = dict[str, Any]

_PACKAGE = "mnv3_bench.backends"
_IMPORT = re.compile(r"^\s*from mnv3_bench\.backends(?:\.(\w+))? import \(?([\w, ]+)", re.MULTILINE)


class Keys:
    """Keys of what a request needs."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self._own_sources: dict[str, dict[str, str]] = {}

    def images(self, purpose: Purpose, resolution: int) -> Key:
        """Images for one purpose."""
        return {
            "kind": "images",
            "purpose": purpose,
            "resolution": resolution,
            "seed": self.request.seed,
            "source": source_digest("mnv3_bench.inputs"),
            "versions": versions("numpy"),
        }

    def samples(self, purpose: Purpose, variant: str) -> Key:
        """Inputs of calls for one purpose, of a network with inputs of its own."""
        return {
            "kind": "samples",
            "purpose": purpose,
            "inputs": msgspec.to_builtins(self.request.models[variant].inputs),
            "seed": self.request.seed,
            "source": source_digest("mnv3_bench.inputs"),
            "versions": versions("numpy"),
        }

    def pool(self, purpose: Purpose, cell: Cell) -> Key:
        """What a cell is called with for one purpose."""
        if cell.variant in self.request.models:
            return self.samples(purpose, cell.variant)
        return self.images(purpose, cell.resolution)

    def weights(self, variant: str) -> Key:
        """Weights of a variant. Those of an own model change with its code, as far as that can be found.

        Raises:
            UsageError: the weights file, the model file, or the code of an own model, cannot be read.
        """
        file = self.request.weights.get(variant)
        if parse_variant(variant).is_file:
            model = self.request.models[variant]
            parts = [Path(model.path), *companions(Path(model.path))]
            digests = [digest_of(str(part), "--model") for part in parts]
            return {"kind": "file", "format": model.format, "files": digests}
        if parse_variant(variant).is_own:
            return {
                "kind": "weights",
                "variant": variant,
                "code": self._own_source(variant),
                "weights": digest_of(file) if file else ["seed", self.request.seed],
                "source": source_digest("mnv3_models", "mnv3_bench.prepare_worker"),
                "versions": versions("torch", "safetensors"),
            }
        return {
            "kind": "weights",
            "variant": variant,
            "num_classes": self.request.num_classes,
            "weights": digest_of(file) if file else ["seed", self.request.seed],
            "images": None if file else self.images("weights", WEIGHTS_RESOLUTION),
            "source": source_digest("mnv3_models", "mnv3_bench.prepare_worker"),
            "versions": versions("torch", "safetensors"),
        }

    def _own_source(self, variant: str) -> dict[str, str]:
        """Read once for a run, so that an edit in the middle of it does not split its artifacts."""
        from mnv3_models.own_source import fingerprint

        if variant not in self._own_sources:
            try:
                self._own_sources[variant] = fingerprint(parse_variant(variant))
            except (OSError, ValueError) as error:
                raise UsageError(f"--variants: {error}") from None
        return self._own_sources[variant]

    def reference(self, cell: Cell) -> Key:
        """Reference outputs, complexity and features of a cell's network."""
        variant = cell.variant
        model = self.request.models.get(variant)
        native = (
            native_backend(model.format) if model is not None and parse_variant(variant).is_file else None
        )
        return {
            "kind": "reference",
            "weights": self.weights(variant),
            "images": self.pool("fidelity", cell),
            "source": source_digest(
                "mnv3_bench.complexity",
                "mnv3_bench.prepare_worker",
                "mnv3_reports.record",
                *([type(native).__module__] if native is not None else []),
            ),
            "versions": versions(
                "torch", "fvcore", *(native.info.distributions if native is not None else ())
            ),
        }

    def artifact(self, cell: Cell) -> Key:
        """What a cell is measured from."""
        backend = get_backend(cell.backend)
        info = backend.info
        facts = machine()
        return {
            "kind": "artifact",
            "backend": info.name,
            "options": {**backend.options(), **backend.shaping()},
            "weights": self.weights(cell.variant),
            "calibration": self.pool("calibration", cell),
            "shape": [cell.batch, 3, cell.resolution, cell.resolution],
            "device": cell.device,
            "threads": cell.threads if info.threads_shape_artifact else None,
            "versions": versions("torch", *info.distributions),
            "source": source_digest(*sources_of(type(backend).__module__)),
            # Generated code and chosen kernels fit one kind of processor.
            "cpu": [facts.cpu, list(facts.isa)],
        }

    def explanation(self, cell: Cell) -> Key:
        """What the runtime says of a cell: its artifact's, at its settings and number of threads."""
        return {
            "kind": "explanation",
            "artifact": self.artifact(cell),
            "backend": cell.backend,
            "threads": cell.threads,
            "images": self.pool("tuning", cell),
        }


@cache
def sources_of(module: str) -> tuple[str, ...]:
    """A backend's module and those of the backends' package that it imports, and they in turn.

    Not the whole package: an edit to one runtime's backend would build every other runtime's artifacts again.
    """
    found: list[str] = []
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.append(name)
        text = Path(str(importlib.import_module(name).__file__)).read_text(encoding="utf-8")
        for part, names in _IMPORT.findall(text):
            inner = [part] if part else [each.strip() for each in names.split(",")]
            waiting += [f"{_PACKAGE}.{each}" for each in inner]
    return tuple(sorted(found))


def digest_of(file: str, flag: str = "--weights") -> str:
    """SHA-256 of a file that was named with a flag.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return file_digest(file)
    except OSError as error:
        raise UsageError(
            f"{flag}: {Path(file).name} cannot be read: {error.strerror}; type a file that can"
        ) from None
