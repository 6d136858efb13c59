"""Phase one, seen from the run: find artifacts in the store and have the missing ones built, side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mnv3_bench.backends import get_backend
from mnv3_bench.backends.base import Backend
from mnv3_bench.cache import Building, Manifest, Store, digest
from mnv3_bench.conversations import side_by_side
from mnv3_bench.data_worker import SENSITIVITY_FILE, TRAINED_FILE
from mnv3_bench.environment import usable_cpus
from mnv3_bench.errors import UsageError
from mnv3_bench.inputs import COUNTS, describe
from mnv3_bench.keys import WEIGHTS_RESOLUTION, Keys, digest_of
from mnv3_bench.launcher import CAN_FORK, Launcher, Worker, WorkerError, expect
from mnv3_bench.prepare_worker import (
    EXPLANATION_FILE,
    FACTS_FILE,
    IMAGES_FILE,
    OUTPUTS_FILE,
    SAMPLES_FILE,
    WEIGHTS_FILE,
    about_weights,
)
from mnv3_bench.protocol import (
    DataImages,
    Done,
    Explain,
    Images,
    Import,
    Message,
    Prepare,
    Purpose,
    Reference,
    Reply,
    Samples,
    Scan,
    Train,
    Weights,
)
from mnv3_models import parse_variant
from mnv3_reports.record import (
    Cell,
    Entry,
    Explained,
    Failure,
    Note,
    Prepared,
    Request,
    Sensitivity,
    Trained,
    VariantFacts,
)

if TYPE_CHECKING:
    from mnv3_bench.plan import Limits

SHORT_BUILD, INDUCTOR_BUILD, TRAINING = 8.0, 60.0, 120.0
"""Seconds a preparation takes, roughly, starting a process included: for the time left in the progress display."""

TORCH, PLAIN = ("torch", "safetensors.torch", "torch._dynamo"), ("numpy",)
"""What processes that prepare are forked from has imported: importing torch takes longer than most preparing does, and
its profiler and exporters import dynamo. Neither starts a thread; other runtimes and converters are imported after the
fork."""

PURPOSES: tuple[Purpose, ...] = ("fidelity", "calibration", "measure", "tuning")
"""What every network's inputs are made for; the last two only where it is timed."""

Conversation = Generator[tuple[Worker, Message, float], Reply, Any]


@dataclass
class Artifacts:
    """Where everything lies that workers load."""

    directories: dict[str, Path] = field(default_factory=dict)
    """Cell key to artifact."""
    references: dict[tuple[str, int], Path] = field(default_factory=dict)
    """(variant, resolution) to reference logits."""
    images: dict[tuple[str, int], Path] = field(default_factory=dict)
    """(purpose, resolution) to images."""
    samples: dict[tuple[str, str], Path] = field(default_factory=dict)
    """(purpose, variant) to the inputs of calls, for networks with inputs of their own."""
    described: dict[str, str] = field(default_factory=dict)
    """Variant to what its inputs are, where they are not images of ours."""
    compared: dict[str, str] = field(default_factory=dict)
    """Variant to what its outputs are compared with, where that is not eager fp32."""
    labelled: dict[tuple[str, str, int], Path] = field(default_factory=dict)
    """(purpose, variant, resolution) to inputs made of labelled images."""
    weights: dict[str, Path] = field(default_factory=dict)
    """Variant to prepared weights; to the file itself for a model file."""

    def pool(self, purpose: Purpose, cell: Cell) -> Path:
        """What a cell is called with for one purpose."""
        of_data = self.labelled.get((purpose, cell.variant, cell.resolution))
        if of_data is not None:
            return of_data
        own = self.samples.get((purpose, cell.variant))
        return own if own is not None else self.images[purpose, cell.resolution]


class Preparer:
    """Builds what a run needs and is not in the store yet."""

    def __init__(
        self,
        request: Request,
        cells: tuple[Cell, ...],
        store: Store,
        launcher: Launcher,
        limits: Limits,
        record: Callable[[Entry], None],
        tell: Callable[[str, float], None],
        *,
        explain: bool = True,
    ) -> None:
        """Args that need a word.

        explain: whether runtimes are asked where the time goes; a search among settings has no use for it.
        """
        self.request = request
        self.cells = cells
        self.store = store
        self.launcher = launcher
        self.limits = limits
        self.record = record
        self.tell = tell
        self.explain = explain
        self.keys = Keys(request)
        self.artifacts = Artifacts()
        self._float_layers: dict[tuple[str, int], tuple[str, ...]] = {}
        self._waiting: list[Callable[[], Conversation]] = []
        self._nurseries: set[tuple[str, ...]] = set()
        self._names = 0
        self.width = 1

    def wanted(self) -> list[tuple[dict[str, Any], float]]:
        """Keys of everything that is needed, and about how long each takes to be built."""
        wanted = [(self.keys.images(*which), 1.0) for which in self._wanted_images()]
        wanted += [(self.keys.samples(*which), 1.0) for which in self._wanted_samples()]
        wanted += [(self.keys.data_images(*which), 1.0) for which in self._wanted_labelled()]
        wanted += [(self.keys.scan(*which), SHORT_BUILD) for which in self._wanted_scans()]
        for cell in self.cells:
            if not parse_variant(cell.variant).is_file:
                work = TRAINING if self.keys.trains(cell.variant) else SHORT_BUILD
                wanted.append((self.keys.weights(cell.variant), work))
            wanted += [
                (self.keys.reference(cell), SHORT_BUILD),
                (self.keys.artifact(cell), _expected_seconds(cell)),
            ]
            if self.explain and explains(cell):
                wanted.append((self.keys.explanation(cell), SHORT_BUILD))
        return wanted

    def missing(self) -> dict[str, float]:
        """Entries that are not in the store and will have to be built, and about how long each takes."""
        return {digest(key): seconds for key, seconds in self.wanted() if self.store.find(key) is None}

    def run(self, width: int, tick: Callable[[], None] | None = None) -> Artifacts:
        """Prepare everything; a cell that cannot be prepared becomes a recorded failure."""
        self.width = width
        inputs: list[Callable[[], Conversation]] = [
            *(partial(self._images, *which) for which in self._wanted_images()),
            *(partial(self._samples, *which) for which in self._wanted_samples()),
            *(partial(self._labelled, *which) for which in self._wanted_labelled()),
        ]
        if CAN_FORK and self.missing():
            self._waiting = [partial(self._import, TORCH), *inputs]
            inputs = [partial(self._import, PLAIN)]
        try:
            for _ in side_by_side(inputs, width, more=self._take_waiting, tick=tick):
                pass
            variants = list(dict.fromkeys(cell.variant for cell in self.cells))
            tasks = [partial(self._variant, variant) for variant in variants]
            for _ in side_by_side(tasks, width, more=self._take_waiting, tick=tick):
                pass
        finally:
            for modules in (TORCH, PLAIN):
                self.launcher.close_nursery(modules, 1)
            self._nurseries.clear()
        return self.artifacts

    def _wanted_images(self) -> list[tuple[Purpose, int]]:
        variants = dict.fromkeys(cell.variant for cell in self.cells if self.keys.seeds(cell.variant))
        seeded = any(self.store.find(self.keys.weights(variant)) is None for variant in variants)
        wanted: list[tuple[Purpose, int]] = [("weights", WEIGHTS_RESOLUTION)] if seeded else []
        mine = [c for c in self.cells if c.variant not in self.request.models and not self._has_data(c)]
        sizes = dict.fromkeys(cell.resolution for cell in mine)
        return wanted + [(purpose, size) for size in sizes for purpose in self._purposes()]

    def _wanted_samples(self) -> list[tuple[Purpose, str]]:
        mine = [c for c in self.cells if c.variant in self.request.models and not self._has_data(c)]
        own = dict.fromkeys(cell.variant for cell in mine)
        return [(purpose, variant) for variant in own for purpose in self._purposes()]

    def _wanted_labelled(self) -> list[tuple[Purpose, str, int]]:
        shapes = dict.fromkeys((c.variant, c.resolution) for c in self.cells if self._has_data(c))
        return [(purpose, *shape) for shape in shapes for purpose in self._purposes()]

    def _purposes(self) -> tuple[Purpose, ...]:
        return PURPOSES if self.request.timed else PURPOSES[:2]

    def _wanted_scans(self) -> list[tuple[str, int]]:
        """Networks of which some cell is quantized: the scan shows why it loses what it loses."""
        int8 = [
            c for c in self.cells if self._has_data(c) and get_backend(c.backend).info.precision == "int8"
        ]
        shapes = dict.fromkeys(
            (c.variant, c.resolution) for c in int8 if not parse_variant(c.variant).is_file
        )
        return list(shapes)

    def _has_data(self, cell: Cell) -> bool:
        return self.keys.labelled(cell.variant, cell.resolution) is not None

    def _take_waiting(self) -> list[Callable[[], Conversation]]:
        waiting, self._waiting = self._waiting, []
        return waiting

    # What follows are conversations with workers: they yield orders and are sent replies.

    def _import(self, modules: tuple[str, ...]) -> Conversation:
        """Have a process import what the others are forked from; where it cannot, each of them imports for itself."""
        nursery = self.launcher.nursery(modules, 1)
        try:
            yield nursery, Import(modules), self.limits.prepare
        except WorkerError:
            nursery.kill()
            return
        self._nurseries.add(modules)

    def _variant(self, variant: str) -> Conversation:
        """Weights, then queue what depends on them: the slow builders first, so that they do not end alone."""
        mine = [cell for cell in self.cells if cell.variant == variant]
        try:
            if parse_variant(variant).is_file:
                self.artifacts.weights[variant] = Path(self.request.models[variant].path)
            else:
                yield from self._make_weights(variant)
        except WorkerError as error:
            require_data(error)
            self._fail(mine, error)
            return
        for scanned in self._wanted_scans():
            if scanned[0] == variant:
                if self.request.keep_float:  # what is quantized waits for it
                    yield from self._scan(*scanned)
                else:
                    self._waiting.append(partial(self._scan, *scanned))
        for cell in {cell.resolution: cell for cell in mine}.values():
            self._waiting.append(partial(self._reference, cell))
        shared: dict[str, list[Cell]] = {}
        for cell in mine:
            shared.setdefault(msgspec.json.encode(self.keys.artifact(cell)).decode(), []).append(cell)
        groups = sorted(
            shared.values(), key=lambda group: not get_backend(group[0].backend).info.needs_compiler
        )
        for group in groups:
            self._waiting.append(partial(self._artifact, group))

    def _make_weights(self, variant: str) -> Conversation:
        if self.keys.trains(variant):
            yield from self._train(variant)
            return
        if (
            self.keys.seeds(variant)
            and ("weights", WEIGHTS_RESOLUTION) not in self.artifacts.images
            and self.store.find(self.keys.weights(variant)) is None
        ):
            # They were there when it was asked what is missing, and are gone since.
            yield from self._images("weights", WEIGHTS_RESOLUTION)
        entry = yield from self.build(
            self.keys.weights(variant),
            f"weights of {variant}",
            lambda directory: Weights(
                variant=variant,
                num_classes=self.request.num_classes,
                seed=self.request.seed,
                file=self.request.weights.get(variant),
                images=str(self.artifacts.images["weights", WEIGHTS_RESOLUTION])
                if self.keys.seeds(variant)
                else "",
                directory=str(directory),
            ),
        )
        self.artifacts.weights[variant] = self.store.path(entry.key) / WEIGHTS_FILE

    def _train(self, variant: str) -> Conversation:
        key = self.keys.weights(variant)
        was_there = self.store.find(key) is not None
        data, recipe = self.request.data, self.request.recipe
        assert data is not None, "what trains has data and a recipe"
        assert recipe is not None
        entry = yield from self.build(
            key,
            f"{variant} trained by recipe {recipe}",
            lambda directory: Train(
                variant=variant,
                num_classes=self.request.num_classes,
                seed=self.request.seed,
                data=data,
                recipe=recipe,
                threads=self._training_threads(),
                directory=str(directory),
            ),
            TRAINING,
            limit=self.limits.train,
            threads=self._training_threads(),
        )
        directory = self.store.path(entry.key)
        self.artifacts.weights[variant] = directory / WEIGHTS_FILE
        trained = msgspec.json.decode((directory / TRAINED_FILE).read_bytes(), type=Trained)
        self.record(msgspec.structs.replace(trained, cached=was_there))

    def _training_threads(self) -> int:
        """Networks are trained side by side: each gets its share of the CPUs."""
        trained = {cell.variant for cell in self.cells if self.keys.trains(cell.variant)}
        return max(1, usable_cpus() // max(1, min(len(trained), self.width)))

    def _scan(self, variant: str, resolution: int) -> Conversation:
        """Which layers suffer from int8. Where none has to stay in float, a cell goes on without it."""
        labelled = self.keys.labelled(variant, resolution)
        assert labelled is not None, "only networks with labelled images are scanned"
        try:
            entry = yield from self.build(
                self.keys.scan(variant, resolution),
                f"sensitive layers of {variant}",
                lambda directory: Scan(
                    variant=variant,
                    num_classes=self.request.num_classes,
                    weights=str(self.artifacts.weights[variant]),
                    labelled=labelled,
                    directory=str(directory),
                ),
            )
        except WorkerError as error:
            self.record(Note(f"{variant}: its sensitive layers could not be found: {error.reason}"))
            return
        path = self.store.path(entry.key) / SENSITIVITY_FILE
        found = msgspec.json.decode(path.read_bytes(), type=Sensitivity)
        self.record(found)
        layers = tuple(layer.name for layer in found.layers[: self.request.keep_float])
        self._float_layers[variant, resolution] = layers

    def _reference(self, cell: Cell) -> Conversation:
        variant, resolution = cell.variant, cell.resolution
        try:
            entry = yield from self.build(
                self.keys.reference(cell),
                f"reference of {variant}" + (f" at {resolution}" if resolution else ""),
                lambda directory: Reference(
                    variant=variant,
                    num_classes=self.request.num_classes,
                    weights=str(self.artifacts.weights[variant]),
                    resolution=resolution,
                    images=str(self.artifacts.pool("fidelity", cell)),
                    directory=str(directory),
                    model=self.request.models.get(variant),
                ),
            )
        except WorkerError as error:
            self._fail(
                [cell for cell in self.cells if (cell.variant, cell.resolution) == (variant, resolution)],
                error,
            )
            return
        directory = self.store.path(entry.key)
        self.artifacts.references[variant, resolution] = directory / OUTPUTS_FILE
        compared = entry.facts.get("reference")
        if compared is not None:
            self.artifacts.compared[variant] = str(compared)
        facts = msgspec.json.decode((directory / FACTS_FILE).read_bytes(), type=VariantFacts)
        self.record(msgspec.structs.replace(facts, weights=self._weights_origin(variant)))

    def _artifact(self, group: list[Cell]) -> Conversation:
        """One artifact, for every cell that can be measured from it."""
        cell = group[0]
        was_there = self.store.find(self.keys.artifact(cell)) is not None
        float_layers: tuple[str, ...] = ()
        if self.keys.float_layers(cell) is not None:
            found = self._float_layers.get((cell.variant, cell.resolution))
            if found is None:
                self._fail(group, WorkerError("--keep-float: which layers are sensitive could not be found"))
                return
            float_layers = found
        try:
            entry = yield from self.build(
                self.keys.artifact(cell),
                f"{cell.variant}/{cell.backend}"
                + (f" batch {cell.batch}" if len(self.request.batch_sizes) > 1 else "")
                + (f" {cell.resolution} px" if len(self.request.resolutions) > 1 else ""),
                lambda directory: Prepare(
                    backend=cell.backend,
                    variant=cell.variant,
                    num_classes=self.request.num_classes,
                    weights=str(self.artifacts.weights[cell.variant]),
                    batch=cell.batch,
                    calibration=str(self.artifacts.pool("calibration", cell)),
                    threads=cell.threads,
                    device=cell.device,
                    directory=str(directory),
                    model=self.request.models.get(cell.variant),
                    float_layers=float_layers,
                ),
                _expected_seconds(cell),
            )
        except WorkerError as error:
            self._fail(group, error)
            return
        path = self.store.path(entry.key)
        for cell in group:
            self.artifacts.directories[cell.key] = path
            self.record(
                Prepared(
                    cell=cell.key,
                    artifact=path.name,
                    build_seconds=entry.build_seconds,
                    built_at=entry.built_at,
                    cached=was_there,
                    artifact_bytes=entry.total_bytes,
                    files=entry.files,
                    facts={"precision": get_backend(cell.backend).info.precision, **entry.facts},
                )
            )
            if self.explain and explains(cell):
                self._waiting.append(partial(self._explanation, cell))

    def _explanation(self, cell: Cell) -> Conversation:
        """The runtime's own account of a cell. A cell goes on without it: it explains figures and is none."""
        try:
            entry = yield from self.build(
                self.keys.explanation(cell),
                f"profile of {cell.variant}/{cell.backend}",
                lambda directory: Explain(
                    backend=cell.backend,
                    artifact=str(self.artifacts.directories[cell.key]),
                    threads=cell.threads,
                    images=str(self.artifacts.pool("tuning", cell)),
                    batch=cell.batch,
                    directory=str(directory),
                ),
                modules=TORCH if "torch" in get_backend(cell.backend).info.runtime_modules else PLAIN,
            )
        except WorkerError as error:
            self.record(Note(f"{cell.key} could not be profiled by its runtime: {error.reason}"))
            return
        path = self.store.path(entry.key) / EXPLANATION_FILE
        explained = msgspec.json.decode(path.read_bytes(), type=Explained)
        if explained.by:
            self.record(msgspec.structs.replace(explained, cell=cell.key))

    def build(
        self,
        key: dict[str, Any],
        title: str,
        order: Callable[[Path], Message],
        work: float = SHORT_BUILD,
        *,
        limit: float | None = None,
        threads: int = 1,
        modules: tuple[str, ...] = TORCH,
    ) -> Generator[tuple[Worker, Message, float], Reply, Manifest]:
        """Find an entry, or have a worker of its own build it.

        Args:
            key: of the entry.
            title: what it is called in the progress display.
            order: what the worker is told, given the directory of the entry.
            work: about how many seconds it takes.
            limit: seconds it may take; as long as preparing may unless given.
            threads: of the worker's thread pools.
            modules: what it needs of `TORCH` and `PLAIN`.

        Raises:
            WorkerError: it could not be built or stored.
        """
        found = self.store.find(key)
        if found is not None:
            return found
        wrong = self.store.damaged.pop(digest(key), None)
        if wrong is not None:
            self.record(Note(f"{title}: the cached entry was damaged and is built anew ({wrong})"))
        start = time.perf_counter()
        self._names += 1
        with self._begin(key) as building:
            worker = self._worker(f"prepare-{self._names:03d}", threads, modules)
            try:
                done = expect((yield worker, order(building.directory), limit or self.limits.prepare), Done)
            finally:
                worker.kill()
                self.launcher.forget(worker)
            try:
                manifest = building.finish(
                    build_seconds=done.seconds,
                    built_at=datetime.now(UTC).isoformat(timespec="seconds"),
                    facts=done.facts,
                )
            except OSError as error:
                raise WorkerError(f"the artifact cannot be stored: {error}") from None
        self.tell(f"{title}: built in {time.perf_counter() - start:.1f} s", work)
        return manifest

    def _worker(self, name: str, threads: int, modules: tuple[str, ...]) -> Worker:
        """A process of its own: forked from one that has imported what takes long, where there is one."""
        if threads == 1 and modules in self._nurseries:
            try:
                return self.launcher.forked(name, self.launcher.nursery(modules, 1), self.limits.prepare)
            except WorkerError:
                self._nurseries.discard(modules)  # it is gone; without it everything takes longer, and works
        return self.launcher.fresh(name, threads)

    def _begin(self, key: dict[str, Any]) -> Building:
        try:
            return self.store.begin(key)
        except OSError as error:
            raise WorkerError(
                f"the artifact cache {self.store.root} cannot be written: {error.strerror} "
                "(set MNV3_BENCH_CACHE to another folder)"
            ) from None

    def _fail(self, cells: list[Cell], error: WorkerError) -> None:
        for cell in cells:
            self.tell(f"{cell.key}: cannot be prepared: {error.reason}", _expected_seconds(cell))
            self.record(Failure(cell.key, "prepare", error.reason, error.tail, error.install))

    def _weights_origin(self, variant: str) -> str:
        if parse_variant(variant).is_file:
            path = self.artifacts.weights[variant]
            return f"{path.name} (sha256 {digest_of(str(path), '--model')[:12]})"
        file = self.request.weights.get(variant)
        if self.keys.trains(variant):
            return f"trained for this run by recipe {self.request.recipe}, seed {self.request.seed}"
        if file is None and parse_variant(variant).is_own:
            return f"as {variant} makes them, after torch.manual_seed({self.request.seed})"
        if file is None:
            return f"seeded {self.request.seed}, calibrated"
        about = about_weights(self.artifacts.weights[variant])
        note = f"; {about.note}" if about.note else ""
        return f"{Path(file).name} (sha256 {digest_of(file)[:12]}, {about.layout} layout{note})"

    def _images(self, purpose: Purpose, resolution: int) -> Conversation:
        try:
            entry = yield from self.build(
                self.keys.images(purpose, resolution),
                f"images for {purpose} at {resolution}",
                lambda directory: Images(
                    seed=self.request.seed, purpose=purpose, resolution=resolution, directory=str(directory)
                ),
                work=1.0,
                modules=PLAIN,
            )
        except WorkerError as error:
            images = [cell for cell in self.cells if cell.variant not in self.request.models]
            here = [c for c in images if c.resolution == resolution and not self._has_data(c)]
            self._lose(images if purpose == "weights" else here, error)
            return
        self.artifacts.images[purpose, resolution] = self.store.path(entry.key) / IMAGES_FILE

    def _labelled(self, purpose: Purpose, variant: str, resolution: int) -> Conversation:
        labelled = self.keys.labelled(variant, resolution)
        assert labelled is not None, "asked only of networks with labelled images"
        model = self.request.models.get(variant)
        file = SAMPLES_FILE if model is not None else IMAGES_FILE
        count = labelled.calibration if purpose == "calibration" else COUNTS[purpose]
        try:
            entry = yield from self.build(
                self.keys.data_images(purpose, variant, resolution),
                f"images of the data for {variant}, {purpose}",
                lambda directory: DataImages(
                    labelled=labelled,
                    purpose=purpose,
                    count=count,
                    directory=str(directory),
                    inputs=model.inputs if model is not None else (),
                ),
                work=1.0,
                modules=PLAIN,
            )
        except WorkerError as error:
            require_data(error)
            here = [c for c in self.cells if (c.variant, c.resolution) == (variant, resolution)]
            self._lose(here, error)
            return
        self.artifacts.labelled[purpose, variant, resolution] = self.store.path(entry.key) / file
        self.artifacts.described[variant] = "images of the data"

    def _samples(self, purpose: Purpose, variant: str) -> Conversation:
        model = self.request.models[variant]
        try:
            entry = yield from self.build(
                self.keys.samples(purpose, variant),
                f"inputs of {variant} for {purpose}",
                lambda directory: Samples(
                    seed=self.request.seed, purpose=purpose, inputs=model.inputs, directory=str(directory)
                ),
                work=1.0,
                modules=PLAIN,
            )
        except WorkerError as error:
            self._lose([cell for cell in self.cells if cell.variant == variant], error)
            return
        self.artifacts.samples[purpose, variant] = self.store.path(entry.key) / SAMPLES_FILE
        self.artifacts.described[variant] = describe(model.inputs)

    def _lose(self, cells: list[Cell], error: WorkerError) -> None:
        self._fail(cells, error)
        self.cells = tuple(cell for cell in self.cells if cell not in cells)


def require_data(error: WorkerError) -> None:
    """What is wrong with the labelled images is wrong for every cell: the request ends.

    Raises:
        UsageError: a worker found fault with them.
    """
    name, colon, text = error.reason.partition(": ")
    if colon and name == "DataError":
        raise UsageError(f"--data: {text}") from error


def explains(cell: Cell) -> bool:
    """Whether a cell's runtime can be asked where the time goes; its profilers are for the CPU."""
    return cell.device == "cpu" and type(get_backend(cell.backend)).explain is not Backend.explain


def _expected_seconds(cell: Cell) -> float:
    return INDUCTOR_BUILD if get_backend(cell.backend).info.needs_compiler else SHORT_BUILD
