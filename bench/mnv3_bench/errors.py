"""The few ways a command ends other than well. Each message is one line that says what to change."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the shell and CI read."""

    DONE = 0
    REGRESSION = 1
    USAGE = 2
    INCONCLUSIVE = 3
    INCOMPARABLE = 4
    CELLS_FAILED = 5
    FAULT = 70
    """A fault of mnv3-bench itself (EX_SOFTWARE of sysexits.h): never 1, which CI reads as a regression."""
    INTERRUPTED = 130


class UsageError(Exception):
    """The request is wrong: says what, what was expected and what to type instead."""

    exit_code = ExitCode.USAGE


class IncomparableError(UsageError):
    """Figures that may not be put together, such as those of two machines."""

    exit_code = ExitCode.INCOMPARABLE


class RunStoppedError(UsageError):
    """A run had to stop: what it was given ran out, such as the disk. What was measured is kept."""

    exit_code = ExitCode.CELLS_FAILED
