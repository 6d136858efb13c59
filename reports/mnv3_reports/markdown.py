"""The report as GitHub-flavoured markdown. It reads well when pasted into a pull request; long parts fold."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from mnv3_reports import network_tables, provenance, tables, units
from mnv3_reports.answer import answer, describe
from mnv3_reports.facts import fact_lines
from mnv3_reports.layout import escape, fenced, folded, to_markdown
from mnv3_reports.noise import noise_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mnv3_reports.record import Run
    from mnv3_reports.summary import Summary

LEGEND = """\
**Reading it:** the median's interval is over epochs (fresh processes). images/s is batch / median. "/
eager" is time relative to eager on the same network and setting: below 1 is faster. Peak is the
process's resident high-water mark, "above runtime" the part beyond the runtime's bare import; MB is
10^6 bytes. Build is what the artifact took when it was made ("cached": by an earlier run). SNR and
"same top-1" compare logits with eager fp32; 200 dB stands for
identical or nearly so."""


class Picture(NamedTuple):
    """A chart that lies beside the report."""

    title: str
    path: str
    """Relative to the report."""


def report_text(summary: Summary, pictures: Sequence[Picture] = ()) -> str:
    """The whole report of a run, however much of it was measured."""
    sections = chain(
        _opening(summary),
        _results(summary),
        _references(summary),
        _networks(summary),
        _charts(pictures, timed=bool(summary.measured)),
        _failures(summary.run),
        ["## Noise met", "\n".join(noise_lines(summary))],
        ["## How it was measured", *provenance.method(summary)],
    )
    return "\n\n".join(sections) + "\n"


def _opening(summary: Summary) -> Iterable[str]:
    yield f"# MobileNet benchmark: {provenance.listed(summary.run.header.request.variants)}"
    notice = provenance.partial_notice(summary.run)
    if notice is not None:
        yield f"> **{notice}**"
    yield answer(summary)
    yield "## What was asked, and of which machine"
    yield "\n".join(provenance.asked(summary))


def _results(summary: Summary) -> Iterable[str]:
    request = summary.run.header.request
    yield "## Results"
    if not summary.run.cells:
        yield "No cell was planned."
        return
    first = next(iter(summary.run.cells.values())).cell
    setting = describe(first) if len(summary.settings) == 1 else "each setting has its own row"
    yield f"Median ms a call at a glance ({setting}):"
    yield to_markdown(tables.overview(summary))
    for variant in summary.variants:
        rows = tables.cell_rows(summary, variant)
        parts = [
            to_markdown(tables.cells_table(summary, rows, tables.SPEED)),
            to_markdown(tables.cells_table(summary, rows, tables.deployment(summary))),
        ]
        heading = f"{variant}: {_size(summary, variant)}"
        if variant in request.variants:
            yield f"### {heading}"
            yield from parts
        else:
            yield folded(f"{heading} (reference)", "\n\n".join(parts))
    yield " ".join(LEGEND.split())
    facts = fact_lines(summary)
    if facts:
        yield folded(
            "What each backend says it did (read back from artifacts and sessions)", "\n".join(facts)
        )
    everything = [row for variant in summary.variants for row in tables.cell_rows(summary, variant)]
    yield folded(
        "Tails, counts and disturbances of every cell",
        to_markdown(tables.cells_table(summary, everything, tables.TAILS, name_variant=True)),
    )


def _size(summary: Summary, variant: str) -> str:
    known = [facts for facts in summary.run.variants if facts.variant == variant]
    if not known:
        return "not counted (the run ended before)"
    macs = [
        f"{units.millions(facts.complexity.macs)} M MACs"
        + (f" at {facts.resolution}" if len(known) > 1 else "")
        for facts in known
    ]
    return f"{units.millions(known[0].complexity.parameters)} M parameters, {', '.join(macs)}"


def _references(summary: Summary) -> Iterable[str]:
    table = tables.against_references(summary)
    names = " and ".join(summary.run.header.request.references)
    yield f"## Against {names}" if names else "## Against reference networks"
    if table is None:
        yield "No reference network was asked for beside the requested ones (--references v1,v2 adds them)."
        return
    yield "Time relative to the reference on the same backend and setting: **below 1 is faster than it**."
    yield to_markdown(table)


def _networks(summary: Summary) -> Iterable[str]:
    features = network_tables.features(summary)
    yield "## What the networks are made of"
    yield to_markdown(features) if features else "Nothing was counted before the run ended."
    complexity = network_tables.complexity(summary)
    if complexity is not None:
        yield (
            "Counted for one image. MACs are those of convolutions and linear layers, as papers give them; a MAC "
            "is two FLOPs. Other operations stand apart: some tools add them to the MACs."
        )
        yield to_markdown(complexity)
    published = network_tables.published(summary)
    yield "## Published figures beside these"
    if published is None:
        yield "No published figures are known for these networks at these resolutions."
        return
    yield (
        "What was counted here stands in parentheses. Published times are of other machines: they show "
        "order, not speed. Top-1 is published ImageNet accuracy, not measured here."
    )
    yield to_markdown(published)


def _charts(pictures: Sequence[Picture], *, timed: bool) -> Iterable[str]:
    yield "## Charts"
    if not pictures:
        yield "No chart was drawn with this report." if timed else "No chart: no cell was timed."
    for picture in pictures:
        yield f"![{picture.title}]({picture.path})"


def _failures(run: Run) -> Iterable[str]:
    failures = [record.failure for record in run.cells.values() if record.failure is not None]
    yield "## Failures and skips"
    if not failures and not run.skipped:
        yield "Nothing failed and nothing was skipped."
        return
    lines = [
        f"- `{failure.cell}` failed ({failure.phase}): {escape(failure.reason).rstrip('.')}.{_mend(failure.install)}"
        for failure in failures
    ]
    lines += [
        f"- `{skipped.backend}` was skipped: {escape(skipped.reason).rstrip('.')}.{_mend(skipped.install)}"
        for skipped in run.skipped
    ]
    yield "\n".join(lines)
    for failure in failures:
        if failure.tail.strip():
            yield folded(f"Last output of {failure.cell}", fenced(failure.tail))


def _mend(command: str | None) -> str:
    return f" To mend it: `{command}`" if command else ""
