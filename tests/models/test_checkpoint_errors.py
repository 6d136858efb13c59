"""What is wrong with a weights file is said in one line, nothing in it runs, and nothing is half loaded."""

from __future__ import annotations

import os
import re
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from mnv3_models import build, load_weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def refusal(model: nn.Module, path: Path, error: type[Exception] = ValueError) -> str:
    """The message of the refusal, after checking that it is one line and that no weight changed."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(error) as caught:
        load_weights(model, path)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def saved(tmp_path: Path, content: Any, name: str = "weights.pth") -> Path:
    torch.save(content, tmp_path / name)
    return tmp_path / name


class Opens:
    """Unpickling this would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, ...]]:
        return os.system, (f"touch {self.path}",)


def test_code_in_a_file_is_refused_and_does_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    path = saved(tmp_path, {"features.0.0.weight": Opens(trace)})
    message = refusal(build("v3-small"), path)
    assert re.search(r"was refused: reading it would run (posix|nt)\.system", message)
    assert "save model.state_dict() alone" in message
    assert not trace.exists()
    torch.load(path, weights_only=False)  # the same file read carelessly: it would indeed have run
    assert trace.exists()


def test_a_pickled_module_is_refused(tmp_path: Path) -> None:
    message = refusal(build("v3-small"), saved(tmp_path, nn.Linear(2, 2)))
    assert "reading it would run torch.nn.modules.linear.Linear" in message


def test_a_torchscript_program_is_no_weights_file(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        program = torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2))  # type: ignore[no-untyped-call]
    program.save(str(tmp_path / "program.pt"))
    assert "is a TorchScript program" in refusal(build("v3-small"), tmp_path / "program.pt")


def test_a_missing_file(tmp_path: Path) -> None:
    message = refusal(build("v3-small"), tmp_path / "nowhere.pth", FileNotFoundError)
    assert message == f"there is no weights file {tmp_path / 'nowhere.pth'}"
    refusal(build("v3-small"), tmp_path, FileNotFoundError)  # a folder


def test_an_unknown_suffix(tmp_path: Path) -> None:
    (tmp_path / "weights.h5").write_bytes(b"x")
    assert "expected .pth, .pt or .safetensors" in refusal(build("v3-small"), tmp_path / "weights.h5")


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"x", b"\x80\x02.", b"PK\x03\x04junk", b"<html>404</html>" * 99])
def test_bytes_that_are_no_checkpoint(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    assert re.search(r"is no readable|holds no state dict", refusal(build("v3-small"), path))


def test_a_file_cut_off_halfway(tmp_path: Path) -> None:
    path = saved(tmp_path, build("v3-small").state_dict())
    path.write_bytes(path.read_bytes()[:100_000])
    assert "is no readable PyTorch checkpoint" in refusal(build("v3-small"), path)


@pytest.mark.parametrize("content", [[], {}, [1, 2], torch.ones(3), {"state_dict": {}}])
def test_content_that_is_no_state_dict(content: Any, tmp_path: Path) -> None:
    assert "holds no state dict" in refusal(build("v3-small"), saved(tmp_path, content))


def test_entries_that_are_no_tensors_are_named(tmp_path: Path) -> None:
    path = saved(tmp_path, {"epoch": 3, "lr": 0.1, "a": 1, "b": 2, "c": 3, "w": torch.ones(1)})
    assert "no tensors: epoch, lr, a, b and 1 more" in refusal(build("v3-small"), path)


def test_another_kind_of_network_is_recognised_as_such(tmp_path: Path) -> None:
    message = refusal(build("v3-small"), saved(tmp_path, nn.Linear(2, 2).state_dict()))
    assert "holds no MobileNet in torchvision's layout" in message
    assert "its keys are weight, bias" in message


def test_keys_and_shapes_that_do_not_fit_are_named(tmp_path: Path) -> None:
    state = build("v3-small").state_dict()
    del state["features.1.block.0.0.weight"]
    state["extra.weight"] = torch.ones(1)
    state["classifier.0.bias"] = torch.ones(7)
    message = refusal(build("v3-small"), saved(tmp_path, state))
    assert "does not fit v3-small" in message
    assert "missing keys (1): features.1.block.0.0.weight;" in message
    assert "unexpected keys (1): extra.weight;" in message
    assert "other shapes (1): classifier.0.bias (file [7], network [1024])" in message
    assert "the file fits" not in message


def test_keys_are_named_as_the_file_has_them(tmp_path: Path) -> None:
    message = refusal(build("v2"), saved(tmp_path, {"conv_stem.weight": torch.ones(32, 3, 3, 3)}))
    assert (
        "missing keys (261): bn1.weight, bn1.bias, bn1.running_mean, bn1.running_var and 257 more" in message
    )


@pytest.mark.parametrize(
    ("held", "classes", "wanted"),
    [
        ("v3-large", 1000, "v3-small"),
        ("v2@0.5", 1000, "v2"),
        ("v3-small@0.75", 10, "v3-small"),
        ("v1", 5, "v1"),
    ],
)
def test_the_network_a_file_does_fit_is_offered(held: str, classes: int, wanted: str, tmp_path: Path) -> None:
    path = saved(tmp_path, build(held, num_classes=classes).state_dict())
    assert f"the file fits build('{held}', num_classes={classes})" in refusal(build(wanted), path)


def test_a_network_from_elsewhere_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, build("v3-small").state_dict())
    assert "a Linear cannot take these weights" in refusal(nn.Linear(2, 2), path)


def test_a_bad_epsilon_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, build("v3-small").state_dict())
    with pytest.raises(ValueError, match="bn_eps is -1; expected a small positive number"):
        load_weights(build("v3-small"), path, bn_eps=-1)


def test_batch_counters_may_be_missing(tmp_path: Path) -> None:
    state = build("v3-small").state_dict()
    stripped = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    model = build("v3-small")
    load_weights(model, saved(tmp_path, stripped))
    assert torch.equal(model.get_parameter("features.0.0.weight"), state["features.0.0.weight"])


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(16).to_sparse(),
        torch.zeros(16, device="meta"),
        torch.quantize_per_tensor(torch.zeros(16), 0.1, 0, torch.quint8),
        torch.zeros(16, dtype=torch.complex64),
    ],
    ids=["sparse", "meta", "quantized", "complex"],
)
def test_tensors_without_plain_numbers_are_named(tensor: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"features.0.0.weight": tensor}, path)
    with pytest.raises(ValueError, match=r"these entries are no tensors: features\.0\.0\.weight"):
        load_weights(build("small"), path)


def test_an_archive_whose_beginning_is_damaged_is_refused(tmp_path: Path) -> None:
    """Found by fuzzing: torch's own reader of archives raises OSError."""
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(3)}, path)
    whole, model = path.read_bytes(), build("small")
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="weights"):
            load_weights(model, path)
