"""docs/bundle-manifest.schema.json is what the code reads. To write it anew: python tests/test_schema.py"""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import msgspec

from elit_edge.bundle import Bundle
from elit_edge.manifest import Manifest, encode

SCHEMA = Path(__file__).parents[1] / "docs" / "bundle-manifest.schema.json"


def current():
    return json.dumps(msgspec.json.schema(Manifest), indent=1, sort_keys=True) + "\n"


def test_the_documented_schema_is_that_of_the_code():
    assert SCHEMA.read_text() == current(), (
        "the format changed: python tests/test_schema.py, and think of schema_version"
    )


def test_a_real_manifest_conforms_to_it(tiny_bundle_path):
    manifest = json.loads(encode(Bundle.open(tiny_bundle_path).manifest))
    jsonschema.validate(manifest, json.loads(SCHEMA.read_text()))


if __name__ == "__main__":
    SCHEMA.write_text(current())
