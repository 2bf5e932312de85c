"""Write the names of ImageNet's 1,000 classes, in the order of its labels: elit_edge/data/imagenet-classes.json.

The order of the synsets and the words of WordNet 3.0 for each come from the package timm. Three classes whose only name
is another's first get one more from here, so that each can be asked for in words.

Usage: python tools/imagenet_classes.py      # needs pip and a package index; git shows whether anything changed
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE, VERSION = "timm", "1.0.31"
WHEEL_SHA256 = "5bd50f7d0fe6d09bf9285ac2523234a1b7e6bf075c0be3e7aed09139fcb617c7"
SYNSETS = "timm/data/_info/imagenet_synsets.txt"
LEMMAS = "timm/data/_info/imagenet_synset_to_lemma.txt"
TARGET = Path(__file__).parents[1] / "elit_edge" / "data" / "imagenet-classes.json"

TOLD_APART = {"n02012849": "crane bird", "n03126707": "construction crane", "n03710637": "dance tights"}
"""Classes 134 and 517 are both "crane", 638 and 639 both "maillot" (639 is also "tank suit")."""


def fetch(folder: Path) -> Path:
    """The wheel, downloaded into a folder and checked."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    subprocess.run([*pip, "--dest", folder, f"{PACKAGE}=={VERSION}"], check=True)
    (wheel,) = folder.glob("*.whl")
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != WHEEL_SHA256:
        raise SystemExit(f"{wheel.name} has digest {found}, not {WHEEL_SHA256}")
    return wheel


def class_names(wheel: Path) -> list[str]:
    """A string a class: its words, ", " between them."""
    with zipfile.ZipFile(wheel) as archive:
        synsets = archive.read(SYNSETS).decode().split()
        lines = archive.read(LEMMAS).decode().splitlines()
    lemmas = dict(line.split("\t") for line in lines)
    return [", ".join(filter(None, (lemmas[synset], TOLD_APART.get(synset)))) for synset in synsets]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        names = class_names(fetch(Path(folder)))
    TARGET.write_text(json.dumps(names, indent=0) + "\n", encoding="utf-8")
    print(f"{TARGET}: {len(names)} classes, {TARGET.stat().st_size / 1e3:.1f} kB")


if __name__ == "__main__":
    main()
