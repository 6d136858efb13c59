"""Make the files of an export and measure each against its reference, as a run does with what it times."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mnv3_bench.backends import get_backend
from mnv3_bench.backends._artifact import About
from mnv3_bench.cache import Store, default_root
from mnv3_bench.coldstart import ColdStarts, wrong_numbers
from mnv3_bench.environment import usable_cpus, usable_memory
from mnv3_bench.exporting import torch_programs
from mnv3_bench.exporting.targets import Lack
from mnv3_bench.inputs import DESCRIPTION
from mnv3_bench.keys import Keys
from mnv3_bench.launcher import WorkerError
from mnv3_bench.prepare import Preparer
from mnv3_bench.prepare_worker import WEIGHTS_FILE, AboutWeights, about_weights
from mnv3_bench.run import MEMORY_SHARE
from mnv3_models import parse_variant
from mnv3_reports.record import Failure, Fidelity, Inspected, Prepared, VariantFacts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mnv3_bench.display import Display
    from mnv3_bench.exporting.targets import Target
    from mnv3_bench.launcher import Launcher
    from mnv3_bench.plan import Plan
    from mnv3_bench.prepare import Artifacts
    from mnv3_reports.record import Cell, Entry, Scalar, TensorSpec

BUILD_MEMORY = 2 << 30
"""Bytes that one preparation may take, so that two of them do not share the machine's memory to death."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """A file that computes what its network does."""

    target: Target
    file: Path
    """In the artifact store, or in the export's scratch folder."""
    inputs: tuple[TensorSpec, ...]
    """What the network takes, which need not be in the file's own form."""
    fidelity: Fidelity
    runtime: str
    """Module and version that it was run with."""
    facts: dict[str, Scalar]
    first: str = ""
    """Python that takes the first output out of what PyTorch gives."""


@dataclass(frozen=True)
class Compared:
    """What fidelity was measured with."""

    reference: Path
    """Outputs, an array each, of all calls after each other."""
    pool: Path
    """Inputs of those calls."""
    calibration: Path
    """What quantized files were calibrated on."""


@dataclass
class Outcome:
    """What could be made, what could not, and what they were compared with."""

    made: list[Made] = field(default_factory=list)
    lacks: list[Lack] = field(default_factory=list)
    variant: VariantFacts | None = None
    """None when not even the reference could be computed."""
    weights: AboutWeights | None = None
    """None for a model file, which has its own."""
    compared: Compared | None = None
    """None as `variant`."""


def make(
    plan: Plan, targets: Sequence[Target], launcher: Launcher, scratch: Path, display: Display
) -> Outcome:
    """Build, check and collect. One target that fails takes none of the others with it.

    Args:
        plan: one network, and the backends of the targets.
        targets: what to make.
        launcher: starts the processes; whoever made it ends them.
        scratch: an empty folder for what no backend makes.
        display: shown what is done.
    """
    maker = _Maker(plan, launcher, scratch, display)
    artifacts = maker.prepare()
    maker.inspect(artifacts, {target.backend for target in targets if target.artifact})
    for target in targets:
        maker.collect(target, artifacts)
    return maker.outcome


class _Maker:
    def __init__(self, plan: Plan, launcher: Launcher, scratch: Path, display: Display) -> None:
        self.plan = plan
        self.launcher = launcher
        self.scratch = scratch
        self.display = display
        self.cells: dict[str, Cell] = {cell.backend: cell for cell in plan.cells}
        self.store = Store(default_root())
        self.outcome = Outcome()
        self.prepared: dict[str, Prepared] = {}
        self.inspected: dict[str, Inspected] = {}
        self.failures: dict[str, Failure] = {}

    def record(self, entry: Entry) -> None:
        match entry:
            case Prepared():
                self.prepared[entry.cell] = entry
            case Inspected():
                self.inspected[entry.cell] = entry
            case Failure():
                self.failures[entry.cell] = entry
            case VariantFacts():
                self.outcome.variant = entry

    def prepare(self) -> Artifacts:
        request, cells = self.plan.request, self.plan.cells
        preparer = Preparer(
            request,
            cells,
            self.store,
            self.launcher,
            self.plan.limits,
            self.record,
            self.display.step,
            explain=False,
        )
        missing = preparer.missing()
        self.display.begin("prepare", len(missing), sum(missing.values()))
        width = max(1, min(usable_cpus(), int(usable_memory() * MEMORY_SHARE // BUILD_MEMORY)))
        artifacts = preparer.run(width, self.display.tick)
        if self.outcome.variant is not None:
            cell = cells[0]
            self.outcome.compared = Compared(
                artifacts.references[cell.variant, cell.resolution],
                artifacts.pool("fidelity", cell),
                artifacts.pool("calibration", cell),
            )
            if not parse_variant(cell.variant).is_file:
                weights = self.store.path(Keys(request).weights(cell.variant)) / WEIGHTS_FILE
                self.outcome.weights = about_weights(weights)
        return artifacts

    def inspect(self, artifacts: Artifacts, backends: set[str]) -> None:
        cells = [
            cell
            for cell in self.plan.cells
            if cell.backend in backends and cell.key in self.prepared and cell.key not in self.failures
        ]
        starts = ColdStarts(artifacts, self.launcher, self.plan.limits, self.record, self.display.step)
        self.display.begin("check", len(cells))
        starts.run(cells, usable_cpus(), self.display.tick)

    def collect(self, target: Target, artifacts: Artifacts) -> None:
        cell = self.cells[target.backend]
        failure = self.failures.get(cell.key)
        if failure is not None:
            self.outcome.lacks.append(Lack(target.name, failure.reason, failure.install, failure.tail))
            return
        directory = artifacts.directories[cell.key]
        try:
            if target.artifact:
                made = self._of_backend(target, cell, directory)
            else:
                made = self._of_torch(target, cell, directory, artifacts)
        except WorkerError as error:
            self.outcome.lacks.append(Lack(target.name, error.reason, error.install, error.tail))
            return
        self.outcome.made.append(made)

    def _of_backend(self, target: Target, cell: Cell, directory: Path) -> Made:
        found = sorted(path for path in directory.iterdir() if path.suffix == target.artifact)
        if len(found) != 1:
            raise WorkerError(
                f"the artifact of {target.backend} holds {len(found)} {target.artifact} files, expected one"
            )
        inspected = self.inspected[cell.key]
        assert inspected.fidelity is not None, "whatever was loaded and did not fail was compared"
        return Made(
            target=target,
            file=found[0],
            inputs=About.read(directory).inputs,
            fidelity=inspected.fidelity,
            runtime=str(inspected.facts["runtime"]),
            facts={**self.prepared[cell.key].facts, **inspected.facts},
        )

    def _of_torch(self, target: Target, cell: Cell, directory: Path, artifacts: Artifacts) -> Made:
        about = About.read(directory)
        file = self.scratch / f"model{target.ending}"
        pool = artifacts.pool("fidelity", cell)
        reference = artifacts.references[cell.variant, cell.resolution]
        limits = self.plan.limits
        facts = torch_programs.make(target.name, directory, file, limits.prepare)
        told = torch_programs.check(target.name, file, pool, reference, cell.batch, limits.check)
        checked = told.checked
        assert checked is not None, "a check that did not fail has a result"
        floor = get_backend(target.backend).info.floor_snr_db
        compared = artifacts.compared.get(cell.variant, "eager fp32")
        wrong = wrong_numbers(checked.finite, checked.snr_db, floor, compared)
        if wrong is not None:
            raise WorkerError(wrong)
        self.display.say(f"{cell.variant}/{target.name}: written and checked")
        return Made(
            target=target,
            file=file,
            inputs=about.inputs,
            fidelity=Fidelity(
                cosine=checked.cosine,
                snr_db=checked.snr_db,
                top1_agreement=checked.top1_agreement,
                samples=checked.samples,
                floor_snr_db=floor,
                inputs=artifacts.described.get(cell.variant, DESCRIPTION),
                reference=compared,
            ),
            runtime=str(told.facts["runtime"]),
            facts={**self.prepared[cell.key].facts, **facts, **told.facts},
            first=told.first,
        )
