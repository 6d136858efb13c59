"""Profiles put together: time by kind of work, by block of the network, by stage, and what no operator accounts for."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mnv3_reports.record import Cell, CellRecord, LayerCost, Profiled, ProfiledOperator
    from mnv3_reports.statistics import Interval
    from mnv3_reports.summary import Summary

KINDS = (
    "convolution",
    "pointwise",
    "depthwise",
    "squeeze-excitation",
    "linear",
    "activation",
    "normalization",
    "reorder",
    "other",
)
UNATTRIBUTED = "unattributed"
"""What a call takes beyond its operators: the runtime's own work between them, and what its profiler does not see."""
HEAD = "head"
"""The stage behind the last feature map: pooling and classifier."""
WITHIN = 0.1
"""A sum of operators that is so close to the call's own time accounts for it."""


class Share(NamedTuple):
    """Time of some of a call's operators."""

    seconds: float
    share: float
    """Of the call."""
    macs: int
    bytes: int


@dataclass(frozen=True)
class CellProfile:
    """A cell's profile with what is known of its network."""

    record: CellRecord
    profiled: Profiled
    median: Interval | None
    """Of the cell as it was measured, in processes of their own; None where it was not."""
    layers: tuple[LayerCost, ...]

    @cached_property
    def attributed(self) -> float:
        """Seconds of all operators together."""
        return sum(operator.seconds for operator in self.profiled.operators)

    @property
    def rest(self) -> float:
        """Seconds of a call beyond its operators; negative where the profiler makes them longer than they are."""
        return self.profiled.plain_seconds - self.attributed

    @property
    def whole(self) -> float:
        """What shares are of: the call, or the sum of its operators where that is longer."""
        return max(self.profiled.plain_seconds, self.attributed)

    @property
    def coverage(self) -> float | None:
        """The sum of the operators over the unprofiled call; None where that has no time."""
        plain = self.profiled.plain_seconds
        return self.attributed / plain if plain else None

    @property
    def overhead(self) -> float | None:
        """What a call under the profiler takes more, as a share; None where the two cannot be timed by one clock."""
        under, plain = self.profiled.profiled_seconds, self.profiled.plain_seconds
        return under / plain - 1 if under and plain else None

    @cached_property
    def kinds(self) -> dict[str, Share]:
        """Kind to what it takes, in the order of `KINDS`, and the rest as `UNATTRIBUTED` where there is one."""
        groups: defaultdict[str, list[ProfiledOperator]] = defaultdict(list)
        for operator in self.profiled.operators:
            groups[operator.kind].append(operator)
        found = {kind: self.share(groups[kind]) for kind in sorted(groups, key=_place)}
        if self.rest > 0:
            found[UNATTRIBUTED] = Share(self.rest, self.rest / self.whole, 0, 0)
        return found

    @cached_property
    def macs(self) -> int:
        """Of all operators together; 0 where they could not be put to modules."""
        return sum(operator.macs for operator in self.profiled.operators)

    def share(self, operators: Iterable[ProfiledOperator]) -> Share:
        """Some of the operators together."""
        chosen = list(operators)
        seconds = sum(operator.seconds for operator in chosen)
        return Share(
            seconds,
            seconds / self.whole if self.whole else 0.0,
            sum(operator.macs for operator in chosen),
            sum(operator.bytes for operator in chosen),
        )

    @cached_property
    def blocks(self) -> dict[str, Share]:
        """Block to what its operators take; '' for operators of none."""
        known = blocks_of(self.layers)
        groups: defaultdict[str, list[ProfiledOperator]] = defaultdict(list)
        for operator in self.profiled.operators:
            groups[_enclosing(operator.module, known)].append(operator)
        return {name: self.share(operators) for name, operators in groups.items()}

    @cached_property
    def stages(self) -> dict[str, Share]:
        """Stage to what its blocks take."""
        known = blocks_of(self.layers)
        groups: defaultdict[str, list[ProfiledOperator]] = defaultdict(list)
        for operator in self.profiled.operators:
            block = known.get(_enclosing(operator.module, known))
            if block is not None:
                groups[block.stage].append(operator)
        return {name: self.share(operators) for name, operators in groups.items()}


class Block(NamedTuple):
    """A block of a network: a stem, an inverted residual, a classifier."""

    name: str
    """Module path."""
    shape: tuple[int, ...]
    """Of its output."""
    stage: str
    """The size of its output, such as '14 × 14', or `HEAD`."""
    macs: int
    parameters: int
    activations: int


def profiles(summary: Summary) -> list[CellProfile]:
    """Every profiled cell that has operators, networks in the report's order, the fastest runtime first."""
    found = []
    for record in summary.run.cells.values():
        if record.profiled is None or not record.profiled.operators or record.failure is not None:
            continue
        facts = summary.facts(record.cell)
        statistics = summary.statistics.get(record.cell.key)
        found.append(
            CellProfile(
                record,
                record.profiled,
                statistics.latency if statistics is not None else None,
                facts.complexity.layers if facts is not None and facts.complexity is not None else (),
            )
        )
    return sorted(
        found,
        key=lambda each: (
            summary.variants.index(each.record.cell.variant),
            summary.settings.index(each.record.cell.setting),
            each.profiled.plain_seconds,
        ),
    )


def kinds_of(found: Iterable[CellProfile]) -> list[str]:
    """The kinds of some profiles, each once: those of `KINDS` in its order, any others, `UNATTRIBUTED`."""
    return sorted({kind for each in found for kind in each.kinds}, key=_place)


def _place(kind: str) -> tuple[int, str]:
    """What sorts kinds; one that is not of `KINDS` can come from a record of a later version."""
    if kind in KINDS:
        return KINDS.index(kind), ""
    return len(KINDS) + (kind == UNATTRIBUTED), kind


def named(summary: Summary, cell: Cell) -> str:
    """A cell by its network and runtime, and by its setting where there are several."""
    setting = summary.names.setting(cell)
    return f"{cell.variant} on {cell.backend}" + (f", {setting}" if setting else "")


def blocks_of(layers: Sequence[LayerCost]) -> dict[str, Block]:
    """The blocks of a network in its order, by path: `features.4`, and `classifier` of `classifier.3`."""
    groups: dict[str, list[LayerCost]] = {}
    for layer in layers:
        parts = layer.name.split(".")
        groups.setdefault(".".join(parts[:2]) if len(parts) > 2 else parts[0], []).append(layer)
    return {
        name: Block(
            name,
            members[-1].output_shape,
            _stage(members),
            sum(layer.macs for layer in members),
            sum(layer.parameters for layer in members),
            sum(layer.activations for layer in members),
        )
        for name, members in groups.items()
    }


def _stage(layers: Sequence[LayerCost]) -> str:
    """The size of the feature map that a block leaves."""
    shape = layers[-1].output_shape
    return f"{shape[1]} × {shape[2]}" if len(shape) == 3 and shape[1:] != (1, 1) else HEAD


def _enclosing(path: str, blocks: dict[str, Block]) -> str:
    """The block that a module is, or is in; '' where it is none's."""
    while path and path not in blocks:
        path = path.rpartition(".")[0]
    return path
