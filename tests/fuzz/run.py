"""Run fuzzers for some minutes each: `nox -s fuzz -- --minutes 10 [NAME…]`.

Where Python code is what reads the input, atheris (libFuzzer) chooses inputs by the code they reach, and hypothesis
makes examples of them; it needs `pip install atheris`, without which inputs are drawn at random. Exit: 1 when one was
found that is not handled. What found it is printed, and kept as a named test or an `@example` once it is mended.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
GUIDED = ("variants", "config", "cli", "journal", "record", "history", "fleet")
"""By what they reach in Python; the others mostly reach C++, or are slowed down too much by being watched."""
PACKAGES = ["mnv3_models", "mnv3_bench", "mnv3_reports"]


def names() -> list[str]:
    """Every fuzzer here."""
    return sorted(path.stem.removeprefix("fuzz_") for path in HERE.glob("fuzz_*.py"))


def main() -> int:
    """Run them, so many at a time, and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names())}; default: all")
    parser.add_argument("--minutes", type=float, default=10.0, help="each")
    parser.add_argument("--side-by-side", type=int, default=2)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    unknown = set(asked.names) - set(names())
    if unknown:
        parser.error(f"there is no fuzzer {', '.join(sorted(unknown))}; there are {', '.join(names())}")
    if asked.one:
        one(asked.names[0], asked.minutes * 60)
        return 0
    return _all(asked.names or names(), asked.minutes, asked.side_by_side)


def _all(chosen: list[str], minutes: float, side_by_side: int) -> int:
    waiting, running, failed = list(chosen), {}, 0
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="mnv3-fuzzing-", dir=memory if memory.is_dir() else None
    ) as folder:
        while waiting or running:
            while waiting and len(running) < side_by_side:
                name = waiting.pop(0)
                log = Path(folder) / f"{name}.log"
                command = [sys.executable, str(HERE / "run.py"), "--one", "--minutes", str(minutes), name]
                with log.open("wb") as output:
                    process = subprocess.Popen(
                        command, stdout=output, stderr=output, env={**os.environ, "MNV3_FUZZ_FOLDER": folder}
                    )
                running[name] = process, log
            time.sleep(0.2)
            for name in [name for name, (process, _) in running.items() if process.poll() is not None]:
                process, log = running.pop(name)
                failed += _report(name, process.returncode, log, Path(folder) / f"{name}.json")
    return 1 if failed else 0


def _report(name: str, code: int, log: Path, counted: Path) -> int:
    about = (
        json.loads(counted.read_text())
        if counted.is_file()
        else {"seconds": 0, "examples": 0, "by": "nothing"}
    )
    rate = about["examples"] / max(about["seconds"], 1e-9)
    outcome = "no unhandled exception" if code == 0 else f"ENDED WITH {code}"
    ran = f"{about['examples']:,} examples in {about['seconds']:.0f} s ({rate:.0f} a second), {about['by']}"
    print(f"{name}: {ran}; {outcome}", flush=True)
    if code:
        print("\n".join(log.read_text("utf-8", "replace").splitlines()[-80:]), flush=True)
    return code != 0


class _Counter:
    """Examples that reached the fuzzer's own code, kept in a file: libFuzzer ends the process in its own way."""

    def __init__(self, name: str, by: str) -> None:
        self.path = Path(os.environ.get("MNV3_FUZZ_FOLDER", tempfile.gettempdir())) / f"{name}.json"
        self.by, self.examples, self.start, self.written = by, 0, time.monotonic(), 0.0

    def count(self) -> None:
        """One more."""
        if not self.examples:
            self.start = time.monotonic()  # what comes before is imports, and making what is damaged
        self.examples += 1
        now = time.monotonic()
        if now - self.written >= 1:
            self.written = now
            self.path.write_text(
                json.dumps({"examples": self.examples, "seconds": now - self.start, "by": self.by})
            )


def one(name: str, seconds: float) -> None:
    """Run one of them in this process until its time is over or something is found."""
    sys.path.insert(0, str(HERE.parent))
    try:
        import atheris
    except ImportError:
        atheris = None
    if atheris is not None and name in GUIDED:
        with atheris.instrument_imports(include=PACKAGES):
            fuzz = _counted(name, "guided by atheris")
        folder = os.environ.get("MNV3_FUZZ_FOLDER", tempfile.gettempdir())
        arguments = [f"-max_total_time={max(1, round(seconds))}", "-max_len=16384", "-len_control=10"]
        arguments += [
            "-rss_limit_mb=6000",
            "-timeout=120",
            "-verbosity=0",
            f"-artifact_prefix={folder}/{name}-",
        ]
        atheris.Setup([sys.argv[0], *arguments], fuzz.hypothesis.fuzz_one_input)
        atheris.Fuzz()
    else:
        _at_random(_counted(name, "drawn by hypothesis"), seconds)


def _counted(name: str, by: str) -> Any:
    module = importlib.import_module(f"fuzz.fuzz_{name}")
    if hasattr(module, "EVERY"):
        module.suffixes = module.EVERY
    counter = _Counter(name, by)
    inner = module.fuzz.hypothesis.inner_test

    def counting(*arguments: Any, **named: Any) -> None:
        counter.count()
        inner(*arguments, **named)

    module.fuzz.hypothesis.inner_test = counting
    return module.fuzz


def _at_random(fuzz: Any, seconds: float) -> None:
    import random

    from hypothesis import HealthCheck, seed, settings

    end = time.monotonic() + seconds
    inner = fuzz.hypothesis.inner_test

    def timed(*arguments: Any, **named: Any) -> None:
        if time.monotonic() > end:
            raise KeyboardInterrupt
        inner(*arguments, **named)

    fuzz.hypothesis.inner_test = timed
    often = settings(
        max_examples=10**9,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    with contextlib.suppress(KeyboardInterrupt):  # hypothesis has no end by the clock
        seed(random.randrange(2**63))(often(fuzz))()


if __name__ == "__main__":
    sys.exit(main())
