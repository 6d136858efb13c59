"""What a finding has to say, and how findings are printed."""

from __future__ import annotations

from typing import Any

import pytest

from mnv3_bench.doctor.findings import Finding, to_lines


@pytest.mark.parametrize(("level", "advice"), [("ok", "do it."), ("warning", None), ("problem", "")])
def test_advice_goes_with_what_is_not_ok(level: Any, advice: str | None) -> None:
    with pytest.raises(ValueError, match=level):
        Finding("name", level, "seen", advice)


def test_lines_show_the_worst_first_an_advice_once_and_count() -> None:
    findings = [
        Finding("swap", "ok", "none"),
        Finding("turbo", "warning", "on", "switch it off."),
        Finding("governor", "unknown", "could not read it"),
        Finding("power", "problem", "battery", "connect mains power."),
        Finding("steal", "warning", "2 %", "move."),
        Finding("machine", "warning", "virtual", "move."),
    ]
    assert to_lines(findings) == [
        "problem  power     battery",
        "                   -> connect mains power.",
        "warning  turbo     on",
        "                   -> switch it off.",
        "warning  steal     2 %",
        "warning  machine   virtual",
        "                   -> move.",
        "unknown  governor  could not read it",
        "ok       swap      none",
        "1 problem, 3 warnings; 1 could not be checked, 1 fine",
    ]
    assert to_lines([]) == ["0 problems, 0 warnings; 0 could not be checked, 0 fine"]
