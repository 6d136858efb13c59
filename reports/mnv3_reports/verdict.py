"""What a gate found: versioned data that renderers turn into markdown, JUnit, annotations and JSON.

Durations are in seconds, sizes in bytes. A ratio is head over base: above 1 the head is slower.

Schema history:
    1  first version
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from mnv3_reports.record import Machine
from mnv3_reports.statistics import Interval

VERDICT_SCHEMA = 1


class Verdict(StrEnum):
    """Three ways a comparison ends, and a fourth for a measurement that nobody may believe."""

    PASS = "pass"  # noqa: S105 - a verdict
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    INVALID = "invalid"


class Check(msgspec.Struct, frozen=True):
    """One figure of the deterministic channel, before and after."""

    name: str
    """parameters, macs, activations, artifact_bytes, peak_bytes, fidelity_snr_db, or the name of a graph fact."""
    base: float | None
    head: float | None
    rule: str
    """How much worse the head may be, as written: '0', '5%', '0.5 dB'."""
    verdict: Verdict
    """PASS also where the head is better, or where the figure is missing on both sides."""
    changed: bool


class Noise(msgspec.Struct, frozen=True):
    """What disturbed the blocks of one cell, as means over its blocks."""

    blocks: int
    disturbed_blocks: int
    base_interference: float
    """CPU seconds taken by others (other processes, steal, throttling) per second of the base arm's blocks."""
    head_interference: float


class CellVerdict(msgspec.Struct, frozen=True):
    """The verdict on one cell."""

    cell: str
    """Key of the head's cell; the base's differs from it only where the arms are different variants."""
    base_cell: str
    verdict: Verdict
    reason: str
    """One line: why this verdict."""
    margin: float
    """Relative slowdown that is tolerated (0.03 is 3 %)."""
    ratio: Interval | None = None
    """Head over base with its 95 % interval, from every epoch; None when nothing was timed."""
    null: Interval | None = None
    """The null control: the second base worker over the first."""
    noise: float | None = None
    """s_d: standard deviation over epochs of the logarithm of the ratio."""
    detectable: float | None = None
    """Smallest slowdown that these epochs fail with the asked power, relative (0.05 is 5 %)."""
    epochs: int = 0
    decided_at: int | None = None
    """Epochs after which the verdict fell; None while it did not."""
    p_value: float | None = None
    """Of 'not slower than the margin', corrected over cells."""
    base_seconds: float | None = None
    head_seconds: float | None = None
    """Median latency of a call, geometric mean over epochs."""
    disturbance: Noise | None = None
    checks: tuple[Check, ...] = ()


class ArmFacts(msgspec.Struct, frozen=True):
    """One side of the comparison."""

    label: str
    """As it was asked for, such as 'small', 'git:HEAD~1 (3f2a…)' or 'python:/path'."""
    python: str
    packages: dict[str, str]
    commit: str | None = None


class Prediction(msgspec.Struct, frozen=True):
    """What the pilot said before the measuring went on. Blind to the head: it uses the null control alone."""

    noise: float
    """s_d over the cells (root mean square)."""
    pilot_epochs: int
    epochs: int
    """Epochs planned at most."""
    rounds: int
    """Rounds in each epoch."""
    detectable: float
    """Smallest slowdown detected with the asked power at the last look, relative."""
    seconds: float
    """Time the whole measuring takes at most."""


class GateReport(msgspec.Struct, frozen=True):
    """Everything a gate says."""

    schema: int
    started_at: str
    seconds: float
    command: str
    verdict: Verdict
    exit_code: int
    summary: str
    """One line: the verdict and why."""
    base: ArmFacts
    head: ArmFacts
    machine: Machine
    alpha: float
    power: float
    looks: tuple[int, ...]
    """Epochs after which a verdict may fall."""
    stopped_because: str
    """decided, epochs (all looks were used), budget, interrupted, deterministic (nothing was timed) or failed."""
    cells: tuple[CellVerdict, ...]
    prediction: Prediction | None = None
    notes: tuple[str, ...] = ()
    seed: int = 0
    injected: float = 0.0
    """Slowdown added to the head on purpose (a test of the gate itself)."""
