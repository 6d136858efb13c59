"""What a person sees while a run goes on: a live table on a terminal, plain lines elsewhere.

A terminal is redrawn only between blocks, never by a thread of its own: that would be load on the machine that is
being measured.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

from mnv3_reports.escaping import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnv3_reports.record import Block, Cell

REDRAW_SECONDS = 0.5
LINE_SECONDS = 10.0
STATE_WIDTH = 18


def clock_text(seconds: float) -> str:
    """Seconds as m:ss."""
    whole = max(0, round(seconds))
    return f"{whole // 60}:{whole % 60:02d}"


class Display:
    """Plain lines on stderr; the base of the live one."""

    def __init__(self) -> None:
        self.phase = ""
        self.total = 0
        self.done = 0
        self.work = 0.0
        self.work_done = 0.0
        self.phase_start = time.monotonic()
        self._last_line = 0.0

    def _reset(self, phase: str, total: int, work: float | None) -> None:
        self.phase, self.total, self.done = phase, total, 0
        self.work, self.work_done = float(total) if work is None else work, 0.0
        self.phase_start = self._last_line = time.monotonic()

    def _count(self, work: float) -> None:
        self.done += 1
        self.work_done += work

    def _time_left(self) -> str:
        if not 0 < self.work_done < self.work:
            return ""
        elapsed = time.monotonic() - self.phase_start
        return f", about {clock_text(elapsed / self.work_done * (self.work - self.work_done))} left"

    def begin(self, phase: str, total: int, work: float | None = None) -> None:
        """A phase with this many steps begins; `work` is their sum where steps differ in length."""
        self._reset(phase, total, work)
        self.say(f"{phase}: {total} to do" if total else f"{phase}: nothing to do, all from the cache")

    def step(self, text: str, work: float = 1.0) -> None:
        """One step is done."""
        self._count(work)
        self.say(f"{self.phase} {self.done} of {max(self.total, self.done)}{self._time_left()}: {text}")

    def block(self, block: Block, left: float) -> None:
        """A block was measured; `left` seconds of the budget remain."""
        if time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            self.say(
                f"measure: epoch {block.epoch + 1}, round {block.round + 1}, at most {clock_text(left)} left"
            )

    def trying(self, text: str) -> None:
        """What is being done within a step."""
        if time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            self.say(f"{self.phase}: {text}")

    def include(self, cell: Cell) -> None:
        """A cell that was not planned will be measured too."""

    def tick(self) -> None:
        """Time has passed while waiting."""

    def say(self, text: str) -> None:
        """One line. It may quote what a stranger's file made a runtime say."""
        print(plain(text), file=sys.stderr, flush=True)

    def end(self) -> None:
        """Nothing more will be shown."""


class LiveDisplay(Display):
    """A rich table that is redrawn in place."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        from rich.console import Console
        from rich.live import Live

        super().__init__()
        self.console = Console(stderr=True)
        self.keys = [cell.key for cell in cells]
        self.cells = {cell.key: cell for cell in cells}
        self.state: dict[str, str] = {}
        self.medians: dict[str, list[float]] = {}
        self.left: float | None = None
        self.where = ""
        self._drawn = 0.0
        self.live = Live(console=self.console, auto_refresh=False, transient=True)
        self.live.start()

    def begin(self, phase: str, total: int, work: float | None = None) -> None:
        """A phase begins."""
        self._reset(phase, total, work)
        self.left = None
        self._draw(force=True)

    def step(self, text: str, work: float = 1.0) -> None:
        """One step is done."""
        self._count(work)
        subject, _, what = text.partition(": ")
        for key in self.keys:
            if key == subject or key.partition("?")[0] == subject:
                self.state[key] = what if len(what) <= STATE_WIDTH else what[: STATE_WIDTH - 1] + "…"
        self.where = text
        self._draw(force=True)

    def block(self, block: Block, left: float) -> None:
        """A block was measured."""
        self.medians.setdefault(block.cell, []).append(statistics.median(block.samples_ns) / 1e6)
        self.left = left
        self.where = f"epoch {block.epoch + 1}, round {block.round + 1}"
        self._draw()

    def trying(self, text: str) -> None:
        """What is being done within a step."""
        self.where = text
        self._draw()

    def include(self, cell: Cell) -> None:
        """A cell that was not planned will be measured too."""
        if cell.key not in self.cells:
            self.keys.append(cell.key)
            self.cells[cell.key] = cell

    def tick(self) -> None:
        """Redraw, if it is time."""
        self._draw()

    def say(self, text: str) -> None:
        """One line above the table."""
        self.live.console.print(plain(text), highlight=False, markup=False)

    def end(self) -> None:
        """Take the table away."""
        self.live.stop()

    def _draw(self, force: bool = False) -> None:
        now = time.monotonic()
        if force or now - self._drawn >= REDRAW_SECONDS:
            self._drawn = now
            self.live.update(self._table(), refresh=True)

    def _table(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        elapsed = time.monotonic() - self.phase_start
        left = f", at most {clock_text(self.left)} left" if self.left is not None else self._time_left()
        count = f" {self.done} of {self.total}" if self.total and self.left is None else ""
        table = Table(
            title=f"{self.phase}{count}, {clock_text(elapsed)}{left}",
            caption=Text(plain(self.where)),
            title_justify="left",
            caption_justify="left",
        )
        variants = list(dict.fromkeys(cell.variant for cell in self.cells.values()))
        settings = list(dict.fromkeys(cell.setting for cell in self.cells.values()))
        table.add_column("backend")
        if len(settings) > 1:
            table.add_column("setting")
        for variant in variants:
            table.add_column(Text(plain(f"{variant}, ms")), justify="right")
        rows: dict[tuple[str, str], dict[str, str]] = {}
        for key, cell in self.cells.items():
            medians = self.medians.get(key)
            text = f"{statistics.median(medians):.2f}" if medians else self.state.get(key, "·")
            rows.setdefault((cell.backend, cell.setting), {})[cell.variant] = text
        shown = list(rows.items())
        room = max(5, self.console.height - 8)
        for (backend, setting), texts in shown[:room]:
            lead = [backend, setting] if len(settings) > 1 else [backend]
            shown_texts = (*lead, *(texts.get(variant, "") for variant in variants))
            table.add_row(*(Text(plain(text)) for text in shown_texts))
        if len(shown) > room:
            table.add_row(f"… and {len(shown) - room} more rows")
        return table


def make_display(cells: Sequence[Cell]) -> Display:
    """A live table where stderr is a terminal, plain lines where it is not."""
    return LiveDisplay(cells) if sys.stderr.isatty() else Display()
