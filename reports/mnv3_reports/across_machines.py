"""Of a report over hosts: what they are, and which versions they ran."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mnv3_reports import provenance, units
from mnv3_reports.accuracy_words import FLAG, joined
from mnv3_reports.escaping import inline, plain
from mnv3_reports.layout import Column, Value, build, folded, to_markdown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mnv3_reports.across_ranks import Across, Host
    from mnv3_reports.record import Machine, Software

NAMED = 3
"""Versions and hosts that a sentence names."""


def heading(across: Across, hosts: Sequence[Host]) -> str:
    """Hosts' names above a column; with the letter of their versions where hosts have several."""
    name = listed(hosts)
    return name if len(across.versions) == 1 else f"{name} (versions {_letter(across, hosts[0])})"


def _letter(across: Across, host: Host) -> str:
    place = next(number for number, group in enumerate(across.versions) if host in group)
    return chr(ord("A") + place) if place < 26 else str(place + 1)


def version_sets(across: Across) -> str:
    """'A on pi5-1 and pi5-2; B on x86'."""
    return "; ".join(f"{_letter(across, group[0])} on {listed(group)}" for group in across.versions)


def listed(hosts: Sequence[Host]) -> str:
    """Hosts' names as markdown; of many hosts the first, and how many more there are."""
    names = [inline(host.name) for host in hosts]
    return joined(names if len(names) <= NAMED + 1 else [*names[:NAMED], f"{len(names) - NAMED} more"])


def differences(across: Across) -> Iterator[str]:
    """What else than the machine differs between hosts."""
    if len(across.versions) > 1:
        yield f"{FLAG} The hosts have several sets of versions ({_changed(across)}), which differ along with them."
    others = _other_networks(across)
    if others:
        yield f"{FLAG} Not the same network on every host, by its weights or its count: {inline(joined(others))}."


def _changed(across: Across) -> str:
    """The packages that differ: 'onnxruntime 1.31.0 on a, 1.32.0 on b'."""
    found = []
    for name, values in _software(across).items():
        told = [f"{inline(value)} on {listed(hosts)}" for value, hosts in values.items()]
        if len(told) > 1:
            found.append(f"{inline(name)} {', '.join(told[:NAMED])}")
    more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return "; ".join(found[:NAMED]) + more if found else "their fingerprints differ"


def _software(across: Across) -> dict[str, dict[str, list[Host]]]:
    """What of the software has which value on which hosts."""
    versions = [(host, _facts(host.summary.run.header.software)) for host in across.hosts]
    names = dict.fromkeys(name for _, facts in versions for name in facts)
    found: dict[str, dict[str, list[Host]]] = {name: {} for name in names}
    for name in names:
        for host, facts in versions:
            found[name].setdefault(facts.get(name, "none"), []).append(host)
    return found


def _facts(software: Software) -> dict[str, str]:
    return {
        "mnv3-bench": software.project_version,
        "Python": software.python,
        **dict(sorted(software.packages.items())),
        **{f"{name}=": value for name, value in sorted(software.environment.items())},
    }


def _other_networks(across: Across) -> list[str]:
    """Networks of one name that are not the same on every host."""
    known: dict[str, set[tuple[str, int | None]]] = {}
    for host in across.hosts:
        for facts in host.summary.run.variants:
            counted = facts.complexity.parameters if facts.complexity is not None else None
            known.setdefault(facts.variant, set()).add((facts.weights, counted))
    return [variant for variant, found in known.items() if len(found) > 1]


def machines(across: Across) -> Iterator[str]:
    """What every host is, and which versions it ran."""
    columns: list[Column[Host]] = [
        Column("host", lambda host: Value(inline(host.name)), align="left"),
        Column("labels", _labels, align="left"),
        Column("CPU", lambda host: _text(_machine(host).cpu, "CPU of unknown name"), align="left"),
        Column(
            "usable CPUs",
            lambda host: Value(f"{_machine(host).usable_cpus} of {_machine(host).logical_cpus}"),
        ),
        Column("memory", lambda host: Value(units.gibibytes(_machine(host).memory_bytes))),
        Column("governor", lambda host: _text(_machine(host).governor, "none visible"), align="left"),
        Column("hypervisor", lambda host: _text(_machine(host).hypervisor, "none seen"), align="left"),
        Column(
            "system",
            lambda host: _text(f"{_machine(host).system} {_machine(host).kernel}", "not told"),
            align="left",
        ),
        Column("fingerprint", lambda host: _text(_machine(host).fingerprint, "not recorded"), align="left"),
        Column(
            "run",
            lambda host: Value(inline(f"{host.summary.run.header.started_at[:16]}, {_run_id(host)}")),
            align="left",
        ),
        Column("mnv3-bench", _version, align="left"),
    ]
    yield to_markdown(build(columns, across.hosts))
    yield _fingerprints(across)
    differing = {name: values for name, values in _software(across).items() if len(values) > 1}
    if differing:
        rows = list(differing)
        version_columns = [Column[str]("differs", lambda name: Value(inline(name)), align="left")]
        version_columns += [
            Column[str](heading(across, [host]), partial(_version_of, differing, host), align="left")
            for host in across.hosts
        ]
        yield to_markdown(build(version_columns, rows))
    for host in across.hosts:
        yield folded(f"{plain(host.name)}: request, machine, versions", "\n\n".join(_about(host)))


def _about(host: Host) -> Iterator[str]:
    notice = provenance.partial_notice(host.summary.run)
    if notice is not None:
        yield f"**{inline(notice)}**"
    yield "\n".join(provenance.asked(host.summary))
    yield from provenance.method(host.summary)[1:]


def _version_of(differing: dict[str, dict[str, list[Host]]], host: Host, name: str) -> Value:
    value = next(value for value, hosts in differing[name].items() if host in hosts)
    return _text(value, "none")


def _fingerprints(across: Across) -> str:
    """Whether machines and versions are alike, in a sentence."""
    if len(across.hosts) == 1:
        return "One host only: there is nothing to hold it against."
    numbers = {host.summary.run.header.machine.fingerprint for host in across.hosts}
    alike = (
        "All hosts have one fingerprint of the machine"
        if len(numbers) == 1
        else f"The {len(across.hosts)} hosts have {len(numbers)} fingerprints of the machine: different machines"
    )
    sets = len(across.versions)
    return f"{alike}; {'all have the same versions' if sets == 1 else f'they have {sets} sets of versions'}."


def _machine(host: Host) -> Machine:
    return host.summary.run.header.machine


def _run_id(host: Host) -> str:
    return host.summary.run.header.run_id


def _labels(host: Host) -> Value:
    told = [f"{name}={value}" for name, value in host.labels.items()]
    return _text(", ".join(told), "none")


def _text(text: str | None, otherwise: str) -> Value:
    return Value(inline(text or "") or otherwise)


def _version(host: Host) -> Value:
    software = host.summary.run.header.software
    commit = f" ({software.commit})" if software.commit else ""
    return Value(inline(f"{software.project_version}{commit}") or "not told")
