"""How good weights are on the images that are held out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from mnv3_models.data import Batch
    from mnv3_models.training.distributed import World


class HeldOut(NamedTuple):
    """What was found."""

    loss: float
    """Mean cross-entropy in nats, without smoothing."""
    top1: float
    images: int


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[Batch], world: World) -> HeldOut:
    """Loss and top-1 over this process's share of the images and those of all others, in fp32.

    The network is left in eval mode.
    """
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=world.device)
    correct = torch.zeros((), dtype=torch.int64, device=world.device)
    count = 0
    for batch in batches:
        images = batch.images.to(world.device, memory_format=torch.channels_last, non_blocking=True)
        labels = batch.labels.to(world.device, non_blocking=True)
        logits = model(images).float()
        loss += F.cross_entropy(logits, labels, reduction="sum")
        correct += (logits.argmax(1) == labels).sum()
        count += len(labels)
    losses, hits, images_seen = world.total(float(loss), float(correct), float(count))
    return HeldOut(losses / max(1.0, images_seen), hits / max(1.0, images_seen), int(images_seen))
