"""Which architectural features a network has, read off the built modules and the traced graph."""

from __future__ import annotations

import operator
from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING

from torch import fx, nn

from mnv3_models.layers import ConvNormAct, MobileNet
from mnv3_models.v3 import ComposedHardswish, SqueezeExcitation

if TYPE_CHECKING:
    from collections.abc import Callable

    from mnv3_models.variants import Variant

ABSENT = "–"
_HARD_SWISH = (nn.Hardswish, ComposedHardswish)

# The one feature that a built network does not show.
_SEARCH = {
    "v3": "platform-aware NAS + NetAdapt (from the paper)",
}


def features(model: nn.Module, variant: Variant) -> dict[str, str]:
    """Feature to what the network shows, '–' where it has none of it; the same keys for every family of this package.

    Everything but 'architecture search' is derived: layers by walking the modules, residual additions by
    counting the additions in the graph that torch.fx traces.

    An own model has no known blocks: of it only what its layers show is told, counted in layers. A key is left out
    where that would be a guess, such as hard-swish when no module does it but a function might.

    Raises:
        ValueError: the model is not one that `build` made.
    """
    if variant.is_own:
        return _of_layers(model)
    if not isinstance(model, MobileNet):
        raise ValueError(f"a {type(model).__name__} has no known blocks; expected a network from build()")
    blocks = model.blocks

    def of_blocks(has: Callable[[nn.Module], bool]) -> str:
        count = sum(has(block) for block in blocks)
        return f"{count} of {len(blocks)} blocks" if count else ABSENT

    return {
        "depthwise separable": of_blocks(_is_depthwise_separable),
        "linear bottleneck": of_blocks(_ends_linear),
        "inverted residual": of_blocks(_expands) + _unskipped(blocks),
        "residual addition": _of(_count_additions(model), len(blocks)),
        "squeeze-and-excitation": of_blocks(_has(SqueezeExcitation)) + _inside_squeeze(blocks),
        "hard-swish": _hard_swish(model),
        "kernel sizes": _kernel_sizes(blocks),
        "architecture search": _SEARCH.get(variant.family, ABSENT),
    }


def _of_layers(model: nn.Module) -> dict[str, str]:
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    shown = {}
    if convolutions:
        depthwise = sum(_is_depthwise(conv) for conv in convolutions)
        sizes = Counter(conv.kernel_size for conv in convolutions)
        shown["depthwise separable"] = (
            f"{depthwise} of {len(convolutions)} convolutions depthwise" if depthwise else ABSENT
        )
        shown["kernel sizes"] = (
            ", ".join(f"{h}×{w} in {n}" for (h, w), n in sorted(sizes.items()))
            + f" of {len(convolutions)} convolutions"
        )
    if hard := sum(isinstance(module, nn.Hardswish) for module in model.modules()):
        shown["hard-swish"] = "1 module" if hard == 1 else f"{hard} modules"
    return shown


def _of(count: int, total: int) -> str:
    return f"{count} of {total} blocks" if count else ABSENT


def _has(kind: type[nn.Module] | tuple[type[nn.Module], ...]) -> Callable[[nn.Module], bool]:
    return lambda block: any(isinstance(module, kind) for module in block.modules())


def _main_convolutions(block: nn.Module) -> list[nn.Conv2d]:
    """The block's convolutions in order, without those inside squeeze-and-excitation."""
    inside = {m for se in block.modules() if isinstance(se, SqueezeExcitation) for m in se.modules()}
    return [m for m in block.modules() if isinstance(m, nn.Conv2d) and m not in inside]


def _is_depthwise(conv: nn.Conv2d) -> bool:
    return conv.groups == conv.in_channels > 1


def _is_depthwise_separable(block: nn.Module) -> bool:
    *_, spatial, pointwise = _main_convolutions(block)
    return _is_depthwise(spatial) and pointwise.kernel_size == (1, 1)


def _ends_linear(block: nn.Module) -> bool:
    leaves = [module for module in block.modules() if not list(module.children())]
    return isinstance(leaves[-1], nn.BatchNorm2d)


def _expands(block: nn.Module) -> bool:
    first = _main_convolutions(block)[0]
    return first.kernel_size == (1, 1) and first.out_channels > first.in_channels


def _unskipped(blocks: list[nn.Module]) -> str:
    """A remark on blocks whose first convolution is 1x1 and as wide as its input, which is usually left out."""
    firsts = [_main_convolutions(block)[0] for block in blocks]
    count = sum(conv.kernel_size == (1, 1) and conv.out_channels == conv.in_channels for conv in firsts)
    return f", and {count} that expands to no more channels" if count else ""


def _inside_squeeze(blocks: list[nn.Module]) -> str:
    """A remark on squeeze-and-excitation with hard-swish inside, where ReLU is usual."""
    parts = [m for block in blocks for m in block.modules() if isinstance(m, SqueezeExcitation)]
    return " (hard-swish inside)" if any(map(_has(_HARD_SWISH), parts)) else ""


class _Tracer(fx.Tracer):
    """Follows everything but composed activations, whose additions are none of blocks."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, ComposedHardswish) or super().is_leaf_module(m, module_qualified_name)


def _count_additions(model: nn.Module) -> int:
    graph = _Tracer().trace(model)
    return sum(node.target in (operator.add, operator.iadd) for node in graph.nodes)


def _hard_swish(model: MobileNet) -> str:
    """How many of the activation places outside squeeze-and-excitation, and where they are."""
    blocks = model.blocks
    places: dict[str, list[nn.Module]] = {"stem": [model.features[0]]}
    places["blocks"] = blocks
    places["last convolution"] = [m for m in list(model.features)[1:] if isinstance(m, ConvNormAct)]
    places["head"] = [model.classifier]
    activations = [a for parts in places.values() for part in parts for a in _activations(part)]
    count = sum(isinstance(a, _HARD_SWISH) for a in activations)
    if not count:
        return ABSENT
    where = []
    for place, parts in places.items():
        having = [
            i
            for i, part in enumerate(parts, 1)
            if any(isinstance(a, _HARD_SWISH) for a in _activations(part))
        ]
        if having:
            where.append(f"blocks {_ranges(having)} of {len(blocks)}" if place == "blocks" else place)
    composed = any(isinstance(a, ComposedHardswish) for a in activations)
    end = ", of elementary operations" if composed else ""
    return f"{count} of {len(activations)} activations ({', '.join(where)}){end}"


def _activations(part: nn.Module) -> list[nn.Module]:
    inside = {m for se in part.modules() if isinstance(se, SqueezeExcitation) for m in se.modules()}
    kinds = (nn.ReLU, nn.ReLU6, *_HARD_SWISH)
    return [m for m in part.modules() if isinstance(m, kinds) and m not in inside]


def _ranges(numbers: list[int]) -> str:
    """'2, 5–7' for 2, 5, 6, 7."""
    runs = [[n for _, n in run] for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)


def _kernel_sizes(blocks: list[nn.Module]) -> str:
    depthwise = [conv for block in blocks for conv in _main_convolutions(block) if _is_depthwise(conv)]
    sizes = Counter(conv.kernel_size[0] for conv in depthwise)
    return ", ".join(f"{k}×{k} in {n} blocks" for k, n in sorted(sizes.items()))
