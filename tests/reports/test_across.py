"""Hosts beside each other: only what is beyond both intervals changes a rank, and no machine is divided by another."""

from __future__ import annotations

import math
import random
import re
from itertools import product
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from reports import factory

from mnv3_reports import fleet, shortened
from mnv3_reports.across import HostRun, across_hosts
from mnv3_reports.across_boards import alike
from mnv3_reports.across_ranks import Across, Pair, named
from mnv3_reports.across_runs import load_hosts
from mnv3_reports.html.page import plain_page
from mnv3_reports.journal import Journal
from mnv3_reports.parts import to_markdown
from mnv3_reports.record import Cell, Run, RunFinished, Skipped
from mnv3_reports.rundir import write_run
from mnv3_reports.statistics import Interval

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mnv3_reports.record import Request

SMALL = factory.request(("v3-small",), ("v1",), ("eager", "onnxruntime", "onnxruntime-int8"))


def measured(asked: Request = SMALL, speed: Callable[[Cell], float] = lambda _: 1.0, seed: int = 0) -> Run:
    """A run whose cells take so many times their usual time, with noise between processes of its own."""
    run = factory.whole_run(asked, epochs=5, rounds=3, calls=5)
    return changed(run, speed, seed)


def changed(run: Run, speed: Callable[[Cell], float], seed: int = 0) -> Run:
    rng = random.Random(seed)
    noise = {(key, epoch): math.exp(rng.gauss(0, 0.005)) for key in run.cells for epoch in range(10)}
    run.blocks = [
        msgspec.structs.replace(
            block,
            samples_ns=tuple(
                round(value * speed(run.cells[block.cell].cell) * noise[block.cell, block.epoch])
                for value in block.samples_ns
            ),
        )
        for block in run.blocks
    ]
    return run


def host(
    name: str, run: Run, fingerprint: str = "", software: dict[str, Any] | None = None, **labels: str
) -> HostRun:
    """A machine of its own, unless it gets a fingerprint that others have."""
    machine = msgspec.structs.replace(
        factory.MACHINE, fingerprint=fingerprint or f"machine of {name}", cpu=name
    )
    versions = msgspec.structs.replace(run.header.software, **software or {})
    run.header = msgspec.structs.replace(run.header, machine=machine, software=versions)
    return HostRun(name, labels, run)


def slow_int8(cell: Cell) -> float:
    """A machine without instructions for int8."""
    return 3.0 * (1.6 if "int8" in cell.backend else 1.0)


def text_of(*hosts: HostRun) -> str:
    return to_markdown(None, across_hosts("Hosts", hosts))


def section(text: str, title: str) -> str:
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """Cells of all rows of all tables, without notes."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [
        [re.sub("<sup>.*?</sup>", "", cell.strip()) for cell in re.split(r" \| ", line[1:-1])]
        for line in lines
    ]


def test_a_rank_that_changes_is_named_with_both_intervals() -> None:
    hosts = (host("x86", measured(), board="x86"), host("pi", measured(speed=slow_int8, seed=1)))
    across = Across(named(hosts))
    small = [pair for pair in across.changed if pair.first.variant == "v3-small"]
    assert {(pair.first.backend, pair.second.backend) for pair in small} == {
        ("onnxruntime", "onnxruntime-int8")
    }
    (pair,) = small
    assert pair.ratios["x86"].contains(0.44 / 0.39)
    assert pair.ratios["pi"].contains(0.44 / 0.39 / 1.6)
    text = text_of(*hosts)
    answer = text.partition("## Latency")[0]
    ms = r"\([\d.]+ \[[\d.]+, [\d.]+\] ms\)"
    assert re.search(
        r"- \*\*v3-small, 1 thread, batch 1, 224 × 224:\*\* "
        rf"`onnxruntime-int8` on x86 {ms}; `onnxruntime` on pi {ms}\. \*\*The rank changes:\*\* "
        r"the time of `onnxruntime-int8` over that of `onnxruntime` is "
        r"0\.\d+ \[0\.\d+, 0\.\d+\] on x86 and 1\.\d+ \[1\.\d+, 1\.\d+\] on pi\.",
        answer,
    )
    assert "2 of 6 pairs of backends and 0 of 3 pairs of networks" in answer
    changes = section(text, "Ranks that change between hosts")
    assert "### Networks" not in changes
    assert [row[:3] for row in rows(changes)[2:]] == [
        [network, "`onnxruntime`", "`onnxruntime-int8`"]
        for network in sorted(("v1", "v3-small"), key=lambda name: changes.index(f"| {name} |"))
    ]
    assert changes.count("**0.") == changes.count("**1.") == 2


def test_an_order_that_differs_within_an_interval_is_not_told_apart() -> None:
    def alike_in_speed(cell: Cell) -> float:
        """int8 is 0.2 % slower than fp32, where epochs differ by a per cent."""
        return 0.44 / 0.39 * 1.002 if "int8" in cell.backend else 1.0

    text = text_of(host("a", measured()), host("b", measured(speed=alike_in_speed, seed=3)))
    answer = text.partition("## Latency")[0]
    assert "**The rank changes" not in answer
    assert "0 of 6 pairs of backends and 0 of 3 pairs of networks" in answer
    across = Across(named([host("a", measured()), host("b", measured(speed=alike_in_speed, seed=3))]))
    assert not across.changed
    if across.untold:
        assert "not told apart" in section(text, "Ranks that change between hosts")


def interval(low: float, high: float) -> Interval:
    return Interval(math.sqrt(low * high), low, high, 5)


def test_of_equal_cells_about_one_pair_in_a_thousand_is_said_to_change() -> None:
    """Twice 0.025 squared: an interval wholly below 1 on the one host and wholly above on the other."""
    asked = factory.request(tuple(f"v3-small@{number}" for number in range(60)), (), ("eager", "compile"))

    def equal(seed: int) -> Run:
        rng = random.Random(seed)
        run = Run.started(factory.header(asked))
        for epoch, record in product(range(5), run.cells.values()):
            run.add(factory.block(record.cell, epoch, 0, (round(1e7 * math.exp(rng.gauss(0, 0.02))),)))
        return run

    across = Across(named([host("a", equal(1)), host("b", equal(2))]))
    assert len(across.pairs) == 2 * math.comb(60, 2) + 60
    assert 0 < len(across.changed) < 0.005 * len(across.pairs)


@pytest.mark.parametrize(
    ("ratios", "changes", "differs"),
    [
        ({"a": interval(0.8, 0.9), "b": interval(1.1, 1.2)}, True, True),
        ({"a": interval(0.8, 0.9), "b": interval(0.99, 1.2)}, False, True),
        ({"a": interval(0.8, 1.0), "b": interval(1.1, 1.2)}, False, True),
        ({"a": interval(0.8, 0.9), "b": interval(0.7, 0.95)}, False, False),
        ({"a": interval(0.8, 0.9), "b": Interval(1.5, 0.0, math.inf, 1)}, False, True),
        ({"a": interval(0.8, 0.9), "b": interval(0.9, 1.2), "c": interval(1.3, 1.4)}, True, True),
    ],
)
def test_both_whole_intervals_decide(ratios: dict[str, Interval], changes: bool, differs: bool) -> None:
    pair = Pair("backend", Cell("v1", "eager"), Cell("v1", "compile"), ratios)
    assert pair.changes_rank is changes
    assert pair.order_differs is differs
    assert (pair.margin > 0) is changes
    if changes:
        low, high = pair.extremes
        assert ratios[low].high < 1 < ratios[high].low


def test_ratios_to_a_reference_are_a_hosts_own() -> None:
    """Ten times slower throughout is the same ratio; nothing is divided by another machine's time."""
    text = text_of(host("fast", measured()), host("slow", measured(speed=lambda _: 10.0)))
    _, *found = rows(section(text, "Against the reference networks on each host"))[1:]
    assert len(found) == 3
    for _, fast, slow in found:
        assert fast == slow
    assert "Boards alike" not in text
    assert "none is divided by that of another machine" in text
    for row in rows(section(text, "Latency on each host")):
        if row[0] == "`eager`":
            fast, slow = (float(re.findall(r"[\d.]+", cell)[0]) for cell in row[1:])
            assert slow == pytest.approx(10 * fast, rel=0.01)


def test_the_fastest_is_marked_on_every_host() -> None:
    text = section(
        text_of(host("x86", measured()), host("pi", measured(speed=slow_int8))), "Latency on each host"
    )
    found = {row[0]: row[1:] for row in rows(text) if row[0].startswith("`")}
    marked = {backend: [cell.startswith("**") for cell in cells] for backend, cells in found.items()}
    assert marked == {
        "`eager`": [False, False],
        "`onnxruntime`": [False, True],
        "`onnxruntime-int8`": [True, False],
    }


def test_what_a_host_lacks_is_a_dash_with_its_reason() -> None:
    lacking = measured(factory.request(("v3-small",), ("v1",), ("eager", "onnxruntime")))
    lacking.add(Skipped("onnxruntime-int8", "no int8 | <here>", "pip install it"))
    failing = measured()
    failing.add(factory.failure(failing.cells[Cell("v3-small", "eager").key].cell, "load", "```tail```"))
    text = text_of(host("whole", measured()), host("lacking", lacking), host("failing", failing))
    latencies = section(text, "Latency on each host")
    assert "skipped there: no int8 \\| &lt;here>" in latencies
    assert "failed (load); see Failures" in latencies
    failures = section(text, "Failures and skips")
    assert "### lacking\n\n- `onnxruntime-int8` was skipped: no int8 \\| &lt;here>." in failures
    assert (
        "### failing\n\n- `v3-small/eager?threads=1&batch=1&resolution=224&device=cpu` failed (load)"
        in failures
    )
    assert "### whole\n\nNothing failed and nothing was skipped." in failures


def failed() -> Run:
    run = Run.started(factory.header(SMALL))
    for record in run.cells.values():
        run.add(factory.failure(record.cell))
    run.add(factory.finished("failures", "nothing-left", None))
    return run


def test_a_host_with_only_failures() -> None:
    text = text_of(host("good", measured()), host("bad", failed()))
    answer = text.partition("## Latency")[0]
    assert "`onnxruntime-int8` on good (" in answer
    assert "⚠ Nothing was timed on bad; see Failures and skips." in answer
    assert "No cell was timed on two hosts, so no ranking is held against another." in answer
    assert "| bad | 0 of 6 |" in section(text, "Noise met on each host")
    assert "No cell was timed on any host" in text_of(host("a", failed()), host("b", failed()))


def test_one_host_has_nobody_beside_it() -> None:
    text = text_of(host("only", measured()))
    answer = text.partition("## Latency")[0]
    assert "The fastest backend for each network:" in answer
    assert re.search(r"`onnxruntime-int8` \([\d.]+ \[", answer)
    assert "rank" not in answer.lower()
    assert "## Ranks" not in text
    assert "One host only" in section(text, "The hosts")
    assert "No cell was timed on the host" in text_of(host("only", failed()))
    with pytest.raises(ValueError, match="at least one run"):
        across_hosts("none", [])


def test_boards_alike_have_a_spread_and_their_difference_is_named() -> None:
    hosts = [
        host(f"pi-{number}", measured(speed=lambda _, by=by: by, seed=number), "pi", board="pi5")  # type: ignore[misc]
        for number, by in enumerate((1.0, 1.0, 1.1))
    ]
    (group,) = alike(Across(named(hosts)))
    assert group.spread == pytest.approx(math.log(1.1) / math.sqrt(3), rel=0.1)
    assert group.within == pytest.approx(0.03, abs=0.03)
    counts = [
        sum(change.shown != "no difference shown" for change in found) for *_, found in group.differences
    ]
    assert counts[0] <= 2, "equal boards"
    assert counts[1] >= 4, "boards that differ by 10 %"
    text = text_of(*hosts)
    answer = text.partition("## Latency")[0]
    assert "**Board to board** (pi-0, pi-1 and pi-2, one fingerprint): the same cell differs by" in answer
    boards = section(text, "Boards alike")
    assert "boards alike, or one machine more than once" in boards
    assert "not interleaved" in boards
    assert "All hosts have one fingerprint of the machine" in section(text, "The hosts")


def test_other_versions_are_labelled_and_no_board_to_board_spread() -> None:
    other = {"packages": {"torch": "2.13.0", "onnxruntime": "1.31.0"}, "fingerprint": "s2"}
    hosts = [
        host("a", measured(), "pi"),
        host("b", measured(seed=1), "pi", other),
        host("c", measured(), "pc"),
    ]
    text = text_of(*hosts)
    assert "⚠ The hosts have several sets of versions (onnxruntime 1.32.0 on a and c, 1.31.0 on b)" in text
    assert (
        "| backend | a (versions A) ms [95 %] | b (versions B) ms [95 %] | c (versions A) ms [95 %] |" in text
    )
    boards = section(text, "Boards alike")
    assert boards.strip().startswith(
        "a and b have one fingerprint of the machine and several of the versions"
    )
    assert alike(Across(named(hosts))) == []
    assert "| onnxruntime | 1.32.0 | 1.31.0 | 1.32.0 |" in section(text, "The hosts")


def test_another_network_of_the_same_name_is_said() -> None:
    run = measured()
    run.variants = [msgspec.structs.replace(facts, weights="small.pth") for facts in run.variants[:1]]
    text = text_of(host("a", measured()), host("b", run))
    assert "⚠ Not the same network on every host, by its weights or its count: v3-small." in text


def test_hosts_alike_that_shared_the_work_have_one_column() -> None:
    parts = [measured(msgspec.structs.replace(SMALL, threads=(number,))) for number in (1, 2)]
    hosts = [host(f"pi-{number}", run, "pi") for number, run in enumerate(parts)]
    text = text_of(*hosts, host("x86", measured(msgspec.structs.replace(SMALL, threads=(1, 2)), slow_int8)))
    latencies = section(text, "Latency on each host")
    assert "| backend | threads | on | pi-0 and pi-1 ms [95 %] | x86 ms [95 %] |" in latencies
    assert "–" not in latencies
    assert "| `eager` | 2 | pi-1, x86 |" in latencies
    assert "**The rank changes:**" in text.partition("## Latency")[0]
    assert "## Boards alike" not in text, "no cell was timed on both"


def test_tuned_cells_and_several_settings() -> None:
    one, other = factory.tuned_run(), factory.tuned_run()
    winner = one.tuned[0].winner
    assert winner is not None
    other.tuned, other.cells = [], {key: record for key, record in other.cells.items() if key != winner}
    other.blocks = [block for block in other.blocks if block.cell != winner]
    text = text_of(host("tuned", one), host("plain", other))
    assert "`onnxruntime:spinning=off:graph=extended` (tuned) on tuned" in text
    assert "not both timed on plain" in text
    assert "tuned otherwise, or not at all, there" in section(text, "Latency on each host")
    asked = factory.request(("v3-small",), ("v1",), ("eager", "onnxruntime"), (1, 2), (1, 8), (160, 224))
    several = text_of(host("a", measured(asked)), host("b", measured(asked, seed=1)))
    assert "| backend | threads | batch | pixels | a ms [95 %] | b ms [95 %] |" in several
    assert several.partition("## Latency")[0].count("- **v3-small, ") == 2, (
        "a line for each number of threads"
    )
    assert "batch 8" not in several.partition("## Latency")[0]


def test_many_hosts_get_several_tables() -> None:
    hosts = [host(f"host-{number}", measured(seed=number)) for number in range(8)]
    text = text_of(*hosts)
    headings = re.findall(r"^\| backend \| host-.*", section(text, "Latency on each host"), re.M)
    assert [heading.count("host-") for heading in headings[:2]] == [6, 2]
    assert "±" in section(text, "Latency on each host"), "short intervals"
    assert "on all 8 hosts (" in text
    assert ", and 4 more)." in text


def cut_off() -> Run:
    run = measured()
    run.finished = None
    return run


def hostile() -> Run:
    run = measured(
        factory.request(("v3-small",), ("v1",), ("eager:" + factory.HOSTILE.replace("/", ""), "eager"))
    )
    run.add(Skipped("x", factory.HOSTILE, None))
    software = msgspec.structs.replace(
        run.header.software, packages={factory.HOSTILE: factory.HOSTILE}, fingerprint="h"
    )
    run.header = msgspec.structs.replace(run.header, software=software, run_id=factory.HOSTILE)
    return run


WORST = factory.HOSTILE + "\u202e\u200f עברית \x1b[31m"
SETS: dict[str, Callable[[], list[HostRun]]] = {
    "whole": lambda: [host("a", measured()), host("b", measured(speed=slow_int8))],
    "failures": lambda: [host("a", measured()), host("b", failed()), host("c", cut_off())],
    "only headers": lambda: [
        host("a", Run.started(factory.header())),
        host("b", Run.started(factory.header())),
    ],
    "one epoch": lambda: [host("a", factory.whole_run(epochs=1)), host("b", factory.whole_run(epochs=1))],
    "inputs of its own": lambda: [host("a", factory.own_run()), host("b", measured())],
    "hostile": lambda: [
        host(WORST, hostile()),
        host("b", measured(), **{WORST: WORST}),
        host(WORST, hostile(), "same"),
    ],
    "accuracy alone": lambda: [host("a", factory.evaluation_run()), host("b", factory.evaluated_run())],
    "ablated": lambda: [host("a", factory.ablated_run()), host("b", factory.ablated_run(), "machine of a")],
}


@pytest.mark.parametrize("name", SETS)
def test_tables_are_whole_and_names_do_no_harm(name: str) -> None:
    parts = across_hosts(WORST, SETS[name](), [WORST])
    text = to_markdown(None, parts)
    assert not re.search(r"\b(nan|None|inf|null)\b", text)
    width = 0
    for line in text.splitlines():
        if not line.startswith("|"):
            width = 0
            continue
        cells = re.split(r"(?<!\\)\|", line)[1:-1]
        assert all(cell.strip() for cell in cells), line
        width = width or len(cells)
        assert len(cells) == width, line
        for cell in cells:
            assert "–" not in cell or "<sup>" in cell, cell
    assert text.count("<details>") == text.count("</details>")
    assert "<script" not in text
    assert "\u202e" not in text
    assert "\x1b" not in text
    page = plain_page(parts)
    assert page.count("<script") == page.count("</script") == 4
    assert "\u202e" not in page
    assert ("⚠ Not whole on" in text) is (name in ("failures", "only headers"))


def test_namesakes_are_numbered() -> None:
    run = measured()
    names = [each.name for each in named([HostRun(name, {}, run) for name in ("a", "a", "a (2)", "", "a")])]
    assert names == ["a", "a (2)", "a (2) (2)", "host without a name", "a (3)"]


def test_a_long_report_over_hosts_is_shortened() -> None:
    asked = factory.request(backends=tuple(factory.SPEEDUP), threads=(1, 2, 4, 8))
    hosts = [
        host(f"host-{number}", factory.whole_run(asked, epochs=2, rounds=1, calls=2)) for number in range(8)
    ]
    parts = across_hosts("Hosts", hosts)
    whole, short = to_markdown(None, parts), to_markdown(None, parts, page="hosts.html")
    assert len(whole) > shortened.LIMIT >= len(short)
    assert parts.answer in short
    assert "`hosts.html` has all" in short


# Folders.


def test_folders_are_called_as_they_are(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_run(measured(), tmp_path / name)
    found, fleets = load_hosts([tmp_path / "a", f"{tmp_path}/a/../b/"])
    assert [each.name for each in found] == ["a", "b"]
    assert fleets == []


def test_a_fleets_folder_stands_for_its_hosts(tmp_path: Path) -> None:
    run = measured()
    entries: list[fleet.FleetEntry] = [
        fleet.FleetStarted(
            1, "f", "2026-01-01", "mnv3-bench run", "local:2", run.header.request, run.header.cells, False, ()
        )
    ]
    for name in ("pi", "pc"):
        group = fleet.Group(f"group-{name}", name, run.header.cells)
        entries += [
            fleet.HostJoined(name, name, {"board": name}, factory.MACHINE, "p"),
            fleet.GroupPlanned(group),
            fleet.Assigned(f"{name}/group-{name}", group.name, name, "2026-01-01"),
            fleet.AttemptEnded(f"{name}/group-{name}", group.name, "complete", "2026-01-01"),
        ]
        place = tmp_path / "hosts" / name / group.name
        place.mkdir(parents=True)
        with Journal.create(place / "journal.jsonl") as journal:
            for entry in factory.entries_of(run):
                journal.append(entry)
    entries += [fleet.HostRefused("tablet", "other versions"), fleet.FleetFinished("2026-01-02", "complete")]
    (tmp_path / "fleet.jsonl").write_bytes(b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries))
    found, (whole,) = load_hosts([tmp_path])
    assert [(each.name, each.labels) for each in found] == [("pi", {"board": "pi"}), ("pc", {"board": "pc"})]
    assert whole.refused == {"tablet": "other versions"}
    assert isinstance(found[0].run.finished, RunFinished)
    text = to_markdown(None, across_hosts("Hosts", found, [f"note {number}" for number in range(6)]))
    assert "- note 3\n- 2 more in Failures and skips" in text.partition("## Latency")[0]
    assert "- note 5" in section(text, "Failures and skips")
    assert "| pi | board=pi |" in section(text, "The hosts")
