"""int8 simulated on a network that stays as it is: its parameters, its state dict and its code are not touched.

`attach` watches which of PyTorch's functions a network calls (a `TorchFunctionMode`, entered while the network is
called), and puts quantization to int8 and back where integer runtimes have it:

- Weights of convolutions and linear layers: s8 symmetric (-127 to 127), one scale per output channel. Runtimes fold
  BatchNorm into the weights before they quantize them, which multiplies each output channel by a number. A scale per
  channel takes that number along, and rounding on a symmetric grid does not see it; so quantizing unfolded weights
  gives what quantizing folded ones would, and BatchNorm needs no folding here, not even in training.
- Activations: u8 affine, one scale per tensor, of a range that includes 0. They are quantized as a runtime would store
  them: after convolution, BatchNorm and ReLU or ReLU6 have been fused; before and after any other activation; sums,
  products, means and pooled values; the logits; and whatever else a convolution or linear layer takes, such as an
  image.

That is where ONNX Runtime, LiteRT and XNNPACK quantize, as the files say that this project's backends make with them:
none of the three fuses hard-swish or hard-sigmoid into a convolution, so that what goes into these is stored in int8
too. OpenVINO and inductor do fuse them, and inductor leaves out pooled values; for them this is a little harder than
the truth.

Gradients go through rounding as if it were not there, and not to what is clipped (straight-through). That, ranges that
follow moving averages in training, and freezing first them and then BatchNorm's statistics, is the training scheme of
Jacob et al., 'Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference', 2018,
https://arxiv.org/abs/1712.05877, section 3.
"""

from __future__ import annotations

import difflib
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

Ranges = Literal["minmax", "percentile", "mse"]

SCHEME = "weights s8 symmetric per output channel, activations u8 affine per tensor"
WEIGHT_LIMIT = 127
LEVELS = 255
AVERAGING = 0.01
"""Share of a batch's extremes in the moving averages of ranges, as in torch.ao.quantization."""
PERCENTILE = 99.99
BINS = 2048
CUTS = 40
"""Candidates for each end of a range when its squared error is minimised."""

_WEIGHTED = {"conv2d", "linear"}
_FUSED = {"batch_norm", "relu", "relu6", "hardtanh", "clamp", "clamp_min"}
"""What runtimes fuse into the layer before: it is the result that is stored."""
_MOVED = {"flatten", "view", "reshape", "squeeze", "unsqueeze", "permute", "transpose", "contiguous"}
_ACTIVATIONS = {"hardswish", "hardsigmoid", "silu", "sigmoid", "gelu", "tanh", "leaky_relu", "elu", "mish"}
_OPERATORS = {
    "add": "addition",
    "sub": "subtraction",
    "mul": "product",
    "cat": "concatenation",
    "mean": "mean",
    "avg_pool2d": "pooling",
    "adaptive_avg_pool2d": "pooling",
}
"""What has a range of its own, by the name that its places go by. Sums and products are those of two tensors."""
_PASSED = {"dropout", "max_pool2d"}
"""What they give is on the grid that they are given, or while training on a multiple of it."""
_MARK = "_mnv3_mark"
"""Attribute of a tensor. It is quantized only when something takes it: until then a runtime may fuse more into it."""


class Place:
    """One range of activations."""

    def __init__(self, name: str, layer: str | None) -> None:
        self.name = name
        self.layer = layer
        """The layer that it belongs to; None of sums, products and the like."""
        self.minimum, self.maximum = torch.tensor([torch.inf]), torch.tensor([-torch.inf])
        self.scale, self.zero_point = torch.ones(1), torch.zeros(1, dtype=torch.int32)
        self.is_known = False
        """Whether anything was seen here, or set."""

    def follow(self, values: torch.Tensor) -> torch.Tensor:
        """Move the range a little towards the extremes of these values (the first values set it), and quantize them."""
        self._to(values.device)
        self.is_known = True
        on = torch.ones(1, dtype=torch.long, device=values.device)
        return torch.fused_moving_avg_obs_fake_quant(
            values,
            on,
            on,  # off, it would leave scale and zero point as they were
            self.minimum,
            self.maximum,
            self.scale,
            self.zero_point,
            AVERAGING,
            0,
            LEVELS,
            -1,
        )

    def quantize(self, values: torch.Tensor) -> torch.Tensor:
        """The values on the range's 256 steps.

        Raises:
            RuntimeError: nothing was seen here yet.
        """
        if not self.is_known:
            raise RuntimeError(
                f"no range is known at '{self.name}'; call calibrate() first, or train with observe(True)"
            )
        self._to(values.device)
        return torch.fake_quantize_per_tensor_affine(values, self.scale, self.zero_point, 0, LEVELS)

    def set_range(self, least: float, greatest: float) -> None:
        """Fix the range; it is widened to include 0, which padding must be exact in."""
        self.minimum.fill_(torch.inf)
        self.maximum.fill_(-torch.inf)
        self.follow(torch.tensor([least, greatest], device=self.minimum.device))

    def state(self) -> torch.Tensor:
        """Its four numbers."""
        found = (self.minimum, self.maximum, self.scale, self.zero_point.float())
        return torch.cat([each.detach().cpu() for each in found])

    def load(self, state: torch.Tensor) -> None:
        """Take over what `state` gave."""
        self.minimum, self.maximum, self.scale, zero = (each.reshape(1) for each in state.float().clone())
        self.zero_point = zero.to(torch.int32)
        self.is_known = bool(self.minimum <= self.maximum)

    def _to(self, device: torch.device) -> None:
        if self.minimum.device != device:
            self.minimum, self.maximum = self.minimum.to(device), self.maximum.to(device)
            self.scale, self.zero_point = self.scale.to(device), self.zero_point.to(device)


class _Mark:
    """Where a tensor is to be quantized (nowhere any more: None), and what came of it."""

    def __init__(self, place: Place | None) -> None:
        self.place = place
        self.seen = False
        """Its values have moved the range."""
        self.taken: torch.Tensor | None = None
        """On the grid, once something took it so."""


class Attached(TorchFunctionMode):
    """Simulated quantization of one network. At first everything is quantized, and ranges follow training.

    A deep copy of the network, such as an average of its weights, is quantized too, by the same ranges and switches.
    """

    def __init__(self, model: nn.Module, float_layers: Collection[str] = ()) -> None:
        super().__init__()
        self.layers = tuple(
            name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)
        )
        """Paths of convolutions and linear layers, in the order in which the network defines them."""
        if not self.layers:
            raise ValueError(f"a {type(model).__name__} has no convolution and no linear layer to quantize")
        self.places: dict[str, Place] = {}
        """Where activations are quantized, in the order in which they were first met."""
        self.float_layers = self._known(float_layers)
        self._model = model
        self._chosen: frozenset[str] | None = None
        self._observing = self._quantizing = True
        self._frozen = False
        self._see: Callable[[Place, torch.Tensor], None] | None = None
        """Looks at values instead of quantizing them."""
        self._entered = False
        self._of_weights: dict[int, str] = {}
        self._met: Counter[str] = Counter()
        self._hooks = (
            model.register_forward_pre_hook(self._enter),
            # Even when the network raises: left entered, it would quantize whatever is called next.
            model.register_forward_hook(self._leave, always_call=True),
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Attached:
        return self

    def observe(self, on: bool) -> None:
        """Let ranges follow what passes in training mode. In eval mode they never move."""
        self._observing = on

    def quantize(self, on: bool) -> None:
        """Quantize, or compute in float."""
        self._quantizing = on

    def only(self, names: Collection[str] | None) -> None:
        """Quantize these layers alone (weights, output, and an image that one takes), or everything again: None.

        Raises:
            ValueError: there is no such layer.
        """
        self._chosen = None if names is None else self._known(names)

    def freeze_batch_norm(self) -> None:
        """From now on BatchNorm normalises by its running statistics and keeps them, in training mode too."""
        self._frozen = True

    def state(self) -> dict[str, torch.Tensor]:
        """Ranges and switches: with the network's own state all that training needs to go on to the same numbers."""
        switches = torch.tensor([self._observing, self._quantizing, self._frozen], dtype=torch.uint8)
        return {
            "switches": switches,
            **{f"range:{place.name}": place.state() for place in self.places.values()},
        }

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over what `state` gave.

        Raises:
            ValueError: it is of another network.
        """
        ranges = {name.partition(":")[2]: data for name, data in state.items() if name.startswith("range:")}
        owners = {name: self._owner(name) for name in ranges}
        self._observing, self._quantizing, self._frozen = map(bool, state["switches"].tolist())
        self.places = {name: Place(name, owner) for name, owner in owners.items()}
        for name, place in self.places.items():
            place.load(ranges[name])

    def calibrate(self, batches: Iterable[torch.Tensor], ranges: Ranges = "minmax") -> None:
        """Set every range from images, as quantization after training does; the network is called in eval mode.

        Args:
            batches: n x 3 x height x width each; gone through twice unless `ranges` is 'minmax', so no iterator.
            ranges: least and greatest value; the 0.01th and 99.99th percentile; or the range with the least mean
                squared error of clipping and rounding. The latter two are read off histograms of 2048 bins.

        Raises:
            ValueError: there are no batches.
        """
        seen: dict[Place, tuple[float, float]] = {}

        def widen(place: Place, values: torch.Tensor) -> None:
            least, greatest = (float(value) for value in torch.aminmax(values))
            before = seen.get(place, (0.0, 0.0))
            seen[place] = min(before[0], least), max(before[1], greatest)

        self._look(batches, widen)
        if not seen:
            raise ValueError("there are no images to calibrate with; expected at least one batch")
        if ranges != "minmax":
            counts = {
                place: torch.zeros(BINS) for place, (least, greatest) in seen.items() if least < greatest
            }

            def count(place: Place, values: torch.Tensor) -> None:
                if place in counts:
                    counts[place] += torch.histc(values.float(), BINS, *seen[place]).cpu()

            self._look(batches, count)
            cut = _percentile if ranges == "percentile" else _least_error
            seen |= {place: cut(found, *seen[place]) for place, found in counts.items()}
        for place, (least, greatest) in seen.items():
            place.set_range(least, greatest)

    def detach(self) -> None:
        """Leave the network as it was found. Copies of it compute in float from then on."""
        for hook in self._hooks:
            hook.remove()
        self._quantizing = self._observing = self._frozen = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Quantize what a function takes, and mark what it gives."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").removesuffix("_")
        if name in _WEIGHTED:
            return self._weighted(func, *args, **kwargs)
        if name in _OPERATORS and _has_marked_operands(name, args):
            return self._operator(func, _OPERATORS[name], args, kwargs)
        mark: _Mark | None = getattr(args[0], _MARK, None) if args else None
        if mark is None:
            return func(*args, **kwargs)
        if name in _FUSED or name in _MOVED:
            return _marked(func(*args, **kwargs), mark.place)
        if name in _ACTIVATIONS or name in _PASSED:
            # Not in place: the values before it may be taken by something else too.
            kwargs |= {"inplace": False} if "inplace" in kwargs else {}
            found = func(self._take(args[0]), *args[1:], **kwargs)
            if name in _PASSED or mark.place is None:
                return _marked(found, None)
            return _marked(found, self._place(f"{mark.place.name}:{name}", mark.place.layer))
        return func(*args, **kwargs)

    def _weighted(
        self,
        func: Any,
        input: torch.Tensor,  # noqa: A002  # PyTorch's own name, by which it may be given
        weight: torch.Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        layer = self._of_weights.get(id(weight))
        if layer is None:  # the network's own code, of no layer
            return func(input, weight, *args, **kwargs)
        if not hasattr(input, _MARK):
            # Not on the tensor itself, which may be the caller's.
            input = _marked(input.view_as(input), self._place(f"{layer}:input", layer))  # noqa: A001
        taken = self._take(input, layer)
        if self._see is None and self._quantizing and self._is_on(layer):
            weight = _on_grid(weight)
        return _marked(func(taken, weight, *args, **kwargs), self._place(layer, layer))

    def _operator(self, func: Any, kind: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        first, *rest = args
        several = isinstance(first, list | tuple)
        taken = [self._take(each, kind) for each in first] if several else self._take(first, kind)
        found = func(taken, *(self._take(each, kind) for each in rest), **kwargs)
        if func.__name__.endswith("_") and found is not first:  # in place: whoever holds it sees the change
            found = first.copy_(found)
        self._met[kind] += 1
        return _marked(found, self._place(f"{kind} {self._met[kind]}", None))

    def _take(self, values: Any, taker: str | None = None) -> Any:
        """A tensor as its taker gets it: a layer, an operator, or whoever called the network (None)."""
        mark: _Mark | None = getattr(values, _MARK, None)
        if mark is None or mark.place is None:
            return values
        # What a layer kept in float gives is quantized nevertheless for those that take it in int8.
        by_taker = self._chosen is None and taker is not None and taker not in self.float_layers
        on = self._see is None and self._quantizing and (self._is_on(mark.place.layer) or by_taker)
        if not mark.seen:
            mark.seen = True
            if self._see is not None:
                self._see(mark.place, values.detach())
            elif self._observing and self._model.training:
                found = _in_order(mark.place.follow, values.float())
                mark.taken = found.to(values.dtype) if on else None
        if on and mark.taken is None:
            mark.taken = _in_order(mark.place.quantize, values.float()).to(values.dtype)
        return mark.taken if on else values

    def _is_on(self, layer: str | None) -> bool:
        if layer is not None and layer in self.float_layers:
            return False
        return self._chosen is None or layer in self._chosen

    def _place(self, name: str, layer: str | None) -> Place:
        if name not in self.places:
            self.places[name] = Place(name, layer)
        return self.places[name]

    def _enter(self, model: nn.Module, _args: tuple[Any, ...]) -> None:
        self._of_weights = {}
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                self._of_weights[id(module.weight)] = name
            elif self._frozen and isinstance(module, _BatchNorm):
                module.training = False
        self._met.clear()
        following = self._observing and model.training
        # Entered already: a call was interrupted by what is no Exception, such as Ctrl-C.
        if not self._entered and (self._quantizing or following or self._see is not None):
            self.__enter__()  # type: ignore[no-untyped-call]
            self._entered = True

    def _leave(self, _model: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        if not self._entered:
            return output
        self.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        self._entered = False
        if isinstance(output, dict):
            return {key: self._take(value) for key, value in output.items()}
        if type(output) in (list, tuple):
            return type(output)(self._take(value) for value in output)
        return self._take(output)

    def _look(self, batches: Iterable[torch.Tensor], see: Callable[[Place, torch.Tensor], None]) -> None:
        device = next(self._model.parameters()).device
        was_training = self._model.training
        self._model.eval()
        self._see = see
        try:
            with torch.no_grad():
                for images in batches:
                    self._model(images.to(device))
        finally:
            self._see = None
            self._model.train(was_training)

    def _known(self, names: Collection[str]) -> frozenset[str]:
        for name in names:
            if name not in self.layers:
                near = difflib.get_close_matches(name, self.layers, n=3, cutoff=0)
                raise ValueError(
                    f"'{name}' is no convolution or linear layer of this network; near are {', '.join(near)}"
                )
        return frozenset(names)

    def _owner(self, place: str) -> str | None:
        layer = place.partition(":")[0]
        if layer in self.layers:
            return layer
        if layer.rpartition(" ")[0] in _OPERATORS.values():
            return None
        raise ValueError(
            f"the state has a range for '{layer}', which this network has no layer of the name of"
        )


def attach(model: nn.Module, float_layers: Collection[str] = ()) -> Attached:
    """Simulate int8 on a network from now on.

    Args:
        model: any network; its code may do what no tracer follows. To be called without torch.compile.
        float_layers: module paths, such as features.0.0, of layers that are not quantized: neither their weights nor
            what they give, but for those that take it in int8.

    Raises:
        ValueError: there is no such layer, none at all, or the network is attached to already.
    """
    for hook in model._forward_pre_hooks.values():
        if isinstance(getattr(hook, "__self__", None), Attached):
            raise ValueError("the network is attached to already; call detach() first")
    return Attached(model, float_layers)


def _marked(values: Any, place: Place | None) -> Any:
    if isinstance(values, torch.Tensor):
        setattr(values, _MARK, _Mark(place))
    return values


def _has_marked_operands(name: str, args: tuple[Any, ...]) -> bool:
    """Whether these are operands that a runtime would have in int8: an added or multiplied number is none."""
    several = name in ("add", "sub", "mul")
    if not args or (several and not all(isinstance(each, torch.Tensor) for each in args[:2])):
        return False
    operands = args[:2] if several else args[0] if isinstance(args[0], list | tuple) else args[:1]
    return any(hasattr(each, _MARK) for each in operands)


def _in_order(quantize: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor) -> torch.Tensor:
    """Quantize in the order of memory: of channels_last tensors the operators' gradients take twice as long."""
    if values.dim() == 4 and not values.is_contiguous():
        return quantize(values.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return quantize(values)


def _on_grid(weight: torch.Tensor) -> torch.Tensor:
    """Weights on 255 steps a channel of the output, around 0."""
    with torch.no_grad():
        scale = weight.float().flatten(1).abs().amax(1) / WEIGHT_LIMIT
        scale = scale.clamp(min=torch.finfo(torch.float32).tiny)
        zero = torch.zeros_like(scale, dtype=torch.int32)
    found = torch.fake_quantize_per_channel_affine(
        weight.float(), scale, zero, 0, -WEIGHT_LIMIT, WEIGHT_LIMIT
    )
    return found.to(weight.dtype)


def _percentile(counts: torch.Tensor, least: float, greatest: float) -> tuple[float, float]:
    """The percentiles of a histogram between these bounds."""
    edges = torch.linspace(least, greatest, len(counts) + 1)
    below = counts.cumsum(0) / counts.sum()
    tail = 1 - PERCENTILE / 100
    first = int((below <= tail).sum())
    last = int((below < 1 - tail).sum())
    return float(edges[first]), float(edges[last + 1])


def _least_error(counts: torch.Tensor, least: float, greatest: float) -> tuple[float, float]:
    """The range, cut at either end, with the least squared error of clipping and of rounding to 256 steps."""
    edges = torch.linspace(least, greatest, len(counts) + 1, dtype=torch.float64)
    centres, weights = (edges[:-1] + edges[1:]) / 2, counts.double() / counts.sum()
    lows = torch.linspace(0, 1, CUTS, dtype=torch.float64) * min(least, 0.0)
    highs = torch.linspace(0, 1, CUTS, dtype=torch.float64) * max(greatest, 0.0)
    below = (weights * (lows[:, None] - centres).clamp(min=0) ** 2).sum(1)
    above = (weights * (centres - highs[:, None]).clamp(min=0) ** 2).sum(1)
    # Rounding errors are spread evenly over a step: its square over 12.
    error = below[:, None] + above + ((highs - lows[:, None]) / LEVELS) ** 2 / 12
    low, high = divmod(int(error.argmin()), CUTS)
    return float(lows[low]), float(highs[high])
