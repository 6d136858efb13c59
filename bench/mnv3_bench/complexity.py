"""What one inference costs, counted three ways.

MACs are the multiply-accumulates of convolutions and linear layers, the figure papers print; FLOPs are twice
that. They are counted by fvcore (from a traced graph), by torch's FlopCounterMode (from the operators that are
dispatched) and from the layers themselves (weights x positions). What fvcore adds to its own total beyond those,
BatchNorm above all, is listed apart: its total for V3-Large is 226 M where this convention gives 217 M.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any

from mnv3_reports.record import Complexity, LayerCost

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import nn

    from mnv3_bench.backends.base import Arrays

# fvcore leaves some operators out silently (relu), calls others unsupported (hardswish, mul, add) and has rules of
# its own for the rest (batch_norm, pooling). Here all follow one rule: an operation for each output element.
_KINDS = {
    "batch_norm": ("batch_norm",),
    "activation": ("relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "sigmoid", "silu", "gelu"),
    "elementwise": ("add", "sub", "mul", "div"),
    "pooling": ("adaptive_avg_pool2d", "avg_pool2d", "max_pool2d", "mean"),
}
_KIND_OF = {op + end: kind for kind, ops in _KINDS.items() for op in ops for end in ("", "_")}
_FREE = ("dropout", "dropout_", "feature_dropout", "feature_dropout_")
"""Operators that do nothing in eval mode."""
_MAC_OPERATORS = ("conv", "linear", "addmm", "mm", "matmul", "bmm", "einsum")
"""fvcore's names for what is counted in multiply-accumulates."""
_SQUEEZING = "squeeze"
"""In the name of a module's class: SqueezeExcitation here and in torchvision, SqueezeExcite in timm."""
_ACTIVATIONS = (
    "ReLU",
    "ReLU6",
    "Hardtanh",
    "Hardswish",
    "ComposedHardswish",
    "Hardsigmoid",
    "Sigmoid",
    "SiLU",
    "GELU",
)
_SHOWN = 3  # places named where counters disagree


def count(model: nn.Module, inputs: Arrays) -> Complexity:
    """Count one call of a network in eval mode, such as one image of 1 x 3 x 224 x 224.

    A layer's `activations`, like the total, are elements written by convolutions and linear layers (0 for other
    layers); its `output_shape` leaves the batch out. `weight_bytes` is what parameters and buffers take in memory.
    Operators no counter knows are named in `disagreement`.

    Args:
        model: the network.
        inputs: of one call; their values do not matter, and a network has to take float32 ones as its parameters are.
    """
    import torch

    model = copy.deepcopy(model).eval()  # hooks and mode stay out of the caller's network
    tensors = [*model.parameters(), *model.buffers()]
    like = next(model.parameters(), torch.empty(0))
    image = tuple(
        each.to(like.device, like.dtype if each.is_floating_point() else each.dtype)
        for each in map(torch.from_numpy, inputs)
    )

    layers = _layers(model, image)
    by_operator, macs_by_module, activations, unsupported = _fvcore(model, image)
    analytic = {layer.name: layer.macs for layer in layers}
    counters = {
        "fvcore": sum(by_operator[op] for op in _MAC_OPERATORS),
        "flop_counter": _dispatched_flops(model, image) // 2,
        "analytic": sum(analytic.values()),
    }
    others: Counter[str] = Counter()
    for operator, operations in by_operator.items():
        if operator not in _MAC_OPERATORS and operations:
            others[_KIND_OF.get(operator, operator)] += operations
    return Complexity(
        macs=counters["fvcore"],
        other_operations=dict(others),
        parameters=sum(tensor.numel() for tensor in model.parameters()),
        buffers=sum(tensor.numel() for tensor in model.buffers()),
        activations=activations,
        weight_bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        counters=counters,
        disagreement=_disagreement(counters, _own(macs_by_module), analytic, unsupported),
        layers=layers,
    )


def _layers(model: nn.Module, image: tuple[torch.Tensor, ...]) -> tuple[LayerCost, ...]:
    """Cost of every leaf module that ran, in the order of first use; a module used twice costs twice."""
    import torch

    costs: dict[str, LayerCost] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...], Any], None]:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: Any) -> None:
            if isinstance(output, (tuple, list)):
                output = next((each for each in output if isinstance(each, torch.Tensor)), None)
            if not isinstance(output, torch.Tensor):
                return  # a layer of a user's own network may give anything
            macs = _layer_macs(module, inputs[0] if inputs else output, output)
            before = costs.get(name)
            costs[name] = LayerCost(
                name=name,
                kind=type(module).__name__,
                macs=macs + (before.macs if before else 0),
                parameters=sum(parameter.numel() for parameter in module.parameters()),
                activations=(output.numel() if macs else 0) + (before.activations if before else 0),
                output_shape=tuple(output.shape[1:]),
                input_shape=tuple(inputs[0].shape[1:]) if inputs and hasattr(inputs[0], "shape") else (),
                role="squeeze-excitation" if name.startswith(squeezing) else _role(module),
            )

        return hook

    leaves = [(name, module) for name, module in model.named_modules() if not list(module.children())]
    squeezing = tuple(
        f"{name}." for name, module in model.named_modules() if _SQUEEZING in type(module).__name__.lower()
    )
    handles = [module.register_forward_hook(watch(name)) for name, module in leaves]
    with torch.no_grad():
        model(*image)
    for handle in handles:
        handle.remove()
    return tuple(costs.values())


def _role(module: nn.Module) -> str:
    """What a leaf module is in its network, as `LayerCost.role` has it."""
    from torch import nn

    match module:
        case nn.Conv2d() if module.groups == module.in_channels and module.groups > 1:
            return "depthwise"
        case nn.Conv2d() if module.kernel_size == (1, 1) and module.groups == 1:
            return "pointwise"
        case nn.modules.conv._ConvNd():
            return "convolution"
        case nn.Linear():
            return "linear"
        case nn.modules.batchnorm._NormBase() | nn.LayerNorm() | nn.GroupNorm():
            return "normalization"
        case _:
            return "activation" if type(module).__name__ in _ACTIVATIONS else "other"


def _layer_macs(module: nn.Module, given: torch.Tensor, output: torch.Tensor) -> int:
    """Weights x positions of one convolution or linear layer, 0 for anything else."""
    from torch import nn

    match module:
        case nn.ConvTranspose1d() | nn.ConvTranspose2d() | nn.ConvTranspose3d():
            return module.weight.numel() * (given.numel() // module.in_channels)
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            return module.weight.numel() * (output.numel() // module.out_channels)
        case nn.Linear():
            return module.weight.numel() * (output.numel() // module.out_features)
        case _:
            return 0


def _fvcore(
    model: nn.Module, image: tuple[torch.Tensor, ...]
) -> tuple[Counter[str], dict[str, int], int, dict[str, int]]:
    """Operations by operator, MACs by module, activations, and calls of operators without a handle."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations, of fvcore's import and of torch's tracer
        from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis
        from fvcore.nn.jit_handles import get_shape

        def output_elements(_: list[Any], outputs: list[Any]) -> int:
            return math.prod(get_shape(outputs[0]))

        flops, activations = FlopCountAnalysis(model, image), ActivationCountAnalysis(model, image)
        flops.set_op_handle(**{f"aten::{operator}": output_elements for operator in _KIND_OF})
        flops.set_op_handle(**{f"aten::{operator}": None for operator in _FREE})
        for analysis in (flops, activations):  # its log repeats what is reported here
            analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        by_operator = Counter({name: int(n) for name, n in flops.by_operator().items()})
        macs_by_module = {
            name: sum(int(operators[op]) for op in _MAC_OPERATORS)
            for name, operators in flops.by_module_and_operator().items()
        }
        return by_operator, macs_by_module, int(activations.total()), dict(flops.unsupported_ops())


def _dispatched_flops(model: nn.Module, image: tuple[torch.Tensor, ...]) -> int:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(*image)
    return int(counter.get_total_flops())


def _own(by_module: dict[str, int]) -> dict[str, int]:
    """MACs each module does itself, outside its children."""
    own = dict(by_module)
    for name, macs in by_module.items():
        if name:
            own[name.rpartition(".")[0]] -= macs
    return own


def _disagreement(
    counters: dict[str, int], traced: dict[str, int], analytic: dict[str, int], unsupported: dict[str, int]
) -> str | None:
    reasons = []
    if len(set(counters.values())) > 1:
        reasons.append(", ".join(f"{name} counts {macs:,}" for name, macs in counters.items()))
        places = [name for name, macs in traced.items() if macs != analytic.get(name, 0)]
        if places:
            named = ", ".join(place or "the top level" for place in places[:_SHOWN])
            more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
            reasons.append(f"fvcore and the layers' own count differ in {named}{more}")
    if unsupported:
        calls = ", ".join(f"{name} ({n} calls)" for name, n in sorted(unsupported.items()))
        reasons.append(f"not counted, because no counter knows them: {calls}")
    return "; ".join(reasons) or None
