from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mnv3_bench.backends import backend_names
from mnv3_bench.config import merge, read_config
from mnv3_bench.errors import UsageError
from mnv3_bench.plan import Asked, make_plan, seconds, size

if TYPE_CHECKING:
    from pathlib import Path


def test_the_main_command_plans_every_backend_for_large_small_and_the_references() -> None:
    plan = make_plan(Asked(variants="large,small", backends="all"))
    assert plan.request.variants == ("v3-large", "v3-small")
    assert plan.request.references == ("v1", "v2")
    measured = set(plan.request.backends)
    assert measured | {skip.backend for skip in plan.skipped} == set(backend_names())
    assert len(plan.cells) == 4 * len(measured)
    assert not any(skip.requested for skip in plan.skipped)


def test_cells_are_the_product_of_everything() -> None:
    plan = make_plan(
        Asked(
            variants="large,v2@0.5",
            references="v2",
            backends="eager",
            threads="1,2",
            batch_sizes="1,8",
            resolutions="224,192",
        )
    )
    assert len(plan.cells) == 3 * 1 * 2 * 2 * 2
    assert len({cell.key for cell in plan.cells}) == len(plan.cells)


def test_a_reference_that_is_asked_for_is_measured_once() -> None:
    plan = make_plan(Asked(variants="v2,small", backends="eager"))
    assert plan.request.references == ("v1", "v2")
    assert sorted({cell.variant for cell in plan.cells}) == ["v1", "v2", "v3-small"]
    assert len(plan.cells) == 3


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Asked(variants="lagre"), r"--variants: .*'lagre'.*large"),
        (Asked(variants=","), r"--variants names nothing; type for example"),
        (Asked(variants="v2@0"), r"--variants: .*v2@0"),
        (Asked(variants="v2@-1"), r"--variants: "),
        (Asked(variants="v2@x"), r"--variants: "),
        (
            Asked(backends="onnxruntim"),
            r"--backends: 'onnxruntim' is not a backend; did you mean onnxruntime",
        ),
        (Asked(backends="zzz"), r"--backends: 'zzz' is not a backend; expected one of eager"),
        (Asked(threads="0"), r"--threads 0 is too small; the smallest is 1"),
        (Asked(threads="-2"), r"--threads -2 is too small"),
        (Asked(threads="two"), r"--threads two is not a whole number; type for example --threads 1"),
        (Asked(batch_sizes="0"), r"--batch-sizes 0 is too small"),
        (Asked(batch_sizes="99999999"), r"--batch-sizes 99999999 is too large"),
        (Asked(resolutions="8"), r"--resolutions 8 is too small; the smallest is 32"),
        (Asked(precision="0"), r"--precision 0 must lie above 0"),
        (Asked(precision="-3%"), r"--precision -3% must lie above 0"),
        (Asked(precision="nan"), r"--precision nan must lie above 0"),
        (Asked(precision="much"), r"--precision much is not a share; type for example --precision 2%"),
        (Asked(time_budget="0s"), r"--time-budget 0s is not a duration; type for example --time-budget 4m"),
        (Asked(time_budget="soon"), r"--time-budget soon is not a duration"),
        (
            Asked(limit_memory="-1GB"),
            r"--limit-memory -1GB is not a size; type for example --limit-memory 2GB",
        ),
        (Asked(seed=-1), r"--seed -1 is negative"),
        (Asked(num_classes=1), r"--num-classes 1 is too few"),
        (Asked(device="tpu"), r"--device tpu is not known; type cpu, cuda or cuda:N"),
        (Asked(weights="nowhere.pth"), r"--weights: there is no file nowhere.pth"),
        (Asked(variants="small", references="none", weights="no.pth"), r"--weights: there is no file no.pth"),
        (Asked(variants="small", weights="large=x.pth"), r"--weights: there is no file x.pth"),
    ],
)
def test_bad_input_is_one_line_that_says_what_to_type(asked: Asked, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        make_plan(asked)
    assert "\n" not in str(caught.value)


def test_cuda_needs_a_gpu_and_a_backend_that_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mnv3_bench.plan.sees_gpu", lambda: False)
    with pytest.raises(UsageError, match=r"--device cuda: this machine shows no GPU; type --device cpu"):
        make_plan(Asked(backends="eager", device="cuda"))
    monkeypatch.setattr("mnv3_bench.plan.sees_gpu", lambda: True)
    with pytest.raises(UsageError, match=r"quantized-static does not run on cuda; these do: eager"):
        make_plan(Asked(backends="quantized-static", device="cuda"))
    plan = make_plan(Asked(variants="small", references="none", device="cuda:1"))
    assert plan.request.backends == ("eager", "torchscript", "compile", "onnxruntime", "onnxruntime-fp16")
    assert {cell.device for cell in plan.cells} == {"cuda:1"}


def test_more_threads_than_cpus_is_a_note_and_no_error() -> None:
    plan = make_plan(Asked(variants="small", references="none", backends="eager", threads="512"))
    assert "--threads 512 is more than" in plan.notes[0]


def test_weights_files(tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    file.write_bytes(b"x")
    one = make_plan(Asked(variants="small", references="none", backends="eager", weights=str(file)))
    assert one.request.weights == {"v3-small": str(file)}
    two = make_plan(Asked(variants="small,large", backends="eager", weights=f"small={file},v2={file}"))
    assert set(two.request.weights) == {"v3-small", "v2"}
    other = tmp_path / "w.onnx"
    other.write_bytes(b"x")
    with pytest.raises(UsageError, match=r"has the suffix '.onnx'; expected .pth, .pt or .safetensors"):
        make_plan(Asked(variants="small", references="none", weights=str(other)))


@pytest.mark.parametrize(
    ("text", "value"), [("90", 90), ("90s", 90), ("4m", 240), ("1.5 min", 90), (3, 3), ("1h", 3600)]
)
def test_durations(text: str | float, value: float) -> None:
    assert seconds(text, "--x") == value


@pytest.mark.parametrize(
    ("text", "value"), [("2GB", 2e9), ("512 MiB", 512 * 2**20), (1000, 1000), ("1kb", 1000)]
)
def test_sizes(text: str | int, value: float) -> None:
    assert size(text, "--x") == value


def test_quick_is_quicker() -> None:
    normal, quick = make_plan(Asked()), make_plan(Asked(quick=True))
    assert quick.request.time_budget < normal.request.time_budget
    assert quick.request.precision > normal.request.precision


def test_a_configuration_file_says_what_the_flags_do_not(tmp_path: Path) -> None:
    file = tmp_path / "bench.toml"
    file.write_text('variants = ["small", "v2@0.5"]\nthreads = [1, 2]\nprecision = "5%"\nquick = true\n')
    from_file, name = read_config(str(file))
    assert name == str(file)
    plan = make_plan(merge(Asked(backends="eager", threads="1"), from_file))
    assert plan.request.variants == ("v3-small", "v2@0.5")
    assert plan.request.threads == (1,)
    assert plan.request.precision == 0.05
    assert plan.request.quick


def test_a_pyproject_is_read_when_it_has_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_config(None) == (Asked(), None)
    file = tmp_path / "pyproject.toml"
    file.write_text("[project]\nname = 'x'\n")
    assert read_config(None) == (Asked(), None)
    with pytest.raises(UsageError, match=r"has no table \[tool.mnv3-bench\]"):
        read_config("pyproject.toml")
    file.write_text("[tool.mnv3-bench]\nbatch-sizes = 8\n")
    assert read_config(None) == (Asked(batch_sizes=8), "pyproject.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("variants = [", r"is not TOML"),
        ("varaints = 'small'", r"'varaints' is not a setting; did you mean variants\?"),
        ("threads = true", r"threads = True is not what was expected: a whole number, text or a list"),
        ("threads = 1.5", r"threads = 1.5 is not what was expected: a whole number"),
        ("variants = 5", r"variants = 5 is not what was expected: text or a list of text"),
        ("device = ['cpu']", r"is not what was expected: text"),
        ("output = 5", r"output = 5 is not what was expected: text"),
        ("quick = 'yes'", r"quick = 'yes' is not what was expected: true or false"),
        ("seed = 1.5", r"seed = 1.5 is not what was expected: a whole number"),
        ("variants = { a = 1 }", r"is not what was expected"),
    ],
)
def test_bad_configuration(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "bench.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        read_config(str(file))
    assert str(file) in str(caught.value)


def test_configuration_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--config: there is no file nowhere.toml"):
        read_config("nowhere.toml")
    with pytest.raises(UsageError, match=r"cannot be read: Is a directory"):
        read_config(str(tmp_path))
    (tmp_path / "latin.toml").write_bytes(b"variants = '\xff'")
    with pytest.raises(UsageError, match=r"is not TOML"):
        read_config(str(tmp_path / "latin.toml"))
