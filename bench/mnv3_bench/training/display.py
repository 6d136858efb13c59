"""What a person sees while a network is trained: a bar on a terminal, a line for every epoch elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mnv3_bench.display import clock_text
from mnv3_models.training import Began, EpochDone, Note, Stepped

if TYPE_CHECKING:
    from mnv3_models.training import Progress


class TrainDisplay:
    """Plain lines on stderr; the base of the live one. Called with what the training reports."""

    def __call__(self, progress: Progress) -> None:
        """Show it."""
        match progress:
            case Note(text):
                self.say(f"note: {text}")
            case Began():
                self.begin(progress)
            case Stepped():
                self.step(progress)
            case EpochDone():
                self.epoch(progress)

    def begin(self, began: Began) -> None:
        """The training starts."""
        done = f", going on after step {began.done}" if began.done else ""
        self.say(
            f"training {began.variant} by recipe {began.recipe} on {began.data}: {began.images} images of "
            f"{began.classes} classes, {began.held_out} held out; {began.epochs} epochs of {began.steps} steps{done}"
        )

    def step(self, stepped: Stepped) -> None:
        """About twice a second."""

    def epoch(self, done: EpochDone) -> None:
        """An epoch has ended."""
        self.say(epoch_line(done))

    def say(self, text: str) -> None:
        """One line."""
        print(text, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Nothing more will be shown."""


class LiveTrainDisplay(TrainDisplay):
    """A bar that is redrawn in place, with a line above it for every epoch."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        self.console = Console(stderr=True)
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
            transient=True,
            auto_refresh=False,  # a thread that redraws would take time from the training
        )
        self.task = self.bar.add_task("", total=None, figures="")
        self.top1 = ""

    def begin(self, began: Began) -> None:
        """The training starts."""
        super().begin(began)
        self.bar.update(self.task, total=began.epochs * began.steps, completed=began.done)
        self.bar.start()

    def step(self, stepped: Stepped) -> None:
        """Redraw."""
        figures = (
            f"loss {stepped.loss:.3f}, {self.top1}{stepped.images_per_second:.0f} images/s, "
            f"{clock_text(stepped.seconds_left)} left"
        )
        self.bar.update(
            self.task,
            completed=(stepped.epoch - 1) * stepped.steps + stepped.step,
            description=f"epoch {stepped.epoch}/{stepped.epochs}",
            figures=figures,
            refresh=True,
        )

    def epoch(self, done: EpochDone) -> None:
        """A line above the bar."""
        self.top1 = f"top-1 {done.result.top1:.2%}, "
        super().epoch(done)

    def say(self, text: str) -> None:
        """One line above the bar."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def end(self) -> None:
        """Take the bar away."""
        self.bar.stop()


def epoch_line(done: EpochDone) -> str:
    """An epoch in one line."""
    result = done.result
    left = f", {clock_text(done.seconds_left)} left" if result.epoch < done.epochs else ""
    return (
        f"epoch {result.epoch}/{done.epochs}: loss {result.loss:.4f}, held out: loss {result.held_out_loss:.4f}, "
        f"top-1 {result.top1:.2%}; {result.images_per_second:.0f} images/s{left}"
    )


def make_display() -> TrainDisplay:
    """A bar where stderr is a terminal, plain lines where it is not."""
    return LiveTrainDisplay() if sys.stderr.isatty() else TrainDisplay()
