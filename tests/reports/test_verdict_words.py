"""What renderers say alike: a change and its margin, two sides of a figure, the verdict on time, what to type."""

from __future__ import annotations

import math

import pytest
from reports import verdicts

from mnv3_reports.baseline import judge_timing
from mnv3_reports.record import Cell
from mnv3_reports.statistics import Interval
from mnv3_reports.verdict import ArmFacts, CellVerdict, Check, Verdict
from mnv3_reports.verdict_words import Names, advice, change, check_words, timing_verdict


@pytest.mark.parametrize(
    ("command", "typed"),
    [
        ("gate --time-budget 90s -q", "gate --time-budget 14m -q"),
        ("gate --time-budget=1h", "gate --time-budget 120m"),
        ("gate --time-budget 600", "gate --time-budget 20m"),
        ("gate --time-budget 30min", "gate --time-budget 60m"),
        ("gate --time-budget soon", "gate --time-budget soon --time-budget 14m"),
        ("gate", "gate --time-budget 14m"),
    ],
)
def test_the_advised_budget_is_longer_than_the_last(command: str, typed: str) -> None:
    # 247 s were not enough, and the pilot had foreseen up to 420 s where the command does not say.
    far = verdicts.cell(verdict=Verdict.INCONCLUSIVE, change=0.01, half=0.0361)
    report = verdicts.report([far], Verdict.INCONCLUSIVE, "?", "budget", command=command)
    found = advice(report)
    assert found is not None
    assert found.command == typed


def test_at_least_twice_the_time_is_advised_where_no_budget_is_known() -> None:
    near = verdicts.cell(verdict=Verdict.INCONCLUSIVE, change=0.01, half=0.0201)
    report = verdicts.report([near], Verdict.INCONCLUSIVE, "?", "epochs", command="gate", prediction=None)
    found = advice(report)
    assert found is not None
    assert found.command == "gate --time-budget 9m", "247 s, doubled and rounded up"


def test_a_change_at_its_margin_is_not_promised_a_verdict() -> None:
    at = verdicts.cell(verdict=Verdict.INCONCLUSIVE, change=0.03, half=0.01)
    found = advice(verdicts.report([at], Verdict.INCONCLUSIVE, "?", "epochs"))
    assert found is not None
    assert "may not tell them apart" in found.why
    assert "--time-budget 33m" in found.command, "eight times 247 s"


def against_stored(here: int, stored: int) -> CellVerdict:
    """A cell measured in so many epochs, of which the stored baseline has so many, and nothing to tell them apart."""
    head, base = ([(-1) ** n * 0.1 for n in range(epochs)] for epochs in (here, stored))
    timing = judge_timing(head, base, margin=0.03, alpha=0.05, power=0.8, cells=1)
    return verdicts.cell(
        verdict=timing.verdict, reason=timing.reason, ratio=timing.ratio, epochs=timing.epochs
    )


@pytest.mark.parametrize(
    ("sides", "advised"),
    [
        (((8, 3),), False),
        (((3, 3),), False),
        (((8, 3), (8, 8)), False),
        (((3, 8),), True),
        (((8, 8),), True),
    ],
)
def test_a_longer_gate_is_not_advised_where_the_stored_baseline_has_too_few_epochs(
    sides: tuple[tuple[int, int], ...], advised: bool
) -> None:
    stored = ArmFacts("baseline b.json (2026-01-01)", "3.12.1", {})
    cells = [against_stored(*epochs) for epochs in sides]
    assert {cell.verdict for cell in cells} == {Verdict.INCONCLUSIVE}
    report = verdicts.report(
        cells, Verdict.INCONCLUSIVE, "?", "budget", base=stored, looks=(), prediction=None
    )
    found = advice(report)
    assert (found is not None) is advised
    # What helps is said all the same.
    assert any("save it again" in cell.reason for cell in cells) is not advised


@pytest.mark.parametrize(
    ("ratio", "shown"),
    [
        (Interval(1.051, 1.042, 1.06, 9), "+5.1 % [+4.2, +6.0]"),
        (Interval(0.9996, 0.99, 1.01, 9), "+0.0 % [-1.0, +1.0]"),
        (Interval(1.0504, 1.0499, 1.0509, 9), "+5.04 % [+4.99, +5.09]"),
        (Interval(1.04, 1.0301, 1.05, 9), "+4.00 % [+3.01, +5.00]"),
        (Interval(1.02, 1.01, 1.02996, 9), "+2.000 % [+1.000, +2.996]"),
        (Interval(1.04, 1.03, 1.05, 9), "+4.0 % [+3.0, +5.0]"),
        (Interval(3.5, 3.3, 3.7, 9), "+250.0 % [+230.0, +270.0]"),
        (Interval(1e9, 1e8, 1e10, 2), "+1.00e+11 % [+1.00e+10, +1.00e+12]"),
        (Interval(1.02, 0.0, math.inf, 1), "+2.0 % (no interval from 1 epoch)"),
        (Interval(math.nan, math.nan, math.nan, 3), "unknown"),
    ],
)
def test_a_change_keeps_its_side_of_the_margin(ratio: Interval, shown: str) -> None:
    assert change(ratio, 0.03) == shown


@pytest.mark.parametrize(
    ("name", "base", "head", "shown"),
    [
        ("macs", 56_510_400.0, 56_510_401.0, "56,510,400 -> 56,510,401 (+1)"),
        ("artifact_bytes", 10e6, 9e6, "10,000,000 B -> 9,000,000 B (-10.0 %)"),
        ("fidelity_snr_db", 21.5, 20.25, "21.5 dB -> 20.2 dB (-1.25 dB)"),
        ("ratio", 0.50001, 0.50002, "0.50001 -> 0.50002 (+1.00e-05)"),
        ("nodes", None, 3.0, "nothing -> 3"),
        ("nodes", 3.0, None, "3 -> nothing"),
        ("nodes", 0.0, 2.0, "0 -> 2 (+2)"),
        ("nodes", 4.0, 4.0, "4 -> 4"),
        ("snr", math.inf, math.nan, "unbounded -> not a number"),
    ],
)
def test_figures_tell_their_sides_apart(
    name: str, base: float | None, head: float | None, shown: str
) -> None:
    assert str(check_words(Check(name, base, head, "0", Verdict.PASS, changed=True))) == shown


def test_the_verdict_on_time_is_told_from_the_one_on_figures() -> None:
    heavy = (verdicts.check(verdicts.MACS, 6e7, Verdict.FAIL),)
    cell = verdicts.cell
    assert timing_verdict(cell(verdict=Verdict.FAIL, change=0.05)) is Verdict.FAIL
    assert timing_verdict(cell(verdict=Verdict.FAIL, change=0.05, checks=heavy)) is Verdict.FAIL
    assert timing_verdict(cell(verdict=Verdict.FAIL, checks=heavy)) is Verdict.PASS
    assert timing_verdict(cell(verdict=Verdict.FAIL, checks=heavy, decided_at=None)) is Verdict.INCONCLUSIVE
    assert timing_verdict(verdicts.untimed(Verdict.FAIL, "macs", checks=heavy)) is None
    assert timing_verdict(verdicts.untimed(Verdict.PASS, "the same")) is None
    assert timing_verdict(verdicts.untimed(Verdict.INVALID, "crashed")) is Verdict.INVALID
    assert timing_verdict(cell(verdict=Verdict.INVALID, checks=heavy)) is Verdict.INVALID


def test_a_backend_is_not_told_of_by_one_with_settings() -> None:
    plain, tuned = (
        verdicts.cell(Cell("v3-small", name)) for name in ("onnxruntime", "onnxruntime:spinning=off")
    )
    for summary, told in (
        ("v3-small/onnxruntime:spinning=off is slower", (False, True)),
        ("v3-small/onnxruntime: slower by 5 %", (True, False)),
        ("slower: v3-small/onnxruntime.", (True, False)),
        ("v3-small/onnxruntime:spinning=off.1 is slower", (False, False)),
        ("v3-small/onnxruntime-int8 is slower", (False, False)),
    ):
        report = verdicts.report([plain, tuned], Verdict.FAIL, summary)
        names = Names(report)
        assert (names.told(plain, report), names.told(tuned, report)) == told, summary


def test_a_network_with_inputs_of_its_own_is_not_of_0_pixels() -> None:
    one = verdicts.cell(Cell("tokens.onnx", "onnxruntime:spinning=off", resolution=0))
    assert Names(verdicts.report([one], Verdict.PASS, "")).setting == "1 thread, inputs of its own"
