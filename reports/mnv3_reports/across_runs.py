"""Folders of runs, and of runs over several hosts, as what a report over hosts takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mnv3_reports.across import HostRun
from mnv3_reports.fleet import Fleet, host_runs, is_fleet, read_fleet
from mnv3_reports.rundir import load_run

if TYPE_CHECKING:
    from collections.abc import Iterable


def load_hosts(directories: Iterable[str | Path]) -> tuple[list[HostRun], list[Fleet]]:
    """The runs in these folders, each called as its folder is, and the runs over several hosts that were among them.

    The folder of a run over several hosts stands for all of its hosts.

    Raises:
        RunDirectoryError: a folder holds no run that can be read.
        FleetError: one of several hosts cannot be read.
    """
    found: list[HostRun] = []
    fleets: list[Fleet] = []
    for directory in map(Path, directories):
        if not is_fleet(directory):
            found.append(HostRun(directory.resolve().name, {}, load_run(directory)))
            continue
        fleets.append(read_fleet(directory))
        found += [
            HostRun(each.host.host, each.host.labels, each.run) for each in host_runs(directory, fleets[-1])
        ]
    return found, fleets
