from __future__ import annotations

from mnv3_reports.compare import PrintedRatio, printed_ratios
from mnv3_reports.record import Cell


def test_requested_networks_against_references_and_backends_against_eager() -> None:
    cells = [Cell(v, b) for v in ("v3-small", "v1") for b in ("eager", "onnxruntime")]
    small_eager, small_ort, v1_eager, v1_ort = (cell.key for cell in cells)
    assert printed_ratios(cells, ["v3-small"], ["v1", "v2"]) == [
        PrintedRatio(small_eager, v1_eager, "variant"),
        PrintedRatio(small_ort, v1_ort, "variant"),
        PrintedRatio(small_ort, small_eager, "backend"),
        PrintedRatio(v1_ort, v1_eager, "backend"),
    ]


def test_only_within_one_setting() -> None:
    cells = [Cell("v3-small", "eager", threads=1), Cell("v1", "eager", threads=2)]
    cells += [Cell("v3-small", "onnxruntime", batch=8), Cell("v3-small", "compile", resolution=192)]
    assert printed_ratios(cells, ["v3-small"], ["v1"]) == []


def test_without_eager_or_references_there_is_nothing_to_compare() -> None:
    cells = [Cell("v3-small", "onnxruntime"), Cell("v3-small", "compile")]
    assert printed_ratios(cells, ["v3-small"], []) == []
    assert printed_ratios([], ["v3-small"], ["v1"]) == []


def test_a_requested_reference_is_compared_with_the_other_one_only() -> None:
    cells = [Cell("v1", "eager"), Cell("v2", "eager")]
    found = [(r.numerator, r.denominator) for r in printed_ratios(cells, ["v1"], ["v1", "v2"])]
    assert found == [(cells[0].key, cells[1].key)]
