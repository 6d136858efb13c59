"""The artifact store: what is found is what was built, what is in use stays, and the rest makes room."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from mnv3_bench import cache
from mnv3_bench.cache import MANIFEST, Manifest, Store, hold, size_limit
from mnv3_bench.errors import UsageError
from mnv3_bench.launcher import Launcher
from mnv3_bench.plan import Asked, make_plan
from mnv3_bench.prepare import Preparer
from mnv3_bench.protocol import Done
from mnv3_reports.record import Note

if TYPE_CHECKING:
    from pathlib import Path

KB = 1000


def key(name: str) -> dict[str, Any]:
    return {"kind": "test", "name": name}


def build(store: Store, name: str, size: int = 10 * KB) -> Manifest:
    with store.begin(key(name)) as building:
        (building.directory / "inner").mkdir()
        (building.directory / "inner" / "model.bin").write_bytes(os.urandom(size))
        (building.directory / "about.json").write_text("{}")
        return building.finish(build_seconds=1.25, built_at="2026-01-01", facts={"opset": 17, "share": 0.5})


def names(store: Store) -> set[str]:
    return {entry.name for entry in store.entries()}


def flip(file: Path, place: int) -> None:
    """Change one bit, as a disk does: nothing else of the file tells of it."""
    before = file.stat()
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def aged(store: Store, *order: str) -> None:
    """Let entries have been used in this order, long ago."""
    for second, name in enumerate(order):
        os.utime(store.path(key(name)), (1000.0 + second, 1000.0 + second))


def in_process(store: Store, body: str) -> subprocess.Popen[str]:
    """Another process with that store, which says a line once it has done something and then waits."""
    program = textwrap.dedent(
        f"""
        import sys, time
        from pathlib import Path
        from mnv3_bench.cache import Store, hold
        store = Store(Path({str(store.root)!r}))
        key = lambda name: {{"kind": "test", "name": name}}
        """
    ) + textwrap.dedent(body)
    program += "\nprint('done', flush=True)\ntime.sleep(60)\n"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "done\n"
    return process


def test_what_was_built_is_found_by_any_store(tmp_path: Path) -> None:
    built = build(Store(tmp_path), "a")
    assert Store(tmp_path).find(key("a")) == built
    assert built.files == {"about.json": 2, "inner/model.bin": 10 * KB}
    assert Store(tmp_path).find(key("b")) is None


@pytest.mark.parametrize("file", ["inner/model.bin", "about.json"])
def test_a_flipped_bit_is_noticed_before_use_and_the_entry_built_anew(tmp_path: Path, file: str) -> None:
    first = Store(tmp_path)
    build(first, "a")
    first.close()
    flip(first.path(key("a")) / file, 1)
    store = Store(tmp_path)
    assert store.find(key("a")) is None
    assert store.damaged == {store.path(key("a")).name: f"{file} is not what was built: its SHA-256 differs"}
    again = build(store, "a")
    assert store.find(key("a")) == again == Store(tmp_path).find(key("a"))
    assert store.damaged == {}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(("building", "removing"))] == []


def test_a_flipped_bit_of_the_manifest_never_becomes_a_fact(tmp_path: Path) -> None:
    built = build(Store(tmp_path), "a")
    file = Store(tmp_path).path(key("a")) / MANIFEST
    whole = file.read_bytes()
    missed = 0
    for place in range(0, len(whole), 3):
        flip(file, place)
        store = Store(tmp_path)
        missed += store.find(key("a")) is not None
        store.close()
        file.write_bytes(whole)
    assert missed == 0
    assert Store(tmp_path).find(key("a")) == built


def test_a_missing_file_or_an_older_version_s_entry_is_built_anew(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in ("lacks", "old", "empty"):
        build(store, name)
    (store.path(key("lacks")) / "inner" / "model.bin").unlink()
    old = store.path(key("old")) / MANIFEST
    document = msgspec.json.decode(old.read_bytes())
    del document["digests"], document["seal"]
    old.write_bytes(msgspec.json.encode(document))
    (store.path(key("empty")) / MANIFEST).unlink()
    other = Store(tmp_path)
    assert [other.find(key(name)) for name in ("lacks", "old", "empty")] == [None, None, None]
    assert other.damaged == {
        other.path(key("lacks")).name: "model.bin cannot be read: No such file or directory"
    }
    for name in ("lacks", "old", "empty"):
        assert build(other, name) == Store(tmp_path).find(key(name))


def test_a_run_reads_every_byte_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(Store(tmp_path), "a")
    read: list[Path] = []
    real = cache.compare

    def counting(directory: Path, manifest: Manifest) -> None:
        read.append(directory)
        real(directory, manifest)

    monkeypatch.setattr(cache, "compare", counting)
    for _ in range(2):
        store = Store(tmp_path)
        for _ in range(3):
            assert store.find(key("a")) is not None
    assert len(read) == 2
    (store.path(key("a")) / "about.json").write_text("[]")
    assert store.find(key("a")) is None, "what was touched since is read again"


def test_the_longest_unused_make_room_and_what_is_in_use_never_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MNV3_BENCH_CACHE_LIMIT", "35KB")
    builder = Store(tmp_path)
    for name in "abc":
        build(builder, name)
    aged(builder, "a", "b", "c")
    builder.close()
    user = Store(tmp_path)
    assert user.find(key("b")) is not None
    build(user, "d")
    assert names(user) == {user.path(key(name)).name for name in "bcd"}, "a went, unused for longest"
    aged(user, "b", "c", "d")
    other = Store(tmp_path)
    build(other, "e")
    assert names(user) == {user.path(key(name)).name for name in "bde"}, "c went; b is used by another"
    build(other, "f")
    assert names(user) == {user.path(key(name)).name for name in "bdef"}, "all are in use: the limit waits"
    user.close()
    build(other, "g")
    assert names(other) == {other.path(key(name)).name for name in "efg"}


def test_without_a_limit_nothing_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNV3_BENCH_CACHE_LIMIT", "none")
    for name in "abc":
        store = Store(tmp_path)
        build(store, name)
        store.close()
    assert len(names(store)) == 3


@pytest.mark.parametrize(
    ("given", "expected"), [(None, 20 * 10**9), ("", 20 * 10**9), ("5GB", 5 * 10**9), ("NONE", None)]
)
def test_the_limit(monkeypatch: pytest.MonkeyPatch, given: str | None, expected: int | None) -> None:
    monkeypatch.delenv("MNV3_BENCH_CACHE_LIMIT", raising=False)
    if given is not None:
        monkeypatch.setenv("MNV3_BENCH_CACHE_LIMIT", given)
    assert size_limit() == expected
    for wrong in ("lots", "-1GB", "0"):
        monkeypatch.setenv("MNV3_BENCH_CACHE_LIMIT", wrong)
        with pytest.raises(
            UsageError, match=f"MNV3_BENCH_CACHE_LIMIT={wrong} is not a size; type for example"
        ):
            size_limit()


def test_leases_of_another_process_hold_until_it_ends_however_it_ends(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in "ab":
        build(store, name)
    store.close()
    finder = in_process(store, "assert store.find(key('a')) is not None")
    holder = in_process(store, "hold([store.path(key('b')) / 'about.json'])")
    try:
        assert store.trim(0) == []
        finder.send_signal(signal.SIGKILL)
        finder.wait()
        assert [entry.name for entry in store.trim(0)] == [store.path(key("a")).name]
    finally:
        for process in (finder, holder):
            process.kill()
            process.communicate()
    assert len(store.trim(0)) == 1
    assert names(store) == set()


def test_what_a_killed_builder_left_is_swept_and_what_one_builds_is_not(tmp_path: Path) -> None:
    store = Store(tmp_path)
    tmp_path.joinpath("building-999999999-abc").mkdir()  # of an earlier version, whose process is gone
    builder = in_process(
        store, "building = store.begin(key('a')); (building.directory / 'f').write_text('x')"
    )
    (left,) = [path for path in tmp_path.glob("building-*") if "99999" not in path.name]
    try:
        build(store, "b")
        assert (left / "f").exists()
    finally:
        builder.kill()
        builder.communicate()
    build(store, "c")
    assert not left.exists()
    assert list(tmp_path.glob("building-*")) == []


def test_two_processes_that_build_use_and_remove_the_same_never_see_half_of_anything(tmp_path: Path) -> None:
    program = textwrap.dedent(
        f"""
        import os, random, sys
        from pathlib import Path
        from mnv3_bench.cache import Store
        seed = int(sys.argv[1])
        chance, found, built = random.Random(seed), 0, 0
        for _ in range(60):
            store = Store(Path({str(tmp_path / "store")!r}))
            used = []
            for number in chance.sample(range(6), 2):
                key = {{"kind": "test", "name": number}}
                manifest = store.find(key)
                if manifest is None:
                    with store.begin(key) as building:
                        for part in range(3):
                            (building.directory / f"part-{{part}}").write_bytes(bytes([number]) * 4000)
                        manifest = building.finish(build_seconds=0.1, built_at="", facts={{}})
                    built += 1
                else:
                    found += 1
                used.append((number, store.path(key)))
                for number, directory in used:
                    for part in range(3):
                        assert (directory / f"part-{{part}}").read_bytes() == bytes([number]) * 4000
            store.close()
        print(found, built)
        """
    )
    environment = {**os.environ, "MNV3_BENCH_CACHE_LIMIT": "30KB"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(seed)], env=environment, stdout=subprocess.PIPE, text=True
        )
        for seed in range(3)
    ]
    counts = [tuple(map(int, process.communicate(timeout=60)[0].split())) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum(found for found, _ in counts) > 10
    assert sum(built for _, built in counts) > 10
    store = Store(tmp_path / "store")
    store.sweep()
    assert {path.name for path in store.root.iterdir()} == {".leases", *names(store)}
    assert [store.check(name) for name in names(store)] == [None] * len(names(store))


def test_who_comes_second_uses_what_is_there(tmp_path: Path) -> None:
    one, two = Store(tmp_path), Store(tmp_path)
    with one.begin(key("a")) as first, two.begin(key("a")) as second:
        for building in (first, second):
            (building.directory / "f").write_bytes(os.urandom(10))
        kept = first.finish(build_seconds=1.0, built_at="first", facts={})
        assert second.finish(build_seconds=2.0, built_at="second", facts={}) == kept
    assert Store(tmp_path).find(key("a")) == kept


@pytest.mark.skipif(not hasattr(fcntl, "F_OFD_SETLK"), reason="what other systems do is what is tried here")
def test_without_locks_of_parts_of_files_whatever_is_used_keeps_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(fcntl, "F_OFD_SETLK")
    store = Store(tmp_path)
    for name in "ab":
        build(store, name)
    store.close()
    user = Store(tmp_path)
    assert user.find(key("a")) is not None
    assert store.trim(0) == []
    flip(user.path(key("a")) / "about.json", 0)
    assert user.find(key("a")) is None
    build(user, "a")
    assert user.find(key("a")) is not None
    user.close()
    assert len(store.trim(0)) == 2


def test_a_store_that_cannot_be_leased_is_still_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(Store(tmp_path), "a")
    (tmp_path / ".leases").unlink()
    (tmp_path / ".leases").mkdir()
    store = Store(tmp_path)
    assert store.find(key("a")) is not None
    assert store.trim(0) == [], "nobody could tell whether it is in use"


def test_the_record_says_that_an_entry_was_damaged(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    build(store, "a")
    flip(store.path(key("a")) / "about.json", 0)
    plan = make_plan(Asked(variants="small@0.35", backends="eager", references="none", resolutions=32))
    launcher, entries = Launcher(tmp_path / "logs", memory_limit=None), []
    preparer = Preparer(
        *(plan.request, plan.cells, Store(store.root), launcher, plan.limits, entries.append),
        lambda _title, _work: None,
    )

    class Stub:
        def kill(self) -> None: ...

    preparer._worker = lambda *_: Stub()  # type: ignore[assignment,method-assign,return-value]
    building = preparer.build(key("a"), "weights of v9", lambda _directory: Done(0.0))
    next(building)
    with pytest.raises(StopIteration):
        building.send(Done(0.5))
    assert entries == [
        Note(
            "weights of v9: the cached entry was damaged and is built anew "
            "(about.json is not what was built: its SHA-256 differs)"
        )
    ]


def test_holding_what_is_not_there_is_nothing(tmp_path: Path) -> None:
    hold([tmp_path / "absent" / "f"])
    assert not (tmp_path / "absent").exists()


@pytest.mark.thorough
def test_two_real_runs_at_once_on_an_empty_cache_that_holds_neither(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "MNV3_BENCH_CACHE": str(tmp_path / "cache"),
        "MNV3_BENCH_CACHE_LIMIT": "1MB",
    }
    asked = ("--variants", "small@0.35", "--references", "none", "--resolutions", "64", "--quick")
    both = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "mnv3_bench.cli", *asked, "--time-budget", "4s"),
                *("--backends", backends, "--output", str(tmp_path / backends)),
            ],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for backends in ("eager,onnxruntime", "onnxruntime,eager-channels-last")
    ]
    told = [run.communicate(timeout=300)[1] for run in both]
    assert [run.returncode for run in both] == [0, 0], told
    store = Store(tmp_path / "cache")
    assert [store.check(name) for name in names(store)] == [None] * len(names(store))
    kept = names(store)
    assert len(kept) >= 8, "what they used stayed to their ends, beyond the limit"
    assert {entry.name for entry in store.trim(0)} == kept, "nobody uses it any more"
