"""What artifacts and sessions said of themselves: the settings really used, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnv3_reports import units
from mnv3_reports.cell_words import backend_name
from mnv3_reports.escaping import code
from mnv3_reports.layout import escape

if TYPE_CHECKING:
    from mnv3_reports.record import Cell, CellRecord, Scalar
    from mnv3_reports.summary import Summary

Facts = dict[str, dict[str, list["Cell"]]]
"""A fact's name to its values in words, each with the cells that say so."""


def fact_lines(summary: Summary) -> list[str]:
    """One markdown bullet a backend.

    A fact that is the same for all its cells is said once, others with the networks or settings that they hold for;
    of a backend with settings only what differs from the defaults is said.
    """
    by_backend: dict[str, Facts] = {}
    for record in summary.run.cells.values():
        facts = by_backend.setdefault(record.cell.backend, {})
        for name, text in _said(record).items():
            facts.setdefault(name, {}).setdefault(text, []).append(record.cell)
    lines = []
    for backend, facts in by_backend.items():
        base = backend_name(backend).base
        told = _without_defaults(facts, by_backend[base]) if base != backend and base in by_backend else facts
        if not facts:
            continue
        like = f"as {code(base)}" if told is not facts else ""
        texts = "; ".join(f"{escape(name)} {_values(summary, values)}" for name, values in told.items())
        lines.append(f"- {code(backend)}: {', but '.join(filter(None, (like, texts)))}.")
    return lines


def _said(record: CellRecord) -> dict[str, str]:
    """What a cell's artifact and session say; a later one that says something else is said too."""
    found: dict[str, str] = {}
    for part in (record.prepared, record.inspected):
        for name, value in part.facts.items() if part is not None else ():
            if name == "threads" and value == record.cell.threads:
                found[name] = "as asked"
            elif found.setdefault(name, printed(value)) != printed(value):
                found[name] += f", then {printed(value)}"
    return found


def _without_defaults(facts: Facts, defaults: Facts) -> Facts:
    """Facts that some cell states otherwise than the default's cell of the same network and setting."""
    usual = {
        (name, cell.variant, cell.setting): text
        for name, values in defaults.items()
        for text, cells in values.items()
        for cell in cells
    }
    return {
        name: values
        for name, values in facts.items()
        if any(
            usual.get((name, cell.variant, cell.setting)) != text
            for text, cells in values.items()
            for cell in cells
        )
    }


def printed(value: Scalar) -> str:
    """A fact's value for people."""
    if value is None or value == "":
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return units.significant(value) if isinstance(value, float) else escape(value)


def _values(summary: Summary, values: dict[str, list[Cell]]) -> str:
    if len(values) == 1:
        return next(iter(values))
    among = [cell for cells in values.values() for cell in cells]
    by_network = _told_apart([{cell.variant for cell in cells} for cells in values.values()])
    by_setting = _told_apart([{cell.setting for cell in cells} for cells in values.values()])
    if by_setting and not by_network:
        settings = [dict.fromkeys(map(summary.names.setting, cells)) for cells in values.values()]
        return ", ".join(f"{text} ({'; '.join(which)})" for text, which in zip(values, settings, strict=True))
    return ", ".join(f"{text} ({escape(summary.names.many(cells, among))})" for text, cells in values.items())


def _told_apart(sets: list[set[str]]) -> bool:
    """Whether no two sets share anything."""
    return sum(map(len, sets)) == len(set().union(*sets))
