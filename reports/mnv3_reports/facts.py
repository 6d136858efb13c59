"""What artifacts and sessions said of themselves: the settings really used, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnv3_reports import units
from mnv3_reports.layout import escape

if TYPE_CHECKING:
    from mnv3_reports.record import Scalar
    from mnv3_reports.summary import Summary


def fact_lines(summary: Summary) -> list[str]:
    """One markdown bullet a backend. A fact that is the same for all its cells is said once, others by network."""
    by_backend: dict[str, dict[str, dict[str, list[str]]]] = {}
    for record in summary.run.cells.values():
        facts = by_backend.setdefault(record.cell.backend, {})
        for part in (record.prepared, record.inspected):
            for name, value in part.facts.items() if part is not None else ():
                networks = facts.setdefault(name, {}).setdefault(printed(value), [])
                if record.cell.variant not in networks:
                    networks.append(record.cell.variant)
    return [
        f"- `{backend}`: {'; '.join(f'{name} {_values(values)}' for name, values in facts.items())}."
        for backend, facts in by_backend.items()
        if facts
    ]


def printed(value: Scalar) -> str:
    """A fact's value for people."""
    if value is None or value == "":
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return units.significant(value) if isinstance(value, float) else escape(value)


def _values(values: dict[str, list[str]]) -> str:
    if len(values) == 1:
        return next(iter(values))
    return ", ".join(f"{value} ({', '.join(networks)})" for value, networks in values.items())
