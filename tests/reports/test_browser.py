"""The page in a browser: what a reader does with a mouse, a keyboard, a phone and a printer."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from reports import factory

from mnv3_reports.record import Explained, OperatorCost, Profiled, ProfiledOperator
from mnv3_reports.rundir import write_run
from mnv3_reports.writer import write_report

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
REQUIRED = "MNV3_BENCH_REQUIRE_BROWSER"
"""Set where a browser was installed for these tests: that it is missing is a failure then."""
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER) and not os.environ.get(REQUIRED),
    reason="needs chromium and chromedriver: apt-get install chromium chromium-driver",
)
FLAGS = (
    *(
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--window-size=1280,1000",
    ),
    *(
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
    ),
)
PATIENCE = 20.0


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run with profiles, a failed cell and two settings."""
    directory = tmp_path_factory.mktemp("run")
    asked = factory.request(backends=tuple(factory.SPEEDUP), threads=(1, 2))
    run = factory.whole_run(asked, epochs=3)
    for record in run.cells.values():
        operators = (OperatorCost("Conv", 52, 0.004, "fp32"), OperatorCost("<b>Mul</b>", 9, 0.001))
        run.add(Explained(record.cell.key, "a profiler", operators, ("9 operators are <i>slow</i>",)))
        timed = tuple(
            ProfiledOperator("node", name, "depthwise", f"features.{place}", (), seconds, seconds, seconds)
            for place, (name, seconds) in enumerate([("Conv", 2e-3), ("<b>Mul</b>", 5e-4), ("Gemm", 1e-2)])
        )
        run.add(Profiled(record.cell.key, "a profiler", 30, timed, 2e-2, 2.1e-2, complete=True))
    run.add(factory.failure(run.cells[run.header.cells[-1]].cell, "load", tail="*** <detected>"))
    write_run(run, directory)
    write_report(directory)
    return directory / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    assert BROWSER is not None, "no chromium or google-chrome on the path"
    assert DRIVER is not None, "no chromedriver on the path"
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser: Chrome, page: Path) -> Iterator[Chrome]:
    """The page, drawn; nothing it did afterwards was an error, or a request to anywhere."""
    browser.set_window_size(1280, 1000)
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get("about:blank")
    browser.get(page.as_uri())
    until(browser, "return document.querySelector('[data-chart=\"0\"][data-drawn] svg') !== null")
    # Its tables are ready some frames after the first chart.
    until(browser, "return document.querySelector('table.cells tbody tr a') !== null")
    yield browser
    assert browser.get_log("browser") == []
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = message["params"]["request"]["url"]
            assert url.startswith(("file:", "data:", "blob:", "about:")), url


def until(browser: Chrome, script: str) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, PATIENCE, 0.05).until(lambda _: browser.execute_script(script))


def find(browser: Chrome, selector: str) -> WebElement:
    return browser.find_element("css selector", selector)


def column(browser: Chrome, place: int) -> list[str]:
    """Texts of a column of the rows that are shown."""
    script = (
        "return [...document.querySelectorAll('table.cells tbody tr')].filter(row => !row.hidden)"
        f".map(row => row.cells[{place}].textContent)"
    )
    found: list[str] = browser.execute_script(script)
    return found


def heading(browser: Chrome, text: str) -> WebElement:
    return next(
        head for head in browser.find_elements("css selector", "table.cells th") if head.text.startswith(text)
    )


def test_a_heading_sorts_by_number_both_ways_and_what_is_missing_comes_last(opened: Chrome) -> None:
    head = heading(opened, "median")
    place = opened.execute_script("return arguments[0].cellIndex", head)
    for expected in ("ascending", "descending"):
        head.find_element("tag name", "button").click()
        assert head.get_attribute("aria-sort") == expected
        found = column(opened, place)
        assert found[-1].startswith("–"), "the cell that failed"
        numbers = [float(text.split()[0].replace(",", "")) for text in found[:-1]]
        assert numbers == sorted(numbers, reverse=expected == "descending")


def test_the_keyboard_sorts_too(opened: Chrome) -> None:
    from selenium.webdriver.common.keys import Keys

    button = heading(opened, "backend").find_element("tag name", "button")
    opened.execute_script("arguments[0].focus()", button)
    button.send_keys(Keys.ENTER)
    found = column(opened, 1)
    assert found == sorted(found)


def test_filters_work_together_and_say_how_many_are_left(opened: Chrome) -> None:
    from selenium.webdriver.support.ui import Select

    every = len(column(opened, 0))
    find(opened, "#filter").send_keys("INT8 onnx")
    Select(find(opened, "select[data-column=network]")).select_by_visible_text("v2")
    backends = column(opened, 1)
    assert set(column(opened, 0)) == {"v2"}
    assert set(backends) == {"onnxruntime-int8", "onnxruntime-int8-dynamic"}
    assert find(opened, "#shown").text == f"{len(backends)} of {every} cells"
    find(opened, "#filter").clear()
    find(opened, "#filter").send_keys("nothing has this name")
    assert column(opened, 0) == []


def test_the_budget_names_the_best_choice_within_it_and_fades_the_others(opened: Chrome) -> None:
    slider = find(opened, "input[type=range]")
    figure = slider.get_attribute("data-figure")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", slider)
    until(opened, f"return document.querySelector('[data-chart=\"{figure}\"] svg') !== null")
    said = find(opened, ".budget output")
    assert said.text.startswith("Without a budget: v3-large on ")
    faded = f'return document.querySelectorAll(\'[data-chart="{figure}"] path[opacity="0.08"]\').length'
    assert opened.execute_script(faded) == 0
    opened.execute_script("arguments[0].value = 20; arguments[0].dispatchEvent(new Event('input'))", slider)
    until(opened, faded)
    assert said.text.startswith("Within ")
    assert "v3-small on onnxruntime-int8" in said.text
    opened.execute_script("arguments[0].value = 0; arguments[0].dispatchEvent(new Event('input'))", slider)
    assert said.text.endswith("nothing is as fast")


def test_hovering_a_bar_tells_the_cell_its_interval_and_how_much_was_measured(opened: Chrome) -> None:
    from selenium.webdriver import ActionChains

    bar = find(opened, '[data-chart="0"] .mark-rect path')
    ActionChains(opened).move_to_element(bar).perform()
    tip = until(opened, "return document.querySelector('#vg-tooltip-element.visible')?.textContent")
    assert "onnxruntime" in tip or "eager" in tip
    assert "[" in tip
    assert "epochs" in tip
    assert "calls" in tip


def test_a_cell_opens_with_its_turns_its_profile_and_what_failed(opened: Chrome) -> None:
    link = find(opened, "table.cells tbody tr a")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", link)
    link.click()
    until(opened, "return document.querySelector('#turns svg') !== null")
    cell = find(opened, "#cell")
    assert "Conv" in cell.text
    assert "80.0 %" in cell.text
    assert "<b>Mul</b>" in cell.text, "as text"
    assert "9 operators are <i>slow</i>." in cell.text
    assert opened.execute_script("return document.querySelectorAll('#cell b, #cell i').length") == 0
    assert opened.execute_script("return document.activeElement.tagName") == "H2"
    place = opened.execute_script("return arguments[0].cellIndex", heading(opened, "median"))
    failed = opened.execute_script(
        "const row = [...document.querySelectorAll('table.cells tbody tr')]"
        f".find(row => row.cells[{place}].textContent.startsWith('–'));"
        "location.hash = row.querySelector('a').hash; return row.dataset.cell"
    )
    until(opened, f"return document.querySelector('tr.chosen')?.dataset.cell === '{failed}'")
    assert "Failed (load)" in find(opened, "#cell").text
    assert "*** <detected>" in find(opened, "#cell").text


def test_a_cells_operators_stand_in_the_order_they_run_and_can_be_sorted(opened: Chrome) -> None:
    link = find(opened, "table.cells tbody tr a")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", link)
    link.click()
    table = until(
        opened,
        "return [...document.querySelectorAll('#cell h3')]"
        ".find(head => head.textContent === 'Operators, in the order they run')?.nextElementSibling",
    )

    def texts(place: int) -> list[str]:
        return [
            row.find_elements("tag name", "td")[place].text
            for row in table.find_elements("css selector", "tbody tr")
        ]

    assert texts(0) == ["1", "2", "3"]
    assert texts(1) == ["Conv", "<b>Mul</b>", "Gemm"], "as text"
    assert texts(2) == ["features.0", "features.1", "features.2"]
    assert texts(5) == ["10.0 %", "2.5 %", "50.0 %"]
    micros = next(head for head in table.find_elements("tag name", "th") if head.text == "µs")
    micros.find_element("tag name", "button").click()
    assert texts(4) == ["500", "2000", "10000"]
    micros.find_element("tag name", "button").click()
    assert texts(0) == ["3", "1", "2"]


def test_dark_and_light_are_a_click_apart_and_charts_follow(opened: Chrome) -> None:
    def colours() -> tuple[str, str]:
        body: str = opened.execute_script("return getComputedStyle(document.documentElement).backgroundColor")
        chart: str = opened.execute_script(
            "return getComputedStyle(document.querySelector('[data-chart=\"0\"] svg')).backgroundColor"
        )
        return body, chart

    before, button = colours(), find(opened, "#theme")
    button.click()
    until(opened, "return document.querySelector('[data-chart=\"0\"]').dataset.drawn === 'dark'")
    dark = colours()
    assert dark == ("rgb(13, 17, 23)", "rgb(13, 17, 23)")
    button.click()
    until(opened, "return document.querySelector('[data-chart=\"0\"]').dataset.drawn === 'light'")
    assert colours() == before != dark


def test_on_a_phone_only_tables_scroll_sideways(opened: Chrome) -> None:
    opened.set_window_size(500, 900)  # as narrow as its windows get
    wide = opened.execute_script(
        "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    assert wide == 0


def test_on_paper_everything_is_open_and_drawn(opened: Chrome) -> None:
    assert opened.execute_script("return document.querySelectorAll('.part details:not([open])').length") > 0
    opened.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert opened.execute_script("return document.querySelectorAll('.part details:not([open])').length") == 0
    until(opened, "return [...document.querySelectorAll('[data-chart]')].every(place => place.dataset.drawn)")


def test_every_control_has_a_name(opened: Chrome) -> None:
    for selector in ("button", "input", "select"):
        for control in opened.find_elements("css selector", selector):
            if control.is_displayed():
                assert control.accessible_name, control.get_attribute("outerHTML")
