"""What disturbed a run, in words."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from mnv3_reports import units
from mnv3_reports.escaping import code, inline
from mnv3_reports.statistics import median

if TYPE_CHECKING:
    from mnv3_reports.summary import Summary

NAMED = 8
"""Cells that are named one by one; the table of tails has them all."""
FAULT_SECONDS = 2e-6
"""Roughly what a minor page fault costs: on a 2-core virtual machine eager V3-Large took 3.5 to 5 ms longer
with 2,000 faults a call than with one (docs/methodology.md)."""

MEANING = {
    "steal": "the hypervisor ran somebody else (over 1 % of the block)",
    "pressure": "tasks waited for a CPU (over 10 % of the block)",
    "throttled": "the cgroup's CPU quota stopped the process",
    "off-cpu": "the process was off its CPU (over 5 % of the block)",
    "other-load": "other processes used a CPU (over 25 % of the block)",
    "major-faults": "pages had to be read from disk",
}
"""What the marks of a block mean; a mark that is not listed here is printed by its name."""


def noise_lines(summary: Summary) -> list[str]:
    """The noise a run met, one markdown bullet a line; a single line when no block was recorded."""
    blocks = [block for block in summary.run.blocks if block.samples_ns]
    if not blocks:
        return ["- No block was recorded, so nothing is known of the noise."]
    calls = sum(len(block.samples_ns) for block in blocks)
    wall = sum(block.wall_seconds for block in blocks)
    marked = [block for block in blocks if block.disturbed]
    amount = f"{units.counted(calls, 'call')} in {units.counted(len(blocks), 'block')}"
    lines = [f"- {amount}, {units.duration(wall)} measured; none was left out."]
    if marked:
        by_name = Counter(name for block in marked for name in block.disturbed)
        reasons = "; ".join(
            f"`{name}` {count}" + (f" ({MEANING[name]})" if name in MEANING else "")
            for name, count in by_name.most_common()
        )
        share = units.percent(len(marked) / len(blocks))
        lines.append(
            f"- Marked as disturbed, and kept: {units.counted(len(marked), 'block')} ({share}): {reasons}."
        )
    else:
        lines.append("- No block crossed a threshold of disturbance.")
    if wall > 0:
        shares = {
            "steal": sum(block.steal_seconds for block in blocks) / wall,
            "CPU pressure": sum(block.pressure_seconds for block in blocks) / wall,
            "cgroup throttling": sum(block.throttled_seconds for block in blocks) / wall,
            "CPU time of other processes": sum(block.other_cpu_seconds for block in blocks) / wall,
        }
        listed = ", ".join(f"{name} {units.percent(share)}" for name, share in shares.items())
        lines.append(f"- Of the measuring time: {listed}.")
    lines += [_floor(summary), *_faults(summary)]
    clocks = [block.mhz for block in blocks if block.mhz is not None]
    if clocks:
        lines.append(f"- CPU clock: {min(clocks):,.0f} to {max(clocks):,.0f} MHz.")
    return lines


def _floor(summary: Summary) -> str:
    spreads = {
        key: found.epoch_spread for key, found in summary.statistics.items() if found.epoch_spread is not None
    }
    if not spreads:
        return "- Noise floor: unknown, because no cell has two epochs (fresh processes) to compare."
    worst = max(spreads, key=lambda key: spreads[key])
    cell = summary.run.cells[worst].cell
    return (
        f"- Noise floor: fresh processes of one cell differ by {units.percent(median(spreads.values()))} "
        f"(standard deviation between epochs, median over cells); worst {units.percent(spreads[worst])} "
        f"({inline(cell.variant)}, {code(cell.backend)}, {inline(summary.names.describe(cell))})."
    )


def _faults(summary: Summary) -> list[str]:
    """Cells that spend a notable part of a call on page faults, by an estimate of the cost of one."""
    heavy = {}
    for key, found in summary.statistics.items():
        share = found.minor_faults_per_call * FAULT_SECONDS / found.latency.estimate
        if share > 0.1:
            heavy[key] = (share, found.minor_faults_per_call)
    if not heavy:
        return ["- Page faults take less than a tenth of any cell's time (at an estimated 2 µs a fault)."]
    lines = []
    worst_first = sorted(heavy.items(), key=lambda item: -item[1][0])
    for key, (share, faults) in worst_first[:NAMED]:
        cell = summary.run.cells[key].cell
        much = (
            "**mostly page faults**" if share > 0.5 else f"about {units.percent(min(share, 1.0))} page faults"
        )
        lines.append(
            f"- {inline(cell.variant)} on {code(cell.backend)} ({inline(summary.names.describe(cell))}): {much}, "
            f"{units.significant(faults)} faults a call at an estimated 2 µs each."
        )
    if len(heavy) > NAMED:
        lines.append(
            f"- {units.counted(len(heavy) - NAMED, 'more cell')} spend more than a tenth of a call on page faults; the "
            "table of tails has their faults a call."
        )
    return lines
