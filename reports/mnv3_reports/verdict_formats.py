"""A gate's verdict in forms that machines and terminals read: JUnit XML, GitHub annotations, JSON, plain lines."""

from __future__ import annotations

import math
import sys
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from xml.etree import ElementTree as ET

import msgspec

from mnv3_reports import units
from mnv3_reports.escaping import plain
from mnv3_reports.verdict import VERDICT_SCHEMA, GateReport, Verdict
from mnv3_reports.verdict_words import (
    OUTCOME,
    Names,
    advice,
    allowed,
    change,
    check_words,
    failing_checks,
    injection_notice,
    machine_line,
    regression,
    timing_verdict,
    worst_first,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mnv3_reports.verdict import CellVerdict, Check

SUITE = "mnv3-bench gate"
ANNOTATIONS = 10
"""Annotations of each level that GitHub shows of one step; it drops later ones without a word."""

JUNIT_ELEMENT = {Verdict.FAIL: "failure", Verdict.INVALID: "error", Verdict.INCONCLUSIVE: "skipped"}


# Plain lines


def to_lines(report: GateReport) -> list[str]:
    """The verdict for a terminal without markup: the verdict first, then one line a cell, worst first.

    Lines hold no line breaks and no control characters, whatever the names do.
    """
    notice = injection_notice(report)
    lines = [f"{report.verdict.upper()}: {plain(report.summary)}"]
    lines += [notice] if notice is not None else []
    lines += [_cell_line(cell) for cell in worst_first(report.cells)]
    lines += [f"note: {plain(note)}" for note in report.notes]
    typed = advice(report)
    return [*lines, str(typed)] if typed is not None else lines


def _cell_line(cell: CellVerdict) -> str:
    against = f" against {plain(cell.base_cell)}" if cell.base_cell != cell.cell else ""
    figures = "; ".join([_timing(cell), *map(_check_line, _shown_checks(cell))])
    reason = "" if cell.verdict is Verdict.PASS else f"; {plain(cell.reason)}"
    return f"{plain(cell.cell)}{against}: {cell.verdict.upper()} {figures}{reason}"


def _timing(cell: CellVerdict) -> str:
    if cell.ratio is None:
        return "not timed"
    parts = [f"{change(cell.ratio, cell.margin)} (allowed {allowed(cell.margin)})"]
    sides = [
        side for side in (cell.base_seconds, cell.head_seconds) if side is not None and math.isfinite(side)
    ]
    if len(sides) == 2:
        parts.append(f"{' -> '.join(map(units.milliseconds, sides))} ms")
    return ", ".join([*parts, units.counted(cell.epochs, "epoch")])


def _shown_checks(cell: CellVerdict) -> list[Check]:
    failing = failing_checks(cell)
    return failing + [check for check in cell.checks if check.changed and check.verdict is Verdict.PASS]


def _check_line(check: Check) -> str:
    rule = f"rule {plain(check.rule)}"
    return f"{plain(check.name)} {check_words(check)} ({rule}: {check.verdict.value})"


# JUnit


def to_junit(report: GateReport) -> str:
    """JUnit XML: for each cell one test case of its time and one of its deterministic figures.

    FAIL is a failure, INVALID an error, INCONCLUSIVE a skipped case. Names are whole cell keys, so that CI servers
    follow a case from build to build; the time of a timing case is the head's median call in seconds, which
    they plot. A verdict that no case bears has a case of its own. The form is the one that Jenkins' xUnit plugin
    publishes as junit-10.xsd, with a suite's attributes as Ant writes them.
    """
    suite = ET.Element("testsuite", name=SUITE)
    properties = ET.SubElement(suite, "properties")
    for name, value in _properties(report):
        ET.SubElement(properties, "property", name=name, value=value)
    for case in _cases(report):
        _add_case(suite, case)
    ET.SubElement(suite, "system-out").text = "\n".join(to_lines(report))
    counts = {
        "tests": str(len(suite.findall("testcase"))),
        **{
            plural: str(len(suite.findall(f"testcase/{element}")))
            for plural, element in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped"))
        },
        "time": f"{report.seconds:.3f}",
    }
    started = utc(report.started_at)
    suite.attrib |= {**counts, **({"timestamp": started} if started else {})}
    root = ET.Element("testsuites", {"name": SUITE, **counts})
    root.append(suite)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


class _Case(NamedTuple):
    kind: Literal["timing", "deterministic", "gate"]
    name: str
    verdict: Verdict | None
    """None where there was nothing to judge, which is a skipped case."""
    message: str
    details: str
    seconds: float = 0.0


def _cases(report: GateReport) -> list[_Case]:
    cases = [case for cell in report.cells for case in (_timing_case(cell), _deterministic_case(cell))]
    if all(case.verdict is not report.verdict for case in cases):
        cases.insert(0, _Case("gate", "verdict", report.verdict, report.summary, report.summary))
    return cases


def _timing_case(cell: CellVerdict) -> _Case:
    verdict = timing_verdict(cell)
    if verdict is None:
        return _Case("timing", cell.cell, None, f"nothing was timed: {cell.reason}", "not timed")
    details = [_timing(cell)]
    if cell.null is not None:
        details.append(f"null control {change(cell.null)}")
    if cell.noise is not None and math.isfinite(cell.noise):
        details.append(f"noise s_d {units.percent(cell.noise)}")
    # Where the figures explain the cell's verdict its reason may be about them.
    message = cell.reason if verdict is cell.verdict else _timing(cell)
    seconds = cell.head_seconds if cell.head_seconds is not None and math.isfinite(cell.head_seconds) else 0.0
    return _Case("timing", cell.cell, verdict, message, "\n".join(details), seconds)


def _deterministic_case(cell: CellVerdict) -> _Case:
    if not cell.checks:
        return _Case(
            "deterministic", cell.cell, None, "no deterministic figure was compared", "nothing compared"
        )
    failing = failing_checks(cell)
    verdict = failing[0].verdict if failing else Verdict.PASS
    message = "; ".join(map(_check_line, failing))
    return _Case("deterministic", cell.cell, verdict, message, "\n".join(map(_check_line, cell.checks)))


def _add_case(suite: ET.Element, case: _Case) -> None:
    element = ET.SubElement(
        suite,
        "testcase",
        classname=f"{SUITE.replace(' ', '.')}.{case.kind}",
        name=plain(case.name) or "(empty)",
        time=f"{case.seconds:.9f}",
    )
    details = "\n".join(map(plain, case.details.splitlines()))
    outcome = "skipped" if case.verdict is None else JUNIT_ELEMENT.get(case.verdict)
    if outcome is not None:
        found = ET.SubElement(element, outcome, message=plain(case.message))
        if outcome != "skipped":
            found.set("type", str(case.verdict))
            found.text = details
    ET.SubElement(element, "system-out").text = details


def _properties(report: GateReport) -> Iterator[tuple[str, str]]:
    yield "verdict", report.verdict.value
    yield "machine", machine_line(report.machine)
    yield "alpha", f"{report.alpha:g}"
    yield "power", f"{report.power:g}"
    yield "epochs", str(max((cell.epochs for cell in report.cells), default=0))
    yield "looks", ", ".join(map(str, report.looks)) or "none"
    yield "stopped_because", plain(report.stopped_because)
    yield "base", plain(report.base.label)
    yield "head", plain(report.head.label)
    yield "command", plain(report.command)
    yield "seed", str(report.seed)
    if report.injected:
        yield "injected_slowdown", f"{report.injected:g}"


def utc(started_at: str) -> str | None:
    """Ant's form of a time, which has no zone; None for a text that is no time."""
    try:
        started = datetime.fromisoformat(started_at)
    except ValueError:
        return None
    return started.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")


# GitHub annotations


class _Annotation(NamedTuple):
    level: Literal["error", "warning", "notice"]
    title: str
    message: str

    def __str__(self) -> str:
        message = "\n".join(map(plain, self.message.splitlines()))
        return f"::{self.level} title={escape_property(plain(self.title))}::{escape_data(message)}"


def to_annotations(report: GateReport) -> str:
    """Workflow commands that GitHub turns into annotations: regressed and invalid cells are errors, others warnings.

    At most ten a level, which is what GitHub shows of a step; one line counts the rest. The escaping is that of
    actions/toolkit (packages/core/src/command.ts).
    """
    names = Names(report)
    wanted = list(_annotations(report, names))
    shown: list[_Annotation] = []
    left: Counter[str] = Counter()
    for annotation in wanted:
        if sum(other.level == annotation.level for other in shown) < ANNOTATIONS:
            shown.append(annotation)
        else:
            left[annotation.level] += 1
    if left:
        rest = " and ".join(units.counted(number, f"more {level}") for level, number in left.items())
        shown.append(
            _Annotation("notice", SUITE, f"{rest}: GitHub shows ten of each; the report has them all")
        )
    return "".join(f"{annotation}\n" for annotation in shown)


def _annotations(report: GateReport, names: Names) -> Iterator[_Annotation]:
    notice = injection_notice(report)
    if notice is not None:
        yield _Annotation("warning", f"{SUITE}: a test of the gate", notice)
    if report.verdict is Verdict.PASS:
        yield _Annotation("notice", f"{SUITE} passed", report.summary)
    elif all(cell.verdict is not report.verdict for cell in report.cells):
        # No cell says it, so the gate does.
        level: Literal["error", "warning"] = "warning" if report.verdict is Verdict.INCONCLUSIVE else "error"
        yield _Annotation(level, f"{SUITE} {OUTCOME[report.verdict]}", report.summary)
    titles = {Verdict.FAIL: "Failed", Verdict.INVALID: "Invalid", Verdict.INCONCLUSIVE: "No verdict"}
    for cell in worst_first(report.cells):
        if cell.verdict is Verdict.PASS:
            continue
        level = "warning" if cell.verdict is Verdict.INCONCLUSIVE else "error"
        figures = "; ".join([_timing(cell), *map(_check_line, failing_checks(cell))])
        title = "Regressed" if regression(cell) else titles[cell.verdict]
        yield _Annotation(level, f"{title}: {names.short(cell.cell)}", f"{figures}; {cell.reason}")
    typed = advice(report)
    if typed is not None:
        yield _Annotation("notice", f"{SUITE}: to decide it", str(typed))


def escape_data(text: str) -> str:
    """The message of a workflow command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def escape_property(text: str) -> str:
    """A property of a workflow command, such as its title."""
    return escape_data(text).replace(":", "%3A").replace(",", "%2C")


# JSON

_LARGEST = sys.float_info.max


def to_json(report: GateReport) -> bytes:
    """The whole report as docs/gate-schema.json describes it, indented, with a newline at its end.

    JSON has no infinity: an unbounded end of an interval is written as the largest float (1.797...e+308), which
    `from_json` turns back. Characters that UTF-8 cannot hold are replaced.

    Raises:
        ValueError: a figure is not a number; the line says which.
    """
    document = _walk(msgspec.to_builtins(report), _writable, "report")
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


def from_json(data: bytes) -> GateReport:
    """Read what `to_json` wrote.

    Raises:
        ValueError: it is of another schema version, damaged, or no gate report; one line that says which.
    """
    try:
        schema = msgspec.json.decode(data, type=_Opening).schema
        if schema != VERDICT_SCHEMA:
            remedy = (
                "update mnv3-bench to read it"
                if schema > VERDICT_SCHEMA
                else "read it with the version that wrote it"
            )
            raise ValueError(
                f"this gate report has schema {schema}, this mnv3-bench reads schema {VERDICT_SCHEMA}; {remedy}"
            )
        return msgspec.convert(_walk(msgspec.json.decode(data), _read_back, "report"), GateReport)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(
            f"this is not the JSON of a gate report, or it is damaged: {plain(str(error))}; "
            "give the JSON file that a gate wrote"
        ) from error


class _Opening(msgspec.Struct):
    """What every version has."""

    schema: int


def _walk(value: Any, leaf: Callable[[Any, str], Any], path: str) -> Any:
    if isinstance(value, dict):
        return {leaf(key, path): _walk(item, leaf, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_walk(item, leaf, f"{path}[{number}]") for number, item in enumerate(value)]
    return leaf(value, path)


def _writable(value: Any, path: str) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if not isinstance(value, float) or math.isfinite(value):
        return value
    if math.isnan(value):
        raise ValueError(f"{plain(path)} is not a number; a figure that is missing is None, with a reason")
    return math.copysign(_LARGEST, value)


def _read_back(value: Any, _path: str) -> Any:
    if isinstance(value, float) and abs(value) == _LARGEST:
        return math.copysign(math.inf, value)
    return value
