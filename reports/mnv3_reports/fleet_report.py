"""Reports of a run over several hosts: each host's own, and one over all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnv3_reports.across import HostRun, across_hosts
from mnv3_reports.fleet import HOSTS, Fleet, host_runs, read_fleet
from mnv3_reports.formats import write_formats
from mnv3_reports.html.page import plain_page
from mnv3_reports.parts import to_markdown
from mnv3_reports.rundir import write_run, write_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


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
    parts = across_hosts("Hosts of one fleet", hosts, notes(fleet))
    if "md" in formats:
        written.append(write_text(target / "report.md", to_markdown(None, parts)))
    if "html" in formats:
        written.append(write_text(target / "report.html", plain_page(parts)))
    return written


def notes(fleet: Fleet) -> list[str]:
    """What the client's journal says that no host's does: what was given up, who was not used, who came twice."""
    found = [
        f"{name} was not measured to the end ({len(fleet.groups[name].cells)} cells): {reason}"
        for name, reason in fleet.failed.items()
        if name in fleet.groups
    ]
    found += [f"{host} was not used: {reason}" for host, reason in fleet.refused.items()]
    lost = [ended for ended in fleet.ended.values() if ended.status == "lost"]
    found += [f"{ended.attempt} was begun and lost: {ended.reason}" for ended in lost]
    if fleet.finished is None or fleet.finished.status == "partial":
        left = [group.name for group in fleet.open_groups() if group.name not in fleet.failed]
        if left:
            found.append(f"the run is not at its end: {', '.join(left)} are still to be measured")
    return found
