"""How fast a training is, and how long it will go on. Nothing here imports torch."""

from __future__ import annotations

import time

REPORT_SECONDS = 0.5


class Pace:
    """How long steps and evaluations take, and what is left."""

    def __init__(self, steps: int, epochs: int) -> None:
        self._steps, self._epochs = steps, epochs
        self.step_seconds = 0.0
        """Of a step, recent ones counting more."""
        self._judging = 0.0
        self._told = 0.0

    def count(self, seconds: float) -> None:
        """A step took so long."""
        share = 0.1 if self.step_seconds else 1.0
        self.step_seconds += share * (seconds - self.step_seconds)

    def judged(self, seconds: float) -> None:
        """An evaluation took so long."""
        self._judging = seconds

    def left(self, step: int, epochs_done: int) -> float:
        """Seconds until the end."""
        steps = max(0, self._epochs * self._steps - step)
        return steps * self.step_seconds + (self._epochs - epochs_done) * self._judging

    def is_due(self) -> bool:
        """Whether it is time to say something again."""
        now = time.monotonic()
        if now - self._told < REPORT_SECONDS:
            return False
        self._told = now
        return True
