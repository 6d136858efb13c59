"""`mnv3-bench cache`: shows, checks, and makes smaller."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from bench.test_cache import KB, aged, build, flip, key

from mnv3_bench.cache import Store
from mnv3_bench.cli import invoke

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("MNV3_BENCH_CACHE", str(tmp_path))
    monkeypatch.delenv("MNV3_BENCH_CACHE_LIMIT", raising=False)
    store = Store(tmp_path)
    for name, size in (("small", 10 * KB), ("large", 3000 * KB), ("middle", 200 * KB)):
        build(store, name, size)
    aged(store, "large", "middle", "small")
    store.close()
    return store


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_alone_it_lists_by_size(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["cache"]) == 0
    head, columns, *rows = said(capsys)
    assert head == f"{store.root}: 3 entries, 3.21 MB; limit 20,000 MB"
    assert columns.split() == ["MB", "last", "used", "name", "what"]
    assert [row.split()[0] for row in rows] == ["3.00", "0.201", "0.0105"]
    assert all("d ago" in row and row.endswith("  test") for row in rows)


def test_by_age_and_in_use(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    user = Store(store.root)
    assert user.find(key("middle")) is not None
    (store.root / "weights").mkdir()
    (store.root / "weights" / "net.pth").write_bytes(bytes(2_000_000))
    assert invoke(["cache", "list", "--by", "age"]) == 0
    _, _, *rows, beside = said(capsys)
    assert [row.split()[0] for row in rows] == ["3.00", "0.0105", "0.201"]
    assert "in use" in rows[2]
    assert beside.endswith("which no limit removes: 2.00 MB")
    user.close()


def test_verify_names_what_is_damaged(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["cache", "verify"]) == 0
    assert said(capsys)[-1].endswith("damaged: 0")
    flip(store.path(key("large")) / "inner" / "model.bin", 2_000_000)
    assert invoke(["cache", "verify"]) == 5
    line, total = said(capsys)
    assert line == (
        f"{store.path(key('large')).name}: inner/model.bin is not what was built: its SHA-256 differs; "
        "a run that needs it builds it anew"
    )
    assert total.endswith("damaged: 1")
    assert invoke(["cache", "verify", "--remove"]) == 5
    assert said(capsys)[0].endswith("; removed")
    assert invoke(["cache", "verify"]) == 0
    assert len(store.entries()) == 2


def test_prune_and_clear_leave_what_is_in_use(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    user = Store(store.root)
    assert user.find(key("large")) is not None
    aged(store, "large", "middle", "small")
    assert invoke(["cache", "prune", "--limit", "3.1MB"]) == 0
    assert said(capsys) == [f"{store.root}: removed 1 entry, 0.201 MB; left 2 entries, 3.01 MB"]
    assert invoke(["cache", "clear"]) == 0
    assert said(capsys) == [
        f"{store.root}: removed 1 entry, 0.0105 MB; left 1 entry, 3.00 MB",
        "the rest is being used by a run, or may not be removed by you",
    ]
    user.close()
    assert invoke(["cache", "clear"]) == 0
    assert said(capsys)[0].endswith("left 0 entries, 0 MB")
    assert os.listdir(store.root) == [".leases"]  # noqa: PTH208


def test_an_empty_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MNV3_BENCH_CACHE", str(tmp_path / "absent"))
    for command in ("list", "verify", "prune", "clear"):
        assert invoke(["cache", command]) == 0
        assert "0 entries, 0 MB" in said(capsys)[0]
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize(
    ("arguments", "limit", "message"),
    [
        (["list", "--by", "name"], "", "--by name: expected size or age; type for example --by age"),
        (["prune", "--limit", "much"], "", "--limit much is not a size; type for example --limit 2GB"),
        (["prune"], "none", "--limit is missing, since MNV3_BENCH_CACHE_LIMIT is none"),
        (["clear"], "some", "MNV3_BENCH_CACHE_LIMIT=some is not a size"),
    ],
)
def test_a_wrong_request_is_one_line(
    arguments: list[str],
    limit: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MNV3_BENCH_CACHE_LIMIT", limit)
    assert invoke(["cache", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
