"""Backends that misbehave, each in its own way: what a run has to survive.

They are eager PyTorch underneath, so that whatever they do not spoil is real. `registered` makes them known through
the same entry-point group that third-party backends use.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mnv3_bench.backends import _ort
from mnv3_bench.backends.base import Backend, BackendError, Switch
from mnv3_bench.backends.eager import Eager
from mnv3_bench.backends.onnxruntime import OnnxRuntime

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mnv3_bench.backends.base import Arrays, Facts, Preparation, Profile, Session

HERE = __file__
SLEEP_SECONDS = 0.01


class Spoiled:
    """A session that lets `spoil` act on every output."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def run(self, staged: Any) -> Any:
        self.calls += 1
        return self.spoil(self.session.run(staged))

    def spoil(self, output: Any) -> Any:
        return output


class Well(Eager):
    """Does nothing wrong."""

    info = replace(Eager.info, name="fake-well", summary="does nothing wrong")


class _CrashingSession(Spoiled):
    """Lives through inspection, where it is never paused, and not through an epoch, where it waits for its turn."""

    resumed = False

    def spoil(self, output: Any) -> Any:
        if self.resumed:
            os.kill(os.getpid(), signal.SIGSEGV)
        return output

    def resume(self, *_: object) -> None:
        self.resumed = True


class Crash(Eager):
    """Dies of SIGSEGV while it is being measured."""

    info = replace(Eager.info, name="fake-crash", summary="crashes")

    def load(self, directory: Path, threads: int, device: str) -> Session:
        session = _CrashingSession(super().load(directory, threads, device))
        signal.signal(signal.SIGCONT, session.resume)
        return session


class CrashInPrepare(Eager):
    """Its converter aborts the process."""

    info = replace(Eager.info, name="fake-abort", summary="its converter aborts")

    def prepare(self, preparation: Preparation) -> Facts:
        print("converter: assertion failed", flush=True)
        os.abort()


class Refuse(Eager):
    """Cannot be prepared, and says what to install."""

    info = replace(Eager.info, name="fake-refuse", summary="refuses")

    def prepare(self, preparation: Preparation) -> Facts:
        raise BackendError("no frobnicator was found", install="apt-get install frobnicator")


class Hang(Eager):
    """Never finishes loading."""

    info = replace(Eager.info, name="fake-hang", summary="hangs")

    def load(self, directory: Path, threads: int, device: str) -> Session:
        time.sleep(3600)
        raise AssertionError("unreachable")


class Greedy(Eager):
    """Eats memory until there is none."""

    info = replace(Eager.info, name="fake-greedy", summary="eats memory")

    def load(self, directory: Path, threads: int, device: str) -> Session:
        hoard = []
        while True:
            hoard.append(bytearray(64 << 20))


class _GarbageSession(Spoiled):
    def spoil(self, output: Any) -> Any:
        # What a frame of ours looks like, and bytes that are no text at all.
        for descriptor in (1, 2):
            os.write(descriptor, b"\x00\x00\x00\x10\x81\xa4type\xa4Done\xff\xfe\x1b[31m garbage \r")
        return output


class Garbage(Eager):
    """Prints bytes that look like messages."""

    info = replace(Eager.info, name="fake-garbage", summary="prints garbage")

    def load(self, directory: Path, threads: int, device: str) -> Session:
        return _GarbageSession(super().load(directory, threads, device))


class _WrongSession(Spoiled):
    def spoil(self, output: Any) -> Any:
        return output.flip(1)


class Wrong(Eager):
    """Fast and wrong."""

    info = replace(Eager.info, name="fake-wrong", summary="computes something else")

    def load(self, directory: Path, threads: int, device: str) -> Session:
        return _WrongSession(super().load(directory, threads, device))


class _NanSession(Spoiled):
    def spoil(self, output: Any) -> Any:
        return output * float("nan")


class Nan(Eager):
    """Computes NaN."""

    info = replace(Eager.info, name="fake-nan", summary="computes NaN")

    def load(self, directory: Path, threads: int, device: str) -> Session:
        return _NanSession(super().load(directory, threads, device))


class Absent(Eager):
    """Needs a module that nobody has."""

    info = replace(
        Eager.info,
        name="fake-absent",
        summary="is not installed",
        runtime_modules=("module_that_nobody_has",),
        distributions=("module-that-nobody-has",),
    )


class _SwitchedSession(Spoiled):
    def __init__(self, session: Any, settings: Mapping[str, str]) -> None:
        super().__init__(session)
        self.idle = 0.004 * (settings["pace"] == "usual") + 0.004 * (settings["wait"] == "on")
        self.wrong = settings["pace"] == "wrong"

    def spoil(self, output: Any) -> Any:
        time.sleep(self.idle)
        return [logits[:, ::-1] for logits in output] if self.wrong else output


class Switched(OnnxRuntime):
    """Has switches: two that save its sleep, and values that are wrong, crash, or cannot be prepared."""

    info = replace(
        OnnxRuntime.info,
        name="fake-switched",
        summary="has switches",
        native=None,
        switches=(
            *(replace(switch, tuned=False) for switch in OnnxRuntime.info.switches),
            Switch("pace", ("usual", "quick", "wrong", "crash"), "sleeps or not"),
            Switch("wait", ("on", "off"), "sleeps or not"),
            Switch("build", ("plain", "refused"), "can be prepared or not", shapes_artifact=True),
        ),
    )

    def prepare(self, preparation: Preparation) -> Facts:
        if self.settings["build"] == "refused":
            raise BackendError("this build is refused")
        return super().prepare(preparation)

    def load(self, directory: Path, threads: int, device: str) -> Any:
        if self.settings["pace"] == "crash":
            os.abort()
        return _SwitchedSession(super().load(directory, threads, device), self.settings)


class _SleepingSession(Spoiled):
    def spoil(self, output: Any) -> Any:
        time.sleep(SLEEP_SECONDS)
        return output


class Sleeping(OnnxRuntime):
    """Takes a known time, most of which is sleep, and loads neither PyTorch nor more than one thread."""

    info = replace(OnnxRuntime.info, name="fake-sleep", summary="sleeps", native=None, switches=())

    def load(self, directory: Path, threads: int, device: str) -> Any:
        session = _ort.open_session(directory, 1, device, OnnxRuntime().settings)
        return _SleepingSession(session)

    explain = Backend.explain


class Unprofilable(Eager):
    """Has means to time its operators that cannot be used here."""

    info = replace(Eager.info, name="fake-unprofilable", summary="cannot be profiled")

    def profile(self, directory: Path, threads: int, calls: Sequence[Arrays], folder: Path) -> Profile:
        raise BackendError("its profiler was left out of this build")


class CrashInProfile(Eager):
    """Its profiler takes the process with it."""

    info = replace(Eager.info, name="fake-unprofilable-crash", summary="crashes while it is profiled")

    def profile(self, directory: Path, threads: int, calls: Sequence[Arrays], folder: Path) -> Profile:
        os.abort()


FAKES = (
    Well,
    Crash,
    CrashInPrepare,
    Refuse,
    Hang,
    Greedy,
    Garbage,
    Wrong,
    Nan,
    Absent,
    Switched,
    Sleeping,
    Unprofilable,
    CrashInProfile,
)


def registered(directory: Path) -> dict[str, str]:
    """Make a folder that, on PYTHONPATH, registers the fakes as an installed distribution would.

    Returns:
        The environment to start a command with.
    """
    info = directory / "mnv3_fakes-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mnv3-fakes\nVersion: 1\n")
    rows = "".join(f"{fake.info.name} = mnv3_fakes:{fake.__name__}\n" for fake in FAKES)
    (info / "entry_points.txt").write_text(f"[mnv3_bench.backends]\n{rows}")
    path = [str(directory), os.path.dirname(HERE), os.environ.get("PYTHONPATH", "")]  # noqa: PTH120
    return {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in path if part)}
