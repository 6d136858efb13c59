"""The gate's markdown: what regressed comes first, nothing is left out, and no name can break it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec
import pytest
from markdown_it import MarkdownIt
from reports import verdicts

from mnv3_reports.escaping import code, inline, plain
from mnv3_reports.verdict import ArmFacts, Check, GateReport, Verdict
from mnv3_reports.verdict_markdown import to_markdown
from mnv3_reports.verdict_words import SEVERITY, advice, worst_first

if TYPE_CHECKING:
    from markdown_it.token import Token

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
"""CommonMark with GitHub's tables; HTML passes, as it does on GitHub before its sanitizer."""


@pytest.fixture(params=verdicts.REPORTS, scope="module")
def report(request: pytest.FixtureRequest) -> GateReport:
    made: GateReport = verdicts.REPORTS[request.param]()
    return made


def tokens(report: GateReport) -> list[Token]:
    return [t for token in PARSER.parse(to_markdown(report)) for t in (token, *(token.children or ()))]


def tables(report: GateReport) -> list[list[list[str]]]:
    """Tables as rows of what a reader sees in each cell, the heading's row first."""
    found: list[list[list[str]]] = []
    inside = False
    for token in PARSER.parse(to_markdown(report)):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type in ("td_open", "th_open"):
            inside = True
        elif token.type == "inline" and inside:
            inside = False
            found[-1][-1].append("".join(child.content for child in token.children or ()))
    return found


def opening(report: GateReport) -> str:
    """What stands above the first table."""
    return to_markdown(report).split("\n| ", 1)[0]


def test_one_heading_says_the_verdict(report: GateReport) -> None:
    lines = to_markdown(report).splitlines()
    words = {"pass": "passed", "fail": "failed", "inconclusive": "inconclusive", "invalid": "invalid"}
    assert lines[0] == f"## Performance gate {words[report.verdict]}"
    headings = [token.tag for token in tokens(report) if token.type == "heading_open"]
    assert headings == ["h2", *["h3"] * 4]


def test_no_value_is_empty_or_nonsense_and_every_dash_is_explained(report: GateReport) -> None:
    text = to_markdown(report)
    assert not re.search(r"\b(nan|None|inf|null)\b", text.replace("null control", ""))
    for table in tables(report):
        assert len({len(row) for row in table}) == 1
        assert all(value.strip() for row in table for value in row)
    paragraphs = text.split("\n\n")
    for table_text, below in zip(paragraphs, [*paragraphs[1:], ""], strict=True):
        if table_text.startswith("|"):
            assert "–" not in re.sub(r"–<sup>\w+</sup>", "", table_text)
            for letter in re.findall(r"<sup>(\w+)</sup>", table_text):
                assert f"<sup>{letter}</sup> " in below


def test_every_cell_has_its_row_and_the_worst_come_first(report: GateReport) -> None:
    rows = [
        row
        for table in tables(report)
        if table[0][-1] == "verdict" and "figure" not in table[0]
        for row in table
    ]
    words = [re.sub(r"<.*", "", row[-1]).lower() for row in rows if row[-1] != "verdict"]
    assert words == [cell.verdict.value for cell in worst_first(report.cells)]
    assert words == sorted(words, key=lambda word: SEVERITY.index(Verdict(word)))


def test_folds_and_fences_close(report: GateReport) -> None:
    text = to_markdown(report)
    assert text.count("<details>") == text.count("</details>")
    fences = [token for token in tokens(report) if token.type == "fence"]
    assert plain(fences[-1].content) == (plain(report.command) or "(the command is not known)")


def test_it_fits_a_comment(report: GateReport) -> None:
    assert len(to_markdown(report)) < 65_536  # GitHub's limit


def test_regressions_are_named_with_their_change_before_any_table() -> None:
    text = opening(verdicts.failing())
    assert "**2 of 4 cells are slower than allowed.** Regressed: `v1/eager` **+8.3 % [+7.4, +9.2]**" in text
    assert "`v3-large/eager` **+5.1 % [+4.2, +6.0]**" in text
    assert "v3-small/eager" not in text
    first = tables(verdicts.failing())[0]
    assert first[0] == ["cell", "base ms", "head ms", "change [95 %]", "allowed", "verdict"]
    assert first[1][:5] == ["v1/eager", "6.50", "7.04", "+8.3 % [+7.4, +9.2]", "3 %"]
    assert first[1][5].startswith("FAIL")


def test_what_the_summary_says_is_not_said_again() -> None:
    report = verdicts.failing()
    summary = "2 of 4 cells regressed: v1/eager +8.3 %, v3-large/eager-channels-last +5.1 %"
    text = opening(msgspec.structs.replace(report, summary=summary))
    assert "+8.3 %.** Regressed" not in text
    assert f"**{summary}.** Regressed: `v3-large/eager` **+5.1 % [+4.2, +6.0]**.\n" in text
    told = msgspec.structs.replace(report, summary="v1/eager and v3-large/eager regressed!")
    assert "**v1/eager and v3-large/eager regressed!**\n" in opening(told)
    invalid = verdicts.invalid()
    reason = invalid.cells[0].reason
    assert "Invalid" not in opening(msgspec.structs.replace(invalid, summary=f"v3-small/eager: {reason}"))


def test_a_head_that_broke_did_not_regress() -> None:
    text = opening(verdicts.broken())
    assert "Regressed:" not in text
    assert (
        "Failed: `v3-small/onnxruntime` (the head arm failed (load): no such operator); "
        "`v1/eager` (the head arm failed in epoch 5 (measure): killed by signal 9)."
    ) in text
    assert "| +0.2 % [-0.7, +1.1] | 3 % | **FAIL**" in to_markdown(verdicts.broken())


def test_many_regressions_are_counted_and_passing_cells_fold() -> None:
    text = to_markdown(verdicts.many(13, 2))
    assert "; and 8 more." in opening(verdicts.many(13, 2))
    assert "<details><summary>9 cells passed</summary>" in text
    assert "cells passed" not in to_markdown(verdicts.many(14, 2))
    assert len(tables(verdicts.many(14, 2))[0]) == 1 + 24


def test_a_pass_names_the_cell_closest_to_its_margin() -> None:
    report = verdicts.report(
        [verdicts.cell("a", change=0.01), verdicts.cell("b", change=0.02, margin=0.1)], Verdict.PASS, "fine"
    )
    assert "Closest to its margin: `a` +1.0 % [+0.1, +1.9], allowed 3 %." in opening(report)


def test_an_inconclusive_gate_says_what_to_type() -> None:
    text = opening(verdicts.inconclusive())
    assert "To decide it, type:\n\n```\nmnv3-bench gate --base git:HEAD~1 --head . --variants small" in text
    given = re.search(r"--time-budget (\d+)m --seed 7\n```", text)
    assert given
    assert int(given[1]) >= 10, "at least twice the last"
    assert advice(verdicts.failing()) is None


def test_an_interrupted_gate_is_run_again_as_it_was() -> None:
    report = verdicts.interrupted()
    found = advice(report)
    assert found is not None
    assert found.command == report.command
    assert "interrupted" in opening(report)


def test_an_invalid_gate_says_why() -> None:
    assert "Invalid: `v3-small/eager` (the null control differs from 1 by more" in opening(verdicts.invalid())
    assert "(the base arm failed (prepare): no C++ compiler)" in opening(verdicts.crashed())


def test_an_injected_slowdown_is_said_before_the_verdict() -> None:
    quote = "> **TEST OF THE GATE: the head was slowed down by 5 % on purpose"
    assert to_markdown(verdicts.injected()).splitlines()[2].startswith(quote)
    assert "TEST OF THE GATE" not in to_markdown(verdicts.failing())


def test_deterministic_figures_show_only_what_changed_or_failed() -> None:
    report = verdicts.heavier()
    assert (
        "**macs rose.** Regressed: `v3-small/onnxruntime` `macs` 56,510,400 -> 60,000,000 (+6.2 %)"
        in opening(report)
    )
    (table,) = [table for table in tables(report) if "figure" in table[0]]
    assert [row[1:] for row in table[1:]] == [
        ["macs", "56,510,400", "60,000,000 (+6.2 %)", "0", "FAIL"],
        ["parameters", "2,542,856", "2,542,857 (+1)", "0", "FAIL"],
        ["fidelity_snr_db", "21.5 dB", "–<sup>a</sup>", "0.5 dB", "INVALID"],
    ]
    assert "A rule says by how much the head may be worse. 1 other figure did not change." in to_markdown(
        report
    )
    assert "Nothing was timed." in to_markdown(report)
    assert "Nothing changed: 9 figures are the same" in to_markdown(verdicts.passing())
    assert "No deterministic figure was compared." in to_markdown(verdicts.nothing())


def test_many_harmless_changes_fold_but_failures_do_not() -> None:
    better = [Check(f"fact{n}", 2.0, 1.0, "0", Verdict.PASS, changed=True) for n in range(9)]
    worse = Check("nodes", 1.0, 2.0, "0", Verdict.FAIL, changed=True)
    cells = [verdicts.cell(verdict=Verdict.FAIL, checks=(*better, worse))]
    text = to_markdown(verdicts.report(cells, Verdict.FAIL, "nodes"))
    shown, folded = text.split("<details><summary>9 figures changed within the rules</summary>")
    assert "| `nodes` | 1 | 2 (+100.0 %) | 0 | **FAIL** |" in shown
    assert "`fact0`" in folded
    assert "`fact0`" not in shown


def test_how_sure_it_is() -> None:
    text = to_markdown(verdicts.failing())
    for fact in (
        "A verdict may fall after 8, 14 or 20 epochs",
        "cells at most 5 %, power asked 80 %",
        "Predicted by the pilot (3 epochs, blind to the head): noise 1.2 %, smallest detectable slowdown 4.3 % ",
        "with 20 epochs of 30 rounds, at most 7 min 0 s.",
        "Reached: noise 1.4 % (root mean square over cells), smallest detectable slowdown 4.7 %, 14 epochs.",
        "Disturbed: 48 of 1,680 blocks; ",
        "others took 1.3 % of a CPU during the base's blocks and 1.1 % during the head's.",
        "Started 2026-01-01T01:00:00+01:00; seed 7; exit code 1.",
        "Machine: Imaginary CPU @ 2.50GHz; 2 of 2 logical CPUs usable; 8.0 GiB memory",
        "Note: the governor is not known",
    ):
        assert fact in text
    (table,) = [table for table in tables(verdicts.failing()) if "null control" in table[0]]
    assert table[1][1:] == [
        *("1.4 %", "4.7 %", "14", "14 epochs", "+0.1 % [-0.5, +0.7]", "0.0012", "12 of 420", "1.3 % / 1.1 %")
    ]
    assert table[3][4] == "–<sup>a</sup>"


def test_cells_that_differ_in_noise_are_summed_up_by_their_ends() -> None:
    noises = ((0.01, 0.04, 8), (0.02, 0.06, 14))
    cells = [verdicts.cell(f"c{n}", noise=n, detectable=d, epochs=e) for n, d, e in noises]
    text = to_markdown(verdicts.report(cells, Verdict.PASS, "fine"))
    assert "noise 1.6 % (root mean square over cells), " in text
    assert "smallest detectable slowdown 4.0 % to 6.0 %, by cell, 8 to 14 epochs." in text


def test_only_packages_that_differ_are_listed() -> None:
    report = verdicts.passing()
    (table,) = [table for table in tables(report) if table[0][0] == "package"]
    assert table[1:] == [["onnxruntime", "1.32.0", "1.33.0"]]
    same = msgspec.structs.replace(report, head=report.base)
    assert "Packages: no difference (3 compared)." in to_markdown(same)
    gone = msgspec.structs.replace(report, head=ArmFacts("x", "3.12", {f"p{n}": "1" for n in range(9)}))
    text = to_markdown(gone)
    assert "<details><summary>12 packages differ</summary>" in text
    assert "not installed in the head" in text


def test_settings_that_cells_share_are_said_once_and_others_in_the_name() -> None:
    assert "Every cell: 1 thread, batch 1, 224 × 224." in to_markdown(verdicts.failing())
    text = to_markdown(verdicts.crashed())
    assert "Every cell: device=cpu." in text
    assert "`v1/eager?threads=2&batch=8&resolution=192`" in text
    two = verdicts.cell(
        base_cell="v1/eager?threads=1&batch=1&resolution=224&device=cpu", verdict=Verdict.FAIL, change=0.5
    )
    assert "`v3-small/onnxruntime` against `v1/eager`" in opening(
        verdicts.report([two], Verdict.FAIL, "slow")
    )


def test_hostile_text_is_shown_and_does_nothing() -> None:
    report = verdicts.hostile()
    kinds = {token.type for token in tokens(report)}
    assert kinds.isdisjoint({"em_open", "link_open", "image", "s_open"})
    tags = {token.content for token in tokens(report) if token.type in ("html_inline", "html_block")}
    assert all(re.fullmatch(r"(</?sup>|<br>|</?details>.*\n?)", tag, flags=re.S) for tag in tags), tags
    seen = "".join(
        token.content for token in tokens(report) if token.type in ("text", "text_special", "code_inline")
    )
    assert "a|b`c ## d <img src=x onerror=y> *e* [f](g) _h_ @\u200beveryone #\u200b1 " in seen
    assert "::error::,&amp;" in seen
    assert not re.search("[\x00\x1b\u202e\udc80]", to_markdown(report))
    to_markdown(report).encode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("v3-small@0.75/eager", "v3-small@0.75/eager"),
        ("thanks @octocat, see o/r#12", "thanks @&#8203;octocat, see o/r#&#8203;12"),
        ("git:HEAD~1 costs $5", "git:HEAD\\~1 costs &#36;5"),
        ("a\\*b", "a\\\\\\*b"),
        ("C# and &lt;", "C# and &amp;lt;"),
        ("two\nlines\t and  spaces ", "two lines and spaces"),
    ],
)
def test_escaping(text: str, shown: str) -> None:
    assert inline(text) == shown
    seen = "".join(t.content for t in PARSER.parseInline(shown)[0].children or ())
    assert seen.replace("\u200b", "") == " ".join(text.split())


def test_a_name_is_a_code_span_unless_it_would_end_it() -> None:
    assert code("_a*_[x](y)@b") == "`_a*_[x](y)@b`"
    assert code("a`b") == "a\\`b"
    assert code(" \n") == "(empty)"
