"""From a job to everything that its first step needs: data, network, and what an earlier process left."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from mnv3_models import build, parse_variant
from mnv3_models.card import read_card
from mnv3_models.checkpoints import load_for_fine_tuning
from mnv3_models.data import open_data, preprocessing_for
from mnv3_models.data.published import NORMALIZATIONS
from mnv3_models.training import checkpoint
from mnv3_models.training.job import CHECKPOINT_FILE, WEIGHTS_FILE, Job, JobError, Request

if TYPE_CHECKING:
    from pathlib import Path

    from mnv3_models.data import Part, Source
    from mnv3_models.layers import MobileNet
    from mnv3_models.training.checkpoint import Standing
    from mnv3_models.training.distributed import World
    from mnv3_models.training.knobs import Recipe
    from mnv3_models.training.state import State


@dataclass(frozen=True)
class Opened:
    """A job whose words have become things."""

    request: Request
    source: Source
    train: Part
    held_out: Part
    threads: int
    standing: Standing | None
    """Where an earlier process stopped; None for a new training."""
    tensors: State
    """Of its checkpoint."""


def open_job(job: Job, world: World) -> Opened:
    """Check a job and open what it names.

    Raises:
        JobError, DataError: it cannot be carried out.
    """
    variant = parse_variant(job.variant)
    if variant.is_own or variant.is_file:
        raise JobError(
            f"{variant.name} is a model of your own, and 'train' makes weights for the built-in networks; type "
            "--variant small, large, v1 or v2"
        )
    if job.seed < 0:
        raise JobError(f"--seed is {job.seed}; expected 0 or more")
    _check_place(job)
    standing, tensors = _earlier(job) if job.resume else (None, {})
    source = open_data(job.data)
    request = _request(job, variant.name, source, standing)
    if standing is not None and (differ := standing.request.contradictions(request)):
        raise JobError(
            f"{', '.join(differ)} contradicts the training in {job.directory}; leave it out, or start a new one "
            "without --resume"
        )
    recipe = request.recipe
    if recipe.fine_tunes and not request.weights:
        raise JobError(f"recipe {recipe.name} goes on from weights that are trained; type --weights FILE")
    if recipe.augment != "none" and importlib.util.find_spec("kornia") is None:
        raise JobError(
            f"--augment {recipe.augment} needs kornia, which is not installed; pip install 'mnv3-bench[train]', or "
            "type --augment none"
        )
    if recipe.qat and world.size > 1:
        raise JobError(
            "--qat trains in one process: the ranges of several would differ; start without torchrun"
        )
    parts = recipe.accumulate * world.size
    if recipe.batch_size % parts:
        raise JobError(
            f"--batch-size {recipe.batch_size} has no {parts} equal parts for {world.size} processes; type a multiple, "
            f"such as {-(-recipe.batch_size // parts) * parts}"
        )
    threads = job.threads or (standing.threads if standing is not None else torch.get_num_threads())
    return Opened(request, source, source.part("train"), source.part("held-out"), threads, standing, tensors)


def check_device(device: str) -> None:
    """See that a device is there.

    Raises:
        JobError: it is not.
    """
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (kind == "cpu" and number) or (number and not number.isdigit()):
        raise JobError(f"--device {device} is not known; expected cpu, cuda or cuda:0")
    if kind == "cuda" and not torch.cuda.is_available():
        raise JobError(f"--device {device}: PyTorch finds no CUDA device here; type --device cpu")
    if number and int(number) >= torch.cuda.device_count():
        raise JobError(
            f"--device {device}: there are {torch.cuda.device_count()} CUDA devices; the first is cuda:0"
        )


def _earlier(job: Job) -> tuple[Standing, State]:
    try:
        return checkpoint.load(job.directory)
    except checkpoint.CheckpointError as error:
        raise JobError(f"--resume: {error}") from None


def _check_place(job: Job) -> None:
    """See that the directory is free."""
    if job.threads is not None and job.threads < 1:
        raise JobError(f"--threads is {job.threads}; expected 1 or more")
    if job.workers < 0:
        raise JobError(f"--workers is {job.workers}; expected 0 or more")
    if job.resume:
        return
    for name in (CHECKPOINT_FILE, WEIGHTS_FILE):
        if (job.directory / name).exists():
            raise JobError(
                f"{job.directory} holds a training already ({name}); go on with --resume {job.directory}, or type "
                "another --output"
            )


def _request(job: Job, variant: str, source: Source, standing: Standing | None) -> Request:
    earlier = standing.request if standing is not None else None
    num_classes = job.num_classes
    if num_classes is None:
        num_classes = earlier.num_classes if earlier is not None else len(source.classes)
    if num_classes < len(source.classes):
        raise JobError(
            f"--num-classes is {num_classes}, but {source.name} has {len(source.classes)} classes; type "
            f"--num-classes {len(source.classes)}, or leave it out"
        )
    recipe, weights = job.recipe, earlier.weights if earlier is not None else ""
    if job.weights is not None:
        sha256 = _digest(job.weights)
        weights = f"{job.weights.name} (sha256 {sha256[:12]})"
        recipe = _with_inputs_of(job.weights, sha256, variant, recipe)
    return Request(
        variant=variant,
        data=source.spec,
        data_fingerprint=source.fingerprint,
        recipe=recipe,
        seed=job.seed,
        num_classes=num_classes,
        weights=weights,
    )


def _digest(weights: Path) -> str:
    try:
        with weights.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise JobError(f"--weights {weights} cannot be read ({error.strerror})") from None


def _with_inputs_of(weights: Path, sha256: str, variant: str, recipe: Recipe) -> Recipe:
    """The recipe with the normalisation that weights were trained with, unless the user chose one."""
    if "normalization" in recipe.changed:
        return recipe
    try:
        known = preprocessing_for(
            weights,
            sha256=sha256,
            layout=None,
            variant=variant,
            resolution=recipe.resolution,
            normalization=None,
        )
    except (OSError, ValueError) as error:
        raise JobError(f"--weights: {error}") from None
    names = [
        name
        for name, values in NORMALIZATIONS.items()
        if (values.mean, values.std) == (known.mean, known.std)
    ]
    return replace(recipe, normalization=names[0]) if names else recipe  # type: ignore[arg-type]


def make_network(job: Job, request: Request) -> tuple[MobileNet, list[str]]:
    """The network with its first weights, on the CPU, and what the user should know of them.

    The weights are drawn from the request's seed; on resuming, the checkpoint's replace them anyway.

    Raises:
        JobError: the weights to start from do not fit.
    """
    recipe = request.recipe
    torch.manual_seed(request.seed)
    network = build(
        request.variant,
        num_classes=request.num_classes,
        dropout=recipe.dropout,
        bn_eps=recipe.bn_eps,
        bn_momentum=recipe.bn_momentum,
    )
    if job.weights is None:
        return network, []
    notes = []
    try:
        card = read_card(job.weights)
        eps = recipe.bn_eps or (card.bn_eps if card is not None else None)
        loaded, other = load_for_fine_tuning(network, job.weights, bn_eps=eps)
    except (OSError, ValueError) as error:
        raise JobError(f"--weights: {error}") from None
    if other is not None:
        notes.append(
            f"{job.weights.name} has {other} classes, this network {request.num_classes}: its last layer starts anew"
        )
    if loaded.note:
        notes.append(f"{job.weights.name}: {loaded.note}")
    return network, notes
