"""What a run's samples say: statistics of every cell and the printed ratios, derived once."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from mnv3_reports.accuracy import Drop, drop_of
from mnv3_reports.cell_words import CellNames, describe
from mnv3_reports.compare import BASELINE, PrintedRatio, ratios_of
from mnv3_reports.statistics import (
    Interval,
    Medians,
    block_medians,
    latency_interval,
    median,
    order_statistic_interval,
    ratio_of_medians,
    spread,
)

if TYPE_CHECKING:
    from pathlib import Path

    from mnv3_reports.record import Block, Cell, CellRecord, Run, VariantFacts

MOST_OTHER_CLASSES = 0.05
"""Share of inputs that a cell may give another class than the reference before the report flags it."""
USUAL_DROP = 0.01
"""Share of the images that a cell may lose before the report flags it, where nobody said what is accepted."""
QUANTILES = {"p90": 0.90, "p95": 0.95, "p99": 0.99}


class CellStatistics(msgspec.Struct, frozen=True):
    """One measured cell. Durations are seconds a call, and a call is one batch."""

    latency: Interval
    """Geometric mean over epochs of the epoch's median call."""
    quantiles: dict[str, Interval | None]
    """Exact order-statistic intervals over all calls taken as independent; None when there are too few."""
    minimum: float
    calls: int
    blocks: int
    epochs: int
    disturbed: dict[str, int]
    """Name of a crossed threshold to the number of blocks that crossed it."""
    disturbed_blocks: int
    minor_faults_per_call: float
    major_faults: int
    epoch_spread: float | None
    """Standard deviation of ln(epoch median), about the relative spread; None for a single epoch."""


class Ratio(msgspec.Struct, frozen=True):
    """A printed ratio with its value; below 1 the numerator is faster."""

    printed: PrintedRatio
    interval: Interval


class Summary:
    """A run with everything derived from it. Derivations are made on first use and kept."""

    def __init__(self, run: Run, directory: Path | None = None) -> None:
        """Args that need a word.

        directory: of the run, where its predictions lie; without it nothing is drawn from them.
        """
        self.run = run
        self.directory = directory
        self._blocks: dict[str, list[Block]] = {key: [] for key in run.cells}
        for block in run.blocks:
            if block.samples_ns:
                self._blocks[block.cell].append(block)

    @cached_property
    def measured(self) -> list[CellRecord]:
        """Cells with figures that count: timed, and not failed."""
        return [
            record for key, record in self.run.cells.items() if record.failure is None and self._blocks[key]
        ]

    @cached_property
    def statistics(self) -> dict[str, CellStatistics]:
        """Statistics by cell key, of the measured cells."""
        return {
            record.cell.key: _statistics(self._blocks[record.cell.key], self._medians[record.cell.key])
            for record in self.measured
        }

    @cached_property
    def ratios(self) -> dict[tuple[str, str], Ratio]:
        """Printed ratios by the keys of numerator and denominator; without a shared round there is none."""
        cells = [record.cell for record in self.measured]
        found = {}
        for printed in ratios_of(self.run, cells):
            interval = self.ratio(printed.numerator, printed.denominator)
            if interval is not None:
                found[printed.numerator, printed.denominator] = Ratio(printed, interval)
        return found

    @cached_property
    def _medians(self) -> dict[str, Medians]:
        return {record.cell.key: block_medians(self._blocks[record.cell.key]) for record in self.measured}

    def ratio(self, numerator: str, denominator: str) -> Interval | None:
        """Any two measured cells' ratio; None when no round has both."""
        return ratio_of_medians(self._medians[numerator], self._medians[denominator])

    def to_eager(self, cell: Cell) -> Ratio | None:
        """The cell's ratio to eager of the same network and setting, None where it is not printed."""
        return self.ratios.get((cell.key, msgspec.structs.replace(cell, backend=BASELINE).key))

    def to_reference(self, cell: Cell, reference: str) -> Ratio | None:
        """The cell's ratio to a reference network on the same backend, None where it is not printed."""
        return self.ratios.get((cell.key, msgspec.structs.replace(cell, variant=reference).key))

    def to_exact(self, record: CellRecord) -> Ratio | None:
        """A reduced cell's ratio to the same runtime's fp32, None where it is not printed."""
        exact = record.explained.exact if record.explained is not None else None
        if exact is None:
            return None
        return self.ratios.get((record.cell.key, msgspec.structs.replace(record.cell, backend=exact).key))

    @cached_property
    def defaults(self) -> dict[str, str]:
        """Key of a cell that tuning found to the key of the cell it was tuned from."""
        return {tuned.winner: tuned.cell for tuned in self.run.tuned if tuned.winner is not None}

    @cached_property
    def names(self) -> CellNames:
        """The run's cells in words."""
        models = self.run.header.request.models
        return CellNames((record.cell for record in self.run.cells.values()), models)

    def planned(self, cell: Cell) -> bool:
        """Whether the cell was asked for, and not found while tuning."""
        return cell.key in self._planned

    @cached_property
    def _planned(self) -> frozenset[str]:
        return frozenset(self.run.header.cells)

    @cached_property
    def drops(self) -> dict[str, Drop]:
        """What each evaluated cell loses against its reference, by key, of the cells that have one."""
        found = {
            key: drop_of(record.accuracy.pairs)
            for key, record in self.run.cells.items()
            if record.accuracy is not None and record.accuracy.pairs is not None
        }
        return {key: drop for key, drop in found.items() if drop is not None}

    def drop(self, cell: Cell) -> Drop | None:
        """What the cell loses against its reference; None where that was not measured."""
        return self.drops.get(cell.key)

    @property
    def limit(self) -> float:
        """The drop above which a cell is flagged, as a share: the accepted one, or a usual one."""
        accepted = self.run.header.request.max_drop
        return USUAL_DROP if accepted is None else accepted

    def beyond(self, cell: Cell) -> Drop | None:
        """The cell's drop where all of its interval is above the limit; else None."""
        drop = self.drop(cell)
        return drop if drop is not None and drop.against(self.limit) == "above" else None

    def flagged(self, record: CellRecord) -> bool:
        """Whether a cell is too inaccurate to be named without a word about it."""
        return self.beyond(record.cell) is not None or self.other_classes(record) is not None

    def other_classes(self, record: CellRecord) -> float | None:
        """Share of the compared inputs with another class than the reference's, None below `MOST_OTHER_CLASSES`.

        None as well where accuracy was measured: what a cell gets wrong of labelled images says more.
        """
        if self.drop(record.cell) is not None:
            return None
        fidelity = record.inspected.fidelity if record.inspected is not None else None
        if fidelity is None or fidelity.top1_agreement is None:
            return None
        share = 1 - fidelity.top1_agreement
        return share if fidelity.top1_agreement < 1 - MOST_OTHER_CLASSES else None

    def fastest(
        self, variant: str, setting: str, precision: str | None = None, *, unflagged: bool = False
    ) -> Cell | None:
        """The measured cell of this network and setting with the lowest latency.

        Args:
            variant: the network.
            setting: as `Cell.setting`.
            precision: of this one only.
            unflagged: only one that is not `flagged`.
        """
        cells = [
            record.cell
            for record in self.measured
            if (record.cell.variant, record.cell.setting) == (variant, setting)
            and (precision is None or self.precision(record) == precision)
            and not (unflagged and self.flagged(record))
        ]
        return min(cells, key=lambda cell: self.statistics[cell.key].latency.estimate, default=None)

    def close_to(self, fastest: Cell) -> list[Cell]:
        """Other backends of the same network and setting whose ratio to the fastest has 1 in its interval."""
        close = []
        for record in self.measured:
            cell = record.cell
            if cell == fastest or (cell.variant, cell.setting) != (fastest.variant, fastest.setting):
                continue
            interval = self.ratio(cell.key, fastest.key)
            if interval is not None and interval.bounded and interval.contains(1.0):
                close.append(cell)
        return close

    def facts(self, cell: Cell) -> VariantFacts | None:
        """What is known of the cell's network at its resolution."""
        for facts in self.run.variants:
            if (facts.variant, facts.resolution) == (cell.variant, cell.resolution):
                return facts
        return None

    @cached_property
    def settings(self) -> list[str]:
        """The run's settings (threads, batch, resolution, device), in planned order."""
        return list(dict.fromkeys(record.cell.setting for record in self.run.cells.values()))

    def describe(self, setting: str) -> str:
        """A setting in words; the inputs of a network of the user's own where it is the only one in it."""
        cells = [record.cell for record in self.run.cells.values() if record.cell.setting == setting]
        words = dict.fromkeys(map(self.names.describe, cells))
        return next(iter(words)) if len(words) == 1 else describe(cells[0])

    @cached_property
    def variants(self) -> list[str]:
        """The run's networks: the requested ones, then the references, then forms that lack an ingredient."""
        request = self.run.header.request
        present = {record.cell.variant for record in self.run.cells.values()}
        named = dict.fromkeys((*request.variants, *request.references, *sorted(present)))
        ordered = [variant for variant in named if variant in present]
        return sorted(ordered, key=lambda variant: variant in request.ablated)

    @cached_property
    def asked(self) -> list[str]:
        """The networks of `variants` that are no ablated forms, unless there is nothing else."""
        ablated = self.run.header.request.ablated
        return [variant for variant in self.variants if variant not in ablated] or self.variants

    @cached_property
    def open(self) -> list[str]:
        """The networks that a reader came for: requested, and no ablated forms."""
        return [variant for variant in self.asked if variant in self.run.header.request.variants]

    def precision(self, record: CellRecord) -> str:
        """What a cell says it computes in, else what its backend's name says."""
        for part in (record.inspected, record.prepared):
            if part is not None and isinstance(part.facts.get("precision"), str):
                return str(part.facts["precision"])
        name = record.cell.backend.partition(":")[0]
        reduced = next((precision for precision in ("bf16", "fp16") if precision in name), "fp32")
        return "int8" if "int8" in name or "quantized" in name else reduced

    def why_not_timed(self, key: str) -> str:
        """Why a cell has no latency."""
        failure = self.run.cells[key].failure
        if failure is not None:
            return f"failed ({failure.phase}); see Failures"
        if self.run.finished is None or self.run.finished.status == "partial":
            return "the run ended before this cell's turn"
        return "no block of this cell was recorded"


def _statistics(blocks: list[Block], medians: Medians) -> CellStatistics:
    by_epoch: dict[int, list[int]] = {}
    for block in blocks:
        by_epoch.setdefault(block.epoch, []).extend(block.samples_ns)
    samples = [value / 1e9 for values in by_epoch.values() for value in values]
    epoch_medians = [median(values) / 1e9 for values in by_epoch.values()]
    return CellStatistics(
        latency=latency_interval(epoch_medians),
        quantiles={name: order_statistic_interval(samples, q) for name, q in QUANTILES.items()},
        minimum=min(samples),
        calls=len(samples),
        blocks=len(blocks),
        epochs=len(medians),
        disturbed=dict(Counter(name for block in blocks for name in block.disturbed)),
        disturbed_blocks=sum(bool(block.disturbed) for block in blocks),
        minor_faults_per_call=sum(block.minor_faults for block in blocks) / len(samples),
        major_faults=sum(block.major_faults for block in blocks),
        epoch_spread=spread(epoch_medians),
    )
