"""Trees of /proc, /sys and /etc of other devices, kept as one text file each and planted where a test wants them."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOTS = Path(__file__).parent / "roots"


def plant(name: str, root: Path) -> Path:
    """Write the files of roots/NAME.tree under `root`; a folder stands for a file that cannot be read."""
    text = (ROOTS / f"{name}.tree").read_text()
    for section in text.split("\n=== ")[1:]:
        path, _, content = section.partition("\n")
        if path.endswith(" (unreadable)"):
            (root / path.removesuffix(" (unreadable)")).mkdir(parents=True)
            continue
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return root


@pytest.fixture
def planted(tmp_path):
    return lambda name: plant(name, tmp_path / name)


@pytest.fixture
def write(tmp_path):
    """Write files given as a path and its content under a fresh root."""

    def write_all(files: dict[str, str]) -> Path:
        for path, content in files.items():
            file = tmp_path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        return tmp_path

    return write_all
