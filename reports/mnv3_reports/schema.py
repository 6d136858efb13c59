"""The JSON schemas of the record and of a gate's report, generated from the structs.

The published copies are written anew by

    python -m mnv3_reports.schema > docs/record-schema.json
    python -m mnv3_reports.schema gate > docs/gate-schema.json
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import msgspec

from mnv3_reports.record import SCHEMA_VERSION, Entry, Run
from mnv3_reports.verdict import VERDICT_SCHEMA, GateReport

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def json_schema() -> dict[str, Any]:
    """The schema of `run.json` (JSON Schema 2020-12); `$defs/JournalEntry` is a journal line's."""
    (run, entry), definitions = msgspec.json.schema_components([Run, Entry], ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"mnv3-bench record, version {SCHEMA_VERSION}",
        "description": "run.json of a run directory. A line of journal.jsonl is a $defs/JournalEntry.",
        **run,
        "$defs": {**definitions, "JournalEntry": entry},
    }


def gate_json_schema() -> dict[str, Any]:
    """The schema of a gate's JSON (JSON Schema 2020-12)."""
    (report,), definitions = msgspec.json.schema_components([GateReport], ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"mnv3-bench gate report, version {VERDICT_SCHEMA}",
        "description": "An unbounded end of an interval is written as the largest float, 1.797...e+308.",
        **report,
        "$defs": definitions,
    }


SCHEMAS: dict[str, Callable[[], dict[str, Any]]] = {"record": json_schema, "gate": gate_json_schema}


def text(name: str = "record") -> str:
    """A schema as published: 'record' or 'gate'."""
    return json.dumps(SCHEMAS[name](), indent=2, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Print the schema that is asked for, the record's by default; returns the exit code."""
    name = arguments[0] if arguments else "record"
    if name not in SCHEMAS or len(arguments) > 1:
        asked = " ".join(arguments)
        print(f"there is no schema '{asked}'; type one of: {', '.join(SCHEMAS)}", file=sys.stderr)
        return 2
    print(text(name), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
