"""A network of the user's own through the whole of phase one, and through a run."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
import torch

from mnv3_bench.backends import get_backend
from mnv3_bench.backends.base import BackendError
from mnv3_bench.cache import digest
from mnv3_bench.errors import UsageError
from mnv3_bench.inputs import images
from mnv3_bench.keys import Keys
from mnv3_bench.plan import Asked, make_plan
from mnv3_bench.prepare_worker import about_weights, carry_out, load_prepared
from mnv3_bench.protocol import Prepare, Reference, Weights
from mnv3_reports.journal import assemble, read_journal
from mnv3_reports.record import Cell, VariantFacts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NETWORK = """
import torch
from torch import nn
from own_blocks import conv

def tiny():
    return nn.Sequential(conv(3, 8, 3, 2), conv(8, 8, 3, groups=8), conv(8, 16, 1),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))

class Trained(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8, eps=0.5)
        self.aux, self.head = nn.Linear(8, 3), nn.Linear(8, 7)
        self.again = self.head

    def forward(self, images):
        found = torch.relu(self.bn(self.stem(images))).mean((2, 3))
        return self.aux(found) if self.training else self.head(found)

def fixed():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4))

def branching():
    class Branching(nn.Module):
        def forward(self, images):
            return images.flatten(1)[:, : 3 if float(images.sum()) > 0 else 3]
    return Branching()
"""
BLOCKS = """
from torch import nn

def conv(given, out, kernel, stride=1, groups=1):
    return nn.Sequential(nn.Conv2d(given, out, kernel, stride, kernel // 2, groups=groups, bias=False),
                         nn.BatchNorm2d(out), nn.Hardswish())
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory, with a network in it that is imported anew by every test."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_net.py").write_text(NETWORK)
    (tmp_path / "own_blocks.py").write_text(BLOCKS)
    yield tmp_path
    for name in ("own_net", "own_blocks"):
        sys.modules.pop(name, None)


def edit(folder: Path, name: str = "own_blocks.py") -> None:
    with (folder / name).open("a") as file:
        file.write("\n# edited\n")


def make_weights(folder: Path, variant: str, *, seed: int = 0, file: Path | None = None) -> Path:
    place = folder / f"weights-{seed}"
    place.mkdir(exist_ok=True)
    carry_out(Weights(variant, 1000, seed, str(file) if file else None, "", str(place)))
    return place / "model.safetensors"


def save_images(folder: Path, resolution: int) -> str:
    np.save(folder / "images.npy", images(0, "fidelity", resolution, 4))
    return str(folder / "images.npy")


class TestKeys:
    def keys(self, **changed: Any) -> tuple[str, str, str]:
        """Names of weights, reference and artifact, as a new run would have them."""
        asked: dict[str, Any] = {"variants": "own_net:tiny", "references": "none", "backends": "eager"}
        keys = Keys(make_plan(Asked(**asked | changed)).request)
        cell = Cell("own_net:tiny", "eager")
        found = keys.weights("own_net:tiny"), keys.reference(cell), keys.artifact(cell)
        return digest(found[0]), digest(found[1]), digest(found[2])

    def test_all_change_with_its_code_and_with_code_it_imports(self, folder: Path) -> None:
        seen = [self.keys()]
        for name in ("own_net.py", "own_blocks.py"):
            edit(folder, name)
            seen.append(self.keys())
        for kind in zip(*seen, strict=True):
            assert len(set(kind)) == 3

    def test_what_does_not_shape_it_is_not_in_them(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = self.keys()
        (folder / "stranger.py").write_text("changed = True")
        assert self.keys(num_classes=10) == before
        (folder / "moved").mkdir()
        for name in ("own_net.py", "own_blocks.py"):
            (folder / name).rename(folder / "moved" / name)
        monkeypatch.chdir(folder / "moved")
        assert self.keys() == before

    def test_seed_and_weights_file_are(self, folder: Path) -> None:
        torch.save({}, folder / "w.pth")
        assert len({self.keys(), self.keys(seed=1), self.keys(weights="own_net:tiny=w.pth")}) == 3

    def test_an_edit_in_the_middle_of_a_run_does_not_split_its_keys(self, folder: Path) -> None:
        keys = Keys(make_plan(Asked(variants="own_net:tiny", references="none", backends="eager")).request)
        before = keys.weights("own_net:tiny")
        edit(folder)
        assert keys.weights("own_net:tiny") == before

    def test_code_that_is_gone_is_a_wrong_request(self, folder: Path) -> None:
        keys = Keys(make_plan(Asked(variants="own_net:tiny", references="none", backends="eager")).request)
        (folder / "own_net.py").unlink()
        with pytest.raises(UsageError, match="--variants: there is no module 'own_net'"):
            keys.weights("own_net:tiny")


class TestPlan:
    def test_it_stands_beside_others_and_may_be_a_reference(self, folder: Path) -> None:
        plan = make_plan(Asked(variants="own_net:tiny,small", references="own_net:fixed", backends="eager"))
        assert plan.request.variants == ("own_net:tiny", "v3-small")
        assert plan.request.references == ("own_net:fixed",)
        for cell in plan.cells:
            assert Cell.from_key(cell.key) == cell
        assert "own_net" not in sys.modules

    @pytest.mark.parametrize(
        ("asked", "said"),
        [
            ({"variants": "own_nett:tiny"}, "--variants: there is no module 'own_nett' in .*PYTHONPATH"),
            ({"variants": "own_net:tinny"}, r"--variants: .*has no 'tinny'; did you mean own_net:tiny\?"),
            ({"variants": "small:"}, "--variants: 'small:' names no function"),
            ({"variants": "small", "references": ":f"}, "--references: ':f' names no module"),
            ({"variants": "own_net:tiny@0.5"}, "--variants: .* takes no width"),
        ],
    )
    def test_what_is_wrong_is_found_before_anything_is_built(
        self, folder: Path, asked: dict[str, str], said: str
    ) -> None:
        with pytest.raises(UsageError, match=said):
            make_plan(Asked(backends="eager", **asked))  # type: ignore[arg-type]


class TestPreparing:
    def test_its_initial_values_are_its_own_and_follow_the_seed(self, folder: Path) -> None:
        weights = make_weights(folder, "own_net:tiny", seed=3)
        torch.manual_seed(3)
        expected = sys.modules["own_net"].tiny()
        model = load_prepared("own_net:tiny", 1000, str(weights))
        assert not any(module.training for module in model.modules())
        for name, tensor in expected.state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor), name
        other = load_prepared("own_net:tiny", 1000, str(make_weights(folder, "own_net:tiny", seed=4)))
        assert not torch.equal(other[0][0].weight, model[0][0].weight)  # type: ignore[index]

    def test_a_weights_file_fills_it(self, folder: Path) -> None:
        make_weights(folder, "own_net:tiny")  # imports it
        state = {name: torch.ones_like(t) for name, t in sys.modules["own_net"].tiny().state_dict().items()}
        torch.save(state, folder / "w.pth")
        weights = make_weights(folder, "own_net:tiny", seed=9, file=folder / "w.pth")
        model = load_prepared("own_net:tiny", 1000, str(weights))
        assert all((tensor == 1).all() for tensor in model.state_dict().values())
        assert about_weights(weights).layout == "its own"

    def test_code_that_changed_after_its_weights_were_made_is_refused(self, folder: Path) -> None:
        weights = make_weights(folder, "own_net:tiny")
        load_prepared("own_net:tiny", 1000, str(weights))
        edit(folder)
        with pytest.raises(ValueError, match="the code of own_net:tiny changed after its weights were made"):
            load_prepared("own_net:tiny", 1000, str(weights))

    def test_the_reference_has_as_many_classes_as_the_network(self, folder: Path) -> None:
        weights = make_weights(folder, "own_net:tiny")
        place = folder / "reference"
        place.mkdir()
        carry_out(Reference("own_net:tiny", 1000, str(weights), 64, save_images(folder, 64), str(place)))
        assert np.load(place / "outputs.npz")["0"].shape == (4, 5)
        facts = msgspec.json.decode((place / "variant.json").read_bytes(), type=VariantFacts)
        assert (facts.title, facts.published) == ("own_net:tiny", ())
        assert facts.features["depthwise separable"] == "1 of 3 convolutions depthwise"
        # Positions x weights: 32 x 32 x (27 x 8 + 9 x 8 + 8 x 16) and the classifier's 16 x 5.
        assert facts.complexity.macs == 32 * 32 * (27 * 8 + 9 * 8 + 8 * 16) + 16 * 5
        assert facts.complexity.disagreement is None

    def test_a_resolution_that_does_not_fit_is_named(self, folder: Path) -> None:
        weights = make_weights(folder, "own_net:fixed")
        (folder / "out").mkdir()
        orders = (
            Reference("own_net:fixed", 1000, str(weights), 64, save_images(folder, 64), str(folder / "out")),
            Prepare(
                "eager",
                "own_net:fixed",
                9,
                str(weights),
                2,
                save_images(folder, 64),
                1,
                "cpu",
                str(folder / "out"),
            ),
        )
        for order, batch in zip(orders, (1, 2), strict=True):
            with pytest.raises(
                ValueError, match=f"'own_net:fixed' cannot take images of {batch} x 3 x 64 x 64"
            ):
                carry_out(order)
        assert list((folder / "out").iterdir()) == []


def agrees(folder: Path, backend: str, variant: str) -> None:
    """Prepare and load with a backend, and compare with the network itself."""
    weights = make_weights(folder, variant)
    place = folder / "artifact"
    place.mkdir()
    carry_out(Prepare(backend, variant, 1000, str(weights), 2, save_images(folder, 32), 1, "cpu", str(place)))
    batch = np.load(folder / "images.npy")[:2]
    with torch.inference_mode():
        wanted = load_prepared(variant, 1000, str(weights))(torch.from_numpy(batch)).numpy()
    session = get_backend(backend).load(place, 1, "cpu")
    (found,) = session.fetch(session.run(session.stage((batch,))))
    session.close()
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)
    assert np.ptp(wanted) > 1e-3, "all logits are alike, so the comparison shows nothing"


class TestBackends:
    @pytest.mark.parametrize("variant", ["own_net:tiny", "own_net:Trained"])
    @pytest.mark.parametrize("backend", ["eager", "eager-channels-last", "torchscript"])
    def test_it_is_built_again_around_its_weights(self, folder: Path, backend: str, variant: str) -> None:
        """Also with a BatchNorm of another epsilon, a head that inference leaves out and a shared layer."""
        agrees(folder, backend, variant)

    @pytest.mark.slow
    @pytest.mark.thorough
    def test_a_plain_sequential_can_be_compiled_and_saved(self, folder: Path) -> None:
        agrees(folder, "compile", "own_net:tiny")

    def test_a_network_that_cannot_be_traced_is_refused_in_one_line(self, folder: Path) -> None:
        with pytest.raises(BackendError, match=r"torch\.fx cannot trace the network") as caught:
            agrees(folder, "eager-channels-last", "own_net:branching")
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_run_measures_it_and_an_edit_makes_a_new_artifact(folder: Path, artifact_cache: Path) -> None:
    def artifact(output: str) -> str:
        done = subprocess.run(
            [
                *(
                    sys.executable,
                    "-P",
                    "-m",
                    "mnv3_bench.cli",
                    "--variants",
                    "own_net:tiny",
                    "--references",
                    "none",
                ),
                *(
                    "--backends",
                    "eager",
                    "--resolutions",
                    "64",
                    "--quick",
                    "--time-budget",
                    "2s",
                    "--output",
                    output,
                ),
            ],
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "MNV3_BENCH_CACHE": str(artifact_cache), "HOME": str(folder)},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        run = assemble(read_journal(folder / output / "journal.jsonl"))
        (record,) = run.cells.values()
        assert record.inspected is not None
        assert record.inspected.fidelity is not None
        assert record.inspected.fidelity.snr_db > 100
        report = (folder / output / "report.md").read_text()
        assert "own_net:tiny" in report
        assert "top-1 %" not in report.replace("same top-1 %", "")  # nothing about published accuracy
        assert record.prepared is not None
        return record.prepared.artifact

    first = artifact("first")
    edit(folder)
    assert artifact("second") != first
