"""A training that is killed, stopped or out of space goes on to the weights it would have had."""

from __future__ import annotations

import multiprocessing
import random
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import trainings

from mnv3_models.training import (
    EpochDone,
    InterruptedTrainingError,
    JobError,
    Note,
    Progress,
    Stepped,
    TrainingError,
    train,
)
from mnv3_models.training.checkpoint import read_standing, write_atomically
from mnv3_models.training.job import CHECKPOINT_FILE, WEIGHTS_FILE

KILLS = 10
EVERYTHING: dict[str, Any] = {
    "ema_decay": 0.9,
    "ema_adjusted": True,
    "mixup": 0.2,
    "cutmix": 1.0,
    "random_erasing": 0.5,
    "dropout": 0.5,
}
"""Knobs that bring chance and state of every kind."""


class StopAfter:
    """Asks a training to stop at its n-th step."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_killed_at_ten_random_moments(tmp_path: Path) -> None:
    """kill -9, each time to go on from what lies there; the last process ends with the weights of an unbroken one."""
    whole = trainings.job(tmp_path / "whole", epochs=8, checkpoint_steps=2, **EVERYTHING)
    broken = trainings.job(tmp_path / "broken", epochs=8, checkpoint_steps=2, **EVERYTHING)
    unbroken = train(whole)
    context = trainings.children()
    steps = []
    for _ in range(KILLS):
        began = context.Event()
        process = context.Process(target=trainings.carry_out, args=(trainings.resumed(broken), began))
        process.start()
        assert began.wait(60)
        process.join(random.random() * unbroken.seconds / KILLS)
        assert process.exitcode is None, "it was to be killed while it trains"
        process.kill()
        process.join()
        if (broken.directory / CHECKPOINT_FILE).exists():
            steps.append(read_standing(broken.directory).step)
    outcome = train(trainings.resumed(broken))
    assert len(set(steps)) > 2, "the kills came at several moments"
    assert [result.loss for result in outcome.history] == [result.loss for result in unbroken.history]
    assert trainings.same(outcome.weights, unbroken.weights)
    assert trainings.same(broken.directory / CHECKPOINT_FILE, whole.directory / CHECKPOINT_FILE)


def test_stopped_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    unbroken = train(trainings.job(tmp_path / "whole", optimizer="rmsprop-tf", **EVERYTHING))
    job = trainings.job(tmp_path / "broken", optimizer="rmsprop-tf", **EVERYTHING)
    with pytest.raises(
        InterruptedTrainingError, match=rf"step 5 of {trainings.STEPS} in epoch 1 of 2.*--resume"
    ) as stopped:
        train(job, should_stop=StopAfter(4))
    assert "\n" not in str(stopped.value)
    assert not (job.directory / WEIGHTS_FILE).exists()
    with pytest.raises(InterruptedTrainingError, match=f"step 4 of {trainings.STEPS} in epoch 2"):
        train(trainings.resumed(job), should_stop=StopAfter(7))
    outcome = train(trainings.resumed(job))
    assert trainings.same(outcome.weights, unbroken.weights)


def test_resuming_after_the_last_step_writes_the_weights(tmp_path: Path) -> None:
    """As when it is killed between the last checkpoint and the weights."""
    job = trainings.job(tmp_path, epochs=1)
    first = train(job)
    before = trainings.tensors(first.weights)
    first.weights.unlink()
    again = train(trainings.resumed(job))
    after = trainings.tensors(again.weights)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert again.history == first.history


def test_a_full_disk_leaves_the_older_checkpoint_whole(tmp_path: Path) -> None:
    """A limit on the size of files makes writing fail half way, as a full disk does."""
    unbroken = train(trainings.job(tmp_path / "whole"))
    job = trainings.job(tmp_path / "broken", checkpoint_steps=4)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    seen = []

    def report(progress: Progress) -> None:
        if isinstance(progress, EpochDone):
            seen.append((job.directory / CHECKPOINT_FILE).read_bytes())
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))

    try:
        with pytest.raises(
            TrainingError, match=r"cannot be written .*the older one is whole.*--resume"
        ) as stopped:
            train(job, report)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(stopped.value)
    assert (job.directory / CHECKPOINT_FILE).read_bytes() == seen[0]
    assert [path.name for path in job.directory.iterdir()] == [CHECKPOINT_FILE], "nothing half written stays"
    assert trainings.same(train(trainings.resumed(job)).weights, unbroken.weights)


def test_no_room_for_the_first_checkpoint(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(TrainingError, match=r"make room for \d+ MB and start again"):
            train(trainings.job(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_no_nan_reaches_a_checkpoint(tmp_path: Path) -> None:
    job = trainings.job(tmp_path, optimizer="sgd", lr=1e6, warmup_epochs=0.0, checkpoint_steps=1)
    with pytest.raises(
        TrainingError, match=r"no finite number.*lower --lr than 1e\+06 or --clip-norm 1"
    ) as stopped:
        train(job)
    assert "\n" not in str(stopped.value)
    kept = trainings.tensors(tmp_path / CHECKPOINT_FILE)
    assert all(torch.isfinite(tensor).all() for tensor in kept.values() if tensor.is_floating_point())
    assert not (tmp_path / WEIGHTS_FILE).exists()


def test_a_worker_that_dies(tmp_path: Path) -> None:
    job = trainings.job(tmp_path, workers=1, batch_size=8, checkpoint_steps=3, epochs=5)

    def report(progress: Progress) -> None:
        if isinstance(progress, Stepped):
            for child in multiprocessing.active_children():
                child.kill()

    with pytest.raises(TrainingError, match=r"worker .*SIGKILL.*--workers 0.*--resume") as stopped:
        train(job, report)
    assert "\n" not in str(stopped.value)
    assert read_standing(tmp_path).step % 3 == 0


def test_a_request_that_contradicts_the_checkpoint(tmp_path: Path) -> None:
    train(trainings.job(tmp_path, epochs=1))
    for changed, said in (
        ({"epochs": 2}, r"--epochs 2 \(there 1\)"),
        ({"epochs": 1, "seed": 3}, r"--seed 3 \(there 0\)"),
        ({"epochs": 1, "variant": "v1"}, r"--variant v1 \(there v3-small@0.25\)"),
    ):
        with pytest.raises(JobError, match=rf"{said} contradicts the training in") as refused:
            train(trainings.job(tmp_path, resume=True, **changed))
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x10", b"\xff" * 64, (2).to_bytes(8, "little") + b"{}"],
    ids=["empty", "short", "noise", "no checkpoint"],
)
def test_a_checkpoint_that_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / CHECKPOINT_FILE).write_bytes(content)
    with pytest.raises(JobError, match=CHECKPOINT_FILE) as refused:
        train(trainings.job(tmp_path, resume=True))
    assert "\n" not in str(refused.value)


def test_a_checkpoint_that_is_cut_off(tmp_path: Path) -> None:
    train(trainings.job(tmp_path, epochs=1))
    path = tmp_path / CHECKPOINT_FILE
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(JobError, match="cannot be read") as refused:
        train(trainings.job(tmp_path, epochs=1, resume=True))
    assert "\n" not in str(refused.value)


def test_nothing_to_go_on_from(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="there is no folder"):
        train(trainings.job(tmp_path / "none", resume=True))
    with pytest.raises(JobError, match=rf"has no {CHECKPOINT_FILE}, only digits.npz"):
        train(trainings.job(tmp_path, resume=True))


def test_a_folder_in_use_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / WEIGHTS_FILE).write_bytes(b"somebody's")
    with pytest.raises(JobError, match=r"holds a training already.*another --output"):
        train(trainings.job(tmp_path))
    assert (tmp_path / WEIGHTS_FILE).read_bytes() == b"somebody's"


def test_another_number_of_threads_is_said(tmp_path: Path) -> None:
    job = trainings.job(tmp_path, epochs=1)
    train(job)
    said: list[Progress] = []
    train(replace(trainings.resumed(job), threads=2), said.append)
    assert any(isinstance(each, Note) and "1 threads" in each.text for each in said)


def test_kill_between_writing_and_replacing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    class KilledError(BaseException):
        pass

    def die(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die)
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # a killed process tidies nothing up
        with pytest.raises(KilledError):
            write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    write_atomically(path, b"newer")
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("file", b"newer")]
