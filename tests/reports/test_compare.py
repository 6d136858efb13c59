from __future__ import annotations

from reports import factory

from mnv3_reports.compare import PrintedRatio, printed_ratios, ratios_of
from mnv3_reports.record import Cell
from mnv3_reports.summary import Summary


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


def test_tuned_and_exact_pairs_follow_unless_a_cell_is_missing_or_the_pair_is_listed() -> None:
    cells = [Cell("v3-small", name) for name in ("eager", "litert", "litert:a=b", "litert-int8")]
    eager, default, tuned, reduced = (cell.key for cell in cells)
    further = [
        PrintedRatio(tuned, default, "tuned"),
        PrintedRatio(reduced, default, "exact"),
        PrintedRatio(reduced, eager, "exact"),
        PrintedRatio(default, default, "exact"),
        PrintedRatio(Cell("v1", "litert").key, default, "tuned"),
    ]
    assert printed_ratios(cells, ["v3-small"], [], further) == [
        PrintedRatio(default, eager, "backend"),
        PrintedRatio(tuned, eager, "backend"),
        PrintedRatio(reduced, eager, "backend"),
        PrintedRatio(tuned, default, "tuned"),
        PrintedRatio(reduced, default, "exact"),
    ]


def test_a_run_asks_for_the_ratios_that_its_report_prints() -> None:
    run = factory.tuned_run()
    cells = [record.cell for record in run.cells.values()]
    reduced = cells[2]
    run.add(factory.explained(reduced, exact="onnxruntime"))
    found = {(ratio.numerator, ratio.denominator): ratio.kind for ratio in ratios_of(run, cells)}
    assert set(Summary(run).ratios) == set(found)
    assert found[run.tuned[0].winner or "", run.tuned[0].cell] == "tuned"
    assert found[reduced.key, cells[1].key] == "exact"
    without = [ratio.kind for ratio in ratios_of(run, cells[:1])]
    assert without == []


def test_an_ablated_form_stands_beside_its_whole_network_and_beside_no_reference() -> None:
    run = factory.whole_run(
        factory.request(("v3-small", "v3-large"), ("v1",), ("eager", "onnxruntime")), epochs=1
    )
    run.header = factory.asking(run, ablated={"v3-large": "v3-small"})
    cells = [record.cell for record in run.cells.values()]
    found = {(ratio.numerator, ratio.denominator): ratio.kind for ratio in ratios_of(run, cells)}
    for backend in ("eager", "onnxruntime"):
        form, whole, v1 = (Cell(name, backend).key for name in ("v3-large", "v3-small", "v1"))
        assert found[form, whole] == "ablation"
        assert found[whole, v1] == "variant"
        assert (form, v1) not in found
    assert found[Cell("v3-large", "onnxruntime").key, Cell("v3-large", "eager").key] == "backend"
    without = [cell for cell in cells if cell.variant != "v3-small"]
    assert not [ratio for ratio in ratios_of(run, without) if ratio.kind == "ablation"]
