"""The gate's verdict for machines: each form is read back, by its own rules, from every kind of report."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema
import msgspec
import pytest
from reports import verdicts

from mnv3_reports import schema
from mnv3_reports.escaping import plain
from mnv3_reports.statistics import Interval
from mnv3_reports.verdict import GateReport, Verdict
from mnv3_reports.verdict_formats import (
    escape_data,
    escape_property,
    from_json,
    to_annotations,
    to_json,
    to_junit,
    to_lines,
)


@pytest.fixture(params=verdicts.REPORTS, scope="module")
def report(request: pytest.FixtureRequest) -> GateReport:
    made: GateReport = verdicts.REPORTS[request.param]()
    return made


def suite_of(report: GateReport) -> ET.Element:
    root = ET.fromstring(to_junit(report).encode())
    (suite,) = root
    return suite


def cases_of(report: GateReport, kind: str) -> dict[str, ET.Element]:
    cases = suite_of(report).findall("testcase")
    return {
        case.get("name", ""): case for case in cases if case.get("classname") == f"mnv3-bench.gate.{kind}"
    }


# JUnit


def test_junit_has_the_elements_and_counts_of_its_schema(report: GateReport) -> None:
    root = ET.fromstring(to_junit(report).encode())
    assert [child.tag for child in root] == ["testsuite"]
    suite = root[0]
    assert suite.get("name") == "mnv3-bench gate"
    tags = [child.tag for child in suite]
    assert tags[0] == "properties"
    assert tags[-1] == "system-out"
    assert set(tags[1:-1]) == {"testcase"}
    for case in suite.findall("testcase"):
        assert case.get("name")
        assert case.get("classname")
        assert float(case.get("time", "")) >= 0
        assert [child.tag for child in case] in (
            ["system-out"],
            *([outcome, "system-out"] for outcome in ("failure", "error", "skipped")),
        )
    for element in (root, suite):
        for plural, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert element.get(plural) == str(len(suite.findall(f"testcase/{tag}")))
        assert element.get("tests") == str(len(suite.findall("testcase")))
    names = {p.get("name"): p.get("value") for p in suite.iter("property")}
    assert names.keys() >= {"machine", "alpha", "epochs", "verdict"}


def test_junit_fails_exactly_when_the_gate_does(report: GateReport) -> None:
    outcomes = {child.tag for case in suite_of(report).findall("testcase") for child in case}
    expected = {"fail": "failure", "invalid": "error", "inconclusive": "skipped"}
    if report.verdict is Verdict.PASS:
        assert outcomes == {"system-out"}
    else:
        assert expected[report.verdict] in outcomes


def test_a_junit_case_for_the_time_and_one_for_the_figures_of_each_cell() -> None:
    timing, deterministic = (cases_of(verdicts.failing(), kind) for kind in ("timing", "deterministic"))
    keys = [cell.cell for cell in verdicts.failing().cells]
    assert list(timing) == list(deterministic) == keys
    tags = [[child.tag for child in timing[key]] for key in keys]
    assert tags == [["system-out"], *([tag, "system-out"] for tag in ("failure", "skipped", "failure"))]
    failure = timing[keys[1]].find("failure")
    assert failure is not None
    assert failure.attrib == {"message": "the lower bound lies above the margin", "type": "fail"}
    assert "+5.1 % [+4.2, +6.0] (allowed 3 %), 6.50 -> 6.83 ms" in (failure.text or "")
    assert "null control +0.1 %" in (failure.text or "")
    assert float(timing[keys[1]].get("time", "")) == pytest.approx(6.5e-3 * 1.051)
    assert suite_of(verdicts.failing()).get("timestamp") == "2026-01-01T00:00:00", "in UTC, without a zone"


def test_junit_tells_figures_from_time() -> None:
    (timing,) = cases_of(verdicts.heavier(), "timing").values()
    (deterministic,) = cases_of(verdicts.heavier(), "deterministic").values()
    assert timing[0].tag == "skipped"
    assert (timing[0].get("message") or "").startswith("nothing was timed")
    assert deterministic[0].tag == "failure"
    assert "macs 56,510,400 -> 60,000,000 (+6.2 %) (rule 0: fail)" in (deterministic[0].get("message") or "")
    quick = verdicts.cell(verdict=Verdict.FAIL, checks=(verdicts.check(verdicts.MACS, 6e7, Verdict.FAIL),))
    report = verdicts.report([quick], Verdict.FAIL, "macs")
    assert [child.tag for child in cases_of(report, "timing")[quick.cell]] == ["system-out"]
    assert cases_of(report, "deterministic")[quick.cell][0].tag == "failure"


def test_a_verdict_that_no_cell_bears_has_a_junit_case() -> None:
    (case,) = suite_of(verdicts.nothing()).findall("testcase")
    assert case[0].tag == "error"
    assert case[0].get("message") == "the base could not be built"
    assert suite_of(verdicts.nothing()).get("timestamp") is None, "'soon' is no time"


def test_junit_holds_hostile_text_as_text() -> None:
    suite = suite_of(verdicts.hostile())
    names = [case.get("name") for case in suite.findall("testcase")]
    assert plain(verdicts.HOSTILE) in names
    assert "<img src=x onerror=y>" in (names[0] or "")


# Annotations

COMMAND = re.compile(r"::(error|warning|notice) title=([^:,\r\n]*)::([^\r\n]*)")


def commands(report: GateReport) -> list[tuple[str, str, str]]:
    found = []
    for line in to_annotations(report).split("\n")[:-1]:
        match = COMMAND.fullmatch(line)
        assert match, line
        level, title, message = match.groups()
        found.append((level, unescape(title), unescape(message)))
    return found


def unescape(text: str) -> str:
    """As GitHub's runner does it (ActionCommand.cs)."""
    for escaped, character in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
        text = text.replace(escaped, character)
    return text


def test_annotations_are_commands_within_githubs_limits(report: GateReport) -> None:
    found = commands(report)
    levels = [level for level, _, _ in found]
    assert max(levels.count("error"), levels.count("warning"), levels.count("notice")) <= 10
    assert ("error" in levels) is any(
        verdict in (Verdict.FAIL, Verdict.INVALID)
        for verdict in (report.verdict, *(cell.verdict for cell in report.cells))
    )
    assert found, "every gate says something"


def test_annotations_name_cell_change_and_reason() -> None:
    assert commands(verdicts.failing()) == [
        (
            "error",
            f"Regressed: {name}",
            f"{change} (allowed 3 %), 6.50 -> {head} ms, 14 epochs; the lower bound lies above the margin",
        )
        for name, change, head in (
            ("v1/eager", "+8.3 % [+7.4, +9.2]", "7.04"),
            ("v3-large/eager", "+5.1 % [+4.2, +6.0]", "6.83"),
        )
    ] + [
        (
            "warning",
            "No verdict: v2/eager",
            "+2.6 % [+1.4, +3.8] (allowed 3 %), 6.50 -> 6.67 ms, 14 epochs; the margin of 3 % lies within the interval",
        )
    ]
    assert commands(verdicts.passing()) == [
        ("notice", "mnv3-bench gate passed", "no cell is slower than allowed")
    ]
    assert commands(verdicts.nothing()) == [
        ("error", "mnv3-bench gate invalid", "the base could not be built")
    ]
    assert "--time-budget 14m" in commands(verdicts.inconclusive())[-1][2]
    assert [title for _, title, _ in commands(verdicts.broken())] == [
        "Failed: v3-small/onnxruntime",
        "Failed: v1/eager",
    ]
    assert commands(verdicts.heavier())[0][1] == "Regressed: v3-small/onnxruntime"
    assert commands(verdicts.injected())[0][:2] == ("warning", "mnv3-bench gate: a test of the gate")


def test_annotations_beyond_the_limit_are_counted_in_one_line() -> None:
    found = commands(verdicts.many(13, 11))
    levels = [level for level, _, _ in found]
    assert (levels.count("error"), levels.count("warning"), levels.count("notice")) == (10, 10, 1)
    assert found[-1][2].startswith("3 more errors and 1 more warning: ")


def test_annotation_escaping_is_githubs() -> None:
    assert escape_data("5 %\r\na:b,c") == "5 %25%0D%0Aa:b,c"
    assert escape_property("5 %\r\na:b,c") == "5 %25%0D%0Aa%3Ab%2Cc"
    assert unescape(escape_property("%3A:,\r\n%25")) == "%3A:,\r\n%25"
    report = verdicts.report(
        [verdicts.cell(verdict=Verdict.FAIL, reason="one\r\ntwo ::error::")], Verdict.FAIL, "x"
    )
    (line,) = to_annotations(report).splitlines()
    assert line.endswith("one%0Atwo ::error::")


# JSON


def same(value: Any) -> Any:
    """Plain data with what UTF-8 cannot hold replaced, and infinities comparable."""
    if isinstance(value, dict):
        return {same(key): same(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [same(item) for item in value]
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def test_json_is_read_back_whole(report: GateReport) -> None:
    data = to_json(report)
    assert data.endswith(b"}\n")
    assert same(msgspec.to_builtins(from_json(data))) == same(msgspec.to_builtins(report))


def test_json_follows_the_published_schema(report: GateReport) -> None:
    rules = schema.gate_json_schema()
    jsonschema.Draft202012Validator.check_schema(rules)
    document = json.loads(to_json(report))
    jsonschema.Draft202012Validator(rules).validate(document)
    del document["verdict"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(rules).validate(document)


def test_unbounded_intervals_survive_json() -> None:
    ratio = Interval(1.02, -math.inf, math.inf, 1)
    report = verdicts.report([verdicts.cell(ratio=ratio)], Verdict.PASS, "x")
    ends = json.loads(to_json(report))["cells"][0]["ratio"]
    assert (ends["low"], ends["high"]) == (-sys.float_info.max, sys.float_info.max)
    assert from_json(to_json(report)) == report


def test_what_is_no_number_is_refused_by_name() -> None:
    report = verdicts.report([verdicts.cell(noise=math.nan)], Verdict.PASS, "x")
    with pytest.raises(ValueError, match=r"^report\.cells\[0\]\.noise is not a number"):
        to_json(report)


def damaged(**changed: Any) -> bytes:
    return json.dumps({**json.loads(to_json(verdicts.passing())), **changed}).encode()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "not the JSON of a gate report"),
        (b"\xff\xfe{", "not the JSON of a gate report"),
        (to_json(verdicts.passing())[:-40], "not the JSON of a gate report"),
        (b"[]", "not the JSON of a gate report"),
        (b'{"name": "package"}', "missing required field `schema`"),
        (b'{"schema": 1}', "missing required field `started_at`"),
        (b'{"schema": 1, "x": ' + b"[" * 100_000, "not the JSON of a gate report"),
        (damaged(verdict="perhaps"), "`$.verdict`"),
        (damaged(cells=[{}]), "`$.cells[0]`"),
        (damaged(alpha="x\ny"), "`$.alpha`"),
        (damaged(schema=2), "has schema 2, this mnv3-bench reads schema 1; update mnv3-bench"),
        (damaged(schema=0), "read it with the version that wrote it"),
    ],
)
def test_other_json_is_refused_in_one_line(data: bytes, expected: str) -> None:
    with pytest.raises(ValueError, match="gate report") as caught:
        from_json(data)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["record", "gate"])
def test_the_published_schema_is_the_generated_one(name: str) -> None:
    published = Path(__file__).parents[2] / "docs" / f"{name}-schema.json"
    assert published.read_text() == schema.text(name), (
        f"write it anew: python -m mnv3_reports.schema {name} > docs/{name}-schema.json"
    )


def test_the_schema_command_prints_either_schema() -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mnv3_reports.schema", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert run().stdout == schema.text()
    assert run("gate").stdout == schema.text("gate")
    wrong = run("gates")
    assert wrong.returncode == 2
    assert wrong.stderr == "there is no schema 'gates'; type one of: record, gate\n"


# Plain lines


def test_lines_begin_with_the_verdict_and_show_every_cell_once(report: GateReport) -> None:
    lines = to_lines(report)
    assert lines[0] == f"{report.verdict.upper()}: {plain(report.summary)}"
    for cell in report.cells:
        starts = (f"{plain(cell.cell)}: {cell.verdict.upper()} ", f"{plain(cell.cell)} against ")
        assert sum(line.startswith(starts) for line in lines) == 1
    for line in lines:
        assert line.isprintable()
        assert not re.search(r"\b(nan|None|inf)\b", line)


def test_a_line_of_a_cell() -> None:
    key = verdicts.failing().cells[3].cell
    lines = to_lines(verdicts.failing())
    assert lines[1] == (
        f"{key}: FAIL +8.3 % [+7.4, +9.2] (allowed 3 %), 6.50 -> 7.04 ms, 14 epochs; the lower bound lies above "
        "the margin"
    )
    assert lines[4].endswith("; artifact_bytes 10,200,000 B -> 9,900,000 B (-2.9 %) (rule 5%: pass)")
    assert lines[5] == "note: the governor is not known"
    assert to_lines(verdicts.injected())[1].startswith("TEST OF THE GATE")
    assert to_lines(verdicts.inconclusive())[-1].endswith("--time-budget 14m --seed 7")
