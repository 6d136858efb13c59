"""Other tools read what is exported."""

from __future__ import annotations

import csv
import io
import json

from reports import factory

from mnv3_reports import export, flat
from mnv3_reports.record import Cell, Run
from mnv3_reports.summary import Summary


def test_csv_has_a_line_a_cell() -> None:
    run = factory.whole_run(epochs=2)
    run.add(factory.failure(Cell("v1", "eager")))
    lines = list(csv.DictReader(io.StringIO(export.to_csv(run))))
    assert [line["cell"] for line in lines] == list(run.cells)
    found = Summary(run).statistics[lines[0]["cell"]]
    assert float(lines[0]["latency_median_seconds"]) == found.latency.estimate
    failed = next(line for line in lines if line["status"] == "failed")
    assert (failed["cell"], failed["latency_median_seconds"]) == (Cell("v1", "eager").key, "")


def test_json_holds_cells_and_ratios() -> None:
    run = factory.whole_run(epochs=1)
    document = json.loads(export.to_json(run))
    assert document["complete"] is True
    assert [cell["cell"] for cell in document["cells"]] == list(run.cells)
    assert set(document["cells"][0]) == {field.name for field in flat.FIELDS}
    assert len(document["ratios"]) == len(Summary(run).ratios)
    ratio = document["ratios"][0]
    assert (ratio["epochs"], ratio["low"]) == (1, None)  # one epoch has no interval


def test_names_with_settings_are_exported_as_they_are() -> None:
    run = factory.tuned_run()
    lines = list(csv.DictReader(io.StringIO(export.to_csv(run))))
    assert [line["backend"] for line in lines] == [record.cell.backend for record in run.cells.values()]
    (line,) = (line for line in lines if line["tuned_from"])
    assert (line["backend"], line["tuned_from"]) == (
        "onnxruntime:spinning=off:graph=extended",
        run.tuned[0].cell,
    )
    ratios = json.loads(export.to_json(run))["ratios"]
    (tuned,) = (ratio for ratio in ratios if ratio["kind"] == "tuned")
    assert (tuned["numerator"], tuned["denominator"]) == (run.tuned[0].winner, run.tuned[0].cell)
    assert tuned["high"] < 1


def test_what_nobody_counted_is_empty_and_what_it_was_compared_with_is_said() -> None:
    (line,) = csv.DictReader(io.StringIO(export.to_csv(factory.own_run())))
    assert (line["macs_per_image"], line["parameters"], line["fidelity_top1_agreement"]) == ("", "", "")
    assert line["fidelity_reference"] == "onnxruntime, every optimization off"
    assert json.loads(export.to_json(factory.own_run()))["request"]["models"]["tokens_model.onnx"]["inputs"]


def test_accuracy_is_exported_with_its_intervals() -> None:
    run = factory.evaluated_run()
    cell = Cell("v3-small", "onnxruntime-int8")
    factory.lossy(run, cell, 0.05)
    lines = {line["cell"]: line for line in csv.DictReader(io.StringIO(export.to_csv(run)))}
    line, found = lines[cell.key], run.cells[cell.key].accuracy
    assert found is not None
    assert (line["accuracy_data"], line["accuracy_images"]) == ("digits", "449")
    assert float(line["top1"]) == found.top1 / 449
    assert float(line["top1_low"]) < float(line["top1"]) < float(line["top1_high"])
    assert float(line["top1_drop_low"]) > 0.01
    assert float(line["top1_drop_mcnemar_p"]) < 0.001
    assert (line["top1_drop_verdict"], line["top1_drop_against_accepted"]) == ("loses", "above")
    assert float(line["class_agreement"]) < 0.97
    assert float(line["expected_calibration_error"]) > 0
    assert float(line["loss_low"]) < float(line["loss"]) < float(line["loss_high"])
    document = json.loads(export.to_json(run))
    assert document["evaluation"]["fingerprint"] == "0123456789abcdef"
    exported = next(each for each in document["cells"] if each["cell"] == cell.key)
    assert exported["top1"] == found.top1 / 449


def test_a_share_of_one_image_has_an_interval_and_a_run_without_images_none() -> None:
    one = next(csv.DictReader(io.StringIO(export.to_csv(factory.evaluated_run(images=1)))))
    assert (one["top1_low"] != "", one["loss"] != "", one["loss_low"]) == (True, True, "")
    none = next(csv.DictReader(io.StringIO(export.to_csv(factory.whole_run(epochs=1)))))
    assert {none[name] for name in ("accuracy_data", "top1", "top1_drop", "top1_drop_verdict")} == {""}


def test_an_empty_run_exports() -> None:
    run = Run.started(factory.header())
    assert len(export.to_csv(run).splitlines()) == 1 + len(run.cells)
    assert json.loads(export.to_json(run))["complete"] is False
