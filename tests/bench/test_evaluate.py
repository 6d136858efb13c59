"""`mnv3-bench evaluate` in real processes: what it counts, what it pairs, and what a fault in the data does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from bench.labelled import card, pictures, predicted, write_weights
from bench.test_run import bench, load
from fakes.mnv3_fakes import registered

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from mnv3_reports.record import Run

Evaluate = "Callable[..., tuple[subprocess.CompletedProcess[str], Path]]"
IMAGES = 120


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network, and pictures that it classifies all as labelled: in a folder, one of them broken."""
    from PIL import Image

    home = tmp_path_factory.mktemp("evaluate")
    weights = write_weights(home / "tiny.safetensors", card())
    images = pictures(IMAGES)
    labels = predicted(weights, card(), images)
    assert len(set(labels.tolist())) == 4, "every class is seen"
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = home / "data" / "abcd"[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number:03d}.png")
    (home / "data" / "a" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return home


@pytest.fixture
def evaluate(
    home: Path, artifact_cache: Path, tmp_path: Path
) -> Callable[..., tuple[subprocess.CompletedProcess[str], Path]]:
    def run(*arguments: str) -> tuple[subprocess.CompletedProcess[str], Path]:
        environment = {
            **registered(tmp_path / "fakes"),
            "MNV3_BENCH_CACHE": str(artifact_cache),
        }
        output = tmp_path / "out"
        done = bench(
            *("evaluate", "--weights", str(home / "tiny.safetensors"), "--output", str(output), *arguments),
            env=environment,
            cwd=tmp_path,
        )
        return done, output

    return run


def accuracies(run: Run) -> dict[str, tuple[int, int]]:
    return {
        record.cell.backend: (record.accuracy.top1, record.accuracy.images)
        for record in run.cells.values()
        if record.accuracy is not None
    }


def test_every_backend_is_counted_paired_and_judged(home: Path, evaluate: Evaluate) -> None:
    data = ("--data", f"imagefolder:{home / 'data'}")
    done, output = evaluate(
        *data, "--backends", "eager,fake-well,fake-wrong", "--batch-sizes", "8", "--max-drop", "5"
    )
    assert done.returncode == 1, (
        done.stderr
    )  # fake-wrong loses more than is accepted, and there are enough images
    run = load(output)
    assert run.evaluation is not None
    assert list(run.evaluation.broken) == ["a/broken.png"]
    found = accuracies(run)
    images = found["eager"][1]
    # One in four at most calibrates; the broken one is among neither, or among the evaluated and skipped.
    assert 0.7 * IMAGES < images < IMAGES
    assert found["eager"] == found["fake-well"] == (images, images)
    assert found["fake-wrong"][0] < 0.5 * images
    for record in run.cells.values():
        assert record.accuracy is not None
        pairs = record.accuracy.pairs
        assert pairs is not None
        assert pairs.reference == "eager fp32"
        assert pairs.both_right + pairs.only_cell == record.accuracy.top1
        assert pairs.both_right + pairs.only_reference == images
        with np.load(output / record.accuracy.predictions) as arrays:
            assert (arrays["classes"][:, 0] == arrays["labels"]).sum() == record.accuracy.top1
    report = (output / "report.md").read_text()
    assert "broken.png" in report
    assert "fake-wrong" in report
    assert "fake-wrong" in done.stdout
    assert not run.blocks


def test_a_second_evaluation_takes_predictions_from_the_store(home: Path, evaluate: Evaluate) -> None:
    done, output = evaluate(
        "--data", f"imagefolder:{home / 'data'}", "--backends", "eager,fake-well", "--batch-sizes", "8"
    )
    assert done.returncode == 0, done.stderr
    run = load(output)
    cached = {r.cell.backend: r.accuracy is not None and r.accuracy.cached for r in run.cells.values()}
    assert cached == {"eager": True, "fake-well": True}, done.stderr
    assert run.evaluation is not None
    assert list(run.evaluation.broken) == ["a/broken.png"]


def test_data_that_are_mostly_broken_are_one_line(home: Path, evaluate: Evaluate, tmp_path: Path) -> None:
    for number in range(40):
        folder = tmp_path / "bad" / "abcd"[number % 4]
        folder.mkdir(parents=True, exist_ok=True)
        good = next((home / "data" / "b").glob("*.png")).read_bytes()
        (folder / f"{number:02d}.png").write_bytes(good if number < 30 else good[: len(good) // 3])
    done, _ = evaluate("--data", f"imagefolder:{tmp_path / 'bad'}", "--backends", "eager")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("mnv3-bench:")]
    assert "images cannot be read, more than 1 %" in line
    assert "Traceback" not in done.stderr


def test_a_cell_that_computes_no_numbers_fails_alone(home: Path, evaluate: Evaluate) -> None:
    done, output = evaluate(
        "--data", f"imagefolder:{home / 'data'}", "--backends", "fake-nan,fake-well", "--batch-sizes", "8"
    )
    assert done.returncode == 5
    run = load(output)
    failed = [record for record in run.cells.values() if record.failure is not None]
    assert [record.cell.backend for record in failed] == ["fake-nan"]
    assert failed[0].failure is not None
    assert failed[0].failure.phase == "accuracy"
    assert "NaN" in failed[0].failure.reason
    assert list(accuracies(run)) == ["fake-well"]


@pytest.mark.thorough
def test_an_exported_file_is_judged_by_its_manifest(home: Path, artifact_cache: Path, tmp_path: Path) -> None:
    environment = {**registered(tmp_path / "fakes"), "MNV3_BENCH_CACHE": str(artifact_cache)}
    exported = bench(
        *("export", "--weights", str(home / "tiny.safetensors"), "--to", "onnx"),
        *("--output", str(tmp_path / "deploy")),
        env=environment,
        cwd=tmp_path,
    )
    assert exported.returncode == 0, exported.stderr
    (file,) = (tmp_path / "deploy").glob("*.onnx")
    done = bench(
        *("evaluate", "--model", str(file), "--data", f"imagefolder:{home / 'data'}"),
        *("--backends", "onnxruntime", "--output", str(tmp_path / "judged")),
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    run = load(tmp_path / "judged")
    (right, images) = accuracies(run)["onnxruntime"]
    assert right == images
    (record,) = run.cells.values()
    assert record.accuracy is not None
    assert record.accuracy.pairs is None
    assert record.accuracy.preprocessing.resize == card().preprocessing.resize
    assert "manifest.json beside the file" in record.accuracy.preprocessing.source
