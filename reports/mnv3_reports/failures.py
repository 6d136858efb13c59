"""The report's section about what failed and what was skipped, with how to mend it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnv3_reports.escaping import code, inline
from mnv3_reports.layout import escape, fenced, folded

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mnv3_reports.record import Failure
    from mnv3_reports.summary import Summary


def section(summary: Summary) -> Iterable[str]:
    """The section's paragraphs, without heading."""
    run = summary.run
    found = [record.failure for record in run.cells.values() if record.failure is not None]
    if not found and not run.skipped:
        yield "Nothing failed and nothing was skipped."
        return
    alike: dict[tuple[str, str, str, str | None], list[Failure]] = {}
    for failure in found:
        backend = run.cells[failure.cell].cell.backend
        alike.setdefault((backend, failure.phase, failure.reason, failure.install), []).append(failure)
    lines = [
        f"- {_failed(summary, backend, group)} failed ({phase}): {escape(reason).rstrip('.')}.{_mend(install)}"
        for (backend, phase, reason, install), group in alike.items()
    ]
    lines += [
        f"- {code(skipped.backend)} was skipped: {escape(skipped.reason).rstrip('.')}.{_mend(skipped.install)}"
        for skipped in run.skipped
    ]
    yield "\n".join(lines)
    tails: dict[str, str] = {}
    for failure in found:
        if failure.tail.strip():
            tails.setdefault(failure.tail.strip(), failure.cell)
    for tail, cell in tails.items():
        yield folded(f"Last output of {cell}", fenced(tail))


def _failed(summary: Summary, backend: str, failures: Sequence[Failure]) -> str:
    """The key of a cell; or the backend, and which of its cells."""
    if len(failures) == 1:
        return code(failures[0].cell)
    cells = [record.cell for record in summary.run.cells.values() if record.cell.backend == backend]
    failed = [summary.run.cells[failure.cell].cell for failure in failures]
    return f"{code(backend)} ({inline(summary.names.many(failed, cells))})"


def _mend(command: str | None) -> str:
    return f" To mend it: `{command}`" if command else ""
