"""Names of prepared things: everything that shapes one, so that a hit in the store needs no checking."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv3_bench.backends import get_backend
from mnv3_bench.cache import file_digest, source_digest, versions
from mnv3_bench.environment import machine
from mnv3_bench.errors import UsageError
from mnv3_models import parse_variant

if TYPE_CHECKING:
    from mnv3_bench.protocol import Purpose
    from mnv3_reports.record import Cell, Request

WEIGHTS_RESOLUTION = 224
"""Seeded weights are calibrated at the published resolution, whatever resolution is measured."""

Key = dict[str, Any]


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

    def weights(self, variant: str) -> Key:
        """Weights of a variant. Those of an own model change with its code, as far as that can be found.

        Raises:
            UsageError: the weights file, or the code of an own model, cannot be read.
        """
        file = self.request.weights.get(variant)
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

    def reference(self, variant: str, resolution: int) -> Key:
        """Eager fp32 logits, complexity and features of a variant."""
        return {
            "kind": "reference",
            "weights": self.weights(variant),
            "images": self.images("fidelity", resolution),
            "source": source_digest("mnv3_bench.complexity", "mnv3_reports.record"),
            "versions": versions("torch", "fvcore"),
        }

    def artifact(self, cell: Cell) -> Key:
        """What a cell is measured from."""
        backend = get_backend(cell.backend)
        info = backend.info
        facts = machine()
        return {
            "kind": "artifact",
            "backend": cell.backend,
            "options": backend.options(),
            "weights": self.weights(cell.variant),
            "calibration": self.images("calibration", cell.resolution),
            "shape": [cell.batch, 3, cell.resolution, cell.resolution],
            "device": cell.device,
            "threads": cell.threads if info.threads_shape_artifact else None,
            "versions": versions("torch", *info.distributions),
            "source": source_digest("mnv3_bench.backends", type(backend).__module__),
            # Generated code and chosen kernels fit one kind of processor.
            "cpu": [facts.cpu, list(facts.isa)],
        }


def digest_of(file: str) -> str:
    """SHA-256 of a weights file.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return file_digest(file)
    except OSError as error:
        raise UsageError(
            f"--weights: {Path(file).name} cannot be read: {error.strerror}; type a file that can"
        ) from None
