"""From what was typed to a folder of files with a manifest."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mnv3_bench import __version__
from mnv3_bench.backends import get_backend
from mnv3_bench.display import Display
from mnv3_bench.environment import software, usable_memory
from mnv3_bench.errors import UsageError
from mnv3_bench.exporting import describing, folder, making, preprocessing
from mnv3_bench.exporting.manifest import (
    MANIFEST,
    MANIFEST_SCHEMA,
    Calibration,
    Labels,
    Manifest,
    Network,
    WeightsOrigin,
    encode,
)
from mnv3_bench.exporting.targets import TARGETS, Lack, select
from mnv3_bench.inputs import DESCRIPTION, describe
from mnv3_bench.keys import digest_of
from mnv3_bench.launcher import Launcher, WorkerError
from mnv3_bench.model_files import companions, format_of
from mnv3_bench.plan import Asked, NoCellsError, make_plan
from mnv3_bench.plan_models import is_function
from mnv3_bench.run import MEMORY_SHARE, terminations_interrupt
from mnv3_models import parse_variant
from mnv3_models.data.preprocessing import IMAGENET_MEAN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnv3_bench.exporting.making import Made, Outcome
    from mnv3_bench.exporting.manifest import Image
    from mnv3_bench.exporting.targets import Target
    from mnv3_bench.plan import Plan
    from mnv3_reports.record import VariantFacts

LABELS = "labels.txt"
_FLAGS = {
    "variants": "variant",
    "batch-sizes": "batch",
    "resolutions": "resolution",
    "backends": "to",
}


@dataclass(frozen=True, kw_only=True)
class ExportAsked:
    """What was typed; None where nothing was."""

    variant: str | None = None
    model: str | None = None
    input: str | None = None
    to: str | None = None
    weights: str | None = None
    output: str | None = None
    resolution: int | None = None
    batch: int | None = None
    num_classes: int | None = None
    labels: str | None = None
    normalization: str | None = None
    data: str | None = None
    keep_float: int | None = None
    seed: int | None = None
    limit_time: str | None = None
    limit_memory: str | None = None


@dataclass(frozen=True)
class Exported:
    """What became of a request."""

    directory: Path
    manifest: Manifest | None
    """None when nothing could be made; nothing was written then."""
    lacks: tuple[Lack, ...]


def export(asked: ExportAsked) -> Exported:
    """Make, check and write what was asked for.

    Raises:
        UsageError: the request is wrong; nothing was written.
        RunStoppedError: the folder could not be written to its end; nothing is left of it.
    """
    directory = Path(asked.output) if asked.output else _default_directory()
    folder.require_new(directory)
    preprocessing.require(asked.normalization)
    labels = _read_labels(asked.labels) if asked.labels is not None else None
    selected = select(asked.to)
    targets, unfit = _fitting(asked.model, selected.targets)
    # Of 'all' what there is will do, as long as it is something.
    lacks = [*selected.lacks, *unfit] if selected.by_name or not targets else []
    if not targets:
        return Exported(directory, None, tuple(lacks))
    plan = _plan(asked, targets)
    variant = plan.request.variants[0]
    targets, reduced = _of_fp32(plan, targets)
    lacks += reduced if selected.by_name else []
    if labels is not None and not (parse_variant(variant).is_own or variant in plan.request.models):
        _require_fitting(labels, plan.request.num_classes)
    display = Display()
    with (
        terminations_interrupt(),
        tempfile.TemporaryDirectory(prefix="mnv3-export-") as scratch,
        folder.whole(directory) as building,
    ):
        for note in (*plan.notes, *_warnings(asked, plan)):
            display.say(f"note: {note}")
        launcher = Launcher(Path(scratch) / "logs", memory_limit=plan.limits.memory_bytes)
        try:
            outcome = making.make(plan, targets, launcher, Path(scratch), display)
        finally:
            launcher.kill_all()
        lacks += outcome.lacks
        manifest = _write(building, asked, plan, outcome, lacks, labels, display) if outcome.made else None
    return Exported(directory, manifest, tuple(lacks))


def _write(
    building: Path,
    asked: ExportAsked,
    plan: Plan,
    outcome: Outcome,
    lacks: list[Lack],
    labels: tuple[Path, int] | None,
    display: Display,
) -> Manifest | None:
    """Fill the folder; files that turn out to be unfit join the lacks. None, and nothing written, when all did."""
    facts, compared = outcome.variant, outcome.compared
    assert facts is not None, "what was made was compared with a reference"
    assert compared is not None
    request, cell = plan.request, plan.cells[0]
    model = request.models.get(cell.variant)
    weights = _weights(plan, facts)
    given = describing.Given(
        image=_image(asked, plan, outcome, weights),
        outputs=describing.outputs_of(
            compared.reference, compared.pool, cell.batch, "logits" if model is None else None
        ),
        calibration=Calibration(
            _calibrated_on(plan),
            describing.calls_in(compared.calibration),
        ),
        is_file=parse_variant(cell.variant).is_file,
    )
    if labels is not None:
        _require_fitting(labels, given.outputs[0].shape[-1])
    if given.image is not None and given.image.mean != IMAGENET_MEAN:
        lows, highs = given.image.value_range
        quantized = [
            m.target.name for m in outcome.made if get_backend(m.target.backend).info.precision == "int8"
        ]
        if quantized and plan.evaluation is None:
            display.say(
                f"note: {', '.join(quantized)}: calibrated on images normalised as ImageNet's, but this network takes "
                f"values from {lows:g} to {highs:g}; type --data to calibrate on images of yours"
            )
    stem, entries = _stem(cell.variant), []
    for made in outcome.made:
        try:
            says = describing.stated(made)
            parts = [folder.place(file, building, name) for file, name in _named(stem, made)]
        except WorkerError as error:
            lacks.append(Lack(made.target.name, error.reason, error.install, error.tail))
            continue
        entries.append(describing.describe(made, says, given, parts))
    if not entries:
        return None
    here = software()
    manifest = Manifest(
        schema=MANIFEST_SCHEMA,
        tool="mnv3-bench",
        tool_version=__version__,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        python=here.python,
        packages=here.packages,
        network=Network(
            variant=cell.variant,
            title=facts.title,
            batch=cell.batch,
            resolution=cell.resolution,
            parameters=facts.complexity.parameters if facts.complexity is not None else None,
            macs=facts.complexity.macs if facts.complexity is not None else None,
        ),
        weights=weights,
        labels=Labels(folder.place(labels[0], building, LABELS), labels[1]) if labels is not None else None,
        files=tuple(entries),
    )
    (building / MANIFEST).write_bytes(encode(manifest))
    return manifest


def _calibrated_on(plan: Plan) -> str:
    """What quantized files find their ranges on."""
    if plan.evaluation is not None:
        return f"{plan.evaluation.data}: {plan.evaluation.calibration}"
    model = plan.request.models.get(plan.cells[0].variant)
    return describe(model.inputs) if model is not None else DESCRIPTION


def _warnings(asked: ExportAsked, plan: Plan) -> list[str]:
    """What may come as a surprise when the files are used."""
    variant = parse_variant(plan.request.variants[0])
    if asked.weights is None and not (variant.is_own or variant.is_file):
        return ["without --weights the files hold seeded weights, which recognise nothing"]
    return []


def _named(stem: str, made: Made) -> list[tuple[Path, str]]:
    """The file and what belongs to it, with their names in the folder.

    Raises:
        WorkerError: something that belongs to it lies elsewhere, or has the name of another file of the folder.
    """
    name = stem + made.target.ending
    found = [(made.file, name)]
    for path in companions(made.file):
        if path.parent != made.file.parent:
            raise WorkerError(f"{made.file.name} reads {path.name} in another folder; put its data beside it")
        # An IR's weights are found by the name of the .xml; an ONNX file holds the names of its data.
        same = path.stem == made.file.stem and made.file.suffix == ".xml"
        found.append((path, str(Path(name).with_suffix(path.suffix)) if same else path.name))
    return found


def _plan(asked: ExportAsked, targets: Sequence[Target]) -> Plan:
    if (asked.variant is None) == (asked.model is None) and (asked.model or asked.weights is None):
        raise UsageError("name one network: type --variant small, or --model FILE or module:function")
    if "," in (asked.variant or ""):
        raise UsageError(f"--variant {asked.variant} names several networks; export one at a time")
    try:
        plan = make_plan(
            Asked(
                variants=asked.variant,
                references="none",
                backends=list(dict.fromkeys(target.backend for target in targets)),
                batch_sizes=asked.batch,
                resolutions=asked.resolution,
                seed=asked.seed,
                num_classes=asked.num_classes,
                weights=asked.weights,
                data=asked.data,
                keep_float=asked.keep_float,
                normalization=asked.normalization if asked.data is not None else None,
                models=asked.model,
                inputs=asked.input,
                limit_time=asked.limit_time,
                limit_memory=asked.limit_memory,
            )
        )
    except NoCellsError as error:
        able = [target.name for target in TARGETS if target.backend in error.able]
        raise UsageError(
            f"--to: nothing asked for can be made of {error.variant}; these can: {', '.join(able) or 'none'}"
        ) from None
    except UsageError as error:
        # Planning speaks of a run's options.
        words = re.sub(
            r"--(variants|batch-sizes|resolutions|backends)\b",
            lambda match: f"--{_FLAGS[match[1]]}",
            str(error),
        )
        raise UsageError(words) from None
    if plan.request.models and (asked.batch is not None or asked.resolution is not None):
        raise UsageError(
            "--batch and --resolution say nothing of a network with inputs of its own; type --input"
        )
    memory = plan.limits.memory_bytes or int(usable_memory() * MEMORY_SHARE)
    return replace(plan, limits=replace(plan.limits, memory_bytes=memory))


def _fitting(model: str | None, targets: Sequence[Target]) -> tuple[list[Target], list[Lack]]:
    """Targets that a network can be given to, and why not the others.

    Raises:
        UsageError: none can.
    """
    given = "module" if model is None or is_function(model) else format_of(Path(model).expanduser())

    def takes(target: Target) -> bool:
        return given in get_backend(target.backend).info.takes

    found = [target for target in targets if takes(target)]
    if targets and not found:
        able = [target.name for target in TARGETS if takes(target)]
        raise UsageError(
            f"--to: nothing asked for can be made of {given} files; these can: {', '.join(able)}"
        )
    reason = f"cannot be made of {given} files"
    return found, [Lack(target.name, reason) for target in targets if not takes(target)]


def _of_fp32(plan: Plan, targets: Sequence[Target]) -> tuple[list[Target], list[Lack]]:
    """Targets that there are cells of, and those that a file is too far gone for."""
    there = {cell.backend for cell in plan.cells}
    found = [target for target in targets if target.backend in there]
    holds = " and ".join(what for model in plan.request.models.values() for what in model.holds)
    reason = f"it is made of fp32, and the file holds {holds} already"
    return found, [Lack(target.name, reason) for target in targets if target not in found]


def _image(asked: ExportAsked, plan: Plan, outcome: Outcome, weights: WeightsOrigin) -> Image | None:
    """What images are made into; None where only the user could tell and did not."""
    cell = plan.cells[0]
    own = parse_variant(cell.variant).is_own or cell.variant in plan.request.models
    if own and asked.normalization is None:
        return None
    return preprocessing.image(
        typed=asked.normalization,
        file=plan.request.weights.get(cell.variant),
        sha256=weights.sha256,
        timm=outcome.weights is not None and outcome.weights.layout == "timm",
        variant=cell.variant,
        resolution=cell.resolution,
    )


def _weights(plan: Plan, facts: VariantFacts) -> WeightsOrigin:
    variant = plan.request.variants[0]
    model = plan.request.models.get(variant)
    is_file = model is not None and model.format != "module"
    file = model.path if model is not None and is_file else plan.request.weights.get(variant)
    if file is None:
        return WeightsOrigin(None, None, facts.weights)
    return WeightsOrigin(
        Path(file).name, digest_of(file, "--model" if is_file else "--weights"), facts.weights
    )


def _read_labels(text: str) -> tuple[Path, int]:
    """The file of labels and how many there are.

    Raises:
        UsageError: it cannot be read, or has empty lines.
    """
    path = Path(text).expanduser()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise UsageError(
            f"--labels: {path.name} cannot be read: {reason}; type a text file, a label a line"
        ) from None
    empty = next((number for number, line in enumerate(lines, 1) if not line.strip()), None)
    if empty is not None:
        raise UsageError(f"--labels: line {empty} of {path.name} is empty; every line must name one class")
    return path, len(lines)


def _require_fitting(labels: tuple[Path, int], classes: int | None) -> None:
    path, count = labels
    if count != classes:
        raise UsageError(f"--labels: {path.name} names {count} classes, the network has {classes}")


def _stem(variant: str) -> str:
    """A network's name as a file name."""
    name = Path(variant).stem.removesuffix(".ts") if parse_variant(variant).is_file else variant
    return re.sub(r"[^\w.+@-]", "-", name).lstrip(".-") or "model"


def _default_directory() -> Path:
    return Path("mnv3-runs") / f"export-{datetime.now(UTC).strftime('%Y-%m-%dT%H-%M-%S')}"
