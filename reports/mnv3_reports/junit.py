"""A run as JUnit XML: every cell is a test case, so that a CI server lists what failed and plots the medians."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from mnv3_reports.escaping import plain
from mnv3_reports.summary import Summary
from mnv3_reports.verdict_formats import utc

if TYPE_CHECKING:
    from mnv3_reports.record import CellRecord, Run

SUITE = "mnv3-bench"


def to_junit(run: Run) -> str:
    """JUnit XML in the form that Jenkins' xUnit plugin publishes as junit-10.xsd.

    A cell that failed is an error, one that was not timed and a backend that was skipped are skipped cases. The time of
    a case is the cell's median call in seconds. An evaluation's cells count as done when they have an accuracy.
    """
    summary = Summary(run)
    suite = ET.Element("testsuite", name=SUITE)
    for record in run.cells.values():
        _add(suite, summary, record)
    for skipped in run.skipped:
        case = ET.SubElement(suite, "testcase", classname=SUITE, name=plain(skipped.backend), time="0")
        mend = f"; to mend it: {skipped.install}" if skipped.install else ""
        ET.SubElement(case, "skipped", message=plain(skipped.reason + mend))
    started = utc(run.header.started_at)
    suite.attrib |= {
        "tests": str(len(suite)),
        "failures": "0",
        "errors": str(len(suite.findall("testcase/error"))),
        "skipped": str(len(suite.findall("testcase/skipped"))),
        "time": f"{sum(run.finished.phase_seconds.values()) if run.finished is not None else 0.0:.3f}",
        **({"timestamp": started} if started else {}),
    }
    ET.indent(suite)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(suite, encoding="unicode")}\n'


def _add(suite: ET.Element, summary: Summary, record: CellRecord) -> None:
    statistics = summary.statistics.get(record.cell.key)
    seconds = statistics.latency.estimate if statistics is not None else 0.0
    case = ET.SubElement(
        suite,
        "testcase",
        classname=f"{SUITE}.{plain(record.cell.variant)}",
        name=plain(record.cell.key),
        time=f"{seconds:.9f}",
    )
    failure = record.failure
    if failure is not None:
        error = ET.SubElement(case, "error", type=plain(failure.phase), message=plain(failure.reason))
        error.text = "\n".join(map(plain, failure.tail.splitlines()))
    elif statistics is None and record.accuracy is None:
        ET.SubElement(case, "skipped", message=plain(summary.why_not_timed(record.cell.key)))
