"""Latency against accuracy: measured where it was, published where it was not, and never one as the other."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from itertools import combinations
from typing import Any

import pytest
from reports import factory

from mnv3_reports import charts, pareto
from mnv3_reports.record import Cell, Run
from mnv3_reports.summary import Summary


def texts(run: Run) -> list[str]:
    summary = Summary(run)
    chart = pareto.pareto_chart(summary, summary.settings[0])
    assert chart is not None
    svg = charts.to_svg(chart)
    assert "NaN" not in svg
    return ["".join(node.itertext()) for node in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def rows(run: Run) -> list[dict[str, Any]]:
    summary = Summary(run)
    return pareto.rows_of(summary, summary.settings[0])


def test_pareto_joins_what_nothing_beats_and_says_what_it_is() -> None:
    run = factory.whole_run()
    shown = texts(run)
    assert "v3-large · onnxruntime" in shown
    assert any("published for the network, not measured" in text for text in shown)
    # v1 int8 has no published accuracy here.
    assert any("Not shown: 1 timed cell;" in text for text in shown)
    found = rows(run)
    front = pareto.front(found)
    names = [row["label"].partition(" ")[0] for row in front]
    assert names == ["v3-small", "v3-small", "v3-large", "v3-large"]
    for row in found:
        beaten = any(other["ms"] < row["ms"] and other["top1"] > row["top1"] for other in found)
        assert not (beaten and row in front)


def test_where_accuracy_was_measured_every_cell_stands_at_its_own() -> None:
    run = factory.evaluated_run()
    found = {row["label"]: row for row in rows(run)}
    assert len(found) == len(run.cells)
    for record in run.cells.values():
        row = found[f"{record.cell.variant} · {record.cell.backend}"]
        assert record.accuracy is not None
        assert row["top1"] == pytest.approx(record.accuracy.top1 / record.accuracy.images * 100)
        assert row["low"] < row["top1"] < row["high"]
    shown = texts(run)
    assert "Latency against measured accuracy" in shown
    assert any("Top-1 is measured on 449 images of digits." in text for text in shown)
    assert not any("published" in text for text in shown)


def test_published_accuracy_beside_measured_is_hollow_named_and_off_the_front() -> None:
    run = factory.evaluated_run()
    for record in run.cells.values():
        if record.cell.variant in ("v1", "v2"):
            record.accuracy = None
    found = rows(run)
    assert {row["network"] for row in found if not row["measured"]} == {"v1", "v2"}
    assert all(row["measured"] for row in pareto.front(found))
    shown = texts(run)
    assert "Latency against accuracy, measured and published" in shown
    assert any("Hollow: published top-1 of networks that were not evaluated" in text for text in shown)
    assert "v1 · onnxruntime, published" in shown
    assert "v3-small · onnxruntime-int8" in shown
    summary = Summary(run)
    chart = pareto.pareto_chart(summary, summary.settings[0])
    assert chart is not None
    hollow = [
        layer
        for layer in chart.to_dict()["layer"]
        if layer["mark"]["type"] == "point" and layer["mark"]["filled"] is False
    ]
    networks = {row["network"] for layer in hollow for row in layer["data"]["values"]}
    assert networks == {"v1", "v2"}


def test_a_cell_that_was_not_evaluated_does_not_borrow_a_published_figure_of_an_evaluated_network() -> None:
    run = factory.evaluated_run()
    run.cells[Cell("v3-small", "eager").key].accuracy = None
    labels = [row["label"] for row in rows(run)]
    assert "v3-small · onnxruntime" in labels
    assert not any(label.startswith("v3-small · eager") for label in labels)
    assert any("Not shown: 1 timed cell; not evaluated." in text for text in texts(run))


def test_all_right_and_a_single_image_draw() -> None:
    for images in (1, 12):
        run = factory.evaluated_run(images=images)
        assert "Latency against measured accuracy" in texts(run)


def test_ablated_forms_have_no_place_in_it() -> None:
    run = factory.evaluated_run()
    run.header = factory.asking(run, ablated={"v3-large": "v3-small"})
    assert not any(row["network"] == "v3-large" for row in rows(run))


@pytest.mark.parametrize("spread", [0.0, 0.05, 0.4])
def test_labels_of_crowded_points_do_not_touch(spread: float) -> None:
    points: list[dict[str, Any]] = [
        {
            "ms": 5 + spread * i,
            "top1": 70 + spread * i,
            "low": 69.5,
            "high": 71.5,
            "label": f"network-{i} · backend-int8",
        }
        for i in range(9)
    ]
    x_domain, y_domain = [2.0, 20.0], [69.0, 72.0]
    pareto.place_labels(points, x_domain, y_domain)
    pixels_across = pareto.WIDTH / (math.log(x_domain[1] / x_domain[0]))
    boxes = []
    for row in points:
        end = math.log(row["label_x"] / x_domain[0]) * pixels_across
        width = pareto.LETTER * len(row["label"])
        left = end if row["align"] == "left" else end - width
        middle = (row["label_y"] - y_domain[0]) / (y_domain[1] - y_domain[0]) * pareto.HEIGHT
        assert left >= 0
        assert left + width <= pareto.WIDTH
        boxes.append(pareto.Box(left, left + width, middle - pareto.HALF + 0.01, middle + pareto.HALF - 0.01))
    assert not any(first.touches(second) for first, second in combinations(boxes, 2))


def test_published_top1_is_of_the_asked_precision_and_resolution() -> None:
    facts = factory.facts("v3-large")
    fp32, int8 = (pareto.published_top1(facts, precision) for precision in ("fp32", "int8"))
    assert fp32 is not None
    assert int8 is not None
    assert (fp32.top1, int8.top1) == (75.2, 73.8)
    assert pareto.published_top1(factory.facts("v3-large", 192), "fp32") is None
    assert pareto.published_top1(facts, "bf16") is None
