"""The report's section about sensitive layers: what quantizing each of them alone does, and which stayed in float."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from mnv3_reports import units
from mnv3_reports.accuracy_words import joined, single
from mnv3_reports.charts import LIGHT, colours, data, styled, titled
from mnv3_reports.escaping import code, inline
from mnv3_reports.layout import Column, Value, build, folded, to_markdown
from mnv3_reports.tables import IDENTICAL_DB

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import altair as alt

    from mnv3_reports.charts import Theme
    from mnv3_reports.record import Cell, LayerSensitivity, Sensitivity
    from mnv3_reports.summary import Summary

OPEN = 10
"""Layers that a reader gets without unfolding the rest; also those that are counted by kind."""
NAMED = 6
"""Layers kept in float that a line names; more are folded."""
KEPT = "kept in float"
"""The fact of an artifact that names them: module paths with commas between."""
INTRODUCTION = """\
Every layer was quantized alone, simulated in PyTorch, while the others stayed in fp32; the most sensitive come first.
SNR is the signal-to-noise ratio of the logits against fp32: 20 dB is noise of a tenth. A scan ranks layers; its shares
are of few images and carry no interval."""


class _Row(NamedTuple):
    """A layer, or all of them together, beside the network in fp32."""

    scan: Sensitivity
    layer: LayerSensitivity
    place: int | None
    """From 1, the most sensitive; None for all together."""


def section(summary: Summary) -> Iterator[str]:
    """The section's paragraphs, without heading; none where nothing was scanned and nothing kept in float."""
    scans = in_order(summary)
    if scans:
        yield " ".join(INTRODUCTION.split())
    for scan in scans:
        yield f"### Sensitive layers of {inline(_named(summary, scan))}"
        yield from _of(scan)
    if not scans and summary.run.header.request.keep_float:
        yield "The scan for sensitive layers did not come to an end."
    yield from _kept(summary)


def in_order(summary: Summary) -> list[Sensitivity]:
    """The scans, networks in the report's order."""
    places = {variant: place for place, variant in enumerate(summary.variants)}
    return sorted(
        summary.run.sensitivities,
        key=lambda scan: (places.get(scan.variant, len(places)), -scan.resolution),
    )


def _named(summary: Summary, scan: Sensitivity) -> str:
    """The network, with its resolution where several were scanned."""
    same = [each for each in summary.run.sensitivities if each.variant == scan.variant]
    return scan.variant if len(same) < 2 else f"{scan.variant} at {scan.resolution} × {scan.resolution}"


def _of(scan: Sensitivity) -> Iterator[str]:
    yield (
        f"Scheme: {inline(scan.scheme).rstrip('.')}. On {units.counted(scan.images, 'image')}, of which fp32 gets "
        f"{single(scan.top1, scan.images)} % right at a loss of {units.significant(scan.loss)}."
    )
    if not scan.layers:
        yield "No layer was scanned."
        return
    yield _outcome(scan)
    rows = [_Row(scan, layer, place) for place, layer in enumerate(scan.layers, start=1)]
    together = [_Row(scan, scan.together, None)] if scan.together is not None else []
    yield to_markdown(build(_COLUMNS, [*together, *rows[:OPEN]]))
    if len(rows) > OPEN:
        rest = to_markdown(build(_COLUMNS, rows[OPEN:]))
        yield folded(f"The other {units.counted(len(rows) - OPEN, 'layer')}", rest)


def _outcome(scan: Sensitivity) -> str:
    """The worst layer, the kinds that the worst are of, and what all cost together."""
    worst = scan.layers[0]
    sentences = [
        f"Most sensitive is {code(worst.name)} ({inline(worst.kind)}) with {decibels(worst.snr_db)} dB"
    ]
    head = scan.layers[:OPEN]
    kinds = Counter(layer.kind for layer in head)
    if len(scan.layers) > OPEN:
        counted = joined(f"{number} {inline(kind)}" for kind, number in kinds.most_common())
        sentences.append(f"The {len(head)} most sensitive of {len(scan.layers)}: {counted}")
    if scan.together is not None:
        drop = single(scan.top1 - scan.together.top1, scan.images)
        sentences.append(
            f"All quantized together: {decibels(scan.together.snr_db)} dB, "
            f"{single(scan.together.top1, scan.images)} % right, a drop of {drop} points"
        )
    return f"{'. '.join(sentences)}."


def decibels(snr: float) -> str:
    """A signal-to-noise ratio; the record's stand-in for no noise is written as a bound."""
    return f"≥ {IDENTICAL_DB}" if snr >= IDENTICAL_DB else f"{snr:.1f}".replace("-", "−")


def _increase(row: _Row) -> Value:
    text = f"{row.layer.loss - row.scan.loss:+.4f}"
    return Value(text.replace("-", "−") if float(text) else "0")


_COLUMNS: tuple[Column[_Row], ...] = (
    Column("rank", lambda row: Value("all" if row.place is None else str(row.place))),
    Column(
        "layer",
        lambda row: (
            Value(f"all {len(row.scan.layers)} together")
            if row.place is None
            else Value(row.layer.name or "(no name)", code=bool(row.layer.name))
        ),
        align="left",
    ),
    Column("kind", lambda row: Value(inline(row.layer.kind) or "not told"), align="left"),
    Column("SNR", lambda row: Value(decibels(row.layer.snr_db)), "dB"),
    Column("same class", lambda row: Value(single(row.layer.agreement, row.scan.images)), "%"),
    Column("top-1", lambda row: Value(single(row.layer.top1, row.scan.images)), "%"),
    Column("drop", lambda row: Value(single(row.scan.top1 - row.layer.top1, row.scan.images)), "points"),
    Column("added loss", _increase, "nats"),
)


def _kept(summary: Summary) -> Iterator[str]:
    """Which layers each backend left in float, by its own account."""
    found: dict[str, dict[tuple[str, ...], list[Cell]]] = {}
    for record in summary.run.cells.values():
        told = record.prepared.facts.get(KEPT) if record.prepared is not None else None
        if isinstance(told, str) and told.strip():
            layers = tuple(name.strip() for name in told.split(",") if name.strip())
            found.setdefault(record.cell.backend, {}).setdefault(layers, []).append(record.cell)
    number = summary.run.header.request.keep_float
    if not found:
        if number and summary.run.sensitivities:
            yield (
                f"**Kept in float:** {units.counted(number, 'layer')} of each network should have been; no backend of "
                "this run says that it did."
            )
        return
    lines = []
    for backend, kept in found.items():
        among = [record.cell for record in summary.run.cells.values() if record.cell.backend == backend]
        parts = [
            f"{_layers(layers)} ({inline(summary.names.many(cells, among))})"
            for layers, cells in kept.items()
        ]
        lines.append(f"- {code(backend)}: {'; '.join(parts)}.")
    asked = f", of {number} asked for" if number else ""
    yield f"**Kept in float**, by each backend's own account{asked}:"
    yield "\n".join(lines)


def _layers(layers: Sequence[str]) -> str:
    shown = ", ".join(map(code, layers[:NAMED]))
    return f"{shown} and {len(layers) - NAMED} more" if len(layers) > NAMED else shown


def sensitivity_chart(summary: Summary, scan: Sensitivity, theme: Theme = LIGHT) -> alt.Chart | None:
    """SNR of the logits by layer, in the order of the network; None without two layers."""
    import altair as alt

    if len(scan.layers) < 2:
        return None
    places = _network_order(summary, scan)
    # A layer without measurable noise would press all other bars flat.
    noisy = [layer.snr_db for layer in scan.layers if layer.snr_db < IDENTICAL_DB]
    limit = 1.05 * max(noisy, default=float(IDENTICAL_DB))
    rows: list[dict[str, Any]] = [
        {"layer": layer.name, "kind": layer.kind, "dB": min(layer.snr_db, limit)}
        for layer in sorted(scan.layers, key=lambda layer: places[layer.name])
    ]
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    bars = (
        alt.Chart(data(rows))
        .mark_bar(height={"band": 0.75})
        .encode(
            y=alt.Y("layer:N", sort=[row["layer"] for row in rows], title=None),
            x=alt.X("dB:Q", title="signal-to-noise ratio of the logits, dB (shorter is more sensitive)"),
            color=alt.Color(
                "kind:N",
                scale=alt.Scale(domain=kinds, range=colours(len(kinds), theme)),
                legend=alt.Legend(title="kind"),
            ),
            tooltip=["layer:N", "kind:N", alt.Tooltip("dB:Q", format=".1f")],
        )
    )
    notes = [
        f"{scan.variant}, each layer quantized alone, in the order of the network; {scan.images:,} images"
    ]
    if scan.together is not None:
        notes.append(f"All together: {decibels(scan.together.snr_db)} dB")
    chart = bars.properties(
        width=420, height=alt.Step(13), title=titled("Sensitivity to int8 by layer", notes, theme)
    )
    return styled(chart, theme)


def _network_order(summary: Summary, scan: Sensitivity) -> dict[str, tuple[Any, ...]]:
    """Layer to a key that sorts layers as the network runs them: as they were counted, else by their names."""
    counted = next(
        (
            facts.complexity.layers
            for facts in summary.run.variants
            if facts.variant == scan.variant and facts.complexity is not None
        ),
        (),
    )
    known = {layer.name: place for place, layer in enumerate(counted)}
    # `features` comes before `classifier`; numbers in names count.
    return {
        layer.name: (
            known.get(layer.name, len(known)),
            layer.name.startswith("classifier"),
            [int(part) if part.isdigit() else -1 for part in re.split(r"\.", layer.name)],
            layer.name,
        )
        for layer in scan.layers
    }
