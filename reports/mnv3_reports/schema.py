"""The record's JSON schema, generated from the structs.

`python -m mnv3_reports.schema > docs/record-schema.json` writes the published copy anew.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from mnv3_reports.record import SCHEMA_VERSION, Entry, Run


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


def text() -> str:
    """The schema as published."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(text(), end="")
