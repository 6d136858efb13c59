"""What a training does with its knobs, and what it leaves behind."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import trainings
from safetensors.torch import save_file
from torch.nn import functional as F

from mnv3_models import build, load_weights
from mnv3_models.card import read_card
from mnv3_models.checkpoints import load_for_fine_tuning
from mnv3_models.data import CentreCrop, DataError, Tally, loader, open_data
from mnv3_models.training import (
    Began,
    EpochDone,
    JobError,
    Note,
    Outcome,
    Progress,
    TrainingError,
    get_recipe,
    override,
    setup,
    train,
    train_weights,
)
from mnv3_models.training.checkpoint import load
from mnv3_models.training.distributed import World
from mnv3_models.training.job import CHECKPOINT_FILE, RUN_FILE

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Some digits, learnt in 12 epochs."""
    torch.set_num_threads(1)
    directory = tmp_path_factory.mktemp("trained") / "run"
    return train(trainings.job(directory, epochs=12, lr=4e-3, ema_decay=0.8))


def test_it_learns(trained: Outcome) -> None:
    assert trained.top1 > 0.8
    assert trained.history[0].loss > trained.history[-1].loss
    assert [result.epoch for result in trained.history] == list(range(1, 13))
    assert trained.best.top1 >= trained.top1
    assert trained.seconds > 0


def test_the_card_says_how_to_use_the_weights(trained: Outcome) -> None:
    """They give, loaded as any others and on inputs made as the card says, the accuracy that it claims."""
    card = read_card(trained.weights)
    assert card == trained.card
    assert card is not None
    assert (card.variant, card.num_classes, card.classes) == ("v3-small@0.25", 10, tuple("0123456789"))
    assert (card.epochs, card.seed, card.fine_tuned_from) == (12, 0, "")
    assert card.recipe.startswith("quick with epochs 12, ")
    source = open_data(f"npz:{trained.weights.parent.parent / 'digits.npz'}")
    assert card.data_fingerprint == source.fingerprint
    network = build(card.variant, num_classes=card.num_classes).eval()
    load_weights(network, trained.weights, bn_eps=card.bn_eps)
    held_out = source.part("held-out")
    assert card.images == len(held_out)
    batches = loader(held_out, CentreCrop(card.preprocessing), batch=16, workers=0, tally=Tally())
    with torch.no_grad():
        found = [
            (network(images).argmax(1) == labels, F.cross_entropy(network(images), labels, reduction="sum"))
            for images, labels, _ in batches
        ]
    assert sum(int(hits.sum()) for hits, _ in found) / len(held_out) == pytest.approx(card.top1)
    assert sum(float(loss) for _, loss in found) / len(held_out) == pytest.approx(
        trained.history[-1].held_out_loss, rel=1e-4
    )


def test_the_runs_json(trained: Outcome) -> None:
    text = trained.weights.with_name(RUN_FILE).read_text()
    run = json.loads(text)
    assert run["request"]["recipe"]["lr"] == 4e-3
    assert run["request"]["recipe"]["ema_decay"] == 0.8
    assert len(run["history"]) == 12
    assert run["history"][-1]["top1"] == trained.top1
    assert run["versions"]["torch"] == str(torch.__version__)
    assert str(trained.weights.parent.parent) not in text, "no path of this machine"


def test_weights_of_the_average_are_saved(trained: Outcome) -> None:
    _, tensors = load(trained.weights.parent)
    weights = trainings.tensors(trained.weights)
    assert all(torch.equal(weights[name], tensors[f"average.module.{name}"]) for name in weights)
    assert any(not torch.equal(weights[name], tensors[f"model.{name}"]) for name in weights)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tmp_path: Path) -> None:
    knobs: dict[str, Any] = {"epochs": 1, "mixup": 0.3, "random_erasing": 0.3}
    first, again, workers, other = (
        train(trainings.job(tmp_path / str(number), **knobs, **fields))
        for number, fields in enumerate(({}, {}, {"workers": 2}, {"seed": 1}))
    )
    assert trainings.same(first.weights, again.weights)
    assert trainings.same(first.weights, workers.weights)
    assert not trainings.same(first.weights, other.weights)


def test_the_callers_generator_and_threads_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    with pytest.raises(TrainingError, match="stopped after step 1"):
        train(trainings.job(tmp_path, threads=2), should_stop=lambda: True)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == 1


def test_parts_of_a_step_add_up_to_its_gradient(tmp_path: Path) -> None:
    """As far as BatchNorm, which sees a part at a time, lets them: without it they are the same."""
    knobs: dict[str, Any] = {
        "optimizer": "sgd",
        "epochs": 1,
        "dropout": 0.0,
        "warmup_epochs": 0.0,
        "lr": 0.1,
        "momentum": 0.0,
        "prepare_model": without_norms,
    }
    outcomes = [train(trainings.job(tmp_path / str(parts), accumulate=parts, **knobs)) for parts in (1, 4)]
    whole, parts = (trainings.tensors(outcome.weights) for outcome in outcomes)
    assert whole.keys() == parts.keys()
    for name, expected in whole.items():
        assert torch.allclose(parts[name], expected, rtol=1e-4, atol=1e-7), name
    assert outcomes[0].loss == pytest.approx(outcomes[1].loss, rel=1e-5)


def without_norms(network: torch.nn.Module) -> torch.nn.Module:
    """BatchNorm that always takes its running statistics, so that images do not depend on each other."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train = lambda mode=True, module=module: module  # type: ignore[method-assign,misc,assignment]
            module.training = False
    return network


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision(tmp_path: Path, precision: str) -> None:
    """The arithmetic differs, so the weights do; they stay fp32, and it goes on to the same ones after a stop."""
    whole = train(trainings.job(tmp_path / "low", epochs=1, precision=precision))
    full = train(trainings.job(tmp_path / "fp32", epochs=1))
    weights = trainings.tensors(whole.weights)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32, torch.int64}
    assert not trainings.same(whole.weights, full.weights)
    assert whole.loss == pytest.approx(full.loss, rel=0.1)
    job = trainings.job(tmp_path / "broken", epochs=1, precision=precision)
    stops = iter([False] * 4 + [True])
    with pytest.raises(TrainingError):
        train(job, should_stop=lambda: next(stops))
    assert trainings.same(train(trainings.resumed(job)).weights, whole.weights)


def test_clipping_bounds_the_step(tmp_path: Path) -> None:
    knobs: dict[str, Any] = {
        "optimizer": "sgd",
        "momentum": 0.0,
        "lr": 1.0,
        "warmup_epochs": 0.0,
        "epochs": 1,
        "weight_decay": 0.0,
        "batch_size": 300,
    }
    job = trainings.job(tmp_path, clip_norm=0.01, **knobs)
    outcome = train(job)
    torch.manual_seed(0)
    start = dict(build(job.variant, num_classes=10).named_parameters())
    end = trainings.tensors(outcome.weights)
    moved = sum(float((end[name] - weight.detach()).square().sum()) for name, weight in start.items()) ** 0.5
    assert moved == pytest.approx(0.01, rel=1e-2), "one step of learning rate 1"


def test_weights_decay_by_what_the_recipe_says(tmp_path: Path) -> None:
    job = trainings.job(tmp_path, depthwise_decay=False, weight_decay=0.5)
    stops = iter([True])
    with pytest.raises(TrainingError):
        train(job, should_stop=lambda: next(stops))
    _, tensors = load(tmp_path)
    assert any(key.endswith("exp_avg") for key in tensors), "the optimizer's state is saved"


def test_what_is_reported(tmp_path: Path) -> None:
    said: list[Progress] = []
    train(trainings.job(tmp_path), said.append)
    began = next(each for each in said if isinstance(each, Began))
    assert (began.classes, began.epochs, began.steps, began.done) == (10, 2, trainings.STEPS, 0)
    done = [each for each in said if isinstance(each, EpochDone)]
    assert [each.result.epoch for each in done] == [1, 2]
    assert done[-1].seconds_left == 0
    assert all(each.result.images_per_second > 0 for each in done)


def test_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    outcome = train(trainings.job(tmp_path, tensorboard=True))
    log = EventAccumulator(str(tmp_path / "tensorboard"))
    log.Reload()
    assert [round(each.value, 4) for each in log.Scalars("held_out_top1")] == [
        round(result.top1, 4) for result in outcome.history
    ]
    assert [each.step for each in log.Scalars("loss")] == [trainings.STEPS, 2 * trainings.STEPS]


def test_without_tensorboard_it_says_so_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.delitem(sys.modules, "mnv3_models.training.tensorboard", raising=False)
    said: list[Progress] = []
    train(trainings.job(tmp_path, epochs=1, tensorboard=True), said.append)
    assert [each.text for each in said if isinstance(each, Note)] == [
        "TensorBoard is not installed, so no logs are written; pip install 'mnv3-bench[train]'"
    ]


def test_fine_tuning_starts_from_the_weights(tmp_path: Path, trained: Outcome) -> None:
    """Two small steps do not undo what twelve epochs taught; from scratch they teach nothing."""
    knobs: dict[str, Any] = {"epochs": 1, "lr": 1e-5, "warmup_epochs": 0.0}
    tuned = train(trainings.job(tmp_path / "tuned", weights=trained.weights, **knobs))
    assert tuned.top1 > 0.7
    assert train(trainings.job(tmp_path / "scratch", **knobs)).top1 < 0.3
    assert tuned.card.fine_tuned_from.startswith("model.safetensors (sha256 ")
    assert tuned.card.bn_eps == trained.card.bn_eps


def test_fine_tuning_with_a_new_last_layer(tmp_path: Path, trained: Outcome) -> None:
    said: list[Progress] = []
    outcome = train(trainings.job(tmp_path, epochs=1, weights=trained.weights, num_classes=12), said.append)
    assert [each.text for each in said if isinstance(each, Note)] == [
        "model.safetensors has 10 classes, this network 12: its last layer starts anew"
    ]
    assert trainings.tensors(outcome.weights)["classifier.3.weight"].shape[0] == 12
    assert outcome.card.num_classes == 12


def test_inputs_stay_what_the_weights_were_trained_with(tmp_path: Path, trained: Outcome) -> None:
    half = train(trainings.job(tmp_path / "half", epochs=1, normalization="half"))
    assert half.card.preprocessing.mean == (0.5, 0.5, 0.5)
    tuned = train(trainings.job(tmp_path / "tuned", epochs=1, weights=half.weights))
    assert tuned.card.preprocessing.mean == (0.5, 0.5, 0.5)
    asked = replace(trainings.job(tmp_path / "asked", epochs=1, weights=half.weights))
    asked = replace(asked, recipe=override(asked.recipe, normalization="unit"))
    assert train(asked).card.preprocessing.mean == (0.0, 0.0, 0.0)
    assert trained.card.preprocessing.mean == (0.485, 0.456, 0.406)


def test_quantization_aware_training_goes_on_to_the_bit(tmp_path: Path, trained: Outcome) -> None:
    pytest.importorskip("mnv3_models.quantization.fake")
    knobs: dict[str, Any] = {
        "qat": True,
        "lr": 1e-4,
        "observers_off_after": 1,
        "bn_frozen_after": 1,
        "weights": trained.weights,
        "ema_decay": 0.5,
    }
    whole = train(trainings.job(tmp_path / "whole", **knobs))
    assert whole.card.quantization_aware
    plain = train(trainings.job(tmp_path / "plain", **{**knobs, "qat": False}))
    assert whole.history[0].loss != plain.history[0].loss, "fake quantization took part"
    assert trainings.tensors(whole.weights).keys() == trainings.tensors(plain.weights).keys()
    job = trainings.job(tmp_path / "broken", **knobs)
    for steps in (4, 3, 6):
        stops = iter([False] * steps + [True])
        with pytest.raises(TrainingError):
            train(replace(trainings.resumed(job)), should_stop=lambda stops=stops: next(stops))  # type: ignore[misc]
    assert trainings.same(train(trainings.resumed(job)).weights, whole.weights)
    assert trainings.same(whole.weights.with_name(CHECKPOINT_FILE), job.directory / CHECKPOINT_FILE)


def test_statistics_are_frozen_on_schedule(tmp_path: Path, trained: Outcome) -> None:
    pytest.importorskip("mnv3_models.quantization.fake")
    knobs: dict[str, Any] = {"qat": True, "bn_frozen_after": 1, "weights": trained.weights}
    seen: list[torch.Tensor] = []

    def report(progress: Progress) -> None:
        if isinstance(progress, EpochDone):
            seen.append(load(tmp_path)[1]["model.features.0.1.running_mean"])

    outcome = train(trainings.job(tmp_path, epochs=3, **knobs), report)
    # What lies there when an epoch is reported is the checkpoint of the one before.
    final = trainings.tensors(outcome.weights)["features.0.1.running_mean"]
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[1], seen[2])
    assert torch.equal(seen[2], final)


def test_training_weights_for_a_run(tmp_path: Path) -> None:
    recipe = trainings.job(tmp_path).recipe
    data = trainings.some_digits(tmp_path)
    first = train_weights("small@0.25", data, recipe, 0, tmp_path / "a", 1)
    assert first.images + first.card.images == trainings.IMAGES
    assert first.weights == tmp_path / "a" / "model.safetensors"
    assert not (tmp_path / "a" / "tensorboard").exists()
    again = train_weights("small@0.25", data, recipe, 0, tmp_path / "a", 1)
    assert again.history == first.history, "what is there already is taken"


def test_broken_images_are_left_out_and_named(tmp_path: Path) -> None:
    from PIL import Image

    digits = np.load(trainings.some_digits(tmp_path).removeprefix("npz:"))
    for number, (pixels, label) in enumerate(zip(digits["images"][:150], digits["labels"], strict=False)):
        folder = tmp_path / "images" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (tmp_path / "images" / "3" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno image")
    said: list[Progress] = []
    train(trainings.job(tmp_path / "run", data=f"imagefolder:{tmp_path / 'images'}"), said.append)
    (note,) = [each.text for each in said if isinstance(each, Note)]
    assert "1 image could not be read" in note
    assert "broken.png" in note


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"num_classes": 3}, "--num-classes is 3, but digits.npz has 10 classes"),
        ({"variant": "mynet:tiny"}, "mynet:tiny is a model of your own"),
        ({"variant": "net.onnx"}, "net.onnx is a model of your own"),
        ({"seed": -1}, "--seed is -1"),
        ({"device": "tpu"}, "--device tpu is not known; expected cpu, cuda or cuda:0"),
        ({"threads": 0}, "--threads is 0"),
        ({"workers": -1}, "--workers is -1"),
        (
            {"recipe": get_recipe("quick-qat")},
            "recipe quick-qat goes on from weights that are trained; type --weights",
        ),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "-".join(value),
)
def test_requests_that_cannot_be_carried_out(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(JobError) as refused:
        train(trainings.job(tmp_path / "run", **fields))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_no_cuda_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(JobError, match="no CUDA device here; type --device cpu"):
        train(trainings.job(tmp_path, device="cuda"))


def test_a_policy_without_kornia(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "kornia" else find(name))
    with pytest.raises(JobError, match=r"--augment randaugment needs kornia.*mnv3-bench\[train\]"):
        setup.open_job(trainings.job(tmp_path, augment="randaugment"), World())


def test_weights_that_do_not_fit(tmp_path: Path, trained: Outcome) -> None:
    with pytest.raises(
        JobError, match=r"--weights: .*does not fit v3-small@0.5.*fits build\('v3-small@0.25'"
    ):
        train(trainings.job(tmp_path / "a", variant="v3-small@0.5", weights=trained.weights))
    with pytest.raises(JobError, match="cannot be read"):
        train(trainings.job(tmp_path / "b", weights=tmp_path / "none.safetensors"))
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    with pytest.raises(JobError, match="--weights: "):
        train(trainings.job(tmp_path / "c", weights=tmp_path / "junk.safetensors"))


def test_data_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="digit"):
        train(trainings.job(tmp_path, data="digit"))


@pytest.mark.parametrize("name", ["v1@0.25", "v2@0.35", "small@0.25"])
@pytest.mark.parametrize("layout", ["torchvision", "timm"])
def test_only_the_last_layer_stays_new(tmp_path: Path, name: str, layout: str) -> None:
    from mnv3_models.timm_names import timm_names

    given, model = build(name, num_classes=7), build(name, num_classes=10)
    tensors = dict(given.state_dict())
    if layout == "timm":
        names = timm_names(given)
        tensors = {
            f"{names[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": value
            for key, value in tensors.items()
        }
        if "conv_head.bias" in tensors:
            tensors["conv_head.weight"] = tensors["conv_head.weight"][..., None, None]
    save_file(tensors, tmp_path / "given.safetensors")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    loaded, other = load_for_fine_tuning(model, tmp_path / "given.safetensors")
    assert (loaded.layout, other) == (layout, 7)
    after, theirs = model.state_dict(), given.state_dict()
    head = list(after)[-2:]
    assert all(torch.equal(after[key], before[key]) for key in head)
    assert all(torch.equal(after[key], theirs[key]) for key in after if key not in head)
    _, same = load_for_fine_tuning(build(name, num_classes=7), tmp_path / "given.safetensors")
    assert same is None
