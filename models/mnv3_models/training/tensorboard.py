"""What TensorBoard shows of a training. Importing this needs the package tensorboard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.utils.tensorboard import SummaryWriter

from mnv3_models.training.job import Began, EpochDone, Stepped

if TYPE_CHECKING:
    from pathlib import Path

    from mnv3_models.training.job import Progress


class TensorBoard:
    """Curves over steps.

    Args:
        directory: where to write.
        step: the first one; what an interrupted process wrote of later ones is dropped.
    """

    def __init__(self, directory: Path, step: int) -> None:
        self._writer = SummaryWriter(str(directory), purge_step=step)
        self._steps = 1

    def __call__(self, progress: Progress) -> None:
        """Write what there is to see of it."""
        match progress:
            case Began():
                self._steps = progress.steps
            case Stepped():
                step = (progress.epoch - 1) * self._steps + progress.step
                self._write(
                    step, learning_rate=progress.learning_rate, images_per_second=progress.images_per_second
                )
            case EpochDone(result):
                self._write(
                    result.step,
                    loss=result.loss,
                    held_out_loss=result.held_out_loss,
                    held_out_top1=result.top1,
                )
                self._writer.flush()

    def _write(self, step: int, **values: float) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
