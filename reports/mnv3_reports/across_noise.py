"""Of a report over hosts: the noise that each of them met."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mnv3_reports import units
from mnv3_reports.escaping import inline, plain
from mnv3_reports.layout import Column, Value, build, folded, missing, to_markdown
from mnv3_reports.noise import noise_lines
from mnv3_reports.statistics import median

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mnv3_reports.across_ranks import Across, Host
    from mnv3_reports.record import Block

NO_BLOCK = "no block was recorded"


def noise(across: Across) -> Iterator[str]:
    """A row of noise for every host, and folded what each of their reports says."""
    columns: list[Column[Host]] = [
        Column("host", lambda host: Value(inline(host.name)), align="left"),
        Column(
            "cells timed",
            lambda host: Value(f"{len(host.summary.measured)} of {len(host.summary.run.cells)}"),
        ),
        Column("epochs", lambda host: Value(str(len({block.epoch for block in _blocks(host)})))),
        Column("noise floor", _floor),
        Column("worst", partial(_floor, worst=True)),
        Column("disturbed blocks", _disturbed),
        Column("steal", partial(_share, name="steal_seconds")),
        Column("CPU pressure", partial(_share, name="pressure_seconds")),
        Column("throttled", partial(_share, name="throttled_seconds")),
        Column("others' CPU time", partial(_share, name="other_cpu_seconds")),
        Column("clock", _clock, "MHz"),
        Column("precision asked, reached", _precision),
    ]
    yield (
        "Noise floor: standard deviation between fresh processes of one cell, the median over cells. Shares are of the "
        "measuring time."
    )
    yield to_markdown(build(columns, across.hosts))
    for host in across.hosts:
        yield folded(f"Noise met on {plain(host.name)}", "\n".join(noise_lines(host.summary)))


def _blocks(host: Host) -> list[Block]:
    return [block for block in host.summary.run.blocks if block.samples_ns]


def _floor(host: Host, *, worst: bool = False) -> Value:
    spreads = [
        found.epoch_spread for found in host.summary.statistics.values() if found.epoch_spread is not None
    ]
    if not spreads:
        return missing("no cell has two epochs to compare")
    return Value(units.percent(max(spreads) if worst else median(spreads)))


def _disturbed(host: Host) -> Value:
    blocks = _blocks(host)
    if not blocks:
        return missing(NO_BLOCK)
    return Value(
        f"{units.percent(sum(bool(block.disturbed) for block in blocks) / len(blocks))} of {len(blocks):,}"
    )


def _share(host: Host, name: str) -> Value:
    blocks = _blocks(host)
    wall = sum(block.wall_seconds for block in blocks)
    if wall <= 0:
        return missing(NO_BLOCK)
    return Value(units.percent(sum(getattr(block, name) for block in blocks) / wall))


def _clock(host: Host) -> Value:
    clocks = [block.mhz for block in _blocks(host) if block.mhz is not None]
    if not clocks:
        return missing("the system tells no clock")
    return Value(f"{min(clocks):,.0f} to {max(clocks):,.0f}")


def _precision(host: Host) -> Value:
    run = host.summary.run
    asked = f"± {units.percent(run.header.request.precision)}"
    reached = run.finished.precision_reached if run.finished is not None else None
    if reached is None:
        return Value(f"{asked}, –", "no ratio has an interval, or the run was cut off")
    return Value(f"{asked}, ± {units.percent(reached)}")
