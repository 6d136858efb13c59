"""The stored baseline: what the file holds, how a wrong file is refused, and the comparison of times."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from reports.factory import (
    MACHINE,
    SOFTWARE,
    cells_of,
    failure,
    own_run,
    request,
    tuned_run,
    whole_run,
)

from mnv3_reports.baseline import (
    BASELINE_SCHEMA,
    Baseline,
    BaselineError,
    BaselineVersionError,
    TimedEpoch,
    absolute,
    epochs_of,
    incomparable,
    judge_timing,
    of_run,
    read_baseline,
    to_control,
    write_baseline,
)
from mnv3_reports.deterministic import Rules, compare
from mnv3_reports.sequential import welch_interval
from mnv3_reports.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from mnv3_reports.baseline import Timing

ASKED = request(("v3-small",), ("v1",), ("eager", "onnxruntime"))
SMALL, _, V1, _ = (cell.key for cell in cells_of(ASKED))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return write_baseline(tmp_path / "deep" / "baseline.json", of_run(whole_run(ASKED, epochs=6)))


def edit(path: Path, change: Callable[[Any], object]) -> Path:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return path


# The file.


def test_what_is_written_is_read_back_with_everything_a_gate_needs(saved: Path) -> None:
    run = whole_run(ASKED, epochs=6)
    baseline = read_baseline(saved)
    assert baseline == of_run(run)
    assert (baseline.machine, baseline.software, baseline.request) == (MACHINE, SOFTWARE, ASKED)
    assert (baseline.schema, baseline.command) == (BASELINE_SCHEMA, run.header.command)
    assert run.finished is not None
    assert baseline.created_at == run.finished.ended_at
    assert list(baseline.cells) == sorted(run.cells)
    for key in run.cells:
        assert [found.epoch for found in baseline.cells[key].epochs] == list(range(6))
        assert all(set(found.rounds) == set(range(5)) for found in baseline.cells[key].epochs)


def test_its_deterministic_figures_equal_those_of_the_run_it_was_made_from(saved: Path) -> None:
    run = whole_run(ASKED)
    checks = compare(read_baseline(saved).as_run(), SMALL, run, SMALL, Rules())
    assert {"parameters", "macs", "activations", "artifact_bytes", "peak_bytes", "fidelity_snr_db"} <= {
        check.name for check in checks
    }
    assert not any(check.changed for check in checks)


def test_the_file_is_small_and_always_in_the_same_order(saved: Path) -> None:
    text = saved.read_text()

    def in_order(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert [name for name, _ in pairs] == sorted(name for name, _ in pairs)
        return dict(pairs)

    json.loads(text, object_pairs_hook=in_order)
    assert "samples_ns" not in text
    assert "LayerCost" not in text
    assert "features.0.0" not in text
    write_baseline(saved, read_baseline(saved))
    assert saved.read_text() == text


def test_a_new_baseline_replaces_the_old_one_and_leaves_nothing_beside_it(saved: Path) -> None:
    write_baseline(saved, of_run(whole_run(ASKED, epochs=2)))
    assert len(read_baseline(saved).cells[SMALL].epochs) == 2
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_cell_that_failed_keeps_its_reason_and_no_times() -> None:
    run = whole_run(ASKED)
    run.add(failure(run.cells[SMALL].cell, "measure", tail="a long traceback"))
    cell = of_run(run).cells[SMALL]
    assert cell.failure is not None
    assert (cell.failure.phase, cell.failure.tail, cell.epochs) == ("measure", "", ())
    assert of_run(run).as_run().cells[SMALL].failure == cell.failure


def test_a_file_that_is_not_there_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BaselineError, match=r"no file .*--save-baseline"):
        read_baseline(tmp_path / "none.json")
    with pytest.raises(BaselineError, match="cannot be read"):
        read_baseline(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "\x00", "[]", "{}", '{"schema": 1}', '{"type": "started", "schema": 1}', '{"type": "baseline"}'],
)
def test_a_file_that_is_no_baseline_is_called_so(tmp_path: Path, text: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(BaselineError, match="is no baseline; expected a file") as caught:
        read_baseline(path)
    assert not isinstance(caught.value, BaselineVersionError)


def test_cells_with_settings_and_networks_nobody_counts_are_kept(tmp_path: Path) -> None:
    for run in (tuned_run(), own_run()):
        path = write_baseline(tmp_path / "baseline.json", of_run(run))
        baseline = read_baseline(path)
        assert set(baseline.cells) == set(run.cells)
        assert all(cell.epochs for cell in baseline.cells.values())
        for key in run.cells:
            checks = compare(baseline.as_run(), key, run, key, Rules())
            assert checks
            assert not any(check.changed for check in checks)


def test_a_baseline_of_the_first_version_is_read(tmp_path: Path) -> None:
    old = read_baseline(Path(__file__).parent / "record-v1" / "baseline.json")
    assert old.schema == BASELINE_SCHEMA
    assert [facts.complexity is not None for facts in old.variants] == [True, True]
    assert sum(bool(cell.epochs) for cell in old.cells.values()) == 3
    assert read_baseline(write_baseline(tmp_path / "again.json", old)) == old


@pytest.mark.parametrize(("schema", "remedy"), [(BASELINE_SCHEMA + 1, "update"), (0, "save it again")])
def test_another_schema_is_refused_even_where_the_rest_could_be_read(
    saved: Path, schema: int, remedy: str
) -> None:
    edit(saved, lambda data: data.update(schema=schema))
    with pytest.raises(BaselineVersionError, match=f"schema {schema}.*{remedy}"):
        read_baseline(saved)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.pop("machine"),
        lambda data: data["cells"].update(nonsense=data["cells"].pop(SMALL)),
        lambda data: data["cells"].pop(SMALL) and data["cells"][V1]["prepared"].update(cell=SMALL),
        lambda data: data["cells"][SMALL]["epochs"][0].update(seconds=0),
        lambda data: data["cells"][SMALL]["epochs"][0]["rounds"].update({"1": -1.0}),
        lambda data: data["cells"][SMALL]["epochs"][0]["rounds"].update(one=1.0),
    ],
)
def test_a_damaged_file_is_one_line(saved: Path, damage: Callable[[Any], object]) -> None:
    with pytest.raises(BaselineError, match="is damaged") as caught:
        read_baseline(edit(saved, damage))
    assert "\n" not in str(caught.value)


# What may be compared.


def incomparable_to(baseline: Baseline, **changed: Any) -> str | None:
    machine = msgspec.structs.replace(MACHINE, **changed, fingerprint="m2")
    return incomparable(baseline, machine, SOFTWARE)


def test_the_same_surroundings_are_comparable_and_others_are_named() -> None:
    baseline = of_run(whole_run(ASKED))
    assert incomparable(baseline, MACHINE, SOFTWARE) is None
    assert incomparable_to(baseline, cpu="Other") == (
        "absolute times of another machine (CPU Other against Imaginary CPU @ 2.50GHz)"
    )
    assert incomparable_to(baseline, usable_cpus=8) == (
        "absolute times of another machine (usable CPUs 8 against 2)"
    )
    assert incomparable_to(baseline) == "absolute times of another machine (fingerprint m2 against m1)"


def test_other_versions_are_named() -> None:
    baseline = of_run(whole_run(ASKED))
    newer = msgspec.structs.replace(
        SOFTWARE, packages={**SOFTWARE.packages, "torch": "2.14.0"}, fingerprint="s2"
    )
    assert (
        incomparable(baseline, MACHINE, newer) == "absolute times of other versions (torch 2.13.0 -> 2.14.0)"
    )
    without = msgspec.structs.replace(
        SOFTWARE, python="3.12.1", packages={"torch": "2.13.0"}, environment={}, fingerprint="s3"
    )
    assert incomparable(baseline, MACHINE, without) == (
        "absolute times of other versions (Python 3.11.9 -> 3.12.1, onnxruntime 1.32.0 -> none, "
        "OMP_NUM_THREADS 1 -> none)"
    )
    same = msgspec.structs.replace(SOFTWARE, fingerprint="s4")
    assert incomparable(baseline, MACHINE, same) == "absolute times of other versions (fingerprint s1 -> s4)"


# Times.


def test_an_epoch_is_the_geometric_mean_of_its_rounds() -> None:
    run = whole_run(ASKED, epochs=2, rounds=3)
    for found in epochs_of(block for block in run.blocks if block.cell == SMALL):
        product = math.prod(found.rounds.values())
        assert found.seconds == pytest.approx(product ** (1 / 3), rel=1e-5)
    assert epochs_of([]) == ()


def test_the_ratio_to_a_control_is_formed_within_rounds_and_forgets_what_slows_both() -> None:
    drift = {0: 1.0, 1: 3.0, 2: 0.5}
    cell = [TimedEpoch(4, 1.0, {n: 0.002 * x for n, x in drift.items()})]
    control = [TimedEpoch(4, 1.0, {n: 0.001 * x for n, x in drift.items() if n != 2} | {9: 7.0})]
    assert to_control(cell, control) == [pytest.approx(math.log(2))]
    assert absolute(cell) == [0.0]


def test_epochs_without_a_shared_round_have_no_ratio() -> None:
    cell = [TimedEpoch(0, 1.0, {0: 1.0}), TimedEpoch(1, 1.0, {0: 2.0})]
    assert to_control(cell, [TimedEpoch(1, 1.0, {1: 1.0})]) == []
    assert to_control(cell, []) == []


NOISE = [0.004, -0.003, 0.001, -0.005, 0.002, 0.001, -0.002, 0.002]


def judged(change: float, *, noise: float = 1.0, here: int = 8, there: int = 8, cells: int = 1) -> Timing:
    """A cell whose logarithm changed by so much."""
    head = [change + noise * x for x in NOISE[:here]]
    base = [noise * x for x in reversed(NOISE[-there:])]
    return judge_timing(head, base, margin=0.03, alpha=0.05, power=0.8, cells=cells)


def test_slower_than_the_margin_fails_and_the_same_passes() -> None:
    slower, same = judged(0.06), judged(0.0)
    assert (slower.verdict, same.verdict) == (Verdict.FAIL, Verdict.PASS)
    assert slower.ratio.estimate == pytest.approx(math.exp(0.06), rel=1e-9)
    assert slower.ratio.low > 1.03 > same.ratio.high
    assert slower.p_value is not None
    assert same.p_value is not None
    assert slower.p_value < 0.001 < 0.99 < same.p_value
    assert slower.epochs == 8


def test_near_the_margin_nothing_is_claimed() -> None:
    timing = judged(math.log(1.03))
    assert timing.verdict is Verdict.INCONCLUSIVE
    assert timing.p_value == pytest.approx(0.5)
    assert "3 %" in timing.reason


def test_the_bounds_are_welchs_and_the_failing_one_is_corrected_over_cells() -> None:
    """Between the two thresholds a slowdown fails alone and not as one of twenty cells."""

    def lower(change: float, cells: int) -> float:
        head, base = [change + x for x in NOISE], list(reversed(NOISE))
        return welch_interval(head, base, 1 - 2 * 0.05 / cells).low

    change = math.log(1.03) + (-lower(0.0, 1) - lower(0.0, 20)) / 2
    assert lower(change, 1) > math.log(1.03) > lower(change, 20)
    alone, among = judged(change), judged(change, cells=20)
    assert (alone.verdict, among.verdict) == (Verdict.FAIL, Verdict.INCONCLUSIVE)
    assert alone.p_value is not None
    assert alone.p_value < 0.05
    assert among.p_value == pytest.approx(20 * alone.p_value)
    assert alone.detectable is not None
    assert among.detectable is not None
    assert 0.03 < alone.detectable < among.detectable


@pytest.mark.parametrize(
    ("here", "there", "who"), [(8, 4, "the baseline has 4"), (4, 8, "4 epochs could be")]
)
def test_fewer_than_five_epochs_on_a_side_give_no_verdict_and_say_what_to_type(
    here: int, there: int, who: str
) -> None:
    timing = judged(0.5, here=here, there=there)
    assert timing.verdict is Verdict.INCONCLUSIVE
    assert who in timing.reason
    assert "--time-budget" in timing.reason
    assert (timing.epochs, timing.p_value, timing.detectable) == (4, None, None)
    assert judged(0.5, here=5, there=5).verdict is Verdict.FAIL


def test_one_epoch_has_an_unbounded_interval() -> None:
    timing = judged(0.0, here=1)
    assert (timing.ratio.low, timing.ratio.high) == (0.0, math.inf)
    assert timing.noise is None
    assert (judged(0.0, here=2).noise or 0) > 0
    assert not timing.ratio.bounded


def test_equal_epochs_without_any_noise_are_decided_by_the_difference_alone() -> None:
    for change, verdict, p_value in ((0.1, Verdict.FAIL, 0.0), (0.0, Verdict.PASS, 1.0)):
        timing = judged(change, noise=0.0)
        assert (timing.verdict, timing.p_value) == (verdict, p_value)
        assert timing.detectable == pytest.approx(0.03)


def test_a_side_without_epochs_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        judge_timing([], [0.1], margin=0.03, alpha=0.05, power=0.8, cells=1)


def test_errors_are_as_rare_and_slowdowns_found_as_often_as_promised() -> None:
    """At the margin 5 % may fail and 5 % may pass; the predicted slowdown fails in about 80 %."""
    rng = random.Random(5)

    def share(change: float, verdict: Verdict, trials: int = 600) -> float:
        hits = 0
        for _ in range(trials):
            head = [change + rng.gauss(0, 0.02) for _ in range(9)]
            base = [rng.gauss(0, 0.01) for _ in range(7)]
            hits += judge_timing(head, base, margin=0.03, alpha=0.05, power=0.8, cells=1).verdict is verdict
        return hits / trials

    assert share(math.log(1.03), Verdict.FAIL) < 0.08
    assert share(math.log(1.03), Verdict.PASS) < 0.08
    detectable = [
        judge_timing(
            [rng.gauss(0, 0.02) for _ in range(9)],
            [rng.gauss(0, 0.01) for _ in range(7)],
            margin=0.03,
            alpha=0.05,
            power=0.8,
            cells=1,
        ).detectable
        or 0.0
        for _ in range(50)
    ]
    assert 0.7 < share(math.log1p(sorted(detectable)[25]), Verdict.FAIL) < 0.9
