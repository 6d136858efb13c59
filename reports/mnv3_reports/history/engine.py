"""DuckDB with nothing allowed that a history does not need: no extensions, no other files, no further settings."""

from __future__ import annotations

import glob
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mnv3_reports.history.places import INSTALL, HistoryError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from duckdb import DuckDBPyConnection

    from mnv3_reports.history.places import Place

THREADS = 2
MEMORY = "256MB"
"""Of DuckDB's own; what is more goes to a folder of its own, and is gone afterwards."""


@contextmanager
def connected(places: Sequence[Place] = ()) -> Iterator[DuckDBPyConnection]:
    """A connection that can read in these places, and nowhere else.

    Raises:
        HistoryError: DuckDB is not installed.
    """
    try:
        import duckdb
    except ImportError:
        raise HistoryError(f"a history needs DuckDB; type {INSTALL}") from None
    with tempfile.TemporaryDirectory(prefix="mnv3-bench-history-") as spill:
        settings: dict[str, str | bool | int | float | list[str]] = {
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "threads": THREADS,
            "memory_limit": MEMORY,
            "temp_directory": spill,
        }
        connection = duckdb.connect(":memory:", config=settings)
        try:
            for place in places:
                if place.filesystem is not None:
                    connection.register_filesystem(place.filesystem)
            folders = [place.path("").rstrip("/") + "/" for place in places]
            # Files are asked for as patterns that match them alone, and the pattern is held against this list too.
            roots = ", ".join(quoted(folder) for each in folders for folder in {each, literal(each)})
            connection.execute(f"set allowed_directories = [{roots}]")
            connection.execute("set enable_external_access = false")
            connection.execute("set lock_configuration = true")
            yield connection
        finally:
            connection.close()


def literal(path: str) -> str:
    """A path as DuckDB takes it, which reads patterns everywhere: *, ? and [ stand for themselves."""
    return glob.escape(path)


def quoted(text: str) -> str:
    """A text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"
