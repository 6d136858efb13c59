"""The section about memory: what was counted, what each runtime holds beside it, what a step adds; and the timeline."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import count, pairwise
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from reports import factory

from mnv3_bench import inputs
from mnv3_reports import charts, memory, memory_chart
from mnv3_reports.record import Activations, LayerCost, MemoryStep, Run
from mnv3_reports.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Sequence

MB = 1_000_000
INPUT = 602_112


def counted(
    variant: str = "v3-small", resolution: int = 224, batch: int = 1, *, steps: Sequence[MemoryStep] = ()
) -> Activations:
    """A network of ten modules whose third has the highest peak: 4 MB an image beside the input."""
    held = INPUT * batch
    made = tuple(
        MemoryStep(
            f"features.{place}.block",
            "BatchNorm2d" if place == 2 else "Conv2d",
            held + (place % 3 + 1) * MB * batch,
            held + (4 if place == 2 else 3) * MB * batch,
        )
        for place in range(10)
    )
    return Activations(variant, resolution, batch, 10 * MB, held, tuple(steps) or made)


def inspect(run: Run, above: dict[tuple[str, int, int], float], variant: str = "v3-small") -> None:
    """Give cells of a network peaks in MB above a runtime of 200 MB, by backend, batch and resolution."""
    for record in run.cells.values():
        cell = record.cell
        size = above.get((cell.backend, cell.batch, cell.resolution))
        if cell.variant == variant and size is not None:
            record.inspected = msgspec.structs.replace(
                factory.inspected(cell), runtime_bytes=200 * MB, peak_bytes=200 * MB + round(size * MB)
            )


def small_run(**asked: Any) -> Run:
    """V3-Small alone."""
    return factory.whole_run(factory.request(("v3-small",), (), **asked), epochs=1, rounds=1, calls=2)


def section_of(run: Run) -> str:
    return "\n\n".join(memory.section(Summary(run)))


def rows_of(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[part.strip() for part in line.strip("|").split(" | ")] for line in lines]


def row_of(text: str, first: str) -> list[str]:
    """The row that begins with this cell, notes left out."""
    (found,) = (row for row in rows_of(text) if re.sub(r"<sup>.*?</sup>", "", row[0]) == first)
    return [re.sub(r"<sup>.*?</sup>", "", part) for part in found]


def test_nothing_counted_and_one_size_is_nothing_said() -> None:
    assert section_of(small_run()) == ""
    run = small_run()
    run.add(counted())
    run.activations = [msgspec.structs.replace(counted(), steps=())]
    assert section_of(run) == ""


def test_the_networks_table_says_where_the_peak_is() -> None:
    run = small_run()
    run.add(counted())
    layers = (
        LayerCost("0", "Conv2d", 1, 1, 1, (16, 112, 112), (3, 224, 224)),
        LayerCost("1", "Conv2d", 1, 1, 1, (8, 8, 8), (16, 112, 112)),
        LayerCost("2", "BatchNorm2d", 0, 1, 0, (99, 224, 224), (99, 224, 224)),
    )
    (facts,) = run.variants
    assert facts.complexity is not None
    run.variants = [
        msgspec.structs.replace(facts, complexity=msgspec.structs.replace(facts.complexity, layers=layers))
    ]
    networks = section_of(run).partition("**One layer")[0]
    assert row_of(networks, "v3-small") == [
        *("v3-small", "1", "10.0", "0.602", "4.60", "`features.2.block`", "1.40")
    ]


def test_a_record_without_layer_inputs_says_so() -> None:
    run = small_run()
    run.add(counted())
    text = section_of(run)
    assert row_of(text.partition("**One layer")[0], "v3-small")[-1] == "–"
    assert "its layers' inputs were not recorded" in text


def test_the_dearest_steps_come_first_with_what_they_add() -> None:
    run = small_run()
    run.add(counted())
    text = section_of(run).partition("**Above runtime**")[0]
    assert "The 8 of 10 steps of v3-small with the highest peak:" in text
    dearest = rows_of(text.partition("The 8 of")[2])[2:]
    assert len(dearest) == 8
    # Before it 2 MB were live beside the input.
    assert dearest[0] == ["`features.2.block`", "BatchNorm2d", "2.60", "4.60", "2.00", "3.60"]
    # Equal ones stay in the order they ran, and the first one begins with the input alone.
    assert dearest[1] == ["`features.0.block`", "Conv2d", "0.602", "3.60", "3.00", "1.60"]


def test_networks_that_nobody_asked_for_fold() -> None:
    run = factory.whole_run(epochs=1, rounds=1, calls=2)
    for variant in ("v1", "v3-large", "v3-small"):
        run.add(counted(variant))
    text = section_of(run)
    assert "<details><summary>The 8 of 10 steps of v1 with the highest peak</summary>" in text
    assert "<details><summary>Memory of v1 by backend, least first</summary>" in text
    assert "\n\nMemory of v3-large by backend, least first:" in text
    assert text.index("of v3-large with") < text.index("of v3-small with") < text.index("of v1 with")


def test_the_rest_is_what_no_part_explains_and_may_be_negative() -> None:
    run = small_run()
    run.add(counted())
    inspect(run, {("eager", 1, 224): 30, ("onnxruntime", 1, 224): 25, ("onnxruntime-int8", 1, 224): 24})
    text = section_of(run).partition("**Above runtime**")[2]
    held = f"{8 * INPUT / MB:.2f}"
    # 30 - 10 of weights - 8 inputs - 4 of activations; an int8 cell's weights are its artifact's 21.9 MB.
    assert row_of(text, "`eager`") == ["`eager`", "fp32", "200", "30.0", "10.0", held, "4.00", "11.2"]
    assert row_of(text, "`onnxruntime-int8`")[2:] == ["200", "24.0", "21.9", held, "4.00", "−6.72"]
    assert [row[0] for row in rows_of(text)[2:]] == ["`onnxruntime-int8`", "`onnxruntime`", "`eager`"]
    assert "A rest below zero means that the runtime holds less" in text
    inspect(run, {("onnxruntime-int8", 1, 224): 40})
    assert "below zero" not in section_of(run)


def test_cells_without_a_figure_are_left_out_or_explained() -> None:
    run = small_run()
    run.add(counted())
    eager, ort, int8 = run.cells.values()
    eager.inspected = None
    ort.failure = factory.failure(ort.cell)
    int8.prepared = None
    text = section_of(run)
    table = text.partition("**Above runtime**")[2]
    assert "`eager`" not in table
    assert "`onnxruntime`" not in table
    assert row_of(table, "`onnxruntime-int8`")[4] == "–"
    assert row_of(table, "`onnxruntime-int8`")[-1] == "–"
    assert "its artifact's size was not recorded" in table
    int8.inspected = None
    assert "**Above runtime**" not in section_of(run)


def test_a_cell_on_another_device_has_its_tensors_elsewhere() -> None:
    run = small_run(backends=("eager",))
    run.add(counted())
    (record,) = run.cells.values()
    record.cell = msgspec.structs.replace(record.cell, device="cuda")
    assert "**Above runtime**" not in section_of(run)


def test_one_more_image_adds_inputs_activations_and_what_is_left() -> None:
    run = small_run(batch_sizes=(1, 8, 16), backends=("eager", "onnxruntime"))
    run.add(counted())
    inspect(run, {("eager", 1, 224): 30, ("eager", 8, 224): 100, ("eager", 16, 224): 100.5})
    inspect(run, {("onnxruntime", 1, 224): 60, ("onnxruntime", 8, 224): 30, ("onnxruntime", 16, 224): 130})
    text = section_of(run).partition("What one more image in the batch adds:")[2]
    steps = rows_of(text)[2:]
    held = f"{(4 * 8 - 8) * INPUT / 7 / MB:.2f}"
    left = f"{10 - (4 * 8 - 8) * INPUT / 7 / MB - 4:.2f}"
    assert steps[0] == ["v3-small", "`eager`", "batch 1 → 8", "10.0", held, "4.00", left]
    # From 8 to 16 images the same 32 are held; half a MB is what a peak moves by itself.
    assert steps[1][2:5] == ["batch 8 → 16", "0.0625<sup>a</sup>", "0"]
    assert "as much as it moves by itself" in text
    assert steps[2][3] == "−4.29"
    assert "What a higher resolution adds" not in section_of(run)


def test_a_resolution_step_is_of_the_whole_call() -> None:
    run = small_run(resolutions=(160, 224), backends=("eager",), threads=(1, 2))
    inspect(run, {("eager", 1, 160): 20, ("eager", 1, 224): 28})
    text = section_of(run)
    assert "Activations are counted" not in text  # nothing was
    assert "What one more image" not in text
    steps = rows_of(text)[2:]
    assert [step[2] for step in steps] == ["160 → 224, 1 thread", "160 → 224, 2 threads"]
    assert steps[0][3] == "8.00"
    assert steps[0][4].startswith("–")
    assert "activations were not counted at both" in text
    small = tuple(msgspec.structs.replace(step, peak_bytes=step.peak_bytes // 2) for step in counted().steps)
    run.add(msgspec.structs.replace(counted(), resolution=160, input_bytes=INPUT // 2, steps=small))
    run.add(counted())
    steps = rows_of(section_of(run).partition("What a higher resolution adds:")[2])[2:]
    assert steps[0][3:] == ["8.00", f"{4 * INPUT / MB:.2f}", "2.00", f"{8 - 4 * INPUT / MB - 2:.2f}"]


def test_a_count_of_the_cells_own_batch_is_preferred() -> None:
    run = small_run(batch_sizes=(1, 4), backends=("eager",))
    run.add(counted())
    other = counted(batch=4)
    run.add(
        msgspec.structs.replace(
            other, steps=(MemoryStep("0", "Conv2d", 4 * INPUT, 4 * INPUT + 30 * MB), *other.steps[1:])
        )
    )
    text = section_of(run).partition("**Above runtime**")[2]
    assert row_of(text, "`eager` (batch 4)")[6] == "30.0"
    assert row_of(text, "`eager` (batch 1)")[6] == "4.00"


@pytest.mark.parametrize("batch", [1, 2, 3, 8, 16, 31, 32, 64])
def test_the_inputs_held_are_those_that_a_worker_stages(batch: int) -> None:
    assert memory.staged(batch) == len(inputs.batch_indices(inputs.COUNTS["measure"], batch))


def test_a_network_with_inputs_of_its_own() -> None:
    run = factory.own_run()
    run.add(msgspec.structs.replace(counted("tokens_model.onnx", 0), batch=4))
    text = section_of(run)
    table = text.partition("**Above runtime**")[2]
    assert row_of(table, "`onnxruntime`")[5:] == ["–", "4.00", "–"]
    assert "its inputs are its own" in text


def test_hostile_names_stay_names() -> None:
    run = small_run(batch_sizes=(1, 2))
    worst = MemoryStep(factory.HOSTILE, factory.HOSTILE, 9 * MB, 9 * MB)
    nameless = MemoryStep("", "", 1 * MB, 8 * MB)
    run.add(counted(steps=(worst, nameless)))
    text = section_of(run)
    assert "<script>" not in text
    assert "@someone" not in text
    assert "(the network itself)" in text
    assert "not told" in text
    widths = {len(row) for row in rows_of(text.partition("The 2 of 2")[2].partition("**Above")[0])}
    assert widths == {6}
    summary = Summary(run)
    chart = memory_chart.memory_chart(summary, memory_chart.chosen(summary))
    assert chart is not None
    ET.fromstring(charts.to_svg(chart))


def test_many_cells_fold() -> None:
    run = small_run(backends=tuple(f"eager:switch={n}" for n in range(70)))
    run.add(counted())
    text = section_of(run)
    assert "<details><summary>Memory of v3-small by backend, least first</summary>" in text
    assert "Not printed: 10 rows." in text


def test_every_dash_is_explained() -> None:
    run = small_run(batch_sizes=(1, 8))
    run.add(counted())
    for record in run.cells.values():
        record.prepared = None
    text = section_of(run)
    assert not re.search(r"\| –(?!<sup>)", text)


def drawn(run: Run) -> dict[str, Any]:
    summary = Summary(run)
    chart = memory_chart.memory_chart(summary, memory_chart.chosen(summary))
    assert chart is not None
    specification: dict[str, Any] = chart.to_dict()
    return specification


def test_the_chart_has_a_panel_a_network_on_one_scale() -> None:
    run = factory.whole_run(epochs=1, rounds=1, calls=2)
    run.add(counted("v1", steps=(MemoryStep("a.b.c", "Conv2d", MB, 20 * MB), *counted().steps)))
    run.add(counted("v3-small"))
    panels = drawn(run)["vconcat"]
    assert [panel["title"]["text"].partition(":")[0] for panel in panels] == ["v3-small", "v1"]
    scales = {str(layer["encoding"]["y"]["scale"]["domain"]) for panel in panels for layer in panel["layer"]}
    assert scales == {"[0, 25.0]"}
    values = panels[0]["layer"][0]["data"]["values"]
    assert values[2] == {
        "module": "features.2.block",
        "kind": "BatchNorm2d",
        "start": 2,
        "end": 3,
        "live": 3.602112,
        "peak": 4.602112,
    }
    # Ten MB of weights fit the scale, so they are a line.
    assert all("(dashed)" in panel["title"]["text"] for panel in panels)
    summary = Summary(run)
    chart = memory_chart.memory_chart(summary, memory_chart.chosen(summary), charts.DARK)
    assert chart is not None
    shown = "".join(ET.fromstring(charts.to_svg(chart)).itertext())
    assert "20.0 MB in a.b.c" in shown
    assert "4.60 MB in features.2.block" in shown
    assert "PyTorch eager, batch 1, 224 × 224" in shown


def test_weights_beyond_the_scale_are_only_told() -> None:
    run = small_run()
    run.add(counted())
    (panel,) = drawn(run)["vconcat"]
    assert "weights 10.0 MB (beyond the scale)" in panel["title"]["text"]
    assert not [layer for layer in panel["layer"] if layer["mark"]["type"] == "rule"]


def test_the_peaks_name_stands_on_the_side_with_room() -> None:
    run = small_run()
    for late, side in ((False, "left"), (True, "right")):
        ordered = counted().steps[::-1] if late else counted().steps
        run.add(counted(steps=ordered))
        (panel,) = drawn(run)["vconcat"]
        (text,) = (layer["mark"] for layer in panel["layer"] if layer["mark"]["type"] == "text")
        assert text["align"] == side


def test_names_on_the_axis_have_room() -> None:
    place = count()
    many = tuple(MemoryStep(f"features.{next(place)}.x", "Conv2d", MB, MB) for _ in range(200))
    run = small_run()
    run.add(counted(steps=many))
    (panel,) = drawn(run)["vconcat"]
    values = panel["layer"][0]["encoding"]["x"]["axis"]["values"]
    assert values[0] == 0
    assert min(b - a for a, b in pairwise(values)) >= 0.11 * 200


def test_networks_stand_beside_each_other_only_where_called_alike() -> None:
    run = factory.whole_run(
        msgspec.structs.replace(factory.request(), resolutions=(160, 224)), epochs=1, rounds=1, calls=2
    )
    run.add(counted("v3-large", 160))
    run.add(counted("v3-large", 224))
    run.add(counted("v3-small", 224, batch=8))
    run.add(counted("v3-small", 224))
    run.add(counted("v1", 160))
    chosen = memory_chart.chosen(Summary(run))
    assert [(each.variant, each.resolution, each.batch) for each in chosen] == [
        ("v3-large", 224, 1),
        ("v3-small", 224, 1),
    ]


def test_nothing_to_draw() -> None:
    run = small_run()
    assert memory_chart.memory_chart(Summary(run), []) is None
    assert memory_chart.chosen(Summary(run)) == []
    run.add(counted(steps=(MemoryStep("", "GraphModule", MB, MB),)))
    assert memory_chart.memory_chart(Summary(run), run.activations) is None
    run.add(counted(steps=(MemoryStep("a", "Identity", 0, 0), MemoryStep("b", "Identity", 0, 0))))
    chart = memory_chart.memory_chart(Summary(run), run.activations)
    assert chart is not None
    assert "0 MB in a" in charts.to_svg(chart)
