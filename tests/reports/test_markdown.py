"""The report of whole and of degenerate runs: complete, honest, and without a hole."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec
import pytest
from reports import factory

from mnv3_reports import memory, scaling
from mnv3_reports.drawings import Picture
from mnv3_reports.markdown import report_text
from mnv3_reports.record import Cell, Note, OperatorCost, Run, RunResumed, Skipped
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


def tuned_without_winner() -> Run:
    run = factory.tuned_run()
    (winner,) = run.cells.keys() - set(run.header.cells)
    run.add(factory.failure(run.cells[winner].cell, "load"))
    return run


def tuning_cut_off() -> Run:
    run = factory.tuned_run()
    run.tuned, run.blocks, run.finished = [], [], None
    run.cells = {key: run.cells[key] for key in run.header.cells}
    return run


def own_beside_images() -> Run:
    run, images = factory.own_run(), factory.whole_run(epochs=2)
    request = images.header.request
    both = msgspec.structs.replace(
        request,
        variants=(*run.header.request.variants, *request.variants),
        models=run.header.request.models,
    )
    images.header = msgspec.structs.replace(
        images.header, request=both, cells=(*images.header.cells, *run.header.cells)
    )
    images.variants += run.variants
    images.cells |= run.cells
    images.blocks += run.blocks
    return images


def explained_run() -> Run:
    """Reduced cells, some slower and some faster than fp32, with reasons that nobody chose to be harmless."""
    run = factory.whole_run(factory.request(backends=tuple(factory.SPEEDUP), threads=(1, 2)))
    for record in run.cells.values():
        cell = record.cell
        if cell.backend == "onnxruntime-int8-dynamic":
            left = len(cell.variant)
            run.add(
                factory.explained(
                    cell,
                    f"{left} operators compute in fp32, see https://example.org/@someone.",
                    "Layouts are converted | <script>alert(1)</script>\nback and forth",
                    exact="onnxruntime",
                )
            )
        elif cell.backend == "onnxruntime-int8":
            run.add(factory.explained(cell, "2 operators were not delegated", exact="onnxruntime"))
        elif cell.backend == "quantized-dynamic":
            run.add(factory.explained(cell, exact="eager", operators=()))
    return run


def explained_untimed() -> Run:
    run = explained_run()
    run.blocks = []
    return run


def many_cells() -> Run:
    """More rows than one table may have, with operators of every kind."""
    run = explained_run()
    for record in run.cells.values():
        if record.cell.backend == "compile":
            names = ("", "a|b", "<script>", "`tick`", "line\nbreak", *(f"kind{n}" for n in range(12)))
            costs = tuple(OperatorCost(name, 1, None if n == 3 else 1e-3) for n, name in enumerate(names))
            run.add(factory.explained(record.cell, "a_b*c [d](e)", operators=costs))
        elif record.cell.backend == "torchscript":
            run.add(
                factory.explained(record.cell, operators=(OperatorCost("conv", 3), OperatorCost("add", 2)))
            )
    return run


def evaluated_in_part() -> Run:
    """Some cells evaluated, some failed while they were, some without a reference, one on nothing."""
    run = factory.evaluated_run()
    cells = list(run.cells.values())
    cells[0].accuracy = None
    run.add(factory.failure(cells[1].cell, "accuracy"))
    cells[1].accuracy = None
    for record in cells[2:4]:
        assert record.accuracy is not None
        record.accuracy = msgspec.structs.replace(record.accuracy, pairs=None, top5=None)
    nothing = factory.answers(0, images=0)
    run.add(factory.accuracy(cells[4].cell, nothing, nothing, loss=0.0, loss_sd=0.0))
    run.add(factory.finished("partial", "interrupted", None))
    return run


def evaluation_cut_off() -> Run:
    """The data are known, and nothing was evaluated of them."""
    run = factory.whole_run(epochs=2)
    run.add(factory.evaluation())
    run.finished = None
    return run


def hostile() -> Run:
    """Names of data, classes, images and layers that nobody chose to be harmless."""
    run = factory.evaluated_run()
    run.add(
        msgspec.structs.replace(
            factory.evaluation(classes=(factory.HOSTILE, "", "`")),
            data=factory.HOSTILE,
            calibration=factory.HOSTILE,
            broken={factory.HOSTILE: factory.HOSTILE},
        )
    )
    run.add(factory.trained("v3-small", recipe=factory.HOSTILE))
    worst = msgspec.structs.replace(
        factory.sensitivity().layers[0], name=factory.HOSTILE, kind=factory.HOSTILE
    )
    run.add(factory.sensitivity(scheme=factory.HOSTILE, layers=(worst,)))
    for record in run.cells.values():
        record.prepared = msgspec.structs.replace(
            factory.prepared(record.cell), facts={"kept in float": factory.HOSTILE}
        )
        record.accuracy = record.accuracy and msgspec.structs.replace(
            record.accuracy,
            preprocessing=msgspec.structs.replace(factory.PREPROCESSING, source=factory.HOSTILE),
        )
    return run


def flagged_without_a_limit() -> Run:
    run = factory.evaluated_run(asked=factory.request(threads=(1, 2)))
    factory.lossy(run, Cell("v3-small", "onnxruntime-int8"), 0.05)
    run.header = factory.asking(run, max_drop=None)
    return run


def ablated_base_failed() -> Run:
    run = factory.ablated_run()
    for record in run.cells.values():
        if record.cell.variant == "v3-small":
            record.accuracy = None
            run.add(factory.failure(record.cell))
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
    "tuned": factory.tuned_run,
    "tuned in vain": lambda: factory.tuned_run(speedup=1.0),
    "tuned without an interval": lambda: factory.tuned_run(epochs=1),
    "tuned without a winner": tuned_without_winner,
    "tuning cut off": tuning_cut_off,
    "its own inputs": factory.own_run,
    "its own inputs beside images": own_beside_images,
    "explained": explained_run,
    "explained, nothing timed": explained_untimed,
    "many cells": many_cells,
    "evaluated": factory.evaluated_run,
    "evaluated in part": evaluated_in_part,
    "evaluated on one image": lambda: factory.evaluated_run(images=1),
    "evaluation cut off": evaluation_cut_off,
    "hostile": hostile,
    "flagged without a limit": flagged_without_a_limit,
    "ablated": factory.ablated_run,
    "ablated, not evaluated": lambda: factory.ablated_run(evaluated=False),
    "ablated, the base failed": ablated_base_failed,
    "only accuracy, timed in vain": lambda: factory.evaluation_run(),
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
    summary = Summary(run)
    headings = re.findall(r"^#+ .*", report_text(summary), flags=re.M)
    expected = [
        "# MobileNet benchmark" if not run.header.request.models else "# ",
        "## Charts",
        "## Against",
        "## Results",
        *(["## Accuracy"] if run.evaluation is not None else []),
        *(["## Sensitivity"] if run.sensitivities else []),
        *(["## Ablation"] if run.header.request.ablated else []),
        *(["## Tuned forms"] if run.tuned or run.header.request.tune else []),
        *(["## Why"] if any(record.explained for record in run.cells.values()) else []),
        *(["## Memory"] if list(memory.section(summary)) else []),
        *(["## Scaling"] if any(scaling.sweeps(summary, axis) for axis in scaling.AXES) else []),
        "## What the networks are made of",
        "## Published figures",
        "## Failures and skips",
        "## What was asked",
        "## Noise met",
        "## How it was measured",
    ]
    top = [heading for heading in headings if not heading.startswith("###")]
    assert all(heading.startswith(start) for heading, start in zip(top, expected, strict=True))


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


def answer_of(run: Run) -> list[str]:
    """The answer's lines, one a network and number of threads."""
    _, _, text = report_text(Summary(run)).partition("The fastest backend for each network")
    return [line for line in text.split("\n\n")[1].splitlines() if line.startswith("- ")]


def test_the_answer_names_the_fastest_and_how_many_times_as_fast_as_eager_it_is() -> None:
    summary = Summary(factory.whole_run(factory.request(threads=(1, 2))))
    lines = answer_of(summary.run)
    assert [line.partition(":**")[0] for line in lines] == [
        f"- **{variant}, {threads}"
        for variant in ("v3-large", "v3-small", "v1", "v2")
        for threads in ("1 thread", "2 threads")
    ]
    fastest = Cell("v3-large", "onnxruntime-int8", threads=2)
    to_eager, to_v1 = summary.to_eager(fastest), summary.to_reference(fastest, "v1")
    assert to_eager is not None
    assert to_v1 is not None
    low, high = 1 / to_eager.interval.high, 1 / to_eager.interval.low
    times = f"{1 / to_eager.interval.estimate:.2f} [{low:.2f}, {high:.2f}]"
    assert f"`onnxruntime-int8` is {times} × as fast as eager, " in lines[1]
    assert f"There it takes {to_v1.interval.estimate:.3f} [" in lines[1]
    assert "× the time of v1 and " in lines[1]
    assert "In fp32: `onnxruntime` is " in lines[1]
    assert "the time of" not in lines[4]  # a reference is not held against itself


def test_the_answer_is_of_batch_1_wherever_that_was_measured() -> None:
    asked = factory.request(backends=("eager", "onnxruntime"), batch_sizes=(8, 1))
    text = report_text(Summary(factory.whole_run(asked, epochs=2)))
    assert "for each network (batch 1, 224 × 224)" in text
    asked = factory.request(backends=("eager", "onnxruntime"), batch_sizes=(8,))
    assert "for each network (batch 8, 224 × 224)" in report_text(Summary(factory.whole_run(asked, epochs=2)))


def test_the_answer_says_when_eager_is_fastest_or_missing() -> None:
    asked = factory.request(("v3-small",), (), ("eager", "onnxruntime-int8-dynamic"))
    assert "`eager` itself, " in answer_of(factory.whole_run(asked))[0]
    (line,) = answer_of(lonely_cell())
    assert re.search(r"`compile`, [\d.]+ ms a call \(eager was not timed beside it\)\.", line)


def test_a_fastest_cell_with_other_classes_is_flagged_wherever_it_is_named() -> None:
    run = factory.whole_run()
    wrong = Cell("v3-large", "onnxruntime-int8")
    agreement = msgspec.structs.replace(factory.fidelity(wrong), top1_agreement=60 / 64)
    run.add(factory.inspected(wrong, agreement=agreement))
    line = answer_of(run)[0]
    assert "⚠ It gives another class than its reference on 6.2 % of the inputs." in line
    assert "Without such a flag, and in fp32: `onnxruntime` is " in line
    text = report_text(Summary(run))
    row = r"^\| `onnxruntime-int8` \| [\d.]+ \[[\d., ]+\] ⚠<sup>\w</sup> \|"
    assert len(re.findall(row, text, flags=re.M)) == 1
    assert "| 93.8 ⚠<sup>" in text
    sentence = "Flagged, for another class than the reference's on more than 5.0 % of the inputs: "
    assert f"⚠ {sentence}`onnxruntime-int8` 6.2 %." in text
    assert any("flagged: another class" in line for line in plain_lines(run))


@pytest.mark.parametrize(
    ("agreement", "flagged"), [(0.95, False), (0.9499, True), (None, False), (1.0, False)]
)
def test_only_more_than_five_percent_of_other_classes_are_flagged(
    agreement: float | None, flagged: bool
) -> None:
    run = factory.whole_run(epochs=2)
    cell = Cell("v3-large", "onnxruntime-int8")
    run.add(
        factory.inspected(
            cell, agreement=msgspec.structs.replace(factory.fidelity(cell), top1_agreement=agreement)
        )
    )
    assert ("⚠" in report_text(Summary(run))) is flagged


def test_what_cannot_be_told_apart_is_said() -> None:
    asked = factory.request(variants=("v3-small",), references=(), backends=("eager", "quantized-dynamic"))
    run = Run.started(factory.header(asked))
    for key in run.header.cells:
        cell = run.cells[key].cell
        for epoch, nanoseconds in enumerate((1000, 1100, 1050)):
            run.add(factory.block(cell, epoch, 0, (nanoseconds + (epoch if "q" in cell.backend else 1),)))
    text = report_text(Summary(run))
    assert re.search(
        r"`quantized-dynamic` is .* as fast as eager, .* Not told apart from it: `eager`\.", text
    )


def test_failures_carry_reason_remedy_and_output() -> None:
    run = failing(factory.whole_run(epochs=2))
    run.add(Skipped("openvino", "openvino is not installed", "pip install openvino"))
    text = report_text(Summary(run))
    assert "failed (warm-up): no C++ compiler \\| found. To mend it: `apt-get install g++`" in text
    assert "`openvino` was skipped: openvino is not installed. To mend it: `pip install openvino`" in text
    assert "````\n```\n*** stack smashing | detected\n````" in text
    assert "failed (warm-up); see Failures" in text


def test_failures_alike_are_one_line_and_one_output() -> None:
    run = factory.whole_run(factory.request(threads=(1, 2)), epochs=2)
    for record in run.cells.values():
        if record.cell.backend == "onnxruntime" or record.cell == Cell("v1", "eager", threads=2):
            run.add(factory.failure(record.cell, tail="the same"))
    text = report_text(Summary(run))
    assert "- `onnxruntime` (v3-large, v3-small, v1, v2) failed (prepare): no C++ compiler" in text
    assert "- `v1/eager?threads=2&batch=1&resolution=224&device=cpu` failed (prepare): " in text
    assert text.count("failed (prepare):") == 2
    assert text.count("Last output of") == 1


def test_a_failed_cell_is_not_a_fast_one() -> None:
    run = factory.whole_run(epochs=2)
    fast = Cell("v3-large", "onnxruntime-int8")
    run.add(factory.failure(fast, "fidelity"))
    summary = Summary(run)
    assert fast.key not in summary.statistics
    assert answer_of(run)[0].startswith("- **v3-large, 1 thread:** `onnxruntime` is ")
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
    both = report_text(
        Summary(factory.whole_run(epochs=2)), [Picture('"Latency"', "charts/a.svg", "charts/a-dark.svg")]
    )
    assert '<source media="(prefers-color-scheme: dark)" srcset="charts/a-dark.svg">' in both
    assert '<img alt="&quot;Latency&quot;" src="charts/a.svg">' in both


def test_a_full_report_fits_a_pull_request_comment() -> None:
    asked = factory.request(backends=tuple(factory.SPEEDUP))
    assert len(report_text(Summary(factory.whole_run(asked)))) < 65_536  # GitHub's limit


def test_a_requested_reference_is_compared_with_the_other_one() -> None:
    text = report_text(Summary(only_references()))
    section = text[text.index("## Against v1 and v2") : text.index("## Results")]
    assert "| backend | v1 / v2 [95 %] | v2 / v1 [95 %] |" in section
    assert re.search(r"^\| `eager` \| \d[^|]* \| \d[^|]* \|$", section, flags=re.M)


def test_facts_are_said_once_where_they_agree() -> None:
    text = report_text(Summary(factory.whole_run(epochs=2)))
    assert (
        "- `eager`: opset 17; threads as asked; frozen yes; covers 8 layers (v3-large, v3-small), 2 layers (v1, v2); "
        "note unknown." in text
    )


def test_facts_name_settings_where_those_make_the_difference() -> None:
    run = factory.whole_run(factory.request(threads=(1, 2)), epochs=2)
    for record in run.cells.values():
        assert record.inspected is not None
        pinned = {"threads": 1, "cores": f"{record.cell.threads} of 2"}
        record.inspected = msgspec.structs.replace(record.inspected, facts=pinned)
    text = report_text(Summary(run))
    assert (
        "- `eager`: opset 17; threads as asked (1 thread), 1 (2 threads); "
        "cores 1 of 2 (1 thread), 2 of 2 (2 threads)." in text
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
