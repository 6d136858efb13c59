"""Scaling laws that are known: the tables show them, and knees are where they were put and nowhere else."""

from __future__ import annotations

import math
import random
import re
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import msgspec
import pytest
from reports import factory

from mnv3_reports import charts, scaling, scaling_chart, scaling_section
from mnv3_reports.record import Block, Cell, Model, Request, Run, VariantFacts
from mnv3_reports.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Callable

    from mnv3_reports.scaling import Axis, Sweep

    Law = Callable[[Cell], float]

EPOCHS, ROUNDS = 5, 3
NAMES = {"threads": "threads", "batch": "batch_sizes", "resolution": "resolutions", "width": "variants"}


def asked(axis: Axis, *values: object, backends: tuple[str, ...] = ("eager",)) -> Request:
    request = factory.request(("v3-small",), (), backends)
    return msgspec.structs.replace(request, **{NAMES[axis]: values})


def swept(
    request: Request,
    law: Law,
    *,
    noise: float = 0.002,
    drift: float = 0.0,
    epochs: int = EPOCHS,
    seed: int = 1,
) -> Run:
    """A run in which the settings are measured one after the other within an epoch, as a real one does.

    Args:
        request: what was asked for.
        law: the true seconds a call.
        noise: of each process, relative.
        drift: of each round, relative; cells of one setting share it.
        epochs: fresh processes a cell.
        seed: of noise and drift.
    """
    rng = random.Random(seed)
    run = Run.started(factory.header(request))
    for variant in dict.fromkeys((*request.variants, *request.references)):
        for resolution in request.resolutions:
            run.add(counted(variant, resolution))
    settings: dict[str, list[Cell]] = {}
    for record in run.cells.values():
        settings.setdefault(record.cell.setting, []).append(record.cell)
    for epoch in range(epochs):
        number = 0
        for cells in settings.values():
            offsets = {cell.key: rng.gauss(0, noise) for cell in cells}
            for _ in range(ROUNDS):
                shared = rng.gauss(0, drift)
                for cell in cells:
                    run.add(one_block(cell, epoch, number, law(cell) * math.exp(shared + offsets[cell.key])))
                number += 1
    run.add(factory.finished())
    return run


def one_block(cell: Cell, epoch: int, number: int, seconds: float) -> Block:
    return factory.block(cell, epoch, number, (round(seconds * 1e9),) * 3)


def counted(variant: str, resolution: int) -> VariantFacts:
    """Facts with MACs that grow as width and resolution squared."""
    network, width = scaling.width_of(variant)
    facts = factory.facts(network if network in factory.MACS else "v3-small", resolution)
    assert facts.complexity is not None
    macs = round(1_000_000 * (width * resolution) ** 2 / 224**2)
    return msgspec.structs.replace(
        facts, variant=variant, complexity=msgspec.structs.replace(facts.complexity, macs=macs)
    )


def of(run: Run, axis: Axis) -> Sweep:
    (found,) = scaling.sweeps(Summary(run), axis)
    return found


def section_of(run: Run) -> str:
    return "\n\n".join(scaling_section.section(Summary(run)))


def amdahl(serial: float) -> Law:
    return lambda cell: 8e-3 * (serial + (1 - serial) / cell.threads)


def timed(seconds: dict[int, float]) -> Law:
    return lambda cell: seconds[cell.threads]


def saturating(most: int) -> Law:
    return lambda cell: 8e-3 / min(cell.threads, most)


def test_perfect_scaling_has_no_knee() -> None:
    run = swept(asked("threads", 1, 2, 4, 8), saturating(99))
    found = of(run, "threads")
    assert [point.value for point in found.points] == [1, 2, 4, 8]
    for point in found.points:
        assert point.relative is not None
        assert point.relative.estimate == pytest.approx(point.value, rel=0.01)
        assert point.share == pytest.approx(1.0, rel=0.01)
    assert found.knee is not None
    assert (found.knee.kind, found.knee.low) == ("none", 8)
    text = section_of(run)
    assert "- **No knee** up to 8 threads (every step pays): `eager` (v3-small)." in text
    assert "| none up to 8 |" in text
    assert "### Threads" in text
    assert "### Batch" not in text


def test_threads_that_stop_paying_are_named_with_the_step() -> None:
    run = swept(asked("threads", 1, 2, 4, 8), saturating(4))
    knee = of(run, "threads").knee
    assert knee is not None
    assert (knee.kind, knee.low) == ("knee", 4)
    assert knee.evidence[0].figure is not None
    assert knee.evidence[0].figure.estimate == pytest.approx(1.0, rel=0.01)
    said = (
        r"- \*\*v3-small on `eager`: knee at 4 threads\*\* "
        r"\(the step to 8 gives (1\.00|0\.99\d) \[.*\] of an ideal 2\)\."
    )
    assert re.search(said, section_of(run))
    assert "The run could use 2 logical CPUs; the machine has 1 physical core." in section_of(run)


@pytest.mark.parametrize(("serial", "knee"), [(0.02, "none"), (0.25, 2), (0.5, 1)])
def test_amdahls_law_bends_where_half_of_the_added_speed_is_lost(serial: float, knee: object) -> None:
    found = of(swept(asked("threads", 1, 2, 4, 8), amdahl(serial), noise=1e-4), "threads").knee
    assert found is not None
    gains = {n: amdahl(serial)(cell(n)) / amdahl(serial)(cell(2 * n)) for n in (1, 2, 4)}
    expected = next((n for n, gain in gains.items() if gain < 1.5), "none")
    assert expected == knee
    assert (found.low if found.kind == "knee" else found.kind) == knee


def cell(threads: int) -> Cell:
    return Cell("v3-small", "eager", threads=threads)


def test_steps_that_are_no_doubling_have_their_own_ideal() -> None:
    # From 2 to 3 threads the ideal is 1.5 and half of what it adds is 1.25.
    for gain, kind in ((1.3, "none"), (1.2, "knee")):
        knee = of(swept(asked("threads", 1, 2, 3), timed({1: 8e-3, 2: 4e-3, 3: 4e-3 / gain})), "threads").knee
        assert knee is not None
        assert knee.kind == kind


def test_noise_too_wide_is_no_knee() -> None:
    run = swept(asked("threads", 1, 2, 4), amdahl(0.5), noise=0.5, epochs=3)
    knee = of(run, "threads").knee
    assert knee is not None
    assert knee.kind == "unclear"
    text = section_of(run)
    assert "knee at" not in text
    assert re.search(
        r"- v3-small on `eager`: \*\*no telling\*\* where the knee is, .* and pays from 1\.5 on", text
    )
    assert "| no telling |" in text


def test_an_unclear_step_before_a_clear_end_bounds_the_knee() -> None:
    # The step to 2 lies on the rule itself; the one to 4 brings nothing.
    run = swept(asked("threads", 1, 2, 4), timed({1: 1.5e-3, 2: 1e-3, 4: 1e-3}), noise=0.01)
    knee = of(run, "threads").knee
    assert knee is not None
    assert (knee.kind, knee.low, knee.high) == ("unclear", 1, 2)
    assert "between 1 thread and 2 threads" in section_of(run)


def test_one_epoch_has_ratios_and_no_knee() -> None:
    run = swept(asked("threads", 1, 2, 4), saturating(2), epochs=1)
    text = section_of(run)
    assert "one epoch only" in text
    assert "knee at" not in text
    assert "no telling" in text


def test_cells_that_no_epoch_shares_have_no_ratio() -> None:
    run = swept(asked("threads", 1, 2, 4), saturating(4))
    run.blocks = [
        msgspec.structs.replace(block, epoch=block.epoch + 100)
        if Cell.from_key(block.cell).threads == 2
        else block
        for block in run.blocks
    ]
    text = section_of(run)
    assert "no epoch timed both" in text
    assert scaling_chart.scaling_chart(Summary(run), "threads") is not None


def test_epochs_are_compared_with_themselves() -> None:
    """Every epoch is slower than the last by a fifth: a ratio of independent medians would be hopeless."""
    run = swept(asked("threads", 1, 2, 4), saturating(2), noise=1e-3)
    run.blocks = [
        msgspec.structs.replace(
            block, samples_ns=tuple(round(value * 1.2**block.epoch) for value in block.samples_ns)
        )
        for block in run.blocks
    ]
    found = of(run, "threads")
    assert found.points[1].latency.high > 1.2 * found.points[1].latency.low
    assert found.points[1].relative is not None
    assert found.points[1].relative.high < 1.01 * found.points[1].relative.low
    assert found.knee is not None
    assert (found.knee.kind, found.knee.low) == ("knee", 2)


def test_widths_are_compared_within_their_rounds() -> None:
    """Rounds drift by a quarter; cells of one setting share it."""
    run = swept(asked("width", "v3-small@0.5", "v3-small"), lambda cell: 1e-3, noise=0, drift=0.25)
    relative = of(run, "width").points[0].relative
    assert relative is not None
    assert relative.high - relative.low < 1e-4


def overhead(fixed: float) -> Law:
    """A call with a fixed cost beside that of its images."""
    return lambda cell: fixed + 1e-3 * cell.batch


def test_the_smallest_batch_near_the_best_throughput() -> None:
    # images/s of the best (32): batch 1 has 52 %, 2 has 68 %, 4 has 82 %, 8 has 91.7 %, 16 has 97.1 %.
    run = swept(asked("batch", 1, 2, 4, 8, 16, 32), overhead(1e-3))
    found = of(run, "batch")
    knee = found.knee
    assert knee is not None
    assert (knee.kind, knee.low) == ("knee", 16)
    assert [step.before for step in knee.evidence] == [8, 16]
    text = section_of(run)
    assert re.search(
        r"\*\*v3-small on `eager`: knee at batch 16\*\* \(94\d \[.*\] images/s; batch 8 has 0\.91\d \[.*\] of the "
        r"images/s of batch 32; batch 16 has 0\.97\d",
        text,
    )
    (row,) = re.findall(r"^\| v3-small \| `eager` \| 2\.0\d ms \(4?\d\d/s\) .*$", text, re.MULTILINE)
    assert re.search(r"\| 0\.(749|75\d) \[.*?\] \(66\d/s\) \|", row)
    assert "<summary>images/s behind it</summary>" in text


def test_throughput_that_still_rises_has_no_knee_and_one_that_falls_has_an_early_one() -> None:
    rising = swept(asked("batch", 1, 2, 4), overhead(4e-3))
    assert (
        "**No knee** up to batch 4 (every smaller batch has less than 95 % of another's images/s)"
        in section_of(rising)
    )
    falling = swept(asked("batch", 1, 2, 4), lambda cell: 1e-3 * cell.batch**1.3)
    assert "knee at batch 1** (" in section_of(falling)
    assert re.search(
        r"\[.*\] images/s; batch 1 has 1\.2\d \[.*\] of the images/s of batch 2\)", section_of(falling)
    )


def test_batches_that_cannot_be_told_apart() -> None:
    run = swept(asked("batch", 1, 2, 4), overhead(1e-3), noise=0.5, epochs=3)
    knee = of(run, "batch").knee
    assert knee is not None
    assert (knee.kind, knee.low) == ("unclear", 1)
    assert "knee at" not in section_of(run)
    assert "**no telling** where the knee is, from batch 1 on, or nowhere (batch 1 has" in section_of(run)


def test_resolution_has_an_exponent_and_no_knee_while_time_follows_macs() -> None:
    run = swept(asked("resolution", 128, 160, 224), lambda cell: 1e-7 * cell.resolution**2)
    found = of(run, "resolution")
    assert found.exponent is not None
    assert found.exponent.estimate == pytest.approx(2, abs=0.02)
    assert found.exponent.bounded
    assert found.points[-1].share == pytest.approx(1.0, rel=0.01)
    assert "**No knee** up to 224 × 224 (no step's time grows over 10 % more than its work)" in section_of(
        run
    )


def test_a_step_that_falls_out_of_a_cache_is_the_knee() -> None:
    run = swept(
        asked("resolution", 128, 160, 192, 224),
        lambda cell: 1e-7 * cell.resolution**2 * (1.4 if cell.resolution >= 192 else 1),
    )
    knee = of(run, "resolution").knee
    assert knee is not None
    assert (knee.kind, knee.low) == ("knee", 160)
    assert re.search(
        r"knee at 160 × 160\*\* \(the step to 192 × 192 takes 1\.\d\d \[.*\] times as long a MAC\)",
        section_of(run),
    )


def test_pixels_stand_for_macs_that_nobody_counted() -> None:
    run = swept(asked("resolution", 128, 160, 224), lambda cell: 1e-7 * cell.resolution**2)
    run.variants = []
    found = of(run, "resolution")
    assert found.work == "pixel"
    assert found.knee is not None
    assert found.knee.kind == "none"
    assert re.search(r"\((0\.99\d|1\.0\d) a pixel\)", section_of(run))


WIDTHS = ("v3-small@0.5", "v3-small@0.75", "v3-small", "v3-small@1.25")


def test_widths_are_relative_to_the_whole_network() -> None:
    def law(cell: Cell) -> float:
        return 1e-3 * scaling.width_of(cell.variant)[1] ** 2

    run = swept(asked("width", *WIDTHS), law)
    found = of(run, "width")
    assert found.network == "v3-small"
    assert [point.value for point in found.points] == [0.5, 0.75, 1.0, 1.25]
    assert found.reference.cell.variant == "v3-small"
    assert found.exponent is not None
    assert found.exponent.estimate == pytest.approx(1, abs=0.01)
    assert found.points[0].relative is not None
    assert found.points[0].relative.estimate == pytest.approx(0.25, rel=0.01)
    text = section_of(run)
    assert (
        "| network | backend | width 0.5 | width 0.75 | width 1 | width 1.25 | exponent k [95 %] | knee |"
        in text
    )
    assert re.search(r"\| v3-small \| `eager` \| 0\.2\d+ \[.*?\] \((0\.99\d|1\.0\d) a MAC\) \|", text)


def test_a_wider_network_that_is_dearer_a_mac() -> None:
    def law(cell: Cell) -> float:
        width = scaling.width_of(cell.variant)[1]
        return 1e-3 * width**2 * (1.3 if width == 1.25 else 1)

    knee = of(swept(asked("width", *WIDTHS), law), "width").knee
    assert knee is not None
    assert (knee.kind, knee.low) == ("knee", 1.0)


def test_widths_without_counted_macs_have_no_rule() -> None:
    run = swept(asked("width", *WIDTHS), lambda cell: 1e-3)
    run.variants = []
    text = section_of(run)
    assert "No knee is looked for without counted MACs: `eager` (v3-small)." in text
    assert "MACs were not counted" in text
    assert "knee at" not in text


def test_names_with_widths() -> None:
    assert scaling.width_of("v3-small-no-se@0.75") == ("v3-small-no-se", 0.75)
    assert scaling.width_of("v2") == ("v2", 1.0)
    assert scaling.width_of("tokens@nan") == ("tokens@nan", 1.0)
    run = swept(asked("width", "net@2.onnx", "net@3", "net@4"), lambda cell: 1e-3)
    request = run.header.request
    models = {name: Model("onnx", name, ()) for name in ("net@3", "net@4")}
    run.header = msgspec.structs.replace(run.header, request=msgspec.structs.replace(request, models=models))
    assert scaling.sweeps(Summary(run), "width") == []


def test_one_value_is_no_sweep() -> None:
    for run in (factory.whole_run(), factory.own_run(), Run.started(factory.header())):
        summary = Summary(run)
        assert list(scaling_section.section(summary)) == []
        for axis in scaling.AXES:
            assert scaling.sweeps(summary, axis) == []
            assert scaling_chart.scaling_chart(summary, axis) is None
    run = swept(asked("threads", 1, 2), saturating(2))
    run.add(factory.failure(cell(2)))
    assert section_of(run) == ""


def test_two_values_make_a_table_without_a_knee() -> None:
    text = section_of(swept(asked("threads", 1, 2), saturating(2)))
    assert "- A knee takes 3 timed values: `eager` (v3-small)." in text
    assert "<sup>a</sup> a knee takes 3 timed values" in text
    assert "no telling" not in text


def test_a_failed_cell_in_the_middle_is_missing_with_a_note() -> None:
    run = swept(asked("threads", 1, 2, 4, 8), saturating(2))
    run.add(factory.failure(cell(4)))
    text = section_of(run)
    assert "–<sup>a</sup>" in text
    assert "<sup>a</sup> failed (prepare); see Failures" in text
    assert re.search(
        r"knee at 2 threads\*\* \(the step to 8 \(4 not timed\) gives \S+ \[.*\] of an ideal 4\)", text
    )


def test_a_failed_first_cell_leaves_the_next_as_reference() -> None:
    run = swept(asked("threads", 1, 2, 4, 8), saturating(99), epochs=3)
    run.add(factory.failure(cell(1)))
    found = of(run, "threads")
    assert found.reference.value == 2
    assert found.points[-1].share == pytest.approx(1.0, rel=0.01)


def test_other_settings_are_named_where_they_vary() -> None:
    request = msgspec.structs.replace(asked("threads", 1, 2, 4), batch_sizes=(1, 8))
    run = swept(request, lambda cell: cell.batch * saturating(2)(cell))
    text = section_of(run)
    assert "**v3-small on `eager`, batch 8: knee at 2 threads**" in text
    assert "| v3-small | `eager` | batch 8 |" in text
    assert "| v3-small | `eager` | 4 threads |" in text


def test_a_long_sweep_folds_and_ends() -> None:
    backends = tuple(f"eager:number={number}" for number in range(70))
    request = asked("threads", 1, 2, 4, backends=backends)
    text = section_of(swept(request, saturating(2), epochs=2, noise=1e-6))
    before, _, after = text.partition("<details><summary>More about knees</summary>")
    assert before.count("knee at") == scaling_section.OPEN
    assert "10 rows left out here" in after
    assert f"<summary>{scaling_section.MOST - scaling_section.OPEN} more rows</summary>" in after
    assert len(text) < 60_000


def test_requested_networks_come_first_and_fast_backends_before_slow_ones() -> None:
    request = msgspec.structs.replace(
        asked("threads", 1, 2, backends=("eager", "onnxruntime")), references=("v1",)
    )
    request = msgspec.structs.replace(
        request, variants=("v3-small", "v3-small-no-se"), ablated={"v3-small-no-se": "v3-small"}
    )
    run = swept(request, factory.seconds_of)
    found = scaling.sweeps(Summary(run), "threads")
    assert [(row.network, row.backend) for row in found][:3] == [
        ("v3-small", "onnxruntime"),
        ("v3-small", "eager"),
        ("v1", "onnxruntime"),
    ]
    assert found[-1].network == "v3-small-no-se"


NAME = factory.HOSTILE.replace("/", "").replace("?", "").replace("\n", " ")


def test_hostile_names_do_no_harm() -> None:
    request = msgspec.structs.replace(asked("threads", 1, 2, 4), variants=(NAME,))
    request = msgspec.structs.replace(request, backends=("eager", f"eager:{NAME}"))
    run = swept(request, saturating(2))
    text = section_of(run)
    assert "<script>" not in text
    assert "@someone" not in text
    tables = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} <= {6, 7}
    chart = scaling_chart.scaling_chart(Summary(run), "threads")
    assert chart is not None
    ET.fromstring(charts.to_svg(chart))


def everything() -> Run:
    """Every axis at once, on two networks and two backends."""
    request = factory.request(
        ("v3-small", "v3-small@0.5"),
        ("v2", "v2@0.5"),
        ("eager", "onnxruntime"),
        (1, 2, 4),
        (1, 16),
        (160, 224),
    )

    def law(cell: Cell) -> float:
        most = {"eager": 2, "onnxruntime": 4}[cell.backend]
        speed: float = min(cell.threads, most) * {"eager": 1.0, "onnxruntime": 2.2}[cell.backend]
        size: float = (cell.resolution / 224) ** 2 * scaling.width_of(cell.variant)[1] ** 1.5
        return (0.4e-3 + 4e-3 * cell.batch * size / speed) * (1.6 if cell.variant.startswith("v2") else 1.0)

    return swept(request, law, epochs=3, noise=0.01)


@pytest.mark.parametrize("axis", scaling.AXES)
def test_every_axis_has_a_chart_with_its_lines(axis: Axis) -> None:
    summary = Summary(everything())
    chart = scaling_chart.scaling_chart(summary, axis, charts.DARK)
    assert chart is not None
    svg = charts.to_svg(chart)
    shown = ["".join(node.itertext()) for node in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert {scaling_chart.WORDS[axis].title, "eager", "onnxruntime"} <= set(shown)
    assert {"v3-small", "v2"} <= {text.partition(",")[0] for text in shown}
    assert any("more of these panels" in text for text in shown)


def test_rings_mark_the_knees_and_bands_the_intervals() -> None:
    run = swept(asked("threads", 1, 2, 4, 8), saturating(4))
    chart = scaling_chart.scaling_chart(Summary(run), "threads")
    assert chart is not None
    rows = chart.to_dict()["data"]["values"]
    assert [row["x"] for row in rows if row.get("knee")] == [4]
    assert all(row["low"] <= row["y"] <= row["high"] for row in rows if "y" in row)
    assert [(row["x"], row["guide"]) for row in rows if "guide" in row] == [(1, 1), (2, 2), (4, 4), (8, 8)]


def test_knees_at_one_point_have_rings_of_their_own() -> None:
    chart = scaling_chart.scaling_chart(
        Summary(swept(asked("threads", 1, 2, 4, backends=("eager", "onnxruntime")), saturating(1))), "threads"
    )
    assert chart is not None
    rings = [row["ring"] for row in chart.to_dict()["data"]["values"] if row.get("knee")]
    assert rings == [scaling_chart.RING, 2 * scaling_chart.RING]


def test_the_guide_of_resolutions_grows_as_macs() -> None:
    run = swept(asked("resolution", 112, 224), lambda cell: 1e-7 * cell.resolution, noise=0)
    chart = scaling_chart.scaling_chart(Summary(run), "resolution")
    assert chart is not None
    guide = [row["guide"] for row in chart.to_dict()["data"]["values"] if "guide" in row]
    assert guide[1] / guide[0] == pytest.approx(4, rel=1e-3)


def test_ablated_forms_are_in_no_chart() -> None:
    request = asked("threads", 1, 2)
    request = msgspec.structs.replace(
        request, variants=("v3-small", "v3-small-no-se"), ablated={"v3-small-no-se": "v3-small"}
    )
    chart = scaling_chart.scaling_chart(Summary(swept(request, saturating(2))), "threads")
    assert chart is not None
    assert {row["panel"] for row in chart.to_dict()["data"]["values"]} == {"v3-small"}
