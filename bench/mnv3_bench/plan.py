"""From what was typed to a list of cells.

Everything a user can get wrong is found here, before anything is built or measured.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mnv3_bench import plan_accuracy, plan_models, plan_weights
from mnv3_bench.backends import UnknownBackendError, backend_names, get_backend, missing
from mnv3_bench.environment import usable_cpus
from mnv3_bench.errors import UsageError
from mnv3_bench.model_files import INSPECTION_SECONDS, Reading
from mnv3_bench.quantities import seconds, size
from mnv3_models import parse_variant
from mnv3_reports.record import Cell, Evaluation, Model, Preprocessing, Request, Skipped

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mnv3_models import data
    from mnv3_models.training.recipes import Recipe


DEFAULT_PRECISION = 0.02
QUICK_PRECISION = 0.10
SECONDS_PER_CELL = 5.2
QUICK_SECONDS_PER_CELL = 2.0
TUNE_SECONDS_PER_CELL = 20.0
SHORTEST_BUDGET = 30.0
LONGEST_BUDGET = 225.0
"""Of what nobody asked for: every runtime on four networks is 80 cells, and a first answer should come in 5 minutes."""
QUICK_SHORTEST_BUDGET = 10.0


class NoCellsError(UsageError):
    """None of the backends asked for can measure a network."""

    def __init__(self, variant: str, able: Sequence[str]) -> None:
        super().__init__(f"--backends: none of them can measure {variant}; these can: {', '.join(able)}")
        self.variant = variant
        self.able = able


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long a worker may take for one order of a phase, in seconds, and how much memory it may use."""

    prepare: float = 900.0
    load: float = 180.0
    first: float = 120.0
    warm_up: float = 60.0
    check: float = 300.0
    turn: float = 120.0
    train: float = 86400.0
    evaluate: float = 86400.0
    """Of one cell; large, since nobody knows how many images there are. A dead worker is noticed at once."""
    memory_bytes: int | None = None
    everywhere: float | None = None
    """The limit that was asked for in every phase; None where each has its own."""

    @classmethod
    def all_at(cls, seconds: float, memory_bytes: int | None) -> Limits:
        """The same limit for every phase."""
        return cls(
            prepare=seconds,
            load=seconds,
            first=seconds,
            warm_up=seconds,
            check=seconds,
            turn=seconds,
            train=seconds,
            evaluate=seconds,
            memory_bytes=memory_bytes,
            everywhere=seconds,
        )


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What was typed on the command line or in a configuration file; None where nothing was."""

    variants: str | Sequence[str] | None = None
    references: str | Sequence[str] | None = None
    backends: str | Sequence[str] | None = None
    threads: str | int | Sequence[int] | None = None
    batch_sizes: str | int | Sequence[int] | None = None
    resolutions: str | int | Sequence[int] | None = None
    device: str | None = None
    precision: str | float | None = None
    time_budget: str | float | None = None
    seed: int | None = None
    num_classes: int | None = None
    weights: str | Sequence[str] | None = None
    quick: bool | None = None
    cold: bool | None = None
    output: str | None = None
    models: str | Sequence[str] | None = None
    inputs: str | Sequence[str] | None = None
    tune: bool | None = None
    tune_budget: str | float | None = None
    data: str | None = None
    split: str | None = None
    normalization: str | None = None
    max_drop: str | float | None = None
    recipe: str | None = None
    ablate: str | Sequence[str] | None = None
    keep_float: int | None = None
    limit_time: str | float | None = None
    limit_memory: str | int | None = None


@dataclass(frozen=True)
class Plan:
    """A request resolved into cells."""

    request: Request
    cells: tuple[Cell, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    limits: Limits = field(default_factory=Limits)
    output: Path | None = None
    evaluation: Evaluation | None = None
    """What accuracy is measured on."""


def make_plan(asked: Asked, *, timed: bool = True, elsewhere: bool = False) -> Plan:
    """Resolve a request.

    Args:
        asked: what was typed.
        timed: whether latency is measured; otherwise accuracy alone.
        elsewhere: whether other machines measure it: what they have is found there.

    Raises:
        UsageError: it is wrong; the message says what to type instead.
    """
    notes: list[str] = []
    given = list(dict.fromkeys(_paths(asked.models)))
    if asked.inputs is not None and not given:
        raise UsageError(
            "--input says what a --model takes; type --model FILE too, or --resolutions for the variants"
        )
    limits = make_limits(asked)
    reading = Reading(limits.everywhere or INSPECTION_SECONDS, limits.memory_bytes)
    models = plan_models.models(given, _paths(asked.inputs), reading)
    named = [plan_models.variant_of(name) for name in given]
    files = plan_weights.read(_names(asked.weights, ""))
    variants, ablated = _networks(asked, files, named)
    references = _references(asked, given, timed=timed)
    networks = tuple(dict.fromkeys((*variants, *references)))
    weights = plan_weights.assign(files, networks)
    accuracy = _accuracy(asked, weights, networks, models, trains=bool(ablated))
    notes += accuracy.notes
    device = asked.device or "cpu"
    backends, skipped = _backends(_names(asked.backends, "all"), device, elsewhere=elsewhere)
    threads = _counts(asked.threads, "1", "--threads")
    cpus = usable_cpus()
    if max(threads) > cpus and not elsewhere:
        notes.append(
            f"--threads {max(threads)} is more than the {cpus} CPUs this process may use; "
            "such cells wait for themselves"
        )
    batch_sizes = _counts(asked.batch_sizes, "1", "--batch-sizes")
    quick = bool(asked.quick)
    cells = tuple(
        Cell(variant, backend, device, thread, batch, resolution)
        for resolution in accuracy.resolutions
        for batch in batch_sizes
        for thread in threads
        for variant in networks
        if variant not in models
        for backend in backends
        if "module" in get_backend(backend).info.takes
    )
    cells += tuple(
        Cell(variant, backend, device, thread, *plan_models.batch_and_resolution(model.inputs))
        for thread in threads
        for variant, model in models.items()
        for backend in backends
        if _takes(backend, model)
    )
    notes += _unfit(models, backends)
    _require_cells(networks, cells, models)
    precision = _share(asked.precision, QUICK_PRECISION if quick else DEFAULT_PRECISION, "--precision")
    default_budget = (
        max(QUICK_SHORTEST_BUDGET, QUICK_SECONDS_PER_CELL * len(cells))
        if quick
        else max(SHORTEST_BUDGET, min(LONGEST_BUDGET, SECONDS_PER_CELL * len(cells)))
    )
    budget = seconds(asked.time_budget, "--time-budget") if asked.time_budget is not None else default_budget
    seed = asked.seed if asked.seed is not None else 0
    if seed < 0:
        raise UsageError(f"--seed {seed} is negative; type 0 or more")
    return Plan(
        request=Request(
            variants=variants,
            references=references,
            backends=backends,
            threads=threads,
            batch_sizes=batch_sizes,
            resolutions=accuracy.resolutions,
            device=device,
            precision=precision,
            time_budget=budget,
            seed=seed,
            num_classes=accuracy.num_classes,
            weights=weights.files,
            quick=quick,
            cold=bool(asked.cold),
            models=models,
            tune=_tune(asked, len(cells)),
            data=accuracy.source.spec if accuracy.source is not None else None,
            split=accuracy.evaluation.split if accuracy.evaluation is not None else None,
            preprocessing=accuracy.preprocessing,
            max_drop=_points(asked.max_drop),
            recipe=accuracy.recipe.name if accuracy.recipe is not None else None,
            ablated=ablated,
            keep_float=_keep_float(asked.keep_float, accuracy.source),
            timed=timed,
        ),
        cells=cells,
        skipped=skipped,
        notes=tuple(notes),
        limits=limits,
        output=Path(asked.output) if asked.output else None,
        evaluation=accuracy.evaluation,
    )


def _networks(
    asked: Asked, files: Sequence[plan_weights.Named], named: Sequence[str]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Networks that are asked for, and which of them lack an ingredient of which other."""
    of_files = [file.variant for file in files if file.variant is not None]
    known = of_files if asked.variants is None and len(of_files) == len(files) else []
    default = ",".join(dict.fromkeys(known)) or ("" if named else "large,small")
    typed = _names(asked.variants, default)
    variants = tuple(dict.fromkeys((*(_variants(typed, "--variants") if typed or not named else ()), *named)))
    if asked.ablate is None:
        return variants, {}
    ingredients = _names(asked.ablate, "")
    if not ingredients:
        raise UsageError("--ablate names nothing; type for example --ablate se,hswish,residual,kernel5")
    ablated = plan_accuracy.ablations(ingredients, variants)
    return tuple(dict.fromkeys((*variants, *ablated))), ablated


def _references(asked: Asked, models: Sequence[str], *, timed: bool) -> tuple[str, ...]:
    """Networks to compare with; unless they are asked for, none where latency is not measured or forms are compared."""
    alone = (models and asked.variants is None) or not timed or asked.ablate is not None
    requested = _names(asked.references, "none" if alone else "v1,v2")
    return () if requested == ["none"] else _variants(requested, "--references")


@dataclass(frozen=True, kw_only=True)
class _Accuracy:
    """What `--data` and the weights come to."""

    source: data.Source | None
    evaluation: Evaluation | None
    recipe: Recipe | None
    preprocessing: dict[str, Preprocessing]
    num_classes: int
    resolutions: tuple[int, ...]
    notes: tuple[str, ...]


def _accuracy(
    asked: Asked,
    weights: plan_weights.Weights,
    networks: tuple[str, ...],
    models: Mapping[str, Model],
    *,
    trains: bool,
) -> _Accuracy:
    """Resolve what accuracy is measured on; without `--data`, only what the weights say of themselves."""
    spec = asked.data or (plan_accuracy.ABLATION_DATA if trains else None)
    named = asked.recipe or (plan_accuracy.ABLATION_RECIPE if trains else None)
    for flag, value in (("--split", asked.split), ("--max-drop", asked.max_drop), ("--recipe", asked.recipe)):
        if value is not None and spec is None:
            raise UsageError(
                f"{flag} is about labelled images; type --data digits or --data imagefolder:PATH too"
            )
    source = plan_accuracy.open_source(spec) if spec is not None else None
    recipe = plan_accuracy.recipe_named(named) if named is not None else None
    number = plan_accuracy.num_classes(asked.num_classes, weights, source, trains=recipe is not None)
    pixels = plan_accuracy.resolutions(weights, recipe) if asked.resolutions is None else ()
    pixels = pixels or _counts(asked.resolutions, "224", "--resolutions", least=32)
    if source is None:
        return _Accuracy(
            source=None,
            evaluation=None,
            recipe=None,
            preprocessing={},
            num_classes=number,
            resolutions=pixels,
            notes=(),
        )
    found = plan_accuracy.preprocessing(networks, weights, models, pixels[0], asked.normalization, recipe)
    if not found:
        raise UsageError(
            f"--data: no network here has weights to be judged; type --weights {networks[0]}=FILE, "
            "or --recipe quick to train them first"
        )
    if any(variant not in models for variant in found):
        plan_accuracy.check_classes(source, number)
    chosen = plan_accuracy.subject(source, weights, asked.split, trains=recipe is not None)
    without = [variant for variant in networks if variant not in found]
    notes = [f"{', '.join(without)}: no accuracy, since the weights are seeded"] if without else []
    return _Accuracy(
        source=source,
        evaluation=Evaluation(
            data=source.name,
            fingerprint=source.fingerprint,
            split=chosen.split,
            images=chosen.images,
            classes=tuple(source.classes),
            calibration=chosen.sentence,
        ),
        recipe=recipe,
        preprocessing=found,
        num_classes=number,
        resolutions=pixels,
        notes=tuple(notes),
    )


def _points(given: str | float | None) -> float | None:
    """`--max-drop`, in points of top-1: 1, '1.0' and '1%' are one point."""
    if given is None:
        return None
    text = str(given).strip().removesuffix("%").strip()
    try:
        value = float(text)
    except ValueError:
        raise UsageError(
            f"--max-drop {given} is no number of points; type for example --max-drop 1.0"
        ) from None
    if not 0 <= value <= 100:
        raise UsageError(
            f"--max-drop {given} is out of range; expected points of top-1 from 0 to 100, such as 1.0"
        )
    return value / 100


def _keep_float(given: int | None, source: data.Source | None) -> int:
    if given is None:
        return 0
    if given < 0:
        raise UsageError(f"--keep-float {given} is negative; type how many layers, such as 4")
    if given and source is None:
        raise UsageError("--keep-float finds sensitive layers on labelled images; type --data too")
    return given


def make_limits(asked: Asked) -> Limits:
    """Resolve what a worker may take.

    Raises:
        UsageError: a duration or size is none.
    """
    memory = size(asked.limit_memory, "--limit-memory") if asked.limit_memory is not None else None
    if asked.limit_time is not None:
        return Limits.all_at(seconds(asked.limit_time, "--limit-time"), memory)
    return Limits(memory_bytes=memory)


def nearest(name: str, known: Sequence[str]) -> str:
    """'; did you mean …' for a name that is not known, or the empty string."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def sees_gpu() -> bool:
    """Whether a GPU driver is there (NVIDIA, or AMD under PyTorch's CUDA interface); no runtime is imported."""
    return any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg"))


def _names(given: str | Sequence[str] | None, default: str) -> list[str]:
    text = default if given is None else given
    parts = text.split(",") if isinstance(text, str) else [str(part) for part in text]
    return [part.strip() for part in parts if part.strip()]


def _paths(given: str | Sequence[str] | None) -> list[str]:
    """Values of an option that is typed once for each: paths may hold commas."""
    return [given] if isinstance(given, str) else list(given or ())


def _takes(backend: str, model: Model) -> bool:
    info = get_backend(backend).info
    return model.format in info.takes and not set(model.holds) & set(info.refuses)


def _unfit(models: Mapping[str, Model], backends: Sequence[str]) -> list[str]:
    """A note for each file that some of the backends cannot be given."""
    notes = []
    for variant, model in models.items():
        unable = [name for name in backends if model.format not in get_backend(name).info.takes]
        if unable:
            what = (
                f"a {model.format} file" if model.format != "module" else "a network with inputs of its own"
            )
            notes.append(f"{variant} is {what}, which cannot be given to: {', '.join(unable)}")
        refusing = [name for name in backends if name not in unable and not _takes(name, model)]
        if refusing:
            notes.append(
                f"{variant} holds {' and '.join(model.holds)} already; what makes it of fp32 is left out: "
                f"{', '.join(refusing)}"
            )
    return notes


def _require_cells(variants: Sequence[str], cells: Sequence[Cell], models: Mapping[str, Model]) -> None:
    for variant in variants:
        if all(cell.variant != variant for cell in cells):
            model = models.get(variant, Model("module", variant, ()))
            able = [name for name in backend_names() if _takes(name, model)]
            raise NoCellsError(variant, able)


def _tune(asked: Asked, cells: int) -> float | None:
    """Seconds for the search, None when there is none."""
    if asked.tune_budget is not None:
        return seconds(asked.tune_budget, "--tune-budget")
    return max(SHORTEST_BUDGET, TUNE_SECONDS_PER_CELL * cells) if asked.tune else None


def _variants(names: list[str], flag: str) -> tuple[str, ...]:
    if not names:
        raise UsageError(f"{flag} names nothing; type for example {flag} large,small")
    found = []
    for name in names:
        try:
            variant = parse_variant(name)
            if variant.is_file:
                raise UsageError(f"{flag}: {name} is a model file; type --model {name}")
            if variant.is_own:
                from mnv3_models.own_source import require_source

                require_source(variant)
        except (OSError, ValueError) as error:
            raise UsageError(f"{flag}: {error}") from None
        found.append(variant.name)
    return tuple(dict.fromkeys(found))


def _backends(
    names: list[str], device: str, *, elsewhere: bool
) -> tuple[tuple[str, ...], tuple[Skipped, ...]]:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise UsageError(f"--device {device} is not known; type cpu, cuda or cuda:N")
    kind = device.split(":")[0]
    if kind == "cuda" and not elsewhere and not sees_gpu():
        raise UsageError(f"--device {device}: this machine shows no GPU; type --device cpu")
    known = backend_names()
    if not names:
        raise UsageError(
            "--backends names nothing; type --backends all or for example --backends eager,onnxruntime"
        )
    everything = names == ["all"]
    found, skipped = [], []
    for name in dict.fromkeys(known if everything else names):
        try:
            backend = get_backend(name)
        except UnknownBackendError as error:
            raise UsageError(f"--backends: {error}") from None
        info = backend.info
        if kind not in info.devices:
            if not everything:
                able = [other for other in known if kind in get_backend(other).info.devices]
                raise UsageError(f"--backends: {name} does not run on {kind}; these do: {', '.join(able)}")
            skipped.append(Skipped(name, f"does not run on {kind}", None))
            continue
        lack = None if elsewhere else lacking(name, kind, requested=not everything)
        if lack is not None:
            skipped.append(lack)
        else:
            found.append(backend.name)
    if not found:
        reasons = "; ".join(
            f"{skip.backend}: {skip.reason}" + (f" (type: {skip.install})" if skip.install else "")
            for skip in skipped
        )
        raise UsageError(f"no requested backend can be measured here: {reasons}")
    return tuple(dict.fromkeys(found)), tuple(skipped)


def lacking(name: str, kind: str, *, requested: bool) -> Skipped | None:
    """What keeps a backend from running on this machine; None when nothing does.

    Raises:
        UnknownBackendError: there is no such backend.
    """
    backend = get_backend(name)
    lack = missing(backend.info)
    if lack is not None:
        return Skipped(name, lack[0], lack[1], requested=requested)
    unable = backend.unavailable() if kind == "cpu" else None
    return Skipped(name, unable, None, requested=requested) if unable is not None else None


def _counts(
    given: str | int | Sequence[int] | None, default: str, flag: str, least: int = 1
) -> tuple[int, ...]:
    if given is None:
        given = default
    parts = [str(given)] if isinstance(given, int) else _names(given, default)  # type: ignore[arg-type]
    if not parts:
        raise UsageError(f"{flag} names nothing; type for example {flag} {default}")
    found = []
    for part in parts:
        try:
            value = int(part)
        except ValueError:
            raise UsageError(
                f"{flag} {part} is not a whole number; type for example {flag} {default}"
            ) from None
        if value < least:
            raise UsageError(f"{flag} {value} is too small; the smallest is {least}")
        if value > 65536:
            raise UsageError(f"{flag} {value} is too large; the largest is 65536")
        found.append(value)
    return tuple(dict.fromkeys(found))


def _share(given: str | float | None, default: float, flag: str) -> float:
    if given is None:
        return default
    text = str(given).strip()
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise UsageError(f"{flag} {given} is not a share; type for example {flag} 2%") from None
    if not (math.isfinite(value) and 0 < value < 1):
        raise UsageError(f"{flag} {given} must lie above 0 and below 100 %; type for example {flag} 2%")
    return value
