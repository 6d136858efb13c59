"""The report of whole and of degenerate runs: complete, honest, and without a hole."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec
import pytest
from reports import factory

from mnv3_reports.markdown import Picture, report_text
from mnv3_reports.record import Cell, Note, Run, RunResumed, Skipped
from mnv3_reports.summary import Summary
from mnv3_reports.terminal import plain_lines, summary_table

if TYPE_CHECKING:
    from collections.abc import Callable


def failing(run: Run) -> Run:
    for key in run.header.cells[::2]:
        run.add(factory.failure(run.cells[key].cell, "warm-up", tail="```\n*** stack smashing | detected\n"))
    return run


def all_failed() -> Run:
    run = Run.started(factory.header())
    for key in run.header.cells:
        run.add(factory.failure(run.cells[key].cell))
    run.add(factory.finished("failures", "nothing-left", None))
    return run


def without_fidelity() -> Run:
    run = factory.whole_run(epochs=2)
    for record in run.cells.values():
        record.inspected = factory.inspected(record.cell, steady=False)
    return run


def cut_off(entries: int) -> Run:
    run = factory.whole_run(epochs=2, rounds=2, calls=3)
    short = Run.started(run.header)
    for entry in factory.entries_of(run)[1:entries]:
        short.add(entry)
    return short


def interrupted() -> Run:
    run = factory.whole_run(epochs=1, rounds=1, calls=2)
    run.add(RunResumed("2026-01-02", factory.MACHINE, factory.SOFTWARE))
    run.add(Note("cgroup | throttling cannot\nbe read here"))
    run.add(factory.finished("partial", "interrupted", None))
    return run


def without_eager() -> Run:
    return factory.whole_run(factory.request(backends=("onnxruntime", "compile")), epochs=2)


def without_references() -> Run:
    return factory.whole_run(factory.request(references=()), epochs=2)


def only_references() -> Run:
    return factory.whole_run(factory.request(variants=("v1", "v2")), epochs=2)


def many_settings() -> Run:
    asked = factory.request(
        backends=("eager", "onnxruntime"), threads=(1, 2), batch_sizes=(1, 8), resolutions=(224, 192)
    )
    return factory.whole_run(asked, epochs=2, rounds=2, calls=4)


def lonely_cell() -> Run:
    asked = factory.request(variants=("v3-small",), references=(), backends=("compile",))
    return factory.whole_run(asked, epochs=1, rounds=1, calls=1)


def never_in_one_round() -> Run:
    run = factory.whole_run(factory.request(backends=("eager", "compile")), epochs=2, rounds=4)
    run.blocks = [b for b in run.blocks if (b.round % 2 == 0) == ("eager" in b.cell)]
    return run


def wild_samples() -> Run:
    """Epochs that differ by twelve orders of magnitude, ties, and faults that cost more than a call took."""
    run = Run.started(factory.header(factory.request(backends=("eager", "compile"))))
    for cell in (record.cell for record in run.cells.values()):
        run.add(factory.prepared(cell))
        run.add(factory.inspected(cell))
        run.add(factory.block(cell, 0, 0, (1, 1, 1), minor_faults=10**6, major_faults=3, mhz=800.0))
        run.add(factory.block(cell, 1, 0, (10**12,), disturbed=("a-mark-of-the-future",)))
    run.add(factory.finished("complete", "a-reason-of-the-future", 12.5))
    return run


def bare_machine() -> Run:
    machine = msgspec.structs.replace(
        factory.MACHINE,
        cpu="",
        isa=(),
        physical_cores=None,
        cpu_quota=1.5,
        memory_limit_bytes=1 << 30,
        swap_bytes=1 << 30,
        governor="powersave",
        hypervisor=None,
        gpus=("Imaginary GPU",),
    )
    software = msgspec.structs.replace(factory.SOFTWARE, packages={}, commit=None, environment={})
    asked = msgspec.structs.replace(
        factory.request(), weights={"v3-large": "large.pth"}, quick=True, cold=True
    )
    run = factory.whole_run(asked, epochs=2)
    run.header = msgspec.structs.replace(run.header, machine=machine, software=software)
    return run


def on_a_device() -> Run:
    run = factory.whole_run(epochs=2)
    for number, record in enumerate(run.cells.values()):
        assert record.inspected is not None
        size = 100_000_000 if number % 2 else None
        record.inspected = msgspec.structs.replace(record.inspected, device_peak_bytes=size, side_by_side=2)
    return run


def empty_features() -> Run:
    run = factory.whole_run(epochs=2)
    run.variants = [msgspec.structs.replace(v, features={"SE": ""}, published=()) for v in run.variants]
    return run


RUNS: dict[str, Callable[[], Run]] = {
    "whole": factory.whole_run,
    "some failed": lambda: failing(factory.whole_run(epochs=2)),
    "all failed": all_failed,
    "no fidelity": without_fidelity,
    "only its header": lambda: Run.started(factory.header()),
    "no cells": lambda: Run.started(factory.header(factory.request(variants=(), references=(), backends=()))),
    **{f"cut off after {n} entries": (lambda n=n: cut_off(n)) for n in (2, 5, 9, 20, 31, 34, 45, 70)},  # type: ignore[misc]
    "interrupted": interrupted,
    "one epoch": lambda: factory.whole_run(epochs=1),
    "no eager": without_eager,
    "no references": without_references,
    "only references": only_references,
    "many settings": many_settings,
    "one cell, one call": lonely_cell,
    "no shared round": never_in_one_round,
    "wild samples": wild_samples,
    "bare machine": bare_machine,
    "on a device": on_a_device,
    "no features, nothing published": empty_features,
}


@pytest.fixture(params=RUNS, scope="module")
def run(request: pytest.FixtureRequest) -> Run:
    made: Run = RUNS[request.param]()
    return made


def test_no_cell_is_empty_and_no_figure_is_nonsense(run: Run) -> None:
    text = report_text(Summary(run))
    assert not re.search(r"\b(nan|None|inf|null)\b", text), re.search(r".*\b(nan|None|inf|null)\b.*", text)
    assert not re.search(r"[{}]", text.replace("{'", "")), "an unfilled placeholder"
    width = 0
    for line in text.splitlines():
        if not line.startswith("|"):
            width = 0
            continue
        cells = re.split(r"(?<!\\)\|", line)[1:-1]
        assert all(cell.strip() for cell in cells), line
        width = width or len(cells)
        assert len(cells) == width, line


def test_every_dash_is_explained(run: Run) -> None:
    paragraphs = report_text(Summary(run)).split("\n\n")
    for table, below in zip(paragraphs, [*paragraphs[1:], ""], strict=True):
        if not table.startswith("|"):
            continue
        rows = table.splitlines()[2:]
        for cell in (cell.strip() for row in rows for cell in row.split("|")[1:-1]):
            assert "–" not in cell or "<sup>" in cell, cell
            for letter in re.findall(r"<sup>(\w+)</sup>", cell):
                assert f"<sup>{letter}</sup> " in below


def test_the_sections_come_in_order(run: Run) -> None:
    headings = re.findall(r"^#+ .*", report_text(Summary(run)), flags=re.M)
    expected = [
        "# MobileNet benchmark",
        "## What was asked",
        "## Results",
        "## Against",
        "## What the networks are made of",
        "## Published figures",
        "## Charts",
        "## Failures and skips",
        "## Noise met",
        "## How it was measured",
    ]
    top = [heading for heading in headings if not heading.startswith("###")]
    assert [heading.startswith(start) for heading, start in zip(top, expected, strict=True)] == [True] * 10


def test_a_report_says_partial_exactly_when_it_is(run: Run) -> None:
    whole = run.finished is not None and run.finished.status != "partial"
    text = report_text(Summary(run))
    assert text.splitlines()[2].startswith("> **PARTIAL") is not whole
    assert ("PARTIAL" in text) is not whole
    assert plain_lines(run)[:1] == [] or plain_lines(run)[0].startswith("PARTIAL") is not whole


def test_folds_and_fences_close(run: Run) -> None:
    text = report_text(Summary(run))
    assert text.count("<details>") == text.count("</details>")
    fences = re.findall(r"^`{3,}$", text, flags=re.M)
    longest = [fence for fence in fences if len(fence) == max(map(len, fences))]
    assert len(longest) % 2 == 0


def test_the_terminal_shows_every_cell(run: Run) -> None:
    from rich.console import Console

    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(summary_table(run))
    shown = console.export_text()
    lines = plain_lines(run)
    for text in (shown, "\n".join(lines)):
        assert not re.search(r"\b(nan|None|inf)\b", text)
    for key, record in run.cells.items():
        assert record.cell.backend in shown
        assert sum(line.startswith(f"{key}: ") for line in lines) == 1


def test_the_answer_names_the_fastest_with_its_ratios() -> None:
    summary = Summary(factory.whole_run())
    paragraph = report_text(summary).split("\n\n")[1]
    fastest = Cell("v3-large", "onnxruntime-int8")
    ratio = summary.to_reference(fastest, "v1")
    assert ratio is not None
    assert paragraph.startswith("**v3-large** is fastest on `onnxruntime-int8`")
    assert f"{ratio.interval.estimate:.3f} [" in paragraph
    assert "the time of eager" in paragraph
    assert "that of v1 and" in paragraph
    assert "In fp32 `onnxruntime` is fastest" in paragraph
    assert "**v3-small** is fastest" in paragraph


def test_what_cannot_be_told_apart_is_said() -> None:
    asked = factory.request(variants=("v3-small",), references=(), backends=("eager", "quantized-dynamic"))
    run = Run.started(factory.header(asked))
    for key in run.header.cells:
        cell = run.cells[key].cell
        for epoch, nanoseconds in enumerate((1000, 1100, 1050)):
            run.add(factory.block(cell, epoch, 0, (nanoseconds + (epoch if "q" in cell.backend else 1),)))
    assert "fastest on `quantized-dynamic` (not told apart from `eager`," in report_text(Summary(run))


def test_failures_carry_reason_remedy_and_output() -> None:
    run = failing(factory.whole_run(epochs=2))
    run.add(Skipped("openvino", "openvino is not installed", "pip install openvino"))
    text = report_text(Summary(run))
    assert "failed (warm-up): no C++ compiler \\| found. To mend it: `apt-get install g++`" in text
    assert "`openvino` was skipped: openvino is not installed. To mend it: `pip install openvino`" in text
    assert "````\n```\n*** stack smashing | detected\n````" in text
    assert "failed (warm-up); see Failures" in text


def test_a_failed_cell_is_not_a_fast_one() -> None:
    run = factory.whole_run(epochs=2)
    fast = Cell("v3-large", "onnxruntime-int8")
    run.add(factory.failure(fast, "fidelity"))
    summary = Summary(run)
    assert fast.key not in summary.statistics
    assert "**v3-large** is fastest on `onnxruntime`" in report_text(summary)
    assert not any(fast.key in pair for pair in summary.ratios)


def test_page_faults_and_marks_are_reported() -> None:
    text = report_text(Summary(wild_samples()))
    assert "**mostly page faults**" in text
    assert "`a-mark-of-the-future` 8" in text
    assert "800 to 800 MHz" in text
    assert "Stopped because: a-reason-of-the-future." in text


def test_random_weights_are_warned_of_and_real_ones_named() -> None:
    assert "says little about accuracy" in report_text(Summary(factory.whole_run(epochs=2)))
    run = bare_machine()
    assert "v3-large from seeded 7, calibrated" in report_text(Summary(run))


def test_pictures_are_linked() -> None:
    text = report_text(Summary(factory.whole_run(epochs=2)), [Picture("Latency", "charts/latency.svg")])
    assert "![Latency](charts/latency.svg)" in text


def test_a_full_report_fits_a_pull_request_comment() -> None:
    asked = factory.request(backends=tuple(factory.SPEEDUP))
    assert len(report_text(Summary(factory.whole_run(asked)))) < 65_536  # GitHub's limit


def test_a_requested_reference_is_compared_with_the_other_one() -> None:
    text = report_text(Summary(only_references()))
    section = text[text.index("## Against v1 and v2") : text.index("## What the networks")]
    assert re.search(r"^\| v1 \| eager \| 1<sup>a</sup> \| \d", section, flags=re.M)
    assert "<sup>a</sup> the reference itself" in section


def test_facts_are_said_once_where_they_agree() -> None:
    text = report_text(Summary(factory.whole_run(epochs=2)))
    assert (
        "- `eager`: opset 17; threads 1; frozen yes; covers 8 layers (v3-large, v3-small), 2 layers (v1, v2); "
        "note unknown." in text
    )


def test_counted_operations_outside_the_macs_stand_apart_and_disagreement_shows() -> None:
    run = factory.whole_run(epochs=2)
    complexity = msgspec.structs.replace(run.variants[0].complexity, disagreement="fvcore counts <SE> twice")
    run.variants[0] = msgspec.structs.replace(run.variants[0], complexity=complexity)
    text = report_text(Summary(run))
    assert (
        "| v3-large | 224 | 217 | 433 | 5.48 | 4.40 | 21.9 | 9.00 | fvcore, flop_counter, analytic: differ"
        in text
    )
    assert "fvcore counts &lt;SE> twice" in text


def test_memory_of_a_device_and_company_are_told() -> None:
    text = report_text(Summary(on_a_device()))
    assert "device peak MB" in text
    assert "tells nothing of the device's memory" in text
    assert "up to 2 processes side by side" in text
