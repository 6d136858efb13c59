"""What the PyTorch backends share: devices, rebuilding a network from its weights, and the session."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from mnv3_bench.backends._artifact import About
from mnv3_bench.backends.base import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import torch
    from torch import nn

    from mnv3_bench.backends.base import Arrays, Facts, Preparation

WEIGHTS = "weights.safetensors"
SCRIPT = "model.ts"


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


def as_arrays(output: Any) -> Arrays:
    """What a network gave, a tensor or several in a tuple, list or dict, on the host; floating-point ones as float32."""
    import torch

    given = output.values() if isinstance(output, dict) else output
    outputs = (given,) if isinstance(given, torch.Tensor) else tuple(given)
    return tuple((each.float() if each.is_floating_point() else each).cpu().numpy() for each in outputs)


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


def save_script(model: nn.Module, preparation: Preparation) -> None:
    """Trace a network with the example batch, freeze it and write it.

    Raises:
        BackendError: the device is not there.
    """
    import warnings

    import torch

    place = torch_device(preparation.device)
    example = tensors(preparation.example, place)
    with torch.inference_mode(), warnings.catch_warnings():
        # Known and stated in the summary: TorchScript is deprecated.
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*torch.jit.*deprecated.*")
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            model.to(place).eval(), example, check_trace=False
        )
        torch.jit.save(torch.jit.freeze(traced), preparation.directory / SCRIPT)


def load_script(directory: Path, threads: int, device: str) -> TorchSession:
    """A session of a saved TorchScript program.

    Raises:
        BackendError: the device is not there, or the file cannot be read.
    """
    import warnings

    import torch

    place = torch_device(device)
    torch.set_num_threads(threads)
    about = About.read(directory)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", category=DeprecationWarning, message=".*torch.jit.*deprecated.*"
            )
            script = torch.jit.load(  # type: ignore[no-untyped-call]
                directory / SCRIPT, map_location=place
            )
    except (RuntimeError, ValueError) as error:
        raise BackendError(f"the artifact's {SCRIPT} cannot be read; prepare it again with --cold") from error

    def read_back() -> Facts:
        kinds = Counter(node.kind() for node in script.inlined_graph.nodes())
        return {
            # Freezing inlines the flag and drops it; only a network in eval mode can be frozen.
            "mode": "train" if getattr(script, "training", False) else "eval, frozen",
            "graph nodes": sum(count for kind, count in kinds.items() if kind != "prim::Constant"),
            "batch norms left": kinds["aten::batch_norm"],
        }

    return TorchSession(script, about, place, read_back)


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
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.clock = "cuda-events" if device.type == "cuda" else "wall"
        self.inference_mode = torch.inference_mode

    def stage(self, inputs: Arrays) -> tuple[torch.Tensor, ...]:
        """The inputs as tensors on the session's device; images in its memory format."""
        import torch

        return tuple(
            tensor.to(
                self.device, memory_format=self.memory_format if tensor.dim() == 4 else torch.preserve_format
            )
            for tensor in map(torch.from_numpy, self.about.own(inputs))
        )

    def run(self, staged: tuple[torch.Tensor, ...]) -> Any:
        """One inference; on CUDA it is only queued."""
        with self.inference_mode():
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
            "memory format": str(self.memory_format).removeprefix("torch."),
            **read_back,
            **self.about.facts,
        }

    def close(self) -> None:
        """Drop the network, and the CUDA memory it held."""
        import torch

        self.call = self.read_back = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def module_facts(model: Any) -> Facts:
    """Mode and types of a network's parameters, read from the module."""
    training = sum(module.training for module in model.modules())
    types = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in model.parameters()})
    return {
        "mode": "eval" if training == 0 else f"train ({training} modules)",
        "parameter types": ", ".join(types),
    }
