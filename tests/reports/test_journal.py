"""The journal survives what kills a run, and says what is wrong with what it cannot read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import pytest
from reports import factory

from mnv3_reports import disk
from mnv3_reports.journal import Journal, JournalError, assemble, read_journal
from mnv3_reports.record import SCHEMA_VERSION, Block, Cell, Entry, Fidelity, Note, RunResumed


def written(path: Path) -> Path:
    with Journal.create(path) as journal:
        for entry in factory.entries_of(factory.whole_run(epochs=2, rounds=2, calls=3)):
            journal.append(entry)
    return path


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    run = factory.whole_run(epochs=2, rounds=2, calls=3)
    entries = read_journal(written(tmp_path / "j"))
    assert entries == factory.entries_of(run)
    assert assemble(entries) == run


def test_a_torn_last_line_and_nothing_else_is_forgiven(tmp_path: Path) -> None:
    path = written(tmp_path / "j")
    whole = path.read_bytes()
    entries = read_journal(path)
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for cut in (last + 1, last + 20, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert read_journal(path) == entries[:-1]
    lines = whole.split(b"\n")
    lines[3] = lines[3][:-5]
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(JournalError, match="damaged in line 4"):
        read_journal(path)


def test_resume_drops_the_torn_tail_and_goes_on(tmp_path: Path) -> None:
    path = written(tmp_path / "j")
    entries = read_journal(path)
    with path.open("ab") as file:
        file.write(b'{"type":"note","te')
    with Journal.resume(path) as journal:
        journal.append(Note("went on"))
    assert read_journal(path) == [*entries, Note("went on")]


def test_killing_the_process_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "j"
    program = textwrap.dedent(
        f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        from mnv3_reports.journal import Journal
        from reports import factory
        journal = Journal.create({str(path)!r})
        for entry in factory.entries_of(factory.whole_run(epochs=1, rounds=1, calls=2)):
            journal.append(entry)
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    ended = subprocess.run([sys.executable, "-c", program], check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    assert read_journal(path) == factory.entries_of(factory.whole_run(epochs=1, rounds=1, calls=2))


def test_every_entry_is_on_the_disk_before_it_counts_as_appended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "runs" / "one" / "j"
    path.parent.mkdir(parents=True)
    steps: list[str] = []
    real_write, real_open = os.write, os.open
    opened: dict[int, str] = {}

    def opening(file: str, flags: int, *mode: int) -> int:
        descriptor = real_open(file, flags, *mode)
        opened[descriptor] = Path(file).name
        return descriptor

    def write(descriptor: int, data: bytes) -> int:
        steps.append("write")
        return real_write(descriptor, data)

    monkeypatch.setattr(os, "open", opening)
    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(os, "fsync", lambda descriptor: steps.append(f"sync {opened[descriptor]}"))
    monkeypatch.setattr(disk, "_sync_data", lambda descriptor: steps.append(f"sync {opened[descriptor]}"))
    with Journal.create(path) as journal:
        assert steps == ["sync one", "sync runs"], "the names of the journal and of its folder"
        for entry in factory.entries_of(factory.whole_run(epochs=1, rounds=1, calls=1)):
            steps.clear()
            journal.append(entry)
            assert steps == ["write", "sync j"]


def test_what_the_disk_did_not_take_is_not_in_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems say only when asked to synchronise that there was no room."""

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with Journal.create(tmp_path / "j") as journal:
        journal.append(factory.header())
        monkeypatch.setattr(disk, "_sync_data", full)
        with pytest.raises(JournalError, match="disk is full; free some space"):
            journal.append(Note("lost"))
        monkeypatch.undo()
        journal.append(Note("after some space was freed"))
    assert read_journal(tmp_path / "j") == [factory.header(), Note("after some space was freed")]


def test_a_tail_of_zeros_as_a_power_cut_leaves_it_is_forgiven(tmp_path: Path) -> None:
    path = written(tmp_path / "j")
    entries = read_journal(path)
    with path.open("ab") as file:
        file.write(bytes(4096))
    assert read_journal(path) == entries
    with Journal.resume(path) as journal:
        journal.append(Note("went on"))
    assert read_journal(path) == [*entries, Note("went on")]


@pytest.mark.parametrize("left", [b"", b'{"type":"sta', b'{"type":"started","schema":4,"run_id":"2'])
def test_what_was_cut_off_within_its_first_line_is_begun_again(tmp_path: Path, left: bytes) -> None:
    (tmp_path / "j").write_bytes(left)
    with Journal.create(tmp_path / "j") as journal:
        with pytest.raises(JournalError, match="that run is still going on"):
            Journal.create(tmp_path / "j")
        journal.append(factory.header())
    assert read_journal(tmp_path / "j") == [factory.header()]


def test_a_file_that_is_no_journal_is_not_begun_again(tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(b"a line that somebody else never finished")
    with pytest.raises(JournalError, match="exists already"):
        Journal.create(tmp_path / "j")
    assert (tmp_path / "j").read_bytes().startswith(b"a line")


def test_create_does_not_overwrite(tmp_path: Path) -> None:
    path = written(tmp_path / "j")
    with pytest.raises(JournalError, match="--resume"):
        Journal.create(path)


def test_a_directory_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    for use in (Journal.create, Journal.resume, read_journal):
        with pytest.raises(JournalError, match=r"^'.*' *: no such file or directory$"):
            use(tmp_path / "absent" / "j")


def test_a_file_that_may_not_grow_keeps_its_entries(tmp_path: Path) -> None:
    path = tmp_path / "j"
    program = textwrap.dedent(
        f"""
        import resource, sys
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        from mnv3_reports.journal import Journal, JournalError
        from mnv3_reports.record import Note
        from reports import factory
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        with Journal.create({str(path)!r}) as journal:
            journal.append(factory.header())
            try:
                journal.append(Note("x" * 20_000))
            except JournalError as error:
                print(error)
            journal.append(Note("still here"))
        """
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], check=True, timeout=60, capture_output=True, text=True
    )
    assert ended.stdout == f"'{path}': the file may not become larger; raise the limit (ulimit -f)\n"
    assert read_journal(path) == [factory.header(), Note("still here")]


def test_a_write_that_fails_halfway_leaves_the_earlier_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "j"
    real = os.write
    with Journal.create(path) as journal:
        journal.append(factory.header())

        def short(descriptor: int, data: memoryview) -> int:
            if len(data) < 40:
                raise OSError(28, "No space left on device")
            return real(descriptor, data[:30])

        monkeypatch.setattr(os, "write", short)
        with pytest.raises(JournalError, match="disk is full"):
            journal.append(Note("x" * 100))
        monkeypatch.setattr(os, "write", real)
        journal.append(Note("after some space was freed"))
    assert read_journal(path) == [factory.header(), Note("after some space was freed")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "nothing was recorded"),
        (b'{"type":"started"', "nothing was recorded"),
        (b"hello\nworld\n", "is no mnv3-bench journal"),
        (b'{"type":"note","text":"x"}\n', "is no mnv3-bench journal"),
        (b'{"type":"ended","schema":1}\n', "is no mnv3-bench journal"),
        (b'{"type":"started","schema":99}\n', "schema 99, this mnv3-bench reads schema 1 to 4; update"),
        (b'{"type":"started","schema":0}\n', "reads schema 1 to 4; no version has ever written it"),
        (b'{"type":"started","schema":1}\n', "damaged in line 1"),
    ],
)
def test_foreign_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "j"
    path.write_bytes(content)
    with pytest.raises(JournalError, match=message) as caught:
        read_journal(path)
    assert "\n" not in str(caught.value)


def test_a_figure_that_is_not_finite_is_refused_at_once(tmp_path: Path) -> None:
    cell = factory.cells_of(factory.request())[0]
    bad = Fidelity(float("nan"), 20.0, 1.0, 8, 10.0, "images")
    with Journal.create(tmp_path / "j") as journal:
        journal.append(factory.header())
        with pytest.raises(ValueError, match="Inspected entry cannot be recorded"):
            journal.append(factory.inspected(cell, agreement=bad))
    assert read_journal(tmp_path / "j") == [factory.header()]


def test_entries_of_two_runs_do_not_mix() -> None:
    stranger = factory.block(Cell("v9", "eager"), 0, 0, (1,))
    with pytest.raises(JournalError, match="v9/eager"):
        assemble([factory.header(), stranger])
    with pytest.raises(JournalError, match="not of one run"):
        assemble([factory.header(), factory.header()])
    orphans: list[list[Entry]] = [[], [Note("x")]]
    for broken in orphans:
        with pytest.raises(JournalError, match="begin with its start"):
            assemble(broken)


def test_a_resumed_run_tries_again_what_failed() -> None:
    cell = factory.cells_of(factory.request())[0]
    failed = factory.failure(cell)
    entries: list[Entry] = [factory.header(), factory.inspected(cell), failed]
    assert assemble(entries).cells[cell.key].failure == failed
    resumed = RunResumed("2026-01-02", factory.MACHINE, factory.SOFTWARE)
    assert assemble([*entries, resumed]).cells[cell.key].failure is None


def test_cell_keys_are_read_back() -> None:
    cell = Cell("v3-large@0.75", "onnxruntime-int8", "cuda:0", 4, 8, 192)
    assert Cell.from_key(cell.key) == cell
    with pytest.raises(ValueError, match="is no cell key; expected 'variant/backend"):
        Cell.from_key("v3-large/eager")


def test_lines_are_small_and_typed(tmp_path: Path) -> None:
    lines = written(tmp_path / "j").read_bytes().splitlines()
    kinds = [msgspec.json.decode(line)["type"] for line in lines]
    assert kinds[0] == "started"
    assert kinds.count("block") == 12 * 2 * 2
    assert isinstance(msgspec.json.decode(lines[-2], type=Block), Block)


def test_a_run_that_is_going_on_is_not_written_by_another(tmp_path: Path) -> None:
    written(tmp_path / "j")
    with Journal.resume(tmp_path / "j"):
        before = (tmp_path / "j").read_bytes()
        with pytest.raises(JournalError, match="that run is still going on"):
            Journal.resume(tmp_path / "j")
        assert (tmp_path / "j").read_bytes() == before
    Journal.resume(tmp_path / "j").close()


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
def test_a_journal_of_an_older_version_is_read_and_not_gone_on_with(tmp_path: Path, version: int) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes((Path(__file__).parent / f"record-v{version}" / "journal.jsonl").read_bytes())
    before = path.read_bytes()
    assert assemble(read_journal(path)).header.schema == SCHEMA_VERSION
    refusal = rf"begun with record schema {version} .* writes schema {SCHEMA_VERSION}; start a new run"
    with pytest.raises(JournalError, match=refusal):
        Journal.resume(path)
    assert path.read_bytes() == before


def test_what_tuning_found_has_a_place_and_comes_back(tmp_path: Path) -> None:
    run = factory.tuned_run(epochs=1)
    run.add(factory.explained(run.cells[run.header.cells[1]].cell, "a reason", exact="eager"))
    with Journal.create(tmp_path / "j") as journal:
        for entry in factory.entries_of(run):
            journal.append(entry)
    assert assemble(read_journal(tmp_path / "j")) == run
