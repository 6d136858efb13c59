"""What the client's journal of a fleet says that no host's does, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mnv3_reports.fleet import Fleet


def notes(fleet: Fleet) -> list[str]:
    """What the client's journal says that no host's does: what was given up, who was not used, who came twice."""
    found = _side_by_side(fleet)
    found += [
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


def _side_by_side(fleet: Fleet) -> list[str]:
    if not fleet.header.address.startswith("local:") or len(fleet.hosts) < 2:
        return []
    who = f"these {len(fleet.hosts)} hosts are processes of one machine that measured side by side"
    return [
        f"{who} and disturbed each other: such a run tries a fleet out, and its latencies are not to be quoted"
    ]
