"""The training loop."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from mnv3_models.card import Card
from mnv3_models.data import CentreCrop, DataError, Tally, loader
from mnv3_models.training import checkpoint, held_out, state
from mnv3_models.training.augment import Augmentation, mix
from mnv3_models.training.average import make_average
from mnv3_models.training.checkpoint import CheckpointError, Standing
from mnv3_models.training.distributed import World, joined, synchronise_norms
from mnv3_models.training.fake_quantization import FakeQuantization
from mnv3_models.training.job import (
    TENSORBOARD_FOLDER,
    WEIGHTS_FILE,
    Began,
    EpochDone,
    EpochResult,
    InterruptedTrainingError,
    Note,
    Outcome,
    Progress,
    Stepped,
    TrainingError,
)
from mnv3_models.training.optimizers import make_optimizer
from mnv3_models.training.order import STEP, Order, generator
from mnv3_models.training.pace import Pace
from mnv3_models.training.results import Circumstances, write_results
from mnv3_models.training.schedules import learning_rate
from mnv3_models.training.setup import check_device, make_network, open_job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mnv3_models.data import Batch
    from mnv3_models.training.job import Job

LOOK_EVERY = {"cpu": 1, "cuda": 20}
"""Steps between two looks at the loss: on CUDA each waits until everything is computed."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def train(job: Job, report: Callable[[Progress], None], should_stop: Callable[[], bool]) -> Outcome:
    """Train as the job says, and write weights, the run's JSON and checkpoints into its directory.

    On the CPU the same job gives the same weights, to the bit, however often it was interrupted and resumed, with the
    same number of threads, on the same machine and version of torch; the number of `workers` changes nothing. Several
    processes, as torchrun starts them, share each step's images.

    Args:
        job: what to train.
        report: told of what goes on, in the leading process.
        should_stop: asked at every step; True saves a checkpoint and ends the training.

    Raises:
        JobError, DataError: the job cannot be carried out.
        InterruptedTrainingError: `should_stop` said so.
        TrainingError: the loss became nan, a checkpoint cannot be written or read, a worker process died.
    """
    check_device(job.device)
    with ExitStack() as until_end:
        world = until_end.enter_context(joined(job.device))
        until_end.enter_context(torch.random.fork_rng(devices=[]))
        training = _Training(job, report if world.leads else _nobody, should_stop, world, until_end)
        return training.run()


def _nobody(_: Progress) -> None:
    """Other processes than the leading one say nothing."""


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Training:
    """Everything between the first step and the last."""

    def __init__(
        self,
        job: Job,
        report: Callable[[Progress], None],
        should_stop: Callable[[], bool],
        world: World,
        until_end: ExitStack,
    ) -> None:
        self.job, self.report, self.should_stop, self.world = job, report, should_stop, world
        opened = open_job(job, world)
        self.request, self.threads = opened.request, opened.threads
        self.recipe = recipe = opened.request.recipe
        self.source = opened.source
        self.images, self.held_out = len(opened.train), len(opened.held_out)
        until_end.enter_context(_threads(opened.threads))
        if world.device.type == "cuda":
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False

        made, self.notes = make_network(job, opened.request)
        network = made if job.prepare_model is None else job.prepare_model(made)
        self.bn_eps = next(m.eps for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d))
        # A depthwise convolution and its gradients take about 40 % less time with channels last, on the CPU too.
        network = network.to(world.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = synchronise_norms(network, world)
        self.quantization = FakeQuantization(self.model, recipe) if recipe.qat else None
        self.average = make_average(self.model, recipe)  # a copy, quantized likewise
        self.optimizer = make_optimizer(self.model, recipe)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=recipe.precision == "fp16")

        self.step = 0
        self.history: list[EpochResult] = []
        self.seconds = 0.0
        self._forget_epoch()
        self.tally = Tally()
        if opened.standing is not None:
            self._restore(opened.standing, opened.tensors)
        self.stepping: torch.nn.Module = self.model
        if world.size > 1:
            places = [world.device] if world.device.type == "cuda" else None
            self.stepping = DistributedDataParallel(self.model, device_ids=places)

        preprocessing = recipe.preprocessing()
        self.order = Order(
            len(opened.train),
            recipe.batch_size,
            accumulate=recipe.accumulate,
            rank=world.rank,
            world=world.size,
            seed=job.seed,
        )
        self.batches = loader(
            opened.train,
            Augmentation(recipe, preprocessing),
            batch=self.order.part,
            workers=job.workers,
            tally=self.tally,
            order=self.order,
        )
        self.judged = loader(
            opened.held_out.select(range(world.rank, len(opened.held_out), world.size)),
            CentreCrop(preprocessing),
            batch=self.order.part,
            workers=job.workers,
            tally=self.tally,
        )
        until_end.callback(self.batches.close)
        until_end.callback(self.judged.close)
        self.pace = Pace(self.order.steps, recipe.epochs)
        self.saved_at = time.monotonic()
        self.fresh = opened.standing is None

    def run(self) -> Outcome:
        """Train to the end, write the weights and say what came of it."""
        if self.world.leads:
            self._make_directory()
            if self.job.tensorboard:
                self.report = _with_tensorboard(self.report, self.job, self.step)
        for note in self.notes:
            self.report(Note(note))
        self.report(
            Began(
                variant=self.request.variant,
                recipe=self.recipe.label,
                data=self.source.name,
                images=self.images,
                held_out=self.held_out,
                classes=len(self.source.classes),
                epochs=self.recipe.epochs,
                steps=self.order.steps,
                done=self.step,
            )
        )
        if self.fresh:
            self._save()  # at once, so that there is something to go on from, and a full disk shows before the work
        started = time.monotonic()
        earlier = self.seconds
        while len(self.history) < self.recipe.epochs:
            self._train_epoch()
            self.seconds = earlier + time.monotonic() - started
            self._judge_epoch()
            self._save()
        return self._finish()

    def _train_epoch(self) -> None:
        recipe, order = self.recipe, self.order
        epoch = len(self.history)
        order.epoch, order.skipped = epoch, self.step - epoch * order.steps
        self.model.train()
        if self.quantization is not None:
            self.quantization.begin_epoch(epoch)
        self.optimizer.zero_grad()
        part = 0
        since = time.monotonic()
        try:
            for batch in self.batches if len(order) else ():
                self._compute(batch, part)
                part += 1
                if part < recipe.accumulate:
                    continue
                part = 0
                self._update()
                self.step += 1
                now = time.monotonic()
                self.epoch_seconds += now - since
                self.pace.count(now - since)
                since = now
                if self._look():
                    self._save()
                    since = time.monotonic()
        except DataError as error:
            raise TrainingError(
                f"{error}; what was saved is whole, go on with --resume {self.job.directory}"
            ) from error
        self.step = (epoch + 1) * order.steps

    def _compute(self, batch: Batch, part: int) -> None:
        """Add the gradient of one part of a step."""
        recipe, device = self.recipe, self.world.device
        seed = (self.request.seed, self.step, part, self.world.rank)
        torch.manual_seed(int(generator(STEP, *seed).integers(2**63)))  # for dropout
        images = batch.images.to(device, memory_format=torch.channels_last, non_blocking=True)
        mixed = mix(images, batch.labels.to(device, non_blocking=True), recipe, seed)
        last = part == recipe.accumulate - 1
        held_back = nullcontext() if last or self.world.size == 1 else self.stepping.no_sync()  # type: ignore[operator]
        with held_back:
            with torch.autocast(device.type, DTYPES[recipe.precision], enabled=recipe.precision != "fp32"):
                logits = self.stepping(mixed.images)
                loss = F.cross_entropy(logits, mixed.labels, label_smoothing=recipe.label_smoothing)
                if mixed.share < 1:
                    other = F.cross_entropy(logits, mixed.partners, label_smoothing=recipe.label_smoothing)
                    loss = torch.lerp(other, loss, mixed.share)
            self.scaler.scale(loss / recipe.accumulate).backward()  # type: ignore[no-untyped-call]
        self.epoch_loss += loss.detach() * len(mixed.labels)
        self.epoch_images += len(mixed.labels)

    def _update(self) -> None:
        """Change the weights by the gradients."""
        recipe = self.recipe
        self.rate = learning_rate(recipe, self.step, self.order.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        if recipe.clip_norm:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.average is not None and (self.step + 1) % recipe.ema_every == 0:
            self.average.update_parameters(self.model)

    def _look(self) -> bool:
        """Report, stop or go on; whether a checkpoint is due. All processes come to the same."""
        every = self.job.checkpoint_steps
        due = every is not None and self.step % every == 0
        if self.step % LOOK_EVERY[self.world.device.type] == 0 or due:
            age = time.monotonic() - self.saved_at
            limit = self.job.checkpoint_seconds
            stop, diverged, old = self.world.most(
                self.should_stop(),
                not math.isfinite(float(self.epoch_loss)),
                limit is not None and age > limit,
            )
            if diverged:
                raise self._diverged()
            if stop:
                self._interrupt()
            due = due or bool(old)
        if self.pace.is_due():
            self.report(
                Stepped(
                    epoch=len(self.history) + 1,
                    epochs=self.recipe.epochs,
                    step=self.step - len(self.history) * self.order.steps,
                    steps=self.order.steps,
                    loss=float(self.epoch_loss) / max(1, self.epoch_images),
                    learning_rate=self.rate,
                    images_per_second=self.order.batch / self.pace.step_seconds,
                    seconds_left=self.pace.left(self.step, len(self.history)),
                )
            )
        return due

    def _interrupt(self) -> None:
        self._save()
        done = self.step - len(self.history) * self.order.steps
        raise InterruptedTrainingError(
            f"stopped after step {done} of {self.order.steps} in epoch {len(self.history) + 1} of "
            f"{self.recipe.epochs}, and saved; go on with: mnv3-bench train --resume {self.job.directory}"
        )

    def _diverged(self) -> TrainingError:
        clip = "" if self.recipe.clip_norm else " or --clip-norm 1"
        return TrainingError(
            f"the loss is no finite number any more, in epoch {len(self.history) + 1}, step "
            f"{self.step - len(self.history) * self.order.steps}; the last checkpoint in {self.job.directory} is from "
            f"before: start a new training with a lower --lr than {self.recipe.lr:g}{clip}"
        )

    def _judge_epoch(self) -> None:
        """Evaluate, and put the epoch into the history."""
        loss, images = self.world.total(float(self.epoch_loss), self.epoch_images)
        if not math.isfinite(loss):
            raise self._diverged()
        started = time.monotonic()
        judged = self.average.module if self.average is not None else self.model
        found = held_out.evaluate(judged, self.judged, self.world)
        self.pace.judged(time.monotonic() - started)
        seconds = self.epoch_seconds
        self.history.append(
            EpochResult(
                epoch=len(self.history) + 1,
                step=self.step,
                loss=loss / max(1.0, images),
                held_out_loss=found.loss,
                top1=found.top1,
                learning_rate=learning_rate(self.recipe, self.step - 1, self.order.steps),
                seconds=seconds,
                images_per_second=images / seconds if seconds else 0.0,
            )
        )
        self.held_out = found.images
        self._forget_epoch()
        left = self.pace.left(self.step, len(self.history))
        self.report(EpochDone(self.history[-1], self.recipe.epochs, left))

    def _forget_epoch(self) -> None:
        self.epoch_loss = torch.zeros((), dtype=torch.float64, device=self.world.device)
        self.epoch_images = 0
        self.epoch_seconds = 0.0
        self.rate = self.recipe.lr

    def _tensors(self) -> state.State:
        return {
            **state.prefixed("model", self.model.state_dict()),
            **state.prefixed("average", state.of_average(self.average)),
            **state.prefixed("optimizer", state.of_optimizer(self.optimizer, self.model)),
            **state.prefixed(
                "quantization", self.quantization.state() if self.quantization is not None else {}
            ),
            "epoch_loss": self.epoch_loss,
        }

    def _save(self) -> None:
        """Write a checkpoint, in the leading process; never one that holds nan."""
        tensors = self._tensors()
        if not state.is_finite(state.below("model", tensors)) or not math.isfinite(float(self.epoch_loss)):
            raise self._diverged()
        if self.world.leads:
            standing = Standing(
                request=self.request,
                threads=self.threads,
                processes=self.world.size,
                step=self.step,
                history=tuple(self.history),
                seconds=self.seconds,
                epoch_seconds=self.epoch_seconds,
                epoch_images=self.epoch_images,
                scaler=self.scaler.state_dict(),
                broken=self.tally.broken,
            )
            checkpoint.save(self.job.directory, standing, tensors)
        self.saved_at = time.monotonic()

    def _restore(self, standing: Standing, tensors: state.State) -> None:
        try:
            state.into_module(self.model, state.below("model", tensors))
            if self.average is not None:
                state.into_module(self.average, state.below("average", tensors))
            state.into_optimizer(self.optimizer, self.model, state.below("optimizer", tensors))
            if self.quantization is not None:
                self.quantization.restore(state.below("quantization", tensors))
            self.epoch_loss.copy_(tensors["epoch_loss"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"the checkpoint in {self.job.directory} does not fit {self.request.variant} ({error}); train again"
            ) from error
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(standing.scaler)
        self.step, self.history, self.seconds = standing.step, list(standing.history), standing.seconds
        self.epoch_seconds, self.epoch_images = standing.epoch_seconds, standing.epoch_images
        for name, reason in standing.broken.items():
            self.tally.add(name, reason)
        if (standing.threads, standing.processes) != (self.threads, self.world.size):
            self.notes.append(
                f"it began with {standing.threads} threads in {standing.processes} processes, and goes on with "
                f"{self.threads} in {self.world.size}: the weights will differ in their last digits"
            )

    def _make_directory(self) -> None:
        try:
            self.job.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"--output {self.job.directory} cannot be made ({error.strerror})"
            ) from error

    def _finish(self) -> Outcome:
        if self.quantization is not None:
            self.quantization.end()
        if broken := self.tally.describe():
            self.report(Note(broken))
        final = self.average.module if self.average is not None else self.model
        last = self.history[-1]
        card = Card(
            variant=self.request.variant,
            num_classes=self.request.num_classes,
            bn_eps=self.bn_eps,
            preprocessing=self.recipe.preprocessing(),
            classes=self.source.classes,
            data=self.source.name,
            data_fingerprint=self.source.fingerprint,
            recipe=self.recipe.label,
            epochs=self.recipe.epochs,
            seed=self.request.seed,
            fine_tuned_from=self.request.weights,
            quantization_aware=self.recipe.qat,
            top1=last.top1,
            images=self.held_out,
        )
        path = self.job.directory / WEIGHTS_FILE
        outcome = Outcome(path, card, tuple(self.history), self.images, self.seconds)
        if self.world.leads:
            how = Circumstances(self.request, self.threads, self.world, self.tally.broken)
            write_results(final, outcome, how)
        return outcome


def _with_tensorboard(report: Callable[[Progress], None], job: Job, step: int) -> Callable[[Progress], None]:
    """The same report, which also writes what TensorBoard shows."""
    try:
        from mnv3_models.training.tensorboard import TensorBoard
    except ImportError:
        report(Note("TensorBoard is not installed, so no logs are written; pip install 'mnv3-bench[train]'"))
        return report
    log = TensorBoard(job.directory / TENSORBOARD_FOLDER, step)

    def both(progress: Progress) -> None:
        log(progress)
        report(progress)

    return both
