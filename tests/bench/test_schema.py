"""docs/bench-report.schema.json is what the code writes. To write it anew: python tests/bench/test_schema.py"""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import msgspec

from elit_edge.bench.report import Report, encode

SCHEMA = Path(__file__).parents[2] / "docs" / "bench-report.schema.json"


def current():
    return json.dumps(msgspec.json.schema(Report), indent=1, sort_keys=True) + "\n"


def test_the_documented_schema_is_that_of_the_code():
    assert SCHEMA.read_text() == current(), (
        "the format changed: python tests/bench/test_schema.py, and think of schema_version"
    )


def test_a_report_conforms_to_it(made_report):
    jsonschema.validate(json.loads(encode(made_report(throttled=True))), json.loads(SCHEMA.read_text()))


if __name__ == "__main__":
    SCHEMA.write_text(current())
