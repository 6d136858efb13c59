"""The tables about the networks themselves: what was counted, what they are made of, what others published."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from mnv3_reports import units
from mnv3_reports.layout import Column, Table, Value, build, missing

if TYPE_CHECKING:
    from mnv3_reports.record import PublishedFigure, VariantFacts
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
    """Counted cost for one image; None when nothing was counted. Operations outside the MACs stand apart."""
    rows = known(summary)
    kinds = list(dict.fromkeys(kind for facts in rows for kind in facts.complexity.other_operations))
    columns = [
        NETWORK,
        Column["VariantFacts"]("pixels", lambda facts: Value(str(facts.resolution))),
        Column["VariantFacts"]("MACs", lambda facts: Value(units.millions(facts.complexity.macs)), "M"),
        Column["VariantFacts"]("FLOPs", lambda facts: Value(units.millions(2 * facts.complexity.macs)), "M"),
        Column["VariantFacts"](
            "params", lambda facts: Value(units.millions(facts.complexity.parameters)), "M"
        ),
        Column["VariantFacts"](
            "activations", lambda facts: Value(units.millions(facts.complexity.activations)), "M"
        ),
        Column["VariantFacts"](
            "weights", lambda facts: Value(units.megabytes(facts.complexity.weight_bytes)), "MB"
        ),
        *(Column["VariantFacts"](kind, partial(_other_operations, kind=kind), "M") for kind in kinds),
        Column["VariantFacts"]("MACs counted by", _counters, align="left"),
    ]
    return build(columns, rows) if rows else None


def _other_operations(facts: VariantFacts, kind: str) -> Value:
    return Value(units.millions(facts.complexity.other_operations.get(kind, 0)))


def _counters(facts: VariantFacts) -> Value:
    names = ", ".join(facts.complexity.counters) or "one counter"
    disagreement = facts.complexity.disagreement
    return Value(f"{names}: differ", disagreement) if disagreement else Value(f"{names}: agree")


def features(summary: Summary) -> Table | None:
    """What the built networks are made of; None when nothing is known of any."""
    found = {facts.variant: facts for facts in reversed(summary.run.variants)}
    variants = [variant for variant in summary.variants if variant in found]
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


def _beside(published_figure: float | None, counted: int) -> Value:
    here = units.millions(counted)
    if published_figure is None:
        return Value(f"– ({here})", "this source does not give it")
    return Value(f"{units.millions(published_figure)} ({here})")


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
    Column("MACs (counted)", lambda row: _beside(row.figure.macs, row.facts.complexity.macs), "M"),
    Column(
        "params (counted)", lambda row: _beside(row.figure.parameters, row.facts.complexity.parameters), "M"
    ),
    Column("published", _published_ms, "ms"),
    Column("fastest here", _fastest_here, "ms"),
)

NETWORK = Column["VariantFacts"]("network", lambda facts: Value(facts.variant), align="left")
