"""Raw samples go and summaries stay, whenever pruning is killed."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from reports import factory
from reports.histories import CELL, START, counted, found, local

from mnv3_reports import journal
from mnv3_reports.history import pruning
from mnv3_reports.history.adding import add_runs
from mnv3_reports.history.places import HistoryError
from mnv3_reports.rundir import CELLS, RUN, SAMPLES, load_run, write_run
from mnv3_reports.summary import Summary
from mnv3_reports.writer import write_report

if TYPE_CHECKING:
    from mnv3_reports.record import RunFinished

BEFORE = datetime(2026, 6, 1)
EPOCHS = 2


def measured(directory: Path, finished: RunFinished | None = factory.finished(), **header: Any) -> Path:  # noqa: B008
    """A run directory as a run leaves it, its journal too."""
    run = factory.whole_run(
        factory.request(("v3-small",), (), ("eager", "onnxruntime")), epochs=EPOCHS, rounds=2, calls=5
    )
    run.header = msgspec.structs.replace(run.header, **header)
    run.finished = finished
    directory.mkdir(parents=True)
    with journal.Journal.create(directory / journal.NAME) as writer:
        for entry in factory.entries_of(run):
            writer.append(entry)
    if finished is not None:
        write_run(run, directory)
    return directory


def prune(directory: Path, history: Path, **options: Any) -> list[pruning.Pruned]:
    return list(pruning.prune([directory], local(history), BEFORE, START, **options))


def test_old_raw_samples_go_and_figures_stay(tmp_path: Path) -> None:
    old = measured(tmp_path / "runs" / "old")
    young = measured(tmp_path / "runs" / "young", run_id="young", started_at="2026-06-01T00:00:00+00:00")
    cut = measured(tmp_path / "runs" / "cut", None, run_id="cut")
    partial = measured(tmp_path / "runs" / "partial", factory.finished("partial"), run_id="partial")
    history = tmp_path / "history"
    size = (old / journal.NAME).stat().st_size + (old / SAMPLES).stat().st_size
    dry = {each.directory: each for each in prune(tmp_path / "runs", history, dry=True)}
    assert (dry[old].bytes, dry[old].kept) == (size, None)
    assert (old / journal.NAME).is_file()
    assert not history.exists()
    done = {each.directory: each for each in prune(tmp_path / "runs", history)}
    assert done == dry
    assert {path.name for path in old.iterdir()} == {RUN, CELLS}
    assert done[young].kept == "is younger"
    assert "could not be resumed" in str(done[cut].kept)
    assert "could not be resumed" in str(done[partial].kept)
    assert all((each / journal.NAME).is_file() for each in (young, cut, partial))
    assert counted(local(history))[CELL] == 1
    (again, *_) = (each for each in prune(old, history))
    assert again.kept == "has no raw samples any more"
    assert "no cell has a latency here" in load_run(old).lost[0]
    assert write_report(old, with_charts=False)


def test_a_pruned_run_can_still_be_added(tmp_path: Path) -> None:
    old = measured(tmp_path / "old")
    prune(old, tmp_path / "history")
    list(add_runs([old], local(tmp_path / "second")))
    first, second = (found(local(tmp_path / name)) for name in ("history", "second"))
    assert [trend.series.points for trend in first] == [trend.series.points for trend in second]
    table = (old / CELLS).read_bytes()
    write_run(factory.whole_run(epochs=3), tmp_path / "other")
    (old / CELLS).write_bytes((tmp_path / "other" / CELLS).read_bytes())
    with pytest.raises(HistoryError, match="is of another run, or of another moment"):
        list(add_runs([old], local(tmp_path / "third")))
    (old / CELLS).write_bytes(table[:100])
    with pytest.raises(HistoryError, match="does not hold cells of a run"):
        list(add_runs([old], local(tmp_path / "third")))


@pytest.mark.parametrize("moment", range(3))
@pytest.mark.parametrize("stale", [False, True])
def test_pruning_killed_at_any_moment_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int, stale: bool
) -> None:
    """Before the journal goes, before the samples go, after both; also where tables are of an earlier moment."""
    old = measured(tmp_path / "old")
    if stale:
        earlier = factory.whole_run(epochs=EPOCHS)
        earlier.finished = None
        write_run(earlier, old)
        (old / SAMPLES).unlink()
    whole = Summary(load_run(old)).statistics
    remove, done = Path.unlink, 0

    def dying(path: Path, missing_ok: bool = False) -> None:
        nonlocal done
        if path.name in pruning.RAW:
            if done == moment:
                raise KeyboardInterrupt
            done += 1
        remove(path, missing_ok=missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", dying)
        if moment < 2:
            with pytest.raises(KeyboardInterrupt):
                prune(old, tmp_path / "history")
        else:
            prune(old, tmp_path / "history")
    assert counted(local(tmp_path / "history"))[CELL] == 1
    if moment < 2:
        assert Summary(load_run(old)).statistics == whole, (
            "the run itself is whole as long as its samples are there"
        )
    prune(old, tmp_path / "history")
    assert {path.name for path in old.iterdir()} == {RUN, CELLS}
    (trend,) = found(local(tmp_path / "history"), cells=CELL)
    assert [point.value for point in trend.series.points] == [whole[CELL].latency.estimate]


def test_nothing_goes_when_the_history_cannot_be_written(tmp_path: Path) -> None:
    old = measured(tmp_path / "old")
    (tmp_path / "history").write_text("a file")
    with pytest.raises(HistoryError, match="cannot"):
        prune(old, tmp_path / "history")
    assert (old / journal.NAME).is_file()
    assert (old / SAMPLES).is_file()
    with pytest.raises(HistoryError, match="is no folder"):
        prune(tmp_path / "nowhere", tmp_path / "second")


def test_a_long_time_ago(tmp_path: Path) -> None:
    old = measured(tmp_path / "old", started_at=(START - timedelta(days=36_500)).isoformat())
    prune(old, tmp_path / "history")
    assert local(tmp_path / "history").files()[0].startswith("month=1926-")
