"""Accuracy of every cell, seen from the run: predictions from the store, or made by workers."""

from __future__ import annotations

import shutil
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from mnv3_bench.cache import digest
from mnv3_bench.coldstart import file_name
from mnv3_bench.conversations import side_by_side
from mnv3_bench.evaluating.predicting import ACCURACY_FILE, BROKEN_FILE, PREDICTIONS_FILE
from mnv3_bench.launcher import Worker, WorkerError
from mnv3_bench.prepare import require_data
from mnv3_bench.protocol import Evaluate, Message, Reply
from mnv3_models import parse_variant
from mnv3_reports.record import Accuracy, Cell, Entry, Evaluation, Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    from mnv3_bench.keys import Keys
    from mnv3_bench.plan import Limits
    from mnv3_bench.prepare import Artifacts, Preparer

FOLDER = "predictions"
"""In the run directory."""
EXACT = "eager fp32"
EVALUATING = 10.0
"""An evaluation takes, roughly: for the time left in the progress display."""


class Evaluator:
    """Runs the labelled images through every cell, each paired with its network in eager fp32."""

    def __init__(
        self,
        directory: Path,
        keys: Keys,
        artifacts: Artifacts,
        preparer: Preparer,
        limits: Limits,
        record: Callable[[Entry], None],
        tell: Callable[[str, float], None],
        *,
        evaluation: Evaluation | None,
    ) -> None:
        """Args that need a word.

        directory: of the run; predictions are copied into it.
        preparer: builds entries of the store.
        evaluation: what is recorded of the data; recorded again with the images that turn out to be broken.
        """
        self.directory = directory
        self.keys = keys
        self.artifacts = artifacts
        self.preparer = preparer
        self.limits = limits
        self.record = record
        self.tell = tell
        self.evaluation = evaluation
        self._exact: dict[tuple[str, int], Path] = {}

    def missing(self, cells: Sequence[Cell]) -> int:
        """Predictions that are not in the store: of cells, and of the networks in fp32 that they are paired with."""
        exact = {(c.variant, c.resolution): c for c in cells if not parse_variant(c.variant).is_file}
        keys = [self.keys.prediction(cell, exact=True) for cell in exact.values()]
        keys += [self.keys.prediction(cell, exact=False) for cell in cells]
        return len({digest(key) for key in keys if self.preparer.store.find(key) is None})

    def run(self, cells: Sequence[Cell], cpus: int, tick: Callable[[], None] | None = None) -> None:
        """Evaluate these cells; one that cannot be evaluated becomes a recorded failure.

        Raises:
            UsageError: the data themselves are at fault, such as too many images that cannot be decoded.
        """
        exact = {
            (cell.variant, cell.resolution): cell for cell in cells if not parse_variant(cell.variant).is_file
        }
        decoders = 1 if str(self.keys.request.data).startswith("imagefolder:") else 0
        width = max(1, cpus // (1 + decoders))
        tasks = [partial(self._reference, cell, cells, decoders) for cell in exact.values()]
        for _ in side_by_side(tasks, width, tick=tick):
            pass
        for threads in dict.fromkeys(cell.threads for cell in cells):
            mine = [cell for cell in cells if cell.threads == threads]
            tasks = [partial(self._cell, cell, decoders) for cell in mine]
            for _ in side_by_side(tasks, max(1, cpus // (threads + decoders)), tick=tick):
                pass

    def _reference(
        self, cell: Cell, cells: Sequence[Cell], decoders: int
    ) -> Generator[tuple[Worker, Message, float], Reply, Any]:
        try:
            path = yield from self._predictions(cell, decoders, exact=True)
        except WorkerError as error:
            require_data(error)
            for each in cells:
                if (each.variant, each.resolution) == (cell.variant, cell.resolution):
                    self._fail(each, error)
            return
        self._exact[cell.variant, cell.resolution] = path / PREDICTIONS_FILE

    def _cell(self, cell: Cell, decoders: int) -> Generator[tuple[Worker, Message, float], Reply, Any]:
        if not parse_variant(cell.variant).is_file and (cell.variant, cell.resolution) not in self._exact:
            return  # it has failed with its reference
        was_there = self.preparer.store.find(self.keys.prediction(cell, exact=False)) is not None
        try:
            path = yield from self._predictions(cell, decoders, exact=False)
        except WorkerError as error:
            require_data(error)
            self._fail(cell, error)
            return
        accuracy = msgspec.json.decode((path / ACCURACY_FILE).read_bytes(), type=Accuracy)
        broken = msgspec.json.decode((path / BROKEN_FILE).read_bytes(), type=dict[str, str])
        if self.evaluation is not None and broken != self.evaluation.broken:
            self.evaluation = msgspec.structs.replace(self.evaluation, broken=broken)
            self.record(self.evaluation)
        name = f"{FOLDER}/{file_name(cell)}.npz"
        target = self.directory / name
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path / PREDICTIONS_FILE, target)
        self.record(msgspec.structs.replace(accuracy, cell=cell.key, predictions=name, cached=was_there))

    def _predictions(
        self, cell: Cell, decoders: int, *, exact: bool
    ) -> Generator[tuple[Worker, Message, float], Reply, Path]:
        """An entry of the store with a cell's predictions, or its network's in eager fp32."""
        labelled = self.keys.labelled(cell.variant, cell.resolution)
        assert labelled is not None, "only cells with labelled images are evaluated"
        model = self.keys.request.models.get(cell.variant)
        source = self.artifacts.weights[cell.variant] if exact else self.artifacts.directories[cell.key]
        reference = None if exact else self._exact.get((cell.variant, cell.resolution))
        entry = yield from self.preparer.build(
            self.keys.prediction(cell, exact=exact),
            f"accuracy of {cell.variant}/{EXACT if exact else cell.backend}",
            lambda directory: Evaluate(
                variant=cell.variant,
                num_classes=self.keys.request.num_classes,
                labelled=labelled,
                backend=None if exact else cell.backend,
                source=str(source),
                threads=1 if exact else cell.threads,
                device=cell.device,
                batch=cell.batch,
                workers=decoders,
                reference=str(reference) if reference is not None else None,
                reference_name=EXACT,
                directory=str(directory),
                inputs=model.inputs if model is not None else (),
            ),
            EVALUATING,
            limit=self.limits.evaluate,
            threads=1 if exact else cell.threads,
        )
        return self.preparer.store.path(entry.key)

    def _fail(self, cell: Cell, error: WorkerError) -> None:
        self.tell(f"{cell.key}: cannot be evaluated: {error.reason}", EVALUATING)
        self.record(Failure(cell.key, "accuracy", error.reason, error.tail, error.install))
