"""A plan measured on several hosts: what is divided, sent, copied and refused; and a small fleet of this machine."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from fakes import mnv3_fakes
from fakes.farm import Farm
from reports import factory

from mnv3_bench.cache import Store, digest
from mnv3_bench.errors import UsageError
from mnv3_bench.fleet import groups, host, shipping, wire
from mnv3_bench.fleet.cluster import local_hosts
from mnv3_bench.fleet.copies import Copy
from mnv3_bench.fleet.ledger import Ledger
from mnv3_reports.fleet import (
    FLEET,
    FLEET_SCHEMA,
    Assigned,
    AttemptEnded,
    FleetError,
    FleetStarted,
    Group,
    GroupFailed,
    GroupPlanned,
    HostJoined,
    host_runs,
    read_fleet,
    safe_name,
)
from mnv3_reports.fleet_report import write_fleet_report
from mnv3_reports.journal import Journal
from mnv3_reports.record import Cell, Request, Run

if TYPE_CHECKING:
    from collections.abc import Sequence


def cells(threads: Sequence[int] = (1, 2)) -> list[Cell]:
    return [
        Cell(variant, backend, threads=thread)
        for thread in threads
        for variant in ("v2", "v3-small")
        for backend in ("eager", "onnxruntime")
    ]


def request(**changes: Any) -> Request:
    return msgspec.structs.replace(
        factory.request(backends=("eager", "onnxruntime"), threads=(1, 2)), **changes
    )


# What is divided.


def test_cells_that_are_compared_stay_together() -> None:
    found = groups.groups(cells(), "any")
    assert [len(group.cells) for group in found] == [4, 4]
    for group in found:
        assert len({Cell.from_key(key).setting for key in group.cells}) == 1
    assert sorted(key for group in found for key in group.cells) == sorted(cell.key for cell in cells())


def test_groups_of_two_kinds_have_names_of_their_own_that_folders_may_have() -> None:
    names = [group.name for kind in ("board=pi5", "board=x86*") for group in groups.groups(cells(), kind)]
    assert len(set(names)) == 4
    assert all(safe_name(name) for name in names)


def test_a_group_gets_its_share_of_the_time() -> None:
    asked = request(time_budget=80.0, tune=40.0)
    first, _ = groups.groups(cells(), "any")
    mine = groups.request_of(asked, first, 8)
    assert (mine.threads, mine.time_budget, mine.tune) == ((1,), 40.0, 20.0)


@pytest.mark.parametrize(
    ("pattern", "labels", "fits"),
    [
        ("board=pi5", {"board": "pi5"}, True),
        ("board=pi5", {"board": "pi50"}, False),
        ("board=x86*", {"board": "x86-64"}, True),
        ("board=x86*", {}, False),
        ("board=pi5&room=2", {"board": "pi5", "room": "2"}, True),
        ("board=pi5&room=2", {"board": "pi5"}, False),
        ("board=PI5", {"board": "pi5"}, False),
    ],
)
def test_patterns_of_labels(pattern: str, labels: dict[str, str], fits: bool) -> None:
    assert groups.matches(pattern, labels) is fits


@pytest.mark.parametrize("text", ["", ",", "board", "board=pi5,room", "=pi5"])
def test_a_pattern_without_a_label_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--on"):
        groups.patterns(text)


@pytest.mark.parametrize("label", ["board", "=x", "board=", "board=a*b", "a,b=c"])
def test_a_label_that_no_pattern_could_name_is_refused(label: str) -> None:
    with pytest.raises(UsageError, match="--label"):
        wire.labels_of([label])


@pytest.mark.parametrize(
    "name", ["../up", "/etc", "a/b", "", ".", "..", "nul\0", "x" * 200, "<script>", "SLURM-0 (1)"]
)
def test_a_name_from_another_machine_cannot_leave_its_folder(name: str) -> None:
    folder = groups.folder_name(name)
    assert safe_name(folder)
    assert not {"/", "\\"} & set(folder)
    assert folder != groups.folder_name(name + "'")


# What is typed.


def refused(*arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "mnv3_bench.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )
    lines = done.stderr.strip().splitlines()
    assert (done.returncode, len(lines)) == (2, 1), done.stderr
    return lines[0]


@pytest.mark.parametrize(
    "address", ["local:0", "local:x", "local:65", "192.168.1.5:8786", "http://host:1", ""]
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="expected a scheduler's address"):
        local_hosts(address)


def test_addresses() -> None:
    assert local_hosts("local:3") == 3
    assert local_hosts("tcp://127.0.0.1:8786") is None
    assert local_hosts("tls://farm.example:8786") is None


def test_bad_requests_are_one_line(tmp_path: Path) -> None:
    assert "--fleet" in refused("run", "--on", "board=pi5")
    assert "no scheduler answers" in refused(
        "run", "--fleet", "tcp://127.0.0.1:9", "--output", str(tmp_path / "a")
    )
    assert "have no labels" in refused("run", "--fleet", "local:1", "--on", "board=pi5")
    assert "is code, which is not sent" in refused(
        "run", "--fleet", "local:1", "--model", "tests.contract_net:Net", "--input", "1x3x32x32",
        PYTHONPATH=str(Path(__file__).parents[2]),
    )  # fmt: skip
    assert "NAME=VALUE" in refused("worker", "tcp://127.0.0.1:9", "--label", "pi5")
    assert "no scheduler to join" in refused("worker", "local:2")


# What is sent.


@pytest.fixture
def stores(tmp_path: Path) -> tuple[Store, Store, dict[str, Any]]:
    """A store with one entry of two files, an empty one, and the entry's key."""
    there, here = Store(tmp_path / "there"), Store(tmp_path / "here")
    key = {"kind": "artifact", "of": "v2"}
    with there.begin(key) as building:
        (building.directory / "deep").mkdir()
        (building.directory / "model.bin").write_bytes(os.urandom(70_000))
        (building.directory / "deep" / "empty").write_bytes(b"")
        building.finish(build_seconds=1.5, built_at="2026-01-01", facts={"ops": 3})
    return there, here, key


def ship(there: Store, receiver: shipping.Receiver, name: str, spoil: bytes | None = None) -> None:
    manifest, told = shipping.manifest_of(there, name)
    receiver.begin(name, manifest)
    hashes = {}
    for file, size in told.files.items():
        path = there.root / name / file
        hashes[file] = shipping.digest_of_file(path)
        for offset in range(0, size, 30_000):
            data = path.read_bytes()[offset : offset + 30_000]
            receiver.piece(name, file, offset, spoil if spoil is not None and offset else data)
    receiver.end(name, hashes)


def test_an_entry_arrives_whole(stores: tuple[Store, Store, dict[str, Any]]) -> None:
    there, here, key = stores
    receiver, name = shipping.Receiver(here), digest(key)
    assert receiver.lacking([name]) == [name]
    ship(there, receiver, name)
    assert receiver.lacking([name]) == []
    for file in ("model.bin", "deep/empty"):
        assert (here.root / name / file).read_bytes() == (there.root / name / file).read_bytes()
    found = here.find(key)
    assert found is not None
    assert (found.build_seconds, found.facts) == (1.5, {"ops": 3})


def test_an_entry_that_was_damaged_on_the_way_is_not_kept(
    stores: tuple[Store, Store, dict[str, Any]],
) -> None:
    there, here, key = stores
    receiver = shipping.Receiver(here)
    with pytest.raises(wire.WireError, match="damaged"):
        ship(there, receiver, digest(key), spoil=b"\0" * 30_000)
    assert receiver.lacking([digest(key)]) == [digest(key)]
    assert not list(here.root.glob("building-*"))


@pytest.mark.parametrize("file", ["../out", "/etc/passwd", "a/../../b", "a\\b", "", "nul\0"])
def test_an_entry_cannot_write_elsewhere(stores: tuple[Store, Store, dict[str, Any]], file: str) -> None:
    there, here, key = stores
    manifest, _ = shipping.manifest_of(there, digest(key))
    told = msgspec.json.decode(manifest)
    told["files"] = {file: 1}
    receiver = shipping.Receiver(here)
    with pytest.raises(wire.WireError):
        receiver.begin(digest(key), msgspec.json.encode(told))
    with pytest.raises(wire.WireError, match="before its beginning"):
        receiver.piece(digest(key), file, 0, b"x")


def test_an_entry_under_another_name_is_refused(stores: tuple[Store, Store, dict[str, Any]]) -> None:
    there, here, key = stores
    manifest, _ = shipping.manifest_of(there, digest(key))
    with pytest.raises(wire.WireError, match="was sent as"):
        shipping.Receiver(here).begin("0" * 20, manifest)


def test_a_host_answers_only_what_it_may_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNV3_BENCH_CACHE", str(tmp_path))
    for outside in ("../../etc/passwd", "/etc/passwd"):
        failure, value = host.answer("read", "fleet", "host/group", outside, 0)
        assert value is None
        assert failure is not None
        failure, _ = host.answer("state", outside, "host/group", "journal.jsonl")
        assert failure is not None
    with pytest.raises(KeyError):
        host.answer("measure", b"")
    failure, data = host.answer("identify")
    assert failure is None
    assert wire.decode(data, wire.Identity).machine.usable_cpus >= 1


def test_a_file_of_the_users_arrives_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNV3_BENCH_CACHE", str(tmp_path / "cache"))
    weights = tmp_path / "small.safetensors"
    weights.write_bytes(os.urandom(100))
    (file,) = shipping.files_of(request(weights={"v3-small": str(weights)}))
    data = wire.encode(file)
    assert host.lacks_file(data)
    with pytest.raises(wire.WireError, match="damaged"):
        host.take_file(data, 0, b"x" * 100, True)
    host.take_file(data, 0, weights.read_bytes()[:60], False)
    host.take_file(data, 60, weights.read_bytes()[60:], True)
    assert not host.lacks_file(data)
    there = shipping.localized(request(weights={"v3-small": str(weights)}), (file,))
    assert Path(there.weights["v3-small"]).read_bytes() == weights.read_bytes()
    assert Path(there.weights["v3-small"]).is_relative_to(tmp_path / "cache")


def test_an_order_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNV3_BENCH_CACHE", str(tmp_path))
    with pytest.raises(wire.WireError, match="cannot be read as Order"):
        asyncio.run(host.measure(b'{"fleet": 3}'))


# What is copied.


def test_a_copy_holds_whole_lines_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "host" / "journal.jsonl"
    copy = Copy(path)
    assert copy.extend(b"one\ntwo\nthr") == 8
    copy.close()
    with path.open("ab") as file:
        file.write(b"torn")
    copy = Copy(path)
    assert copy.size == 8
    assert copy.extend(b"three\n") == 6
    assert path.read_bytes() == b"one\ntwo\nthree\n"


def test_a_copy_of_what_was_begun_anew_is_kept_aside(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    copy = Copy(path)
    copy.extend(b"one\ntwo\n")
    assert not copy.ahead_of(0, certain=False), "nobody has begun there yet"
    assert copy.ahead_of(4, certain=True)
    copy.set_aside()
    copy.extend(b"new\n")
    assert path.read_bytes() == b"new\n"
    assert (tmp_path / "lost-1.jsonl").read_bytes() == b"one\ntwo\n"


# What is recorded.


def header(**changes: Any) -> FleetStarted:
    started = FleetStarted(
        schema=FLEET_SCHEMA,
        fleet_id="fleet-1",
        started_at="2026-01-01T00:00:00+00:00",
        command="mnv3-bench run --fleet local:2",
        address="local:2",
        request=request(),
        cells=tuple(cell.key for cell in cells()),
        requested=True,
        kinds=(),
    )
    return msgspec.structs.replace(started, **changes)


def measured(cells_of: Sequence[str]) -> Run:
    """A run of some cells, from the factory's run of all of them."""
    whole = factory.whole_run(request(references=(), variants=("v2", "v3-small")), epochs=3)
    start = msgspec.structs.replace(whole.header, cells=tuple(cells_of))
    run = Run.started(start)
    run.cells = {key: whole.cells[key] for key in cells_of}
    run.blocks = [block for block in whole.blocks if block.cell in cells_of]
    run.variants, run.epochs, run.finished = whole.variants, whole.epochs, whole.finished
    return run


def written(run: Run, directory: Path) -> None:
    directory.mkdir(parents=True)
    with Journal.create(directory / "journal.jsonl") as journal:
        journal.append(run.header)
        for record in run.cells.values():
            for entry in (record.prepared, record.inspected, record.failure):
                if entry is not None:
                    journal.append(entry)
        for block in run.blocks:
            journal.append(block)
        if run.finished is not None:
            journal.append(run.finished)


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    """Two groups: one that a host was lost over and another measured, one that was given up half-way."""
    directory = tmp_path / "fleet"
    ledger = Ledger.create(directory, header())
    first, second = groups.groups(cells(), "any")
    machine = factory.whole_run(request(), epochs=3).header.machine
    for group in (first, second):
        ledger.record(GroupPlanned(group))
    for name in ("a", "b"):
        ledger.record(HostJoined(name, "any", {}, machine, "p"))
    ledger.record(Assigned(f"a/{first.name}", first.name, "a", "t"))
    cut = measured(first.cells)
    cut.blocks, cut.finished = cut.blocks[:3], None
    written(cut, directory / "hosts" / "a" / first.name)
    ledger.record(AttemptEnded(f"a/{first.name}", first.name, "lost", "t", "it left"))
    ledger.record(Assigned(f"b/{first.name}", first.name, "b", "t"))
    written(measured(first.cells), directory / "hosts" / "b" / first.name)
    ledger.record(AttemptEnded(f"b/{first.name}", first.name, "complete", "t"))
    ledger.record(Assigned(f"b/{second.name}", second.name, "b", "t"))
    half = measured(second.cells)
    half.finished = None
    written(half, directory / "hosts" / "b" / second.name)
    ledger.record(GroupFailed(second.name, "no host of kind any was there"))
    ledger.close()
    return directory


def test_every_cell_is_in_the_record_once_measured_or_as_a_named_failure(fleet: Path) -> None:
    (found,) = host_runs(fleet, read_fleet(fleet))
    assert found.host.host == "b"
    assert sorted(found.run.cells) == sorted(cell.key for cell in cells())
    for key, record in found.run.cells.items():
        thread = Cell.from_key(key).threads
        assert (record.failure is not None) == (thread == 2)
        if record.failure is not None:
            assert record.failure.reason == "no host of kind any was there"
    assert found.run.finished is None


def test_reports_of_a_fleet_say_what_was_lost(fleet: Path) -> None:
    paths = write_fleet_report(fleet, ["md", "html"])
    assert {fleet / "report.md", fleet / "hosts" / "b" / "report.md"} <= set(paths)
    text = (fleet / "report.md").read_text()
    for part in ("was begun and lost: it left", "no host of kind any was there", "disturbed each other"):
        assert part in text, part


def test_a_fleet_whose_hosts_measured_nothing_has_a_report(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path / "fleet", header(address="tcp://h:1"))
    (group, _) = groups.groups(cells(), "any")
    ledger.record(GroupPlanned(group))
    ledger.record(GroupFailed(group.name, "no host was there"))
    ledger.close()
    write_fleet_report(tmp_path / "fleet", ["md", "html"])
    assert "no host was there" in (tmp_path / "fleet" / "report.md").read_text()


def test_a_journal_that_was_cut_off_is_read_and_gone_on_with(fleet: Path) -> None:
    whole = (fleet / FLEET).read_bytes()
    (fleet / FLEET).write_bytes(whole + b'{"type":"assi')
    assert len(read_fleet(fleet).attempts) == 3
    ledger = Ledger.resume(fleet)
    ledger.close()
    assert (fleet / FLEET).read_bytes() == whole


def test_a_client_killed_within_its_first_line_begins_anew(tmp_path: Path) -> None:
    (tmp_path / FLEET).write_bytes(msgspec.json.encode(header())[:20])
    Ledger.create(tmp_path, header()).close()
    assert read_fleet(tmp_path).header == header()
    with pytest.raises(UsageError, match=r"exists already.*--resume"):
        Ledger.create(tmp_path, header())


def test_a_file_that_is_no_fleets_stays_as_it_is(tmp_path: Path) -> None:
    other = b'{"mine": 1}\nand half a line'
    (tmp_path / FLEET).write_bytes(other)
    for begin in (lambda: Ledger.create(tmp_path, header()), lambda: Ledger.resume(tmp_path)):
        with pytest.raises(UsageError):
            begin()
    assert (tmp_path / FLEET).read_bytes() == other


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{}", "damaged in line 2"),
        (b'{"type":"assigned","attempt":"../../up","group":"g","host":"a","at":"t"}', "no folder's"),
        (b'{"type":"fleet-finished","ended_at":3,"status":"x"}', "damaged in line 2"),
    ],
)
def test_a_damaged_journal_of_a_fleet_is_one_line(tmp_path: Path, line: bytes, why: str) -> None:
    first = msgspec.json.encode(header())
    (tmp_path / FLEET).write_bytes(first + b"\n" + line + b"\n")
    with pytest.raises(FleetError, match=why):
        read_fleet(tmp_path)


def test_a_newer_journal_of_a_fleet_is_refused_with_its_version(tmp_path: Path) -> None:
    (tmp_path / FLEET).write_bytes(msgspec.json.encode(header(schema=FLEET_SCHEMA + 1)) + b"\n")
    with pytest.raises(FleetError, match="update mnv3-bench"):
        read_fleet(tmp_path)


def test_two_clients_do_not_write_one_journal(fleet: Path) -> None:
    ledger = Ledger.resume(fleet)
    with pytest.raises(UsageError, match="still going on"):
        Ledger.resume(fleet)
    ledger.close()


def test_a_cell_that_was_measured_twice_on_a_host_is_noticed(fleet: Path) -> None:
    known = read_fleet(fleet)
    first = next(iter(known.groups.values()))
    again = Group("group-again", "any", first.cells)
    known.groups[again.name] = again
    known.attempts["b/group-again"] = Assigned("b/group-again", again.name, "b", "t")
    known.ended["b/group-again"] = AttemptEnded("b/group-again", again.name, "complete", "t")
    written(measured(first.cells), fleet / "hosts" / "b" / again.name)
    with pytest.raises(FleetError, match="measured twice"):
        host_runs(fleet, known)


# A fleet.

SMALL = (
    "--variants", "small-minimal@0.35", "--references", "none", "--resolutions", "32", "--quick", "--time-budget", "4s",
)  # fmt: skip


def test_two_hosts_of_this_machine_measure_on_real_backends(tmp_path: Path) -> None:
    output = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-m", "mnv3_bench.cli", "run", *SMALL, "--backends", "eager,onnxruntime", "--threads", "1,2",
         "--fleet", "local:2", "--output", str(output)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    fleet = read_fleet(output)
    assert len(fleet.hosts) == 2
    found = host_runs(output, fleet)
    assert sum(len(each.run.cells) for each in found) == 4
    for each in found:
        assert {block.cell for block in each.run.blocks} == set(each.run.cells)
        assert (output / "hosts" / each.host.host / "report.md").is_file()
    assert "disturbed each other" in (output / "report.md").read_text()


@pytest.mark.thorough
def test_labelled_hosts_that_are_killed_and_a_client_that_is(tmp_path: Path) -> None:
    environment = {**mnv3_fakes.registered(tmp_path / "fakes"), "MNV3_BENCH_CACHE": str(tmp_path / "client")}
    output = tmp_path / "run"
    with Farm(tmp_path, environment) as farm:
        farm.start_worker("pi", "board=pi5", cache=tmp_path / "pi")
        farm.start_worker("pc", "board=x86-64", cache=tmp_path / "pc")
        client = farm.run(
            output,
            *SMALL,
            "--backends",
            "fake-sleep,fake-absent",
            "--threads",
            "1,2",
            "--on",
            "board=pi5,board=x86*",
        )
        while not (output / "hosts" / "pi").is_dir():
            assert client.poll() is None, client.communicate()
        farm.kill_worker("pi")
        client.kill()
        client.communicate(timeout=60)
        client = farm.run(output, "--resume", str(output))
        text = "".join(client.communicate(timeout=300))
        assert client.returncode == 5, text  # fake-absent was asked for by name
        fleet = read_fleet(output)
        shipped = [(each.host, each.digest) for each in fleet.shipped]
        assert shipped
        assert len(shipped) == len(set(shipped)), "an entry came to a host twice"
        found = host_runs(output, fleet)
        assert sorted(each.host.host for each in found) == ["pc", "pi"]
        for each in found:
            assert [skip.backend for skip in each.run.skipped] == ["fake-absent"]
            assert len(each.run.cells) == 2
            assert {block.cell for block in each.run.blocks} == set(each.run.cells)
