"""A network of the user's own, made by a function without arguments: `module:function`.

Importing the module and calling the function execute the user's code, with all that this user may do; name only code
that you would run yourself. Reading names and sources (`variants`, `own_source`) executes nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import torch
from torch import nn

from mnv3_models.own_source import current_directory_first, no_function, no_module

if TYPE_CHECKING:
    from pathlib import Path

    from mnv3_models.variants import Variant

_SHOWN = 4  # parameter names in an error, of each kind


class Chain(nn.Sequential):
    """`nn.Sequential` with a `forward` outside torch, without which torch.compile (2.13) cannot save the network."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """What the last module gives."""
        for module in self:
            images = module(images)
        return images


def build_own(variant: Variant) -> nn.Module:
    """Import an own model's module and call its function, with the current directory first on Python's path.

    The number of threads of PyTorch is put back if that code changes it: it is part of what is measured.

    Raises:
        ValueError: there is no such module or function, it raised, or what it returned is no finished network.
    """
    module_name, _, function_name = variant.name.partition(":")
    threads = torch.get_num_threads()
    with current_directory_first():
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
                raise ValueError(no_module(module_name)) from error
            raise ValueError(f"module '{module_name}' cannot be imported: {_named(error)}") from error
        except (Exception, SystemExit) as error:  # whatever the user's code raises; scripts call sys.exit
            raise ValueError(f"module '{module_name}' cannot be imported: {_named(error)}") from error
        if not hasattr(module, function_name):
            known = [name for name, value in vars(module).items() if callable(value)]
            raise ValueError(no_function(module_name, function_name, known))
        function = getattr(module, function_name)
        if isinstance(function, nn.Module) or not callable(function):
            raise ValueError(
                f"'{variant.name}' is a {type(function).__name__}; expected a function that returns the network: "
                "def make(): return ..."
            )
        try:
            model: object = function()
        except (Exception, SystemExit) as error:
            raise ValueError(f"'{variant.name}' raised {_named(error)}") from error
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    if not isinstance(model, nn.Module):
        raise ValueError(f"'{variant.name}' returned a {type(model).__name__}; expected a torch.nn.Module")
    lazy = [name for name, p in model.named_parameters() if isinstance(p, nn.UninitializedParameter)]
    if lazy:
        raise ValueError(
            f"'{variant.name}' returned a network with lazy layers that have no shape yet ({_some(lazy)}); "
            "run an image through it in the function"
        )
    if type(model) is nn.Sequential:
        model.__class__ = Chain  # everything else of it, names and hooks included, stays
    return model


def count_classes(name: str, model: nn.Module, images: torch.Tensor) -> int:
    """Run an own model and give the number of its classes.

    Args:
        name: what to call it in a message.
        model: in eval mode.
        images: n x 3 x height x width, float32.

    Raises:
        ValueError: it cannot take them, or gives anything but float32 logits, n x classes.
    """
    shape = _by(images)
    try:
        with torch.inference_mode():
            logits = model(images)
    except Exception as error:
        raise ValueError(
            f"'{name}' cannot take images of {shape}: {_named(error)}; --resolutions has to fit the network"
        ) from error
    wanted = f"expected logits, {len(images)} x classes"
    if not isinstance(logits, torch.Tensor):
        raise ValueError(f"'{name}' gives a {type(logits).__name__} for images of {shape}; {wanted}")
    if logits.dim() != 2 or logits.shape[0] != len(images) or not logits.shape[1]:
        raise ValueError(f"'{name}' gives {_by(logits) or 'one number'} for images of {shape}; {wanted}")
    if logits.dtype != torch.float32:
        kind = str(logits.dtype).removeprefix("torch.")
        raise ValueError(f"'{name}' gives {kind} for images of {shape}; {wanted}, in float32")
    return int(logits.shape[1])


def load_state(model: nn.Module, path: str | Path) -> None:
    """Fill an own model from a file that holds its state dict, wholly or (on any error) not at all.

    Nothing in the file is executed. `num_batches_tracked`, which no inference reads, may be missing.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no checkpoint or would execute code, or keys or shapes do not fit.
    """
    from pathlib import Path

    from mnv3_models.checkpoints import read_state

    path = Path(path)
    state = read_state(path)
    own = model.state_dict()
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    shapes = [
        f"{key} (file {list(state[key].shape)}, network {list(tensor.shape)})"
        for key, tensor in own.items()
        if key in state and state[key].shape != tensor.shape
    ]
    parts = (("missing keys", missing), ("unexpected keys", unexpected), ("other shapes", shapes))
    misfit = "; ".join(f"{what} ({len(keys)}): {_some(keys)}" for what, keys in parts if keys)
    if misfit:
        raise ValueError(
            f"{path} does not fit the network: {misfit}; expected what its state_dict() gives, saved"
        )
    model.load_state_dict(state, strict=False)


def _named(error: BaseException) -> str:
    """An error's type and first line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more


def _by(tensor: torch.Tensor) -> str:
    return " x ".join(str(size) for size in tensor.shape)
