"""A history's files: written once, put together beside others, killed at any moment; and what a stranger left there."""

from __future__ import annotations

import contextlib
import io
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import fsspec
import msgspec
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from reports import factory
from reports.histories import CELL, START, counted, found, local, night, write

from mnv3_reports.fleet import FLEET
from mnv3_reports.history import adding, compaction, query, rows
from mnv3_reports.history.adding import add_runs, run_directories, tidy
from mnv3_reports.history.compaction import by_month, compact_month
from mnv3_reports.history.engine import connected
from mnv3_reports.history.places import HistoryError, LocalPlace, open_place, settled
from mnv3_reports.rundir import write_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mnv3_reports.history.places import Place
    from mnv3_reports.record import Run

MONTH = "month=2026-01"


class KilledError(Exception):
    """Stands for kill -9."""


def run(number: int = 0, **header: Any) -> Run:
    made = factory.whole_run(
        factory.request(("v3-small",), (), ("eager", "onnxruntime")), epochs=2, rounds=2, calls=5
    )
    made.header = msgspec.structs.replace(made.header, **{"run_id": f"run-{number}", **header})
    return made


@pytest.fixture(params=["local", "flat"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A folder, and an object store: no folders, nothing can be renamed."""
    if request.param == "local":
        yield local(tmp_path / "history")
        return
    fsspec.register_implementation("flat", FlatFileSystem, clobber=True)
    MemoryFileSystem.store.clear()
    yield open_place("flat://bucket/history")
    MemoryFileSystem.store.clear()


class FlatFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """What object stores are like."""

    protocol = ("flat", "s3")

    def mv(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError("objects cannot be renamed")

    def makedirs(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError("there are no folders")


def test_a_run_goes_in_once_and_stays(place: Place, tmp_path: Path) -> None:
    write_run(run(), tmp_path / "runs" / "a")
    (added,) = add_runs(run_directories([tmp_path / "runs"]), place)
    assert (added.cells, added.new) == (2, True)
    before = place.files()
    assert [name.partition("/")[0] for name in before] == [MONTH]
    (again,) = add_runs(run_directories([tmp_path / "runs" / "a"]), place)
    assert not again.new
    assert place.files() == before
    write(place, night(1))
    compact_month(place, MONTH)
    (again,) = add_runs([tmp_path / "runs" / "a"], place)
    assert not again.new, "it is in the compacted file"
    assert len(place.files()) == 1
    assert counted(place)[CELL] == 2


def test_a_row_says_what_the_run_measured(tmp_path: Path) -> None:
    made = run(3)
    (row, _) = rows.rows_of(made, tmp_path, added_at=START, repository_commit="feedface")
    assert row["cell"] == f"v3-small/eager?{CELL.partition('?')[2]}"
    assert (
        row["latency_median_low_seconds"] < row["latency_median_seconds"] < row["latency_median_high_seconds"]
    )
    assert len(row["epoch_seconds"]) == 2
    assert row["epoch_seconds"][0] == pytest.approx(row["latency_median_seconds"], rel=0.2)
    assert row["repository_commit"] == "feedface"
    assert msgspec.json.decode(row["packages"]) == factory.SOFTWARE.packages
    assert row["weights"] == "seeded 7, calibrated"
    later = rows.rows_of(made, tmp_path, added_at=START + timedelta(days=1), repository_commit="feedface")
    assert later[0]["revision"] == row["revision"], "when it was added is not what it says"
    assert rows.rows_of(made, tmp_path, added_at=START)[0]["revision"] != row["revision"]


def test_runs_of_a_fleet_have_their_hosts_names(place: Place, tmp_path: Path) -> None:
    for number, folder in enumerate(("farm/hosts/pi", "hosts/no-fleet", "alone")):
        write_run(run(number), tmp_path / folder)
    (tmp_path / "farm" / FLEET).touch()
    straight = local(tmp_path)
    assert {trend.series.runs for trend in found(straight, hosts="p*")} == {1}
    assert found(straight, hosts="desk") == []
    list(add_runs(run_directories([tmp_path]), place, host="desk"))
    kept = [row for name in place.files() for row in pq.read_table(io.BytesIO(place.read(name))).to_pylist()]
    assert {(row["run_id"], row["host"]) for row in kept} == {
        ("run-0", "pi"),
        ("run-1", "desk"),
        ("run-2", "desk"),
    }
    assert {trend.series.runs for trend in found(place, hosts="desk")} == {2}
    assert {trend.series.runs for trend in found(place)} == {3}, "their machines are equal"


@pytest.mark.parametrize(
    "run_id", ["../../../etc/passwd", "..", "/abs", "a\0b", "x" * 5000, "", "ünï", factory.HOSTILE]
)
def test_no_name_escapes(place: Place, run_id: str) -> None:
    name = write(place, night(0, run_id=run_id))
    assert place.files() == [name]
    assert name.startswith(f"{MONTH}/run-")
    assert counted(place) == {CELL: 1}
    for bad in ("../x.parquet", f"{MONTH}/../../x.parquet", f"{MONTH}/run-a.txt"):
        with pytest.raises(HistoryError, match="no name of a history's file"):
            place.write(bad, b"")


def test_a_run_that_went_on_counts_as_it_ended(place: Place) -> None:
    write(place, night(0, 1e-3, ended_at=None), added_at=START + timedelta(days=9))
    write(place, night(0, 2e-3))
    write(place, night(1, 5e-3))
    write(place, night(1, None, ended_at=night(1)["ended_at"] + 1))
    for _ in range(2):
        (trend,) = found(place)
        assert [point.value for point in trend.series.points] == [2e-3]
        assert trend.series.failed == 1
        compact_month(place, MONTH)


def fill(place: Place, runs: int = 4) -> None:
    for number in range(runs):
        write(place, night(number), night(number, cell=CELL.replace("small", "large")))


def killing(place: Place, moment: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process die at the n-th thing that it changes."""
    done = 0

    def dying(change: Callable[..., None]) -> Callable[..., None]:
        def changed(*arguments: Any) -> None:
            nonlocal done
            if done == moment:
                raise KilledError
            done += 1
            change(*arguments)

        return changed

    monkeypatch.setattr(place, "write", dying(place.write))
    monkeypatch.setattr(place, "remove", dying(place.remove))


@pytest.mark.parametrize("moment", range(4))
def test_compaction_killed_at_any_moment_loses_nothing(
    place: Place, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(place, 3)
    whole = counted(place)
    assert set(whole.values()) == {3}
    with monkeypatch.context() as patched:
        killing(place, moment, patched)
        with pytest.raises(KilledError):
            compact_month(place, MONTH)
    assert counted(place) == whole
    compact_month(place, MONTH)
    assert counted(place) == whole
    (name,) = place.files()
    assert name.startswith(f"{MONTH}/all-")
    assert compact_month(place, MONTH) is None


class Interrupted(LocalPlace):
    """Another job adds a run and compacts, as a whole, before the n-th step of this one."""

    def __init__(self, root: Path, moment: int) -> None:
        super().__init__(root)
        self.moment = moment
        self.steps = 0

    def step(self) -> None:
        self.steps += 1
        if self.steps == self.moment + 1:
            other = LocalPlace(self.root)
            write(other, night(9), night(9, cell=CELL.replace("small", "large")))
            compact_month(other, MONTH)

    def read(self, name: str) -> bytes:
        self.step()
        return super().read(name)

    def write(self, name: str, data: bytes) -> None:
        self.step()
        super().write(name, data)

    def remove(self, name: str) -> None:
        self.step()
        super().remove(name)


@pytest.mark.parametrize("moment", range(5))
def test_two_compactions_and_an_addition_lose_nothing(tmp_path: Path, moment: int) -> None:
    fill(local(tmp_path), 2)
    place = Interrupted(tmp_path, moment)
    compact_month(place, MONTH)
    assert place.steps > moment
    assert set(counted(place).values()) == {3}


def test_jobs_at_once_on_one_history(tmp_path: Path) -> None:
    faults: list[Exception] = []

    def job(worker: int) -> None:
        place = LocalPlace(tmp_path)
        try:
            for number in range(4):
                # Every second run is added by both jobs.
                own = worker if number % 2 == 0 else 0
                write(place, night(number, run_id=f"r{number}-{own}"))
                compact_month(place, MONTH)
        except Exception as error:  # noqa: BLE001
            faults.append(error)

    jobs = [threading.Thread(target=job, args=(worker,)) for worker in (0, 1)]
    for each in jobs:
        each.start()
    for each in jobs:
        each.join(60)
    assert not faults
    assert counted(LocalPlace(tmp_path)) == {CELL: 6}


def test_a_question_beside_a_compaction(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were listed are gone when they are opened."""
    fill(place)
    whole = counted(place)
    listed = query.read_sources
    calls = 0

    def late(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        sources = listed(*arguments)
        if calls == 1:
            compact_month(place, MONTH)
        return sources

    monkeypatch.setattr(query, "read_sources", late)
    assert counted(place) == whole
    assert calls > 1


def test_a_listing_is_one_of_a_moment() -> None:
    # The new file came too late for the first listing, which missed the old ones that went meanwhile.
    listings = iter([["c"], ["all", "c"], ["all", "c"]])
    assert settled(lambda: next(listings)) == ["all", "c"]
    endless = iter(range(1000))
    with pytest.raises(HistoryError, match="changes faster"):
        settled(lambda: [str(next(endless))])


def test_months_that_are_over_become_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = local(tmp_path)
    for number in (0, 1, 31, 32, 60):
        write(place, night(number))
    tidy(place)
    assert {month: len(names) for month, names in by_month(place.files()).items()} == {
        MONTH: 1,
        "month=2026-02": 1,
        "month=2026-03": 1,
    }
    place = local(tmp_path / "long")
    monkeypatch.setattr(adding, "MOST_SINGLE", 4)
    for number in range(4):
        write(place, night(0, run_id=f"r{number}"))
    tidy(place)
    assert len(place.files()) == 4
    write(place, night(0, run_id="one more"))
    tidy(place)
    assert len(place.files()) == 1


def test_what_a_compacted_file_holds_is_in_the_order_of_questions(tmp_path: Path) -> None:
    place = local(tmp_path)
    fill(place)
    compact_month(place, MONTH)
    table = pq.ParquetFile(place.path(place.files()[0])).read()
    assert table.schema.names == list(rows.COLUMNS)
    assert table["cell"].to_pylist() == sorted(table["cell"].to_pylist())
    assert len(table) == 8


def test_damaged_files_are_named(place: Place) -> None:
    name = write(place, night(0))
    write(place, night(1))
    data = place.read(name)
    for bad in (b"", b"PAR1 nothing PAR1", data[: len(data) // 2], data[:-30] + b"\xff" * 20 + data[-10:]):
        place.write(name, bad)
        with pytest.raises(
            HistoryError, match=r"run-night-0000-\w+\.parquet' is damaged, or no file of a history"
        ):
            counted(place)
        with pytest.raises(HistoryError, match="is damaged"):
            compact_month(place, MONTH)
    assert len(place.files()) == 2


def test_every_flipped_byte_is_noticed_or_harmless(tmp_path: Path) -> None:
    """Never a traceback of another kind."""
    place = local(tmp_path)
    name = write(place, night(0))
    data = place.read(name)
    for position in range(0, len(data), len(data) // 12):
        place.write(name, data[:position] + bytes([data[position] ^ 0x5A]) + data[position + 1 :])
        with contextlib.suppress(HistoryError):
            found(place)


def test_columns_of_other_versions(place: Place) -> None:
    older = rows.to_table(rows.finished([night(0)], START)).drop_columns(
        ["weights", "epoch_seconds", "kernel"]
    )
    place.write(f"{MONTH}/run-old-1.parquet", rows.to_parquet(older))
    write(place, night(1))
    assert counted(place) == {CELL: 2}
    compact_month(place, MONTH)
    assert counted(place) == {CELL: 2}
    newer = rows.to_table(rows.finished([night(2)], START))
    newer = newer.append_column("invented", newer["cell"])
    place.write(f"{MONTH}/run-new-1.parquet", rows.to_parquet(newer))
    assert counted(place) == {CELL: 3}
    with pytest.raises(HistoryError, match=r"not known here \(invented\); update"):
        compact_month(place, MONTH)


def test_links_are_not_followed(tmp_path: Path) -> None:
    place = local(tmp_path / "history")
    name = write(place, night(0))
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "run-b-1.parquet").write_bytes(place.read(name))
    (tmp_path / "history" / MONTH / "run-b-1.parquet").symlink_to(outside / "run-b-1.parquet")
    (tmp_path / "history" / "month=2026-02").symlink_to(outside)
    assert place.files() == [name]
    with pytest.raises(HistoryError, match="is a link"):
        write(place, night(40))
    assert [path.name for path in outside.iterdir()] == ["run-b-1.parquet"]
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "away").symlink_to(tmp_path / "history")
    with pytest.raises(HistoryError, match="holds no run"):
        run_directories([tmp_path / "runs"])


def test_duckdb_reads_the_history_and_nothing_else(tmp_path: Path) -> None:
    import duckdb

    place = local(tmp_path / "history")
    name = write(place, night(0))
    secret = tmp_path / "history-secret.parquet"
    secret.write_bytes(place.read(name))
    with connected([place]) as connection:
        assert connection.execute("select count(*) from read_parquet(?)", [place.path(name)]).fetchone() == (
            1,
        )
        for text in (
            f"select * from read_parquet('{secret}')",
            f"select * from read_parquet('{tmp_path}/history/../history-secret.parquet')",
            "select * from read_text('/etc/passwd')",
            f"copy (select 1) to '{tmp_path}/out.csv'",
            "install httpfs",
            "load httpfs",
            "set enable_external_access = true",
            "set threads = 8",
        ):
            with pytest.raises(duckdb.Error):
                connection.execute(text)
        assert connection.execute("select current_setting('threads')").fetchone() == (2,)


def test_places_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="chains file systems"):
        open_place("simplecache::s3://bucket/x")
    with pytest.raises(HistoryError, match="cannot be opened"):
        open_place("nosuchprotocol://x")
    assert isinstance(open_place(f"file://{tmp_path}"), LocalPlace)
    (tmp_path / "file").write_text("")
    with pytest.raises(HistoryError, match="cannot be listed"):
        local(tmp_path / "file").files()
    with pytest.raises(HistoryError, match="cannot be listed"):
        write(local(tmp_path / "file"), night(0))
    with pytest.raises(HistoryError, match=r"cannot write .* choose another --store"):
        local(tmp_path / "file").write(f"{MONTH}/run-a-1.parquet", b"")
    with pytest.raises(HistoryError, match="holds neither a history nor runs"):
        counted(local(tmp_path / "nowhere"))


def test_runs_that_cannot_be_added(tmp_path: Path) -> None:
    place = local(tmp_path / "history")
    with pytest.raises(HistoryError, match="is no folder"):
        run_directories([tmp_path / "nowhere"])
    write_run(run(started_at="yesterday"), tmp_path / "runs" / "a")
    with pytest.raises(HistoryError, match="cannot be added: Invalid isoformat"):
        list(add_runs([tmp_path / "runs" / "a"], place))
    (tmp_path / "runs" / "b").mkdir()
    (tmp_path / "runs" / "b" / "run.json").write_text("{}")
    with pytest.raises(HistoryError, match="cannot be added"):
        list(add_runs([tmp_path / "runs" / "b"], place))
    assert place.files() == []


def test_compaction_of_nothing(tmp_path: Path) -> None:
    assert compact_month(local(tmp_path), MONTH) is None
    assert not compaction.has(local(tmp_path), "a", "b", MONTH)


def test_compaction_takes_no_changed_figure_over(tmp_path: Path) -> None:
    """Every byte of a column, headers of its pages too: what is read is what was written, or nothing is."""
    place = local(tmp_path)
    name = write(place, night(0, 2e-3))
    data = place.read(name)
    number = list(rows.COLUMNS).index("latency_median_seconds")
    column = pq.ParquetFile(place.path(name)).metadata.row_group(0).column(number)
    start = column.dictionary_page_offset or column.data_page_offset
    refused = 0
    for position in range(start, start + column.total_compressed_size, 2):
        place.write(name, data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        try:
            table = compaction._read(place, name)
        except HistoryError:
            refused += 1
        else:
            assert table["latency_median_seconds"].to_pylist() == [2e-3]
    assert refused > 10
