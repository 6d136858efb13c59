"""Names of variants, the torch-free import, and arguments of build."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from mnv3_models import UnknownVariantError, Variant, build, list_variants, parse_variant


@pytest.mark.parametrize(
    ("written", "name", "family", "form", "width"),
    [
        ("v1", "v1", "v1", "", 1.0),
        ("V2@1.0", "v2", "v2", "", 1.0),
        ("v2@.5", "v2@0.5", "v2", "", 0.5),
        ("large", "v3-large", "v3", "large", 1.0),
        ("small@0.75", "v3-small@0.75", "v3", "small", 0.75),
        ("v3-large-minimal", "v3-large-minimal", "v3", "large-minimal", 1.0),
        ("small-minimal@2", "v3-small-minimal@2", "v3", "small-minimal", 2.0),
        (" v3-small ", "v3-small", "v3", "small", 1.0),
        ("small-no-se", "v3-small-no-se", "v3", "small-no-se", 1.0),
        ("V3-Large-No-Residual@0.75", "v3-large-no-residual@0.75", "v3", "large-no-residual", 0.75),
        (
            "small-no-hswish-no-kernel5-no-se@0.5",
            "v3-small-no-se-no-hswish-no-kernel5@0.5",
            "v3",
            "small-no-se-no-hswish-no-kernel5",
            0.5,
        ),
        (
            "large-unskipped-se-hswish-composed-hswish-no-kernel5-no-residual",
            "v3-large-no-residual-no-kernel5-composed-hswish-se-hswish-unskipped",
            "v3",
            "large-no-residual-no-kernel5-composed-hswish-se-hswish-unskipped",
            1.0,
        ),
    ],
)
def test_a_name_is_read_and_made_canonical(
    written: str, name: str, family: str, form: str, width: float
) -> None:
    variant = parse_variant(written)
    assert (variant.name, variant.family, variant.form, variant.width) == (name, family, form, width)
    assert parse_variant(variant.name) == variant


def test_a_variant_has_a_title_and_an_input_size() -> None:
    variant = Variant("v3", "large-minimal", 0.75)
    assert variant.title == "MobileNetV3-Large minimalistic 0.75x"
    assert variant.input_size == 224
    assert parse_variant("v1").title == "MobileNetV1"


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("small-no-se", "MobileNetV3-Small without squeeze-and-excitation"),
        ("large-no-kernel5@0.75", "MobileNetV3-Large 0.75x without 5×5 kernels"),
        (
            "small-no-se-no-hswish-no-residual",
            "MobileNetV3-Small without squeeze-and-excitation, hard-swish and residual additions",
        ),
        (
            "small-no-residual-composed-hswish-unskipped",
            "MobileNetV3-Small without residual additions, with composed hard-swish and an expansion in every block",
        ),
        ("large-se-hswish", "MobileNetV3-Large with hard-swish inside squeeze-and-excitation"),
    ],
)
def test_a_title_says_what_is_changed(name: str, title: str) -> None:
    assert parse_variant(name).title == title


def test_a_variant_knows_its_changes_and_takes_more() -> None:
    variant = parse_variant("small-no-se-unskipped@0.75")
    assert variant.changes == ("no-se", "unskipped")
    assert variant.unchanged == parse_variant("small@0.75")
    assert variant.changed("no-residual") == parse_variant("small-no-se-no-residual-unskipped@0.75")
    assert variant.unchanged.changed() == variant.unchanged
    for plain in ("large", "small-minimal", "v2", "some.net:se", "no-se.onnx"):
        assert parse_variant(plain).changes == ()
        assert parse_variant(plain).unchanged == parse_variant(plain)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "small-no-se-se-hswish",
            "-no-se and -se-hswish contradict each other, since -no-se leaves out the squeeze-",
        ),
        ("small-se-hswish-no-se@0.5", "-no-se and -se-hswish contradict each other"),
        ("large-composed-hswish-no-hswish", "-no-hswish and -composed-hswish contradict each other"),
        ("large-no-hswish-se-hswish", "-no-hswish and -se-hswish contradict each other"),
        ("small-no-se-unskipped-no-se", "-no-se is named twice for v3-small; leave one out"),
        (
            "small-minimal-no-se",
            "v3-small-minimal takes no -no-se, only v3-large and v3-small do; it lacks se, hswish",
        ),
        ("large-minimal-no-residual", "type v3-large-no-residual"),
        (
            "v2-no-residual",
            "v2 takes no -no-residual, only v3-large and v3-small do; type v3-small-no-residual",
        ),
    ],
)
def test_changes_that_do_not_hold_together_are_refused(name: str, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)) as caught:
        parse_variant(name)
    assert str(caught.value).startswith(f"'{name}': ")
    assert "\n" not in str(caught.value)


def test_every_listed_name_is_canonical() -> None:
    assert list_variants() == (
        "v1",
        "v2",
        "v3-large",
        "v3-small",
        "v3-large-minimal",
        "v3-small-minimal",
    )
    assert [parse_variant(name).name for name in list_variants()] == list(list_variants())


@pytest.mark.parametrize(
    ("written", "offered"),
    [
        ("larg", "did you mean v3-large"),
        ("v3", "did you mean v3-large or v3-small"),
        ("v3-smal@0.75", "v3-small@0.75"),
        ("mobilenet_v2", "did you mean v2?"),
        ("mobilenetv3_small", "v3-small"),
        ("resnet50", "known are v1, v2, v3-large"),
        ("", "known are v1, v2, v3-large"),
        ("mobilenetv3_small_no_se", "did you mean v3-small-no-se?"),
        ("small-se@0.5", "did you mean v3-small-no-se@0.5?"),
        ("large-minimall", "did you mean v3-large-minimal?"),
        ("large-no-residuals", "did you mean v3-large-no-residual?"),
        ("small-no-se-hswish", "did you mean v3-small-no-se-no-hswish?"),  # not what -no-se contradicts
        ("small-no-se-quick", "v3-small takes the suffixes -no-se, -no-hswish, "),
        ("small-no-se-minimal", "-se-hswish and -unskipped, or -minimal alone"),
        ("v3-no-se", "did you mean v3-small or v3-large"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_ones(written: str, offered: str) -> None:
    with pytest.raises(UnknownVariantError) as caught:
        parse_variant(written)
    assert f"unknown variant '{written}'" in str(caught.value)
    assert offered in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("width", ["0", "-0.5", "0.001", "11", "1e3", "nan", "inf", "x", "", "0,5", "0.5@1"])
def test_a_bad_width_in_a_name_is_refused(width: str) -> None:
    with pytest.raises(ValueError, match=r"width in '.*0\.75") as caught:
        parse_variant(f"v2@{width}")
    assert "\n" not in str(caught.value)


def test_a_width_comes_last() -> None:
    with pytest.raises(ValueError, match=r"'small@0\.75-no-se' comes last; type 'small-no-se@0\.75'"):
        parse_variant("small@0.75-no-se")


@pytest.mark.parametrize("width", [0.0, -1.0, 100.0, float("nan"), float("inf")])
def test_a_bad_width_argument_is_refused(width: float) -> None:
    with pytest.raises(ValueError, match=r"out of range; expected 0\.01 to 10"):
        build("v2", width=width)


def test_a_width_is_given_once_or_twice_the_same() -> None:
    assert parse_variant("small", 0.75).name == "v3-small@0.75"
    assert parse_variant("small@0.75", 0.75).name == "v3-small@0.75"
    for written in ("small@0.5", "small@1.0"):
        with pytest.raises(ValueError, match="contradict each other; give the width once"):
            parse_variant(written, 0.75)


@pytest.mark.parametrize(
    "argument",
    [
        {"num_classes": 0},
        {"num_classes": -1},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"bn_eps": 0.0},
        {"bn_momentum": 1.5},
    ],
)
def test_build_names_the_argument_that_is_out_of_range(argument: dict[str, float]) -> None:
    (name,) = argument
    with pytest.raises(ValueError, match=f"^{name} is .*expected .*such as"):
        build("v3-small", **argument)  # type: ignore[arg-type]


def test_names_and_published_figures_need_no_torch() -> None:
    code = (
        "import sys, mnv3_models; from mnv3_models import published\n"
        "[published.top1(name) for name in mnv3_models.list_variants()]\n"
        "mnv3_models.parse_variant('small@0.75')\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'torch', 'numpy', 'mnv3_bench',"
        " 'mnv3_reports'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
