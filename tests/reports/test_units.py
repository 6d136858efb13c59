from __future__ import annotations

import math

import pytest

from mnv3_reports import units
from mnv3_reports.statistics import Interval


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (2.1349, "2.13"),
        (9.996, "10.0"),
        (99.96, "100"),
        (216.58976, "217"),
        (1234.6, "1,230"),
        (0.0123456, "0.0123"),
        (0.00012, "1.20e-04"),
        (12_345_678, "1.23e+07"),
        (-5.5, "-5.50"),
    ],
)
def test_significant(value: float, text: str) -> None:
    assert units.significant(value) == text


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_figure_is_not_printed(value: float) -> None:
    with pytest.raises(ValueError, match="say why it is missing"):
        units.significant(value)


def test_units_at_the_edge() -> None:
    assert units.milliseconds(0.00213) == "2.13"
    assert units.megabytes(21_900_000) == "21.9"
    assert units.gibibytes(8 << 30) == "8.0 GiB"
    assert units.millions(5_483_032) == "5.48"
    assert units.percent(0.0213) == "2.1 %"
    assert [units.counted(n, "block") for n in (0, 1, 1200)] == ["0 blocks", "1 block", "1,200 blocks"]
    assert [units.seconds(value) for value in (0.0316, 1.25, 123.4)] == ["0.032", "1.25", "123"]
    spans = (1.14, 59, 61, 3725)
    assert [units.duration(value) for value in spans] == ["1.1 s", "59 s", "1 min 1 s", "1 h 2 min"]


def test_an_interval_shares_its_estimates_decimals() -> None:
    assert units.enclosed(Interval(2.134, 2.1, 2.17, 4)) == "2.13 [2.10, 2.17]"
    assert units.enclosed(Interval(0.0063, 0.0061, 0.0065, 4), 1e3) == "6.30 [6.10, 6.50]"
    assert units.enclosed(Interval(14.3, 0.001, 1e75, 2)) == "14.3 [0.0, 1.00e+75]"
    assert units.enclosed(Interval(2.0, 0.0, math.inf, 1)) == "2.00"
    assert units.compact(Interval(0.002, 0.0019, 0.0021, 4), 1e3) == "2.00 ±5.0%"
    assert units.compact(Interval(2.0, 0.0, math.inf, 1)) == "2.00"
    assert units.enclosed(Interval(2.5e8, 2.4e8, 2.6e8, 3)) == "2.50e+08 [2.40e+08, 2.60e+08]"
