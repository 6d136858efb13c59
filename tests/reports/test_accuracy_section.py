"""Accuracy in the report of a suite: what is said of it, what is marked, and what it takes precedence over."""

from __future__ import annotations

import re

import msgspec
import pytest
from reports import factory

from mnv3_reports.accuracy_words import hundredths, limit_points, probability, single
from mnv3_reports.markdown import report_text
from mnv3_reports.record import Cell, Run
from mnv3_reports.statistics import Interval
from mnv3_reports.summary import Summary

INT8 = Cell("v3-small", "onnxruntime-int8")


def text_of(run: Run) -> str:
    return report_text(Summary(run))


def section_of(run: Run) -> str:
    text = text_of(run)
    return text[text.index("## Accuracy") : text.index("## What the networks")]


def answer_of(run: Run) -> str:
    text = text_of(run)
    return text[: text.index("## Charts")]


def lossy(lost: float = 0.05) -> Run:
    run = factory.evaluated_run()
    factory.lossy(run, INT8, lost)
    return run


def test_figures_have_a_decimal_that_the_images_give() -> None:
    assert hundredths(Interval(0.978, 0.96, 0.9884, 449)) == "97.8 [96.0, 98.8]"
    assert hundredths(Interval(0.75274, 0.74894, 0.75651, 50_000)) == "75.27 [74.89, 75.65]"
    assert hundredths(Interval(-0.004, -0.012, 0.0001, 449)) == "−0.4 [−1.2, 0.0]"
    assert [single(value, 10) for value in (-0.0004, 0.0, 1.0)] == ["0.0", "0.0", "100.0"]
    assert [probability(p) for p in (1.0, 0.3644, 0.021, 0.0009, 0.0)] == [
        "p 1",
        "p 0.36",
        "p 0.021",
        "p < 0.001",
        "p < 0.001",
    ]
    assert [limit_points(limit) for limit in (0.01, 0.0025, 0.0)] == ["1.0", "0.25", "0"]


def test_a_loss_above_the_accepted_is_red_wherever_the_cell_is_named() -> None:
    run = lossy()
    answer = answer_of(run)
    assert (
        "- 🔴 `onnxruntime-int8` loses 5.1 [3.4, 7.6] points on v3-small, more than the 1.0 accepted."
        in answer
    )
    (line,) = (line for line in answer.splitlines() if line.startswith("- **v3-small, 1 thread:**"))
    assert (
        "🔴 It gets 92.9 [90.1, 94.9] % of the images right and loses 5.1 [3.4, 7.6] points against eager fp32, more "
        "than the 1.0 accepted. Without such a flag, and in fp32: `onnxruntime` is " in line
    )
    assert line.endswith("98.0 [96.2, 98.9] % of the images right.")
    text = text_of(run)
    assert re.search(r"^\| `onnxruntime-int8` \|.* 🔴<sup>\w</sup> \|", text, flags=re.M)
    row = next(row for row in section_of(run).splitlines() if "5.1 [3.4, 7.6]" in row)
    assert row.startswith("| `onnxruntime-int8` | 92.9 [90.1, 94.9] | ")
    assert "| 5.1 [3.4, 7.6] 🔴<sup>" in row
    assert "| no, p &lt; 0.001 | yes | 94.9 |" in row
    assert "loses more top-1 than the 1.0 points accepted" in text
    assert "🔴" not in text_of(factory.evaluated_run())


def test_a_tuned_form_and_several_networks_are_one_line_a_backend() -> None:
    run = factory.evaluated_run()
    factory.lossy(run, INT8, 0.05)
    factory.lossy(run, Cell("v1", "onnxruntime-int8"), 0.06)
    (line,) = (line for line in answer_of(run).splitlines() if line.startswith("- 🔴 `"))
    assert re.fullmatch(
        r"- 🔴 `onnxruntime-int8` loses 5\.1 \[3\.4, 7\.6\] points on v3-small and [\d.]+ \[[\d., ]+\] on v1, "
        r"more than the 1\.0 accepted\.",
        line,
    )


def test_without_an_accepted_loss_the_usual_one_is_warned_of() -> None:
    run = lossy()
    run.header = factory.asking(run, max_drop=None)
    text = text_of(run)
    assert "🔴" not in text
    assert (
        "- ⚠ `onnxruntime-int8` loses 5.1 [3.4, 7.6] points on v3-small, more than 1.0 (--max-drop sets what is "
        "accepted)." in text
    )
    assert "5.1 [3.4, 7.6] ⚠<sup>" in text


def test_what_the_images_do_not_tell_is_said() -> None:
    run = lossy(0.02)
    drop = Summary(run).drop(INT8)
    assert drop is not None
    assert drop.against(0.01) == "not told apart"
    assert drop.interval.estimate > 0.01
    assert (
        f"- `onnxruntime-int8` lost {hundredths(drop.interval)} points on v3-small; 449 images do not tell whether "
        "that is more than the 1.0 accepted." in answer_of(run)
    )
    section = section_of(run)
    assert (
        "Whether these lose more than 1.0 points or less, 449 images do not tell: `onnxruntime-int8` ("
        in section
    )
    assert "not told<sup>" in section
    few = factory.evaluated_run(images=20)
    assert (
        "no backend is seen to lose more than the 1.0 points accepted; of 8 cells so few images do not tell it"
        in (answer_of(few))
    )


@pytest.mark.parametrize(("lost", "verdict"), [(0.0, "shows no loss beyond noise"), (0.05, "loses ")])
def test_the_answer_tells_what_the_fastest_costs(lost: float, verdict: str) -> None:
    (line,) = (
        line for line in answer_of(lossy(lost)).splitlines() if line.startswith("- **v3-small, 1 thread:**")
    )
    assert f" % of the images right and {verdict}" in line
    assert ("Without such a flag" in line) is (lost > 0)


def test_a_gain_is_called_one() -> None:
    run = factory.evaluated_run()
    factory.lossy(run, INT8, 0.0, gained=0.02)
    assert re.search(r"right and gains [\d.]+ \[[\d.]+, [\d.]+\] points against eager fp32", answer_of(run))


def test_a_measured_drop_says_more_than_other_classes_on_seeded_inputs() -> None:
    run = factory.evaluated_run()
    agreement = msgspec.structs.replace(factory.fidelity(INT8), top1_agreement=0.5)
    run.add(factory.inspected(INT8, agreement=agreement))
    assert "⚠" not in text_of(run)
    # Without a reference nothing was measured that would say more.
    record = run.cells[INT8.key]
    assert record.accuracy is not None
    record.accuracy = msgspec.structs.replace(record.accuracy, pairs=None)
    assert "⚠ It gives another class than its reference on 50 % of the inputs. It gets 97.8 " in answer_of(
        run
    )


def test_what_it_was_measured_on_is_stated() -> None:
    run = factory.evaluated_run()
    broken = {f"cat/{number}.jpg": "truncated" for number in range(7)}
    run.add(factory.evaluation(broken=broken))
    run.add(factory.trained("v3-small"))
    run.add(factory.trained("v1", cached=True))
    run.add(factory.trained("v2", epochs=5, seed=3, images=1))
    section = section_of(run)
    pixels = "shorter side 64 (bilinear), centre crop 64 × 64, then (pixel / 255 − 0.485 0.456 0.406) / 0.229 0.224"
    recipe = "1 min 21 s, by an earlier run); recipe quick, 20 epochs, seed 0, 1,347 images of digits."
    for statement in (
        "- **Data:** digits, 449 images of 10 classes: the held-out part, which training by this tool leaves out; ",
        "- **Left out:** 7 images could not be decoded and are not counted: `cat/0.jpg` (truncated), ",
        " and 2 more, which the record names.",
        "- **Calibration:** 128 images calibrate the quantized forms: a fixed choice; they are none of the evaluated.",
        f"- **Preprocessing of v3-large, v3-small, v1, v2:** {pixels} 0.225 a channel; the card of the weights.",
        f"- **Trained for this run:** v3-small (last loss 0.0123, 1 min 21 s), v1 (last loss 0.0123, {recipe}",
        "; recipe quick, 5 epochs, seed 3, 1 image of digits.",
    ):
        assert statement in section
    assert "- **Weights:** trained for this run: v3-small, v1, v2; random, seeded (7)" in text_of(run)


def test_networks_with_other_preprocessing_are_told_apart() -> None:
    run = factory.evaluated_run()
    other = msgspec.structs.replace(factory.PREPROCESSING, resize=73, source="")
    for record in run.cells.values():
        if record.cell.variant == "v1":
            assert record.accuracy is not None
            record.accuracy = msgspec.structs.replace(record.accuracy, preprocessing=other)
    section = section_of(run)
    assert "**Preprocessing of v3-large, v3-small, v2:** shorter side 64 " in section
    assert "**Preprocessing of v1:** shorter side 73 (bilinear), centre crop 64 × 64" in section


def test_all_images_are_called_that() -> None:
    run = factory.evaluated_run()
    run.add(msgspec.structs.replace(factory.evaluation(), split="all"))
    assert "10 classes: all images there are but those that calibrate;" in section_of(run)


def test_threads_that_answer_alike_are_one_row() -> None:
    run = factory.evaluated_run(asked=factory.request(("v3-small",), (), threads=(1, 2)))
    assert len(re.findall(r"^\| `onnxruntime` \| 97\.3 ", section_of(run), flags=re.M)) == 1
    record = run.cells[Cell("v3-small", "onnxruntime", threads=2).key]
    assert record.accuracy is not None
    record.accuracy = msgspec.structs.replace(record.accuracy, top1=record.accuracy.top1 - 1)
    section = section_of(run)
    assert "| backend | threads | top-1 % [95 %] |" in section
    assert len(re.findall(r"^\| `onnxruntime` \| [12] \| 97\.\d ", section, flags=re.M)) == 2


def test_references_and_ablated_forms_fold() -> None:
    section = section_of(factory.evaluated_run())
    assert section.count("### Accuracy of ") == 2
    assert "<details><summary>Accuracy of v1</summary>" in section


def test_a_table_of_a_network_has_its_accuracy_beside_its_speed() -> None:
    text = text_of(factory.evaluated_run())
    assert text.count("| / eager [95 %] | top-1 % [95 %] | drop points [95 %] | same class % |") == 4
    assert "same top-1, inputs of the check %" in text
    plain = text_of(factory.whole_run(epochs=2))
    assert "drop points" not in plain
    assert "| same top-1 % |" in plain


def test_an_accuracy_that_nobody_asked_for_is_not_spoken_of() -> None:
    text = text_of(factory.whole_run(epochs=2))
    assert "## Accuracy" not in text
    assert "accepted" not in text


def test_what_was_asked_names_data_without_their_path() -> None:
    run = factory.evaluated_run()
    run.header = factory.asking(run, data="imagefolder:/home/someone/pictures", recipe="quick", keep_float=3)
    (line,) = (line for line in text_of(run).splitlines() if line.startswith("- **Asked:**"))
    assert "accuracy on imagefolder, held-out; a drop of 1.0 points accepted; " in line
    assert (
        "networks without weights trained by recipe quick; the 3 most sensitive layers kept in float" in line
    )
    assert "someone" not in line
