"""The report's section about ablated forms: what each ingredient of a network costs and what it brings.

A form is called as its whole network with what was changed: `v3-small-no-se`. Latencies are compared in the run's own
rounds and accuracies on the same images; both comparisons are of pairs, and carry the intervals of pairs.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from mnv3_reports import units
from mnv3_reports.accuracy import Drop, drop_of, wilson_interval
from mnv3_reports.accuracy_words import hundredths, joined, probability
from mnv3_reports.compare import BASELINE
from mnv3_reports.escaping import code, inline
from mnv3_reports.layout import Column, Table, Value, build, missing, to_markdown
from mnv3_reports.predictions import PredictionsError, pairs_of, read
from mnv3_reports.statistics import Interval
from mnv3_reports.tables import CellRow, setting_columns, with_interval

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mnv3_reports.record import Cell, CellRecord, Complexity
    from mnv3_reports.summary import Summary

INGREDIENTS = {
    "no-se": "squeeze-and-excitation",
    "no-hswish": "hard-swish",
    "no-residual": "the residual connection",
    "no-kernel5": "5 × 5 kernels",
}
"""What a form lacks. What an ingredient costs and brings is the whole network held against the form."""
CHOICES = {
    "composed-hswish": "hard-swish composed of simple operations",
    "se-hswish": "hard-swish inside squeeze-and-excitation",
    "unskipped": "an expansion where the paper has none",
}
"""What a form does otherwise. What a choice costs and brings is the form held against the whole network."""
INTRODUCTION = """\
Every form lacks one ingredient of its network, or makes one choice otherwise. What an ingredient costs and brings is
the whole network held against the form without it; of a choice, the form held against the network."""
CAUTION = """\
The interval of a difference is over images. Training with another seed gives other weights, and a difference that no
interval here allows for."""


class Form(NamedTuple):
    """A changed network beside its whole one."""

    name: str
    base: str
    changes: tuple[str, ...]
    """Suffixes of the name, such as 'no-se'."""

    @property
    def words(self) -> str:
        """'without squeeze-and-excitation'."""
        return joined(_change(change) for change in self.changes) if self.changes else "changed"


def _change(change: str) -> str:
    if change in INGREDIENTS:
        return f"without {INGREDIENTS[change]}"
    return f"with {CHOICES[change]}" if change in CHOICES else change


def forms(summary: Summary) -> list[Form]:
    """The run's ablated forms, by whole network."""
    ablated = summary.run.header.request.ablated
    return [_form(variant, ablated[variant]) for variant in summary.variants if variant in ablated]


def _form(name: str, base: str) -> Form:
    """Take the name apart: `v3-small-no-se@0.75` of `v3-small@0.75`."""
    stem = base.partition("@")[0]
    rest = name.partition("@")[0].removeprefix(stem)
    found = []
    for change in (*INGREDIENTS, *CHOICES):
        at = f"{rest}-".find(f"-{change}-")
        if at >= 0:
            found.append((at, change))
    return Form(name, base, tuple(change for _, change in sorted(found)))


class Compared(NamedTuple):
    """A form's answers beside those of its whole network."""

    backend: str
    top1: Interval | None
    difference: Drop | None
    """Whole network minus form; None where the files do not tell."""
    why: str | None
    """Why there is no difference."""


def section(summary: Summary) -> Iterator[str]:
    """The section's paragraphs, without heading; none where nothing was ablated."""
    found = forms(summary)
    if not found:
        return
    yield " ".join(INTRODUCTION.split())
    evaluated = summary.run.evaluation is not None
    compared = {form.name: compare(summary, form) for form in found} if evaluated else {}
    for base in dict.fromkeys(form.base for form in found):
        mine = [form for form in found if form.base == base]
        yield f"### Forms of {inline(base)}"
        sentences = [f"- {sentence(summary, form, compared.get(form.name))}" for form in mine]
        yield "\n".join(sentences)
        yield to_markdown(_networks(summary, base, mine, compared))
        if any(summary.ratios[key].printed.kind == "ablation" for key in summary.ratios):
            table = _latencies(summary, mine)
            if table is not None:
                yield f"Time relative to {inline(base)} on the same backend: **below 1 the form is faster**."
                yield to_markdown(table)
    if any(each.difference is not None for each in compared.values()):
        yield " ".join(CAUTION.split())


def compare(summary: Summary, form: Form) -> Compared:
    """Hold a form's answers against its whole network's, on eager or the first backend that has both."""
    cells = [record for record in summary.run.cells.values() if record.cell.variant == form.name]
    cells.sort(key=lambda record: record.cell.backend != BASELINE)
    whole = {
        record.cell.key: summary.run.cells.get(replace(record.cell, variant=form.base).key)
        for record in cells
    }
    both = [(record, whole[record.cell.key]) for record in cells if record.accuracy is not None]
    common = next(
        ((record, other) for record, other in both if other is not None and other.accuracy is not None), None
    )
    if common is None:
        top1 = _top1(both[0][0]) if both else None
        return Compared(
            both[0][0].cell.backend if both else "", top1, None, "the two were not both evaluated"
        )
    record, other = common
    assert record.accuracy is not None, "just looked for"
    assert other is not None, "just looked for"
    assert other.accuracy is not None, "just looked for"
    top1, backend = _top1(record), record.cell.backend
    try:
        mine = read(summary.directory, record.accuracy.predictions)
        pairs = pairs_of(read(summary.directory, other.accuracy.predictions), mine, form.base)
    except PredictionsError as error:
        return Compared(backend, top1, None, str(error))
    return Compared(backend, top1, drop_of(pairs), None)


def _top1(record: CellRecord) -> Interval | None:
    found = record.accuracy
    return wilson_interval(found.top1, found.images) if found is not None else None


# Sentences.


def sentence(summary: Summary, form: Form, compared: Compared | None) -> str:
    """'**Hard-swish** (`v3-small-no-hswish`) costs +14 % latency on `onnxruntime`, and brings 0.7 [..] points'."""
    is_choice = any(change not in INGREDIENTS for change in form.changes) or not form.changes
    if is_choice:
        subject = joined(CHOICES.get(change, _change(change)) for change in form.changes) or form.name
    else:
        subject = joined(INGREDIENTS[change] for change in form.changes)
    costs = [
        *_latency_costs(summary, form, is_choice=is_choice),
        *_counted_costs(summary, form, is_choice=is_choice),
    ]
    text = f"**{inline(subject[0].upper() + subject[1:])}** ({code(form.name)})"
    text += f" costs {', '.join(costs)}" if costs else " has no cost that was measured"
    if compared is None:
        return f"{text}."
    return f"{text}{_brings(compared, is_choice=is_choice)}."


def _brings(compared: Compared, *, is_choice: bool) -> str:
    found = compared.difference
    if found is None:
        return (
            f"; what it brings is not known: {inline(compared.why or 'no image was evaluated').rstrip('.')}"
        )
    interval = found.interval
    if is_choice:
        interval = Interval(-interval.estimate, -interval.high, -interval.low, interval.n)
    noise = f", which may be noise ({probability(found.p)})" if found.verdict == "no loss shown" else ""
    return f", and brings {hundredths(interval)} points of top-1 on {code(compared.backend)}{noise}"


def _latency_costs(summary: Summary, form: Form, *, is_choice: bool) -> Iterator[str]:
    """On the whole network's fastest backend, and its fastest in fp32."""
    setting = next((s for s in summary.settings if summary.fastest(form.base, s) is not None), None)
    if setting is None:
        return
    chosen = (summary.fastest(form.base, setting), summary.fastest(form.base, setting, "fp32"))
    for cell in dict.fromkeys(cell for cell in chosen if cell is not None):
        ratio = summary.ratios.get((replace(cell, variant=form.name).key, cell.key))
        if ratio is not None:
            interval = ratio.interval if is_choice else _inverse(ratio.interval)
            yield f"{_change_in_percent(interval)} latency on {code(cell.backend)}"


def _inverse(ratio: Interval) -> Interval:
    return Interval(
        1 / ratio.estimate, 1 / ratio.high, 1 / ratio.low if ratio.low > 0 else float("inf"), ratio.n
    )


def _change_in_percent(ratio: Interval) -> str:
    """1.14 [1.10, 1.18] as '+14 % [+10, +18]'."""

    def signed(value: float) -> str:
        change = (value - 1) * 100
        digits = 0 if abs(ratio.estimate - 1) >= 0.095 else 1
        text = f"{change:+.{digits}f}"
        return text.replace("-", "−") if float(text) else "0"

    ends = f" [{signed(ratio.low)}, {signed(ratio.high)}]" if ratio.bounded else ""
    return f"{signed(ratio.estimate)} %{ends}"


def _counted_costs(summary: Summary, form: Form, *, is_choice: bool) -> Iterator[str]:
    counted = _complexities(summary, form)
    if counted is None:
        return
    mine, whole = counted
    for name, unit in (("macs", "M MACs"), ("parameters", "M parameters")):
        more: int = getattr(whole, name) - getattr(mine, name)
        more = -more if is_choice else more
        if more:
            yield f"{'−' if more < 0 else ''}{units.millions(abs(more))} {unit}"


def _complexities(summary: Summary, form: Form) -> tuple[Complexity, Complexity] | None:
    """Of the form and of its whole network at one resolution; None where not both were counted."""
    found = {(facts.variant, facts.resolution): facts.complexity for facts in summary.run.variants}
    for (variant, resolution), mine in found.items():
        whole = found.get((form.base, resolution))
        if variant == form.name and mine is not None and whole is not None:
            return mine, whole
    return None


# Tables.


def _networks(summary: Summary, base: str, found: Sequence[Form], compared: dict[str, Compared]) -> Table:
    """Counts and accuracy of the whole network and of each form."""
    rows = [Form(base, base, ()), *found]

    def counted(row: Form, name: str) -> Value:
        both = _complexities(summary, row)
        if both is None:
            return missing("not counted")
        mine, whole = (getattr(each, name) for each in both)
        ratio = f" ({units.significant(mine / whole)})" if whole and row.name != base else ""
        return Value(f"{units.millions(mine)}{ratio}")

    def top1(row: Form) -> Value:
        record = _evaluated(summary, row, compared)
        interval = _top1(record) if record is not None else None
        return missing("not evaluated") if interval is None else Value(hundredths(interval))

    def difference(row: Form) -> Value:
        if row.name == base:
            return Value("0", "the whole network itself")
        each = compared[row.name]
        if each.difference is None:
            return missing(each.why or "no image was evaluated")
        return Value(hundredths(each.difference.interval))

    def noise(row: Form) -> Value:
        each = compared.get(row.name)
        if each is None or each.difference is None:
            return missing("nothing was compared")
        surely = each.difference.verdict != "no loss shown"
        return Value(f"{'no' if surely else 'may be'}, {probability(each.difference.p)}")

    columns = [
        Column[Form]("network", lambda row: Value(row.name, code=True), align="left"),
        Column[Form]("form", lambda row: Value("whole" if row.name == base else row.words), align="left"),
        Column[Form]("MACs", partial(counted, name="macs"), "M (ratio)"),
        Column[Form]("params", partial(counted, name="parameters"), "M (ratio)"),
    ]
    if compared:
        columns += [
            Column("top-1", top1, "% [95 %]"),
            Column("lost", difference, "points [95 %]"),
            Column("noise?", noise, "(McNemar)", align="left"),
        ]
    return build(columns, rows)


def _evaluated(summary: Summary, row: Form, compared: dict[str, Compared]) -> CellRecord | None:
    """The cell whose top-1 stands for a network: on the backend that was compared, else on the first."""
    backends = [each.backend for each in compared.values() if each.backend]
    cells = [
        record
        for record in summary.run.cells.values()
        if record.cell.variant == row.name and record.accuracy is not None
    ]
    wanted = compared[row.name].backend if row.name in compared else next(iter(backends), BASELINE)
    return next((r for r in cells if r.cell.backend == wanted), cells[0] if cells else None)


def _latencies(summary: Summary, found: Sequence[Form]) -> Table | None:
    """Ratios to the whole network: a row a backend and setting, a column a form."""
    rows: dict[tuple[str, str], Cell] = {}
    for record in summary.run.cells.values():
        cell = record.cell
        if cell.variant == found[0].base and any(_ratio(summary, cell, form) is not None for form in found):
            rows.setdefault((cell.backend, cell.setting), cell)
    if not rows:
        return None
    cell_rows = {key: CellRow(summary, summary.run.cells[cell.key]) for key, cell in rows.items()}
    ordered = sorted(rows, key=lambda key: (summary.settings.index(key[1]), cell_rows[key].seconds))

    def ratio(key: tuple[str, str], form: Form) -> Value:
        return with_interval(_ratio(summary, rows[key], form), 1.0, missing("not both timed in one round"))

    def of_setting(key: tuple[str, str], column: Column[CellRow]) -> Value:
        return column.value(cell_rows[key])

    columns = [Column[tuple[str, str]]("backend", lambda key: Value(key[0], code=True), align="left")]
    columns += [
        Column[tuple[str, str]](column.title, partial(of_setting, column=column))
        for column in setting_columns(list(cell_rows.values()))
    ]
    columns += [Column[tuple[str, str]](_short(form), partial(ratio, form=form), "[95 %]") for form in found]
    return build(columns, ordered)


def _ratio(summary: Summary, whole: Cell, form: Form) -> Interval | None:
    found = summary.ratios.get((replace(whole, variant=form.name).key, whole.key))
    return found.interval if found is not None else None


def _short(form: Form) -> str:
    return ", ".join(form.changes) or form.name
