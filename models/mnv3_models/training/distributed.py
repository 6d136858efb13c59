"""Several processes that train one network, as torchrun starts them; alone, nothing here does anything."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator


class World(NamedTuple):
    """The processes that train together."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")
    """Of this process."""

    @property
    def leads(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    def total(self, *numbers: float) -> list[float]:
        """Each number summed over all processes."""
        return self._reduced(numbers, dist.ReduceOp.SUM)

    def most(self, *numbers: float) -> list[float]:
        """Of each number the largest over all processes."""
        return self._reduced(numbers, dist.ReduceOp.MAX)

    def _reduced(self, numbers: tuple[float, ...], operation: Any) -> list[float]:
        if self.size == 1:
            return list(numbers)
        together = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.all_reduce(together, operation)
        return [float(number) for number in together]


@contextmanager
def joined(device: str) -> Iterator[World]:
    """Take part with the processes that torchrun started, over gloo on CPUs and NCCL on CUDA; or be alone.

    Args:
        device: cpu, cuda or cuda:N. With several processes each takes the CUDA device of its local rank.
    """
    if dist.is_initialized():
        yield _world(device)
    elif int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        try:
            yield _world(device)
        finally:
            dist.destroy_process_group()
    else:
        yield World(device=torch.device(device))


def _world(device: str) -> World:
    place = device
    if device.startswith("cuda"):
        place = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(place)
    return World(dist.get_rank(), dist.get_world_size(), torch.device(place))


def synchronise_norms(model: nn.Module, world: World) -> nn.Module:
    """Let every BatchNorm2d compute its statistics over the images of all processes; names stay."""
    if world.size == 1:
        return model
    if world.device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return converted
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm2d  # it differs in `forward` alone, and hooks on the module stay
    return model


class _Sum(torch.autograd.Function):
    """The sum over all processes; the gradient of what each makes of it is summed likewise."""

    @staticmethod
    def forward(_: Any, values: torch.Tensor) -> torch.Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, *gradients: torch.Tensor) -> torch.Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total


class SyncBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the images of all processes, on CPUs, where torch's own SyncBatchNorm does not work.

    The mean is reduced before the deviations from it: the mean of squares less the square of the mean would lose
    digits.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's name
        """n x c x h x w, of which the other processes have more images."""
        if not self.training or self.momentum is None:
            return super().forward(input)
        x = input if input.dtype is torch.float64 else input.float()
        count = torch.full_like(x[0, :1, 0, 0], x.numel() / x.shape[1])
        sums = _sum(torch.cat([x.sum((0, 2, 3)), count]))
        total = sums[-1].detach()
        mean = sums[:-1] / total
        centred = x - mean.view(1, -1, 1, 1)
        variance = _sum(centred.square().sum((0, 2, 3))) / total
        if self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * total / (total - 1), self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        scale = torch.rsqrt(variance + self.eps)
        if self.affine:
            scale = scale * self.weight
        normalised = centred * scale.view(1, -1, 1, 1)
        if self.affine:
            normalised = normalised + self.bias.view(1, -1, 1, 1)
        return normalised.to(input.dtype)


def _sum(values: torch.Tensor) -> torch.Tensor:
    total: torch.Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
    return total
