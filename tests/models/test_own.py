"""Networks that a function of the user's makes: their names, their code, what they may return."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from mnv3_models import build, list_variants, parse_variant
from mnv3_models.features import ABSENT, features
from mnv3_models.own import build_own, count_classes, load_state
from mnv3_models.own_source import fingerprint, require_source
from mnv3_models.published import figures, top1

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TINY = """
from torch import nn

def tiny():
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.Hardswish(), nn.Conv2d(8, 8, 3, groups=8),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory, empty; what is imported from it is forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


class TestNames:
    @pytest.mark.parametrize("name", ["mynet:tiny", "a.b.c:F", "Large:v2", "café:crème", "_x:_y1"])
    def test_a_name_is_taken_as_it_is_written(self, name: str) -> None:
        variant = parse_variant(f" {name} ")
        assert (variant.name, variant.base, variant.title) == (name, name, name)
        assert (variant.family, variant.is_own, variant.width) == ("own", True, 1.0)
        assert parse_variant(variant.name) == variant

    def test_the_networks_of_this_package_are_not_own(self) -> None:
        assert not any(parse_variant(name).is_own for name in list_variants())

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("small:", "'small:' names no function after the colon; .*the built-in network is 'small'"),
            ("a.b:", "'a.b:' names no function after the colon; expected MODULE:FUNCTION, such as"),
            (":f", "':f' names no module before the colon; expected MODULE:FUNCTION"),
            (":", "names no function"),
            ("a-b:f", "'a-b' in 'a-b:f' is no name of a Python module"),
            ("a..b:f", "is no name of a Python module"),
            ("1a:f", "is no name of a Python module"),
            ("class:f", "is no name of a Python module"),
            ("a:b:c", "'b:c' in 'a:b:c' is no name of a function"),
            ("a:f()", r"'f\(\)' in 'a:f\(\)' is no name of a function; type 'a:f'"),
            ("a:b.c", "'b.c' in 'a:b.c' is no name of a function"),
            ("a:lambda", "is no name of a function"),
            (
                "nets/my.py:f",
                "'nets/my.py' is a file, not a module; type 'my:f' and run it in the folder nets",
            ),
            ("my.py:f", "'my.py' is a file, not a module; type 'my:f'$"),
            ("a:f@0.5", "'a:f@0.5' is a model of your own and takes no width; write a function"),
        ],
    )
    def test_what_is_no_name_is_refused_with_what_to_type(self, name: str, said: str) -> None:
        with pytest.raises(ValueError, match=said) as caught:
            parse_variant(name)
        assert "\n" not in str(caught.value)

    def test_a_width_apart_from_the_name_is_refused_too(self) -> None:
        with pytest.raises(ValueError, match="takes no width"):
            build("mynet:tiny", width=0.5)

    def test_reading_a_name_and_its_code_imports_nothing(self, folder: Path) -> None:
        write(folder / "loud" / "__init__.py", "raise SystemExit('imported')")
        write(folder / "loud" / "net.py", "def make(): raise SystemExit('called')")
        code = (
            "import sys\n"
            "from mnv3_models import parse_variant\n"
            "from mnv3_models.own_source import fingerprint, require_source\n"
            "variant = parse_variant('loud.net:make')\n"
            "require_source(variant)\n"
            "print(list(fingerprint(variant)), sorted({'loud', 'loud.net', 'torch'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "['loud'] []"


class TestBuilding:
    def test_the_function_makes_the_network_and_nothing_is_forced_on_it(self, folder: Path) -> None:
        write(folder / "plain_net.py", TINY)
        path = list(sys.path)
        model = build("plain_net:tiny", num_classes=1000, bn_eps=0.5)
        assert sys.path == path
        assert count_classes("plain_net:tiny", model.eval(), torch.zeros(2, 3, 32, 32)) == 5
        norm = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
        assert norm.eps == 1e-5

    def test_a_module_in_a_package_and_a_class_serve_as_well(self, folder: Path) -> None:
        write(
            folder / "net_package" / "inner" / "nets.py", "from torch import nn\nclass Net(nn.Flatten): pass"
        )
        assert type(build("net_package.inner.nets:Net")).__name__ == "Net"

    def test_imports_inside_the_function_find_its_neighbours(self, folder: Path) -> None:
        write(folder / "late_helper.py", "from torch import nn\nmake = nn.Flatten")
        write(folder / "late_net.py", "def net():\n    import late_helper\n    return late_helper.make()")
        assert isinstance(build("late_net:net"), nn.Flatten)

    def test_a_plain_sequential_keeps_names_hooks_and_kind(self, folder: Path) -> None:
        write(
            folder / "hooked_net.py",
            TINY + "\ndef hooked():\n    net = tiny()\n"
            "    net.register_forward_hook(lambda module, given, out: out + 100)\n    return net\n",
        )
        torch.manual_seed(0)
        model = build("hooked_net:hooked").eval()
        torch.manual_seed(0)
        plain = sys.modules["hooked_net"].tiny().eval()
        assert isinstance(model, nn.Sequential)
        assert list(model.state_dict()) == list(plain.state_dict())
        image = torch.randn(1, 3, 32, 32)
        with torch.inference_mode():
            torch.testing.assert_close(model(image), plain(image) + 100)

    def test_the_number_of_threads_is_put_back(self, folder: Path) -> None:
        write(folder / "greedy_net.py", "import torch\ntorch.set_num_threads(3)\nmake = torch.nn.Flatten")
        assert torch.get_num_threads() == 1
        build("greedy_net:make")
        assert torch.get_num_threads() == 1

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (
                "import nowhere_to_be_found",
                "cannot be imported: ModuleNotFoundError: No module named 'nowhere_",
            ),
            ("def make(:", "cannot be imported: SyntaxError: "),
            ("import sys\nsys.exit('a script')", "cannot be imported: SystemExit: a script"),
            ("def makes(): pass", "has no 'make'; did you mean {0}:makes\\?"),
            ("x = 1", "has no 'make'; expected a function without arguments"),
            ("make = 3", "'{0}:make' is a int; expected a function that returns the network"),
            ("from torch import nn\nmake = nn.Flatten()", "'{0}:make' is a Flatten; expected a function"),
            ("def make(width): pass", "'{0}:make' raised TypeError: .*missing 1 required .*'width'"),
            ("def make(): raise KeyError('first\\nsecond')", "'{0}:make' raised KeyError: "),
            ("def make(): raise RuntimeError", "'{0}:make' raised RuntimeError$"),
            ("def make(): return None", "'{0}:make' returned a NoneType; expected a torch.nn.Module"),
            (
                "from torch import nn\ndef make(): return nn.Flatten",
                "returned a type; expected a torch.nn.Module",
            ),
            (
                "from torch import nn\ndef make(): return nn.Sequential(nn.Flatten(), nn.LazyLinear(3))",
                r"lazy layers that have no shape yet \(1.weight, 1.bias\); run an image through it",
            ),
        ],
    )
    def test_what_is_wrong_with_it_is_said_in_one_line(
        self, folder: Path, text: str, said: str, request: pytest.FixtureRequest
    ) -> None:
        name = f"wrong_net_{abs(hash(request.node.name))}"
        write(folder / f"{name}.py", text)
        with pytest.raises(ValueError, match=said.format(name)) as caught:
            build(f"{name}:make")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("name", ["no_such_net:make", "no_such.net:make", "json.no_such:make"])
    def test_a_module_that_is_not_there_is_named(self, folder: Path, name: str) -> None:
        for refuse in (build_own, require_source, fingerprint):
            with pytest.raises(
                ValueError, match=f"there is no module '{name.partition(':')[0]}' in "
            ) as caught:
                refuse(parse_variant(name))
            assert "PYTHONPATH" in str(caught.value)


class TestOutput:
    @pytest.mark.parametrize(
        ("function", "said"),
        [
            (lambda x: (x, x), "gives a tuple for images of 2 x 3 x 8 x 8; expected logits, 2 x classes"),
            (lambda x: x, "gives 2 x 3 x 8 x 8 for images of .*; expected logits, 2 x classes"),
            (lambda x: x.flatten(1)[:1], "gives 1 x 192 for images"),
            (lambda x: x.sum(), "gives one number for images"),
            (lambda x: x.flatten(1).double(), "gives float64 for .*, in float32"),
            (
                lambda x: x.flatten(1) @ torch.zeros(7, 2),
                "cannot take images .*: RuntimeError: .*; --resolutions",
            ),
        ],
    )
    def test_anything_but_logits_is_refused(self, function: object, said: str) -> None:
        class Net(nn.Module):
            def forward(self, images: torch.Tensor) -> object:
                return function(images)  # type: ignore[operator]

        with pytest.raises(ValueError, match=f"'mynet:tiny' {said}") as caught:
            count_classes("mynet:tiny", Net(), torch.zeros(2, 3, 8, 8))
        assert "\n" not in str(caught.value)


class TestWeightsFiles:
    def test_a_state_dict_fills_it(self, tmp_path: Path) -> None:
        saved, model = nn.Sequential(nn.Linear(3, 2)), nn.Sequential(nn.Linear(3, 2))
        torch.save({"state_dict": saved.state_dict()}, tmp_path / "w.pth")
        load_state(model, tmp_path / "w.pth")
        torch.testing.assert_close(model[0].weight, saved[0].weight)

    @pytest.mark.parametrize(
        ("saved", "said"),
        [
            (
                nn.Sequential(nn.Linear(4, 2)),
                r"other shapes \(1\): 0.weight \(file \[2, 4\], network \[2, 3\]\)",
            ),
            (nn.Sequential(nn.Linear(3, 2, bias=False)), r"missing keys \(1\): 0.bias"),
            (nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)), r"unexpected keys \(2\): 1.weight, 1.bias"),
        ],
    )
    def test_what_does_not_fit_changes_nothing(self, tmp_path: Path, saved: nn.Module, said: str) -> None:
        torch.save(saved.state_dict(), tmp_path / "w.pth")
        model = nn.Sequential(nn.Linear(3, 2))
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with pytest.raises(ValueError, match=said):
            load_state(model, tmp_path / "w.pth")
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, before[name])


class TestFingerprint:
    def test_it_follows_every_edit_of_what_is_imported_and_of_nothing_else(self, folder: Path) -> None:
        write(folder / "near_net.py", "from near_blocks import block\ndef make(): return block()")
        write(folder / "near_blocks.py", "import json\nimport near_package.part\ndef block(): ...")
        write(folder / "near_package" / "__init__.py", "")
        write(folder / "near_package" / "part.py", "")
        write(folder / "near_package" / "deep" / "other.py", "")
        write(folder / "stranger.py", "")
        variant = parse_variant("near_net:make")
        seen = [fingerprint(variant)]
        assert list(seen[0]) == ["near_blocks", "near_net", "near_package"]
        for edited in ("near_net.py", "near_blocks.py", "near_package/part.py", "near_package/deep/other.py"):
            with (folder / edited).open("a") as file:
                file.write("\n# edited\n")
            seen.append(fingerprint(variant))
        assert len({tuple(found.items()) for found in seen}) == 5
        write(folder / "stranger.py", "changed = True")
        write(folder / "near_package" / ".venv" / "lib" / "site-packages" / "x.py", "")
        assert fingerprint(variant) == seen[-1]

    def test_a_model_in_a_package_has_the_whole_package(self, folder: Path) -> None:
        write(folder / "whole" / "nets" / "a.py", "def make(): ...")
        write(folder / "whole" / "layers.py", "")
        before = fingerprint(parse_variant("whole.nets.a:make"))
        write(folder / "whole" / "layers.py", "changed = True")
        assert fingerprint(parse_variant("whole.nets.a:make")) != before

    def test_the_folder_is_not_in_it(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(folder / "one" / "moved_net.py", TINY)
        shutil.copytree(folder / "one", folder / "two")
        found = []
        for place in ("one", "two"):
            monkeypatch.chdir(folder / place)
            found.append(fingerprint(parse_variant("moved_net:tiny")))
        assert found[0] == found[1]
        assert str(folder) not in str(found)

    def test_what_is_installed_counts_by_version_and_by_its_files(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        site = folder / "site-packages"
        write(site / "shipped_net.py", "def make(): ...")
        write(
            site / "shipped-1.0.dist-info" / "METADATA",
            "Metadata-Version: 2.1\nName: shipped\nVersion: 1.0\n",
        )
        write(site / "shipped-1.0.dist-info" / "top_level.txt", "shipped_net\n")
        record = site / "shipped-1.0.dist-info" / "RECORD"
        monkeypatch.syspath_prepend(str(site))
        found = []
        for line in (
            "net.py,sha256=a,1",
            "net.py,sha256=b,1",
            "net.py,sha256=b,1\ndirect_url.json,sha256=c,1",
        ):
            write(record, line)
            from mnv3_models import own_source

            own_source._distributions.cache_clear()
            own_source._installed_digest.cache_clear()
            found.append(fingerprint(parse_variant("shipped_net:make"))["shipped_net"])
        own_source._distributions.cache_clear()
        assert all(text.startswith("shipped 1.0 ") for text in found)
        assert found[0] != found[1] == found[2]

    def test_the_version_of_a_library_that_is_imported_is_in_it(self, folder: Path) -> None:
        write(folder / "library_net.py", "import numpy.linalg\ndef make(): ...")
        found = fingerprint(parse_variant("library_net:make"))
        assert found["numpy"].startswith(f"numpy {importlib.metadata.version('numpy')} ")


class TestSource:
    def test_a_function_that_its_text_lacks_is_found_out_without_running_it(self, folder: Path) -> None:
        write(folder / "text_net.py", "def tiny(): ...\ndef large(): ...")
        require_source(parse_variant("text_net:tiny"))
        with pytest.raises(ValueError, match=r"has no 'tinny'; did you mean text_net:tiny\?"):
            require_source(parse_variant("text_net:tinny"))

    @pytest.mark.parametrize(
        "text", ["from blocks import *", "def __getattr__(name): ...", "globals()['ti' + 'ny'] = 1"]
    )
    def test_names_that_a_text_cannot_show_are_left_to_the_import(self, folder: Path, text: str) -> None:
        write(folder / "hidden_net.py", text)
        require_source(parse_variant("hidden_net:tiny"))

    def test_the_current_directory_comes_before_what_is_on_the_path(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(folder / "elsewhere" / "twice_net.py", "")
        write(folder / "twice_net.py", "def tiny(): ...")
        monkeypatch.syspath_prepend(str(folder / "elsewhere"))
        require_source(parse_variant("twice_net:tiny"))


class TestFacts:
    def test_features_are_what_its_layers_show(self, folder: Path) -> None:
        write(folder / "shown_net.py", TINY)
        assert features(build("shown_net:tiny"), parse_variant("shown_net:tiny")) == {
            "depthwise separable": "1 of 2 convolutions depthwise",
            "kernel sizes": "3×3 in 2 of 2 convolutions",
            "hard-swish": "1 module",
        }

    def test_what_cannot_be_seen_is_not_called_absent(self) -> None:
        variant = parse_variant("mynet:tiny")
        assert features(nn.Linear(2, 2), variant) == {}
        assert features(nn.Conv2d(3, 8, (1, 3)), variant) == {
            "depthwise separable": ABSENT,
            "kernel sizes": "1×3 in 1 of 1 convolutions",
        }

    def test_nothing_is_published_about_it(self) -> None:
        assert figures("mynet:tiny") == ()
        assert top1("mynet:tiny") is None
