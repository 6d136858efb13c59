"""The scan of sensitive layers: worst first, all together, and what each backend says that it kept in float."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import msgspec
from reports import factory

from mnv3_reports import charts, sensitivity
from mnv3_reports.record import LayerSensitivity, Run
from mnv3_reports.summary import Summary


def section_of(run: Run) -> str:
    return "\n\n".join(sensitivity.section(Summary(run)))


def scanned(**given: object) -> Run:
    run = factory.evaluated_run()
    run.add(factory.sensitivity(**given))  # type: ignore[arg-type]
    return run


def keep(run: Run, backend: str, layers: object) -> None:
    for record in run.cells.values():
        if record.cell.backend == backend:
            record.prepared = msgspec.structs.replace(
                factory.prepared(record.cell),
                facts={"kept in float": layers},  # type: ignore[dict-item]
            )


def test_the_worst_layers_come_first_and_all_together_before_them() -> None:
    section = section_of(scanned())
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    assert rows[2] == "| all | all 30 together | all | 9.5 | 95.0 | 95.3 | 2.3 | +0.0300 |"
    assert (
        rows[3] == "| 1 | `features.29.block.0` | squeeze-excitation | 13.5 | 99.0 | 97.0 | 0.7 | +0.0010 |"
    )
    assert (
        "Scheme: weights s8 a channel, activations u8 a tensor. On 128 images, of which fp32 gets 97.7 % right"
        in section
    )
    assert "Most sensitive is `features.29.block.0` (squeeze-excitation) with 13.5 dB." in section
    assert "The 10 most sensitive of 30: 2 squeeze-excitation, 2 projection, " in section
    assert "All quantized together: 9.5 dB, 95.3 % right, a drop of 2.3 points." in section
    before, _, after = section.partition("<details><summary>The other 20 layers</summary>")
    assert "| 10 | `features.20.block.0` |" in before
    assert "| 11 | `features.19.block.0` |" in after


def test_a_scan_of_one_layer_and_of_none() -> None:
    one = LayerSensitivity("features.0.0", "stem", 200.0, 1.0, 125 / 128, 0.0799)
    section = section_of(scanned(layers=(one,), together=None))
    assert "| 1 | `features.0.0` | stem | ≥ 200 | 100.0 | 97.7 | 0.0 | −0.0001 |" in section
    assert "together" not in section.partition("Scheme")[2]
    assert "No layer was scanned." in section_of(scanned(layers=(), together=None))


def test_nothing_scanned_is_nothing_said_unless_it_was_asked_for() -> None:
    run = factory.evaluated_run()
    assert section_of(run) == ""
    run.header = factory.asking(run, keep_float=4)
    assert section_of(run) == "The scan for sensitive layers did not come to an end."
    run.add(factory.sensitivity())
    assert (
        "4 layers of each network should have been; no backend of this run says that it did."
        in section_of(run)
    )


def test_what_backends_kept_in_float_is_told_by_their_own_account() -> None:
    run = scanned()
    run.header = factory.asking(run, keep_float=2)
    keep(run, "onnxruntime-int8", "features.0.0, classifier.3")
    keep(run, "onnxruntime", ", ".join(f"features.{n}" for n in range(9)))
    keep(run, "eager", True)
    section = section_of(run)
    assert "**Kept in float**, by each backend's own account, of 2 asked for:" in section
    assert "- `onnxruntime-int8`: `features.0.0`, `classifier.3` (v3-large, v3-small, v1, v2)." in section
    assert "`features.5` and 3 more (v3-large" in section
    assert "- `eager`" not in section


def test_the_chart_has_the_layers_in_the_order_of_the_network() -> None:
    run = scanned()
    run.variants = []
    names = ("classifier.3", "features.10.block.0", "features.2.block.0", "features.0.0")
    layers = tuple(LayerSensitivity(name, "stem", 20.0, 1.0, 0.9, 0.1) for name in names)
    identical = LayerSensitivity("features.3.block.0", "depthwise", 200.0, 1.0, 0.9, 0.1)
    run.add(factory.sensitivity(layers=(*layers, identical)))
    summary = Summary(run)
    chart = sensitivity.sensitivity_chart(summary, run.sensitivities[0])
    assert chart is not None
    values = chart.to_dict()["data"]["values"]
    assert [row["layer"] for row in values] == [
        "features.0.0",
        "features.2.block.0",
        "features.3.block.0",
        "features.10.block.0",
        "classifier.3",
    ]
    assert max(row["dB"] for row in values) == 21.0  # what is identical does not press the others flat
    shown = "".join(ET.fromstring(charts.to_svg(chart)).itertext())
    assert "All together: 9.5 dB" in shown
    few = factory.sensitivity(layers=(identical,))
    assert sensitivity.sensitivity_chart(summary, few) is None
