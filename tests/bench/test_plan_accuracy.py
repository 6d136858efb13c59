from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from bench.labelled import CLASSES, PIXELS, VARIANT, card, pictures, write_weights

from mnv3_bench.errors import UsageError
from mnv3_bench.keys import Keys
from mnv3_bench.plan import Asked, make_plan
from mnv3_models import data
from mnv3_reports.record import Cell

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return write_weights(tmp_path / "tiny.safetensors", card())


@pytest.fixture
def images(tmp_path: Path) -> str:
    path = tmp_path / "some.npz"
    np.savez(path, images=pictures(40), labels=np.arange(40) % CLASSES, classes=np.array(list("abcd")))
    return f"npz:{path}"


def test_a_card_says_what_nobody_has_to_type(weights: Path, images: str) -> None:
    plan = make_plan(Asked(weights=str(weights), data=images, references="none", backends="eager"))
    request = plan.request
    assert request.variants == (VARIANT,)
    assert request.num_classes == CLASSES
    assert request.resolutions == (PIXELS,)
    assert request.preprocessing[VARIANT].resize == PIXELS + 8
    assert plan.evaluation is not None
    assert plan.evaluation.classes == tuple("abcd")
    assert plan.evaluation.data == "some.npz"
    assert str(weights.parent) not in plan.evaluation.calibration


def test_the_folder_that_training_wrote_stands_for_its_weights(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    write_weights(folder / "model.safetensors", card())
    plan = make_plan(Asked(weights=str(folder), references="none", backends="eager"))
    assert plan.request.weights == {VARIANT: str(folder / "model.safetensors")}


def test_what_weights_were_trained_on_is_never_evaluated_unasked(tmp_path: Path, images: str) -> None:
    source = data.open_data(images)
    fresh = write_weights(tmp_path / "fresh.safetensors", card())
    used = write_weights(tmp_path / "used.safetensors", card(data_fingerprint=source.fingerprint))

    def split(weights: Path, asked: str | None = None) -> tuple[str | None, int]:
        plan = make_plan(
            Asked(weights=str(weights), data=images, references="none", backends="eager", split=asked)
        )
        assert plan.evaluation is not None
        return plan.request.split, plan.evaluation.images

    assert split(fresh)[0] == "all"
    assert split(used) == ("held-out", len(source.part("held-out")))
    assert split(used, "all")[0] == "all"


def test_what_is_trained_on_in_this_run_is_not_evaluated_either(images: str) -> None:
    plan = make_plan(
        Asked(variants="small", data=images, recipe="quick", references="none", backends="eager")
    )
    assert plan.request.split == "held-out"
    assert plan.request.num_classes == CLASSES


def test_calibration_images_are_none_of_the_evaluated_at_any_resolution(weights: Path, images: str) -> None:
    plan = make_plan(
        Asked(weights=str(weights), data=images, references="none", backends="eager", resolutions="32,64")
    )
    keys = Keys(plan.request)
    for resolution in (32, 64):
        labelled = keys.labelled(VARIANT, resolution)
        assert labelled is not None
        assert labelled.preprocessing.resolution == resolution
        assert labelled.preprocessing.resize == round((PIXELS + 8) * resolution / PIXELS)
        parts = data.evaluation_parts(data.open_data(images), set(), "all", labelled.calibration)
        assert not set(parts.evaluated.names) & set(parts.calibration.names)
    cell = Cell(VARIANT, "eager", resolution=32)
    assert keys.pool("calibration", cell)["kind"] == "data images"
    assert keys.pool("calibration", cell) != keys.pool("fidelity", cell)


def test_a_file_of_another_image_gives_other_artifacts(weights: Path, tmp_path: Path) -> None:
    digests = []
    for seed in (0, 1):
        path = tmp_path / "one.npz"
        np.savez(
            path, images=pictures(40, seed), labels=np.arange(40) % CLASSES, classes=np.array(list("abcd"))
        )
        plan = make_plan(Asked(weights=str(weights), data=f"npz:{path}", references="none", backends="eager"))
        digests.append(Keys(plan.request).artifact(plan.cells[0])["calibration"]["data"])
    assert digests[0] != digests[1]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Asked(data="digits"), r"--data: no network here has weights .* or --recipe quick"),
        (Asked(data="digit"), r"--data: .*digits"),
        (Asked(recipe="quick"), r"--recipe is about labelled images; type --data digits"),
        (Asked(max_drop="1"), r"--max-drop is about labelled images"),
        (Asked(split="all"), r"--split is about labelled images"),
        (Asked(keep_float=2), r"--keep-float finds sensitive layers on labelled images"),
        (Asked(data="digits", recipe="quik"), r"--recipe: .*quick"),
        (Asked(ablate="se", variants="v2"), r"--ablate is for V3-Large and V3-Small"),
        (Asked(ablate="see"), r"--ablate: .*se"),
        (Asked(ablate=","), r"--ablate names nothing"),
        (Asked(data="digits", recipe="quick", max_drop="much"), r"--max-drop much is no number of points"),
        (Asked(data="digits", recipe="quick", max_drop="-1"), r"--max-drop -1 is out of range"),
        (
            Asked(data="digits", recipe="quick", split="val"),
            r"--split val is not known; type held-out or all",
        ),
        (Asked(data="digits", recipe="quick", keep_float=-1), r"--keep-float -1 is negative"),
        (
            Asked(data="digits", recipe="quick", num_classes=7),
            r"digits has 10 classes, the network has 7 outputs",
        ),
        (
            Asked(data="digits", recipe="quick", num_classes=12),
            r"digits has 10 classes.*train a head for them",
        ),
    ],
)
def test_bad_input_is_one_line(asked: Asked, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        make_plan(asked)
    assert "\n" not in str(caught.value)


def test_weights_that_contradict_the_request_are_refused(tmp_path: Path, weights: Path) -> None:
    other = write_weights(tmp_path / "v2.safetensors", card(variant="v2@0.35", num_classes=5))
    larger = write_weights(
        tmp_path / "larger.safetensors",
        card(variant="v2@0.35", preprocessing=data.Preprocessing(64, 64)),
    )
    for asked, message in (
        (
            Asked(weights=f"small={weights}"),
            r"holds weights of v3-small@0.25, not of v3-small; type v3-small@0.25=",
        ),
        (Asked(weights=str(weights), num_classes=9), r"--num-classes 9: the weights have 4 classes"),
        (Asked(weights=f"{weights},{weights}", references="none"), r"two files are given for v3-small@0.25"),
        (Asked(weights=f"{weights},{other}", references="none"), r"different numbers of classes"),
        (Asked(weights=f"{weights},{larger}", references="none"), r"different resolutions .*--resolutions"),
        (Asked(weights=str(tmp_path)), r"holds no model.safetensors"),
        (Asked(weights=str(weights), variants="large"), r"v3-small@0.25 is not measured in this run"),
    ):
        with pytest.raises(UsageError, match=message):
            make_plan(asked)


def test_a_damaged_card_is_said_to_be_one(tmp_path: Path, weights: Path) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(weights.read_bytes().replace(b'num_classes\\":4', b'num_classes\\":x'))
    with pytest.raises(UsageError, match="says of itself what cannot be read"):
        make_plan(Asked(weights=str(damaged)))


def test_ablation_plans_the_forms_with_their_training_and_without_references() -> None:
    plan = make_plan(Asked(variants="small", ablate="se,kernel5", backends="eager"))
    assert plan.request.variants == ("v3-small", "v3-small-no-se", "v3-small-no-kernel5")
    assert plan.request.ablated == {"v3-small-no-se": "v3-small", "v3-small-no-kernel5": "v3-small"}
    assert (plan.request.recipe, plan.request.data) == ("quick", "digits")
    assert plan.request.references == ()
    assert plan.request.num_classes == 10
    keys = Keys(plan.request)
    assert all(keys.trains(variant) for variant in plan.request.variants)


def test_networks_without_weights_are_measured_and_said_to_have_no_accuracy(
    weights: Path, images: str
) -> None:
    plan = make_plan(
        Asked(weights=str(weights), variants=VARIANT, references="v1", data=images, backends="eager")
    )
    assert "v1: no accuracy, since the weights are seeded" in plan.notes
    assert {cell.variant for cell in plan.cells} == {VARIANT, "v1"}
    assert Keys(plan.request).labelled("v1", PIXELS) is None
