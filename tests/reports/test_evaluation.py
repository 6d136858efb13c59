"""The report of accuracy alone: complete and honest, however little was evaluated."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec
import pytest
from reports import factory

from mnv3_reports.evaluation import PER_CLASS, evaluation_text
from mnv3_reports.journal import NAME, Journal, read_journal
from mnv3_reports.record import Cell, Run
from mnv3_reports.rundir import load_run, write_run
from mnv3_reports.summary import Summary
from mnv3_reports.writer import PAGE, REPORT, write_report

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

INT8 = Cell("v3-small", "onnxruntime-int8")


def everything(directory: Path) -> Run:
    run = factory.evaluation_run(
        directory, factory.request(("v3-small", "v3-large"), ("v1",), tuple(factory.SPEEDUP))
    )
    factory.lossy(run, INT8, 0.05)
    run.add(factory.sensitivity())
    run.add(factory.trained("v3-small"))
    return run


def single(directory: Path) -> Run:
    return factory.evaluation_run(directory, factory.request(("v3-small",), (), ("onnxruntime-int8",)))


def own_file(directory: Path) -> Run:
    """A file of the user's own has no reference."""
    run = single(directory)
    for record in run.cells.values():
        assert record.accuracy is not None
        record.accuracy = msgspec.structs.replace(record.accuracy, pairs=None, top5=None)
    run.variants = []
    return run


def failed(directory: Path) -> Run:
    run = factory.evaluation_run(directory)
    for key in list(run.cells)[1:]:
        run.cells[key].accuracy = None
        run.add(factory.failure(run.cells[key].cell, "accuracy", tail="Segmentation | fault"))
    return run


def without_files(directory: Path) -> Run:
    run = factory.evaluation_run(directory)
    for file in (directory / "predictions").iterdir():
        file.write_bytes(b"torn")
    return run


def cut_off(entries: int) -> Callable[[Path], Run]:
    def make(directory: Path) -> Run:
        run = factory.evaluation_run(directory)
        short = Run.started(run.header)
        for entry in factory.entries_of(run)[1:entries]:
            short.add(entry)
        return short

    return make


def hostile(directory: Path) -> Run:
    run = factory.evaluation_run(directory)
    names = (factory.HOSTILE, *factory.DIGITS[1:])
    run.add(msgspec.structs.replace(factory.evaluation(classes=names), data=factory.HOSTILE))
    return run


def nothing_wrong(directory: Path) -> Run:
    run = factory.evaluation_run(directory)
    exact = factory.answers(0, right=1.1)
    for record in run.cells.values():
        run.add(factory.accuracy(record.cell, exact, exact))
        exact.write(directory / factory.predictions_file(record.cell))
    return run


RUNS: dict[str, Callable[[Path], Run]] = {
    "everything": everything,
    "a single cell": single,
    "a file of one's own": own_file,
    "failed": failed,
    "files torn": without_files,
    "hostile": hostile,
    "nothing wrong": nothing_wrong,
    "many classes": lambda directory: factory.evaluation_run(directory, images=500, classes=120),
    "one image": lambda directory: factory.evaluation_run(directory, images=1, classes=2),
    **{f"cut off after {number} entries": cut_off(number) for number in (1, 2, 3, 5, 6)},
}


@pytest.fixture(params=RUNS, scope="module")
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str]:
    directory = tmp_path_factory.mktemp("run")
    run = RUNS[request.param](directory)
    return run, evaluation_text(Summary(run, directory))


def test_no_cell_is_empty_and_no_figure_is_nonsense(made: tuple[Run, str]) -> None:
    _, text = made
    assert not re.search(r"\b(nan|None|inf|null)\b", text), re.search(r".*\b(nan|None|inf|null)\b.*", text)
    assert not re.search(r"[{}]", text), "an unfilled placeholder"
    assert "<script" not in text
    width = 0
    for line in text.splitlines():
        if not line.startswith("|"):
            width = 0
            continue
        cells = re.split(r"(?<!\\)\|", line)[1:-1]
        assert all(cell.strip() for cell in cells), line
        width = width or len(cells)
        assert len(cells) == width, line
    assert text.count("<details>") == text.count("</details>")


def test_the_sections_come_in_order(made: tuple[Run, str]) -> None:
    run, text = made
    evaluated = [record.accuracy for record in run.cells.values() if record.accuracy is not None]
    expected = [
        "# Accuracy of ",
        "## Charts",
        *(["## Accuracy"] if run.evaluation is not None else []),
        *(["## Paired comparison"] if any(each.pairs for each in evaluated) else []),
        *(["## Calibration", "## Classes"] if evaluated else []),
        *(["## Sensitivity"] if run.sensitivities else []),
        "## Failures and skips",
        "## What was asked",
        "## How it was measured",
    ]
    top = re.findall(r"^##? .*", text, flags=re.M)
    assert all(heading.startswith(start) for heading, start in zip(top, expected, strict=True))
    assert "ms a call" not in text
    assert "every printed ratio" not in text


def test_it_says_partial_exactly_when_it_is(made: tuple[Run, str]) -> None:
    run, text = made
    assert ("PARTIAL" in text) is (run.finished is None)


def test_the_answer_is_how_good_it_is_and_what_loses(tmp_path: Path) -> None:
    text = evaluation_text(Summary(everything(tmp_path), tmp_path))
    answer = text[: text.index("## Charts")]
    assert text.startswith("# Accuracy of v3-small, v3-large, v1 on digits\n")
    assert (
        "- **v3-small:** `eager` gets 98.0 [96.2, 98.9] % of 449 images right. No loss beyond noise on "
        not in answer
    )
    assert (
        "- **v3-small:** `eager` gets 97.3 [95.4, 98.5] % of 449 images right. No loss beyond noise on 7 of 8 other "
        "backends. `onnxruntime-int8` loses " in answer
    )
    assert re.search(
        r"^- 🔴 `onnxruntime-int8` loses [\d.]+ \[.*\] points on v3-small, more than the 1\.0", answer, re.M
    )


def test_a_single_backend_and_a_file_without_reference_have_an_answer(tmp_path: Path) -> None:
    text = evaluation_text(Summary(single(tmp_path), tmp_path))
    assert "- **v3-small:** `onnxruntime-int8` gets 96.7 [94.6, 98.0] % of 449 images right and " in text
    text = evaluation_text(Summary(own_file(tmp_path), tmp_path))
    assert "- **v3-small:** `onnxruntime-int8` gets 96.7 [94.6, 98.0] % of 449 images right.\n" in text
    assert "accepted" not in text[: text.index("## Charts")]


def test_calibration_has_its_bins(tmp_path: Path) -> None:
    run = single(tmp_path)
    text = evaluation_text(Summary(run, tmp_path))
    (record,) = run.cells.values()
    assert record.accuracy is not None
    section = text[text.index("## Calibration") : text.index("## Classes")]
    rows = [line for line in section.splitlines() if re.match(r"\| \d\.\d\d to ", line)]
    assert len(rows) == sum(bool(each.images) for each in record.accuracy.bins)
    assert sum(int(row.split("|")[2]) for row in rows) == 449
    assert re.search(
        r"expected calibration error 12\.9 %; on average it is \d+\.\d points less confident than", section
    )


def test_few_classes_are_whole_and_many_are_in_the_csv(tmp_path: Path) -> None:
    text = evaluation_text(Summary(factory.evaluation_run(tmp_path), tmp_path))
    assert text.count("| label ↓, taken for → | 0 | 1 |") == 1
    many = factory.evaluation_run(tmp_path, images=500, classes=120)
    text = evaluation_text(Summary(many, tmp_path))
    assert (
        f"Of 120 classes the 20 with the lowest recall are shown; `{PER_CLASS}` beside this report holds"
        in text
    )
    assert "| label | taken for | images |" in text


def test_a_cell_that_loses_has_its_classes_too(tmp_path: Path) -> None:
    run = everything(tmp_path)
    text = evaluation_text(Summary(run, tmp_path))
    assert "<details><summary>v3-small on onnxruntime-int8</summary>" in text
    assert "<details><summary>v3-small on onnxruntime</summary>" not in text


def test_torn_files_are_said_and_nothing_else_is_lost(tmp_path: Path) -> None:
    text = evaluation_text(Summary(without_files(tmp_path), tmp_path))
    assert "holds no predictions (" in text
    assert "so nothing is known of its classes." in text
    assert "| `eager` | 97.3 [95.4, 98.5] |" in text


def test_the_writer_chooses_by_what_was_asked_for(tmp_path: Path) -> None:
    run = everything(tmp_path / "alone")
    write_run(run, tmp_path / "alone")
    written = {path.name for path in write_report(tmp_path / "alone")}
    assert written == {REPORT, PAGE, PER_CLASS, "sensitivity.svg", "sensitivity-dark.svg"}
    text = (tmp_path / "alone" / REPORT).read_text()
    assert text.startswith("# Accuracy of ")
    assert 'src="charts/sensitivity.svg"' in text
    assert "<h1>Accuracy of " in (tmp_path / "alone" / PAGE).read_text()
    suite = factory.evaluated_run(tmp_path / "suite")
    write_run(suite, tmp_path / "suite")
    written = {path.name for path in write_report(tmp_path / "suite")}
    charts = {f"{name}{suffix}.svg" for name in ("latency", "pareto") for suffix in ("", "-dark")}
    assert written == {REPORT, PAGE, *charts}
    text = (tmp_path / "suite" / REPORT).read_text()
    assert text.startswith("# MobileNet benchmark")
    assert (
        '<img alt="Latency against measured accuracy, 1 thread, batch 1, 224 × 224" src="charts/pareto.svg">'
        in text
    )


def test_an_evaluation_comes_back_from_disk(tmp_path: Path) -> None:
    run = everything(tmp_path)
    write_run(run, tmp_path)
    assert load_run(tmp_path) == run
    with Journal.create(tmp_path / NAME) as journal:
        for entry in factory.entries_of(run):
            journal.append(entry)
    assert read_journal(tmp_path / NAME) == factory.entries_of(run)
    assert load_run(tmp_path) == run
