"""`mnv3-bench train` as it is typed: options, what is printed, how it ends."""

from __future__ import annotations

import inspect
import io
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
import trainings

from mnv3_bench.cli import invoke
from mnv3_bench.errors import ExitCode, UsageError
from mnv3_bench.evaluating.cli import evaluate
from mnv3_bench.training import cli
from mnv3_bench.training.command import TrainAsked, farewell, make_job
from mnv3_bench.training.display import LiveTrainDisplay, TrainDisplay, epoch_line, make_display
from mnv3_models.training import Began, EpochDone, EpochResult, Note, Stepped
from mnv3_models.training.checkpoint import read_standing
from mnv3_models.training.knobs import KNOBS, flag
from mnv3_models.training.recipes import PRESETS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SMALLEST = [
    *("--variant", "small@0.25", "--resolution", "32", "--batch-size", "32", "--epochs", "1"),
    *("--warmup-epochs", "0", "--threads", "1", "--no-tensorboard"),
]
RESULT = EpochResult(
    epoch=2,
    step=42,
    loss=0.51234,
    held_out_loss=0.2,
    top1=0.975,
    learning_rate=1e-3,
    seconds=2.0,
    images_per_second=671.6,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished training."""
    folder = tmp_path_factory.mktemp("train")
    data = trainings.some_digits(folder)
    code = invoke(["train", *SMALLEST, "--data", data, "--seed", "3", "--output", str(folder / "run")])
    assert code == ExitCode.DONE
    return folder / "run"


def typed(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """A command line's exit code, and what it printed."""
    capsys.readouterr()
    code = invoke(["train", *arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_what_is_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, folder = trainings.some_digits(tmp_path), tmp_path / "my run"
    code, out, err = typed(*SMALLEST, "--data", data, "--output", str(folder), capsys=capsys)
    assert code == ExitCode.DONE
    assert {path.name for path in folder.iterdir()} == {
        "checkpoint.safetensors",
        "model.json",
        "model.safetensors",
    }
    lines = err.splitlines()
    assert lines[0].startswith("training v3-small@0.25 by recipe quick with epochs 1,")
    assert lines[1].startswith("epoch 1/1: loss ")
    assert len(lines) == 2
    assert f"weights: {folder / 'model.safetensors'}" in out


def test_the_next_commands_can_be_typed(trained: Path) -> None:
    """What it says to type next are options that 'evaluate' and 'run' have."""
    job = make_job(TrainAsked(resume=str(trained)))
    from mnv3_models.training import train

    lines = farewell(job, train(job))
    evaluating, running = (shlex.split(line) for line in lines[-2:])
    assert evaluating[:2] == ["mnv3-bench", "evaluate"]
    options = {name.removeprefix("--").replace("-", "_") for name in evaluating if name.startswith("--")}
    assert options <= inspect.signature(evaluate).parameters.keys()
    assert evaluating[evaluating.index("--weights") + 1] == str(trained / "model.safetensors")
    assert running[running.index("--weights") + 1] == f"v3-small@0.25={trained / 'model.safetensors'}"


def test_every_knob_is_an_option() -> None:
    parameters = inspect.signature(cli.train).parameters
    assert set(KNOBS) <= parameters.keys()
    assert "knobs" not in parameters


def test_every_option_reaches_the_recipe(tmp_path: Path) -> None:
    """One that was misspelt on the way would be left at the recipe's value."""
    asked = TrainAsked(
        knobs={"lr": 0.5, "ema_decay": 0.9, "norm_decay": True, "qat": True, "optimizer": "sgd"},
        output=str(tmp_path / "x"),
    )
    recipe = make_job(asked).recipe
    assert (recipe.lr, recipe.ema_decay, recipe.norm_decay, recipe.qat, recipe.optimizer) == (
        0.5,
        0.9,
        True,
        True,
        "sgd",
    )
    assert make_job(TrainAsked()).recipe == PRESETS["quick"]


@pytest.mark.parametrize("knob", KNOBS)
def test_an_option_is_called_like_its_knob(knob: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Values that no recipe can have show, by the message, that they arrived where they belong."""
    impossible = {"warmup_epochs": "1000", "accumulate": "63", "eval_resolution": "1", "optimizer": "x"}
    knobs = {"norm_decay", "bias_decay", "depthwise_decay", "ema_adjusted", "qat"}
    if knob in knobs:
        code, _, err = typed(flag(knob), "--lr", "-1", capsys=capsys)
        assert (code, "--lr is -1.0" in err) == (ExitCode.USAGE, True)
        return
    value = impossible.get(knob, "-1")
    code, _, err = typed(flag(knob), value, capsys=capsys)
    assert code == ExitCode.USAGE
    expected = {"eval_resolution": "--resolution is 1;", "accumulate": "has no 63 equal parts"}
    assert expected.get(knob, flag(knob)) in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--recipe", "torchvision-v4"], "unknown recipe 'torchvision-v4'; did you mean torchvision-v"),
        (["--variant", "smal"], "unknown variant 'smal'; did you mean v3-small"),
        (["--data", "digit"], "did you mean digits?"),
        (["--data", "digits", "--num-classes", "5"], "--num-classes is 5, but digits has 10 classes"),
        (["--weights", "none.pth"], "--weights: there is no file none.pth"),
        (
            ["--recipe", "quick-qat"],
            "recipe quick-qat goes on from weights that are trained; type --weights FILE",
        ),
        (["--resume", "nowhere"], "--resume: there is no folder nowhere to go on from"),
        (["--resume", "x", "--output", "y"], "leave out --output"),
        (["--checkpoint-every", "0"], "--checkpoint-every is 0"),
        (["--checkpoint-every", "often"], "--checkpoint-every"),
        (["--epochs", "many"], "--epochs"),
        (["--epoch", "3"], "--epoch"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value),
)
def test_a_wrong_request_is_one_line(
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = typed(*arguments, capsys=capsys)
    assert code == ExitCode.USAGE
    assert out == ""
    assert len(err.splitlines()) == 1
    assert said in err
    assert not list(tmp_path.iterdir()), "nothing is made of a wrong request"


def test_going_on_takes_what_is_not_typed_from_the_folder(trained: Path) -> None:
    job = make_job(TrainAsked(resume=str(trained)))
    assert (job.variant, job.seed, job.resume) == ("v3-small@0.25", 3, True)
    assert (job.recipe.resolution, job.recipe.epochs) == (32, 1)
    assert job.data.startswith("npz:/")
    assert job.directory == trained


def test_going_on_with_the_same_words_or_with_others(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = typed(*SMALLEST, "--seed", "3", "--resume", str(trained), capsys=capsys)
    assert code == ExitCode.DONE
    assert "weights: " in out
    code, _, err = typed("--resume", str(trained), "--lr", "0.5", "--seed", "4", capsys=capsys)
    assert code == ExitCode.USAGE
    assert len(err.splitlines()) == 1
    assert "--lr 0.5 (there 0.002), --seed 4 (there 3) contradicts the training in" in err


def test_a_folder_in_use(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = typed("--output", str(trained), capsys=capsys)
    assert code == ExitCode.USAGE
    assert f"holds a training already (checkpoint.safetensors); go on with --resume {trained}" in err


def test_fine_tuning_from_a_folder(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = trainings.some_digits(tmp_path)
    arguments = [
        "--weights",
        str(trained),
        "--data",
        data,
        "--num-classes",
        "11",
        "--output",
        str(tmp_path / "run"),
    ]
    code, _, err = typed(*SMALLEST, *arguments, capsys=capsys)
    assert code == ExitCode.DONE
    assert "note: model.safetensors has 10 classes, this network 11: its last layer starts anew" in err
    run = json.loads((tmp_path / "run" / "model.json").read_text())
    assert run["card"]["fine_tuned_from"].startswith("model.safetensors")
    code, _, err = typed("--variant", "large", "--weights", str(trained), capsys=capsys)
    assert code == ExitCode.USAGE
    assert "is of v3-small@0.25, not of v3-large; type --variant v3-small@0.25" in err


def test_a_training_that_has_to_stop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*SMALLEST, "--data", trainings.some_digits(tmp_path), "--output", str(tmp_path / "run")]
    code, out, err = typed(*arguments, "--optimizer", "sgd", "--lr", "1e9", capsys=capsys)
    assert code == ExitCode.CELLS_FAILED
    assert out == ""
    assert err.splitlines()[-1].startswith(
        "mnv3-bench: the loss is no finite number any more, in epoch 1, step "
    )


HEARD = """
import os, signal, sys
from mnv3_bench.training.command import _asked_to_stop

number = int(sys.argv[1])
before = signal.getsignal(number)
with _asked_to_stop() as should_stop:
    assert not should_stop()
    os.kill(os.getpid(), number)
    assert should_stop()
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        print("a second one interrupts")
assert signal.getsignal(number) is before
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_heard_and_handlers_put_back(number: signal.Signals) -> None:
    # In a process of its own: a signal that goes astray would end the one that runs the tests.
    done = subprocess.run(
        [sys.executable, "-c", HEARD, str(int(number))], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "a second one interrupts\n"), done.stderr


def test_sigterm_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = [*SMALLEST, "--data", trainings.some_digits(tmp_path), "--epochs", "5000", "--workers", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mnv3_bench.cli", "train", *arguments, "--output", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch 2/"):
            break
    os.killpg(process.pid, signal.SIGTERM)  # as a batch system does; the worker has to bear it
    out, err = process.communicate(timeout=60)
    assert process.returncode == ExitCode.INTERRUPTED
    (said,) = out.splitlines()
    assert said.startswith("mnv3-bench: stopped after step ")
    assert said.endswith(f"and saved; go on with: mnv3-bench train --resume {folder}")
    assert "Traceback" not in err
    standing = read_standing(folder)
    assert standing.step >= 2 * trainings.STEPS
    assert not (folder / "model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.thorough
def test_under_torchrun(tmp_path: Path) -> None:
    """One process prints and writes, two compute."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    folder = tmp_path / "run"
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--nproc-per-node",
                "2",
                "--master-port",
                str(port),
            ),
            *("-m", "mnv3_bench.cli", "train", *SMALLEST, "--data", trainings.some_digits(tmp_path)),
            *("--output", str(folder)),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("weights: ") == 1
    assert done.stderr.count("epoch 1/1: ") == 1
    assert json.loads((folder / "model.json").read_text())["processes"] == 2


def test_recipes_with_their_sources(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["recipes"], ["train", "--list-recipes"]):
        assert invoke(arguments) == ExitCode.DONE
        printed = capsys.readouterr().out
        for recipe in PRESETS.values():
            assert f"{recipe.name}: " in printed
            assert f"source: {recipe.source}" in printed
            assert all(f"differs: {lack}" in printed for lack in recipe.lacks)


def test_recipes_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert invoke(["recipes"]) == ExitCode.DONE
    printed = capsys.readouterr().out
    assert all(name in printed for name in PRESETS)
    assert "─" in printed


def test_lines_of_a_training(capsys: pytest.CaptureFixture[str]) -> None:
    display = make_display()
    assert type(display) is TrainDisplay
    display(Began("v1", "quick", "digits", 1347, 450, 10, 16, 21, 7))
    display(Stepped(1, 16, 5, 21, 0.5, 1e-3, 600.0, 61.0))
    display(EpochDone(RESULT, 16, 61.0))
    display(Note("something"))
    display.end()
    first, *others = capsys.readouterr().err.splitlines()
    assert first == (
        "training v1 by recipe quick on digits: 1347 images of 10 classes, 450 held out; 16 epochs of 21 steps, "
        "going on after step 7"
    )
    assert others == [
        "epoch 2/16: loss 0.5123, held out: loss 0.2000, top-1 97.50%; 672 images/s, 1:01 left",
        "note: something",
    ]
    assert epoch_line(EpochDone(RESULT, 2, 0.0)).endswith("672 images/s")


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    display = make_display()
    assert type(display) is LiveTrainDisplay
    display(Began("v1", "quick", "digits", 1347, 450, 10, 16, 21, 0))
    display(EpochDone(RESULT, 16, 61.0))
    display(Stepped(3, 16, 5, 21, 0.5, 1e-3, 600.0, 61.0))
    display.end()
    drawn = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "epoch 3/16" in drawn
    assert "loss 0.500, top-1 97.50%, 600 images/s, 1:01 left" in drawn
    assert "epoch 2/16: loss 0.5123" in drawn


def test_a_time_between_checkpoints() -> None:
    assert make_job(TrainAsked(checkpoint_every="90s")).checkpoint_seconds == 90
    assert make_job(TrainAsked(checkpoint_every="50")).checkpoint_steps == 50
    with pytest.raises(UsageError):
        make_job(TrainAsked(checkpoint_every="5 sheep"))


def test_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    job: Any = make_job(TrainAsked())
    assert (job.variant, job.data, job.recipe.name, job.seed, job.device) == (
        "v3-small",
        "digits",
        "quick",
        0,
        "cpu",
    )
    assert job.directory.parts[0] == "mnv3-train"
    assert job.directory.name.startswith("v3-small-")
    assert job.workers == 0
    monkeypatch.setattr("mnv3_bench.training.command.usable_cpus", lambda: 6)
    assert make_job(TrainAsked(data="imagefolder:/data")).workers == 3
    assert make_job(TrainAsked(knobs={"augment": "randaugment"})).workers == 3
