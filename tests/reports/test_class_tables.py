"""Tables of classes: whole for few, the worst of many, and every one in the CSV."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from reports import factory

from mnv3_reports import class_tables
from mnv3_reports.class_tables import Classes
from mnv3_reports.layout import to_markdown
from mnv3_reports.predictions import Predictions
from mnv3_reports.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def made(labels: Sequence[int], answers: Sequence[int], names: Sequence[str]) -> Classes:
    arrays = (np.asarray(values, dtype=np.int64) for values in (range(len(labels)), labels, answers))
    return Classes(Predictions(*arrays), names)


def test_few_classes_are_all_there_in_their_order() -> None:
    classes = made([0, 0, 0, 1, 1], [0, 1, 1, 1, 1], ("cat", "dog", "bird"))
    text = to_markdown(class_tables.per_class(classes))
    assert "| cat | 3 | 1 | 33.3 [6.1, 79.2] | 100.0 [20.7, 100.0] | dog (2) |" in text
    assert "| dog | 2 | 2 | 100.0 [34.2, 100.0] | 50.0 [15.0, 85.0] | none |" in text
    assert "| bird | 0 | 0 | –<sup>a</sup> | –<sup>b</sup> | none |" in text
    confusion = class_tables.confusion(classes)
    assert confusion is not None
    assert to_markdown(confusion).splitlines() == [
        "| label ↓, taken for → | cat | dog | bird |",
        "| --- | ---: | ---: | ---: |",
        "| cat | **1** | 2 | · |",
        "| dog | · | **2** | · |",
        "| bird | · | · | **0** |",
    ]
    assert class_tables.confusion(made([0, 1], [0, 1], ("cat", "dog"))) is None


def test_of_many_the_worst_are_shown_and_the_most_frequent_confusions() -> None:
    labels = np.repeat(np.arange(100), 10)
    answers = labels.copy()
    answers[:5] = 7
    answers[500:509] = 3
    answers[990:992] = (1, 2)
    classes = made(labels.tolist(), answers.tolist(), [f"class-{n}" for n in range(100)])
    rows = to_markdown(class_tables.per_class(classes)).splitlines()[2:]
    assert len(rows) == class_tables.FEW
    assert [row.split(" ")[1] for row in rows[:3]] == ["class-50", "class-0", "class-99"]
    confusion = class_tables.confusion(classes)
    assert confusion is not None
    assert to_markdown(confusion).splitlines()[2:] == [
        "| class-50 | class-3 | 9 |",
        "| class-0 | class-7 | 5 |",
        "| class-99 | class-1 | 1 |",
        "| class-99 | class-2 | 1 |",
    ]


def test_names_from_elsewhere_are_harmless_and_missing_ones_numbers() -> None:
    classes = made([0, 1, 2], [1, 2, 0], ("<script>|@me", " "))
    for table in (class_tables.per_class(classes), class_tables.confusion(classes)):
        assert table is not None
        text = to_markdown(table)
        assert "<script" not in text
        assert "@me" not in text
        assert "&#124;" in text
        assert "class 1" in text
        assert "class 2" in text


def test_every_class_of_every_cell_is_in_the_csv(tmp_path: Path) -> None:
    run = factory.evaluation_run(tmp_path, images=600, classes=30)
    text = class_tables.to_csv(Summary(run, tmp_path))
    assert text is not None
    lines = list(csv.DictReader(io.StringIO(text)))
    assert tuple(lines[0]) == class_tables.CSV_COLUMNS
    assert len(lines) == 3 * 30
    for key, record in run.cells.items():
        mine = [line for line in lines if line["cell"] == key]
        assert record.accuracy is not None
        assert sum(int(line["right"]) for line in mine) == record.accuracy.top1
        assert sum(int(line["images"]) for line in mine) == record.accuracy.images
    (tmp_path / factory.predictions_file(next(iter(run.cells.values())).cell)).unlink()
    rest = class_tables.to_csv(Summary(run, tmp_path))
    assert rest is not None
    assert len(rest.splitlines()) == 1 + 2 * 30
    assert class_tables.to_csv(Summary(run)) is None


def test_no_class_of_the_csv_is_a_formula(tmp_path: Path) -> None:
    run = factory.evaluation_run(tmp_path, images=300, classes=10)
    assert run.evaluation is not None
    names = ("=HYPERLINK(A1)", "@SUM", *run.evaluation.classes[2:])
    run.evaluation = msgspec.structs.replace(run.evaluation, classes=names)
    text = class_tables.to_csv(Summary(run, tmp_path))
    assert text is not None
    fields = [field for row in csv.reader(io.StringIO(text)) for field in row]
    assert "'=HYPERLINK(A1)" in fields
    assert not [field for field in fields if field.startswith(("=", "@"))]
