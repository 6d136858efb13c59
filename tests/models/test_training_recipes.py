"""Knobs, presets and what is derived from them."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import replace

import msgspec
import pytest

from mnv3_models.training.knobs import KNOBS, Recipe, check
from mnv3_models.training.recipes import PRESETS, RecipeError, get_recipe, override
from mnv3_models.training.schedules import average_decay, learning_rate


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_holds_and_names_its_source(name: str) -> None:
    recipe = PRESETS[name]
    assert recipe.name == name
    assert recipe.source
    assert recipe.label == name
    assert check(recipe) == recipe
    assert msgspec.convert(msgspec.to_builtins(recipe), Recipe) == recipe, "a record of it can be read again"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (
            "torchvision-v3",
            {"optimizer": "rmsprop", "lr": 0.064, "weight_decay": 1e-5, "epochs": 600, "step_epochs": 2},
        ),
        (
            "torchvision-v3",
            {"gamma": 0.973, "random_erasing": 0.2, "augment": "auto-augment", "ema_decay": 0.0},
        ),
        (
            "torchvision-v2",
            {"optimizer": "sgd", "lr": 0.045, "weight_decay": 4e-5, "epochs": 300, "gamma": 0.98},
        ),
        (
            "torchvision-v2-improved",
            {"lr": 0.5, "warmup_epochs": 5, "mixup": 0.2, "cutmix": 1.0, "resolution": 176},
        ),
        ("torchvision-v2-improved", {"label_smoothing": 0.1, "weight_decay": 2e-5, "norm_decay": False}),
        (
            "paper-v3",
            {"optimizer": "rmsprop-tf", "lr": 0.1, "batch_size": 4096, "gamma": 0.99, "step_epochs": 3},
        ),
        ("paper-v3", {"ema_decay": 0.9999, "weight_decay": 1e-5, "bn_momentum": 0.01, "momentum": 0.9}),
        ("paper-v2", {"lr": 0.045, "gamma": 0.98, "step_epochs": 1, "batch_size": 96, "weight_decay": 4e-5}),
        (
            "timm-v3",
            {"optimizer": "rmsprop-tf", "eps": 1e-3, "step_epochs": 2.4, "gamma": 0.973, "batch_size": 1024},
        ),
        (
            "torchvision-qat-v3",
            {"lr": 1e-3, "weight_decay": 1e-5, "observers_off_after": 4, "bn_frozen_after": 3},
        ),
        (
            "torchvision-qat-v2",
            {"lr": 1e-4, "weight_decay": 1e-4, "qat": True, "fine_tunes": True, "gamma": 0.1},
        ),
    ],
)
def test_presets_are_as_published(name: str, values: dict[str, object]) -> None:
    assert {knob: getattr(PRESETS[name], knob) for knob in values} == values


def test_inputs_of_evaluation() -> None:
    improved = get_recipe("torchvision-v2-improved").preprocessing()
    assert (improved.resolution, improved.resize) == (224, 232)
    assert get_recipe("paper-v3").preprocessing().mean == (0.5, 0.5, 0.5)
    quick = get_recipe("quick").preprocessing()
    assert (quick.resolution, quick.resize) == (64, 64)


def test_overriding() -> None:
    changed = override(get_recipe("quick"), epochs=3, lr=None, resolution=32)
    assert (changed.epochs, changed.lr, changed.resolution) == (3, get_recipe("quick").lr, 32)
    assert changed.label == "quick with epochs 3, resolution 32"
    assert override(changed, mixup=0.2).label == "quick with epochs 3, resolution 32, mixup 0.2"
    assert override(get_recipe("quick"), epochs=get_recipe("quick").epochs).label == "quick"


def test_another_resolution_keeps_the_share_that_is_cut_off() -> None:
    smaller = override(get_recipe("torchvision-v3"), resolution=112).preprocessing()
    assert (smaller.resolution, smaller.resize) == (112, 128)


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"lr": -1.0}, "--lr is -1.0; expected a number above 0"),
        ({"lr": float("nan")}, "--lr is nan; expected"),
        ({"epochs": 0}, "--epochs is 0; expected a whole number"),
        ({"dropout": 1.0}, "--dropout is 1.0; expected a number from 0 to below 1"),
        ({"ema_decay": 2.0}, "--ema is 2.0"),
        ({"optimizer": "adam"}, "--optimizer adam is not known; did you mean adamw?"),
        ({"schedule": "linear"}, "--schedule linear is not known; expected cosine, step"),
        ({"augment": "rand-augment"}, "did you mean randaugment?"),
        ({"resolution": 16}, "--resolution is 16; expected at least 32"),
        ({"accumulate": 3}, "--batch-size 64 has no 3 equal parts"),
        ({"warmup_epochs": 99.0}, "--warmup-epochs 99 leaves nothing"),
        ({"magnitude": 30}, "--magnitude is 30; expected a number between 0 and 30"),
        ({"bn_momentum": 0.0}, "--bn-momentum is 0.0"),
        ({"epoch": 3}, "no knob 'epoch'; did you mean epochs?"),
    ],
)
def test_what_a_knob_cannot_be(knobs: dict[str, object], said: str) -> None:
    with pytest.raises(RecipeError) as refused:
        override(get_recipe("quick"), **knobs)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [("quik", "did you mean quick"), ("v1", "did you mean slim-v1"), ("resnet", "known are quick,")],
)
def test_an_unknown_recipe(name: str, said: str) -> None:
    with pytest.raises(RecipeError, match=f"unknown recipe '{name}'; {said}"):
        get_recipe(name)


def test_every_knob_can_be_overridden() -> None:
    quick = get_recipe("quick")
    assert override(quick, **{knob: getattr(quick, knob) for knob in KNOBS}) == quick


def test_importing_recipes_imports_no_torch() -> None:
    code = (
        "import sys, mnv3_models.training.recipes as r\n"
        "r.get_recipe('quick').preprocessing()\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_cosine() -> None:
    recipe = replace(get_recipe("quick"), epochs=4, warmup_epochs=0.0, lr=2.0)
    rates = [learning_rate(recipe, step, 10) for step in range(40)]
    assert rates[0] == 2.0
    assert rates[20] == pytest.approx(1.0)
    assert rates[10] == pytest.approx(1 + 2**-0.5)
    assert all(later < earlier for earlier, later in itertools.pairwise(rates))
    assert 0 < rates[-1] < 0.01


def test_warm_up_then_the_schedule_from_its_start() -> None:
    recipe = replace(get_recipe("quick"), epochs=6, warmup_epochs=2.0, warmup_from=0.1, lr=1.0)
    assert learning_rate(recipe, 0, 10) == pytest.approx(0.1)
    assert learning_rate(recipe, 10, 10) == pytest.approx(0.55)
    assert learning_rate(recipe, 20, 10) == 1.0
    assert learning_rate(recipe, 40, 10) == pytest.approx(0.5)


def test_steps_of_whole_epochs_are_torchs() -> None:
    from torch import nn, optim

    recipe = replace(get_recipe("torchvision-v3"), epochs=9)
    optimizer = optim.SGD(nn.Linear(1, 1).parameters(), recipe.lr)
    reference = optim.lr_scheduler.StepLR(optimizer, 2, recipe.gamma)
    for epoch in range(9):
        expected = reference.get_last_lr()[0]
        assert learning_rate(recipe, epoch * 7, 7) == pytest.approx(expected, rel=1e-12)
        assert learning_rate(recipe, epoch * 7 + 6, 7) == pytest.approx(expected, rel=1e-12)
        optimizer.step()
        reference.step()


def test_steps_of_2_4_epochs() -> None:
    recipe = replace(get_recipe("timm-v3"), warmup_epochs=0.0)
    rates = [learning_rate(recipe, step, 10) for step in range(100)]
    changes = [step for step in range(1, 100) if rates[step] != rates[step - 1]]
    assert changes == [24, 48, 72, 96]


def test_the_averages_decay_begins_low_where_adjusted() -> None:
    recipe = get_recipe("paper-v3")
    assert average_decay(recipe, 0) == pytest.approx(0.1)
    assert average_decay(recipe, 90) == pytest.approx(0.91)
    assert average_decay(recipe, 10**6) == 0.9999
    assert average_decay(get_recipe("timm-v3"), 0) == 0.9999
