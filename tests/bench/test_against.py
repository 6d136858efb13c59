"""Two callables against each other: found by other interpreters, called often enough, judged as the gate judges."""

from __future__ import annotations

import functools
import importlib
import os
import random
import sys
import time
from typing import TYPE_CHECKING, Any

import msgspec
import psutil
import pytest

from mnv3_bench.callables import REPEATS, Address, CallableSession, address
from mnv3_bench.errors import UsageError
from mnv3_bench.gate.against import (
    SAMPLE_SECONDS,
    Comparison,
    Terms,
    compare,
    duration,
    hold,
    without_tools,
)
from mnv3_bench.protocol import LoadCallable, Turned
from mnv3_reports.record import Failure
from mnv3_reports.statistics import median
from mnv3_reports.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path


@pytest.fixture
def fresh_imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a session imports and puts on the path is gone afterwards."""
    before = dict(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in set(sys.modules) - set(before):
        del sys.modules[name]
    sys.modules.update(before)
    importlib.invalidate_caches()


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    importlib.invalidate_caches()


# Which functions another interpreter finds


def make_here() -> Callable[[], object]:
    return lambda: None


def make_with(size: int) -> Callable[[], object]:
    return lambda: size


class Makers:
    @staticmethod
    def still() -> Callable[[], object]:
        return lambda: None

    @classmethod
    def of_class(cls) -> Callable[[], object]:
        return lambda: None

    def bound(self) -> Callable[[], object]:
        return lambda: None


@functools.wraps(make_here)
def disguised() -> Callable[[], object]:
    return make_here()


@pytest.mark.parametrize(
    ("make", "name"),
    [(make_here, "make_here"), (Makers.still, "Makers.still"), (Makers.of_class, "Makers.of_class")],
)
def test_an_address_leads_back_to_the_function(make: Any, name: str) -> None:
    found = address(make, "base")
    assert (found.file, found.module, found.function) == (__file__, __name__, name)
    assert [found.order().path.count(entry) for entry in sys.path if entry] == [1] * len(
        [entry for entry in sys.path if entry]
    )


def test_what_has_no_file_is_found_by_name() -> None:
    assert address(dict, "base") == Address("", "builtins", "dict")  # type: ignore[arg-type]


def inner() -> Any:
    def make() -> Callable[[], object]:
        return make_here()

    return make


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: make_here(), "is a lambda"),
        (inner(), "is make, a function in a function"),
        (functools.partial(make_with, 3), "is a partial object"),
        (Makers().bound, "Makers.bound, which is not what"),
        (disguised, "make_here, which is not what"),
        (make_with, "cannot be called without arguments"),
        (17, "is a int, which cannot be called"),
    ],
)
def test_what_cannot_be_found_is_refused_in_one_line(make: Any, says: str) -> None:
    with pytest.raises(UsageError) as error:
        address(make, "base")
    (line,) = str(error.value).splitlines()
    assert line.startswith("base")
    assert says in line
    assert "write a function without arguments at the top level of a file" in line


# What a worker makes of an address


def session(folder: Path, file: str, module: str, function: str = "make", path: str = "") -> CallableSession:
    places = (str(folder / path),) if path else ()
    return CallableSession(LoadCallable(str(folder / file), module, function, places))


@pytest.mark.usefixtures("fresh_imports")
def test_a_test_module_is_loaded_by_its_file_whatever_it_is_called(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"a/test_x.py": "def make(): return lambda: 1", "b/test_x.py": "def make(): return lambda: 2"},
    )
    # b comes first on the path, a is asked for.
    assert session(tmp_path, "a/test_x.py", "test_x", path="b").call() == 1


@pytest.mark.usefixtures("fresh_imports")
@pytest.mark.parametrize("with_init", [True, False])
def test_relative_imports_work_with_and_without_the_root_on_the_path(tmp_path: Path, with_init: bool) -> None:
    files = {
        "root/suite/sub/test_y.py": "from . import near\nfrom ..far import far\n"
        "def make(): return lambda: near.x + far",
        "root/suite/sub/near.py": "x = 1",
        "root/suite/far.py": "far = 2",
        # A folder of the same name that comes first.
        "other/suite/far.py": "raise AssertionError",
    }
    if with_init:
        files |= {"root/suite/__init__.py": "ran = True", "root/suite/sub/__init__.py": ""}
    write(tmp_path, files)
    assert session(tmp_path, "root/suite/sub/test_y.py", "suite.sub.test_y", path="other").call() == 3
    assert getattr(sys.modules["suite"], "ran", False) == with_init


@pytest.mark.usefixtures("fresh_imports")
def test_a_module_that_its_package_imports_is_executed_once(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "pack/__init__.py": "times = []\nfrom . import work",
            "pack/work.py": "import pack\npack.times.append(1)\ndef make(): return lambda: len(pack.times)",
        },
    )
    assert session(tmp_path, "pack/work.py", "pack.work").call() == 1


@pytest.mark.usefixtures("fresh_imports")
def test_a_package_itself_can_hold_the_function(tmp_path: Path) -> None:
    write(tmp_path, {"up/pack/__init__.py": "from . import near\ndef make(): return lambda: near.x"})
    write(tmp_path, {"up/pack/near.py": "x = 7"})
    assert session(tmp_path, "up/pack/__init__.py", "up.pack").call() == 7
    assert session(tmp_path, "up/pack/__init__.py", "pack", path="up").call() == 7


@pytest.mark.usefixtures("fresh_imports")
def test_a_module_that_fails_is_not_left_behind(tmp_path: Path) -> None:
    write(tmp_path, {"broken.py": "1 / 0"})
    with pytest.raises(ZeroDivisionError):
        session(tmp_path, "broken.py", "broken")
    assert "broken" not in sys.modules


@pytest.mark.usefixtures("fresh_imports")
@pytest.mark.parametrize(
    ("made", "says"),
    [
        ("3", "make returned int; expected something that can be called"),
        ("lambda x: x", "what make returned cannot be called without arguments"),
        ("work", "make returned an async function"),
        ("many", "make returned a generator function"),
    ],
)
def test_what_does_no_work_when_called_is_refused(tmp_path: Path, made: str, says: str) -> None:
    source = f"async def work(): ...\ndef many(): yield 1\ndef make(): return {made}"
    write(tmp_path, {"makes.py": source})
    with pytest.raises(ValueError, match=says):
        session(tmp_path, "makes.py", "makes")
    with pytest.raises(ValueError, match="has no function gone"):
        session(tmp_path, "makes.py", "makes", "gone.too")


@pytest.mark.usefixtures("fresh_imports")
def test_one_timed_call_is_as_many_calls_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"counts.py": "calls = []\ndef make(): return lambda: calls.append(1)"})
    monkeypatch.setenv(REPEATS, "40")
    counting = session(tmp_path, "counts.py", "counts")
    counting.run(None)
    assert len(sys.modules["counts"].calls) == 40
    assert counting.facts() == {"repeats": 40}


# The trial, on a stage whose clock is its own


class FakeStage:
    """Workers whose calls take the seconds they are given, each worker with an offset of its own."""

    def __init__(
        self, seconds: dict[str, float], clock: FakeClock, repeats: int, noise: float = 0.002
    ) -> None:
        self.seconds = seconds
        self.clock = clock
        self.repeats = repeats
        self.noise = noise
        self.offsets: dict[str, float] = {}
        self.failing: dict[str, tuple[str, int]] = {}
        """Role to the phase and the epoch in which it fails."""
        self.slower_every_epoch = 0.0

    def call_seconds(self, key: str) -> float:
        return self.repeats * self.seconds[key.partition(" ")[0]] * (1 + self.offsets[key])

    def start(self, keys: Sequence[str], epoch: int) -> dict[str, float | Failure]:
        self.clock.now += 0.3 + epoch * self.slower_every_epoch
        chance = random.Random(f"{sorted(keys)} {epoch}")
        self.offsets = {key: chance.gauss(0, self.noise) for key in sorted(keys)}
        return {key: self.failure(key, "load", epoch) or self.call_seconds(key) for key in keys}

    def failure(self, key: str, phase: str, epoch: int) -> Failure | None:
        if self.failing.get(key.partition(" ")[0]) != (phase, epoch):
            return None
        return Failure(key, phase, "ValueError: no such file", "the traceback")

    def bind(self, cpus: set[int]) -> None:
        self.cpus = cpus

    def turn(self, key: str, discard: int, calls: int) -> Turned | Failure:
        found = self.failure(key, "measure", 0)
        if found is not None:
            return found
        seconds = self.call_seconds(key)
        self.clock.now += (discard + calls) * seconds
        return Turned(
            (round(seconds * 1e9),) * calls,
            calls * seconds,
            calls * seconds,
            0,
            0,
            0,
            0.0,
            0.0,
            0.0,
            0.0,
            None,
        )

    def clear(self) -> None:
        self.offsets = {}

    def stop(self) -> None:
        self.clear()


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Ring:
    """Holds a comparison on fake stages and keeps them."""

    def __init__(self, noise: float = 0.002, **failing: tuple[str, int]) -> None:
        self.noise = noise
        self.failing = failing
        self.slower_every_epoch = 0.0
        """Seconds by which the start of an epoch's workers takes longer than that of the one before."""
        self.stages: list[FakeStage] = []
        self.clock = FakeClock()

    def compare(
        self, base: float, head: float, *, null: float | None = None, budget: float = 20.0
    ) -> Comparison:
        def stage(repeats: int) -> FakeStage:
            seconds = {"base": base, "null": base if null is None else null, "head": head}
            made = FakeStage(seconds, self.clock, repeats, self.noise)
            made.failing = self.failing
            made.slower_every_epoch = self.slower_every_epoch
            self.stages.append(made)
            return made

        terms = Terms(
            base=Address("x.py", "x", "make_old"),
            head=Address("x.py", "x", "make_new"),
            margin=0.03,
            time_budget=budget,
        )
        return hold(terms, stage, [0, 1], tell=lambda _: None, clock=self.clock, wall=self.clock)


@pytest.mark.parametrize("seconds", [2e-7, 3e-5, 0.004])
def test_a_slowdown_fails_and_durations_are_those_of_one_call(seconds: float) -> None:
    ring = Ring()
    found = ring.compare(seconds, 1.5 * seconds)
    assert found.verdict is Verdict.FAIL
    assert found.failed
    assert not found.passed
    assert found.ratio is not None
    assert found.ratio.contains(1.5) or found.ratio.estimate == pytest.approx(1.5, rel=0.01)
    assert found.base_seconds == pytest.approx(seconds, rel=0.01)
    assert found.head_seconds == pytest.approx(1.5 * seconds, rel=0.01)
    assert median(found.base_blocks) == pytest.approx(seconds, rel=0.02)
    assert len(found.base_blocks) == 2 * len(found.head_blocks)
    # A timed call is long enough for the clock, and not longer than it need be.
    repeats = ring.stages[1].repeats
    assert repeats * seconds >= SAMPLE_SECONDS * 0.98
    assert (repeats - 2) * seconds <= SAMPLE_SECONDS * 1.02
    assert found.block_calls % repeats == 0
    assert found.decided_at == found.epochs
    assert str(found).startswith("FAIL: make_new against make_old +50")
    assert len(str(found).splitlines()) == 1


def test_no_slowdown_passes() -> None:
    found = Ring().compare(1e-3, 1e-3)
    assert found.passed
    assert found.null is not None
    assert found.null.estimate == pytest.approx(1, abs=0.005)
    assert found.detectable is not None
    assert found.detectable > 0.03


def test_the_base_of_the_pair_may_be_the_slower_one() -> None:
    found = Ring().compare(1e-3, 0.5e-3)
    assert found.passed
    assert found.ratio is not None
    assert found.ratio.high < 0.6


def test_noise_leaves_it_open_and_says_what_helps() -> None:
    found = Ring(noise=0.15).compare(1e-3, 1.03e-3)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert not found.passed
    assert not found.failed
    assert "give it a longer time budget or a larger margin" in str(found)


def test_too_little_time_says_how_much_would_do_and_that_is_so() -> None:
    short = Ring().compare(1e-3, 2e-3, budget=1.0)
    assert short.verdict is Verdict.INCONCLUSIVE
    assert "a verdict needs 5" in short.reason
    advised = float(short.reason.rpartition("budget of ")[2].partition("s or more")[0])
    assert Ring().compare(1e-3, 2e-3, budget=advised).failed


def test_epochs_that_take_longer_and_longer_end_without_a_verdict() -> None:
    ring = Ring()
    ring.slower_every_epoch = 0.5
    found = ring.compare(1e-3, 2e-3, budget=6.0)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert 1 < found.epochs < 5
    assert f"the time was over after {found.epochs} epochs and a verdict needs 5" in found.reason


def test_a_deviating_null_control_makes_it_invalid() -> None:
    # The head lies where no verdict falls at once: after 8 epochs no null control can trip yet.
    found = Ring().compare(1e-3, 1.129e-3, null=1.2e-3)
    assert found.verdict is Verdict.INVALID
    assert "the null control tripped" in found.reason
    assert found.failure is None


@pytest.mark.parametrize(
    ("role", "place", "verdict"),
    [
        ("head", ("load", 0), Verdict.FAIL),
        ("head", ("load", 6), Verdict.FAIL),
        ("head", ("measure", 0), Verdict.FAIL),
        ("base", ("load", 0), Verdict.INVALID),
        ("base", ("measure", 0), Verdict.INVALID),
        ("null", ("load", 3), Verdict.INVALID),
    ],
)
def test_an_arm_that_does_not_run_keeps_its_traceback(
    role: str, place: tuple[str, int], verdict: Verdict
) -> None:
    found = Ring(**{role: place}).compare(1e-3, 1e-3)
    assert found.verdict is verdict
    assert "no such file" in found.reason
    assert found.failure is not None
    assert found.failure.tail == "the traceback"


def test_a_comparison_survives_being_made_plain_data() -> None:
    for found in (Ring().compare(1e-3, 2e-3), Ring(base=("load", 0)).compare(1e-3, 1e-3)):
        assert msgspec.convert(msgspec.to_builtins(found), Comparison) == found


def test_a_long_comparison_is_shown_short() -> None:
    found = Ring().compare(1e-3, 1e-3)
    assert len(found.base_blocks) > 50
    assert repr(found) == f"<{found}>"
    assert len(repr(found)) < 300


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2.5, "2.50 s"), (0.0125, "12.5 ms"), (4e-6, "4.00 µs"), (2.5e-8, "25.0 ns"), (9.999e-4, "1.00 ms")],
)
def test_durations_are_in_the_unit_people_read(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# Settings and real workers


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"margin": "0"}, "margin 0 must lie above 0"),
        ({"margin": "x"}, "margin x is no share"),
        ({"time_budget": "soon"}, "time_budget soon is not a duration"),
        ({"timeout": 0}, "timeout 0 is not a duration"),
        ({"threads": 0}, "threads is 0; expected a whole number"),
        ({"threads": True}, "threads is True; expected a whole number"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        compare(make_here, make_here, **settings)


def test_coverage_does_not_follow_into_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COVERAGE_PROCESS_START", "x")
    with without_tools():
        assert "COVERAGE_PROCESS_START" not in os.environ
    assert os.environ["COVERAGE_PROCESS_START"] == "x"


CONTENDERS = """
import sys, time
SIZE = 2000
def make_old():
    assert "torch" not in sys.modules and "pytest" not in sys.modules
    data = list(range(SIZE))
    return lambda: sum(data)
def make_new():
    old, clock = make_old(), time.perf_counter_ns
    def slower():
        start = clock()
        old()
        now = clock()
        end = now + (now - start) * 0.5
        while clock() < end:
            pass
    return slower
def make_crash():
    import os
    print("going down", flush=True)
    os.abort()
"""


@pytest.fixture
def contenders(fresh_imports: None, tmp_path: Path) -> Any:
    write(tmp_path, {"contenders_of_test.py": CONTENDERS})
    sys.path.insert(0, str(tmp_path))
    return importlib.import_module("contenders_of_test")


def test_real_workers_find_a_real_slowdown(contenders: Any) -> None:
    lines: list[str] = []
    for budget in (12, 40):  # a busy machine gets more time
        found = compare(contenders.make_old, contenders.make_new, time_budget=budget, tell=lines.append)
        if found.passed or found.failed:
            break
    else:
        pytest.skip(f"this machine is too busy for any verdict: {found}")
    assert found.verdict is Verdict.FAIL, found
    assert found.ratio is not None
    assert 1.2 < found.ratio.estimate < 2.5
    assert found.epochs >= 5
    assert any(line.startswith("look after") for line in lines)


def test_a_crash_keeps_what_was_printed_and_leaves_nothing_behind(contenders: Any) -> None:
    crash = compare(contenders.make_old, contenders.make_crash, time_budget=8)
    assert crash.failed
    assert crash.failure is not None
    assert "SIGABRT" in crash.reason
    assert "going down" in crash.failure.tail
    left = [
        child for child in psutil.Process().children(recursive=True) if "mnv3_bench.worker" in child.cmdline()
    ]
    assert left == []


@pytest.mark.usefixtures("fresh_imports")
def test_a_set_up_that_hangs_is_ended(tmp_path: Path) -> None:
    write(tmp_path, {"hanging_in_test.py": "import time\ndef make(): time.sleep(600)"})
    sys.path.insert(0, str(tmp_path))
    hanging = importlib.import_module("hanging_in_test")
    began = time.monotonic()
    found = compare(hanging.make, hanging.make, timeout="1s")
    assert found.verdict is Verdict.INVALID
    assert "no answer within 1 s" in found.reason
    assert time.monotonic() - began < 300  # it did not wait for the sleep to end
