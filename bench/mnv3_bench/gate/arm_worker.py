"""One arm prepares itself: in its own interpreter, with its own code, into a run directory.

    python -m mnv3_bench.gate.arm_worker REQUEST.json

It is `mnv3-bench run` without the measuring and the report. That an arm does this itself is what makes 'the same
cells, built by that checkout or by that interpreter' true: its own versions and sources name its artifacts.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from mnv3_bench.environment import software
from mnv3_bench.errors import ExitCode, UsageError
from mnv3_bench.protocol import PROTOCOL

ANSWER = "arm.json"


class ArmRequest(msgspec.Struct, frozen=True):
    """What an arm is asked to prepare; `asked` are fields of `plan.Asked`."""

    protocol: int
    asked: dict[str, Any]
    directory: str
    command: str


class ArmAnswer(msgspec.Struct, frozen=True):
    """Who an arm is, and where its things lie; its record is the journal beside this file."""

    protocol: int
    python: str
    packages: dict[str, str]
    commit: str | None
    artifacts: dict[str, str]
    """Cell key to artifact directory."""
    references: dict[str, str]
    """`variant@resolution` to reference logits."""
    images: dict[str, str]
    """Resolution, or variant of a network with inputs of its own, to what cells are measured with."""


def main() -> int:
    """Prepare and inspect; the exit code is `run`'s."""
    request = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=ArmRequest)
    if request.protocol != PROTOCOL:
        print(
            f"protocol {PROTOCOL} is spoken here, the gate speaks {request.protocol}",
            file=sys.stderr,
        )
        return ExitCode.INCOMPARABLE
    try:
        return _prepare(request)
    except UsageError as error:
        print(f"mnv3-bench: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED


def _prepare(request: ArmRequest) -> int:
    from mnv3_bench.plan import Asked, make_plan
    from mnv3_bench.run import inspect, open_run, prepare

    asked = Asked(**request.asked, output=request.directory)
    session = open_run(make_plan(asked), request.command)
    try:
        artifacts = prepare(session)
        inspect(session, artifacts)
    finally:
        session.launcher.kill_all()
        session.display.end()
        session.journal.close()
    mine = software()
    answer = ArmAnswer(
        protocol=PROTOCOL,
        python=mine.python,
        packages=mine.packages,
        commit=mine.commit,
        artifacts={key: str(path) for key, path in artifacts.directories.items()},
        references={f"{name}@{size}": str(path) for (name, size), path in artifacts.references.items()},
        images={
            str(name): str(path)
            for (purpose, name), path in (*artifacts.images.items(), *artifacts.samples.items())
            if purpose == "measure"
        },
    )
    (session.directory / ANSWER).write_bytes(msgspec.json.encode(answer))
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
