"""The report over hosts: what is fastest where, and whether rankings change between hosts; then tables and machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mnv3_reports import (
    across_boards,
    across_machines,
    across_noise,
    across_tables,
    failures,
    provenance,
    units,
)
from mnv3_reports.accuracy_words import FLAG, joined
from mnv3_reports.across_machines import listed
from mnv3_reports.across_ranks import Across, Host, Pair, Question, named, pair_of, placed
from mnv3_reports.across_tables import sides
from mnv3_reports.escaping import code, inline, plain
from mnv3_reports.parts import Parts, Section

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mnv3_reports.across_boards import Alike
    from mnv3_reports.record import Cell, Run

NAMED = 4
"""Hosts and backends that a sentence names."""
ANSWERED = 12
"""Lines of the answer; the tables have every network and setting."""


class HostRun(NamedTuple):
    """What one host has measured, of however many cells."""

    name: str
    labels: Mapping[str, str]
    """What the host was told apart by, such as {'board': 'pi5'}; may be empty."""
    run: Run


def across_hosts(title: str, hosts: Sequence[HostRun], notes: Sequence[str] = ()) -> Parts:
    """A report on what several hosts have measured.

    Args:
        title: plain text.
        hosts: what each is called, what tells it apart, and what it has measured.
        notes: plain text, a line each, such as about hosts that nothing came of.

    Raises:
        ValueError: there is no host.
    """
    if not hosts:
        raise ValueError("a report over hosts takes at least one run; give their folders")
    across = Across(named(hosts))
    alike = across_boards.alike(across)
    sections = [
        Section("Latency on each host", list(across_tables.latencies(across))),
        Section("Against the reference networks on each host", list(across_tables.references(across))),
        Section("Ranks that change between hosts", list(across_tables.ranks(across))),
        Section("Boards alike", list(across_boards.boards(across, alike))),
        Section("Failures and skips", list(_failures(across, notes))),
        Section("Noise met on each host", list(across_noise.noise(across))),
        Section("The hosts", list(across_machines.machines(across))),
    ]
    return Parts.of(plain(title), "\n\n".join([*_answer(across, alike), *_noted(notes)]), sections, "")


def _answer(across: Across, alike: Sequence[Alike]) -> Iterator[str]:
    several = len(across.hosts) > 1
    cut_off = [host for host in across.hosts if provenance.partial_notice(host.summary.run) is not None]
    if cut_off:
        yield f"{FLAG} Not whole on {listed(cut_off)}: what follows holds what was measured until the run ended."
    lines = [f"- {_fastest(across, question)}" for question in _asked(across)]
    if not lines:
        yield f"No cell was timed on {'any' if several else 'the'} host; see Failures and skips."
        return
    yield f"The fastest backend for each network{' on each host' if several else ''}:"
    yield "\n".join(lines[:ANSWERED])
    if len(lines) > ANSWERED:
        yield f"{len(lines) - ANSWERED} more networks and settings are in the tables below."
    flagged = [host for host in across.hosts for question in across.questions if _flag(host, question)]
    if flagged:
        yield f"{FLAG} beside a backend: it answers otherwise than its reference there, as the host's own report says."
    if several:
        yield from _changes(across)
        yield from across_machines.differences(across)
        yield from map(across_boards.sentence, alike)
    untimed = [host for host in across.hosts if not host.summary.statistics]
    if untimed:
        yield f"{FLAG} Nothing was timed on {listed(untimed)}; see Failures and skips."


def _noted(notes: Sequence[str]) -> Iterator[str]:
    """What a reader has to know before quoting anything."""
    if notes:
        more = f"\n- {len(notes) - NAMED} more in Failures and skips" if len(notes) > NAMED else ""
        yield (
            f"{FLAG} Of the whole run:\n\n" + "\n".join(f"- {inline(note)}" for note in notes[:NAMED]) + more
        )


def _asked(across: Across) -> list[Question]:
    """What the answer is about: the requested networks; for every number of threads the smallest batch."""
    timed = [question for question in across.questions if question.best]
    mine = [question for question in timed if question.variant in across.open] or timed
    found: dict[tuple[str, int, str], Question] = {}
    for question in mine:
        cell = question.cell
        key = cell.variant, cell.threads, cell.device
        if key not in found or cell.batch < found[key].cell.batch:
            found[key] = question
    return list(found.values())


def _fastest(across: Across, question: Question) -> str:
    """'**v3-small, 1 thread, …:** `litert` on a and b (…); `onnxruntime` on c (…). **The rank changes:** …'."""
    winners: dict[Cell, list[Host]] = {}
    for host in across.hosts:
        if host.name in question.best:
            winners.setdefault(question.best[host.name], []).append(host)
    name = f"**{inline(question.variant)}, {inline(across.names.describe(question.cell))}:**"
    if len(winners) == 1:
        ((cell, hosts),) = winners.items()
        where = f" on {_all_of(hosts, across)}" if len(across.hosts) > 1 else ""
        times = [_time(host, cell, named=len(hosts) > 1) for host in hosts[:NAMED]]
        more = f", and {len(hosts) - NAMED} more" if len(hosts) > NAMED else ""
        return f"{name} {_backend(hosts, cell)}{where} ({', '.join(times)}{more}).{_close(hosts, cell)}"
    ordered = sorted(winners.items(), key=lambda item: -len(item[1]))
    told = [
        f"{_backend(hosts, cell)} on {listed(hosts)} ({_time(hosts[0], cell, named=len(hosts) > 1)})"
        for cell, hosts in ordered
    ]
    first = ordered[0][0]
    judged = [_judged(across, pair_of("backend", first, cell, across.hosts)) for cell, _ in ordered[1:]]
    return f"{name} {'; '.join(told)}. {' '.join(judged)}"


def _all_of(hosts: Sequence[Host], across: Across) -> str:
    if len(hosts) < len(across.hosts):
        return listed(hosts)
    return "both hosts" if len(hosts) == 2 else f"all {len(hosts)} hosts"


def _flag(host: Host, question: Question) -> bool:
    cell = question.best.get(host.name)
    return cell is not None and host.summary.flagged(host.summary.run.cells[cell.key])


def _backend(hosts: Sequence[Host], cell: Cell) -> str:
    tuned = "" if any(host.summary.planned(cell) for host in hosts) else " (tuned)"
    flagged = any(host.summary.flagged(host.summary.run.cells[cell.key]) for host in hosts)
    return f"{code(cell.backend)}{tuned}{f' {FLAG}' if flagged else ''}"


def _time(host: Host, cell: Cell, *, named: bool) -> str:
    latency = f"{units.enclosed(host.summary.statistics[cell.key].latency, 1e3)} ms"
    return f"{latency} on {inline(host.name)}" if named else latency


def _close(hosts: Sequence[Host], cell: Cell) -> str:
    """Where others are not told apart from the fastest."""
    found = []
    for host in hosts:
        others = host.summary.close_to(cell)
        if others:
            more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
            names = ", ".join(code(each.backend) for each in others[:NAMED])
            found.append(f"{names}{more} on {inline(host.name)}")
    more = f"; others on {units.counted(len(found) - NAMED, 'more host')}" if len(found) > NAMED else ""
    return f" Not told apart from it: {'; '.join(found[:NAMED])}{more}." if found else ""


def _judged(across: Across, pair: Pair) -> str:
    """Whether two winners change their rank between hosts, with both intervals."""
    ratio = f"the time of {code(pair.first.backend)} over that of {code(pair.second.backend)} is"
    if pair.changes_rank:
        low, high = pair.extremes
        return f"**The rank changes:** {ratio} {_on(pair, low)} and {_on(pair, high)}."
    told = [_on(pair, name) for name in pair.ratios]
    more = f" and so on, on {len(told)} hosts" if len(told) > NAMED else ""
    untimed = [host for host in across.hosts if host.summary.statistics and host.name not in pair.ratios]
    parts = [f"{ratio} {', '.join(told[:NAMED])}{more}"] if told else []
    parts += [f"not both timed on {listed(untimed)}"] if untimed else []
    return f"No change of rank is shown: {'; '.join(parts)}."


def _on(pair: Pair, host: str) -> str:
    ratio = pair.ratios[host]
    untold = " (not told apart)" if placed(ratio) == "untold" else ""
    return f"{units.enclosed(ratio)} on {inline(host)}{untold}"


def _changes(across: Across) -> Iterator[str]:
    """How many ranks change, and the clearest of them."""
    if not across.pairs:
        what = "No two cells were timed together" if across.shared else "No cell was timed"
        yield f"{what} on two hosts, so no ranking is held against another."
        return
    counts = []
    for kind, what in (("backend", "backends"), ("network", "networks")):
        judged = sum(pair.kind == kind for pair in across.pairs)
        changed = sum(pair.kind == kind for pair in across.changed)
        if judged:
            counts.append(f"{changed:,} of {units.counted(judged, 'pair')} of {what}")
    untold = (
        f"; {len(across.untold):,} more stand in another order and are not told apart"
        if across.untold
        else ""
    )
    clearest = ""
    if across.changed:
        pair = across.changed[0]
        first, second, where = sides(across, pair)
        low, high = pair.extremes
        clearest = (
            f" Clearest, with {where}: the time of {first} over that of {second} is {_on(pair, low)} and "
            f"{_on(pair, high)}."
        )
    told = f"**Ranks that change between hosts**, beyond the intervals of both: {' and '.join(counts)}"
    yield f"{told}{untold}.{clearest}"


def _failures(across: Across, notes: Sequence[str]) -> Iterator[str]:
    if notes:
        yield "\n".join(f"- {inline(note)}" for note in notes)
    whole = []
    for host in across.hosts:
        run = host.summary.run
        if run.skipped or any(record.failure is not None for record in run.cells.values()):
            yield f"### {inline(host.name)}"
            yield from failures.section(host.summary)
        else:
            whole.append(host)
    if whole and len(whole) == len(across.hosts):
        yield "Nothing failed and nothing was skipped."
    elif whole:
        yield f"### {joined([inline(host.name) for host in whole])}"
        yield "Nothing failed and nothing was skipped."
