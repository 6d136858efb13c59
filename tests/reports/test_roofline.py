"""Roofs made up so that every figure can be checked by hand."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from reports import factory

from mnv3_reports import charts
from mnv3_reports.record import Profiled, ProfiledOperator, Roof, Roofs, Run
from mnv3_reports.roofline import (
    KINDS,
    attainable,
    least,
    placed,
    roofline_chart,
    roofs_of,
    section,
    work,
)
from mnv3_reports.summary import Summary

if TYPE_CHECKING:
    from mnv3_reports.record import Cell

KIB = 1 << 10


def roof(name: str, giga: float, capacity: int = 0) -> Roof:
    return Roof(name, giga * 1e9, giga * 0.9e9, giga * 1.1e9, f"made up for {name}", capacity)


def roofs(threads: int = 1, **changed: Any) -> Roofs:
    """100 Gop/s in fp32, 400 in int8; 200 GB/s in 32 KiB, 50 in 1,024 KiB, 10 beyond."""
    given = {
        "compute": (roof("fp32", 100), roof("int8", 400)),
        "bandwidth": (roof("L1", 200, 32 * KIB), roof("L2", 50, 1024 * KIB), roof("memory", 10)),
        "seconds": 6.0,
        **changed,
    }
    return Roofs(threads=threads, **given)


ROOFS = roofs()


@pytest.mark.parametrize(
    ("precision", "operations", "moved", "rate", "bound"),
    [
        ("fp32", 1e9, 1000, 100e9, "compute"),
        ("int8", 1e9, 1000, 400e9, "compute"),
        # One operation a byte: the bandwidth of the level that holds the bytes.
        ("fp32", 32 * KIB + 1, 32 * KIB + 1, 50e9, "memory"),
        ("fp32", 10_000_000, 10_000_000, 10e9, "memory"),
        ("fp32", 5 * 10_000_000, 10_000_000, 50e9, "memory"),
        ("fp32", 11 * 10_000_000, 10_000_000, 100e9, "compute"),
        ("int8", 11 * 10_000_000, 10_000_000, 110e9, "memory"),
        # L1 gives 200 GB/s, which is more than the arithmetic at one operation a byte.
        ("fp32", 32 * KIB, 32 * KIB, 100e9, "compute"),
        ("fp32", 1000, 0, 100e9, "compute"),
        ("fp32", 0, 1000, 0.0, "memory"),
    ],
)
def test_attainable_is_the_lower_of_the_two_roofs(
    precision: str, operations: float, moved: float, rate: float, bound: str
) -> None:
    found = attainable(ROOFS, precision, operations, moved)
    assert found[0] == pytest.approx(rate)
    assert found[1] == bound


def test_on_the_ridge_both_roofs_are_equal_and_compute_is_named() -> None:
    rate, bound = attainable(ROOFS, "fp32", 10 * 10_000_000, 10_000_000)
    assert (rate, bound) == (100e9, "compute")


def test_the_roof_of_an_operator_is_named() -> None:
    moving = least(ROOFS, "fp32", 0, 33 * KIB)
    assert moving.seconds == pytest.approx(33 * KIB / 50e9)
    assert (moving.bound, moving.roof) == ("memory", "L2")
    arithmetic = least(ROOFS, "int8", 4e9, 10)
    assert arithmetic.seconds == pytest.approx(0.01)
    assert (arithmetic.bound, arithmetic.roof) == ("compute", "int8")


@pytest.mark.parametrize(
    ("precision", "name"),
    [
        ("int8", "int8"),
        ("int8 products, fp32 between operators", "int8"),
        ("fp16", "fp32"),
        ("bf16", "fp32"),
        ("", "fp32"),
    ],
)
def test_a_precision_without_a_roof_of_its_own_has_that_of_fp32(precision: str, name: str) -> None:
    assert roofs_of(ROOFS, precision, 1).compute.name == name


def test_without_a_memory_roof_the_last_level_stands_for_what_does_not_fit() -> None:
    only = roofs(bandwidth=(roof("L3", 30, 1 << 20),))
    assert roofs_of(only, "fp32", 1 << 30).bandwidth.name == "L3"


@pytest.mark.parametrize(
    ("operations", "moved", "changed"),
    [(0, 0, {}), (-1, 10, {}), (10, -1, {}), (1, 1, {"compute": ()}), (1, 1, {"bandwidth": ()})],
)
def test_no_work_and_no_roofs_are_refused(operations: int, moved: int, changed: Any) -> None:
    with pytest.raises(ValueError, match=r"no work|lack"):
        attainable(roofs(**changed), "fp32", operations, moved)


def operator(kind: str, seconds: float, macs: int = 0, moved: int = 0, **changed: Any) -> ProfiledOperator:
    return ProfiledOperator(
        name="op",
        operation="Conv",
        kind=kind,
        module="features.0",
        contains=(),
        seconds=seconds,
        lower=seconds,
        upper=seconds,
        macs=macs,
        bytes=moved,
        **changed,
    )


POINTWISE = operator("pointwise", 2e-3, 50_000_000, 1_000_000)
"""1 ms of arithmetic, 0.02 ms of L2: half of what is attainable."""
DEPTHWISE = operator("depthwise", 4e-3, 1_000_000, 10_000_000)
"""1 ms of memory, 0.02 ms of arithmetic: a quarter."""


def test_several_operators_take_the_sum_of_their_least_times() -> None:
    found = work(ROOFS, [POINTWISE, DEPTHWISE], "fp32")
    assert found.operations == 102_000_000
    assert found.bytes == 11_000_000
    assert found.intensity == pytest.approx(102 / 11)
    assert found.least_seconds == pytest.approx(2e-3)
    assert found.seconds == pytest.approx(6e-3)
    assert found.share == pytest.approx(1 / 3)
    # Equal parts.
    assert (found.bound, found.roof) == ("compute", "fp32")
    more = work(ROOFS, [POINTWISE, DEPTHWISE, DEPTHWISE], "fp32", 12e-3)
    assert (more.bound, more.roof) == ("memory", "memory")
    assert more.share == pytest.approx(0.25)


def test_an_operator_has_the_roof_of_its_own_precision() -> None:
    own = msgspec.structs.replace(POINTWISE, precision="int8")
    assert work(ROOFS, [own], "fp32").least_seconds == pytest.approx(0.25e-3)
    assert work(ROOFS, [POINTWISE], "int8").least_seconds == pytest.approx(0.25e-3)


def test_operators_without_known_work_count_their_time_alone() -> None:
    found = work(ROOFS, [POINTWISE, operator("other", 2e-3)], "fp32")
    assert found.share == pytest.approx(0.25)
    nothing = work(ROOFS, [operator("other", 2e-3)], "fp32")
    assert (nothing.share, nothing.intensity, nothing.bound) == (None, None, None)


def profiled(cell: Cell, *operators: ProfiledOperator, unmatched: str = "", plain: float = 8e-3) -> Profiled:
    return Profiled(cell.key, "made up", 30, operators, plain, plain * 1.1, True, (), unmatched)


def profiled_run(threads: tuple[int, ...] = (1,)) -> Run:
    asked = factory.request(("v3-small",), ("v2",), ("eager", "onnxruntime-int8"), threads)
    run = factory.whole_run(asked, epochs=2, rounds=2)
    for number, record in enumerate(list(run.cells.values())):
        run.add(
            profiled(
                record.cell, POINTWISE, DEPTHWISE, operator("reorder", 1e-3), plain=(4 + 4 * number) * 1e-3
            )
        )
    return run


def text_of(run: Run) -> str:
    return "\n\n".join(section(Summary(run)))


def test_nothing_is_said_without_roofs() -> None:
    assert text_of(profiled_run()) == ""
    assert roofline_chart(Summary(profiled_run()), 1) is None


def test_roofs_cells_and_kinds_have_a_row_each() -> None:
    run = profiled_run()
    run.add(roofs(notes=("L3 was | not measured",)))
    text = text_of(run)
    assert "### Roofs with 1 thread" in text
    assert "| fp32 | 100 Gop/s [90.0, 110] | made up for fp32 |" in text
    assert "| L2 bandwidth | 50.0 GB/s [45.0, 55.0] | made up for L2 |" in text
    assert "- L3 was &#124; not measured" in text
    # 2 ms least of 4 ms; 102 Mop.
    assert "| v3-small | `eager` | 4.00 | 2.00 | 25.5 | 9.27 | compute (fp32) | 50 |" in text
    # In int8 the arithmetic takes 0.25 ms, and memory 1 ms.
    assert "| v3-small | `onnxruntime-int8` | 8.00 | 1.25 | 12.8 | 9.27 | memory (memory) | 16 |" in text
    assert "| network | backend | pointwise % | depthwise % | reorder % |" in text
    assert "| v3-small | `eager` | 50 | 25 | –<sup>a</sup> |" in text
    assert "<sup>a</sup> MACs and bytes of these operators are not known" in text
    assert (
        "Nearest to its roofs: v3-small on `eager` (50 %); farthest from them: v2 on `onnxruntime-int8`"
        in text
    )
    assert re.search(r"median over these cells by kind of layer: pointwise \d+ %, depthwise 25 %\.", text)


def test_cells_are_under_the_roofs_of_their_threads() -> None:
    run = profiled_run((1, 2))
    run.add(roofs(2))
    summary = Summary(run)
    rows = placed(summary, run.roofs[0])
    assert {row.cell.threads for row in rows} == {2}
    assert len(rows) == 4
    assert "No roofs were measured for cells with this number of threads: 1." in text_of(run)
    assert roofline_chart(summary, 1) is None
    assert roofline_chart(summary, 2) is not None


def test_roofs_that_could_not_be_measured_are_said_to_be_missing() -> None:
    run = profiled_run()
    run.add(roofs(bandwidth=(), notes=("no compiler",)))
    text = text_of(run)
    assert "With 1 thread no roofs could be measured." in text
    assert "- no compiler" in text


def test_a_profile_that_was_not_matched_has_its_reason() -> None:
    run = profiled_run()
    cell = next(iter(run.cells.values())).cell
    run.add(profiled(cell, operator("convolution", 1e-3), unmatched="51 of <52> layers"))
    run.add(roofs())
    text = text_of(run)
    assert (
        "| `eager` | 8.00 | –<sup>a</sup> | –<sup>a</sup> | –<sup>a</sup> | –<sup>a</sup> | –<sup>a</sup> |"
        in text
    )
    assert "51 of &#60;52> layers" in text
    assert len(roofline_chart_points(run)) == 3


def test_failed_cells_and_other_devices_have_no_place() -> None:
    run = profiled_run()
    first, *_ = run.cells.values()
    run.add(factory.failure(first.cell))
    run.add(roofs())
    assert first.cell.key not in [row.cell.key for row in placed(Summary(run), run.roofs[0])]


def test_many_cells_are_folded_and_then_counted() -> None:
    backends = tuple(f"eager:number={number}" for number in range(35))
    run = factory.whole_run(factory.request(("v3-small",), ("v2",), backends), epochs=1, rounds=1)
    for record in list(run.cells.values()):
        run.add(profiled(record.cell, POINTWISE, DEPTHWISE))
    run.add(roofs())
    text = text_of(run)
    assert "<summary>48 more cells</summary>" in text
    assert text.count("10 more are left out here.") == 2


def test_hostile_names_do_no_harm() -> None:
    run = profiled_run()
    cell = next(iter(run.cells.values())).cell
    run.add(
        profiled(cell, msgspec.structs.replace(POINTWISE, kind=factory.HOSTILE), unmatched=factory.HOSTILE)
    )
    run.add(roofs(compute=(msgspec.structs.replace(roof("fp32", 100), method=factory.HOSTILE),)))
    text = text_of(run)
    assert "<script>" not in text
    assert not re.search(r"@someone", text)
    for line in text.splitlines():
        if line.startswith("| v3-small"):
            assert len(re.findall(r"(?<!\\)\|", line)) in (6, 7, 9)


def roofline_chart_points(run: Run) -> list[dict[str, Any]]:
    chart = roofline_chart(Summary(run), 1)
    assert chart is not None
    layers = chart.to_dict()["layer"]
    return [row for layer in layers for row in layer["data"]["values"] if "network" in row]


def test_the_chart_has_every_roof_and_every_cell() -> None:
    run = profiled_run()
    run.add(roofs())
    chart = roofline_chart(Summary(run), 1, charts.DARK)
    assert chart is not None
    svg = ET.fromstring(charts.to_svg(chart))
    shown = {"".join(node.itertext()) for node in svg.iter("{http://www.w3.org/2000/svg}text")}
    assert {
        "fp32, 100 Gop/s",
        "int8, 400 Gop/s",
        "L1, 200 GB/s",
        "L2, 50.0 GB/s",
        "memory, 10.0 GB/s",
    } <= shown
    points = roofline_chart_points(run)
    assert len(points) == 4
    assert points[0]["x"] == pytest.approx(102 / 11)
    assert points[0]["y"] == pytest.approx(25.5)
    assert points[0]["share"] == "50 %"
    spec = chart.to_dict()
    lines = [row for row in spec["layer"][0]["data"]["values"] if row["roof"] == "L2 bandwidth"]
    assert all(row["y"] == pytest.approx(50 * row["x"]) for row in lines)
    assert lines[-1]["y"] == pytest.approx(400)
    x, y = (spec["layer"][0]["encoding"][axis]["scale"]["domain"] for axis in "xy")
    for row in (*spec["layer"][0]["data"]["values"], *points):
        assert x[0] <= row["x"] * 1.0001
        assert row["x"] <= x[1]
        assert y[0] <= row["y"] * 1.0001
        assert row["y"] <= y[1]


def test_every_kind_of_the_record_has_a_place_among_the_columns() -> None:
    described = (
        "convolution pointwise depthwise linear squeeze-excitation normalization activation reorder other"
    )
    assert tuple(described.split()) == KINDS
