"""What the HTML page costs: size, first chart beside an empty page with the same library, filtering, writing it.

Asked: 60 cells in at most 5 MB; the first chart within 1.5 x an empty page with the same library and chart; filtering
1,000 cells within a frame (16.7 ms); writing the report of 60 cells in at most 3 s, of 1,000 in at most 10 s.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from reports import factory
from reports.test_browser import BROWSER, DRIVER, FLAGS

from mnv3_reports import charts
from mnv3_reports.html.page import _library
from mnv3_reports.rundir import write_run
from mnv3_reports.summary import Summary
from mnv3_reports.writer import PAGE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from selenium.webdriver import Chrome

    from mnv3_reports.record import Run

ROUNDS = 7
FIRST_CHART = """
new MutationObserver((_, observer) => {
  if (document.querySelector("svg.marks")) {
    observer.disconnect();
    requestAnimationFrame(() => requestAnimationFrame(() => { window.firstChart = performance.now(); }));
  }
}).observe(document, { childList: true, subtree: true });
"""
# What each input takes until its rows are laid out, and what the frames after it take, in which more rows come.
FILTER = """
const done = arguments[arguments.length - 1];
const search = document.getElementById("filter"), table = document.querySelector("table.cells");
const frame = () => new Promise((next) => requestAnimationFrame((start) => {
  table.getBoundingClientRect();
  next(performance.now() - start);
}));
(async () => {
  const first = [], later = [];
  for (const text of ["int8", "", "v3 onnx", "", "v2", "nothing", ""]) {
    search.value = text;
    const start = performance.now();
    search.dispatchEvent(new Event("input"));
    table.getBoundingClientRect();
    first.push(performance.now() - start);
    for (let frames = 0; frames < 8; frames++) later.push(await frame());
  }
  done([first, later]);
})();
"""


def of_60_cells() -> Run:
    asked = factory.request(
        ("v3-large", "v3-small", "v3-small"), backends=tuple(factory.SPEEDUP), threads=(1, 2)
    )
    run = factory.whole_run(asked, epochs=4)
    assert 60 <= len(run.cells) <= 80
    return run


def of_1000_cells() -> Run:
    batches = tuple(range(1, 29))
    run = factory.whole_run(factory.request(backends=tuple(factory.SPEEDUP), batch_sizes=batches), epochs=3)
    assert len(run.cells) >= 1000
    return run


@pytest.fixture(scope="module", params=[of_60_cells, of_1000_cells], ids=["60", "1000"])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("run")
    write_run(request.param(), place)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "mnv3_bench.cli", "report", str(place)], check=True, capture_output=True
        )
        times.append(time.perf_counter() - start)
    size = (place / PAGE).stat().st_size
    print(
        f"\n{request.param.__name__}: report {min(times):.2f} to {max(times):.2f} s, page {size / 1e6:.2f} MB"
    )
    return place


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    if not (BROWSER and DRIVER):
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in FLAGS:
        options.add_argument(flag)
    driver = webdriver.Chrome(options, Service(DRIVER))
    driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": FIRST_CHART})
    yield driver
    driver.quit()


def first_chart(browser: Chrome, page: Path) -> float:
    """Milliseconds from the start of the navigation until the first chart was painted."""
    browser.get("about:blank")
    browser.get(page.as_uri())
    end = time.perf_counter() + 30
    while time.perf_counter() < end:
        found = browser.execute_script("return window.firstChart")
        if found:
            return float(found)
        time.sleep(0.02)
    raise AssertionError("no chart within 30 s")


def test_the_first_chart_and_filtering(directory: Path, browser: Chrome) -> None:
    from mnv3_reports.rundir import load_run

    summary = Summary(load_run(directory))
    chart = charts.latency_chart(summary, summary.settings[0])
    assert chart is not None
    spec = json.dumps(chart.to_dict()).replace("<", "\\u003c")
    empty = directory / "empty.html"
    empty.write_text(
        f"<!doctype html><div id=c></div><script>{_library()}</script>"
        f"<script>vegaEmbed('#c', {spec}, {{renderer: 'svg'}})</script>"
    )
    pages = {"page": directory / PAGE, "empty": empty}
    times: dict[str, list[float]] = {name: [] for name in pages}
    for _ in range(ROUNDS):
        for name, page in pages.items():
            times[name].append(first_chart(browser, page))
    ratios = [page / bare for page, bare in zip(times["page"], times["empty"], strict=True)]
    print(
        f"\nfirst chart: page {statistics.median(times['page']):.0f} ms, empty page with the same chart "
        f"{statistics.median(times['empty']):.0f} ms, ratio {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}, {ROUNDS} pairs)"
    )
    browser.get((directory / PAGE).as_uri())
    time.sleep(1)
    browser.execute_async_script(FILTER)  # once to warm up
    first, later = browser.execute_async_script(FILTER)
    print(
        f"filtering {len(summary.run.cells)} cells, layout included: {min(first):.1f} to {max(first):.1f} ms, "
        f"the frames after it at most {max(later):.1f} ms"
    )
