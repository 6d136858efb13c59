"""Made rows of a history, without runs: quick to write, and with whatever a stranger may have written."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from mnv3_reports.history.adding import add_rows
from mnv3_reports.history.metrics import metric
from mnv3_reports.history.places import open_place
from mnv3_reports.history.query import Question, opened
from mnv3_reports.history.rows import OWN, finished, microseconds, to_parquet, to_table
from mnv3_reports.history.trends import trends

if TYPE_CHECKING:
    from pathlib import Path

    from mnv3_reports.history.places import Place
    from mnv3_reports.history.rows import Row
    from mnv3_reports.history.trends import Trend

START = datetime(2026, 1, 1, 2, tzinfo=UTC)
SETTING = "threads=1&batch=1&resolution=224&device=cpu"
CELL = f"v3-small/onnxruntime?{SETTING}"


def night(number: int, seconds: float | None = 2e-3, cell: str = CELL, **changed: Any) -> Row:
    """One cell of one night's run."""
    started = START + timedelta(days=number)
    variant, _, rest = cell.partition("/")
    return {
        "source": OWN,
        "run_id": f"night-{number:04}",
        "started_at": microseconds(started.isoformat()),
        "ended_at": microseconds((started + timedelta(minutes=4)).isoformat()),
        "cpu": "Made CPU",
        "machine_fingerprint": "m1",
        "environment_fingerprint": "e1",
        "packages": json.dumps({"onnxruntime": "1.20.0"}),
        "commit": f"c{number:04}",
        "cell": cell,
        "variant": variant,
        "backend": rest.partition("?")[0],
        "status": "measured" if seconds is not None else "failed",
        "latency_median_seconds": seconds,
        "latency_median_low_seconds": seconds and seconds * 0.99,
        "latency_median_high_seconds": seconds and seconds * 1.01,
        **changed,
    }


def write(place: Place, *rows: Row, added_at: datetime = START) -> str:
    """Rows of one run as a file; its name."""
    return add_rows(finished(rows, added_at), place, "made").name


def write_together(place: Place, nights: list[list[Row]]) -> None:
    """Many runs as one file, as if they had been put together."""
    rows = [row for night_ in nights for row in finished(night_, START)]
    place.write("month=2026-01/all-made.parquet", to_parquet(to_table(rows)))


def found(
    *places: Place, cells: str = "*", of: str = "latency", hosts: str = "*", **span: datetime
) -> list[Trend]:
    """What histories answer."""
    with opened(places, Question(metric(of), cells, hosts=hosts, **span)) as history:
        return trends(history)


def counted(*places: Place) -> dict[str, int]:
    """Cell to the runs that a question finds."""
    runs: dict[str, int] = {}
    for trend in found(*places):
        runs[trend.series.cell] = runs.get(trend.series.cell, 0) + trend.series.runs
    return runs


def local(path: Path) -> Place:
    return open_place(str(path))
