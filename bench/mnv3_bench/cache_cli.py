"""`mnv3-bench cache`: what the artifact cache holds, whether it is whole, and how to make it smaller."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mnv3_bench.errors import ExitCode, UsageError
from mnv3_reports.escaping import plain
from mnv3_reports.units import duration, megabytes, seconds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mnv3_bench.cache import Store, Stored

DAY = 86400.0

app = typer.Typer(
    rich_markup_mode=None,
    invoke_without_command=True,
    help="Show the cache of prepared artifacts, check it, or make it smaller. Alone it lists.",
)


@app.callback()
def _root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_()


@app.command("list")
def list_(
    by: Annotated[
        str, typer.Option(help="Order: size (largest first) or age (longest unused first).")
    ] = "size",
) -> ExitCode:
    """Show every entry with its size and when a run last used it."""
    if by not in ("size", "age"):
        raise UsageError(f"--by {by}: expected size or age; type for example --by age")
    store = _store()
    entries = store.entries()
    if by == "size":
        entries.sort(key=lambda entry: (-entry.size_bytes, entry.name))
    limit = "no limit" if store.limit is None else f"limit {megabytes(store.limit)} MB"
    print(f"{store.root}: {_amount(entries)}; {limit}")
    if entries:
        print(f"{'MB':>8}  {'last used':<14}  {'name':<20}  what")
    for entry in entries:
        print(
            f"{megabytes(entry.size_bytes):>8}  {_used(store, entry):<14}  {entry.name}  "
            f"{_what(store.root / entry.name)}"
        )
    downloads = sum(_bytes_of(store.root / name) for name in ("weights", "fleet-files"))
    if downloads:
        print(
            "beside them, downloaded checkpoints and files of a fleet, which no limit removes: "
            f"{megabytes(downloads)} MB"
        )
    return ExitCode.DONE


@app.command()
def verify(
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove what is damaged, where no run uses it.")
    ] = False,
) -> ExitCode:
    """Read every byte and compare it with what was built. Runs do so with what they use, before they use it.

    Exit: 5 where an entry is damaged.
    """
    store = _store()
    entries = store.entries()
    begin, damaged = time.monotonic(), 0
    for entry in entries:
        wrong = store.check(entry.name)
        if wrong is None:
            continue
        damaged += 1
        if not remove:
            then = "a run that needs it builds it anew"
        else:
            then = "removed" if store.remove(entry.name) else "a run is using it, so it stays"
        print(f"{entry.name}: {plain(wrong)}; {then}")
    took = seconds(time.monotonic() - begin)
    print(f"{store.root}: {_amount(entries)}, read in {took} s; damaged: {damaged}")
    return ExitCode.CELLS_FAILED if damaged else ExitCode.DONE


@app.command()
def prune(
    limit: Annotated[
        str | None,
        typer.Option(
            help="Remove what was not used for longest until the rest fits, such as 5GB. Default: "
            "$MNV3_BENCH_CACHE_LIMIT."
        ),
    ] = None,
) -> ExitCode:
    """Make the cache smaller. What a run is using stays."""
    from mnv3_bench.quantities import size

    store = _store()
    wanted = size(limit, "--limit") if limit is not None else store.limit
    if wanted is None:
        raise UsageError(
            "--limit is missing, since MNV3_BENCH_CACHE_LIMIT is none; type for example --limit 5GB"
        )
    return _removed(store, store.trim(wanted), wanted)


@app.command()
def clear() -> ExitCode:
    """Remove every entry that no run is using. Downloaded checkpoints stay."""
    store = _store()
    return _removed(store, store.trim(0), 0)


def _removed(store: Store, removed: Sequence[Stored], limit: int) -> ExitCode:
    store.sweep()
    left = store.entries()
    print(f"{store.root}: removed {_amount(removed)}; left {_amount(left)}")
    if sum(entry.size_bytes for entry in left) > limit:
        print("the rest is being used by a run, or may not be removed by you")
    return ExitCode.DONE


def _store() -> Store:
    from mnv3_bench.cache import Store, default_root

    return Store(default_root())


def _amount(entries: Sequence[Stored]) -> str:
    total = sum(entry.size_bytes for entry in entries)
    return f"{len(entries)} {'entry' if len(entries) == 1 else 'entries'}, {megabytes(total)} MB"


def _used(store: Store, entry: Stored) -> str:
    if store.in_use(entry.name):
        return "in use"
    # By a clock that may have been set back.
    ago = max(0.0, time.time() - entry.used_at)
    return f"{int(ago // DAY)} d ago" if ago >= 2 * DAY else f"{duration(ago)} ago"


def _what(directory: Path) -> str:
    """What an entry is, from its key."""
    from mnv3_bench.manifest import DamagedError, read_manifest

    try:
        manifest = read_manifest(directory)
    except DamagedError as error:
        return plain(f"(damaged: {error})")
    if manifest is None:
        return "(of an older version: a run that needs it builds it anew)"
    return plain(", ".join(_words(manifest.key)))


def _words(key: dict[str, Any]) -> list[str]:
    """The parts of a key that people look for."""
    inner = key.get("artifact") if isinstance(key.get("artifact"), dict) else key
    assert isinstance(inner, dict), "just looked"
    weights = inner.get("weights")
    variant = weights.get("variant") if isinstance(weights, dict) else inner.get("variant")
    found = [key.get("kind"), key.get("purpose"), variant, key.get("backend") or inner.get("backend")]
    shape = inner.get("shape")
    if isinstance(shape, list):
        found.append("x".join(map(str, shape)))
    if "resolution" in key:
        found.append(f"{key['resolution']} px")
    if key.get("threads"):
        found.append(f"{key['threads']} threads")
    return [str(word) for word in found if word]


def _bytes_of(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
