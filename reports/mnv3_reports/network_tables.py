"""The tables about the networks themselves: what was counted, what they are made of, what others published."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple

from mnv3_reports import units
from mnv3_reports.cell_words import inputs_of
from mnv3_reports.layout import Column, Table, Value, build, missing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mnv3_reports.record import Complexity, PublishedFigure, VariantFacts
    from mnv3_reports.summary import Summary


class FigureRow(NamedTuple):
    """One published figure beside what was found here."""

    summary: Summary
    facts: VariantFacts
    figure: PublishedFigure


def known(summary: Summary) -> list[VariantFacts]:
    """What was counted, networks in the report's order."""
    order = {variant: place for place, variant in enumerate(summary.variants)}
    return sorted(summary.run.variants, key=lambda facts: order.get(facts.variant, len(order)))


def complexity(summary: Summary) -> Table | None:
    """Counted cost for one input; None where nothing was. Operations outside the MACs stand apart."""
    rows = known(summary)
    kinds = dict.fromkeys(
        kind for facts in rows if facts.complexity for kind in facts.complexity.other_operations
    )
    models = summary.run.header.request.models

    def called_with(facts: VariantFacts) -> Value:
        model = models.get(facts.variant)
        if model is not None:
            return Value(inputs_of(model))
        return Value(str(facts.resolution)) if facts.resolution else missing("its inputs are not known")

    columns = [
        NETWORK,
        Column["VariantFacts"]("input" if models else "pixels", called_with),
        _counted("MACs", lambda counted: units.millions(counted.macs)),
        _counted("FLOPs", lambda counted: units.millions(2 * counted.macs)),
        _counted("params", lambda counted: units.millions(counted.parameters)),
        _counted("activations", lambda counted: units.millions(counted.activations)),
        _counted("weights", lambda counted: units.megabytes(counted.weight_bytes), "MB"),
        *(_counted(kind, partial(_other_operations, kind=kind)) for kind in kinds),
        Column["VariantFacts"]("MACs counted by", _counters, align="left"),
    ]
    return build(columns, rows) if any(facts.complexity for facts in rows) else None


UNCOUNTED = "nothing here counts the operators of this network"


def _counted(title: str, write: Callable[[Complexity], str], unit: str = "M") -> Column[VariantFacts]:
    def value(facts: VariantFacts) -> Value:
        return Value(write(facts.complexity)) if facts.complexity else missing(UNCOUNTED)

    return Column(title, value, unit)


def _other_operations(counted: Complexity, kind: str) -> str:
    return units.millions(counted.other_operations.get(kind, 0))


def _counters(facts: VariantFacts) -> Value:
    if facts.complexity is None:
        return missing(UNCOUNTED)
    names = ", ".join(facts.complexity.counters) or "one counter"
    disagreement = facts.complexity.disagreement
    return Value(f"{names}: differ", disagreement) if disagreement else Value(f"{names}: agree")


def features(summary: Summary, networks: Sequence[str]) -> Table | None:
    """What built networks are made of, a column each; None when nothing is known of any."""
    found = {facts.variant: facts for facts in reversed(summary.run.variants)}
    # A file tells nothing of itself; a column of dashes would not either.
    variants = [variant for variant in networks if variant in found and found[variant].features]
    if not variants:
        return None
    names = list(dict.fromkeys(name for variant in variants for name in found[variant].features))
    absent = missing("not looked for in this network")

    def value(name: str, variant: str) -> Value:
        text = found[variant].features.get(name)
        return absent if text is None else Value(text.strip() or "no")

    columns = [Column[str]("feature", Value, align="left")]
    columns += [Column[str](variant, partial(value, variant=variant), align="left") for variant in variants]
    return build(columns, names)


def published(summary: Summary) -> Table | None:
    """Published figures at the measured resolutions beside what was found here; None without any."""
    rows = [
        FigureRow(summary, facts, figure)
        for facts in known(summary)
        for figure in facts.published
        if figure.resolution == facts.resolution
    ]
    return build(PUBLISHED, rows) if rows else None


def _beside(published_figure: float | None, counted: int | None) -> Value:
    here = "–" if counted is None else units.millions(counted)
    if published_figure is None:
        return Value(f"– ({here})", "this source does not give it")
    return Value(f"{units.millions(published_figure)} ({here})", UNCOUNTED if counted is None else None)


def _count(row: FigureRow, name: Literal["macs", "parameters"]) -> int | None:
    counted = row.facts.complexity
    return None if counted is None else getattr(counted, name)


def _published_ms(row: FigureRow) -> Value:
    figures = row.figure.latency_ms
    if not figures:
        return missing("this source does not give it")
    return Value(", ".join(f"{device} {units.significant(value)}" for device, value in figures.items()))


def _fastest_here(row: FigureRow) -> Value:
    """The fastest cell of the figure's precision, in the run's first setting of that resolution."""
    summary, facts = row.summary, row.facts
    for setting in summary.settings:
        best = summary.fastest(facts.variant, setting, row.figure.precision)
        if best is not None and best.resolution == facts.resolution:
            latency = summary.statistics[best.key].latency.estimate
            return Value(f"{units.milliseconds(latency)} ({best.backend})")
    return missing(f"no {row.figure.precision} cell of this network was timed")


PUBLISHED: tuple[Column[FigureRow], ...] = (
    Column("network", lambda row: Value(row.facts.variant), align="left"),
    Column(
        "source",
        lambda row: Value(" ".join(filter(None, (row.figure.source, row.figure.weights)))),
        align="left",
    ),
    Column("precision", lambda row: Value(row.figure.precision), align="left"),
    Column("pixels", lambda row: Value(str(row.figure.resolution))),
    Column(
        "top-1",
        lambda row: (
            missing("this source does not give it")
            if row.figure.top1 is None
            else Value(f"{row.figure.top1:.1f}")
        ),
        "%",
    ),
    Column("MACs (counted)", lambda row: _beside(row.figure.macs, _count(row, "macs")), "M"),
    Column("params (counted)", lambda row: _beside(row.figure.parameters, _count(row, "parameters")), "M"),
    Column("published", _published_ms, "ms"),
    Column("fastest here", _fastest_here, "ms"),
)

NETWORK = Column["VariantFacts"]("network", lambda facts: Value(facts.variant), align="left")
