"""Charts are drawn offline, from what was measured, and leave out what they must."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from reports import factory

from mnv3_reports import charts, pareto
from mnv3_reports.record import Cell
from mnv3_reports.rundir import write_run
from mnv3_reports.summary import Summary
from mnv3_reports.writer import write_report

if TYPE_CHECKING:
    from collections.abc import Callable


def texts(svg: str) -> list[str]:
    return ["".join(node.itertext()) for node in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_latency_shows_every_cell_and_network() -> None:
    summary = Summary(factory.whole_run())
    chart = charts.latency_chart(summary, summary.settings[0])
    assert chart is not None
    svg = charts.to_svg(chart)
    shown = texts(svg)
    assert {"v3-large", "v3-small", "v1", "v2", "eager", "onnxruntime", "onnxruntime-int8"} <= set(shown)
    for statistics in summary.statistics.values():
        assert f"{statistics.latency.estimate * 1e3:.3g}" in {text.rstrip("0").rstrip(".") for text in shown}
    assert 'fill="#ffffff"' in svg  # readable on a dark page


def test_a_tuned_form_is_a_diamond_on_its_backends_bar() -> None:
    run = factory.tuned_run()
    summary = Summary(run)
    chart = charts.latency_chart(summary, summary.settings[0])
    assert chart is not None
    svg = charts.to_svg(chart)
    shown = texts(svg)
    assert "onnxruntime" in shown
    assert not any("spinning" in text for text in shown)
    assert any("settings that tuning found" in text for text in shown)
    winner = run.tuned[0].winner
    assert winner is not None
    diamonds = [row for row in chart.to_dict()["data"]["values"] if "tuned" in row]
    found = summary.statistics[winner].latency.estimate * 1e3
    assert diamonds == [{"network": "v3-small", "backend": "onnxruntime", "tuned": found}]
    label = next(row for row in chart.to_dict()["data"]["values"] if row["backend"] == "onnxruntime")
    assert label["end"] > max(found, label["ms"])


def test_without_its_default_a_tuned_form_has_a_bar_of_its_own() -> None:
    run = factory.tuned_run()
    run.add(factory.failure(Cell("v3-small", "onnxruntime")))
    summary = Summary(run)
    chart = charts.latency_chart(summary, summary.settings[0])
    assert chart is not None
    assert any("spinning" in text for text in texts(charts.to_svg(chart)))


def test_a_bar_many_times_the_others_is_cut_and_says_so() -> None:
    run = factory.whole_run(factory.request(backends=tuple(factory.SPEEDUP)), epochs=2)
    slow = Cell("v1", "eager").key
    run.blocks = [
        msgspec.structs.replace(block, samples_ns=tuple(50 * value for value in block.samples_ns))
        if block.cell == slow
        else block
        for block in run.blocks
    ]
    summary = Summary(run)
    chart = charts.latency_chart(summary, summary.settings[0])
    assert chart is not None
    shown = texts(charts.to_svg(chart))
    assert sum(text.endswith(" →") for text in shown) == 1
    assert any("goes on beyond the edge" in text for text in shown)
    assert max(row["end"] for row in chart.to_dict()["data"]["values"]) < 100  # and not 900 ms


def test_an_interval_of_one_epoch_or_a_boundless_one_draws() -> None:
    for epochs in (1, 2):
        run = factory.whole_run(epochs=epochs, rounds=1, calls=1)
        run.blocks[0] = msgspec.structs.replace(run.blocks[0], samples_ns=(10**12,))
        summary = Summary(run)
        chart = charts.latency_chart(summary, summary.settings[0])
        assert chart is not None
        assert "NaN" not in charts.to_svg(chart)


def test_there_is_no_chart_of_nothing() -> None:
    run = factory.whole_run(epochs=1, rounds=1, calls=1)
    setting = Summary(run).settings[0]
    run.variants = []
    assert pareto.pareto_chart(Summary(run), setting) is None
    run.blocks = []
    assert charts.latency_chart(Summary(run), setting) is None


@pytest.mark.parametrize("threads", [(1,), (1, 2)])
def test_the_writer_links_the_charts_it_wrote(tmp_path: Path, threads: tuple[int, ...]) -> None:
    write_run(factory.whole_run(factory.request(threads=threads), epochs=2), tmp_path)
    written = write_report(tmp_path)
    names = sorted(path.name for path in written)
    expected = ["latency.svg", "pareto.svg"]
    if len(threads) == 2:
        expected = [f"{kind}-cpu-threads{n}-batch1-224.svg" for kind in ("latency", "pareto") for n in (1, 2)]
        expected.append("scaling-threads.svg")
    dark = [name.replace(".svg", "-dark.svg") for name in expected]
    assert names == sorted([*expected, *dark, "report.html", "report.md"])
    report = (tmp_path / "report.md").read_text()
    for name in expected:
        assert f'src="charts/{name}"' in report
    for name in (*expected, *dark):
        assert f'"charts/{name}"' in report
        ET.parse(tmp_path / "charts" / name)


def test_the_dark_chart_is_the_light_one_in_other_colours() -> None:
    summary = Summary(factory.whole_run(epochs=2))
    light, dark = (
        charts.latency_chart(summary, summary.settings[0], theme) for theme in (charts.LIGHT, charts.DARK)
    )
    assert light is not None
    assert dark is not None
    assert light.to_dict()["data"] == dark.to_dict()["data"]
    assert texts(charts.to_svg(light)) == texts(charts.to_svg(dark))
    assert f'fill="{charts.DARK.background}"' in charts.to_svg(dark)
    for colour in (charts.LIGHT.ink, charts.LIGHT.background, *charts.LIGHT.palette[:1]):
        assert colour.lower() not in charts.to_svg(dark).lower()


def test_png_is_a_picture() -> None:
    summary = Summary(factory.whole_run(epochs=2))
    chart = charts.latency_chart(summary, summary.settings[0])
    assert chart is not None
    assert charts.to_png(chart).startswith(b"\x89PNG")


def test_a_child_process_writes_the_report(tmp_path: Path) -> None:
    write_run(factory.whole_run(epochs=2), tmp_path)
    command = [sys.executable, "-m", "mnv3_reports.writer"]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert [Path(line).name for line in done.stdout.splitlines()] == [
        "report.html",
        *("latency.svg", "latency-dark.svg", "pareto.svg", "pareto-dark.svg"),
        "report.md",
    ]
    for arguments, message in (([], "give one run directory"), ([str(tmp_path / "x")], "is no directory")):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert message in done.stderr


def test_a_chart_of_inputs_that_are_no_images_has_a_name_of_its_own(tmp_path: Path) -> None:
    run, images = factory.own_run(), factory.whole_run(factory.request(references=()), epochs=2)
    request = msgspec.structs.replace(images.header.request, models=run.header.request.models)
    images.header = msgspec.structs.replace(images.header, request=request)
    images.cells |= run.cells
    images.blocks += run.blocks
    write_run(images, tmp_path)
    names = {path.name for path in write_report(tmp_path)}
    assert "latency-cpu-threads1-batch1-own-inputs.svg" in names
    assert "1 thread, tokens 1x128 int64" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("make", [charts.latency_chart, pareto.pareto_chart])
def test_the_dark_form_is_the_light_one_in_other_colours_and_the_same_data(
    make: Callable[..., Any],
) -> None:
    run = factory.whole_run()
    summary = Summary(run)
    light, dark = (
        charts.to_spec(partial(make, summary, summary.settings[0]), theme)
        for theme in (charts.LIGHT, charts.DARK)
    )
    assert light is not None
    assert charts.darkened(light) == dark
    svg, dark_svg = charts.to_svg(light), charts.to_svg(charts.darkened(light))
    numbered = re.compile(r"clip\d+")
    assert numbered.sub("", charts.darkened_svg(svg)) == numbered.sub("", dark_svg)
    assert svg != charts.darkened_svg(svg)


def test_darkening_leaves_data_and_text_alone() -> None:
    spec = {"data": {"values": ({"name": "#0072B2"},)}, "color": "#0072B2", "title": ["#0072B2x"]}
    assert charts.darkened(spec) == {**spec, "color": charts.DARK.palette[0]}
    assert charts.darkened_svg('<text fill="#222222">#222222</text>') == '<text fill="#e6edf3">#222222</text>'
    assert len({*charts.LIGHT[:-1], *charts.LIGHT.palette}) == 5 + len(charts.LIGHT.palette)
