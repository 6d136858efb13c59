"""What every backend promises. A new backend is one more row of the table; nothing is added here."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mnv3_bench.backends import BACKENDS, _openvino_profile, _pacing, get_backend, missing
from mnv3_bench.backends.base import Preparation
from mnv3_bench.complexity import count
from mnv3_bench.inputs import images
from mnv3_bench.profiling.attribution import attribute
from mnv3_reports.record import Scalar, TensorSpec

if TYPE_CHECKING:
    from torch import nn

RESOLUTION, CLASSES, INPUTS = 64, 16, 3
PROBE = Path(__file__).with_name("probe.py")


@dataclass(frozen=True)
class Case:
    """A network in a setting."""

    variant: str
    batch: int
    threads: int
    loads: int = 0


LOADS = 100
ALL_IN_SHORT = Case("contract_net:build", 3, 2, LOADS)
CASES = (ALL_IN_SHORT, Case("v3-small@0.35", 1, 1), Case("v1@0.25", 3, 2))
"""The first has one of each ingredient; real networks, slow to convert, are tested nightly."""
LEAK = 100_000
"""Bytes a load that may stay, of more than twice as many that its weights take. What stays once is not counted."""


@cache
def network(variant: str) -> nn.Module:
    import torch

    from mnv3_models import build
    from mnv3_models.calibration import calibrate, seed_weights

    torch.manual_seed(0)
    model = build(variant, num_classes=CLASSES)
    if variant == ALL_IN_SHORT.variant:
        pictures = torch.from_numpy(images(0, "weights", RESOLUTION))
        with torch.no_grad():
            model.train()(pictures)  # for BatchNorm's statistics
            # What all images have in common would hide that they were mixed up.
            model.classifier[-1].bias -= model.eval()(pictures).mean(0)
    else:
        seed_weights(model, 0)
        calibrate(model, images(0, "weights", RESOLUTION))
    return model.eval()


@dataclass
class Seen:
    """A prepared artifact and what the process that loaded it told."""

    case: Case
    prepared: dict[str, Scalar]
    report: dict[str, Any]
    logits: np.ndarray
    reference: np.ndarray
    changed: set[str]
    inductor_files: list[str]
    artifact: Path


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(
            (name, case),
            id=f"{name}-{case.variant}",
            marks=[pytest.mark.thorough] if case is not ALL_IN_SHORT else [],
        )
        for name in BACKENDS
        for case in CASES
    ],
)
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Prepare here, move the artifact away, load it in another process that has no compiler."""
    import torch

    name, case = request.param
    backend = get_backend(name)
    lacking = missing(backend.info)
    if lacking is not None:
        pytest.skip(f"{lacking[0]}; {lacking[1]}")
    model = network(case.variant)
    root = tmp_path_factory.mktemp("contract")
    made, moved = root / "made", root / "elsewhere" / "moved"
    made.mkdir()
    moved.parent.mkdir()
    batches = images(0, "fidelity", RESOLUTION, INPUTS * case.batch).reshape(
        INPUTS, case.batch, 3, RESOLUTION, RESOLUTION
    )
    threads_here = torch.get_num_threads()
    try:
        prepared = backend.prepare(
            Preparation(
                variant=case.variant,
                num_classes=CLASSES,
                network=model,
                inputs=(TensorSpec("images", (case.batch, 3, RESOLUTION, RESOLUTION)),),
                example=(images(0, "measure", RESOLUTION, case.batch),),
                calibration=[
                    (batch,) for batch in np.split(images(0, "calibration", RESOLUTION, 30), 30 // case.batch)
                ],
                threads=case.threads,
                device="cpu",
                directory=made,
            )
        )
    finally:
        torch.set_num_threads(threads_here)
    made.rename(moved)
    with torch.inference_mode():
        reference = np.stack([model(torch.from_numpy(batch)).numpy() for batch in batches])
    np.save(root / "images.npy", batches)
    before = contents(moved)
    inductor = root / "inductor"
    done = subprocess.run(
        [
            sys.executable,
            PROBE,
            name,
            moved,
            str(case.threads),
            root / "images.npy",
            root / "logits.npy",
            # Reduced forms are the same sessions on other files.
            str(case.loads if backend.info.exact is None else 0),
        ],
        env={
            **{key: value for key, value in os.environ.items() if key != "CXX"},
            "PATH": str(root / "no-programs-here"),
            "OMP_NUM_THREADS": str(case.threads),
            "PYTHONPATH": str(Path(__file__).parents[2]),  # the network may have to be built again
            # numpy's own BLAS starts its threads when numpy is imported; no runtime here computes with it.
            "OPENBLAS_NUM_THREADS": "1",
            "TORCHINDUCTOR_CACHE_DIR": str(inductor),
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    after = contents(moved)
    return Seen(
        case=case,
        prepared=prepared,
        report=json.loads(done.stdout.splitlines()[-1]) | {"backend": name},
        logits=np.load(root / "logits.npy"),
        reference=reference,
        changed={file for file in before | after if before.get(file) != after.get(file)},
        inductor_files=[path.name for path in inductor.rglob("*") if path.is_file()],
        artifact=moved,
    )


def contents(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
        if path.is_file()
    }


def snr_db(reference: np.ndarray, logits: np.ndarray) -> float:
    error = float(((logits.astype(np.float64) - reference) ** 2).sum())
    return 10 * float(np.log10((reference.astype(np.float64) ** 2).sum() / error)) if error else 200.0


def test_numbers_are_those_of_eager(seen: Seen) -> None:
    assert seen.logits.shape == (INPUTS, seen.case.batch, CLASSES)
    assert seen.logits.dtype == np.float32
    floor = get_backend(seen.report["backend"]).info.floor_snr_db
    assert snr_db(seen.reference, seen.logits) >= floor
    swapped = np.roll(seen.reference, 1, axis=0)
    assert snr_db(swapped, seen.logits) < floor, "any output would pass: the inputs are not told apart"


def test_the_asked_number_of_threads_works(seen: Seen) -> None:
    assert seen.report["facts"]["threads"] == seen.case.threads
    assert seen.report["busy_threads"] == seen.case.threads


def test_a_wrong_batch_is_refused_in_one_line(seen: Seen) -> None:
    asked, batch = seen.report, seen.case.batch
    assert f"images has shape {batch}x3x65x65, this artifact takes {batch}x3x64x64" in asked["wrong_size"]
    assert "images has shape 3x64x64" in asked["wrong_rank"]
    assert "images is float64, expected float32" in asked["wrong_type"]
    assert "2 inputs were given, this artifact takes 1: images" in asked["wrong_number"]
    assert all("\n" not in asked[key] for key in ("wrong_size", "wrong_rank", "wrong_type", "wrong_number"))


def test_the_artifact_is_only_read(seen: Seen) -> None:
    assert seen.changed == set()


def test_nothing_is_compiled_while_loading(seen: Seen) -> None:
    """The process had no compiler on its path; nor was one asked for a shared object."""
    assert [name for name in seen.inductor_files if name.endswith((".so", ".cpp", ".o"))] == []


def test_only_the_runtime_is_imported(seen: Seen) -> None:
    name, modules = seen.report["backend"], set(seen.report["modules"])
    info = get_backend(name).info
    if "torch" not in info.runtime_modules:
        assert modules.isdisjoint({"torch", "mnv3_models"})
    runtime = {module.partition(".")[0] for module in info.runtime_modules}
    assert modules.isdisjoint(set(info.prepare_modules) - runtime)
    if name not in ("compile", "quantized-static"):
        assert "torch._inductor.compile_fx" not in modules


def test_forkable_runtimes_start_no_thread_when_imported(seen: Seen) -> None:
    if get_backend(seen.report["backend"]).info.forkable:
        assert seen.report["os_threads_after_import"] == 1


def test_it_runs_after_a_fork_where_it_says_so(seen: Seen) -> None:
    expected = 0 if get_backend(seen.report["backend"]).info.forkable else None
    assert seen.report["forked"] == expected


def test_nothing_stays_after_it_is_closed(seen: Seen) -> None:
    """Over 100 loads; compared with what was there after a tenth of them, which is where caches have settled."""
    marks = seen.report["resident_bytes"]
    if marks:
        assert marks[-1] - marks[0] < LEAK * (seen.case.loads - seen.case.loads // 10), marks


def test_a_profile_puts_every_layer_to_an_operator(
    seen: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_pacing, "REPEATS", 4)
    monkeypatch.setattr(_pacing, "WARM_UP_SECONDS", 0.0)
    monkeypatch.setattr(_openvino_profile, "LOADS", 2)
    batch = seen.case.batch
    calls = [(images(0, "tuning", RESOLUTION, batch),)]
    found = get_backend(seen.report["backend"]).profile(seen.artifact, seen.case.threads, calls, tmp_path)
    assert found is not None
    counted = count(network(seen.case.variant), calls[0])
    profiled = attribute(found, counted.layers, "cell", batch)
    assert profiled.unmatched == ""
    assert sum(operator.macs for operator in profiled.operators) == counted.macs * batch
    computed = [operator.module for operator in profiled.operators if operator.macs]
    assert computed == [layer.name for layer in counted.layers if layer.macs]
    kinds = {operator.kind for operator in profiled.operators}
    assert kinds >= {"convolution", "depthwise", "pointwise", "squeeze-excitation", "linear"}
    assert all(0 <= each.lower <= each.seconds <= each.upper for each in profiled.operators)
    assert sum(operator.seconds for operator in profiled.operators) > 0
    assert profiled.plain_seconds > 0
    assert found.trace is None or (tmp_path / found.trace).is_file()


def test_facts_are_there(seen: Seen) -> None:
    facts = seen.report["facts"]
    modules = get_backend(seen.report["backend"]).info.runtime_modules
    name, _, version = str(facts["runtime"]).partition(" ")
    assert name in {module.partition(".")[0] for module in modules}
    assert version[0].isdigit()
    assert all(isinstance(value, Scalar) for value in facts.values())
    assert {key: facts.get(key) for key in seen.prepared} == seen.prepared
    assert "train" not in str(facts.get("mode", ""))
    assert seen.report["clock"] == "wall"
