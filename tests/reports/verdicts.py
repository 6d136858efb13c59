"""Synthetic gate reports: every way a gate can end, and names that try to break what renders them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec
from reports.factory import MACHINE

from mnv3_reports.record import Cell
from mnv3_reports.statistics import Interval
from mnv3_reports.verdict import (
    VERDICT_SCHEMA,
    ArmFacts,
    CellVerdict,
    Check,
    GateReport,
    Noise,
    Prediction,
    Verdict,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HOSTILE = "a|b`c\n## d <img src=x onerror=y> *e* [f](g) _h_ @everyone #1 \x1b[31m\x00 \udc80 \u202e %25 ::error::,&amp;"
"""What a name must not be able to do: break a table or a line, add markup, mention, hide, or end a command."""

MACS = Check("macs", 56_510_400.0, 56_510_400.0, "0", Verdict.PASS, changed=False)
BYTES = Check("artifact_bytes", 10_200_000.0, 10_200_000.0, "5%", Verdict.PASS, changed=False)
SNR = Check("fidelity_snr_db", 21.5, 21.5, "0.5 dB", Verdict.PASS, changed=False)
CHECKS = (MACS, BYTES, SNR)


def check(before: Check, head: float | None, verdict: Verdict) -> Check:
    return msgspec.structs.replace(before, head=head, verdict=verdict, changed=True)


def cell(
    key: str | Cell = "v3-small/onnxruntime?threads=1&batch=1&resolution=224&device=cpu",
    verdict: Verdict = Verdict.PASS,
    change: float = 0.002,
    half: float = 0.009,
    **changed: Any,
) -> CellVerdict:
    """A timed cell: the head takes 1 + change times as long, give or take half (both relative)."""
    name = key.key if isinstance(key, Cell) else key
    given: dict[str, Any] = {
        "cell": name,
        "base_cell": name,
        "verdict": verdict,
        "reason": {
            Verdict.PASS: "the upper bound lies below the margin",
            Verdict.FAIL: "the lower bound lies above the margin",
            Verdict.INCONCLUSIVE: "the margin of 3 % lies within the interval",
            Verdict.INVALID: "the null control differs from 1 by more than the margin",
        }[verdict],
        "margin": 0.03,
        "ratio": Interval(1 + change, 1 + change - half, 1 + change + half, 14),
        "null": Interval(1.001, 0.995, 1.007, 14),
        "noise": 0.014,
        "detectable": 0.047,
        "epochs": 14,
        "decided_at": None if verdict is Verdict.INCONCLUSIVE else 14,
        "p_value": 0.0012 if verdict is Verdict.FAIL else 0.93,
        "base_seconds": 6.5e-3,
        "head_seconds": 6.5e-3 * (1 + change),
        "disturbance": Noise(420, 12, 0.013, 0.011),
        "checks": CHECKS,
    }
    return CellVerdict(**{**given, **changed})


def untimed(verdict: Verdict, reason: str, **changed: Any) -> CellVerdict:
    nothing = dict.fromkeys(
        (
            "ratio",
            "null",
            "noise",
            "detectable",
            "p_value",
            "base_seconds",
            "head_seconds",
            "disturbance",
            "decided_at",
        )
    )
    return cell(verdict=verdict, **{**nothing, "epochs": 0, "reason": reason, **changed})


def report(
    cells: Sequence[CellVerdict], verdict: Verdict, summary: str, stopped: str = "decided", **changed: Any
) -> GateReport:
    packages = {"torch": "2.13.0", "onnxruntime": "1.32.0", "numpy": "2.1.0"}
    given: dict[str, Any] = {
        "schema": VERDICT_SCHEMA,
        "started_at": "2026-01-01T01:00:00+01:00",
        "seconds": 247.0,
        "command": "mnv3-bench gate --base git:HEAD~1 --head . --variants small --time-budget 5m --seed 7",
        "verdict": verdict,
        "exit_code": {"pass": 0, "fail": 1, "inconclusive": 3, "invalid": 4}[verdict],
        "summary": summary,
        "base": ArmFacts("git:HEAD~1 (3f2a91c)", "3.11.9", packages, "3f2a91c"),
        "head": ArmFacts("git:HEAD (81ab1f0)", "3.11.9", {**packages, "onnxruntime": "1.33.0"}, "81ab1f0"),
        "machine": MACHINE,
        "alpha": 0.05,
        "power": 0.8,
        "looks": (8, 14, 20),
        "stopped_because": stopped,
        "cells": tuple(cells),
        "prediction": Prediction(0.012, 3, 20, 30, 0.043, 420.0),
        "seed": 7,
    }
    return GateReport(**{**given, **changed})


def keys(number: int) -> list[str]:
    """Different cells of one setting."""
    variants = ("v3-small", "v3-large", "v2", "v1", "v3-small@0.75", "v3-large-minimal")
    backends = ("eager", "onnxruntime", "torchscript", "onnxruntime-int8")
    return [Cell(v, b).key for b in backends for v in variants][:number]


def passing() -> GateReport:
    return report([cell(key) for key in keys(3)], Verdict.PASS, "no cell is slower than allowed")


def failing() -> GateReport:
    names = keys(4)
    smaller = check(BYTES, 9_900_000.0, Verdict.PASS)
    cells = [
        cell(names[0], checks=(MACS, smaller, SNR)),
        cell(names[1], Verdict.FAIL, 0.051),
        cell(names[2], Verdict.INCONCLUSIVE, 0.026, 0.012),
        cell(names[3], Verdict.FAIL, 0.083),
    ]
    return report(
        cells, Verdict.FAIL, "2 of 4 cells are slower than allowed", notes=("the governor is not known",)
    )


def inconclusive() -> GateReport:
    names = keys(3)
    cells = [cell(names[0]), cell(names[1], Verdict.INCONCLUSIVE, 0.02, 0.018, epochs=8), cell(names[2])]
    return report(cells, Verdict.INCONCLUSIVE, "the noise allowed no verdict on 1 of 3 cells", "budget")


def invalid() -> GateReport:
    names = keys(2)
    tripped = cell(names[0], Verdict.INVALID, 0.04, null=Interval(1.06, 1.041, 1.08, 14))
    return report(
        [tripped, cell(names[1])], Verdict.INVALID, "two equal workers differ by more than the margin"
    )


def heavier() -> GateReport:
    """Deterministic figures decided, and nothing was timed."""
    more = check(MACS, 60_000_000.0, Verdict.FAIL)
    lost = check(SNR, None, Verdict.INVALID)
    one_more = check(
        Check("parameters", 2_542_856.0, 0, "0", Verdict.PASS, changed=True), 2_542_857.0, Verdict.FAIL
    )
    cells = [untimed(Verdict.FAIL, "macs rose by more than 0", checks=(BYTES, lost, more, one_more))]
    return report(cells, Verdict.FAIL, "macs rose", "deterministic", prediction=None, looks=())


def too_short() -> GateReport:
    """One epoch fitted the budget: intervals are unbounded."""
    only = cell(
        verdict=Verdict.INCONCLUSIVE,
        ratio=Interval(1.02, 0.0, math.inf, 1),
        null=Interval(0.99, 0.0, math.inf, 1),
        noise=None,
        detectable=None,
        p_value=None,
        epochs=1,
        reason="1 epoch allows no verdict",
    )
    return report(
        [only],
        Verdict.INCONCLUSIVE,
        "the budget is too small for a verdict",
        "budget",
        command="mnv3-bench gate --base small --head small@0.75",
    )


def broken() -> GateReport:
    """The head broke: in one cell at once, in another one while it was timed."""
    reason = "the head arm failed in epoch 5 (measure): killed by signal 9"
    cells = [
        untimed(Verdict.FAIL, "the head arm failed (load): no such operator", checks=()),
        cell(
            "v1/eager?threads=1&batch=1&resolution=224&device=cpu",
            Verdict.FAIL,
            reason=reason,
            decided_at=None,
        ),
    ]
    return report(
        cells, Verdict.FAIL, "2 of 2 cells regressed: v3-small/onnxruntime, v1/eager +0.2 %", "failed"
    )


def crashed() -> GateReport:
    cells = [
        untimed(Verdict.INVALID, "the base arm failed (prepare): no C++ compiler", checks=()),
        cell("v1/eager?threads=2&batch=8&resolution=192&device=cpu"),
    ]
    return report(cells, Verdict.INVALID, "1 of 2 cells cannot be compared", "failed")


def nothing() -> GateReport:
    """The gate ended before it had a cell."""
    bare = ArmFacts("", "", {})
    return report(
        (),
        Verdict.INVALID,
        "the base could not be built",
        "failed",
        prediction=None,
        looks=(),
        base=bare,
        head=bare,
        command="",
        started_at="soon",
    )


def interrupted() -> GateReport:
    cells = [cell(verdict=Verdict.INCONCLUSIVE, epochs=4)]
    return report(cells, Verdict.INCONCLUSIVE, "interrupted after 4 epochs", "interrupted", exit_code=130)


def many(failures: int = 0, undecided: int = 0) -> GateReport:
    """24 cells of which the first ones regressed and the next ones are undecided."""
    cells = [
        cell(key, Verdict.FAIL, 0.05 + number / 1000)
        if number < failures
        else cell(key, Verdict.INCONCLUSIVE, 0.03, 0.01)
        if number < failures + undecided
        else cell(key, change=number / 10_000)
        for number, key in enumerate(keys(24))
    ]
    verdict = Verdict.FAIL if failures else Verdict.INCONCLUSIVE if undecided else Verdict.PASS
    return report(cells, verdict, f"{failures} of 24 cells are slower than allowed")


def injected() -> GateReport:
    return msgspec.structs.replace(failing(), injected=0.05)


def hostile() -> GateReport:
    """Every text is hostile."""
    arm = ArmFacts(HOSTILE, HOSTILE, {HOSTILE: HOSTILE}, HOSTILE)
    bad = Check(HOSTILE, 1.0, 2.0, HOSTILE, Verdict.FAIL, changed=True)
    cells = [
        cell(HOSTILE, Verdict.FAIL, 0.05, base_cell=HOSTILE + "2", reason=HOSTILE, checks=(bad,)),
        cell(f"{HOSTILE}/x?threads=1&batch=1&resolution=224&device=cpu", Verdict.INVALID, reason=HOSTILE),
        cell(HOSTILE + "3", Verdict.INCONCLUSIVE, reason=HOSTILE),
    ]
    return report(
        cells,
        Verdict.INCONCLUSIVE,
        HOSTILE,
        HOSTILE,
        base=arm,
        head=msgspec.structs.replace(arm, packages={HOSTILE: "```"}),
        command=f"mnv3-bench ```` {HOSTILE}",
        started_at=HOSTILE,
        notes=(HOSTILE,),
        machine=msgspec.structs.replace(MACHINE, cpu=HOSTILE, gpus=(HOSTILE,)),
    )


def settings() -> GateReport:
    """Backends with settings of their own, on a network with inputs of its own."""
    plain, tuned = (
        Cell("tokens.onnx", name, resolution=0).key
        for name in ("onnxruntime", "onnxruntime:spinning=off:graph=extended")
    )
    cells = [cell(plain), cell(tuned, Verdict.FAIL, 0.05, base_cell=plain)]
    return report(cells, Verdict.FAIL, "tokens.onnx/onnxruntime:spinning=off:graph=extended is slower by 5 %")


REPORTS: dict[str, Callable[[], GateReport]] = {
    "pass": passing,
    "fail": failing,
    "inconclusive": inconclusive,
    "invalid": invalid,
    "deterministic fail": heavier,
    "budget too small": too_short,
    "head crashed": broken,
    "arm missing": crashed,
    "no cells": nothing,
    "interrupted": interrupted,
    "24 cells pass": many,
    "24 cells, all sorts": lambda: many(13, 4),
    "injected": injected,
    "hostile names": hostile,
    "names with settings": settings,
}
