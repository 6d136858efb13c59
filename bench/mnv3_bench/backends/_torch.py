"""What the PyTorch backends share: devices, a network on disk and back, and the session."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from mnv3_bench.backends.base import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import torch
    from torch import nn

    from mnv3_bench.backends._artifact import About
    from mnv3_bench.backends.base import Arrays, Facts, Preparation

WEIGHTS = "weights.safetensors"
PROGRAM = "program.pt2"


def torch_device(device: str) -> torch.device:
    """The torch device of this name.

    Raises:
        BackendError: it is not cpu or cuda, or PyTorch sees no such device.
    """
    import torch

    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise BackendError(f"'{device}' is not a device; expected cpu, cuda or cuda:0")
    if kind == "cuda":
        if not torch.cuda.is_available():
            build = f"PyTorch {torch.__version__} " + (
                "was built without CUDA" if torch.version.cuda is None else "sees no CUDA device"
            )
            raise BackendError(
                f"{device} was asked for, but {build}; use --device cpu or a CUDA machine and build"
            )
        if int(index or 0) >= torch.cuda.device_count():
            raise BackendError(
                f"{device} was asked for, but there are {torch.cuda.device_count()} CUDA devices; use cuda:0"
            )
    return torch.device(device)


def tensors(inputs: Arrays, device: torch.device | str = "cpu") -> tuple[torch.Tensor, ...]:
    """One call's inputs as tensors with memory of their own."""
    import torch

    return tuple(torch.from_numpy(array.copy()).to(device) for array in inputs)


def laid_out(tensor: torch.Tensor, *, channels_last: bool) -> torch.Tensor:
    """The same tensor, and if it may be a batch of images, in this memory format."""
    import torch

    if tensor.dim() != 4:
        return tensor
    return tensor.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def as_arrays(output: Any) -> Arrays:
    """What a network gave, a tensor or several in a tuple, list or dict, on the host; floating-point as float32."""
    import torch

    given = output.values() if isinstance(output, dict) else output
    outputs = (given,) if isinstance(given, torch.Tensor) else tuple(given)
    return tuple((each.float() if each.is_floating_point() else each).cpu().numpy() for each in outputs)


def lay_out(model: nn.Module, *, channels_last: bool) -> None:
    """Put a network's weights into a memory format."""
    import torch

    if channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # its stub lacks this argument


def save_network(preparation: Preparation) -> None:
    """Write what `load_network` makes the network of again: a module's weights, or the user's .pt2 file itself.

    Raises:
        BackendError: it is a file that holds no PyTorch network, such as a package that AOTInductor compiled.
    """
    network = preparation.model
    if preparation.format == "pt2" and preparation.file is not None:
        shutil.copyfile(preparation.file, preparation.directory / PROGRAM)
    else:
        save_weights(network, preparation.directory)


def load_network(about: About, directory: Path, device: torch.device) -> nn.Module:
    """The network that `save_network` wrote, on a device.

    Raises:
        BackendError: its file is not readable, or the weights do not fit.
    """
    if about.format != "pt2":
        return rebuild(about, directory).to(device)
    from mnv3_bench.backends import _pt2

    return _pt2.module(_pt2.read(directory / PROGRAM), device)


def save_weights(model: nn.Module, directory: Path) -> None:
    """Write a network's parameters and buffers."""
    from safetensors.torch import save_file

    # Cloned: a network may hold one tensor under two names, which safetensors does not take.
    state = {name: tensor.detach().contiguous().cpu().clone() for name, tensor in model.state_dict().items()}
    save_file(state, directory / WEIGHTS)


def rebuild(about: About, directory: Path) -> nn.Module:
    """Build the network of an artifact around its stored weights, in eval mode.

    The stored tensors become its parameters. (Building on the meta device would save initialising them, 35 ms for
    V3-Small, and import 800 modules of torch's decompositions and sympy instead: 1 s and memory.) Convolutions whose
    BatchNorm was folded into them (no entry for it, and a bias) lose it here too.

    Raises:
        BackendError: the weights are not readable or do not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from mnv3_models import build

    try:
        # Cloned: tensors mapped from a safetensors file lie at any multiple of 8 bytes; torch's own at one of 64.
        state = {name: tensor.clone() for name, tensor in load_file(directory / WEIGHTS).items()}
    except (OSError, SafetensorError) as error:
        raise BackendError(
            f"the artifact's {WEIGHTS} cannot be read ({error}); prepare it again with --cold"
        ) from error
    model: nn.Module = build(about.variant, num_classes=about.num_classes, bn_eps=about.bn_eps)
    _drop_folded(model, state)
    try:
        model.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise BackendError(f"the artifact's weights do not fit {about.variant}: {reason}") from error
    return model.eval().requires_grad_(False)


def _drop_folded(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    from torch import nn

    for name, module in list(model.named_modules()):
        if isinstance(module, nn.BatchNorm2d) and f"{name}.weight" not in state:
            parent, _, leaf = name.rpartition(".")
            owner = model.get_submodule(parent)
            if isinstance(owner, nn.Sequential):
                del owner._modules[leaf]  # `del owner[i]` would renumber the modules after it
            else:
                setattr(owner, leaf, nn.Identity())
        elif isinstance(module, nn.Conv2d) and module.bias is None and f"{name}.bias" in state:
            module.bias = nn.Parameter(state[f"{name}.bias"], requires_grad=False)


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """A copy with every BatchNorm that follows a convolution folded into it; parameter names stay.

    Raises:
        BackendError: torch.fx cannot trace the network, for example because its control flow depends on its input.
    """
    from torch import nn
    from torch.fx.experimental.optimization import fuse

    try:
        folded: Any = fuse(model)  # a torch.fx.GraphModule
    except Exception as error:  # TraceError, and whatever the network's code raises when it meets a proxy
        reason = " ".join(str(error).split())[:300]
        raise BackendError(
            f"BatchNorm cannot be folded, torch.fx cannot trace the network: {reason}"
        ) from error
    # The graph has neither what an inference leaves out, such as a head for training, nor a layer's second name. The
    # network that is built again around these weights has both.
    kept = dict(folded.named_modules())
    first_names = {module: name for name, module in model.named_modules()}
    for name, module in model.named_modules(remove_duplicate=False):
        leaf = not list(module.children())
        if leaf and name not in kept and not isinstance(module, nn.BatchNorm2d):
            folded.add_submodule(name, kept.get(first_names[module], module))
    result: nn.Module = folded.eval()
    return result


def folded(model: nn.Module) -> tuple[nn.Module, Facts]:
    """`fold_batch_norm`, and what it did.

    Raises:
        BackendError: as there.
    """
    from torch import nn

    made = fold_batch_norm(model)
    before, after = (
        sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()) for network in (model, made)
    )
    return made, {"batch norms folded": before - after, "batch norms left": after}


class TorchSession:
    """A callable on tensors, run in inference mode."""

    def __init__(
        self,
        call: Callable[..., Any],
        about: About,
        device: torch.device,
        read_back: Callable[[], Facts],
        *,
        channels_last: bool = False,
    ) -> None:
        import torch

        self.call: Callable[..., Any] | None = call
        self.about = about
        self.device = device
        self.read_back: Callable[[], Facts] | None = read_back
        self.channels_last = channels_last
        self.clock = "cuda-events" if device.type == "cuda" else "wall"
        # Entered anew at each call, but made once: making one takes as long as entering it, 0.8 microseconds.
        self.inference_mode = torch.inference_mode()

    def stage(self, inputs: Arrays) -> tuple[torch.Tensor, ...]:
        """The inputs as tensors on the session's device; images in its memory format."""
        import torch

        return tuple(
            laid_out(torch.from_numpy(array).to(self.device), channels_last=self.channels_last)
            for array in self.about.own(inputs)
        )

    def run(self, staged: tuple[torch.Tensor, ...]) -> Any:
        """One inference; on CUDA it is only queued."""
        with self.inference_mode:
            return self.call(*staged)  # type: ignore[misc]  # a closed session is not run

    def fetch(self, output: Any) -> Arrays:
        """The outputs on the host, floating-point ones as float32."""
        return as_arrays(output)

    def synchronize(self) -> None:
        """Wait for everything queued on the device."""
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def facts(self) -> Facts:
        """What PyTorch itself says, and what the backend adds."""
        import torch

        read_back = self.read_back() if self.read_back is not None else {}
        return {
            "runtime": f"torch {torch.__version__}",
            "device": str(self.device)
            if self.device.type == "cpu"
            else torch.cuda.get_device_name(self.device),
            "threads": torch.get_num_threads(),
            "cpu capability": torch.backends.cpu.get_cpu_capability(),
            "memory format": "channels_last" if self.channels_last else "contiguous_format",
            **read_back,
            **self.about.facts,
        }

    def close(self) -> None:
        """Drop the network, and the CUDA memory it held."""
        import torch

        self.call = self.read_back = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def module_facts(model: nn.Module) -> Facts:
    """Mode and types of a network's parameters, read from the module."""
    from torch import fx

    if isinstance(model, fx.GraphModule):
        # An exported program has no flag: the mode it was exported in is an argument of its operators.
        from mnv3_bench.backends import _pt2

        training = _pt2.in_training_mode(model.graph)
    else:
        training = sum(module.training for module in model.modules())
    types = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in model.parameters()})
    return {
        "mode": "eval" if training == 0 else f"train ({training} modules)",
        "parameter types": ", ".join(types),
    }
