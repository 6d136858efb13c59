"""The deterministic channel of a gate: figures that need no quiet machine, compared exactly.

Each figure has a rule: how much worse the head may be. What is better than before passes and is shown as changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from mnv3_reports.verdict import Check, Verdict

if TYPE_CHECKING:
    from mnv3_reports.record import CellRecord, Run

SNR_CEILING_DB = 60.0
"""Differences above this are rounding: 130 dB is not worse than 140 dB."""
PEAK_NOISE = 0.01


class Allowance(msgspec.Struct, frozen=True):
    """How much worse a figure may be: relative to the base's, or in the figure's own unit."""

    text: str
    relative: float = 0.0
    absolute: float = 0.0

    def allows(self, base: float, head: float) -> bool:
        """Whether the head is no worse than allowed; more is worse."""
        return head <= base * (1 + self.relative) + self.absolute


NONE = Allowance("0")


class Rules(msgspec.Struct, frozen=True):
    """The rules of one cell. More is worse for all but fidelity, where a loss of decibels is."""

    latency: float = 0.03
    """Margin of the timed comparison, relative."""
    memory: Allowance = Allowance("10%", relative=0.10)
    """Peak resident set: of identical workers it differed by up to 5.5 % (docs/gate.md)."""
    size: Allowance = NONE
    parameters: Allowance = NONE
    macs: Allowance = NONE
    activations: Allowance = NONE
    operators: Allowance = NONE
    """Operator and node counts of the artifact's graph."""
    graph_breaks: Allowance = NONE
    device_memory: Allowance = NONE
    """Peak bytes of the device's allocator; exact."""
    fidelity: Allowance = Allowance("0.5 dB", absolute=0.5)


def compare(base: Run, base_cell: str, head: Run, head_cell: str, rules: Rules) -> tuple[Check, ...]:
    """Compare one cell's figures.

    Args:
        base, head: runs that have the cells prepared and inspected.
        base_cell, head_cell: their keys.

    Raises:
        KeyError: a run does not have its cell.
    """
    before, after = _figures(base, base.cells[base_cell]), _figures(head, head.cells[head_cell])
    checks = [_check(name, before.get(name), after.get(name), rules) for name in {**before, **after}]
    was, now = _snr(base.cells[base_cell]), _snr(head.cells[head_cell])
    if was is None and now is None:
        return tuple(checks)
    if was is None or now is None:
        checks.append(Check("fidelity_snr_db", was, now, rules.fidelity.text, Verdict.INVALID, True))
    else:
        lost = min(was, SNR_CEILING_DB) - min(now, SNR_CEILING_DB)
        verdict = Verdict.PASS if lost <= rules.fidelity.absolute else Verdict.FAIL
        changed = abs(was - now) > 1e-9
        checks.append(Check("fidelity_snr_db", was, now, rules.fidelity.text, verdict, changed))
    return tuple(checks)


def _figures(run: Run, record: CellRecord) -> dict[str, float]:
    """Name to figure; more is worse."""
    cell = record.cell
    found: dict[str, float] = {}
    for facts in run.variants:
        complexity = facts.complexity
        if complexity and (facts.variant, facts.resolution) == (cell.variant, cell.resolution):
            found |= {
                "parameters": complexity.parameters,
                "macs": complexity.macs,
                "activations": complexity.activations,
            }
    if record.prepared is not None:
        found["artifact_bytes"] = record.prepared.artifact_bytes
        for name, value in record.prepared.facts.items():
            if isinstance(value, int) and not isinstance(value, bool):
                found[name] = value
    if record.inspected is not None:
        found["peak_bytes"] = record.inspected.peak_bytes
        if record.inspected.device_peak_bytes is not None:
            found["device_peak_bytes"] = record.inspected.device_peak_bytes
    return found


def _snr(record: CellRecord) -> float | None:
    fidelity = record.inspected.fidelity if record.inspected is not None else None
    return None if fidelity is None else fidelity.snr_db


def _allowance(name: str, rules: Rules) -> Allowance | None:
    """The rule for a figure; None for facts that are only shown, such as how many operators were kept whole."""
    named = {
        "parameters": rules.parameters,
        "macs": rules.macs,
        "activations": rules.activations,
        "artifact_bytes": rules.size,
        "peak_bytes": rules.memory,
        "device_peak_bytes": rules.device_memory,
        "graph breaks": rules.graph_breaks,
    }
    if name in named:
        return named[name]
    return rules.operators if name.endswith(("nodes", "operators")) else None


def _check(name: str, base: float | None, head: float | None, rules: Rules) -> Check:
    allowance = _allowance(name, rules)
    if allowance is None:
        return Check(name, base, head, "shown only", Verdict.PASS, base != head)
    if base is None or head is None:
        # A figure that one side does not have was not compared, and that must not look like a pass.
        return Check(name, base, head, allowance.text, Verdict.INVALID, True)
    verdict = Verdict.PASS if allowance.allows(base, head) else Verdict.FAIL
    # A peak in pages moves by itself; below a hundredth it is not worth a line.
    noise = PEAK_NOISE * base if name == "peak_bytes" else 0.0
    return Check(
        name, base, head, allowance.text, verdict, verdict is Verdict.FAIL or abs(head - base) > noise
    )
