"""What activations take while a network runs in PyTorch eager, module by module.

Counted, not measured: every operator's outputs are seen as they are made, each storage counts once and with the bytes
that it was asked for, and its release is seen as well. The same network and shapes give the same figures on every
machine. Memory that a kernel takes for itself while it runs, such as oneDNN's scratchpads, is nobody's output and not
seen (docs/memory.md).
"""

from __future__ import annotations

import copy
import gc
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from mnv3_reports.record import Activations, MemoryStep

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import torch
    from torch import nn
    from torch.utils._python_dispatch import TorchDispatchMode

    from mnv3_bench.backends.base import Arrays


def follow(model: nn.Module, inputs: Arrays, *, variant: str, resolution: int) -> Activations:
    """Count the live activations over one call of a network in eval mode and inference mode.

    A step is one call of a module without children, or what a module with children runs itself between two of them: a
    residual addition, a gate's multiplication, a view. Views and in-place results share a storage, which counts once;
    parameters, buffers and other tensors that were there before the call do not count. The caller holds the inputs
    until the call is over, so they are part of every step's bytes. An output counts until the end.

    Args:
        model: the network; it is copied, so no hook and no mode stays.
        inputs: of one call, with the batch as first size of the first one. Their values do not matter. Floating-point
            ones are taken in the type of the network's parameters.
        variant: for the record.
        resolution: for the record; 0 where the inputs are no square images.
    """
    import torch

    model = copy.deepcopy(model).eval()
    weights = [*model.parameters(), *model.buffers()]
    like = next(model.parameters(), torch.empty(0))
    held = tuple(
        each.to(like.device, like.dtype if each.is_floating_point() else each.dtype)
        for each in (torch.from_numpy(array.copy()) for array in inputs)  # a network may write to its input
    )
    # The first call imports parts of torch, in frames that keep tensors alive; and a network may fill a cache in it.
    _call(model, held)
    ledger = _call(model, held)
    return Activations(
        variant=variant,
        resolution=resolution,
        batch=held[0].shape[0] if held and held[0].dim() else 1,
        weight_bytes=sum(tensor.numel() * tensor.element_size() for tensor in weights),
        input_bytes=ledger.input_bytes,
        steps=ledger.steps,
    )


def _call(model: nn.Module, held: tuple[torch.Tensor, ...]) -> _Ledger:
    """Run one call and give what was seen of it."""
    import torch

    ledger = _Ledger(type(model).__name__)
    ledger.begin(held)
    # The network's own call is where the ledger's stack begins, and all that a scripted one has: it takes no hooks.
    handles = [
        handle
        for name, module in model.named_modules()
        if name and not isinstance(module, torch.jit.ScriptModule)
        for handle in _hooks(ledger, name, module)
    ]
    try:
        with _no_collection(), torch.inference_mode(), _watching(ledger):
            outputs = model(*held)
            ledger.end()
            del outputs  # it counted until here
    finally:
        for handle in handles:
            handle.remove()
    return ledger


class _Call(NamedTuple):
    """One call of a module that has begun."""

    number: int
    module: str
    kind: str


class _Ledger:
    """Bytes of the storages that are alive now, and the steps that they are put down to."""

    def __init__(self, kind: str) -> None:
        """Args that need a word.

        kind: class of the network itself.
        """
        self.live = 0
        self._sizes: dict[int, int | None] = {}
        """Address of a storage to its bytes; None for one that was there before the call."""
        self._stack = [_Call(0, "", kind)]
        self._calls = 0
        self._running: _Call | None = None
        """What the last step is of."""
        self._peak = 0
        self._steps: list[MemoryStep] = []
        self.input_bytes = 0

    @property
    def steps(self) -> tuple[MemoryStep, ...]:
        """Those that are over."""
        return tuple(self._steps)

    def begin(self, inputs: Iterable[torch.Tensor]) -> None:
        """The caller has made the inputs."""
        self.made(inputs)
        self.input_bytes = self.live

    def end(self) -> None:
        """The network has returned, and its outputs are still held."""
        self._close()
        self._running = None

    def enter(self, module: str, kind: str, *, leaf: bool) -> None:
        """A module's call begins; of a leaf that is a step, whether it runs an operator or not."""
        self._calls += 1
        self._stack.append(_Call(self._calls, module, kind))
        if leaf:
            self.operator_begins()

    def leave(self) -> None:
        """The innermost call ends. Its step stays open: what the caller lets go of now is no longer live after it."""
        self._stack.pop()

    def operator_begins(self) -> None:
        """The innermost module is at work; if it was not the last to be, a new step begins."""
        call = self._stack[-1]
        if call != self._running:
            self._close()
            self._running, self._peak = call, self.live

    def _close(self) -> None:
        if self._running is not None:
            self._steps.append(MemoryStep(self._running.module, self._running.kind, self.live, self._peak))

    def met(self, tensors: Iterable[torch.Tensor]) -> None:
        """Arguments of an operator: a storage that no operator made was there before."""
        for storage in _storages(tensors):
            if storage._cdata not in self._sizes:
                self._keep(storage, None)

    def made(self, tensors: Iterable[torch.Tensor]) -> None:
        """Results of an operator: count new storages, and those that were resized."""
        for storage in _storages(tensors):
            known = self._sizes.get(storage._cdata, 0)
            if known is None:
                continue
            if storage._cdata not in self._sizes:
                self._keep(storage, 0)
            self._sizes[storage._cdata] = storage.nbytes()
            self.live += storage.nbytes() - known
        self._peak = max(self._peak, self.live)

    def _keep(self, storage: torch.UntypedStorage, size: int | None) -> None:
        self._sizes[storage._cdata] = size
        # Until then the address is this storage's alone.
        weakref.finalize(storage, self._freed, storage._cdata).atexit = False

    def _freed(self, address: int) -> None:
        self.live -= self._sizes.pop(address) or 0


def _storages(tensors: Iterable[torch.Tensor]) -> Iterator[torch.UntypedStorage]:
    """Of tensors that have one: sparse and opaque ones do not."""
    import torch

    for tensor in tensors:
        if tensor.layout is torch.strided:
            yield tensor.untyped_storage()


def _watching(ledger: _Ledger) -> TorchDispatchMode:
    """A mode that shows the ledger every operator, those inside composite ones included."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    def tensors(tree: Any) -> list[torch.Tensor]:
        return [each for each in tree_leaves(tree) if isinstance(each, torch.Tensor)]

    composite = torch._C.DispatchKey.CompositeImplicitAutograd
    # Of torch.tensor(...) and the like: its argument is new, though no operator made it.
    lifting = (torch.ops.aten.lift_fresh.default, torch.ops.aten.lift.default)

    class Watching(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's __init_subclass__
        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            kwargs = kwargs or {}
            ledger.operator_begins()
            if func not in lifting:
                ledger.met(tensors((args, kwargs)))
            # Asked of C++: kernels that torch has in Python for its tracers are not what eager runs.
            if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), composite):
                with self:  # its parts come back here, and with them what it makes and drops on its way
                    result = func._op_dk(composite, *args, **kwargs)
            else:
                result = func(*args, **kwargs)
            ledger.made(tensors(result))
            return result

    return Watching()  # type: ignore[no-untyped-call]


def _hooks(ledger: _Ledger, name: str, module: nn.Module) -> Iterator[Any]:
    """Handles of the hooks that tell the ledger when this module's calls begin and end."""
    leaf, kind = not list(module.children()), type(module).__name__

    def before(*_: Any) -> None:
        ledger.enter(name, kind, leaf=leaf)

    def after(*_: Any) -> None:
        ledger.leave()

    yield module.register_forward_pre_hook(before)
    yield module.register_forward_hook(after)


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection, which would free tensors in reference cycles at some time or other."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
