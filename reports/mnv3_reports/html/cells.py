"""What the page knows of every cell: the table of all of them, and the details that open on a click."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mnv3_reports import accuracy_tables, tables, units
from mnv3_reports.escaping import plain
from mnv3_reports.layout import Column, Value, to_html

if TYPE_CHECKING:
    from mnv3_reports.record import Block, CellRecord
    from mnv3_reports.summary import Summary
    from mnv3_reports.tables import CellRow

QUANTILES = (0.1, 0.5, 0.9)
"""Of the calls of one block."""


def rows_of(summary: Summary) -> list[CellRow]:
    """Every cell of the run in the report's order."""
    return [row for variant in summary.variants for row in tables.cell_rows(summary, variant)]


def table(summary: Summary) -> str:
    """All cells in one table, to be sorted and filtered."""
    rows = rows_of(summary)
    precision = Column[tables.CellRow](
        "precision", lambda row: Value(summary.precision(row.record)), align="left"
    )
    accuracy = accuracy_tables.BESIDE_SPEED if summary.run.evaluation is not None else ()
    columns = [precision, *tables.speed(rows), *accuracy, *tables.deployment(summary)]
    about = [
        {
            "data-cell": str(number),
            "data-network": plain(row.record.cell.variant),
            "data-backend": plain(row.record.cell.backend),
            "data-precision": plain(summary.precision(row.record)),
        }
        for number, row in enumerate(rows)
    ]
    return to_html(
        tables.cells_table(rows, columns, name_variant=True), classes="cells sortable", about=about
    )


def choices(summary: Summary) -> dict[str, list[str]]:
    """What the table can be restricted to."""
    rows = rows_of(summary)
    return {
        "network": _once(row.record.cell.variant for row in rows),
        "backend": _once(row.record.cell.backend for row in rows),
        "precision": _once(summary.precision(row.record) for row in rows),
    }


def _once(texts: Any) -> list[str]:
    return list(dict.fromkeys(map(plain, texts)))


def details(summary: Summary) -> list[dict[str, Any]]:
    """What opens on a click, as data: the page's script makes text of it and never markup."""
    blocks: dict[str, list[Block]] = {}
    for block in summary.run.blocks:
        blocks.setdefault(block.cell, []).append(block)
    return [_detail(summary, row.record, blocks.get(row.record.cell.key, [])) for row in rows_of(summary)]


def _detail(summary: Summary, record: CellRecord, blocks: list[Block]) -> dict[str, Any]:
    cell, inspected, failure = record.cell, record.inspected, record.failure
    statistics = summary.statistics.get(cell.key)
    facts = {
        **(record.prepared.facts if record.prepared is not None else {}),
        **(inspected.facts if inspected is not None else {}),
    }
    return {
        "key": plain(cell.key),
        "title": f"{plain(cell.variant)} on {plain(cell.backend)}",
        "setting": plain(summary.names.describe(cell)),
        "median": f"{units.enclosed(statistics.latency, 1e3)} ms" if statistics is not None else None,
        "epochs": statistics.epochs if statistics is not None else 0,
        "calls": statistics.calls if statistics is not None else 0,
        "disturbed": f"{statistics.disturbed_blocks} of {statistics.blocks}"
        if statistics is not None
        else "",
        "why": None if statistics is not None else plain(summary.why_not_timed(cell.key)),
        "blocks": [_turn(number, block) for number, block in enumerate(blocks) if block.samples_ns],
        "by": plain(record.explained.by) if record.explained is not None else "",
        "operators": [
            [plain(each.name), each.count, each.seconds, plain(each.precision or "")]
            for each in (record.explained.operators if record.explained is not None else ())
        ],
        "layers": _layers(record),
        "reasons": [
            plain(text) for text in (record.explained.reasons if record.explained is not None else ())
        ],
        "facts": {plain(name): plain(str(value)) for name, value in facts.items() if value is not None},
        "failure": {
            "phase": plain(failure.phase),
            "reason": plain(failure.reason),
            "install": plain(failure.install or ""),
            "tail": "\n".join(map(plain, failure.tail.splitlines())),
        }
        if failure is not None
        else None,
    }


def _layers(record: CellRecord) -> list[list[Any]]:
    """Profiled operators in their order, as [operation, module, kind, microseconds, share, fused modules]."""
    profile = record.profiled
    if profile is None or not profile.plain_seconds:
        return []
    return [
        [
            plain(each.operation),
            plain(each.module),
            each.kind,
            float(f"{each.seconds * 1e6:.4g}"),
            float(f"{each.seconds / profile.plain_seconds:.4g}"),
            ", ".join(map(plain, each.contains)),
        ]
        for each in profile.operators
    ]


def _turn(number: int, block: Block) -> list[Any]:
    """A block as [turn, epoch, 10 %, median, 90 %, calls, disturbances], times in ms."""
    low, middle, high = (float(f"{value:.4g}") for value in np.quantile(block.samples_ns, QUANTILES) / 1e6)
    return [number, block.epoch, low, middle, high, len(block.samples_ns), ", ".join(block.disturbed)]


def encoded(data: Any) -> str:
    """Data as JSON that can stand in a script element: nothing in it ends the element."""
    text = msgspec.json.encode(data).decode()
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
