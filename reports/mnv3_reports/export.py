"""A run in forms that other tools read: CSV and JSON. pytest-benchmark's form is in `pytest_benchmark`."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import msgspec

from mnv3_reports import flat
from mnv3_reports.escaping import spreadsheet
from mnv3_reports.summary import Summary

if TYPE_CHECKING:
    from mnv3_reports.record import Run


def to_csv(run: Run) -> str:
    """One line a cell under the columns of `mnv3_reports.flat`; what is not known is an empty field.

    Texts are made one line each, which no spreadsheet takes for a formula.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, [field.name for field in flat.FIELDS], lineterminator="\n")
    writer.writeheader()
    for row in flat.rows(Summary(run)):
        writer.writerow({name: spreadsheet(v) if isinstance(v, str) else v for name, v in row.items()})
    return out.getvalue()


def to_json(run: Run) -> str:
    """The cells as objects, the printed ratios with their intervals, and what latency and accuracy were measured on."""
    summary = Summary(run)
    document = {
        "schema": run.header.schema,
        "run_id": run.header.run_id,
        "started_at": run.header.started_at,
        "command": run.header.command,
        "complete": run.finished is not None and run.finished.status != "partial",
        "request": run.header.request,
        "machine": run.header.machine,
        "software": run.header.software,
        "evaluation": run.evaluation,
        "trained": run.trained,
        "sensitivities": run.sensitivities,
        "cells": flat.rows(summary),
        "ratios": [
            {
                "numerator": ratio.printed.numerator,
                "denominator": ratio.printed.denominator,
                "kind": ratio.printed.kind,
                "ratio": ratio.interval.estimate,
                "low": ratio.interval.low if ratio.interval.bounded else None,
                "high": ratio.interval.high if ratio.interval.bounded else None,
                "epochs": ratio.interval.n,
            }
            for ratio in summary.ratios.values()
        ],
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
