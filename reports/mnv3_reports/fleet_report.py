"""Reports of a run over several hosts: each host's own, and one over all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnv3_reports.across import HostRun, across_hosts
from mnv3_reports.escaping import inline
from mnv3_reports.fleet import HOSTS, host_runs, read_fleet
from mnv3_reports.fleet_words import notes
from mnv3_reports.formats import write_formats
from mnv3_reports.html.page import plain_page
from mnv3_reports.parts import Parts, Section, to_markdown
from mnv3_reports.rundir import write_run, write_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TITLE = "Hosts of one fleet"


def write_fleet_report(directory: Path, formats: Sequence[str], output: Path | None = None) -> list[Path]:
    """Write every host's report below its folder, and one over all hosts.

    Raises:
        FleetError: the directory cannot be read.
        RunDirectoryError: a file cannot be written.
        ValueError: there is no such format.
    """
    fleet = read_fleet(directory)
    target = output if output is not None else directory
    runs = host_runs(directory, fleet)
    written = []
    for each in runs:
        place = directory / HOSTS / each.host.host
        write_run(each.run, place)
        written += write_formats(place, list(formats), output / HOSTS / each.host.host if output else None)
    hosts = [HostRun(each.host.host, each.host.labels, each.run) for each in runs]
    told = notes(fleet)
    parts = across_hosts(TITLE, hosts, told) if hosts else _of_nothing(told)
    if "md" in formats:
        written.append(write_text(target / "report.md", to_markdown(None, parts, page="report.html")))
    if "html" in formats:
        written.append(write_text(target / "report.html", plain_page(parts)))
    return written


def _of_nothing(told: Sequence[str]) -> Parts:
    """The report where no host came to measure anything."""
    why = [f"- {inline(note)}" for note in told]
    return Parts.of(
        TITLE, "No host has measured anything.", [Section("Why", ["\n".join(why)] if why else [])], ""
    )
