"""Which layer an operator of a runtime computes, what kind of work that is, and how much of it.

Runtimes rename, fuse and convert. What no conversion changes is the order of the arithmetic: every convolution and
linear layer of the network is one operator of the runtime, and they run in the network's order (which of two branches
comes first is the network's own choice, and exporters keep it). So the n-th operator that multiplies and accumulates is
the n-th such layer, as long as there are equally many; where there are not, nothing is guessed. What runs between two
of them belongs to what the network has between them.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mnv3_reports.record import Profiled, ProfiledOperator

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mnv3_bench.backends.base import OperatorTime, Profile
    from mnv3_reports.record import LayerCost

_PATTERNS = {
    "reorder": r"reorder|(?<!conv)(?<!conv_)transpose(?!_conv)|permute|quantizelinear|quantize_per"
    r"|\b(de)?quantize\b|\bcast\b|convert\b|_to_copy\b"
    r"|\bcopy_?\b|dim_order|layout|packing|contiguous|to_mkldnn|\bto\b",
    "mac": r"conv(olution|integer|transpose)?((_?transpose)?_?[123]d)?(_pointwise|depthwise\w*)?\b|convolution|dwconv"
    r"|gemm|matmul|fully.?connected|inner.?product|(?<![a-z])q?linear(_dynamic|_pointwise)?\b|addmm|\bmm\b|\bfc\b|depthwise",
    "normalization": r"batch.?norm|layer.?norm",
    "pooling": r"pool|\bmean\b|reduce|global_?average|gap\b",
    "activation": r"hard.?swish|hard.?sigmoid|hswish|hsigmoid|relu|sigmoid|swish|silu|gelu|clamp|\bclip\b|hardtanh"
    r"|unary|logistic|tanh",
    "multiplication": r"\bmul|multiply|_mul\b|qlinearmul|binaryop|div",
    "addition": r"\badd|_add\b|eltwise|\bsum\b|qlinearadd",
}
_GENERATED = re.compile(r"^cpp_fused|^subgraph|^quick_?gelu", re.IGNORECASE)
"""Operators that hold several elementwise ones."""
_LAYOUT = re.compile(r"^cpp_fused(_convolution|_addmm|__?to_copy)+_\d+$")
"""A generated kernel that is named by what comes after it alone lays its input out for that."""
_TOKENS = {
    "BatchNorm2d": ("batch_norm", "batchnorm"),
    "Hardswish": ("hardswish", "hard_swish", "hswish", "hardsigmoid"),
    "ComposedHardswish": ("hardswish", "hard_swish", "hswish", "hardsigmoid"),
    "Hardsigmoid": ("hardsigmoid", "hard_sigmoid", "hsigmoid"),
    "ReLU": ("relu", "clamp"),
    "ReLU6": ("relu6", "hardtanh", "clamp", "clip"),
    "AdaptiveAvgPool2d": ("mean", "pool", "reduce"),
}
_GATED = ("Hardswish", "ComposedHardswish", "SiLU")
SQUEEZE = "squeeze-excitation"
_BYTES = {"int8": 1, "bf16": 2, "fp16": 2}


@dataclass(frozen=True)
class _Span:
    """Operators after one layer of arithmetic and before the next, and what the network has there."""

    before: LayerCost | None
    after: LayerCost | None
    layers: tuple[LayerCost, ...]
    """Leaves between the two."""


def attribute(profile: Profile, layers: Sequence[LayerCost], cell: str, batch: int) -> Profiled:
    """Bring a runtime's profile to the record.

    Args:
        profile: as its backend made it.
        layers: every leaf of the network with input shapes and roles, in the order they run; none where nothing counted
            them.
        cell: key.
        batch: images a call.
    """
    kinds = [_sort(operator) for operator in profile.operators]
    arithmetic = [place for place, kind in enumerate(kinds) if kind == "mac"]
    wanted = [layer for layer in layers if layer.macs]
    told = any(operator.module is not None for operator in profile.operators)
    unmatched = ""
    if not layers:
        unmatched = "nothing counted the layers of this network"
    elif told:
        operators = list(_told(profile.operators, kinds, layers, batch))
    elif len(arithmetic) != len(wanted):
        unmatched = (
            f"the runtime tells of {len(arithmetic)} convolutions and linear layers, "
            f"the network has {len(wanted)}"
        )
    else:
        operators = list(_by_order(profile.operators, kinds, layers, batch))
    if unmatched:
        operators = [
            _record(operator, _plain_kind(kind), "", ())
            for operator, kind in zip(profile.operators, kinds, strict=True)
        ]
    return Profiled(
        cell=cell,
        by=profile.by,
        repeats=max((len(operator.seconds) for operator in profile.operators), default=0),
        operators=tuple(operators),
        plain_seconds=_quantile(profile.plain, 0.5),
        profiled_seconds=_quantile(profile.profiled, 0.5) if profile.profiled else 0.0,
        complete=profile.complete,
        unmatched=unmatched,
    )


def _sort(operator: OperatorTime) -> str:
    """What an operator does, by what its runtime calls it: a key of the patterns, or 'other'."""
    # Behind the arrow is what it calls, such as the copy that a convolution spends its time in.
    text = operator.operation.partition(" → ")[0].lower()
    if _LAYOUT.match(text):
        return "reorder"
    if _GENERATED.match(text):
        return "generated"
    return next((kind for kind, pattern in _PATTERNS.items() if re.search(pattern, text)), "other")


def _plain_kind(kind: str) -> str:
    """The record's kind where no layer is known."""
    return {"mac": "convolution", "reorder": "reorder", "activation": "activation"}.get(
        kind, "normalization" if kind == "normalization" else "other"
    )


def _told(
    operators: Sequence[OperatorTime], kinds: Sequence[str], layers: Sequence[LayerCost], batch: int
) -> Iterator[ProfiledOperator]:
    """Operators whose modules are known."""
    by_name = {layer.name: layer for layer in layers}
    counted: set[str] = set()
    for operator, kind in zip(operators, kinds, strict=True):
        path = operator.module or ""
        layer = by_name.get(path)
        inside = [each for each in layers if each.name.startswith(f"{path}.")] if path else []
        squeezing = any(each.role == SQUEEZE for each in inside) and not any(
            each.role != SQUEEZE for each in inside
        )
        if layer is None:
            yield _record(operator, SQUEEZE if squeezing else _plain_kind(kind), path, ())
            continue
        first = layer.macs and kind == "mac" and path not in counted
        if first:
            counted.add(path)
        yield _record(operator, layer.role or "other", path, (), layer, batch, macs=bool(first))


def _by_order(
    operators: Sequence[OperatorTime], kinds: Sequence[str], layers: Sequence[LayerCost], batch: int
) -> Iterator[ProfiledOperator]:
    """Operators whose modules follow from their order."""
    spans = list(_spans(layers))
    runs: list[list[int]] = [[]]
    for place, kind in enumerate(kinds):
        if kind == "mac":
            runs.append([])
        runs[-1].append(place)
    for span, run in zip(spans, runs, strict=True):
        between = run if span.before is None else run[1:]
        left = list(span.layers)
        found = [_between(operators[place], kinds[place], span, left, batch) for place in between]
        if span.before is not None:
            # What no operator of its own computes, the one before it computes along.
            contents = tuple(
                layer.name for layer in left if layer.role != "other" or layer.kind == "AdaptiveAvgPool2d"
            )
            layer = span.before
            yield _record(operators[run[0]], layer.role, layer.name, contents, layer, batch, macs=True)
        yield from found


def _spans(layers: Sequence[LayerCost]) -> Iterator[_Span]:
    """What precedes the first layer of arithmetic, then one for each of them."""
    places = [place for place, layer in enumerate(layers) if layer.macs]
    ends = [*places, len(layers)]
    yield _Span(None, layers[places[0]] if places else None, tuple(layers[: ends[0]]))
    for number, place in enumerate(places):
        end = ends[number + 1]
        after = layers[end] if end < len(layers) else None
        yield _Span(layers[place], after, tuple(layers[place + 1 : end]))


def _between(
    operator: OperatorTime, kind: str, span: _Span, left: list[LayerCost], batch: int
) -> ProfiledOperator:
    """An operator between two layers of arithmetic; what it computes is taken from the layers that are left."""
    before = span.before is not None and span.before.role == SQUEEZE
    after = span.after is not None and span.after.role == SQUEEZE
    if kind == "reorder":
        path = span.before.name if span.before is not None else ""
        return _record(operator, "reorder", path, (), moved=_moved(operator, span, batch, 2))
    wanted = _names(operator, kind)
    taken = [layer for layer in left if any(token in wanted for token in _TOKENS.get(layer.kind, ()))]
    if kind in ("activation", "normalization") and not taken:
        taken = [layer for layer in left if layer.role in (kind, SQUEEZE)][:1]
    if kind != "generated":
        taken = taken[:1]
    for layer in taken:
        left.remove(layer)
    squeezing = (before and after) or (
        before and kind in ("activation", "multiplication", "generated", "other")
    )
    if after and kind in ("pooling", "generated") and not any(layer.role == "activation" for layer in taken):
        squeezing = True
    if taken and not before and not after:
        squeezing = False
    path = taken[0].name if taken else _block(span, squeezing=squeezing)
    if kind == "multiplication" and not squeezing and not taken:
        # Half of a hard swish that the runtime has no operator for: x times what a hard sigmoid gave.
        gated = next((layer for layer in span.layers if layer.kind in _GATED and layer not in left), None)
        if gated is not None:
            return _record(operator, "activation", gated.name, (), gated, batch)
    if squeezing or (taken and taken[0].role == SQUEEZE):
        found = SQUEEZE
    elif taken and taken[0].role in ("activation", "normalization"):
        found = taken[0].role
    else:
        found = _plain_kind(kind)
    contents = tuple(layer.name for layer in taken[1:])
    if taken and kind != "generated":
        return _record(operator, found, path, contents, taken[0], batch)
    if kind == "addition":
        # What is summed is as large as what the layer before gave, whatever comes next makes of it.
        made = span.before.output_shape if span.before is not None else ()
        return _record(operator, found, path, contents, moved=_moved(operator, span, batch, 3, made))
    return _record(operator, found, path, contents, moved=_moved(operator, span, batch, 2))


def _names(operator: OperatorTime, kind: str) -> str:
    """The text that tells what an elementwise operator is."""
    text = operator.operation.lower().replace("hard swish", "hardswish")
    return f"{text} mean" if kind == "pooling" else text


def _block(span: _Span, *, squeezing: bool) -> str:
    """The block that the layer before is in; or the squeeze-and-excitation, of an operator that is part of it."""
    if span.before is None:
        return ""
    if squeezing:
        inner = span.before if span.before.role == SQUEEZE else span.after
        return inner.name.rpartition(".")[0] if inner is not None else ""
    parts = span.before.name.split(".")
    return ".".join(parts[:2]) if len(parts) > 2 else ".".join(parts[:-1])


def _moved(operator: OperatorTime, span: _Span, batch: int, times: int, made: tuple[int, ...] = ()) -> int:
    """Bytes of an elementwise operator: so many times what it gives, which is what the next layer reads unless given.

    A generated kernel may make something smaller of what it reads, as a mean does: it reads what the layer before gave.
    """
    if _GENERATED.match(operator.operation.lower()) and "mul" not in operator.operation.lower():
        ends = [span.before.output_shape if span.before else (), span.after.input_shape if span.after else ()]
        return (
            sum(math.prod(shape) for shape in ends if shape) * batch * _BYTES.get(operator.precision or "", 4)
        )
    shape = operator.output_shape or made or (span.after.input_shape if span.after is not None else ())
    return times * math.prod(shape) * batch * _BYTES.get(operator.precision or "", 4) if shape else 0


def _record(
    operator: OperatorTime,
    kind: str,
    path: str,
    contents: tuple[str, ...],
    layer: LayerCost | None = None,
    batch: int = 1,
    *,
    macs: bool = False,
    moved: int = 0,
) -> ProfiledOperator:
    width = _BYTES.get(operator.precision or "", 4)
    if layer is not None:
        elements = math.prod(layer.input_shape) * (layer.input_shape != ()) + math.prod(layer.output_shape)
        moved = (elements * batch + layer.parameters) * width
    return ProfiledOperator(
        name=operator.name,
        operation=operator.operation,
        kind=kind,
        module=path,
        contains=contents,
        seconds=_quantile(operator.seconds, 0.5),
        lower=_quantile(operator.seconds, 0.25),
        upper=_quantile(operator.seconds, 0.75),
        precision=operator.precision,
        macs=layer.macs * batch if layer is not None and macs else 0,
        # What a runtime tells leaves out weights that it has packed.
        bytes=moved if layer is not None or operator.bytes is None else operator.bytes,
        output_shape=operator.output_shape or (layer.output_shape if layer is not None else ()),
    )


def _quantile(values: Sequence[float], share: float) -> float:
    return float(np.quantile(values, share))
