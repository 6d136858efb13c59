"""Names of prepared things: everything that shapes one, so that a hit in the store needs no checking."""

from __future__ import annotations

import dataclasses
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
from mnv3_bench.plan_accuracy import CALIBRATION_IMAGES
from mnv3_bench.protocol import Labelled
from mnv3_models import parse_variant
from mnv3_models.data.preprocessing import Preprocessing

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
        self._fingerprint: str | None = None

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

    def labelled(self, variant: str, resolution: int) -> Labelled | None:
        """Labelled images as a variant wants them; None where there are none, or it has no weights to be judged."""
        asked = self.request.preprocessing.get(variant)
        if self.request.data is None or self.request.split is None or asked is None:
            return None
        if not parse_variant(variant).is_file:
            here = Preprocessing(**msgspec.structs.asdict(asked)).at(resolution)
            asked = msgspec.structs.replace(asked, resolution=here.resolution, resize=here.resize)
        return Labelled(self.request.data, self.request.split, CALIBRATION_IMAGES, asked)

    def data_images(self, purpose: Purpose, variant: str, resolution: int) -> Key:
        """A network's inputs for one purpose, of labelled images."""
        model = self.request.models.get(variant)
        return {
            "kind": "data images",
            "purpose": purpose,
            "inputs": msgspec.to_builtins(model.inputs) if model is not None else None,
            **self._data(variant, resolution),
        }

    def _data(self, variant: str, resolution: int) -> Key:
        """Which images, and how they are made into inputs. Read once for a run: images may be added meanwhile."""
        labelled = self.labelled(variant, resolution)
        assert labelled is not None, "asked only of networks that labelled images are for"
        if self._fingerprint is None:
            from mnv3_bench.plan_accuracy import open_source

            self._fingerprint = open_source(labelled.data).fingerprint
        asked = labelled.preprocessing
        return {
            "data": self._fingerprint,
            "split": labelled.split,
            "calibration": labelled.calibration,
            # Not the source, which is only why.
            "preprocessing": [asked.resolution, asked.resize, asked.interpolation, asked.mean, asked.std],
            "source": source_digest("mnv3_models.data", "mnv3_bench.data_worker"),
            "versions": versions("numpy", "pillow"),
        }

    def scan(self, variant: str, resolution: int) -> Key:
        """The scan for sensitive layers of a network."""
        return {
            "kind": "sensitivity",
            "weights": self.weights(variant),
            "quantization": source_digest("mnv3_models.quantization"),
            **self._data(variant, resolution),
        }

    def prediction(self, cell: Cell, *, exact: bool) -> Key:
        """What a cell makes of labelled images; of its network in eager fp32, which cells are paired with."""
        made: Key = {"weights": self.weights(cell.variant), "torch": versions("torch")}
        if not exact:
            made = {"artifact": self.artifact(cell), "backend": cell.backend, "threads": cell.threads}
        return {
            "kind": "predictions",
            **made,
            "code": source_digest("mnv3_bench.evaluating.predicting"),
            **self._data(cell.variant, cell.resolution),
        }

    def pool(self, purpose: Purpose, cell: Cell) -> Key:
        """What a cell is called with for one purpose."""
        if self.labelled(cell.variant, cell.resolution) is not None:
            return self.data_images(purpose, cell.variant, cell.resolution)
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
        if self.trains(variant):
            from mnv3_bench.plan_accuracy import recipe_named

            assert self.request.recipe is not None
            recipe = recipe_named(self.request.recipe)
            return {
                "kind": "trained weights",
                "variant": variant,
                "num_classes": self.request.num_classes,
                "recipe": dataclasses.asdict(recipe),
                "seed": self.request.seed,
                **self._data(variant, recipe.resolution),
                "source": source_digest("mnv3_models", "mnv3_bench.data_worker"),
                "versions": versions("torch", "safetensors", "kornia", "pillow"),
            }
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

    def seeds(self, variant: str) -> bool:
        """Whether a variant's weights are drawn, and calibrated on images made for it."""
        known = parse_variant(variant)
        return not (known.is_file or known.is_own or variant in self.request.weights or self.trains(variant))

    def trains(self, variant: str) -> bool:
        """Whether a variant's weights are trained for this run."""
        return (
            self.request.recipe is not None
            and variant not in self.request.weights
            and variant in self.request.preprocessing
            and not parse_variant(variant).is_file
        )

    def float_layers(self, cell: Cell) -> Key | None:
        """What decides which layers a quantizer leaves alone; None where it takes them all."""
        info = get_backend(cell.backend).info
        if not (self.request.keep_float and info.keeps_layers):
            return None
        if self.labelled(cell.variant, cell.resolution) is None or parse_variant(cell.variant).is_file:
            return None
        return {"number": self.request.keep_float, "scan": self.scan(cell.variant, cell.resolution)}

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
        layers = self.float_layers(cell)
        return {
            "kind": "artifact",
            "backend": info.name,
            "options": {**backend.options(), **backend.shaping()},
            "weights": self.weights(cell.variant),
            "calibration": self.pool("calibration", cell),
            **({"float layers": layers} if layers is not None else {}),
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
