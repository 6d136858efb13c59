"""Two synthetic runs that differ in one figure at a time."""

from __future__ import annotations

import msgspec
import pytest
from reports import factory

from mnv3_reports import deterministic as det
from mnv3_reports.record import Cell, Run
from mnv3_reports.verdict import Check, Verdict

SMALL = Cell("v3-small", "onnxruntime")
MORE_IS_WORSE = ("parameters", "macs", "activations", "artifact_bytes", "peak_bytes", "device_peak_bytes")
GRAPH_FACTS = ("onnx nodes", "graph nodes", "operators", "graph breaks")
SNR = "fidelity_snr_db"


def run(cell: Cell = SMALL, **figures: float | None) -> Run:
    """A run of one cell that was inspected; a figure that is None is left out."""
    given: dict[str, float | None] = {
        "parameters": 2_542_856,
        "macs": 56_510_400,
        "activations": 1_400_000,
        "artifact_bytes": 10_000_000,
        "peak_bytes": 200_000_000,
        "device_peak_bytes": 50_000_000,
        "onnx nodes": 120,
        "graph nodes": 300,
        "operators": 40,
        "graph breaks": 1,
        SNR: 30.0,
        **figures,
    }
    found = Run.started(factory.header(factory.request((cell.variant,), (), (cell.backend,))))
    replaced = msgspec.structs.replace
    facts = factory.facts(cell.variant)
    counted = {name: given[name] for name in ("parameters", "macs", "activations")}
    found.add(replaced(facts, complexity=replaced(facts.complexity, **counted)))
    graph = {name: given[name] for name in GRAPH_FACTS if given[name] is not None}
    found.add(
        replaced(
            factory.prepared(cell),
            artifact_bytes=given["artifact_bytes"],
            facts={"opset": 17, "kept whole": True, "compiler": "gcc", **graph},
        )
    )
    fidelity = None if given[SNR] is None else replaced(factory.fidelity(cell), snr_db=given[SNR])
    inspected = factory.inspected(cell, agreement=fidelity)
    found.add(
        replaced(inspected, peak_bytes=given["peak_bytes"], device_peak_bytes=given["device_peak_bytes"])
    )
    return found


def checks(base: Run, head: Run, rules: det.Rules | None = None) -> dict[str, Check]:
    found = det.compare(base, SMALL.key, head, SMALL.key, rules or det.Rules())
    assert len({check.name for check in found}) == len(found)
    return {check.name: check for check in found}


def test_equal_runs_pass_every_check_unchanged() -> None:
    found = checks(run(), run())
    assert {*MORE_IS_WORSE, *GRAPH_FACTS, SNR, "opset"} == set(found)
    assert {check.verdict for check in found.values()} == {Verdict.PASS}
    assert not any(check.changed for check in found.values())


@pytest.mark.parametrize("name", [*MORE_IS_WORSE, *GRAPH_FACTS])
def test_more_fails_and_less_passes_as_changed(name: str) -> None:
    before = run()
    figure = checks(before, before)[name].base
    assert figure is not None
    step = 21_000_000 if name == "peak_bytes" else 1
    worse, better = checks(before, run(**{name: figure + step})), checks(before, run(**{name: figure - step}))
    assert (worse[name].verdict, worse[name].changed) == (Verdict.FAIL, True)
    assert (worse[name].base, worse[name].head) == (figure, figure + step)
    assert (better[name].verdict, better[name].changed) == (Verdict.PASS, True)
    for other in (worse, better):
        assert [check.name for check in other.values() if check.changed] == [name]


def test_memory_may_grow_by_its_share_and_no_further() -> None:
    assert checks(run(), run(peak_bytes=220_000_000))["peak_bytes"].verdict is Verdict.PASS
    found = checks(run(), run(peak_bytes=220_000_001))["peak_bytes"]
    assert (found.verdict, found.rule) == (Verdict.FAIL, "10%")


@pytest.mark.parametrize(
    ("allowance", "head", "allowed"),
    [
        (det.Allowance("0"), 100, True),
        (det.Allowance("0"), 101, False),
        (det.Allowance("10%", relative=0.1), 110, True),
        (det.Allowance("10%", relative=0.1), 111, False),
        (det.Allowance("7", absolute=7), 107, True),
        (det.Allowance("7", absolute=7), 108, False),
        (det.Allowance("0"), 0, True),
        (det.Allowance("0"), float("nan"), False),
    ],
)
def test_allowances(allowance: det.Allowance, head: float, allowed: bool) -> None:
    assert allowance.allows(100, head) is allowed


def test_a_share_of_nothing_is_nothing() -> None:
    assert not det.Allowance("50%", relative=0.5).allows(0, 1)
    assert checks(run(**{"graph breaks": 0}), run())["graph breaks"].verdict is Verdict.FAIL


def test_every_rule_acts_on_its_own_figure() -> None:
    lax = det.Allowance("1000%", relative=10.0)
    twice = {name: 2.0 * (checks(run(), run())[name].base or 0) for name in (*MORE_IS_WORSE, *GRAPH_FACTS)}
    acts_on = {
        "memory": {"peak_bytes"},
        "size": {"artifact_bytes"},
        "parameters": {"parameters"},
        "macs": {"macs"},
        "activations": {"activations"},
        "operators": {"onnx nodes", "graph nodes", "operators"},
        "graph_breaks": {"graph breaks"},
        "device_memory": {"device_peak_bytes"},
    }
    of_figures = {field.name for field in msgspec.structs.fields(det.Rules)} - {"latency", "fidelity"}
    assert set(acts_on) == of_figures
    for rule, names in acts_on.items():
        found = checks(run(), run(**{n: int(v) for n, v in twice.items()}), det.Rules(**{rule: lax}))
        assert {name for name in twice if found[name].verdict is Verdict.PASS} == names


@pytest.mark.parametrize(
    ("before", "after", "verdict", "changed"),
    [
        (30.0, 29.5, Verdict.PASS, True),
        (30.0, 29.4, Verdict.FAIL, True),
        (30.0, 45.0, Verdict.PASS, True),
        (200.0, 130.0, Verdict.PASS, True),  # both are rounding
        (200.0, 59.4, Verdict.FAIL, True),
        (59.0, 200.0, Verdict.PASS, True),
        (30.0, 30.0, Verdict.PASS, False),
    ],
)
def test_fidelity_is_a_loss_in_decibels_below_a_ceiling(
    before: float, after: float, verdict: Verdict, changed: bool
) -> None:
    found = checks(run(**{SNR: before}), run(**{SNR: after}))[SNR]
    assert (found.verdict, found.changed, found.rule) == (verdict, changed, "0.5 dB")


@pytest.mark.parametrize("name", ["device_peak_bytes", *GRAPH_FACTS, SNR])
def test_a_figure_that_one_side_lacks_is_invalid(name: str) -> None:
    for base, head in ((run(), run(**{name: None})), (run(**{name: None}), run())):
        found = checks(base, head)[name]
        assert (found.verdict, found.changed) == (Verdict.INVALID, True)
        assert (found.base is None) != (found.head is None)
    assert name not in checks(run(**{name: None}), run(**{name: None}))


def test_facts_without_a_rule_are_shown_and_never_fail() -> None:
    head = run()
    record = head.cells[SMALL.key]
    assert record.prepared is not None
    record.prepared = msgspec.structs.replace(record.prepared, facts={**record.prepared.facts, "opset": 18})
    found = checks(run(), head)["opset"]
    assert (found.verdict, found.changed, found.rule) == (Verdict.PASS, True, "shown only")
    # Text and yes-or-no are no figures.
    assert not {"kept whole", "compiler"} & set(checks(run(), head))


def test_cells_of_different_networks_are_compared_by_their_own_facts() -> None:
    large = Cell("v3-large", "onnxruntime")
    found = {
        check.name: check
        for check in det.compare(
            run(), SMALL.key, run(large, macs=216_589_760, parameters=5_483_032), large.key, det.Rules()
        )
    }
    assert (found["macs"].base, found["macs"].head) == (56_510_400, 216_589_760)
    assert found["parameters"].verdict is Verdict.FAIL


def test_a_cell_that_a_run_does_not_have_is_an_error() -> None:
    with pytest.raises(KeyError):
        det.compare(run(), SMALL.key, run(), "v9/none", det.Rules())


def uncounted(found: Run) -> Run:
    found.variants = [msgspec.structs.replace(facts, complexity=None) for facts in found.variants]
    return found


def test_a_network_that_nobody_counts_is_compared_by_the_other_figures() -> None:
    checks = det.compare(uncounted(run()), SMALL.key, uncounted(run()), SMALL.key, det.Rules())
    names = {check.name for check in checks}
    assert "artifact_bytes" in names
    assert not names & {"parameters", "macs", "activations"}


def test_what_only_one_side_counts_was_not_compared() -> None:
    checks = det.compare(run(), SMALL.key, uncounted(run()), SMALL.key, det.Rules())
    invalid = {check.name for check in checks if check.verdict is Verdict.INVALID}
    assert invalid == {"parameters", "macs", "activations"}
