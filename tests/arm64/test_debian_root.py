"""The cached root folder of `make test-arm64`. debootstrap is a stand-in: the real one needs a network and minutes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

if sys.platform != "linux" or os.geteuid() != 0:
    pytest.skip("a root folder is made by root on Linux alone", allow_module_level=True)

TOOLS = Path(__file__).parents[2] / "tools" / "arm64"
BEGUN = """#!/bin/sh
for last; do :; done
mkdir -p "$last/var/cache/apt/archives"
touch "$last/begun"
"""


@pytest.fixture
def debian(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    monkeypatch.delenv("ARM64_MIRROR", raising=False)
    import debian

    return debian


@pytest.fixture
def debootstrap(monkeypatch, tmp_path):
    """A debootstrap that leaves a little in the folder, then does what it is given."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    def ends(how):
        script = tmp_path / "bin" / "debootstrap"
        script.write_text(BEGUN + how)
        script.chmod(0o755)

    return ends


def make(debian, place):
    with Path(os.devnull).open("wb") as log:
        debian.make_root(place, log)


def test_a_half_made_root_is_never_taken_for_whole(debian, debootstrap, tmp_path):
    debootstrap("exit 1")
    with pytest.raises(subprocess.CalledProcessError):
        make(debian, tmp_path / "root")
    assert (tmp_path / "root.part" / "begun").exists()
    assert not debian.is_made(tmp_path / "root")


def test_a_whole_root_is_kept_until_its_recipe_changes(debian, debootstrap, tmp_path, monkeypatch):
    debootstrap("exit 0")
    make(debian, tmp_path / "root")
    assert debian.is_made(tmp_path / "root")
    monkeypatch.setattr(debian, "RECIPE", {**debian.RECIPE, "suite": "another"})
    assert not debian.is_made(tmp_path / "root")


def test_what_an_interrupted_run_left_is_not_built_upon(debian, debootstrap, tmp_path):
    (tmp_path / "root.part").mkdir()
    (tmp_path / "root.part" / "stale").touch()
    debootstrap("exit 0")
    make(debian, tmp_path / "root")
    assert debian.is_made(tmp_path / "root")
    assert not (tmp_path / "root" / "stale").exists()
