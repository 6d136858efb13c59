"""Margins and allowances as they are written, and the configuration file they stand in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mnv3_bench.config import read_gate_config
from mnv3_bench.errors import UsageError
from mnv3_bench.gate.rules import RuleBook, margin
from mnv3_reports.deterministic import Allowance, Rules
from mnv3_reports.record import Cell

if TYPE_CHECKING:
    from pathlib import Path

SMALL = Cell("v3-small", "onnxruntime")
INT8 = Cell("v3-small", "onnxruntime-int8")
EAGER = Cell("v3-large", "eager", threads=2)


def rules(cell: Cell, patterns: dict[str, Any], default: float = 0.03) -> Rules:
    return RuleBook(default, patterns, "gate.toml").of(cell)


def test_without_patterns_the_defaults_and_the_asked_margin_hold() -> None:
    assert rules(SMALL, {}, default=0.07) == Rules(latency=0.07)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("size", "0", Allowance("0")),
        ("size", 0, Allowance("0")),
        ("size", "5%", Allowance("5%", relative=0.05)),
        ("size", "2.5 %", Allowance("2.5 %", relative=0.025)),
        ("size", "2MB", Allowance("2MB", absolute=2e6)),
        ("memory", "1 MiB", Allowance("1 MiB", absolute=2**20)),
        ("device-memory", "10KB", Allowance("10KB", absolute=1e4)),
        ("device_memory", "4096", Allowance("4096", absolute=4096)),
        ("operators", "3", Allowance("3", absolute=3)),
        ("operators", 3, Allowance("3", absolute=3)),
        ("graph-breaks", "1", Allowance("1", absolute=1)),
        ("parameters", "1%", Allowance("1%", relative=0.01)),
        ("macs", "0.1%", Allowance("0.1%", relative=0.001)),
        ("activations", "100%", Allowance("100%", relative=1)),
        ("fidelity", "1.5 dB", Allowance("1.5 dB", absolute=1.5)),
        ("fidelity", "2dB", Allowance("2dB", absolute=2)),
        ("fidelity", 0.5, Allowance("0.5", absolute=0.5)),
    ],
)
def test_every_form_of_an_allowance(name: str, text: str | float, expected: Allowance) -> None:
    found = getattr(rules(SMALL, {"*": {name: text}}), name.replace("-", "_"))
    assert found.text == expected.text
    assert (found.relative, found.absolute) == pytest.approx((expected.relative, expected.absolute))


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("size", "much", r"gate\.toml: '\*': size = 'much' is no allowance; .*'5%'.*'2MB'"),
        ("size", "-1", "is no allowance"),
        ("size", "-5%", "is no allowance"),
        ("size", "0.05", "is no allowance; .*'5%'"),  # bytes are whole: a share without its sign
        ("size", True, "is no allowance"),
        ("operators", "2MB", "is no allowance; .*whole number"),
        ("operators", "0.5 dB", "is no allowance"),
        ("fidelity", "5%", "fidelity is in decibels; write for example '0.5 dB'"),
        ("fidelity", "low", "is no allowance; write decibels"),
        ("latency", "0", "must lie above 0"),
        ("latency", "-3%", "must lie above 0"),
        ("latency", "100%", "must lie above 0 and below 100 %"),
        ("latency", "3", "below 100 %"),
        ("latency", "three", "is no share; type for example 3%"),
        ("latencey", "3%", "'latencey' is no rule; did you mean latency"),
        ("device-memmory", "0", "did you mean device_memory"),
        ("xyzzy", "0", "is no rule; known are latency, memory"),
    ],
)
def test_what_means_nothing_is_refused_with_its_place(name: str, value: object, match: str) -> None:
    with pytest.raises(UsageError, match=match) as caught:
        RuleBook(0.03, {"*": {name: value}}, "gate.toml")
    assert "gate.toml: '*'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rules_that_are_no_table_are_refused() -> None:
    with pytest.raises(UsageError, match="expected a table"):
        RuleBook(0.03, {"v3-small/*": "3%"}, "gate.toml")  # type: ignore[dict-item]


def test_later_patterns_win_rule_by_rule() -> None:
    patterns = {
        "*": {"latency": "5%", "size": "1%"},
        "v3-small/*": {"latency": "4%"},
        "*/onnxruntime-int8": {"fidelity": "2 dB"},
    }
    assert rules(SMALL, patterns).latency == pytest.approx(0.04)
    assert rules(SMALL, patterns).size == Allowance("1%", relative=0.01)
    assert rules(SMALL, patterns).fidelity == Rules().fidelity
    assert rules(INT8, patterns).fidelity == Allowance("2 dB", absolute=2.0)
    assert rules(EAGER, patterns).latency == pytest.approx(0.05)
    backwards = dict(reversed(patterns.items()))
    assert rules(SMALL, backwards).latency == pytest.approx(0.05)


def test_patterns_match_whole_keys_or_network_and_runtime() -> None:
    strict = {"latency": "1%"}
    for pattern in ("v3-large/eager", EAGER.key, "v3-large/eager*threads=2*", "*device=cpu", "v3-*/eager"):
        assert rules(EAGER, {pattern: strict}).latency == pytest.approx(0.01)
    for pattern in ("v3-large", "V3-LARGE/eager", "v3-large/eage", "*threads=1*"):
        assert rules(EAGER, {pattern: strict}).latency == pytest.approx(0.03)


def test_patterns_that_match_nothing_are_told() -> None:
    book = RuleBook(0.03, {"v3-smal/*": {}, "v3-small/*": {}}, "gate.toml")
    assert book.unmatched([SMALL, EAGER]) == ["v3-smal/*"]
    assert book.unmatched([]) == ["v3-smal/*", "v3-small/*"]


@pytest.mark.parametrize(("text", "share"), [("3%", 0.03), (" 2.5 % ", 0.025), ("0.03", 0.03), (0.1, 0.1)])
def test_margins(text: str | float, share: float) -> None:
    assert margin(text, "--margin") == pytest.approx(share)


@pytest.mark.parametrize(
    "text", ["0", "0%", "-1%", "100%", "1", "nan", "inf", "", "%", "3 percent", "3%%", True]
)
def test_what_is_no_margin_is_refused(text: str | bool) -> None:
    with pytest.raises(UsageError, match=r"^--margin .*type for example 3%"):
        margin(text, "--margin")


# The configuration file


def config(tmp_path: Path, text: str) -> str:
    file = tmp_path / "gate.toml"
    file.write_text(text)
    return str(file)


def test_a_configuration_holds_arms_rules_and_what_run_knows(tmp_path: Path) -> None:
    file = config(
        tmp_path,
        """
        variants = "small"
        threads = [1, 2]
        time-budget = "9m"   # of a run, not of a gate
        precision = "1%"
        quick = true

        [gate]
        base = "git:main"
        head = "here"
        margin = "5%"
        alpha = 0.01
        time-budget = "3m"
        output = "gates"
        deterministic-only = true
        allow_different_outputs = false
        inject-slowdown = 0.1
        [gate.rules."v3-small/*"]
        latency = "4%"
        """,
    )
    asked, gate, where = read_gate_config(file)
    assert where == file
    assert (asked.variants, asked.threads, asked.time_budget, asked.output) == (
        "small",
        [1, 2],
        "3m",
        "gates",
    )
    assert (asked.precision, asked.quick) == (None, None)
    assert (gate.base, gate.head, gate.margin, gate.alpha) == ("git:main", "here", "5%", 0.01)
    assert (gate.deterministic_only, gate.allow_different_outputs, gate.inject_slowdown) == (True, False, 0.1)
    assert (gate.rules, gate.rules_from) == ({"v3-small/*": {"latency": "4%"}}, file)
    assert gate.power is None


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("gate = 3", r"gate = 3 is no table; write \[gate\]"),
        ("[gate]\nmargins = '3%'", r"'gate\.margins' is not a setting; did you mean margin"),
        ("[gate]\nrules-from = 'x'", r"'gate\.rules-from' is not a setting"),
        ("[gate]\nbase = 3", r"gate\.base = 3 is not what was expected"),
        ("[gate]\nmargin = true", r"gate\.margin = True is not what was expected"),
        ("[gate]\nalpha = '0.05'", r"gate\.alpha = '0\.05' is not what was expected"),
        ("[gate]\npower = true", r"gate\.power = True is not what was expected"),
        ("[gate]\nrules = '3%'", r"gate\.rules = '3%' is not what was expected"),
        ("[gate]\ndeterministic-only = 'yes'", r"gate\.deterministic-only = 'yes'"),
        ("[gate]\ntime-budget = []", r"time-budget = \[\] is not what was expected"),
        ("bakends = 'all'", "'bakends' is not a setting; did you mean backends"),
    ],
)
def test_settings_that_mean_nothing_are_refused(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        read_gate_config(config(tmp_path, text))


def test_without_a_file_nothing_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked, gate, where = read_gate_config(None)
    assert where is None
    assert (asked.variants, gate.base, gate.rules) == (None, None, {})
    (tmp_path / "pyproject.toml").write_text("[tool.mnv3-bench.gate]\nbase = 'git:main'\n")
    assert read_gate_config(None)[1].base == "git:main"
