"""The report as GitHub-flavoured markdown. It reads well when pasted into a pull request; long parts fold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnv3_reports import (
    ablation,
    accuracy_section,
    accuracy_tables,
    explanation,
    failures,
    memory,
    network_tables,
    parts,
    profiles_section,
    provenance,
    roofline,
    scaling_section,
    sensitivity,
    tables,
    tuned,
    units,
)
from mnv3_reports.accuracy_words import FLAG
from mnv3_reports.answer import answer
from mnv3_reports.cell_words import inputs_of
from mnv3_reports.escaping import code, inline, plain
from mnv3_reports.facts import fact_lines
from mnv3_reports.layout import folded, to_markdown
from mnv3_reports.noise import noise_lines
from mnv3_reports.parts import PAGE, Parts, Section

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mnv3_reports.drawings import Picture
    from mnv3_reports.summary import Summary

LONG = 24
"""Rows that one table may have before every setting gets a table of its own."""
SHORT = 12
"""Rows of a secondary table that a reader gets without unfolding it."""

LEGEND = """\
**Reading it:** the median's interval is over epochs (fresh processes). images/s (of other inputs:
inputs/s) is batch / median. "/ eager" is time relative to eager on the same network and setting:
below 1 is faster. Peak is the process's resident high-water mark, "above runtime" the part beyond the
runtime's bare import; MB is 10^6 bytes. Build is what the artifact took when it was made ("cached": by
an earlier run). SNR and "same top-1" compare outputs with eager fp32 unless a note says otherwise;
200 dB stands for identical or nearly so."""

LEGEND_OF_ACCURACY = """ top-1 is of labelled images, and the drop is what eager fp32 gets right more of the same
images, in points: the section Accuracy says how both are meant."""


def report_text(summary: Summary, pictures: Sequence[Picture] = ()) -> str:
    """The whole report of a run, however much of it was measured."""
    return parts.to_markdown(summary.run, parts_of(summary), pictures, page=PAGE)


def parts_of(summary: Summary) -> Parts:
    """All the report says, in its order: the comparison first, then every network's cells, then how and where."""
    sections = [
        _references(summary),
        Section("Results", list(_results(summary))),
        Section("Accuracy", list(accuracy_section.section(summary))),
        Section("Sensitivity to quantization", list(sensitivity.section(summary))),
        Section("Ablation", list(ablation.section(summary))),
        Section("Tuned forms", list(tuned.section(summary))),
        Section("Why, by the runtimes' own account", list(explanation.section(summary))),
        Section("Where the time goes", list(profiles_section.section(summary))),
        Section("Roofline", list(roofline.section(summary))),
        Section("Memory", list(memory.section(summary))),
        Section("Scaling", list(scaling_section.section(summary))),
        Section("What the networks are made of", list(_networks(summary))),
        Section("Published figures beside these", list(_published(summary))),
        Section("Failures and skips", list(failures.section(summary))),
        Section("What was asked, and of which machine", ["\n".join(provenance.asked(summary))]),
        Section("Noise met", ["\n".join(noise_lines(summary))]),
        Section("How it was measured", list(provenance.method(summary))),
    ]
    undrawn = "No chart was drawn with this report." if summary.measured else "No chart: no cell was timed."
    return Parts.of(_title(summary), answer(summary), sections, undrawn)


def _title(summary: Summary) -> str:
    request = summary.run.header.request
    ours = any(variant not in request.models for variant in request.variants) or not request.variants
    return f"{'MobileNet benchmark' if ours else 'Benchmark'}: {_named(summary)}"


def _named(summary: Summary) -> str:
    """The requested networks; without ablated forms where there are others."""
    request = summary.run.header.request
    whole = [variant for variant in request.variants if variant not in request.ablated]
    return plain(provenance.listed(whole or request.variants))


def _results(summary: Summary) -> Iterable[str]:
    request = summary.run.header.request
    if not summary.run.cells:
        yield "No cell was planned."
        return
    tuned_too = "; tuned forms are in the networks' own tables" if summary.defaults else ""
    yield f"Median ms a call at a glance, fastest first{tuned_too}:"
    yield from _pages(summary, lambda settings: to_markdown(tables.overview(summary, settings)))
    for variant in summary.variants:
        parts = list(_network(summary, variant))
        heading = f"{variant}: {_size(summary, variant)}"
        if variant in request.ablated:
            yield folded(f"{heading} (a form of {request.ablated[variant]})", "\n\n".join(parts))
        elif variant in request.variants:
            yield f"### {inline(heading)}"
            yield from parts
        else:
            yield folded(f"{heading} (reference)", "\n\n".join(parts))
    yield " ".join((LEGEND if summary.run.evaluation is None else LEGEND + LEGEND_OF_ACCURACY).split())
    facts = fact_lines(summary)
    if facts:
        yield folded(
            "What each backend says it did (read back from artifacts and sessions)", "\n".join(facts)
        )
    everything = [row for variant in summary.variants for row in tables.cell_rows(summary, variant)]
    yield folded(
        "Tails, counts and disturbances of every cell",
        to_markdown(tables.cells_table(everything, tables.TAILS, name_variant=True)),
    )


def _pages(summary: Summary, text: Callable[[Sequence[str]], str | None]) -> Iterable[str]:
    """One table of every setting while that is short and of the same networks; otherwise one a setting.

    Of many long ones the first is open and the rest fold.
    """
    settings = summary.settings
    lines = tables.lines(summary, settings)
    networks = {frozenset(v for line in lines if line.setting == s for v in line.cells) for s in settings}
    short = len(lines) <= LONG
    if len(settings) > 1 and short and len(networks) == 1:
        whole = text(settings)
        if whole is not None:
            yield whole
        return
    pages = [(summary.describe(setting), text([setting])) for setting in settings]
    shown = [(title, page) for title, page in pages if page is not None]
    for number, (title, page) in enumerate(shown):
        yield f"With {title}:\n\n{page}" if short or not number else folded(f"With {title}", page)


def _network(summary: Summary, variant: str) -> Iterable[str]:
    """The tables of one network's cells, and which of them answer otherwise than the reference."""
    rows = tables.cell_rows(summary, variant)
    pages = tables.by_setting(rows).values() if len(rows) > LONG else [rows]
    for number, page in enumerate(pages):
        deployment = to_markdown(tables.cells_table(page, tables.deployment(summary)))
        if len(page) > SHORT:
            deployment = folded("Size, memory, start-up and agreement", deployment)
        beside = accuracy_tables.BESIDE_SPEED if summary.run.evaluation is not None else ()
        parts = [to_markdown(tables.cells_table(page, [*tables.speed(page), *beside])), deployment]
        title = summary.names.describe(page[0].record.cell)
        if number:
            yield folded(f"With {title}", "\n\n".join(parts))
        else:
            yield from [f"With {title}:", *parts] if len(rows) > LONG else parts
    flagged: dict[str, float] = {}
    for row in rows:
        share = summary.other_classes(row.record)
        if share is not None:
            backend = row.record.cell.backend
            flagged[backend] = max(share, flagged.get(backend, 0.0))
    if flagged:
        worst = sorted(flagged, key=lambda backend: -flagged[backend])
        shares = ", ".join(f"{code(backend)} {units.percent(flagged[backend])}" for backend in worst)
        yield f"{FLAG} Flagged, for {tables.OTHER_CLASSES}: {shares}."


def _size(summary: Summary, variant: str) -> str:
    model = summary.run.header.request.models.get(variant)
    takes = f"{FORMATS.get(model.format, model.format)}, takes {inputs_of(model)}; " if model else ""
    known = [facts for facts in summary.run.variants if facts.variant == variant]
    counted = [(facts, facts.complexity) for facts in known if facts.complexity is not None]
    if not known:
        return f"{takes}not counted (the run ended before)"
    if not counted:
        return f"{takes}operators not counted"
    macs = [
        f"{units.millions(complexity.macs)} M MACs" + (f" at {facts.resolution}" if len(known) > 1 else "")
        for facts, complexity in counted
    ]
    return f"{takes}{units.millions(counted[0][1].parameters)} M parameters, {', '.join(macs)}"


FORMATS = {
    "module": "PyTorch module",
    "pt2": "PyTorch exported program (pt2)",
    "torchscript": "TorchScript file",
    "onnx": "ONNX file",
    "tflite": "TensorFlow Lite file",
    "pte": "ExecuTorch file",
    "openvino": "OpenVINO file",
}
"""What a network of the user's own was given as, in words."""


def _references(summary: Summary) -> Section:
    names = " and ".join(summary.run.header.request.references)
    return Section(f"Against {names}" if names else "Against reference networks", list(_beside(summary)))


def _beside(summary: Summary) -> Iterable[str]:
    pages = list(
        _pages(
            summary,
            lambda settings: (
                to_markdown(table) if (table := tables.against_references(summary, settings)) else None
            ),
        )
    )
    if not pages and provenance.only_models(summary.run.header.request):
        yield "Networks with inputs of their own are compared with no reference network."
        return
    if not pages:
        yield "No reference network was asked for beside the requested ones (--references v1,v2 adds them)."
        return
    yield "Time relative to the reference on the same backend and setting: **below 1 is faster than it**."
    yield from pages


def _networks(summary: Summary) -> Iterable[str]:
    features = network_tables.features(summary, summary.asked)
    if features is not None:
        yield to_markdown(features)
    elif not summary.run.variants:
        yield "Nothing was counted before the run ended."
    forms = network_tables.features(summary, [v for v in summary.variants if v not in summary.asked])
    if forms is not None:
        yield folded("What the ablated forms are made of", to_markdown(forms))
    uncounted = [facts.variant for facts in summary.run.variants if facts.complexity is None]
    if uncounted and len(uncounted) == len(summary.run.variants):
        yield f"Nothing here counts the operators of {inline(provenance.listed(uncounted))}."
    complexity = network_tables.complexity(summary)
    if complexity is not None:
        yield (
            "Counted for one image, or for the inputs of a network of one's own. MACs are those of convolutions and "
            "linear layers, as papers give them; a MAC is two FLOPs. Other operations stand apart: some tools add "
            "them to the MACs."
        )
        yield to_markdown(complexity)


def _published(summary: Summary) -> Iterable[str]:
    published = network_tables.published(summary)
    if published is None:
        yield "No published figures are known for these networks at these resolutions."
        return
    yield (
        "What was counted here stands in parentheses. Published times are of other machines: they show "
        "order, not speed. Top-1 is published ImageNet accuracy, not measured here."
    )
    text = to_markdown(published)
    yield folded(f"{len(published.rows)} published figures", text) if len(published.rows) > SHORT else text
