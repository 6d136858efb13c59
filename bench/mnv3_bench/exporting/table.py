"""What an export says of what it wrote: a table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mnv3_bench.exporting.manifest import MANIFEST
from mnv3_reports.units import megabytes

if TYPE_CHECKING:
    from mnv3_bench.exporting.command import Exported
    from mnv3_bench.exporting.manifest import ExportedFile
    from mnv3_bench.exporting.targets import Lack

HEADINGS = ("file", "MB", "precision", "takes", "SNR, dB", "same top-1", "run with")


def show(exported: Exported) -> None:
    """Print it; what could not be made goes to stderr, a line each, with what its process said last."""
    for lack in exported.lacks:
        mend = f"; type: {lack.install}" if lack.install else ""
        print(f"{lack.target} was not exported: {' '.join(lack.reason.split())}{mend}", file=sys.stderr)
        for line in _news(lack):
            print(f"    {line}", file=sys.stderr)
    if exported.manifest is None:
        print("nothing was written", file=sys.stderr)
        return
    rows = [_row(file) for file in exported.manifest.files]
    if sys.stdout.isatty():
        _print_table(rows)
    else:
        for name, size, precision, inputs, snr, agreement, runtime in rows:
            figures = f"SNR {snr} dB, same top-1 {agreement}"
            print(f"{name}: {size} MB, {precision}, takes {inputs}, {figures}, run with {runtime}")
    print(f"manifest: {exported.directory / MANIFEST}")


def _news(lack: Lack) -> list[str]:
    """What the process printed last, unless it is the traceback of the very reason."""
    lines = lack.tail.splitlines()
    return [] if lines and lines[-1].endswith(lack.reason) else lines


def _row(file: ExportedFile) -> tuple[str, ...]:
    agreement = file.fidelity.top1_agreement
    total = file.file.bytes + sum(part.bytes for part in file.companions)
    return (
        " + ".join([file.file.name, *(part.name for part in file.companions)]),
        megabytes(total),
        file.precision,
        "; ".join(
            f"{'x'.join('?' if n is None else str(n) for n in each.shape)} {each.dtype}"
            for each in file.inputs
        ),
        f"{file.fidelity.snr_db:.1f}",
        "-"
        if agreement is None
        else f"{round(agreement * file.fidelity.samples)} of {file.fidelity.samples}",
        f"{file.runtime.name} {file.runtime.version}",
    )


def _print_table(rows: list[tuple[str, ...]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, padding=0)
    for heading in HEADINGS:
        table.add_column(
            Text(heading), justify="right" if heading in ("MB", "SNR, dB", "same top-1") else "left"
        )
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)
