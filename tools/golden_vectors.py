"""Golden vectors: what the Python package computes, for the Swift package under clients/swift to repeat.

Usage: python tools/golden_vectors.py [--sample sample.elit]
       # --sample: an export of the sample model, to write its manifest anew; the rest needs no bundle
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import golden_bundle
import golden_labels
import golden_numbers
import golden_planning

FOLDER = Path(__file__).parents[1] / "clients" / "swift" / "Tests" / "ElitEdgeTests" / "Golden"


def write(folder: Path, sample: Path | None = None) -> None:
    """Write all vectors into a folder, which holds `sample-manifest.json` where no sample is given."""
    for name, content in (golden_numbers.files() | golden_planning.files() | golden_labels.files()).items():
        (folder / name).write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")
    golden_bundle.write(folder, sample)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=Path)
    write(FOLDER, parser.parse_args().sample)


if __name__ == "__main__":
    main()
