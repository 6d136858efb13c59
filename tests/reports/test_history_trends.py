"""What a history answers: series that can be compared, changes with what changed there, and pages safe to open."""

from __future__ import annotations

import html
import json
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import msgspec
import pytest
from reports import factory
from reports.histories import CELL, SETTING, START, counted, found, local, night, write, write_together
from reports.test_imports import HEAVY, loaded

import mnv3_reports
from mnv3_reports.changepoints import ChangePoint
from mnv3_reports.history import query, report, trends
from mnv3_reports.history.adding import add_runs, run_directories
from mnv3_reports.history.chart import trend_chart
from mnv3_reports.history.dates import moment, span
from mnv3_reports.history.metrics import METRICS, metric
from mnv3_reports.history.places import HistoryError
from mnv3_reports.history.query import Question, median_rank, opened
from mnv3_reports.history.writer import write_pages
from mnv3_reports.parts import to_markdown
from mnv3_reports.rundir import write_run
from mnv3_reports.statistics import order_statistic_interval

if TYPE_CHECKING:
    from mnv3_reports.history.places import Place
    from mnv3_reports.history.trends import Trend

NIGHTS, STEP = 120, 70


def packages(**versions: str) -> str:
    return json.dumps(versions)


def wobble(number: int) -> float:
    """Noise of about one per cent, without memory."""
    return 1 + 0.02 * ((number * 7919 % 101) / 101 - 0.5)


@pytest.fixture(scope="module")
def stepped(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Nights of which a cell is slower from one on, when onnxruntime was updated; Python was two nights later."""
    place = local(tmp_path_factory.mktemp("stepped"))
    rows = []
    for number in range(NIGHTS):
        changed = {
            "packages": packages(onnxruntime="1.20.0" if number < STEP else "1.21.0", numpy="2.0"),
            "python": "CPython 3.11.7" if number < STEP + 2 else "CPython 3.12.1",
            "host": "rack-1" if number < STEP - 1 else "rack-2",
        }
        slow = 1.1 if number >= STEP else 1.0
        rows.append(
            [
                night(number, 2e-3 * slow * wobble(number), **changed),
                night(number, 3e-3 * wobble(number + 50), f"v3-small/onnxruntime-int8?{SETTING}", **changed),
            ]
        )
    write_together(place, rows)
    return place


def question(cells: str = "*", of: str = "latency", **span_: datetime) -> Question:
    return Question(metric(of), cells, **span_)


def told(found_: list[Trend], place: Place, asked: Question) -> str:
    with opened([place], asked) as history:
        return to_markdown(None, report.report_of(found_, asked, history.sources))


def test_a_change_with_what_changed_there(stepped: Place) -> None:
    steady, slower = sorted(found(stepped), key=lambda trend: len(trend.changes))
    assert (steady.series.cell, steady.changes) == (f"v3-small/onnxruntime-int8?{SETTING}", ())
    (change,) = slower.changes
    assert slower.series.cell == CELL
    assert (change.last.run_id, change.first.run_id) == (f"night-{STEP - 1:04}", f"night-{STEP:04}")
    assert change.found.lower < 1.1 < change.found.upper
    assert [tuple(each) for each in change.differences] == [
        ("commit of mnv3-bench", f"c{STEP - 1:04}", f"c{STEP:04}", 0),
        ("onnxruntime", "1.20.0", "1.21.0", 0),
        ("host", "rack-1", "rack-2", -1),
        ("Python", "CPython 3.11.7", "CPython 3.12.1", 2),
    ]
    assert [round(level[2] * 1e3, 1) for level in slower.levels] == [2.0, 2.2]
    text = told([slower, steady], stepped, question())
    assert "slower from 2026-03-12 on, 1.10 [1.0" in text
    assert "onnxruntime 1.20.0 → 1.21.0" in text
    assert "Python CPython 3.11.7 → CPython 3.12.1 (2 runs later)" in text


@pytest.mark.parametrize("group", [11, 12])
def test_a_change_of_a_long_series_is_placed_among_its_runs(
    stepped: Place, monkeypatch: pytest.MonkeyPatch, group: int
) -> None:
    """Groups of six: the change lies within the twelfth, and either end of it may be taken for it."""
    monkeypatch.setattr(query, "RAW_POINTS", 100)
    seen = ChangePoint(group, 2e-3, 2.2e-3, 1.1, 1.09, 1.11, 0.001)
    monkeypatch.setattr(trends, "change_points", lambda values, **_: (seen,) if len(values) == 20 else ())
    (trend,) = found(stepped, cells=CELL)
    (change,) = trend.changes
    assert (change.last.place, change.first.run_id) == (STEP - 1, f"night-{STEP:04}")
    assert "onnxruntime" in {each.name for each in change.differences if each.runs_away == 0}


def test_points_of_a_long_series(stepped: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "RAW_POINTS", 100)
    monkeypatch.setattr(query, "GROUPS", 11)
    monkeypatch.setattr(trends, "change_points", lambda values, **_: ())
    (trend,) = found(stepped, cells=CELL)
    points = trend.series.points
    assert [point.runs for point in points] == [11, 11, 11, 11, 11, 11, 11, 11, 11, 11, 10]
    assert [point.first for point in points] == list(range(0, NIGHTS, 11))
    interval = order_statistic_interval([2e-3 * wobble(number) for number in range(11)], 0.5)
    assert interval is not None
    ends = (interval.low, interval.estimate, interval.high)
    assert (points[0].low, points[0].value, points[0].high) == pytest.approx(ends)
    assert (points[0].started_at.day, points[0].ended_at.day) == (1, 11)
    monkeypatch.setattr(query, "GROUPS", 40)
    monkeypatch.setattr(query, "SMALLEST_GROUP", 3)
    (trend,) = found(stepped, cells=CELL)
    assert {(point.runs, point.low) for point in trend.series.points} == {(3, None)}, "three have no interval"


@pytest.mark.parametrize("size", [*range(1, 40), 84, 500])
def test_the_rank_is_that_of_the_exact_interval(size: int) -> None:
    interval = order_statistic_interval(range(1, size + 1), 0.5)
    rank = median_rank(size)
    assert (None if interval is None else interval.low) == rank


def test_what_cannot_be_compared_is_apart(tmp_path: Path) -> None:
    place = local(tmp_path)
    for number, changed in enumerate(
        (
            {},
            {"machine_fingerprint": "m2", "cpu": "Other CPU"},
            {"environment_fingerprint": "e2"},
            {"source": "asv"},
            {"commit": "other", "python": "other", "kernel": "other"},
        )
    ):
        write(place, night(number, **changed))
    several = found(place)
    assert sorted(trend.series.runs for trend in several) == [1, 1, 1, 2]
    text = told(several, place, question())
    assert "4 series, which differ in machine and variables of workers and source" in text
    assert "Other CPU (m2), variables e1" in text
    assert "imported from asv: no 95 % interval" in text


def test_accuracy_on_other_images_is_another_series(tmp_path: Path) -> None:
    place = local(tmp_path)
    for number, data in enumerate(("d1", "d1", "d2")):
        write(place, night(number, top1=0.7, top1_low=0.6, top1_high=0.8, accuracy_data_fingerprint=data))
    assert [trend.series.runs for trend in found(place)] == [3]
    assert [trend.series.runs for trend in found(place, of="accuracy")] == [2, 1]


def test_run_directories_are_read_as_they_are(tmp_path: Path) -> None:
    runs = tmp_path / "a [b]* ?"
    for number in range(2):
        run = factory.whole_run(epochs=2)
        started = START + timedelta(days=number)
        run.header = msgspec.structs.replace(
            run.header, run_id=f"run-{number}", started_at=started.isoformat()
        )
        write_run(run, runs / f"{number} [x]*")
    (runs / "cut").mkdir()
    (runs / "cut" / "journal.jsonl").write_text("")
    history = local(tmp_path / "history")
    list(add_runs([path for path in run_directories([runs]) if path.name != "cut"], history))
    from_history, from_runs = (
        [(trend.series[1:], trend.levels) for trend in found(place)] for place in (history, local(runs))
    )
    assert from_history == from_runs
    assert len(from_history) == 12
    assert counted(history, local(runs)) == counted(history), "a run in both counts once"
    with opened([local(runs)], question()) as both:
        assert (len(both.sources.tables), both.sources.unfinished) == (2, 1)
        (series, *_) = both.series()
        (versions,) = both.versions([(series, both.placed(series, 0, 0)[0])]).values()
        assert json.loads(versions["packages"]) == factory.SOFTWARE.packages
    (runs / "0 [x]*" / "run.json").write_text("{")
    with pytest.raises(HistoryError, match="is not the record of a run"):
        found(local(runs))


def test_patterns_and_spans(tmp_path: Path) -> None:
    place = local(tmp_path)
    for number in range(5):
        write(place, *(night(number, cell=f"{name}?{SETTING}") for name in ("v1/a", "v1/ab", "v2/a")))
    for pattern, expected in {
        "*": 3,
        "v1/a": 1,
        "v1/a*": 2,
        "v?/a": 2,
        "*/a": 2,
        f"v1/a?{SETTING}": 1,
        "v[2-9]/*": 1,
        "v1": 0,
        "'; drop table found; --": 0,
    }.items():
        assert len(found(place, cells=pattern)) == expected, pattern
    since, until = datetime(2026, 1, 2), datetime(2026, 1, 4)
    assert {trend.series.runs for trend in found(place, since=since, until=until)} == {2}
    with opened([place], question("nothing")) as history:
        assert history.some("cell") == [f"v1/a?{SETTING}", f"v1/ab?{SETTING}", f"v2/a?{SETTING}"]


def test_figures_that_cannot_be_are_left_out(tmp_path: Path) -> None:
    place = local(tmp_path)
    for number, seconds in enumerate((float("nan"), float("inf"), -1.0, 0.0, 1e-3)):
        write(place, night(number, seconds, latency_median_low_seconds=2.0, packages="[1]"))
    write(place, night(9, None), night(9, None, cell=f"always/failed?{SETTING}"))
    failed, measured = found(place)
    assert (failed.series.runs, failed.series.failed) == (0, 1)
    (point,) = measured.series.points
    assert (point.value, point.low, point.high) == (1e-3, None, None)
    assert (measured.series.runs, measured.series.failed) == (1, 1)
    assert "measured in no run" in told([failed, measured], place, question())


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_can_be_asked_for(stepped: Place, name: str) -> None:
    assert len(found(stepped, of=name)) == (2 if name == "latency" else 0)
    with pytest.raises(HistoryError, match="type one of latency, p90"):
        metric(name + "x")


def test_pages_with_charts(stepped: Place, tmp_path: Path) -> None:
    asked = question()
    several = found(stepped)
    with opened([stepped], asked) as history:
        parts = report.report_of(several, asked, history.sources)
    written = write_pages(parts, several, asked.metric, tmp_path)
    assert [path.name for path in written if path.suffix == ".svg"] == [
        "history-01.svg",
        "history-01-dark.svg",
        "history-02.svg",
        "history-02-dark.svg",
    ]
    drawn = written[1].read_text()
    ET.fromstring(drawn)
    assert "v3-small/onnxruntime?" in html.unescape(drawn), "the cell that changed comes first"
    assert drawn.count("stroke-dasharray") >= 1
    page = (tmp_path / "history.html").read_text()
    assert page.count("<figure") == 2
    assert "default-src 'none'" in page
    assert "charts/history-01.svg" in (tmp_path / "history.md").read_text()
    chart = trend_chart(several[:1], asked.metric)
    assert chart is not None
    chart.to_dict()  # held against the schema of Vega-Lite
    assert trend_chart([], asked.metric) is None


def test_hostile_texts_do_no_harm(tmp_path: Path) -> None:
    place = local(tmp_path / "history")
    bad = factory.HOSTILE + "\x1b[31m" + "y" * 1000
    names = (
        "cpu",
        "machine_fingerprint",
        "environment_fingerprint",
        "source",
        "variant",
        "backend",
        "commit",
    )
    nights = []
    for number in range(NIGHTS):
        other = bad if number < STEP else bad[::-1]
        changed: dict[str, Any] = dict.fromkeys(names[:-1], bad) | {"commit": other, "weights": other}
        changed["packages"] = json.dumps({bad: other})
        slow = 1.1 if number >= STEP else 1.0
        nights.append([night(number, 2e-3 * slow * wobble(number), bad, run_id=f"{bad}{number}", **changed)])
    write_together(place, nights)
    asked = question()
    several = found(place)
    assert len(several[0].changes) == 1
    with opened([place], asked) as history:
        parts = report.report_of(several, asked, history.sources)
    for path in write_pages(parts, several, asked.metric, tmp_path / "out"):
        text = path.read_text()
        assert "<script>alert" not in text, path
        assert "\x1b" not in text
        assert "y" * 200 not in text
        if path.suffix == ".md":
            # An attribute mentions nobody.
            assert not [line for line in text.splitlines() if "@someone" in line and "<picture>" not in line]


def test_dates() -> None:
    now = datetime(2026, 3, 1, 12)
    assert moment("90d", "--since", now) == now - timedelta(days=90)
    assert moment("2026-01-31", "--since", now) == datetime(2026, 1, 31)
    assert moment("2026-01-31T02:00:00+02:00", "--since", now) == datetime(2026, 1, 31)
    assert moment("9999y", "--since", now).year == 1
    assert span("2y", "--keep-raw").days == 730
    for bad in ("", "d", "1.5d", "2026-13-01", "yesterday", "-1d"):
        with pytest.raises(HistoryError, match="--since"):
            moment(bad, "--since", now)


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    package = Path(mnv3_reports.__file__).parent / "history"
    names = sorted(path.stem for path in package.glob("*.py") if path.stem != "__init__")
    assert len(names) > 10
    imports = "; ".join(f"import mnv3_reports.history.{name}" for name in names)
    assert loaded(imports, (*HEAVY, "duckdb", "fsspec")) == "[]"


def test_a_question_needs_no_pandas_and_no_arrow(stepped: Place) -> None:
    program = (
        "from mnv3_reports.history import query, metrics, trends, places, report; "
        f"place = places.open_place({stepped.name!r}); "
        "asked = query.Question(metrics.metric('latency'), '*')\n"
        "with query.opened([place], asked) as h: report.report_of(trends.trends(h), asked, h.sources)\n"
        "import sys; print([n for n in ('pandas', 'pyarrow', 'torch', 'scipy.stats', 'altair') if n in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
