"""Phase one, inside a child process: weights, reference outputs and artifacts.

Everything here may import torch; nothing here is measured.
"""

from __future__ import annotations

import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mnv3_bench.inputs import COUNTS, Pool, images, samples
from mnv3_bench.protocol import (
    Done,
    Explain,
    FollowMemory,
    Images,
    MeasureRoofs,
    Prepare,
    Reference,
    Samples,
    TimeOperators,
    Weights,
)
from mnv3_reports.record import Explained, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from mnv3_bench.backends.base import Array, Arrays
    from mnv3_reports.record import Complexity, Model

WEIGHTS_FILE = "model.safetensors"
ABOUT_WEIGHTS_FILE = "weights.json"
OUTPUTS_FILE = "outputs.npz"
FACTS_FILE = "variant.json"
IMAGES_FILE = "images.npy"
SAMPLES_FILE = "inputs.npz"
EXPLANATION_FILE = "explanation.json"
PROFILE_FILE = "profile.json"
ROOFS_FILE = "roofs.json"
ACTIVATIONS_FILE = "activations.json"

Preparing = (
    Images | Samples | Weights | Reference | Prepare | Explain | TimeOperators | MeasureRoofs | FollowMemory
)


class AboutWeights(msgspec.Struct, frozen=True):
    """What a state dict does not hold."""

    bn_eps: float | None = None
    layout: str | None = None
    """Of the file they came from; None when they are seeded."""
    note: str | None = None
    source: dict[str, str] | None = None
    """Fingerprint of an own model's code when they were made."""


def about_weights(weights: Path) -> AboutWeights:
    """What is known of prepared weights, from the file beside them."""
    return msgspec.json.decode(weights.with_name(ABOUT_WEIGHTS_FILE).read_bytes(), type=AboutWeights)


def carry_out(order: Preparing) -> Done:
    """Carry out one preparing order; the seconds of the reply are the work's own, without imports of torch."""
    start = time.perf_counter()
    match order:
        case Images():
            np.save(Path(order.directory) / IMAGES_FILE, images(order.seed, order.purpose, order.resolution))
        case Samples():
            arrays = samples(order.seed, order.purpose, order.inputs, COUNTS[order.purpose])
            save_arrays(Path(order.directory) / SAMPLES_FILE, arrays)
        case Explain():
            _explain(order)
        case TimeOperators():
            _time_operators(order)
        case MeasureRoofs():
            from mnv3_bench.roofline import measure

            _write(Path(order.directory) / ROOFS_FILE, measure(order.threads))
        case FollowMemory():
            _follow_memory(order)
        case _:
            return _with_torch(order)
    return Done(time.perf_counter() - start)


def save_arrays(path: Path, arrays: Sequence[Array]) -> None:
    """Write arrays as one .npz file, named '0', '1' and so on, without anything that would have to be executed."""
    named: dict[str, Any] = {str(position): array for position, array in enumerate(arrays)}
    np.savez(path, allow_pickle=False, **named)


def _with_torch(order: Weights | Reference | Prepare) -> Done:
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    start = time.perf_counter()
    match order:
        case Weights():
            _make_weights(order)
            return Done(time.perf_counter() - start)
        case Reference():
            compared = _make_reference(order)
            return Done(time.perf_counter() - start, {"reference": compared})
        case Prepare():
            return _make_artifact(order)


def _explain(order: Explain) -> None:
    from mnv3_bench.backends import get_backend

    backend = get_backend(order.backend)
    calls = list(Pool(order.images, order.batch).calls())
    found = backend.explain(Path(order.artifact), order.threads, calls)
    explained = Explained(
        cell="",
        by=found.by if found is not None else "",
        operators=found.operators if found is not None else (),
        reasons=found.reasons if found is not None else (),
        exact=backend.info.exact,
    )
    _write(Path(order.directory) / EXPLANATION_FILE, explained)


def _time_operators(order: TimeOperators) -> None:
    from mnv3_bench.backends import get_backend
    from mnv3_bench.backends.base import BackendError

    calls = list(Pool(order.images, order.batch).calls())
    folder = Path(order.directory)
    found = get_backend(order.backend).profile(Path(order.artifact), order.threads, calls, folder)
    if found is None:
        raise BackendError(f"{order.backend} has no means to time its operators")
    _write(folder / PROFILE_FILE, found)


def _follow_memory(order: FollowMemory) -> None:
    from mnv3_bench.memory import follow

    network = load_prepared(order.variant, order.num_classes, order.weights)
    inputs = next(iter(Pool(order.images, order.batch).calls()))
    found = follow(network, inputs, variant=order.variant, resolution=order.resolution)
    _write(Path(order.directory) / ACTIVATIONS_FILE, found)


def _write(path: Path, found: msgspec.Struct) -> None:
    path.write_bytes(msgspec.json.encode(found))


def _make_weights(order: Weights) -> None:
    import torch
    from safetensors.torch import save_model

    from mnv3_models import build, load_weights, parse_variant
    from mnv3_models.calibration import calibrate, seed_weights
    from mnv3_models.own import load_state
    from mnv3_models.own_source import fingerprint

    variant = parse_variant(order.variant)
    torch.manual_seed(order.seed)  # an own model's initial values are drawn while it is built
    model: nn.Module = build(order.variant, num_classes=order.num_classes)
    if variant.is_own:
        # Otherwise its weights are as its function made them: it may have loaded some, and they are not ours to draw.
        if order.file is not None:
            load_state(model, order.file)
        about = AboutWeights(
            layout="its own" if order.file is not None else None, source=fingerprint(variant)
        )
    elif order.file is not None:
        loaded = load_weights(model, order.file)
        about = AboutWeights(bn_eps=loaded.bn_eps, layout=loaded.layout, note=loaded.note)
    else:
        seed_weights(model, order.seed)
        calibrate(model, np.load(order.images))
        about = AboutWeights()
    directory = Path(order.directory)
    save_model(model.eval(), str(directory / WEIGHTS_FILE))
    (directory / ABOUT_WEIGHTS_FILE).write_bytes(msgspec.json.encode(about))


def _make_reference(order: Reference) -> str:
    """Write outputs to compare with and what is known of the network; give what they were computed by."""
    from mnv3_models import parse_variant
    from mnv3_models.features import features
    from mnv3_models.published import figures
    from mnv3_reports.record import PublishedFigure, VariantFacts

    variant = parse_variant(order.variant)
    calls = list(Pool(order.images, 1).cover())
    if order.model is not None and variant.is_file:
        outputs, compared = (
            _run_file(order.model, calls),
            f"{order.model.format} file, its runtime's plainest form",
        )
        network = read_network(order.model)
    else:
        network, compared = load_prepared(order.variant, order.num_classes, order.weights), "eager fp32"
        outputs = _run_network(network, calls, order)
    columns = [
        np.concatenate([np.atleast_1d(column) for column in rows]) for rows in zip(*outputs, strict=True)
    ]
    save_arrays(Path(order.directory) / OUTPUTS_FILE, columns)
    facts = VariantFacts(
        variant=order.variant,
        resolution=order.resolution,
        title=variant.title,
        complexity=_complexity(network, calls[0], order),
        features=features(network, variant) if network is not None and not variant.is_file else {},
        published=tuple(
            PublishedFigure(
                source=figure.source,
                weights=figure.weights,
                precision=figure.precision,
                resolution=figure.resolution,
                top1=figure.top1,
                macs=figure.macs,
                parameters=figure.parameters,
                latency_ms=dict(figure.latency_ms),
            )
            for figure in figures(order.variant)
        ),
        weights="",
    )
    (Path(order.directory) / FACTS_FILE).write_bytes(msgspec.json.encode(facts))
    return compared


def _run_file(model: Model, calls: list[Arrays]) -> list[Arrays]:
    from mnv3_bench.backends import native_backend

    return native_backend(model.format).reference(Path(model.path), calls)


def _run_network(network: nn.Module, calls: list[Arrays], order: Reference) -> list[Arrays]:
    import torch

    from mnv3_bench.backends._torch import as_arrays
    from mnv3_models import parse_variant
    from mnv3_models.own import count_classes

    if order.model is None and parse_variant(order.variant).is_own:
        count_classes(order.variant, network, torch.from_numpy(calls[0][0]))
    with torch.inference_mode():
        return [as_arrays(network(*map(torch.from_numpy, inputs))) for inputs in calls]


def _complexity(network: nn.Module | None, inputs: Arrays, order: Reference) -> Complexity | None:
    """Counted cost; None for a file that is no PyTorch network, or one that no counter can follow."""
    from mnv3_bench.complexity import count

    if network is None:
        return None
    if order.model is None:
        return count(network, inputs)
    try:
        return count(network, inputs)
    except Exception:  # noqa: BLE001 - a user's network may do what fvcore's tracer cannot follow
        traceback.print_exc()
        return None


def _make_artifact(order: Prepare) -> Done:
    import torch

    from mnv3_bench.backends import get_backend
    from mnv3_bench.backends.base import Preparation
    from mnv3_models import parse_variant
    from mnv3_models.own import count_classes

    variant = parse_variant(order.variant)
    calibration = list(Pool(order.calibration, order.batch).cover())
    example = calibration[0]
    num_classes = order.num_classes
    if order.model is not None and variant.is_file:
        network = read_network(order.model)
    else:
        network = load_prepared(order.variant, order.num_classes, order.weights)
        if order.model is None and variant.is_own:
            num_classes = count_classes(order.variant, network, torch.from_numpy(example[0]))
    preparation = Preparation(
        variant=order.variant,
        num_classes=num_classes,
        network=network,
        inputs=order.model.inputs if order.model is not None else (TensorSpec("images", example[0].shape),),
        example=example,
        calibration=calibration,
        threads=order.threads,
        device=order.device,
        directory=Path(order.directory),
        format=order.model.format if order.model is not None else "module",  # type: ignore[arg-type]
        file=Path(order.model.path) if order.model is not None and variant.is_file else None,
        float_layers=order.float_layers,
    )
    start = time.perf_counter()
    facts = get_backend(order.backend).prepare(preparation)
    return Done(time.perf_counter() - start, facts)


def read_network(model: Model) -> nn.Module | None:
    """The network of a file that PyTorch reads, in eval mode; None for one that it does not. This executes it.

    Raises:
        ValueError: PyTorch cannot read it.
    """
    import warnings

    import torch

    if model.format not in ("pt2", "torchscript"):
        return None
    try:
        if model.format == "pt2":
            exported: nn.Module = torch.export.load(model.path).module()
            return exported
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", category=DeprecationWarning, message=".*torch.jit.*deprecated.*"
            )
            script: nn.Module = torch.jit.load(model.path, map_location="cpu")  # type: ignore[no-untyped-call]
            return script.eval()
    except Exception as error:  # whatever unpickling and the file's own code raise
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{Path(model.path).name} cannot be read by PyTorch: {reason}") from error


def load_prepared(variant: str, num_classes: int, weights: str) -> nn.Module:
    """Build a variant in eval mode with prepared weights.

    Raises:
        ValueError: it is an own model, and cannot be made or is not the one that the weights are of.
    """
    from safetensors.torch import load_model

    from mnv3_models import build, parse_variant
    from mnv3_models.own_source import fingerprint

    about = about_weights(Path(weights))
    if about.source is not None and fingerprint(parse_variant(variant)) != about.source:
        raise ValueError(f"the code of {variant} changed after its weights were made; run again, with --cold")
    model: nn.Module = build(variant, num_classes=num_classes, bn_eps=about.bn_eps)
    load_model(model, weights)
    return model.eval()
