"""Labelled images from folders, .npz files and scikit-learn: what is found, how it is numbered, and what is refused."""

from __future__ import annotations

import importlib.util
import io
import os
import pickle
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from mnv3_models.data import BrokenImageError, DataError, Source, digits, open_data

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

WORDNET = ("n01440764 tench, Tinca tinca", "n01443537 goldfish", "n01484850 great white shark")


def made(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        suffix = path.suffix.lower().removeprefix(".").replace("jpg", "jpeg")
        Image.new("RGB", (4, 3), (number, 0, 0)).save(path, suffix)
    return root


def opened(root: Path, labels: str = "") -> Source:
    return open_data(f"imagefolder:{root}" + (f",labels={labels}" if labels else ""))


def listed(source: Source, split: str = "all") -> dict[str, str]:
    part = source.part(split)  # type: ignore[arg-type]
    return {name: source.classes[label] for name, label in zip(part.names, part.labels, strict=True)}


class TestDigits:
    def test_all_are_there_and_a_quarter_of_each_is_held_out(self) -> None:
        source = open_data("digits")
        assert source.has_own_split
        assert source.classes == tuple("0123456789")
        train, held_out, everything = (source.part(split) for split in ("train", "held-out", "all"))
        assert len(everything) == 1797
        assert set(train.names).isdisjoint(held_out.names)
        assert set(train.names) | set(held_out.names) == set(everything.names)
        shares = np.bincount(held_out.labels) / np.bincount(everything.labels)
        assert shares.min() > 0.24
        assert shares.max() < 0.26

    def test_what_is_held_out_never_changes(self) -> None:
        # With other ones, weights would be evaluated on images that earlier releases trained them on.
        held_out = open_data("digits").part("held-out")
        assert held_out.names[:4] == ["digit 1", "digit 6", "digit 12", "digit 25"]
        assert open_data("digits").fingerprint == "ca8022fc0a95a2e6"

    def test_pixels_are_scaled_from_16_to_255(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from sklearn.datasets import load_digits

        part = open_data("digits").part("all")
        image = part.image(7)
        assert (image.mode, image.size) == ("RGB", (8, 8))
        wanted = np.rint(load_digits().images[7] * 255 / 16)
        assert np.array_equal(np.asarray(image)[..., 0], wanted)
        assert part.labels.tolist() == load_digits().target.tolist()
        monkeypatch.setattr(digits, "FILE", "moved")
        assert open_data("digits").fingerprint == "ca8022fc0a95a2e6"


class TestFolder:
    def test_every_folder_is_a_class(self, tmp_path: Path) -> None:
        root = made(
            tmp_path,
            "b/1.png",
            "a/2.jpg",
            "a/deep/er/3.PNG",
            "b/4.JPEG",
            "a/5.webp",
            "b/.hid.png",
            ".x/6.png",
        )
        (root / "a" / "notes.txt").write_text("no image")
        source = opened(root)
        assert source.classes == ("a", "b")
        assert listed(source) == {
            "a/2.jpg": "a",
            "a/5.webp": "a",
            "a/deep/er/3.PNG": "a",
            "b/1.png": "b",
            "b/4.JPEG": "b",
        }
        assert not source.has_own_split
        assert (source.name, source.spec) == (root.name, f"imagefolder:{root}")
        assert source.part("all").image(3).getpixel((0, 0)) == (0, 0, 0)

    def test_a_quarter_of_each_class_is_held_out(self, tmp_path: Path) -> None:
        source = opened(
            made(
                tmp_path,
                *(f"{kind}/{n}.png" for kind, count in (("a", 8), ("b", 3), ("c", 1)) for n in range(count)),
            )
        )
        assert np.bincount(source.part("held-out").labels, minlength=3).tolist() == [2, 1, 0]
        assert np.bincount(source.part("train").labels, minlength=3).tolist() == [6, 2, 1]
        single = opened(made(tmp_path / "single", "a/1.png"))
        with pytest.raises(DataError, match="no images that are held out"):
            single.part("held-out")

    @pytest.mark.parametrize("name", ["val", "validation", "test"])
    def test_a_split_of_its_own(self, tmp_path: Path, name: str) -> None:
        root = made(tmp_path, "train/a/1.png", "train/b/2.png", "train/b/3.png", f"{name}/b/4.png")
        source = opened(root)
        assert source.has_own_split
        assert source.classes == ("a", "b")
        assert listed(source, "train") == {"train/a/1.png": "a", "train/b/2.png": "b", "train/b/3.png": "b"}
        assert listed(source, "held-out") == {f"{name}/b/4.png": "b"}
        assert len(source.part("all")) == 4
        assert np.asarray(source.part("held-out").image(0))[0, 0, 0] == 3

    def test_a_class_that_training_has_not(self, tmp_path: Path) -> None:
        made(tmp_path, "train/a/1.png", "val/z/2.png")
        with pytest.raises(DataError, match=r"z/2\.png is of the class z, which is none of the 1 of .*train"):
            opened(tmp_path)

    def test_a_list_of_classes_keeps_their_numbers(self, tmp_path: Path) -> None:
        made(tmp_path, "n01484850/1.png", "n01440764/2.png")
        (tmp_path / "other").mkdir()
        (tmp_path / "classes.txt").write_text("\n".join(WORDNET) + "\n")
        source = opened(tmp_path)
        assert source.classes == WORDNET
        assert source.part("all").labels.tolist() == [0, 2]
        made(tmp_path, "n09999999/3.png")
        with pytest.raises(DataError, match=r"class n09999999, which is none of the 3 of .*classes\.txt"):
            opened(tmp_path)

    @pytest.mark.parametrize(
        ("text", "said"), [("a\n\nb\n", "empty lines"), ("a\nb\na\n", "the class a twice")]
    )
    def test_a_list_of_classes_that_is_none(self, tmp_path: Path, text: str, said: str) -> None:
        made(tmp_path, "a/1.png")
        (tmp_path / "classes.txt").write_text(text)
        with pytest.raises(DataError, match=said):
            opened(tmp_path)

    def test_links_are_followed_once_around(self, tmp_path: Path) -> None:
        made(tmp_path / "elsewhere", "1.png")
        root = made(tmp_path / "root", "a/2.png")
        (root / "b").symlink_to(tmp_path / "elsewhere")
        (root / "a" / "up").symlink_to(root)
        assert {"a/2.png", "b/1.png"} <= set(listed(opened(root)))
        (root / "a" / "dead.jpg").symlink_to("nowhere")
        source = opened(root).part("all")
        with pytest.raises(BrokenImageError, match=r"a/dead\.jpg .*No such file"):
            source.image(source.names.index("a/dead.jpg"))

    def test_an_empty_file_and_strange_names(self, tmp_path: Path) -> None:
        made(tmp_path, "a/ü, 1.png")
        (tmp_path / "a" / "0.png").write_bytes(b"")
        (made(tmp_path, "a/x.png") / "a" / "x.png").rename(tmp_path / "a" / os.fsdecode(b"\xff.png"))
        part = opened(tmp_path).part("all")
        assert sorted(part.names) == ["a/0.png", "a/\\xff.png", "a/ü, 1.png"]
        with pytest.raises(BrokenImageError, match="an empty file"):
            part.image(0)
        assert [part.image(index).size for index in (1, 2)] == [(4, 3), (4, 3)]

    def test_the_same_content_has_the_same_fingerprint(self, tmp_path: Path) -> None:
        first = opened(made(tmp_path / "1", "a/1.png", "b/2.png")).fingerprint
        assert len(first) == 16
        second = made(tmp_path / "2", "a/1.png", "b/2.png")
        os.utime(second / "a" / "1.png", (0, 0))
        assert opened(second).fingerprint == first
        assert opened(made(tmp_path / "3", "a/1.png", "c/2.png")).fingerprint != first
        with (second / "a" / "1.png").open("ab") as file:
            file.write(b"x")
        assert opened(second).fingerprint != first

    def test_it_travels_to_other_processes(self, tmp_path: Path) -> None:
        part = opened(made(tmp_path, "a/1.png", "b/2.png", "b/3.png")).part("all").select([2, 0])
        again = pickle.loads(pickle.dumps(part))
        assert list(again.names) == ["b/3.png", "a/1.png"]
        assert again.labels.tolist() == [1, 0]
        assert again.image(0).getpixel((0, 0)) == (2, 0, 0)

    def test_the_current_folder_and_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made(tmp_path, "a/1.png")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path.parent))
        for spec in ("imagefolder:.", f"imagefolder:~/{tmp_path.name}"):
            source = open_data(spec)
            assert (source.spec, source.name) == (f"imagefolder:{tmp_path}", tmp_path.name)


def nothing(root: Path) -> None:
    root.mkdir()


def only_text(root: Path) -> None:
    nothing(root)
    (root / "a.txt").write_text("x")


def gone(root: Path) -> None:
    del root


def a_file(root: Path) -> None:
    root.write_text("x")


def without_labels(root: Path) -> None:
    made(root, "1.png", "2.png")


def one_class_empty(root: Path) -> None:
    made(root, "a/1.png")
    (root / "b").mkdir()


def half_a_split(root: Path) -> None:
    made(root, "val/a/1.png")


def empty_train(root: Path) -> None:
    made(root, "val/a/1.png")
    (root / "train").mkdir()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (nothing, "holds no images"),
        (only_text, "holds no images .*jpg"),
        (gone, "there is no folder"),
        (a_file, "is no folder"),
        (without_labels, "have no labels; .*labels=FILE"),
        (one_class_empty, "b holds no images, but every folder"),
        (half_a_split, "holds only val; .*imagefolder:.*/val"),
        (empty_train, "train holds no images"),
    ],
)
def test_a_folder_that_cannot_be_used(tmp_path: Path, make: Callable[[Path], None], said: str) -> None:
    make(tmp_path / "data")
    with pytest.raises(DataError, match=said) as caught:
        opened(tmp_path / "data")
    assert "\n" not in str(caught.value)


class TestLabels:
    @pytest.mark.parametrize(
        ("file", "text"),
        [
            ("labels.csv", "1.png,dog\n2.png,cat\n3.png,dog\n"),
            ("labels.csv", "\ufefffile,class\r\n2.png, cat\r\n1.png,dog\r\n\r\n./3.png,dog\r\n"),
            ("labels.csv", '"3.png","dog"\n"2.png","cat"\n"1.png","dog"\n'),
            ("labels.tsv", "name\tlabel\n1.png\tdog\n2.png\tcat\n3.png\tdog\n"),
            ("labels.txt", "1.png dog\n2.png cat\n3.png dog\n"),
            ("labels.txt", "dog\ncat\ndog\n"),
            ("labels.txt", "label\ndog\ncat\ndog\n"),
        ],
    )
    def test_names_of_classes(self, tmp_path: Path, file: str, text: str) -> None:
        made(tmp_path, "1.png", "2.png", "3.png")
        (tmp_path / file).write_bytes(text.encode())
        source = opened(tmp_path)
        assert source.classes == ("cat", "dog")
        assert listed(source) == {"1.png": "dog", "2.png": "cat", "3.png": "dog"}

    def test_numbers(self, tmp_path: Path) -> None:
        made(tmp_path / "images", "b.png", "a.png", "sub/c.png")
        (tmp_path / "truth.txt").write_text("3\n0\n1\n")
        source = opened(tmp_path / "images", str(tmp_path / "truth.txt"))
        assert source.classes == ("0", "1", "2", "3")
        assert listed(source) == {"a.png": "3", "b.png": "0", "sub/c.png": "1"}
        assert source.spec == f"imagefolder:{tmp_path / 'images'},labels={tmp_path / 'truth.txt'}"
        assert open_data(source.spec).fingerprint == source.fingerprint

    def test_numbers_of_listed_classes(self, tmp_path: Path) -> None:
        made(tmp_path, "1.png", "2.png")
        (tmp_path / "classes.txt").write_text("\n".join(WORDNET))
        (tmp_path / "labels.csv").write_text("1.png,2\n2.png,0\n")
        assert opened(tmp_path).part("all").labels.tolist() == [2, 0]
        (tmp_path / "labels.csv").write_text("1.png,n01443537\n2.png,n01484850 great white shark\n")
        assert opened(tmp_path).part("all").labels.tolist() == [1, 2]
        (tmp_path / "labels.csv").write_text("1.png,n01443537\n2.png,shark\n")
        with pytest.raises(DataError, match=r"2\.png is of the class shark, which is none of the 3"):
            opened(tmp_path)
        (tmp_path / "labels.csv").write_text("1.png,n01443537\n2.png,n01484850\n")
        assert opened(tmp_path).part("all").labels.tolist() == [1, 2]

    def test_a_choice_of_the_images(self, tmp_path: Path) -> None:
        made(tmp_path, "1.png", "2.png", "3.png")
        (tmp_path / "labels.csv").write_text("3.png,x\n1.png,y\n")
        source = opened(tmp_path)
        assert listed(source) == {"1.png": "y", "3.png": "x"}
        assert source.part("all").image(1).getpixel((0, 0)) == (2, 0, 0)

    def test_a_flat_part_beside_folders(self, tmp_path: Path) -> None:
        made(tmp_path, "train/a/1.png", "train/b/2.png", "val/3.png", "val/4.png")
        (tmp_path / "val" / "labels.txt").write_text("1\n0\n")
        assert listed(opened(tmp_path), "held-out") == {"val/3.png": "b", "val/4.png": "a"}
        (tmp_path / "val" / "labels.txt").write_text("1\n2\n")
        with pytest.raises(
            DataError, match="reach from 1 to 2, but the 2 classes are 0 to 1; numbers count from 0"
        ):
            opened(tmp_path)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("1.png,0\n9.png,1\n", "names 1 of 2 images that are not there \\(9.png\\)"),
            ("1.png,0\n../x/1.png,1\n", "that are not there"),
            ("1.png,0\n1.png,1\n", "gives 1.png two labels, 0 and 1"),
            ("1.png,0,7\n2.png,1\n", "a line '1.png,0,7'; expected lines of 'name,label'"),
            ("1.png,\n2.png,1\n", "a line '1.png,'"),
            ("0\n", "has 1 labels for 2 images"),
            ("0\n1\n2\n", "has 3 labels for 2 images"),
            ("1.png,3\n2.png,-1\n", "-1"),
            ("1.png,3\n2.png,1234567890\n", "the label 1234567890; expected numbers of classes"),
            ("1\n1000\n", "ILSVRC's own numbers"),
            ("\n", "is empty"),
            ("name,label\n", "has a line ''|expected lines"),
        ],
    )
    def test_a_file_that_does_not_fit(self, tmp_path: Path, text: str, said: str) -> None:
        made(tmp_path, "1.png", "2.png")
        (tmp_path / "labels.csv").write_text(text)
        with pytest.raises(DataError, match=said) as caught:
            opened(tmp_path)
        assert "\n" not in str(caught.value)

    def test_a_file_that_is_no_text_or_not_there(self, tmp_path: Path) -> None:
        made(tmp_path, "1.png")
        (tmp_path / "labels.csv").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(DataError, match="no text in UTF-8"):
            opened(tmp_path)
        with pytest.raises(DataError, match=r"there is no file of labels no\.csv"):
            opened(tmp_path, "no.csv")


IMAGES = np.arange(8 * 5 * 4 * 3, dtype=np.uint8).reshape(8, 5, 4, 3)
LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1])


def npz(path: Path, save: Any = np.savez, **arrays: Any) -> Source:
    save(path, **arrays)
    return open_data(f"npz:{path}")


class TestNpz:
    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    def test_images_and_labels(self, tmp_path: Path, save: Any) -> None:
        source = npz(
            tmp_path / "a.npz", save, images=IMAGES, labels=LABELS, classes=np.array(["x", "y", "z"])
        )
        assert (source.classes, source.name, source.has_own_split) == (("x", "y", "z"), "a.npz", False)
        part = pickle.loads(pickle.dumps(source.part("all")))
        for index in range(8):
            assert np.array_equal(np.asarray(part.image(index)), IMAGES[index])
        assert part.labels.tolist() == LABELS.tolist()
        assert part.names[2] == "image 2"

    def test_the_fingerprint_is_of_the_content(self, tmp_path: Path) -> None:
        first = npz(tmp_path / "a.npz", images=IMAGES, labels=LABELS)
        packed = npz(tmp_path / "b.npz", np.savez_compressed, labels=LABELS, images=IMAGES)
        assert first.fingerprint == packed.fingerprint
        assert npz(tmp_path / "c.npz", images=IMAGES[::-1], labels=LABELS).fingerprint != first.fingerprint
        assert npz(tmp_path / "d.npz", images=IMAGES, labels=LABELS[::-1]).fingerprint != first.fingerprint

    def test_stored_arrays_are_mapped_and_not_loaded(self, tmp_path: Path) -> None:
        source = npz(tmp_path / "a.npz", images=IMAGES, labels=LABELS)
        assert all(isinstance(images, np.memmap) for images in source._opened())  # type: ignore[attr-defined]

    @pytest.mark.parametrize("shape", [(5, 4), (5, 4, 1)])
    def test_greyscale(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        grey = IMAGES[..., 0].reshape(8, *shape)
        image = (
            npz(tmp_path / "a.npz", images=np.asfortranarray(grey), labels=LABELS[:, None])
            .part("all")
            .image(3)
        )
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image)[..., 2], IMAGES[3, ..., 0])

    @pytest.mark.parametrize(
        "names",
        [
            ("train_images", "train_labels", "test_images", "test_labels"),
            ("x_train", "y_train", "x_test", "y_test"),
        ],
    )
    def test_a_split_of_its_own(self, tmp_path: Path, names: tuple[str, ...]) -> None:
        arrays = dict(zip(names, (IMAGES[:6], LABELS[:6], IMAGES[6:], LABELS[6:]), strict=True))
        source = npz(tmp_path / "a.npz", **arrays)
        assert source.has_own_split
        assert (len(source.part("train")), list(source.part("held-out").names)) == (
            6,
            ["test image 0", "test image 1"],
        )
        assert np.array_equal(np.asarray(source.part("held-out").image(1)), IMAGES[7])

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            ({"images": IMAGES.astype(np.float32)}, "8 x 5 x 4 x 3 of float32; expected images"),
            ({"images": IMAGES[..., :2]}, "8 x 5 x 4 x 2 of uint8"),
            ({"images": IMAGES[0, 0]}, "4 x 3 of uint8"),
            ({"images": np.array([None] * 8, dtype=object)}, "of Python objects"),
            ({"labels": LABELS[:7]}, "labels is 7 of int64 for 8 images"),
            ({"labels": LABELS.astype(float)}, "of float64"),
            ({"labels": LABELS.astype(object)}, "of Python objects"),
            ({"labels": LABELS - 1}, "has the label -1; expected classes from 0"),
            ({"labels": LABELS * 10**9}, "the label 2000000000; expected numbers of classes"),
            ({"classes": np.array(["x", "y"])}, "labels reach to 2, but the 2 classes are 0 to 1"),
            ({"classes": np.array([1, 2, 3])}, "classes is no list of names"),
            ({"images": IMAGES[:0], "labels": LABELS[:0]}, "holds no images"),
            ({"test_images": IMAGES}, "has no array train_images, but"),
        ],
    )
    def test_arrays_that_do_not_fit(self, tmp_path: Path, changed: Mapping[str, Any], said: str) -> None:
        with pytest.raises(DataError, match=said) as caught:
            npz(tmp_path / "a.npz", **{"images": IMAGES, "labels": LABELS} | changed)
        assert "\n" not in str(caught.value)

    def test_files_that_are_damaged(self, tmp_path: Path) -> None:
        path = tmp_path / "a.npz"
        with pytest.raises(DataError, match="there is no file"):
            open_data(f"npz:{path}")
        path.write_bytes(b"PK not at all")
        with pytest.raises(DataError, match=r"no \.npz file"):
            open_data(f"npz:{path}")
        np.savez(path, images=IMAGES, labels=LABELS)
        path.write_bytes(path.read_bytes()[:300])
        with pytest.raises(DataError, match=r"no \.npz file"):
            open_data(f"npz:{path}")

    def test_an_array_that_claims_more_than_there_is(self, tmp_path: Path) -> None:
        file = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (8, 500, 400, 3)}
        )
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("images.npy", file.getvalue() + b"\x00" * 64)
        with pytest.raises(DataError, match=r"cannot be read .*images\.npy has"):
            open_data(f"npz:{tmp_path / 'a.npz'}")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("digit", "did you mean digits"),
        ("imagefoler:/x", "did you mean imagefolder:PATH"),
        ("digits:3", "did you mean digits"),
        ("imagefolder:", "did you mean imagefolder:PATH"),
        ("npz", "did you mean npz:FILE"),
        ("cifar10", "expected digits, imagefolder:PATH"),
        ("", "expected digits"),
    ],
)
def test_what_names_no_data(spec: str, said: str) -> None:
    with pytest.raises(DataError, match=f"'{spec}' names no data; {said}"):
        open_data(spec)


def test_a_bare_path_gets_its_kind(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=1)
    for path, kind in ((tmp_path, "imagefolder"), (tmp_path / "a.npz", "npz")):
        with pytest.raises(DataError, match=f"did you mean {kind}:{path}"):
            open_data(str(path))


@pytest.mark.parametrize(("module", "library"), [("sklearn", "scikit-learn"), ("PIL", "Pillow")])
def test_what_is_not_installed(monkeypatch: pytest.MonkeyPatch, module: str, library: str) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else there(name))
    with pytest.raises(
        DataError, match=f"{library}, which is not installed; pip install 'mnv3-bench\\[data\\]'"
    ):
        open_data("digits")


def test_importing_it_imports_nothing_heavy() -> None:
    code = (
        "import sys, mnv3_models.data, mnv3_models.card; "
        "print([name for name in ('torch', 'PIL', 'sklearn', 'scipy') if name in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )
